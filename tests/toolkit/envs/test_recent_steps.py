"""The last steps of training: actions, rewards, and the returns that follow sampled observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from toolkit.envs.recent_steps import ActionCount, RecentSteps, SampledReturn

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (1,))
ACTIONS = spaces.Discrete(300)


def make_steps(n_vector_steps: int, *, n_steps: int = 8, space: spaces.Space[Any] = OBSERVATIONS) -> RecentSteps:
    """Keep steps of two environments; the reward and the next observation are the number of the vector step."""
    steps = RecentSteps(space, ACTIONS, 2, n_steps)
    for number in range(1, n_vector_steps + 1):
        observations: Any = np.full((2, 1), number, np.float32)
        if isinstance(space, spaces.Dict):
            observations = {"a": observations}
        steps.add(observations, np.array([299, number % 2]), np.full(2, number), np.zeros(2, bool))
    return steps


def test_oldest_steps_are_forgotten() -> None:
    steps = make_steps(7)
    assert steps.is_full
    assert steps.n_steps == 8
    assert steps.count_actions() == {299: 4, 0: 2, 1: 2}
    assert steps.observations.tolist() == [[4], [5], [6]]
    assert not make_steps(3).is_full


def test_largest_reward_of_training_is_remembered() -> None:
    steps = make_steps(4)
    for _ in range(6):
        steps.add(np.zeros((2, 1)), np.zeros((2, 1)), np.array([0.5, -1.0]), np.zeros(2, bool))
    assert (steps.largest_reward, steps.largest_recent_reward) == (4.0, 1.0)


def test_returns_end_with_the_episode_and_say_what_may_follow() -> None:
    steps = RecentSteps(OBSERVATIONS, ACTIONS, 1, 8)
    ends = [0, 1, 0, 1, 0, 0]
    for number, end in enumerate(ends):
        steps.add(np.full((1, 1), number), np.zeros(1), np.ones(1), np.array([bool(end)]))
        if number == 3:
            steps.mark_truncated(0)
    assert steps.sample_returns(0.5) == [
        SampledReturn(1.0, 0.0, has_ended=True),  # the step after the first observation is terminal
        SampledReturn(1.5, 0.25, has_ended=True),  # a time limit is not
        SampledReturn(1.0, 0.5, has_ended=True),
        SampledReturn(1.5, 0.25, has_ended=False),
        SampledReturn(1.0, 0.5, has_ended=False),
    ]


def test_reset_of_all_environments_interrupts_episodes() -> None:
    steps = make_steps(2)
    steps.interrupt()
    steps.add(np.zeros((2, 1)), np.zeros(2), np.ones(2), np.zeros(2, bool))
    assert steps.sample_returns(1.0) == [SampledReturn(2.0, 1.0, has_ended=True)]


@pytest.mark.parametrize("space", [OBSERVATIONS, spaces.Dict({"a": OBSERVATIONS})], ids=["box", "dict"])
def test_restored_steps_continue_as_the_saved_ones(space: spaces.Space[Any]) -> None:
    saved, restored = make_steps(6, space=space), make_steps(0, space=space)
    restored.load_state_dict(saved.state_dict())
    batch: Any = {"a": np.zeros((2, 1))} if isinstance(space, spaces.Dict) else np.zeros((2, 1))
    for steps in (saved, restored):
        steps.add(batch, np.zeros(2), np.ones(2), np.array([True, False]))
    assert restored.count_actions() == saved.count_actions()
    assert restored.sample_returns(0.9) == saved.sample_returns(0.9)
    assert restored.largest_reward == saved.largest_reward == 6.0
    np.testing.assert_equal(restored.observations, saved.observations)


def test_steps_of_other_environments_are_refused() -> None:
    state = make_steps(6).state_dict()
    with pytest.raises(ValueError, match="broadcast"):
        RecentSteps(OBSERVATIONS, ACTIONS, 3, 12).load_state_dict(state)


def test_continuous_actions_are_counted_in_ranges_of_their_space() -> None:
    space = spaces.Box(np.array([-2.0, -np.inf], np.float32), np.array([2.0, np.inf], np.float32))
    steps = RecentSteps(OBSERVATIONS, space, 1, 4)
    for action in ([-2.0, 7.0], [-2.0, 7.0], [2.0, 7.0], [0.1, 7.0], [2.0, 7.0]):
        steps.add(np.zeros((1, 1)), np.array([action], np.float32), np.zeros(1), np.zeros(1, bool))
    counts = [count for count in steps.count_action_ranges() if count.steps]
    assert counts[0] == ActionCount(0, -2.0, -1.8, 1)  # the first step is forgotten
    assert [(count.component, count.steps) for count in counts] == [(0, 1), (0, 1), (0, 2), (1, 4)]
    assert counts[-1].low <= 7.0 <= counts[-1].high
    assert steps.count_actions() == {}


def test_actions_of_a_snapshot_that_lacks_them_are_not_counted() -> None:
    space = spaces.Box(-1, 1, (2,))
    steps = RecentSteps(OBSERVATIONS, space, 1, 4)
    for _ in range(2):
        steps.add(np.zeros((1, 1)), np.zeros((1, 2)), np.zeros(1), np.zeros(1, bool))
    restored = RecentSteps(OBSERVATIONS, space, 1, 4)
    restored.load_state_dict(steps.state_dict() | {"actions": None})  # as earlier versions wrote it
    assert steps.count_action_ranges()
    assert restored.count_action_ranges() == []
