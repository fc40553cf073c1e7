"""Read and write YAML: text to plain data with the location of every key, and back.

Scalars follow YAML 1.2's core schema plus underscores in numbers (``50_000``): PyYAML's YAML 1.1 reads ``1e-3`` as
text and ``on`` as true. Tags, aliases and duplicate keys are refused, so that every reader gets the same data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from toolkit.config.trust import RunOrigin
from toolkit.utils.data import iterate_leaves
from toolkit.utils.errors import ConfigError, KeyPath, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
_MAX_EVENTS = 50_000  # values, and starts and ends of lists and mappings: two seconds of parsing
MAX_BITS = 14_000  # of an integer; Python reads and writes at most 4300 digits

_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a UTF-16 pair; only escapes write it, and it cannot be printed
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", rf"[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
_Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def _make_resolvers() -> _Resolvers:
    table: _Resolvers = {}
    for name, pattern, first_characters in _CORE_SCHEMA:
        for first in first_characters:
            entry = (f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"))
            table.setdefault("" if first == "\0" else first, []).append(entry)
    return table


class Loader(yaml.SafeLoader):
    """A YAML loader that refuses everything but plain data of limited size, before it builds any."""

    def __init__(self, text: str, label: str) -> None:
        self.label = label
        self.depth = 0
        self.events = 0
        super().__init__(text)

    def get_event(self) -> yaml.Event:
        """Return the next event if a config may contain it."""
        event: yaml.Event = super().get_event()  # type: ignore[no-untyped-call]
        location = self.label if event.start_mark is None else f"{self.label}:{event.start_mark.line + 1}"
        self.refuse_special(event, location)
        if isinstance(event, yaml.ScalarEvent) and not is_text(event.value):
            raise make_error(location, "an escape gives half of a surrogate pair", "write the character itself")
        self.depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        self.events += 1
        if self.events > _MAX_EVENTS:
            raise make_error(location, f"the file has more than {_MAX_EVENTS:,} values", "shorten it")
        if self.depth > MAX_DEPTH:
            raise make_error(location, f"is nested more than {MAX_DEPTH} levels deep")
        return event

    def refuse_special(self, event: yaml.Event, location: str) -> None:
        """Refuse YAML features beyond plain data."""
        if anchor := getattr(event, "anchor", None):  # an alias has one too
            raise make_error(
                location, f"'{anchor}': anchors and aliases are not read", "use 'extends' to share values"
            )
        if tag := getattr(event, "tag", None):
            raise make_error(location, f"'{tag}': YAML tags are not read", "write the plain value")

    def make_builder(self) -> Builder:
        """Return the builder that turns nodes into data."""
        return Builder(self.label)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML folds these line breaks of YAML 1.1 to a space, except between double quotes
    style = '"' if set(text) & {"\x85", "\u2028", "\u2029"} else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
Loader.yaml_implicit_resolvers = _Dumper.yaml_implicit_resolvers = _make_resolvers()


@dataclass
class Document:
    """Plain data and, for the path of each key in it, its location (``FILE:LINE``).

    :param origin: the run directory that it was read from; ``None`` for the user's own file
    """

    data: Any
    locations: dict[KeyPath, str] = field(default_factory=dict)
    origin: RunOrigin | None = None


def dump(data: Any) -> str:
    """Write plain data so that :func:`parse` reads the same data back."""
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return text


def read(path: Path, loader_class: type[Loader] = Loader) -> Document:
    """Read one YAML file of at most 1 MiB.

    :param loader_class: the dialect of YAML; by default that of configs
    :raises ConfigError: if it cannot be read, is not text, or is not valid YAML of the dialect
    """
    try:
        if path.exists() and not path.is_file():
            raise make_error(f"{path}", "is not a file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise make_error(f"{path}", f"is larger than {MAX_BYTES >> 20} MiB", "shorten it")
        return parse(content.decode("utf-8"), str(path), loader_class)
    except OSError as error:
        raise make_error(f"{path}", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise make_error(f"{path}:{line}", "is not UTF-8 text") from None
    except ValueError as error:  # a path with a NUL
        raise make_error(f"{path}", f"cannot be read: {error}") from None


def parse(text: str, label: str, loader_class: type[Loader] = Loader) -> Document:
    """Parse YAML text.

    :param label: the file in locations
    :raises ConfigError: at the first line that cannot be read, or with every duplicate key
    """
    try:
        loader = loader_class(text, label)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = f"{label}:{mark.line + 1}" if mark else label
        raise make_error(location, f"is not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        location = f"{label}:{text.count(chr(10), 0, error.position) + 1}"
        raise make_error(location, f"is not text: {str(error).splitlines()[0]}") from None
    except (ValueError, OverflowError) as error:  # an escape of no character, a version of thousands of digits
        raise make_error(f"{label}:{loader.line + 1}", f"is not valid YAML: {error}") from None
    if node is None:
        return Document(None, {(): label})
    builder = loader.make_builder()
    data = builder.build(node, ())
    if builder.problems:
        raise ConfigError(builder.problems, builder.locations)
    return Document(data, builder.locations)


def walk(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value in plain data with its path, containers before their items."""
    yield path, data
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from walk(value, (*path, key))


def flatten_to_text(data: Any) -> dict[KeyPath, str]:
    """Return the values of plain data by path, without the containers that are not empty.

    :return: each value as text, so that NaN equals NaN and 1 does not equal true
    """
    return {path: repr(value) for path, value in iterate_leaves(data)}


def is_text(text: str) -> bool:
    """Return whether UTF-8 can encode the text."""
    return not _SURROGATE.search(text)


def get_value(data: Any, path: KeyPath) -> Any:
    """Return the value at a path that plain data has."""
    return reduce(getitem, path, data)


def get_locations(document: Document, path: KeyPath) -> dict[KeyPath, str]:
    """Return the locations of the value at a path, which is at ``()``, and of everything in it."""
    locations = {inner[len(path) :]: line for inner, line in document.locations.items() if inner[: len(path)] == path}
    nearest = Problem(path, "").nearest(document.locations)
    return {(): document.locations[nearest]} | locations if nearest is not None else locations


def make_error(location: str, message: str, hint: str = "") -> ConfigError:
    """Return the error about the YAML at a location (``FILE:LINE``)."""
    return ConfigError([Problem((), message, hint)], {(): location})


class Builder:
    """Turns YAML nodes into plain data and records the location of every key."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.locations: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []
        self.duplicates: set[KeyPath] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return a node's data."""
        self.locations.setdefault(path, f"{self.label}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self.build_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return _build_scalar(node)
        except ValueError:  # Python refuses to read an integer of more than 4300 digits
            self.problems.append(Problem(path, "is too long a number"))
            return None

    def build_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        """Return a mapping's data."""
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            location = f"{self.label}:{key_node.start_mark.line + 1}"
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            key_path = (*path, key)
            if key_node.tag != "tag:yaml.org,2002:str":
                self.locations.setdefault(key_path, location)
                self.problems.append(Problem(key_path, "a key must be text", "put it in quotes"))
            elif key in data and key_path not in self.duplicates:
                first_line = self.locations[key_path].rpartition(":")[2]
                self.locations[key_path] = location
                self.duplicates.add(key_path)
                self.problems.append(Problem(key_path, f"duplicate key, first given in line {first_line}"))
            self.locations.setdefault(key_path, location)
            data[key] = self.build(value_node, key_path)
        return data


def _build_scalar(node: yaml.Node) -> Any:
    text: str = node.value
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        number = int(text, base)
        if number.bit_length() > MAX_BITS:  # hexadecimal and octal are read at any length, and then cannot be written
            raise ValueError
        return number
    if kind == "float":
        special = text.lower().replace(".inf", "inf").replace(".nan", "nan")
        return float(special)
    return text
