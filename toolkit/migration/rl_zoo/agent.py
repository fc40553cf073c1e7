"""Import of an agent that RL Zoo trained: a zip of SB3 beside a folder with hyperparameters and statistics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecNormalize

from toolkit.config.load import ResolvedConfig
from toolkit.config.yaml_document import Document
from toolkit.migration.rl_zoo import files
from toolkit.migration.rl_zoo.convert import convert, is_registered, resolve
from toolkit.migration.rl_zoo.keys import ZooEntry
from toolkit.migration.sb3_model import import_sb3
from toolkit.training.run_directory import RunDirectory
from toolkit.training.start import needs_statistics
from toolkit.utils.errors import ConfigError, Problem, RunError

_STATISTICS = "vecnormalize.pkl"


def import_agent(directory: Path, out: Path | None = None, *, untrained_statistics: bool = False) -> RunDirectory:
    """Make a run directory from an agent of RL Zoo, with its own hyperparameters and statistics.

    The directory has the layout of https://github.com/DLR-RM/rl-trained-agents: ``ENV.zip`` beside the folder ``ENV``
    with ``config.yml``, ``args.yml`` and, if the agent normalizes, ``vecnormalize.pkl``. Nothing in them is executed.

    :param directory: such as ``a2c/Pendulum-v1_1``; it may come from an untrusted source
    :param out: the run directory, empty or absent; by default ``runs/<algorithm>-<environment>-<n>``
    :param untrained_statistics: whether to import an agent that normalizes observations without its statistics
    :raises RunError: if a file is missing, is damaged or does not fit the others; no directory is left
    :raises ConfigError: if the hyperparameters cannot be converted, or the environment is not installed
    """
    folder = _find_folder(directory)
    entry, env_id, algorithm = _read_entry(folder)
    name = re.sub(r"[^\w.-]", "-", f"{algorithm}-{env_id}")[:100]
    config = resolve({"name": name, **convert(entry, env_id, algorithm)}, entry)
    statistics = folder / _STATISTICS if _normalizes(config) else None
    if statistics and not statistics.exists():
        if not untrained_statistics and any(map(needs_statistics, config.components.vec_wrappers)):
            message = f"{statistics}: does not exist, but the agent acts on the statistics of its training"
            raise RunError(message, "put it there, or import the agent with --untrained-statistics")
        statistics = None
    return import_sb3(
        directory / f"{folder.name}.zip",
        config,
        out,
        statistics=statistics,
        untrained_statistics=untrained_statistics,
        notes=entry.notes,
    )


def _normalizes(config: ResolvedConfig) -> bool:
    return any(issubclass(component.cls, VecNormalize) for component in config.components.vec_wrappers)


def _find_folder(directory: Path) -> Path:
    """Return the only folder in a directory with an agent's hyperparameters.

    :raises RunError: if there is none, or several
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: {'is not a directory' if directory.exists() else 'does not exist'}")
    try:
        folders = sorted(path.parent for path in directory.glob("*/config.yml"))
    except OSError as error:
        raise RunError(f"{directory}: cannot be read: {error.strerror}") from None
    if len(folders) != 1:
        names = ", ".join(folder.name for folder in folders[:5])
        message = f"has several agents: {names}" if folders else "has no agent of RL Zoo"
        hint = "name a directory with ENV.zip and ENV/config.yml, such as a2c/Pendulum-v1_1"
        raise RunError(f"{directory}: {message}", hint)
    return folders[0]


def _read_entry(folder: Path) -> tuple[ZooEntry, str, str]:
    """Return an agent's hyperparameters, its environment and its algorithm.

    :raises ConfigError: if they cannot be read
    """
    config, arguments = files.read_agent_file(folder / "config.yml"), files.read_agent_file(folder / "args.yml")
    for document in (config, arguments):
        if not isinstance(document.data, dict):
            raise ConfigError([Problem((), "must be a mapping")], document.locations)
    env_id, algorithm = (_get_text(arguments, key) for key in ("env", "algo"))
    # finding a component by its path would run code; an entry with model_class is refused for that
    if not is_registered(algorithm) and "model_class" not in config.data:
        raise ConfigError([Problem(("algo",), f"algorithm {algorithm!r} does not exist")], arguments.locations)
    locations = {(env_id, *path): line for path, line in config.locations.items()}
    entry = ZooEntry(env_id, dict(config.data), locations)
    for key, argument in _get_overrides(arguments.data).items():
        entry.values[key] = argument
        entry.locations[env_id, key] = arguments.locations[key,]
    entry.origins["env", "id"] = arguments.locations["env",]
    entry.origins["algorithm", "name"] = arguments.locations["algo",]
    return entry, env_id, algorithm


def _get_text(document: Document, key: str) -> str:
    value = document.data.get(key)
    if not isinstance(value, str):
        raise ConfigError([Problem((key,), "must be text")], document.locations)
    return value


def _get_overrides(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that the command line of the training replaced and ``config.yml`` does not have."""
    overrides = {}
    if arguments.get("env_kwargs") is not None:
        overrides["env_kwargs"] = arguments["env_kwargs"]
    n_timesteps = arguments.get("n_timesteps")
    if isinstance(n_timesteps, int | float) and n_timesteps > 0:
        overrides["n_timesteps"] = n_timesteps
    return overrides
