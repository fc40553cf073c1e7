"""Double DQN's update, checked against the paper and SB3's DQN, and its use with SB3's tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from random_env import VECTOR, RandomEnv
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from toolkit.algorithms import DoubleDQN
from toolkit.algorithms.targets import compute_double_dqn_target, compute_dqn_target

IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": VECTOR, "number": spaces.Discrete(4)})
BATCH = 32
OLD_RUNS = Path(__file__).parents[2] / "data" / "runs_0_1_0"
FUSED = {"optimizer_kwargs": {"fused": True}}  # DoubleDQN's default, for SB3's DQN in comparisons
SMALL: dict[str, Any] = {
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": BATCH,
    "target_update_interval": 50,
    "exploration_fraction": 0.5,
}


class NormAndDropout(BaseFeaturesExtractor):
    """Features that differ between training and evaluation mode."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)
        self.layers = th.nn.Sequential(th.nn.BatchNorm1d(3), th.nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        result: th.Tensor = self.layers(observations)
        return result


def make_filled_model(cls: type[DQN] = DoubleDQN, *, agree: bool = False, reward: float = 0.0, **params: Any) -> Any:
    """Make a model with a full replay buffer before its first update.

    The same arguments give the same buffer and the same weights.

    :param agree: whether the two networks have the same weights
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


def update(model: DQN, steps: int = 1, batch_size: int = BATCH) -> DQN:
    """Update on minibatches that depend only on the buffer."""
    np.random.seed(7)
    th.manual_seed(7)
    model.train(steps, batch_size)
    return model


def draw_minibatch(model: DQN) -> Any:
    """Return the first minibatch of :func:`update`."""
    np.random.seed(7)
    return model.replay_buffer.sample(BATCH)


def get_weights(model: DQN) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def have_equal_weights(model: DQN, other: DQN) -> bool:
    weights, others = get_weights(model), get_weights(other)
    return weights.keys() == others.keys() and all(th.equal(weights[name], others[name]) for name in weights)


# --- The update -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 20])
def test_update_without_double_equals_stock_dqn(steps: int) -> None:
    assert have_equal_weights(update(make_filled_model(double=False), steps), update(make_filled_model(DQN), steps))


def test_training_without_double_equals_stock_dqn() -> None:
    arguments: dict[str, Any] = {**SMALL, "seed": 3}
    ours = DoubleDQN("MlpPolicy", "CartPole-v1", double=False, **arguments).learn(300)
    assert have_equal_weights(ours, DQN("MlpPolicy", "CartPole-v1", policy_kwargs=FUSED, **arguments).learn(300))


def layers_of(network: th.nn.Module) -> list[NDArray[np.float64]]:
    return [parameter.detach().numpy().astype(np.float64) for parameter in network.parameters()]


def forward(
    layers: list[NDArray[np.float64]], inputs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return hidden activations and Q-values of a network with one hidden layer."""
    weight, bias, out_weight, out_bias = layers
    hidden = np.maximum(inputs @ weight.T + bias, 0)
    return hidden, hidden @ out_weight.T + out_bias


def compute_expected_update(model: DQN, eps: float) -> list[NDArray[np.float64]]:
    """Compute one Double-DQN update in NumPy: targets, smooth L1, clipped gradients, first Adam step."""
    batch = draw_minibatch(model)
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
def test_update_equals_the_paper_in_numpy(n_steps: int, max_grad_norm: float) -> None:
    eps = 0.01  # with Adam's own, its first step would not show how long the gradient is
    policy_kwargs = {"net_arch": [16], "optimizer_kwargs": {"eps": eps}}
    model = make_filled_model(n_steps=n_steps, max_grad_norm=max_grad_norm, policy_kwargs=policy_kwargs)
    before, target_before = layers_of(model.q_net), layers_of(model.q_net_target)
    expected = compute_expected_update(model, eps)
    update(model)
    for layer, old, new in zip(layers_of(model.q_net), before, expected, strict=True):
        np.testing.assert_allclose(layer, new, rtol=0, atol=1e-6)
        assert not np.allclose(old, new, rtol=0, atol=1e-5)
    for layer, old in zip(layers_of(model.q_net_target), target_before, strict=True):
        np.testing.assert_array_equal(layer, old)


def test_target_network_gets_no_gradient() -> None:
    model = update(make_filled_model())
    assert all(parameter.grad is None for parameter in model.q_net_target.parameters())
    assert all(parameter.grad is not None for parameter in model.q_net.parameters())


def test_n_step_minibatch_has_different_discounts() -> None:
    discounts = draw_minibatch(make_filled_model(n_steps=3)).discounts.numpy()
    steps = np.log(discounts) / np.log(0.99)
    np.testing.assert_allclose(np.unique(steps.round(3)), [1, 2, 3])


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("agree", [True, False])
def test_update_equals_dqn_only_with_equal_networks(agree: bool, n_steps: int) -> None:
    ours = update(make_filled_model(agree=agree, n_steps=n_steps))
    assert have_equal_weights(ours, update(make_filled_model(DQN, agree=agree, n_steps=n_steps))) is agree


def test_update_equals_dqn_with_mode_dependent_layers() -> None:
    policy_kwargs = {"net_arch": [16], "features_extractor_class": NormAndDropout}
    ours = update(make_filled_model(agree=True, policy_kwargs=policy_kwargs))
    assert have_equal_weights(ours, update(make_filled_model(DQN, agree=True, policy_kwargs=policy_kwargs)))


def compute_mean_target(model: DQN) -> float:
    """Return the mean target of a minibatch from the logged loss; targets must be far above the values."""
    batch = draw_minibatch(model)
    with th.no_grad():
        values = model.q_net(batch.observations).gather(1, batch.actions.long())
    update(model)
    return float(model.logger.name_to_value["train/loss"] + values.mean() + 0.5)


def test_targets_never_exceed_those_of_dqn() -> None:
    model = make_filled_model(learning_rate=0.0, reward=1000.0)
    differences = []
    for seed in range(10):
        disturb(model, seed)
        model.double = True
        ours = compute_mean_target(model)
        model.double = False
        differences.append(compute_mean_target(model) - ours)
    assert min(differences) > -1e-2  # float32 at a thousand
    assert max(differences) > 1


def test_double_dqn_target_values_online_choice_with_target_network() -> None:
    batch = ReplayBufferSamples(
        observations=th.zeros(3, 1),
        actions=th.zeros(3, 1, dtype=th.long),
        next_observations=th.zeros(3, 1),
        dones=th.tensor([[0.0], [0.0], [1.0]]),
        rewards=th.tensor([[1.0], [2.0], [3.0]]),
    )
    online_values = th.tensor([[1.0, 5.0], [4.0, 3.0], [0.0, 9.0]])
    target_values = th.tensor([[8.0, 2.0], [6.0, 7.0], [9.0, 9.0]])
    target = compute_double_dqn_target(batch, 0.5, lambda _: online_values, lambda _: target_values)
    assert target.tolist() == [[1 + 0.5 * 2], [2 + 0.5 * 6], [3]]
    assert compute_dqn_target(batch, 0.5, lambda _: target_values).tolist() == [[1 + 0.5 * 8], [2 + 0.5 * 7], [3]]


# --- Training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dueling", "n_envs"), [("", 3), ("Dueling", 1)])
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
def test_policy_trains_on_observation_space(
    policy: str, observation_space: spaces.Space[Any], dueling: str, n_envs: int
) -> None:
    env = make_vec_env(lambda: RandomEnv(observation_space), n_envs, seed=0)
    model = DoubleDQN(dueling + policy, env, train_freq=8, **SMALL, seed=0)
    before = get_weights(model)
    model.learn(240)
    assert model.num_timesteps == 240
    for name, tensor in get_weights(model).items():
        assert tensor.isfinite().all(), name
        assert not th.equal(tensor, before[name]), name
    action, _ = model.predict(env.reset(), deterministic=True)
    assert action.shape == (n_envs,)


@pytest.mark.parametrize("double", [True, False])
def test_loaded_model_predicts_equally_and_continues(double: bool, tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    model = DoubleDQN("MlpPolicy", env, double=double, **SMALL, seed=0).learn(200)
    model.save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip", env=env)
    assert loaded.double is double
    assert have_equal_weights(loaded, model)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps == 300
    assert not have_equal_weights(loaded, model)


@pytest.mark.filterwarnings("ignore:.*is ignored because a custom `replay_buffer_class`:UserWarning")  # SB3, wrongly
def test_model_of_version_0_1_0_loads_and_continues() -> None:
    env = gym.wrappers.NormalizeObservation(gym.make("CartPole-v1"))  # as in that run
    model = DoubleDQN.load(OLD_RUNS / "double_dqn_finished" / "model.zip", env=env, learning_starts=0)
    n_updates = model._n_updates
    assert n_updates > 0
    model.learn(50, reset_num_timesteps=False)
    assert model._n_updates > n_updates


def test_seed_determines_weights() -> None:
    def train(seed: int) -> DoubleDQN:
        env = make_vec_env("CartPole-v1", n_envs=2)
        return DoubleDQN("DuelingMlpPolicy", env, **SMALL, seed=seed).learn(200)

    assert have_equal_weights(train(0), train(0))
    assert not have_equal_weights(train(0), train(1))


# --- SB3's tools ----------------------------------------------------------------------------------------------------


def test_evaluate_policy_accepts_model() -> None:
    env = Monitor(gym.make("CartPole-v1", max_episode_steps=20))
    model = DoubleDQN("MlpPolicy", env, **SMALL, seed=0).learn(100)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=3, return_episode_rewards=True)
    assert returns == lengths
    assert len(returns) == 3


def test_eval_and_checkpoint_callbacks_work(tmp_path: Path) -> None:
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


def test_vec_normalize_works() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]))
    model = DoubleDQN("MlpPolicy", env, **SMALL, seed=0).learn(200)
    assert model.get_vec_normalize_env() is env
    assert env.obs_rms.count > 200
    evaluate_policy(model, env, n_eval_episodes=1)


def test_tensorboard_log_is_written(tmp_path: Path) -> None:
    DoubleDQN("MlpPolicy", "CartPole-v1", **SMALL, seed=0, tensorboard_log=str(tmp_path)).learn(100, tb_log_name="run")
    assert [path.parent.name for path in tmp_path.rglob("events.out.tfevents.*")] == ["run_1"]
