"""Kind and name to component: entry points of installed packages, ``module:Name``, or ``file.py:Name``.

Listing names imports nothing; finding one imports that one module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.config.imports import import_by_name, import_file
from toolkit.utils.errors import ComponentError, describe_error, did_you_mean

_ALIAS = re.compile("(Mlp|Cnn|MultiInput)(Lstm)?Policy")  # SB3's and sb3_contrib's names under policy_aliases


@dataclass(frozen=True)
class Kind:
    """A kind of component.

    :param name: plural, as in ``toolkit plugins NAME``; the entry-point group is ``toolkit.NAME``
    :param base: ``module:Class`` that each component of the kind subclasses; none for schedules, which are any class
        whose objects can be called as the parameter they are given to says
    :param supplied: constructor parameters that the toolkit fills in, with where their value comes from
    """

    name: str
    base: str | None
    supplied: dict[str, str] = field(hash=False)

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
        Kind("wrappers", "gymnasium:Wrapper", {"env": "the environment"}),
        Kind("vec_wrappers", "stable_baselines3.common.vec_env:VecEnvWrapper", {"venv": "the environments"}),
        Kind("callbacks", "stable_baselines3.common.callbacks:BaseCallback", {}),
        Kind("schedules", None, {}),
        Kind("launchers", "toolkit.experiments.launcher:Launcher", {}),
        Kind("samplers", "optuna.samplers:BaseSampler", {}),
        Kind("pruners", "optuna.pruners:BasePruner", {}),
    )
}


def kind_named(name: str) -> Kind:
    """Return the kind of that name, plural or singular.

    :raises ComponentError: if there is none
    """
    known = {kind.singular: kind for kind in KINDS.values()} | KINDS
    if name not in known:
        raise ComponentError(f"there is no kind '{name}'", did_you_mean(name, [*KINDS]))
    return known[name]


@cache
def entries(kind: Kind) -> dict[str, list[EntryPoint]]:
    """List the registered names of a kind, sorted, each with every entry point that claims it.

    :raises ComponentError: if an installed distribution's list of entry points is damaged
    """
    try:
        found = entry_points(group=kind.group)
    except Exception as error:  # torch and gymnasium cannot be imported either
        damaged = ", ".join(one.name for one in distributions() if _is_damaged(one))
        raise ComponentError(f"cannot read what these packages provide: {damaged}", "install them again") from error
    claims: dict[str, list[EntryPoint]] = {}
    for entry in sorted(found, key=lambda entry: entry.name.lower()):
        claims.setdefault(entry.name, []).append(entry)
    return claims


def _is_damaged(distribution: Distribution) -> bool:
    try:
        distribution.entry_points  # noqa: B018 - this reads the file
    except Exception:
        return True
    return False


def provider(entry: EntryPoint) -> str:
    """Return the name and version of the distribution that an entry point belongs to."""
    name = entry.dist and entry.dist.name  # none, where an installation has been cut off
    return f"{name} {entry.dist.version}" if name and entry.dist else "an unknown distribution"


def reference(entry: EntryPoint) -> str:
    """Return ``module:Class`` as an entry point has it.

    :raises ComponentError: if it has something else
    """
    match = EntryPoint.pattern.match(entry.value)
    if match is None or not match["attr"]:
        raise ComponentError(f"the entry point '{entry.name} = {entry.value}' names no class", "write module:Class")
    return f"{match['module']}:{match['attr']}"


def find(kind: Kind, name: str) -> type[Any]:
    """Import the component that ``name`` means and check that it is of the kind.

    :raises ComponentError: if there is no such name, two distributions claim it, its module cannot be imported,
        or what it names is not of the kind
    """
    if ":" in name:
        return _of_kind(kind, name, load_object(name))
    entry = the_claim(kind, name)
    try:
        return _of_kind(kind, name, load_object(reference(entry)))
    except ComponentError as error:
        raise _with_origin(error, kind, entry) from error.__cause__


def the_claim(kind: Kind, name: str) -> EntryPoint:
    """Return the one entry point that claims a name.

    :raises ComponentError: if there is none, or several
    """
    claims = entries(kind)
    if name not in claims:
        hint = did_you_mean(name, [*claims]) or f"`toolkit plugins {kind.name}` lists what there is"
        if kind.name == "policies" and _ALIAS.fullmatch(name):
            hint = "algorithms have this alias, each for a class of its own: see `toolkit plugins algorithms NAME`"
        raise ComponentError(f"there is no {kind.singular} '{name}'", hint)
    if len(claims[name]) > 1:
        owners = " and ".join(f"{provider(entry)} ({entry.value})" for entry in claims[name])
        raise ComponentError(f"{kind.singular} '{name}' is claimed by {owners}", "name the one you mean by its path")
    return claims[name][0]


def _with_origin(error: ComponentError, kind: Kind, entry: EntryPoint) -> ComponentError:
    """Say whose component it is that cannot be used, and which module it lacks."""
    lacking = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
    if lacking and entry.extras:
        message = f"{kind.singular} '{entry.name}' needs the module '{lacking}', which is not installed"
        return ComponentError(message, install_command(entry))
    if lacking and not f"{entry.module}.".startswith(f"{lacking}."):
        return ComponentError(error.message, f"{provider(entry)} needs the module '{lacking}': install what has it")
    return ComponentError(error.message, f"it comes with {provider(entry)}")


def install_command(entry: EntryPoint) -> str:
    """Return what installs the extras that an entry point needs, as in ``name = "module:Class [extra]"``."""
    return f'pip install "{entry.dist.name if entry.dist else ""}[{",".join(entry.extras)}]"'


def load_object(reference: str) -> Any:
    """Import what ``module:Name`` or ``path/file.py:Name`` names.

    :raises ComponentError: if the module cannot be imported or has no such name
    """
    source, _, attribute = reference.rpartition(":")
    if not source or not attribute or (":" in source and not source.endswith(".py")):
        raise ComponentError(f"'{reference}' names nothing to import", "write module:Class")
    found: Any = load_module(source)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [name for name in getattr(found, "__dict__", {}) if not name.startswith("_")]
            hint = did_you_mean(attribute, public)
            if source == "__main__":
                hint = "it was defined in a notebook or script: define it here as well, or keep it in a file"
            raise ComponentError(f"'{source}' has no '{attribute}'", hint) from None
        except Exception as error:  # a module that imports on demand
            raise ComponentError(f"importing '{reference}' failed: {describe_error(error)}") from error
    return found


def load_module(source: str) -> ModuleType:
    """Import a module by its name, or a loose file by its path.

    :raises ComponentError: if there is none, or importing it raises
    """
    if not source.endswith(".py") and ("/" in source or source.startswith(".")):
        raise ComponentError(f"'{source}' is no module", "the path of a file ends in .py")
    try:
        return import_file(Path(source)) if source.endswith(".py") else import_by_name(source)
    except ModuleNotFoundError as error:
        if source == error.name or source.startswith(f"{error.name}."):
            raise ComponentError(f"there is no module '{error.name}'", "is its package installed here?") from error
        raise ComponentError(f"importing '{source}' failed: {describe_error(error)}") from error
    except ComponentError:
        raise
    except (Exception, SystemExit) as error:
        raise ComponentError(f"importing '{source}' failed: {describe_error(error)}") from error


def _of_kind(kind: Kind, name: str, found: Any) -> type[Any]:
    base = load_object(kind.base) if kind.base else object
    wanted = f"a subclass of {kind.base.replace(':', '.')}" if kind.base else "a class of callable objects"
    if (
        not isinstance(found, type)
        or not issubclass(found, base)
        or (kind.base is None and not makes_callables(found))
    ):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ComponentError(f"'{name}' is not a {kind.singular}: it names {what}, and this place takes {wanted}")
    return found


def makes_callables(cls: type[Any]) -> bool:
    """Say whether a class's objects can be called."""
    return any("__call__" in vars(parent) for parent in cls.__mro__[:-1])
