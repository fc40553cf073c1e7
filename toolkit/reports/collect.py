"""Run directories, read back to be compared: what each says of its run, and which runs are variants of one another."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.schema import RunConfig
from toolkit.evaluation.learning_curves import disambiguate_names
from toolkit.experiments.status import EXPERIMENT_FILE
from toolkit.experiments.variants import grid_labels
from toolkit.reports.run_record import Outcome, OutcomeReader
from toolkit.utils.errors import ConfigError, RunError, ToolkitError, readable
from toolkit.utils.files import looking_at

_MOST_REPORTED = 20
_LONGEST_DETAILS = 80  # characters
_UNREADABLE = "name a run's directory, or an experiment's, that you may read"

_Environment = tuple[str, int | None, str]  # its id, time limit and parameters


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seeds alone.

    :param task: the environment, as a reader tells it from the others
    :param runs: at least one
    """

    name: str
    task: str
    runs: tuple[Outcome, ...]

    @property
    def ended(self) -> list[Outcome]:
        """Those whose training came to its own end."""
        return [run for run in self.runs if run.has_ended]


@dataclass(frozen=True)
class Gathered:
    """What there is to compare.

    :param title: the experiment's name, or what these runs are
    :param absent: how many runs of experiments have not begun
    """

    title: str
    variants: tuple[Variant, ...]
    absent: int

    @property
    def runs(self) -> list[Outcome]:
        """All runs, in the order of the variants."""
        return [run for variant in self.variants for run in variant.runs]


@dataclass(frozen=True)
class _Group:
    """Runs that differ in their seeds alone, before they have a name that no other has."""

    name: str
    experiment: str | None
    runs: list[Outcome]

    @property
    def config(self) -> RunConfig:
        return self.runs[0].config


def is_experiment(directory: Path) -> bool:
    """Say whether a directory is that of an experiment, or has runs in it as ``<variant>/seed-<n>``.

    :raises RunError: if it cannot be looked at
    """
    with looking_at(directory, _UNREADABLE):
        if (directory / "config.yaml").exists():
            return False
        return (directory / EXPERIMENT_FILE).is_file() or any(directory.glob("*/seed-*/config.yaml"))


def gather(directories: Sequence[Path]) -> Gathered:
    """Read runs and experiments, each run once however often it is named.

    Runs of an experiment are variants by their directories, other runs by their configs: equal but for the seed.
    Runs on different environments are never of one variant.

    :raises RunError: if a directory is neither, or cannot be looked at, or files in them are damaged: all that are
    :raises ConfigError: if a run's config is none
    """
    places = [*{os.path.realpath(directory): directory for directory in directories}.values()]
    experiments = [place for place in places if is_experiment(place)]
    alone = [run for place in places if place not in experiments for run in _runs_in(place)]
    for place in alone:
        _check_run(place)
    plans = {place: _plan(place) for place in experiments}
    named = [(plan, run) for plan in plans.values() for run in plan.begun] + [(None, run) for run in alone]
    distinct: dict[Path, tuple[_Plan | None, Path]] = {}
    for plan, run in named:
        distinct.setdefault(run.resolve(), (plan, run))
    runs = [*distinct.values()]
    outcomes = _read([run for _, run in runs])
    titles = dict(zip(experiments, map(readable, disambiguate_names(experiments)), strict=True))
    groups: dict[tuple[str, _Environment], _Group] = {}
    for plan, run in runs:
        config = outcomes[run].config
        key, name, experiment = _recipe(config), config.name, None
        if plan:
            key, name, experiment = str(run.parent), plan.name_of(run.parent.name, config), titles[plan.directory]
        group = groups.setdefault((key, _environment(config)), _Group(name, experiment, []))
        group.runs.append(outcomes[run])
    alone = [run for plan, run in runs if plan is None]
    several = [outcomes[alone[0]].config.name] if len(alone) == 1 else [f"{len(alone):,} runs"]
    title = ", ".join([*titles.values(), *(several if alone else [])])
    return Gathered(title, _variants([*groups.values()]), sum(plan.absent for plan in plans.values()))


@dataclass(frozen=True)
class _Plan:
    """Which runs of an experiment have begun, variant by variant in the order of its file, and how many have not.

    :param environments: what a grid over environments calls them in the names of directories
    """

    directory: Path
    begun: list[Path]
    absent: int
    environments: list[str]

    def name_of(self, directory: str, config: RunConfig) -> str:
        """Name a variant by its directory, but for the environment, as a grid gives it once for each of them."""
        labels = self.environments or grid_labels({"env.id": [config.env.id]})["env.id"]
        return readable(",".join(part for part in directory.split(",") if part not in labels)) or config.name


def _plan(experiment: Path) -> _Plan:
    with looking_at(experiment, _UNREADABLE):
        runs = [*experiment.glob("*/seed-*/")]
        begun = [run for run in runs if (run / "config.yaml").exists()]
    try:
        file = yaml_document.read(experiment / EXPERIMENT_FILE).data
        variants, grid = [*(file.get("variants") or [""])], file.get("grid") or {}
        planned = len(variants) * math.prod(map(len, grid.values())) * len(file["seeds"])
        labels = grid_labels(grid)
        orders = [{part: place for place, part in enumerate(parts)} for parts in (variants, *labels.values())]
    except (ConfigError, AttributeError, KeyError, TypeError):  # made by hand: what is there is what there is
        planned, labels, orders = len(runs), {}, []

    def order(run: Path) -> tuple[list[int], str, int]:
        parts, seed = run.parent.name.split(","), run.name.removeprefix("seed-")
        places = [places.get(part, len(places)) for part, places in zip(parts, orders, strict=False)]
        return places, run.parent.name, int(seed) if seed.isdecimal() and len(seed) < 20 else -1

    absent = max(0, planned - len(begun))
    return _Plan(experiment, sorted(begun, key=order), absent, labels.get("env.id", []))


def _runs_in(directory: Path) -> list[Path]:
    """Return the runs of the variant that a directory is, or else itself."""
    runs = [path.parent for path in directory.glob("seed-*/config.yaml")]
    if not runs or (directory / "config.yaml").exists():
        return [directory]
    return sorted(runs, key=lambda run: (len(run.name), run.name))  # seed-2 before seed-10


def _check_run(directory: Path) -> None:
    if not directory.exists():
        raise RunError(f"{directory}: there is no such directory", "name a run's directory, or an experiment's")
    if not (directory / "config.yaml").is_file():
        what = "is neither a run, with a config.yaml, nor an experiment, with runs as <variant>/seed-<n>"
        raise RunError(f"{directory}: {what}", "`toolkit train` and `toolkit experiment` make them")


def _read(runs: Sequence[Path]) -> dict[Path, Outcome]:
    reader = OutcomeReader()
    outcomes: dict[Path, Outcome] = {}
    problems: list[ToolkitError] = []
    for run in runs:
        try:
            outcomes[run] = reader.read(run)
        except ToolkitError as error:
            problems.append(error)
    if problems:
        more = [f"and {len(problems) - _MOST_REPORTED} more"] if len(problems) > _MOST_REPORTED else []
        lines = [problem.message for problem in problems[:_MOST_REPORTED]] + more
        raise RunError("\n".join(lines), problems[0].hint or "restore it, or take the run's directory away")
    return outcomes


def _recipe(config: RunConfig) -> str:
    return json.dumps(config.model_dump(mode="json") | {"seed": None}, sort_keys=True)


def _variants(groups: Sequence[_Group]) -> tuple[Variant, ...]:
    tasks = _tasks([group.config for group in groups])
    namesakes: dict[tuple[str, str], list[int]] = {}
    for place, (group, task) in enumerate(zip(groups, tasks, strict=True)):
        namesakes.setdefault((group.name, task), []).append(place)
    variants: dict[int, Variant] = {}
    for (_, task), places in namesakes.items():
        names = _told_apart([groups[place] for place in places])
        for place, name in zip(places, names, strict=True):
            again = names.count(name) > 1
            variants[place] = Variant(f"{name} {place + 1}" if again else name, task, tuple(groups[place].runs))
    return tuple(variants[place] for place in range(len(groups)))


def _environment(config: RunConfig) -> _Environment:
    return config.env.id, config.env.max_episode_steps, _shown(config.env.params)


def _tasks(configs: Sequence[RunConfig]) -> list[str]:
    """Name environments by their ids, and by their time limits and parameters where one id has several."""
    kinds = [_environment(config) for config in configs]
    several = Counter(name for name, *_ in set(kinds))
    names = []
    for name, limit, params in kinds:
        details = ", ".join([f"{limit or 'own limit of'} steps", *([params] if params else [])])
        names.append(readable(f"{name} ({details})" if several[name] > 1 else name))
    return names


def _told_apart(namesakes: Sequence[_Group]) -> list[str]:
    """Name groups of one name by the experiments that they are of, or by what their configs have otherwise."""
    if len(namesakes) == 1:
        return [namesakes[0].name]
    if len({one.experiment for one in namesakes}) > 1:
        return [f"{one.experiment}/{one.name}" if one.experiment else one.name for one in namesakes]
    flat = [_leaves(one.config.model_dump(mode="json", exclude={"seed"})) for one in namesakes]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if len({_shown(one.get(key)) for one in flat}) > 1]
    return [
        f"{group.name} ({readable(_details(one, differing), _LONGEST_DETAILS)})" if differing else group.name
        for group, one in zip(namesakes, flat, strict=True)
    ]


def _details(leaves: dict[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={_shown(leaves[key])}" for key in keys if key in leaves)


def _leaves(data: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(data, dict) or not data:
        return {path: data}
    return {key: leaf for name, value in data.items() for key, leaf in _leaves(value, f"{path}.{name}").items()}


def _shown(value: Any) -> str:
    """Write a value of a config as shortly as it can be told from others: components by their names."""
    match value:
        case {"name": name, "params": params}:
            return f"{name}({_shown(params)})" if params else str(name)
        case dict():
            return ", ".join(f"{key}={_shown(one)}" for key, one in value.items())
        case list() | tuple():
            return "+".join(map(_shown, value)) or "none"
    return str(value)
