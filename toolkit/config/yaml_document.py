"""YAML text to plain data and back, with the place of every key.

YAML 1.2's core schema with underscores in numbers (``50_000``), because PyYAML's YAML 1.1 reads ``1e-3`` as text and
``on`` as true. Tags, aliases and duplicate keys are refused: a config is data, read the same by everybody.
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
from toolkit.utils.errors import ConfigError, KeyPath, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
_MOST_EVENTS = 50_000  # values, and starts and ends of lists and mappings: two seconds of parsing
MAX_BITS = 14_000  # of an integer; Python writes and reads no more than 4300 digits

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # of UTF-16, which only an escape can write; it cannot be printed
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


def _resolvers() -> _Resolvers:
    table: _Resolvers = {}
    for name, pattern, first_characters in _CORE_SCHEMA:
        for first in first_characters:
            entry = (f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"))
            table.setdefault("" if first == "\0" else first, []).append(entry)
    return table


class Loader(yaml.SafeLoader):
    """Refuses what is not plain, and too deep nesting, before anything is made of it."""

    def __init__(self, text: str, label: str) -> None:
        self.label = label
        self.depth = 0
        self.events = 0
        super().__init__(text)

    def get_event(self) -> yaml.Event:
        """Return the next event, if it may stand in a config."""
        event: yaml.Event = super().get_event()  # type: ignore[no-untyped-call]
        place = self.label if event.start_mark is None else f"{self.label}:{event.start_mark.line + 1}"
        self.refuse_special(event, place)
        if isinstance(event, yaml.ScalarEvent) and not is_text(event.value):
            raise error_at(place, "an escape gives half of a surrogate pair", "write the character itself")
        self.depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        self.events += 1
        if self.events > _MOST_EVENTS:
            raise error_at(
                place, f"there are more than {_MOST_EVENTS:,} values up to here", "a config is a page of text"
            )
        if self.depth > MAX_DEPTH:
            raise error_at(place, f"is nested more than {MAX_DEPTH} levels deep")
        return event

    def refuse_special(self, event: yaml.Event, place: str) -> None:
        """Refuse what YAML has beside plain data."""
        if anchor := getattr(event, "anchor", None):  # an alias has one too
            raise error_at(place, f"'{anchor}': anchors and aliases are not read", "use 'extends' to share values")
        if tag := getattr(event, "tag", None):
            raise error_at(place, f"'{tag}': YAML tags are not read", "write the plain value")

    def builder(self) -> Builder:
        """Return what turns the nodes into data."""
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
Loader.yaml_implicit_resolvers = _Dumper.yaml_implicit_resolvers = _resolvers()


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


def read(path: Path, dialect: type[Loader] = Loader) -> Document:
    """Read one YAML file of at most 1 MiB.

    :param dialect: which YAML it is written in; by default that of configs
    :raises ConfigError: if it cannot be read, is no text, or is no YAML of the kind this module describes
    """
    try:
        if path.exists() and not path.is_file():
            raise error_at(f"{path}", "is not a file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise error_at(f"{path}", f"is larger than {MAX_BYTES >> 20} MiB", "a config is a page of text")
        return parse(content.decode("utf-8"), str(path), dialect)
    except OSError as error:
        raise error_at(f"{path}", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise error_at(f"{path}:{line}", "is not UTF-8 text") from None
    except ValueError as error:  # a path with a NUL
        raise error_at(f"{path}", f"cannot be read: {error}") from None


def parse(text: str, label: str, dialect: type[Loader] = Loader) -> Document:
    """Parse YAML text; ``label`` is what its places are called.

    :raises ConfigError: at the first line that cannot be read, or with every duplicate key
    """
    try:
        loader = dialect(text, label)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{label}:{mark.line + 1}" if mark else label
        raise error_at(place, f"is not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        place = f"{label}:{text.count(chr(10), 0, error.position) + 1}"
        raise error_at(place, f"is not text: {str(error).splitlines()[0]}") from None
    except (ValueError, OverflowError) as error:  # an escape of no character, a version of thousands of digits
        raise error_at(f"{label}:{loader.line + 1}", f"is not valid YAML: {error}") from None
    if node is None:
        return Document(None, {(): label})
    builder = loader.builder()
    data = builder.build(node, ())
    if builder.problems:
        raise ConfigError(builder.problems, builder.locations)
    return Document(data, builder.locations)


def walk(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value in plain data with its path, containers before what they hold."""
    yield path, data
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from walk(value, (*path, key))


def leaves(data: Any) -> dict[KeyPath, str]:
    """Return what plain data says, by path, without what only holds something else.

    :return: each value as text, since NaN is not equal to itself, and 1 is equal to true
    """
    return {path: repr(value) for path, value in walk(data) if not value or not isinstance(value, dict | list)}


def is_text(text: str) -> bool:
    """Say whether text can be written in UTF-8."""
    return not _HALF_A_PAIR.search(text)


def value_at(data: Any, path: KeyPath) -> Any:
    """Return the value at a path that plain data has."""
    return reduce(getitem, path, data)


def locations_under(document: Document, path: KeyPath) -> dict[KeyPath, str]:
    """Return where the value at a path, at ``()``, and what it holds were written."""
    places = {place[len(path) :]: line for place, line in document.locations.items() if place[: len(path)] == path}
    nearest = Problem(path, "").nearest(document.locations)
    return {(): document.locations[nearest]} | places if nearest is not None else places


def error_at(place: str, message: str, hint: str = "") -> ConfigError:
    """Return what to raise about the YAML at a place (``FILE:LINE``)."""
    return ConfigError([Problem((), message, hint)], {(): place})


class Builder:
    """Turns YAML nodes into plain data and notes where each key stands."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.locations: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []
        self.duplicates: set[KeyPath] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return a node's data."""
        self.locations.setdefault(path, f"{self.label}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return _scalar(node)
        except ValueError:  # Python refuses to read an integer of more than 4300 digits
            self.problems.append(Problem(path, "is too long a number"))
            return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        """Return a mapping's data."""
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{self.label}:{key_node.start_mark.line + 1}"
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            key_path = (*path, key)
            if key_node.tag != "tag:yaml.org,2002:str":
                self.locations.setdefault(key_path, place)
                self.problems.append(Problem(key_path, "a key must be text", "put it in quotes"))
            elif key in data and key_path not in self.duplicates:
                first = self.locations[key_path].rpartition(":")[2]
                self.locations[key_path] = place
                self.duplicates.add(key_path)
                self.problems.append(Problem(key_path, f"duplicate key, first given in line {first}"))
            self.locations.setdefault(key_path, place)
            data[key] = self.build(value_node, key_path)
        return data


def _scalar(node: yaml.Node) -> Any:
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
