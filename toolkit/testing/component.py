"""The component under test: how a config names it, builds it, and what is reported when it fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any

from toolkit.config.compose import apply_overrides
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.signatures import bind_arguments
from toolkit.config.yaml_document import Document
from toolkit.utils.attributes import suggest_base_wrappers
from toolkit.utils.errors import ComponentError, ConfigError, Problem, describe_error

SEED = 20  # any number will do
DEFAULT_ENV = "CartPole-v1"
NO_PARAMS: Mapping[str, Any] = MappingProxyType({})
STATE_ADVICE = (
    "keep the state that continues from step to step in plain attributes (numbers, text, lists, mappings, NumPy "
    "arrays and generators), or define state_dict and load_state_dict; state_dict may return {} if nothing needs to "
    "continue, for example for a file or its own environment"
)
Env = str | Mapping[str, Any]

_MODULE = "class_under_test"


class ConformanceError(AssertionError):
    """A promise that a component does not keep: what was observed, what was expected, what to change."""


@contextmanager
def report_exceptions(call: str, advice: str, *allowed: type[Exception]) -> Iterator[None]:
    """Report an exception from the component as a :class:`ConformanceError`.

    :param call: what was called, for the message
    :param advice: what to change, for the message
    :param allowed: exceptions that the call may raise
    :raises ConformanceError: if the block raises anything else
    """
    not_reported: tuple[type[Exception], ...] = (ConformanceError, *allowed)
    try:
        yield
    except not_reported:
        raise
    except Exception as error:
        advice = suggest_base_wrappers(error) or advice
        raise ConformanceError(f"{call} raised {describe_error(error)}; {advice}") from error


@contextmanager
def name_component(component: str | type[Any]) -> Iterator[str]:
    """Yield a name for a component that configs can use, even for a class defined in a function.

    :raises ComponentError: if it is neither a name nor a class
    """
    if isinstance(component, str):
        yield component
        return
    if not isinstance(component, type):
        message = f"an instance of {type(component).__name__} is not a component: {component!r}"
        raise ComponentError(message, "pass its class, and the constructor's arguments as params")
    module = ModuleType(_MODULE)
    setattr(module, component.__name__, component)
    sys.modules[_MODULE] = module
    try:
        yield f"{_MODULE}:{component.__name__}"
    finally:
        del sys.modules[_MODULE]


def build_component(cls: type[Any], params: Mapping[str, Any]) -> Any:
    """Build a component that needs only ``params``.

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


def make_env_config(env: Env) -> dict[str, Any]:
    """Return the ``env`` section of a config.

    :raises ConfigError: if ``env`` is neither an id nor a mapping
    """
    if not isinstance(env, str | Mapping):
        raise ConfigError([Problem(("env",), f"should be an id or a mapping, not {env!r}")])
    return {"id": env} if isinstance(env, str) else dict(env)


def make_config(**sections: Any) -> ResolvedConfig:
    """Resolve a config from its sections, with the components that they name.

    :raises ConfigError: with every problem in it
    """
    document = Document({"name": "conformance", "seed": SEED}, {})
    apply_overrides(document, sections)  # replaces a class by its path
    document.locations.clear()
    return resolve_document(document)
