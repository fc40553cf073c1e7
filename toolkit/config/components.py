"""A config's names to the classes they mean, with their parameters checked: all that can be known before building."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config.compose import override, read
from toolkit.config.registry import KINDS, Kind, entries, find, load_module, load_object
from toolkit.config.schema import AlgorithmConfig, ComponentConfig, EnvConfig, RunConfig, parse
from toolkit.config.signatures import bind
from toolkit.config.trust import RunOrigin, digest_of, remember, resolving_for
from toolkit.config.validation import in_order
from toolkit.config.yaml_document import Document
from toolkit.utils.errors import ComponentError, ConfigError, KeyPath, Problem, describe, did_you_mean
from toolkit.utils.memory import installed_memory, is_shortage, no_more_than_installed


@dataclass(frozen=True)
class Bound:
    """A component's class, or what makes one, with its checked keyword arguments.

    :param path: where the config names it
    :param report: makes the error that says where the files name it
    """

    name: str
    path: KeyPath
    cls: Any
    arguments: dict[str, Any]
    report: Callable[[Sequence[Problem]], ConfigError]

    def build(self, *supplied: Any, **more: Any) -> Any:
        """Call the constructor.

        :raises ConfigError: if it raises; building happens before a run exists, so this is bad input
        """
        try:
            with no_more_than_installed():
                return self.cls(*supplied, **self.arguments, **more)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            what, hint, path = "cannot be built", "", self._blamed(error)
            if is_shortage(error):
                what = f"does not fit into this machine's memory of {installed_memory() / 2**30:.0f} GiB"
                hint = "make what sizes it smaller: buffer_size, n_steps, net_arch, ..."
            raise self.report([Problem(path, f"'{self.name}' {what}: {describe(error)}", hint)]) from error

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

    algorithm: Bound
    policy: str | type[Any]
    policy_arguments: dict[str, Any]
    wrappers: tuple[Bound, ...]
    vec_wrappers: tuple[Bound, ...]
    callbacks: tuple[Bound, ...]
    code: Mapping[Path, str]


def load_config(source: str | Path | RunConfig, overrides: Sequence[str] | Mapping[str, Any] = ()) -> RunConfig:
    """Read a config and check all of it, the components it names included.

    :param source: a YAML file, or a config to lay values over
    :param overrides: ``dotted.path=YAML value``, as after ``--set``, or Python values by dotted path
    :raises ConfigError: with every problem found, each as ``FILE:LINE: dotted.path: what is wrong``
    """
    document = source.to_document() if isinstance(source, RunConfig) else read(source)
    override(document, overrides)
    return checked(document)


def checked(document: Document) -> RunConfig:
    """Check all of a config that has been read, the components it names included.

    :raises ConfigError: with every problem found
    """
    config, problems = parse(document)
    if config is not None:
        problems = problems + resolve(config)[1]
    if config is None or problems:
        raise ConfigError(in_order(problems, document.places), document.places)
    return config


def read_config(path: str | Path) -> RunConfig:
    """Read the config of a run and check its shape alone; what it names is looked up when it is needed, with care.

    :raises ConfigError: with every problem found
    """
    document = read(path)
    document.opened = RunOrigin(digest_of(document.data))
    config, problems = parse(document)
    if config is None or problems:
        raise ConfigError(in_order(problems, document.places), document.places)
    return config


def trust_code(config: RunConfig) -> None:
    """Say that the code which a run's config names may run, now and from now on."""
    if config.opened:
        config.opened.trusted = True


def remember_trusted_code(config: RunConfig) -> None:
    """Take down that this user trains a config with the code it names, so that its run can be opened."""
    remember(digest_of(config.to_document().data), components_of(config).code)


def components_of(config: RunConfig) -> Components:
    """Find and check everything that a config names.

    :raises ConfigError: with every problem found
    """
    components, problems = resolve(config)
    if components is None or problems:
        raise config.error(problems)
    return components


def resolve(config: RunConfig) -> tuple[Components | None, list[Problem]]:
    """Find and check everything that a config names; return what was found, and every problem."""
    with resolving_for(config.opened) as code:
        return _resolve(config, code)


def import_modules(config: RunConfig) -> None:
    """Import the modules that a config wants imported, in a process that has not looked its names up.

    :raises ConfigError: with every problem found
    """
    with resolving_for(config.opened):
        if problems := _import_problems(config.import_modules):
            raise config.error(problems)


def _resolve(config: RunConfig, code: Mapping[Path, str]) -> tuple[Components | None, list[Problem]]:
    # without its module an environment is not registered
    problems = _import_problems(config.import_modules) or _env_problems(config.env)

    def bind_all(kind: Kind, listed: Sequence[ComponentConfig], path: KeyPath) -> tuple[Bound, ...]:
        found = [bound(config.error, kind, named, (*path, index), problems) for index, named in enumerate(listed)]
        return tuple(one for one in found if one is not None)

    wrappers = bind_all(KINDS["wrappers"], config.env.wrappers, ("env", "wrappers"))
    vec_wrappers = bind_all(KINDS["vec_wrappers"], config.env.vec_wrappers, ("env", "vec_wrappers"))
    callbacks = bind_all(KINDS["callbacks"], config.callbacks, ("callbacks",))
    algorithm = bound(config.error, KINDS["algorithms"], config.algorithm, ("algorithm",), problems)
    if algorithm is None:
        return None, problems
    policy, policy_arguments = _bind_policy(config, algorithm.cls, problems)
    return Components(algorithm, policy, policy_arguments, wrappers, vec_wrappers, callbacks, code), problems


def bound(
    report: Callable[[Sequence[Problem]], ConfigError],
    kind: Kind,
    named: ComponentConfig | AlgorithmConfig,
    path: KeyPath,
    problems: list[Problem],
) -> Bound | None:
    """Find what a file names and check its parameters; what is wrong is added to ``problems``.

    :param report: makes the error that says where the file names it
    :param path: where the file names it
    :return: ``None`` if it cannot be found
    """
    try:
        cls = find(kind, named.name)
    except ComponentError as error:
        problems.append(Problem((*path, "name"), error.message, error.hint))
        return None
    arguments, found = bind(cls, named.params, (*path, "params"), kind.supplied)
    problems.extend(found)
    return Bound(named.name, path, cls, arguments, report)


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
    arguments, found = bind(cls, config.algorithm.policy_params, path, kind.supplied)
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
        hint = hint or did_you_mean(bare_id, [*gym.registry], few=0)
        if not hint or hint.startswith("Have you installed"):
            hint = "name the package that registers it under import_modules"
        return [Problem(("env", "id"), message.rstrip("."), hint[:1].lower() + hint[1:])]
    if creator is None:
        return []
    of_gymnasium = inspect.signature(gym.make).parameters
    supplied = {"render_mode": "whether a video is made", "max_episode_steps": "env.max_episode_steps"}
    own_params = {key: value for key, value in env.params.items() if key in supplied or key not in of_gymnasium}
    params = {**spec.kwargs, **own_params}
    problems = bind(creator, params, ("env", "params"), supplied)[1]
    # what the registration gives, and what a class gives its parent, need not be in the config
    needed = _own_names(creator) - spec.kwargs.keys()
    return [problem for problem in problems if problem.path[2] in env.params or problem.path[2] in needed]


def _own_names(creator: Callable[..., Any]) -> set[str | int]:
    try:
        return {*inspect.signature(creator).parameters}
    except (TypeError, ValueError):
        return set()
