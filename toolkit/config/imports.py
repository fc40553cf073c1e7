"""Import modules by name and Python files by path, where their code may run.

While a config from a run directory is resolved (:mod:`toolkit.config.trust`), a module is imported if it is imported
already or belongs to an installed distribution. Every other module is read as a file, which has to be trusted.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import json
import os
import pickle
import site
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import Distribution, distributions
from itertools import accumulate
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from toolkit.config.siblings import ImportFunction, SourceTree
from toolkit.config.trust import is_restricted, read_trusted_code
from toolkit.utils.errors import ComponentError


def import_by_name(name: str) -> ModuleType:
    """Import a module, parents first.

    :raises ModuleNotFoundError: if it does not exist
    :raises ComponentError: if its code may not run
    """
    for prefix in accumulate(name.split("."), "{}.{}".format):  # a, a.b, a.b.c
        if prefix not in sys.modules and is_restricted():
            _import_if_allowed(prefix)
        _record_code(importlib.import_module(prefix))
    return sys.modules[name]


def import_file(path: Path) -> ModuleType:
    """Import a Python file; import it again if it has changed since the last time.

    :raises ComponentError: if it does not exist, or its code may not run
    """
    if not path.is_file():
        raise ComponentError(f"file {path} does not exist")
    return _import_source(path.absolute(), SourceTree.read(path.absolute(), read_trusted_code))


def _import_source(path: Path, tree: SourceTree) -> ModuleType:
    """Import a Python file, with the siblings that it imports.

    :param tree: has the file and its siblings
    """
    import cloudpickle

    version = hashlib.sha256()
    for file, content in sorted(tree.get_part(path).contents.items()):
        version.update(os.fsencode(file.resolve()) + b"\n" + content)
    module_name = tree.get_module_name(path).replace(".", "_")
    name = f"toolkit_file_{module_name}_{version.hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _sources[name] = path, tree
    siblings = tree.find_siblings(path)
    module = _execute_module(
        ModuleSpec(name, _SourceLoader(name, path, tree.contents[path]), origin=str(path)),
        ImportFunction(siblings, tree.get_package(path), lambda file: _import_source(file, tree))
        if siblings
        else None,
    )
    # No other process can import the file under this name, so a saved model has to contain its code.
    cloudpickle.register_pickle_by_value(module)
    return module


def dump_with_files(value: Any) -> bytes:
    """Pickle a value for :func:`load_with_files` in another process.

    Classes and functions in Python files are pickled by reference, with the files: there, they are parts of modules as
    they are here. Pickled by value, they would lose what their module has, such as the files beside it.
    """
    import cloudpickle

    by_value = cloudpickle.list_registry_pickle_by_value()
    modules = [sys.modules[name] for name in _sources if name in by_value and name in sys.modules]
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)
    try:
        pickled = cloudpickle.dumps(value)
    finally:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
    return pickle.dumps((_sources, pickled))


def load_with_files(data: bytes) -> Any:
    """Return the value of :func:`dump_with_files`; a file that it needs is imported, as the other process read it."""
    sources, pickled = pickle.loads(data)  # noqa: S301 - from the process that started this one
    _sources.update(sources)
    if not any(isinstance(finder, _FileFinder) for finder in sys.meta_path):
        sys.meta_path.append(_FileFinder())
    return pickle.loads(pickled)  # noqa: S301


_sources: dict[str, tuple[Path, SourceTree]] = {}  # by the name of the module


class _FileFinder(MetaPathFinder, Loader):
    """Finds the modules of files that another process has read."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _sources else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _import_source(*_sources[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has been executed."""


class _SourceLoader(SourceFileLoader):
    """Runs the source that was checked: ``__pycache__`` may contain other code, and the file may change."""

    def __init__(self, name: str, path: Path, content: bytes) -> None:
        super().__init__(name, str(path))
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self._content, self.path)
        return code


def _execute_module(spec: ModuleSpec, import_function: Callable[..., Any] | None = None) -> ModuleType:
    """Run the code of a module.

    :param import_function: of its import statements, in place of Python's
    """
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    if import_function is not None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_function}
    sys.modules[spec.name] = module
    try:
        if spec.loader:
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _import_if_allowed(name: str) -> None:
    """Import a module whose parents are imported, if it is installed or its file is trusted."""
    top_level, _, _ = name.partition(".")
    if name.rpartition(".")[2] == "__main__":
        raise ComponentError(f"'{name}' is a program and has no components")
    if top_level in sys.stdlib_module_names:
        raise ComponentError(f"'{name}' belongs to Python's standard library and has no components")
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    if spec.origin is None or is_installed(Path(spec.origin), top_level):  # without an origin: a namespace package
        return
    content = read_trusted_code(Path(spec.origin))
    if isinstance(spec.loader, SourceFileLoader):
        spec.loader = _SourceLoader(name, Path(spec.origin), content)
    module = _execute_module(spec)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


def _record_code(module: ModuleType) -> None:
    """Record the file of a module that is not installed: the user's own config runs it."""
    spec = getattr(module, "__spec__", None)
    if is_restricted() or spec is None or not spec.has_location or spec.origin is None:
        return
    top_level = module.__name__.partition(".")[0]
    if top_level not in sys.stdlib_module_names and not is_installed(Path(spec.origin), top_level):
        with suppress(ComponentError):  # the module has run already; its file may have been deleted since
            read_trusted_code(Path(spec.origin))


def check_call(reference: str, module: ModuleType) -> None:
    """Check that a function of an imported module may be called.

    :param reference: the path that a config names it by
    :raises ComponentError: if it is Python's own, or this user has not trained the opened run with its module
    """
    if module.__name__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        raise ComponentError(f"'{reference}' belongs to Python's standard library", "name a function of your own")
    if file := getattr(module, "__file__", None):
        read_trusted_code(Path(file))
    elif is_restricted():
        raise ComponentError(f"'{reference}' is called only in training: its module has no file")


@cache
def is_installed(origin: Path, top_level: str) -> bool:
    """Return whether a module's file belongs to an installed distribution.

    ``sys.path`` is no proof: it has the working directory in a notebook, and a whole project, run directories
    included, in an editable installation. Outside ``site-packages`` a file counts in two cases. The RECORD of a
    distribution lists it (``pip install --target``). Or it is in an editable project, and its module is one of the
    project's own.

    :param top_level: the first part of the module's name
    """
    origin = Path(os.path.abspath(origin))
    site_directories = _list_site_directories()
    if any(path.is_relative_to(directory) for path in (origin, origin.resolve()) for directory in site_directories):
        return True
    installed = distributions(path=[*map(str, site_directories)])
    if any(_is_in_editable_project(distribution, origin.resolve(), top_level) for distribution in installed):
        return True
    return _is_recorded(origin)


def _is_recorded(origin: Path) -> bool:
    """Return whether a distribution on ``sys.path``, outside the working directory, lists a file in its RECORD."""
    working_directory = Path.cwd()
    directories = {
        Path(os.path.abspath(entry)) for entry in sys.path if entry and Path(entry).resolve() != working_directory
    }
    return any(
        _lists_file(distribution, origin, origin.relative_to(directory).as_posix())
        for directory in directories
        if origin.is_relative_to(directory)
        for distribution in distributions(path=[str(directory)])
    )


def _lists_file(distribution: Distribution, origin: Path, relative: str) -> bool:
    record = distribution.read_text("RECORD")
    if record is not None and relative not in record:  # to parse the lines of all distributions takes seconds
        return False
    return any(
        Path(os.path.abspath(str(distribution.locate_file(file)))) == origin for file in distribution.files or ()
    )


def _list_site_directories() -> set[Path]:
    directories = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        directories.add(site.getusersitepackages())
    return {path for directory in directories for path in (Path(directory), Path(directory).resolve())}


def _is_in_editable_project(distribution: Distribution, origin: Path, top_level: str) -> bool:
    try:
        source = json.loads(distribution.read_text("direct_url.json") or "{}")
        project = Path(unquote(urlsplit(source["url"]).path))
        is_editable = source["dir_info"]["editable"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(is_editable) and origin.is_relative_to(project.resolve()) and top_level in _list_modules(distribution)


def _list_modules(distribution: Distribution) -> set[str]:
    """Return the top-level modules that the metadata of an editable distribution mentions."""
    names = {distribution.name.replace("-", "_").replace(".", "_")}
    names |= {*(distribution.read_text("top_level.txt") or "").split()}
    names |= {entry_point.module.partition(".")[0] for entry_point in distribution.entry_points}
    return names | {file.parts[0].removesuffix(".py") for file in distribution.files or () if file.suffix == ".py"}
