"""DoubleDQN learns and acts like SB3's DQN whatever users do to its parts, before or while it learns."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune

from toolkit.algorithms import DoubleDQN

STEPS, LEARNING_STARTS, CHANGE_AT = 60, 15, 35
CLOSE = 1e-6
Change = Callable[[Any], Any]
PARAMS: dict[str, Any] = {
    **{"seed": 0, "learning_rate": 1e-2, "buffer_size": 200, "batch_size": 8, "learning_starts": LEARNING_STARTS},
    **{"train_freq": 1, "target_update_interval": 20, "exploration_fraction": 0.4},
}


class RandomEnv(gym.Env[Any, Any]):
    """An environment with random observations and ends, which rewards one action."""

    observation_space = spaces.Box(-1, 1, (4,))
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        terminated, truncated = (bool(chance < 0.1) for chance in self.np_random.random(2))
        return self._observe(), float(action == 1) + float(self.np_random.normal()), terminated, truncated, {}

    def _observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


class Recorder(BaseCallback):
    """Records the actions, and makes a change at a step."""

    def __init__(self, change: Change | None = None) -> None:
        super().__init__()
        self.actions: list[int] = []
        self.change = change

    def _on_step(self) -> bool:
        self.actions += self.locals["actions"].tolist()
        if self.n_calls == CHANGE_AT and self.change:
            self.change(self.model)
        return True


def make_model(cls: type[DQN], **params: Any) -> Any:
    """Make a model whose same arguments give the same results with both classes."""
    own = {"double": False, "compile": False} if cls is DoubleDQN else {}
    policy_kwargs = {"net_arch": [16, 16], "optimizer_kwargs": {"fused": True}} | params.pop("policy_kwargs", {})
    env = make_vec_env(RandomEnv, params.pop("n_envs", 1), seed=0)
    return cls(params.pop("policy", "MlpPolicy"), env, **PARAMS | own | params, policy_kwargs=policy_kwargs)


def train(cls: type[DQN], change: Change | None = None, in_callback: bool = True) -> tuple[Any, list[int]]:
    """Return a model that was changed before or while it learnt, and all actions that it took."""
    model, recorder = make_model(cls), Recorder(change if in_callback else None)
    if change and not in_callback:
        th.manual_seed(3)
        change(model)
    model.learn(STEPS, callback=recorder)
    return model, recorder.actions


def list_tensors(model: Any) -> list[th.Tensor]:
    state = model.policy.optimizer.state_dict()["state"]
    moments = [value for values in state.values() for value in values.values() if isinstance(value, th.Tensor)]
    return [*model.policy.state_dict().values(), *model.q_net.state_dict().values(), *moments]


def assert_equal_models(model: Any, other: Any) -> None:
    tensors, others = list_tensors(model), list_tensors(other)
    assert len(tensors) == len(others)
    for tensor, expected in zip(tensors, others, strict=True):
        assert th.allclose(tensor, expected, rtol=0, atol=CLOSE)
    assert {module.training for module in model.q_net.modules()} == {
        module.training for module in other.q_net.modules()
    }


# --- What users change -----------------------------------------------------------------------------------------------


def make_adam(model: Any, cls: type[th.optim.Optimizer] = th.optim.Adam) -> None:
    model.policy.optimizer = cls(model.q_net.parameters(), lr=1e-2)


def replace_policy(model: Any) -> None:
    th.manual_seed(5)
    model.policy = model.policy_class(
        model.observation_space, model.action_space, model.lr_schedule, **model.policy_kwargs
    )
    model._create_aliases()


def replace_policy_alone(model: Any) -> None:
    """Leave the model's names for the networks as they are: SB3 acts by one network and trains another."""
    q_net, q_net_target = model.q_net, model.q_net_target
    replace_policy(model)
    model.q_net, model.q_net_target = q_net, q_net_target


def replace_network(model: Any) -> None:
    th.manual_seed(5)
    model.policy.q_net = model.policy.make_q_net()
    model._create_aliases()
    make_adam(model)


def replace_layer(model: Any) -> None:
    th.manual_seed(5)
    model.q_net.q_net[-1] = th.nn.Linear(16, 3)
    make_adam(model)


def replace_layer_without_optimizing_it(model: Any) -> None:
    th.manual_seed(5)
    model.q_net.q_net[2] = th.nn.Linear(16, 16)


def replace_attributes_of_layer(model: Any) -> None:
    th.manual_seed(5)
    vars(model.q_net.q_net[2]).update(vars(th.nn.Linear(16, 16)))
    make_adam(model)


def replace_parameter(model: Any) -> None:
    model.q_net.q_net[2].weight = th.nn.Parameter(-model.q_net.q_net[2].weight.detach())
    make_adam(model)


def assign_parameters(model: Any) -> None:
    model.q_net.load_state_dict({name: -value for name, value in model.q_net.state_dict().items()}, assign=True)
    make_adam(model)


def assign_parameters_without_optimizing_them(model: Any) -> None:
    model.q_net.load_state_dict({name: -value for name, value in model.q_net.state_dict().items()}, assign=True)


def set_parameters(model: Any) -> None:
    parameters = copy.deepcopy(model.get_parameters())
    for value in parameters["policy"].values():
        value.neg_()
    model.set_parameters(parameters)


def transpose_weights(model: Any) -> None:
    model.q_net.q_net[2].weight.data = model.q_net.q_net[2].weight.data.T.contiguous()


def compute_weights_elsewhere(model: Any) -> None:
    """Let a plain tensor take the place of a parameter, as hypernetworks do."""
    for network in (model.q_net, model.q_net_target):
        layer = network.q_net[2]
        weight = layer.weight.detach() / 2
        del layer.weight
        layer.weight = weight
    make_adam(model)


def forbid_to_learn_layer(model: Any) -> None:
    model.q_net.q_net[0].requires_grad_(False)


def leave_layer_out_of_optimizer(model: Any) -> None:
    model.policy.optimizer = th.optim.Adam(model.q_net.q_net[2:].parameters(), lr=1e-2)


def optimize_in_two_groups(model: Any) -> None:
    layers = model.q_net.q_net
    groups = [{"params": layers[:2].parameters()}, {"params": layers[2:].parameters(), "weight_decay": 0.1}]
    model.policy.optimizer = th.optim.Adam(groups, lr=1e-2)


def reset_moments(model: Any) -> None:
    model.policy.optimizer.state = defaultdict(dict)


def halve_learning_rate_of_step(model: Any) -> None:
    optimizer, step = model.policy.optimizer, model.policy.optimizer.step

    def step_at_half_rate() -> None:
        optimizer.param_groups[0]["lr"] /= 2
        step()

    optimizer.step = step_at_half_rate


def clip_in_optimizer(model: Any) -> None:
    optimizer = model.policy.optimizer
    optimizer.register_step_pre_hook(lambda *_: th.nn.utils.clip_grad_value_(model.q_net.parameters(), 1e-3))


def accumulate_gradients(model: Any) -> None:
    model.policy.optimizer.zero_grad = lambda *args, **kwargs: None


def give_target_gradients(model: Any) -> None:
    model.q_net_target(th.ones(1, 4)).sum().backward()


def halve(_: Any, __: Any, output: th.Tensor) -> th.Tensor:
    return output / 2


def hook_layer(model: Any) -> None:
    model.q_net.q_net[2].register_forward_hook(halve)


def hook_layer_in_new_dictionary(model: Any) -> None:
    model.q_net.q_net[2]._forward_hooks = type(model.q_net.q_net[2]._forward_hooks)()
    hook_layer(model)


def hook_layer_of_target(model: Any) -> None:
    model.q_net_target.q_net[2].register_forward_hook(halve)


def hook_and_unhook_layer(model: Any) -> None:
    model.q_net.q_net[2].register_forward_hook(halve).remove()


def hook_gradient(model: Any) -> None:
    model.q_net.q_net[2].weight.register_hook(lambda gradient: gradient / 2)


def normalize_spectrum(model: Any) -> None:
    th.manual_seed(5)
    for network in (model.q_net, model.q_net_target):
        th.nn.utils.spectral_norm(network.q_net[2])
    make_adam(model)


def parametrize_layer(model: Any) -> None:
    class Half(th.nn.Module):
        def forward(self, weight: th.Tensor) -> th.Tensor:
            return weight / 2

    for network in (model.q_net, model.q_net_target):
        parametrize.register_parametrization(network.q_net[2], "weight", Half())
    make_adam(model)


def prune_layer(model: Any) -> None:
    for network in (model.q_net, model.q_net_target):
        prune.l1_unstructured(network.q_net[2], "weight", 0.5)
    make_adam(model)


def insert_dropout(model: Any) -> None:
    model.q_net.q_net.insert(2, th.nn.Dropout(0.5))


def insert_batch_norm(model: Any) -> None:
    for network in (model.q_net, model.q_net_target):
        network.q_net.insert(2, th.nn.BatchNorm1d(16).train(network.training))


def delete_layers(model: Any) -> None:
    for network in (model.q_net, model.q_net_target):
        del network.q_net[2:4]


def change_class_of_layer(model: Any) -> None:
    class Doubled(th.nn.Linear):
        def forward(self, inputs: th.Tensor) -> th.Tensor:
            return 2 * super().forward(inputs)

    model.q_net.q_net[2].__class__ = Doubled


def change_class_of_policy(model: Any) -> None:
    class Contrary(type(model.policy)):  # type: ignore[misc]
        def _predict(self, *args: Any, **kwargs: Any) -> th.Tensor:
            return 2 - super()._predict(*args, **kwargs)  # type: ignore[no-any-return]

    model.policy.__class__ = Contrary


def wrap(owner: Callable[[Any], Any], name: str, result: Callable[[Any], Any]) -> Change:
    """Return a change that sets a method on an object, which changes the result of the method of before."""

    def change(model: Any) -> None:
        method = getattr(owner(model), name)
        setattr(owner(model), name, lambda *args, **kwargs: result(method(*args, **kwargs)))

    return change


def replace_arrays(convert: Callable[[Any], Any]) -> Change:
    def change(model: Any) -> None:
        for name in ("observations", "next_observations", "rewards"):
            setattr(model.replay_buffer, name, convert(getattr(model.replay_buffer, name)))

    return change


def replace_buffer(model: Any) -> None:
    buffer = copy.deepcopy(model.replay_buffer)
    buffer.rewards *= -1
    model.replay_buffer = buffer


CHANGES = [
    *(replace_policy, replace_policy_alone, replace_network, replace_layer, replace_layer_without_optimizing_it),
    *(replace_attributes_of_layer, replace_parameter, assign_parameters, assign_parameters_without_optimizing_them),
    *(set_parameters, transpose_weights, compute_weights_elsewhere, forbid_to_learn_layer),
    *(leave_layer_out_of_optimizer, optimize_in_two_groups, reset_moments, halve_learning_rate_of_step),
    *(clip_in_optimizer, accumulate_gradients, give_target_gradients, hook_layer, hook_layer_in_new_dictionary),
    *(hook_layer_of_target, hook_and_unhook_layer, hook_gradient, normalize_spectrum, parametrize_layer, prune_layer),
    *(insert_dropout, insert_batch_norm, delete_layers, change_class_of_layer, change_class_of_policy, replace_buffer),
]
METHODS = {
    "model.predict": wrap(lambda model: model, "predict", lambda result: (2 - result[0], None)),
    "policy.predict": wrap(lambda model: model.policy, "predict", lambda result: (2 - result[0], None)),
    "policy._predict": wrap(lambda model: model.policy, "_predict", lambda actions: 2 - actions),
    "policy.obs_to_tensor": wrap(lambda model: model.policy, "obs_to_tensor", lambda result: (-result[0], result[1])),
    "q_net._predict": wrap(lambda model: model.q_net, "_predict", lambda actions: 2 - actions),
    "q_net.forward": wrap(lambda model: model.q_net, "forward", lambda values: values / 2),
    "q_net.extract_features": wrap(lambda model: model.q_net, "extract_features", lambda features: -features),
    "q_net_target.forward": wrap(lambda model: model.q_net_target, "forward", lambda values: values / 2),
    "layer.forward": wrap(lambda model: model.q_net.q_net[2], "forward", lambda values: values / 2),
    "extractor.forward": wrap(lambda model: model.q_net.features_extractor, "forward", lambda values: values / 2),
    "buffer.sample": wrap(
        lambda model: model.replay_buffer, "sample", lambda batch: batch._replace(rewards=-batch.rewards)
    ),
    "buffer._get_samples": wrap(
        lambda model: model.replay_buffer, "_get_samples", lambda batch: batch._replace(rewards=-batch.rewards)
    ),
    "buffer._normalize_obs": wrap(lambda model: model.replay_buffer, "_normalize_obs", lambda values: -values),
    "buffer._normalize_reward": wrap(lambda model: model.replay_buffer, "_normalize_reward", lambda values: -values),
    "buffer.to_torch": wrap(lambda model: model.replay_buffer, "to_torch", lambda tensor: tensor / 2),
    "optimizer.step": lambda model: setattr(model.policy.optimizer, "step", lambda *_, **__: None),
    "fortran-arrays": replace_arrays(np.asfortranarray),
    "float64-arrays": replace_arrays(lambda array: array.astype(np.float64)),
    "memory-shared": lambda model: model.policy.share_memory(),
}


ALL_CHANGES = {change.__name__: change for change in CHANGES} | METHODS


def assert_equal_training(change: Change, in_callback: bool) -> None:
    (expected, expected_actions), (model, actions) = (train(cls, change, in_callback) for cls in (DQN, DoubleDQN))
    assert model._n_updates == expected._n_updates == STEPS - LEARNING_STARTS
    assert actions == expected_actions
    assert_equal_models(model, expected)


@pytest.mark.parametrize("change", ALL_CHANGES)
def test_model_changed_in_callback_equals_stock_dqn(change: str) -> None:
    assert_equal_training(ALL_CHANGES[change], in_callback=True)


@pytest.mark.parametrize(
    "change",
    [
        *("replace_policy", "replace_policy_alone", "replace_layer", "assign_parameters", "normalize_spectrum"),
        *("insert_dropout", "model.predict", "buffer.sample"),
    ],
)
def test_model_changed_before_learning_equals_stock_dqn(change: str) -> None:
    assert_equal_training(ALL_CHANGES[change], in_callback=False)


@pytest.mark.parametrize("change", ["replace_policy", "replace_layer", "forbid_to_learn_layer", "q_net.forward"])
def test_model_changed_between_two_trainings_equals_stock_dqn(change: str) -> None:
    models = []
    for cls in (DQN, DoubleDQN):
        model = make_model(cls).learn(30)
        ALL_CHANGES[change](model)
        models.append(model.learn(30, reset_num_timesteps=False))
    assert_equal_models(*models)


@pytest.mark.parametrize(
    ("owner", "name", "result"),
    [
        (QNetwork, "forward", lambda values: values / 2),
        (QNetwork, "_predict", lambda actions: 2 - actions),
        (DQNPolicy, "_predict", lambda actions: 2 - actions),
        (DQN, "predict", lambda prediction: (2 - prediction[0], None)),
        (ReplayBuffer, "_get_samples", lambda batch: batch._replace(rewards=-batch.rewards)),
        (th.nn.Linear, "forward", lambda values: values / 2),
        (th.optim.Adam, "step", lambda _: None),
        (th.nn.functional, "smooth_l1_loss", lambda loss: loss / 2),
    ],
)
def test_functions_replaced_on_classes_are_called(owner: Any, name: str, result: Callable[[Any], Any]) -> None:
    function = getattr(owner, name)
    trained = [train(DoubleDQN)]
    with mock.patch.object(owner, name, lambda *args, **kwargs: result(function(*args, **kwargs))):
        trained += [train(cls) for cls in (DQN, DoubleDQN)]
    (_, unchanged_actions), (expected, expected_actions), (model, actions) = trained
    assert actions == expected_actions
    assert_equal_models(model, expected)
    assert train(DoubleDQN)[1] == unchanged_actions, "the functions are in place again"


def test_global_module_hooks_are_called_as_by_stock_dqn() -> None:
    calls: list[type] = []
    hook = register_module_forward_hook(lambda module, *_: calls.append(type(module)))
    try:
        counts = []
        for cls in (DQN, DoubleDQN):
            calls.clear()
            train(cls)
            counts.append(len(calls))
    finally:
        hook.remove()
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    "name", ["predict", "policy.set_training_mode", "replay_buffer.sample", "policy.optimizer.step"]
)
def test_watched_methods_are_called_as_often_as_by_stock_dqn(name: str) -> None:
    counts = []
    for cls in (DQN, DoubleDQN):
        model = make_model(cls)
        *path, method = name.split(".")
        owner = model
        for part in path:
            owner = getattr(owner, part)
        with mock.patch.object(owner, method, wraps=getattr(owner, method)) as watched:
            model.learn(STEPS)
        counts.append(watched.call_count)
    assert counts[0] == counts[1] > 0


# --- Copies ----------------------------------------------------------------------------------------------------------


def save_with_torch(model: Any) -> Any:
    file = io.BytesIO()
    th.save(model, file)
    file.seek(0)
    return th.load(file, weights_only=False)


@pytest.mark.parametrize("has_learnt", [False, True])
@pytest.mark.parametrize(
    "copy_model", [lambda model: pickle.loads(pickle.dumps(model)), save_with_torch, copy.deepcopy]
)
def test_copied_model_learns_on_like_stock_dqn(copy_model: Callable[[Any], Any], has_learnt: bool) -> None:
    models = []
    for cls in (DQN, DoubleDQN):
        model = make_model(cls)
        if has_learnt:
            model.learn(40)
        models.append(copy_model(model).learn(40, reset_num_timesteps=False))
    assert_equal_models(*models)


def test_pickled_policy_acts_like_original() -> None:
    model = make_model(DoubleDQN).learn(40)
    policy = pickle.loads(pickle.dumps(model.policy))
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
    np.testing.assert_array_equal(policy.predict(observations)[0], model.policy.predict(observations)[0])


@pytest.mark.parametrize("compile", [False, True])
def test_released_buffer_frees_its_arrays(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.algorithms.learner.compile_update", lambda *_: lambda *_: th.zeros(1))
    model = make_model(DoubleDQN, compile=compile).learn(40)
    observations = weakref.ref(model.replay_buffer.observations)
    model.replay_buffer = None
    gc.collect()
    assert observations() is None


# --- Compiled updates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        *("hook_layer", "hook_layer_of_target", "hook_gradient", "forbid_to_learn_layer", "parametrize_layer"),
        *("insert_dropout", "change_class_of_layer", "optimize_in_two_groups", "leave_layer_out_of_optimizer"),
        *("give_target_gradients", "q_net.forward", "layer.forward", "optimizer.step"),
    ],
)
def test_compiled_update_is_not_used_for_changed_model(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def update(*_: Any) -> th.Tensor:
        calls.append(True)
        return th.zeros(1)

    monkeypatch.setattr("toolkit.algorithms.learner.compile_update", lambda *_: update)
    model = make_model(DoubleDQN, compile=True).learn(40)
    assert calls
    ALL_CHANGES[change](model)
    calls.clear()
    model.train(3, 8)
    assert not calls
