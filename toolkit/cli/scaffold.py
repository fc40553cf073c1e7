"""`toolkit new plugin`: write a plugin package with one component from templates."""

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
_PYTHON_NAMES = {*sys.stdlib_module_names, *dir(builtins), *keyword.kwlist}
_REQUIRED_TOOLS = {"hatchling", "pytest", "tox"}  # a package of the same name would hide them


@dataclass(frozen=True)
class Plugin:
    """A plugin package with one component.

    :param name: name of the folder, from which the other names follow
    :param kind: kind of the component
    """

    name: str
    kind: Kind

    @property
    def package(self) -> str:
        """The import package, and the component's name in a config: ``my_reward``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self.name).lower()

    @property
    def distribution(self) -> str:
        """The name for pip: ``my-reward``."""
        return self.package.replace("_", "-")

    @property
    def class_name(self) -> str:
        """The component's class: ``MyReward``."""
        return "".join(part[0].upper() + part[1:] for part in self.name.split("_"))


def write_plugin(plugin: Plugin, parent: Path = Path()) -> Path:
    """Write a package that installs, passes its own tests and trains. A failure leaves nothing behind.

    :param parent: directory of the new folder
    :return: the new folder
    :raises ToolkitError: if the name is not valid or taken, or the folder cannot be written
    """
    folder = parent / plugin.name
    _check_name(plugin)
    files = _render_files(plugin)
    if os.path.lexists(folder):
        raise ToolkitError(f"{folder}: already exists", "choose another name, or change to another directory")
    try:
        with TemporaryDirectory(prefix=f".{plugin.name}-", suffix=".tmp", dir=parent) as temporary:
            new_folder = Path(temporary) / plugin.name
            for name, text in files.items():
                path = new_folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            new_folder.rename(folder)
    except OSError as error:
        raise ToolkitError(f"{folder}: cannot be written: {error.strerror}") from None
    return folder


def _check_name(plugin: Plugin) -> None:
    """Refuse a name that Python or pip would not accept, or that is taken."""
    pattern = r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*"
    if not re.fullmatch(pattern, plugin.name):
        suggestion = plugin.name.replace("-", "_")
        hint = f"did you mean '{suggestion}'?" if re.fullmatch(pattern, suggestion) else "for example my_reward"
        rule = "use letters, digits and single underscores, and begin with a letter"
        raise ToolkitError(f"'{plugin.name}' is not a valid package name: {rule}", hint)
    if owner := _describe_owner(plugin):
        raise ToolkitError(f"the name '{plugin.package}' is taken: {owner}", "choose another name")


def _describe_owner(plugin: Plugin) -> str:
    """Describe what already has one of the plugin's names; empty if nothing has."""
    package = plugin.package
    if {package, plugin.class_name} & _PYTHON_NAMES:
        return "Python uses it"
    if package in _REQUIRED_TOOLS:
        return "a tool that the package needs has it"
    if claims := list_entry_points(plugin.kind).get(package):
        return f"a {plugin.kind.singular} has it, from {get_provider(claims[0])}"
    if importlib.util.find_spec(package):
        return "an installed module has it"
    try:
        return f"{plugin.distribution} {version(plugin.distribution)} is installed"
    except PackageNotFoundError:
        return ""


def _render_files(plugin: Plugin) -> dict[str, str]:
    """Return the text of each file of the package, by its path in the folder."""
    kind = plugin.kind.singular
    names = {
        "cls": plugin.class_name,
        "distribution": plugin.distribution,
        "kind": kind,
        "kinds": plugin.kind.name,
        "package": plugin.package,
        "requirement": _requirement(),
        "version": version(TOOLKIT),
    }
    component = _fill_template(f"{kind}/component.py", names)
    config = _fill_template(f"{kind}/config.yaml", names)
    test = _fill_template(f"{kind}/test.py", names)
    other_code = (component + test).replace(f"from {plugin.package} import {plugin.class_name}\n", "")
    if re.search(rf"^((from|import) .*\b{plugin.class_name}\b|{plugin.class_name} = )", other_code, re.MULTILINE):
        raise ToolkitError(
            f"the class {plugin.class_name} would hide another that the package needs", "choose another name"
        )
    names |= {"summary": ast.get_docstring(ast.parse(component)) or "", "config": config.rstrip()}
    return {
        "README.md": _fill_template("README.md", names),
        "config.yaml": config,
        "pyproject.toml": _fill_template("pyproject.toml", names),
        f"src/{plugin.package}/__init__.py": component,
        f"src/{plugin.package}/py.typed": "",
        f"tests/test_{plugin.package}.py": test,
        "tox.ini": _fill_template("tox.ini", names),
    }


def _fill_template(template: str, names: dict[str, str]) -> str:
    return Template((_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(names)


def _requirement() -> str:
    """Return a requirement for this toolkit: its name, with the source that it was installed from (PEP 610)."""
    origin = json.loads(distribution(TOOLKIT).read_text("direct_url.json") or "{}")
    if not origin:
        return TOOLKIT
    url: str = origin["url"]
    if origin.get("dir_info", {}).get("editable"):
        return f"--editable {url}"
    if vcs := origin.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"{TOOLKIT} @ {url}" + (f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else "")
