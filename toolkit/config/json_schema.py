"""JSON Schemas of config, experiment and tuning files for editors, with the parameters of installed components.

A schema accepts everything that ``toolkit check`` accepts, and more. It does not check what needs an import, such as
Python paths, nor the values that an experiment or a search sets in its base.
"""

from __future__ import annotations

import inspect
import json
import sys
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema

from toolkit.config.compose import to_plain_data
from toolkit.config.docstrings import read_documentation, read_summary
from toolkit.config.env_overrides import EnvOverrides, is_env_overrides_type
from toolkit.config.registry import KINDS, Kind, find, list_entry_points
from toolkit.config.replay_buffers import CLASS
from toolkit.config.schema import AlgorithmConfig, ComponentConfig, RunConfig
from toolkit.config.signatures import list_default_envs, read_signature
from toolkit.config.type_hints import (
    is_callable_type,
    is_callback_list_type,
    is_callback_type,
    is_class_type,
    is_numpy_type,
    is_union,
    make_type_adapter,
)
from toolkit.utils.errors import ComponentError, ConfigError

Schema = dict[str, Any]
_Classes = Mapping[str, type[Any]]

_KINDS_IN_CONFIG = (
    *("algorithms", "policies", "replay_buffers", "wrappers", "vec_wrappers", "callbacks", "schedules"),
)
_PATH: Schema = {"type": "string", "pattern": ":", "description": "A Python path: module:Class or ./file.py:Class."}
_DEFAULT_POLICY = AlgorithmConfig.model_fields["policy"].default
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS: Schema = {"type": "string", "description": "The file that this one extends and overrides."}

_CALLBACK: Schema = {"$ref": "#/$defs/callbacks"}
_ENV_OVERRIDES: Schema = {"$ref": "#/$defs/EnvOverrides"}
_CLASS: Schema = {"type": "string", "pattern": ":"}
_FUNCTION: Schema = {**_PATH, "pattern": ":", "description": "A function: ./file.py:name or module:name."}
_START: Schema = {
    "type": "object",
    "properties": {"start": {"type": "number", "description": "Environment i gets this plus i."}},
    "additionalProperties": False,
}
_ARRAY: Schema = {"type": ["array", "number", "boolean"]}
_SAMPLES = {"integer": 1, "number": 0.5, "string": "", "boolean": True, "array": [], "object": {}, "null": None}
# pydantic's schemas of these types accept all that it validates; others, such as dates, accept less
_TRUSTED_TYPES = {
    *("none", "bool", "int", "float", "str", "literal", "enum", "list", "tuple", "dict", "nullable", "union")
}


# --- whole files ----------------------------------------------------------------------------------------------------


def make_config_schema() -> Schema:
    """Return the JSON Schema of a config file."""
    schema = RunConfig.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    env = definitions["EnvConfig"]
    installed = {name: _find_installed(KINDS[name]) for name in _KINDS_IN_CONFIG}
    whole, part = _SchemaBuilder(definitions, installed), _SchemaBuilder(definitions, installed, part=".part")
    env["properties"]["base_wrappers"]["items"] = {"$ref": "#/$defs/wrappers"}
    for name, holder in (("wrappers", env), ("vec_wrappers", env), ("callbacks", schema)):
        holder["properties"][name]["items"] = {"$ref": f"#/$defs/{name}"}
        definitions[name] = whole.build_component(KINDS[name], _PATH)
    definitions["EnvOverrides"] = _make_overrides_schema(env)
    properties["algorithm"] = {"description": definitions.pop("AlgorithmConfig")["description"]}
    properties["extends"] = _EXTENDS
    del definitions["StartFromConfig"]["required"]
    # An extended file may have what this one lacks: mappings merge, lists replace.
    required = [key for key in schema.pop("required") if key != "name"]  # by default the stem of the file
    env_rule = {"if": {"type": "object"}, "then": {"required": env.pop("required")}}
    return schema | {
        "$schema": _DIALECT,
        "title": "sb3-toolkit run config",
        "if": {"required": ["extends"]},
        "else": {"properties": {"algorithm": whole.build_algorithm(), "env": env_rule}, "required": required},
        "then": {"properties": {"algorithm": part.build_algorithm()}},
    }


def _make_overrides_schema(env: Schema) -> Schema:
    """Return the schema of what an evaluation changes in ``env``; without a value, it changes nothing."""
    properties = {
        name: {key: value for key, value in env["properties"][name].items() if key != "default"}
        for name in EnvOverrides.model_fields
    }
    properties["id"] = {"anyOf": [properties["id"], {"type": "null"}]}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def make_file_schema(model: type[BaseModel], title: str) -> Schema:
    """Return the JSON Schema of another file.

    :param model: its schema; a key that takes a component has the name of its kind, and only ``base`` takes a config
    """
    schema = model.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    kinds = {key: KINDS[f"{key}s"] for key in properties if f"{key}s" in KINDS}
    installed = {kind.name: _find_installed(kind) for kind in (KINDS["schedules"], *kinds.values())}
    whole, part = (
        _SchemaBuilder(definitions, installed, part=suffix).build_components(kinds) for suffix in ("", ".part")
    )
    for key in kinds:
        del properties[key]["anyOf"]
    if RunConfig.__name__ in definitions:
        config = make_config_schema()
        definitions.update(config.pop("$defs"))
        definitions[RunConfig.__name__] = config
        whole["base"] = {"anyOf": properties["base"].pop("anyOf")}
    properties["extends"] = _EXTENDS
    required = [key for key in schema.pop("required") if key != "name"]
    return schema | {
        "$schema": _DIALECT,
        "title": title,
        "if": {"required": ["extends"]},
        "else": {"properties": whole, "required": required},
        "then": {"properties": part},
    }


def _find_installed(kind: Kind) -> _Classes:
    """Return the registered components of a kind that can be imported."""
    components = {}
    for name in list_entry_points(kind):
        with suppress(ComponentError):
            components[name] = find(kind, name)
    return components


# --- components -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SchemaBuilder:
    """Builds the schemas of components.

    :param definitions: of the whole schema; the builder adds what several components share
    :param installed: components by name, by kind
    :param part: ``.part`` for mappings that may lack keys, because an extended file has them
    :param policies: the parameters of the policies built so far
    """

    definitions: Schema
    installed: Mapping[str, _Classes]
    part: str = ""
    policies: dict[type[Any], Schema] = field(default_factory=dict)

    def build_component(self, kind: Kind, *bare_names: Schema) -> Schema:
        """Return the schema of a component: a name, or a mapping with its parameters.

        :param bare_names: accepted besides the registered names of components without required parameters
        """
        classes = self.installed[kind.name]
        params = {name: _make_params_schema(kind, cls, self.part) for name, cls in classes.items()}
        without_required = {name: cls for name, cls in classes.items() if "required" not in params[name]}
        mapping = self._build_mapping(ComponentConfig.model_json_schema(), classes)
        mapping["allOf"] = [_make_rule("name", name, _make_key("params", schema)) for name, schema in params.items()]
        return {"anyOf": [*_make_constants(without_required), *bare_names, mapping]}

    def build_algorithm(self) -> Schema:
        """Return the schema of the algorithm with its policy."""
        self._define_parameter_types()
        self.definitions[f"replay_buffer{self.part}"] = self.build_component(KINDS["replay_buffers"], _PATH)
        classes = self.installed["algorithms"]
        rules = {name: self._build_algorithm_rule(cls) for name, cls in classes.items()}
        without_required = {name: cls for name, cls in classes.items() if "required" not in rules[name]}
        mapping = self._build_mapping(AlgorithmConfig.model_json_schema(), classes)
        mapping["allOf"] = [_make_rule("name", name, rule) for name, rule in rules.items()]
        return {"anyOf": [*_make_constants(without_required), _PATH, mapping]}

    def build_components(self, kinds: Mapping[str, Kind]) -> dict[str, Schema]:
        """Return the schema of a component of each kind, by its key."""
        self._define_parameter_types()
        return {key: self.build_component(kind, _PATH) for key, kind in kinds.items()}

    def _define_parameter_types(self) -> None:
        """Define the components that parameters may take."""
        self.definitions[f"schedule{self.part}"] = self.build_component(KINDS["schedules"], _FUNCTION)
        for key, schema in _make_value_schemas(self.part).items():
            self.definitions[f"{key}{self.part}"] = schema
        self.definitions[f"object{self.part}"] = self._build_mapping(ComponentConfig.model_json_schema(), None)

    def _build_mapping(self, schema: Schema, classes: _Classes | None) -> Schema:
        if classes is not None:
            schema["properties"]["name"] = {"anyOf": [*_make_constants(classes), _PATH]}
        if self.part:
            del schema["required"]
        return schema

    def _build_algorithm_rule(self, algorithm: type[Any]) -> Schema:
        """Return the schema of an algorithm's parameters and policies."""
        params = _make_params_schema(KINDS["algorithms"], algorithm, self.part)
        if CLASS in params["properties"]:
            replay_buffer = {"anyOf": [{"$ref": f"#/$defs/replay_buffer{self.part}"}, {"type": "null"}]}
            params["properties"][CLASS] = params["properties"][CLASS] | replay_buffer
        rule = _make_key("params", params)
        policies = {**self.installed["policies"], **getattr(algorithm, "policy_aliases", {})}
        rule["properties"]["policy"] = {"anyOf": [*_make_constants(policies), _PATH]}
        rule["allOf"] = [self._build_policy_rule(name, cls) for name, cls in policies.items()]
        return rule

    def _build_policy_rule(self, name: str, cls: type[Any]) -> Schema:
        """Return the rule for a policy's parameters; the default policy's also applies without a name."""
        if cls not in self.policies:
            self.policies[cls] = _make_params_schema(KINDS["policies"], cls, self.part)
        params, key = self.policies[cls], f"{cls.__module__}.{cls.__qualname__}"
        if self.definitions.setdefault(key, params) != params:
            key += self.part
            self.definitions[key] = params
        rule = _make_rule("policy", name, _make_key("policy_params", {"$ref": f"#/$defs/{key}"}))
        if "required" in params:
            rule["then"]["required"] = ["policy_params"]
        if name == _DEFAULT_POLICY and not self.part:
            del rule["if"]["required"]
        return rule


def _make_params_schema(kind: Kind, component: type[Any], part: str) -> Schema:
    """Return the schema of the parameters that a config may give to a component."""
    signature, texts = read_signature(component), read_documentation(component)[1]
    parameters = {name: item for name, item in signature.parameters.items() if name not in kind.supplied}
    schedule, other, function, call, per_env = (
        {"$ref": f"#/$defs/{name}{part}"} for name in ("schedule", "object", "function", "call", "per_env")
    )
    values = [function, call, per_env] if kind.name == "wrappers" else [function, call]
    schema: Schema = {"type": "object", "additionalProperties": signature.accepts_others}
    schema["properties"] = {
        name: _allow_values(_make_parameter_schema(kind, parameter, schedule, other), values)
        | _make_description(texts.get(name))
        | _make_default(parameter.default)
        for name, parameter in parameters.items()
    }
    optional = list_default_envs(signature, kind.defaults)
    required = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    required = [name for name in required if name not in optional]
    return schema | ({"required": required} if required and not part else {})


def _make_parameter_schema(kind: Kind, parameter: inspect.Parameter, schedule: Schema, other: Schema) -> Schema:
    """Return the schema of a parameter's type; a number of a wrapper may be a schedule."""
    schema = make_type_schema(parameter.annotation, schedule, other)
    parts = schema.get("anyOf", [schema])
    has_numbers = any({"number", "integer"} & {*_list_types(part)} for part in parts)
    return {"anyOf": [*parts, schedule]} if kind.name == "wrappers" and has_numbers else schema


def _list_types(schema: Schema) -> list[str]:
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else types


def _make_value_schemas(part: str) -> dict[str, Schema]:
    """Return the schemas of the mappings that pass a function, what it returns, or one value for each environment."""
    keys: dict[str, dict[str, Schema]] = {
        "function": {"function": _FUNCTION},
        "call": {"call": _FUNCTION, "params": {"type": "object", "description": "Keyword arguments of the call."}},
        "per_env": {"per_env": {"anyOf": [{"type": "array"}, _START]}},
    }
    return {
        name: {"type": "object", "properties": properties, "additionalProperties": False}
        | ({} if part else {"required": [name]})
        for name, properties in keys.items()
    }


def _allow_values(schema: Schema, values: list[Schema]) -> Schema:
    """Let a type also be a function, what it returns, or one value for each environment; so too in its items."""
    if not schema:
        return schema
    schema = {**schema}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _allow_values(schema[key], values)
    for key in ("prefixItems", "anyOf"):
        if key in schema:
            schema[key] = [_allow_values(part, values) for part in schema[key]]
    return schema if "anyOf" in schema else {"anyOf": [schema, *values]}


def _make_constants(classes: _Classes) -> list[Schema]:
    return [{"const": name} | _make_description(read_summary(cls.__doc__)) for name, cls in classes.items()]


def _make_rule(key: str, value: str, then: Schema) -> Schema:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}


def _make_key(key: str, schema: Schema) -> Schema:
    return {"properties": {key: schema}} | ({"required": [key]} if "required" in schema else {})


def _make_description(text: str | None) -> Schema:
    return {"description": text} if text else {}


def _make_default(value: Any) -> Schema:
    if value is inspect.Parameter.empty:
        return {}
    try:
        return {"default": json.loads(json.dumps(to_plain_data(value, ""), allow_nan=False))}
    except (ConfigError, ValueError):  # not plain data, or infinite
        return {}


# --- types ----------------------------------------------------------------------------------------------------------


def make_type_schema(annotation: Any, schedule: Schema, component: Schema) -> Schema:
    """Return the schema of the YAML values for an annotation.

    It accepts everything that :func:`toolkit.config.signatures.convert` accepts, and anything if that is unknown.

    :param schedule: schema of a component that is called
    :param component: schema of a component of another class
    """
    if is_union(annotation):
        parts = [make_type_schema(part, schedule, component) for part in typing.get_args(annotation)]
        return {"anyOf": parts} if all(parts) else {}
    if is_env_overrides_type(annotation):
        return _ENV_OVERRIDES
    if annotation is inspect.Parameter.empty or (adapter := make_type_adapter(annotation)) is None:
        return {}
    schemas = {
        is_callable_type: schedule,
        is_class_type: _CLASS,
        is_numpy_type: _ARRAY,
        is_callback_type: _CALLBACK,
        is_callback_list_type: {"type": "array", "items": _CALLBACK},
    }
    for is_type, schema in schemas.items():
        if is_type(annotation):
            return schema
    try:
        return adapter.json_schema(schema_generator=_TypeSchemaGenerator) or _make_class_schema(annotation, component)
    except Exception:  # pydantic has several, and a third-party class may raise any
        return {}


def _make_class_schema(annotation: Any, component: Schema) -> Schema:
    """Return the schema of a library's class: a component, or a YAML value of that class."""
    expected = typing.get_origin(annotation) or annotation
    if not isinstance(expected, type) or expected.__module__.partition(".")[0] in sys.stdlib_module_names:
        return {}
    plain_types = [name for name, sample in _SAMPLES.items() if isinstance(sample, expected)]
    return {"anyOf": [{"type": plain_types}, component]} if plain_types else component


class _TypeSchemaGenerator(GenerateJsonSchema):
    """Leaves out the schemas of types that would accept less than pydantic validates."""

    def generate_inner(self, schema: CoreSchema) -> JsonSchemaValue:
        return super().generate_inner(schema) if schema["type"] in _TRUSTED_TYPES else {}
