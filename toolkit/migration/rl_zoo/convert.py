"""Conversion of an entry of RL Zoo's hyperparameter files to a config that trains the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.registry import KINDS, find, get_entry_point, list_entry_points
from toolkit.config.trust import RunOrigin, hash_config
from toolkit.config.yaml_document import Document
from toolkit.migration.rl_zoo import files
from toolkit.migration.rl_zoo.keys import ZooEntry, convert_entry
from toolkit.utils.errors import ConfigError, Problem, did_you_mean

_ALGORITHMS = {"ppo_lstm": "recurrent_ppo"}  # Zoo's names that differ from ours
_RENAMED = {"LunarLander-v2": "LunarLander-v3", "LunarLanderContinuous-v2": "LunarLanderContinuous-v3"}
_PACKAGES = (  # Zoo imports them, and importing a package registers its environments
    (re.compile(r"ALE/.+|.+(NoFrameskip|Deterministic)-v\d+"), "ale_py"),
    (re.compile(r".+Bullet(Duck)?Env-v\d+"), "pybullet_envs_gymnasium"),
    (re.compile(r"(MiniGrid|BabyAI)-.+"), "minigrid"),
    (re.compile(r"Panda(Reach|Push|Slide|PickAndPlace|Stack|Flip).*"), "panda_gym"),
    (re.compile(r"(parking|highway|merge|roundabout|intersection|racetrack)(-.+)?-v\d+"), "highway_env"),
    (re.compile(r"donkey-.+"), "gym_donkeycar"),
    (re.compile(r"RocketLander-v\d+"), "rocket_lander_gym"),
    (re.compile(r".+NoVel-v\d+"), "rl_zoo3.import_envs"),
)


def import_zoo(file: Path, env_id: str, algorithm: str) -> str:
    """Convert an entry of RL Zoo to YAML that ``toolkit check`` accepts where the environment is installed.

    As in Zoo, the entry is the environment's own, or ``atari`` for an Atari game, or ``default``. A comment at the top
    names the entry and what is left out of it. Nothing in the file is executed, and only installed packages that it
    names are imported.

    :param file: a YAML file of RL Zoo's hyperparameters
    :param env_id: a Gymnasium id, also ``module:Id-v0``
    :param algorithm: the algorithm of the file, by our name or Zoo's; ``double_dqn`` takes the entries of ``dqn``
    :raises ConfigError: if the file cannot be read, has no such entry, or something in it cannot be converted
    :raises ComponentError: if the algorithm does not exist
    """
    name = _ALGORITHMS.get(algorithm, algorithm)
    if ":" not in name:
        get_entry_point(KINDS["algorithms"], name)  # imports nothing
    entry = _choose_entry(files.read_zoo_file(file), env_id)
    find(KINDS["algorithms"], name)  # imports torch
    config = convert(entry, env_id, name)
    notes = [
        f"RL Zoo's {entry.name!r} in {file.name!r}, for {algorithm}.",
        *entry.notes,
        *_check_config(config, entry),
    ]
    text = "".join(f"# {' '.join(note.split())}\n" for note in notes) + _dump_config(config)
    if yaml_document.parse(text, f"{entry.name} as YAML").data != config:
        raise ConfigError([Problem((), "has a value that YAML cannot express")], entry.origins)
    return text


def is_registered(algorithm: str) -> bool:
    """Return whether an algorithm is registered by its name or Zoo's."""
    return _ALGORITHMS.get(algorithm, algorithm) in list_entry_points(KINDS["algorithms"])


def convert(entry: ZooEntry, env_id: str, algorithm: str) -> dict[str, Any]:
    """Return the config of an entry, with the environment's name today.

    :raises ConfigError: if a value is invalid or cannot be converted
    """
    import gymnasium as gym

    config = convert_entry(entry, _add_package(env_id), _ALGORITHMS.get(algorithm, algorithm))
    new_id = _RENAMED.get(env_id)
    if new_id in gym.registry and not config["env"].get("params", {}).get("enable_wind"):
        entry.notes.append(f"{env_id} is {new_id} now: without wind it acts the same.")
        config["env"]["id"] = new_id
    return config


def _choose_entry(document: Document, env_id: str) -> ZooEntry:
    import gymnasium as gym

    if not isinstance(document.data, dict):
        raise ConfigError([Problem((), "must be a mapping of environments to hyperparameters")], document.locations)
    bare_id = env_id.rpartition(":")[2]
    registered = gym.registry.get(bare_id)
    names = [bare_id]
    if _add_package(env_id).startswith("ale_py:") or "AtariEnv" in str(getattr(registered, "entry_point", "")):
        names.append("atari")
    if registered or ":" in _add_package(env_id):  # as in Zoo, a misspelled environment gets no defaults
        names.append("default")
    name = next((name for name in names if name in document.data), None)
    if name is None:
        hint = did_you_mean(bare_id, [*document.data])
        raise ConfigError([Problem((), f"has no entry {bare_id!r}", hint)], document.locations)
    values = document.data[name]
    if not isinstance(values, dict):
        raise ConfigError([Problem((name,), "must be a mapping of hyperparameters")], document.locations)
    return ZooEntry(name, dict(values), document.locations)


def _add_package(env_id: str) -> str:
    """Add the package that registers an environment if Zoo imports it by itself."""
    if ":" in env_id:
        return env_id
    return next((f"{package}:{env_id}" for pattern, package in _PACKAGES if pattern.fullmatch(env_id)), env_id)


def _dump_config(config: Mapping[str, Any]) -> str:
    if "timesteps" not in config:
        return yaml_document.dump(config)
    rest = {key: value for key, value in config.items() if key != "timesteps"}
    return f"timesteps: {config['timesteps']:_}\n" + yaml_document.dump(rest)


def _check_config(config: dict[str, Any], entry: ZooEntry) -> list[str]:
    """Check a config, and return notes if its environment is not installed.

    :raises ConfigError: for all other problems, with their lines in Zoo's file
    """
    problems: Sequence[Problem] = ()
    try:
        resolve({"name": "imported", **config}, entry)
    except ConfigError as error:
        problems = error.problems
    rest = [problem for problem in problems if problem.path != ("env", "id")]
    if rest:
        raise ConfigError(rest, entry.origins)
    env_id = config["env"]["id"]
    reasons = [problem.message.removeprefix(f"'{env_id}' cannot be made: ") for problem in problems]
    return [f"The environment is not installed: {reason}." for reason in reasons]


def resolve(config: dict[str, Any], entry: ZooEntry) -> ResolvedConfig:
    """Resolve the config of an entry. The entry may come from somebody else: code that is not installed does not run.

    :raises ConfigError: with every problem, at its line in Zoo's file
    """
    try:
        return resolve_document(Document(config, entry.origins, RunOrigin(hash_config(config))))
    except ConfigError as error:
        problems = [_reword_trust_problem(problem) for problem in error.problems]
        raise ConfigError(problems, entry.origins) from None


def _reword_trust_problem(problem: Problem) -> Problem:
    if "trained this run here" not in problem.message:
        return problem
    return Problem(
        problem.path, "names code that is not in an installed package", "only code in installed packages runs"
    )
