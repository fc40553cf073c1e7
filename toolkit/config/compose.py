"""A config file, what it extends and ``--set``: one document that knows where each value stands."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.yaml_document import Document
from toolkit.utils.errors import ConfigError, KeyPath, Problem

_FILE_REFERENCE = re.compile(r"[^:]*\.py:[\w.]+")  # the module of `module:Name` does not end in .py


def read(path: str | Path) -> Document:
    """Read a config file with what it extends.

    :raises ConfigError: if a file cannot be read
    """
    document = _read_extended(Path(path), ())
    if isinstance(document.data, dict):
        document.data.setdefault("name", _run_name(Path(path).stem))
    return document


def _run_name(stem: str) -> str:
    """Return a file's name as the name of its run: what no directory should be called is a dash."""
    plain = "".join(one if one.isalpha() or one.isdecimal() or one in "_.-" else " " for one in stem)
    return "-".join(plain.split()).strip("-.")[:100] or "run"


def override(document: Document, overrides: Sequence[str] | Mapping[str, Any]) -> None:
    """Lay values over a document.

    :param overrides: ``dotted.path=YAML``, as after ``--set``; or Python values by dotted path, in which ``__`` may
        stand for the dot and a class stands for its path
    :raises ConfigError: if one does not fit, or leaves nothing of one before it
    """
    before: list[str] = []
    for dotted, value, label in _parsed(overrides):
        for earlier in before:
            if earlier != dotted and shadows(dotted, earlier):
                raise ConfigError(
                    [Problem((), f"leaves nothing of the {earlier} before it", "give it first")], {(): label}
                )
        _put(document, dotted, value, label, Path.cwd())
        before.append(dotted)


def _parsed(overrides: Sequence[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the dotted path of each value, the value, and what the user wrote."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            label = f"{key}={_shown(value)}"
            yield key.replace("__", "."), plain(value, label), label
        return
    for text in overrides:
        label = f"--set {text}"
        dotted, equals, value = text.partition("=")
        if not equals or not dotted:
            raise ConfigError([Problem((), "must have the form dotted.path=value")], {(): label})
        try:
            parsed = yaml_document.parse(value, label).data
        except ConfigError as error:
            raise ConfigError(error.problems, {(): label}) from None
        yield dotted, parsed, label


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # an integer of more than 4300 digits, for one
        return f"a {type(value).__name__}"


def plain(value: Any, label: str, depth: int = 0) -> Any:
    """Return what YAML would hold: lists for tuples, paths for classes."""
    if hasattr(value, "tolist") and not isinstance(value, type):  # an array or number of NumPy's
        value = value.tolist()
    if problem := _unfit(value, depth):
        raise ConfigError([problem], {(): label})
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, Mapping):
        return {key: plain(one, label, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, label, depth + 1) for one in value]
    return str(value) if isinstance(value, Path) else value


def _unfit(value: Any, depth: int) -> Problem | None:
    """Say why no YAML file could hold a value."""
    message, hint = "", ""
    match value:
        case _ if depth > yaml_document.MAX_DEPTH:
            message = f"is nested more than {yaml_document.MAX_DEPTH} levels deep"
        case type() if "<locals>" in value.__qualname__:
            message, hint = f"{value.__qualname__} cannot be found by name", "define it outside of functions"
        case Mapping() if not all(isinstance(key, str) and yaml_document.is_text(key) for key in value):
            message = "a key must be text"
        case int() if value.bit_length() > yaml_document.MAX_BITS:
            message = "is too long a number"
        case str() if not yaml_document.is_text(value):
            message = "is not text"
        case None | type() | Mapping() | list() | tuple() | Path() | str() | int() | float():
            pass
        case _:
            message, hint = f"a {type(value).__name__} cannot stand in a config", "name a class, or give plain data"
    return Problem((), message, hint) if message else None


def _read_extended(path: Path, chain: tuple[Path, ...]) -> Document:
    document = yaml_document.read(path)
    if not isinstance(document.data, dict):
        if chain:
            what = "is empty" if document.data is None else "must be a mapping of keys to values"
            raise ConfigError([Problem((), what)], document.locations)
        return document
    _make_absolute(document.data, path.resolve().parent)
    if "extends" not in document.data:
        return document
    base = document.data.pop("extends")
    if not isinstance(base, str):
        raise ConfigError([Problem(("extends",), "must be the path of one file")], document.locations)
    base_path = path.parent / base
    if not os.path.isfile(base_path):  # Path.is_file raises for a name that is too long
        raise ConfigError([Problem(("extends",), f"there is no file {base_path}")], document.locations)
    chain = (*chain, path.resolve())
    if base_path.resolve() in chain:
        loop = " -> ".join(str(link) for link in (*chain, base_path.resolve()))
        raise ConfigError([Problem(("extends",), f"goes round in a circle: {loop}")], document.locations)
    if len(chain) > yaml_document.MAX_DEPTH:
        message = f"comes after {len(chain)} files that extend one another"
        raise ConfigError([Problem(("extends",), message)], document.locations)
    return _merge(_read_extended(base_path, chain), document)


def _make_absolute(data: dict[str, Any], directory: Path) -> None:
    """Make the paths of loose files independent of where the program runs."""
    for place, value in yaml_document.walk(data):
        if isinstance(value, str) and _names_file(place, value):
            yaml_document.value_at(data, place[:-1])[place[-1]] = str(directory / value)


def _names_file(place: KeyPath, value: str) -> bool:
    """Say whether text is a component in a file, or a file among the modules to import."""
    is_module = any(str(key).partition(".")[0] == "import_modules" for key in place)  # in an experiment file, deeper
    return bool(_FILE_REFERENCE.fullmatch(value)) or (is_module and value.endswith(".py"))


def _merge(base: Document, over: Document) -> Document:
    """Lay one document over another: mappings merge, lists and scalars replace."""
    places = dict(base.locations)

    def merge(path: KeyPath, below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            return below | {key: merge((*path, key), below.get(key), value) for key, value in above.items()}
        for place, _ in yaml_document.walk(below, path):
            places.pop(place, None)
        return above

    data = merge((), base.data, over.data)
    return Document(data, places | over.locations)


def _forget(places: dict[KeyPath, str], path: KeyPath) -> None:
    """Drop the places of a value and of everything in it."""
    for place in [place for place in places if place[: len(path)] == path]:
        del places[place]


def apply_override(
    document: Document, dotted: str, value: Any, places: Mapping[KeyPath, str], directory: Path
) -> KeyPath:
    """Lay a value that stands in another file over a document.

    :param places: where the value (at ``()``) and what it holds were written, as ``FILE:LINE``
    :param directory: what the paths of loose files in it are relative to
    :return: the value's path in the document
    :raises ConfigError: if it does not fit, at its place
    """
    path = _put(document, dotted, copy.deepcopy(value), places[()], directory)
    document.locations.update({(*path, *below): place for below, place in places.items()})
    return path


def shadows(later: str, earlier: str) -> bool:
    """Say whether a value leaves nothing of another that was laid over a config before it.

    A whole, as ``env``, leaves nothing of its parts; the name of a component in a list nothing of the parameters that
    were given to the one that stood there.

    :param later: its dotted path
    :param earlier: the other's
    """
    holder, _, key = later.rpartition(".")
    is_listed_component = key == "name" and holder.rpartition(".")[2].isdecimal()
    return f"{earlier}.".startswith((f"{later}.", *([f"{holder}.params."] if is_listed_component else [])))


def _put(document: Document, dotted: str, value: Any, label: str, directory: Path) -> KeyPath:
    if dotted == "extends":
        raise ConfigError([Problem(("extends",), "can only be given in a file")], {(): label})
    keys = _keys(document.data, dotted)
    holder = {keys[0]: value}
    _make_absolute(holder, directory)
    value = holder[keys[0]]
    too_deep = ConfigError([Problem((), f"is nested more than {yaml_document.MAX_DEPTH} levels deep")], {(): label})
    if len(keys) > yaml_document.MAX_DEPTH:
        raise too_deep
    path, made = _open_path(document.data, keys, label)
    container = yaml_document.value_at(document.data, path[:-1])
    is_listed_component = len(path) >= 2 and isinstance(path[-2], int)
    if is_listed_component and path[-1] == "name" and container.get("name") != value:
        container.pop("params", None)  # they were the parameters of the component that stood here
    container[path[-1]] = value
    _forget(document.locations, path)
    document.locations.update(dict.fromkeys([*made, path], label))
    if any(len(place) > yaml_document.MAX_DEPTH for place, _ in yaml_document.walk(document.data)):
        raise too_deep
    return path


def _keys(data: Any, dotted: str) -> list[str]:
    """Split a dotted path into keys; what is left of it is one key where the document has one of that name."""
    keys: list[str] = []
    while "." in dotted and not (isinstance(data, dict) and dotted in data):
        key, _, dotted = dotted.partition(".")
        keys.append(key)
        data = data.get(key) if isinstance(data, dict) else None
    return [*keys, dotted]


def _open_path(data: Any, keys: Sequence[str], label: str) -> tuple[KeyPath, list[KeyPath]]:
    """Turn dotted keys into a path, where a number is an entry if the config has a list there.

    :return: the path, and the paths of the mappings that had to be made on the way to it
    """
    path: KeyPath = ()
    made: list[KeyPath] = []
    for depth, key in enumerate(keys):
        where = ".".join(keys[:depth]) or "the config"
        step: Any = key
        if isinstance(data, list):
            if key not in map(str, range(len(data))):
                message = f"{where} is a list of {len(data)}; its entries are numbered from 0"
                raise ConfigError([Problem((*path, key), message)], {(): label})
            step = int(key)
        elif not isinstance(data, dict):
            raise ConfigError([Problem((*path, key), f"{where} is {data!r} and holds no keys")], {(): label})
        path = (*path, step)
        if depth == len(keys) - 1:
            break
        if isinstance(data, dict) and step not in data:
            data[step] = {}
            made.append(path)
        if isinstance(data[step], str):
            data[step] = {"name": data[step]}  # a component given by its bare name
            made.append(path)
        data = data[step]
    return path, made
