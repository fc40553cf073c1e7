"""Accelerated algorithms of SB3 and sb3-contrib train to the same weights, to 1e-6."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, TQC, MaskablePPO, RecurrentPPO
from sb3_contrib.common.utils import quantile_huber_loss
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from toolkit.algorithms.acceleration import accelerated
from toolkit.algorithms.acceleration import functions as fast_functions

POLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
SMALL: dict[str, Any] = {"net_arch": [16, 16]}
OFF_POLICY: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "buffer_size": 200, "learning_rate": 1e-3}
# 30 leaves a smaller minibatch at the end
CLIPPED: dict[str, Any] = {"n_steps": 20, "batch_size": 30, "n_epochs": 3, "learning_rate": 3e-3}
SETTINGS: dict[str, tuple[type[BaseAlgorithm], str, dict[str, Any]]] = {
    "PPO, discrete": (PPO, POLE, CLIPPED),
    "PPO, continuous": (PPO, PENDULUM, CLIPPED | {"ent_coef": 0.01}),
    "PPO, values clipped": (PPO, POLE, CLIPPED | {"clip_range_vf": 0.01, "ent_coef": 0.01}),
    "PPO, advantages as they are": (PPO, POLE, CLIPPED | {"normalize_advantage": False, "clip_range": 0.02}),
    "PPO, stopped by the divergence": (PPO, POLE, CLIPPED | {"target_kl": 1e-3, "n_epochs": 5}),
    "PPO, weights decay": (PPO, POLE, CLIPPED | {"policy_kwargs": SMALL | {"optimizer_class": th.optim.AdamW}}),
    "PPO, another optimizer": (PPO, POLE, CLIPPED | {"policy_kwargs": SMALL | {"optimizer_class": th.optim.SGD}}),
    "PPO, state-dependent noise": (PPO, PENDULUM, CLIPPED | {"use_sde": True}),
    "PPO, no hidden layers": (PPO, POLE, CLIPPED | {"policy_kwargs": {"net_arch": []}}),
    "PPO, ELU": (PPO, POLE, CLIPPED | {"policy_kwargs": SMALL | {"activation_fn": th.nn.ELU}}),
    "PPO, two extractors": (PPO, POLE, CLIPPED | {"policy_kwargs": SMALL | {"share_features_extractor": False}}),
    "A2C, discrete": (A2C, POLE, {"ent_coef": 0.01}),
    "A2C, continuous": (A2C, PENDULUM, {"use_rms_prop": False}),
    "DQN": (DQN, POLE, OFF_POLICY | {"target_update_interval": 7, "tau": 0.5, "max_grad_norm": 0.1}),
    "SAC": (SAC, PENDULUM, OFF_POLICY),
    "SAC, state-dependent noise": (SAC, PENDULUM, OFF_POLICY | {"use_sde": True}),
    "SAC, fixed entropy coefficient": (
        SAC,
        PENDULUM,
        OFF_POLICY | {"ent_coef": 0.1, "n_steps": 3, "gradient_steps": 2, "target_update_interval": 2},
    ),
    "SAC, shared extractor": (
        SAC,
        PENDULUM,
        OFF_POLICY | {"policy_kwargs": SMALL | {"share_features_extractor": True, "activation_fn": th.nn.Tanh}},
    ),
    "TD3": (TD3, PENDULUM, OFF_POLICY),
    "TD3, three critics": (
        TD3,
        PENDULUM,
        OFF_POLICY | {"policy_kwargs": SMALL | {"n_critics": 3, "optimizer_class": th.optim.RMSprop}},
    ),
    "DDPG": (DDPG, PENDULUM, OFF_POLICY),
    "QRDQN": (QRDQN, POLE, OFF_POLICY | {"policy_kwargs": SMALL | {"n_quantiles": 11}, "max_grad_norm": 0.1}),
    "TQC": (TQC, PENDULUM, OFF_POLICY),
    "MaskablePPO": (MaskablePPO, POLE, CLIPPED),
    "RecurrentPPO": (RecurrentPPO, POLE, CLIPPED | {"policy_kwargs": SMALL | {"lstm_hidden_size": 8}}),
}


def allow_all(env: Any) -> Any:
    return np.ones(env.action_space.n, bool)


def train(
    cls: type[BaseAlgorithm],
    env: str,
    settings: dict[str, Any],
    is_accelerated: bool,
    callback: BaseCallback | None = None,
    policy: Any = None,
) -> Any:
    policy = policy or ("MlpLstmPolicy" if cls is RecurrentPPO else "MlpPolicy")
    settings = copy.deepcopy({"policy_kwargs": SMALL, "seed": 0, "device": "cpu"} | settings)  # SB3 adds to them
    wrapper = partial(ActionMasker, action_mask_fn=allow_all) if cls is MaskablePPO else None
    venv = make_vec_env(env, 2, seed=5, wrapper_class=wrapper)
    model = cls(policy, venv, **settings)
    with accelerated(model) if is_accelerated else nullcontext():
        model.learn(80, callback=callback)
    return model


def assert_same_weights(first: Any, second: Any, tolerance: float = 1e-6) -> None:
    for (name, one), other in zip(first.policy.state_dict().items(), second.policy.state_dict().values(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("name", SETTINGS)
def test_accelerated_training_gives_the_same_weights_and_logs(name: str) -> None:
    plain, fast = (train(*SETTINGS[name], is_accelerated) for is_accelerated in (False, True))
    assert fast._n_updates == plain._n_updates > 0
    assert_same_weights(plain, fast)
    logs = [
        {key: value for key, value in model.logger.name_to_value.items() if "time/" not in key}
        for model in (plain, fast)
    ]
    assert "train/n_updates" in logs[0]
    assert logs[1] == pytest.approx(logs[0], rel=1e-4, abs=1e-6)


@cache
def train_unchanged(name: str) -> Any:
    return train(*SETTINGS[name], True)


class Intervention(BaseCallback):
    """Change a model in the middle of training."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        super().__init__()
        self.change = change

    def _on_step(self) -> bool:
        if self.num_timesteps == 40:
            self.change(self.model)
        return True


def get_layers(model: Any) -> Any:
    return model.policy.actor.latent_pi if isinstance(model, SAC) else model.policy.mlp_extractor.policy_net


def hook_layer(model: Any) -> None:
    get_layers(model)[0].register_forward_hook(lambda layer, inputs, output: output * 0.5)


def replace_activation(model: Any) -> None:
    get_layers(model)[1] = th.nn.LeakyReLU(0.3)


def replace_linear_layer(model: Any) -> None:
    layer = copy.deepcopy(get_layers(model)[2])
    layer.weight.data *= 0.5
    get_layers(model)[2] = layer


def freeze_layer(model: Any) -> None:
    get_layers(model)[0].requires_grad_(False)


def hook_gradient(model: Any) -> None:
    get_layers(model)[0].weight.register_hook(lambda gradient: gradient * 100)


def hook_optimizer(model: Any) -> None:
    optimizer = model.policy.actor.optimizer if isinstance(model, SAC) else model.policy.optimizer
    optimizer.register_step_pre_hook(lambda optimizer, *_: optimizer.param_groups[0].update(weight_decay=0.5))


def use_amsgrad(model: Any) -> None:
    optimizer = model.policy.actor.optimizer if isinstance(model, SAC) else model.policy.optimizer
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.state.clear()


def measure_gradient_of_actor(model: Any) -> None:
    if isinstance(model, SAC):
        model.actor.optimizer.zero_grad()
    hook_gradient(model)


def tie_layers(model: Any) -> None:
    if isinstance(model, PPO):
        extractor = model.policy.mlp_extractor
        extractor.value_net[0].weight = extractor.policy_net[0].weight
    hook_gradient(model)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("name", ["PPO, discrete", "SAC"])
@pytest.mark.parametrize(
    "change",
    [
        *(hook_layer, replace_activation, replace_linear_layer, freeze_layer, hook_gradient, hook_optimizer),
        *(use_amsgrad, measure_gradient_of_actor, tie_layers),
    ],
)
def test_changed_model_trains_as_the_change_says(name: str, change: Callable[[Any], None]) -> None:
    plain, fast = (train(*SETTINGS[name], is_accelerated, Intervention(change)) for is_accelerated in (False, True))
    assert_same_weights(plain, fast)
    with pytest.raises(AssertionError):
        assert_same_weights(train_unchanged(name), fast)


def hook_critic(model: Any) -> None:
    model.critic.qf0[0].register_forward_hook(lambda layer, inputs, output: output * 0.5)


def hook_extractor_of_critic(model: Any) -> None:
    model.critic.features_extractor.register_forward_hook(lambda module, inputs, output: output * 0.5)


def replace_critic_target(model: Any) -> None:
    model.policy.critic_target = model.critic_target = copy.deepcopy(model.critic)


def freeze_critic(model: Any) -> None:
    model.critic.qf0.requires_grad_(False)


def step_critic_with_actor(model: Any) -> None:
    model.actor.optimizer.add_param_group({"params": [*model.critic.parameters()]})


@pytest.mark.parametrize("name", ["TD3", "SAC"])
@pytest.mark.parametrize(
    "change",
    [hook_critic, hook_extractor_of_critic, replace_critic_target, freeze_critic, step_critic_with_actor],
)
def test_changed_critic_trains_as_the_change_says(name: str, change: Callable[[Any], None]) -> None:
    test_changed_model_trains_as_the_change_says(name, change)


def test_model_saved_while_accelerated_loads_in_sb3(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", make_vec_env(POLE, 2), n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    with accelerated(model):
        model.learn(64)
        model.save(tmp_path / "model.zip")
        copies = [copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))]
    loaded = PPO.load(tmp_path / "model.zip", env=make_vec_env(POLE, 2), device="cpu")
    assert_same_weights(model, loaded, tolerance=0)
    assert loaded.policy.optimizer.state_dict()["param_groups"] == model.policy.optimizer.state_dict()["param_groups"]
    observations = th.rand(5, 4)
    for copied in copies:
        parts = [copied, copied.optimizer, *copied.modules()]
        assert not any(type(part).__module__.startswith("toolkit") for part in parts)
        evaluations = [policy.evaluate_actions(observations, th.ones(5)) for policy in (copied, loaded.policy)]
        for one, other in zip(*evaluations, strict=True):
            th.testing.assert_close(one, other)
    assert loaded.learn(64).num_timesteps > 0


def test_everything_is_as_before_after_a_failure() -> None:
    def fail(model: Any) -> None:
        raise KeyboardInterrupt

    model = PPO("MlpPolicy", make_vec_env(POLE, 2), n_steps=64, batch_size=64, device="cpu")
    parts = [model, model.rollout_buffer, model.policy.optimizer, *model.policy.modules()]
    classes, clip = [*map(type, parts)], th.nn.utils.clip_grad_norm_
    with suppress(KeyboardInterrupt), accelerated(model):
        assert [*map(type, parts)] != classes
        model.learn(128, callback=Intervention(fail))
    assert model.num_timesteps == 40
    assert [*map(type, parts)] == classes
    assert th.nn.utils.clip_grad_norm_ is clip


@pytest.mark.parametrize("name", ["PPO, continuous", "A2C, continuous", "SAC"])
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_weights_that_are_not_finite_give_the_error_of_sb3(name: str) -> None:
    def spoil(model: Any) -> None:
        for parameter in model.policy.parameters():
            parameter.data.fill_(float("nan"))

    errors = []
    for is_accelerated in (False, True):
        with pytest.raises(ValueError, match="Expected parameter loc") as error:
            train(*SETTINGS[name], is_accelerated, Intervention(spoil))
        errors.append(str(error.value).replace(", grad_fn=<AddmmBackward0>", ""))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("cls", [PPO, SAC])
def test_model_is_freed_after_it_was_accelerated(cls: Any) -> None:
    model = cls("MlpPolicy", make_vec_env(PENDULUM, 1), device="cpu", policy_kwargs=copy.deepcopy(SMALL))
    policy = weakref.ref(model.policy)
    with accelerated(model):
        pass
    del model
    gc.collect()
    assert policy() is None


def test_functions_are_restored_after_contexts_that_overlap() -> None:
    functions = th.nn.utils.clip_grad_norm_, BaseModel.set_training_mode
    contexts = [accelerated(A2C("MlpPolicy", make_vec_env(POLE, 1), device="cpu")) for _ in range(2)]
    for context in contexts:
        context.__enter__()
    for context in contexts:
        assert th.nn.utils.clip_grad_norm_ is not functions[0]
        context.__exit__(None, None, None)
    assert (th.nn.utils.clip_grad_norm_, BaseModel.set_training_mode) == functions


class CountingExtractor(BaseFeaturesExtractor):
    """A linear layer that counts how often it is called."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 5)
        self.layer, self.n_calls = th.nn.Linear(observation_space.shape[0], 5), 0

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.n_calls += 1
        return self.layer(observations)


class PolicyWithActor(ActorCriticPolicy):
    """An own policy whose attribute has the name of another one's network."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.actor = self.mlp_extractor.policy_net


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("name", ["PPO, discrete", "SAC"])
def test_features_extractor_with_weights_runs_as_often_as_in_sb3(name: str) -> None:
    cls, env, settings = SETTINGS[name]
    settings = settings | {"policy_kwargs": SMALL | {"features_extractor_class": CountingExtractor}}
    plain, fast = (train(cls, env, settings, is_accelerated) for is_accelerated in (False, True))
    assert_same_weights(plain, fast)
    counts = [[getattr(module, "n_calls", 0) for module in model.policy.modules()] for model in (plain, fast)]
    assert counts[0] == counts[1]
    assert any(counts[0])


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_own_policy_trains_as_sb3_trains_it() -> None:
    plain, fast = (
        train(PPO, POLE, CLIPPED, is_accelerated, policy=PolicyWithActor) for is_accelerated in (False, True)
    )
    assert_same_weights(plain, fast, tolerance=0)


class SecondDerivatives(PPO):
    """Trains by the gradient of a gradient."""

    def train(self) -> None:
        values = self.policy.predict_values(th.rand(4, 4)).sum()
        gradients = th.autograd.grad(values, [*self.policy.mlp_extractor.value_net.parameters()], create_graph=True)
        sum(gradient.square().sum() for gradient in gradients).backward()
        self.policy.optimizer.step()


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_algorithm_with_another_train_method_is_left_alone() -> None:
    plain, fast = (train(SecondDerivatives, POLE, CLIPPED, is_accelerated) for is_accelerated in (False, True))
    assert_same_weights(plain, fast, tolerance=0)


@pytest.mark.parametrize("shapes", [((8, 20), (8, 31)), ((8, 2, 5), (8, 1, 9)), ((8, 2, 5), (8, 2, 9))])
@pytest.mark.parametrize("scale", [0.1, 1.0, 300.0])
@pytest.mark.parametrize("sum_over_quantiles", [True, False])
def test_quantile_loss_and_gradient_equal_those_of_all_pairs(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], scale: float, sum_over_quantiles: bool
) -> None:
    generator = th.Generator().manual_seed(0)
    # rounded, so that some distances are exactly 0 and 1
    current, target = ((th.randn(*shape, generator=generator) * scale * 4).round() / 4 + scale for shape in shapes)
    results = []
    for function in (quantile_huber_loss, fast_functions.quantile_huber_loss):
        quantiles = current.clone().requires_grad_()
        loss = function(quantiles, target, sum_over_quantiles=sum_over_quantiles)
        results.append((loss.detach(), *th.autograd.grad(loss, quantiles)))
    for expected, actual in zip(*results, strict=True):
        th.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-7)


def test_quantile_loss_of_shapes_that_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs to match"):
        fast_functions.quantile_huber_loss(th.rand(4, 3), th.rand(5, 3))
