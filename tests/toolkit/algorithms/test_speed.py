"""The fast paths of DoubleDQN change nothing but its speed: their updates and actions are SB3's."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import VECTOR, RandomEnv
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch._inductor.utils import fresh_inductor_cache

from toolkit.algorithms import DoubleDQN

IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"vector": VECTOR, "other": spaces.Box(0, 5, (2,), np.float64)})
UPDATES = 60
CLOSE = 1e-6
# all actions by chance, so that the same seed fills the same buffer for every trained model
BASE: dict[str, Any] = {
    **{"seed": 0, "learning_rate": 1e-3, "gamma": 0.9, "buffer_size": 500, "batch_size": 32, "learning_starts": 100},
    **{"train_freq": 1, "target_update_interval": 50, "tau": 0.5},
    **{"exploration_initial_eps": 1.0, "exploration_final_eps": 1.0},
}
COMPILED, NOT_COMPILED = "compiled the update", "updates are not compiled"


def make_model(cls: type[DQN] = DoubleDQN, policy: Any = "MlpPolicy", env: Any = RandomEnv, **params: Any) -> Any:
    """Make a model whose two networks differ. The same arguments give the same weights."""
    policy_kwargs = {"net_arch": [8], **params.pop("policy_kwargs", {})}
    model = cls(policy, env() if callable(env) else env, **{**BASE, **params}, policy_kwargs=policy_kwargs)
    generator = th.Generator().manual_seed(1)
    for parameter in (*model.q_net.parameters(), *model.q_net_target.parameters()):
        parameter.data *= 1 + 0.5 * th.randn(parameter.shape, generator=generator)
    return model


def train_model(cls: type[DQN] = DoubleDQN, policy: Any = "MlpPolicy", env: Any = RandomEnv, **params: Any) -> Any:
    """Return a model after `UPDATES` updates. The arguments alone determine its replay buffer."""
    model = make_model(cls, policy, env, **params)
    start = get_tensors(model)
    model.learn(model.learning_starts + UPDATES * model.n_envs)
    assert model._n_updates == UPDATES * getattr(model, "n_epochs", 1)
    assert compute_difference(get_tensors(model), start) > 1e-3, "nothing was train_model that could be compared"
    return model


def train_on_buffer(model: Any, updates: int = 5, batch_size: int = 32) -> Any:
    """Make updates on minibatches that depend only on the buffer."""
    np.random.seed(7)
    th.manual_seed(7)
    model.train(updates, batch_size)
    return model


def get_tensors(model: DQN) -> dict[str, th.Tensor]:
    """Return both networks and the optimizer's state."""
    optimizer_state = model.policy.optimizer.state_dict()["state"]
    named = dict(model.policy.state_dict()) | {
        f"{name} of {number}": value for number, state in optimizer_state.items() for name, value in state.items()
    }
    return {name: th.as_tensor(value).detach().clone() for name, value in named.items() if value is not None}


def compute_difference(tensors: dict[str, th.Tensor], others: dict[str, th.Tensor]) -> float:
    return max(float((tensors[name] - others[name]).abs().max()) for name in tensors.keys() & others.keys())


def compute_distance(model: DQN, other: DQN) -> float:
    """Return the largest difference between two models, including Adam's moments and steps."""
    tensors, others = get_tensors(model), get_tensors(other)
    assert tensors.keys() == others.keys()
    return compute_difference(tensors, others)


def find_messages(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return [message for record in caplog.records if what in (message := record.getMessage())]


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "toolkit.algorithms")


def compiles(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that compiles. It is slow, and PyTorch's compiler uses deprecated parts of PyTorch."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")(test))


# --- Compiled updates equal plain ones -------------------------------------------------------------------------------


@compiles
@pytest.mark.parametrize(
    "params",
    [
        pytest.param(
            {
                **{"policy": "DuelingMultiInputPolicy", "env": lambda: RandomEnv(DICT)},
                **{"max_grad_norm": float("inf"), "learning_rate": lambda left: 2e-3 * left**2},
            },
            id="dueling-dict-float64-unclipped-learning-rate-schedule",
        ),
        pytest.param(
            {
                **{"env": lambda: VecNormalize(make_vec_env(RandomEnv, 2)), "n_steps": 3, "max_grad_norm": 0.05},
                **{
                    "loss": "mse",
                    "loss_over_all_actions": True,
                    "n_epochs": 3,
                    "double": False,
                    "learning_rate": 3e-4,
                },
            },
            id="normalized-n-steps-clipped-mse-all-actions-epochs-dqn",
        ),
    ],
)
def test_compiled_updates_equal_plain_updates(params: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    plain = train_model(**params, compile=False)
    assert not find_messages(caplog, COMPILED)
    compiled = train_model(**params, compile=True)
    assert len(find_messages(caplog, COMPILED)) == 1
    assert not find_messages(caplog, NOT_COMPILED)
    assert compute_distance(compiled, plain) < CLOSE


class Pair(NamedTuple):
    """Two models in the same state: the first one compiles its updates."""

    compiled: DoubleDQN
    plain: DoubleDQN

    def train_on_buffer(self, updates: int = 5, batch_size: int = 32) -> Pair:
        return Pair(*(train_on_buffer(model, updates, batch_size) for model in self))


@pytest.fixture(scope="module")
def trained_pair() -> Pair:
    return Pair(*(train_model(compile=compile) for compile in (True, False)))


@pytest.fixture
def pair(trained_pair: Pair) -> Iterator[Pair]:
    """Two models in the same state. Changes in one test do not reach the next."""
    compiled, plain = trained_pair
    compiled.learn(0, reset_num_timesteps=False)  # compiles again if the last test has ended that
    plain.set_parameters(copy.deepcopy(compiled.get_parameters()))  # an optimizer keeps the get_tensors that it loads
    yield trained_pair
    for parameter in (*compiled.q_net.parameters(), *plain.q_net.parameters()):
        parameter.requires_grad_(True)


def seconds_compiling(model: DoubleDQN) -> float:
    return float(model.logger.name_to_value.get("time/seconds_compiling", 0))


@compiles
def test_equal_updates_are_compiled_once(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.train_on_buffer(UPDATES)
    assert seconds_compiling(pair.compiled) > 0
    assert seconds_compiling(pair.plain) == 0
    assert not find_messages(caplog, COMPILED)
    assert compute_distance(*pair) < CLOSE


@compiles
def test_compiled_update_follows_changed_parameters(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unchanged = get_tensors(train_on_buffer(copy.deepcopy(pair.plain)))
    for model in pair:
        monkeypatch.setattr(model, "gamma", 0.2)
        # by default, PyTorch turns a constant that changes into a variable
        monkeypatch.setitem(model.policy.optimizer.param_groups[0], "weight_decay", 0.1)
    pair.train_on_buffer(batch_size=20)
    assert not find_messages(caplog, NOT_COMPILED)
    assert len(find_messages(caplog, COMPILED)) == 1
    assert compute_distance(*pair) < CLOSE
    assert compute_difference(get_tensors(pair.plain), unchanged) > 100 * CLOSE


@pytest.fixture
def stub_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled updates that do nothing, and take no time to compile."""
    monkeypatch.setattr("toolkit.algorithms.learner.compile_update", lambda *_: lambda *_: th.zeros(1))


def normalize_rewards(model: Any) -> None:
    model.set_env(VecNormalize(model.get_env(), norm_obs=False))
    model.learn(0, reset_num_timesteps=False)


@pytest.mark.usefixtures("stub_compiler")
@pytest.mark.parametrize(
    ("change", "batch_size"),
    [
        (lambda model: None, 20),
        (lambda model: setattr(model, "gamma", 0.2), 32),
        (lambda model: model.policy.optimizer.param_groups[0].update(weight_decay=0.1), 32),
        (normalize_rewards, 32),
    ],
    ids=["batch_size", "gamma", "weight_decay", "minibatch_class"],
)
def test_each_change_of_an_update_is_compiled_once(
    change: Callable[[Any], None], batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(compile=True)
    model.learn(110)
    assert len(find_messages(caplog, COMPILED)) == 1
    change(model)
    for _ in range(2):
        train_on_buffer(model, 2, batch_size)
    assert len(find_messages(caplog, COMPILED)) == 2


@compiles
def test_denormal_moments_become_zero_in_compiled_update(pair: Pair) -> None:
    for model in pair:
        layer = model.q_net.q_net[0]
        layer.bias.data[0] = -100.0  # the unit is never active again
        model.policy.optimizer.state[layer.weight]["exp_avg"][0] = 1e-38
    pair.train_on_buffer()
    assert not pair.compiled.policy.optimizer.state[pair.compiled.q_net.q_net[0].weight]["exp_avg"][0].any()
    assert compute_distance(*pair) < CLOSE


@compiles
def test_frozen_layer_stays_unchanged_after_compiling(pair: Pair) -> None:
    for model in pair:
        model.q_net.q_net[0].requires_grad_(False)
    before = pair.compiled.q_net.q_net[0].weight.clone()
    pair.train_on_buffer()
    assert th.equal(pair.compiled.q_net.q_net[0].weight, before)
    assert compute_distance(*pair) < CLOSE


@compiles
def test_compiled_update_follows_learning_rate_after_loading(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.compiled.set_parameters(pair.compiled.get_parameters())
    monkeypatch.setattr(pair.compiled, "lr_schedule", lambda _: 0.0)
    before = {name: tensor.clone() for name, tensor in pair.compiled.policy.state_dict().items()}
    train_on_buffer(pair.compiled)
    assert compute_difference(dict(pair.compiled.policy.state_dict()), before) == 0


@compiles
def test_copy_has_no_compiled_updates_and_leaves_original_unchanged(pair: Pair) -> None:
    copied, original = copy.deepcopy(pair.compiled), get_tensors(pair.compiled)
    assert pair.compiled._learner._compiled_updates
    assert not copied._learner._compiled_updates
    copied._learner.should_compile = False
    train_on_buffer(copied)
    assert compute_difference(get_tensors(pair.compiled), original) == 0
    assert compute_distance(copied, train_on_buffer(pair.plain)) < CLOSE


@compiles
def test_parameters_from_before_first_update_can_be_restored(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    untrained = make_model().get_parameters()  # without Adam's state
    for model in pair:
        model.set_parameters(copy.deepcopy(untrained))
    pair.train_on_buffer(20)
    assert not find_messages(caplog, COMPILED)
    assert compute_distance(*pair) < CLOSE


@compiles
def test_gradient_hooks_are_called_after_compiling(pair: Pair) -> None:
    calls: list[bool] = []
    hooks = [model.q_net.q_net[0].weight.register_hook(lambda gradient: calls.append(True)) for model in pair]
    pair.train_on_buffer(5)
    for hook in hooks:
        hook.remove()
    assert len(calls) == 10
    assert compute_distance(*pair) < CLOSE


@pytest.mark.usefixtures("stub_compiler")
def test_changing_parameters_are_compiled_at_most_eight_times(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(compile=True)
    model.learn(110)
    for number in range(20):
        model.gamma = 0.5 + number / 100
        train_on_buffer(model, 2)
    assert len(find_messages(caplog, COMPILED)) == 8
    assert len(find_messages(caplog, NOT_COMPILED)) == 1


# --- Plain updates equal those of SB3's DQN --------------------------------------------------------------------------


class DriftingVecNormalize(VecNormalize):
    """Adds a little more to observations in every call, so that the order of the calls counts."""

    drift = 0.0

    def normalize_obs(self, obs: Any) -> Any:
        self.drift += 1e-3
        return super().normalize_obs(obs) + np.float32(self.drift)


class DoublingBuffer(NStepReplayBuffer):
    """Doubles the rewards of its minibatches."""

    def _get_samples(self, *args: Any, **kwargs: Any) -> Any:
        samples = super()._get_samples(*args, **kwargs)
        return samples._replace(rewards=2 * samples.rewards)


@pytest.mark.parametrize(
    ("params", "fused"),
    [
        ({"n_steps": 3}, False),
        ({"n_steps": 3}, True),
        ({"env": lambda: make_vec_env(RandomEnv, 4, seed=0), "max_grad_norm": 0.05}, True),
        (
            {
                "policy": "CnnPolicy",
                "env": lambda: RandomEnv(IMAGE),
                "policy_kwargs": {
                    "net_arch": [],
                    "features_extractor_kwargs": {"features_dim": 8},
                    # with Adam's own, a gradient of mere rounding errors moves a weight as far as any other
                    "optimizer_kwargs": {"eps": 1e-3},
                },
            },
            True,
        ),
        ({"policy": "MultiInputPolicy", "env": lambda: RandomEnv(DICT)}, True),
        ({"env": lambda: VecNormalize(make_vec_env(RandomEnv, 1))}, True),
        (
            {
                **{"env": lambda: VecNormalize(make_vec_env(RandomEnv, 4), norm_obs=False)},
                **{"n_steps": 5, "buffer_size": 200},  # which is full soon
            },
            True,
        ),
        (
            {
                "policy": "MultiInputPolicy",
                "env": lambda: VecNormalize(make_vec_env(partial(RandomEnv, DICT), 2), norm_obs=False),
            },
            True,
        ),
        ({"env": lambda: DriftingVecNormalize(make_vec_env(RandomEnv, 2)), "n_steps": 3}, True),
        (
            {
                "env": lambda: VecNormalize(make_vec_env(RandomEnv, 2)),
                **{"replay_buffer_class": DoublingBuffer, "replay_buffer_kwargs": {"n_steps": 3, "gamma": 0.9}},
            },
            True,
        ),
        ({"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}, True),
    ],
    ids=[
        "default-adam",
        "n-steps",
        "several-envs",
        "images",
        "dict",
        "normalized",
        "normalized-n-steps",
        "normalized-dict",
        "own-normalizer",
        "own-buffer",
        "less-memory",
    ],
)
def test_plain_updates_equal_stock_dqn(params: dict[str, Any], fused: bool) -> None:
    ours = train_model(**params, double=False, compile=False)
    if fused:
        policy_kwargs = params.get("policy_kwargs", {})
        optimizer_kwargs = {**policy_kwargs.get("optimizer_kwargs", {}), "fused": True}
        params = {**params, "policy_kwargs": {**policy_kwargs, "optimizer_kwargs": optimizer_kwargs}}
    is_exact = fused and params.get("policy") != "CnnPolicy"  # images have another layout in memory
    assert compute_distance(ours, train_model(DQN, **params)) <= (0 if is_exact else CLOSE)


def replace_layer(model: Any) -> None:
    """Replace the last layer of both networks, as in transfer learning."""
    for network in (model.q_net, model.q_net_target):
        th.manual_seed(5)
        network.q_net[-1] = th.nn.Linear(8, 4)
    model.policy.optimizer = th.optim.Adam(model.q_net.parameters(), lr=1e-3)


def freeze_layer(model: Any) -> None:
    model.q_net.q_net[0].requires_grad_(False)


def freeze_layer_later(model: Any) -> None:
    freeze_layer(model.learn(150))


def freeze_layer_without_optimizing_it(model: Any) -> None:
    freeze_layer(model)
    model.policy.optimizer = th.optim.Adam(
        [parameter for parameter in model.q_net.parameters() if parameter.requires_grad], lr=1e-3
    )


def reorder_optimizer_parameters(model: Any) -> None:
    weight, bias, out_weight, out_bias = model.q_net.parameters()
    model.policy.optimizer = th.optim.Adam([weight, out_bias, out_weight, bias], lr=1e-3)


def insert_layers(model: Any, layers: Callable[[], list[th.nn.Module]]) -> None:
    """Insert the same layers behind the first activation of both networks, and optimize the parameters of all."""
    for network in (model.q_net, model.q_net_target):
        th.manual_seed(5)
        first, activation, last = network.q_net
        network.q_net = th.nn.Sequential(first, activation, *layers(), last)
    model.policy.optimizer = th.optim.Adam(model.q_net.parameters(), lr=1e-3)


def use_layer_twice(model: Any) -> None:
    insert_layers(model, lambda: [*(th.nn.Linear(8, 8), th.nn.ReLU())] * 2)


def make_tied_layers() -> list[th.nn.Module]:
    layers = [th.nn.Linear(8, 8), th.nn.Linear(8, 8)]
    layers[1].weight = layers[0].weight
    return [layers[0], th.nn.ReLU(), layers[1], th.nn.ReLU()]


def tie_weights(model: Any) -> None:
    insert_layers(model, make_tied_layers)


def share_first_layer_with_target_network(model: Any) -> None:
    model.q_net_target.q_net[0] = model.q_net.q_net[0]


@pytest.mark.parametrize(
    "change",
    [
        freeze_layer,
        freeze_layer_later,
        freeze_layer_without_optimizing_it,
        reorder_optimizer_parameters,
        replace_layer,
        use_layer_twice,
        tie_weights,
        share_first_layer_with_target_network,
    ],
)
def test_modified_network_learns_like_stock_dqn(change: Callable[[Any], None]) -> None:
    def train_changed_model(cls: type[DQN], **params: Any) -> Any:
        model = make_model(cls, max_grad_norm=0.05, **params)
        change(model)
        return model.learn(model.learning_starts + UPDATES)

    assert (
        compute_distance(train_changed_model(DoubleDQN, double=False, compile=False), train_changed_model(DQN)) < CLOSE
    )


@pytest.mark.parametrize(
    ("activation", "n_autograd_passes"), [(th.nn.ReLU, 0), (th.nn.Tanh, 0), (th.nn.Sigmoid, UPDATES)]
)
def test_known_layers_learn_without_autograd(
    activation: type[th.nn.Module], n_autograd_passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[th.Tensor] = []
    run_backward = th.Tensor.backward

    def count_pass(loss: th.Tensor) -> None:
        passes.append(loss)
        run_backward(loss)

    monkeypatch.setattr(th.Tensor, "backward", count_pass)
    model = make_model(DoubleDQN, compile=False, policy_kwargs={"activation_fn": activation})
    model.learn(model.learning_starts + UPDATES)
    assert (model._n_updates, len(passes)) == (UPDATES, n_autograd_passes)


class Float64Observations(VecEnvWrapper):
    """Returns float64 observations although its space says float32."""

    def reset(self) -> Any:
        return self.venv.reset().astype(np.float64)

    def step_wait(self) -> Any:
        observations, *others = self.venv.step_wait()
        return (observations.astype(np.float64), *others)


def test_observations_of_wrong_precision_are_converted() -> None:
    def env() -> VecEnvWrapper:
        return Float64Observations(make_vec_env(RandomEnv, 2, seed=0))

    acting = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
    ours = make_model(env=env, double=False, **acting).learn(300)
    assert compute_distance(ours, make_model(DQN, env=env, **acting).learn(300)) < CLOSE


@pytest.fixture(params=[False, True], ids=["kept", "flushed"])
def flushes_denormals(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the CPU takes denormal numbers for 0 by the user's choice."""
    th.set_flush_denormal(request.param)
    yield request.param
    th.set_flush_denormal(False)


def train_with_denormal_moments(cls: type[DQN], **params: Any) -> tuple[DQN, th.Tensor]:
    """Return a model with a unit that is never active, and the first moments of its weights."""
    model = train_model(cls, **params)
    layer = model.q_net.q_net[0]
    layer.bias.data[0] = -100.0
    moments = model.policy.optimizer.state[layer.weight]["exp_avg"][0]
    moments[:] = 2e-38
    return model.learn(UPDATES, reset_num_timesteps=False), moments


def test_denormal_moments_become_zero_and_weights_stay_those_of_stock_dqn(flushes_denormals: bool) -> None:
    ours, moments = train_with_denormal_moments(DoubleDQN, double=False)
    theirs, stock_moments = train_with_denormal_moments(DQN, policy_kwargs={"optimizer_kwargs": {"fused": True}})
    assert not moments.any()
    assert bool(stock_moments.any()) is not flushes_denormals
    assert (float(th.tensor(2e-38) / 4) == 0) is flushes_denormals, "the user's choice has changed"
    assert compute_distance(ours, theirs) < np.finfo(np.float32).smallest_normal
    for weights, stock_weights in zip(ours.q_net.parameters(), theirs.q_net.parameters(), strict=True):
        assert th.equal(weights, stock_weights)


def test_denormal_moments_are_kept_beside_tiny_epsilon() -> None:
    tiny = {"optimizer_kwargs": {"eps": 1e-30}}
    ours, moments = train_with_denormal_moments(DoubleDQN, double=False, policy_kwargs=tiny)
    fused = {"optimizer_kwargs": {"eps": 1e-30, "fused": True}}
    theirs, stock_moments = train_with_denormal_moments(DQN, policy_kwargs=fused)
    assert moments.any()
    assert th.equal(moments, stock_moments)
    assert compute_distance(ours, theirs) == 0


def test_optimizer_hooks_are_called_in_every_update() -> None:
    model, calls = make_model(), []
    model.policy.optimizer.register_step_post_hook(lambda *_: calls.append(True))
    model.learn(150)
    assert len(calls) == model._n_updates == 50


# --- Whether to compile ----------------------------------------------------------------------------------------------


def train_on_cartpole(compile: bool) -> tuple[int, bytes]:
    """Return how many updates a short training makes, and the weights after it."""
    policy_kwargs = {"net_arch": [8]}
    model = DoubleDQN("MlpPolicy", "CartPole-v1", **BASE, compile=compile, policy_kwargs=policy_kwargs).learn(160)
    return model._n_updates, b"".join(parameter.detach().numpy().tobytes() for parameter in model.policy.parameters())


@compiles
def test_compiled_run_repeats_exactly_from_cold_cache(caplog: pytest.LogCaptureFixture) -> None:
    with fresh_inductor_cache():
        cold, warm = train_on_cartpole(True), train_on_cartpole(True)
    assert len(find_messages(caplog, COMPILED)) == 2
    assert warm == cold


@compiles
def test_without_cpp_compiler_updates_are_plain_and_reason_is_logged_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with fresh_inductor_cache(), th._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "no-such-compiler"))}):
        compiled = train_on_cartpole(True)
    (message,) = find_messages(caplog, NOT_COMPILED)
    assert "compiler" in message.split(NOT_COMPILED)[1].lower()
    assert not find_messages(caplog, COMPILED)
    assert compiled == train_on_cartpole(False)


@pytest.mark.parametrize(
    ("policy_kwargs", "reason"),
    [
        ({"optimizer_class": th.optim.RMSprop}, "the optimizer is not Adam or AdamW"),
        ({"optimizer_class": th.optim.SGD}, "the optimizer is not Adam or AdamW"),
        ({"optimizer_kwargs": {"amsgrad": True}}, "the optimizer is not Adam or AdamW"),
        ({"activation_fn": th.nn.Dropout}, "modules that may compute differently in training"),
    ],
    ids=["rmsprop", "sgd", "amsgrad", "dropout"],
)
def test_uncompilable_update_is_plain_and_reason_is_logged_once(
    policy_kwargs: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"learning_rate": 1e-2, "policy_kwargs": policy_kwargs}
    asked = train_model(compile=True, **params)
    (message,) = find_messages(caplog, NOT_COMPILED)
    assert reason in message
    assert caplog.records[-1].levelno == logging.WARNING
    caplog.clear()
    assert compute_distance(asked, train_model(compile=False, **params)) == 0
    assert not find_messages(caplog, NOT_COMPILED)


class StopSoon(BaseCallback):
    """Ends training soon after the first update."""

    def _on_step(self) -> bool:
        return self.n_calls < self.model.learning_starts / self.training_env.num_envs + 30  # type: ignore[attr-defined]


def is_compiling_asked(
    caplog: pytest.LogCaptureFixture, model: DoubleDQN, timesteps: int, reset_num_timesteps: bool = True
) -> bool:
    """Return whether a training tries to compile, given a model whose optimizer cannot be compiled."""
    caplog.clear()
    updates = model._n_updates
    model.learn(timesteps, callback=StopSoon(), reset_num_timesteps=reset_num_timesteps)
    assert model._n_updates > updates + 1
    return bool(find_messages(caplog, NOT_COMPILED))


def make_uncompilable_model(**params: Any) -> Any:
    return make_model(policy_kwargs={"optimizer_class": th.optim.RMSprop}, **params)


@pytest.mark.parametrize(
    ("params", "timesteps_that_pay"),
    [
        ({}, 50_000),
        ({"train_freq": 4}, 200_000),
        ({"train_freq": 4, "gradient_steps": 2}, 100_000),
        ({"train_freq": 4, "gradient_steps": -1}, 50_000),
        ({"train_freq": 4, "n_epochs": 4}, 50_000),
        ({"train_freq": 4, "env": lambda: make_vec_env(RandomEnv, 2)}, 400_000),
        ({"train_freq": 4, "gradient_steps": -1, "env": lambda: make_vec_env(RandomEnv, 2)}, 50_000),
        ({"train_freq": (1, "episode"), "gradient_steps": -1}, 50_000),
    ],
)
def test_auto_compiles_from_fifty_thousand_updates(
    params: dict[str, Any], timesteps_that_pay: int, caplog: pytest.LogCaptureFixture
) -> None:
    total = BASE["learning_starts"] + timesteps_that_pay
    assert is_compiling_asked(caplog, make_uncompilable_model(**params), total)
    assert not is_compiling_asked(caplog, make_uncompilable_model(**params), total - 1)


@pytest.mark.parametrize("timesteps", [49_999, 50_000])
def test_auto_ignores_earlier_updates(timesteps: int, caplog: pytest.LogCaptureFixture) -> None:
    model = make_uncompilable_model()
    assert not is_compiling_asked(caplog, model, 200)
    asked = is_compiling_asked(caplog, model, timesteps, reset_num_timesteps=False)
    assert asked is (timesteps == 50_000)


@pytest.mark.parametrize(
    ("params", "timesteps", "asked"),
    [
        ({"compile": False}, 10**9, False),
        ({"compile": True}, 110, True),
        ({"train_freq": (1, "episode")}, 10**9, False),  # the number of updates is unknown
    ],
)
def test_compile_parameter_overrides_number_of_updates(
    params: dict[str, Any], timesteps: int, asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_compiling_asked(caplog, make_uncompilable_model(**params), timesteps) is asked


def test_invalid_compile_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="compile must be"):
        make_model(compile="always")


# --- Hooks and modes -------------------------------------------------------------------------------------------------

HOOKS = [
    lambda layer, note: layer.register_forward_hook(lambda *_: note()),
    lambda layer, note: layer.register_forward_pre_hook(lambda *_: note()),
    lambda layer, note: layer.register_full_backward_hook(lambda *_: note()),
]


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("hook", HOOKS, ids=["forward", "forward-pre", "backward"])
def test_module_hooks_are_called_in_every_update(hook: Any, compile: bool) -> None:
    model, calls = make_model(compile=compile, double=False), []
    model.learn(50)
    hook(model.q_net.q_net[-1], lambda: calls.append(True))
    train_on_buffer(model, 3)
    train_on_buffer(model, 3)
    assert len(calls) == 6


def test_module_hooks_are_called_for_every_greedy_action() -> None:
    model, calls = (
        make_model(exploration_initial_eps=0.0, exploration_final_eps=0.0, learning_starts=0, gradient_steps=0),
        [],
    )
    model.q_net.q_net[0].register_forward_hook(lambda *_: calls.append(True))
    model.learn(50)
    assert len(calls) == 50


@compiles
@pytest.mark.parametrize("network", ["q_net", "q_net_target"])
def test_module_hooks_added_after_compiling_are_called(network: str, pair: Pair) -> None:
    calls: list[bool] = []
    hook = getattr(pair.compiled, network).q_net[0].register_forward_hook(lambda *_: calls.append(True))
    try:
        pair.train_on_buffer(5)
    finally:
        hook.remove()
    assert len(calls) >= 5
    assert compute_distance(*pair) < CLOSE


@compiles
def test_target_network_hooks_are_called() -> None:
    model, calls = make_model(compile=True), []
    model.learn(50)
    model.q_net_target.q_net[0].register_forward_hook(lambda *_: calls.append(True))
    train_on_buffer(model, 5)
    train_on_buffer(model, 5)
    assert len(calls) == 10


class ModeRecorder(th.nn.ReLU):
    """Records whether it is in training mode, and whether gradients are enabled."""

    seen: list[tuple[bool, bool]] = []

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        self.seen.append((self.training, th.is_grad_enabled()))
        return super().forward(inputs)


@pytest.mark.parametrize("compile", [False, True])
def test_modules_are_in_training_mode_only_with_gradients(compile: bool) -> None:
    model = make_model(compile=compile, exploration_final_eps=0.5, policy_kwargs={"activation_fn": ModeRecorder})
    ModeRecorder.seen.clear()
    model.learn(BASE["learning_starts"] + 50)
    assert ModeRecorder.seen.count((True, True)) == 50
    assert ModeRecorder.seen.count((False, False)) > 2 * 50, "two targets and some actions for each"
    assert len({*ModeRecorder.seen}) == 2


def predict(model: Any) -> None:
    model.predict(VECTOR.sample(), deterministic=True)


def evaluate(model: Any) -> None:
    evaluate_policy(model, Monitor(gym.wrappers.TimeLimit(RandomEnv(), 5)), n_eval_episodes=1)


@pytest.mark.parametrize(
    ("actions", "mode"),
    [
        ([], True),
        ([predict], False),
        ([evaluate], False),
        ([lambda model: model.policy.set_training_mode(False)], False),
        ([lambda model: model.policy.set_training_mode(False), train_on_buffer, predict], False),
        ([train_on_buffer, lambda model: model.policy.set_training_mode(True)], True),
        ([evaluate, lambda model: model.q_net.train(), evaluate], False),
    ],
    ids=["set", "predict", "evaluate", "set-back", "train-and-predict", "train-and-set-again", "layers-set-by-hand"],
)
@pytest.mark.parametrize("cls", [DQN, DoubleDQN])
def test_training_mode_equals_stock_dqn(cls: type[DQN], actions: list[Callable[[Any], Any]], mode: bool) -> None:
    model = make_model(cls, policy_kwargs={"activation_fn": th.nn.Dropout})
    model.learn(50)
    model.policy.set_training_mode(True)
    for action in actions:
        action(model)
    assert {module.training for module in model.q_net.modules()} == {mode}


# --- Saving ----------------------------------------------------------------------------------------------------------


@compiles
def test_loaded_compiled_model_continues_learning(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = pair.compiled
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = DoubleDQN.load(tmp_path / "model.zip", env=RandomEnv())
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert loaded.compile is True
    assert compute_distance(loaded, model) == 0
    assert {float(state["step"]) for state in loaded.policy.optimizer.state.values()} == {
        float(state["step"]) for state in model.policy.optimizer.state.values()
    }
    loaded.learn(0, reset_num_timesteps=False)
    train_on_buffer(loaded)
    assert len(find_messages(caplog, COMPILED)) == 1
    assert compute_distance(loaded, train_on_buffer(model)) < CLOSE


def get_keys(parameters: Any) -> Any:
    """Return a nested dictionary's get_keys."""
    return {name: get_keys(value) for name, value in parameters.items()} if isinstance(parameters, dict) else None


@compiles
def test_stock_dqn_loads_compiled_model(pair: Pair, tmp_path: Path) -> None:
    model, stock = pair.compiled, train_model(DQN)
    assert get_keys(model.get_parameters()) == get_keys(stock.get_parameters())
    model.save(tmp_path / "model.zip")
    stock.set_parameters(tmp_path / "model.zip", exact_match=True)
    assert compute_distance(stock, model) == 0
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    for loaded in (stock, DQN.load(tmp_path / "model.zip", env=RandomEnv())):
        actions, _ = loaded.predict(observations, deterministic=True)
        np.testing.assert_array_equal(actions, model.predict(observations, deterministic=True)[0])
        loaded.learn(150)
        assert compute_distance(loaded, model) > CLOSE


# --- Actions ---------------------------------------------------------------------------------------------------------


class FixedActionNetwork(QNetwork):
    def _predict(self, observation: Any, deterministic: bool = True) -> th.Tensor:
        return th.full((len(observation),), 3)


class FixedNetworkPolicy(DoubleDQN.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
    def make_q_net(self) -> QNetwork:
        return FixedActionNetwork(**self._update_features_extractor(self.net_args, features_extractor=None)).to(
            self.device
        )


class FixedInnerPolicy(DoubleDQN.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
    def _predict(self, observation: Any, deterministic: bool = True) -> th.Tensor:
        return th.full((len(observation),), 3)


class FixedOuterPolicy(DQNPolicy):
    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        return np.full(len(observation), 3), None


class FixedActionModel(DoubleDQN):
    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        return np.full(len(observation), 3), None


class ActionRecorder(BaseCallback):
    def _on_training_start(self) -> None:
        self.actions: list[int] = []

    def _on_step(self) -> bool:
        self.actions += self.locals["actions"].tolist()
        return True


@pytest.mark.parametrize(
    ("cls", "policy"),
    [
        (FixedActionModel, "MlpPolicy"),
        (DoubleDQN, FixedInnerPolicy),
        (DoubleDQN, FixedOuterPolicy),
        (DoubleDQN, FixedNetworkPolicy),
        (DQN, FixedNetworkPolicy),
    ],
    ids=["model", "policy-inner", "policy-outer", "network", "network-in-stock-dqn"],
)
def test_subclass_predict_decides_actions(cls: type[DQN], policy: Any) -> None:
    model = make_model(
        cls, policy, lambda: make_vec_env(RandomEnv, 2), exploration_initial_eps=0.0, exploration_final_eps=0.0
    )
    recorder = ActionRecorder()
    model.learning_starts = 0
    model.learn(60, callback=recorder)
    assert recorder.actions == [3] * 60


class PredictComparison(BaseCallback):
    """Records whether each action equals that of SB3's ``predict``, and negates the weights halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.agree: list[bool] = []
        self.actions: set[int] = set()

    def _on_step(self) -> bool:
        predicted, _ = self.model.predict(self.model._last_obs, deterministic=True)  # type: ignore[arg-type]
        self.agree.append(bool((predicted == self.locals["actions"]).all()))
        self.actions |= {*self.locals["actions"].tolist()}
        if self.n_calls == 60:
            for parameter in self.model.policy.parameters():
                parameter.data = -parameter.data  # other memory
        return True


@pytest.mark.parametrize(
    ("activation", "layers", "n_envs"),
    [
        *((th.nn.ReLU, [16, 16], 1), (th.nn.Tanh, [16, 16], 3), (th.nn.ELU, [16, 16], 1)),
        *((th.nn.ReLU, [256, 256], 3), (th.nn.ReLU, [], 3)),
    ],
)
def test_greedy_actions_in_training_equal_predict(
    activation: type[th.nn.Module], layers: list[int], n_envs: int
) -> None:
    params = BASE | {"learning_starts": 0, "exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
    policy = {"net_arch": layers, "activation_fn": activation}
    model = DoubleDQN("MlpPolicy", make_vec_env(RandomEnv, n_envs, seed=0), policy_kwargs=policy, **params)
    compared = PredictComparison()
    model.learn(120 * n_envs, callback=compared)
    assert compared.agree == [True] * 120
    assert len(compared.actions) > 1


def test_copy_acts_with_its_own_network() -> None:
    params = BASE | {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0, "learning_starts": 0}
    model = DoubleDQN("MlpPolicy", make_vec_env(RandomEnv, 1, seed=0), **params)
    model.learn(50)
    copied = copy.deepcopy(model)
    with th.no_grad():
        for parameter in copied.policy.parameters():
            parameter.neg_()
    for learner in (model, copied):
        compared = PredictComparison()
        learner.learn(50, callback=compared, reset_num_timesteps=False)
        assert compared.agree == [True] * 50
