"""Check the parameters in a config against a component's constructor, and convert their values for it."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from toolkit.config.env_overrides import EnvOverrides, is_env_overrides_type, read_env_overrides
from toolkit.config.registry import KINDS, find, has_callable_instances, list_entry_points, load_function, load_object
from toolkit.config.type_hints import (
    allows,
    format_type,
    is_callable_type,
    is_callback_list_type,
    is_callback_type,
    is_class_type,
    is_env_type,
    is_mapping_type,
    is_numpy_type,
    is_union,
    list_texts_of_members,
    make_type_adapter,
)
from toolkit.config.values import (
    CodeValue,
    call_function,
    can_be_used_once,
    describe_value,
    is_code_path,
    is_per_env,
    names_code,
    read_code_value,
)
from toolkit.config.yaml_document import walk
from toolkit.utils.errors import ComponentError, KeyPath, Problem, describe_error, did_you_mean


@dataclass
class Signature:
    """The keyword parameters that a component's constructor takes.

    :param parameters: by name, with annotations that are evaluated where possible
    :param accepts_others: whether it takes other names too (``**kwargs`` that reach no known signature)
    :param toolkit_defaults: what the toolkit passes in place of a default of the constructor, by parameter
    """

    parameters: dict[str, inspect.Parameter] = field(default_factory=dict)
    accepts_others: bool = False
    toolkit_defaults: dict[str, Any] = field(default_factory=dict)


# SB3's default of 1 prints between the lines of progress, and also with --quiet
_TOOLKIT_DEFAULTS: dict[str, dict[str, Any]] = {"stable_baselines3.common.callbacks:EvalCallback": {"verbose": 0}}


@dataclass(frozen=True)
class NestedComponent:
    """A callback or an environment in a parameter of a component, built whenever that component is built.

    :param path: where the config names it
    """

    name: str
    path: KeyPath
    cls: type[Any]
    arguments: dict[str, Any]


def read_signature(component: Callable[..., Any]) -> Signature:
    """Return the signature of a component, with the defaults of the toolkit.

    A class that passes ``**kwargs`` on has its parent's parameters too.
    """
    if not isinstance(component, type):
        return _read_function(component)
    merged = Signature()
    for cls in component.__mro__:
        if "__init__" not in vars(cls) or cls is object:
            continue
        signature = _read_function(vars(cls)["__init__"], is_method=True)
        for name, default in _TOOLKIT_DEFAULTS.get(f"{cls.__module__}:{cls.__qualname__}", {}).items():
            signature.parameters[name] = signature.parameters[name].replace(default=default)
            if name not in merged.parameters:
                merged.toolkit_defaults[name] = default
        merged.parameters = {**signature.parameters, **merged.parameters}
        merged.accepts_others = signature.accepts_others
        if not signature.accepts_others:
            break
    return merged


def bind_arguments(
    component: Callable[..., Any],
    params: Mapping[str, Any],
    path: KeyPath,
    supplied: Mapping[str, str],
    defaults: Collection[str] = (),
) -> tuple[dict[str, Any], list[Problem]]:
    """Check parameters against a component's signature and convert their values.

    :param path: where the config has the parameters
    :param supplied: parameters that the toolkit passes, with where their value comes from
    :param defaults: environments that the toolkit passes where the config does not, see :func:`list_default_envs`
    :return: the keyword arguments, and every problem
    """
    signature = read_signature(component)
    allowed = Signature({name: item for name, item in signature.parameters.items() if name not in supplied})
    allowed.accepts_others = signature.accepts_others
    problems: list[Problem] = []
    arguments: dict[str, Any] = {}
    for name, value in params.items():
        try:
            if name in supplied:
                problems.append(describe_supplied((*path, name), supplied))
                continue
            arguments[name] = convert(value, _find_annotation(name, allowed, params, path), (*path, name))
        except MismatchError as error:
            problems += error.problems
    optional = {*params, *list_default_envs(allowed, defaults)}
    for name, parameter in allowed.parameters.items():
        if name not in optional and parameter.default is inspect.Parameter.empty:
            problems.append(Problem((*path, name), "required parameter is missing"))
    return arguments, problems


def describe_supplied(path: KeyPath, supplied: Mapping[str, str]) -> Problem:
    """Return the problem that a config sets a parameter, the last key of the path, that the toolkit passes."""
    return Problem(path, f"cannot be set here: it comes from {supplied[str(path[-1])]}")


def list_default_envs(signature: Signature, names: Collection[str]) -> list[str]:
    """Return the parameters with one of these names that take an environment, and have no default of their own."""
    parameters = (signature.parameters[name] for name in names if name in signature.parameters)
    empty = inspect.Parameter.empty
    return [
        parameter.name
        for parameter in parameters
        if (parameter.default is None or parameter.default is empty)
        and (parameter.annotation is Any or parameter.annotation is empty or allows(parameter.annotation, is_env_type))
    ]


def _find_annotation(name: str, signature: Signature, params: Mapping[str, Any], path: KeyPath) -> Any:
    if name in signature.parameters:
        return signature.parameters[name].annotation
    if signature.accepts_others:
        return inspect.Parameter.empty
    names = [*signature.parameters]
    hint = did_you_mean(name, names, [other for other in names if other in params])
    raise MismatchError((*path, name), "unknown parameter", hint)


class MismatchError(Exception):
    """A value that does not fit its parameter, with every problem in it."""

    def __init__(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems = [Problem(path, message, hint)]


def _refuse(problems: list[Problem]) -> MismatchError:
    """Return the error that a value has these problems, at least one."""
    error = MismatchError(problems[0].path, problems[0].message)
    error.problems = problems
    return error


def convert(value: Any, annotation: Any, path: KeyPath) -> Any:  # noqa: PLR0911 - one for each kind of value
    """Convert a YAML value to the type of its annotation.

    A Python path becomes the class or function it names, a component the object it describes, a function or call what
    it passes, a list a tuple or an array.
    """
    if code := _read_code_value(value, _expects_mapping(annotation), path):
        return _make_value(code, annotation, path)
    if annotation is inspect.Parameter.empty:
        return _convert_items(value, path)
    if isinstance(value, dict) and is_env_overrides_type(annotation):
        return _make_env_overrides(value, path)
    if isinstance(value, str):
        _check_member(value, annotation, path)
        value = _find_code(value, annotation, path)
    if is_component(value) and not allows(annotation, is_mapping_type):
        name, value = value["name"], _build_component(value, annotation, path)
        _check_call(name, value, annotation, path)
        return _validate(value, annotation, path)
    value = _convert_items(value, path)
    if isinstance(value, list | int | float) and allows(annotation, is_numpy_type):
        return _convert_to_array(value, annotation, path)
    if isinstance(value, list) and allows(annotation, is_callback_list_type):
        return [convert(item, typing.get_args(annotation)[0], (*path, index)) for index, item in enumerate(value)]
    return _validate(value, annotation, path)


def _make_env_overrides(value: Mapping[str, Any], path: KeyPath) -> EnvOverrides:
    overrides, problems = read_env_overrides(value)
    if overrides is None:
        raise _refuse([replace(problem, path=(*path, *problem.path)) for problem in problems])
    return overrides


def _check_member(value: str, annotation: Any, path: KeyPath) -> None:
    """Refuse a text that names no member of an enum of SB3 where the annotation is ``SomeEnum | str``."""
    texts = list_texts_of_members(annotation)
    if texts and value.lower() not in {text.lower() for text in texts}:
        raise MismatchError(path, f"should be {' or '.join(map(repr, texts))}, not {value!r}", "")


def _find_code(value: str, annotation: Any, path: KeyPath) -> Any:
    """Return the class or function that a text names where the annotation expects one, or else the text."""
    if _is_component_name(value, annotation):
        return {"name": value}
    if ":" not in value:
        return value
    try:
        if allows(annotation, is_class_type):
            return load_object(value)
        return _find_callable(value, annotation) if allows(annotation, is_callable_type) else value
    except ComponentError as error:
        raise MismatchError(path, error.message, error.hint) from None


def _find_callable(value: str, annotation: Any) -> Any:
    """Return the function that a text names; of a class with callable objects, the component to build."""
    try:
        function = load_function(value)
    except ComponentError:
        if allows(annotation, lambda part: part is str) and ".py:" not in value:
            return value
        raise
    if not isinstance(function, type):
        return function
    is_factory = allows(annotation, lambda part: _returns(part, function))
    return {"name": value} if has_callable_instances(function) and not is_factory else function


def _returns(annotation: Any, cls: type[Any]) -> bool:
    """Return whether the annotation is a ``Callable`` that returns objects of the class: the class itself fits."""
    result = (typing.get_args(annotation) or (None,))[-1]
    return is_callable_type(annotation) and isinstance(result, type) and issubclass(cls, result)


def _expects_mapping(annotation: Any) -> bool:
    is_known = annotation is not inspect.Parameter.empty and annotation is not Any
    return is_known and allows(annotation, is_mapping_type)


def _read_code_value(value: Any, is_mapping_expected: bool, path: KeyPath) -> CodeValue | None:
    if is_per_env(value):
        raise MismatchError(path, "'per_env' has no meaning here: it is for env.params and the params of wrappers")
    try:
        return read_code_value(value, is_mapping_expected)
    except ComponentError as error:
        raise MismatchError(path, error.message, error.hint) from None


def _convert_items(value: Any, path: KeyPath) -> Any:
    """Replace the functions and calls that a list or mapping describes at any depth by what they pass."""
    if not any(names_code(item) or is_per_env(item) for _, item in walk(value)):
        return value
    if code := _read_code_value(value, True, path):
        return _make_value(code, inspect.Parameter.empty, path)
    if isinstance(value, dict):
        return {key: _convert_items(item, (*path, key)) for key, item in value.items()}
    return [_convert_items(item, (*path, index)) for index, item in enumerate(value)]


def _make_value(code: CodeValue, annotation: Any, path: KeyPath) -> Any:
    """Return the function that a parameter names, or what it returns, if that fits the annotation."""
    try:
        function = load_function(code.reference)
    except ComponentError as error:
        raise MismatchError((*path, code.key), error.message, error.hint) from None
    value, article = function, "is"
    if code.key == "call":
        value, article = _call(code, function, path), "returns"
    if not _find_converted(value, annotation)[0]:
        message = f"'{code.reference}' {article} {describe_value(value)}, but this should be {format_type(annotation)}"
        raise MismatchError(path, message)
    _check_call(code.reference, value, annotation, path)
    return value


def _call(code: CodeValue, function: Callable[..., Any], path: KeyPath) -> Any:
    arguments, problems = bind_arguments(function, code.params, (*path, "params"), {})
    if problems and problems[0].path == (*path, "params", "self"):
        hint = "name a function that makes the object and calls its method"
        raise MismatchError((*path, code.key), f"'{code.reference}' is a method, which needs an object", hint)
    if problems:
        raise _refuse(problems)
    try:
        value = call_function(code.reference, function, arguments)
    except ComponentError as error:
        raise MismatchError(path, error.message, error.hint) from error
    if not can_be_used_once(value):
        return value
    with suppress(AttributeError):
        value.close()
    message = f"'{code.reference}' returns {describe_value(value)}, which can be read only once"
    raise MismatchError(path, message, "return a list or an array, or pass the function itself: {function: PATH}")


def _validate(value: Any, annotation: Any, path: KeyPath) -> Any:
    is_valid, converted = _find_converted(value, annotation)
    if not is_valid:
        raise _make_type_error(value, annotation, path)
    return converted


def _find_converted(value: Any, annotation: Any) -> tuple[bool, Any]:
    """Return whether a value fits an annotation, and the value as its type."""
    is_checked = annotation is not inspect.Parameter.empty and not isinstance(value, NestedComponent)
    adapter = make_type_adapter(annotation) if is_checked else None
    if adapter is None:
        return True, value
    try:
        converted = adapter.validate_python(value)
    except ValidationError:
        return False, value
    except Exception:  # raised by the code of a third-party type
        return True, value
    return _keeps_types(value, converted), converted  # pydantic also reads "1" and true as numbers


def _make_type_error(value: Any, annotation: Any, path: KeyPath) -> MismatchError:
    hint = "{function: PATH} passes a function, {call: PATH} what it returns" if is_code_path(value) else ""
    return MismatchError(path, f"should be {format_type(annotation)}, not {value!r}", hint)


def _read_function(function: Callable[..., Any], is_method: bool = False) -> Signature:
    try:
        parameters = [*inspect.signature(function).parameters.values()][is_method:]
    except (TypeError, ValueError):
        return Signature(accepts_others=True)
    hints = _evaluate_hints(function)
    signature = Signature()
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            signature.accepts_others = True
        elif parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            annotation = hints.get(parameter.name, parameter.annotation)
            if isinstance(annotation, str):
                annotation = inspect.Parameter.empty
            signature.parameters[parameter.name] = parameter.replace(annotation=annotation)
    return signature


def _evaluate_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Evaluate annotations one by one, so that one that cannot be evaluated does not hide the others."""
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, getattr(function, "__globals__", None))
        except Exception:  # noqa: S112 - an annotation that cannot be evaluated is not the user's mistake
            continue
    return hints


def _is_component_name(value: str, annotation: Any) -> bool:
    is_schedule = value in list_entry_points(KINDS["schedules"]) and allows(annotation, is_callable_type)
    return is_schedule or allows(annotation, is_callback_type)


def is_component(value: Any) -> bool:
    """Return whether a value of a parameter describes a component, with or without parameters."""
    return isinstance(value, dict) and "name" in value and value.keys() <= {"name", "params"}


def _build_component(value: Mapping[str, Any], annotation: Any, path: KeyPath) -> Any:
    """Build the object that a parameter describes as a component, if its class fits the annotation.

    Callbacks and environments are built later: they are parts of a training.
    """
    name, params = value["name"], value.get("params", {})
    if not isinstance(name, str) or not isinstance(params, dict):
        raise MismatchError(path, "should be a component: a name, and params as a mapping")
    kind = KINDS["callbacks" if allows(annotation, is_callback_type) else "schedules"]
    try:
        cls = load_object(name) if ":" in name else find(kind, name)
    except ComponentError as error:
        raise MismatchError((*path, "name"), error.message, error.hint) from None
    if not isinstance(cls, type):
        return _use_function(value, cls, annotation, path)
    if not allows(annotation, lambda part: _is_component_class(cls, part)):  # before it is built: building runs it
        raise _make_type_error(value, annotation, path)
    arguments, problems = bind_arguments(cls, params, (*path, "params"), {}, kind.defaults)
    if problems:
        raise _refuse(problems)
    if allows(annotation, lambda part: is_callback_type(part) or is_env_type(part)):
        return NestedComponent(name, path, cls, arguments)
    try:
        return cls(**arguments)
    except Exception as error:
        raise MismatchError(path, f"{name} cannot be built: {describe_error(error)}") from error


def _use_function(value: Mapping[str, Any], function: Any, annotation: Any, path: KeyPath) -> Any:
    """Return the function that stands in a component's place, or what it returns if it has parameters."""
    name = value["name"]
    is_usable = callable(function) and not _is_from_stdlib(function)
    if not is_usable or not allows(annotation, is_callable_type):
        hint = f"{{call: {name}}} passes what it returns" if is_usable else ""
        raise MismatchError((*path, "name"), f"'{name}' is not a class", hint)
    key = "call" if "params" in value else "function"
    return _make_value(CodeValue(key, name, value.get("params", {})), annotation, path)


def _is_component_class(cls: type[Any], annotation: Any) -> bool:
    """Return whether a class may be built for an annotation.

    It has callable objects, or it is a subclass of a library's class. YAML writes numbers, text, files and containers
    itself. Python's own classes are no components: building some of them starts a process or empties a file.
    """
    expected = typing.get_origin(annotation) or annotation
    if _is_from_stdlib(cls):
        return False
    if is_callable_type(annotation):
        return has_callable_instances(cls)
    if not isinstance(expected, type) or expected.__module__.partition(".")[0] in {"numpy", *sys.stdlib_module_names}:
        return False
    return issubclass(cls, expected)


def _is_from_stdlib(component: Any) -> bool:
    module = getattr(component, "__module__", None) or type(component).__module__
    return module.partition(".")[0] in sys.stdlib_module_names - {"__main__"}


def _check_call(name: str, component: Any, annotation: Any, path: KeyPath) -> None:
    """Refuse an object that cannot be called as its parameter calls it: there are two kinds of schedules."""
    types_in_call = _list_call_types(annotation)
    if types_in_call is None or not callable(component):
        return
    try:
        signature = inspect.signature(component)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*types_in_call)
    except TypeError:
        expected, actual = ", ".join(signature.parameters), ", ".join(map(format_type, types_in_call))
        message = f"'{name}' does not fit: it is called with ({expected}), here with ({actual})"
        raise MismatchError(path, message) from None


def _list_call_types(annotation: Any) -> list[Any] | None:
    """Return the types of the arguments that a ``Callable[[A, B], C]`` is called with, ``None`` if unknown."""
    for part in typing.get_args(annotation) if is_union(annotation) else (annotation,):
        if is_callable_type(part) and typing.get_args(part):
            types_in_call = typing.get_args(part)[0]
            return types_in_call if isinstance(types_in_call, list) else None
    return None


def _keeps_types(value: Any, converted: Any) -> bool:
    """Return whether pydantic made no number, truth value or text of another type."""
    if isinstance(value, dict) and isinstance(converted, dict):
        return all(_keeps_types(value[key], converted.get(key)) for key in value)
    if isinstance(value, list | tuple) and isinstance(converted, Collection) and not isinstance(converted, str):
        return all(map(_keeps_types, value, converted))
    if not isinstance(value, bool | str) and not isinstance(converted, bool | str):
        return True
    return type(value) is type(converted) or not isinstance(converted, bool | int | float | str)


def _convert_to_array(value: Any, annotation: Any, path: KeyPath) -> Any:
    """Convert a list to an array; keep a number unchanged."""
    import numpy as np

    try:
        return np.asarray(value) if isinstance(value, list) else value
    except ValueError:  # rows of different lengths
        raise _make_type_error(value, annotation, path) from None
