"""Check that a replay buffer can be built, and can store the transitions of its environments."""

from __future__ import annotations

import re
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from toolkit.config.load import ResolvedConfig
from toolkit.config.replay_buffers import CLASS, KWARGS
from toolkit.utils.errors import KeyPath, Problem, did_you_mean

_PATH: KeyPath = ("algorithm", "params")
_OF_ALL = "handle_timeout_termination"  # the parameter that all of SB3's replay buffers have
_UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def refuse_negative_goals(config: ResolvedConfig) -> None:
    """Refuse a negative number of goals for each transition, which ``HerReplayBuffer`` turns into a wrong share.

    :raises ConfigError: if it is negative
    """
    arguments = config.components.algorithm.arguments
    cls, n_goals = arguments.get(CLASS), (arguments.get(KWARGS) or {}).get("n_sampled_goal")
    if isinstance(cls, type) and issubclass(cls, HerReplayBuffer) and isinstance(n_goals, int) and n_goals < 0:
        problem = Problem(_locate(config, "n_sampled_goal"), f"should be at least 0, not {n_goals}")
        raise config.make_error([problem])


def refuse_weights_without_use(config: ResolvedConfig) -> None:
    """Refuse a replay buffer whose transitions have weights if the algorithm would leave them out.

    :raises ConfigError: if it would
    """
    bound = config.components.algorithm
    cls: Any = bound.arguments.get(CLASS)
    if hasattr(cls, "sample_weighted") and not getattr(bound.cls, "supports_weighted_replay", False):
        message = f"'{config.algorithm.name}' takes neither the weights of {cls.__name__} nor returns priorities"
        raise config.make_error([Problem((*_PATH, CLASS), message, "choose the algorithm double_dqn")])


def describe_unfit_replay_buffer(config: ResolvedConfig, space: spaces.Space[object], error: str) -> Problem | None:
    """Describe a replay buffer that does not fit its parameters or observations, from the error that it raises."""
    arguments, name = config.components.algorithm.arguments, config.env.name
    cls, kwargs = arguments.get(CLASS), arguments.get(KWARGS) or {}
    unknown = _UNKNOWN.search(error)
    if cls is None and unknown and unknown[2] in kwargs:
        message = f"unknown parameter of {unknown[1]}, which is used without {CLASS}"
        hint = did_you_mean(unknown[2], [_OF_ALL], max_listed=0) or f"name the {CLASS} that takes it"
        return Problem((*_PATH, KWARGS, unknown[2]), message, hint)
    if "N-step returns are not supported for Dict" in error:
        return Problem((*_PATH, "n_steps"), f"should be 1 for the Dict observations of '{name}'", "remove it")
    if cls is None:
        return None
    path = (*_PATH, CLASS)
    if isinstance(space, spaces.Dict) and not issubclass(cls, DictReplayBuffer) and "interpreted as an int" in error:
        message = f"{cls.__name__} cannot hold the Dict observations of '{name}'"
        return Problem(path, message, "remove it, or choose her for environments with goals")
    if "must be used with Dict obs space only" in error:
        return Problem(path, f"{cls.__name__} needs Dict observations; '{name}' gives {space}", "remove it")
    return None


def _locate(config: ResolvedConfig, name: str) -> KeyPath:
    """Return where the config has a parameter of the replay buffer."""
    component = config.algorithm.params.get(CLASS)
    inner = (CLASS, "params") if isinstance(component, dict) and "params" in component else (KWARGS,)
    return (*_PATH, *inner, name)
