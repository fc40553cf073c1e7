"""What docstrings say of components and their parameters, as plain text.

Parameters are read as Sphinx (``:param x:``), Google (``Args:``) and NumPy (``Parameters``, underlined) have them.
"""

from __future__ import annotations

import inspect
import re
from itertools import pairwise
from typing import Any

_SPHINX = re.compile(r"\s*:(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\**(?P<name>\w+):(?P<text>.*)")
_GOOGLE = re.compile(r"\s+\**(?P<name>\w+)\s*(?:\([^)]*\))?:(?P<text>\s.*|)$")
_NUMPY = re.compile(r"\s*\**(?P<name>\w+)(?:\s*:.*)?(?P<text>)$")
_GOOGLE_HEADING = re.compile(r"(?:Args|Arguments|Params|Parameters|Keyword Args|Keyword Arguments):\s*$")
_ROLE = re.compile(r":\w+(?::\w+)?:`~?([^`<]*?)(?:\s*<[^`>]*>)?`")


def read_documentation(component: type[Any]) -> tuple[str, dict[str, str]]:
    """Return a class's description, and parameter name to what is said of it there or in a parent class."""
    described: dict[str, str] = {}
    for cls in component.__mro__[:-1]:
        for docstring in (cls.__doc__, getattr(vars(cls).get("__init__"), "__doc__", None)):
            described = parse_docstring(docstring)[1] | described
    return parse_docstring(component.__doc__)[0], described


def read_summary(docstring: object) -> str:
    """Return the first line of a docstring, nothing if there is none."""
    return parse_docstring(docstring)[0].partition("\n")[0]


def parse_docstring(docstring: object) -> tuple[str, dict[str, str]]:
    """Take the parameters out of a docstring.

    :return: what remains, and parameter name to text in one line
    """
    lines = inspect.cleandoc(docstring).splitlines() if isinstance(docstring, str) else []
    rest: list[str] = []
    described: dict[str, list[str]] = {}
    section: re.Pattern[str] | None = None
    open_item: tuple[int, list[str]] | None = None  # its indentation, and its lines
    for line, following in pairwise([*lines, ""]):
        indentation = len(line) - len(line.lstrip())
        underlined = bool(re.fullmatch(r"\s*-{3,}\s*", following))
        if open_item and (not line.strip() or indentation > open_item[0]):
            open_item[1].append(line)
            continue
        open_item = None
        if _GOOGLE_HEADING.match(line) or (underlined and line.strip() == "Parameters"):
            section = _NUMPY if underlined else _GOOGLE
            continue
        if section and (underlined or (line.strip() and section is _GOOGLE and not indentation)):
            section = None
        if match := _SPHINX.match(line) or (section and section.match(line)):
            open_item = indentation, described.setdefault(match["name"], [match["text"]])
            rest.append("")
        elif not section or (line.strip() and not line.strip().startswith("---")):
            rest.append(line)
    description = re.sub(r"\n{3,}", "\n\n", "\n".join(rest)).strip()
    return _plain(description), {name: _plain(" ".join(" ".join(text).split())) for name, text in described.items()}


def _plain(text: str) -> str:
    """Drop what only a browser shows well."""
    text = re.sub(r"(?m)^:raises? (\w+):", r"Raises \1:", text)
    return _ROLE.sub(r"\1", text).replace("``", "`")
