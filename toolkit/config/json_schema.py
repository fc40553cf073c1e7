"""The JSON Schema of a config and other files, with the parameters of every installed component, for editors.

It accepts what ``toolkit check`` accepts, and more: it says nothing of what only an import shows, as of paths, nor of
the values that an experiment or a search lays over its base.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from toolkit.config.compose import to_plain_data
from toolkit.config.docstrings import read_documentation, read_summary
from toolkit.config.registry import KINDS, Kind, find, list_entry_points
from toolkit.config.schema import AlgorithmConfig, ComponentConfig, RunConfig
from toolkit.config.signatures import read_signature
from toolkit.config.type_schema import Schema, make_type_schema
from toolkit.utils.errors import ComponentError, ConfigError

_Classes = Mapping[str, type[Any]]

_KINDS = ("algorithms", "policies", "wrappers", "vec_wrappers", "callbacks", "schedules")  # that a config names
_PATH: Schema = {"type": "string", "pattern": ":", "description": "A Python path: module:Class or ./file.py:Class."}
_DEFAULT_POLICY = AlgorithmConfig.model_fields["policy"].default
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS: Schema = {"type": "string", "description": "A file that this one is laid over."}


def make_config_schema() -> Schema:
    """Return the JSON Schema of a config file."""
    schema = RunConfig.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    env = definitions["EnvConfig"]
    installed = {name: _installed(KINDS[name]) for name in _KINDS}
    whole, part = _Describer(definitions, installed), _Describer(definitions, installed, part=".part")
    for name, holder in (("wrappers", env), ("vec_wrappers", env), ("callbacks", schema)):
        holder["properties"][name]["items"] = {"$ref": f"#/$defs/{name}"}
        definitions[name] = whole.component(KINDS[name], _PATH)
    properties["algorithm"] = {"description": definitions.pop("AlgorithmConfig")["description"]}
    properties["extends"] = _EXTENDS
    # What a file leaves out, the one that it extends may have: mappings merge, lists replace.
    needed = [key for key in schema.pop("required") if key != "name"]  # the file's stem, if left out
    env_needs = {"if": {"type": "object"}, "then": {"required": env.pop("required")}}
    return schema | {
        "$schema": _DIALECT,
        "title": "sb3-toolkit run config",
        "if": {"required": ["extends"]},
        "else": {"properties": {"algorithm": whole.algorithm(), "env": env_needs}, "required": needed},
        "then": {"properties": {"algorithm": part.algorithm()}},
    }


def make_file_schema(model: type[BaseModel], title: str) -> Schema:
    """Return the JSON Schema of a file that is not a config.

    :param model: its shape; a key that takes a component is called as the component's kind, and only ``base`` may take
        a config
    """
    schema = model.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    kinds = {key: KINDS[f"{key}s"] for key in properties if f"{key}s" in KINDS}
    installed = {kind.name: _installed(kind) for kind in (KINDS["schedules"], *kinds.values())}
    whole, part = (_Describer(definitions, installed, part=suffix).components(kinds) for suffix in ("", ".part"))
    for key in kinds:
        del properties[key]["anyOf"]
    if RunConfig.__name__ in definitions:
        config = make_config_schema()
        definitions.update(config.pop("$defs"))
        definitions[RunConfig.__name__] = config
        whole["base"] = {"anyOf": properties["base"].pop("anyOf")}
    properties["extends"] = _EXTENDS
    needed = [key for key in schema.pop("required") if key != "name"]
    return schema | {
        "$schema": _DIALECT,
        "title": title,
        "if": {"required": ["extends"]},
        "else": {"properties": whole, "required": needed},
        "then": {"properties": part},
    }


def _installed(kind: Kind) -> _Classes:
    """Return the registered components of a kind that can be used."""
    found = {}
    for name in list_entry_points(kind):
        with suppress(ComponentError):
            found[name] = find(kind, name)
    return found


@dataclass(frozen=True)
class _Describer:
    """Describes components.

    :param definitions: of the schema; what several places have in common is put there
    :param installed: kind to its components by name
    :param part: ``.part`` for mappings that are laid over others, which may have what these lack
    :param policies: the parameters of those described so far
    """

    definitions: Schema
    installed: Mapping[str, _Classes]
    part: str = ""
    policies: dict[type[Any], Schema] = field(default_factory=dict)

    def component(self, kind: Kind, *bare: Schema) -> Schema:
        """Describe a component of a kind: a name, or a mapping with its parameters.

        :param bare: what may stand as a bare name, besides the registered ones that need no parameter
        """
        found = self.installed[kind.name]
        params = {name: _params(kind, cls, self.part) for name, cls in found.items()}
        complete = {name: cls for name, cls in found.items() if "required" not in params[name]}
        mapping = self._mapping(ComponentConfig.model_json_schema(), found)
        mapping["allOf"] = [_if("name", name, _given("params", schema)) for name, schema in params.items()]
        return {"anyOf": [*_constants(complete), *bare, mapping]}

    def algorithm(self) -> Schema:
        """Describe the algorithm with its policy."""
        self._define_parameters()
        found = self.installed["algorithms"]
        rules = {name: self._rule(cls) for name, cls in found.items()}
        complete = {name: cls for name, cls in found.items() if "required" not in rules[name]}
        mapping = self._mapping(AlgorithmConfig.model_json_schema(), found)
        mapping["allOf"] = [_if("name", name, rule) for name, rule in rules.items()]
        return {"anyOf": [*_constants(complete), _PATH, mapping]}

    def components(self, kinds: Mapping[str, Kind]) -> dict[str, Schema]:
        """Describe a component of each kind, by its key."""
        self._define_parameters()
        return {key: self.component(kind, _PATH) for key, kind in kinds.items()}

    def _define_parameters(self) -> None:
        """Describe the components that parameters may take."""
        self.definitions[f"schedule{self.part}"] = self.component(KINDS["schedules"])
        self.definitions[f"object{self.part}"] = self._mapping(ComponentConfig.model_json_schema(), None)

    def _mapping(self, schema: Schema, names: _Classes | None) -> Schema:
        if names is not None:
            schema["properties"]["name"] = {"anyOf": [*_constants(names), _PATH]}
        if self.part:
            del schema["required"]
        return schema

    def _rule(self, algorithm: type[Any]) -> Schema:
        """Say what an algorithm takes, and its policies."""
        rule = _given("params", _params(KINDS["algorithms"], algorithm, self.part))
        policies = {**self.installed["policies"], **getattr(algorithm, "policy_aliases", {})}
        rule["properties"]["policy"] = {"anyOf": [*_constants(policies), _PATH]}
        rule["allOf"] = [self._policy(name, cls) for name, cls in policies.items()]
        return rule

    def _policy(self, name: str, cls: type[Any]) -> Schema:
        """Say which parameters a policy takes; where none is named, that is the default one."""
        if cls not in self.policies:
            self.policies[cls] = _params(KINDS["policies"], cls, self.part)
        params, key = self.policies[cls], f"{cls.__module__}.{cls.__qualname__}"
        if self.definitions.setdefault(key, params) != params:
            key += self.part
            self.definitions[key] = params
        rule = _if("policy", name, _given("policy_params", {"$ref": f"#/$defs/{key}"}))
        if "required" in params:
            rule["then"]["required"] = ["policy_params"]
        if name == _DEFAULT_POLICY and not self.part:
            del rule["if"]["required"]
        return rule


def _params(kind: Kind, component: type[Any], part: str) -> Schema:
    """Describe the parameters of a component, as far as a config gives them."""
    signature, texts = read_signature(component), read_documentation(component)[1]
    named = {name: one for name, one in signature.parameters.items() if name not in kind.supplied}
    schedule, other = ({"$ref": f"#/$defs/{name}{part}"} for name in ("schedule", "object"))
    schema: Schema = {"type": "object", "additionalProperties": signature.accepts_others}
    schema["properties"] = {
        name: make_type_schema(one.annotation, schedule, other) | _described(texts.get(name)) | _default(one.default)
        for name, one in named.items()
    }
    required = [name for name, one in named.items() if one.default is inspect.Parameter.empty]
    return schema | ({"required": required} if required and not part else {})


def _constants(named: _Classes) -> list[Schema]:
    return [{"const": name} | _described(read_summary(cls.__doc__)) for name, cls in named.items()]


def _if(key: str, value: str, then: Schema) -> Schema:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}


def _given(key: str, schema: Schema) -> Schema:
    return {"properties": {key: schema}} | ({"required": [key]} if "required" in schema else {})


def _described(text: str | None) -> Schema:
    return {"description": text} if text else {}


def _default(value: Any) -> Schema:
    try:
        return {"default": json.loads(json.dumps(to_plain_data(value, ""), allow_nan=False))}
    except (ConfigError, ValueError):  # no plain data, or infinite
        return {}
