"""The whole update of Double DQN compiled to one function: targets, epochs, gradients, clipping and Adam."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch.func import functional_call

from toolkit.algorithms.adam import AdamState, clip_gradients, step_adam
from toolkit.algorithms.replay import StoredBatch
from toolkit.algorithms.targets import Minibatch
from toolkit.algorithms.updates import UpdateConfig, update_networks

CompiledUpdate = Callable[[AdamState, Minibatch | StoredBatch], th.Tensor]


def compile_update(
    policy: DQNPolicy, config: UpdateConfig, state: AdamState, batch: Minibatch | StoredBatch
) -> CompiledUpdate:
    """Compile the updates that a config makes on minibatches like this one. This takes 10 to 40 seconds.

    :return: a function that changes the networks and Adam's state in place and returns the losses before each epoch
    :raises Exception: of many kinds, if PyTorch cannot compile the update
    """
    (options,) = policy.optimizer.param_groups
    networks, batch_class = (policy.q_net, policy.q_net_target), type(batch)
    weights, target_weights = options["params"], [*policy.q_net_target.parameters()]
    learning_rate = th.tensor(float(options["lr"]), device=policy.device)

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
        return th.stack(update_networks(config, online, target, minibatch, step_optimizer))

    def run(state: AdamState, batch: Minibatch | StoredBatch) -> Any:
        learning_rate.fill_(policy.optimizer.param_groups[0]["lr"])  # loading a model makes new groups
        return compiled(weights, target_weights, tuple(state), learning_rate, tuple(batch))

    arguments = (weights, target_weights, tuple(state), learning_rate, tuple(batch))
    tracing = th._dynamo.config.patch(trace_autograd_ops=True, specialize_float=True)  # constants stay constants
    with tracing, th._inductor.config.patch(compile_threads=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler uses what PyTorch has deprecated
        ahead_of_time = th.compile(update, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
        compiled = ahead_of_time.aot_compile((arguments, {}))  # type: ignore[attr-defined]
    compiled.disable_guard_check()  # the caller knows what an update was compiled for, in a third of the time
    return run


def _make_q_function(network: QNetwork, weights: list[th.Tensor]) -> Callable[[Any], Any]:
    """Return a network as a function of observations, with these weights in place of its own."""
    named = dict(zip((name for name, _ in network.named_parameters()), weights, strict=True))
    return lambda observations: functional_call(network, named, (observations,))
