"""What an object holds, as plain data that can be written down without pickle, and put back into another like it.

Plain data here is None, bool, int, float, str, NumPy arrays, lists and mappings of these with text for keys; whatever
else is known is a mapping with a ``$`` that says what it is. Nothing is ever constructed from a name in the data:
an object's parts are put back into the object that is already there.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

_DEPTH = 8
_ELSEWHERE = (  # looked after by others, or the same whenever a run's config is built
    *(type, FunctionType, MethodType, BuiltinFunctionType, ModuleType, Enum, Path),
    *(BaseAlgorithm, Logger, gym.Env, gym.Space, VecEnv, torch.nn.Module, torch.optim.Optimizer, torch.device),
)
_REFERENCES = {
    BaseCallback: {"model", "parent", "locals", "globals", "context"},
    gym.Wrapper: {"env", "_cached_spec", "_metadata", "_saved_kwargs"},
    VecEnv: {"venv", "class_attributes", "metadata", "render_mode", "reset_infos", "_seeds", "_options"},
}


class NotPlainError(ValueError):
    """A value that cannot be written down."""

    def __init__(self) -> None:
        super().__init__("something in it is no plain data")


class Captured(NamedTuple):
    """What an object holds.

    :param state: plain data
    :param missed: names of attributes that are none, and that nobody else looks after
    """

    state: dict[str, Any]
    missed: list[str]


def capture(owner: Any, depth: int = 0) -> Captured:
    """Return what an object holds: what its ``state_dict`` says, or else its attributes."""
    if callable(getattr(type(owner), "state_dict", None)):
        return Captured({"$": "own", "state": encode(owner.state_dict(), depth)}, [])
    skipped = {name for kind, names in _REFERENCES.items() if isinstance(owner, kind) for name in names}
    held, missed = attributes(owner, skipped, depth)
    return Captured({"$": "attributes", "state": held}, missed)


def attributes(owner: Any, skipped: Collection[str], depth: int = 0) -> Captured:
    """Return the attributes of an object but those ``skipped`` and what others look after."""
    held, missed = {}, []
    for name, value in vars(owner).items():
        if name in skipped or isinstance(value, _ELSEWHERE):
            continue
        try:
            held[name] = encode(value, depth)
        except NotPlainError:
            missed.append(name)
    return Captured(held, missed)


def restore(owner: Any, kept: dict[str, Any]) -> None:
    """Put back what :func:`capture` returned of an object like this one.

    :raises ValueError: if it does not fit
    """
    if kept["$"] == "own":
        owner.load_state_dict(decode(kept["state"]))
    else:
        restore_attributes(owner, kept["state"])


def restore_attributes(owner: Any, kept: dict[str, Any]) -> None:
    """Put back attributes; those that are the same are not touched, as others may hold the same object.

    :raises ValueError: if they do not fit
    """
    for name, wanted in kept.items():
        present = vars(owner).get(name)
        try:
            if same(encode(present), wanted):
                continue
        except NotPlainError:
            pass
        value = decode(wanted, present)
        if value is not present:
            setattr(owner, name, value)


def encode(value: Any, depth: int = 0) -> Any:
    """Turn a value into plain data; arrays are not copied.

    :raises NotPlainError: if it is none that can be put back
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth > _DEPTH:
        raise NotPlainError
    for kind, turned in _TURNED.items():
        if isinstance(value, kind):
            return turned(value, depth + 1)
    return _object(value, depth + 1)


def decode(kept: Any, present: Any = None) -> Any:
    """Turn plain data back into a value; what is an object is put into the one that is ``present``.

    :raises ValueError: if the two do not fit
    """
    if isinstance(kept, list):
        there = present if isinstance(present, list) and len(present) == len(kept) else [None] * len(kept)
        return [decode(*pair) for pair in zip(kept, there, strict=True)]
    if not isinstance(kept, dict):
        return kept.copy() if isinstance(kept, np.ndarray) else kept
    if "$" not in kept:
        known = present if isinstance(present, dict) else {}
        return {key: decode(one, known.get(key)) for key, one in kept.items()}
    if kept["$"] not in _MADE:
        raise ValueError(f"there is no kind of data '{kept['$']}'")
    return _MADE[kept["$"]](kept, present)


def same(one: Any, other: Any) -> bool:
    """Say whether plain data is equal, NaN to NaN included."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """Return the state of a NumPy generator."""
    held: Any = generator.bit_generator.state
    return {"state": encode(held)}


def _array(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:  # what the files have a name for
        raise NotPlainError
    return array


def _tensor(tensor: torch.Tensor) -> dict[str, Any]:
    if tensor.dtype is torch.bfloat16 or tensor.is_sparse or tensor.is_quantized:
        raise NotPlainError
    return {"$": "tensor", "value": tensor.detach().cpu().numpy()}


def _mapping(mapping: dict[Any, Any], depth: int) -> dict[str, Any]:
    if type(mapping) not in (dict, OrderedDict):  # another would come back as a plain one
        raise NotPlainError
    if all(type(key) is str for key in mapping) and "$" not in mapping:
        return {key: encode(one, depth) for key, one in mapping.items()}
    return {"$": "mapping", "pairs": [[encode(key, depth), encode(one, depth)] for key, one in mapping.items()]}


def _items(name: str, values: Iterable[Any], depth: int) -> dict[str, Any]:
    return {"$": name, "items": [encode(one, depth) for one in values]}


def _object(value: Any, depth: int) -> dict[str, Any]:
    if not hasattr(value, "__dict__") or isinstance(value, (*_ELSEWHERE, BaseException)):
        raise NotPlainError
    captured = capture(value, depth)
    if captured.missed:
        raise NotPlainError
    return {"$": "object", "state": captured.state}


_TURNED: dict[type[Any], Callable[[Any, int], Any]] = {
    np.ndarray: lambda value, _: _array(value),
    np.generic: lambda value, _: {"$": "scalar", "value": _array(np.array(value))},
    torch.Tensor: lambda value, _: _tensor(value),
    random.Random: lambda value, depth: {"$": "random", "state": encode(value.getstate(), depth)},
    np.random.Generator: lambda value, _: {"$": "generator", **generator_state(value)},
    list: lambda value, depth: [encode(one, depth) for one in value],
    dict: _mapping,
    deque: lambda value, depth: {**_items("deque", value, depth), "maxlen": value.maxlen},
    tuple: lambda value, depth: _items("tuple", value, depth),
    set: lambda value, depth: _items("set", sorted(value, key=repr), depth),
}


def _made_tuple(kept: dict[str, Any], present: Any) -> Any:
    there: Any = present if isinstance(present, tuple) and len(present) == len(kept["items"]) else ()
    items = decode(kept["items"], list(there))
    return type(there)(*items) if hasattr(there, "_fields") else tuple(items)


def _made_tensor(kept: dict[str, Any], present: Any) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(kept["value"]))
    return tensor.to(present.device) if isinstance(present, torch.Tensor) else tensor


def _made_generator(kept: dict[str, Any], present: Any) -> np.random.Generator:
    generator = present if isinstance(present, np.random.Generator) else np.random.Generator(np.random.PCG64())
    generator.bit_generator.state = decode(kept["state"])
    return generator


def _made_random(kept: dict[str, Any], present: Any) -> random.Random:
    generator = present if isinstance(present, random.Random) else random.Random()  # noqa: S311 - no secret
    generator.setstate(decode(kept["state"]))
    return generator


def _made_object(kept: dict[str, Any], present: Any) -> Any:
    if present is None:
        raise ValueError("an object that training made is missing")
    restore(present, kept["state"])
    return present


_MADE: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "mapping": lambda kept, _: {decode(key): decode(one) for key, one in kept["pairs"]},
    "scalar": lambda kept, _: kept["value"][()],
    "tensor": _made_tensor,
    "random": _made_random,
    "generator": _made_generator,
    "deque": lambda kept, _: deque(decode(kept["items"]), kept["maxlen"]),
    "tuple": _made_tuple,
    "set": lambda kept, _: set(decode(kept["items"])),
    "object": _made_object,
}
