"""The component under test: named so that a config can ask for it, and blamed for what goes wrong in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from toolkit.config.compose import apply_overrides
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.signatures import bind_arguments
from toolkit.config.yaml_document import Document
from toolkit.utils.errors import ComponentError, ConfigError, Problem, describe_error

_MODULE = "class_under_test"
SEED = 20  # any will do
STATE_ADVICE = (
    "keep what goes on from step to step in attributes of plain data (numbers, text, lists, mappings, NumPy arrays "
    "and generators), or offer state_dict and load_state_dict; state_dict may return {} where nothing has to go on, "
    "as for a file or an environment of its own"
)
Env = str | Mapping[str, Any]


class ConformanceError(AssertionError):
    """A component that does not keep a promise of its kind: what was seen, what is expected, what to change."""


@contextmanager
def called(what: str, advice: str, *allowed: type[Exception]) -> Iterator[None]:
    """Say of an exception out of the component what it was called with, and what to do.

    :param allowed: what it may raise
    """
    passed_on: tuple[type[Exception], ...] = (ConformanceError, *allowed)
    try:
        yield
    except passed_on:
        raise
    except Exception as error:
        raise ConformanceError(f"{what} raised {describe_error(error)}; {advice}") from error


@contextmanager
def named(component: str | type[Any]) -> Iterator[str]:
    """Give the name by which a config can ask for a component, also for a class that is local to a function.

    :raises ComponentError: if it is neither a name nor a class
    """
    if isinstance(component, str):
        yield component
        return
    if not isinstance(component, type):
        message = f"a {type(component).__name__} is no component: {component!r}"
        raise ComponentError(message, "give its class, and what the constructor takes as params")
    module = ModuleType(_MODULE)
    setattr(module, component.__name__, component)
    sys.modules[_MODULE] = module
    try:
        yield f"{_MODULE}:{component.__name__}"
    finally:
        del sys.modules[_MODULE]


def build(cls: type[Any], params: Mapping[str, Any]) -> Any:
    """Build a component that takes nothing but what a config gives it.

    :raises ConfigError: if it cannot be built
    """
    arguments, problems = bind_arguments(cls, params, ("params",), {})
    if problems:
        raise ConfigError(problems)
    try:
        return cls(**arguments)
    except Exception as error:
        raise ConfigError(
            [Problem(("params",), f"{cls.__name__} cannot be built: {describe_error(error)}")]
        ) from error


def env_of(env: Env) -> dict[str, Any]:
    """Return an environment as a config has it.

    :raises ConfigError: if it is neither an id nor a mapping
    """
    if not isinstance(env, str | Mapping):
        raise ConfigError([Problem(("env",), f"should be an id or a mapping, not {env!r}")])
    return {"id": env} if isinstance(env, str) else dict(env)


def config_of(**parts: Any) -> ResolvedConfig:
    """Check a config that is given in parts, the components it names included.

    :raises ConfigError: with every problem found
    """
    document = Document({"name": "conformance", "seed": SEED}, {})
    apply_overrides(document, parts)  # a class in it becomes its path
    document.locations.clear()
    return resolve_document(document)
