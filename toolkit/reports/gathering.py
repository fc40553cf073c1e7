"""Run directories, read back to be compared: what each says of its run, and which runs are variants of one another."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import documents
from toolkit.config import RunConfig
from toolkit.errors import ConfigError, RunError, ToolkitError, readable
from toolkit.experiments.standings import FILE
from toolkit.reports.outcomes import Outcome, OutcomeReader

_MOST_REPORTED = 20
_LONGEST_DETAILS = 80  # characters


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
    """Say whether a directory is that of an experiment, or has runs in it as ``<variant>/seed-<n>``."""
    if (directory / "config.yaml").exists():
        return False
    return (directory / FILE).is_file() or any(directory.glob("*/seed-*/config.yaml"))


def gather(directories: Sequence[Path]) -> Gathered:
    """Read runs and experiments.

    Runs of an experiment are variants by their directories, other runs by their configs: equal but for the seed.

    :raises RunError: if a directory is neither, or files in them are damaged: all that are
    :raises ConfigError: if a run's config is none
    """
    places = [*{directory.resolve(): directory for directory in directories}.values()]
    experiments = [place for place in places if is_experiment(place)]
    alone = [place for place in places if place not in experiments]
    for place in alone:
        _check_run(place)
    plans = {place: _plan(place) for place in experiments}
    outcomes = _read([run for plan in plans.values() for run in plan.begun] + alone)
    groups: dict[tuple[Path | None, str], _Group] = {}
    for experiment, plan in plans.items():
        for run in plan.begun:
            outcome, directory = outcomes[run], readable(run.parent.name)
            # a grid over environments gives each variant once for each
            name = ",".join(part for part in directory.split(",") if part != f"id={outcome.config.env.id}")
            group = groups.setdefault((experiment, directory), _Group(name, experiment.resolve().name, []))
            group.runs.append(outcome)
    for run in alone:
        config = outcomes[run].config
        groups.setdefault((None, _recipe(config)), _Group(config.name, None, [])).runs.append(outcomes[run])
    variants = _variants([*groups.values()])
    titles = [readable(experiment.resolve().name) for experiment in experiments]
    titles += [] if not alone else [outcomes[alone[0]].config.name] if len(alone) == 1 else [f"{len(alone):,} runs"]
    return Gathered(", ".join(titles), variants, sum(plan.absent for plan in plans.values()))


@dataclass(frozen=True)
class _Plan:
    """Which runs of an experiment have begun, variant by variant in the order of its file, and how many have not."""

    begun: list[Path]
    absent: int


def _plan(experiment: Path) -> _Plan:
    runs = [*experiment.glob("*/seed-*/")]
    begun = [run for run in runs if (run / "config.yaml").exists()]
    try:
        file = documents.read(experiment / FILE).data
        variants = [*(file.get("variants") or [""])]
        planned = len(variants) * math.prod(map(len, (file.get("grid") or {}).values())) * len(file["seeds"])
    except (ConfigError, AttributeError, KeyError, TypeError):  # made by hand: what is there is what there is
        variants, planned = [], len(runs)

    def order(run: Path) -> tuple[int, str, int]:
        variant, seed = run.parent.name.partition(",")[0], run.name.removeprefix("seed-")
        place = variants.index(variant) if variant in variants else len(variants)
        return place, run.parent.name, int(seed) if seed.isdecimal() and len(seed) < 20 else -1

    return _Plan(sorted(begun, key=order), max(0, planned - len(begun)))


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


def _tasks(configs: Sequence[RunConfig]) -> list[str]:
    """Name environments by their ids, and by their time limits and parameters where one id has several."""
    kinds = [(config.env.id, config.env.max_episode_steps, _shown(config.env.params)) for config in configs]
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
