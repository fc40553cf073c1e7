"""What DoubleDQN can do that SB3's DQN cannot, as the course's programs need it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from arithmetic import copy_layers, update_by_hand
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer

from toolkit.algorithms import DoubleDQN
from toolkit_plugins.schedules import Harmonic

LENGTH = 10


class Counting(gym.Env[Any, Any]):
    """Episodes of ten steps that observe their own number and that of the step; the end is a time limit."""

    observation_space = spaces.Box(0, 1e6, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, terminates: bool = False) -> None:
        self.terminates = terminates
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.step_number = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        ended = self.step_number == LENGTH
        return self._observation(), float(action), ended and self.terminates, ended and not self.terminates, {}

    def _observation(self) -> NDArray[np.float32]:
        return np.array([self.episode, self.step_number], np.float32)


class GoalEnv(gym.Env[Any, Any]):
    """Observes a goal, as HerReplayBuffer wants it."""

    observation_space = spaces.Dict(
        {name: spaces.Box(0, 1, (1,)) for name in ("observation", "achieved_goal", "desired_goal")}
    )
    action_space = spaces.Discrete(2)

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return np.zeros(len(achieved))


# One update of the course's programs, by hand.


@pytest.mark.parametrize("loss_over_all_actions", [True, False])
@pytest.mark.parametrize(("loss", "n_epochs"), [("mse", 5), ("mse", 3), ("huber", 5), ("mse", 1)])
def test_an_update_is_that_of_the_course_by_hand(loss: str, n_epochs: int, loss_over_all_actions: bool) -> None:
    eps = 1e-7
    model = DoubleDQN(
        "MlpPolicy",
        gym.make("CartPole-v1", max_episode_steps=8),
        learning_rate=1e-3,
        learning_starts=10_000,
        buffer_size=32,
        loss=loss,  # type: ignore[arg-type]
        loss_over_all_actions=loss_over_all_actions,
        n_epochs=n_epochs,
        max_grad_norm=float("inf"),
        policy_kwargs={"net_arch": [16, 16], "optimizer_kwargs": {"eps": eps}},
        replay_buffer_kwargs={"handle_timeout_termination": False},
        seed=0,
    )
    model.learn(40)
    for parameter in model.q_net_target.parameters():
        parameter.data *= 1.5
    batch = drawn(model)
    assert batch.dones.sum() > 0
    before, expected = copy_layers(model.q_net), update_by_hand(model, batch, eps)
    np.random.seed(7)
    model.train(gradient_steps=1, batch_size=32)
    for old, new, by_hand in zip(before, copy_layers(model.q_net), expected, strict=True):
        np.testing.assert_allclose(new, by_hand, rtol=0, atol=2e-6)
        assert np.abs(new - old).max() > 5e-4 * n_epochs


def drawn(model: DQN) -> Any:
    """Return the minibatch that the model draws after the same seed."""
    assert model.replay_buffer is not None
    np.random.seed(7)
    return model.replay_buffer.sample(32)


def test_every_pass_counts_as_an_update() -> None:
    model = DoubleDQN("MlpPolicy", Counting(), n_epochs=5, learning_starts=10, train_freq=1, gradient_steps=2, seed=0)
    model.learn(20)
    assert model._n_updates == 10 * 2 * 5


# When the target network is updated.


class TargetWatch(BaseCallback):
    """Notes at each vector step, after its action and before its updates, whether the two networks are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.same: list[bool] = []

    def _on_step(self) -> bool:
        pairs = zip(self.model.q_net.parameters(), self.model.q_net_target.parameters(), strict=True)  # type: ignore[attr-defined]
        self.same.append(all(th.equal(online, target) for online, target in pairs))
        return True


@pytest.mark.parametrize(
    ("interval", "n_envs", "steps_with_a_fresh_target"),
    [
        ((1, "episode"), 1, [10, 20, 30, 40]),
        ((2, "episode"), 1, [20, 40]),
        ((2, "episode"), 3, [10, 20, 30, 40]),
        ((5, "episode"), 3, [20, 40]),
    ],
)
def test_the_target_is_updated_when_an_episode_starts(
    interval: tuple[int, Any], n_envs: int, steps_with_a_fresh_target: list[int]
) -> None:
    watch = TargetWatch()
    env = make_vec_env(Counting, n_envs)
    model = DoubleDQN(
        "MlpPolicy", env, target_update_interval=interval, learning_starts=0, train_freq=1, learning_rate=1e-2, seed=0
    )
    model.learn(49 * n_envs, callback=watch)
    assert np.flatnonzero(watch.same).tolist() == [0, *steps_with_a_fresh_target]


class Normed(BaseFeaturesExtractor):
    """Features with running statistics."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=2)
        self.norm = th.nn.BatchNorm1d(2)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        result: th.Tensor = self.norm(observations)
        return result


def test_an_update_at_an_episode_moves_the_target_by_tau_and_copies_statistics() -> None:
    model = DoubleDQN(
        "MlpPolicy",
        Counting(),
        target_update_interval=(1, "episode"),
        tau=0.25,
        learning_starts=0,
        train_freq=1,
        learning_rate=1e-2,
        policy_kwargs={"features_extractor_class": Normed},
        seed=0,
    )
    start = copy_layers(model.q_net_target)
    model.learn(10)
    online = copy_layers(model.q_net)
    model.learn(1, reset_num_timesteps=False)
    for old, towards, new in zip(start, online, copy_layers(model.q_net_target), strict=True):
        np.testing.assert_allclose(new, 0.75 * old + 0.25 * towards, atol=1e-6)
    (copied, *_), (kept, *_) = model.batch_norm_stats_target, model.batch_norm_stats
    assert copied.abs().sum() > 0
    assert kept.abs().sum() > 0


def test_an_interval_in_steps_may_be_given_as_a_pair() -> None:
    def trained(interval: Any) -> Any:
        model = DoubleDQN("MlpPolicy", Counting(), target_update_interval=interval, learning_starts=0, seed=0)
        return copy_layers(model.learn(60).q_net_target)

    for one, other in zip(trained(20), trained((20, "step")), strict=True):
        np.testing.assert_array_equal(one, other)


# How it explores.


class Noted:
    """Epsilon from a list by episode; notes what it is called with."""

    def __init__(self, *rates: Any) -> None:
        self.rates = rates
        self.calls: list[tuple[int, int]] = []

    def __call__(self, episode: int, timestep: int) -> Any:
        self.calls.append((episode, timestep))
        return self.rates[min(episode, len(self.rates) - 1)]


def test_the_exploration_schedule_sees_episode_and_timestep_at_every_step() -> None:
    schedule = Noted(0.5)
    model = DoubleDQN("MlpPolicy", Counting(), exploration=schedule, train_freq=1, seed=0)
    schedule.calls.clear()
    model.learn(25)
    assert schedule.calls == [(step // LENGTH, step) for step in range(25)]


def test_episodes_of_all_environments_count_for_exploration() -> None:
    schedule = Noted(0.5)
    model = DoubleDQN("MlpPolicy", make_vec_env(Counting, 3), exploration=schedule, train_freq=1, seed=0)
    schedule.calls.clear()
    model.learn(3 * 11)
    assert schedule.calls[-1] == (3, 30)


class Biased(BaseCallback):
    """Makes the network prefer action 1, and notes the actions taken and the rate of exploration."""

    def _on_training_start(self) -> None:
        self.actions: list[int] = []
        self.rates: list[float] = []
        with th.no_grad():
            self.model.q_net.q_net[-1].bias += th.tensor([0.0, 1e6])  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        self.actions += self.locals["actions"].tolist()
        self.rates.append(self.model.exploration_rate)  # type: ignore[attr-defined]
        return True


def test_actions_are_greedy_or_random_as_the_schedule_says_from_the_first_step_on() -> None:
    seen = Biased()
    model = DoubleDQN(
        "MlpPolicy", Counting(), exploration=Noted(0.0, 1.0), train_freq=1, learning_starts=10_000, seed=0
    )
    model.learn(11 * LENGTH, callback=seen)
    assert seen.actions[:LENGTH] == [1] * LENGTH
    assert 30 < seen.actions[LENGTH:].count(0) < 70
    assert seen.rates == [0.0] * LENGTH + [1.0] * 10 * LENGTH
    assert model.exploration_rate == 1.0


def test_the_rate_of_exploration_is_logged(tmp_path: Path) -> None:
    from stable_baselines3.common.logger import configure

    model = DoubleDQN("MlpPolicy", Counting(), exploration=Harmonic(0.001, 0.9), seed=0)
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(2 * LENGTH, log_interval=2)
    model.logger.close()
    logged = (tmp_path / "progress.json").read_text()
    assert f'"rollout/exploration_rate": {0.001 + 0.9 / 2}' in logged


# What it learns from.


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_time_limit_is_terminal_or_not(terminal: bool, n_steps: int) -> None:
    kwargs = {"handle_timeout_termination": not terminal}
    model = DoubleDQN(
        "MlpPolicy", gym.wrappers.TimeLimit(Counting(), 5), replay_buffer_kwargs=kwargs, n_steps=n_steps, seed=0
    )
    model.learn(50)
    assert bool(drawn(model).dones.sum() > 0) is terminal


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("with_replacement", [True, False])
def test_a_minibatch_has_no_transition_twice_without_replacement(with_replacement: bool, n_steps: int) -> None:
    model = DoubleDQN(
        "MlpPolicy",
        Counting(),
        buffer_size=64,
        learning_starts=200,
        batch_size=64,
        n_steps=n_steps,
        sample_with_replacement=with_replacement,
        seed=0,
    )
    model.learn(130)
    seen: list[Any] = []
    model.q_net.register_forward_hook(lambda _, inputs, __: seen.extend(map(tuple, inputs[0].tolist())))
    model.double = False  # so that the online network sees nothing but the minibatch
    model.train(gradient_steps=1, batch_size=64)
    assert len(seen) == 64
    assert (len({*seen}) == 64) is not with_replacement


def test_without_replacement_what_is_drawn_is_normalised() -> None:
    env = VecNormalize(make_vec_env(Counting, 1))
    model = DoubleDQN("MlpPolicy", env, sample_with_replacement=False, learning_starts=200, seed=0)
    model.learn(150)
    seen: list[Any] = []
    model.q_net.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.train(gradient_steps=1, batch_size=32)
    assert th.cat(seen)[:, 1].min() < 0, "the raw numbers of the steps are not below 0"


def test_the_learning_rate_follows_its_schedule() -> None:
    model = DoubleDQN("MlpPolicy", Counting(), learning_rate=lambda left: left * 1e-3, learning_starts=0, seed=0)
    model.learn(50)
    assert model.policy.optimizer.param_groups[0]["lr"] < 1e-4


def test_without_replacement_updates_wait_for_as_many_transitions_as_are_drawn() -> None:
    model = DoubleDQN("MlpPolicy", Counting(), learning_starts=0, train_freq=1, sample_with_replacement=False, seed=0)
    model.learn(34)
    assert model._n_updates == 3


# What is refused.


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "mae"}, "loss must be one of huber, mse, not 'mae'"),
        ({"n_epochs": 0}, "n_epochs must be at least 1, not 0"),
        ({"target_update_interval": 0}, "target_update_interval must be steps or"),
        ({"target_update_interval": (0, "episode")}, "target_update_interval must be steps or"),
        ({"target_update_interval": (1, "epoch")}, "target_update_interval must be steps or"),
        ({"exploration_fraction": 0.0}, "exploration_fraction must be above 0 and at most 1, not 0.0"),
        ({"exploration_initial_eps": 1.5}, "exploration_initial_eps must be from 0 to 1, not 1.5"),
        ({"exploration_final_eps": float("nan")}, "exploration_final_eps must be from 0 to 1, not nan"),
        (
            {"exploration": Noted(1.2)},
            "exploration returns 1.2 for episode 0 and timestep 0; epsilon is a number from 0",
        ),
        ({"exploration": Noted(None)}, "exploration returns None for episode 0 and timestep 0"),
        ({"target_update_interval": 10.5}, "target_update_interval must be steps or"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be above 0, not nan"),
        ({"tau": 0.0}, "tau must be above 0 and at most 1, not 0.0"),
        ({"exploration": Noted(0.5), "exploration_fraction": 0.5}, "exploration replaces exploration_fraction"),
        (
            {"sample_with_replacement": False, "batch_size": 64, "buffer_size": 32},
            "a batch_size of 64 cannot be drawn without replacement from a buffer of 32 transitions; make buffer_size "
            "at least 64",
        ),
        (
            {
                "sample_with_replacement": False,
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": False},
            },
            "sample_with_replacement=False supports neither",
        ),
        (
            {
                "sample_with_replacement": False,
                "policy": "MultiInputPolicy",
                "env": GoalEnv(),
                "replay_buffer_class": HerReplayBuffer,
            },
            "sample_with_replacement=False supports neither",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        DoubleDQN(**{"policy": "MlpPolicy", "env": Counting(), **params})


def test_an_epsilon_out_of_range_ends_training_where_it_comes() -> None:
    model = DoubleDQN("MlpPolicy", Counting(), exploration=Noted(0.5, float("nan")), seed=0)
    with pytest.raises(ValueError, match="exploration returns nan for episode 1 and timestep 10"):
        model.learn(20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "mae"}, "loss must be one of"),
        ({"target_update_interval": (1, "epoch")}, "target_update_interval must"),
    ],
)
def test_what_is_changed_when_a_model_is_loaded_is_checked_as_well(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    DoubleDQN("MlpPolicy", Counting()).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=message):
        DoubleDQN.load(tmp_path / "model.zip", **given)


def test_a_loaded_model_can_count_episodes_where_it_counted_steps_and_back(tmp_path: Path) -> None:
    DoubleDQN("MlpPolicy", Counting(), target_update_interval=7).save(tmp_path / "model.zip")
    episodes = DoubleDQN.load(tmp_path / "model.zip", target_update_interval=(3, "episode"))
    assert episodes.target_update_episodes == 3
    episodes.save(tmp_path / "model.zip")
    assert DoubleDQN.load(tmp_path / "model.zip").target_update_episodes == 3
    steps = DoubleDQN.load(tmp_path / "model.zip", target_update_interval=9)
    assert (steps.target_update_episodes, steps.target_update_interval) == (None, 9)


def test_a_buffer_that_holds_too_little_of_each_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="a buffer of 25 transitions of each of 4 envs; make buffer_size at"):
        DoubleDQN("MlpPolicy", make_vec_env(Counting, 4), buffer_size=100, sample_with_replacement=False)


# It stays an SB3 algorithm.


def test_a_loaded_model_goes_on_as_it_was_set(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "loss": "mse",
        "loss_over_all_actions": True,
        "n_epochs": 2,
        "sample_with_replacement": False,
        "exploration": Harmonic(0.1, 0.5),
    }
    settings |= {"train_freq": 1, "learning_starts": 0}
    model = DoubleDQN("MlpPolicy", Counting(), target_update_interval=(2, "episode"), seed=0, **settings)
    model.learn(25).save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip", env=Counting())
    exploration = settings.pop("exploration")
    settings.pop("train_freq")  # an object of SB3's by now
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert loaded.exploration is not None
    assert loaded.exploration(3, 0) == exploration(3, 0)
    watch = TargetWatch()
    loaded.learn(61, callback=watch, reset_num_timesteps=False)
    assert np.flatnonzero(watch.same).tolist()[-2:] == [40, 60]


def test_an_own_replay_buffer_serves_it() -> None:
    class Own(ReplayBuffer):
        pass

    model = DoubleDQN("MlpPolicy", Counting(), replay_buffer_class=Own, sample_with_replacement=False, seed=0)
    assert isinstance(model.learn(150).replay_buffer, Own)
    assert model._n_updates > 0
