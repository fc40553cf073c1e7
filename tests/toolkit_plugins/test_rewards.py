from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from toolkit_plugins.wrappers.rewards import AnglePenalty, GradedTerminalReward, TerminalRewardClip

END_KINDS = ["terminated", "truncated", "both"]
WRAPPERS = pytest.mark.parametrize("wrapper", [TerminalRewardClip, GradedTerminalReward, AnglePenalty])
Env = gym.Env[Any, Any]


class FixedLength(Env):
    """Terminate at the 0-based step `last`; the reward of every step is 1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self, last: int = 10, observation_space: spaces.Space[Any] | None = None, render_mode: str | None = None
    ) -> None:
        self.last = last
        self.observation_space = observation_space or spaces.Box(-1, 1, (4,))
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.options = options
        return self._observation(), {"steps": 0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observation(), 1.0, self.steps > self.last, False, {"steps": self.steps}

    def render(self) -> Any:
        return np.full((8, 8, 3), self.steps, np.uint8)

    def _observation(self) -> Any:
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


@pytest.fixture
def fixed_length_id() -> Iterator[str]:
    gym.register("toolkit_tests/FixedLength-v0", entry_point=FixedLength)
    yield "toolkit_tests/FixedLength-v0"
    del gym.registry["toolkit_tests/FixedLength-v0"]


def fixed_length_env(end_kind: str, last: int) -> Env:
    """Make an environment whose episodes end at the 0-based step `last`."""
    env: Env = FixedLength(1_000 if end_kind == "truncated" else last)
    return env if end_kind == "terminated" else TimeLimit(env, last + 1)


def play_episode(env: Env) -> list[Any]:
    env.reset()
    rewards, ended = [], False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(0)
        rewards.append(reward)
        ended = terminated or truncated
    return rewards


@pytest.mark.parametrize("end_kind", END_KINDS)
def test_fixed_length_env_ends_as_asked(end_kind: str) -> None:
    env = fixed_length_env(end_kind, 3)
    env.reset()
    *before, end = [env.step(0)[2:4] for _ in range(4)]
    assert before == [(False, False)] * 3
    assert end == {"terminated": (True, False), "truncated": (False, True), "both": (True, True)}[end_kind]


@pytest.mark.parametrize("end_kind", END_KINDS)
@pytest.mark.parametrize(("last", "reward"), [(0, -1), (193, -1), (194, -1), (195, 1), (196, 1), (199, 1)])
def test_terminal_reward_clip_is_plus_one_from_step_195_on(end_kind: str, last: int, reward: int) -> None:
    assert play_episode(TerminalRewardClip(fixed_length_env(end_kind, last))) == [0] * last + [reward]


@pytest.mark.parametrize("end_kind", END_KINDS)
@pytest.mark.parametrize(("last", "reward"), [(4, -1), (5, 1)])
def test_terminal_reward_clip_uses_success_steps(end_kind: str, last: int, reward: int) -> None:
    assert play_episode(TerminalRewardClip(fixed_length_env(end_kind, last), success_steps=5)) == [0] * last + [reward]


@pytest.mark.parametrize("end_kind", END_KINDS)
@pytest.mark.parametrize(("last", "reward"), [(0, -0.99), (98, -0.01), (99, 0.0), (100, 0.01), (199, 1.0)])
def test_graded_terminal_reward_grows_with_last_step(end_kind: str, last: int, reward: float) -> None:
    assert play_episode(GradedTerminalReward(fixed_length_env(end_kind, last))) == [0] * last + [pytest.approx(reward)]


def test_graded_terminal_reward_uses_midpoint_and_scale() -> None:
    assert play_episode(GradedTerminalReward(fixed_length_env("both", 6), midpoint=4, scale=0.5)) == [0] * 6 + [1.0]


@pytest.mark.parametrize("end_kind", END_KINDS)
def test_graded_terminal_reward_keeps_step_rewards_if_asked(end_kind: str) -> None:
    env = GradedTerminalReward(fixed_length_env(end_kind, 6), keep_step_rewards=True)
    assert play_episode(env) == [1.0] * 6 + [pytest.approx(-0.93)]


@pytest.mark.parametrize(
    ("wrapper", "last", "reward"), [(TerminalRewardClip, 150, -1.0), (GradedTerminalReward, 109, 0.1)]
)
def test_reset_restarts_step_count(wrapper: Callable[[Env], Env], last: int, reward: float) -> None:
    env = wrapper(fixed_length_env("truncated", last))
    expected = [0] * last + [pytest.approx(reward)]
    assert [play_episode(env) for _ in range(2)] == [expected] * 2
    env.reset()
    for _ in range(7):
        env.step(0)
    assert play_episode(env) == expected, "after a reset in the middle of an episode"


@pytest.mark.parametrize(
    ("params", "scale", "index"), [({}, 2, 2), ({"scale": 0.5}, 0.5, 2), ({"index": 0}, 2, 0), ({"index": 3}, 2, 3)]
)
def test_angle_penalty_subtracts_scaled_angle(params: dict[str, Any], scale: float, index: int) -> None:
    env = AnglePenalty(gym.make("CartPole-v1"), **params)
    env.reset(seed=0)
    angles, rewards = [], []
    for action in [0] * 5 + [1] * 7:
        observation, reward, *_ = env.step(action)
        angles.append(observation[index])
        rewards.append(reward)
    assert min(angles) < 0 < max(angles)
    np.testing.assert_allclose(rewards, 1 - scale * np.abs(angles))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(16),
        spaces.MultiBinary(4),
        spaces.Dict({"angle": spaces.Box(-1, 1, (4,))}),
        spaces.Box(-1, 1, (2,)),
        spaces.Box(-1, 1, ()),
        spaces.Box(0, 255, (36, 36, 1), np.uint8),
    ],
    ids=["discrete", "binary", "dict", "short", "scalar", "image"],
)
def test_angle_penalty_refuses_observations_without_the_index(space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match="have no number of index 2"):
        AnglePenalty(FixedLength(observation_space=space))


@pytest.mark.parametrize("index", [-1, 4])
def test_angle_penalty_refuses_index_out_of_range(index: int) -> None:
    with pytest.raises(ValueError, match=f"have no number of index {index}"):
        AnglePenalty(FixedLength(), index=index)


@WRAPPERS
@pytest.mark.parametrize("end_kind", END_KINDS)
def test_wrapper_changes_only_the_reward(wrapper: Callable[[Env], Env], end_kind: str) -> None:
    plain, wrapped = fixed_length_env(end_kind, 10), wrapper(fixed_length_env(end_kind, 10))
    assert wrapped.observation_space == plain.observation_space
    assert wrapped.action_space == plain.action_space
    calls: list[Callable[[Env], Any]] = [lambda env: env.reset(seed=3)]
    calls += [lambda env: env.step(0)] * 11
    for call in calls:
        (observation, *rest), (expected_observation, *expected) = call(wrapped), call(plain)
        np.testing.assert_array_equal(observation, expected_observation)
        assert rest[-3:] == expected[-3:]  # terminated, truncated and info, or info alone
    assert any(rest[1:3])


@WRAPPERS
def test_reset_passes_seed_and_options(wrapper: Callable[[Env], Env]) -> None:
    env = wrapper(FixedLength())

    def trajectory(seed: int) -> list[Any]:
        observation, _ = env.reset(seed=seed, options={"easy": True})
        return [observation.tolist(), *(env.step(0)[0].tolist() for _ in range(5))]

    assert trajectory(1) == trajectory(1) != trajectory(2)
    assert env.get_wrapper_attr("options") == {"easy": True}


@WRAPPERS
def test_wrapper_passes_rendering_through(wrapper: Callable[[Env], Env]) -> None:
    env = wrapper(FixedLength(render_mode="rgb_array"))
    env.reset()
    env.step(0)
    assert env.render_mode == "rgb_array"
    assert env.metadata == FixedLength.metadata
    np.testing.assert_array_equal(env.render(), np.full((8, 8, 3), 1))


@WRAPPERS
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_and_sb3_environment_checkers_pass(wrapper: Callable[[Env], Env], fixed_length_id: str) -> None:
    env = wrapper(gym.make(fixed_length_id, disable_env_checker=True))
    check_env(env)
    sb3_check_env(env)


@pytest.mark.parametrize(
    ("wrapper", "params"),
    [
        (TerminalRewardClip, {"success_steps": 7}),
        (GradedTerminalReward, {"midpoint": 3, "scale": 0.5, "keep_step_rewards": True}),
        (AnglePenalty, {"scale": 1.0, "index": 1}),
    ],
)
def test_spec_recreates_wrapper(wrapper: type[gym.Wrapper], params: dict[str, Any]) -> None:
    env = wrapper(gym.make("CartPole-v1", max_episode_steps=9), **params)
    again = gym.make(copy.deepcopy(env.spec))
    assert type(again) is wrapper
    assert {name: getattr(again, name) for name in params} == params
    for wrapped in (env, again):
        wrapped.reset(seed=0)
    assert [env.step(0)[1] for _ in range(8)] == [again.step(0)[1] for _ in range(8)]
