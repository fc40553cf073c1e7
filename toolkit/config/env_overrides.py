"""What an evaluation changes in the environment of a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from toolkit.config.schema import Component, EnvConfig, Params, RunConfig
from toolkit.config.type_hints import allows
from toolkit.config.validation import Count, StrictModel, validate_document
from toolkit.config.yaml_document import Document
from toolkit.utils.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping


class EnvOverrides(StrictModel):
    """Changes of a config's ``env``, with the same keys: mappings merge, other values replace.

    >>> EnvOverrides(params={"gravity": 12.0}).apply_to_env(EnvConfig(id="CartPole-v1", max_episode_steps=200)).params
    {'gravity': 12.0}

    Another ``id`` drops ``params``, ``reset_options`` and ``max_episode_steps`` of the config.
    """

    id: Annotated[str, Field(min_length=1)] | None = None
    params: Params = {}
    max_episode_steps: Count | None = None
    reset_options: Params = {}
    base_wrappers: tuple[Component, ...] = ()
    wrappers: tuple[Component, ...] = ()

    @property
    def replaces_env(self) -> bool:
        """Whether the environment inside all wrappers is another one, or has other parameters."""
        return bool(self.id or self.params)

    def apply_to_env(self, env: EnvConfig) -> EnvConfig:
        """Return a changed copy of ``env``."""
        changes: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        if self.id in (None, env.id):
            for name in ("params", "reset_options"):
                changes[name] = {**getattr(env, name), **getattr(self, name)}
        else:
            dropped = {name: EnvConfig.model_fields[name].default for name in ("params", "reset_options")}
            changes = {**dropped, "max_episode_steps": None, **changes}
        return env.model_copy(update={**changes, "id": self.id or env.id})

    def apply_to(self, config: RunConfig) -> RunConfig:
        """Return a copy of a config with the changed environment, and without callbacks."""
        return config.model_copy(update={"env": self.apply_to_env(config.env), "callbacks": ()})


def is_env_overrides_type(annotation: Any) -> bool:
    """Return whether the annotation is :class:`EnvOverrides`, or allows it."""
    return allows(annotation, lambda part: part is EnvOverrides)


def read_env_overrides(value: Mapping[str, Any]) -> tuple[EnvOverrides | None, list[Problem]]:
    """Check the shape of overrides; the components that they name are checked with the config.

    :return: the overrides, and every problem, with its path in the mapping
    """
    overrides, problems = validate_document(EnvOverrides, Document(dict(value), {}), "write the keys of env")
    return (None if problems else overrides), problems
