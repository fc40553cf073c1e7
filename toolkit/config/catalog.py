"""The catalog of components: who provides them, their documentation, their parameters, and YAML that names them.

The toolkit's own components are listed without an import, from their source. Those of other packages are imported,
because only an import shows whether they work.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution
from typing import Any

from toolkit.config.compose import to_plain_data
from toolkit.config.docstrings import find_docstring, read_documentation, read_summary
from toolkit.config.registry import (
    Kind,
    add_provider,
    find,
    get_entry_point,
    get_install_command,
    get_provider,
    get_reference,
    list_entry_points,
)
from toolkit.config.schedules import takes_schedule
from toolkit.config.signatures import list_default_envs, read_signature
from toolkit.config.snippets import dump_inline, make_snippet
from toolkit.config.type_hints import format_type
from toolkit.utils.errors import ComponentError, ConfigError, describe_error

TOOLKIT = "sb3-toolkit"


@dataclass(frozen=True)
class Claim:
    """A distribution's claim to a name.

    :param provider: name and version of the distribution
    :param summary: first line of the component's documentation
    :param problem: why it cannot be used; empty if nothing is wrong
    :param install: the command that installs its missing requirements; empty if none are missing
    """

    name: str
    provider: str
    summary: str = ""
    problem: str = ""
    install: str = ""


@dataclass(frozen=True)
class Parameter:
    """A parameter that a config may give.

    :param default: in one line, as YAML where possible; ``None`` for a required parameter
    """

    name: str
    type: str
    default: str | None
    text: str


@dataclass(frozen=True)
class ComponentDetails:
    """The documentation of a component.

    :param path: ``module:Class``
    :param provider: name and version of the distribution; empty for a component that is named by its path
    :param snippet: YAML to paste into a config
    """

    path: str
    provider: str
    text: str
    parameters: list[Parameter]
    snippet: str


def list_claims(kind: Kind) -> list[Claim]:
    """List all claims to names of a kind, including broken ones."""
    return [
        _make_claim(kind, entry_point, claims) for claims in list_entry_points(kind).values() for entry_point in claims
    ]


def read_details(kind: Kind, name: str) -> ComponentDetails:
    """Read the documentation, parameters and provider of a component.

    :raises ComponentError: if it cannot be found or imported
    """
    component = find(kind, name)
    text, parameter_texts = read_documentation(component)
    signature = read_signature(component)
    defaults = {env: kind.defaults[env] for env in list_default_envs(signature, kind.defaults)}
    parameters = [
        Parameter(
            parameter.name,
            format_type(parameter.annotation) + (" or a schedule" if takes_schedule(component, parameter) else ""),
            defaults.get(parameter.name) or _format_default(parameter.default),
            parameter_texts.get(parameter.name, ""),
        )
        for parameter in signature.parameters.values()
        if parameter.name not in kind.supplied
    ]
    path = f"{component.__module__}:{component.__qualname__}"
    provider = "" if ":" in name else get_provider(get_entry_point(kind, name))
    return ComponentDetails(path, provider, text, parameters, make_snippet(kind, name, component))


def _make_claim(kind: Kind, entry_point: EntryPoint, claims: list[EntryPoint]) -> Claim:
    provider = get_provider(entry_point)
    rivals = " and ".join(get_provider(rival) for rival in claims if rival is not entry_point)
    if rivals:
        problem = f"claimed by {rivals} too; name this one by its path, {entry_point.value}"
        return Claim(entry_point.name, provider, problem=problem)
    try:
        install = get_install_command(entry_point) if _lacks_requirements(entry_point) else ""
        return Claim(entry_point.name, provider, read_summary(_read_docstring(kind, entry_point)), install=install)
    except ComponentError as error:
        return Claim(entry_point.name, provider, problem=describe_error(error))


def _read_docstring(kind: Kind, entry_point: EntryPoint) -> object:
    """Return a component's docstring.

    :raises ComponentError: if the component cannot be used
    """
    if not entry_point.dist or entry_point.dist.name != TOOLKIT:
        return find(kind, entry_point.name).__doc__
    try:
        return find_docstring(get_reference(entry_point))
    except ModuleNotFoundError as error:
        missing = ComponentError(f"module '{error.name}' does not exist")
        missing.__cause__ = error
        raise add_provider(missing, kind, entry_point) from error


def _lacks_requirements(entry_point: EntryPoint) -> bool:
    """Return whether a requirement of the entry point's extras is not installed."""
    return bool(entry_point.dist) and any(_lacks_extra(entry_point.dist, extra) for extra in entry_point.extras)


@cache
def _lacks_extra(provider: Distribution, extra: str) -> bool:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, provider.requires or ()):
        if requirement.marker and requirement.marker.evaluate({"extra": extra}):
            try:
                distribution(requirement.name)
            except PackageNotFoundError:
                return True
    return False


def _format_default(value: Any) -> str | None:
    if value is inspect.Parameter.empty:
        return None
    try:
        return dump_inline(to_plain_data(value, ""))
    except ConfigError:
        pass
    try:
        return repr(value)
    except Exception:  # raised by a third-party class
        return f"a {type(value).__name__}"
