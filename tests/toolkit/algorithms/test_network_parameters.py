"""DoubleDQN with dueling, noisy and distributional networks: `policy_kwargs` of all three policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import VECTOR, RandomEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from toolkit.algorithms import DoubleDQN
from toolkit.algorithms.heads import NoisyLinear
from toolkit.algorithms.losses import compute_losses
from toolkit.algorithms.policies import DuelingMlpPolicy, DuelingQNetwork, MlpPolicy
from toolkit.algorithms.updates import UpdateConfig

IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
SPACES: dict[str, spaces.Space[Any]] = {
    "MlpPolicy": VECTOR,
    "CnnPolicy": IMAGE,
    "MultiInputPolicy": spaces.Dict({"image": IMAGE, "vector": VECTOR}),
}
C51: dict[str, Any] = {"distribution": "c51", "n_atoms": 11, "v_min": -2, "v_max": 2}
QR: dict[str, Any] = {"distribution": "qr", "n_quantiles": 7}
NOISY: dict[str, Any] = {"noisy": True}
ALL: dict[str, Any] = {"dueling": True, "noisy": True, **C51}
SMALL: dict[str, Any] = {"buffer_size": 300, "learning_starts": 16, "batch_size": 8, "target_update_interval": 50}
UPDATE = UpdateConfig(
    double=True, loss="huber", loss_over_all_actions=False, n_epochs=1, gamma=0.9, max_grad_norm=10.0
)
Noise = tuple[float, ...]


def make_model(
    policy: str = "MlpPolicy", head: dict[str, Any] | None = None, n_envs: int = 1, **params: Any
) -> DoubleDQN:
    env = make_vec_env(lambda: RandomEnv(SPACES.get(policy, VECTOR)), n_envs, seed=0)
    arguments: dict[str, Any] = {**SMALL, "seed": 0, "device": "cpu", **params}
    return DoubleDQN(policy, env, policy_kwargs={"net_arch": [8], **(head or {})}, **arguments)


def make_batch(size: int = 6) -> ReplayBufferSamples:
    th.manual_seed(1)
    return ReplayBufferSamples(
        observations=th.randn(size, 3),
        actions=th.randint(4, (size, 1)),
        next_observations=th.randn(size, 3),
        dones=(th.arange(size) % 3 == 0).float()[:, None],
        rewards=th.randn(size, 1),
        discounts=th.tensor([0.9, 0.81]).repeat(size // 2)[:, None],
    )


@contextmanager
def record_noise(network: th.nn.Module) -> Iterator[list[Noise | None]]:
    """Record the noise of a network's first noisy layer in each pass; None without noise."""
    passes: list[Noise | None] = []
    layer = next(module for module in network.modules() if isinstance(module, NoisyLinear))

    def note(*_: Any) -> None:
        passes.append(tuple(layer.noise[0].tolist()) if layer.noise else None)

    handle = layer.register_forward_pre_hook(note)
    yield passes
    handle.remove()


# --- Losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("head", [C51, QR, {"dueling": True, **C51}], ids=["c51", "qr", "dueling"])
def test_distribution_of_next_action_is_learned(head: dict[str, Any], double: bool) -> None:
    policies = [make_model(head=head, seed=seed).policy for seed in (0, 1)]
    online, target = (policy.q_net for policy in policies)
    batch = make_batch()
    next_outputs = target(batch.next_observations, as_distribution=True)
    choosing = online if double else target
    best = choosing(batch.next_observations).argmax(dim=1)
    distribution = online.distribution
    targets = th.cat(
        [
            distribution.compute_targets(
                batch.rewards[i : i + 1],
                batch.discounts[i : i + 1] * (1 - batch.dones[i : i + 1]),  # type: ignore[index]
                next_outputs[i : i + 1, int(best[i])],
            )
            for i in range(6)
        ]
    )
    outputs = online(batch.observations, as_distribution=True)
    taken = th.stack([outputs[i, int(batch.actions[i])] for i in range(6)])
    losses = compute_losses(UPDATE._replace(double=double), online, target, batch)
    assert losses.shape == (6,)
    np.testing.assert_allclose(losses.detach(), distribution.compute_losses(taken, targets).detach(), rtol=1e-5)


@pytest.mark.parametrize("head", [C51, QR], ids=["c51", "qr"])
def test_q_values_are_means_of_distribution(head: dict[str, Any]) -> None:
    network, batch = make_model(head=head).q_net, make_batch()
    outputs = network(batch.observations, as_distribution=True).detach().numpy().astype(np.float64)
    if head is C51:
        probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=2, keepdims=True)
        expected = probabilities @ np.linspace(-2, 2, 11)
    else:
        expected = outputs.mean(axis=2)
    np.testing.assert_allclose(network(batch.observations).detach(), expected, atol=1e-5)


# --- Noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [NOISY, {**NOISY, **C51}], ids=["noisy", "c51"])
def test_each_pass_of_update_has_noise_of_its_own(head: dict[str, Any]) -> None:
    model = make_model(head=head, learning_starts=1000)
    model.learn(40)
    with record_noise(model.q_net) as online, record_noise(model.q_net_target) as target:
        model.train(gradient_steps=2, batch_size=8)
    assert len(online) == 4  # for each minibatch: the choice of the next action, and what is learned
    assert len(target) == 2
    assert None not in online + target
    assert len({*online, *target}) == 6


def test_action_has_new_noise_in_each_step_of_training() -> None:
    model = make_model(head=ALL, learning_starts=10, train_freq=1, gradient_steps=0)
    with record_noise(model.q_net) as passes:
        model.learn(30)
    assert len(passes) == 20
    assert None not in passes
    assert len({*passes}) == 20


def test_deterministic_action_and_q_values_have_no_noise() -> None:
    model = make_model(head=ALL)
    observations = np.ones((2, 3), np.float32)
    state = th.get_rng_state()
    with record_noise(model.q_net) as passes:
        model.predict(observations, deterministic=True)
        model.q_net(th.ones(2, 3))
        assert th.equal(th.get_rng_state(), state)
        model.predict(observations, deterministic=False)
    assert passes[:2] == [None, None]
    assert passes[2] is not None


def test_target_network_gets_means_and_sigmas() -> None:
    model = make_model(head=ALL).learn(49)
    online = dict(model.q_net.named_parameters())
    assert not th.equal(online["q_net.0.weight_sigma"], model.q_net_target.q_net[0].weight_sigma)
    model._update_target_network()
    target = model.q_net_target.state_dict()
    assert {*target} == {*online}
    assert all(th.equal(target[name], parameter) for name, parameter in online.items())


@pytest.mark.parametrize(
    ("params", "epsilons"),
    [
        ({}, (0, 0)),
        ({"exploration_initial_eps": 0.5}, (0.5, 0.05)),
        ({"exploration": lambda _, __: 0.25}, (0.25, 0.25)),
    ],
)
def test_epsilon_is_zero_with_noise_unless_given(
    params: dict[str, Any], epsilons: tuple[float, float], tmp_path: Path
) -> None:
    model = make_model(head=NOISY, learning_starts=1000, **params)
    rates = []
    model.learn(40, callback=lambda locals_, _: rates.append(locals_["self"].exploration_rate) is None)
    assert (rates[1], rates[-1]) == (pytest.approx(epsilons[0], abs=0.2), pytest.approx(epsilons[1]))
    if "exploration" not in params:
        model.save(tmp_path / "model.zip")
        loaded = DoubleDQN.load(tmp_path / "model.zip")
        assert (loaded.exploration_initial_eps, loaded.exploration_final_eps) == epsilons


# --- Training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*SPACES])
@pytest.mark.parametrize(
    "head",
    [NOISY, C51, QR, {"dueling": True, **QR}, {"dueling": True, **NOISY}, ALL, {**ALL, **dict.fromkeys(C51), **QR}],
    ids=["noisy", "c51", "qr", "dueling_qr", "dueling_noisy", "all_c51", "all_qr"],
)
def test_policies_train_with_parameters_together(policy: str, head: dict[str, Any], tmp_path: Path) -> None:
    n_envs = 2 if policy == "MlpPolicy" else 1
    model = make_model(policy, head, n_envs, train_freq=8, learning_rate=1e-3)
    before = {name: tensor.clone() for name, tensor in model.q_net.state_dict().items()}
    model.learn(200 if policy == "MlpPolicy" else 60)
    for name, tensor in model.q_net.state_dict().items():
        assert tensor.isfinite().all(), name
        assert not th.equal(tensor, before[name]), name
    model.save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip")
    observations = model.policy.obs_to_tensor(model.env.reset())[0]  # type: ignore[union-attr]
    assert th.equal(loaded.q_net(observations), model.q_net(observations))
    assert model.q_net(observations).shape == (n_envs, 4)


def test_seed_determines_weights_of_noisy_distributional_network() -> None:
    models = [make_model(head=ALL, seed=seed).learn(60) for seed in (3, 3, 4)]
    weights = [th.cat([*map(th.flatten, model.q_net.parameters())]) for model in models]
    assert th.equal(weights[0], weights[1])
    assert not th.equal(weights[0], weights[2])


@pytest.mark.parametrize("head", [NOISY, C51], ids=["noisy", "c51"])
def test_compiling_is_refused_with_reason(head: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    make_model(head=head, compile=True).learn(40)
    assert "updates are not compiled" in caplog.text


# --- The policies ---------------------------------------------------------------------------------------------------


def test_dueling_parameter_equals_dueling_policy() -> None:
    models = [make_model("MlpPolicy", {"dueling": True}).learn(60), make_model("DuelingMlpPolicy").learn(60)]
    networks = [model.q_net for model in models]
    assert all(type(network) is DuelingQNetwork for network in networks)
    parameters = [dict(network.named_parameters()) for network in networks]
    assert parameters[0].keys() == parameters[1].keys()
    assert all(th.equal(parameters[0][name], parameters[1][name]) for name in parameters[0])


def test_noisy_layers_replace_all_after_extractor() -> None:
    network = make_model("CnnPolicy", {"net_arch": [8, 8], **ALL}).q_net
    linear = [module for module in network.q_net.modules() if isinstance(module, th.nn.Linear)]
    assert len(linear) == 4
    assert all(type(layer) is NoisyLinear for layer in linear)
    assert not any(isinstance(module, NoisyLinear) for module in network.features_extractor.modules())


def test_saved_policy_keeps_parameters(tmp_path: Path) -> None:
    policy = MlpPolicy(VECTOR, spaces.Discrete(4), lambda _: 1e-3, net_arch=[8], **ALL)
    policy.save(str(tmp_path / "policy.pth"))
    loaded = MlpPolicy.load(str(tmp_path / "policy.pth"))
    inputs = th.randn(5, 3)
    assert th.equal(loaded.q_net(inputs), policy.q_net(inputs))
    assert loaded.is_noisy


def test_dueling_policy_refuses_to_be_without_dueling() -> None:
    with pytest.raises(ValueError, match="dueling cannot be False for DuelingMlpPolicy"):
        DuelingMlpPolicy(VECTOR, spaces.Discrete(4), lambda _: 1e-3, dueling=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "head", "message"),
    [
        ({"loss": "huber"}, C51, "loss cannot be given"),
        ({"loss_over_all_actions": True}, QR, "loss_over_all_actions needs a policy without"),
        ({"loss_over_all_actions": True}, NOISY, "loss_over_all_actions needs a policy without"),
    ],
)
def test_algorithm_refuses_losses_that_policy_cannot_learn(
    params: dict[str, Any], head: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(head=head, **params)
