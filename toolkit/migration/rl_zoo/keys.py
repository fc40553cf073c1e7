"""The meaning of each key of an RL Zoo entry in our configs.

The meanings are those of RL Zoo 2.9 (``rl_zoo3/exp_manager.py``). Any other key is a parameter of the algorithm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from toolkit.config.registry import KINDS, find, list_entry_points
from toolkit.config.schema import AlgorithmConfig
from toolkit.migration.rl_zoo import files
from toolkit.utils.errors import ConfigError, KeyPath, Problem

_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
_EXPRESSIONS = ("replay_buffer_class", "train_freq")
_NOISES = {"normal": "NormalActionNoise", "ornstein-uhlenbeck": "OrnsteinUhlenbeckActionNoise"}
_REMOVED = {  # parameters that SB3 no longer has, by the key that they are in
    "policy_kwargs": ("sde_net_arch",),
    "replay_buffer_kwargs": ("online_sampling", "max_episode_length"),
}
_LINEAR = re.compile(r"lin_((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_EQUIVALENTS = {  # the same classes without Zoo
    "stable_baselines3.common.atari_wrappers.AtariWrapper": "toolkit_plugins.wrappers.atari:AtariWrapper",
    "rl_zoo3.wrappers.TimeFeatureWrapper": "sb3_contrib.common.wrappers:TimeFeatureWrapper",
    "rl_zoo3.wrappers.YAMLCompatResizeObservation": "gymnasium.wrappers:ResizeObservation",
}


@dataclass
class ZooEntry:
    """An entry of RL Zoo while it is converted.

    :param name: its key in Zoo's file
    :param values: the keys that are not converted yet
    :param locations: line of each key in Zoo's file
    :param origins: line in Zoo's file of each value in our config
    :param notes: what the conversion leaves out
    """

    name: str
    values: dict[str, Any]
    locations: dict[KeyPath, str]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def pop(self, key: str, *path: str | int) -> Any:
        """Remove a key and return its value, which goes to ``path`` of our config."""
        if key in self.values:
            self.origins[path] = self.locations[self.name, key]
        return self.values.pop(key, None)

    def pop_expression(self, key: str, *path: str | int) -> Any:
        """Remove a key and return its value, which may be Python in a string."""
        value = self.pop(key, *path)
        if not isinstance(value, str):
            return value
        try:
            return files.parse_expression(value)
        except ValueError as error:
            self.refuse(key, str(error))

    def pop_mapping(self, key: str, *path: str | int) -> dict[str, Any]:
        """Remove a key and return its mapping, which may be Python in a string."""
        value = self.pop_expression(key, *path)
        if not isinstance(value, dict | None):
            self.refuse(key, f"should be a mapping, not {value!r}")
        return value or {}

    def refuse(self, key: str, message: str, hint: str = "") -> NoReturn:
        """Raise the error of an invalid value.

        :raises ConfigError: always
        """
        raise ConfigError([Problem((self.name, key), message[:500], hint)], self.locations)


def convert_entry(entry: ZooEntry, env_id: str, algorithm: str) -> dict[str, Any]:
    """Return the config of an entry, without empty values and our defaults.

    :raises ConfigError: if a value is invalid or cannot be converted
    """
    if "model_class" in entry.values:
        message = "is from before HER became a replay buffer, and Zoo no longer reads it"
        entry.refuse("model_class", message, "sac.yml and tqc.yml have entries with HerReplayBuffer")
    policy = entry.pop("policy", "algorithm", "policy")
    _convert_episodes_of_rollout(entry)
    config = {
        "timesteps": _convert_timesteps(entry),
        "env": {
            "id": env_id,
            "params": entry.pop_mapping("env_kwargs", "env", "params"),
            "n_envs": _convert_n_envs(entry, algorithm),
            "wrappers": _convert_components(entry, "env_wrapper", "env", "wrappers"),
            "info_keywords": _convert_monitor_params(entry),
            "vec_wrappers": _convert_vec_wrappers(entry, algorithm),
        },
        "callbacks": _convert_callbacks(entry),
    }
    policy_params = _convert_policy_params(entry)
    params = _convert_noise(entry) | {key: _convert_parameter(entry, key) for key in [*entry.values]}
    config["algorithm"] = {
        "name": algorithm,
        "policy": _convert_policy(entry, policy),
        "params": params,
        "policy_params": policy_params,
    }
    entry.origins[()] = entry.locations[entry.name,]
    order = ("timesteps", "env", "algorithm", "callbacks")
    return _remove_empty({key: config[key] for key in order})


def _remove_empty(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out empty values in the first two levels of a config."""
    parts = {key: _remove_empty(part) if key in ("env", "algorithm") else part for key, part in data.items()}
    return {key: part for key, part in parts.items() if part is not None and part not in ({}, [])}


def _convert_monitor_params(entry: ZooEntry) -> list[Any]:
    """Return what Monitor takes from the info of an episode's last step."""
    params = dict(entry.pop_mapping("monitor_kwargs", "env", "info_keywords"))
    keywords = params.pop("info_keywords", [])
    if not isinstance(keywords, list | tuple):
        entry.refuse("monitor_kwargs", f"should have a list as info_keywords, not {keywords!r}")
    if params:
        names = ", ".join(map(str, params))
        entry.notes.append(f"monitor_kwargs: {names} is left out: Monitor is the same for every run otherwise.")
    return [*keywords]


def _convert_timesteps(entry: ZooEntry) -> int | None:
    value = entry.pop("n_timesteps", "timesteps")
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not number.is_integer():
        entry.refuse("n_timesteps", f"should be a whole number, not {value!r}")
    return int(number)


def _convert_n_envs(entry: ZooEntry, algorithm: str) -> int | None:
    value: int | None = entry.pop("n_envs", "env", "n_envs")
    if algorithm == "ars" and value not in (None, 1):
        entry.notes.append(
            f"n_envs: {value!r} is left out: in Zoo it is the number of processes that score ARS's candidates."
        )
        return None
    return None if value == 1 else value


def _convert_policy(entry: ZooEntry, name: Any) -> Any:
    if not isinstance(name, str) or "." not in name:
        return None if name == AlgorithmConfig.model_fields["policy"].default else name
    return _find_reference(entry, "policy", name)


def _convert_policy_params(entry: ZooEntry) -> dict[str, Any]:
    """Return the parameters of the policy. Its networks are a mapping now, and were a list of one mapping."""
    params = _leave_out_removed(
        entry, "policy_kwargs", entry.pop_mapping("policy_kwargs", "algorithm", "policy_params")
    )
    match params.get("net_arch"):
        case [dict(networks)]:
            params["net_arch"] = networks
    return params


def _leave_out_removed(entry: ZooEntry, key: str, params: dict[str, Any]) -> dict[str, Any]:
    removed = [name for name in _REMOVED[key] if name in params]
    entry.notes += [f"{key}: {name} is left out: SB3 no longer has it." for name in removed]
    return {name: value for name, value in params.items() if name not in removed}


def _convert_episodes_of_rollout(entry: ZooEntry) -> None:
    """Replace ``n_episodes_rollout`` of SB3 before 1.0 by ``train_freq`` in episodes."""
    if "n_episodes_rollout" not in entry.values:
        return
    n_episodes = entry.values.pop("n_episodes_rollout")
    entry.locations.setdefault((entry.name, "train_freq"), entry.locations[entry.name, "n_episodes_rollout"])
    if isinstance(n_episodes, int) and n_episodes > 0:  # it was -1 where train_freq counted
        entry.values["train_freq"] = [n_episodes, "episode"]


def _convert_vec_wrappers(entry: ZooEntry, algorithm: str) -> list[Any]:
    """Return vec wrappers in the order in which Zoo applies them: normalization before frame stacks.

    With a replay buffer that order fails in Zoo, too, and normalization comes last.
    """
    wrappers = _convert_components(entry, "vec_env_wrapper", "env", "vec_wrappers")
    is_reversed = _is_off_policy(algorithm) and entry.values.get("frame_stack") is not None
    normalize = entry.pop_expression("normalize", "env", "vec_wrappers", len(wrappers) + is_reversed)
    if not isinstance(normalize, bool | dict | None):
        entry.refuse("normalize", f"should be true, false or a mapping, not {normalize!r}")
    is_normalized = bool(normalize) or normalize == {}
    n_stack = entry.pop("frame_stack", "env", "vec_wrappers", len(wrappers) + (is_normalized and not is_reversed))
    pair = []
    if is_normalized:
        params = dict(normalize) if isinstance(normalize, dict) else {}
        if "gamma" in entry.values:  # also a parameter of the algorithm, which the wrapper follows
            params.pop("gamma", None)
        pair.append(_make_component("vec_normalize", params))
    if n_stack is not None:
        pair.append(_make_component("vec_frame_stack", {"n_stack": n_stack}))
    if len(pair) == 2 and is_reversed:
        entry.notes.append("vec_normalize comes after vec_frame_stack: Zoo's order fails with a replay buffer.")
        pair.reverse()
    return [*wrappers, *pair]


def _is_off_policy(algorithm: str) -> bool:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    return issubclass(find(KINDS["algorithms"], algorithm), OffPolicyAlgorithm)


def _convert_callbacks(entry: ZooEntry) -> list[Any]:
    callbacks = []
    for callback in _convert_components(entry, "callback", "callbacks"):
        name = callback if isinstance(callback, str) else callback["name"]
        if name == "rl_zoo3.callbacks:ParallelTrainCallback":
            message = f"{name} trains in a separate thread, so that runs cannot be repeated"
            entry.refuse("callback", message, "delete it, or train with Zoo")
        if name == "rl_zoo3.callbacks:RawStatisticsCallback":
            entry.notes.append(f"{name} is left out: monitor.csv and TensorBoard have the raw returns.")
        else:
            callbacks.append(callback)
    return callbacks


def _convert_components(entry: ZooEntry, key: str, *path: str | int) -> list[Any]:
    """Return components. In Zoo they are a path, a path with parameters below it, or a list of these."""
    value = entry.pop(key, *path)
    items = value if isinstance(value, list) else [] if value is None else [value]
    components = []
    for index, item in enumerate(items):
        entry.origins[(*path, index)] = entry.locations.get((entry.name, key, index), entry.locations[entry.name, key])
        ((name, params),) = item.items() if isinstance(item, dict) and len(item) == 1 else [(item, {})]
        if not isinstance(name, str) or not isinstance(params, dict | None):
            entry.refuse(key, f"should be a path, or one path with its parameters below it, not {item!r}")
        components.append(_make_component(_find_reference(entry, key, name), params))
    return components


def _make_component(name: str, params: Mapping[str, Any] | None) -> Any:
    return {"name": name, "params": dict(params)} if params else name


def _find_reference(entry: ZooEntry, key: str, path: str) -> str:
    """Return the registered name of a class that Zoo names by its dotted path, or else ``module:Name``."""
    if not _PATH.fullmatch(path):
        entry.refuse(key, f"should be the path of a class in a module, not {path!r}")
    module, _, name = path.rpartition(".")
    if module.startswith("gymnasium.wrappers."):  # the modules inside have other names in every version
        module = "gymnasium.wrappers"
    reference = _EQUIVALENTS.get(path, f"{module}:{name}")
    for kind in KINDS.values():
        for registered_name, (entry_point, *_) in list_entry_points(kind).items():
            if entry_point.value.partition("[")[0].rstrip() == reference:  # without its extras
                return registered_name
    return reference


def _convert_noise(entry: ZooEntry) -> dict[str, Any]:
    """Return action noise. :func:`toolkit.training.model.build_model` adapts its numbers to the action space."""
    kind = entry.pop("noise_type", "algorithm", "params", "action_noise")
    if kind is None:
        entry.values.pop("noise_std", None)
        return {}
    if not isinstance(kind, str) or kind.strip() not in _NOISES:
        entry.refuse("noise_type", f"should be {' or '.join(_NOISES)}, not {kind!r}")
    sigma = entry.pop("noise_std", "algorithm", "params", "action_noise", "params", "sigma")
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        entry.refuse(
            "noise_std" if sigma is not None else "noise_type", f"requires a number as noise_std, not {sigma!r}"
        )
    name = f"stable_baselines3.common.noise:{_NOISES[kind.strip()]}"
    return {"action_noise": {"name": name, "params": {"mean": 0.0, "sigma": sigma}}}


def _convert_parameter(entry: ZooEntry, key: str) -> Any:
    path = ("algorithm", "params", key)
    if key == "replay_buffer_kwargs":
        return _leave_out_removed(entry, key, entry.pop_mapping(key, *path))
    if key in _EXPRESSIONS:
        return entry.pop_expression(key, *path)
    value = entry.pop(key, *path)
    if key not in _SCHEDULES or not isinstance(value, str):
        return value
    linear = _LINEAR.fullmatch(value)
    if linear is None:
        entry.refuse(key, f"should be a number, or lin_ and a number, not {value!r}")
    return {"name": "linear", "params": {"start": float(linear[1])}}
