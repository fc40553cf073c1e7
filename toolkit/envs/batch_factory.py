"""The batch form of a config's environment and wrappers, for ``env.vec_env: vector``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from toolkit.config.components import BoundComponent
from toolkit.config.environments import VectorEnvClass
from toolkit.config.load import ResolvedConfig
from toolkit.config.registry import KINDS, find, list_entry_points
from toolkit.config.schema import EnvConfig, RunConfig
from toolkit.envs.batch_env import BatchVecEnv
from toolkit.envs.batch_layers import GYMNASIUM_FORMS, BatchMonitor, SameStepReset, SingleEnv
from toolkit.envs.parameters import BatchParameters
from toolkit.envs.relabelling import has_relabelled_rewards
from toolkit.envs.reward_trace import BatchRewardTrace
from toolkit.envs.spaces import find_space_problems
from toolkit.utils.errors import ComponentError, Problem

_NEEDS_SINGLE = ("reset_options", "step_timeout")
_ONE_BY_ONE = "set env.vec_env to dummy or subproc"
AnyVectorEnv = VectorEnv[Any, Any, Any]


def make_batch_env(config: ResolvedConfig, traced_names: Sequence[str] = ()) -> BatchVecEnv:
    """Build the batch form of a config's environment, with its wrappers.

    :param traced_names: a name for each wrapper, to trace what each adds to the rewards
    :raises ConfigError: if the environment, a wrapper or a key has no such form, or something cannot be built
    """
    components = config.components
    problems = _find_unfit_keys(config)
    try:
        maker = _find_env_form(config)
    except ComponentError as error:
        raise config.make_error([*problems, Problem(("env", "vec_env"), error.message, error.hint)]) from error
    base_forms, wrapper_forms = (
        [_find_wrapper_form(config, wrapper, problems) for wrapper in wrappers]
        for wrappers in (components.base_wrappers, components.wrappers)
    )
    if problems:
        raise config.make_error(problems)
    env = _make_base(config, maker, config.env.n_envs)
    layers = [(components.env, env.unwrapped)]
    try:
        for component, form in zip(components.base_wrappers, base_forms, strict=True):
            env = form.build(env)
            layers.append((component, env))
        trace = BatchRewardTrace() if traced_names else None
        env = monitor = BatchMonitor(env, config, trace)
        for index, (component, form) in enumerate(zip(components.wrappers, wrapper_forms, strict=True)):
            inside, env = env, form.build(env)
            layers.append((component, env))
            if trace is not None:
                env = trace.add_probe(traced_names[index], env, inside)
        parameters = BatchParameters(layers, config.env.n_envs)
        parameters.check_schedules(config)
        venv = BatchVecEnv(env, monitor, parameters)
        if problems := find_space_problems(venv, config):
            raise config.make_error(problems)
        return venv
    except BaseException:
        env.close()
        raise


def make_single_env(config: RunConfig, maker: BoundComponent, render_mode: str | None) -> SingleEnv:
    """Make one environment of a class of batches.

    :raises ConfigError: if it cannot be built
    """
    return SingleEnv(_make_base(config, maker, 1, render_mode))


def _find_env_form(config: ResolvedConfig) -> BoundComponent:
    """Return what makes the batch form of a config's environment.

    :raises ComponentError: if it has none, or an extra is not installed
    """
    component, kind = config.components.env, KINDS["vector_envs"]
    if config.env.vec_env == "envpool":
        pool: Any = find(kind, "envpool")
        return replace(component, cls=VectorEnvClass(config.env.name, partial(pool, config.env.name), {}))
    if isinstance(component.cls, VectorEnvClass):
        return component
    if config.env.name not in list_entry_points(kind):
        message = f"cannot be vector: Gymnasium and the plugins have no vectorized version of '{config.env.name}'"
        raise ComponentError(message, _ONE_BY_ONE)
    spec = gym.registry[config.env.name]
    form = find(kind, config.env.name)
    return replace(component, cls=VectorEnvClass(config.env.name, form, spec.kwargs, spec.max_episode_steps))


def _find_unfit_keys(config: ResolvedConfig) -> list[Problem]:
    """Find what environments cannot have that step as one."""
    env, hint = config.env, _advise_other_vec_env(config)
    text = f"with env.vec_env: {env.vec_env}"
    problems = [
        Problem(("env", key), f"cannot be set {text}", hint)
        for key in _NEEDS_SINGLE
        if getattr(env, key) != EnvConfig.model_fields[key].default
    ]
    if has_relabelled_rewards(config):
        message = f"cannot ask environments for the rewards of other goals {text}"
        problems.append(Problem(("algorithm", "params", "replay_buffer_class"), message, hint))
    components = config.components
    problems += [
        Problem((*layer.path, "params"), f"cannot have per_env {text}", hint)
        for layer in (components.env, *components.base_wrappers, *components.wrappers)
        if layer.parameters is not None and layer.parameters.list_names_per_env()
    ]
    maker = components.env.cls
    if isinstance(maker, VectorEnvClass) and not maker.can_render:
        problems += [
            Problem(("callbacks", index), f"cannot make videos: '{env.name}' takes no render_mode")
            for index, callback in enumerate(config.callbacks)
            if callback.name == "record_video"
        ]
    return problems


def _advise_other_vec_env(config: ResolvedConfig) -> str:
    """Return the advice to step environments one by one, if they can."""
    maker = config.components.env.cls
    return "" if isinstance(maker, VectorEnvClass) and not maker.has_single_env else _ONE_BY_ONE


def _find_wrapper_form(config: ResolvedConfig, wrapper: BoundComponent, problems: list[Problem]) -> BoundComponent:
    """Return a wrapper with the class of its batch form in place of its own; add a problem if it has none."""
    form = vars(wrapper.cls).get("vector_form", GYMNASIUM_FORMS.get(wrapper.cls))  # a subclass may do something else
    if not (isinstance(form, type) and issubclass(form, VectorWrapper)):
        message = f"'{wrapper.name}' has no vector_form, which env.vec_env: {config.env.vec_env} needs"
        advice = _advise_other_vec_env(config)
        hint = "set it to a subclass of gymnasium.vector.VectorWrapper" + (f"; or {advice}" if advice else "")
        problems.append(Problem(wrapper.path, message, hint))
    return replace(wrapper, cls=form)


def _make_base(config: RunConfig, maker: BoundComponent, n_envs: int, render_mode: str | None = None) -> AnyVectorEnv:
    """Make a batch that never resets by itself.

    :raises ConfigError: if it cannot be built, has another number of environments, or resets in the step after an
        episode's end
    """
    limit = config.env.max_episode_steps
    env: AnyVectorEnv = maker.build(num_envs=n_envs, max_episode_steps=limit, render_mode=render_mode)
    name, mode = type(env).__name__, env.metadata.get("autoreset_mode")
    if env.num_envs != n_envs:
        env.close()
        message = f"cannot be {n_envs}: {name} makes {env.num_envs} environments"
        raise config.make_error([Problem(("env", "n_envs"), message)])
    if mode == AutoresetMode.DISABLED:
        return env
    if mode == AutoresetMode.SAME_STEP:
        return SameStepReset(env)
    env.close()
    if mode == AutoresetMode.NEXT_STEP:
        message = f"cannot be vector: {name} resets environments only in the step after an episode's end"
        raise config.make_error([Problem(("env", "vec_env"), message, _ONE_BY_ONE)])
    message = f"cannot be used: metadata['autoreset_mode'] of {name} is {mode!r}"
    hint = "set it to gymnasium.vector.AutoresetMode.DISABLED or SAME_STEP"
    raise config.make_error([Problem(("env", "id"), message, hint)])
