"""Find an environment: by its Gymnasium id, or by the path of a class or function that makes it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from toolkit.config.parameters import Parameters
from toolkit.config.registry import KINDS, list_entry_points, load_function, load_module, load_object
from toolkit.config.schedules import ScheduledParams, replace_schedules
from toolkit.config.schema import EnvConfig
from toolkit.config.signatures import read_signature
from toolkit.config.values import describe_value
from toolkit.utils.errors import ComponentError, Problem, describe_error, did_you_mean

if TYPE_CHECKING:
    import gymnasium as gym
    from gymnasium.envs.registration import EnvSpec
    from gymnasium.vector import VectorEnv
    from stable_baselines3.common.vec_env import VecEnv

_ATTRIBUTE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class EnvMaker:
    """What makes an environment.

    :param make: takes the config's parameters, ``max_episode_steps`` and ``render_mode``
    :param creator: the class or function that takes the parameters; ``None`` if it is not known
    :param defaults: parameters that the environment's registration gives
    """

    make: Callable[..., gym.Env[Any, Any] | VecEnv | VectorEnv[Any, Any, Any]]
    creator: Callable[..., Any] | None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def call_register_function(path: str) -> None:
    """Call a function that registers environments, once in this process.

    :param path: ``module:function`` or ``file.py:function``
    :raises ComponentError: if it cannot be called without arguments, or raises an exception
    """
    function = load_function(path)
    if isinstance(function, type):
        module = path.rpartition(":")[0]
        raise ComponentError(f"'{path}' is a class, not a function that registers environments", f"write '{module}'")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        hint = "name a function without arguments"
        raise ComponentError(f"'{path}' cannot be called without arguments: {error}", hint) from None
    try:
        _call_once(function)
    except (Exception, SystemExit) as error:
        raise ComponentError(f"calling '{path}' failed: {describe_error(error)}") from error


@cache
def _call_once(function: Callable[[], Any]) -> None:
    function()


def find_env(env_id: str, modules: Sequence[str] = (), *, as_batch: bool = False) -> EnvMaker:
    """Find the environment that a config names; it is not built.

    :param env_id: a registered id, ``module:Env-v0``, or the path of a class or function
    :param modules: the config's ``import_modules``, which are imported already
    :param as_batch: whether the ``vector_entry_point`` of a registration makes the environment, if it has one
    :raises ComponentError: if it does not exist, or its code may not run
    """
    import gymnasium as gym

    module, _, name = env_id.rpartition(":")
    if module:
        _import_module(module, env_id)
    if name in gym.registry:
        spec = gym.registry[name]
        if as_batch and spec.vector_entry_point and name not in list_entry_points(KINDS["vector_envs"]):
            return _make_batch_maker(name, spec.vector_entry_point, spec)
        creator = load_object(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        _refuse_old_class(env_id, creator)
        # a file cannot be imported by gym.make, nor by its name in another process
        return EnvMaker(partial(gym.make, spec if module.endswith(".py") else env_id), creator, spec.kwargs)
    if module and _ATTRIBUTE.fullmatch(name):
        creator = _load_creator(env_id)
        if isinstance(creator, type) and issubclass(creator, gym.vector.VectorEnv):
            if not as_batch:
                raise ComponentError(f"'{env_id}' steps several environments in one call", "set env.vec_env to vector")
            return _make_batch_maker(name, creator)
        if not isinstance(creator, type):
            return EnvMaker(EnvFunction(name, creator), creator)
        spec = gym.envs.registration.EnvSpec(name, creator)  # type: ignore[arg-type]  # of gymnasium.Env
        return EnvMaker(partial(_make_by_path, spec), creator)
    if name in _list_old_ids():
        message = f"environment '{name}' is registered in the package gym, not in gymnasium"
        raise ComponentError(message, _advise_shimmy(name))
    if name.endswith(".py"):
        raise ComponentError(f"'{env_id}' is a file, not an environment", f"name what makes it: {env_id}:Name")
    modules = [*modules, module] if module else modules
    raise ComponentError(f"environment '{name}' does not exist", _suggest_env(name, gym.registry, modules))


def schedule_env_params(env: EnvConfig, maker: EnvMaker) -> ScheduledParams:
    """Put the first value of each schedule in the place of an environment's parameter."""
    return replace_schedules(maker.creator or _accept_all, env.params, ("env", "params"))


def bind_env_params(
    env: EnvConfig, maker: EnvMaker, values: Mapping[str, Any]
) -> tuple[Parameters, dict[str, Any], list[Problem]]:
    """Check the parameters of an environment against the class or function that makes it.

    :param values: the config's parameters, without schedules
    :return: the parameters, the arguments of :attr:`EnvMaker.make` for the first environment, and every problem
    """
    import gymnasium as gym

    supplied = {"render_mode": "whether a video is made", "max_episode_steps": "env.max_episode_steps"}
    if isinstance(maker.make, VectorEnvClass):
        supplied |= {"num_envs": "env.n_envs", "autoreset_mode": "the toolkit"}
    # an environment's own parameters may be called as these two of gymnasium.make
    for_make = inspect.signature(gym.make).parameters.keys() - supplied.keys() - {"id", "kwargs"}
    own_values = {name: value for name, value in values.items() if name not in for_make}
    creator = maker.creator or _accept_all
    parameters = Parameters(creator, own_values, ("env", "params"), supplied, maker.defaults)
    arguments, problems = parameters.bind(env.n_envs)
    # the config does not have to repeat what the registration gives, or what a class gives its parent
    required = _list_parameters(creator) - maker.defaults.keys()
    problems = [problem for problem in problems if problem.path[2] in env.params or problem.path[2] in required]
    return parameters, {name: arguments.get(name, value) for name, value in values.items()}, problems


def _accept_all(**params: Any) -> None:
    """Stand in for an environment whose parameters are not known."""


def _import_module(module: str, env_id: str) -> None:
    try:
        load_module(module)
    except ComponentError as error:
        raise ComponentError(f"'{env_id}' cannot be made: {error.message}", error.hint) from error


def _load_creator(path: str) -> Callable[..., Any]:
    """Import the class or function of a path.

    :raises ComponentError: if it does not make an environment
    """
    import gymnasium as gym

    creator = load_object(path)
    if not isinstance(creator, type):
        return load_function(path)
    _refuse_old_class(path, creator)
    if not issubclass(creator, gym.Env | gym.vector.VectorEnv):
        message = f"'{path}' does not make an environment: the class is not a subclass of gymnasium.Env"
        raise ComponentError(message)
    return creator


def _refuse_old_class(path: str, creator: Any) -> None:
    """Refuse a class of the package gym, the predecessor of gymnasium.

    :raises ComponentError: with what converts its environments
    """
    parents = creator.__mro__ if isinstance(creator, type) else ()
    if any((parent.__module__, parent.__name__) == ("gym.core", "Env") for parent in parents):
        message = f"'{path}' is an environment of the package gym, not of gymnasium"
        raise ComponentError(message, "register it in gym; then " + _advise_shimmy("its id there"))


def _list_old_ids() -> Collection[str]:
    """Return the ids that are registered in the package gym, if something has imported it."""
    registration = sys.modules.get("gym.envs.registration")
    registry = getattr(registration, "registry", {})
    return {*getattr(registry, "env_specs", registry)}  # in gym before 0.26 it is an object


def _advise_shimmy(env_id: str) -> str:
    """Say how shimmy converts an environment that is registered in the package gym."""
    version = getattr(sys.modules.get("gym"), "__version__", "0.26")
    release = "26" if version.startswith("0.26") else "21"
    name = f"GymV{release}Environment-v0"
    return f"pip install 'shimmy[gym-v{release}]', and write env: {{id: {name}, params: {{env_id: {env_id}}}}}"


def _make_by_path(
    spec: EnvSpec, /, *, max_episode_steps: int | None = None, render_mode: str | None = None, **params: Any
) -> gym.Env[Any, Any]:
    """Make the environment of a class or function, which gets those of the toolkit's arguments that it takes."""
    import gymnasium as gym

    taken = _select_taken(spec.entry_point, max_episode_steps, render_mode)  # type: ignore[arg-type]  # not a string
    taken |= {name: params.pop(name) for name in ("id",) if name in params}  # gymnasium.make has a parameter id
    env = gym.make(replace(spec, kwargs=taken), max_episode_steps=max_episode_steps, **params)
    _require_frames(env, spec.id, render_mode)
    return env


def _require_frames(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any], name: str, render_mode: str | None) -> None:
    if render_mode is not None and env.render_mode is None:
        env.close()
        raise ComponentError(f"it draws no frames: '{name}' takes no render_mode")


def _select_taken(
    creator: Callable[..., Any], max_episode_steps: int | None, render_mode: str | None
) -> dict[str, Any]:
    """Return those of the toolkit's arguments that a class or function takes."""
    signature = read_signature(creator)
    supplied = {"max_episode_steps": max_episode_steps, "render_mode": render_mode}
    taken = {name: value for name, value in supplied.items() if value is not None and name in signature.parameters}
    if render_mode is not None and signature.accepts_others:
        taken["render_mode"] = render_mode
    return taken


@dataclass(frozen=True)
class EnvFunction:
    """A function of the config that returns an environment, or an SB3 ``VecEnv`` in place of several."""

    name: str
    function: Callable[..., Any]

    def __call__(
        self,
        /,
        *,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        disable_env_checker: bool | None = None,
        **params: Any,
    ) -> gym.Env[Any, Any] | VecEnv:
        """Call the function, and put the layers of ``gymnasium.make`` around an environment."""
        import gymnasium as gym
        from gymnasium.envs.registration import EnvSpec
        from stable_baselines3.common.vec_env import VecEnv

        made = self.function(**_select_taken(self.function, max_episode_steps, render_mode), **params)
        if isinstance(made, VecEnv):
            return made
        _refuse_old_class(self.name, type(made))
        if not isinstance(made, gym.Env):
            hint = "name the class itself, with env.vec_env: vector" if isinstance(made, gym.vector.VectorEnv) else ""
            raise ComponentError(f"it returns {describe_value(made)}, not an environment", hint)
        return _make_by_path(
            EnvSpec(self.name, lambda **_: made),
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            disable_env_checker=disable_env_checker,
        )


@dataclass(frozen=True)
class VectorEnvClass:
    """A class of Gymnasium's ``VectorEnv``, or a function that returns one.

    :param defaults: parameters that the environment's registration gives
    :param max_episode_steps: of the registration
    :param has_single_env: whether the registration has an environment that steps alone, too
    """

    name: str
    creator: Callable[..., VectorEnv[Any, Any, Any]]
    defaults: Mapping[str, Any]
    max_episode_steps: int | None = None
    has_single_env: bool = True

    @property
    def can_render(self) -> bool:
        """Whether it takes a ``render_mode``."""
        signature = read_signature(self.creator)
        return "render_mode" in signature.parameters or signature.accepts_others

    def __call__(
        self, *, num_envs: int, max_episode_steps: int | None = None, render_mode: str | None = None, **params: Any
    ) -> VectorEnv[Any, Any, Any]:
        """Make environments that reset in the step that ends an episode, if they leave the choice.

        :raises ComponentError: if they take no time limit where one is asked for
        """
        from gymnasium.vector import AutoresetMode

        signature = read_signature(self.creator)
        if max_episode_steps and "max_episode_steps" not in signature.parameters and not signature.accepts_others:
            raise ComponentError(f"'{self.name}' takes no max_episode_steps")
        supplied = _select_taken(self.creator, max_episode_steps or self.max_episode_steps, render_mode)
        if "autoreset_mode" in signature.parameters:
            supplied["autoreset_mode"] = AutoresetMode.SAME_STEP
        env = self.creator(**{**supplied, **self.defaults, **params}, num_envs=num_envs)
        _require_frames(env, self.name, render_mode)
        return env


def _make_batch_maker(
    name: str, creator: Callable[..., VectorEnv[Any, Any, Any]] | str, spec: EnvSpec | None = None
) -> EnvMaker:
    creator = load_object(creator) if isinstance(creator, str) else creator
    defaults = spec.kwargs if spec else {}
    limit, has_single_env = (spec.max_episode_steps, spec.entry_point is not None) if spec else (None, False)
    maker = VectorEnvClass(name, creator, defaults, limit, has_single_env)
    return EnvMaker(maker, creator, defaults)


def _suggest_env(env_id: str, registered_ids: Collection[str], modules: Sequence[str]) -> str:
    """Suggest other versions of an environment that is not registered, a similar id, or what registers it."""
    name = _strip_version(env_id)
    if versions := [registered for registered in registered_ids if _strip_version(registered) == name]:
        return f"registered versions: {', '.join(versions)}"
    if similar := did_you_mean(env_id, [*registered_ids], max_listed=0):
        return similar
    if not modules:
        return "name the package that registers it under import_modules"
    functions = [name for module in modules if ":" not in module for name in _list_register_functions(module)]
    advice = f"name the function that does: import_modules: [{functions[0]}]" if functions else "does another module?"
    return f"{' and '.join(modules)} registered nothing of that name; {advice}"


def _list_register_functions(module: str) -> list[str]:
    """Return the paths of a module's own functions that are called like ``register_envs``."""
    functions = [value for value in vars(load_module(module)).values() if inspect.isfunction(value)]
    return [
        f"{module}:{function.__name__}"
        for function in functions
        if "register" in function.__name__ and function.__module__ == load_module(module).__name__
    ]


def _strip_version(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", env_id)


def _list_parameters(creator: Callable[..., Any]) -> set[str | int]:
    try:
        return {*inspect.signature(creator).parameters}
    except (TypeError, ValueError):
        return set()
