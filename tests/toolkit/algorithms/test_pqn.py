"""PQN's returns and updates, checked against the paper in NumPy, and its use with SB3's tools."""

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
from random_env import VECTOR, RandomEnv
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecNormalize

from toolkit.algorithms import PQN
from toolkit.training.value_estimates import estimate_values

IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": VECTOR, "number": spaces.Discrete(4)})
SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "seed": 0, "policy_kwargs": {"net_arch": [16, 16]}}
OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


class Corridor(gym.Env[Any, Any]):
    """Five places in a row; only the last one has a reward, and a time limit ends the episode."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Discrete(5), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.n_steps = 0
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = max(self.place + 1, 0) if action else max(self.place - 1, 0)
        self.n_steps += 1
        return self.place, float(self.place == 4), self.place == 4, self.n_steps == 20, {}


class Recorder(BaseCallback):
    """Keeps what the environments return, and the network at the start of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self.network: Any = None
        self.returns: Any = None

    def _on_rollout_start(self) -> None:
        self.steps = []
        self.network = copy.deepcopy(self.model.policy.q_net).double()

    def _on_step(self) -> bool:
        names = ("new_obs", "rewards", "dones", "infos", "actions")
        self.steps.append({name: copy.deepcopy(self.locals[name]) for name in names})
        return True

    def _on_rollout_end(self) -> None:
        self.returns = self.model.rollout_buffer.returns.copy()  # type: ignore[attr-defined]

    def compute_value(self, observation: NDArray[Any]) -> float:
        with th.no_grad():
            layers = self.network.q_net
            return float(layers(th.from_numpy(observation).double()[None]).max())


def get_weights(model: PQN) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def have_equal_weights(model: PQN, other: PQN) -> bool:
    weights, others = get_weights(model), get_weights(other)
    return weights.keys() == others.keys() and all(th.equal(weights[name], others[name]) for name in weights)


# --- The update -----------------------------------------------------------------------------------------------------


def compute_lambda_return(recorder: Recorder, start: int, env: int, gamma: float, lam: float) -> float:
    """Mix the n-step returns from a step to the end of its episode or of the rollout, by the definition."""
    rewards, mixed, weight = 0.0, 0.0, 1.0
    for n, step in enumerate(recorder.steps[start:]):
        rewards += gamma**n * float(step["rewards"][env])
        is_done, info = step["dones"][env], step["infos"][env]
        is_terminated = is_done and not info["TimeLimit.truncated"]
        observation = info["terminal_observation"] if is_done else step["new_obs"][env]
        value = 0.0 if is_terminated else recorder.compute_value(observation)
        n_step_return = rewards + gamma ** (n + 1) * value
        if is_done or start + n + 1 == len(recorder.steps):
            return mixed + weight * n_step_return
        mixed += weight * (1 - lam) * n_step_return
        weight *= lam
    raise AssertionError


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
def test_returns_equal_mixed_n_step_returns_in_numpy(q_lambda: float) -> None:
    recorder = Recorder()
    model = PQN("MlpPolicy", make_vec_env(RandomEnv, 3), **SMALL, q_lambda=q_lambda, gamma=0.9, learning_rate=1e-2)
    model.learn(150, callback=recorder)
    ends = [info["TimeLimit.truncated"] for step in recorder.steps for info in step["infos"] if "episode" in info]
    assert {*ends} == {True, False}
    expected = [[compute_lambda_return(recorder, step, env, 0.9, q_lambda) for env in range(3)] for step in range(16)]
    np.testing.assert_allclose(recorder.returns, expected, rtol=1e-5, atol=1e-5)


def test_values_after_time_limits_are_those_of_normalized_observations() -> None:
    env = VecNormalize(make_vec_env(RandomEnv, 2), norm_reward=False)
    recorder = Recorder()
    PQN("MlpPolicy", env, **SMALL, gamma=0.9).learn(64, callback=recorder)
    expected = [[compute_lambda_return(recorder, step, index, 0.9, 0.65) for index in range(2)] for step in range(16)]
    np.testing.assert_allclose(recorder.returns, expected, rtol=1e-5, atol=1e-5)


def compute_expected_update(model: PQN, observations: Any, actions: Any, returns: Any) -> list[NDArray[np.float64]]:
    """Compute one update of a network with one normalized hidden layer; RAdam's first step is that of Adam's mean."""
    layers = [parameter.detach().numpy().astype(np.float64) for parameter in model.policy.q_net.parameters()]
    weight, bias, scale, offset, out_weight, out_bias = layers
    n, rows = len(returns), np.arange(len(returns))
    linear = observations @ weight.T + bias
    deviation = np.sqrt(linear.var(axis=1, keepdims=True) + 1e-5)
    normalized = (linear - linear.mean(axis=1, keepdims=True)) / deviation
    hidden = np.maximum(normalized * scale + offset, 0)
    values = hidden @ out_weight.T + out_bias
    slopes = np.zeros_like(values)
    slopes[rows, actions] = (values[rows, actions] - returns) / n
    of_hidden = slopes @ out_weight * (hidden > 0)
    of_norm = of_hidden * scale
    of_linear = of_norm - of_norm.mean(axis=1, keepdims=True)
    of_linear = (of_linear - normalized * (of_norm * normalized).mean(axis=1, keepdims=True)) / deviation
    gradients = [
        *(of_linear.T @ observations, of_linear.sum(axis=0)),
        *((of_hidden * normalized).sum(axis=0), of_hidden.sum(axis=0), slopes.T @ hidden, slopes.sum(axis=0)),
    ]
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    scale_of_all = min(1, model.max_grad_norm / (norm + 1e-6))
    return [layer - 0.1 * scale_of_all * gradient for layer, gradient in zip(layers, gradients, strict=True)]


@pytest.mark.parametrize("max_grad_norm", [np.inf, 0.05])
@pytest.mark.parametrize("is_fast", [True, False])
def test_update_equals_the_paper_in_numpy(max_grad_norm: float, is_fast: bool) -> None:
    params = SMALL | {"batch_size": 48, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}
    model = PQN("MlpPolicy", make_vec_env(RandomEnv, 3), **params, learning_rate=0.1, max_grad_norm=max_grad_norm)
    if not is_fast:
        model.policy.q_net.register_forward_hook(lambda *_: None)
    expected: list[Any] = []

    class Expect(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = model.rollout_buffer
            columns = (buffer.observations.reshape(48, 3), buffer.actions.reshape(48), buffer.returns.reshape(48))
            expected.extend(compute_expected_update(model, *columns))

    before = get_weights(model)
    model.learn(48, callback=Expect())
    assert not have_equal_weights_to(model, before)
    for parameter, values in zip(model.policy.q_net.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), values, rtol=0, atol=2e-6)


def have_equal_weights_to(model: PQN, weights: dict[str, th.Tensor]) -> bool:
    return all(th.equal(weights[name], tensor) for name, tensor in get_weights(model).items())


@pytest.mark.parametrize(
    ("policy_kwargs", "is_fast"),
    [
        ({}, True),
        ({"layer_norm": False}, True),
        ({"activation_fn": th.nn.Tanh}, True),
        ({"optimizer_class": th.optim.Adam}, False),
        ({"optimizer_kwargs": {"weight_decay": 0.1}}, False),
        ({"optimizer_kwargs": {"betas": (0.5, 0.9), "eps": 1e-3}}, True),
    ],
    ids=["default", "no_norm", "tanh", "adam", "decay", "betas"],
)
def test_fast_updates_equal_those_of_torch(policy_kwargs: dict[str, Any], is_fast: bool) -> None:
    def train(has_hook: bool) -> PQN:
        params = SMALL | {"policy_kwargs": {"net_arch": [16, 16], **policy_kwargs}, "exploration_final_eps": 1.0}
        model = PQN("MlpPolicy", make_vec_env(RandomEnv, 3), **params, learning_rate=1e-2)
        if has_hook:
            model.policy.q_net.register_forward_hook(lambda *_: None)
        return model.learn(300)

    fast, slow = train(has_hook=False), train(has_hook=True)
    assert fast._n_updates == slow._n_updates == 42
    assert all((parameter.grad is None) is is_fast for parameter in fast.policy.parameters())  # autograd left out
    for name, tensor in get_weights(slow).items():
        th.testing.assert_close(get_weights(fast)[name], tensor, rtol=0, atol=1e-5)
    states = [model.policy.optimizer.state_dict()["state"] for model in (fast, slow)]
    for index, state in states[1].items():
        th.testing.assert_close(states[0][index], state, rtol=1e-3, atol=1e-5)


# --- Training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3])
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
def test_policy_trains_on_observation_space(policy: str, observation_space: spaces.Space[Any], n_envs: int) -> None:
    env = make_vec_env(lambda: RandomEnv(observation_space), n_envs, seed=0)
    model = PQN(policy, env, n_steps=8, batch_size=10, seed=0)
    before = get_weights(model)
    model.learn(8 * n_envs * 2)
    assert model.num_timesteps == 16 * n_envs
    for name, tensor in get_weights(model).items():
        assert tensor.isfinite().all(), name
        assert not th.equal(tensor, before[name]), name
    assert model.predict(env.reset(), deterministic=True)[0].shape == (n_envs,)


def test_every_hidden_layer_is_normalized_unless_turned_off() -> None:
    def count(policy: str, space: spaces.Space[Any], **policy_kwargs: Any) -> int:
        modules = PQN(policy, RandomEnv(space), policy_kwargs=policy_kwargs).policy.modules()
        return sum(isinstance(module, th.nn.LayerNorm | th.nn.GroupNorm) for module in modules)

    assert count("MlpPolicy", VECTOR, net_arch=[8, 8, 8]) == 3
    assert count("CnnPolicy", IMAGE) == 4  # three convolutions and a linear layer
    assert count("MultiInputPolicy", DICT, net_arch=[8]) == 5
    assert count("MultiInputPolicy", DICT, layer_norm=False) == 0


def test_normalized_image_features_have_no_scale_of_the_image() -> None:
    model = PQN("CnnPolicy", RandomEnv(IMAGE), seed=0)
    extractor = model.policy.q_net.features_extractor
    assert isinstance(extractor, NatureCNN)
    with th.no_grad():
        for layer in extractor.cnn:
            if isinstance(layer, th.nn.Conv2d):
                layer.bias.zero_()
    image = th.rand(1, 1, 36, 36)
    th.testing.assert_close(extractor(image), extractor(image * 0.5), rtol=1e-2, atol=1e-2)


def test_agent_learns_the_corridor() -> None:
    env = make_vec_env(Corridor, 8, seed=0)
    model = PQN("MlpPolicy", env, n_steps=8, batch_size=32, learning_rate=1e-2, gamma=0.9, seed=0, device="cpu")
    model.learn(2_000)
    values = estimate_values(model, np.arange(4))
    assert values is not None
    assert values.noun == "Q-values"
    np.testing.assert_allclose(values.values, [0.9**3, 0.9**2, 0.9, 1.0], atol=0.1)
    assert model.predict(np.arange(4), deterministic=True)[0].tolist() == [1, 1, 1, 1]


def test_exploration_falls_linearly_and_differs_between_environments() -> None:
    rates, actions = [], []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            rates.append(self.model.exploration_rate)  # type: ignore[attr-defined]
            actions.append(self.locals["actions"].copy())
            return True

    env = make_vec_env(RandomEnv, 10)
    model = PQN("MlpPolicy", env, **SMALL, exploration_fraction=0.5, exploration_final_eps=0.2, learning_rate=1e-9)
    model.learn(480, callback=Watch())
    expected = [max(0.2, 1 - 0.8 * step / 24) for step in range(48)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    assert model.exploration_rate == pytest.approx(0.2)
    assert all(len({*row}) > 1 for row in actions[:5])
    observations = np.zeros((10_000, 3), np.float32)
    greedy = model.predict(observations, deterministic=True)[0]
    assert len({*greedy}) == 1
    assert (model.predict(observations)[0] != greedy).mean() == pytest.approx(0.2 * 3 / 4, abs=0.02)


def test_seed_determines_weights() -> None:
    def train(seed: int) -> PQN:
        return PQN("MlpPolicy", make_vec_env("CartPole-v1", 2), **SMALL | {"seed": seed}).learn(100)

    assert have_equal_weights(train(0), train(0))
    assert not have_equal_weights(train(0), train(1))


def test_loaded_model_predicts_equally_and_continues(tmp_path: Path) -> None:
    env = make_vec_env("CartPole-v1", 2)
    model = PQN("MlpPolicy", env, **SMALL, q_lambda=0.5).learn(100)
    model.save(tmp_path / "model.zip")
    loaded = PQN.load(tmp_path / "model.zip", env=env)
    assert (loaded.q_lambda, loaded.exploration_rate) == (0.5, model.exploration_rate)
    assert have_equal_weights(loaded, model)
    for name, value in model.policy.optimizer.state_dict()["state"][0].items():
        assert th.equal(loaded.policy.optimizer.state_dict()["state"][0][name], value)
    actions = [each.predict(OBSERVATIONS, deterministic=True)[0] for each in (model, loaded)]
    np.testing.assert_array_equal(*actions)
    assert loaded.predict(OBSERVATIONS[0], deterministic=True)[0] == actions[0][0]
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == model.num_timesteps + 64
    assert not have_equal_weights(loaded, model)


def test_continued_model_has_the_final_epsilon_of_new_total() -> None:
    model = PQN("MlpPolicy", RandomEnv(), **SMALL, exploration_fraction=1.0, exploration_final_eps=0.0).learn(160)
    assert model.exploration_rate == pytest.approx(1 / 160)  # before the last step
    model.learn(160, reset_num_timesteps=False)
    assert model.num_timesteps == 320
    assert model.exploration_rate == pytest.approx(1 / 320)


def test_parameters_of_another_model_can_be_set() -> None:
    model, other = (PQN("MlpPolicy", "CartPole-v1", **SMALL | {"seed": seed}).learn(32) for seed in (0, 1))
    other.set_parameters(model.get_parameters())
    assert have_equal_weights(model, other)
    np.testing.assert_array_equal(
        *(each.predict(OBSERVATIONS, deterministic=True)[0] for each in (model, other)),
    )


def test_saved_policy_loads_alone(tmp_path: Path) -> None:
    policy = PQN("MlpPolicy", "CartPole-v1", policy_kwargs={"layer_norm": False}).policy
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt")
    assert not loaded.layer_norm
    np.testing.assert_array_equal(*(each.predict(OBSERVATIONS)[0] for each in (policy, loaded)))


def test_callback_stops_training_in_a_rollout() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 5

    model = PQN("MlpPolicy", "CartPole-v1", **SMALL).learn(100, callback=Stop())
    assert model.num_timesteps == 5


def test_eval_callback_works_and_logs_have_q_values() -> None:
    env = Monitor(gym.make("CartPole-v1", max_episode_steps=20))
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=20, verbose=0)
    model = PQN("MlpPolicy", "CartPole-v1", **SMALL).learn(64, callback=callback)
    assert callback.last_mean_reward > 0
    logged = model.logger.name_to_value
    assert {"train/loss", "train/q_mean", "train/learning_rate"} <= logged.keys()


def test_copied_model_learns_by_itself() -> None:
    model = PQN("MlpPolicy", "CartPole-v1", **SMALL).learn(32)
    before = get_weights(model)
    copied = copy.deepcopy(model).learn(32)
    assert have_equal_weights_to(model, before)
    assert not have_equal_weights_to(copied, before)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_steps", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("n_epochs", 0, "at least 1"),
        ("q_lambda", 1.5, "from 0 to 1"),
        ("exploration_fraction", 0, "above 0 and at most 1"),
        ("exploration_final_eps", -1, "from 0 to 1"),
        ("max_grad_norm", 0, "above 0"),
    ],
)
def test_parameter_out_of_range_is_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be {expected}, not {value}"):
        PQN("MlpPolicy", "CartPole-v1", **{name: value})


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(AssertionError, match="as action spaces"):
        PQN("MlpPolicy", "Pendulum-v1")
