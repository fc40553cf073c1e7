"""Value estimates at the start of episodes, and the discounted rewards that follow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from toolkit import Run
from toolkit.envs.value_trace import TracedEpisode, ValueTrace
from toolkit.training.value_estimates import trace_values


def make_trace(interval: int = 1, n_envs: int = 1) -> ValueTrace:
    """Trace with a discount of one half; the estimate is the observation."""
    return ValueTrace(lambda observation: float(np.ravel(observation)[0]), 0.5, n_envs, interval)


def step(trace: ValueTrace, observations: Any, rewards: Any, dones: Any, is_truncated: bool = False) -> None:
    infos = [{"TimeLimit.truncated": is_truncated} for _ in dones]
    trace.add(np.array(observations), np.array(rewards), np.array(dones), infos)


def test_estimate_is_compared_with_discounted_rewards_of_its_episode() -> None:
    trace = make_trace()
    step(trace, [7.0], [100.0], [True])  # the first episode was not seen from its start
    for reward, is_done in ((1.0, False), (2.0, False), (4.0, True)):
        step(trace, [0.0], [reward], [is_done])
    assert trace.take() == [TracedEpisode(7.0, 1 + 2 / 2 + 4 / 4, 0.0)]
    assert trace.take() == []
    step(trace, [0.0], [1.0], [True], is_truncated=True)
    assert trace.take() == [TracedEpisode(0.0, 1.0, 0.5)]


def test_estimates_are_an_interval_apart_and_follow_several_environments() -> None:
    trace = make_trace(interval=3, n_envs=2)
    dones = [[True, False], [False, True], [True, False], [False, True], [False, True]]
    for number, done in enumerate(dones, start=1):
        step(trace, [number, 10 * number], [1.0, 1.0], done)
    # environment 0 is followed from step 1 to 3, and environment 1 from step 4 to 5
    assert trace.take() == [TracedEpisode(1.0, 1.5, 0.0), TracedEpisode(40.0, 1.0, 0.0)]


def test_interrupted_episode_is_forgotten() -> None:
    trace = make_trace()
    step(trace, [7.0], [0.0], [True])
    trace.drop(0)
    step(trace, [8.0], [1.0], [True])
    trace.drop_all()
    step(trace, [9.0], [1.0], [False])
    assert trace.take() == []


@pytest.mark.parametrize("estimate", [None, float("nan"), float("inf")])
def test_episode_without_usable_estimate_is_not_followed(estimate: float | None) -> None:
    trace = ValueTrace(lambda _: estimate, 0.5, 1, 1)
    for _ in range(3):
        step(trace, [0.0], [1.0], [True])
    assert trace.take() == []


def test_restored_trace_continues_the_episode() -> None:
    trace, restored = make_trace(interval=4), make_trace(interval=4)
    step(trace, [7.0], [0.0], [True])
    step(trace, [0.0], [1.0], [False])
    restored.load_state_dict(trace.state_dict())
    for continued in (trace, restored):
        step(continued, [1.0], [2.0], [True])
        step(continued, [2.0], [0.0], [True])
        step(continued, [3.0], [0.0], [True])
    assert trace.take() == restored.take() == [TracedEpisode(7.0, 2.0, 0.0)]
    assert trace.state_dict()["environments"] == restored.state_dict()["environments"] == [0]
    with pytest.raises(ValueError, match="1 is not in range"):
        restored.load_state_dict(trace.state_dict() | {"environments": [1]})


@pytest.mark.parametrize("is_training", [False, True])
def test_estimate_leaves_noise_and_training_mode_as_they_were(finished_run: Run, is_training: bool) -> None:
    model = finished_run.load_model()
    model.q_net.register_forward_pre_hook(lambda *_: torch.rand(1) and None)  # type: ignore[attr-defined]
    model.policy.set_training_mode(is_training)
    env: Any = SimpleNamespace(num_envs=1, value_trace=None)
    trace_values(env, model, 1_000)
    state = torch.get_rng_state()
    for _ in range(2):
        step(env.value_trace, np.zeros((1, 4), np.float32), [1.0], [True])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.policy.training == is_training
    assert len(env.value_trace.take()) == (not is_training)  # a policy in training mode is left alone
