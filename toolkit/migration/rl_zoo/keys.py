"""What each key of an RL Zoo entry means, as a config of ours.

Meanings are those of RL Zoo 2.9 (``rl_zoo3/exp_manager.py``). A key that is not named here is a parameter of the
algorithm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from toolkit.config.registry import KINDS, list_entry_points
from toolkit.config.schema import AlgorithmConfig
from toolkit.migration.rl_zoo import files
from toolkit.utils.errors import ConfigError, KeyPath, Problem

_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
_EXPRESSIONS = ("replay_buffer_class", "replay_buffer_kwargs", "train_freq")
_NOISES = {"normal": "NormalActionNoise", "ornstein-uhlenbeck": "OrnsteinUhlenbeckActionNoise"}
_LINEAR = re.compile(r"lin_((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_SAME = {  # what Zoo names, and where it is to be had without Zoo
    "stable_baselines3.common.atari_wrappers.AtariWrapper": "toolkit_plugins.wrappers.atari:AtariWrapper",
    "rl_zoo3.wrappers.TimeFeatureWrapper": "sb3_contrib.common.wrappers:TimeFeatureWrapper",
    "rl_zoo3.wrappers.YAMLCompatResizeObservation": "gymnasium.wrappers:ResizeObservation",
}


@dataclass
class Entry:
    """An entry, of which keys are taken until none is left.

    :param places: of the keys in Zoo's file
    :param origins: of the values in our config
    """

    name: str
    values: dict[str, Any]
    places: dict[KeyPath, str]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, key: str, *path: str | int) -> Any:
        """Take a key's value, which goes to ``path`` of our config."""
        if key in self.values:
            self.origins[path] = self.places[self.name, key]
        return self.values.pop(key, None)

    def expression(self, key: str, *path: str | int) -> Any:
        """Take a value that may be Python in a string."""
        value = self.take(key, *path)
        if not isinstance(value, str):
            return value
        try:
            return files.literal(value)
        except ValueError as error:
            self.refuse(key, str(error))

    def mapping(self, key: str, *path: str | int) -> dict[str, Any]:
        """Take a mapping, which may be Python in a string."""
        value = self.expression(key, *path)
        if not isinstance(value, dict | None):
            self.refuse(key, f"should be a mapping, not {value!r}")
        return value or {}

    def refuse(self, key: str, message: str, hint: str = "") -> NoReturn:
        """Say what is wrong with the value of a key."""
        raise ConfigError([Problem((self.name, key), message[:500], hint)], self.places)


def config_of(entry: Entry, env_id: str, algorithm: str) -> dict[str, Any]:
    """Return a config in which each value of an entry has its place; what is empty, or our default, is left out."""
    if "model_class" in entry.values:
        message = "is of Zoo before HER became a replay buffer, and nothing reads it any more"
        entry.refuse("model_class", message, "sac.yml and tqc.yml have entries with HerReplayBuffer")
    policy = entry.take("policy", "algorithm", "policy")
    config = {
        "timesteps": _timesteps(entry),
        "env": {
            "id": env_id,
            "params": entry.mapping("env_kwargs", "env", "params"),
            "n_envs": _n_envs(entry, algorithm),
            "wrappers": _components(entry, "env_wrapper", "env", "wrappers"),
            "vec_wrappers": _vec_wrappers(entry),
        },
        "callbacks": _callbacks(entry),
    }
    if entry.values.pop("monitor_kwargs", None):
        entry.notes.append("monitor_kwargs is left out: Monitor writes down the same for every run.")
    policy_params = entry.mapping("policy_kwargs", "algorithm", "policy_params")
    params = _noise(entry) | {key: _parameter(entry, key) for key in [*entry.values]}
    config["algorithm"] = {
        "name": algorithm,
        "policy": _policy(entry, policy),
        "params": params,
        "policy_params": policy_params,
    }
    entry.origins[()] = entry.places[entry.name,]
    order = ("timesteps", "env", "algorithm", "callbacks")
    return _without_empty({key: config[key] for key in order})


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a config's first two levels need not say."""
    parts = {key: _without_empty(part) if key in ("env", "algorithm") else part for key, part in data.items()}
    return {key: part for key, part in parts.items() if part is not None and part not in ({}, [])}


def _timesteps(entry: Entry) -> int | None:
    value = entry.take("n_timesteps", "timesteps")
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not number.is_integer():
        entry.refuse("n_timesteps", f"should be a whole number, not {value!r}")
    return int(number)


def _n_envs(entry: Entry, algorithm: str) -> int | None:
    value: int | None = entry.take("n_envs", "env", "n_envs")
    if algorithm == "ars" and value not in (None, 1):
        entry.notes.append(f"n_envs: {value!r} is left out: Zoo scores ARS's candidates in so many processes.")
        return None
    return None if value == 1 else value


def _policy(entry: Entry, name: Any) -> Any:
    if not isinstance(name, str) or "." not in name:
        return None if name == AlgorithmConfig.model_fields["policy"].default else name
    return _reference(entry, "policy", name)


def _vec_wrappers(entry: Entry) -> list[Any]:
    """Return wrappers of all environments in the order in which Zoo puts them around: statistics before stacks."""
    wrappers = _components(entry, "vec_env_wrapper", "env", "vec_wrappers")
    normalize = entry.expression("normalize", "env", "vec_wrappers", len(wrappers))
    if not isinstance(normalize, bool | dict | None):
        entry.refuse("normalize", f"should be true, false or a mapping, not {normalize!r}")
    if normalize or normalize == {}:
        params = normalize if isinstance(normalize, dict) else {}
        if "gamma" in entry.values:  # of the algorithm, and stays there
            params = params | {"gamma": entry.values["gamma"]}
        wrappers.append(_component("vec_normalize", params))
    n_stack = entry.take("frame_stack", "env", "vec_wrappers", len(wrappers))
    if n_stack is not None:
        wrappers.append(_component("vec_frame_stack", {"n_stack": n_stack}))
    return wrappers


def _callbacks(entry: Entry) -> list[Any]:
    kept = []
    for callback in _components(entry, "callback", "callbacks"):
        name = callback if isinstance(callback, str) else callback["name"]
        if name == "rl_zoo3.callbacks:ParallelTrainCallback":
            message = f"{name} trains in a thread of its own, at a pace that no run can repeat"
            entry.refuse("callback", message, "delete it, or train with Zoo")
        if name == "rl_zoo3.callbacks:RawStatisticsCallback":
            entry.notes.append(f"{name} is left out: raw returns are in monitor.csv and TensorBoard anyway.")
        else:
            kept.append(callback)
    return kept


def _components(entry: Entry, key: str, *path: str | int) -> list[Any]:
    """Return components: in Zoo a path, a path with its parameters beneath, or a list of these."""
    value = entry.take(key, *path)
    listed = value if isinstance(value, list) else [] if value is None else [value]
    made = []
    for index, one in enumerate(listed):
        entry.origins[(*path, index)] = entry.places.get((entry.name, key, index), entry.places[entry.name, key])
        ((name, params),) = one.items() if isinstance(one, dict) and len(one) == 1 else [(one, {})]
        if not isinstance(name, str) or not isinstance(params, dict | None):
            entry.refuse(key, f"should be a path, or one path with its parameters below it, not {one!r}")
        made.append(_component(_reference(entry, key, name), params))
    return made


def _component(name: str, params: Mapping[str, Any] | None) -> Any:
    return {"name": name, "params": dict(params)} if params else name


def _reference(entry: Entry, key: str, path: str) -> str:
    """Return how our configs name what Zoo imports by a dotted path: as it is registered, or ``module:Name``."""
    if not _PATH.fullmatch(path):
        entry.refuse(key, f"should be the path of a class in a module, not {path!r}")
    module, _, name = path.rpartition(".")
    if module.startswith("gymnasium.wrappers."):  # whose modules have other names in every version
        module = "gymnasium.wrappers"
    reference = _SAME.get(path, f"{module}:{name}")
    for kind in KINDS.values():
        for registered, (claim, *_) in list_entry_points(kind).items():
            if claim.value.partition("[")[0].rstrip() == reference:  # without its extras
                return registered
    return reference


def _noise(entry: Entry) -> dict[str, Any]:
    """Return action noise; a number is good for actions of any size (:func:`toolkit.training.model.build_model`)."""
    kind = entry.take("noise_type", "algorithm", "params", "action_noise")
    if kind is None:
        entry.values.pop("noise_std", None)
        return {}
    if not isinstance(kind, str) or kind.strip() not in _NOISES:
        entry.refuse("noise_type", f"should be {' or '.join(_NOISES)}, not {kind!r}")
    sigma = entry.take("noise_std", "algorithm", "params", "action_noise", "params", "sigma")
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        entry.refuse("noise_std" if sigma is not None else "noise_type", f"needs a number as noise_std, not {sigma!r}")
    name = f"stable_baselines3.common.noise:{_NOISES[kind.strip()]}"
    return {"action_noise": {"name": name, "params": {"mean": 0.0, "sigma": sigma}}}


def _parameter(entry: Entry, key: str) -> Any:
    path = ("algorithm", "params", key)
    if key in _EXPRESSIONS:
        return entry.expression(key, *path)
    value = entry.take(key, *path)
    if key not in _SCHEDULES or not isinstance(value, str):
        return value
    linear = _LINEAR.fullmatch(value)
    if linear is None:
        entry.refuse(key, f"should be a number, or lin_ and a number, not {value!r}")
    return {"name": "linear", "params": {"start": float(linear[1])}}
