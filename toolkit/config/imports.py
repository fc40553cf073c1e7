"""Modules by name and loose files by path, imported where their code may run.

While a config is resolved that was opened from a run directory (:mod:`toolkit.config.trust`), a module is imported if
it is imported already, or part of an installed distribution. Everything else is looked at as a file: it needs trust.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import site
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import CodeType, ModuleType
from urllib.parse import unquote, urlsplit

from toolkit.config.trust import code_in, is_strict
from toolkit.utils.errors import ComponentError


def import_by_name(name: str) -> ModuleType:
    """Import a module, parents first.

    :raises ModuleNotFoundError: if there is none
    :raises ComponentError: if its code may not run
    """
    prefixes = [name[: len(name) - len(rest)] for rest in _rests(name)]
    for prefix in prefixes:
        if prefix not in sys.modules and is_strict():
            _import_if_allowed(prefix)
        _note(importlib.import_module(prefix))
    return sys.modules[name]


def import_file(path: Path) -> ModuleType:
    """Import a loose file, again when it has changed since.

    :raises ComponentError: if there is none, or its code may not run
    """
    if not path.is_file():
        raise ComponentError(f"there is no file {path}")
    return _import_version(path, code_in(path))


def _rests(name: str) -> list[str]:
    """Return what follows each prefix of a dotted name: for a.b.c, `.b.c`, `.c` and nothing."""
    parts = name.split(".")
    return ["".join(f".{part}" for part in parts[end:]) for end in range(1, len(parts) + 1)]


@cache
def _import_version(path: Path, content: bytes) -> ModuleType:
    import cloudpickle

    version = hashlib.sha256(os.fsencode(path.resolve()) + b"\n" + content).hexdigest()[:8]
    name = f"toolkit_file_{path.stem}_{version}"
    module = _execute(ModuleSpec(name, _Exactly(name, path, content), origin=str(path)))
    # No other process can import the file under this name, so what a saved model holds of it goes in by value.
    cloudpickle.register_pickle_by_value(module)
    return module


class _Exactly(SourceFileLoader):
    """Runs the source that was looked at: ``__pycache__`` may hold something else, and the file may change."""

    def __init__(self, name: str, path: Path, content: bytes) -> None:
        super().__init__(name, str(path))
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self._content, self.path)
        return code


def _execute(spec: ModuleSpec) -> ModuleType:
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
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
    top, _, _ = name.partition(".")
    if name.rpartition(".")[2] == "__main__":
        raise ComponentError(f"'{name}' is a program, which has no components")
    if top in sys.stdlib_module_names:
        raise ComponentError(f"'{name}' is a module of Python's own, which has no components")
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    if spec.origin is None or is_installed(Path(spec.origin), top):  # without an origin it is a mere directory
        return
    content = code_in(Path(spec.origin))
    if isinstance(spec.loader, SourceFileLoader):
        spec.loader = _Exactly(name, Path(spec.origin), content)
    module = _execute(spec)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


def _note(module: ModuleType) -> None:
    """Take down the file of a module that is not installed: it is part of what the config runs."""
    spec = getattr(module, "__spec__", None)
    top = module.__name__.partition(".")[0]
    if is_strict() or spec is None or not spec.has_location or spec.origin is None or top in sys.stdlib_module_names:
        return
    if not is_installed(Path(spec.origin), top):
        with suppress(ComponentError):  # it has run; a file that has gone since is asked about when it is back
            code_in(Path(spec.origin))


@cache
def is_installed(origin: Path, top: str) -> bool:
    """Say whether a module's file belongs to an installed distribution.

    A place on ``sys.path`` says little: the working directory is one in a notebook, and an editable installation
    puts a whole project there, run directories included. So outside ``site-packages`` a file has to stand in a
    distribution's RECORD (``pip install --target``), or below an editable one's project under one of its own names.

    :param top: the first part of the module's name
    """
    origin = Path(os.path.abspath(origin))
    places = _site_directories()
    if any(one.is_relative_to(place) for one in (origin, origin.resolve()) for place in places):
        return True
    if any(_is_editable(dist, origin.resolve(), top) for dist in distributions(path=[*map(str, places)])):
        return True
    here = Path.cwd()
    targets = [str(Path(entry)) for entry in sys.path if entry and Path(entry).resolve() != here]
    return any(
        Path(os.path.abspath(str(dist.locate_file(file)))) == origin
        for dist in distributions(path=[entry for entry in targets if origin.is_relative_to(os.path.abspath(entry))])
        for file in dist.files or ()
    )


def _site_directories() -> set[Path]:
    found = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        found.add(site.getusersitepackages())
    return {path for place in found for path in (Path(place), Path(place).resolve())}


def _is_editable(dist: Distribution, origin: Path, top: str) -> bool:
    try:
        source = json.loads(dist.read_text("direct_url.json") or "{}")
        project = Path(unquote(urlsplit(source["url"]).path))
        editable = source["dir_info"]["editable"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(editable) and origin.is_relative_to(project.resolve()) and top in _names_of(dist)


def _names_of(dist: Distribution) -> set[str]:
    """Return the top-level modules that an editable distribution says it has, in one of the ways there are."""
    names = {dist.name.replace("-", "_").replace(".", "_"), *(dist.read_text("top_level.txt") or "").split()}
    names |= {entry.module.partition(".")[0] for entry in dist.entry_points}
    return names | {file.parts[0].removesuffix(".py") for file in dist.files or () if file.suffix == ".py"}
