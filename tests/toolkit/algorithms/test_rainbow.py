"""Rainbow is DoubleDQN with other defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from toolkit.algorithms import DoubleDQN, Rainbow
from toolkit.algorithms.distributions import CategoricalDistribution
from toolkit.algorithms.heads import DistributionalDuelingHead, NoisyLinear
from toolkit.algorithms.policies import MlpPolicy
from toolkit.algorithms.prioritized import PrioritizedReplayBuffer

SMALL: dict[str, Any] = {"buffer_size": 300, "learning_starts": 20, "batch_size": 8, "seed": 0, "device": "cpu"}
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)


class ZeroEnv(gym.Env[Any, Any]):
    """An environment that observes random numbers and ends after 7 steps."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.n_steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self.observation_space.sample(), float(action), self.n_steps == 7, False, {}


def list_weights(model: DoubleDQN) -> list[th.Tensor]:
    return [tensor for network in (model.q_net, model.q_net_target) for tensor in network.state_dict().values()]


def test_defaults_are_those_of_paper() -> None:
    model = Rainbow("MlpPolicy", "CartPole-v1", device="cpu")
    buffer: Any = model.replay_buffer
    assert (model.learning_starts, model.target_update_interval) == (
        80_000 // 4,
        32_000 // 4,
    )  # an action per 4 frames
    assert (model.learning_rate, model.gamma, model.n_steps, model.batch_size) == (6.25e-5, 0.99, 3, 32)
    assert (model.buffer_size, model.train_freq.frequency, model.double) == (1_000_000, 4, True)  # type: ignore[union-attr]
    assert type(buffer) is PrioritizedReplayBuffer
    assert (buffer.alpha, buffer.beta, buffer.final_beta, buffer.n_steps) == (0.5, 0.4, 1, 3)
    assert (model.exploration_initial_eps, model.exploration_final_eps) == (0, 0)
    assert model.policy.optimizer.defaults["eps"] == 1.5e-4
    head = model.q_net.q_net[-1]
    assert isinstance(head, DistributionalDuelingHead)
    assert isinstance(head.value, NoisyLinear)
    distribution = model.q_net.distribution
    assert isinstance(distribution, CategoricalDistribution)
    assert (distribution.n_atoms, distribution.v_min, distribution.v_max) == (51, -10, 10)


def test_rainbow_equals_double_dqn_with_its_parameters() -> None:
    head = {"net_arch": [16], "dueling": True, "noisy": True, "distribution": "c51", "v_min": 0, "v_max": 50}
    parts: dict[str, Any] = {
        "learning_rate": 6.25e-5,
        "replay_buffer_class": PrioritizedReplayBuffer,
        "replay_buffer_kwargs": {"alpha": 0.5},
        "n_steps": 3,
        "target_update_interval": 50,
    }
    optimizer = {"optimizer_kwargs": {"eps": 1.5e-4}}
    double_dqn = DoubleDQN(MlpPolicy, "CartPole-v1", policy_kwargs=head | optimizer, **parts, **SMALL).learn(120)
    own = {"net_arch": [16], "v_min": 0, "v_max": 50}
    rainbow = Rainbow("MlpPolicy", "CartPole-v1", policy_kwargs=own, target_update_interval=50, **SMALL).learn(120)
    assert all(map(th.equal, list_weights(double_dqn), list_weights(rainbow)))


@pytest.mark.parametrize(
    ("policy", "space"),
    [("CnnPolicy", IMAGE), ("MultiInputPolicy", spaces.Dict({"image": IMAGE, "vector": spaces.Box(-1, 1, (3,))}))],
)
def test_rainbow_trains_on_images_and_dicts(policy: str, space: spaces.Space[Any], tmp_path: Path) -> None:
    space.seed(0)
    model = Rainbow(policy, ZeroEnv(space), policy_kwargs={"net_arch": [8]}, **SMALL)
    before = [tensor.clone() for tensor in model.q_net.state_dict().values()]
    model.learn(60).save(tmp_path / "model.zip")
    assert not any(map(th.equal, before, model.q_net.state_dict().values()))
    loaded = Rainbow.load(tmp_path / "model.zip", env=ZeroEnv(space))
    assert all(map(th.equal, list_weights(loaded), list_weights(model)))
    assert isinstance(loaded.replay_buffer, PrioritizedReplayBuffer)
    assert loaded.replay_buffer.alpha == 0.5


@pytest.mark.parametrize(
    ("params", "head"),
    [
        ({"replay_buffer_class": None}, {}),
        ({"replay_buffer_class": None, "n_steps": 1}, {"distribution": None}),
        ({"double": False}, {"distribution": "qr", "dueling": False}),
        ({"exploration_final_eps": 0.1}, {"noisy": False, "optimizer_class": th.optim.RMSprop}),
    ],
)
def test_each_part_of_rainbow_can_be_switched_off(params: dict[str, Any], head: dict[str, Any]) -> None:
    model = Rainbow("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8], **head}, **params, **SMALL).learn(60)
    assert all(tensor.isfinite().all() for tensor in list_weights(model))
