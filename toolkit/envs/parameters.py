"""Parameters of environments and wrappers that change between episodes: by a schedule, or by a callback."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from toolkit.config.components import BoundComponent
from toolkit.config.schedules import DECLARATION
from toolkit.config.schema import RunConfig
from toolkit.config.signatures import bind_arguments, read_signature
from toolkit.utils.errors import ComponentError, KeyPath, Problem, did_you_mean

Values = dict[str, Any]
"""Values by the dotted path that a config has: ``env.params.gravity``, ``env.wrappers.0.params.scale``."""
_UNKNOWN = object()
Setter = Callable[[Any], None]
Layer = tuple[BoundComponent, Any]  # with the object that it built


class ChangeableParameters:
    """The parameters of one environment and its wrappers that can get another value where an episode starts.

    A value goes to the method ``set_NAME`` of the object, or else to its attribute ``NAME`` or ``_NAME``. A class may
    list the names in ``changeable_params``, and then no other parameter changes. Without such a list, an attribute
    counts only if it has the value that the constructor got.

    :param layers: each component with the object that it built
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._layers = {f"{format_path(component.path)}.params": (component, owner) for component, owner in layers}
        self._setters: dict[str, Setter] = {}

    def check_schedules(self, config: RunConfig) -> None:
        """Check that every parameter with a schedule can change.

        :raises ConfigError: with a problem for each that cannot
        """
        problems = []
        for component, _ in self._layers.values():
            for name in component.schedules:
                path = (*component.path, "params", name)
                message, hint = self.find_problem(format_path(path))
                problems += [Problem(path, message, hint)] if message else []
        if problems:
            raise config.make_error(problems)

    def set(self, values: Values) -> None:
        """Set parameters.

        :raises ComponentError: if one of them does not exist, or cannot change
        """
        for path, value in values.items():
            self.find_setter(path)(value)

    def find_problem(self, path: str) -> tuple[str, str]:
        """Return why a parameter cannot change, and what to do; empty texts if it can.

        Call it before a change: it compares an attribute with what the constructor got.
        """
        try:
            self.find_setter(path)
        except ComponentError as error:
            return error.message, error.hint
        layer, _, name = path.rpartition(".")
        return _find_other_value(*self._layers[layer], name)

    def find_setter(self, path: str) -> Setter:
        """Return what sets a parameter.

        :raises ComponentError: if it does not exist, or cannot change
        """
        if path not in self._setters:
            layer, _, name = path.rpartition(".")
            if layer not in self._layers:
                raise ComponentError(f"'{path}' is no parameter of this environment")
            component, owner = self._layers[layer]
            make = _make_batch_setter if isinstance(owner, VectorEnv) else _make_setter
            self._setters[path] = make(component, owner, name)
        return self._setters[path]


NO_PARAMETERS = ChangeableParameters(())
"""Those of an environment that nothing changes."""


class BatchParameters(ChangeableParameters):
    """The parameters of environments that step as one batch: each has an array with one value for each environment.

    The class must list them in ``changeable_params``.

    :param n_envs: number of environments
    """

    def __init__(self, layers: Iterable[Layer], n_envs: int) -> None:
        super().__init__(layers)
        self.rows: dict[str, NDArray[Any]] = {}
        self._n_envs = n_envs

    def set(self, values: Values, mask: NDArray[np.bool_] | None = None) -> None:
        """Set parameters in some environments, by default in all.

        :raises ComponentError: if one of them does not exist, or cannot change
        """
        for path, value in values.items():
            rows = np.full(self._n_envs, value)
            if mask is not None:
                before = self.rows.get(path, self._find_given(path))
                rows = rows if before is _UNKNOWN else np.where(mask, rows, before)
            self.set_rows({path: rows})

    def set_rows(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Set the values of each environment."""
        for path, values in rows.items():
            self.find_setter(path)(values)
            self.rows[path] = values

    def _find_given(self, path: str) -> Any:
        layer, _, name = path.rpartition(".")
        component, _ = self._layers[layer]
        return _find_given(component, name)


def _make_batch_setter(component: BoundComponent, owner: VectorEnv[Any, Any, Any], name: str) -> Setter:
    """Return what sets a parameter of environments that step as one, to one value or to one for each.

    :raises ComponentError: if the class does not list it, or it cannot change
    """
    if name not in getattr(type(owner), DECLARATION, ()):
        message = f"cannot change in a batch: {type(owner).__name__} does not list it in {DECLARATION}"
        raise ComponentError(message, "list it there if it may be an array with a value for each environment")
    setter = _make_setter(component, owner, name)
    return lambda value: setter(np.full(owner.num_envs, value))


def _make_setter(component: BoundComponent, owner: Any, name: str) -> Setter:
    """Return what sets a parameter of an object.

    :raises ComponentError: if its constructor does not take the parameter, or it cannot change
    """
    cls, signature = type(owner), read_signature(_find_creator(component))
    if name not in signature.parameters and not signature.accepts_others:
        raise ComponentError("unknown parameter", did_you_mean(name, [*signature.parameters]))
    declared = getattr(cls, DECLARATION, None)
    if declared is not None and name not in declared:
        names = ", ".join(declared) or "nothing"
        raise ComponentError(f"cannot change between episodes: {cls.__name__} lets these change: {names}")
    if callable(getattr(cls, f"set_{name}", None)):
        setter: Setter = getattr(owner, f"set_{name}")
        return setter
    attribute = _find_attribute(owner, name)
    if attribute is None:
        message = f"cannot change between episodes: {cls.__name__} has neither set_{name}() nor an attribute '{name}'"
        raise ComponentError(message, f"keep it as self.{name}, and read that in each step")
    return lambda value: setattr(owner, attribute, value)


def _find_other_value(component: BoundComponent, owner: Any, name: str) -> tuple[str, str]:
    """Return the problem that an attribute is not the parameter, if nothing says that it is; else empty texts."""
    cls, attribute = type(owner), _find_attribute(owner, name)
    if hasattr(cls, DECLARATION) or callable(getattr(cls, f"set_{name}", None)) or attribute is None:
        return "", ""
    given, kept = _find_given(component, name), getattr(owner, attribute)
    if given is _UNKNOWN or _are_same(given, kept):
        return "", ""
    message = f"cannot change between episodes: {cls.__name__}.{attribute} is {kept!r}, not the {given!r} given"
    return message, f"add a method set_{name} to the class"


def _find_attribute(owner: Any, name: str) -> str | None:
    return next((attribute for attribute in (name, f"_{name}") if _is_settable(owner, attribute)), None)


def _find_creator(component: BoundComponent) -> Callable[..., Any]:
    """Return the class or function whose parameters a component has."""
    creator: Callable[..., Any] = component.cls if component.parameters is None else component.parameters.owner
    return creator


def _is_settable(owner: Any, attribute: str) -> bool:
    descriptor = getattr(type(owner), attribute, None)
    if isinstance(descriptor, property):
        return descriptor.fset is not None
    return attribute in getattr(owner, "__dict__", ()) or hasattr(descriptor, "__set__")


def _find_given(component: BoundComponent, name: str) -> Any:
    """Return the value that a constructor got, or its default."""
    registered = component.parameters.registered if component.parameters else {}
    if name in component.arguments or name in registered:
        return component.arguments.get(name, registered.get(name))
    parameter = read_signature(_find_creator(component)).parameters.get(name)
    return _UNKNOWN if parameter is None or parameter.default is parameter.empty else parameter.default


def _are_same(first: Any, second: Any) -> bool:
    if isinstance(first, numbers.Real) and isinstance(second, numbers.Real):
        return math.isclose(first, second, rel_tol=1e-6)
    return first is second or bool(np.array_equal(first, second))


class EnvParameters:
    """The values that parameters of environments and wrappers get in the episodes that start next.

    A callback has it as ``self.context.parameters``, and changes values with :meth:`set`. They are part of a snapshot.
    A running episode keeps the values that it started with.

    :param components: the environment and its wrappers
    :param timesteps: at which schedules end
    :param find_problem: returns why an environment cannot change the parameter at a path, and what to do
    :ivar values: those of all schedules and of :meth:`set`, by the path of the parameter
    """

    def __init__(
        self,
        components: Iterable[BoundComponent] = (),
        timesteps: int = 1,
        find_problem: Callable[[str], tuple[str, str]] = lambda _: ("", ""),
    ) -> None:
        self._components = {f"{format_path(component.path)}.params": component for component in components}
        self._schedules = {
            f"{path}.{name}": schedule
            for path, component in self._components.items()
            for name, schedule in component.schedules.items()
            if schedule is not None
        }
        self._timesteps = timesteps
        self._find_problem = find_problem
        self.values: Values = {}
        self._chosen: Values = {}
        self._sent: Values = {}
        self._n_episodes = -1  # when the schedules that follow episodes were computed

    @property
    def is_used(self) -> bool:
        """Whether any parameter changes."""
        return bool(self._schedules or self._chosen)

    def check(self, path: str, value: Any) -> None:
        """Check that a callback may give a parameter a value.

        :param path: dotted, such as ``env.params.gravity``
        :raises ComponentError: if it does not exist, has a schedule, takes no such value, or cannot change
        """
        layer, _, name = path.rpartition(".")
        if layer not in self._components:
            hint = f"known: {', '.join(f'{known}.NAME' for known in self._components)}"
            raise ComponentError("is no parameter of an environment or a wrapper", hint)
        if path in self._schedules:
            raise ComponentError("has a schedule in the config, so nothing else can change it", "remove one of them")
        message, hint = self._find_problem(path)
        parameters = self._components[layer].parameters
        if not message and parameters is not None:
            _, problems = bind_arguments(parameters.owner, {name: value}, (), parameters.supplied)
            message, hint = next(((item.message, item.hint) for item in problems if item.path[0] == name), ("", ""))
        if message:
            raise ComponentError(message, hint)

    def set(self, values: Mapping[str, Any]) -> None:
        """Choose values for the episodes that start from the next step on.

        :param values: by dotted path, such as ``env.params.gravity``; see :meth:`check`
        """
        self._chosen |= values
        self.values |= values

    def update(self, timestep: int, episodes: Sequence[Any]) -> Values | None:
        """Compute the values of the schedules.

        :param timestep: at which episodes start
        :param episodes: those that count
        :return: the values for the episodes that start now; None if they have not changed since the last call
        :raises ValueError: if a schedule does not return a finite number
        """
        progress_remaining = max(0.0, 1 - timestep / self._timesteps)
        for path, schedule in self._schedules.items():
            if not schedule.follows_episodes or len(episodes) != self._n_episodes:
                self.values[path] = schedule.compute(progress_remaining, episodes)
        self._n_episodes = len(episodes)
        if self.values == self._sent:
            return None
        self._sent = dict(self.values)
        return self._sent

    def state_dict(self) -> Values:
        """Return the values that callbacks have chosen; schedules follow from the timestep and the episodes."""
        return dict(self._chosen)

    def load_state_dict(self, state: Values) -> None:
        """Restore :meth:`state_dict`; the environments may have other values."""
        self._chosen, self._sent, self._n_episodes = dict(state), {}, -1
        self.values = dict(state)


def format_path(path: KeyPath) -> str:
    """Return a path as ``--set`` takes it."""
    return ".".join(map(str, path))


def select_values(values: Values, config: RunConfig, changed: RunConfig) -> Values:
    """Return the values of parameters that a config with another ``env`` has in the same way, by their paths there.

    :param values: by their paths in ``config``
    """
    selected = {}
    for path, value in values.items():
        _, key, *rest, name = path.split(".")
        own, others = getattr(config.env, key), getattr(changed.env, key)
        if not rest:  # env.params.NAME
            if config.env.id == changed.env.id and own.get(name) == others.get(name):
                selected[path] = value
        elif (component := own[int(rest[0])]) in others:
            selected[f"env.{key}.{others.index(component)}.params.{name}"] = value
    return selected
