"""The updates of a policy's networks: plain, or compiled where that is asked for and possible."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch as th
from stable_baselines3.dqn.policies import DQNPolicy

from toolkit.algorithms.adam import AdamState, clip_gradients, get_adam_state, is_plain_adam, step_adam
from toolkit.algorithms.compiled import CompiledUpdate, compile_update
from toolkit.algorithms.fast_path import FastQNetwork
from toolkit.algorithms.replay import StoredBatch
from toolkit.algorithms.targets import Minibatch
from toolkit.algorithms.updates import UpdateConfig, update_networks

_log = logging.getLogger(__name__)
_MAX_COMPILED_UPDATES = 8


class Learner:
    """Updates the networks of a DQN policy.

    Adam runs in its fused form unless the policy's ``optimizer_kwargs`` say otherwise. That is one call instead of a
    dozen for each layer.

    :param policy: the policy whose ``q_net`` learns
    :param should_compile: whether to compile updates; may change at any time
    """

    def __init__(self, policy: DQNPolicy, should_compile: bool) -> None:
        self.should_compile = should_compile
        self.can_compile = True
        self.seconds_compiling = 0.0
        self._policy = policy
        self._known_parts: list[Any] = []
        self._compiled_updates: dict[Any, CompiledUpdate] = {}
        if type(policy.optimizer) in (th.optim.Adam, th.optim.AdamW) and policy.device.type in ("cpu", "cuda"):
            for group in policy.optimizer.param_groups:
                if group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
                    group["fused"] = True
        self.refresh()

    def refresh(self) -> None:
        """Look the networks over again. This is needed when modules were replaced."""
        networks = self._policy.q_net, self._policy.q_net_target
        self.online, self.target = (FastQNetwork(network) for network in networks)
        self._parameters = [*networks[0].parameters()]
        modules = [module for network in networks for module in network.modules()]
        parts = [*modules, *(parameter for network in networks for parameter in network.parameters())]
        if [*map(id, parts)] != [*map(id, self._known_parts)]:
            self._known_parts = parts  # a reference to each, so that no other object gets the same id
            self._compiled_updates.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leave compiled updates out of a copy: they change the networks that they were compiled for."""
        return {**vars(self), "_compiled_updates": {}, "_known_parts": []}

    def learn(self, config: UpdateConfig, batch: Minibatch | StoredBatch) -> list[float]:
        """Make the updates of one minibatch and return the loss before each."""
        state = get_adam_state(self._policy.optimizer)
        if self.should_compile and (compiled := self._get_compiled_update(config, batch, state)):
            return compiled(state, batch).tolist()  # type: ignore[arg-type]

        minibatch = batch.gather() if isinstance(batch, StoredBatch) else batch

        def step_optimizer(loss: th.Tensor) -> None:
            self._step_optimizer(loss, config.max_grad_norm, state)

        losses = update_networks(config, self.online, self.target, minibatch, step_optimizer)
        return [loss.item() for loss in losses]

    def _step_optimizer(self, loss: th.Tensor, max_grad_norm: float, state: AdamState | None) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients([parameter.grad for parameter in self._parameters if parameter.grad is not None], max_grad_norm)
        options = self._policy.optimizer.param_groups[0]
        gradients = [parameter.grad for parameter in options["params"] if parameter.grad is not None]
        if state and len(gradients) == len(options["params"]):
            step_adam(options, options["params"], gradients, state)
        else:
            self._policy.optimizer.step()

    def _get_compiled_update(
        self, config: UpdateConfig, batch: Minibatch | StoredBatch, state: AdamState | None
    ) -> CompiledUpdate | None:
        """Return the update compiled for this config and such minibatches; ``None`` if the update has to be plain."""
        if state is None and is_plain_adam(self._policy.optimizer):
            return None  # before the optimizer's first step
        if any(map(_is_frozen_or_hooked, self._parameters)) or self.online.has_hooks or self.target.has_hooks:
            return None
        options = self._policy.optimizer.param_groups[0]
        constants = (options[name] for name in options if name not in ("params", "lr"))
        key = (config, _describe_layout(batch), *map(id, options["params"]), *constants)
        if key not in self._compiled_updates:
            start = time.perf_counter()
            try:
                self._compiled_updates[key] = self._compile_update(config, batch, state)
            except Exception as error:  # PyTorch has many kinds for a missing compiler and what it cannot compile
                self.should_compile, self.can_compile = False, False
                _log.warning("updates are not compiled: %s", str(error).strip().split("\n")[0] or type(error).__name__)
                return None
            self.seconds_compiling += time.perf_counter() - start
            _log.info("compiled the update in %.1f s", time.perf_counter() - start)
        return self._compiled_updates[key]

    def _compile_update(
        self, config: UpdateConfig, batch: Minibatch | StoredBatch, state: AdamState | None
    ) -> CompiledUpdate:
        if self.online.has_modes:
            raise ValueError("the network has modules that may compute differently in training mode")
        if state is None:
            raise ValueError("the optimizer is not Adam or AdamW, or uses amsgrad or hooks")
        if [*map(id, self._policy.optimizer.param_groups[0]["params"])] != [*map(id, self._parameters)]:
            raise ValueError("the optimizer's parameters are not the network's, in the same order")
        if len(self._compiled_updates) == _MAX_COMPILED_UPDATES:
            raise ValueError(f"the algorithm's parameters changed after each of {_MAX_COMPILED_UPDATES} compilations")
        return compile_update(self._policy, config, state, batch)


def _is_frozen_or_hooked(parameter: th.nn.Parameter) -> bool:
    """Return whether a parameter takes no gradient, or has hooks on its gradient, which only autograd runs."""
    return not parameter.requires_grad or bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _describe_layout(value: Any) -> Any:
    """Return what two minibatches of one compiled update share: classes, shapes, strides, types and devices."""
    if isinstance(value, th.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _describe_layout(item)) for name, item in value.items())
    return (type(value), *map(_describe_layout, value)) if isinstance(value, tuple) else None
