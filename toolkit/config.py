"""The run config: what a YAML file may say, read, extended, overridden and written back.

This module knows the shape of a config alone. Whether the things it names exist, and take the parameters given, is
decided in :mod:`toolkit.components`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from toolkit import documents
from toolkit.documents import Document
from toolkit.errors import ConfigError, KeyPath, Problem, did_you_mean

_FILE_REFERENCE = re.compile(r"\.{1,2}/.*\.py:\w+")


def _whole_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("Input should be a whole number")
    return value


def _component_from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_whole_number), Field(ge=1)]
Seed = Annotated[int, BeforeValidator(_whole_number), Field(ge=0, lt=2**32)]
Params = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ComponentConfig(_Part):
    """A component by name, with its parameters; in YAML a bare name is enough where there are none."""

    name: Annotated[str, Field(min_length=1)]
    """A registered name, `module:Name`, or `./file.py:Name` relative to the file it is written in."""
    params: Params = {}
    """Keyword arguments of the component."""


Component = Annotated[
    ComponentConfig,
    BeforeValidator(_component_from_name, json_schema_input_type=str | ComponentConfig),
]


class EnvConfig(_Part):
    """The environment to train in."""

    id: Annotated[str, Field(min_length=1)]
    """A Gymnasium id; `module:Name-v0` imports the module first."""
    max_episode_steps: Count | None = None
    """Time limit in steps; left out, the environment's own."""
    params: Params = {}
    """Keyword arguments to `gymnasium.make`."""
    n_envs: Count = 1
    """Number of environments stepped together."""
    wrappers: tuple[Component, ...] = ()
    """Gymnasium wrappers, innermost first, outside Monitor: logged returns stay raw."""


class AlgorithmConfig(_Part):
    """The algorithm and its policy."""

    name: Annotated[str, Field(min_length=1)]
    """A registered algorithm, or a Python path."""
    policy: Annotated[str, Field(min_length=1)] = "MlpPolicy"
    """An alias of the algorithm's, a registered policy, or a Python path."""
    params: Params = {}
    """Keyword arguments of the algorithm."""
    policy_params: Params = {}
    """Keyword arguments of the policy (SB3's `policy_kwargs`)."""


class RunConfig(_Part):
    """One training run, whole."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
    """Name of the run's directory; left out, the stem of the file."""
    seed: Seed = 0
    """Training, evaluation and video environments get seeds derived from it."""
    timesteps: Count
    """Environment steps to train for, over all environments."""
    env: EnvConfig
    algorithm: Annotated[
        AlgorithmConfig,
        BeforeValidator(_component_from_name, json_schema_input_type=str | AlgorithmConfig),
    ]
    callbacks: tuple[Component, ...] = ()
    """SB3 callbacks, called in this order."""

    _places: dict[KeyPath, str] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Compare what configs say, not where they say it."""
        return isinstance(other, RunConfig) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    def error(self, problems: Sequence[Problem]) -> ConfigError:
        """Make the error that reports ``problems`` where the file has them."""
        return ConfigError(problems, self._places)

    def to_yaml(self) -> str:
        """Write the whole config, defaults included, as YAML that reads back as the same config."""
        return documents.dump(self.model_dump(mode="json"))


def read(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a config file with what it extends, and apply ``--set`` overrides (``dotted.path=YAML``).

    :raises ConfigError: if a file cannot be read, or an override does not fit
    """
    document = _read_extended(Path(path), ())
    if isinstance(document.data, dict):
        document.data.setdefault("name", re.sub(r"[^\w.-]+", "-", Path(path).stem).strip("-.") or "run")
    for override in overrides:
        _apply(document, override)
    return document


def parse(document: Document) -> tuple[RunConfig | None, list[Problem]]:
    """Check the shape of a config.

    :return: the config, and every problem found. With problems, the config is what remains of it without the parts
        they concern, so that the rest can still be checked, or ``None`` when too little remains.
    """
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else "must be a mapping of keys to values"
        return None, [Problem((), what, "write at least timesteps, env.id and algorithm.name")]
    try:
        config = RunConfig.model_validate(document.data)
        problems = []
    except ValidationError as error:
        problems = [_problem(details, document.data) for details in error.errors()]
        try:
            config = RunConfig.model_validate(_remainder(document.data, problems))
        except ValidationError:
            return None, problems
    config._places.update(document.places)
    return config, problems


def _read_extended(path: Path, chain: tuple[Path, ...]) -> Document:
    document = documents.read(path)
    if not isinstance(document.data, dict):
        return document
    _make_file_references_absolute(document, path.resolve().parent)
    if "extends" not in document.data:
        return document
    base = document.data.pop("extends")
    if not isinstance(base, str):
        raise ConfigError([Problem(("extends",), "must be the path of one file")], document.places)
    base_path = path.parent / base
    chain = (*chain, path.resolve())
    if base_path.resolve() in chain:
        loop = " -> ".join(str(link) for link in (*chain, base_path.resolve()))
        raise ConfigError([Problem(("extends",), f"goes round in a circle: {loop}")], document.places)
    if not base_path.exists():
        raise ConfigError([Problem(("extends",), f"there is no file {base_path}")], document.places)
    return _merge(_read_extended(base_path, chain), document)


def _make_file_references_absolute(document: Document, directory: Path) -> None:
    for path, value in documents.walk(document.data):
        if isinstance(value, str) and _FILE_REFERENCE.fullmatch(value):
            _container(document.data, path)[path[-1]] = str(directory / value)


def _merge(base: Document, over: Document) -> Document:
    """Lay one document over another: mappings merge, lists and scalars replace."""

    def merge(path: KeyPath, below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            merged = {key: merge((*path, key), below.get(key), value) for key, value in above.items()}
            return below | merged
        for place in [place for place in places if place[: len(path)] == path]:
            del places[place]
        return above

    places = dict(base.places)
    data = merge((), base.data, over.data)
    return Document(data, places | over.places)


def _apply(document: Document, override: str) -> None:
    label = f"--set {override}"
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError([Problem((), "must have the form dotted.path=value")], {(): label})
    try:
        value = documents.parse(text, label)
    except ConfigError as error:
        raise ConfigError(error.problems, {(): label}) from None
    path: KeyPath = tuple(int(key) if key.isdigit() else key for key in dotted.split("."))
    if isinstance(value.data, str) and _FILE_REFERENCE.fullmatch(value.data):
        value.data = str(Path.cwd() / value.data)
    try:
        container = _container(document.data, path)
    except (KeyError, TypeError) as error:
        raise ConfigError([Problem(path, str(error.args[0]))], {path: label}) from None
    if path[-1] == "name" and _is_listed_component(path) and container.get("name") != value.data:
        container.pop("params", None)  # they were the parameters of the component that stood here
    container[path[-1]] = value.data
    for place in [place for place in document.places if place[: len(path)] == path]:
        del document.places[place]
    document.places[path] = label


def _is_listed_component(path: KeyPath) -> bool:
    return len(path) >= 2 and isinstance(path[-2], int)


def _container(data: Any, path: KeyPath) -> Any:
    """Return the mapping or list that holds the last key of ``path``, made where mappings are missing."""
    for depth, key in enumerate(path):
        where = ".".join(map(str, path[:depth])) or "the config"
        if isinstance(data, list):
            if not isinstance(key, int) or key >= len(data):
                raise KeyError(f"{where} is a list of {len(data)}; its entries are numbered from 0")
        elif not isinstance(data, dict):
            raise TypeError(f"{where} is {data!r} and holds no keys")
        elif key not in data and depth < len(path) - 1:
            data[key] = {}
        if depth == len(path) - 1:
            break
        if isinstance(data[key], str):
            data[key] = {"name": data[key]}  # a component given by its bare name
        data = data[key]
    return data


def _problem(details: Mapping[str, Any], data: Any) -> Problem:
    path: KeyPath = tuple(details["loc"])
    match details["type"]:
        case "extra_forbidden":
            known = [name for name in _fields_at(path[:-1]) if not _has(data, (*path[:-1], name))]
            return Problem(path, "unknown key", did_you_mean(str(path[-1]), known))
        case "missing":
            return Problem(path, "required key is missing")
        case "model_type" | "model_attributes_type" | "tuple_type" | "dict_type":
            what = "a list" if details["type"] == "tuple_type" else "a mapping"
            return Problem(path, f"should be {what}, not {details['input']!r}")
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return Problem(path, f"{message}, not {details['input']!r}"[:300])


def _fields_at(path: KeyPath) -> list[str]:
    """Return the keys that the config may have at ``path``."""
    model: Any = RunConfig
    for key in path:
        # the only lists are lists of components
        model = ComponentConfig if isinstance(key, int) else model.model_fields[key].annotation
    return [*model.model_fields] + (["extends"] if model is RunConfig else [])


def _has(data: Any, path: KeyPath) -> bool:
    return any(place == path for place, _ in documents.walk(data))


def _remainder(data: Any, problems: Sequence[Problem]) -> Any:
    """Return the config without what is wrong in it; of a list, what stands before its first wrong entry."""
    rest = copy.deepcopy(data)
    for problem in problems:
        path = problem.path
        while path and not _has(data, path):
            path = path[:-1]  # a key that is missing breaks what it is missing from
        index = next((depth for depth, key in enumerate(path) if isinstance(key, int)), None)
        if index is not None:
            del reduce(getitem, path[:index], rest)[path[index] :]
        elif path:
            _container(rest, path).pop(path[-1], None)
    rest.setdefault("timesteps", 1)
    return rest
