"""What plain data can recreate of an object, and what can only be restored in place."""

from __future__ import annotations

import functools
import logging
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv, VectorWrapper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from toolkit.snapshots.plain_data import CONTAINER_TYPES, PLAIN_TYPES, is_value

STATIC_TYPES = (  # the same objects whenever a config is built
    *(type, FunctionType, MethodType, BuiltinFunctionType, functools.partial, ModuleType, np.ufunc, Path),
    *(torch.device, torch.dtype, np.dtype, gym.Space, Logger, logging.Logger),
)
_OPAQUE_TYPES = (gym.Env, VectorEnv, VecEnv, BaseAlgorithm, BaseException)  # attributes are not their whole state
_REFERENCES = {
    BaseCallback: {"model", "parent", "locals", "globals", "context"},
    gym.Wrapper: {"env", "_cached_spec", "_metadata", "_saved_kwargs"},
    VectorEnv: {"metadata", "_metadata"},
    VectorWrapper: {"env"},
    VecEnv: {"venv", "class_attributes", "metadata", "render_mode", "reset_infos", "_seeds", "_options"},
}


def is_restored_in_place(value: Any) -> bool:
    """Return whether a value is restored into the one at the same path, as plain data cannot recreate it."""
    return not (type(value) in PLAIN_TYPES or type(value) in CONTAINER_TYPES or is_value(value))


def is_object(value: Any) -> bool:
    """Return whether the attributes of an object, or its ``state_dict``, are its whole state."""
    if isinstance(value, _OPAQUE_TYPES) or not hasattr(value, "__dict__"):
        return False
    is_written_in_python = getattr(type(value), "__new__", None) is object.__new__
    return has_state_dict(value) or (is_written_in_python and not any(map(_get_own_slots, type(value).__mro__)))


def is_stateless_env(value: Any) -> bool:
    """Return whether a value is environments without state: each use of them starts from a seed."""
    return isinstance(value, VecEnv) and getattr(value, "is_stateless", False)


def is_frozen(value: Any) -> bool:
    """Return whether a value is an instance of a frozen dataclass."""
    return bool(getattr(getattr(value, "__dataclass_params__", None), "frozen", False))


def has_identity(value: Any) -> bool:
    """Return whether it matters that two attributes hold the same object: a change shows in both."""
    return not (isinstance(value, (*STATIC_TYPES, Enum, tuple)) or is_frozen(value))


def has_state_dict(owner: Any) -> bool:
    """Return whether an object saves and loads its state itself."""
    return all(callable(getattr(type(owner), name, None)) for name in ("state_dict", "load_state_dict"))


def get_transient_attributes(owner: Any) -> set[str]:
    """Return the names of attributes that an object fills anew before it reads them."""
    return {"_is_success_buffer"} if isinstance(owner, EvalCallback) else set()


def get_reference_attributes(owner: Any) -> set[str]:
    """Return the names of attributes that only refer to the run around an object."""
    names = {name for owner_type, names in _REFERENCES.items() if isinstance(owner, owner_type) for name in names}
    has_gymnasium_spec = isinstance(owner, VectorEnv) and isinstance(vars(owner).get("spec"), EnvSpec)
    return names | {"spec"} if has_gymnasium_spec else names


def _get_own_slots(owner_type: type[Any]) -> list[str]:
    """Return the names of a class's own slots, which ``vars`` of an instance lacks."""
    slots = vars(owner_type).get("__slots__", ())
    return [name for name in ([slots] if isinstance(slots, str) else slots) if not name.startswith("__")]
