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
    Rule,
    adam_,
    clip_,
    is_plain_adam,
    learn,
    moments_of,
)

_log = logging.getLogger(__name__)


class Learner:
    """Makes the updates of a DQN policy's networks.

    Adam, if nothing else is asked for, runs in its fused form: one call in place of a dozen for each layer.

    :param policy: the policy whose ``q_net`` learns
    :param compiles: whether to compile updates; may be changed at any time
    """

    def __init__(self, policy: DQNPolicy, compiles: bool) -> None:
        self.compiles = compiles
        self.seconds_compiling = 0.0
        self._policy = policy
        self._parameters: list[th.nn.Parameter] = []
        self._compiled: dict[Any, Update] = {}
        if type(policy.optimizer) in (th.optim.Adam, th.optim.AdamW) and policy.device.type in ("cpu", "cuda"):
            for group in policy.optimizer.param_groups:
                if group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
                    group["fused"] = True
        self.take_stock()

    def take_stock(self) -> None:
        """Look the networks over; needed again when layers were replaced."""
        self.online, self.target = QValues(self._policy.q_net), QValues(self._policy.q_net_target)
        known, self._parameters = self._parameters, [*self._policy.q_net.parameters()]
        if [*map(id, known)] != [*map(id, self._parameters)]:
            self._compiled.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of a copy what was compiled, as that changes the networks it was compiled for."""
        return {**vars(self), "_compiled": {}}

    def learn(self, rule: Rule, batch: Minibatch | Stored) -> list[float]:
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

    def _compile(self, rule: Rule, batch: Minibatch | Stored, moments: Moments | None) -> Update | None:
        """Return the update compiled for a rule and such minibatches; None if that cannot be, or not yet."""
        options = self._policy.optimizer.param_groups[0]
        if self.online.is_hooked or self.target.is_hooked or not all(one.requires_grad for one in self._parameters):
            return None
        constants = (options[name] for name in options if name not in ("params", "lr"))
        sizes = (None if part is None else len(part) for part in batch)
        case = (rule, type(batch), *sizes, *constants)
        if case in self._compiled:
            return self._compiled[case]
        start = time.perf_counter()
        try:
            if self.online.has_modes:
                raise ValueError("the network has modules that may compute otherwise in training")
            if not is_plain_adam(self._policy.optimizer):
                raise ValueError("only the steps of Adam and AdamW are known, without amsgrad and the like")
            if [*map(id, options["params"])] != [*map(id, self._parameters)]:
                raise ValueError("the optimizer's parameters are not the network's, one by one")
            if moments is None:
                return None
            self._compiled[case] = compile_update(self._policy, rule, moments, batch)
        except Exception as error:  # PyTorch has many kinds for a missing compiler and what it cannot compile
            self.compiles = False
            _log.warning("updates are not compiled: %s", str(error).strip().split("\n")[0] or type(error).__name__)
            return None
        self.seconds_compiling += time.perf_counter() - start
        _log.info("compiled the update in %.1f s", time.perf_counter() - start)
        return self._compiled[case]
