"""Prioritized replay: the sum tree, what is drawn, its weights, and the priorities that updates leave."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from random_env import VECTOR, RandomEnv
from scipy.stats import chisquare
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer

from toolkit.algorithms import DoubleDQN
from toolkit.algorithms.prioritized import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer, SumTree
from toolkit.algorithms.targets import WeightedMinibatch

DICT = spaces.Dict({"vector": VECTOR, "number": spaces.Discrete(4)})
PRIORITIZED: dict[str, Any] = {"replay_buffer_class": PrioritizedReplayBuffer}
SMALL: dict[str, Any] = {
    **{"seed": 0, "buffer_size": 120, "batch_size": 16, "learning_starts": 40, "train_freq": 1, "gamma": 0.9},
    **{"learning_rate": 1e-2, "policy_kwargs": {"net_arch": [16]}},
}
RNG = np.random.default_rng(0)


def make_model(n_envs: int = 1, space: spaces.Space[Any] = VECTOR, **params: Any) -> Any:
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    return DoubleDQN(policy, make_vec_env(lambda: RandomEnv(space), n_envs, seed=0), **SMALL | PRIORITIZED | params)


def make_buffer(n_steps_stored: int = 70, n_envs: int = 1, **params: Any) -> PrioritizedReplayBuffer:
    """Return a buffer of 50 vector steps whose transitions have random priorities."""
    buffer = PrioritizedReplayBuffer(50 * n_envs, VECTOR, spaces.Discrete(2), "cpu", n_envs, **params)
    rng = np.random.default_rng(1)
    for step in range(n_steps_stored):
        dones = rng.random(n_envs) < 0.1
        infos = [{"TimeLimit.truncated": bool(rng.random() < 0.5)} for _ in range(n_envs)]
        observations = [rng.normal(size=(n_envs, 3)).astype(np.float32) for _ in range(2)]
        buffer.add(*observations, np.full(n_envs, step % 2), rng.normal(size=n_envs), dones, infos)
    n_rows = buffer.size() * n_envs
    buffer.update_priorities(np.arange(n_rows), rng.exponential(size=n_rows))
    return buffer


# --- Sum tree --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 31, 33, 1000, 100_000, 1_100_000])
def test_sum_tree_finds_rows_like_cumulative_sum(n_rows: int) -> None:
    values = RNG.integers(0, 4, n_rows).astype(float)  # sums of integers are exact
    values[n_rows // 2] = 5
    tree = SumTree(n_rows)
    tree.fill(values)
    for _ in range(5):
        rows = RNG.integers(0, n_rows, 40)
        new = RNG.integers(1, 9, 40).astype(float)
        tree.set(rows, new)
        values[rows] = new
        assert tree.total == values.sum()
        shares = RNG.random(500)
        # a share at a border between two rows may round to either
        sums = np.cumsum(values)
        found = tree.find(shares)
        assert (sums[found] >= shares * sums[-1] * (1 - 1e-12)).all()
        assert (sums[found] - values[found] <= shares * sums[-1] * (1 + 1e-12)).all()
        assert (values[found] > 0).all()
    np.testing.assert_array_equal(tree.values, values)


@pytest.mark.parametrize("n_rows", [40, 70_000])
def test_sum_tree_never_finds_zero(n_rows: int) -> None:
    tree = SumTree(n_rows)
    rows = np.unique(RNG.integers(0, n_rows, 30))
    tree.set(rows, RNG.random(len(rows)) * 10.0 ** RNG.integers(-12, 12, len(rows)))
    found = tree.find(np.concatenate([RNG.random(2000), [0.0, 1.0, np.nextafter(1, 0)]]))
    assert {*found.tolist()} <= {*rows.tolist()}


def test_sum_tree_forgets_rounding_of_earlier_values() -> None:
    tree, other = SumTree(5000), SumTree(5000)
    for scale in (1e12, 1e-3):
        tree.set(np.arange(5000), RNG.random(5000) * scale)
    other.fill(tree.values)
    shares = RNG.random(5000)
    assert tree.total == other.total
    np.testing.assert_array_equal(tree.find(shares), other.find(shares))


# --- Sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_stored", "n_envs"), [(30, 1), (70, 1), (70, 3)])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_transitions_are_drawn_in_proportion_to_priorities(alpha: float, n_stored: int, n_envs: int) -> None:
    buffer = make_buffer(n_stored, n_envs, alpha=alpha)
    n_rows = buffer.size() * n_envs
    errors = np.linspace(0.3, 3, n_rows)
    buffer.update_priorities(np.arange(n_rows), errors)
    np.random.seed(1)
    counts = np.bincount(np.concatenate([buffer.sample_weighted(32)[1] for _ in range(800)]), minlength=n_rows)
    expected = (errors + buffer.epsilon) ** alpha
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_minibatch_has_a_transition_of_each_range() -> None:
    buffer = make_buffer(70)
    bounds = np.cumsum(buffer.priorities.ravel())
    _, rows = buffer.sample_weighted(10)
    ends = bounds[rows] / bounds[-1]
    starts = (bounds[rows] - buffer.priorities.ravel()[rows]) / bounds[-1]
    assert (ends >= np.arange(10) / 10).all()
    assert (starts <= np.arange(1, 11) / 10).all()


@pytest.mark.parametrize(("progress_remaining", "beta"), [(1.0, 0.4), (0.25, 0.85), (0.0, 1.0)])
def test_weights_equal_the_paper_by_hand(progress_remaining: float, beta: float) -> None:
    buffer = make_buffer(30, alpha=0.7, beta=0.4)
    np.random.seed(0)
    batch, rows = buffer.sample_weighted(16, progress_remaining)
    powers = buffer.priorities.ravel()
    weights = (30 * powers[rows] / powers.sum()) ** -beta
    np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-6)
    assert batch.weights.max() == 1
    assert batch.weights.min() < 0.9


def test_equal_final_beta_keeps_beta() -> None:
    buffer = make_buffer(beta=0.5, final_beta=0.5)
    weights = []
    for progress_remaining in (1.0, 0.1):
        np.random.seed(0)
        weights.append(buffer.sample_weighted(8, progress_remaining)[0].weights)
    assert th.equal(*weights)


def test_new_transitions_get_highest_priority_so_far() -> None:
    buffer = make_buffer(30, alpha=0.5)
    buffer.update_priorities(np.array([3]), np.array([25.0]))
    buffer.update_priorities(np.array([3]), np.array([1.0]))
    zeros = np.zeros((1, 3), np.float32)
    buffer.add(zeros, zeros, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    priorities = buffer.priorities[:, 0]
    assert priorities[3] == pytest.approx((1 + 1e-6) ** 0.5)
    assert priorities[30] == pytest.approx((25 + 1e-6) ** 0.5)
    assert not priorities[31:].any()


@pytest.mark.parametrize("n_stored", [30, 70])
@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_transitions_equal_those_of_sb3(n_envs: int, n_steps: int, n_stored: int) -> None:
    buffer = make_buffer(n_stored, n_envs, n_steps=n_steps, gamma=0.8)
    stock = NStepReplayBuffer(50 * n_envs, VECTOR, spaces.Discrete(2), "cpu", n_envs, n_steps=n_steps, gamma=0.8)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "pos", "full"):
        setattr(stock, name, getattr(buffer, name))
    normalizer = VecNormalize(make_vec_env(RandomEnv, n_envs))
    normalizer.obs_rms.mean += 0.5
    normalizer.ret_rms.var = np.float64(4)
    for env in (None, normalizer):
        batch, rows = buffer.sample_weighted(40, env=env)
        steps, envs = np.divmod(rows, n_envs)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np.random, "randint", lambda *_, envs=envs, **__: envs)
            expected = stock._get_samples(steps, env)
        for name in ("observations", "actions", "next_observations", "dones", "rewards"):
            assert th.equal(getattr(batch, name), getattr(expected, name)), name
        if n_steps == 1:
            assert batch.discounts is None
        else:
            assert th.equal(batch.discounts, expected.discounts)


def test_dict_observations_have_n_step_returns() -> None:
    model = make_model(2, DICT, n_steps=3, learning_starts=1000).learn(200)
    buffer = model.replay_buffer
    assert type(buffer) is PrioritizedDictReplayBuffer
    assert (buffer.n_steps, buffer.gamma) == (3, 0.9)
    batch, rows = buffer.sample_weighted(64)
    steps, envs = np.divmod(rows, 2)
    for name, values in batch.observations.items():
        np.testing.assert_array_equal(values, buffer.observations[name][steps, envs])
    is_end = (buffer.dones[steps, envs] > 0) | (steps == (buffer.pos - 1) % buffer.buffer_size)
    assert is_end.any()
    assert not is_end.all()
    np.testing.assert_allclose(batch.discounts[is_end, 0], 0.9)
    np.testing.assert_allclose(batch.rewards[is_end, 0], buffer.rewards[steps, envs][is_end])
    assert (batch.discounts[~is_end, 0] < 0.82).all()


# --- Updates ---------------------------------------------------------------------------------------------------------


def layers_of(network: th.nn.Module) -> list[NDArray[np.float64]]:
    return [parameter.detach().numpy().astype(np.float64) for parameter in network.parameters()]


def compute_values(layers: list[NDArray[np.float64]], inputs: Any) -> tuple[Any, Any]:
    hidden = np.maximum(np.asarray(inputs, np.float64) @ layers[0].T + layers[1], 0)
    return hidden, hidden @ layers[2].T + layers[3]


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_update_equals_the_paper_in_numpy(loss: str, n_steps: int) -> None:
    eps = 0.01
    policy_kwargs = {"net_arch": [16], "optimizer_kwargs": {"eps": eps}}
    params = {"loss": loss, "n_steps": n_steps, "max_grad_norm": float("inf"), "policy_kwargs": policy_kwargs}
    model = make_model(2, learning_starts=1000, **params).learn(90)
    for parameter in model.q_net.parameters():
        parameter.data *= 3
    buffer, rng = model.replay_buffer, np.random.default_rng(3)
    buffer.update_priorities(np.arange(90), rng.exponential(size=90))
    np.random.seed(5)
    batch, rows = buffer.sample_weighted(16, model._current_progress_remaining)
    online, target = layers_of(model.q_net), layers_of(model.q_net_target)
    index, actions = np.arange(16), batch.actions.numpy()[:, 0]
    chosen = compute_values(online, batch.next_observations)[1].argmax(axis=1)
    discounts = 0.9 if batch.discounts is None else batch.discounts.numpy()[:, 0].astype(float)
    next_values = compute_values(target, batch.next_observations)[1][index, chosen]
    targets = batch.rewards.numpy()[:, 0] + (1 - batch.dones.numpy()[:, 0]) * discounts * next_values
    hidden, values = compute_values(online, batch.observations)
    errors = values[index, actions] - targets
    slopes = np.zeros_like(values)
    weights = batch.weights.numpy().astype(float)
    slopes[index, actions] = weights / 16 * (2 * errors if loss == "mse" else np.clip(errors, -1, 1))
    hidden_slopes = slopes @ online[2] * (hidden > 0)
    gradients = [hidden_slopes.T @ batch.observations.numpy(), hidden_slopes.sum(0), slopes.T @ hidden, slopes.sum(0)]

    np.random.seed(5)
    model.train(1, 16)
    for layer, old, gradient in zip(layers_of(model.q_net), online, gradients, strict=True):
        np.testing.assert_allclose(layer, old - 1e-2 * gradient / (np.abs(gradient) + eps), atol=1e-6)
    last = {int(row): abs(error) for row, error in zip(rows, errors, strict=True)}  # a row may come twice
    priorities = buffer.priorities.ravel()[[*last]]
    np.testing.assert_allclose(priorities, (np.array([*last.values()]) + 1e-6) ** 0.6, rtol=1e-4)
    assert np.abs(weights - 1).max() > 0.2


@pytest.mark.parametrize(
    "params",
    [{}, {"loss_over_all_actions": True, "n_epochs": 2, "loss": "mse"}, {"n_steps": 3, "double": False}],
    ids=["default", "all-actions-epochs-mse", "n-step-dqn"],
)
def test_gradients_by_layers_equal_autograd(params: dict[str, Any]) -> None:
    models = []
    for has_hook in (False, True):
        model = make_model(**params)
        if has_hook:  # which only autograd calls
            model.q_net.q_net[0].weight.register_hook(lambda gradient: gradient * 1)
        models.append(model.learn(70))
    for tensor, expected in zip(*(model.policy.state_dict().values() for model in models), strict=True):
        th.testing.assert_close(tensor, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(*(model.replay_buffer.priorities for model in models), atol=1e-4)
    assert models[0]._n_updates >= 29


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")
def test_compiled_weighted_updates_equal_plain_ones() -> None:
    params = {"n_steps": 3, "munchausen_alpha": 0.9}
    compiled, plain = (make_model(compile=compile, **params).learn(70) for compile in (True, False))
    assert compiled.logger.name_to_value["time/seconds_compiling"] > 0
    for tensor, expected in zip(*(model.policy.state_dict().values() for model in (compiled, plain)), strict=True):
        th.testing.assert_close(tensor, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(compiled.replay_buffer.priorities, plain.replay_buffer.priorities, atol=1e-4)


OwnMinibatch = namedtuple("OwnMinibatch", WeightedMinibatch._fields)  # type: ignore[misc]  # computed names


class OwnBuffer(PrioritizedReplayBuffer):
    """Gives minibatches of a class of its own."""

    def sample_weighted(self, *args: Any, **kwargs: Any) -> Any:
        batch, rows = super().sample_weighted(*args, **kwargs)
        return OwnMinibatch(*batch), rows


def test_weights_in_minibatch_of_another_class_count() -> None:
    models = [make_model(replay_buffer_class=cls).learn(100) for cls in (PrioritizedReplayBuffer, OwnBuffer)]
    ours, theirs = ([*model.q_net.parameters()] for model in models)
    assert all(th.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert np.array_equal(models[0].replay_buffer.priorities, models[1].replay_buffer.priorities)


@pytest.mark.parametrize(("n_envs", "space"), [(1, VECTOR), (3, VECTOR), (2, DICT), (2, spaces.Discrete(5))])
def test_training_changes_priorities_and_weights(n_envs: int, space: spaces.Space[Any]) -> None:
    model = make_model(n_envs, space, n_steps=2)
    before = copy.deepcopy(model.q_net.state_dict())
    model.learn(120)
    assert len(np.unique(model.replay_buffer.priorities)) > 40
    assert any(not th.equal(before[name], tensor) for name, tensor in model.q_net.state_dict().items())


@pytest.mark.parametrize("policy_kwargs", [{"distribution": "c51", "v_min": -5, "v_max": 5}, {"noisy": True}], ids=str)
def test_noisy_and_distributional_policies_learn_prioritized(policy_kwargs: dict[str, Any]) -> None:
    model = make_model(policy_kwargs={"net_arch": [16], **policy_kwargs}, n_steps=2).learn(80)
    assert model._n_updates >= 39
    assert len(np.unique(model.replay_buffer.priorities)) > 30
    batch, _ = model.replay_buffer.sample_weighted(16)
    assert batch.weights.min() < 0.95


def test_saved_replay_buffer_draws_the_same(tmp_path: Path) -> None:
    model = make_model(n_steps=2).learn(80)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip", env=make_vec_env(RandomEnv, 1))
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert loaded.replay_buffer.max_priority == model.replay_buffer.max_priority
    samples = []
    for buffer in (model.replay_buffer, loaded.replay_buffer, pickle.loads(pickle.dumps(loaded.replay_buffer))):
        np.random.seed(0)
        batch, rows = buffer.sample_weighted(16)
        samples.append((rows.tolist(), batch.weights.tolist()))
    assert samples[0] == samples[1] == samples[2]
    assert loaded.learn(20, reset_num_timesteps=False).replay_buffer.n_steps == 2


# --- Refusals --------------------------------------------------------------------------------------------------------


def test_stock_dqn_is_refused() -> None:
    model = DQN("MlpPolicy", RandomEnv(), **SMALL | PRIORITIZED)
    with pytest.raises(TypeError, match="PrioritizedReplayBuffer gives transitions with weights"):
        model.learn(60)


class PrioritizedHindsight(PrioritizedReplayBuffer, HerReplayBuffer):
    """What nobody may build."""


@pytest.mark.parametrize(
    ("cls", "params", "message"),
    [
        (PrioritizedReplayBuffer, {"optimize_memory_usage": True}, "does not support optimize_memory_usage"),
        (PrioritizedReplayBuffer, {"alpha": 1.5}, "alpha must be from 0 to 1, not 1.5"),
        (PrioritizedReplayBuffer, {"beta": -1}, "beta must be from 0 to 1"),
        (PrioritizedReplayBuffer, {"final_beta": 2}, "final_beta must be from 0 to 1"),
        (PrioritizedReplayBuffer, {"epsilon": 0}, "epsilon must be above 0"),
        (PrioritizedReplayBuffer, {"n_steps": 0}, "n_steps must be at least 1"),
        (PrioritizedHindsight, {}, "cannot relabel goals"),
    ],
)
def test_unsupported_parameters_are_refused(cls: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(10, VECTOR, spaces.Discrete(2), **params)


def test_model_refuses_what_does_not_fit_prioritized_replay() -> None:
    with pytest.raises(ValueError, match="sample_with_replacement=False draws transitions itself"):
        make_model(sample_with_replacement=False)
    with pytest.raises(ValueError, match="n_steps is 3, but 5 in replay_buffer_kwargs"):
        make_model(n_steps=3, replay_buffer_kwargs={"n_steps": 5})


def test_empty_buffer_and_diverged_errors_are_refused() -> None:
    buffer = PrioritizedReplayBuffer(10, VECTOR, spaces.Discrete(2))
    with pytest.raises(ValueError, match="is empty"):
        buffer.sample_weighted(4)
    with pytest.raises(ValueError, match="training has diverged"):
        make_buffer().update_priorities(np.array([0]), np.array([np.nan]))


@pytest.mark.parametrize(
    "changes",
    [
        {"priorities": np.ones(29)},
        {"priorities": np.ones(30, np.float32)},
        {"priorities": np.zeros(30)},
        {"priorities": np.full(30, np.nan)},
        {"priorities": [1.0] * 30},
        {"max_priority": np.inf},
    ],
    ids=["fewer", "float32", "zeros", "nan", "list", "infinite-maximum"],
)
def test_state_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    buffer = make_buffer(30)
    state = copy.deepcopy(buffer.state_dict())
    buffer.load_state_dict(state)
    with pytest.raises(ValueError, match="its priorities are not"):
        buffer.load_state_dict(state | changes)
    np.testing.assert_array_equal(buffer.state_dict()["priorities"], state["priorities"])
