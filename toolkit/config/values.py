"""Values of parameters that YAML cannot hold: functions, what they return, and one value for each environment.

========================================================  ============================================
``{function: ./data.py:quadratic}``                       the function itself
``{call: ./data.py:load_prices, params: {year: 2020}}``   what the function returns
``{per_env: {start: 9000}}``                              9000 plus the number of the environment
``{per_env: [easy, hard]}``                               one value for each environment
========================================================  ============================================

:mod:`toolkit.config.signatures` loads and calls the functions where it checks parameters.
"""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.config.yaml_document import walk
from toolkit.utils.errors import ComponentError, KeyPath, Problem, describe_error, did_you_mean
from toolkit.utils.memory import installed_memory, is_memory_shortage, limit_memory_to_installed
from toolkit.utils.seeds import fix_global_seeds

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_CODE_PATH = re.compile(rf"(?:.+\.py|{_NAME}):{_NAME}")
_KEYS = ("function", "call")
PER_ENV = "per_env"


# --- functions and what they return ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodeValue:
    """A value that a config describes by a function.

    :param key: ``function`` for the function itself, ``call`` for what it returns
    :param reference: ``module:name`` or ``file.py:name``
    :param params: keyword arguments of the call
    """

    key: str
    reference: str
    params: Mapping[str, Any]


def is_code_path(value: object) -> bool:
    """Return whether a value looks like ``module:name`` or ``file.py:name``."""
    return isinstance(value, str) and _CODE_PATH.fullmatch(value) is not None


def names_code(value: Any) -> bool:
    """Return whether a mapping has ``function`` or ``call`` with the path of a function."""
    return isinstance(value, Mapping) and any(is_code_path(value.get(key)) for key in _KEYS)


def replaces_value(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether a mapping replaces that of an extended file, because only one of them is a call, for example."""
    old_kind, new_kind = _find_kind(old), _find_kind(new)
    if old_kind is None or new_kind is not None:
        return old_kind != new_kind
    return not new.keys() <= {old_kind, "params"}


def _find_kind(value: Mapping[str, Any]) -> str | None:
    """Return the key that makes a mapping a function, a call, or a value for each environment."""
    keys = (*(key for key in _KEYS if is_code_path(value.get(key))), *(PER_ENV,) * (PER_ENV in value))
    return next(iter(keys), None)


def read_code_value(value: Any, is_mapping_expected: bool) -> CodeValue | None:
    """Return the function or call that a value describes; ``None`` if it is an ordinary value.

    :param is_mapping_expected: whether the value may be a mapping of the user's own; then only a complete description
        counts
    :raises ComponentError: if the description is wrong
    """
    if not isinstance(value, Mapping) or not any(key in value for key in _KEYS):
        return None
    others = [key for key in value if key not in (*_KEYS, "params")]
    if not names_code(value) and (is_mapping_expected or others):
        return None
    key = next(key for key in _KEYS if key in value)
    allowed = {key, "params"} if key == "call" else {key}
    if value.keys() <= allowed and is_code_path(value[key]) and isinstance(value.get("params", {}), Mapping):
        return CodeValue(key, value[key], value.get("params", {}))
    if is_mapping_expected:
        return None
    raise _describe_wrong_value(value, key, [name for name in value if name not in allowed])


def _describe_wrong_value(value: Mapping[str, Any], key: str, unknown: list[str]) -> ComponentError:
    """Return the error about a mapping that is nearly a function or a call."""
    if not is_code_path(value[key]):
        message = f"'{key}' should be the path of a function, not {value[key]!r}"
        return ComponentError(message, "write ./file.py:name or module:name; a mapping of your own has other keys")
    if unknown == ["params"]:
        return ComponentError("'function' passes the function itself and takes no params", "'call' takes params")
    if unknown:
        message = f"'{key}' cannot stand beside '{unknown[0]}'"
        hint = "keep one" if unknown[0] in _KEYS else did_you_mean(unknown[0], ["params"] if key == "call" else [key])
        return ComponentError(message, hint)
    return ComponentError("'params' should be a mapping")


def list_code_values(value: Any) -> list[CodeValue]:
    """Return the functions and calls that a value describes, at any depth."""
    codes = (read_code_value(inner, True) for _, inner in walk(value))
    return [code for code in codes if code]


def call_function(reference: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return what a function returns; numbers that it draws from the global generators are the same at each call.

    :raises ComponentError: if it raises an exception
    """
    try:
        with limit_memory_to_installed(), fix_global_seeds():
            return function(**arguments)
    except ComponentError:
        raise
    except (Exception, SystemExit) as error:
        if is_memory_shortage(error):
            size = installed_memory() / 2**30
            raise ComponentError(f"'{reference}' needs more than this machine's memory of {size:.0f} GiB") from error
        raise ComponentError(f"'{reference}' fails: {describe_error(error)}") from error


def can_be_used_once(value: Any) -> bool:
    """Return whether an object can be read only once, and not be copied before: a generator, for example."""
    if isinstance(value, Coroutine):
        return True
    if not isinstance(value, Iterator | AsyncIterator):
        return False
    try:
        copy.deepcopy(value)
    except Exception:  # of any class
        return True
    return False


def describe_value(value: Any) -> str:
    """Describe a value that a function returned: a number or a short text itself, of others the type."""
    is_short = isinstance(value, bool | int | float | type(None)) or (isinstance(value, str) and len(value) <= 80)
    return repr(value) if is_short else f"a {type(value).__name__}"


# --- one value for each environment ---------------------------------------------------------------------------------


def is_per_env(value: Any) -> bool:
    """Return whether a mapping gives each environment its own value."""
    return isinstance(value, Mapping) and PER_ENV in value


def has_per_env(value: Any) -> bool:
    """Return whether a value, or any value inside it, is given for each environment."""
    return any(is_per_env(inner) for _, inner in walk(value))


def select_for_env(value: Any, index: int) -> Any:
    """Return a value as one environment gets it.

    :param value: plain data without :func:`find_per_env_problems`
    :param index: number of the environment; after the last value of a list comes the first again
    """
    if is_per_env(value):
        choices = value[PER_ENV]
        if isinstance(choices, Mapping):
            return choices["start"] + index
        return select_for_env(choices[index % len(choices)], index)
    if isinstance(value, Mapping):
        return {key: select_for_env(item, index) for key, item in value.items()}
    return [select_for_env(item, index) for item in value] if isinstance(value, list) else value


def locate_for_env(value: Any, path: KeyPath, index: int) -> KeyPath:
    """Return where a config has what one environment gets.

    :param value: as for :func:`select_for_env`
    :param path: in what that returns
    """
    place: KeyPath = ()
    for key in (*path, None):
        while is_per_env(value):
            choices = value[PER_ENV]
            step = "start" if isinstance(choices, Mapping) else index % len(choices)
            value, place = choices[step], (*place, PER_ENV, step)
        if key is not None:
            place = (*place, key)
            is_inside = key in value if isinstance(value, Mapping) else isinstance(value, list)
            value = value[key] if is_inside else None
    return place


def max_per_env_values(params: Mapping[str, Any]) -> int:
    """Return the length of the longest list with a value for each environment."""
    found = (value[PER_ENV] for _, value in walk(dict(params)) if is_per_env(value))
    return max((len(choices) for choices in found if isinstance(choices, list)), default=0)


def find_per_env_problems(params: Mapping[str, Any], path: KeyPath, n_envs: int) -> list[Problem]:
    """Check the shape of all values that are given for each environment.

    :param path: where the config has the parameters
    """
    found = [(path + inner, value) for inner, value in walk(dict(params)) if is_per_env(value)]
    problems = (_check_per_env(value, place, n_envs) for place, value in found)
    return [problem for problem in problems if problem]


def _check_per_env(value: Mapping[str, Any], path: KeyPath, n_envs: int) -> Problem | None:
    choices, path = value[PER_ENV], (*path, PER_ENV)
    if len(value) > 1:
        other = next(key for key in value if key != PER_ENV)
        return Problem(path, f"cannot stand beside '{other}'", f"move '{other}' into the values, or remove it")
    if isinstance(choices, Mapping) and "start" in choices:
        return _check_start(choices, path)
    if not isinstance(choices, list):
        message = f"should be a list with a value for each environment, or {{start: NUMBER}}, not {choices!r}"
        return Problem(path, message)
    if len(choices) == n_envs:
        return None
    hint = f"give one for each, or set env.n_envs to {len(choices)}" if choices else "give one for each"
    return Problem(path, f"has {_count(len(choices), 'value')} for {_count(n_envs, 'environment')}", hint)


def _check_start(choices: Mapping[str, Any], path: KeyPath) -> Problem | None:
    start = choices["start"]
    if unknown := [key for key in choices if key != "start"]:
        return Problem((*path, unknown[0]), "unknown key", "environment i gets start + i")
    if isinstance(start, bool) or not isinstance(start, int | float):
        return Problem((*path, "start"), f"should be a number, not {start!r}")
    return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
