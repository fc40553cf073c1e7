"""Read a config and resolve it: the checked values, and the class behind each name in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from toolkit.config.components import BoundComponent, Components, find_components
from toolkit.config.compose import apply_overrides, compose_document
from toolkit.config.schema import RunConfig, parse_config
from toolkit.config.start_from import find_start
from toolkit.config.trust import RunOrigin, hash_config, remember_code
from toolkit.config.validation import sort_problems
from toolkit.config.yaml_document import Document
from toolkit.utils.errors import ConfigError


class ResolvedConfig(RunConfig):
    """A run config with the components that it names: their classes, and their checked arguments.

    :func:`load_config` and :func:`resolve_config` return it. Everything that builds a part of a run takes it, so a
    config is resolved once.
    """

    _components: Components = PrivateAttr()

    @property
    def components(self) -> Components:
        """Every component that the config names."""
        return self._components

    @classmethod
    def _from(cls, config: RunConfig, components: Components, **changes: Any) -> Self:
        resolved = cls.model_construct(config.model_fields_set, **{**dict(config), **changes})
        resolved._locations, resolved._origin, resolved._components = config._locations, config._origin, components
        return resolved

    def with_seed(self, seed: int) -> Self:
        """Return the config with another seed."""
        return self._from(self, self.components, seed=seed)

    def without_callbacks(self, is_unwanted: Callable[[BoundComponent], bool]) -> Self:
        """Return the config without some of its callbacks."""
        pairs = zip(self.callbacks, self.components.callbacks, strict=True)
        wanted = [(config, component) for config, component in pairs if not is_unwanted(component)]
        components = replace(self.components, callbacks=tuple(component for _, component in wanted))
        return self._from(self, components, callbacks=tuple(config for config, _ in wanted))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> RunConfig:  # type: ignore[override]
        """Return a copy as a plain :class:`RunConfig`: other values may name other components."""
        plain = RunConfig.model_construct(self.model_fields_set, **dict(self))
        plain._locations, plain._origin = self._locations, self._origin
        return plain.model_copy(update=update, deep=deep)


def load_config(source: str | Path | RunConfig, overrides: Sequence[str] | Mapping[str, Any] = ()) -> ResolvedConfig:
    """Read a config, check all of it, and find the components that it names.

    :param source: a YAML file, or a config to override values of
    :param overrides: ``dotted.path=YAML value``, as after ``--set``, or Python values by dotted path
    :raises ConfigError: with every problem, each as ``FILE:LINE: dotted.path: what is wrong``
    """
    document = source.to_document() if isinstance(source, RunConfig) else compose_document(source)
    apply_overrides(document, overrides)
    return resolve_document(document)


def resolve_document(document: Document) -> ResolvedConfig:
    """Check a document as a config and find the components that it names.

    :raises ConfigError: with every problem
    """
    config, problems = parse_config(document)
    if config is not None:
        components, more_problems = find_components(config)
        start, start_problems = find_start(config)
        problems = problems + more_problems + start_problems
        if components is not None and not problems:
            return ResolvedConfig._from(config, components, start_from=start)
    raise ConfigError(sort_problems(problems, document.locations), document.locations)


def resolve_config(config: RunConfig) -> ResolvedConfig:
    """Find the components that a config names; a resolved config is returned unchanged.

    :raises ConfigError: with every problem
    """
    if isinstance(config, ResolvedConfig):
        return config
    components, problems = find_components(config)
    start = config.start_from
    if config.origin is None:  # a run that has started needs its model again only where it starts anew
        start, start_problems = find_start(config)
        problems += start_problems
    if components is None or problems:
        raise config.make_error(problems)
    return ResolvedConfig._from(config, components, start_from=start)


def read_config(path: str | Path) -> RunConfig:
    """Read the config of a run directory and check its shape.

    :func:`resolve_config` finds its components when they are needed, under the rules of :mod:`toolkit.config.trust`.

    :raises ConfigError: with every problem
    """
    document = compose_document(path)
    document.origin = RunOrigin(hash_config(document.data))
    config, problems = parse_config(document)
    if config is None or problems:
        raise ConfigError(sort_problems(problems, document.locations), document.locations)
    return config


def trust_code(config: RunConfig) -> None:
    """Let the code that a run directory's config names run, now and from now on."""
    if config.origin:
        config.origin.trusted = True


def remember_trusted_code(config: ResolvedConfig) -> None:
    """Record that this user trains a config with the code that it names, so that its run can be opened."""
    remember_code(hash_config(config.to_document().data), config.components.code)
