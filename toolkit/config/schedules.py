"""Schedules in the place of numbers, for parameters of environments and wrappers that change between episodes."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.config.registry import KINDS, list_entry_points
from toolkit.config.signatures import MismatchError, convert, is_component, read_signature
from toolkit.config.type_hints import allows, format_type, is_callable_type, is_mapping_type, is_numpy_type
from toolkit.utils.errors import KeyPath, Problem, describe_error

DECLARATION = "changeable_params"
"""Class attribute: the names of the constructor's parameters that may change between episodes."""
_FORMS = "__call__(self, progress_remaining), or __call__(self, *, episodes)"
_UNTYPED = (inspect.Parameter.empty, Any, object)
_UNKNOWN = inspect.Parameter("unknown", inspect.Parameter.KEYWORD_ONLY)  # stands for any name, valid or not


@dataclass(frozen=True)
class ParameterSchedule:
    """A schedule of a number that an environment or a wrapper takes.

    :param function: called with ``progress_remaining``, from 1 to 0; or with the keyword ``episodes``, the training
        episodes that count, in the order of their start
    :param follows_episodes: whether it is called with ``episodes``
    :param is_int: whether values are rounded to integers
    """

    function: Callable[..., float]
    follows_episodes: bool
    is_int: bool

    def compute(self, progress_remaining: float, episodes: Sequence[Any]) -> float | int:
        """Return the value for episodes that start now.

        :raises ValueError: if it is no finite number
        """
        value = self.function(episodes=episodes) if self.follows_episodes else self.function(progress_remaining)
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value)):
            raise ValueError(f"the schedule returns {value!r}, not a finite number")
        return round(float(value)) if self.is_int else float(value)


@dataclass(frozen=True)
class ScheduledParams:
    """The parameters that a config gives to an environment or a wrapper.

    :param values: plain data by name, with the first value of each schedule, without those that have a problem
    :param schedules: the schedules by the names of their parameters
    :param problems: what is wrong with schedules
    :param path: where the config has the parameters
    """

    values: dict[str, Any]
    schedules: dict[str, ParameterSchedule]
    problems: list[Problem]
    path: KeyPath

    def list_problems(self, others: Sequence[Problem]) -> list[Problem]:
        """Return all problems: those of schedules, and those of other parameters."""
        length = len(self.path) + 1
        places = {problem.path[:length] for problem in self.problems}
        return [*self.problems, *(problem for problem in others if problem.path[:length] not in places)]


def replace_schedules(owner: Callable[..., Any], values: Mapping[str, Any], path: KeyPath) -> ScheduledParams:
    """Put the first value of each schedule in its place.

    A parameter that takes a schedule itself, such as one with the type ``Callable``, keeps it.

    :param owner: the component whose parameters they are
    :param values: plain data by the name of a parameter
    :param path: where the config has them
    """
    params = ScheduledParams(dict(values), {}, [], path)
    parameters = read_signature(owner).parameters
    for name, value in values.items():
        parameter = parameters.get(name, _UNKNOWN)
        if _is_schedule(value, parameter):
            del params.values[name]
            try:
                schedule = _build_schedule(value, parameter, (*path, name))
                params.values[name] = schedule.compute(1.0, ())
                params.schedules[name] = schedule
            except MismatchError as error:
                params.problems.extend(error.problems)
            except Exception as error:  # raised by a third-party schedule
                message = f"the schedule fails at the start: {describe_error(error)}"
                params.problems.append(Problem((*path, name), message))
    return params


def _is_schedule(value: Any, parameter: inspect.Parameter) -> bool:
    """Return whether a value stands for numbers that a schedule returns, or is probably meant so."""
    annotation, default = parameter.annotation, parameter.default
    names = list_entry_points(KINDS["schedules"])
    is_registered = is_component(value) and isinstance(value["name"], str) and value["name"] in names
    if annotation not in _UNTYPED:
        if allows(annotation, is_callable_type) or allows(annotation, is_mapping_type):
            return False
        is_function = isinstance(value, Mapping) and value.keys() == {"function"}
        return is_registered or ((is_component(value) or is_function) and _takes_numbers(annotation))
    has_number = isinstance(default, int | float) and not isinstance(default, bool)
    return (is_component(value) and has_number) or (is_registered and not isinstance(default, Mapping))


def takes_schedule(component: Any, parameter: inspect.Parameter) -> bool:
    """Return whether a component says of a parameter that it may change between episodes, and takes numbers."""
    return parameter.name in getattr(component, DECLARATION, ()) and _takes_numbers(parameter.annotation)


def _takes_numbers(annotation: Any) -> bool:
    return allows(annotation, lambda part: part in (int, float)) or allows(annotation, is_numpy_type)


def _build_schedule(value: Any, parameter: inspect.Parameter, path: KeyPath) -> ParameterSchedule:
    """Build the schedule that a value describes.

    :raises MismatchError: if its parameter takes no numbers, or it cannot be built or called
    """
    annotation, default = parameter.annotation, parameter.default
    if annotation in _UNTYPED and isinstance(default, bool | str):
        annotation = type(default)
    if annotation not in _UNTYPED and not _takes_numbers(annotation):
        message = f"a schedule gives numbers, but this should be {format_type(annotation)}"
        raise MismatchError(path, message, "give it one value")
    function: Any = convert(value, Callable[..., float], path)
    forms: list[tuple[Sequence[Any], Mapping[str, Any]]] = [((1.0,), {}), ((), {"episodes": ()})]
    fits = [_can_call(function, *arguments, **keywords) for arguments, keywords in forms]
    if not any(fits):
        expected = ", ".join(inspect.signature(function).parameters)
        raise MismatchError(path, f"the schedule is called with ({expected})", f"a parameter of env needs {_FORMS}")
    takes_integers = allows(annotation, lambda part: part is int)
    return ParameterSchedule(
        function, not fits[0], takes_integers and not allows(annotation, lambda part: part is float)
    )


def _can_call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True
