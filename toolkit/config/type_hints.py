"""Ask type annotations which values they allow."""

from __future__ import annotations

import enum
import inspect
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

_SETTINGS = ConfigDict(arbitrary_types_allowed=True)


def make_type_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """Return a pydantic adapter that checks and converts values; ``None`` if pydantic cannot use the annotation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about annotations that are not types
            return TypeAdapter(annotation, config=_SETTINGS)
    except Exception:  # pydantic has several, and a third-party class may raise any
        return None


def format_type(annotation: Any) -> str:
    """Format a type for people: ``int``, ``float or Callable[[float], float]``, ``ActionNoise or null``."""
    if is_union(annotation):
        return " or ".join(dict.fromkeys(format_type(part) for part in typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(annotation)))
    if annotation is inspect.Parameter.empty or annotation is type(None):
        return "null" if annotation is type(None) else "any"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return "a mapping" if issubclass(annotation, BaseModel) else annotation.__name__
    try:
        return str(annotation).replace("typing.", "").replace("collections.abc.", "")
    except Exception:  # an annotation may be any object
        return "any"


def list_texts_of_members(annotation: Any) -> list[str]:
    """Return the texts that SB3 converts to members where a parameter is ``SomeEnum | str`` with an enum of SB3.

    They are names in lower case, and values. Other annotations have none: beside another enum, any text may be valid.
    """
    parts = typing.get_args(annotation) if is_union(annotation) else ()
    classes = [part for part in parts if isinstance(part, type) and issubclass(part, enum.Enum)]
    enums = [cls for cls in classes if cls.__module__.partition(".")[0] in ("stable_baselines3", "sb3_contrib")]
    if str not in parts:
        return []
    texts = [(name.lower(), member.value) for cls in enums for name, member in cls.__members__.items()]
    return [*dict.fromkeys(text for pair in texts for text in pair if isinstance(text, str))]


def is_union(annotation: Any) -> bool:
    """Return whether the annotation is ``A | B`` or ``Optional[A]``."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def allows(annotation: Any, test: Callable[[Any], bool]) -> bool:
    """Return whether an annotation, or any part of a union, passes a test."""
    if is_union(annotation):
        return any(allows(part, test) for part in typing.get_args(annotation))
    return test(annotation)


def is_mapping_type(annotation: Any) -> bool:
    """Return whether a mapping can be a value of the type."""
    origin = typing.get_origin(annotation) or annotation
    return annotation is Any or (isinstance(origin, type) and issubclass(origin, Mapping))


def is_class_type(annotation: Any) -> bool:
    """Return whether the annotation is ``type`` or ``type[X]``."""
    return (typing.get_origin(annotation) or annotation) is type


def is_callable_type(annotation: Any) -> bool:
    """Return whether the annotation is ``Callable``, with or without parameters."""
    return annotation is Callable or typing.get_origin(annotation) is Callable


def is_callback_type(annotation: Any) -> bool:
    """Return whether the annotation is SB3's ``BaseCallback`` or a subclass of it."""
    return ("stable_baselines3.common.callbacks", "BaseCallback") in _list_bases(annotation)


def is_callback_list_type(annotation: Any) -> bool:
    """Return whether the annotation is a list of callbacks."""
    return typing.get_origin(annotation) is list and is_callback_type(typing.get_args(annotation)[0])


def is_env_type(annotation: Any) -> bool:
    """Return whether the annotation is Gymnasium's ``Env``, SB3's ``VecEnv``, or a subclass of one."""
    env_types = {("gymnasium.core", "Env"), ("stable_baselines3.common.vec_env.base_vec_env", "VecEnv")}
    return bool(_list_bases(annotation) & env_types)


def is_numpy_type(annotation: Any) -> bool:
    """Return whether the annotation is an array, or a NumPy number as in Gymnasium's wrappers (``np.floating``)."""
    return bool(_list_bases(annotation) & {("numpy", "ndarray"), ("numpy", "number")})


def _list_bases(annotation: Any) -> set[tuple[str, str]]:
    """Return the module and name of a class and of its parents, which need no import so."""
    origin = typing.get_origin(annotation) or annotation
    return {(base.__module__, base.__name__) for base in getattr(origin, "__mro__", ())}
