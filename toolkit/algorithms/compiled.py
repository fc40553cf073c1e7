"""The whole update of Double DQN compiled to one function: targets, epochs, gradients, clipping and Adam."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.func import functional_call

from toolkit.algorithms.adam import AdamState, clip_gradients, flush_denormals, step_adam
from toolkit.algorithms.losses import get_weights, update_by_losses
from toolkit.algorithms.replay import StoredBatch
from toolkit.algorithms.targets import Minibatch
from toolkit.algorithms.updates import UpdateConfig, update_networks

get_constants = operator.itemgetter("betas", "eps", "weight_decay", "maximize", "decoupled_weight_decay")


class UpdateInputs(NamedTuple):
    """What an update reads and changes.

    :param parameters: the online network's, which the optimizer steps
    :param options: the optimizer's group of parameters
    """

    parameters: list[nn.Parameter]
    target_parameters: list[nn.Parameter]
    options: dict[str, Any]
    state: AdamState
    batch: Minibatch | StoredBatch

    def describe(self) -> tuple[Any, ...]:
        """Return what the inputs of one compiled update share: constants, and layouts of tensors."""
        tensors = (tuple(self.parameters), tuple(self.target_parameters), *map(tuple, self.state), self.batch)
        return get_constants(self.options), describe_layout(tensors)


CompiledUpdate = Callable[[UpdateInputs, float, Any], th.Tensor]  # inputs, learning rate and another minibatch


def compile_update(
    config: UpdateConfig, networks: tuple[nn.Module, nn.Module], inputs: UpdateInputs
) -> CompiledUpdate:
    """Compile the updates that a config makes on such inputs. This takes 10 to 40 seconds.

    :param networks: the online and the target network
    :return: a function that changes the networks and Adam's state in place and returns the losses before each epoch,
        followed by the errors of transitions with weights
    :raises Exception: of many kinds, if PyTorch cannot compile the update
    """
    options, batch_class = inputs.options, type(inputs.batch)
    last_rate = float(options["lr"])
    learning_rate = th.tensor(last_rate, device=inputs.parameters[0].device)

    def update(weights: Any, target_weights: Any, state: Any, learning_rate: th.Tensor, batch: Any) -> th.Tensor:
        def step_optimizer(loss: th.Tensor) -> None:
            gradients = [*th.autograd.grad(loss, weights)]
            with th.no_grad():
                clip_gradients(gradients, config.max_grad_norm)
            step_adam(options, weights, gradients, AdamState(*state), lr=learning_rate, fused=False, foreach=False)

        pairs = zip(networks, (weights, target_weights), strict=True)
        online, target = (_make_q_function(network, parameters) for network, parameters in pairs)
        minibatch: Any = batch_class(*batch)
        if batch_class is StoredBatch:
            minibatch = minibatch.gather()
        if get_weights(minibatch) is not None:
            losses, errors = update_by_losses(config, online, target, minibatch, step_optimizer)
            return th.cat([th.stack(losses), errors])
        return th.stack(update_networks(config, online, target, minibatch, step_optimizer))

    def convert(inputs: UpdateInputs, batch: Any) -> tuple[Any, ...]:
        return inputs.parameters, inputs.target_parameters, tuple(inputs.state), learning_rate, tuple(batch)

    def run(inputs: UpdateInputs, rate: float, batch: Any) -> Any:
        nonlocal last_rate
        if rate != last_rate:
            learning_rate.fill_(rate)
            last_rate = rate
        for parameter in inputs.parameters:
            parameter.grad = None  # a gradient of an earlier update would be mistaken for one of this update
        with flush_denormals(options):
            return compiled(*convert(inputs, batch))

    tracing = th._dynamo.config.patch(trace_autograd_ops=True, specialize_float=True)  # constants stay constants
    with tracing, th._inductor.config.patch(compile_threads=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler uses what PyTorch has deprecated
        ahead_of_time = th.compile(update, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
        compiled = ahead_of_time.aot_compile((convert(inputs, inputs.batch), {}))  # type: ignore[attr-defined]
    compiled.disable_guard_check()  # the caller knows what an update was compiled for, in a third of the time
    return run


def _make_q_function(network: nn.Module, weights: list[th.Tensor]) -> Callable[[Any], Any]:
    """Return a network as a function of observations, with these weights in place of its own."""
    named = dict(zip((name for name, _ in network.named_parameters()), weights, strict=True))
    return lambda observations: functional_call(network, named, (observations,))


def describe_layout(value: Any) -> Any:
    """Return what tensors of the same layout share: classes, shapes, strides, types and devices."""
    if isinstance(value, th.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, describe_layout(item)) for name, item in value.items())
    return (type(value), *map(describe_layout, value)) if isinstance(value, tuple) else None
