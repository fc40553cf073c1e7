"""Collect run directories for a report, and group them into variants: runs that differ only in the seed."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.schema import RunConfig, name_env
from toolkit.evaluation.learning_curves import disambiguate_names
from toolkit.experiments.status import EXPERIMENT_FILE
from toolkit.experiments.variants import grid_labels
from toolkit.reports.run_record import RunRecord, RunRecordReader
from toolkit.utils.data import flatten
from toolkit.utils.errors import ConfigError, RunError, ToolkitError, make_printable
from toolkit.utils.files import convert_read_errors
from toolkit.utils.text import abbreviate, format_count

_MAX_PROBLEMS = 20
_MAX_DETAILS_LENGTH = 80  # characters
_HINT = "name the directory of a run or of an experiment that you may read"

_EnvironmentKey = tuple[str, int | None, str]  # id, time limit and parameters


@dataclass(frozen=True)
class VariantRuns:
    """The runs of one variant on one environment.

    :param environment: name of the environment, different from that of every other environment in the report
    :param runs: at least one
    """

    name: str
    environment: str
    runs: tuple[RunRecord, ...]

    @property
    def ended_runs(self) -> list[RunRecord]:
        """The runs whose training ended by itself."""
        return [run for run in self.runs if run.has_ended]


@dataclass(frozen=True)
class RunCollection:
    """The runs of a report.

    :param title: names of the experiments, and of the other run or how many other runs there are
    :param n_not_started: how many planned runs of the experiments have no directory yet
    """

    title: str
    variants: tuple[VariantRuns, ...]
    n_not_started: int

    @property
    def runs(self) -> list[RunRecord]:
        """All runs, in the order of the variants."""
        return [run for variant in self.variants for run in variant.runs]


@dataclass(frozen=True)
class _Experiment:
    """An experiment directory.

    :param runs: directories of the runs that have started, in the order of the variants in the experiment's file
    :param environment_labels: how a grid over environments names them in the names of directories
    """

    title: str
    runs: list[Path]
    n_not_started: int
    environment_labels: list[str]

    def name_variant(self, directory: str, config: RunConfig) -> str:
        """Name a variant by its directory without the environment, so that it has one name on all environments."""
        labels = self.environment_labels or grid_labels({"env.id": [config.env.id]})["env.id"]
        return make_printable(",".join(part for part in directory.split(",") if part not in labels)) or config.name


@dataclass(frozen=True)
class _Source:
    """A run directory, and the experiment that it belongs to."""

    directory: Path
    experiment: _Experiment | None = None


@dataclass
class _Group:
    """The runs of one variant before its name is unique."""

    name: str
    experiment_title: str | None
    environment: _EnvironmentKey
    runs: list[RunRecord] = field(default_factory=list)

    @property
    def config(self) -> RunConfig:
        return self.runs[0].config


def is_experiment(directory: Path) -> bool:
    """Return whether a directory is that of an experiment, or has runs in it as ``<variant>/seed-<n>``.

    :raises RunError: if the directory cannot be read
    """
    with convert_read_errors(directory, _HINT):
        if (directory / "config.yaml").exists():
            return False
        return (directory / EXPERIMENT_FILE).is_file() or any(directory.glob("*/seed-*/config.yaml"))


def collect_runs(directories: Sequence[Path]) -> RunCollection:
    """Read runs and experiments; a run counts once, even if several directories lead to it.

    In an experiment, each directory of runs is a variant. Other runs are one variant if their configs are equal except
    for the seed. Runs on different environments are always different variants.

    :raises RunError: if a directory is neither a run nor an experiment, or cannot be read, or files are damaged
    :raises ConfigError: if the config of a run is not valid
    """
    unique = [*{os.path.realpath(directory): directory for directory in directories}.values()]
    experiment_directories = [*filter(is_experiment, unique)]
    other_runs = _find_runs([directory for directory in unique if directory not in experiment_directories])
    experiments = _read_experiments(experiment_directories)
    sources = [_Source(run, experiment) for experiment in experiments for run in experiment.runs]
    sources = _drop_duplicates([*sources, *map(_Source, other_runs)])
    groups = _group_runs(sources, _read_runs([source.directory for source in sources]))
    titles = [experiment.title for experiment in experiments] + _describe_other_runs(groups)
    n_not_started = sum(experiment.n_not_started for experiment in experiments)
    return RunCollection(", ".join(titles), _name_variants(groups), n_not_started)


def _find_runs(directories: Sequence[Path]) -> list[Path]:
    runs = [run for directory in directories for run in _list_runs(directory)]
    for run in runs:
        _check_run_directory(run)
    return runs


def _list_runs(directory: Path) -> list[Path]:
    """Return the runs of a variant's directory, or else the directory itself."""
    runs = [path.parent for path in directory.glob("seed-*/config.yaml")]
    if not runs or (directory / "config.yaml").exists():
        return [directory]
    return sorted(runs, key=lambda run: (len(run.name), run.name))  # seed-2 before seed-10


def _check_run_directory(directory: Path) -> None:
    if not directory.exists():
        raise RunError(f"{directory}: does not exist", "name the directory of a run or of an experiment")
    if not (directory / "config.yaml").is_file():
        problem = "is neither a run with a config.yaml nor an experiment with runs as <variant>/seed-<n>"
        raise RunError(f"{directory}: {problem}", "create one with `toolkit train` or `toolkit experiment`")


def _read_experiments(directories: Sequence[Path]) -> list[_Experiment]:
    titles = map(make_printable, disambiguate_names(directories))
    return [_read_experiment(directory, title) for directory, title in zip(directories, titles, strict=True)]


def _read_experiment(directory: Path, title: str) -> _Experiment:
    with convert_read_errors(directory, _HINT):
        directories = [*directory.glob("*/seed-*/")]
        runs = [run for run in directories if (run / "config.yaml").exists()]
    try:
        file = yaml_document.read(directory / EXPERIMENT_FILE).data
        variants, grid = [*(file.get("variants") or [""])], file.get("grid") or {}
        n_planned = len(variants) * math.prod(map(len, grid.values())) * len(file["seeds"])
        labels = grid_labels(grid)
        ranks = [{part: rank for rank, part in enumerate(parts)} for parts in (variants, *labels.values())]
    except (ConfigError, AttributeError, KeyError, TypeError):  # without a valid file, the directories are the plan
        n_planned, labels, ranks = len(directories), {}, []

    def rank_run(run: Path) -> tuple[list[int], str, int]:
        parts, seed = run.parent.name.split(","), run.name.removeprefix("seed-")
        part_ranks = [rank.get(part, len(rank)) for part, rank in zip(parts, ranks, strict=False)]
        return part_ranks, run.parent.name, int(seed) if seed.isdecimal() and len(seed) < 20 else -1

    n_not_started = max(0, n_planned - len(runs))
    return _Experiment(title, sorted(runs, key=rank_run), n_not_started, labels.get("env.id", []))


def _drop_duplicates(sources: Sequence[_Source]) -> list[_Source]:
    unique: dict[Path, _Source] = {}
    for source in sources:
        unique.setdefault(source.directory.resolve(), source)
    return [*unique.values()]


def _read_runs(directories: Sequence[Path]) -> list[RunRecord]:
    reader = RunRecordReader()
    records: list[RunRecord] = []
    problems: list[ToolkitError] = []
    for directory in directories:
        try:
            records.append(reader.read(directory))
        except ToolkitError as error:
            problems.append(error)
    if problems:
        lines = abbreviate([problem.message for problem in problems], _MAX_PROBLEMS)
        raise RunError("\n".join(lines), problems[0].hint or "restore the file, or move the run directory away")
    return records


def _group_runs(sources: Sequence[_Source], records: Sequence[RunRecord]) -> list[_Group]:
    groups: dict[tuple[str, _EnvironmentKey], _Group] = {}
    for source, record in zip(sources, records, strict=True):
        config, experiment = record.config, source.experiment
        environment = _get_environment_key(config)
        if experiment is None:
            key, group = _dump_without_seed(config), _Group(config.name, None, environment)
        else:
            name = experiment.name_variant(source.directory.parent.name, config)
            key, group = str(source.directory.parent), _Group(name, experiment.title, environment)
        groups.setdefault((key, environment), group).runs.append(record)
    return [*groups.values()]


def _describe_other_runs(groups: Sequence[_Group]) -> list[str]:
    """Name the run that belongs to no experiment, or count several."""
    others = [run for group in groups if group.experiment_title is None for run in group.runs]
    if len(others) == 1:
        return [others[0].config.name]
    return [format_count(len(others), "run")] if others else []


def _dump_without_seed(config: RunConfig) -> str:
    return json.dumps(config.model_dump(mode="json") | {"seed": None}, sort_keys=True)


def _get_environment_key(config: RunConfig) -> _EnvironmentKey:
    return config.env.id, config.env.max_episode_steps, _format_value(config.env.params)


def _name_variants(groups: Sequence[_Group]) -> tuple[VariantRuns, ...]:
    """Give groups of one name different names, if they are on one environment."""
    environments = _name_environments([group.environment for group in groups])
    namesakes: dict[tuple[str, str], list[int]] = {}
    for index, (group, environment) in enumerate(zip(groups, environments, strict=True)):
        namesakes.setdefault((group.name, environment), []).append(index)
    names: dict[int, str] = {}
    for indices in namesakes.values():
        candidates = _disambiguate([groups[index] for index in indices])
        for index, name in zip(indices, candidates, strict=True):
            names[index] = f"{name} {index + 1}" if candidates.count(name) > 1 else name
    return tuple(
        VariantRuns(names[index], environment, tuple(group.runs))
        for index, (group, environment) in enumerate(zip(groups, environments, strict=True))
    )


def _name_environments(keys: Sequence[_EnvironmentKey]) -> list[str]:
    """Name environments; add their module if it is needed, and time limit and parameters if those differ."""
    n_ids = Counter(name_env(env_id) for env_id in {env_id for env_id, *_ in keys})
    n_keys = Counter(env_id for env_id, *_ in set(keys))
    names = []
    for env_id, limit, params in keys:
        name = name_env(env_id) if n_ids[name_env(env_id)] == 1 else env_id
        details = ", ".join([f"{limit} steps" if limit else "default time limit", *([params] if params else [])])
        names.append(make_printable(f"{name} ({details})" if n_keys[env_id] > 1 else name))
    return names


def _disambiguate(groups: Sequence[_Group]) -> list[str]:
    """Add to the common name of groups what differs: their experiments, or else values of their configs."""
    if len(groups) == 1:
        return [groups[0].name]
    if len({group.experiment_title for group in groups}) > 1:
        return [f"{group.experiment_title}/{group.name}" if group.experiment_title else group.name for group in groups]
    details = _describe_differences([group.config for group in groups])
    return [f"{group.name} ({text})" if text else group.name for group, text in zip(groups, details, strict=True)]


def _describe_differences(configs: Sequence[RunConfig]) -> list[str]:
    """Return the values of each config that differ from those of another; empty text if none do."""
    flat = [flatten(config.model_dump(mode="json", exclude={"seed"}), enter_lists=False) for config in configs]
    keys = [*dict.fromkeys(key for values in flat for key in values)]
    differing = [key for key in keys if len({_format_value(values.get(key)) for values in flat}) > 1]
    return [make_printable(_format_values(values, differing), _MAX_DETAILS_LENGTH) for values in flat]


def _format_values(config: dict[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={_format_value(config[key])}" for key in keys if key in config)


def _format_value(value: Any) -> str:
    """Return a value of a config as short text that differs from that of other values; name components."""
    match value:
        case {"name": name, "params": params}:
            return f"{name}({_format_value(params)})" if params else str(name)
        case dict():
            return ", ".join(f"{key}={_format_value(item)}" for key, item in value.items())
        case list() | tuple():
            return "+".join(map(_format_value, value)) or "none"
    return str(value)
