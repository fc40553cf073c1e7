"""Values as plain data that can be written without pickle, and back.

Plain data is None, bool, int, float, str, NumPy arrays, and lists and mappings (with text keys) of these. Every other
value becomes a mapping whose ``$`` names its kind.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.utils.data import are_equal

PLAIN_TYPES = (type(None), bool, int, float, str)
CONTAINER_TYPES = (list, tuple, set, frozenset, deque, dict, OrderedDict, Counter)
MAX_DEPTH = 8  # of containers and objects in one another
_MAX_INT_BITS = 10_000  # Python does not parse an int of more than 4300 digits
_MIN_ARRAY_LENGTH = 64  # a list of so many numbers becomes an array


class NotPlainError(ValueError):
    """A value that cannot be written as plain data."""

    def __init__(self) -> None:
        super().__init__("a value in it cannot be written as plain data")


def is_value(value: Any) -> bool:
    """Return whether plain data can recreate a value: an array, or a tensor or generator that nothing depends on."""
    if isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf:  # an optimizer may refer to it
        return False
    if isinstance(value, np.random.Generator) and type(value.bit_generator) is not np.random.PCG64:
        return False
    return type(value) in _ENCODERS or isinstance(value, np.generic)


def check_int(value: Any) -> Any:
    """Return a value of :data:`PLAIN_TYPES` unchanged.

    :raises NotPlainError: if it is an int with too many digits
    """
    if type(value) is int and value.bit_length() > _MAX_INT_BITS:
        raise NotPlainError
    return value


def encode(value: Any) -> Any:
    """Encode a NumPy number, an array, a tensor or a generator; arrays are not copied.

    :raises NotPlainError: if it cannot be written
    """
    if isinstance(value, np.generic):
        return {"$": "scalar", "value": _encode_array(np.array(value))}
    for value_type, encode_type in _ENCODERS.items():
        if isinstance(value, value_type):
            return encode_type(value)
    raise NotPlainError


def encode_value(value: Any, depth: int = 0) -> Any:
    """Encode a value, containers included, that plain data can recreate completely.

    :raises NotPlainError: if it cannot
    """
    if type(value) in PLAIN_TYPES:
        return check_int(value)
    if depth > MAX_DEPTH:
        raise NotPlainError
    if type(value) in CONTAINER_TYPES:
        return encode_container(value, lambda item, _: encode_value(item, depth + 1))
    if not is_value(value):
        raise NotPlainError
    return encode(value)


def encode_container(container: Any, encode_item: Callable[[Any, Any], Any]) -> Any:
    """Encode a list, tuple, deque, set or mapping, or a subclass of one.

    :param encode_item: takes an item and its index or key
    """
    if isinstance(container, dict):
        return _encode_mapping(container, encode_item)
    if isinstance(container, set | frozenset):
        kind = "set" if isinstance(container, set) else "frozenset"
        return {"$": kind, "items": [encode_value(item) for item in sorted(container, key=repr)]}
    items = encode_list(
        [
            check_int(item) if type(item) in PLAIN_TYPES else encode_item(item, index)
            for index, item in enumerate(container)
        ]
    )
    if isinstance(container, list):
        return items
    if isinstance(container, deque):
        return {"$": "deque", "items": items, "maxlen": container.maxlen}
    return {"$": "tuple", "items": items}


def encode_list(items: list[Any]) -> Any:
    """Encode a list of plain data; many numbers become an array, which takes less memory to read."""
    types = {*map(type, items)} if len(items) >= _MIN_ARRAY_LENGTH else None
    if types == {float} or (types == {int} and -(2**63) <= min(items) <= max(items) < 2**63):
        return {"$": "numbers", "value": np.array(items, np.float64 if types == {float} else np.int64)}
    return items


def decode(data: dict[str, Any], current: Any = None) -> Any:
    """Recreate what :func:`encode` or :func:`encode_list` encoded; a generator in ``current`` is reused.

    :raises ValueError: if the data is of another kind
    """
    if data["$"] not in _DECODERS:
        raise ValueError(f"unknown kind of data '{data['$']}'")
    return _DECODERS[data["$"]](data, current)


def is_container(data: Any) -> bool:
    """Return whether data is what :func:`encode_container` returns; a list of numbers is not."""
    return isinstance(data, list) or (isinstance(data, dict) and data.get("$", "mapping") in ("mapping", *_CONTAINERS))


def decode_container(data: Any, current: Any, decode_item: Callable[[Any, Any], Any]) -> Any:
    """Recreate what :func:`encode_container` encoded.

    :param current: the container at the same path now, whose items go to ``decode_item``; None if there is none
    :param decode_item: takes an item's data, and the item at the same index or key now (None if there is none)
    """
    if isinstance(data, list):
        return _decode_items(data, current, decode_item)
    current_items = current if isinstance(current, dict) else {}
    if "$" not in data:
        return {key: decode_item(item, current_items.get(key)) for key, item in data.items()}
    if data["$"] == "mapping":
        pairs = [(decode_item(key, None), item) for key, item in data["pairs"]]
        return _CONTAINERS[data["of"]]({key: decode_item(item, current_items.get(key)) for key, item in pairs})
    items = _decode_items(
        data["items"], [*current] if isinstance(current, list | tuple | deque) else None, decode_item
    )
    return deque(items, data["maxlen"]) if data["$"] == "deque" else _CONTAINERS[data["$"]](items)


def check_bit_generator_state(state: Any) -> Any:
    """Return the state of a NumPy bit generator if its position is in its own buffer.

    NumPy does not check that, and reads memory outside.

    :raises ValueError: if the position is outside
    """
    for fields, name, size in ((state["state"], "pos", 624), (state, "buffer_pos", 4)):  # MT19937, Philox
        if name in fields and not (type(fields[name]) is int and 0 <= fields[name] <= size):
            raise ValueError(f"the '{name}' of a generator is not between 0 and {size}")
    return state


def copy_data(data: Any) -> Any:
    """Return plain data in new arrays, lists and mappings, in less time than ``deepcopy`` takes."""
    if isinstance(data, dict):
        return {key: copy_data(item) for key, item in data.items()}
    if isinstance(data, list):
        return [copy_data(item) for item in data]
    return data.copy() if isinstance(data, np.ndarray) else data


def is_equal(left: Any, right: Any) -> bool:
    """Return whether plain data and its types are equal; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return _is_same_array(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_equal(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_equal, left, right))
    return are_equal(left, right)


def _is_same_array(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def _encode_mapping(mapping: dict[Any, Any], encode_item: Callable[[Any, Any], Any]) -> dict[str, Any]:
    pairs = [(key, encode_item(item, key)) for key, item in mapping.items()]
    if type(mapping) is dict and all(type(key) is str for key in mapping) and "$" not in mapping:
        return dict(pairs)
    kind = type(mapping).__name__ if type(mapping) in (OrderedDict, Counter) else "dict"
    return {"$": "mapping", "of": kind, "pairs": [[encode_value(key), item] for key, item in pairs]}


def _decode_items(data: Any, current: Any, decode_item: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(data, list):
        return decode(data)
    current_items = current if isinstance(current, list) and len(current) == len(data) else [None] * len(data)
    return [decode_item(*pair) for pair in zip(data, current_items, strict=True)]


def _encode_array(array: NDArray[Any]) -> NDArray[Any]:
    # safetensors has a name for these types alone
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        raise NotPlainError
    return array


def _encode_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise NotPlainError
    try:
        array = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError):  # NumPy lacks the type, or the tensor has no data
        raise NotPlainError from None
    return {"$": "tensor", "value": _encode_array(array)}


def _encode_random(generator: random.Random) -> dict[str, Any]:
    version, internal, gauss = generator.getstate()
    return {"$": "random", "version": version, "internal": np.array(internal), "gauss": gauss}


def _encode_generator(generator: np.random.Generator) -> dict[str, Any]:
    state: Any = generator.bit_generator.state
    return {"$": "generator", "state": state}


def _encode_random_state(generator: np.random.RandomState) -> dict[str, Any]:
    state: Any = generator.get_state(legacy=False)
    return {"$": "random_state", "state": state}


def _decode_tensor(data: dict[str, Any], current: Any) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(data["value"]))
    return tensor.to(current.device) if isinstance(current, torch.Tensor) else tensor


def _decode_generator(data: dict[str, Any], current: Any) -> np.random.Generator:
    generator = current if isinstance(current, np.random.Generator) else np.random.Generator(np.random.PCG64())
    generator.bit_generator.state = check_bit_generator_state(data["state"])
    return generator


def _decode_random_state(data: dict[str, Any], current: Any) -> np.random.RandomState:
    generator = current if isinstance(current, np.random.RandomState) else np.random.RandomState()
    generator.set_state(check_bit_generator_state(data["state"]))
    return generator


def _decode_random(data: dict[str, Any], current: Any) -> random.Random:
    generator = current if isinstance(current, random.Random) else random.Random()  # noqa: S311 - no secret
    generator.setstate((data["version"], tuple(data["internal"].tolist()), data["gauss"]))
    return generator


_CONTAINERS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in CONTAINER_TYPES if kind is not list}
_ENCODERS: dict[type[Any], Callable[[Any], Any]] = {
    np.ndarray: _encode_array,
    torch.Tensor: _encode_tensor,
    random.Random: _encode_random,
    np.random.Generator: _encode_generator,
    np.random.RandomState: _encode_random_state,
}
_DECODERS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "scalar": lambda data, _: data["value"][()],
    "tensor": _decode_tensor,
    "random": _decode_random,
    "generator": _decode_generator,
    "random_state": _decode_random_state,
    "numbers": lambda data, _: data["value"].tolist(),
}
