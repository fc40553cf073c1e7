"""What names there are: who provides them, and the first line of their documentation.

None of the toolkit's own components is imported: their documentation is read from their sources. Those of other
packages are: nothing else shows whether they work.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution

from toolkit.config.docstrings import read_summary
from toolkit.config.registry import Kind, find, get_install_command, get_provider, get_reference, list_entry_points
from toolkit.config.sources import find_docstring
from toolkit.utils.errors import ComponentError, describe_error

TOOLKIT = "sb3-toolkit"


@dataclass(frozen=True)
class Claim:
    """A distribution's claim to a name.

    :param provider: name and version of the distribution
    :param summary: first line of the component's documentation
    :param problem: why it cannot be used; empty where nothing is known against it
    :param install: the command that installs what it needs; empty where all is there
    """

    name: str
    provider: str
    summary: str = ""
    problem: str = ""
    install: str = ""


def list_claims(kind: Kind) -> list[Claim]:
    """List all claims to names of a kind, broken ones too."""
    return [_claim(kind, entry, rivals) for rivals in list_entry_points(kind).values() for entry in rivals]


def _claim(kind: Kind, entry: EntryPoint, rivals: list[EntryPoint]) -> Claim:
    others = " and ".join(get_provider(other) for other in rivals if other is not entry)
    if others:
        problem = f"claimed by {others} too; this one can be named by its path, {entry.value}"
        return Claim(entry.name, get_provider(entry), problem=problem)
    try:
        install = get_install_command(entry) if _lacks_extras(entry) else ""
        return Claim(entry.name, get_provider(entry), read_summary(_docstring(kind, entry)), install=install)
    except ComponentError as error:
        return Claim(entry.name, get_provider(entry), problem=describe_error(error))


def _docstring(kind: Kind, entry: EntryPoint) -> object:
    """Return a component's docstring.

    :raises ComponentError: if it can be seen that the component cannot be used
    """
    if not entry.dist or entry.dist.name != TOOLKIT:
        return find(kind, entry.name).__doc__
    try:
        return find_docstring(get_reference(entry))
    except ModuleNotFoundError as error:
        raise ComponentError(f"there is no module '{error.name}'", f"it comes with {get_provider(entry)}") from error


def _lacks_extras(entry: EntryPoint) -> bool:
    """Say whether a distribution is not installed that belongs to the extras which an entry point asks for."""
    if not entry.extras or not entry.dist:
        return False
    from packaging.requirements import Requirement

    for requirement in map(Requirement, entry.dist.requires or ()):
        if any(requirement.marker and requirement.marker.evaluate({"extra": extra}) for extra in entry.extras):
            try:
                distribution(requirement.name)
            except PackageNotFoundError:
                return True
    return False
