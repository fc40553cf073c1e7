"""Find valid parameters that are probably mistakes: paths passed as text, and one seed for all environments."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import PathFinder
from itertools import accumulate
from pathlib import Path
from typing import Any

from toolkit.config.env_overrides import is_env_overrides_type
from toolkit.config.registry import load_object
from toolkit.config.signatures import is_component, read_signature
from toolkit.config.type_hints import is_union
from toolkit.config.values import is_code_path, is_per_env, names_code, read_code_value, select_for_env
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
        if is_env_overrides_type(annotation):
            continue  # its components are checked as those of another config
        yield from _find_texts(value, annotation, (*path, name))


def _find_texts(value: Any, annotation: Any, path: KeyPath) -> Iterator[Problem]:
    if code := read_code_value(value, True):
        with suppress(ComponentError):  # the check of the parameters has reported it
            yield from find_paths_as_text(load_object(code.reference), code.params, (*path, "params"))
    elif names_code(value):
        yield _describe_near_miss(value, path)
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


def _describe_near_miss(value: Mapping[str, Any], path: KeyPath) -> Problem:
    """Say why a mapping is not read as the function or call that it names."""
    try:
        read_code_value(value, False)
    except ComponentError as error:
        return Problem(path, f"is passed as a mapping: {error.message}", error.hint)
    raise AssertionError(value)


def _exists(code_path: str) -> bool:
    """Return whether a path is that of a file, or of a function or class in a module; nothing is imported."""
    source, _, name = code_path.rpartition(":")
    if source.endswith(".py"):
        return Path(source).is_file()
    name = name.partition(".")[0]
    if source in sys.modules:
        return callable(vars(sys.modules[source]).get(name))
    file = _find_source(source)
    return file is not None and name in _list_definitions(file)


def _find_source(module: str) -> Path | None:
    """Return the source file of a module that is not imported."""
    directories = None
    for name in accumulate(module.split("."), "{}.{}".format):
        spec = PathFinder.find_spec(name, directories)
        if spec is None:
            return None
        directories = spec.submodule_search_locations
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _list_definitions(file: Path) -> set[str]:
    """Return the names of the functions and classes that a Python file defines, or imports by name."""
    names = set[str]()
    with suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.ImportFrom):
                names |= {alias.asname or alias.name for alias in node.names}
    return names


def find_equal_seeds(
    component: Callable[..., Any], params: Mapping[str, Any], path: KeyPath, n_envs: int
) -> Iterator[Problem]:
    """Find whole numbers named like a seed that are the same in several environments of a run.

    :param path: where the config has the parameters
    """
    if n_envs == 1:
        return
    seeds: dict[KeyPath, list[int]] = {}
    for index in range(n_envs):
        for place, seed in _iterate_seeds(select_for_env(dict(params), index), path):
            seeds.setdefault(place, []).append(seed)
    for place, values in seeds.items():
        yield from _describe_equal_seeds(place, values, n_envs)
    parameters = read_signature(component).parameters.items()
    defaults = {name: parameter.default for name, parameter in parameters if name not in params}
    for place, seed in _iterate_seeds(defaults, path):
        yield from _describe_equal_seeds(place, [seed] * n_envs, n_envs, " by default")


def _describe_equal_seeds(path: KeyPath, seeds: list[int], n_envs: int, origin: str = "") -> Iterator[Problem]:
    """Describe the most frequent seed, if several environments have it."""
    ((seed, count),) = Counter(seeds).most_common(1)
    if count > 1:
        number = f"all {n_envs}" if count == n_envs else f"{count} of {n_envs}"
        message = f"is {seed}{origin} in {number} environments, which may therefore be equal"
        yield Problem(path, message, f"{{per_env: {{start: {seed}}}}} gives environment i {seed} + i")


def _iterate_seeds(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """Yield the seeds in plain data, but not those of calls: data may be the same in all environments."""
    if read_code_value(value, True):
        return
    if isinstance(value, int) and not isinstance(value, bool) and path and _SEED_NAME.fullmatch(str(path[-1])):
        yield path, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _iterate_seeds(item, (*path, key))
