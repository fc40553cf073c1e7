"""The batch form of a config's environment and wrappers, for ``env.vec_env: vector``."""

from __future__ import annotations

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
from toolkit.config.values import has_per_env
from toolkit.envs.batch_env import BatchVecEnv
from toolkit.envs.batch_layers import GYMNASIUM_FORMS, BatchMonitor, LoneEnv, SameStepReset
from toolkit.envs.relabelling import has_relabelled_rewards
from toolkit.envs.spaces import find_space_problems
from toolkit.utils.errors import ComponentError, KeyPath, Problem

_UNFIT_KEYS = {
    "reset_options": "set params of the environment",
    "step_timeout": "it needs env.vec_env: subproc",
}
_ONE_BY_ONE = "set env.vec_env to dummy or subproc"
AnyVectorEnv = VectorEnv[Any, Any, Any]


def make_batch_env(config: ResolvedConfig) -> BatchVecEnv:
    """Build the batch form of a config's environment, with its wrappers.

    :raises ConfigError: if the environment, a wrapper or a key has no such form, or something cannot be built
    """
    components = config.components
    problems = _find_unfit_keys(config)
    try:
        maker = _find_env_form(config)
    except ComponentError as error:
        raise config.make_error([*problems, Problem(("env", "vec_env"), error.message, error.hint)]) from error
    base_forms, wrapper_forms = (
        [_find_wrapper_form(wrapper, (*path, index), problems) for index, wrapper in enumerate(wrappers)]
        for path, wrappers in (
            (("env", "base_wrappers"), components.base_wrappers),
            (("env", "wrappers"), components.wrappers),
        )
    )
    if problems:
        raise config.make_error(problems)
    env = _make_base(config, maker, config.env.n_envs)
    try:
        for form in base_forms:
            env = form.build(env)
        env = monitor = BatchMonitor(env, config)
        for form in wrapper_forms:
            env = form.build(env)
        venv = BatchVecEnv(env, monitor)
        if problems := find_space_problems(venv, config):
            raise config.make_error(problems)
        return venv
    except BaseException:
        env.close()
        raise


def make_lone_env(config: RunConfig, maker: BoundComponent, render_mode: str | None) -> LoneEnv:
    """Make one environment of a class of batches.

    :raises ConfigError: if it cannot be built
    """
    return LoneEnv(_make_base(config, maker, 1, render_mode))


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
        message = f"cannot be vector: '{config.env.name}' has no form that steps all environments in one call"
        raise ComponentError(message, _ONE_BY_ONE)
    spec = gym.registry[config.env.name]
    form = find(kind, config.env.name)
    return replace(component, cls=VectorEnvClass(config.env.name, form, spec.kwargs, spec.max_episode_steps))


def _find_unfit_keys(config: ResolvedConfig) -> list[Problem]:
    env = config.env
    problems = [
        Problem(("env", key), "cannot be set with env.vec_env: vector", hint)
        for key, hint in _UNFIT_KEYS.items()
        if getattr(env, key) != EnvConfig.model_fields[key].default
    ]
    if has_relabelled_rewards(config):
        message = "cannot ask environments that step as one for the rewards of other goals"
        problems.append(Problem(("algorithm", "params", "replay_buffer_class"), message, _ONE_BY_ONE))
    if has_per_env(env.params):
        problems.append(Problem(("env", "params"), "cannot have per_env with env.vec_env: vector", _ONE_BY_ONE))
    return problems


def _find_wrapper_form(wrapper: BoundComponent, path: KeyPath, problems: list[Problem]) -> BoundComponent:
    """Return a wrapper with the class of its batch form in place of its own; add a problem if it has none."""
    form = _get_wrapper_form(wrapper.cls)
    if form is None:
        message = f"'{wrapper.name}' has no form for env.vec_env: vector"
        hint = f"give the class a vector_form, a gymnasium.vector.VectorWrapper; or {_ONE_BY_ONE}"
        problems.append(Problem(path, message, hint))
    return replace(wrapper, cls=form)


def _get_wrapper_form(cls: Any) -> type[VectorWrapper[Any, Any, Any, Any, Any]] | None:
    """Return the class that does to a batch what a wrapper does to one environment; None if there is none."""
    form: type[VectorWrapper[Any, Any, Any, Any, Any]] | None
    form = vars(cls).get("vector_form", GYMNASIUM_FORMS.get(cls))  # not inherited: a subclass may do something else
    return form


def _make_base(config: RunConfig, maker: BoundComponent, n_envs: int, render_mode: str | None = None) -> AnyVectorEnv:
    """Make a batch that never resets by itself.

    :raises ConfigError: if it cannot be built, or resets in the step after an episode's end
    """
    limit = config.env.max_episode_steps
    env: AnyVectorEnv = maker.build(num_envs=n_envs, max_episode_steps=limit, render_mode=render_mode)
    mode = env.metadata.get("autoreset_mode")
    if mode == AutoresetMode.DISABLED:
        return env
    if mode == AutoresetMode.SAME_STEP:
        return SameStepReset(env)
    env.close()
    message = f"cannot be vector: {type(env).__name__} resets environments only in the step after an episode's end"
    raise config.make_error([Problem(("env", "vec_env"), message, _ONE_BY_ONE)])
