"""Compose a config from a file, the files it extends, and overrides: one document that knows every location."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.values import replaces_value
from toolkit.config.yaml_document import Document
from toolkit.utils.errors import ConfigError, KeyPath, Problem

_FILE_REFERENCE = re.compile(r"[^:]*\.py:[\w./-]+")  # the module of `module:Name` does not end in .py
_DATA_FILE = re.compile(r"(?!\{run\})[^:]*\.npz")  # a path in the run directory is absolute
_START = re.compile(r"(.*\.)?start_from(\.path)?(\.\d+)?")  # dotted path of a file or directory, also in a grid
_TOO_DEEP = f"is nested more than {yaml_document.MAX_DEPTH} levels deep"


def compose_document(path: str | Path) -> Document:
    """Read a file and merge it into the file that it extends.

    :raises ConfigError: if a file cannot be read
    """
    document = _read_extended(Path(path), ())
    if isinstance(document.data, dict):
        document.data.setdefault("name", _make_run_name(Path(path).stem))
    return document


def _make_run_name(stem: str) -> str:
    """Return a file's stem as a directory name, with dashes for special characters."""
    words = "".join(char if char.isalpha() or char.isdecimal() or char in "_.-" else " " for char in stem).split()
    return "-".join(words).strip("-.")[:100] or "run"


def apply_overrides(document: Document, overrides: Sequence[str] | Mapping[str, Any]) -> None:
    """Set values in a document.

    :param overrides: ``dotted.path=YAML``, as after ``--set``; or Python values by dotted path, where ``__`` may
        replace the dot, and a class means its import path
    :raises ConfigError: if a value does not fit, or a later one discards an earlier one
    """
    previous: list[str] = []
    for dotted, value, label in _parse_overrides(overrides):
        for earlier in previous:
            if earlier != dotted and shadows(dotted, earlier):
                problem = Problem((), f"discards the earlier override of {earlier}", "give it first")
                raise ConfigError([problem], {(): label})
        _set_value(document, dotted, value, label, Path.cwd())
        previous.append(dotted)


def _parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the dotted path and the value of each override, and the text that messages show for it."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            label = f"{key}={_format_value(value)}"
            yield key.replace("__", "."), to_plain_data(value, label), label
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


def _format_value(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # for example of an integer of more than 4300 digits
        return f"a {type(value).__name__}"


def to_plain_data(value: Any, label: str, depth: int = 0) -> Any:
    """Return a Python value as YAML holds it: lists for tuples, paths for classes.

    :param label: the location in the error
    :raises ConfigError: if YAML cannot hold it
    """
    if hasattr(value, "tolist") and not isinstance(value, type):  # an array or number of NumPy's
        value = value.tolist()
    if problem := _check_plain(value, depth):
        raise ConfigError([problem], {(): label})
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, Mapping):
        return {key: to_plain_data(item, label, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_data(item, label, depth + 1) for item in value]
    return str(value) if isinstance(value, Path) else value


def _check_plain(value: Any, depth: int) -> Problem | None:
    """Return the problem with a value that no YAML file can hold."""
    message, hint = "", ""
    match value:
        case _ if depth > yaml_document.MAX_DEPTH:
            message = _TOO_DEEP
        case type() if "<locals>" in value.__qualname__:
            message, hint = f"{value.__qualname__} is local to a function", "define it at module level"
        case Mapping() if not all(isinstance(key, str) and yaml_document.is_text(key) for key in value):
            message = "a key must be text"
        case int() if value.bit_length() > yaml_document.MAX_BITS:
            message = "is too long a number"
        case str() if not yaml_document.is_text(value):
            message = "is not text"
        case None | type() | Mapping() | list() | tuple() | Path() | str() | int() | float():
            pass
        case _:
            message = f"a {type(value).__name__} cannot stand in a config"
            hint = "name it: {'function': 'module:name'}" if callable(value) else "name a class, or give plain data"
    return Problem((), message, hint) if message else None


def _read_extended(path: Path, chain: tuple[Path, ...]) -> Document:
    """Read a file and merge it into the file that it extends.

    :param chain: the files that lead to it, each extending the next
    """
    document = yaml_document.read(path)
    if not isinstance(document.data, dict):
        if chain:
            message = "is empty" if document.data is None else "must be a mapping of keys to values"
            raise ConfigError([Problem((), message)], document.locations)
        return document
    _make_paths_absolute(document.data, path.resolve().parent)
    if "extends" not in document.data:
        return document
    base = path.parent / _pop_base(document)
    if not os.path.isfile(base):  # Path.is_file raises for a name that is too long
        raise _make_base_error(document, f"file {base} does not exist")
    chain = (*chain, path.resolve())
    if base.resolve() in chain:
        raise _make_base_error(document, f"is circular: {' -> '.join(map(str, [*chain, base.resolve()]))}")
    if len(chain) > yaml_document.MAX_DEPTH:
        raise _make_base_error(document, f"follows {len(chain)} files that extend one another")
    return _merge(_read_extended(base, chain), document)


def _pop_base(document: Document) -> str:
    base = document.data.pop("extends")
    if not isinstance(base, str):
        raise _make_base_error(document, "must be the path of one file")
    return base


def _make_base_error(document: Document, message: str) -> ConfigError:
    return ConfigError([Problem(("extends",), message)], document.locations)


def _make_paths_absolute(data: dict[str, Any], directory: Path) -> None:
    """Make the paths of Python and data files independent of the working directory."""
    for path, value in yaml_document.walk(data):
        if isinstance(value, str) and _is_file(path, value):
            yaml_document.get_value(data, path[:-1])[path[-1]] = str(directory / value)


def _is_file(path: KeyPath, value: str) -> bool:
    """Return whether text is a component in a file, a module, a model to start from, or an ``.npz``, at any depth."""
    is_module = any(str(key).partition(".")[0] == "import_modules" for key in path)
    is_model = bool(value) and bool(_START.fullmatch(".".join(map(str, path))))
    return bool(_FILE_REFERENCE.fullmatch(value) or _DATA_FILE.fullmatch(value) or is_model) or (
        is_module and value.endswith(".py")
    )


def _merge(base: Document, extension: Document) -> Document:
    """Merge two documents: mappings merge, lists, scalars and other kinds of values replace."""
    locations = dict(base.locations)

    def merge(path: KeyPath, old: Any, new: Any) -> Any:
        if isinstance(old, dict) and isinstance(new, dict) and not replaces_value(old, new):
            return old | {key: merge((*path, key), old.get(key), value) for key, value in new.items()}
        for replaced, _ in yaml_document.walk(old, path):
            locations.pop(replaced, None)
        return new

    data = merge((), base.data, extension.data)
    return Document(data, locations | extension.locations)


def apply_override(
    document: Document, dotted: str, value: Any, locations: Mapping[KeyPath, str], directory: Path
) -> KeyPath:
    """Set a value from another file in a document.

    :param locations: of the value, at ``()``, and of everything in it, as ``FILE:LINE``
    :param directory: paths of files in the value are relative to it
    :return: the value's path in the document
    :raises ConfigError: if the value does not fit, with its location
    """
    path = _set_value(document, dotted, copy.deepcopy(value), locations[()], directory)
    document.locations.update({(*path, *inner): location for inner, location in locations.items()})
    return path


def shadows(later: str, earlier: str) -> bool:
    """Return whether a later override discards an earlier one.

    A whole, as ``env``, discards its parts. The name of a component in a list discards the parameters of the component
    that it replaces.

    :param later: dotted path of the later override
    :param earlier: dotted path of the earlier one
    """
    parent, _, key = later.rpartition(".")
    is_listed_component = key == "name" and parent.rpartition(".")[2].isdecimal()
    return f"{earlier}.".startswith((f"{later}.", *([f"{parent}.params."] if is_listed_component else [])))


def _set_value(document: Document, dotted: str, value: Any, label: str, directory: Path) -> KeyPath:
    if dotted == "extends":
        raise ConfigError([Problem(("extends",), "can only be given in a file")], {(): label})
    keys = _split_path(document.data, dotted)
    value = _resolve_paths(keys[0], value, directory)
    if len(keys) > yaml_document.MAX_DEPTH:
        raise ConfigError([Problem((), _TOO_DEEP)], {(): label})
    path, new_paths = _open_path(document.data, keys, label)
    container = yaml_document.get_value(document.data, path[:-1])
    is_listed_component = len(path) >= 2 and isinstance(path[-2], int)
    if is_listed_component and path[-1] == "name" and container.get("name") != value:
        container.pop("params", None)  # they belong to the component that is replaced
    container[path[-1]] = value
    for inner in [inner for inner in document.locations if inner[: len(path)] == path]:
        del document.locations[inner]
    document.locations.update(dict.fromkeys([*new_paths, path], label))
    if any(len(inner) > yaml_document.MAX_DEPTH for inner, _ in yaml_document.walk(document.data)):
        raise ConfigError([Problem((), _TOO_DEEP)], {(): label})
    return path


def _resolve_paths(key: str, value: Any, directory: Path) -> Any:
    data = {key: value}
    _make_paths_absolute(data, directory)
    return data[key]


def _split_path(data: Any, dotted: str) -> list[str]:
    """Split a dotted path into keys; a rest that is a key of the document stays whole."""
    keys: list[str] = []
    while "." in dotted and not (isinstance(data, dict) and dotted in data):
        key, _, dotted = dotted.partition(".")
        keys.append(key)
        data = data.get(key) if isinstance(data, dict) else None
    return [*keys, dotted]


def _open_path(data: Any, keys: Sequence[str], label: str) -> tuple[KeyPath, list[KeyPath]]:
    """Turn keys into a path in the document and create the mappings that it passes through.

    :return: the path, where an entry of a list is a number, and the paths of new mappings
    """
    path: KeyPath = ()
    new_paths: list[KeyPath] = []
    for depth in range(len(keys)):
        step = _check_step(data, keys, depth, path, label)
        path = (*path, step)
        if depth == len(keys) - 1:
            break
        if isinstance(data, dict) and step not in data:
            data[step] = {}
            new_paths.append(path)
        if isinstance(data[step], str):
            data[step] = {"name": data[step]}  # a component given by its bare name
            new_paths.append(path)
        data = data[step]
    return path, new_paths


def _check_step(data: Any, keys: Sequence[str], depth: int, path: KeyPath, label: str) -> str | int:
    """Return the key of a mapping or the index of a list at one step of a path.

    :raises ConfigError: if the document has neither there
    """
    key, parent = keys[depth], ".".join(keys[:depth]) or "the config"
    if isinstance(data, dict):
        return key
    if isinstance(data, list):
        if key in map(str, range(len(data))):
            return int(key)
        message = f"{parent} is a list of {len(data)}; its entries are numbered from 0"
    else:
        message = f"{parent} is {data!r} and has no keys"
    raise ConfigError([Problem((*path, key), message)], {(): label})
