"""Type annotations as JSON Schema.

Each admits at least what :func:`toolkit.config.signatures.convert` takes; where that is hard to say, everything.
"""

from __future__ import annotations

import inspect
import sys
import typing
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema

from toolkit.config.type_hints import is_callable_type, is_class_type, is_numpy_type, is_union, make_type_adapter

Schema = dict[str, Any]

_CLASS = {"type": "string", "pattern": ":"}
_NUMBERS = {"type": ["array", "number", "boolean"]}
_SAMPLES = {"integer": 1, "number": 0.5, "string": "", "boolean": True, "array": [], "object": {}, "null": None}
# pydantic's schemas of these are as wide as what it takes; of dates, for one, they are narrower
_AS_WIDE = {"none", "bool", "int", "float", "str", "literal", "enum", "list", "tuple", "dict", "nullable", "union"}


def make_type_schema(annotation: Any, schedule: Schema, component: Schema) -> Schema:
    """Return what a YAML value for an annotation may look like.

    :param schedule: schema of a component where something is called
    :param component: schema of a component where an object of another class is wanted
    """
    if is_union(annotation):
        parts = [make_type_schema(part, schedule, component) for part in typing.get_args(annotation)]
        return {"anyOf": parts} if all(parts) else {}
    if annotation is inspect.Parameter.empty or (adapter := make_type_adapter(annotation)) is None:
        return {}
    for is_such, schema in ((is_callable_type, schedule), (is_class_type, _CLASS), (is_numpy_type, _NUMBERS)):
        if is_such(annotation):
            return schema
    try:
        return adapter.json_schema(schema_generator=_Generator) or _of_a_class(annotation, component)
    except Exception:  # pydantic's own of several kinds, and whatever somebody's class raises
        return {}


def _of_a_class(annotation: Any, component: Schema) -> Schema:
    """Describe objects of a library's class: components, and what YAML has of that class."""
    wanted = typing.get_origin(annotation) or annotation
    if not isinstance(wanted, type) or wanted.__module__.partition(".")[0] in sys.stdlib_module_names:
        return {}
    plain = [name for name, sample in _SAMPLES.items() if isinstance(sample, wanted)]
    return {"anyOf": [{"type": plain}, component]} if plain else component


class _Generator(GenerateJsonSchema):
    """Says nothing of what its schema would say too much of."""

    def generate_inner(self, schema: CoreSchema) -> JsonSchemaValue:
        return super().generate_inner(schema) if schema["type"] in _AS_WIDE else {}
