"""The docstring of a class that is installed, out of its source: nothing is imported, nothing runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

_MOST_HOPS = 5


def find_docstring(reference: str) -> str | None:
    """Return the docstring of what ``module:Class`` names, through the modules it is imported from.

    :return: ``None`` where the source does not tell
    :raises ModuleNotFoundError: if there is no such module
    """
    module, _, name = reference.partition(":")
    for _ in range(_MOST_HOPS):
        statement = _definition(module, name)
        if isinstance(statement, ast.ClassDef):
            return ast.get_docstring(statement)
        if not isinstance(statement, ast.ImportFrom):
            return None
        name = next(alias.name for alias in statement.names if name in (alias.asname, alias.name))
        module = _imported_from(statement, module)
    return None


def _definition(module: str, name: str) -> ast.stmt | None:
    """Return the statement of a module, outside of functions, that defines or imports a name."""
    for statement in _statements(_parsed(module)):
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return statement
        if isinstance(statement, ast.ImportFrom) and name in (one.asname or one.name for one in statement.names):
            return statement
    return None


def _statements(block: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(block):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _statements(child)


@cache
def _parsed(module: str) -> ast.Module:
    origin = _spec(module).origin
    try:
        return ast.parse(Path(origin or "").read_bytes())
    except (OSError, SyntaxError, ValueError):  # compiled, frozen or damaged: whoever imports it will see
        return ast.Module([], [])


@cache
def _spec(module: str) -> ModuleSpec:
    """Find a module without importing its parents, as :func:`importlib.util.find_spec` does."""
    parent, _, _ = module.rpartition(".")
    path = _spec(parent).submodule_search_locations if parent else None
    for finder in sys.meta_path:
        if spec := finder.find_spec(module, path):
            return spec
    raise ModuleNotFoundError(f"No module named '{module}'", name=module)


def _imported_from(statement: ast.ImportFrom, module: str) -> str:
    if not statement.level:
        return statement.module or ""
    package = module.split(".") if _spec(module).submodule_search_locations is not None else module.split(".")[:-1]
    return ".".join([*package[: len(package) - statement.level + 1], *filter(None, [statement.module])])
