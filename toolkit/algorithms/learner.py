"""Who makes the updates: the networks, their optimizer, and the choice between the plain and the compiled way."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch as th
from stable_baselines3.dqn.policies import DQNPolicy

from toolkit.algorithms.compiled import Update, compile_update
from toolkit.algorithms.replay import Stored
from toolkit.algorithms.updates import (
    Minibatch,
    Moments,
    QValues,
    UpdateConfig,
    adam_,
    clip_,
    is_plain_adam,
    is_watched,
    kind_of,
    learn,
    moments_of,
)

_log = logging.getLogger(__name__)
_MOST_CASES = 8


class Learner:
    """Makes the updates of a DQN policy's networks.

    Adam, if nothing else is asked for, runs in its fused form: one call in place of a dozen for each layer.

    :param policy: the policy whose ``q_net`` learns
    :param compiles: whether to compile updates; may be changed at any time
    """

    def __init__(self, policy: DQNPolicy, compiles: bool) -> None:
        self.compiles = compiles
        self.can_compile = True
        self.seconds_compiling = 0.0
        self._policy = policy
        self._parts: list[Any] = []
        self._compiled: dict[Any, Update] = {}
        if type(policy.optimizer) in (th.optim.Adam, th.optim.AdamW) and policy.device.type in ("cpu", "cuda"):
            for group in policy.optimizer.param_groups:
                if group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
                    group["fused"] = True
        self.refresh()

    def refresh(self) -> None:
        """Look the networks over; needed again when modules were replaced."""
        networks = self._policy.q_net, self._policy.q_net_target
        self.online, self.target = (QValues(network) for network in networks)
        self._parameters = [*networks[0].parameters()]
        modules = [module for network in networks for module in network.modules()]
        parts = [*modules, *(parameter for network in networks for parameter in network.parameters())]
        if [*map(id, parts)] != [*map(id, self._parts)]:
            self._parts = parts  # kept, so that no other can get the same id
            self._compiled.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of a copy what was compiled, as that changes the networks it was compiled for."""
        return {**vars(self), "_compiled": {}, "_parts": []}

    def learn(self, rule: UpdateConfig, batch: Minibatch | Stored) -> list[float]:
        """Make a minibatch's updates; return the losses before each."""
        moments = moments_of(self._policy.optimizer)
        if self.compiles and (update := self._compile(rule, batch, moments)):
            return update(moments, batch).tolist()  # type: ignore[arg-type]

        minibatch = batch.taken() if isinstance(batch, Stored) else batch

        def descend(loss: th.Tensor) -> None:
            self._descend(loss, rule.max_grad_norm, moments)

        return [loss.item() for loss in learn(rule, self.online, self.target, minibatch, descend)]

    def _descend(self, loss: th.Tensor, max_grad_norm: float, moments: Moments | None) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        clip_([parameter.grad for parameter in self._parameters if parameter.grad is not None], max_grad_norm)
        options = self._policy.optimizer.param_groups[0]
        gradients = [parameter.grad for parameter in options["params"] if parameter.grad is not None]
        if moments and len(gradients) == len(options["params"]):
            adam_(options, options["params"], gradients, moments)
        else:
            self._policy.optimizer.step()

    def _compile(self, rule: UpdateConfig, batch: Minibatch | Stored, moments: Moments | None) -> Update | None:
        """Return the update compiled for a rule and such minibatches; None if that cannot be, or not yet."""
        if moments is None and is_plain_adam(self._policy.optimizer):
            return None  # before the optimizer's first step
        if (
            any(is_watched(parameter) for parameter in self._parameters)
            or self.online.is_hooked
            or self.target.is_hooked
        ):
            return None
        options = self._policy.optimizer.param_groups[0]
        constants = (options[name] for name in options if name not in ("params", "lr"))
        case = (rule, kind_of(batch), *map(id, options["params"]), *constants)
        if case not in self._compiled:
            start = time.perf_counter()
            try:
                self._compiled[case] = self._newly_compiled(rule, batch, moments)
            except Exception as error:  # PyTorch has many kinds for a missing compiler and what it cannot compile
                self.compiles, self.can_compile = False, False
                _log.warning("updates are not compiled: %s", str(error).strip().split("\n")[0] or type(error).__name__)
                return None
            self.seconds_compiling += time.perf_counter() - start
            _log.info("compiled the update in %.1f s", time.perf_counter() - start)
        return self._compiled[case]

    def _newly_compiled(self, rule: UpdateConfig, batch: Minibatch | Stored, moments: Moments | None) -> Update:
        if self.online.has_modes:
            raise ValueError("the network has modules that may compute otherwise in training")
        if moments is None:
            raise ValueError("only the steps of Adam and AdamW are known, without amsgrad, hooks and the like")
        if [*map(id, self._policy.optimizer.param_groups[0]["params"])] != [*map(id, self._parameters)]:
            raise ValueError("the optimizer's parameters are not the network's, one by one")
        if len(self._compiled) == _MOST_CASES:
            raise ValueError(f"{_MOST_CASES} were, each for other parameters of the algorithm, which keep changing")
        return compile_update(self._policy, rule, moments, batch)
