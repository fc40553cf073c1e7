"""The whole update of Double DQN compiled to one function: targets, passes, gradients, clipping and Adam."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch.func import functional_call

from toolkit.algorithms.replay import Stored
from toolkit.algorithms.updates import Minibatch, Moments, UpdateConfig, adam_, clip_, learn

Update = Callable[[Moments, Minibatch | Stored], th.Tensor]


def compile_update(policy: DQNPolicy, rule: UpdateConfig, moments: Moments, batch: Minibatch | Stored) -> Update:
    """Compile the updates that one rule makes on minibatches like this one; takes seconds, and changes nothing.

    What is returned changes the networks and Adam's moments in place, and gives the losses before each pass.

    :raises Exception: of whatever kind PyTorch has for what it cannot compile
    """
    (options,) = policy.optimizer.param_groups
    networks, kind = (policy.q_net, policy.q_net_target), type(batch)
    weights, target_weights = options["params"], [*policy.q_net_target.parameters()]
    rate = th.tensor(float(options["lr"]), device=policy.device)

    def update(weights: Any, target_weights: Any, moments: Any, rate: th.Tensor, batch: Any) -> th.Tensor:
        def descend(loss: th.Tensor) -> None:
            gradients = [*th.autograd.grad(loss, weights)]
            with th.no_grad():
                clip_(gradients, rule.max_grad_norm)
            adam_(options, weights, gradients, Moments(*moments), lr=rate, fused=False, foreach=False)

        online, target = (_with(*pair) for pair in zip(networks, (weights, target_weights), strict=True))
        minibatch: Any = kind(*batch)
        if kind is Stored:
            minibatch = minibatch.taken()
        return th.stack(learn(rule, online, target, minibatch, descend))

    def run(moments: Moments, batch: Minibatch | Stored) -> Any:
        rate.fill_(policy.optimizer.param_groups[0]["lr"])  # loading makes new groups
        return compiled(weights, target_weights, tuple(moments), rate, tuple(batch))

    arguments = (weights, target_weights, tuple(moments), rate, tuple(batch))
    tracing = th._dynamo.config.patch(trace_autograd_ops=True, specialize_float=True)  # constants stay constants
    with tracing, th._inductor.config.patch(compile_threads=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler uses what PyTorch has deprecated
        ahead = th.compile(update, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
        compiled = ahead.aot_compile((arguments, {}))  # type: ignore[attr-defined]
    compiled.disable_guard_check()  # the caller knows what an update was compiled for, in a third of the time
    return run


def _with(network: QNetwork, weights: list[th.Tensor]) -> Callable[[Any], Any]:
    """Return a network as a function of observations, with these weights."""
    named = dict(zip((name for name, _ in network.named_parameters()), weights, strict=True))
    return lambda observations: functional_call(network, named, (observations,))
