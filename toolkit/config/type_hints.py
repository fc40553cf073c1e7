"""What type annotations say of the values they admit."""

from __future__ import annotations

import inspect
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter

_SETTINGS = ConfigDict(arbitrary_types_allowed=True)


def adapter_of(annotation: Any) -> TypeAdapter[Any] | None:
    """Return what checks and converts values of a type; ``None`` for an annotation that says too little."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an annotation that is no type is its author's business
            return TypeAdapter(annotation, config=_SETTINGS)
    except Exception:  # pydantic's own of several kinds, and whatever somebody's class raises
        return None


def type_name(annotation: Any) -> str:
    """Write a type as a person would: ``int``, ``float or Callable[[float], float]``, ``type[nn.Module] or None``."""
    if is_union(annotation):
        return " or ".join(dict.fromkeys(type_name(part) for part in typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(annotation)))
    if annotation is inspect.Parameter.empty or annotation is type(None):
        return "null" if annotation is type(None) else "any"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    try:
        return str(annotation).replace("typing.", "").replace("collections.abc.", "")
    except Exception:  # an annotation may be any object
        return "any"


def is_union(annotation: Any) -> bool:
    """Say whether it is ``A | B`` or ``Optional[A]``."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def admits(annotation: Any, test: Callable[[Any], bool]) -> bool:
    """Say whether an annotation, or one part of a union, passes a test."""
    if is_union(annotation):
        return any(admits(part, test) for part in typing.get_args(annotation))
    return test(annotation)


def is_mapping_type(annotation: Any) -> bool:
    """Say whether values of the type may be mappings as they are."""
    origin = typing.get_origin(annotation) or annotation
    return annotation is Any or (isinstance(origin, type) and issubclass(origin, Mapping))


def is_class_type(annotation: Any) -> bool:
    """Say whether it is ``type`` or ``type[X]``."""
    return (typing.get_origin(annotation) or annotation) is type


def is_callable_type(annotation: Any) -> bool:
    """Say whether it is ``Callable``, with its parameters or without."""
    return annotation is Callable or typing.get_origin(annotation) is Callable


def is_numpy_type(annotation: Any) -> bool:
    """Say whether it is an array, or ``np.floating`` and the like, as stock Gymnasium wrappers annotate numbers."""
    origin = typing.get_origin(annotation) or annotation
    parents = {(base.__module__, base.__name__) for base in getattr(origin, "__mro__", ())}
    return bool(parents & {("numpy", "ndarray"), ("numpy", "number")})
