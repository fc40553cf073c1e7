"""The files that a Python file imports from its own directory, as a script does."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def read_with_siblings(path: Path, read: Callable[[Path], bytes]) -> dict[Path, bytes]:
    """Read a Python file and the files beside it that it imports, directly or through one another.

    An import counts wherever it stands, also in a function that is called much later.

    :param read: returns the content of a file that may run
    """
    contents: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in contents:
            contents[current] = read(current)
            waiting += find_siblings(current, contents[current]).values()
    return contents


def find_reached(path: Path, contents: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """Return a file and its siblings among files that :func:`read_with_siblings` has read."""
    return read_with_siblings(path, contents.__getitem__)


def find_siblings(path: Path, content: bytes) -> dict[str, Path]:
    """Return the files beside a Python file that its import statements name, by the name of the module.

    A module that Python finds elsewhere is none, nor is one of the standard library.
    """
    siblings = {name: path.with_name(f"{name}.py") for name in _list_imports(content)}
    return {name: file for name, file in siblings.items() if file.is_file() and not _is_elsewhere(name, file)}


def make_import_function(siblings: Mapping[str, Path], load: Callable[[Path], ModuleType]) -> Callable[..., Any]:
    """Return an ``__import__`` that finds siblings, for the import statements of one module.

    Each directory has its own modules of these names: two configs in one process may each have a ``rewards.py``.
    """

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and name in siblings:
            return load(siblings[name])
        return builtins.__import__(name, globals, locals, fromlist, level)

    return import_


@cache
def _list_imports(content: bytes) -> frozenset[str]:
    """Return the top-level modules that a Python file imports; none of a file that Python cannot read."""
    names: set[str] = set()
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module)
    return frozenset(name for name in names if "." not in name and name not in sys.stdlib_module_names)


def _is_elsewhere(name: str, file: Path) -> bool:
    """Return whether Python has imported, or would import, a module of another file."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # it has been made by hand, without a spec
        return True
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != file.resolve())
