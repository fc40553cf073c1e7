"""The parameters of DoubleDQN that SB3's DQN does not have."""

from __future__ import annotations

import inspect
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
SIGNATURE = inspect.signature(DQN.__init__).parameters


class CountingEnv(gym.Env[Any, Any]):
    """Episodes of ten steps with a time limit; observations are the numbers of episode and step."""

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
    """An environment with the goals that HerReplayBuffer requires."""

    observation_space = spaces.Dict(
        {name: spaces.Box(0, 1, (1,)) for name in ("observation", "achieved_goal", "desired_goal")}
    )
    action_space = spaces.Discrete(2)

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return np.zeros(len(achieved))


# --- The update -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_over_all_actions", [True, False])
@pytest.mark.parametrize(("loss", "n_epochs"), [("mse", 5), ("huber", 5), ("mse", 1)])
def test_update_equals_course_computed_by_hand(loss: str, n_epochs: int, loss_over_all_actions: bool) -> None:
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
    batch = draw_minibatch(model)
    assert batch.dones.sum() > 0
    before, expected = copy_layers(model.q_net), update_by_hand(model, batch, eps)
    np.random.seed(7)
    model.train(gradient_steps=1, batch_size=32)
    for old, new, by_hand in zip(before, copy_layers(model.q_net), expected, strict=True):
        np.testing.assert_allclose(new, by_hand, rtol=0, atol=2e-6)
        assert np.abs(new - old).max() > 5e-4 * n_epochs


def draw_minibatch(model: DQN) -> Any:
    """Return the minibatch that the model draws after the same seed."""
    assert model.replay_buffer is not None
    np.random.seed(7)
    return model.replay_buffer.sample(32)


def test_every_epoch_counts_as_update() -> None:
    params: dict[str, Any] = {"n_epochs": 5, "learning_starts": 10, "train_freq": 1, "gradient_steps": 2}
    model = DoubleDQN("MlpPolicy", CountingEnv(), **params, seed=0).learn(20)
    assert model._n_updates == 10 * 2 * 5


# --- The target network ---------------------------------------------------------------------------------------------


class TargetWatch(BaseCallback):
    """Records before the updates of each vector step whether the two networks are equal."""

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
def test_target_network_is_updated_when_episode_starts(
    interval: tuple[int, Any], n_envs: int, steps_with_a_fresh_target: list[int]
) -> None:
    watch = TargetWatch()
    env = make_vec_env(CountingEnv, n_envs)
    model = DoubleDQN(
        "MlpPolicy", env, target_update_interval=interval, learning_starts=0, train_freq=1, learning_rate=1e-2, seed=0
    )
    model.learn(49 * n_envs, callback=watch)
    assert np.flatnonzero(watch.same).tolist() == [0, *steps_with_a_fresh_target]


class NormedFeatures(BaseFeaturesExtractor):
    """A features extractor with running statistics."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=2)
        self.norm = th.nn.BatchNorm1d(2)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        result: th.Tensor = self.norm(observations)
        return result


def test_target_update_at_episode_uses_tau_and_copies_statistics() -> None:
    model = DoubleDQN(
        "MlpPolicy",
        CountingEnv(),
        target_update_interval=(1, "episode"),
        tau=0.25,
        learning_starts=0,
        train_freq=1,
        learning_rate=1e-2,
        policy_kwargs={"features_extractor_class": NormedFeatures},
        seed=0,
    )
    start = copy_layers(model.q_net_target)
    model.learn(10)
    online = copy_layers(model.q_net)
    model.learn(1, reset_num_timesteps=False)
    for old, towards, new in zip(start, online, copy_layers(model.q_net_target), strict=True):
        np.testing.assert_allclose(new, 0.75 * old + 0.25 * towards, atol=1e-6)
    (target_mean, *_), (online_mean, *_) = model.batch_norm_stats_target, model.batch_norm_stats
    assert target_mean.abs().sum() > 0
    assert online_mean.abs().sum() > 0


@pytest.mark.parametrize(("reset", "episodes"), [(True, [2, 4]), (False, [4, 6])])
def test_second_training_counts_episodes_as_sb3_does(
    reset: bool, episodes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    interval: Any = (2, "episode")
    model = DoubleDQN("MlpPolicy", CountingEnv(), target_update_interval=interval, learning_starts=10**6, train_freq=1)
    model.learn(35)
    updates: list[int] = []
    monkeypatch.setattr(model, "_update_target_network", lambda: updates.append(model._episode_num))
    model.learn(41, reset_num_timesteps=reset)
    assert updates == episodes


def test_tau_of_zero_leaves_target_network_unchanged() -> None:
    model = DoubleDQN("MlpPolicy", CountingEnv(), tau=0.0, target_update_interval=1, learning_starts=0, seed=0)
    before = copy_layers(model.q_net_target)
    for old, new in zip(before, copy_layers(model.learn(30).q_net_target), strict=True):
        np.testing.assert_array_equal(old, new)


def test_interval_in_steps_equals_pair_with_unit() -> None:
    def train_target(interval: Any) -> Any:
        model = DoubleDQN("MlpPolicy", CountingEnv(), target_update_interval=interval, learning_starts=0, seed=0)
        return copy_layers(model.learn(60).q_net_target)

    for layer, expected in zip(train_target((20, "step")), train_target(20), strict=True):
        np.testing.assert_array_equal(layer, expected)


# --- Exploration ----------------------------------------------------------------------------------------------------


class RecordedEpsilon:
    """Epsilon from a list by episode, which records its arguments."""

    def __init__(self, *rates: Any) -> None:
        self.rates = rates
        self.calls: list[tuple[int, int]] = []

    def __call__(self, episode: int, timestep: int) -> Any:
        self.calls.append((episode, timestep))
        return self.rates[min(episode, len(self.rates) - 1)]


def test_exploration_gets_episode_and_timestep_at_every_step() -> None:
    schedule = RecordedEpsilon(0.5)
    model = DoubleDQN("MlpPolicy", CountingEnv(), exploration=schedule, train_freq=1, seed=0)
    schedule.calls.clear()
    model.learn(25)
    assert schedule.calls == [(step // LENGTH, step) for step in range(25)]


def test_exploration_counts_episodes_of_all_environments() -> None:
    schedule = RecordedEpsilon(0.5)
    model = DoubleDQN("MlpPolicy", make_vec_env(CountingEnv, 3), exploration=schedule, train_freq=1, seed=0)
    schedule.calls.clear()
    model.learn(3 * 11)
    assert schedule.calls[-1] == (3, 30)


def test_exploration_accepts_explicit_defaults_of_linear_exploration() -> None:
    defaults = {name: float(str(parameter.default)) for name, parameter in SIGNATURE.items() if "exploration_" in name}
    model = DoubleDQN("MlpPolicy", CountingEnv(), exploration=RecordedEpsilon(0.5), **defaults)
    assert model.exploration is not None


class BiasedNetwork(BaseCallback):
    """Makes the network prefer action 1, and records actions and epsilon."""

    def _on_training_start(self) -> None:
        self.actions: list[int] = []
        self.rates: list[float] = []
        with th.no_grad():
            self.model.q_net.q_net[-1].bias += th.tensor([0.0, 1e6])  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        self.actions += self.locals["actions"].tolist()
        self.rates.append(self.model.exploration_rate)  # type: ignore[attr-defined]
        return True


def test_exploration_decides_actions_from_first_step() -> None:
    seen = BiasedNetwork()
    model = DoubleDQN(
        "MlpPolicy", CountingEnv(), exploration=RecordedEpsilon(0.0, 1.0), train_freq=1, learning_starts=10_000, seed=0
    )
    model.learn(11 * LENGTH, callback=seen)
    assert seen.actions[:LENGTH] == [1] * LENGTH
    assert 30 < seen.actions[LENGTH:].count(0) < 70
    assert seen.rates == [0.0] * LENGTH + [1.0] * 10 * LENGTH
    assert model.exploration_rate == 1.0


def test_exploration_rate_is_logged(tmp_path: Path) -> None:
    from stable_baselines3.common.logger import configure

    model = DoubleDQN("MlpPolicy", CountingEnv(), exploration=Harmonic(0.001, 0.9), seed=0)
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(2 * LENGTH, log_interval=2)
    model.logger.close()
    logged = (tmp_path / "progress.json").read_text()
    assert f'"rollout/exploration_rate": {0.001 + 0.9 / 2}' in logged


# --- Minibatches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("terminal", [True, False])
def test_time_limit_is_terminal_only_if_asked(terminal: bool, n_steps: int) -> None:
    kwargs = {"handle_timeout_termination": not terminal}
    model = DoubleDQN(
        "MlpPolicy", gym.wrappers.TimeLimit(CountingEnv(), 5), replay_buffer_kwargs=kwargs, n_steps=n_steps, seed=0
    )
    model.learn(50)
    assert bool(draw_minibatch(model).dones.sum() > 0) is terminal


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("with_replacement", [True, False])
def test_sampling_without_replacement_repeats_no_transition(with_replacement: bool, n_steps: int) -> None:
    model = DoubleDQN(
        "MlpPolicy",
        CountingEnv(),
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


def test_sampling_without_replacement_normalizes_observations() -> None:
    env = VecNormalize(make_vec_env(CountingEnv, 1))
    model = DoubleDQN("MlpPolicy", env, sample_with_replacement=False, learning_starts=200, seed=0)
    model.learn(150)
    seen: list[Any] = []
    model.q_net.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.train(gradient_steps=1, batch_size=32)
    assert th.cat(seen)[:, 1].min() < 0, "the raw numbers of the steps are not below 0"


class OwnSample(ReplayBuffer):
    """A replay buffer that draws in its own way, as a prioritized one does."""

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        return super().sample(*args, **kwargs)


def test_sampling_without_replacement_refuses_buffer_with_own_sample() -> None:
    with pytest.raises(ValueError, match="would pass over the `sample` of OwnSample: leave sample_with_repl"):
        DoubleDQN("MlpPolicy", CountingEnv(), replay_buffer_class=OwnSample, sample_with_replacement=False)


def test_sampling_without_replacement_refuses_sample_set_later(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DoubleDQN("MlpPolicy", CountingEnv(), sample_with_replacement=False, learning_starts=40)
    model.learn(40)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, **__: None)
    with pytest.raises(ValueError, match="would pass over the `sample`"):
        model.learn(10, reset_num_timesteps=False)


def test_learning_rate_follows_schedule() -> None:
    model = DoubleDQN("MlpPolicy", CountingEnv(), learning_rate=lambda left: left * 1e-3, learning_starts=0, seed=0)
    model.learn(50)
    assert model.policy.optimizer.param_groups[0]["lr"] < 1e-4


def test_updates_without_replacement_wait_for_full_minibatch() -> None:
    params: dict[str, Any] = {"learning_starts": 0, "train_freq": 1, "sample_with_replacement": False}
    model = DoubleDQN("MlpPolicy", CountingEnv(), **params, seed=0).learn(34)
    assert model._n_updates == 3


# --- Invalid parameters ---------------------------------------------------------------------------------------------


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
            {"exploration": RecordedEpsilon(1.2)},
            "exploration returns 1.2 for episode 0 and timestep 0; epsilon is a number from 0",
        ),
        ({"exploration": RecordedEpsilon(None)}, "exploration returns None for episode 0 and timestep 0"),
        ({"target_update_interval": 10.5}, "target_update_interval must be steps or"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be above 0, not nan"),
        ({"tau": -0.1}, "tau must be from 0 to 1, not -0.1"),
        ({"exploration": RecordedEpsilon(0.5), "exploration_fraction": 0.2}, "exploration replaces exploration_frac"),
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
def test_invalid_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        DoubleDQN(**{"policy": "MlpPolicy", "env": CountingEnv(), **params})


def test_invalid_epsilon_ends_training() -> None:
    model = DoubleDQN("MlpPolicy", CountingEnv(), exploration=RecordedEpsilon(0.5, float("nan")), seed=0)
    with pytest.raises(ValueError, match="exploration returns nan for episode 1 and timestep 10"):
        model.learn(20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mae"}, "loss must be one of"),
        ({"target_update_interval": (1, "epoch")}, "target_update_interval must"),
    ],
)
def test_load_checks_changed_parameters(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    DoubleDQN("MlpPolicy", CountingEnv()).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=message):
        DoubleDQN.load(tmp_path / "model.zip", **changes)


def test_load_can_change_unit_of_target_interval(tmp_path: Path) -> None:
    DoubleDQN("MlpPolicy", CountingEnv(), target_update_interval=7).save(tmp_path / "model.zip")
    episodes = DoubleDQN.load(tmp_path / "model.zip", target_update_interval=(3, "episode"))
    assert episodes.target_update_episodes == 3
    episodes.save(tmp_path / "model.zip")
    assert DoubleDQN.load(tmp_path / "model.zip").target_update_episodes == 3
    steps = DoubleDQN.load(tmp_path / "model.zip", target_update_interval=9)
    assert (steps.target_update_episodes, steps.target_update_interval) == (None, 9)


def test_too_small_buffer_per_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="a buffer of 25 transitions of each of 4 envs; make buffer_size at"):
        DoubleDQN("MlpPolicy", make_vec_env(CountingEnv, 4), buffer_size=100, sample_with_replacement=False)


def test_positional_arguments_are_those_of_stock_dqn() -> None:
    arguments = [
        1e-3,
        200,
        20,
        8,
        0.5,
        0.9,
        2,
        1,
        None,
        None,
        False,
        2,
        500,
        0.2,
        0.9,
        0.1,
        5,
        50,
        None,
        None,
        0,
        1,
        "cpu",
    ]
    ours, stock = (cls("MlpPolicy", CountingEnv(), *arguments) for cls in (DoubleDQN, DQN))
    names = [name for name in SIGNATURE if name in vars(stock) and name not in ("env", "policy", "device")]
    assert {name: getattr(ours, name) for name in names if name != "policy_kwargs"} == {
        name: getattr(stock, name) for name in names if name != "policy_kwargs"
    }


def test_parameters_are_those_of_stock_dqn_with_the_same_defaults() -> None:
    ours, stock = (inspect.signature(cls.__init__).parameters for cls in (DoubleDQN, DQN))
    assert [*ours][: len(stock)] == [*stock]
    assert {name: ours[name].default for name in stock} == {name: stock[name].default for name in stock}
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ours.keys() - stock.keys())


# --- Saving and loading ---------------------------------------------------------------------------------------------


def test_loaded_model_keeps_its_parameters(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "loss": "mse",
        "loss_over_all_actions": True,
        "n_epochs": 2,
        "sample_with_replacement": False,
        "exploration": Harmonic(0.1, 0.5),
    }
    settings |= {"train_freq": 1, "learning_starts": 0}
    model = DoubleDQN("MlpPolicy", CountingEnv(), target_update_interval=(2, "episode"), seed=0, **settings)
    model.learn(25).save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip", env=CountingEnv())
    exploration = settings.pop("exploration")
    settings.pop("train_freq")  # an object of SB3's by now
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert loaded.exploration is not None
    assert loaded.exploration(3, 0) == exploration(3, 0)
    watch = TargetWatch()
    loaded.learn(61, callback=watch, reset_num_timesteps=False)
    assert np.flatnonzero(watch.same).tolist()[-2:] == [40, 60]


def test_subclass_of_replay_buffer_works() -> None:
    class OwnBuffer(ReplayBuffer):
        pass

    model = DoubleDQN("MlpPolicy", CountingEnv(), replay_buffer_class=OwnBuffer, sample_with_replacement=False, seed=0)
    assert isinstance(model.learn(150).replay_buffer, OwnBuffer)
    assert model._n_updates > 0
