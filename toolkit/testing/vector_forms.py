"""The promise of a wrapper's vector form: it does to a batch what the wrapper does to each environment."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig
from toolkit.config.schedules import DECLARATION
from toolkit.envs.batch_layers import RESET_MASK, select_info
from toolkit.envs.factory import make_env
from toolkit.envs.observations import select_row
from toolkit.envs.parameters import BatchParameters, ChangeableParameters, Values
from toolkit.envs.replayable import RAW_EPISODE
from toolkit.testing.component import SEED, ConformanceError, report_exceptions
from toolkit.testing.scripted_env import ScriptedEnd
from toolkit.testing.wrapper_harness import Step, describe_difference

_N_STEPS = 60
_ENDS = ((None, 0), ((True, False), 7), ((False, True), 5))  # flags and step of each environment's end; None: its own
_OF_MONITOR = ("episode", RAW_EPISODE)  # they have the time
_ADVICE = "a vector_form returns for each environment what the wrapper returns for one"


def check_vector_form(config: ResolvedConfig, changes: Values) -> None:
    """Compare the vector form of a config's last wrapper, or last base wrapper, with the wrapper itself.

    Observations, rewards, ends and infos of episodes of three lengths have to be equal, also with values of parameters
    that differ between environments, if the form lists these in ``changeable_params``.

    :param changes: other values of the wrapper's parameters, by dotted path
    :raises ConformanceError: if its class has one, and it is no ``VectorWrapper`` or does something else
    """
    *_, subject = [*config.components.base_wrappers, *config.components.wrappers]
    form, name = vars(subject.cls).get("vector_form"), subject.cls.__name__
    if form is None:
        return
    if not (isinstance(form, type) and issubclass(form, VectorWrapper)):
        raise ConformanceError(f"{name}.vector_form is {form!r}; name a subclass of gymnasium.vector.VectorWrapper")

    declared = getattr(form, DECLARATION, ())
    changes = {path: value for path, value in changes.items() if path.rpartition(".")[2] in declared}
    _compare(config, subject, form, {})
    for path, value in changes.items():
        _compare(config, subject, form, {path: value})


def _compare(config: ResolvedConfig, subject: BoundComponent, form: type[Any], changes: Values) -> None:
    """Play the wrapper and its form.

    :param changes: values of parameters in the last environment; the others keep those of the config
    """
    *others, _ = [*config.components.base_wrappers, *config.components.wrappers]
    name = subject.cls.__name__

    def make_inner(index: int) -> gym.Env[Any, Any]:
        inner = ScriptedEnd(make_env(config, config.components.env, others, ()))
        inner.flags, inner.end_step = _ENDS[index]
        return inner

    indices = range(len(_ENDS))
    with report_exceptions(f"{name}.vector_form", _ADVICE), ExitStack() as stack:
        singles = [stack.enter_context(closing(subject.build(make_inner(index)))) for index in indices]
        factories = [partial(make_inner, index) for index in indices]
        inner = SyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED)
        batch = stack.enter_context(closing(replace(subject, cls=form).build(inner)))
        ChangeableParameters([(subject, singles[-1])]).set(changes)
        is_last = np.arange(len(_ENDS)) == len(_ENDS) - 1
        BatchParameters([(subject, batch)], len(_ENDS)).set(changes, is_last)
        played = [_play_single(single, index) for index, single in enumerate(singles)]
        played_by_form = _play_batch(batch, played)
    for episodes, episodes_of_form in zip(played, played_by_form, strict=True):
        if difference := describe_difference(episodes, episodes_of_form):
            what = f" with {', '.join(changes)} changed in one environment" if changes else ""
            raise ConformanceError(f"{name}.vector_form differs from {name}{what} in {difference}; {_ADVICE}")


def _play_single(env: gym.Env[Any, Any], index: int) -> list[Step]:
    """Play in one environment; return its steps."""
    steps = [_make_first_step(*env.reset(seed=SEED + index))]
    for actions in _sample_actions(env.action_space):
        step = Step(*env.step(actions[index]))
        steps.append(step._replace(info=_simplify(step.info)))
        if steps[-1].is_last:
            steps.append(_make_first_step(*env.reset()))
    return steps


def _play_batch(env: VectorEnv[Any, Any, Any], episodes: list[list[Step]]) -> list[list[Step]]:
    """Play the same actions in a batch, and reset where the single environments end; return the steps of each."""
    batch = env.reset(seed=SEED)
    steps = [[_select_first_step(*batch, index)] for index in range(env.num_envs)]
    for actions in _sample_actions(env.single_action_space):
        observations, rewards, terminations, truncations, info = env.step(
            np.array(actions, env.single_action_space.dtype)
        )
        for index, own_steps in enumerate(steps):
            end = bool(terminations[index]), bool(truncations[index])
            own_info = _simplify(select_info(info, index))
            own_steps.append(Step(select_row(observations, index), float(rewards[index]), *end, own_info))
        ended = np.array([own[len(own_steps) - 1].is_last for own, own_steps in zip(episodes, steps, strict=True)])
        if ended.any():
            batch = env.reset(options={RESET_MASK: ended})
            for index in np.flatnonzero(ended).tolist():
                steps[index].append(_select_first_step(*batch, index))
    return steps


def _select_first_step(observations: Any, info: dict[str, Any], index: int) -> Step:
    return _make_first_step(select_row(observations, index), select_info(info, index))


def _make_first_step(observation: Any, info: dict[str, Any]) -> Step:
    return Step(observation, info=_simplify(info))


def _simplify(info: dict[str, Any]) -> dict[str, Any]:
    """Return an info without what Monitor adds, and with numbers of one type: a batch has them in arrays."""
    return {key: _simplify_value(value) for key, value in info.items() if key not in _OF_MONITOR}


def _simplify_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _simplify(value)
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else value


def _sample_actions(space: gym.Space[Any]) -> list[list[Any]]:
    """Sample an action for each environment and step, the same in every call."""
    space.seed(SEED)
    return [[space.sample() for _ in _ENDS] for _ in range(_N_STEPS)]
