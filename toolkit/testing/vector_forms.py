"""The promise of a wrapper's vector form: it does to a batch what the wrapper does to each environment."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from toolkit.config.load import ResolvedConfig
from toolkit.envs.batch_layers import RESET_MASK, select_row
from toolkit.envs.factory import make_env
from toolkit.testing.component import SEED, ConformanceError, report_exceptions
from toolkit.testing.scripted_env import ScriptedEnd
from toolkit.testing.wrapper_harness import Step, describe_difference

_N_STEPS = 60
_ENDS = ((None, 0), ((True, False), 7), ((False, True), 5))  # flags and step of each environment's end; None: its own
_ADVICE = "a vector_form returns for each environment what the wrapper returns for one"


def check_vector_form(config: ResolvedConfig) -> None:
    """Compare the vector form of a config's last wrapper, or last base wrapper, with the wrapper itself.

    :raises ConformanceError: if its class has one, and it does something else
    """
    *others, subject = [*config.components.base_wrappers, *config.components.wrappers]
    form, name = vars(subject.cls).get("vector_form"), subject.cls.__name__
    if form is None:
        return

    def make_inner(index: int) -> gym.Env[Any, Any]:
        inner = ScriptedEnd(make_env(config, config.components.env, others, ()))
        inner.flags, inner.end_step = _ENDS[index]
        return inner

    indices = range(len(_ENDS))
    with ExitStack() as stack, report_exceptions(f"{name}.vector_form", _ADVICE):
        singles = [stack.enter_context(closing(subject.build(make_inner(index)))) for index in indices]
        factories = [partial(make_inner, index) for index in indices]
        inner = SyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED)
        batch = stack.enter_context(closing(replace(subject, cls=form).build(inner)))
        played = zip(_play_singles(singles), _play_batch(batch), strict=True)
    for episodes, episodes_of_form in played:
        if difference := describe_difference(episodes, episodes_of_form):
            raise ConformanceError(f"{name}.vector_form differs from {name} in {difference}; {_ADVICE}")


def _play_singles(envs: list[gym.Env[Any, Any]]) -> list[list[Step]]:
    """Play in environments one by one; return the steps of each."""
    return [_play_single(env, index) for index, env in enumerate(envs)]


def _play_single(env: gym.Env[Any, Any], index: int) -> list[Step]:
    steps = [Step(env.reset(seed=SEED + index)[0])]
    for actions in _sample_actions(env.action_space):
        steps.append(Step(*env.step(actions[index])[:4]))
        if steps[-1].is_last:
            steps.append(Step(env.reset()[0]))
    return steps


def _play_batch(env: VectorEnv[Any, Any, Any]) -> list[list[Step]]:
    """Play the same actions in a batch; return the steps of each environment."""
    observations, _ = env.reset(seed=SEED)
    steps = [[Step(select_row(observations, index))] for index in range(env.num_envs)]
    for actions in _sample_actions(env.single_action_space):
        observations, rewards, terminations, truncations, _ = env.step(
            np.array(actions, env.single_action_space.dtype)
        )
        for index, own_steps in enumerate(steps):
            end = bool(terminations[index]), bool(truncations[index])
            own_steps.append(Step(select_row(observations, index), float(rewards[index]), *end))
        ended = terminations | truncations
        if ended.any():
            observations, _ = env.reset(options={RESET_MASK: ended})
            for index in np.flatnonzero(ended).tolist():
                steps[index].append(Step(select_row(observations, index)))
    return steps


def _sample_actions(space: gym.Space[Any]) -> list[list[Any]]:
    """Sample an action for each environment and step, the same in every call."""
    space.seed(SEED)
    return [[space.sample() for _ in _ENDS] for _ in range(_N_STEPS)]
