"""A config's names to the classes they mean, with their parameters checked: all that can be known before building."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config.registry import KINDS, Kind, entries, find, load_module, load_object
from toolkit.config.schema import AlgorithmConfig, ComponentConfig, EnvConfig, RunConfig
from toolkit.config.signatures import bind_arguments
from toolkit.config.trust import resolving_for
from toolkit.utils.errors import ComponentError, ConfigError, KeyPath, Problem, describe_error, did_you_mean
from toolkit.utils.memory import installed_memory, is_memory_shortage, limit_memory_to_installed


@dataclass(frozen=True)
class BoundComponent:
    """A component's class, or another callable that builds it, with its checked keyword arguments.

    :param path: where the config names it
    :param make_error: returns the error that reports problems with their file and line
    """

    name: str
    path: KeyPath
    cls: Any
    arguments: dict[str, Any]
    make_error: Callable[[Sequence[Problem]], ConfigError]

    def build(self, *supplied: Any, **more: Any) -> Any:
        """Call the constructor.

        :raises ConfigError: if it raises; building happens before a run exists, so this is bad input
        """
        try:
            with limit_memory_to_installed():
                return self.cls(*supplied, **self.arguments, **more)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            what, hint, path = "cannot be built", "", self._blamed(error)
            if is_memory_shortage(error):
                what = f"does not fit into this machine's memory of {installed_memory() / 2**30:.0f} GiB"
                hint = "make what sizes it smaller: buffer_size, n_steps, net_arch, ..."
            raise self.make_error([Problem(path, f"'{self.name}' {what}: {describe_error(error)}", hint)]) from error

    def _blamed(self, error: BaseException) -> KeyPath:
        """Return the path of the parameter that an exception speaks of, if it is one, or else the component's."""
        words = {*re.findall(r"\w+", str(error))}
        blamed = words & self.arguments.keys()
        return (*self.path, "params", *blamed) if len(blamed) == 1 else self.path


@dataclass(frozen=True)
class Components:
    """Everything that a config names.

    :param policy: an alias that the algorithm knows, or a policy class
    :param code: files of code that belong to no installed distribution, with their SHA-256
    """

    algorithm: BoundComponent
    policy: str | type[Any]
    policy_arguments: dict[str, Any]
    wrappers: tuple[BoundComponent, ...]
    vec_wrappers: tuple[BoundComponent, ...]
    callbacks: tuple[BoundComponent, ...]
    code: Mapping[Path, str]


def find_components(config: RunConfig) -> tuple[Components | None, list[Problem]]:
    """Find every component that a config names and check its parameters; nothing is built.

    :return: ``None`` if the algorithm cannot be found, and every problem
    """
    with resolving_for(config.origin) as code:
        return _find_components(config, code)


def import_modules(config: RunConfig) -> None:
    """Import a config's modules in a process that has not resolved it, as that of an environment.

    :raises ConfigError: with every problem
    """
    with resolving_for(config.origin):
        if problems := _import_problems(config.import_modules):
            raise config.make_error(problems)


def _find_components(config: RunConfig, code: Mapping[Path, str]) -> tuple[Components | None, list[Problem]]:
    # an environment is registered when its module is imported
    problems = _import_problems(config.import_modules) or _env_problems(config.env)

    def bind_all(kind: Kind, configs: Sequence[ComponentConfig], path: KeyPath) -> tuple[BoundComponent, ...]:
        components = [
            bind_component(config.make_error, kind, component, (*path, index), problems)
            for index, component in enumerate(configs)
        ]
        return tuple(component for component in components if component is not None)

    wrappers = bind_all(KINDS["wrappers"], config.env.wrappers, ("env", "wrappers"))
    vec_wrappers = bind_all(KINDS["vec_wrappers"], config.env.vec_wrappers, ("env", "vec_wrappers"))
    callbacks = bind_all(KINDS["callbacks"], config.callbacks, ("callbacks",))
    algorithm = bind_component(config.make_error, KINDS["algorithms"], config.algorithm, ("algorithm",), problems)
    if algorithm is None:
        return None, problems
    policy, policy_arguments = _bind_policy(config, algorithm.cls, problems)
    return Components(algorithm, policy, policy_arguments, wrappers, vec_wrappers, callbacks, code), problems


def bind_component(
    make_error: Callable[[Sequence[Problem]], ConfigError],
    kind: Kind,
    config: ComponentConfig | AlgorithmConfig,
    path: KeyPath,
    problems: list[Problem],
) -> BoundComponent | None:
    """Find the component that a file names and check its parameters; every problem is added to ``problems``.

    :param make_error: returns the error that reports problems with their file and line
    :param path: where the file names it
    :return: ``None`` if it cannot be found
    """
    try:
        cls = find(kind, config.name)
    except ComponentError as error:
        problems.append(Problem((*path, "name"), error.message, error.hint))
        return None
    arguments, more_problems = bind_arguments(cls, config.params, (*path, "params"), kind.supplied)
    problems.extend(more_problems)
    return BoundComponent(config.name, path, cls, arguments, make_error)


def _bind_policy(config: RunConfig, algorithm: Any, problems: list[Problem]) -> tuple[Any, dict[str, Any]]:
    kind, name = KINDS["policies"], config.algorithm.policy
    aliases: Mapping[str, type[Any]] = algorithm.policy_aliases
    try:
        if name not in aliases and ":" not in name and name not in entries(kind):
            hint = did_you_mean(name, [*aliases, *entries(kind)])
            raise ComponentError(f"{config.algorithm.name} has no policy '{name}'", hint)
        cls = aliases.get(name) or find(kind, name)
    except ComponentError as error:
        problems.append(Problem(("algorithm", "policy"), error.message, error.hint))
        return name, {}
    path = ("algorithm", "policy_params")
    arguments, found = bind_arguments(cls, config.algorithm.policy_params, path, kind.supplied)
    problems.extend(found)
    return name if name in aliases else cls, arguments


def _import_problems(modules: Sequence[str]) -> list[Problem]:
    """Import modules, and say which of them cannot be."""
    problems = []
    for index, name in enumerate(modules):
        try:
            if ":" in name and not name.endswith(".py"):
                raise ComponentError(f"'{name}' is no module", f"write '{name.partition(':')[0]}'")
            load_module(name)
        except ComponentError as error:
            problems.append(Problem(("import_modules", index), error.message, error.hint))
    return problems


def _env_problems(env: EnvConfig) -> list[Problem]:
    """Check that the environment is registered and takes its parameters; nothing is built."""
    import gymnasium as gym

    module, _, bare_id = env.id.rpartition(":")
    try:
        if module:
            load_module(module)
        spec = gym.spec(bare_id)
        creator = load_object(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    except ComponentError as error:
        return [Problem(("env", "id"), f"'{env.id}' cannot be made: {error.message}", error.hint)]
    except gym.error.Error as error:
        message, _, hint = " ".join(str(error).split()).partition(". ")
        hint = hint or did_you_mean(bare_id, [*gym.registry], max_listed=0)
        if not hint or hint.startswith("Have you installed"):
            hint = "name the package that registers it under import_modules"
        return [Problem(("env", "id"), message.rstrip("."), hint[:1].lower() + hint[1:])]
    if creator is None:
        return []
    of_gymnasium = inspect.signature(gym.make).parameters
    supplied = {"render_mode": "whether a video is made", "max_episode_steps": "env.max_episode_steps"}
    own_params = {key: value for key, value in env.params.items() if key in supplied or key not in of_gymnasium}
    params = {**spec.kwargs, **own_params}
    problems = bind_arguments(creator, params, ("env", "params"), supplied)[1]
    # what the registration gives, and what a class gives its parent, need not be in the config
    needed = _own_names(creator) - spec.kwargs.keys()
    return [problem for problem in problems if problem.path[2] in env.params or problem.path[2] in needed]


def _own_names(creator: Callable[..., Any]) -> set[str | int]:
    try:
        return {*inspect.signature(creator).parameters}
    except (TypeError, ValueError):
        return set()
