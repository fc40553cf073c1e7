"""`check_wrapper` passes correct wrappers, and names the broken promise of others."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeLimit,
)

from toolkit.testing import ConformanceError, check_wrapper
from toolkit.utils.errors import ToolkitError


@pytest.mark.parametrize(
    ("wrapper", "params", "env"),
    [
        (FrameStackObservation, {"stack_size": 3}, "CartPole-v1"),
        (NormalizeObservation, {}, "CartPole-v1"),
        (RescaleAction, {"min_action": -1, "max_action": 1.0}, "Pendulum-v1"),
        (TimeLimit, {"max_episode_steps": 2}, "CartPole-v1"),
        (TimeLimit, {"max_episode_steps": 20}, {"id": "CartPole-v1", "wrappers": [NormalizeObservation]}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*precision lowered.*")
def test_stock_wrapper_passes(wrapper: type[gym.Wrapper], params: dict[str, Any], env: Any) -> None:
    check_wrapper(wrapper, params=params, env=env)


class PassThrough(gym.Wrapper):
    """Keeps its promises. The other wrappers break one each."""


class FourValues(PassThrough):
    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, info


class OnlyObservation(PassThrough):
    def reset(self, **kwargs):
        return self.env.reset(**kwargs)[0]


class TakesNoSeed(PassThrough):
    def reset(self):
        return self.env.reset()


class IgnoresSeed(PassThrough):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(options=options)


class AlwaysSeeds(PassThrough):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed or 0, options=options)


class IgnoresOptions(PassThrough):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)


class StepsAtReset(PassThrough):
    def reset(self, **kwargs):
        _, info = self.env.reset(**kwargs)
        return self.env.step(0)[0], info


class ChangesStep(PassThrough):
    def step(self, action):
        return self.changed(*self.env.step(action))


class SwallowsTruncated(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, False, info


class NamesListAsPart(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, info | {"reward_components": {"angle": [1, 2]}}


class FlipsEnds(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, truncated, terminated, info


class TerminatesAtTimeLimit(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated or truncated, truncated, info


class NumpyFlags(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, np.bool_(terminated), truncated, info


class NanReward(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, math.nan, terminated, truncated, info


class NoReward(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, None, terminated, truncated, info


class NoInfo(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, None


class NoisyReward(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward + np.random.random(), terminated, truncated, info


class LeavesObservationSpace(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation + np.float32(100), reward, terminated, truncated, info


class DoublePrecision(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation.astype(np.float64), reward, terminated, truncated, info


class Raises(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        raise KeyError("angle")


class SkipsFrames(PassThrough):
    def step(self, action):
        self.env.step(action)
        return self.env.step(action)


class StepsUnwrapped(PassThrough):
    def step(self, action):
        return self.unwrapped.step(action)


class MoreActions(PassThrough):
    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(5)


class OmitsSuper(PassThrough):
    def __init__(self, env):
        self.env = env


class OmitsSuperButHasSpaces(PassThrough):
    def __init__(self, env):
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space


class CannotBeBuilt(PassThrough):
    def __init__(self, env):
        super().__init__(env.no_such_attribute)


class Unwraps(PassThrough):
    def __init__(self, env):
        super().__init__(env.unwrapped)


class ReusesObservation(PassThrough):
    """Returns the same array each time."""

    def __init__(self, env):
        super().__init__(env)
        self._observation = np.zeros(4, np.float32)

    def reset(self, **kwargs):
        self._observation[:], info = self.env.reset(**kwargs)
        return self._observation, info

    def step(self, action):
        self._observation[:], *rest = self.env.step(action)
        return self._observation, *rest


class SeedsOnce(ChangesStep):
    def __init__(self, env):
        super().__init__(env)
        self._generator = np.random.default_rng(0)

    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward + self._generator.random(), terminated, truncated, info


class KeepsCount(ChangesStep):
    count = 0

    def changed(self, observation, reward, terminated, truncated, info):
        self.count += 1
        return observation, reward - self.count, terminated, truncated, info


class HoldsIterator(ChangesStep):
    def __init__(self, env):
        super().__init__(env)
        self._numbers = itertools.count()

    def changed(self, *result):
        next(self._numbers)
        return result


class LosesLevel(ChangesStep):
    level = 0

    def changed(self, observation, reward, terminated, truncated, info):
        self.level += terminated
        return observation, reward + self.level, terminated, truncated, info

    def state_dict(self):
        return {"level": self.level}

    def load_state_dict(self, state):
        self.level = 0


class HasOwnEnv(PassThrough):
    """Holds what cannot be saved and need not continue."""

    def __init__(self, env):
        super().__init__(env)
        self._other = gym.make("CartPole-v1")

    def reset(self, **kwargs):
        self._other.reset(seed=0)
        return self.env.reset(**kwargs)

    def step(self, action):
        self._other.reset()
        return self.env.step(action)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class DropsRender(PassThrough):
    def render(self):
        return None


class DropsRenderMode(PassThrough):
    render_mode = None


class OmitsClose(PassThrough):
    def close(self):
        pass


BROKEN_WRAPPERS: list[tuple[type[gym.Wrapper], str]] = [
    (FourValues, r"step returned 4 values; .*\(observation, reward, terminated, truncated, info\): return all five"),
    (OnlyObservation, r"reset returned \[.*returns \(observation, info\).*return both"),
    (TakesNoSeed, r"reset\(seed=20\) raised TypeError.*takes seed and options"),
    (IgnoresSeed, r"reset\(seed=20\) reset the environment inside with None; pass seed on"),
    (AlwaysSeeds, r"reset\(seed=None\) reset the environment inside with 0; pass seed on"),
    (IgnoresOptions, r"reset\(options=.*reset the environment inside with None; pass options on"),
    (StepsAtReset, r"reset took 1 steps in the environment inside; .* leave steps to the agent"),
    (
        SwallowsTruncated,
        r"truncated=False where the episode inside truncated.*Return both flags as self.env.step returned them",
    ),
    (FlipsEnds, r"terminated=False where the episode inside terminated.*Return both"),
    (TerminatesAtTimeLimit, r"terminated=True where the episode inside truncated.*has a value beyond"),
    (NamesListAsPart, r"info\['reward_components'\]\['angle'\] is \[1, 2\]; return a mapping of names and finite"),
    (NumpyFlags, r"of type bool as terminated; .* return bool\(terminated\)"),
    (NanReward, r"the reward nan .*return a float"),
    (NoReward, r"the reward None .*return a float"),
    (NoInfo, r"None .*as info; info is a dict"),
    (NoisyReward, r"different episodes in two instances: the reward of step 1: .*draw from self.np_random"),
    (LeavesObservationSpace, r"step returned the observation .*observation_space is Box.*declare the space"),
    (DoublePrecision, r"observation .* type float64; observation_space is .*float32"),
    (Raises, r"step\(.*\) raised KeyError: 'angle' .*test_wrappers.py.*env=\.\.\."),
    (RecordEpisodeStatistics, r"raised AssertionError .*info\['episode'\] belongs to Monitor, which"),
    (SkipsFrames, r"took 2 steps inside; .*Call self.env.step\(action\) once; a frame skip is right only on purpose"),
    (StepsUnwrapped, r"did not step the environment that it wraps; .*raw returns"),
    (MoreActions, r"passed on the action .*inside takes Discrete\(2\): convert the action"),
    (OmitsSuper, r"cannot be used once it is built: AttributeError.*call super\(\).__init__\(env\)"),
    (OmitsSuperButHasSpaces, r"has no _cached_spec; .*call super\(\).__init__\(env\)"),
    (Unwraps, r"wraps <CartPole.*call super\(\).__init__\(env\)"),
    (ReusesObservation, r"returned the same observation object twice.*return a new array or a copy"),
    (SeedsOnce, r"after a second reset: the reward of step 1: .*reset\(seed=\.\.\.\) seeds"),
    (KeepsCount, r"after a second reset: .*; reset per-episode state in reset\(\); "),
    (
        HoldsIterator,
        r"_numbers cannot be saved, .*or define state_dict and load_state_dict; state_dict may return {} ",
    ),
    (
        LosesLevel,
        r"another instance .* repeats its episode only up to step 1 .*load_state_dict",
    ),
    (DropsRender, r"render returned NoneType; .*\(height, width, 3\): return self.env.render\(\)"),
    (DropsRenderMode, r"render_mode is None where it is 'rgb_array' inside"),
    (OmitsClose, r"close did not close the environment inside; call super\(\).close\(\)"),
]


@pytest.mark.parametrize("wrapper", [PassThrough, HasOwnEnv])
def test_correct_wrapper_passes(wrapper: type[gym.Wrapper]) -> None:
    check_wrapper(wrapper, env={"id": "CartPole-v1", "max_episode_steps": 50})


@pytest.mark.parametrize(("wrapper", "message"), BROKEN_WRAPPERS, ids=lambda part: getattr(part, "__name__", ""))
def test_broken_wrapper_is_reported_with_advice(wrapper: type[gym.Wrapper], message: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){wrapper.__name__}.*{message}"):
        check_wrapper(wrapper)


def test_faulty_env_is_not_blamed_on_wrapper() -> None:
    with pytest.raises(
        ToolkitError, match=r"env: 'CartPole-v1' does not pass Gymnasium's check_env.*in an environment"
    ):
        check_wrapper(PassThrough, env={"id": "CartPole-v1", "wrappers": [f"{__name__}:NoisyReward"]})


class TwoRewards(CartPoleEnv):
    """CartPole with rewards for two objectives, and the weights of these."""

    weights = np.array([1.0, 0.1])

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward, -abs(float(observation[0]))]), *rest


class Weigh(PassThrough):
    def step(self, action):
        observation, rewards, *rest = self.env.step(action)
        return observation, float(rewards @ self.env.weights), *rest


class WeighNever(PassThrough):
    weights = property(lambda self: self.env.weights)


@pytest.fixture(scope="module")
def two_rewards() -> str:
    gym.register("toolkit_tests/TwoRewards-v0", TwoRewards, max_episode_steps=50)
    return "toolkit_tests/TwoRewards-v0"


def test_base_wrapper_passes_where_it_is_part_of_the_environment(two_rewards: str) -> None:
    check_wrapper(Weigh, env=two_rewards, is_base=True)
    check_wrapper(PassThrough, env={"id": two_rewards, "base_wrappers": [Weigh]}, is_base=True)


def test_base_wrapper_that_breaks_a_promise_is_named(two_rewards: str) -> None:
    with pytest.raises(ConformanceError, match=r"WeighNever.step returned the reward .* of shape \(2,\)"):
        check_wrapper(WeighNever, env=two_rewards, is_base=True)
    with pytest.raises(ConformanceError, match=r"IgnoresSeed\.reset"):
        check_wrapper(IgnoresSeed, is_base=True)


def test_wrapper_of_the_raw_environment_is_told_of_base_wrappers(two_rewards: str) -> None:
    env = {"id": two_rewards, "base_wrappers": [Weigh]}
    with pytest.raises(ConformanceError, match=r"RecordingMonitor is between .* 'weights': .* env\.base_wrappers"):
        check_wrapper(Weigh, env=env)
