"""A component in detail: what its documentation says of it and of its parameters, and YAML that names it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from toolkit.config.compose import plain
from toolkit.config.docstrings import documentation
from toolkit.config.registry import Kind, find, provider, the_claim
from toolkit.config.signatures import signature_of
from toolkit.config.snippets import one_line, snippet
from toolkit.config.type_hints import type_name
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
class Description:
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


def describe_component(kind: Kind, name: str) -> Description:
    """Describe a component.

    :raises ComponentError: if it cannot be found or imported
    """
    component = find(kind, name)
    text, texts = documentation(component)
    parameters = [
        Parameter(one.name, type_name(one.annotation), _default(one.default), texts.get(one.name, ""))
        for one in signature_of(component).named.values()
        if one.name not in kind.supplied
    ]
    path = f"{component.__module__}:{component.__qualname__}"
    owner = "" if ":" in name else provider(the_claim(kind, name))
    return Description(path, owner, text, parameters, snippet(kind, name, component))


def _default(value: Any) -> str | None:
    if value is inspect.Parameter.empty:
        return None
    try:
        return one_line(plain(value, ""))
    except ConfigError:
        pass
    try:
        return repr(value)
    except Exception:  # somebody's class cannot even be shown
        return f"a {type(value).__name__}"
