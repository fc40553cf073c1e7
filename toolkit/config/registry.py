"""Kind and name to component: entry points of installed packages, ``module:Class``, or ``file.py:Class``.

Listing names imports nothing; finding a component imports its module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from operator import attrgetter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from toolkit.config.imports import check_call, import_by_name, import_file
from toolkit.utils.errors import ComponentError, Problem, describe_error, did_you_mean

_MISSING_MODULE = re.compile(r"(.* cannot be made: )?module '(?P<module>.*)' does not exist")
_IS_PACKAGE_MISSING = "is its package installed here?"
_ALIAS = re.compile("(Mlp|Cnn|MultiInput)(Lstm)?Policy")  # SB3's and sb3_contrib's names under policy_aliases
_SAME_CLASS = 0.9  # similarity of names that mean one class, as difflib measures it


@dataclass(frozen=True)
class Kind:
    """A kind of component.

    :param name: plural, as in ``toolkit plugins NAME``; the entry-point group is ``toolkit.NAME``
    :param base: ``module:Class`` that every component of the kind subclasses; ``None`` for schedules, which are any
        class with callable objects
    :param supplied: constructor parameters that the toolkit passes, with where their value comes from
    :param defaults: those that it passes unless the config does, with what it passes
    """

    name: str
    base: str | None
    supplied: dict[str, str] = field(hash=False)
    defaults: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def singular(self) -> str:
        """The name of one component of the kind."""
        return {"policies": "policy"}.get(self.name, self.name.removesuffix("s"))

    @property
    def group(self) -> str:
        """The entry-point group of the kind."""
        return f"toolkit.{self.name}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "algorithms",
            "stable_baselines3.common.base_class:BaseAlgorithm",
            {
                "policy": "algorithm.policy",
                "env": "env",
                "policy_kwargs": "algorithm.policy_params",
                "seed": "the top-level seed",
                "tensorboard_log": "the run directory",
                "verbose": "the command line",
                "_init_setup_model": "the toolkit",
            },
        ),
        Kind(
            "policies",
            "stable_baselines3.common.policies:BasePolicy",
            {
                "observation_space": "the environment",
                "action_space": "the environment",
                "lr_schedule": "algorithm.params.learning_rate",
                "use_sde": "algorithm.params.use_sde",
            },
        ),
        Kind(
            "replay_buffers",
            "stable_baselines3.common.buffers:ReplayBuffer",
            {
                "buffer_size": "algorithm.params.buffer_size",
                "observation_space": "the environment",
                "action_space": "the environment",
                "device": "algorithm.params.device",
                "n_envs": "env.n_envs",
                "optimize_memory_usage": "algorithm.params.optimize_memory_usage",
                "env": "the environment",
            },
        ),
        Kind(
            "vector_envs",
            "gymnasium.vector:VectorEnv",
            {
                "num_envs": "env.n_envs",
                "max_episode_steps": "env.max_episode_steps",
                "render_mode": "whether a video is made",
            },
        ),
        Kind("wrappers", "gymnasium:Wrapper", {"env": "the environment"}),
        Kind("vec_wrappers", "stable_baselines3.common.vec_env:VecEnvWrapper", {"venv": "the environments"}),
        Kind(
            "callbacks",
            "stable_baselines3.common.callbacks:BaseCallback",
            {},
            {"eval_env": "the evaluation environment of this config"},
        ),
        Kind("schedules", None, {}),
        Kind("launchers", "toolkit.experiments.launcher:Launcher", {}),
        Kind("samplers", "optuna.samplers:BaseSampler", {}),
        Kind("pruners", "optuna.pruners:BasePruner", {}),
    )
}


def get_kind(name: str) -> Kind:
    """Return a kind by its plural or singular name.

    :raises ComponentError: if it does not exist
    """
    kinds = {kind.singular: kind for kind in KINDS.values()} | KINDS
    if name not in kinds:
        raise ComponentError(f"kind '{name}' does not exist", did_you_mean(name, [*KINDS]))
    return kinds[name]


def list_entry_points(kind: Kind) -> dict[str, list[EntryPoint]]:
    """List the registered names of a kind, sorted, each with every entry point that claims it.

    :raises ComponentError: if an installed distribution's list of entry points is damaged
    """
    return read_entry_points()[kind.name]


@cache
def read_entry_points() -> dict[str, dict[str, list[EntryPoint]]]:
    """Read the registered names of all kinds at once: each time, Python reads the files of every distribution."""
    try:
        registered = entry_points()
    except Exception as error:  # torch and gymnasium cannot be imported either
        damaged = ", ".join(distribution.name for distribution in distributions() if _is_damaged(distribution))
        raise ComponentError(f"cannot read the entry points of these packages: {damaged}", "reinstall them") from error
    claims: dict[str, dict[str, list[EntryPoint]]] = {name: {} for name in KINDS}
    for kind in KINDS.values():
        for entry_point in sorted(registered.select(group=kind.group), key=lambda item: item.name.lower()):
            claims[kind.name].setdefault(entry_point.name, []).append(entry_point)
    return claims


def _is_damaged(distribution: Distribution) -> bool:
    try:
        distribution.entry_points  # noqa: B018 - this reads the file
    except Exception:
        return True
    return False


def get_provider(entry_point: EntryPoint) -> str:
    """Return the name and version of the distribution that an entry point belongs to."""
    name, version = _read_name(entry_point.dist) if entry_point.dist else ("", "")
    return f"{name} {version}" if name else "an unknown distribution"  # the installation was interrupted


@cache
def _read_name(distribution: Distribution) -> tuple[str, str]:
    """Return the name and version of a distribution; each time, Python parses all of its metadata."""
    return distribution.name, distribution.version


def get_reference(entry_point: EntryPoint) -> str:
    """Return the ``module:Class`` that an entry point names.

    :raises ComponentError: if it names something else
    """
    match = EntryPoint.pattern.match(entry_point.value)
    if match is None or not match["attr"]:
        message = f"the entry point '{entry_point.name} = {entry_point.value}' does not name a class"
        raise ComponentError(message, "write module:Class")
    return f"{match['module']}:{match['attr']}"


def find(kind: Kind, name: str) -> type[Any]:
    """Import the component of a name and check that it is of the kind.

    :param name: a registered name, ``module:Class`` or ``file.py:Class``
    :raises ComponentError: if the name does not exist, two distributions claim it, its module cannot be imported, or
        the component is of another kind
    """
    if ":" in name:
        return _check_kind(kind, name, load_object(name))
    entry_point = get_entry_point(kind, name)
    try:
        return _check_kind(kind, name, load_object(get_reference(entry_point)))
    except ComponentError as error:
        raise add_provider(error, kind, entry_point) from error.__cause__


def get_entry_point(kind: Kind, name: str) -> EntryPoint:
    """Return the only entry point that claims a name.

    :raises ComponentError: if no distribution claims it, or several do
    """
    claims = list_entry_points(kind)
    if name not in claims:
        hint = _suggest_name_of_class(name, claims) or did_you_mean(name, [*claims])
        hint = hint or f"`toolkit plugins {kind.name}` lists all"
        if kind.name == "policies" and _ALIAS.fullmatch(name):
            hint = "algorithms have this alias, each for its own class: see `toolkit plugins algorithms NAME`"
        raise ComponentError(f"{kind.singular} '{name}' does not exist", hint)
    if len(claims[name]) > 1:
        owners = " and ".join(f"{get_provider(claim)} ({claim.value})" for claim in claims[name])
        raise ComponentError(f"{kind.singular} '{name}' is claimed by {owners}", "name the one you mean by its path")
    return claims[name][0]


def _suggest_name_of_class(name: str, claims: Mapping[str, Sequence[EntryPoint]]) -> str:
    """Suggest the registered name of the class that a text names, such as ``her`` for ``HerReplayBuffer``."""
    matches = {registered: EntryPoint.pattern.match(claim[0].value) for registered, claim in claims.items()}
    names = {match["attr"].lower(): registered for registered, match in matches.items() if match and match["attr"]}
    close = get_close_matches(name.lower(), names, n=1, cutoff=_SAME_CLASS)
    return f"did you mean '{names[close[0]]}'?" if close else ""


def add_provider(error: ComponentError, kind: Kind, entry_point: EntryPoint) -> ComponentError:
    """Return the error with the distribution of the component, or the module that it needs."""
    cause = error.__cause__
    missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
    if missing and entry_point.extras:
        message = f"{kind.singular} '{entry_point.name}' needs the module '{missing}', which is not installed"
        return ComponentError(message, get_install_command(entry_point))
    if missing and not f"{entry_point.module}.".startswith(f"{missing}."):
        hint = f"{get_provider(entry_point)} needs the module '{missing}': install its package"
        return ComponentError(error.message, hint)
    return ComponentError(error.message, f"{get_provider(entry_point)} registers it")


def get_install_command(entry_point: EntryPoint) -> str:
    """Return the command that installs the extras of an entry point, as in ``name = "module:Class [extra]"``."""
    distribution = entry_point.dist.name if entry_point.dist else ""
    return f'pip install "{distribution}[{",".join(entry_point.extras)}]"'


def load_object(reference: str) -> Any:
    """Import what ``module:Name`` or ``path/file.py:Name`` refers to.

    :raises ComponentError: if the module cannot be imported or does not have the name
    """
    source, _, attribute = reference.rpartition(":")
    if not source or not attribute or (":" in source and not source.endswith(".py")):
        raise ComponentError(f"'{reference}' is not the path of a class", "write module:Class")
    module = load_module(source)
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        raise _make_missing_name_error(source, module, attribute) from None
    except Exception as error:  # a module that imports on demand
        raise ComponentError(f"importing '{reference}' failed: {describe_error(error)}") from error


def load_function(reference: str) -> Callable[..., Any]:
    """Import a function, or another callable, that is going to be called.

    A class has a parent that says what its objects do; a function may do anything. For an opened run it is therefore
    trusted like the code of a loose file, also in an installed package.

    :raises ComponentError: if it cannot be imported or called, or may not run
    """
    function = load_object(reference)
    if not callable(function):
        raise ComponentError(f"'{reference}' cannot be called: it is an object of type {type(function).__name__}")
    check_call(reference, load_module(reference.rpartition(":")[0]))
    return function  # type: ignore[no-any-return]


def _make_missing_name_error(source: str, module: ModuleType, attribute: str) -> ComponentError:
    """Return the error about a name that a module, or a class in it, does not have."""
    owner: Any = module
    for part in attribute.split("."):
        if not hasattr(owner, part):
            break
        owner = getattr(owner, part)
    public_names = [name for name in getattr(owner, "__dict__", {}) if not name.startswith("_")]
    hint = did_you_mean(attribute, public_names)
    if source == "__main__":
        hint = "its definition is in a notebook or script: repeat it here, or move it to a file"
    return ComponentError(f"'{source}' has no '{attribute}'", hint)


def load_module(source: str) -> ModuleType:
    """Import a module by its name, or a Python file by its path.

    :raises ComponentError: if it does not exist, or importing it raises an exception
    """
    if not source.endswith(".py") and ("/" in source or source.startswith(".")):
        raise ComponentError(f"'{source}' is not a module", "the path of a file ends in .py")
    try:
        return import_file(Path(source)) if source.endswith(".py") else import_by_name(source)
    except ModuleNotFoundError as error:
        if source == error.name or source.startswith(f"{error.name}."):
            raise ComponentError(f"module '{error.name}' does not exist", _IS_PACKAGE_MISSING) from error
        raise ComponentError(f"importing '{source}' failed: {describe_error(error)}") from error
    except ComponentError:
        raise
    except (Exception, SystemExit) as error:
        raise ComponentError(f"importing '{source}' failed: {describe_error(error)}") from error


def suggest_file(problem: Problem, directory: Path) -> Problem:
    """Suggest the file that has the name of a missing module.

    :param directory: of the config
    """
    match = _MISSING_MODULE.fullmatch(problem.message)
    if match is None or problem.hint != _IS_PACKAGE_MISSING:
        return problem
    file = Path(*match["module"].split(".")).with_suffix(".py")
    return replace(problem, hint=f"name the file: ./{file.as_posix()}") if (directory / file).is_file() else problem


def _check_kind(kind: Kind, name: str, component: Any) -> type[Any]:
    """Return a component if it is of the kind.

    :raises ComponentError: if it is not
    """
    is_class = isinstance(component, type)
    if is_class and (
        issubclass(component, load_object(kind.base)) if kind.base else has_callable_instances(component)
    ):
        return component  # type: ignore[no-any-return]
    expected = f"a subclass of {kind.base.replace(':', '.')}" if kind.base else "a class with callable objects"
    actual = f"the class {component.__name__}" if is_class else f"an object of type {type(component).__name__}"
    message = f"'{name}' is not a valid {kind.singular}: it should be {expected}, not {actual}"
    is_function = isinstance(component, FunctionType)
    advice = "write a class, or wrap the environment in a function that env.id names"
    raise ComponentError(message, advice if is_function and kind.name == "wrappers" else "")


def has_callable_instances(cls: type[Any]) -> bool:
    """Return whether the objects of a class can be called."""
    return any("__call__" in vars(parent) for parent in cls.__mro__[:-1])
