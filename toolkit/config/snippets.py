"""Write YAML snippets that name a component, to paste into a config."""

from __future__ import annotations

import inspect
import json
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.compose import to_plain_data
from toolkit.config.registry import Kind
from toolkit.config.replay_buffers import CLASS
from toolkit.config.signatures import bind_arguments, list_default_envs, read_signature
from toolkit.config.type_hints import format_type
from toolkit.utils.errors import ConfigError

_SCHEDULE = {"name": "constant", "params": {"val": 0.5}}
_PLACEHOLDERS: tuple[Any, ...] = (0.5, 1, "...", False, ["..."], [], {}, _SCHEDULE, "progress")


def make_snippet(kind: Kind, name: str, component: type[Any]) -> str:
    """Return the part of a config that names a component, with the defaults of its parameters.

    A required parameter has a placeholder of its type, or a comment if no placeholder fits.
    """
    lines = [f"name: {dump_inline(name)}", *_make_params("params", kind, component)]
    match kind.name:
        case "algorithms":
            policy, *others = getattr(component, "policy_aliases", None) or ["MlpPolicy"]
            choice = f"policy: {policy}" + (f"  # or {', '.join(others)}" if others else "")
            return _nest(["algorithm"], [lines[0], choice, *lines[1:]])
        case "policies":
            policy_params = _make_params("policy_params", kind, component)
            return _nest(["algorithm"], [f"policy: {dump_inline(name)}", *policy_params])
        case "replay_buffers" | "schedules":
            is_schedule = kind.name == "schedules"
            return _nest_schedule(component, lines) if is_schedule else _nest(["algorithm", "params", CLASS], lines)
        case "vector_envs":
            keys = ["id: ...", f"vec_env: {name}"] if name == "envpool" else [f"id: {name}", "vec_env: vector"]
            return _nest(["env"], [*keys, *lines[1:]])
        case "launchers" | "samplers" | "pruners":
            return _nest([kind.singular], lines)
    entry = [f"- {lines[0]}", *(f"  {line}" for line in lines[1:])] if lines[1:] else [f"- {dump_inline(name)}"]
    snippet = _nest(["callbacks"] if kind.name == "callbacks" else ["env", kind.name], entry)
    alternative = "# or base_wrappers, as a part of the environment"
    return snippet.replace("  wrappers:", f"  wrappers:  {alternative}", 1) if kind.name == "wrappers" else snippet


def dump_inline(value: Any) -> str:
    """Write plain data as YAML in one line."""
    text = yaml_document.dump([value]).strip()
    text = text[1:-1] if text.startswith("[") else text.removeprefix("- ")
    return json.dumps(value) if "\n" in text else text


def _make_params(key: str, kind: Kind, component: type[Any]) -> list[str]:
    signature = read_signature(component)
    omitted = {*kind.supplied, *list_default_envs(signature, kind.defaults)}
    parameters = [item for item in signature.parameters.values() if item.name not in omitted]
    lines = [line for parameter in parameters for line in _make_assignment(component, parameter)]
    if all(line.startswith("#") for line in lines):  # YAML would read a key with only comments below as null
        return lines
    return [f"{key}:", *(f"  {line}" for line in lines)]


def _make_assignment(component: type[Any], parameter: inspect.Parameter) -> Iterator[str]:
    """Yield the line for a parameter: with its default, if that is plain data, or with a placeholder."""
    name, annotation = parameter.name, parameter.annotation
    if parameter.default is not inspect.Parameter.empty:
        try:
            value = to_plain_data(parameter.default, name)
        except ConfigError:
            return
        if value is not None and _fits(component, name, value):
            yield f"{name}: {dump_inline(value)}"
        return
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else _PLACEHOLDERS
    fitting = (f"{name}: {dump_inline(value)}" for value in choices if _fits(component, name, value))
    yield f"{next(fitting, f'# {name}:')}  # required: {format_type(annotation)}"


def _fits(component: type[Any], name: str, value: Any) -> bool:
    return not any(problem.path[0] == name for problem in bind_arguments(component, {name: value}, (), {})[1])


def _nest_schedule(schedule: type[Any], lines: list[str]) -> str:
    """Put a schedule where it is called as this one: exploration passes two numbers, a wrapper's number episodes."""
    call = inspect.signature(schedule.__call__)
    if "episodes" in call.parameters:
        wrapper = ["- name: angle_penalty", "  params:", "    scale:", *(f"      {line}" for line in lines)]
        return _nest(["env", "wrappers"], wrapper)
    return _nest(["algorithm", "params", "exploration" if len(call.parameters) == 3 else "learning_rate"], lines)


def _nest(keys: list[str], lines: list[str]) -> str:
    parents = [f"{'  ' * depth}{key}:" for depth, key in enumerate(keys)]
    return "\n".join([*parents, textwrap.indent("\n".join(lines), "  " * len(keys))])
