"""One update of Double DQN on one minibatch, in functions of tensors that can be compiled as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, ReplayBufferSamples
from stable_baselines3.dqn.policies import QNetwork
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit
from torch.optim.adam import adam

from toolkit.algorithms.policies import DuelingHead, DuelingQNetwork

LOSSES = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}
_WITHOUT_MODES = {
    *(nn.Sequential, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Linear, nn.Conv2d, nn.LayerNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid),
    *(QNetwork, DuelingQNetwork, DuelingHead, FlattenExtractor, NatureCNN, CombinedExtractor),
}

Minibatch = ReplayBufferSamples | DictReplayBufferSamples
Values = Callable[[PyTorchObs], th.Tensor]  # observations to Q-values (batch, actions)


class UpdateConfig(NamedTuple):
    """What an update computes: parameters of :class:`toolkit.algorithms.DoubleDQN` under their names."""

    double: bool
    loss: str
    loss_over_all_actions: bool
    n_epochs: int
    gamma: float
    max_grad_norm: float


def learn(
    rule: UpdateConfig, online: Values, target: Values, batch: Minibatch, descend: Callable[[th.Tensor], None]
) -> list[th.Tensor]:
    """Make a minibatch's updates; return the losses before each.

    :param descend: makes one step of the optimizer for a loss
    """
    with th.no_grad():
        goals = targets(rule, online, target, batch)
    losses = []
    for _ in range(rule.n_epochs):
        values = online(batch.observations)
        if not rule.loss_over_all_actions:
            values = values.gather(dim=1, index=batch.actions.long())
        loss = LOSSES[rule.loss](values, goals)
        descend(loss)
        losses.append(loss.detach())
    return losses


def targets(rule: UpdateConfig, online: Values, target: Values, batch: Minibatch) -> th.Tensor:
    """Return the values to learn: (batch, 1) for the actions taken, or (batch, actions) for all of them."""
    next_values = target(batch.next_observations)
    if rule.double:
        chosen = online(batch.next_observations).argmax(dim=1, keepdim=True)
        next_values = next_values.gather(dim=1, index=chosen)
    else:
        next_values = next_values.max(dim=1, keepdim=True).values
    discounts = rule.gamma if batch.discounts is None else batch.discounts
    goals = batch.rewards + (1 - batch.dones) * discounts * next_values
    if not rule.loss_over_all_actions:
        return goals
    return online(batch.observations).scatter(dim=1, index=batch.actions.long(), src=goals)


def clip_(gradients: list[th.Tensor], max_norm: float) -> None:
    """Scale gradients in place to a norm of at most ``max_norm``, as ``clip_grad_norm_`` does with more ado."""
    if max_norm == math.inf:
        return
    # the compiler makes one loop of these; uncompiled, one call is faster
    compiling = th.compiler.is_compiling()
    norms = [th.linalg.vector_norm(one) for one in gradients] if compiling else th._foreach_norm(gradients)
    scale = th.clamp(max_norm / (th.linalg.vector_norm(th.stack(norms)) + 1e-6), max=1.0)
    th._foreach_mul_(gradients, scale)


class Moments(NamedTuple):
    """What Adam remembers of each parameter, as ``torch.optim.Adam`` keeps it."""

    means: list[th.Tensor]
    squares: list[th.Tensor]
    steps: list[th.Tensor]


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """Say whether :func:`adam_` makes an optimizer's step: an Adam or AdamW with one group of parameters, as usual."""
    options, *more = optimizer.param_groups
    if type(optimizer) not in (th.optim.Adam, th.optim.AdamW) or more:
        return False
    unusual = any(options[name] for name in ("amsgrad", "capturable", "differentiable"))
    watched = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer)
    return not unusual and not watched


def moments_of(optimizer: th.optim.Optimizer) -> Moments | None:
    """Return a plain Adam's moments once it has made its first step, which is left to itself; before that None."""
    if not is_plain_adam(optimizer):
        return None
    states = [optimizer.state.get(parameter) for parameter in optimizer.param_groups[0]["params"]]
    if not all(states):
        return None
    return Moments(*([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")))  # type: ignore[index]


@th.no_grad()
def adam_(options: dict[str, Any], parameters: Any, gradients: list[th.Tensor], moments: Moments, **more: Any) -> None:
    """Make one step of Adam in place, without what the optimizer's own ``step`` does around it.

    :param options: the optimizer's group of parameters
    :param more: options that replace those
    """
    options = options | more
    beta1, beta2 = options["betas"]
    if options["fused"] and len({(parameter.device, parameter.dtype) for parameter in parameters}) == 1:
        # what `adam` calls in the end, after five times as long
        th._foreach_add_(moments.steps, 1)
        make_step = th._fused_adamw_ if options["decoupled_weight_decay"] else th._fused_adam_
        chosen = {name: options[name] for name in ("lr", "weight_decay", "eps", "maximize", "amsgrad")}
        make_step(parameters, gradients, *moments[:2], [], moments.steps, beta1=beta1, beta2=beta2, **chosen)
        return
    names = ("foreach", "fused", "lr", "weight_decay", "eps", "maximize", "decoupled_weight_decay")
    chosen = {name: options[name] for name in names}
    adam(parameters, gradients, *moments[:2], [], moments.steps, amsgrad=False, beta1=beta1, beta2=beta2, **chosen)


def is_watched(parameter: th.nn.Parameter) -> bool:
    """Say whether a parameter is frozen, or something happens to its gradient that only autograd knows."""
    return not parameter.requires_grad or bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def kind_of(part: Any) -> Any:
    """Return what must not change between two minibatches of one compiled update: sizes, layout, types, device."""
    if isinstance(part, th.Tensor):
        return part.shape, part.stride(), part.dtype, part.device
    if isinstance(part, dict):
        return tuple((name, kind_of(value)) for name, value in part.items())
    return (type(part), *map(kind_of, part)) if isinstance(part, tuple) else None


class QValues:
    """A Q-network as a function of observations, without what its calls need not do.

    SB3 switches a network's mode for every action and every training, and prepares observations also where vectors of
    float32 are ready as they are; for a small network that, and what PyTorch does around each layer, takes longer than
    the layers. Here modes are switched only if a module may compute otherwise in training, and layers are
    called bare unless a module has hooks.
    """

    def __init__(self, network: QNetwork) -> None:
        self.network = network
        self.has_modes = any(type(module) not in _WITHOUT_MODES for module in network.modules())
        self._hooks = [
            hooks
            for module in network.modules()
            for name, hooks in vars(module).items()
            if name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ]
        space = network.observation_space
        is_vector = len(space.shape or ()) == 1 and space.dtype == np.float32
        flat = type(network) in (QNetwork, DuelingQNetwork) and type(network.features_extractor) is FlattenExtractor
        layers = [*network.q_net] if flat and is_vector and not self.has_modes else []
        self._layers = [_bare(layer) for layer in layers]
        self._in_numpy = _InNumPy(layers) if _InNumPy.can_run(layers) else None

    @property
    def is_bare(self) -> bool:
        """Whether layers are called bare, as long as nothing hooks them."""
        return bool(self._layers)

    @property
    def is_hooked(self) -> bool:
        """Whether a module has hooks, which bare layers would not call."""
        return any(self._hooks)

    def greedy(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Return the actions (batch,) of the greatest Q-values for an array of observations.

        For a small network NumPy needs a quarter of the time that PyTorch takes, nearly all of it around the
        arithmetic.
        """
        if self._in_numpy and len(observations) <= self._in_numpy.most_observations and not self.is_hooked:
            return self._in_numpy(observations).argmax(axis=1)  # type: ignore[no-any-return]
        with th.no_grad():
            return self(th.from_numpy(observations).to(self.network.device)).argmax(dim=1).cpu().numpy()

    def __call__(self, observations: PyTorchObs) -> th.Tensor:
        """Map observations to Q-values (batch, actions), in evaluation mode where no gradients are wanted."""
        if self.is_bare and not self.is_hooked:
            values: Any = observations.float()  # type: ignore[union-attr]
            for layer in self._layers:
                values = layer(values)
            return values  # type: ignore[no-any-return]
        mode = self.network.training
        if not self.has_modes or mode == th.is_grad_enabled():
            return self.network(observations)  # type: ignore[no-any-return]
        self.network.set_training_mode(not mode)
        values = self.network(observations)
        self.network.set_training_mode(mode)
        return values  # type: ignore[no-any-return]


def _bare(layer: nn.Module) -> Callable[[th.Tensor], th.Tensor]:
    """Return what a layer computes, without what ``nn.Module`` does to look up its parameters."""
    if type(layer) is nn.Linear:
        return partial(_linear, layer._parameters)  # and no closure: `deepcopy` has to reach the parameters
    return th.relu if type(layer) is nn.ReLU else layer.forward


def _linear(parameters: dict[str, Any], values: th.Tensor) -> th.Tensor:
    return F.linear(values, parameters["weight"], parameters["bias"])


class _InNumPy:
    """Layers of a network in the CPU's memory, run by NumPy on the same weights."""

    ACTIVATIONS: ClassVar[dict[type[nn.Module], Callable[[NDArray[Any]], NDArray[Any]]]] = {
        nn.ReLU: lambda values: np.maximum(values, 0, out=values),
        nn.Tanh: lambda values: np.tanh(values, out=values),
    }

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = layers
        self._parameters = [parameter for layer in layers for parameter in layer.parameters()]
        self._look_up()
        # With more multiplications in a layer arithmetic counts, not calls; and NumPy's library may start threads
        self.most_observations = 32_768 // max(parameter.numel() for parameter in self._parameters)

    @classmethod
    def can_run(cls, layers: list[nn.Module]) -> bool:
        linear = [layer for layer in layers if type(layer) is nn.Linear and layer.bias is not None]
        known = [*linear, *(layer for layer in layers if type(layer) in cls.ACTIVATIONS)]
        return bool(linear) and len(known) == len(layers) and linear[0].weight.device.type == "cpu"

    def _look_up(self) -> None:
        self._addresses = [parameter.data_ptr() for parameter in self._parameters]
        self._steps = [
            (layer.weight.detach().numpy().T, layer.bias.detach().numpy(), None)
            if isinstance(layer, nn.Linear)
            else (None, None, self.ACTIVATIONS[type(layer)])
            for layer in self._layers
        ]

    def __call__(self, observations: NDArray[Any]) -> NDArray[Any]:
        if [parameter.data_ptr() for parameter in self._parameters] != self._addresses:
            self._look_up()
        values = observations
        for weights, bias, activation in self._steps:
            values = activation(values) if activation else values @ weights + bias
        return values
