"""What DoubleDQN does to be fast changes nothing but its speed: compiled, bare and fused updates are SB3's updates."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from toolkit.algorithms import DoubleDQN

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"vector": VECTOR, "other": spaces.Box(0, 5, (2,))})
UPDATES = 100
CLOSE = 1e-6
# all actions by chance, so that the same seed fills the same buffer whatever is learnt
BASE: dict[str, Any] = {
    **{"seed": 0, "learning_rate": 1e-3, "gamma": 0.9, "buffer_size": 500, "batch_size": 32, "learning_starts": 100},
    **{"train_freq": 1, "target_update_interval": 50, "tau": 0.5},
    **{"exploration_initial_eps": 1.0, "exploration_final_eps": 1.0},
}
COMPILED, NOT_COMPILED = "compiled the update", "updates are not compiled"


class RandomEnv(gym.Env[Any, Any]):
    """Observations, rewards and ends by chance, whatever the action."""

    def __init__(self, observation_space: spaces.Space[Any] = VECTOR) -> None:
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        terminated, truncated = (bool(chance < 0.1) for chance in self.np_random.random(2))
        return self.observation_space.sample(), float(self.np_random.normal()), terminated, truncated, {}


def made(cls: type[DQN] = DoubleDQN, policy: Any = "MlpPolicy", env: Any = RandomEnv, **params: Any) -> Any:
    """Make a model whose two networks disagree; the same arguments give the same weights."""
    policy_kwargs = {"net_arch": [8], **params.pop("policy_kwargs", {})}
    model = cls(policy, env() if callable(env) else env, **{**BASE, **params}, policy_kwargs=policy_kwargs)
    generator = th.Generator().manual_seed(1)
    for parameter in (*model.q_net.parameters(), *model.q_net_target.parameters()):
        parameter.data *= 1 + 0.5 * th.randn(parameter.shape, generator=generator)
    return model


def learnt(cls: type[DQN] = DoubleDQN, policy: Any = "MlpPolicy", env: Any = RandomEnv, **params: Any) -> Any:
    """Return a model after `UPDATES` updates, with what is learnt from depending on the arguments alone."""
    model = made(cls, policy, env, **params)
    start = tensors(model)
    model.learn(model.learning_starts + UPDATES * model.n_envs)
    assert model._n_updates == UPDATES * getattr(model, "n_epochs", 1)
    assert difference(tensors(model), start) > 1e-3, "nothing was learnt that could be compared"
    return model


def trained(model: Any, updates: int = 5, batch_size: int = 32) -> Any:
    """Make updates on minibatches that depend on nothing but the buffer."""
    np.random.seed(7)
    th.manual_seed(7)
    model.train(updates, batch_size)
    return model


def tensors(model: DQN) -> dict[str, th.Tensor]:
    """Return both networks and what the optimizer remembers of each parameter."""
    remembered = model.policy.optimizer.state_dict()["state"]
    found = dict(model.policy.state_dict()) | {
        f"{name} of {number}": value for number, state in remembered.items() for name, value in state.items()
    }
    return {name: th.as_tensor(value).detach().clone() for name, value in found.items() if value is not None}


def difference(ones: dict[str, th.Tensor], others: dict[str, th.Tensor]) -> float:
    return max(float((ones[name] - others[name]).abs().max()) for name in ones.keys() & others.keys())


def apart(one: DQN, other: DQN) -> float:
    """Return the largest difference between two models, Adam's moments and steps included."""
    ones, others = tensors(one), tensors(other)
    assert ones.keys() == others.keys()
    return difference(ones, others)


def said(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return [message for record in caplog.records if what in (message := record.getMessage())]


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "toolkit.algorithms")


def compiling(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that compiles: slow, and PyTorch's compiler uses what PyTorch has deprecated."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")(test))


# Compiled equals plain.


@compiling
@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"policy": "DuelingMlpPolicy", "n_steps": 3, "max_grad_norm": 0.05}, id="dueling-n-steps"),
        pytest.param(
            {
                **{"policy": "MultiInputPolicy", "env": lambda: RandomEnv(DICT)},
                **{"max_grad_norm": float("inf"), "learning_rate": lambda left: 2e-3 * left**2},
            },
            id="dict-unclipped-learning-rate-falls",
        ),
        pytest.param(
            {
                "env": lambda: VecNormalize(make_vec_env(RandomEnv, 2)),
                **{
                    "loss": "mse",
                    "loss_over_all_actions": True,
                    "n_epochs": 3,
                    "double": False,
                    "learning_rate": 3e-4,
                },
            },
            id="normalised-mse-all-actions-epochs-dqn",
        ),
    ],
)
def test_compiled_updates_are_the_plain_ones(params: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    plain = learnt(**params, compile=False)
    assert not said(caplog, COMPILED)
    compiled = learnt(**params, compile=True)
    assert len(said(caplog, COMPILED)) == 1
    assert not said(caplog, NOT_COMPILED)
    assert apart(compiled, plain) < CLOSE


class Pair(NamedTuple):
    """A model whose updates are compiled, and one in the same state whose updates are plain."""

    compiled: DoubleDQN
    plain: DoubleDQN

    def trained(self, updates: int = 5, batch_size: int = 32) -> Pair:
        return Pair(*(trained(model, updates, batch_size) for model in self))


@pytest.fixture(scope="module")
def learnt_pair() -> Pair:
    return Pair(*(learnt(compile=way) for way in (True, False)))


@pytest.fixture
def pair(learnt_pair: Pair) -> Iterator[Pair]:
    """Two models in the same state; what one test changes in them does not reach the next."""
    compiled, plain = learnt_pair
    compiled.learn(0, reset_num_timesteps=False)  # compiled again, should the last test have ended that
    plain.set_parameters(copy.deepcopy(compiled.get_parameters()))  # an optimizer keeps the very tensors it loads
    yield learnt_pair
    for parameter in (*compiled.q_net.parameters(), *plain.q_net.parameters()):
        parameter.requires_grad_(True)


def seconds_compiling(model: DoubleDQN) -> float:
    return float(model.logger.name_to_value.get("time/seconds_compiling", 0))


@compiling
def test_one_update_is_compiled_for_all_that_are_alike(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.trained(UPDATES)
    assert seconds_compiling(pair.compiled) > 0
    assert seconds_compiling(pair.plain) == 0
    assert not said(caplog, COMPILED)
    assert apart(*pair) < CLOSE


@compiling
@pytest.mark.parametrize(
    ("change", "batch_size"),
    [
        pytest.param(lambda monkeypatch, model: None, 20, id="batch_size"),
        pytest.param(lambda monkeypatch, model: monkeypatch.setattr(model, "gamma", 0.2), 32, id="gamma"),
        # left to itself, PyTorch takes for a variable what was one constant and is then another
        pytest.param(
            lambda monkeypatch, model: monkeypatch.setitem(
                model.policy.optimizer.param_groups[0], "weight_decay", 0.1
            ),
            32,
            id="weight_decay",
        ),
    ],
)
def test_a_compiled_update_obeys_what_is_changed(
    change: Callable[..., None],
    batch_size: int,
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    unchanged = tensors(trained(copy.deepcopy(pair.plain)))
    for model in pair:
        change(monkeypatch, model)
    pair.trained(batch_size=batch_size)
    assert not said(caplog, NOT_COMPILED)
    assert len(said(caplog, COMPILED)) == 1
    assert apart(*pair) < CLOSE
    assert difference(tensors(pair.plain), unchanged) > 100 * CLOSE


@compiling
def test_a_layer_frozen_between_compiled_updates_stays_as_it_is(pair: Pair) -> None:
    for model in pair:
        model.q_net.q_net[0].requires_grad_(False)
    before = pair.compiled.q_net.q_net[0].weight.clone()
    pair.trained()
    assert th.equal(pair.compiled.q_net.q_net[0].weight, before)
    assert apart(*pair) < CLOSE


@compiling
def test_the_learning_rate_is_obeyed_after_parameters_were_loaded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.compiled.set_parameters(pair.compiled.get_parameters())
    monkeypatch.setattr(pair.compiled, "lr_schedule", lambda _: 0.0)
    before = {name: tensor.clone() for name, tensor in pair.compiled.policy.state_dict().items()}
    trained(pair.compiled)
    assert difference(dict(pair.compiled.policy.state_dict()), before) == 0


@compiling
def test_a_copy_learns_for_itself(pair: Pair) -> None:
    copied, original = copy.deepcopy(pair.compiled), tensors(pair.compiled)
    trained(copied)
    assert difference(tensors(pair.compiled), original) == 0
    assert apart(copied, trained(pair.plain)) < CLOSE


@compiling
def test_parameters_from_before_the_first_update_can_be_put_back(caplog: pytest.LogCaptureFixture) -> None:
    def learnt_twice(compile: bool) -> Any:
        model = made(compile=compile)
        untrained = copy.deepcopy(model.get_parameters())
        model.learn(150)
        model.set_parameters(untrained)
        return model.learn(50, reset_num_timesteps=False)

    assert apart(learnt_twice(True), learnt_twice(False)) < CLOSE
    assert len(said(caplog, COMPILED)) == 1


@compiling
def test_hooks_on_gradients_are_called_after_compiling(pair: Pair) -> None:
    calls: list[bool] = []
    hooks = [model.q_net.q_net[0].weight.register_hook(lambda gradient: calls.append(True)) for model in pair]
    pair.trained(5)
    for hook in hooks:
        hook.remove()
    assert len(calls) == 10
    assert apart(*pair) < CLOSE


@compiling
def test_minibatches_of_another_type_get_an_update_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    doubles = spaces.Box(-1, 1, (3,), np.float64)

    def learnt_on_two(compile: bool) -> Any:
        model = made(env=lambda: RandomEnv(doubles), n_steps=3, compile=compile)
        model.learn(110)
        model.set_env(VecNormalize(model.get_env(), norm_obs=False))
        return model.learn(20, reset_num_timesteps=False)

    assert apart(learnt_on_two(True), learnt_on_two(False)) < CLOSE
    assert len(said(caplog, COMPILED)) == 2


def test_what_keeps_changing_is_compiled_but_a_few_times(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.algorithms.learner.compile_update", lambda *_: lambda *_: th.zeros(1))
    model = made(compile=True)
    model.learn(110)
    for number in range(20):
        model.gamma = 0.5 + number / 100
        trained(model, 2)
    assert len(said(caplog, COMPILED)) == 8
    assert len(said(caplog, NOT_COMPILED)) == 1


# Plain equals SB3's own DQN.


@pytest.mark.parametrize("fused", [False, True], ids=["default-adam", "fused"])
@pytest.mark.parametrize(
    "params",
    [
        {"n_steps": 3},
        {"env": lambda: make_vec_env(RandomEnv, 4, seed=0), "max_grad_norm": 0.05},
        {
            "policy": "CnnPolicy",
            "env": lambda: RandomEnv(IMAGE),
            "policy_kwargs": {
                "net_arch": [],
                "features_extractor_kwargs": {"features_dim": 8},
                # with Adam's own, a gradient that is nothing but rounding moves a weight as far as any other
                "optimizer_kwargs": {"eps": 1e-3},
            },
        },
        {"policy": "MultiInputPolicy", "env": lambda: RandomEnv(DICT)},
        {"env": lambda: VecNormalize(make_vec_env(RandomEnv, 1))},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    ],
    ids=["n-steps", "several-envs", "images", "dict", "normalised", "less-memory"],
)
def test_plain_updates_are_those_of_stock_dqn(params: dict[str, Any], fused: bool) -> None:
    ours = learnt(**params, double=False, compile=False)
    if fused:
        policy_kwargs = params.get("policy_kwargs", {})
        optimizer_kwargs = {**policy_kwargs.get("optimizer_kwargs", {}), "fused": True}
        params = {**params, "policy_kwargs": {**policy_kwargs, "optimizer_kwargs": optimizer_kwargs}}
    exactly = fused and params.get("policy") != "CnnPolicy"  # whose images lie differently in memory
    assert apart(ours, learnt(DQN, **params)) <= (0 if exactly else CLOSE)


def replaced_layer(model: Any) -> None:
    """Put a new layer in place of a network's last, as one does to transfer what was learnt."""
    for network in (model.q_net, model.q_net_target):
        th.manual_seed(5)
        network.q_net[-1] = th.nn.Linear(8, 4)
    model.policy.optimizer = th.optim.Adam(model.q_net.parameters(), lr=1e-3)


def frozen_layer(model: Any) -> None:
    model.q_net.q_net[0].requires_grad_(False)


def layer_frozen_later(model: Any) -> None:
    frozen_layer(model.learn(150))


def frozen_layer_with_its_optimizer(model: Any) -> None:
    frozen_layer(model)
    model.policy.optimizer = th.optim.Adam([one for one in model.q_net.parameters() if one.requires_grad], lr=1e-3)


def with_optimizer_in_another_order(model: Any) -> None:
    weight, bias, out_weight, out_bias = model.q_net.parameters()
    model.policy.optimizer = th.optim.Adam([weight, out_bias, out_weight, bias], lr=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        frozen_layer,
        layer_frozen_later,
        frozen_layer_with_its_optimizer,
        with_optimizer_in_another_order,
        replaced_layer,
    ],
)
def test_a_network_changed_by_hand_learns_as_in_stock_dqn(change: Callable[[Any], None]) -> None:
    def learnt_after_it(cls: type[DQN], **params: Any) -> Any:
        model = made(cls, **params)
        change(model)
        return model.learn(model.learning_starts + UPDATES)

    assert apart(learnt_after_it(DoubleDQN, double=False, compile=False), learnt_after_it(DQN)) < CLOSE


class Float64(VecEnvWrapper):
    """Gives float64 where its space says float32, as environments do that nothing converts."""

    def reset(self) -> Any:
        return self.venv.reset().astype(np.float64)

    def step_wait(self) -> Any:
        observations, *others = self.venv.step_wait()
        return (observations.astype(np.float64), *others)


def test_observations_of_another_precision_than_their_space_says_are_converted() -> None:
    def env() -> VecEnvWrapper:
        return Float64(make_vec_env(RandomEnv, 2, seed=0))

    acting = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
    ours = made(env=env, double=False, **acting).learn(300)
    assert apart(ours, made(DQN, env=env, **acting).learn(300)) < CLOSE


def test_hooks_on_the_optimizer_are_called_in_every_update() -> None:
    model, calls = made(), []
    model.policy.optimizer.register_step_post_hook(lambda *_: calls.append(True))
    model.learn(150)
    assert len(calls) == model._n_updates == 50


# What else can be compiled or not, and who decides.

PROGRAM = """
import hashlib, logging, sys
import torch
from toolkit.algorithms import DoubleDQN
torch.set_num_threads(1)
logging.basicConfig(level="INFO", format="%(message)s")
for way in sys.argv[1:]:
    model = DoubleDQN(
        "MlpPolicy", "CartPole-v1", compile=way == "compiled", learning_starts=50, train_freq=1, learning_rate=1e-2,
        target_update_interval=50, exploration_fraction=0.5, policy_kwargs={"net_arch": [8]}, seed=0,
    ).learn(300)
    weights = [parameter.detach().numpy().tobytes() for parameter in model.policy.parameters()]
    print(model._n_updates, hashlib.sha256(b"".join(weights)).hexdigest())
"""


def run_program(*ways: str, **environment: str) -> tuple[list[str], str]:
    """Run `PROGRAM` in a process of its own; return what it printed of each way, and what it logged."""
    command = [sys.executable, "-c", PROGRAM, *ways]
    finished = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines(), finished.stderr


@pytest.mark.slow
def test_a_compiled_run_repeats_exactly_also_from_a_cold_cache(tmp_path: Path) -> None:
    (cold, warm), log = run_program("compiled", "compiled", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert log.count(COMPILED) == 2
    assert warm == cold


@pytest.mark.slow
def test_without_a_cpp_compiler_updates_are_plain_and_the_reason_is_said_once(tmp_path: Path) -> None:
    (compiled, plain), log = run_program(
        "compiled", "plain", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"), CXX=str(tmp_path / "no-such-compiler")
    )
    (reason,) = (line for line in log.splitlines() if NOT_COMPILED in line)
    assert "compiler" in reason.split(NOT_COMPILED)[1].lower()
    assert compiled == plain
    assert COMPILED not in log


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
def test_what_cannot_be_compiled_is_learnt_plainly_and_the_reason_is_said_once(
    policy_kwargs: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"learning_rate": 1e-2, "policy_kwargs": policy_kwargs}
    asked = learnt(compile=True, **params)
    (message,) = said(caplog, NOT_COMPILED)
    assert reason in message
    assert caplog.records[-1].levelno == logging.WARNING
    caplog.clear()
    assert apart(asked, learnt(compile=False, **params)) == 0
    assert not said(caplog, NOT_COMPILED)


class Stop(BaseCallback):
    """Ends training soon after updates began."""

    def _on_step(self) -> bool:
        return self.n_calls < self.model.learning_starts / self.training_env.num_envs + 30  # type: ignore[attr-defined]


def is_compiling_asked(
    caplog: pytest.LogCaptureFixture, model: DoubleDQN, timesteps: int, reset_num_timesteps: bool = True
) -> bool:
    """Say whether compiling is tried in a training, given a model whose optimizer cannot be compiled."""
    caplog.clear()
    updates = model._n_updates
    model.learn(timesteps, callback=Stop(), reset_num_timesteps=reset_num_timesteps)
    assert model._n_updates > updates + 1
    return bool(said(caplog, NOT_COMPILED))


def uncompilable(**params: Any) -> Any:
    return made(policy_kwargs={"optimizer_class": th.optim.RMSprop}, **params)


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
def test_by_itself_it_compiles_where_fifty_thousand_updates_are_to_come(
    params: dict[str, Any], timesteps_that_pay: int, caplog: pytest.LogCaptureFixture
) -> None:
    total = BASE["learning_starts"] + timesteps_that_pay
    assert is_compiling_asked(caplog, uncompilable(**params), total)
    assert not is_compiling_asked(caplog, uncompilable(**params), total - 1)


@pytest.mark.parametrize("timesteps", [49_999, 50_000])
def test_what_was_learnt_before_does_not_count(timesteps: int, caplog: pytest.LogCaptureFixture) -> None:
    model = uncompilable()
    assert not is_compiling_asked(caplog, model, 200)
    asked = is_compiling_asked(caplog, model, timesteps, reset_num_timesteps=False)
    assert asked is (timesteps == 50_000)


@pytest.mark.parametrize(
    ("params", "timesteps", "asked"),
    [
        ({"compile": False}, 10**9, False),
        ({"compile": True}, 110, True),
        ({"train_freq": (1, "episode")}, 10**9, False),  # nobody knows how many updates there will be
    ],
)
def test_it_compiles_as_it_is_told(
    params: dict[str, Any], timesteps: int, asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_compiling_asked(caplog, uncompilable(**params), timesteps) is asked


def test_another_way_of_compiling_is_refused() -> None:
    with pytest.raises(ValueError, match="compile must be"):
        made(compile="always")


# What looks into the networks, or takes the place of a part.

HOOKS = [
    lambda layer, note: layer.register_forward_hook(lambda *_: note()),
    lambda layer, note: layer.register_forward_pre_hook(lambda *_: note()),
    lambda layer, note: layer.register_full_backward_hook(lambda *_: note()),
]


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("hook", HOOKS, ids=["forward", "forward-pre", "backward"])
def test_hooks_are_called_in_every_update(hook: Any, compile: bool) -> None:
    model, calls = made(compile=compile, double=False), []
    model.learn(50)
    hook(model.q_net.q_net[-1], lambda: calls.append(True))
    trained(model, 3)
    trained(model, 3)
    assert len(calls) == 6


def test_hooks_are_called_for_every_greedy_action() -> None:
    model, calls = (
        made(exploration_initial_eps=0.0, exploration_final_eps=0.0, learning_starts=0, gradient_steps=0),
        [],
    )
    model.q_net.q_net[0].register_forward_hook(lambda *_: calls.append(True))
    model.learn(50)
    assert len(calls) == 50


@compiling
@pytest.mark.parametrize("network", ["q_net", "q_net_target"])
def test_hooks_that_come_after_compiling_are_called(network: str, pair: Pair) -> None:
    calls: list[bool] = []
    hook = getattr(pair.compiled, network).q_net[0].register_forward_hook(lambda *_: calls.append(True))
    try:
        pair.trained(5)
    finally:
        hook.remove()
    assert len(calls) >= 5
    assert apart(*pair) < CLOSE


@compiling
def test_hooks_of_the_target_network_are_called() -> None:
    model, calls = made(compile=True), []
    model.learn(50)
    model.q_net_target.q_net[0].register_forward_hook(lambda *_: calls.append(True))
    trained(model, 5)
    trained(model, 5)
    assert len(calls) == 10


class Noting(th.nn.ReLU):
    """Notes whether it is in training mode, and whether gradients are taken."""

    seen: list[tuple[bool, bool]] = []

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        self.seen.append((self.training, th.is_grad_enabled()))
        return super().forward(inputs)


@pytest.mark.parametrize("compile", [False, True])
def test_modules_are_in_training_mode_where_gradients_are_taken_and_nowhere_else(compile: bool) -> None:
    model = made(compile=compile, exploration_final_eps=0.5, policy_kwargs={"activation_fn": Noting})
    Noting.seen.clear()
    model.learn(BASE["learning_starts"] + 50)
    assert Noting.seen.count((True, True)) == 50
    assert Noting.seen.count((False, False)) > 2 * 50, "two targets and some actions for each"
    assert len({*Noting.seen}) == 2


def predicted(model: Any) -> None:
    model.predict(VECTOR.sample(), deterministic=True)


def evaluated(model: Any) -> None:
    evaluate_policy(model, Monitor(gym.wrappers.TimeLimit(RandomEnv(), 5)), n_eval_episodes=1)


@pytest.mark.parametrize(
    ("acts", "mode"),
    [
        ([], True),
        ([predicted], False),
        ([evaluated], False),
        ([lambda model: model.policy.set_training_mode(False)], False),
        ([lambda model: model.policy.set_training_mode(False), trained, predicted], False),
        ([trained, lambda model: model.policy.set_training_mode(True)], True),
        ([evaluated, lambda model: model.q_net.train(), evaluated], False),
    ],
    ids=["set", "predict", "evaluate", "set-back", "train-and-predict", "train-and-set-again", "layers-set-by-hand"],
)
@pytest.mark.parametrize("cls", [DQN, DoubleDQN])
def test_modes_are_set_as_in_stock_dqn(cls: type[DQN], acts: list[Callable[[Any], Any]], mode: bool) -> None:
    model = made(cls, policy_kwargs={"activation_fn": th.nn.Dropout})
    model.learn(50)
    model.policy.set_training_mode(True)
    for act in acts:
        act(model)
    assert {module.training for module in model.q_net.modules()} == {mode}


# What is saved.


@compiling
def test_a_compiled_model_is_saved_and_loaded_and_learns_on(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = pair.compiled
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = DoubleDQN.load(tmp_path / "model.zip", env=RandomEnv())
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert loaded.compile is True
    assert apart(loaded, model) == 0
    assert {float(state["step"]) for state in loaded.policy.optimizer.state.values()} == {
        float(state["step"]) for state in model.policy.optimizer.state.values()
    }
    loaded.learn(0, reset_num_timesteps=False)
    trained(loaded)
    assert len(said(caplog, COMPILED)) == 1
    assert apart(loaded, trained(model)) < CLOSE


def keys(parameters: Any) -> Any:
    """Return a nested dictionary's keys."""
    return {name: keys(value) for name, value in parameters.items()} if isinstance(parameters, dict) else None


@compiling
def test_stock_dqn_takes_what_was_learnt_compiled(pair: Pair, tmp_path: Path) -> None:
    model, stock = pair.compiled, learnt(DQN)
    assert keys(model.get_parameters()) == keys(stock.get_parameters())
    model.save(tmp_path / "model.zip")
    stock.set_parameters(tmp_path / "model.zip", exact_match=True)
    assert apart(stock, model) == 0
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    for loaded in (stock, DQN.load(tmp_path / "model.zip", env=RandomEnv())):
        actions, _ = loaded.predict(observations, deterministic=True)
        np.testing.assert_array_equal(actions, model.predict(observations, deterministic=True)[0])
        loaded.learn(150)
        assert apart(loaded, model) > CLOSE


# Who decides the actions.


class ByNetwork(QNetwork):
    def _predict(self, observation: Any, deterministic: bool = True) -> th.Tensor:
        return th.full((len(observation),), 3)


class NetworkPolicy(DoubleDQN.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
    def make_q_net(self) -> QNetwork:
        return ByNetwork(**self._update_features_extractor(self.net_args, features_extractor=None)).to(self.device)


class InnerPolicy(DoubleDQN.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
    def _predict(self, observation: Any, deterministic: bool = True) -> th.Tensor:
        return th.full((len(observation),), 3)


class OuterPolicy(DQNPolicy):
    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        return np.full(len(observation), 3), None


class Model(DoubleDQN):
    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        return np.full(len(observation), 3), None


class Actions(BaseCallback):
    def _on_training_start(self) -> None:
        self.taken: list[int] = []

    def _on_step(self) -> bool:
        self.taken += self.locals["actions"].tolist()
        return True


@pytest.mark.parametrize(
    ("cls", "policy"),
    [
        (Model, "MlpPolicy"),
        (DoubleDQN, InnerPolicy),
        (DoubleDQN, OuterPolicy),
        (DoubleDQN, NetworkPolicy),
        (DQN, NetworkPolicy),
    ],
    ids=["model", "policy-inner", "policy-outer", "network", "network-in-stock-dqn"],
)
def test_a_subclass_decides_the_actions(cls: type[DQN], policy: Any) -> None:
    model = made(
        cls, policy, lambda: make_vec_env(RandomEnv, 2), exploration_initial_eps=0.0, exploration_final_eps=0.0
    )
    watch = Actions()
    model.learning_starts = 0
    model.learn(60, callback=watch)
    assert watch.taken == [3] * 60


class Compared(BaseCallback):
    """Notes whether each action is the one that SB3's ``predict`` gives; turns the network over halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.agree: list[bool] = []
        self.actions: set[int] = set()

    def _on_step(self) -> bool:
        predicted, _ = self.model.predict(self.model._last_obs, deterministic=True)  # type: ignore[arg-type]
        self.agree.append(bool((predicted == self.locals["actions"]).all()))
        self.actions |= {*self.locals["actions"].tolist()}
        if self.n_calls == 100:
            for parameter in self.model.policy.parameters():
                parameter.data = -parameter.data  # other memory
        return True


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("layers", [[16, 16], [256, 256], []])
@pytest.mark.parametrize("activation", [th.nn.ReLU, th.nn.Tanh, th.nn.ELU])
def test_greedy_actions_while_learning_are_those_of_predict(
    activation: type[th.nn.Module], layers: list[int], n_envs: int
) -> None:
    params = BASE | {"learning_starts": 0, "exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
    policy = {"net_arch": layers, "activation_fn": activation}
    model = DoubleDQN("MlpPolicy", make_vec_env(RandomEnv, n_envs, seed=0), policy_kwargs=policy, **params)
    compared = Compared()
    model.learn(200 * n_envs, callback=compared)
    assert compared.agree == [True] * 200
    assert len(compared.actions) > 1


def test_a_copy_acts_by_its_own_network() -> None:
    params = BASE | {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0, "learning_starts": 0}
    model = DoubleDQN("MlpPolicy", make_vec_env(RandomEnv, 1, seed=0), **params)
    model.learn(50)
    copied = copy.deepcopy(model)
    with th.no_grad():
        for parameter in copied.policy.parameters():
            parameter.neg_()
    for one in (model, copied):
        compared = Compared()
        one.learn(50, callback=compared, reset_num_timesteps=False)
        assert compared.agree == [True] * 50
