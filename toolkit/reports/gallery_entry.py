"""An entry of a gallery: what the runs of one config have reached, as a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from toolkit.config.changes import describe_changes
from toolkit.config.load import read_config
from toolkit.config.schema import RunConfig, parse_config
from toolkit.config.validation import StrictModel
from toolkit.config.yaml_document import Document
from toolkit.reports.collect import VariantRuns
from toolkit.reports.run_record import RunRecord
from toolkit.reports.statistics import (
    Estimate,
    estimate_interquartile_mean,
    estimate_success_rate,
    estimate_time_to_event,
)
from toolkit.utils.errors import ConfigError, RunError
from toolkit.utils.files import read_text

_MACHINE_KEYS = ("cpu", "processor", "cores", "threads")
_HINT = "give the gallery a directory of its own"


class GalleryCriterion(StrictModel):
    """The success criterion of a config."""

    measure: str = "mean_return"
    """What has to reach the threshold in training: `mean_return` (raw) or `success_rate`."""
    threshold: float
    """The value to reach."""
    episodes: int
    """How many of the last training episodes it is computed over."""
    confirm_episodes: int = 0
    """How many greedy episodes must reach it, too."""


class Machine(StrictModel):
    """Where runs were trained."""

    cpu: str | None = None
    """Name of the CPU."""
    processor: str | None = None
    """Its architecture."""
    cores: int | None = None
    """Cores of the machine."""
    threads: int | None = None
    """Threads with which torch computed."""
    system: str | None = None
    """The operating system."""
    versions: dict[str, str | None]
    """Versions of Python and packages."""


class MeasuredRun(StrictModel):
    """What one run has reached."""

    seed: int
    """The run's seed."""
    status: str
    """`success` or `finished`."""
    solved: bool
    """Whether training met the success criterion."""
    timesteps_to_success: int | None
    """Timesteps until then."""
    seconds_to_success: float | None
    """Wall-clock seconds of training until then."""
    timesteps: int
    """Timesteps of the whole training."""
    seconds: float | None
    """Wall-clock seconds of the whole training."""
    episodes: int
    """Training episodes that count."""
    training_return: float | None
    """Mean raw return of the last training episodes."""
    greedy_return: float | None
    """Mean raw return of greedy episodes after training."""
    greedy_episodes: int
    """How many greedy episodes that are."""


class GalleryEntry(StrictModel):
    """What the runs of one config have reached. Estimates are computed from the runs whenever they are needed.

    Estimates have 95 % intervals. An estimate is None if no run supports it.
    """

    name: str
    """Name of the entry: that of the config, or of the variant of an experiment."""
    file: str | None
    """The config's file, relative to the directory in which the report was made."""
    criterion: GalleryCriterion | None
    """The success criterion."""
    machines: tuple[Machine, ...]
    """The machines that trained the runs, without repetition."""
    gif_seed: int | None
    """Seed of the agent in the GIF: the one with the median greedy return. Null without a GIF."""
    runs: tuple[MeasuredRun, ...]
    """One item for each seed, all ended."""
    config: dict[str, Any]
    """The resolved config without its seed."""

    @property
    def n_solved(self) -> int:
        """How many runs met the success criterion."""
        return sum(run.solved for run in self.runs)

    @property
    def success_rate(self) -> Estimate | None:
        """Share of the runs that met the success criterion."""
        return estimate_success_rate(self.n_solved, len(self.runs)) if self.criterion else None

    @property
    def timesteps_to_success(self) -> Estimate | None:
        """Median timesteps to success. A run without success counts as one that needs more than all its timesteps."""
        return self._estimate_median([(run.timesteps_to_success, run.timesteps) for run in self.runs])

    @property
    def seconds_to_success(self) -> Estimate | None:
        """Median seconds to success. A run without success counts as one that needs more than all its seconds."""
        return self._estimate_median([(run.seconds_to_success, run.seconds) for run in self.runs])

    @property
    def greedy_returns(self) -> list[float]:
        """The greedy return of each run that has one."""
        return [run.greedy_return for run in self.runs if run.greedy_return is not None]

    @property
    def greedy_return(self) -> Estimate | None:
        """Interquartile mean of the greedy returns over runs."""
        returns = self.greedy_returns
        return estimate_interquartile_mean([np.array(returns)]) if returns else None

    def list_changes(self, config: RunConfig) -> list[str]:
        """Describe how a config differs from the measured one, apart from the seed.

        A key that did not exist when the runs were measured counts as having had its default.
        """
        measured, problems = parse_config(Document(self.config))
        if measured is None or problems:
            return [f"{'.'.join(map(str, problem.path))} {problem.message}" for problem in problems]
        return [*describe_changes(_dump_config(measured), _dump_config(config))]

    def _estimate_median(self, times: Sequence[tuple[float | None, float | None]]) -> Estimate | None:
        """Estimate the median of times to success.

        :param times: for each run the time of success, and the time of its end
        """
        ends = [end if success is None else success for success, end in times]
        if not self.criterion or None in ends:
            return None
        has_succeeded = np.array([success is not None for success, _ in times])
        return estimate_time_to_event(np.array(ends, dtype=np.float64), has_succeeded).median


def make_entry(name: str, variant: VariantRuns, gif_seed: int | None) -> GalleryEntry:
    """Return the entry of a variant whose runs have all ended."""
    config = variant.runs[0].config
    machines = dict.fromkeys(_read_machine(run.directory) for run in variant.runs)
    entry = GalleryEntry(
        name=name,
        file=None,
        criterion=_read_criterion(variant),
        machines=tuple(Machine.model_validate_json(text) for text in machines if text),
        gif_seed=gif_seed,
        runs=tuple(_measure(run) for run in variant.runs),
        config=_dump_config(config),
    )
    return entry.model_copy(update={"file": _find_config_file(entry)})


def read_entries(directory: Path) -> dict[str, GalleryEntry]:
    """Read the entries of a gallery by name; none if the directory does not exist.

    :raises RunError: if a JSON file in it is not an entry
    """
    return {path.stem: _read_entry(path) for path in sorted(directory.glob("*.json"))}


def serialize_entry(entry: GalleryEntry) -> str:
    """Return the content of an entry's file."""
    return json.dumps(entry.model_dump(mode="json"), indent=1) + "\n"


def _read_entry(path: Path) -> GalleryEntry:
    try:
        entry = GalleryEntry.model_validate_json(read_text(path))
    except (OSError, ValueError) as error:
        reason = f"{error.error_count()} wrong values" if isinstance(error, ValidationError) else str(error)
        raise RunError(f"{path}: is not an entry of a gallery: {reason}", _HINT) from None
    if entry.name != path.stem:
        raise RunError(f"{path}: is the entry of {entry.name}", f"rename it to {entry.name}.json")
    return entry


def _dump_config(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"seed"})


def _read_criterion(variant: VariantRuns) -> GalleryCriterion | None:
    criterion = next((run.criterion for run in variant.runs if run.criterion), None)
    if criterion is None:
        return None
    callbacks = variant.runs[0].config.callbacks
    confirm_episodes = max((callback.params.get("confirm_episodes", 0) for callback in callbacks), default=0)
    return GalleryCriterion(
        measure=criterion.measure,
        threshold=criterion.threshold,
        episodes=criterion.window,
        confirm_episodes=confirm_episodes,
    )


def _measure(run: RunRecord) -> MeasuredRun:
    return MeasuredRun(
        seed=run.seed,
        status=run.status,
        solved=run.success_timestep is not None,
        timesteps_to_success=run.success_timestep,
        seconds_to_success=run.success_seconds,
        timesteps=run.timesteps,
        seconds=run.seconds,
        episodes=run.episodes,
        training_return=run.training_return,
        greedy_return=run.greedy_return,
        greedy_episodes=run.greedy_episodes,
    )


def _read_machine(directory: Path) -> str | None:
    """Return the machine of a run as JSON, or None if ``environment.json`` does not have it."""
    try:
        environment: Mapping[str, Any] = json.loads(read_text(directory / "environment.json"))
        machine = Machine(
            **{key: environment.get(key) for key in _MACHINE_KEYS},
            system=environment["platform"].partition("-")[0],
            versions=environment["versions"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return machine.model_dump_json()


def _find_config_file(entry: GalleryEntry) -> str | None:
    """Return the file of the entry's config: ``configs/NAME.yaml`` or ``NAME.yaml``, if it has the same values."""
    for path in (Path("configs") / f"{entry.config['name']}.yaml", Path(f"{entry.config['name']}.yaml")):
        try:
            if path.is_file() and not entry.list_changes(read_config(path)):
                return path.as_posix()
        except ConfigError:
            continue
    return None
