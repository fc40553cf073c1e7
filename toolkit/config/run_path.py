"""``{run}`` in the parameters of callbacks: the run directory, which is known when training starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from toolkit.config.schema import RunConfig
from toolkit.config.signatures import is_component
from toolkit.config.values import read_code_value
from toolkit.config.yaml_document import get_value, walk
from toolkit.utils.errors import KeyPath, Problem

RUN = "{run}"
_BEFORE = re.compile(r"[^:]*[\w./~}-]\{run\}")  # part of a path before {run}; but a URL has its scheme there
_AFTER = re.compile(r"\{run\}(?=\w)")


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


def show_run(problem: Problem, directory: Path) -> Problem:
    """Return a problem with ``{run}`` in place of the path of the directory that it stands for."""
    message, hint = (text.replace(str(directory), RUN) for text in (problem.message, problem.hint))
    return replace(problem, message=message, hint=hint)


def find_misplaced_run(config: RunConfig) -> list[Problem]:
    """Return a problem for each ``{run}`` that is not the start of a path in the params of callbacks."""
    message, hint = f"{RUN} is the run directory only in the params of callbacks", "remove it"
    names = [{"name": callback.name} for callback in config.callbacks]
    parts = {"import_modules": config.import_modules, "env": config.env, "algorithm": config.algorithm}
    problems = [Problem(path, message, hint) for path in _iterate_paths(parts | {"callbacks": names}, ())]
    for index, callback in enumerate(config.callbacks):
        problems += _find_misplaced_in_params(callback.params, ("callbacks", index, "params"))
    return problems


def _find_misplaced_in_params(params: Mapping[str, Any], path: KeyPath) -> Iterator[Problem]:
    """Yield a problem for each ``{run}`` in what a callback calls, in names of components, and inside a path."""
    calls = [inner for inner, value in walk(params) if read_code_value(value, True)]
    names = [(*inner, "name") for inner, value in walk(params) if is_component(value)]
    for inner in _iterate_paths(params, ()):
        text: str = get_value(params, inner)
        if any(inner[: len(call)] == call for call in calls):
            message = f"{RUN} is not known yet when a function is called"
            yield Problem((*path, *inner), message, "pass it to the callback itself")
        elif inner in names:
            yield Problem(
                (*path, *inner), f"{RUN} is the run directory only in parameters, not in a name", "remove it"
            )
        elif problem := _check_path((*path, *inner), text):
            yield problem


def _check_path(path: KeyPath, text: str) -> Problem | None:
    """Return the problem that a text is a path with ``{run}`` elsewhere than in its first part, alone."""
    if _BEFORE.match(text):
        rest = text.rpartition(RUN)[2]
        return Problem(path, f"{RUN} is an absolute path, so a path can only start with it", f"write {RUN}{rest}")
    if _AFTER.search(text):
        message = f"{text!r} is beside the run directory, not inside it"
        return Problem(path, message, f"write {_AFTER.sub(f'{RUN}/', text)}")
    return None


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
