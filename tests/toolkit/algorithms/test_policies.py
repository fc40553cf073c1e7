"""DoubleDQN's policies and their dueling head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.dqn.policies import DQNPolicy

from toolkit.algorithms import DoubleDQN
from toolkit.algorithms.policies import (
    DuelingCnnPolicy,
    DuelingHead,
    DuelingMlpPolicy,
    DuelingMultiInputPolicy,
)

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
POLICIES = pytest.mark.parametrize(
    ("policy_class", "observation_space"),
    [
        (DuelingMlpPolicy, VECTOR),
        (DuelingMlpPolicy, spaces.Discrete(5)),
        (DuelingCnnPolicy, IMAGE),
        (DuelingMultiInputPolicy, spaces.Dict({"image": IMAGE, "vector": VECTOR})),
    ],
    ids=["vector", "discrete", "image", "dict"],
)


def make_policy(
    policy_class: type[DQNPolicy] = DuelingMlpPolicy,
    observation_space: spaces.Space[Any] = VECTOR,
    n_actions: int = 4,
    **arguments: Any,
) -> DQNPolicy:
    observation_space.seed(0)
    return policy_class(observation_space, spaces.Discrete(n_actions), lambda _: 1e-3, **arguments)


def sample_observations(policy: DQNPolicy, count: int = 6) -> Any:
    samples = [policy.observation_space.sample() for _ in range(count)]
    if isinstance(samples[0], dict):
        samples = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return policy.obs_to_tensor(samples if isinstance(samples, dict) else np.stack(samples))[0]


@pytest.mark.parametrize("n_actions", [1, 2, 5])
def test_dueling_q_value_is_value_plus_centred_advantage(n_actions: int) -> None:
    th.manual_seed(0)
    head, features = DuelingHead(8, n_actions), th.randn(10, 8)
    x, w_value, b_value, w_advantage, b_advantage = (
        tensor.detach().numpy().astype(np.float64) for tensor in (features, *head.parameters())
    )
    value, advantage = x @ w_value.T + b_value, x @ w_advantage.T + b_advantage
    q_values = head(features).detach().numpy()
    assert q_values.shape == (10, n_actions)
    np.testing.assert_allclose(q_values, value + advantage - advantage.mean(axis=1, keepdims=True), atol=1e-6)


def test_dueling_advantages_average_to_zero() -> None:
    th.manual_seed(0)
    head, features = DuelingHead(8, 5), 100 * th.randn(10, 8)
    advantages = head(features) - head.value(features)
    np.testing.assert_allclose(advantages.mean(dim=1).detach(), 0, atol=1e-4)
    assert advantages.abs().mean() > 1


@pytest.mark.parametrize("net_arch", [[], [8], [16, 12]])
@pytest.mark.parametrize("n_actions", [2, 5])
def test_dueling_head_replaces_last_layer(net_arch: list[int], n_actions: int) -> None:
    policy = make_policy(n_actions=n_actions, net_arch=net_arch)
    head = policy.q_net.q_net[-1]
    width = net_arch[-1] if net_arch else 3
    assert isinstance(head, DuelingHead)
    assert (head.value.in_features, head.value.out_features) == (width, 1)
    assert (head.advantage.in_features, head.advantage.out_features) == (width, n_actions)
    trunk = [layer.out_features for layer in policy.q_net.q_net[:-1] if isinstance(layer, th.nn.Linear)]
    assert trunk == net_arch
    assert policy.q_net(sample_observations(policy)).shape == (6, n_actions)


@POLICIES
def test_online_and_target_network_start_equal_and_separate(
    policy_class: type[DQNPolicy], observation_space: spaces.Space[Any]
) -> None:
    policy = make_policy(policy_class, observation_space)
    online, target = policy.q_net.state_dict(), policy.q_net_target.state_dict()
    assert online.keys() == target.keys()
    assert all(th.equal(online[name], target[name]) for name in online)
    assert {tensor.data_ptr() for tensor in online.values()}.isdisjoint(
        tensor.data_ptr() for tensor in target.values()
    )
    assert isinstance(policy.q_net_target.q_net[-1], DuelingHead)


@POLICIES
def test_optimizer_has_every_parameter_of_online_network(
    policy_class: type[DQNPolicy], observation_space: spaces.Space[Any]
) -> None:
    policy = make_policy(policy_class, observation_space)
    optimized = {id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in policy.q_net.parameters()}


@POLICIES
def test_saved_policy_loads_with_equal_q_values(
    policy_class: type[DQNPolicy], observation_space: spaces.Space[Any], tmp_path: Path
) -> None:
    policy = make_policy(policy_class, observation_space, net_arch=[8])
    policy.save(str(tmp_path / "policy.pth"))
    loaded = policy_class.load(str(tmp_path / "policy.pth"))
    inputs = sample_observations(policy)
    assert type(loaded) is policy_class
    assert th.equal(loaded.q_net(inputs), policy.q_net(inputs))
    assert th.equal(loaded.q_net_target(inputs), policy.q_net_target(inputs))


@pytest.mark.parametrize("double", [True, False])
def test_model_accepts_alias_of_dueling_policy(double: bool, tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    model = DoubleDQN("DuelingMlpPolicy", env, double=double, learning_starts=20, buffer_size=200, seed=0).learn(100)
    assert type(model.policy) is DuelingMlpPolicy
    model.save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip")
    inputs = th.randn(20, 4)
    assert type(loaded.policy) is DuelingMlpPolicy
    assert th.equal(loaded.q_net(inputs), model.q_net(inputs))


@pytest.mark.parametrize(
    ("alias", "policy_class"),
    [
        ("DuelingMlpPolicy", DuelingMlpPolicy),
        ("DuelingCnnPolicy", DuelingCnnPolicy),
        ("DuelingMultiInputPolicy", DuelingMultiInputPolicy),
    ],
)
def test_dueling_policies_have_aliases(alias: str, policy_class: type[DQNPolicy]) -> None:
    assert DoubleDQN.policy_aliases[alias] is policy_class
    assert DoubleDQN.policy_aliases.keys() >= {"MlpPolicy", "CnnPolicy", "MultiInputPolicy"}
