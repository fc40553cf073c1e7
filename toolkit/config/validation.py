"""Validate a YAML document with a pydantic model, and report every problem with its path."""

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

_MAX_SEEDS = 10_000


def refuse_non_integers(value: Any) -> Any:
    """Refuse truth values and text, which pydantic would convert to a number."""
    if isinstance(value, bool | str):
        raise ValueError("Input should be a whole number")
    return value


def _expand_seed_count(value: Any) -> Any:
    """Convert a number of seeds to that many, from 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 1 <= value <= _MAX_SEEDS:
        raise ValueError(f"Input should be 1 to {_MAX_SEEDS:,}, or a list of seeds")
    return range(value)


Count = Annotated[int, Field(ge=1, lt=2**63), BeforeValidator(refuse_non_integers)]
Seed = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(refuse_non_integers)]
_SeedList = Annotated[tuple[Seed, ...], Field(min_length=1)]
_SeedCount = Annotated[int, Field(ge=1, le=_MAX_SEEDS)]
Seeds = Annotated[_SeedList, BeforeValidator(_expand_seed_count, json_schema_input_type=_SeedList | _SeedCount)]


class StrictModel(BaseModel):
    """A mapping in a file; unknown keys are refused, and values cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")


def validate_document(
    model: type[Model], document: Document, hint: str, placeholders: Mapping[str, Any] | None = None
) -> tuple[Model | None, list[Problem]]:
    """Check the shape of a document.

    :param hint: what to do about a document that is not a mapping
    :param placeholders: values of required keys, used where the document's own are wrong
    :return: the model, and every problem. With problems, the model holds the valid rest of the document,
        which can still be checked. It is ``None`` if too little is valid.
    """
    data = document.data
    if not isinstance(data, dict):
        message = "is empty" if data is None else "must be a mapping of keys to values"
        return None, [Problem((), message, hint)]
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        problems = [_to_problem(model, details, data) for details in error.errors() if not _is_consequence(details)]
    try:
        return model.model_validate({**(placeholders or {}), **_remove_invalid(data, problems)}), problems
    except ValidationError:
        return None, problems


def sort_problems(problems: Sequence[Problem], locations: Mapping[KeyPath, str]) -> list[Problem]:
    """Sort problems in the order of the files, and keep the first problem of each value: it explains most."""
    first: dict[KeyPath, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    order: dict[KeyPath | None, int] = {path: number for number, path in enumerate(locations)}
    return sorted(first.values(), key=lambda problem: order.get(problem.nearest(locations), -1))


def _is_consequence(details: Mapping[str, Any]) -> bool:
    """Return whether a list is only too short because its entries are wrong, which has its own problem."""
    return bool(details["type"] == "too_short" and len(details["input"]) > details["ctx"]["actual_length"])


def _to_problem(model: type[BaseModel], details: Mapping[str, Any], data: Any) -> Problem:
    path = _find_path(details, data)
    match details["type"]:
        case "extra_forbidden":
            allowed = _list_fields(model, path[:-1])
            used = [name for name in allowed if _has_path(data, (*path[:-1], name))]
            return Problem(path, "unknown key", did_you_mean(str(path[-1]), allowed, used))
        case "missing":
            return Problem(path, "required key is missing")
        case "model_type" | "model_attributes_type" | "tuple_type" | "dict_type":
            expected = "a list" if details["type"] == "tuple_type" else "a mapping"
            return Problem(path, f"should be {expected}, not {details['input']!r}"[:300])
        case "too_short":
            minimum, actual = details["ctx"]["min_length"], details["ctx"]["actual_length"]
            return Problem(path, f"should have at least {minimum}, not {actual}" if actual else "is empty")
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return Problem(path, f"{message}, not {details['input']!r}"[:300])


def _find_path(details: Mapping[str, Any], data: Any) -> KeyPath:
    """Return a problem's path in the document, without the steps that pydantic adds for keys and unions."""
    path: KeyPath = ()
    for step in details["loc"]:
        if _has_path(data, (*path, step)):
            path = (*path, step)
    return (*path, details["loc"][-1]) if details["type"] == "missing" else path


def _list_fields(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that the document may have at a path."""
    current: Any = model
    for key in path:
        annotation = current.model_fields[key].annotation if _is_model(current) else _get_item_type(current, key)
        current = _find_model(annotation)
    return [*current.model_fields] + (["extends"] if current is model else [])


def _get_item_type(annotation: Any, key: str | int) -> Any:
    """Return the type of an item of a mapping or list."""
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    return arguments[-1] if isinstance(key, str) or len(arguments) == 1 else arguments[int(key)]


def _find_model(annotation: Any) -> Any:
    """Return the model in an annotation, or the container of models."""
    if get_origin(annotation) is Annotated:
        return _find_model(get_args(annotation)[0])
    if get_origin(annotation) in (dict, tuple, list) or _is_model(annotation):
        return annotation
    models = (_find_model(argument) for argument in get_args(annotation) if argument is not NoneType)
    return next((model for model in models if model is not None), None)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _has_path(data: Any, path: KeyPath) -> bool:
    try:
        yaml_document.get_value(data, path)
    except (LookupError, TypeError):
        return False
    return True


def _remove_invalid(data: Any, problems: Sequence[Problem]) -> Any:
    """Return the document without its invalid values; of a list, the entries before the first invalid one remain."""
    rest = copy.deepcopy(data)
    for problem in problems:
        path = problem.path
        while path and not _has_path(data, path):
            path = path[:-1]  # a missing key makes its parent invalid
        index = next((depth for depth, key in enumerate(path) if isinstance(key, int)), None)
        if index is not None:
            if _has_path(rest, path[:index]):  # the list's parent may be removed already
                del yaml_document.get_value(rest, path[:index])[path[index] :]
        elif path and _has_path(rest, path):
            del yaml_document.get_value(rest, path[:-1])[path[-1]]
    return rest
