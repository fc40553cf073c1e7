"""``{run}`` in the parameters of callbacks: the run directory, which is known when training starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from toolkit.config.schema import RunConfig
from toolkit.config.values import read_code_value
from toolkit.config.yaml_document import walk
from toolkit.utils.errors import KeyPath, Problem

RUN = "{run}"


def has_run_directory(value: Any) -> bool:
    """Return whether a text in a value has ``{run}``."""
    return any(True for _ in _iterate_paths(value, ()))


def replace_run(value: Any, directory: Path) -> Any:
    """Return a value with the path of the run directory in place of ``{run}`` in its texts; keys stay."""
    if isinstance(value, dict):
        return {key: replace_run(item, directory) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_run(item, directory) for item in value]
    return value.replace(RUN, str(directory)) if isinstance(value, str) else value


def find_misplaced_run(config: RunConfig) -> list[Problem]:
    """Return a problem for each ``{run}`` where it would only be a text: outside the callbacks, and in calls."""
    message, hint = f"{RUN} is the run directory only in the params of callbacks", "write another path"
    parts = {"env": config.env, "algorithm": config.algorithm}
    problems = [Problem(path, message, hint) for path in _iterate_paths(parts, ())]
    called = f"{RUN} is not known yet when a function is called"
    for index, callback in enumerate(config.callbacks):
        path: KeyPath = ("callbacks", index, "params")
        calls = [path + inner for inner, value in walk(callback.params) if read_code_value(value, True)]
        texts = [inner for inner in _iterate_paths(callback.params, path) if any(inner[: len(c)] == c for c in calls)]
        problems += [Problem(inner, called, "pass it to the callback itself") for inner in texts]
    return problems


def _iterate_paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of each text with ``{run}``."""
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _iterate_paths(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _iterate_paths(item, (*path, index))
    elif isinstance(value, str) and RUN in value:
        yield path
