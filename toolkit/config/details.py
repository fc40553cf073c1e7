"""A component in detail: what its documentation says of it and of its parameters, and YAML that names it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from toolkit.config.compose import to_plain_data
from toolkit.config.docstrings import read_documentation
from toolkit.config.registry import Kind, find, get_entry_point, get_provider
from toolkit.config.signatures import read_signature
from toolkit.config.snippets import dump_inline, make_snippet
from toolkit.config.type_hints import format_type
from toolkit.utils.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """A parameter that a config may give.

    :param default: in one line, as YAML where it can be written so; ``None`` for a required parameter
    """

    name: str
    type: str
    default: str | None
    text: str


@dataclass(frozen=True)
class ComponentDetails:
    """A component in detail.

    :param path: ``module:Class``
    :param provider: name and version of the distribution; empty for a component that was named by its path
    :param snippet: YAML to lay over a config
    """

    path: str
    provider: str
    text: str
    parameters: list[Parameter]
    snippet: str


def read_details(kind: Kind, name: str) -> ComponentDetails:
    """Describe a component.

    :raises ComponentError: if it cannot be found or imported
    """
    component = find(kind, name)
    text, texts = read_documentation(component)
    parameters = [
        Parameter(one.name, format_type(one.annotation), _default(one.default), texts.get(one.name, ""))
        for one in read_signature(component).parameters.values()
        if one.name not in kind.supplied
    ]
    path = f"{component.__module__}:{component.__qualname__}"
    owner = "" if ":" in name else get_provider(get_entry_point(kind, name))
    return ComponentDetails(path, owner, text, parameters, make_snippet(kind, name, component))


def _default(value: Any) -> str | None:
    if value is inspect.Parameter.empty:
        return None
    try:
        return dump_inline(to_plain_data(value, ""))
    except ConfigError:
        pass
    try:
        return repr(value)
    except Exception:  # somebody's class cannot even be shown
        return f"a {type(value).__name__}"
