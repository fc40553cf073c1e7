from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from toolkit.algorithms import DoubleDQN

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": VECTOR, "number": spaces.Discrete(4)})
BATCH = 32
FUSED = {"optimizer_kwargs": {"fused": True}}  # what DoubleDQN chooses, for SB3's DQN beside it
SMALL: dict[str, Any] = {
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": BATCH,
    "target_update_interval": 50,
    "exploration_fraction": 0.5,
}


class RandomEnv(gym.Env[Any, Any]):
    """Observations, rewards and ends by chance, whatever the action."""

    def __init__(self, observation_space: spaces.Space[Any] = VECTOR, reward: float = 0.0) -> None:
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = spaces.Discrete(4)
        self.reward = reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward + float(self.np_random.normal())
        terminated, truncated = (bool(chance < 0.1) for chance in self.np_random.random(2))
        return self.observation_space.sample(), reward, terminated, truncated, {}


class NormAndDropout(BaseFeaturesExtractor):
    """Features that differ between training and evaluation mode."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)
        self.layers = th.nn.Sequential(th.nn.BatchNorm1d(3), th.nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        result: th.Tensor = self.layers(observations)
        return result


def filled(cls: type[DQN] = DoubleDQN, *, agree: bool = False, reward: float = 0.0, **params: Any) -> Any:
    """Make a model with a full replay buffer and no update yet, whose two networks do not agree unless asked to.

    The same arguments give the same buffer and the same weights.
    """
    params = {"seed": 0, "learning_rate": 1e-2, **params}
    params["policy_kwargs"] = {"net_arch": [16], **FUSED, **params.get("policy_kwargs", {})}
    model = cls("MlpPolicy", RandomEnv(reward=reward), **{**SMALL, "learning_starts": 10_000, **params})
    model.learn(300)
    if not agree:
        disturb(model)
    return model


def disturb(model: DQN, seed: int = 1) -> None:
    generator = th.Generator().manual_seed(seed)
    for network in (model.q_net, model.q_net_target):
        for parameter in network.parameters():
            parameter.data += th.randn(parameter.shape, generator=generator)


def train(model: DQN, steps: int = 1, batch_size: int = BATCH) -> DQN:
    """Train on minibatches that depend on nothing but the buffer."""
    np.random.seed(7)
    th.manual_seed(7)
    model.train(steps, batch_size)
    return model


def minibatch(model: DQN) -> Any:
    """Return the minibatch that :func:`train` takes first."""
    np.random.seed(7)
    return model.replay_buffer.sample(BATCH)


def weights(model: DQN) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def same(one: DQN, other: DQN) -> bool:
    ones, others = weights(one), weights(other)
    return ones.keys() == others.keys() and all(th.equal(ones[name], others[name]) for name in ones)


# What an update is.


@pytest.mark.parametrize("steps", [1, 20])
def test_without_double_the_update_is_that_of_stock_dqn(steps: int) -> None:
    assert same(train(filled(double=False), steps), train(filled(DQN), steps))


def test_without_double_a_whole_training_is_that_of_stock_dqn() -> None:
    arguments: dict[str, Any] = {**SMALL, "seed": 3}
    ours = DoubleDQN("MlpPolicy", "CartPole-v1", double=False, **arguments).learn(300)
    assert same(ours, DQN("MlpPolicy", "CartPole-v1", policy_kwargs=FUSED, **arguments).learn(300))


def layers_of(network: th.nn.Module) -> list[NDArray[np.float64]]:
    return [parameter.detach().numpy().astype(np.float64) for parameter in network.parameters()]


def forward(
    layers: list[NDArray[np.float64]], inputs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return hidden activations and Q-values of a network with one hidden layer."""
    weight, bias, out_weight, out_bias = layers
    hidden = np.maximum(inputs @ weight.T + bias, 0)
    return hidden, hidden @ out_weight.T + out_bias


def expected_update(model: DQN, eps: float) -> list[NDArray[np.float64]]:
    """Compute one Double-DQN update in NumPy: targets, smooth L1, clipped gradients, first Adam step."""
    batch = minibatch(model)
    observations, next_observations, rewards, dones = (
        tensor.numpy().astype(np.float64)
        for tensor in (batch.observations, batch.next_observations, batch.rewards[:, 0], batch.dones[:, 0])
    )
    rows, actions = np.arange(BATCH), batch.actions.numpy()[:, 0]
    discounts = model.gamma if batch.discounts is None else batch.discounts.numpy()[:, 0].astype(np.float64)
    online = layers_of(model.q_net)

    chosen = forward(online, next_observations)[1].argmax(axis=1)
    targets = (
        rewards + (1 - dones) * discounts * forward(layers_of(model.q_net_target), next_observations)[1][rows, chosen]
    )

    hidden, values = forward(online, observations)
    slopes = np.zeros_like(values)
    slopes[rows, actions] = np.clip(values[rows, actions] - targets, -1, 1) / BATCH
    hidden_slopes = slopes @ online[2] * (hidden > 0)
    gradients = [hidden_slopes.T @ observations, hidden_slopes.sum(axis=0), slopes.T @ hidden, slopes.sum(axis=0)]
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    gradients = [gradient * min(1, model.max_grad_norm / (norm + 1e-6)) for gradient in gradients]
    return [
        layer - model.learning_rate * gradient / (np.abs(gradient) + eps)
        for layer, gradient in zip(online, gradients, strict=True)
    ]


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("max_grad_norm", [10.0, 0.05])
def test_the_update_is_that_of_the_paper(n_steps: int, max_grad_norm: float) -> None:
    eps = 0.01  # with Adam's own, its first step would not show how long the gradient is
    policy_kwargs = {"net_arch": [16], "optimizer_kwargs": {"eps": eps}}
    model = filled(n_steps=n_steps, max_grad_norm=max_grad_norm, policy_kwargs=policy_kwargs)
    before, target_before = layers_of(model.q_net), layers_of(model.q_net_target)
    expected = expected_update(model, eps)
    train(model)
    for layer, old, new in zip(layers_of(model.q_net), before, expected, strict=True):
        np.testing.assert_allclose(layer, new, rtol=0, atol=1e-6)
        assert not np.allclose(old, new, rtol=0, atol=1e-5)
    for layer, old in zip(layers_of(model.q_net_target), target_before, strict=True):
        np.testing.assert_array_equal(layer, old)


def test_no_gradient_reaches_the_target_network() -> None:
    model = train(filled())
    assert all(parameter.grad is None for parameter in model.q_net_target.parameters())
    assert all(parameter.grad is not None for parameter in model.q_net.parameters())


def test_n_step_discounts_differ_within_the_minibatch_that_is_compared() -> None:
    discounts = minibatch(filled(n_steps=3)).discounts.numpy()
    steps = np.log(discounts) / np.log(0.99)
    np.testing.assert_allclose(np.unique(steps.round(3)), [1, 2, 3])


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("agree", [True, False])
def test_the_update_is_that_of_dqn_where_the_two_networks_agree(agree: bool, n_steps: int) -> None:
    ours = train(filled(agree=agree, n_steps=n_steps))
    assert same(ours, train(filled(DQN, agree=agree, n_steps=n_steps))) is agree


def test_the_two_networks_agree_whatever_layers_do_in_training_mode() -> None:
    policy_kwargs = {"net_arch": [16], "features_extractor_class": NormAndDropout}
    ours = train(filled(agree=True, policy_kwargs=policy_kwargs))
    assert same(ours, train(filled(DQN, agree=True, policy_kwargs=policy_kwargs)))


def mean_target(model: DQN) -> float:
    """Return the mean target of a minibatch whose targets are far above its values, from the loss that SB3 logs."""
    batch = minibatch(model)
    with th.no_grad():
        values = model.q_net(batch.observations).gather(1, batch.actions.long())
    train(model)
    return float(model.logger.name_to_value["train/loss"] + values.mean() + 0.5)


def test_targets_are_never_above_those_of_dqn() -> None:
    model = filled(learning_rate=0.0, reward=1000.0)
    differences = []
    for seed in range(20):
        disturb(model, seed)
        model.double = True
        ours = mean_target(model)
        model.double = False
        differences.append(mean_target(model) - ours)
    assert min(differences) > -1e-2  # float32 at a thousand
    assert max(differences) > 1


# What it trains with.


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("dueling", ["", "Dueling"])
@pytest.mark.parametrize(
    ("policy", "observation_space"),
    [
        ("MlpPolicy", VECTOR),
        ("MlpPolicy", spaces.Discrete(5)),
        ("CnnPolicy", IMAGE),
        ("MultiInputPolicy", DICT),
    ],
    ids=["vector", "discrete", "image", "dict"],
)
def test_it_trains(policy: str, observation_space: spaces.Space[Any], dueling: str, n_envs: int) -> None:
    env = make_vec_env(lambda: RandomEnv(observation_space), n_envs, seed=0)
    model = DoubleDQN(dueling + policy, env, train_freq=8, **SMALL, seed=0)
    before = weights(model)
    model.learn(240)
    assert model.num_timesteps == 240
    for name, tensor in weights(model).items():
        assert tensor.isfinite().all(), name
        assert not th.equal(tensor, before[name]), name
    action, _ = model.predict(env.reset(), deterministic=True)
    assert action.shape == (n_envs,)


@pytest.mark.parametrize("double", [True, False])
def test_a_loaded_model_predicts_the_same_and_trains_on(double: bool, tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    model = DoubleDQN("MlpPolicy", env, double=double, **SMALL, seed=0).learn(200)
    model.save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip", env=env)
    assert loaded.double is double
    assert same(loaded, model)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps == 300
    assert not same(loaded, model)


def test_the_same_seed_gives_the_same_parameters_and_another_does_not() -> None:
    def trained(seed: int) -> DoubleDQN:
        env = make_vec_env("CartPole-v1", n_envs=2)
        return DoubleDQN("DuelingMlpPolicy", env, **SMALL, seed=seed).learn(200)

    assert same(trained(0), trained(0))
    assert not same(trained(0), trained(1))


# Stock tools of SB3.


def test_it_is_evaluated_by_evaluate_policy() -> None:
    env = Monitor(gym.make("CartPole-v1", max_episode_steps=20))
    model = DoubleDQN("MlpPolicy", env, **SMALL, seed=0).learn(100)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=3, return_episode_rewards=True)
    assert returns == lengths
    assert len(returns) == 3


def test_it_runs_eval_and_checkpoint_callbacks(tmp_path: Path) -> None:
    env = Monitor(gym.make("CartPole-v1", max_episode_steps=20))
    evaluation = EvalCallback(
        env, n_eval_episodes=2, eval_freq=50, best_model_save_path=str(tmp_path), log_path=str(tmp_path), verbose=0
    )
    checkpoints = CheckpointCallback(save_freq=50, save_path=str(tmp_path), save_replay_buffer=True)
    DoubleDQN("MlpPolicy", "CartPole-v1", **SMALL, seed=0).learn(100, callback=[evaluation, checkpoints])
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [50, 100]
    assert {path.name for path in tmp_path.glob("*.zip")} == {
        "best_model.zip",
        "rl_model_50_steps.zip",
        "rl_model_100_steps.zip",
    }
    checkpoint = DoubleDQN.load(tmp_path / "rl_model_100_steps.zip")
    checkpoint.load_replay_buffer(tmp_path / "rl_model_replay_buffer_100_steps.pkl")
    assert checkpoint.replay_buffer is not None
    assert checkpoint.replay_buffer.size() == 99  # callbacks are called before a step is stored


def test_it_trains_on_normalised_observations_and_rewards() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]))
    model = DoubleDQN("MlpPolicy", env, **SMALL, seed=0).learn(200)
    assert model.get_vec_normalize_env() is env
    assert env.obs_rms.count > 200
    evaluate_policy(model, env, n_eval_episodes=1)


def test_it_logs_to_tensorboard(tmp_path: Path) -> None:
    DoubleDQN("MlpPolicy", "CartPole-v1", **SMALL, seed=0, tensorboard_log=str(tmp_path)).learn(100, tb_log_name="run")
    assert [path.parent.name for path in tmp_path.rglob("events.out.tfevents.*")] == ["run_1"]
