"""A YAML document against a pydantic model: every problem found, where the file has it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from toolkit.config import yaml_document
from toolkit.config.yaml_document import Document
from toolkit.utils.errors import KeyPath, Problem, did_you_mean

Model = TypeVar("Model", bound=BaseModel)

_MOST_SEEDS = 10_000  # that a number stands for


def whole_number(value: Any) -> Any:
    """Refuse what pydantic would make a number of."""
    if isinstance(value, bool | str):
        raise ValueError("Input should be a whole number")
    return value


def _counted(value: Any) -> Any:
    """Take a number of seeds for as many, from 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 1 <= value <= _MOST_SEEDS:
        raise ValueError(f"Input should be 1 to {_MOST_SEEDS:,}, or a list of seeds")
    return range(value)


Count = Annotated[int, Field(ge=1, lt=2**63), BeforeValidator(whole_number)]
Seed = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(whole_number)]
_Listed = Annotated[tuple[Seed, ...], Field(min_length=1)]
_Number = Annotated[int, Field(ge=1, le=_MOST_SEEDS)]
Seeds = Annotated[_Listed, BeforeValidator(_counted, json_schema_input_type=_Listed | _Number)]


class Part(BaseModel):
    """A mapping in a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")


def check(
    model: type[Model], document: Document, least: str, fillers: Mapping[str, Any] | None = None
) -> tuple[Model | None, list[Problem]]:
    """Check the shape of a document.

    :param least: what to do about a document that is no mapping: what it has to say at least
    :param fillers: values of required keys, for what remains of a document that is wrong there
    :return: the model, and every problem found. With problems, the model is what remains of the document without the
        parts they concern, so that the rest can still be checked, or ``None`` when too little remains.
    """
    data = document.data
    if not isinstance(data, dict):
        what = "is empty" if data is None else "must be a mapping of keys to values"
        return None, [Problem((), what, least)]
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        problems = [_problem(model, details, data) for details in error.errors() if not _is_miscounted(details)]
    try:
        return model.model_validate({**(fillers or {}), **_remainder(data, problems)}), problems
    except ValidationError:
        return None, problems


def in_order(problems: Sequence[Problem], places: Mapping[KeyPath, str]) -> list[Problem]:
    """Sort problems as their keys stand in the files, one for each value: the first found says most."""
    first: dict[KeyPath, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    order: dict[KeyPath | None, int] = {path: number for number, path in enumerate(places)}
    return sorted(first.values(), key=lambda problem: order.get(problem.nearest(places), -1))


def _is_miscounted(details: Mapping[str, Any]) -> bool:
    """Say whether a list seems too short because its entries are wrong, which is said of them."""
    return bool(details["type"] == "too_short" and len(details["input"]) > details["ctx"]["actual_length"])


def _problem(model: type[BaseModel], details: Mapping[str, Any], data: Any) -> Problem:
    path = _path(details, data)
    match details["type"]:
        case "extra_forbidden":
            known = _fields_at(model, path[:-1])
            given = [name for name in known if _has(data, (*path[:-1], name))]
            return Problem(path, "unknown key", did_you_mean(str(path[-1]), known, given))
        case "missing":
            return Problem(path, "required key is missing")
        case "model_type" | "model_attributes_type" | "tuple_type" | "dict_type":
            what = "a list" if details["type"] == "tuple_type" else "a mapping"
            return Problem(path, f"should be {what}, not {details['input']!r}"[:300])
        case "too_short":
            least, given = details["ctx"]["min_length"], details["ctx"]["actual_length"]
            return Problem(path, f"should have at least {least}, not {given}" if given else "is empty")
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return Problem(path, f"{message}, not {details['input']!r}"[:300])


def _path(details: Mapping[str, Any], data: Any) -> KeyPath:
    """Return where in the document a problem is, without pydantic's names for a key or one of several types."""
    path: KeyPath = ()
    for step in details["loc"]:
        if _has(data, (*path, step)):
            path = (*path, step)
    return (*path, details["loc"][-1]) if details["type"] == "missing" else path


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that the document may have at ``path``."""
    held: Any = model
    for key in path:
        annotation = held.model_fields[key].annotation if _is_model(held) else _held(held, key)
        held = _model_in(annotation)
    return [*held.model_fields] + (["extends"] if held is model else [])


def _held(annotation: Any, key: str | int) -> Any:
    """Return the type of what a mapping or list of some type holds."""
    arguments = [one for one in get_args(annotation) if one is not Ellipsis]
    return arguments[-1] if isinstance(key, str) or len(arguments) == 1 else arguments[int(key)]


def _model_in(annotation: Any) -> Any:
    """Return the model that an annotation stands for, or the container of models."""
    if get_origin(annotation) is Annotated:
        return _model_in(get_args(annotation)[0])
    if get_origin(annotation) in (dict, tuple, list) or _is_model(annotation):
        return annotation
    found = [_model_in(one) for one in get_args(annotation) if one is not NoneType]
    return next((one for one in found if one is not None), None)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _has(data: Any, path: KeyPath) -> bool:
    try:
        yaml_document.value_at(data, path)
    except (LookupError, TypeError):
        return False
    return True


def _remainder(data: Any, problems: Sequence[Problem]) -> Any:
    """Return the document without what is wrong in it; of a list, what stands before its first wrong entry."""
    rest = copy.deepcopy(data)
    for problem in problems:
        path = problem.path
        while path and not _has(data, path):
            path = path[:-1]  # a key that is missing breaks what it is missing from
        index = next((depth for depth, key in enumerate(path) if isinstance(key, int)), None)
        if index is not None:
            if _has(rest, path[:index]):  # what holds the list may be cut out already
                del yaml_document.value_at(rest, path[:index])[path[index] :]
        elif path and _has(rest, path):
            del yaml_document.value_at(rest, path[:-1])[path[-1]]
    return rest
