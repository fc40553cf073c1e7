"""Find valid parameters that are probably mistakes: paths passed as text, and one seed for all environments."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.config.registry import load_object
from toolkit.config.signatures import is_component, read_signature
from toolkit.config.type_hints import is_union
from toolkit.config.values import is_code_path, is_per_env, read_code_value
from toolkit.utils.errors import ComponentError, KeyPath, Problem

_UNTYPED = (inspect.Parameter.empty, Any, object)
_SEED_NAME = re.compile(r"(.*_)?(seed|random_state)(_.*)?|.*seed", re.IGNORECASE)


def find_paths_as_text(component: Callable[..., Any], params: Mapping[str, Any], path: KeyPath) -> Iterator[Problem]:
    """Find texts that are the paths of functions, and whose parameter does not say that it wants a function.

    :param path: where the config has the parameters
    """
    parameters = read_signature(component).parameters
    for name, value in params.items():
        annotation = parameters[name].annotation if name in parameters else inspect.Parameter.empty
        yield from _find_texts(value, annotation, (*path, name))


def _find_texts(value: Any, annotation: Any, path: KeyPath) -> Iterator[Problem]:
    if code := read_code_value(value, True):
        with suppress(ComponentError):  # the check of the parameters has reported it
            yield from find_paths_as_text(load_object(code.reference), code.params, (*path, "params"))
    elif is_component(value) and annotation not in _UNTYPED:
        return  # its class is built
    elif isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        item_annotation = annotation if is_per_env(value) else _get_item_annotation(annotation)
        for key, item in items:
            yield from _find_texts(item, item_annotation, (*path, key))
    elif annotation in _UNTYPED and is_code_path(value) and _exists(value):
        hint = "{function: PATH} passes the function, {call: PATH} what it returns"
        yield Problem(path, f"'{value}' is passed as text", hint)


def _get_item_annotation(annotation: Any) -> Any:
    """Return the type of the items of a list or mapping, ``Any`` if no type is given."""
    if annotation in _UNTYPED:
        return Any
    parts = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    types = [typing.get_args(part)[-1:] or (Any,) for part in parts if part is not type(None)]
    return types[0][0] if len(types) == 1 else str


def _exists(code_path: str) -> bool:
    """Return whether a path is that of a file, or of something in a module that can be called."""
    source, _, _ = code_path.rpartition(":")
    if source.endswith(".py"):
        return Path(source).is_file()
    with suppress(ComponentError):
        return callable(load_object(code_path))
    return False


def find_equal_seeds(
    component: Callable[..., Any], params: Mapping[str, Any], path: KeyPath, n_envs: int
) -> Iterator[Problem]:
    """Find whole numbers named like a seed that are the same in all environments of a run.

    :param path: where the config has the parameters
    """
    defaults = {
        name: parameter.default
        for name, parameter in read_signature(component).parameters.items()
        if name not in params
    }
    for values, origin in ((params, ""), (defaults, " by default")):
        for place, seed in _iterate_seeds(values, path) if n_envs > 1 else ():
            message = f"is {seed}{origin} in all {n_envs} environments, which may therefore be equal"
            yield Problem(place, message, f"{{per_env: {{start: {seed}}}}} gives environment i {seed} + i")


def _iterate_seeds(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """Yield the seeds in plain data, but not those of calls: data may be the same in all environments."""
    if read_code_value(value, True):
        return
    if isinstance(value, int) and not isinstance(value, bool) and path and _SEED_NAME.fullmatch(str(path[-1])):
        yield path, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _iterate_seeds(item, (*path, key))
