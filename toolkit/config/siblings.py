"""The files that a Python file imports from its own directory, as a script does: modules, and packages in folders."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class SourceTree:
    """A Python file and those of its directory that it imports, directly or through one another.

    :param root: the directory; names of modules are relative to it
    :param contents: of each file
    """

    root: Path
    contents: Mapping[Path, bytes]

    @classmethod
    def read(cls, path: Path, read: Callable[[Path], bytes], root: Path | None = None) -> SourceTree:
        """Read a Python file and its siblings.

        An import counts wherever it stands, also in a function that is called much later.

        :param read: returns the content of a file that may run
        :param root: by default the directory of the file
        """
        tree = cls(root or path.parent, contents := {})
        waiting = [path]
        while waiting:
            current = waiting.pop()
            if current not in contents:
                contents[current] = read(current)
                waiting += tree.find_siblings(current).values()
        return tree

    def get_part(self, path: Path) -> SourceTree:
        """Return the tree of one of the files."""
        return self.read(path, self.contents.__getitem__, self.root)

    def find_siblings(self, path: Path) -> dict[str, Path]:
        """Return the files that the import statements of a file name, by the name of the module.

        A module that Python finds elsewhere is none, nor is one of the standard library.
        """
        siblings = {}
        for name in _list_imports(self.contents[path], self.get_package(path)):
            file = self._find_file(name)
            if file is not None and not _is_elsewhere(name.partition(".")[0], self.root):
                siblings[name] = file
        return siblings

    def get_module_name(self, path: Path) -> str:
        """Return the name that import statements have for a file."""
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def get_package(self, path: Path) -> str:
        """Return the name of the package of a file; empty if it is in none."""
        return ".".join(path.relative_to(self.root).parts[:-1])

    def _find_file(self, name: str) -> Path | None:
        place = self.root.joinpath(*name.split("."))
        return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


@dataclass(frozen=True)
class ImportFunction:
    """An ``__import__`` that finds siblings, for the import statements of one module.

    Each directory has its own modules of these names: two configs in one process may each have a ``rewards.py``.

    :param siblings: files by the name of their module
    :param package: that of the module; empty if it is in none
    :param load: imports a file
    """

    siblings: Mapping[str, Path]
    package: str
    load: Callable[[Path], ModuleType]
    folders: dict[str, ModuleType] = field(default_factory=dict)

    def __call__(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        """Import a module, as Python's ``__import__`` does."""
        absolute = _resolve(name, level, self.package)
        if not any(f"{sibling}.".startswith(f"{absolute}.") for sibling in self.siblings):
            return builtins.__import__(name, globals, locals, fromlist, level)
        modules: list[ModuleType] = []
        for prefix in accumulate(absolute.split("."), "{}.{}".format):
            modules.append(self._load(prefix))
            if len(modules) > 1:
                setattr(modules[-2], prefix.rpartition(".")[2], modules[-1])
        for attribute in fromlist or ():
            if f"{absolute}.{attribute}" in self.siblings and not hasattr(modules[-1], attribute):
                setattr(modules[-1], attribute, self._load(f"{absolute}.{attribute}"))
        return modules[-1] if fromlist else modules[0]

    def _load(self, name: str) -> ModuleType:
        if name in self.siblings:
            return self.load(self.siblings[name])
        return self.folders.setdefault(name, ModuleType(name))  # without __init__.py


@cache
def _list_imports(content: bytes, package: str) -> tuple[str, ...]:
    """Return the names of all modules that the import statements of a Python file may mean, parents first.

    There are none for a file that Python cannot read.
    """
    names: dict[str, None] = {}
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.walk(ast.parse(content)):
            for name in _list_modules(node, package):
                names.update(dict.fromkeys(accumulate(name.split("."), "{}.{}".format)))
    return tuple(name for name in names if name.partition(".")[0] not in sys.stdlib_module_names)


def _list_modules(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and (module := _resolve(node.module or "", node.level, package)):
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names if alias.name != "*")


def _resolve(name: str, level: int, package: str) -> str:
    """Return the absolute name of a module; empty if a relative one leaves the directory."""
    if not level:
        return name
    parts = package.split(".") if package else []
    if level > len(parts):
        return ""
    return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])


def _is_elsewhere(name: str, root: Path) -> bool:
    """Return whether Python has imported, or would import, a top-level module that is not in a directory."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # it has been made by hand, without a spec
        return True
    if spec is None:
        return False
    places = {(root / place).resolve() for place in (name, f"{name}/__init__.py", f"{name}.py")}
    found = [spec.origin] if spec.origin else [*(spec.submodule_search_locations or ())]
    return not any(Path(place).resolve() in places for place in found)
