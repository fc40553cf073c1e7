"""What of an object's parts can be made anew, and what is only put into the one that is there."""

from __future__ import annotations

import functools
import logging
from collections import Counter, OrderedDict, deque
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from toolkit.snapshots.plain_data import PLAIN, is_value

CONTAINERS = (list, tuple, set, frozenset, deque, dict, OrderedDict, Counter)
STATIC = (  # the same whenever a run's config is built
    *(type, FunctionType, MethodType, BuiltinFunctionType, functools.partial, ModuleType, np.ufunc, Path),
    *(torch.device, torch.dtype, np.dtype, gym.Space, Logger, logging.Logger),
)
_APART = (gym.Env, VecEnv, BaseAlgorithm, BaseException)  # these hold more than their attributes
_REFERENCES = {
    BaseCallback: {"model", "parent", "locals", "globals", "context"},
    gym.Wrapper: {"env", "_cached_spec", "_metadata", "_saved_kwargs"},
    VecEnv: {"venv", "class_attributes", "metadata", "render_mode", "reset_infos", "_seeds", "_options"},
}


def is_live(value: Any) -> bool:
    """Say whether a value can only be put into one that is there already."""
    return not (type(value) in PLAIN or type(value) in CONTAINERS or is_value(value))


def is_object(value: Any) -> bool:
    """Say whether an object's attributes, or its ``state_dict``, are all that it holds."""
    if isinstance(value, _APART) or not hasattr(value, "__dict__"):
        return False
    written_in_python = getattr(type(value), "__new__", None) is object.__new__
    return has_state_dict(value) or (written_in_python and not any(map(_slots, type(value).__mro__)))


def is_frozen(value: Any) -> bool:
    """Say whether it is an object of a frozen dataclass."""
    return bool(getattr(getattr(value, "__dataclass_params__", None), "frozen", False))


def is_pointed_at(value: Any) -> bool:
    """Say whether it matters where else the same object is held: what happens to it shows there too."""
    return not (isinstance(value, (*STATIC, Enum, tuple)) or is_frozen(value))


def _slots(kind: type[Any]) -> list[str]:
    """Return the names of a class's own slots, which are beside its objects' attributes."""
    slots = vars(kind).get("__slots__", ())
    return [name for name in ([slots] if isinstance(slots, str) else slots) if not name.startswith("__")]


def has_state_dict(owner: Any) -> bool:
    """Say whether an object gives and takes its state itself."""
    return all(callable(getattr(type(owner), name, None)) for name in ("state_dict", "load_state_dict"))


def references(owner: Any) -> set[str]:
    """Return the attributes of an object that only say where it belongs."""
    return {name for kind, names in _REFERENCES.items() if isinstance(owner, kind) for name in names}
