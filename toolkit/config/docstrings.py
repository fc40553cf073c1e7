"""Read the documentation of components and their parameters from docstrings, as plain text.

Sphinx (``:param x:``), Google (``Args:``) and NumPy (``Parameters``, underlined) styles are read.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import docstring_parser

_ROLE = re.compile(r":\w+(?::\w+)?:`~?([^`<]*?)(?:\s*<[^`>]*>)?`")  # of Sphinx, as :class:`~module.Class`
_MAX_REDIRECTIONS = 5


def read_documentation(component: type[Any]) -> tuple[str, dict[str, str]]:
    """Return the description of a class, and the text of each parameter, from the class or its nearest parent."""
    parameters: dict[str, str] = {}
    for cls in component.__mro__[:-1]:
        for docstring in (cls.__doc__, getattr(vars(cls).get("__init__"), "__doc__", None)):
            parameters = parse_docstring(docstring)[1] | parameters
    return parse_docstring(component.__doc__)[0], parameters


def read_summary(docstring: object) -> str:
    """Return the first line of a docstring, empty without one."""
    return parse_docstring(docstring)[0].partition("\n")[0]


def parse_docstring(docstring: object) -> tuple[str, dict[str, str]]:
    """Split a docstring into a description and the text of each parameter in one line."""
    return _parse_text(docstring) if isinstance(docstring, str) else ("", {})


@cache
def _parse_text(docstring: str) -> tuple[str, dict[str, str]]:
    text = inspect.cleandoc(docstring)
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return _simplify_markup(text), {}
    sections = [parsed.description or ""]
    sections += [f"Raises {error.type_name}: {error.description}" for error in parsed.raises]
    sections += [f"Example:\n{textwrap.indent(example.description or '', '    ')}" for example in parsed.examples]
    parameters = {item.arg_name.lstrip("*"): " ".join((item.description or "").split()) for item in parsed.params}
    description = _simplify_markup("\n\n".join(filter(None, sections)))
    return description, {name: _simplify_markup(text) for name, text in parameters.items()}


def _simplify_markup(text: str) -> str:
    """Remove the markup that only Sphinx renders."""
    return _ROLE.sub(r"\1", text).replace("``", "`")


def find_docstring(reference: str) -> str | None:
    """Return the docstring of a class from its source, without importing it.

    :param reference: ``module:Class``; the class may be imported into the module from another one
    :return: ``None`` if the source does not tell
    :raises ModuleNotFoundError: if the module does not exist
    """
    module, _, name = reference.partition(":")
    for _ in range(_MAX_REDIRECTIONS):
        statement = _find_definition(module, name)
        if isinstance(statement, ast.ClassDef):
            return ast.get_docstring(statement)
        if not isinstance(statement, ast.ImportFrom):
            return None
        name = next(alias.name for alias in statement.names if name in (alias.asname, alias.name))
        module = _get_imported_module(statement, module)
    return None


def _find_definition(module: str, name: str) -> ast.stmt | None:
    """Return the statement of a module, outside functions, that defines or imports a name."""
    for statement in _walk_statements(_parse_module(module)):
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return statement
        if isinstance(statement, ast.ImportFrom) and name in (alias.asname or alias.name for alias in statement.names):
            return statement
    return None


def _walk_statements(block: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(block):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _walk_statements(child)


@cache
def _parse_module(module: str) -> ast.Module:
    origin = _find_spec(module).origin
    try:
        return ast.parse(Path(origin or "").read_bytes())
    except (OSError, SyntaxError, ValueError):  # compiled, frozen or damaged: importing it shows which
        return ast.Module([], [])


@cache
def _find_spec(module: str) -> ModuleSpec:
    """Find a module without importing its parents, unlike :func:`importlib.util.find_spec`."""
    parent, _, _ = module.rpartition(".")
    path = _find_spec(parent).submodule_search_locations if parent else None
    for finder in sys.meta_path:
        if spec := finder.find_spec(module, path):
            return spec
    raise ModuleNotFoundError(f"No module named '{module}'", name=module)


def _get_imported_module(statement: ast.ImportFrom, module: str) -> str:
    if not statement.level:
        return statement.module or ""
    is_package = _find_spec(module).submodule_search_locations is not None
    package = module.split(".") if is_package else module.split(".")[:-1]
    return ".".join([*package[: len(package) - statement.level + 1], *filter(None, [statement.module])])
