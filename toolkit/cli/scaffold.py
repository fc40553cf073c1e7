"""A plugin package to start from."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import keyword
import os
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from toolkit.config.catalog import TOOLKIT
from toolkit.config.registry import Kind, get_provider, list_entry_points
from toolkit.utils.errors import ToolkitError

_TEMPLATES = Path(__file__).with_name("templates") / "plugin"
_OF_PYTHON = {*sys.stdlib_module_names, *dir(builtins), *keyword.kwlist}
_OF_THE_PACKAGE = {"hatchling", "pytest", "tox"}  # which it needs, wherever it is installed


@dataclass(frozen=True)
class Plugin:
    """A package with one component, by the name that its author gave.

    :param name: of the folder; the other names are this one in the spelling of each
    :param kind: of the component
    """

    name: str
    kind: Kind

    @property
    def package(self) -> str:
        """The import package, and the name of the component in a YAML file: ``my_reward``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self.name).lower()

    @property
    def distribution(self) -> str:
        """What pip calls it: ``my-reward``."""
        return self.package.replace("_", "-")

    @property
    def cls(self) -> str:
        """The class: ``MyReward``."""
        return "".join(part[0].upper() + part[1:] for part in self.name.split("_"))


def write_plugin(plugin: Plugin, parent: Path = Path()) -> Path:
    """Write a package that installs, passes its own tests and trains, into a new folder: all of it or nothing.

    :param parent: the directory for the folder
    :return: the folder
    :raises ToolkitError: if the name will not do or is taken, or the folder cannot be written
    """
    folder = parent / plugin.name
    _check_name(plugin)
    files = _files(plugin)
    if os.path.lexists(folder):
        raise ToolkitError(f"{folder}: is there already", "choose another name, or another directory to be in")
    try:
        with TemporaryDirectory(prefix=f".{plugin.name}-", suffix=".tmp", dir=parent) as temporary:
            written = Path(temporary) / plugin.name
            for name, text in files.items():
                path = written / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            written.rename(folder)
    except OSError as error:
        raise ToolkitError(f"{folder}: cannot be written: {error.strerror}") from None
    return folder


def _check_name(plugin: Plugin) -> None:
    """Refuse a name that is none in Python and for pip, or that something else has here."""
    good = r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*"
    if not re.fullmatch(good, plugin.name):
        likely = plugin.name.replace("-", "_")
        hint = f"did you mean '{likely}'?" if re.fullmatch(good, likely) else "for example my_reward"
        wanted = "it takes letters, digits and single underscores between them, a letter first"
        raise ToolkitError(f"'{plugin.name}' is no name for a package: {wanted}", hint)
    if owner := _owner(plugin):
        raise ToolkitError(f"the name '{plugin.package}' is taken: {owner}", "choose another one")


def _owner(plugin: Plugin) -> str:
    """Say what else has one of the plugin's names, in a few words; nothing if nothing has."""
    package = plugin.package
    if {package, plugin.cls} & _OF_PYTHON:
        return "it is one of Python's own"
    if package in _OF_THE_PACKAGE:
        return "it is that of a tool the package needs"
    if claims := list_entry_points(plugin.kind).get(package):
        return f"there is a {plugin.kind.singular} of that name, by {get_provider(claims[0])}"
    if importlib.util.find_spec(package):
        return "a module of that name is installed here"
    try:
        return f"{plugin.distribution} {version(plugin.distribution)} is installed here"
    except PackageNotFoundError:
        return ""


def _files(plugin: Plugin) -> dict[str, str]:
    """Return what the package consists of: the text of each file by its path in the folder."""
    kind = plugin.kind.singular
    names = {
        "cls": plugin.cls,
        "distribution": plugin.distribution,
        "kind": kind,
        "kinds": plugin.kind.name,
        "package": plugin.package,
        "requirement": _requirement(),
        "version": version(TOOLKIT),
    }
    component = _filled(f"{kind}/component.py", names)
    config = _filled(f"{kind}/config.yaml", names)
    test = _filled(f"{kind}/test.py", names)
    others = (component + test).replace(f"from {plugin.package} import {plugin.cls}\n", "")
    if re.search(rf"^((from|import) .*\b{plugin.cls}\b|{plugin.cls} = )", others, re.MULTILINE):
        raise ToolkitError(f"the class would be called {plugin.cls}, as one that it needs", "choose another name")
    names |= {"summary": ast.get_docstring(ast.parse(component)) or "", "config": config.rstrip()}
    return {
        "README.md": _filled("README.md", names),
        "config.yaml": config,
        "pyproject.toml": _filled("pyproject.toml", names),
        f"src/{plugin.package}/__init__.py": component,
        f"src/{plugin.package}/py.typed": "",
        f"tests/test_{plugin.package}.py": test,
        "tox.ini": _filled("tox.ini", names),
    }


def _filled(template: str, names: dict[str, str]) -> str:
    return Template((_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(names)


def _requirement() -> str:
    """Return what pip has to be told to install this toolkit: where it came from (PEP 610), or its name alone."""
    origin = json.loads(distribution(TOOLKIT).read_text("direct_url.json") or "{}")
    if not origin:
        return TOOLKIT
    url: str = origin["url"]
    if origin.get("dir_info", {}).get("editable"):
        return f"--editable {url}"
    if vcs := origin.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"{TOOLKIT} @ {url}" + (f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else "")
