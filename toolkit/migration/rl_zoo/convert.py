"""An entry of RL Zoo's hyperparameter files as a config of ours that does the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.load import resolve_document
from toolkit.config.registry import KINDS, find
from toolkit.config.trust import RunOrigin, hash_config
from toolkit.config.yaml_document import Document
from toolkit.migration.rl_zoo import files
from toolkit.migration.rl_zoo.keys import Entry, config_of
from toolkit.utils.errors import ConfigError, Problem, did_you_mean

_ALGORITHMS = {"ppo_lstm": "recurrent_ppo"}  # Zoo's names that are not ours
_PACKAGES = (  # which Zoo imports; their environments are registered when they are imported
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
    """Return an entry of RL Zoo's as YAML that ``toolkit check`` accepts wherever the environment is installed.

    The entry is the environment's own, or ``atari`` for an Atari game, or ``default``, as Zoo chooses it. A comment
    at the top says where it comes from, and what of it is not kept. Nothing in the file is executed; of what it
    names, installed packages alone are imported.

    :param env_id: a Gymnasium id, also ``module:Id-v0``
    :param algorithm: whose file it is, by our name or Zoo's; ``double_dqn`` takes the entries of ``dqn``
    :raises ConfigError: if the file cannot be read, has no such entry, or something in it cannot be converted
    :raises ComponentError: if there is no such algorithm
    """
    name = _ALGORITHMS.get(algorithm, algorithm)
    find(KINDS["algorithms"], name)
    document = files.read(file)
    entry = _choose(document, env_id)
    env_id = _with_package(env_id)
    config = config_of(entry, env_id, name)
    notes = [f"RL Zoo's {entry.name!r} in {file.name!r}, for {algorithm}.", *entry.notes, *_check(config, entry)]
    text = "".join(f"# {' '.join(note.split())}\n" for note in notes) + _write(config)
    if yaml_document.parse(text, f"{entry.name} as YAML").data != config:
        raise ConfigError([Problem((), "holds what YAML cannot")], entry.origins)
    return text


def _choose(document: Document, env_id: str) -> Entry:
    import gymnasium as gym

    if not isinstance(document.data, dict):
        raise ConfigError([Problem((), "must be a mapping of environments to hyperparameters")], document.locations)
    bare_id = env_id.rpartition(":")[2]
    registered = gym.registry.get(bare_id)
    names = [bare_id]
    if _with_package(env_id).startswith("ale_py:") or "AtariEnv" in str(getattr(registered, "entry_point", "")):
        names.append("atari")
    if registered or ":" in _with_package(env_id):  # as in Zoo, which knows no others; a typo has no defaults
        names.append("default")
    name = next((name for name in names if name in document.data), None)
    if name is None:
        hint = did_you_mean(bare_id, [*document.data])
        raise ConfigError([Problem((), f"has no entry {bare_id!r}", hint)], document.locations)
    values = document.data[name]
    if not isinstance(values, dict):
        raise ConfigError([Problem((name,), "must be a mapping of hyperparameters")], document.locations)
    return Entry(name, dict(values), document.locations)


def _with_package(env_id: str) -> str:
    """Name the package that registers an environment, where Zoo imports it without being told to."""
    if ":" in env_id:
        return env_id
    return next((f"{package}:{env_id}" for pattern, package in _PACKAGES if pattern.fullmatch(env_id)), env_id)


def _write(config: Mapping[str, Any]) -> str:
    if "timesteps" not in config:
        return yaml_document.dump(config)
    rest = {key: value for key, value in config.items() if key != "timesteps"}
    return f"timesteps: {config['timesteps']:_}\n" + yaml_document.dump(rest)


def _check(config: dict[str, Any], entry: Entry) -> list[str]:
    """Check a config whole, but for its environment, of which it returns what there is to say.

    :raises ConfigError: with what does not fit, where it stands in Zoo's file
    """
    opened = RunOrigin(
        hash_config(config)
    )  # by somebody else, as Zoo's files are: code that is not installed does not run
    problems: Sequence[Problem] = ()
    try:
        resolve_document(Document({"name": "imported", **config}, entry.origins, opened))
    except ConfigError as error:
        problems = error.problems
    rest = [problem for problem in problems if problem.path != ("env", "id")]
    if rest:
        raise ConfigError([_of_the_zoo(problem) for problem in rest], entry.origins)
    env_id = config["env"]["id"]
    reasons = [problem.message.removeprefix(f"'{env_id}' cannot be made: ") for problem in problems]
    return [f"The environment is not installed here: {reason}." for reason in reasons]


def _of_the_zoo(problem: Problem) -> Problem:
    if "has not trained this run" not in problem.message:
        return problem
    return Problem(problem.path, "names code that belongs to no installed package", "nothing else is run")
