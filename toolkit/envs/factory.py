"""A config's environments: built with Gymnasium's, Monitor's and the config's own wrappers, as one SB3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from toolkit.config.components import BoundComponent, copy_arguments, select_for_env
from toolkit.config.environments import EnvFunction, VectorEnvClass
from toolkit.config.load import ResolvedConfig
from toolkit.config.schema import RunConfig
from toolkit.config.values import has_per_env
from toolkit.envs.base_wrappers import add_base_wrappers, list_arguments
from toolkit.envs.batch_factory import make_batch_env, make_single_env
from toolkit.envs.batch_layers import SingleEnv
from toolkit.envs.constants import find_constants
from toolkit.envs.episode_numbers import EpisodeNumbers
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.info_keywords import read_info_keywords
from toolkit.envs.parameters import ChangeableParameters, EnvParameters
from toolkit.envs.relabelling import check_vec_wrapper, guard_rewards, has_relabelled_rewards, try_guarded_rewards
from toolkit.envs.replayable import RawMonitor, ReplayableEpisodes, check_return_values
from toolkit.envs.returned_vec_env import FirstMember, ReturnedVecEnv, refuse_unfit_keys
from toolkit.envs.reward_trace import RewardTrace, changes_vec_rewards, name_reward_wrappers
from toolkit.envs.spaces import find_space_problems
from toolkit.envs.vec_env import InProcessVecEnv, SubprocessVecEnv
from toolkit.utils.errors import ConfigError, Problem
from toolkit.utils.seeds import derive_run_seed

_STREAMS = ("training", "evaluation", "video", "confirmation", "callback")
_built_envs: WeakValueDictionary[int, gym.Env[Any, Any] | VecEnv] = WeakValueDictionary()  # in this process, by id
WrapEnv = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


class _EnvComponents(NamedTuple):
    """The components of one environment: what makes it, None for one of a vec env, and wrappers, innermost first."""

    maker: BoundComponent | None = None
    base_wrappers: Sequence[BoundComponent] = ()
    wrappers: Sequence[BoundComponent] = ()


def derived_seed(seed: int, stream: str) -> int:
    """Return the seed of one use of a run's seed, below 2**30, so that no two uses share their episodes.

    :param stream: ``training``, ``evaluation``, ``video``, ``confirmation`` or ``callback``
    """
    return derive_run_seed(seed, _STREAMS.index(stream))


def make_vec_env(
    config: ResolvedConfig,
    *,
    seed: int,
    n_envs: int | None = None,
    render_mode: str | None = None,
    wrap: WrapEnv | None = None,
    traces_rewards: bool = False,
) -> EpisodeRecorder:
    """Build the environments of a run: base wrappers, Gymnasium's, Monitor, the config's wrappers, its vec wrappers.

    :param seed: environment ``i`` starts with ``seed + i``; the seeds of its later episodes follow from it, and so do
        the global generators of its subprocess
    :param n_envs: number of environments in this process; by default the config's, in subprocesses if it asks for them
    :param wrap: applied last to each environment
    :param traces_rewards: whether episodes have the parts of their returns, see :mod:`toolkit.envs.reward_trace`
    :raises ConfigError: if an environment or a wrapper cannot be built
    """
    components = config.components
    wrapper_names = name_reward_wrappers([layer.name for layer in (*components.wrappers, *components.vec_wrappers)])
    traced_names = wrapper_names[: len(components.wrappers)] if traces_rewards else []
    maker, layers = components.env, [components.env, *components.base_wrappers, *components.wrappers]
    n_base = len(components.base_wrappers)
    plain_config = config.model_copy()  # with these, all that a subprocess needs

    relabels = n_envs is None and has_relabelled_rewards(config)  # other environments fill no replay buffer
    first: gym.Env[Any, Any] | VecEnv | None = None  # what a function has returned already

    def make(index: int) -> gym.Env[Any, Any]:
        nonlocal first
        base, first = first, None
        own_maker, *own = select_for_env(layers, plain_config, index)
        try:
            base = _make_base(plain_config, own_maker, render_mode) if base is None else base
            env: gym.Env[Any, Any] = _add_layers(
                plain_config,
                base,
                _EnvComponents(own_maker, own[:n_base], own[n_base:]),
                is_alone=in_subprocesses,
                relabels=relabels,
                traced_names=traced_names,
            )
        except ConfigError as error:
            if in_subprocesses or not index:
                raise
            raise _hint_at_subprocesses(error, plain_config, index) from error
        return wrap(env) if wrap else env

    in_subprocesses = config.env.vec_env == "subproc" and n_envs is None and wrap is None
    factories = [partial(make, index) for index in range(n_envs or config.env.n_envs)]
    step_timeout = config.env.step_timeout
    venv: VecEnv
    if config.env.vec_env in ("vector", "envpool") and n_envs is None and wrap is None:
        venv = make_batch_env(config, traced_names)
    elif in_subprocesses:
        venv = SubprocessVecEnv(factories, step_timeout, seed)
    else:
        if isinstance(maker.cls, EnvFunction):
            first = _make_base(config, maker, render_mode)
        venv = _drive_vec_env(first, config, wrap) if isinstance(first, VecEnv) else InProcessVecEnv(factories)
    try:
        venv, changing_names = _add_vec_wrappers(venv, config, wrapper_names[len(components.wrappers) :], relabels)
        parameters = EnvParameters() if n_envs else _make_parameters(config, layers, venv)
        recorder = EpisodeRecorder(venv, accepts_infinity(config), parameters)
        if traces_rewards:
            recorder.numbers = EpisodeNumbers(recorder.num_envs, config, changing_names)
        recorder.seed(seed)
    except BaseException:
        venv.close()
        raise
    return recorder


def _add_vec_wrappers(
    venv: VecEnv, config: ResolvedConfig, names: Sequence[str], relabels: bool
) -> tuple[VecEnv, list[str]]:
    """Put the config's vec wrappers around environments.

    :param names: a name for each of them
    :return: the environments, and the names of those that may change rewards
    :raises ConfigError: if one cannot be built
    """
    components, changing_names = config.components, []
    for wrapper, name in zip(components.vec_wrappers, names, strict=True):
        if relabels:
            check_vec_wrapper(wrapper, config)
        inside, venv = venv, wrapper.build(venv, **_get_gamma(wrapper, components.algorithm))
        if changes_vec_rewards(venv, inside):
            changing_names.append(name)
    return venv, changing_names


def _make_parameters(config: RunConfig, layers: Sequence[BoundComponent], venv: VecEnv) -> EnvParameters:
    """Return what changes parameters of training environments."""

    def find_problem(path: str) -> tuple[str, str]:
        problem: tuple[str, str] = venv.env_method("find_parameter_problem", path, indices=[0])[0]
        return problem

    return EnvParameters(layers, config.timesteps, find_problem)


def _drive_vec_env(base: VecEnv, config: ResolvedConfig, wrap: WrapEnv | None) -> ReturnedVecEnv:
    """Put what the toolkit needs around a vec env that a function of the config returned.

    :raises ConfigError: if SB3 or the config's replay buffer cannot take it
    """
    if has_relabelled_rewards(config):
        base.close()
        message = f"cannot ask a VecEnv for the rewards of other goals, and '{config.env.name}' returns one"
        raise config.make_error([Problem(("algorithm", "params", "replay_buffer_class"), message)])

    def add_layers(member: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = _add_layers(config, member, _EnvComponents())
        return wrap(env) if wrap else env

    try:
        return ReturnedVecEnv(base, add_layers)
    except BaseException:
        base.close()
        raise


def _refuse_known_env(base: gym.Env[Any, Any] | VecEnv, config: RunConfig) -> None:
    """Refuse an environment that was built before, also for another use: two would step and reset the same object.

    :raises ConfigError: if it was
    """
    env = base if isinstance(base, VecEnv) else base.unwrapped
    if _built_envs.get(id(env)) is env:
        message = f"'{config.env.name}' returns the same environment again"
        raise config.make_error([Problem(("env", "id"), message, "return a new one at each call")])
    _built_envs[id(env)] = env


def _hint_at_subprocesses(error: ConfigError, config: RunConfig, index: int) -> ConfigError:
    """Say of an environment that could be built once in this process, and not again, what may help."""
    env = config.env
    hint = "one could be built: if a process can have only one, set env.vec_env to subproc"
    if has_per_env([env.params, *(layer.params for layer in (*env.base_wrappers, *env.wrappers))]):
        hint = f"this is environment {index}, which has values of its own"
    return config.make_error([replace(problem, hint=problem.hint or hint) for problem in error.problems])


def accepts_infinity(config: RunConfig) -> bool:
    """Return whether the policy has a features extractor of the config's: SB3's own make NaN of infinity."""
    return "features_extractor_class" in config.algorithm.policy_params


def try_rewards(config: ResolvedConfig) -> None:
    """Step separate environments if a replay buffer has to compute the rewards that their wrappers give.

    :raises ConfigError: if it cannot; a wrapper that changes rewards later than in the steps tried ends training
    """
    if has_relabelled_rewards(config):
        env = make_vec_env(config, seed=0)
        try:
            try_guarded_rewards(env)
        finally:
            env.close()


def _get_gamma(wrapper: BoundComponent, algorithm: BoundComponent) -> dict[str, float]:
    """Return the algorithm's gamma for a ``VecNormalize`` without its own, which scales rewards by it.

    RL Zoo does the same.
    """
    gamma = algorithm.get_argument("gamma")
    has_default = "gamma" in wrapper.arguments_with_defaults and "gamma" not in wrapper.arguments
    return {"gamma": gamma} if issubclass(wrapper.cls, VecNormalize) and has_default and gamma is not None else {}


def make_env(
    config: RunConfig,
    maker: BoundComponent,
    base_wrappers: Sequence[BoundComponent],
    wrappers: Sequence[BoundComponent],
    render_mode: str | None = None,
    *,
    is_alone: bool = False,
    relabels: bool = False,
) -> ReplayableEpisodes:
    """Build one environment with its wrappers, in any process.

    :param maker: makes the environment without wrappers
    :param base_wrappers: those inside Monitor, innermost first
    :param wrappers: those outside Monitor, innermost first
    :param is_alone: whether nothing else in this process draws from the global generators
    :param relabels: whether a replay buffer asks it for the rewards of other goals
    :raises ConfigError: if the environment or a wrapper cannot be built
    """
    base = _make_base(config, maker, render_mode)
    components = _EnvComponents(maker, base_wrappers, wrappers)
    return _add_layers(config, base, components, is_alone=is_alone, relabels=relabels)


def _make_base(config: RunConfig, maker: BoundComponent, render_mode: str | None) -> gym.Env[Any, Any] | VecEnv:
    """Make an environment without the config's wrappers, or the vec env that a function of the config returns.

    :raises ConfigError: if it cannot be built, or the config has keys that a vec env cannot have
    """
    if isinstance(maker.cls, VectorEnvClass):
        return make_single_env(config, maker, render_mode)
    arguments: dict[str, Any] = {"max_episode_steps": config.env.max_episode_steps, "render_mode": render_mode}
    arguments |= list_arguments(config)
    base: gym.Env[Any, Any] | VecEnv = maker.build(**{name: value for name, value in arguments.items() if value})
    _refuse_known_env(base, config)
    if isinstance(base, VecEnv):
        refuse_unfit_keys(config, base, render_mode, maker.schedules)
    return base


def _add_layers(
    config: RunConfig,
    base: gym.Env[Any, Any] | VecEnv,
    components: _EnvComponents,
    *,
    is_alone: bool = False,
    relabels: bool = False,
    traced_names: Sequence[str] = (),
) -> ReplayableEpisodes:
    """Put Monitor, the config's wrappers and what replays episodes around an environment.

    :param base: the environment; of a vec env the first one
    :param components: what has made it, and its wrappers
    :param traced_names: a name for each wrapper, to trace what each adds to the rewards
    :raises ConfigError: if a wrapper cannot be built; the environment is closed then
    """
    if isinstance(base, VecEnv):
        base = FirstMember(base)
    try:
        made = base.unwrapped.batch.unwrapped if isinstance(base.unwrapped, SingleEnv) else base.unwrapped
        base, built = add_base_wrappers(base, components.base_wrappers, config)
        checked = check_return_values(base, copies=bool(components.wrappers))
        trace = RewardTrace() if traced_names else None
        monitor = RawMonitor(checked, partial(read_info_keywords, config), trace)
        env: gym.Env[Any, Any] = monitor
        constants: list[Any] = []
        for index, wrapper in enumerate(components.wrappers):
            arguments = copy_arguments(wrapper.arguments)
            inside, env = env, wrapper.build_with(arguments, env)
            built.append((wrapper, env))
            if trace is not None:
                env = trace.add_probe(traced_names[index], env, inside)
            constants += find_constants(wrapper, arguments)
        if relabels:
            env = guard_rewards(env, built, config)
        if problems := find_space_problems(env, config):
            raise config.make_error(problems)
        parameters = ChangeableParameters([*([(components.maker, made)] if components.maker else []), *built])
        parameters.check_schedules(config)
        options = config.env.reset_options
        return ReplayableEpisodes(
            env, monitor, is_alone=is_alone, reset_options=options, constants=constants, parameters=parameters
        )
    except BaseException:
        base.close()
        raise
