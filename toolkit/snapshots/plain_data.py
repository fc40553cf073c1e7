"""Values as plain data that can be written down without pickle, and made anew from it.

Plain data here is None, bool, int, float, str, NumPy arrays, lists and mappings of these with text for keys; whatever
else is known is a mapping with a ``$`` that says what it is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

PLAIN = (type(None), bool, int, float, str)
_MOST_BITS = 10_000  # of an int: Python reads none back whose text has more than 4300 digits
_MANY = 64  # numbers in a list, from which on they are written as an array


class NotPlainError(ValueError):
    """A value that cannot be written down."""

    def __init__(self) -> None:
        super().__init__("something in it is no plain data")


def is_value(value: Any) -> bool:
    """Say whether a value can be made anew: an array, or a tensor or a generator that nothing else depends on."""
    if isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf:  # an optimizer may hold it
        return False
    if isinstance(value, np.random.Generator) and type(value.bit_generator) is not np.random.PCG64:
        return False
    return type(value) in _TURNED or isinstance(value, np.generic)


def checked(value: Any) -> Any:
    """Return a value of :data:`PLAIN` as it is.

    :raises NotPlainError: if it is too long a number to be written down
    """
    if type(value) is int and value.bit_length() > _MOST_BITS:
        raise NotPlainError
    return value


def turned(value: Any) -> Any:
    """Turn a number, array, tensor or generator into plain data; arrays are not copied.

    :raises NotPlainError: if it cannot be written down
    """
    if isinstance(value, np.generic):
        return {"$": "scalar", "value": _array(np.array(value))}
    for kind, turn in _TURNED.items():
        if isinstance(value, kind):
            return turn(value)
    raise NotPlainError


def listed(items: list[Any]) -> Any:
    """Turn a list of plain data into what is written: many numbers are an array, which takes less memory to read."""
    kinds = {*map(type, items)} if len(items) >= _MANY else None
    if kinds == {float} or (kinds == {int} and -(2**63) <= min(items) <= max(items) < 2**63):
        return {"$": "numbers", "value": np.array(items, np.float64 if kinds == {float} else np.int64)}
    return items


def made(kept: dict[str, Any], present: Any) -> Any:
    """Turn what :func:`turned` or :func:`listed` returned back into a value; a generator that is there is used.

    :raises ValueError: if it is of neither
    """
    if kept["$"] not in _MADE:
        raise ValueError(f"there is no kind of data '{kept['$']}'")
    return _MADE[kept["$"]](kept, present)


def checked_position(state: Any) -> Any:
    """Return the state of one of NumPy's bit generators if it points to one of its own numbers, or behind the last.

    NumPy does not check that, and reads memory that is not its own.

    :raises ValueError: if it does not
    """
    for held, name, numbers in ((state["state"], "pos", 624), (state, "buffer_pos", 4)):  # MT19937, Philox
        if name in held and not (type(held[name]) is int and 0 <= held[name] <= numbers):
            raise ValueError(f"the '{name}' of a generator is not between 0 and {numbers}")
    return state


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


def _array(array: NDArray[Any]) -> NDArray[Any]:
    # what the files have a name for
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        raise NotPlainError
    return array


def _tensor(tensor: torch.Tensor) -> dict[str, Any]:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise NotPlainError
    try:
        array = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError):  # of a type that NumPy has not, or without data
        raise NotPlainError from None
    return {"$": "tensor", "value": _array(array)}


def _random(generator: random.Random) -> dict[str, Any]:
    version, internal, gauss = generator.getstate()
    return {"$": "random", "version": version, "internal": np.array(internal), "gauss": gauss}


def _generator(generator: np.random.Generator) -> dict[str, Any]:
    held: Any = generator.bit_generator.state
    return {"$": "generator", "state": held}


def _made_tensor(kept: dict[str, Any], present: Any) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(kept["value"]))
    return tensor.to(present.device) if isinstance(present, torch.Tensor) else tensor


def _made_generator(kept: dict[str, Any], present: Any) -> np.random.Generator:
    generator = present if isinstance(present, np.random.Generator) else np.random.Generator(np.random.PCG64())
    generator.bit_generator.state = checked_position(kept["state"])
    return generator


def _made_random(kept: dict[str, Any], present: Any) -> random.Random:
    generator = present if isinstance(present, random.Random) else random.Random()  # noqa: S311 - no secret
    generator.setstate((kept["version"], tuple(kept["internal"].tolist()), kept["gauss"]))
    return generator


def _made_numbers(kept: dict[str, Any], _: Any) -> Sequence[Any]:
    numbers: list[Any] = kept["value"].tolist()
    return numbers


_TURNED: dict[type[Any], Callable[[Any], Any]] = {
    np.ndarray: _array,
    torch.Tensor: _tensor,
    random.Random: _random,
    np.random.Generator: _generator,
}
_MADE: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "scalar": lambda kept, _: kept["value"][()],
    "tensor": _made_tensor,
    "random": _made_random,
    "generator": _made_generator,
    "numbers": _made_numbers,
}
