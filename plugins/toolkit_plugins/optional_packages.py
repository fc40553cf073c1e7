"""Packages of extras, which are imported only where they are used: some take a second."""

from __future__ import annotations

from importlib.util import find_spec


def require_package(name: str) -> None:
    """Check that a package is installed, without importing it.

    :raises ModuleNotFoundError: if it is not, as an import would
    """
    if find_spec(name) is None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
