"""The checks for plugin authors: our own components pass them, and what breaks a promise is told what to change."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import jobs
import numpy as np
import pytest
import torch
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeLimit,
)
from here import Here
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.dqn.policies import DQNPolicy

from toolkit.config.registry import KINDS, list_entry_points
from toolkit.experiments.launcher import Ended, Launcher
from toolkit.testing import (
    ConformanceError,
    check_algorithm,
    check_callback,
    check_launcher,
    check_policy,
    check_schedule,
    check_wrapper,
)
from toolkit.utils.errors import ToolkitError
from toolkit.utils.signals import InterruptedTraining
from toolkit_plugins.local_launcher import LocalLauncher

CHECKS: dict[str, Callable[..., None]] = {
    "wrappers": check_wrapper,
    "callbacks": check_callback,
    "algorithms": check_algorithm,
    "policies": check_policy,
    "schedules": check_schedule,
    "launchers": check_launcher,
}
OFF_POLICY = {"learning_starts": 100, "buffer_size": 1_000, "batch_size": 16}
CONTINUOUS: dict[str, Any] = {"params": {**OFF_POLICY, "train_freq": 8}, "env": "Pendulum-v1"}
ON_POLICY = {"n_steps": 150, "batch_size": 75, "n_epochs": 1}
PICTURES = "toolkit_tests/Pictures-v0"
if PICTURES not in gym.registry:
    size = {"screen_height": 36, "screen_width": 36}
    gym.register(PICTURES, "stable_baselines3.common.envs:FakeImageEnv", kwargs=size)
SHOWS_TIME = {"name": "gymnasium.wrappers:TimeAwareObservation", "params": {"flatten": False}}
# What each registered component needs; one that is not here is checked with nothing.
NEEDS: dict[str, dict[str, dict[str, Any]]] = {
    "wrappers": {
        "clip_reward": {"params": {"min_reward": -1}},
        "info_action_mask": {"env": "Taxi-v4"},
        "terminal_reward_clip": {"params": {"success_steps": 195}},
    },
    "callbacks": {
        "max_episodes": {"params": {"max_episodes": 5}, "changes_training": True},
        "record_video": {"params": {"every_timesteps": 100, "formats": ["gif"], "max_steps": 5}},
        "success": {"params": {"threshold": 500}},
    },
    "algorithms": {
        "crossq": {"params": {**OFF_POLICY, "train_freq": 32}, "env": "Pendulum-v1"},
        "ddpg": CONTINUOUS,
        "double_dqn": {"params": OFF_POLICY},
        "dqn": {"params": OFF_POLICY},
        "maskable_ppo": {"params": ON_POLICY, "env": {"id": "Taxi-v4", "wrappers": ["info_action_mask"]}},
        "ppo": {"params": ON_POLICY},
        "qrdqn": {"params": OFF_POLICY},
        "recurrent_ppo": {"params": ON_POLICY, "policy": "MlpLstmPolicy"},
        "sac": CONTINUOUS,
        "td3": CONTINUOUS,
        "tqc": CONTINUOUS,
        "trpo": {"params": {"n_steps": 150, "batch_size": 75}},
    },
    "policies": {
        "DuelingCnnPolicy": {"algorithm": "double_dqn", "env": PICTURES},
        "DuelingMultiInputPolicy": {"algorithm": "double_dqn", "env": {"id": "CartPole-v1", "wrappers": [SHOWS_TIME]}},
    },
    "schedules": {
        "constant": {"params": {"val": 0.5}},
        "harmonic": {"params": {"final": 0.1, "scale": 0.5}},
        "linear": {"params": {"start": 1e-3}},
    },
    "launchers": {"local": {"params": {"workers": 2}}},
}
# What is not checked, and why.
EXEMPT = {
    ("wrappers", "atari"): "skips frames, on purpose; test_extras.py plays a game with it",
    ("launchers", "ray"): "checked on a cluster, in test_ray_launcher.py",
}


def marks(kind: str, name: str) -> list[pytest.MarkDecorator]:
    if (kind, name) in EXEMPT:
        return [pytest.mark.skip(reason=EXEMPT[kind, name])]
    return [] if kind in ("wrappers", "schedules") else [pytest.mark.slow]


REGISTERED = [
    pytest.param(kind, name, marks=marks(kind, name)) for kind in CHECKS for name in list_entry_points(KINDS[kind])
]


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_a_registered_component_keeps_what_its_kind_promises(kind: str, name: str) -> None:
    for extra in list_entry_points(KINDS[kind])[name][0].extras:
        pytest.importorskip(extra)
    CHECKS[kind](name, **NEEDS[kind].get(name, {}))


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
def test_wrappers_that_stack_learn_or_end_episodes_themselves_are_no_worse(
    wrapper: type[gym.Wrapper], params: dict[str, Any], env: Any
) -> None:
    check_wrapper(wrapper, params=params, env=env)


class Honest(gym.Wrapper):
    """Keeps its promises; the others here break one each."""


class FourValues(Honest):
    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, info


class OnlyObservation(Honest):
    def reset(self, **kwargs):
        return self.env.reset(**kwargs)[0]


class TakesNoSeed(Honest):
    def reset(self):
        return self.env.reset()


class IgnoresSeed(Honest):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(options=options)


class AlwaysTheSameSeed(Honest):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed or 0, options=options)


class IgnoresOptions(Honest):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)


class StepsAtReset(Honest):
    def reset(self, **kwargs):
        _, info = self.env.reset(**kwargs)
        return self.env.step(0)[0], info


class ChangesStep(Honest):
    def step(self, action):
        return self.changed(*self.env.step(action))


class SwallowsTruncated(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, False, info


class FlipsEnds(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, truncated, terminated, info


class TakesTimeLimitsForEnds(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated or truncated, truncated, info


class EndsInNumpy(ChangesStep):
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


class GoesOutside(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation + np.float32(100), reward, terminated, truncated, info


class DoublePrecision(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        return observation.astype(np.float64), reward, terminated, truncated, info


class ShapesTheRawReturn(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        if "episode" in info:
            info["episode"]["r"] = -1.0
        return observation, reward, terminated, truncated, info


class Raises(ChangesStep):
    def changed(self, observation, reward, terminated, truncated, info):
        raise KeyError("angle")


class SkipsFrames(Honest):
    def step(self, action):
        self.env.step(action)
        return self.env.step(action)


class StepsPastMonitor(Honest):
    def step(self, action):
        return self.unwrapped.step(action)


class MoreActions(Honest):
    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(5)


class ForgetsSuper(Honest):
    def __init__(self, env):
        self.env = env


class ForgetsSuperButHasSpaces(Honest):
    def __init__(self, env):
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space


class CannotBeBuilt(Honest):
    def __init__(self, env):
        super().__init__(env.no_such_attribute)


class Unwraps(Honest):
    def __init__(self, env):
        super().__init__(env.unwrapped)


class OneObservation(Honest):
    """Gives the same array each time."""

    def __init__(self, env):
        super().__init__(env)
        self._shown = np.zeros(4, np.float32)

    def reset(self, **kwargs):
        self._shown[:], info = self.env.reset(**kwargs)
        return self._shown, info

    def step(self, action):
        self._shown[:], *rest = self.env.step(action)
        return self._shown, *rest


class SeedsItsGeneratorOnce(ChangesStep):
    def __init__(self, env):
        super().__init__(env)
        self._generator = np.random.default_rng(0)

    def changed(self, observation, reward, terminated, truncated, info):
        return observation, reward + self._generator.random(), terminated, truncated, info


class ForgetsToCountAnew(ChangesStep):
    count = 0

    def changed(self, observation, reward, terminated, truncated, info):
        self.count += 1
        return observation, reward - self.count, terminated, truncated, info


class KeepsAnIterator(ChangesStep):
    def __init__(self, env):
        super().__init__(env)
        self._numbers = itertools.count()

    def changed(self, *result):
        next(self._numbers)
        return result


class ForgetsItsLevel(ChangesStep):
    level = 0

    def changed(self, observation, reward, terminated, truncated, info):
        self.level += terminated
        return observation, reward + self.level, terminated, truncated, info

    def state_dict(self):
        return {"level": self.level}

    def load_state_dict(self, kept):
        self.level = 0


class HasAnEnvironmentOfItsOwn(Honest):
    """What it has cannot be saved, and nothing of it has to go on."""

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

    def load_state_dict(self, kept):
        pass


class DropsRender(Honest):
    def render(self):
        return None


class DropsRenderMode(Honest):
    render_mode = None


class LeavesOpen(Honest):
    def close(self):
        pass


BROKEN_WRAPPERS: list[tuple[type[gym.Wrapper], str]] = [
    (FourValues, r"step returned 4 values; .*\(observation, reward, terminated, truncated, info\): return all five"),
    (OnlyObservation, r"reset returned \[.*returns \(observation, info\).*return both"),
    (TakesNoSeed, r"reset\(seed=20\) raised TypeError.*takes seed and options"),
    (IgnoresSeed, r"reset\(seed=20\) reset the inside with None; pass seed on"),
    (AlwaysTheSameSeed, r"reset\(seed=None\) reset the inside with 0; pass seed on"),
    (IgnoresOptions, r"reset\(options=.*reset the inside with None; pass options on"),
    (StepsAtReset, r"reset made 1 steps in the environment inside; .* leave steps to the agent"),
    (SwallowsTruncated, r"truncated=False where the episode inside truncated.*Return both as self.env.step gave them"),
    (FlipsEnds, r"terminated=False where the episode inside terminated.*Return both"),
    (TakesTimeLimitsForEnds, r"terminated=True where the episode inside truncated.*has a value beyond"),
    (EndsInNumpy, r"of type bool as terminated; .* return bool\(terminated\)"),
    (NanReward, r"the reward nan .*return a float"),
    (NoReward, r"the reward None .*return a float"),
    (NoInfo, r"None .*as info; info is a dict"),
    (NoisyReward, r"different episodes in two instances: the reward of step 1: .*draw from self.np_random"),
    (GoesOutside, r"step returned the observation .*observation_space is Box.*declare the space"),
    (DoublePrecision, r"observation .* type float64; observation_space is .*float32"),
    (ShapesTheRawReturn, r"raw return is 5 is counted with -1; info\['episode'\] is Monitor's"),
    (Raises, r"step\(.*\) raised KeyError: 'angle' .*test_testing.py.*env=\.\.\."),
    (RecordEpisodeStatistics, r"raised AssertionError .*info\['episode'\] is there, and Monitor's"),
    (SkipsFrames, r"made 2 steps inside; .*Call self.env.step\(action\) once; a frame skip is right only on purpose"),
    (StepsPastMonitor, r"did not step the environment that it wraps; .*raw returns"),
    (MoreActions, r"passed on the action .*inside takes Discrete\(2\): convert the action"),
    (ForgetsSuper, r"cannot be used once it is built: AttributeError.*call super\(\).__init__\(env\)"),
    (ForgetsSuperButHasSpaces, r"has no _cached_spec; .*call super\(\).__init__\(env\)"),
    (Unwraps, r"wraps <CartPole.*call super\(\).__init__\(env\)"),
    (OneObservation, r"returned the same observation object twice.*return a new array or a copy"),
    (SeedsItsGeneratorOnce, r"after a second reset: the reward of step 1: .*reset\(seed=\.\.\.\) seeds"),
    (ForgetsToCountAnew, r"after a second reset: .*; reset what it keeps from step to step in reset\(\); "),
    (
        KeepsAnIterator,
        r"_numbers cannot be saved, .*or offer state_dict and load_state_dict; state_dict may return {} ",
    ),
    (ForgetsItsLevel, r"goes on otherwise: the reward of step .*load_state_dict"),
    (DropsRender, r"render returned NoneType; .*\(height, width, 3\): return self.env.render\(\)"),
    (DropsRenderMode, r"render_mode is None where it is 'rgb_array' inside"),
    (LeavesOpen, r"close did not close the environment inside; call super\(\).close\(\)"),
]


@pytest.mark.parametrize("wrapper", [Honest, HasAnEnvironmentOfItsOwn])
def test_a_wrapper_that_keeps_its_promises_passes(wrapper: type[gym.Wrapper]) -> None:
    check_wrapper(wrapper, env={"id": "CartPole-v1", "max_episode_steps": 50})


@pytest.mark.parametrize(("wrapper", "told"), BROKEN_WRAPPERS, ids=lambda part: getattr(part, "__name__", ""))
def test_a_wrapper_that_breaks_a_promise_is_told_which_and_what_to_do(wrapper: type[gym.Wrapper], told: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){wrapper.__name__}.*{told}"):
        check_wrapper(wrapper)


class Clock(BaseCallback):
    """What it keeps is not the same in any two runs, and not worth a word."""

    def _on_training_start(self) -> None:
        self.started = time.time()

    def _on_step(self) -> bool:
        return True


class ReturnsNothing(BaseCallback):
    def _on_step(self):
        pass


class StopsSoon(BaseCallback):
    def _on_step(self):
        return self.num_timesteps < 100


class DrawsNumbers(BaseCallback):
    def _on_step(self):
        torch.rand(1)
        return True


class OneEnvironmentOnly(BaseCallback):
    def _on_step(self):
        return not self.locals["dones"] or True


class MakesAnIterator(BaseCallback):
    def _on_training_start(self):
        self.numbers = itertools.count()

    def _on_step(self):
        return True


class ForgetsItsCount(BaseCallback):
    count = 0

    def _on_step(self):
        self.count += 1
        self.logger.record("mine/count", self.count)
        return True

    def state_dict(self):
        return {}

    def load_state_dict(self, kept):
        pass


class CountsAnew(ForgetsItsCount):
    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, kept):
        self.count = kept["cuont"]


BROKEN_CALLBACKS: list[tuple[type[BaseCallback], str]] = [
    (ReturnsNothing, r"ended training at timestep 1 of 256; _on_step returns True.*changes_training=True"),
    (StopsSoon, r"ended training at timestep 100 of 256; .*changes_training=True"),
    (DrawsNumbers, r"changed training: the final weights .*generator of its own.*changes_training=True"),
    (OneEnvironmentOnly, r"with 4 environments failed: ValueError.*an entry for each environment"),
    (MakesAnIterator, r"numbers cannot be saved, .*state_dict and load_state_dict"),
    (ForgetsItsCount, r"not as without the break: progress.csv \(mine/count\); .*state_dict"),
    (CountsAnew, r"`toolkit resume` failed: .*cuont.*load_state_dict"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("callback", "changes"), [(Clock, False), (StopsSoon, True), (DrawsNumbers, True)])
def test_a_callback_may_keep_times_and_change_training_if_it_says_so(
    callback: type[BaseCallback], changes: bool
) -> None:
    check_callback(callback, changes_training=changes)


@pytest.mark.slow
@pytest.mark.parametrize(("callback", "told"), BROKEN_CALLBACKS, ids=lambda part: getattr(part, "__name__", ""))
def test_a_callback_that_breaks_a_promise_is_told_which_and_what_to_do(
    callback: type[BaseCallback], told: str
) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){callback.__name__}.*{told}"):
        check_callback(callback)


class BesideThePolicy(DQN):
    def _setup_model(self):
        super()._setup_model()
        self.scale = torch.ones(1)

    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)
        self.scale *= 1.01


class NoSeed(DQN):
    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)
        with torch.no_grad():
            self.q_net.q_net[0].bias += np.random.default_rng().random()


class TellsNobody(DQN):
    def learn(self, total_timesteps, callback=None, log_interval=4, **kwargs):
        return super().learn(total_timesteps, **kwargs)


class StopsEarly(DQN):
    def learn(self, total_timesteps, callback=None, log_interval=4, **kwargs):
        return super().learn(total_timesteps // 2, callback, log_interval, **kwargs)


class LearnsNothing(DQN):
    def train(self, *args, **kwargs):
        pass


class NeedsMoreToLoad(DQN):
    def __init__(self, policy, env, bonus, **kwargs):
        super().__init__(policy, env, **kwargs)


class ForgetsItsCounter(DQN):
    def _setup_model(self):
        super()._setup_model()
        self._numbers = itertools.count(1)

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "_numbers"]

    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)
        with torch.no_grad():
            self.q_net.q_net[0].bias += 1e-3 * next(self._numbers)


BROKEN_ALGORITHMS: list[tuple[type[DQN], str]] = [
    (BesideThePolicy, r"loaded from its run directory, .*not what was learnt: scale; .*_get_torch_save_params"),
    (NoSeed, r"the same seed trained other weights \(.*; draw only from"),
    (TellsNobody, r"learn never called the callback it was given; pass callback on"),
    (StopsEarly, r"learn\(300\) ended at num_timesteps 15"),
    (LearnsNothing, r"learnt nothing in 300 timesteps: no weight changed; .*learning_starts"),
    (NeedsMoreToLoad, r"load\(model.zip\) raised TypeError.*'bonus'.*give all other parameters defaults"),
    (ForgetsItsCounter, r"`toolkit resume` it has other weights \(.*; offer state_dict and load_state_dict"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "told"), BROKEN_ALGORITHMS, ids=lambda part: getattr(part, "__name__", ""))
def test_an_algorithm_that_breaks_a_promise_is_told_which_and_what_to_do(algorithm: type[DQN], told: str) -> None:
    bonus = {"bonus": 1} if algorithm is NeedsMoreToLoad else {}
    with pytest.raises(ConformanceError, match=f"(?s){algorithm.__name__}.*{told}"):
        check_algorithm(algorithm, params=OFF_POLICY | bonus)


class KeepsATensorBeside(DQNPolicy):
    def set_training_mode(self, mode):
        super().set_training_mode(mode)
        if mode:
            self.updates = getattr(self, "updates", torch.zeros(1)) + 1


class DropsAPart(DQNPolicy):
    def state_dict(self, *args, **kwargs):
        kept = super().state_dict(*args, **kwargs)
        return {name: value for name, value in kept.items() if "q_net_target" not in name}


class ForgetsItsWidth(DQNPolicy):
    def __init__(self, *args, width=64, **kwargs):
        super().__init__(*args, net_arch=[width], **kwargs)

    def _get_constructor_parameters(self):
        kept = super()._get_constructor_parameters()
        return {name: value for name, value in kept.items() if name != "net_arch"}


class OneActionForAll(DQNPolicy):
    def _predict(self, observation, deterministic=True):
        return super()._predict(observation, deterministic)[:1]


class ActsOutside(DQNPolicy):
    def _predict(self, observation, deterministic=True):
        return super()._predict(observation, deterministic) + 7


BROKEN_POLICIES: list[tuple[type[DQNPolicy], str]] = [
    (KeepsATensorBeside, r"has not what was learnt: .*updates; "),
    (DropsAPart, r"loading the weights of model.zip into a fresh model raised .*what is learnt belongs in"),
    (ForgetsItsWidth, r"policy.save and ForgetsItsWidth.load raised .*_get_constructor_parameters"),
    (OneActionForAll, r"predict gave .* for 4 observations; expected is one action of Discrete\(2\) for each"),
    (ActsOutside, r"training failed: .*mend what was raised"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "told"), BROKEN_POLICIES, ids=lambda part: getattr(part, "__name__", ""))
def test_a_policy_that_breaks_a_promise_is_told_which_and_what_to_do(policy: type[DQNPolicy], told: str) -> None:
    params = {"width": 16} if policy is ForgetsItsWidth else {}
    with pytest.raises(ConformanceError, match=f"(?s){policy.__name__}.*{told}"):
        check_policy(policy, params=params)


class GivesNan:
    def __call__(self, progress_remaining):
        return float("nan") if progress_remaining < 0.5 else 1.0


class GivesATensor:
    def __call__(self, progress_remaining):
        return torch.tensor(progress_remaining)


class DividesByZero:
    def __call__(self, progress_remaining):
        return 1 / progress_remaining


class RootOfLessThanNothing:
    def __call__(self, progress_remaining):
        return progress_remaining**0.5


class CountsItsCalls:
    calls = 0

    def __call__(self, progress_remaining):
        self.calls += 1
        return 1 / self.calls


class TakesThree:
    def __call__(self, one, two, three):
        return 1.0


class EpsilonAboveOne:
    def __call__(self, episode, timestep):
        return 2.0 / (1 + episode)


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (GivesNan, r"gave nan for progress_remaining=0\.\d+; return a finite float"),
        (GivesATensor, r"gave tensor\(1.\) for progress_remaining=1; return a finite float"),
        (DividesByZero, r"called with progress_remaining=0 raised ZeroDivisionError.*return a finite float"),
        (RootOfLessThanNothing, r"gave \(.*j\) for progress_remaining=-0.05; .*use max\(progress_remaining, 0.0\)"),
        (CountsItsCalls, r"gave 1.0 and then 0.\d+ for progress_remaining=1; .*keep no count"),
        (TakesThree, r"is called with \(one, two, three\); .*define __call__\(self, progress_remaining\)"),
        (EpsilonAboveOne, r"gave 2.0 for episode=0, timestep=0; return a float from 0 to 1"),
    ],
)
def test_a_schedule_that_breaks_a_promise_is_told_which_and_what_to_do(schedule: type[Any], told: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){schedule.__name__}.*{told}"):
        check_schedule(schedule)


class ChangesWhatIsGiven(LocalLauncher):
    """Runs jobs as it should; the others here break one promise each."""

    def __init__(self):
        super().__init__(2)

    def launch(self, jobs):
        for ended in super().launch(jobs):
            yield from self.changed(ended)

    def changed(self, ended):
        return [ended]


class GivesPlainText(ChangesWhatIsGiven):
    def changed(self, ended):
        return [ended.job.name]


class GivesEachTwice(ChangesWhatIsGiven):
    def changed(self, ended):
        return [ended, ended]


class GivesAnotherJob(ChangesWhatIsGiven):
    def changed(self, ended):
        return [Ended(replace(ended.job, arguments={"more": 1}), ended.error)]


class ForgetsWhatFails(ChangesWhatIsGiven):
    def changed(self, ended):
        return [] if ended.error else [ended]


class StopsAtTheFirstError(ChangesWhatIsGiven):
    def changed(self, ended):
        if ended.error:
            raise ValueError(ended.error)
        return [ended]


class SwallowsErrors(ChangesWhatIsGiven):
    def changed(self, ended):
        return [Ended(ended.job, ended.error if "was killed" in (ended.error or "") else None)]


class SwallowsDeaths(ChangesWhatIsGiven):
    def changed(self, ended):
        return [Ended(ended.job, None if "was killed" in (ended.error or "") else ended.error)]


class SaysNoReason(ChangesWhatIsGiven):
    def changed(self, ended):
        return [Ended(ended.job, ended.error and "exit status 1")]


class SaysItInTwoLines(ChangesWhatIsGiven):
    def changed(self, ended):
        return [Ended(ended.job, ended.error and f"Traceback:\n{ended.error}")]


class LeavesTheFilesElsewhere(ChangesWhatIsGiven):
    def changed(self, ended):
        shutil.rmtree(ended.job.directory, ignore_errors=True)
        return [ended]


class EmptiesDirectories(ChangesWhatIsGiven):
    def launch(self, jobs):
        for job in jobs:
            shutil.rmtree(job.directory, ignore_errors=True)
        return super().launch(jobs)


class CallsTwice(ChangesWhatIsGiven):
    def launch(self, jobs):
        done = {ended.job.name for ended in super().launch(jobs)}
        return (ended for ended in super().launch(jobs) if ended.job.name in done)


class WantsTheParent(ChangesWhatIsGiven):
    def launch(self, jobs):
        for job in jobs:
            (job.directory.parent / f"{job.directory.name}.lock").touch()
        return super().launch(jobs)


class ReturnsAList(ChangesWhatIsGiven):
    def launch(self, jobs):
        return [*super().launch(jobs)]


class CallsThemInThreads(ChangesWhatIsGiven):
    def launch(self, launched):
        given = {job.name: job for job in launched}
        inside = [replace(job, function=jobs.in_a_thread, arguments={"job": job}) for job in launched]
        for ended in super().launch(inside):
            yield Ended(given[ended.job.name], ended.error)


class CannotGetReady(ChangesWhatIsGiven):
    def prepare(self):
        raise KeyError("PATH")


class GivesWithoutJobs(ChangesWhatIsGiven):
    def launch(self, jobs):
        yield from super().launch(jobs)
        if not jobs:
            yield None


class LeavesThemRunning(ChangesWhatIsGiven):
    def launch(self, jobs):
        self.launched = super().launch(jobs)
        while ended := next(self.launched, None):
            yield ended


class StopsThemOtherwise(ChangesWhatIsGiven):
    def launch(self, jobs):
        for ended in super().launch(jobs):
            try:
                yield ended
            except GeneratorExit:
                self.stop(multiprocessing.active_children())
                raise


class KillsThem(StopsThemOtherwise):
    def stop(self, processes):
        for process in processes:
            process.kill()


class TellsThemTwice(StopsThemOtherwise):
    def stop(self, processes):
        for _ in range(2):
            for process in processes:
                process.terminate()
            time.sleep(0.2)


class SwallowsInterrupts(ChangesWhatIsGiven):
    def launch(self, jobs):
        launched = super().launch(jobs)
        try:
            yield from launched
        except InterruptedTraining:
            return


BROKEN_LAUNCHERS: list[tuple[type[Launcher], str]] = [
    (CannotGetReady, r"prepare raised KeyError: 'PATH' .*raise toolkit.ToolkitError where"),
    (ReturnsAList, r"launch returned \[Ended.*; return an iterator with close\(\)"),
    (GivesPlainText, r"launch gave '.*'; give Ended\(job, error\)"),
    (GivesEachTwice, r"launch gave .* twice; give every job once"),
    (GivesAnotherJob, r"launch gave Job\(.*; give the job that was launched"),
    (ForgetsWhatFails, r"came to its end without fails, dies; give every job once"),
    (StopsAtTheFirstError, r"launch raised ValueError: .*; give Ended\(job, error\) where a job raises"),
    (SwallowsErrors, r"gave None as the error of fails, which raised NoLuckError: no luck; give Ended"),
    (SaysNoReason, r"gave 'exit status 1' as the error of fails, which raised .*text made in its own process"),
    (SwallowsDeaths, r"gave dies without an error, and its process had died; give Ended"),
    (SaysItInTwoLines, r"gave 'Traceback:\\n.*' as the error of .*; give None, or one line"),
    (LeavesTheFilesElsewhere, r"gave (new|again)/seed-0, and the file it wrote is not there; what a job writes"),
    (EmptiesDirectories, r"left '{.*}' of again/seed-0, not 'written by an earlier call\\n{.*}'; .* goes on"),
    (CallsTwice, r"left .* of (new|again)/seed-0, not '.*{.*}'; .*is called once"),
    (WantsTheParent, r"launch raised FileNotFoundError: .*seed-0.lock"),
    (Here, r"with the error 'RuntimeError: was called in the process that launches .*; call function"),
    (CallsThemInThreads, r"with the error 'RuntimeError: was called outside of the main thread .*; call function"),
    (GivesWithoutJobs, r"launch\(\[\]\) gave None; where there are no jobs, give nothing"),
    (LeavesThemRunning, r"was over while a job was at work.*: its iterator was closed; .*send SIGTERM"),
    (KillsThem, r"had been ended before it could save: its iterator was closed; .*send SIGTERM"),
    (TellsThemTwice, r"had been ended before it could save: its iterator was closed; .*, once, and wait"),
    (SwallowsInterrupts, r"gave None where an exception was raised in it by a signal; let it out"),
]


@pytest.mark.parametrize(("launcher", "told"), BROKEN_LAUNCHERS, ids=lambda part: getattr(part, "__name__", ""))
def test_a_launcher_that_breaks_a_promise_is_told_which_and_what_to_do(launcher: type[Launcher], told: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){launcher.__name__}.*{told}"):
        check_launcher(launcher)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: check_wrapper("terminal_reward_clap"), r"no wrapper 'terminal_reward_clap'; did you mean"),
        (lambda: check_wrapper(Clock), r"is not a valid wrapper: it should be"),
        (lambda: check_wrapper(Honest(gym.make("CartPole-v1"))), r"a Honest is no component.*give its class"),
        (lambda: check_wrapper("terminal_reward_clip", params={"steps": 1}), r"params.steps: unknown parameter"),
        (lambda: check_wrapper(Honest, env="CartPale-v1"), r"env.id: .*CartPale.*did you mean"),
        (lambda: check_wrapper(Honest, env={"id": "CartPole-v1", "max_steps": 3}), r"env.max_steps: unknown key"),
        (lambda: check_wrapper(CannotBeBuilt), r"cannot be built: AttributeError.*no_such_attribute"),
        (lambda: check_wrapper(Honest, env=3), r"env: should be an id or a mapping, not 3"),
        (lambda: check_callback("success"), r"params.threshold: required parameter is missing"),
        (lambda: check_algorithm("sac"), r"'sac' cannot act in CartPole-v1"),
        (lambda: check_policy(PPO), r"is not a policy"),
        (lambda: check_schedule("linear"), r"params.start: required parameter is missing"),
        (lambda: check_schedule(Honest), r"is not a schedule"),
        (lambda: check_launcher("locale"), r"no launcher 'locale'.*did you mean 'local'"),
        (lambda: check_launcher(Clock), r"is not a launcher"),
        (lambda: check_launcher("local", params={"workers": 0}), r"cannot be built: ValueError: workers should be"),
    ],
)
def test_a_wrong_use_of_a_check_is_bad_input_as_everywhere(wrong: Callable[[], None], told: str) -> None:
    with pytest.raises(ToolkitError, match=f"(?s){told}"):
        wrong()


def test_a_faulty_environment_is_not_held_against_the_wrapper() -> None:
    with pytest.raises(
        ToolkitError, match=r"env: 'CartPole-v1' does not pass Gymnasium's check_env.*in an environment"
    ):
        check_wrapper(Honest, env={"id": "CartPole-v1", "wrappers": [f"{__name__}:NoisyReward"]})


@pytest.mark.slow
def test_a_class_in_a_function_and_one_in_a_file_can_be_checked_and_nothing_is_left_behind(working_directory) -> None:
    class Local(BaseCallback):
        def _on_step(self) -> bool:
            return True

    check_callback(Local)
    assert [*working_directory.iterdir()] == []
    (working_directory / "mine.py").write_text("import gymnasium\nclass Mine(gymnasium.Wrapper): pass\n")
    check_wrapper("./mine.py:Mine")
    assert [path.name for path in working_directory.iterdir()] == ["mine.py"]


def test_the_checks_do_not_need_pytest() -> None:
    program = "import sys, toolkit.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
