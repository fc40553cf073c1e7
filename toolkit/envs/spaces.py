"""Spaces that SB3 cannot learn in, or would learn in something else than what they say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.vec_env import VecEnv

from toolkit.config.schema import RunConfig
from toolkit.utils.errors import Problem

_Faults = Iterator[tuple[str, str]]  # what is wrong, and what to do
_FLATTEN = "add the wrapper gymnasium.wrappers:FlattenObservation"
_SHIFT = "add the wrapper 'zero_start'"


def find_space_problems(env: gym.Env[Any, Any] | VecEnv, config: RunConfig) -> list[Problem]:
    """Find what SB3 does not support in the spaces of a wrapped environment; some of it, SB3 does not notice.

    SB3 counts the values of ``Discrete`` and ``MultiDiscrete`` from 0, whatever their start is. It gives real numbers
    to a ``Box`` of integers.
    """
    faults = [
        *(
            (f"an observation space that SB3 does not support: {text}", hint)
            for text, hint in _check_observations(env.observation_space)
        ),
        *(
            (f"an action space that SB3 does not support: {text}", hint)
            for text, hint in _check_action(env.action_space)
        ),
    ]
    return [Problem(("env",), f"'{config.env.name}' has {text}", hint) for text, hint in faults]


def find_unusual_spaces(env: gym.Env[Any, Any], config: RunConfig) -> list[Problem]:
    """Find spaces that SB3 supports, and that its ``check_env`` advises against."""
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    boxes = {key: part for key, part in parts.items() if isinstance(part, spaces.Box)}
    faults = [
        fault for key, box in boxes.items() for fault in _describe_unusual_box(box, f" ({key!r})" if key else "")
    ]
    action_space = env.action_space
    if isinstance(action_space, spaces.Box) and np.any(action_space.low != -action_space.high):
        low, high = action_space.low.min(), action_space.high.max()
        message = f"takes actions from {low:g} to {high:g}, which are not symmetric around 0"
        hint = "add the wrapper gymnasium.wrappers:RescaleAction with min_action: -1 and max_action: 1"
        faults.append((message, hint))
    return [Problem(("env",), f"'{config.env.name}' {message}", hint) for message, hint in faults]


def _describe_unusual_box(space: spaces.Box, place: str) -> _Faults:
    n_dimensions, size = len(space.shape), math.prod(space.shape)
    if n_dimensions == 2:
        message = f"gives observations{place} of shape {space.shape}: networks take them as {size:,} numbers in a row"
        yield message, "if they are no table, give them another shape"
    elif n_dimensions == 3 and not (space.dtype == np.uint8 and np.all(space.low == 0) and np.all(space.high == 255)):
        message = f"gives observations{place} of shape {space.shape} that are no images to SB3"
        yield message, "images are uint8, from 0 to 255"


def _check_observations(space: gym.Space[Any]) -> _Faults:
    """Check the observation space, or its parts."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _check_observation(part, f" inside Dict ({key!r})")
    elif isinstance(space, spaces.Tuple):
        yield "Tuple", _FLATTEN
    else:
        yield from _check_observation(space, "")


def _check_observation(space: gym.Space[Any], place: str) -> _Faults:
    name = f"{type(space).__name__}{place}"
    if isinstance(space, spaces.Dict | spaces.Tuple):
        yield name, _FLATTEN
    elif space.shape is None:
        yield name, "add a wrapper that returns arrays"
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        yield f"{name} with {space.nvec.ndim} dimensions", _FLATTEN
    elif first := _find_start(space):
        yield f"{name} that starts at {first}, not 0", _SHIFT
    elif isinstance(space, spaces.Box) and not space.shape:
        yield f"{name} of one number without a dimension", "return an array of shape (1,), in a wrapper for example"
    elif not np.prod(space.shape):
        yield f"{name} of shape {space.shape}, without a number", "return what the agent needs to know"


def _check_action(space: gym.Space[Any]) -> _Faults:
    """Check an action space that algorithms do not refuse themselves."""
    name = type(space).__name__
    if isinstance(space, spaces.Box):
        yield from _check_box_action(space)
    elif first := _find_start(space):
        yield f"{name} that starts at {first}, not 0", _SHIFT
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        yield f"{name} with {space.nvec.ndim} dimensions", "flatten it in a wrapper"
    elif isinstance(space, spaces.MultiBinary) and len(space.shape) > 1:
        yield f"{name} with {len(space.shape)} dimensions", "flatten it in a wrapper"


def _check_box_action(space: spaces.Box) -> _Faults:
    if space.dtype.kind != "f":
        advice = "use Discrete or MultiDiscrete, in a wrapper for example"
        yield f"Box of {space.dtype}, while agents give real numbers", advice
    elif not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        yield "Box without bounds", "give it finite ones, in a wrapper for example"


def _find_start(space: gym.Space[Any]) -> str:
    """Return where the values of a space start, if not at 0; otherwise an empty string."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
        return str(np.asarray(space.start).tolist())
    return ""


def count_masks(space: gym.Space[Any]) -> int:
    """Return how many masks sb3-contrib takes for actions: one for each value of each action; 0 for other spaces."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return 2 * int(np.prod(space.shape)) if isinstance(space, spaces.MultiBinary) else 0


def sample_allowed(space: gym.Space[Any], masks: ArrayLike) -> Any:
    """Return a random action that masks allow.

    :param masks: as ``action_masks()`` of sb3-contrib: one for each value of each action
    """
    return space.sample(_convert_masks(np.asarray(masks, np.int8).ravel(), space))


def _convert_masks(masks: NDArray[np.int8], space: gym.Space[Any]) -> Any:
    """Convert the masks of sb3-contrib, one for each value of each action, to those of Gymnasium's spaces."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(np.split(masks, np.cumsum(space.nvec)[:-1]))
    if isinstance(space, gym.spaces.MultiBinary):
        allows_zero, allows_one = masks.reshape(*space.shape, 2).T
        return np.where(allows_zero & allows_one, 2, allows_one).astype(np.int8)
    return masks
