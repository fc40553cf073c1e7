"""Find the class behind every name in a config and check its parameters: everything that needs no building."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.config.doubts import find_equal_seeds, find_paths_as_text
from toolkit.config.env_overrides import EnvOverrides
from toolkit.config.environments import bind_env_params, call_register_function, find_env, schedule_env_params
from toolkit.config.parameters import Parameters
from toolkit.config.registry import KINDS, Kind, find, list_entry_points, load_module, suggest_file
from toolkit.config.replay_buffers import bind_replay_buffer
from toolkit.config.run_path import find_misplaced_run, has_run_directory, replace_run
from toolkit.config.schedules import ParameterSchedule, replace_schedules
from toolkit.config.schema import AlgorithmConfig, ComponentConfig, RunConfig
from toolkit.config.signatures import NestedComponent, bind_arguments, list_default_envs, read_signature
from toolkit.config.trust import resolving_for
from toolkit.utils.attributes import suggest_base_wrappers
from toolkit.utils.errors import ComponentError, ConfigError, KeyPath, Problem, describe_error, did_you_mean
from toolkit.utils.log import describe_warnings
from toolkit.utils.memory import installed_memory, is_memory_shortage, limit_memory_to_installed


@dataclass(frozen=True)
class BoundComponent:
    """A component's class, or another callable that builds it, with its checked keyword arguments.

    :param path: where the config names it
    :param arguments: for the first environment, if they differ between environments
    :param make_error: returns the error that reports problems with their file and line
    :param parameters: what the arguments were made from; ``None`` if they are final
    :param schedules: the parameters that change from episode to episode; in other processes without the schedules
    """

    name: str
    path: KeyPath
    cls: Any
    arguments: dict[str, Any]
    make_error: Callable[[Sequence[Problem]], ConfigError]
    parameters: Parameters | None = None
    schedules: Mapping[str, ParameterSchedule | None] = field(default_factory=dict)

    def build(self, *supplied: Any, **more: Any) -> Any:
        """Call the constructor with copies of the arguments: no two objects share a noise, schedule or list.

        :param supplied: the arguments that the toolkit passes, with ``more``
        :raises ConfigError: if the constructor raises; building comes before a run exists, so the config is wrong
        """
        return self.build_with(copy_arguments(self.arguments), *supplied, **more)

    def build_with(self, arguments: Mapping[str, Any], *supplied: Any, **more: Any) -> Any:
        """Call the constructor as :meth:`build` does, with arguments that nothing else has.

        :raises ConfigError: if the constructor raises
        """
        return self._build(arguments, supplied, more, BoundComponent.build)

    def build_with_envs(self, kind: Kind, make_env: Callable[[], Any]) -> Any:
        """Build a component, and those nested in it, with an environment for each parameter that lacks one.

        It also gets the toolkit's defaults. A subclass that passes on its keyword arguments may pass one of these
        arguments, too, such as an environment of its own. It does not get that argument then.

        :param make_env: called for each parameter that :func:`toolkit.config.signatures.list_default_envs` names
        :raises ConfigError: if a constructor raises
        """
        signature = read_signature(self.cls)
        more = {name: value for name, value in signature.toolkit_defaults.items() if name not in self.arguments}
        env_names = list_default_envs(signature, kind.defaults)
        more |= {name: make_env() for name in env_names if name not in self.arguments}

        def build_nested(nested: BoundComponent) -> Any:
            return nested.build_with_envs(kind, make_env)

        while True:
            try:
                return self._build(copy_arguments(self.arguments), (), more, build_nested)
            except ConfigError as error:
                repeated = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", str(error.__cause__))
                if repeated is None or repeated[1] not in more:
                    raise
                del more[repeated[1]]

    def _build(
        self,
        arguments: Mapping[str, Any],
        supplied: Sequence[Any],
        more: Mapping[str, Any],
        build_nested: Callable[[BoundComponent], Any],
    ) -> Any:
        def build_value(value: Any) -> Any:
            if isinstance(value, NestedComponent):
                return build_nested(self._bind_nested(value))
            return [*map(build_value, value)] if type(value) is list else value

        arguments = {name: build_value(value) for name, value in arguments.items()}
        try:
            with limit_memory_to_installed(), describe_warnings(self._describe_warning):
                return self.cls(*supplied, **arguments, **more)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            message, hint = "cannot be built", suggest_base_wrappers(error)
            if is_memory_shortage(error):
                message = f"does not fit into this machine's memory of {installed_memory() / 2**30:.0f} GiB"
                hint = "reduce what sizes it: buffer_size, n_steps, net_arch, ..."
            problem = Problem(self._locate(error), f"'{self.name}' {message}: {describe_error(error)}", hint)
            raise self.make_error([problem]) from error

    def iterate_nested(self) -> Iterator[BoundComponent]:
        """Yield the component, and the callbacks and environments in its parameters, at any depth."""
        yield self
        for value in self.arguments.values():
            for item in value if type(value) is list else [value]:
                if isinstance(item, NestedComponent):
                    yield from self._bind_nested(item).iterate_nested()

    def _bind_nested(self, nested: NestedComponent) -> BoundComponent:
        return BoundComponent(nested.name, nested.path, nested.cls, nested.arguments, self.make_error)

    def for_env(self, index: int) -> BoundComponent:
        """Return the component with the arguments of one environment, in any process.

        :raises ConfigError: if they do not fit, or a function that the config calls raises an exception
        """
        if self.parameters is None:
            return self
        lost = self.parameters.values.keys() - self.arguments.keys()
        names = self.parameters.list_names_per_env() | lost if index else lost
        if not names:
            return self
        arguments, problems = self.parameters.bind_for_env(index, names)
        if problems:
            raise self.make_error(problems)
        return replace(self, arguments=self.arguments | arguments)

    def find_call_results(self, arguments: Mapping[str, Any]) -> list[Any]:
        """Return what the functions returned that the config calls, in copies of the arguments."""
        return self.parameters.find_call_results(arguments) if self.parameters else []

    def __getstate__(self) -> dict[str, Any]:
        """Leave calls to the process that gets this: what a function returned may be large, or not picklable."""
        names = self.parameters.list_names_with_calls() if self.parameters else ()
        arguments = {name: value for name, value in self.arguments.items() if name not in names}
        state = {key: value for key, value in vars(self).items() if key != "arguments_with_defaults"}
        return state | {"arguments": arguments, "schedules": dict.fromkeys(self.schedules)}

    def get_argument(self, name: str) -> Any:
        """Return an argument, or the constructor's default; ``None`` if there is neither."""
        return self.arguments_with_defaults.get(name)

    @cached_property
    def arguments_with_defaults(self) -> dict[str, Any]:
        """The arguments, and the defaults of the constructor's other parameters."""
        parameters = read_signature(self.cls).parameters.items()
        defaults = {name: item.default for name, item in parameters if item.default is not inspect.Parameter.empty}
        return defaults | self.arguments

    def _describe_warning(self, warning: Warning, text: str) -> str:
        return str(self.make_error([Problem(self._locate(warning), text)]))

    def _locate(self, error: BaseException) -> KeyPath:
        """Return the path of the only parameter whose name or text an exception mentions, or else the component's."""
        text = str(error)
        mentioned = {*re.findall(r"\w+", text)} & self.arguments.keys()
        quoted = {*re.findall("'([^']*)'", text)}
        if not mentioned:
            mentioned = {name for name, value in self.arguments.items() if isinstance(value, str) and value in quoted}
        return (*self.path, "params", *mentioned) if len(mentioned) == 1 else self.path


def copy_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return deep copies of arguments; an object that cannot be copied is shared."""
    copies = {}
    for name, value in arguments.items():
        try:
            copies[name] = copy.deepcopy(value)
        except Exception:  # raised by a third-party class, for example one with a lock
            copies[name] = value
    return copies


@dataclass(frozen=True)
class Components:
    """Every component that a config names.

    :param policy: an alias of the algorithm's, or a policy class
    :param env: makes one environment, without Monitor and the config's wrappers
    :param code: SHA-256 of each code file outside installed distributions
    """

    algorithm: BoundComponent
    policy: str | type[Any]
    policy_arguments: dict[str, Any]
    env: BoundComponent
    base_wrappers: tuple[BoundComponent, ...]
    wrappers: tuple[BoundComponent, ...]
    vec_wrappers: tuple[BoundComponent, ...]
    callbacks: tuple[BoundComponent, ...]
    code: Mapping[Path, str]


def find_components(config: RunConfig) -> tuple[Components | None, list[Problem]]:
    """Find every component that a config names and check its parameters; nothing is built.

    :return: ``None`` if the algorithm cannot be found, and every problem
    """
    with resolving_for(config.origin) as code:
        components, problems = _find_components(config, code)
    return components, [suggest_file(problem, config.get_directory(problem.path)) for problem in problems]


def bind_callback(config: RunConfig, callback: ComponentConfig, bound: BoundComponent, run: Path) -> BoundComponent:
    """Bind a callback's parameters again, with the run directory in place of ``{run}``.

    :raises ConfigError: with every problem
    """
    if not has_run_directory(callback.params):
        return bound
    params, problems = replace_run(callback.params, run), list[Problem]()
    with resolving_for(config.origin):
        component = ComponentConfig(name=callback.name, params=params)
        rebound = bind_component(config.make_error, KINDS["callbacks"], component, bound.path, problems)
    if rebound is None or problems:
        raise config.make_error(problems)
    return rebound


def find_doubts(config: RunConfig, components: Components) -> list[Problem]:
    """Find valid parameters that are probably mistakes."""
    in_envs = (components.env, *components.base_wrappers, *components.wrappers)
    all_components = (*in_envs, *components.vec_wrappers, *components.callbacks, components.algorithm)
    problems: list[Problem] = []
    with resolving_for(config.origin):
        for component in all_components:
            if parameters := component.parameters:
                problems += find_paths_as_text(parameters.owner, parameters.values, parameters.path)
        for component in in_envs:
            if parameters := component.parameters:
                problems += find_equal_seeds(parameters.owner, parameters.values, parameters.path, config.env.n_envs)
        for path, overrides in _iterate_env_overrides(components.callbacks):
            changed = overrides.apply_to(config)
            if changed_components := _find_components(changed, {})[0]:
                found = find_doubts(changed, changed_components)
                problems += [locate_override(problem, path) for problem in found if problem not in problems]
    return problems


def select_for_env(components: Sequence[BoundComponent], config: RunConfig, index: int) -> tuple[BoundComponent, ...]:
    """Return components with the arguments of one environment, in any process; the config's modules are imported.

    :raises ConfigError: if a module cannot be imported, or a function that the config calls raises an exception
    """
    with resolving_for(config.origin):
        if problems := _check_imports(config.import_modules):
            raise config.make_error(problems)
        return tuple(component.for_env(index) for component in components)


def _find_components(config: RunConfig, code: Mapping[Path, str]) -> tuple[Components | None, list[Problem]]:
    problems = [*find_misplaced_run(config), *_check_imports(config.import_modules)]
    env = _bind_env(config, problems)

    def bind_all(kind: Kind, configs: Sequence[ComponentConfig], path: KeyPath) -> tuple[BoundComponent, ...]:
        n_envs = config.env.n_envs if kind.name == "wrappers" else None
        components = [
            bind_component(config.make_error, kind, component, (*path, index), problems, n_envs)
            for index, component in enumerate(configs)
        ]
        return tuple(component for component in components if component is not None)

    base_wrappers = bind_all(KINDS["wrappers"], config.env.base_wrappers, ("env", "base_wrappers"))
    wrappers = bind_all(KINDS["wrappers"], config.env.wrappers, ("env", "wrappers"))
    vec_wrappers = bind_all(KINDS["vec_wrappers"], config.env.vec_wrappers, ("env", "vec_wrappers"))
    callbacks = bind_all(KINDS["callbacks"], config.callbacks, ("callbacks",))
    problems.extend(_check_env_overrides(config, callbacks, problems))
    algorithm = bind_component(config.make_error, KINDS["algorithms"], config.algorithm, ("algorithm",), problems)
    if algorithm is None:
        return None, problems
    policy, policy_arguments = _bind_policy(config, algorithm.cls, problems)
    layers = (env, base_wrappers, wrappers, vec_wrappers)
    return Components(algorithm, policy, policy_arguments, *layers, callbacks, code), problems


def _check_env_overrides(
    config: RunConfig, callbacks: Sequence[BoundComponent], known: Sequence[Problem]
) -> list[Problem]:
    """Return the problems of the environments that callbacks change for themselves, which the config's lacks."""
    problems = []
    for path, overrides in _iterate_env_overrides(callbacks):
        found = _find_components(overrides.apply_to(config), {})[1]
        problems += [locate_override(problem, path) for problem in found if problem not in known]
    return problems


def _iterate_env_overrides(callbacks: Sequence[BoundComponent]) -> Iterator[tuple[KeyPath, EnvOverrides]]:
    """Yield what callbacks change in the environment for themselves, with its place."""
    for component in (nested for callback in callbacks for nested in callback.iterate_nested()):
        for name, value in component.arguments.items():
            if isinstance(value, EnvOverrides):
                yield (*component.path, "params", name), value


def locate_override(problem: Problem, path: KeyPath) -> Problem:
    """Return a problem of an environment that a callback changes, with its place in the callback's parameters.

    :param path: of the parameter
    """
    return replace(problem, path=(*path, *problem.path[1:])) if problem.path[:1] == ("env",) else problem


def bind_component(
    make_error: Callable[[Sequence[Problem]], ConfigError],
    kind: Kind,
    config: ComponentConfig | AlgorithmConfig,
    path: KeyPath,
    problems: list[Problem],
    n_envs: int | None = None,
) -> BoundComponent | None:
    """Find the component that a file names and check its parameters; every problem is added to ``problems``.

    :param make_error: returns the error that reports problems with their file and line
    :param path: where the file names it
    :param n_envs: number of environments that each have one
    :return: ``None`` if it cannot be found
    """
    try:
        cls = find(kind, config.name)
    except ComponentError as error:
        problems.append(Problem((*path, "name"), error.message, error.hint))
        return None
    params: Mapping[str, Any] = config.params
    if kind.name == "algorithms":
        params = bind_replay_buffer(cls, params, (*path, "params"), problems)
    scheduled = replace_schedules(cls, params if kind.name == "wrappers" else {}, (*path, "params"))
    params = scheduled.values if kind.name == "wrappers" else params
    parameters = Parameters(cls, params, (*path, "params"), kind.supplied, defaults=kind.defaults)
    arguments, more_problems = parameters.bind(n_envs)
    problems.extend(scheduled.list_problems(more_problems))
    return BoundComponent(config.name, path, cls, arguments, make_error, parameters, scheduled.schedules)


def _bind_env(config: RunConfig, problems: list[Problem]) -> BoundComponent:
    """Find the environment and check its parameters; every problem is added to ``problems``."""
    env = config.env
    try:
        if not problems:  # an environment is registered when its module is imported
            maker = find_env(env.id, config.import_modules, as_batch=env.vec_env == "vector")
            scheduled = schedule_env_params(env, maker)
            parameters, arguments, more_problems = bind_env_params(env, maker, scheduled.values)
            problems.extend(scheduled.list_problems(more_problems))
            schedules = scheduled.schedules
            return BoundComponent(env.name, ("env",), maker.make, arguments, config.make_error, parameters, schedules)
    except ComponentError as error:
        problems.append(Problem(("env", "id"), error.message, error.hint))
    return BoundComponent(env.name, ("env",), None, {}, config.make_error)


def _bind_policy(config: RunConfig, algorithm: Any, problems: list[Problem]) -> tuple[Any, dict[str, Any]]:
    kind, name = KINDS["policies"], config.algorithm.policy
    aliases: Mapping[str, type[Any]] = algorithm.policy_aliases
    try:
        if name not in aliases and ":" not in name and name not in list_entry_points(kind):
            hint = did_you_mean(name, [*aliases, *list_entry_points(kind)])
            raise ComponentError(f"{config.algorithm.name} has no policy '{name}'", hint)
        cls = aliases.get(name) or find(kind, name)
    except ComponentError as error:
        problems.append(Problem(("algorithm", "policy"), error.message, error.hint))
        return name, {}
    path = ("algorithm", "policy_params")
    arguments, more_problems = bind_arguments(cls, config.algorithm.policy_params, path, kind.supplied)
    problems.extend(more_problems)
    return name if name in aliases else cls, arguments


def _check_imports(modules: Sequence[str]) -> list[Problem]:
    """Import modules, call functions, and return a problem for each where this fails."""
    problems = []
    for index, name in enumerate(modules):
        try:
            if ":" in name and not name.endswith(".py"):
                call_register_function(name)
            else:
                load_module(name)
        except ComponentError as error:
            problems.append(Problem(("import_modules", index), error.message, error.hint))
    return problems
