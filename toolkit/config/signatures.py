"""Whether parameters from a YAML file fit a component's constructor, and their values as it takes them."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from toolkit.config.registry import KINDS, entries, find, load_object, makes_callables
from toolkit.config.type_hints import (
    adapter_of,
    admits,
    is_callable_type,
    is_class_type,
    is_mapping_type,
    is_numpy_type,
    is_union,
    type_name,
)
from toolkit.utils.errors import ComponentError, KeyPath, Problem, describe_error, did_you_mean


@dataclass
class Parameters:
    """The keyword parameters that a component's constructor takes.

    :param named: parameter name to its :class:`inspect.Parameter`, annotations resolved where they can be
    :param open: whether other names are taken too (``**kwargs`` that end in no known signature)
    """

    named: dict[str, inspect.Parameter] = field(default_factory=dict)
    open: bool = False


def signature_of(component: Callable[..., Any]) -> Parameters:
    """Return the parameters of a component; a class that hands ``**kwargs`` to its parent has the parent's too."""
    if not isinstance(component, type):
        return _own_parameters(component)
    merged = Parameters()
    for cls in component.__mro__:
        if "__init__" not in vars(cls) or cls is object:
            continue
        own = _own_parameters(vars(cls)["__init__"], 1)
        merged.named = {**own.named, **merged.named}
        merged.open = own.open
        if not own.open:
            break
    return merged


def bind_arguments(
    component: Callable[..., Any], params: Mapping[str, Any], path: KeyPath, supplied: Mapping[str, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """Check parameters against a component's signature and convert their values.

    :param supplied: parameters that do not belong in the YAML, with where their value comes from
    :return: the keyword arguments, and every problem found
    """
    signature = signature_of(component)
    problems, arguments = [], {}
    known = [name for name in signature.named if name not in supplied]
    for name, value in params.items():
        place = (*path, name)
        if name in supplied:
            problems.append(Problem(place, f"is not set here: it comes from {supplied[name]}"))
        elif name in signature.named:
            try:
                arguments[name] = convert(value, signature.named[name].annotation, place)
            except _UnfitError as unfit:
                problems.append(unfit.problem)
        elif signature.open:
            arguments[name] = value
        else:
            hint = did_you_mean(name, known, [other for other in known if other in params])
            problems.append(Problem(place, "unknown parameter", hint))
    for name in known:
        if name not in params and signature.named[name].default is inspect.Parameter.empty:
            problems.append(Problem((*path, name), "required parameter is missing"))
    return arguments, problems


class _UnfitError(Exception):
    def __init__(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problem = Problem(path, message, hint)


def convert(value: Any, annotation: Any, path: KeyPath) -> Any:
    """Turn a YAML value into what an annotation asks for.

    A path becomes the class it names, a component the object it describes, a list an array or a tuple.
    """
    if annotation is inspect.Parameter.empty:
        return value
    if isinstance(value, str) and value in entries(KINDS["schedules"]) and admits(annotation, is_callable_type):
        value = {"name": value}
    if _is_component(value) and not admits(annotation, is_mapping_type):
        name, value = value["name"], _make(value, annotation, path)
        _check_call(name, value, annotation, path)
    elif isinstance(value, str) and ":" in value and admits(annotation, is_class_type):
        try:
            value = load_object(value)
        except ComponentError as error:
            raise _UnfitError(path, error.message, error.hint) from None
    elif isinstance(value, list | int | float) and admits(annotation, is_numpy_type):
        return _for_numpy(value, annotation, path)
    return _validated(value, annotation, path)


def _validated(value: Any, annotation: Any, path: KeyPath) -> Any:
    adapter = adapter_of(annotation)
    if adapter is None:
        return value
    try:
        converted = adapter.validate_python(value)
    except ValidationError:
        raise _UnfitError(path, f"should be {type_name(annotation)}, not {value!r}") from None
    except Exception:  # out of the code of somebody's type
        return value
    if not _same_kind(value, converted):  # pydantic also reads "1" and true as numbers
        raise _UnfitError(path, f"should be {type_name(annotation)}, not {value!r}")
    return converted


def _own_parameters(function: Callable[..., Any], supplied: int = 0) -> Parameters:
    """Return a function's parameters without the first ones, which are supplied: a method's object, however named."""
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(one, getattr(function, "__globals__", None))
        except Exception:  # noqa: S112 - annotations are only a help; one that cannot be evaluated is not the user's fault
            continue
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return Parameters(open=True)
    parameters = Parameters()
    for name, parameter in [*signature.parameters.items()][supplied:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            parameters.open = True
        elif parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            annotation = hints.get(name, parameter.annotation)
            if isinstance(annotation, str):
                annotation = inspect.Parameter.empty
            parameters.named[name] = parameter.replace(annotation=annotation)
    return parameters


def _is_component(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value and value.keys() <= {"name", "params"}


def _make(value: Mapping[str, Any], annotation: Any, path: KeyPath) -> Any:
    """Build the object that a component in a parameter's place describes, if its class fits there."""
    name, params = value["name"], value.get("params", {})
    if not isinstance(name, str) or not isinstance(params, dict):
        raise _UnfitError(path, "should be a component: a name, and params as a mapping")
    try:
        cls = load_object(name) if ":" in name else find(KINDS["schedules"], name)
    except ComponentError as error:
        raise _UnfitError((*path, "name"), error.message, error.hint) from None
    if not isinstance(cls, type):
        raise _UnfitError((*path, "name"), f"'{name}' is not a class")
    if not admits(annotation, lambda part: _may_stand_for(cls, part)):  # before it is built: building runs it
        raise _UnfitError(path, f"should be {type_name(annotation)}, not {value!r}")
    arguments, problems = bind_arguments(cls, params, (*path, "params"), {})
    if problems:
        first = problems[0]
        raise _UnfitError(first.path, first.message, first.hint)
    try:
        return cls(**arguments)
    except Exception as error:
        raise _UnfitError(path, f"{name} cannot be built: {describe_error(error)}") from error


def _may_stand_for(cls: type[Any], annotation: Any) -> bool:
    """Say whether a component may be of a class: one whose objects are called, or a subclass of a library's own class.

    Numbers, text, files and containers are written as YAML has them, and Python's own classes are no components:
    building some of them starts a process or empties a file.
    """
    wanted = typing.get_origin(annotation) or annotation
    if cls.__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    if is_callable_type(annotation):
        return makes_callables(cls)
    if not isinstance(wanted, type) or wanted.__module__.partition(".")[0] in {"numpy", *sys.stdlib_module_names}:
        return False
    return issubclass(cls, wanted)


def _check_call(name: str, made: Any, annotation: Any, path: KeyPath) -> None:
    """Refuse an object that cannot be called with what its place calls it with, as schedules of two kinds are."""
    parts = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    wanted = [typing.get_args(part)[0] for part in parts if is_callable_type(part) and typing.get_args(part)]
    if not wanted or not isinstance(wanted[0], list) or not callable(made):
        return
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*wanted[0])
    except TypeError:
        given = ", ".join(type_name(one) for one in wanted[0])
        taken = ", ".join(signature.parameters)
        raise _UnfitError(path, f"'{name}' does not fit: it is called with ({taken}), here with ({given})") from None


def _same_kind(given: Any, converted: Any) -> bool:
    if isinstance(given, dict) and isinstance(converted, dict):
        return all(_same_kind(given[key], converted.get(key)) for key in given)
    if isinstance(given, list | tuple) and isinstance(converted, Collection) and not isinstance(converted, str):
        return all(_same_kind(one, other) for one, other in zip(given, converted, strict=False))
    if isinstance(given, bool | str) or isinstance(converted, bool | str):
        return type(given) is type(converted) or not isinstance(converted, bool | int | float | str)
    return True


def _for_numpy(value: Any, annotation: Any, path: KeyPath) -> Any:
    """Make a list an array; a number is good for either."""
    import numpy as np

    try:
        return np.asarray(value) if isinstance(value, list) else value
    except ValueError:  # rows of different lengths
        raise _UnfitError(path, f"should be {type_name(annotation)}, not {value!r}") from None
