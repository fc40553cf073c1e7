"""The updates of a model's networks: plain, or compiled where that is asked for and possible."""

from __future__ import annotations

import logging
import operator
import time
import weakref
from collections.abc import Callable
from functools import partial
from itertools import chain, starmap
from typing import Any

import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from torch import nn
from torch.utils.hooks import RemovableHandle

from toolkit.algorithms.adam import (
    clip_gradients,
    create_adam_state,
    get_adam_state,
    is_plain_adam,
    step_adam,
    steps_in_order,
)
from toolkit.algorithms.compiled import CompiledUpdate, UpdateInputs, compile_update, describe_layout, get_constants
from toolkit.algorithms.heads import draw_noise_in_calls
from toolkit.algorithms.losses import get_weights, has_own_losses, update_by_losses, update_layers_by_losses
from toolkit.algorithms.mlp_gradients import MlpGradients
from toolkit.algorithms.networks import Networks
from toolkit.algorithms.policies import NoisyQNetwork
from toolkit.algorithms.replay import ReplayMemory, StoredBatch
from toolkit.algorithms.stock import is_frozen_or_hooked, is_torch_plain
from toolkit.algorithms.targets import Minibatch, QFunction
from toolkit.algorithms.updates import UpdateConfig, update_layers, update_networks

_log = logging.getLogger(__name__)
_MAX_COMPILATIONS = 8
_get_gradient, _get_requires_grad = operator.attrgetter("grad"), operator.attrgetter("requires_grad")


class Learner:
    """Updates the networks of a DQN model, as they are in each call.

    It keeps what it found out about them, but leaves that out of a copy and of a pickle, which find it out again.

    :param should_compile: whether to compile updates; may change at any time
    """

    def __init__(self, should_compile: bool) -> None:
        self.should_compile = should_compile
        self.can_compile = True
        self.seconds_compiling = 0.0
        self.n_compilations = 0
        self._forget()

    def _forget(self) -> None:
        self._networks: Networks | None = None
        self._buffer: weakref.ref[ReplayBuffer] | None = None
        self._memory: ReplayMemory | None = None
        self._forget_compiled_updates()

    def _forget_compiled_updates(self) -> None:
        self._compiled_updates: dict[Any, CompiledUpdate] = {}
        self._last_call: Any = None
        self._last_update: Callable[[float, Any], th.Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        names = ("should_compile", "can_compile", "seconds_compiling", "n_compilations")
        return {name: vars(self)[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def get_networks(self, model: DQN, for_acting: bool = False) -> Networks:
        """Return what is known of a model's networks, found out anew if something has changed."""
        if self._networks is None or not self._networks.are_current(model, for_acting):
            self._networks = Networks(model)
            self._forget_compiled_updates()
        return self._networks

    def find_memory(self, buffer: ReplayBuffer) -> ReplayMemory | None:
        """Return a replay buffer's memory if minibatches can be taken from it, once the model has been looked over."""
        if self._memory is None or self._buffer() is not buffer or not self._memory.is_current(buffer):  # type: ignore[misc]
            # a buffer that the model lets go of is not kept by its arrays
            self._buffer, self._memory = weakref.ref(buffer, self._forget_memory), ReplayMemory(buffer)
        can_gather = self._memory.can_gather(buffer) and self._networks.have_stock_buffers  # type: ignore[union-attr]
        return self._memory if can_gather else None

    def _forget_memory(self, buffer: weakref.ref[ReplayBuffer]) -> None:
        if buffer is self._buffer:
            self._memory = self._last_call = self._last_update = None

    def look_over(self, model: DQN) -> bool:
        """Find out what an update can leave out of SB3's way. This is needed after all that users' code does.

        :return: whether the networks, the policy and its optimizer are stock
        """
        networks = self.get_networks(model)
        self.set_training_mode = networks.set_training_mode
        self._online, self._target, self._constants = networks.online, networks.target, networks.constants
        self._parameters, self._target_parameters = self._online.parameters, self._target.parameters
        self._obstacle = self._find_obstacle(model.policy.optimizer, networks)
        self._have_hooks = networks.have_hooks()
        is_known = networks.has_stock_policy and self._online.is_known and self._target.is_known
        return is_known and not self._have_hooks and self._obstacle is None

    def learn(
        self, model: DQN, config: UpdateConfig, batch: Minibatch | StoredBatch
    ) -> tuple[list[float], th.Tensor | None]:
        """Make the updates of one minibatch, once the model has been looked over.

        :return: the loss before each update, and the errors (batch,) of weighted transitions before the last one
        """
        optimizer = model.policy.optimizer
        if self.should_compile:
            if obstacle := self._obstacle or self._find_obstacle_to_compiling():
                self._stop_compiling(obstacle)
            elif self._is_computing_plainly() and (compiled := self._get_compiled_update(config, optimizer, batch)):
                return _split_results(config, compiled(optimizer.param_groups[0]["lr"], batch))

        minibatch = batch.gather() if isinstance(batch, StoredBatch) else batch
        own = self._online.network
        if has_own_losses(own):
            return self._learn_by_losses(model, config, (own, self._target.network), minibatch)
        online, target = self._get_functions()
        layers = None if self._obstacle else self._get_layers()
        if layers is not None and not isinstance(minibatch, DictReplayBufferSamples):
            step_gradients = partial(_step_by_gradients, optimizer, config.max_grad_norm)
            if get_weights(minibatch) is not None:
                results = update_layers_by_losses(config, online, layers, target, minibatch, step_gradients)
                return _to_floats(results[0]), results[1]
            samples: Any = minibatch
            return _to_floats(update_layers(config, online, layers, target, samples, step_gradients)), None
        if get_weights(minibatch) is not None:
            return self._learn_by_losses(model, config, (online, target), minibatch)
        return _to_floats(update_networks(config, online, target, minibatch, self._make_step(model, config))), None

    def _learn_by_losses(
        self, model: DQN, config: UpdateConfig, networks: tuple[QFunction, QFunction], batch: Minibatch
    ) -> tuple[list[float], th.Tensor]:
        losses, errors = update_by_losses(config, *networks, batch, self._make_step(model, config))
        return _to_floats(losses), errors

    def _get_functions(self) -> tuple[QFunction, QFunction]:
        """Return the fastest functions from observations to the Q-values of the online and the target network."""
        online = self._online.get_function(self._online.is_known and not self._have_hooks)
        is_stock = self._target.is_known and not self._have_hooks
        target = self._target.get_function(is_stock=True) if is_stock else self._target.network
        if not isinstance(self._online.network, NoisyQNetwork):
            return online, target
        return draw_noise_in_calls(self._online.network, online), draw_noise_in_calls(self._target.network, target)

    def _make_step(self, model: DQN, config: UpdateConfig) -> Callable[[th.Tensor], None]:
        """Return what makes one step of the optimizer for a loss."""
        if self._obstacle:
            return partial(_step_as_sb3, model, config.max_grad_norm)
        return partial(_step_plain_adam, model.policy.optimizer, self._target_parameters, config.max_grad_norm)

    def _get_layers(self) -> MlpGradients | None:
        """Return what computes the online network's gradients as autograd would now; None if only autograd can."""
        layers, parameters = self._online.gradients, self._parameters
        if layers is None or not self._is_computing_plainly() or parameters[0].device.type != "cpu":
            return None
        is_plain = not (any(map(is_frozen_or_hooked, parameters)) or _have_gradients(self._target_parameters))
        return layers if is_plain else None

    def _is_computing_plainly(self) -> bool:
        """Return whether compiled updates, and gradients layer by layer, are what modules and autograd give now."""
        return not self._have_hooks and is_torch_plain() and th.is_grad_enabled()

    def _get_compiled_update(
        self, config: UpdateConfig, optimizer: th.optim.Optimizer, batch: Minibatch | StoredBatch
    ) -> Callable[[float, Any], th.Tensor] | None:
        """Return the update compiled for these parameters and such minibatches; ``None`` if it has to be plain."""
        parameters, target_parameters = self._parameters, self._target_parameters
        states = chain.from_iterable(map(dict.values, optimizer.state.values()))
        call = (
            *(RemovableHandle.next_id, config, get_constants(optimizer.param_groups[0])),
            [*starmap(dict.__getitem__, self._constants)],
            [*map(th.Tensor.data_ptr, chain(parameters, target_parameters))],
            [*map(_get_requires_grad, parameters), *map(id, chain(states, map(_get_gradient, target_parameters)))],
            [*map(id, batch[:-1]), len(batch.rows)] if isinstance(batch, StoredBatch) else describe_layout(batch),
        )
        if call != self._last_call:
            state = get_adam_state(optimizer)
            if state is None or any(map(is_frozen_or_hooked, parameters)) or _have_gradients(target_parameters):
                return None
            # `inputs` keeps references to everything that `call` has the id of
            inputs = UpdateInputs(parameters, target_parameters, optimizer.param_groups[0], state, batch)
            key = (config, *starmap(dict.__getitem__, self._constants), *inputs.describe())
            if key not in self._compiled_updates and not self._compile(key, config, inputs):
                return None
            self._last_call, self._last_update = call, partial(self._compiled_updates[key], inputs)
        return self._last_update

    def _compile(self, key: Any, config: UpdateConfig, inputs: UpdateInputs) -> bool:
        start = time.perf_counter()
        try:
            if self.n_compilations == _MAX_COMPILATIONS:
                raise ValueError(f"the model changed after each of {_MAX_COMPILATIONS} compilations")
            self._compiled_updates[key] = compile_update(config, (self._online.network, self._target.network), inputs)
        except Exception as error:  # PyTorch has many kinds for a missing compiler and what it cannot compile
            self._stop_compiling(str(error).strip().split("\n")[0] or type(error).__name__)
            return False
        self.n_compilations += 1
        self.seconds_compiling += time.perf_counter() - start
        _log.info("compiled the update in %.1f s", time.perf_counter() - start)
        return True

    def _stop_compiling(self, reason: str) -> None:
        self.should_compile, self.can_compile = False, False
        _log.warning("updates are not compiled: %s", reason)

    def _find_obstacle(self, optimizer: th.optim.Optimizer, networks: Networks) -> str | None:
        """Return why Adam's step, as a function, cannot replace the optimizer's methods now; ``None`` if it can."""
        if not networks.have_stock_steps or not is_plain_adam(optimizer):
            return "the optimizer is not Adam or AdamW, or uses amsgrad, hooks or other methods or networks"
        all_parameters = [*self._parameters, *self._target_parameters]
        if len({*map(id, all_parameters)}) < len(all_parameters):
            return "layers share a parameter"
        if not steps_in_order(optimizer, self._parameters):
            return "the optimizer's parameters are not the network's, in the same order"
        return None

    def _find_obstacle_to_compiling(self) -> str | None:
        if has_own_losses(self._online.network):
            return "the network computes losses of its own"
        if self._online.is_known and self._target.is_known:
            return None
        return "the network has modules that may compute differently in training mode"


def _to_floats(losses: list[th.Tensor]) -> list[float]:
    return [loss.item() for loss in losses]


def _split_results(config: UpdateConfig, results: th.Tensor) -> tuple[list[float], th.Tensor | None]:
    """Return the losses of each epoch and, if there are more results, the errors of the transitions."""
    n_epochs = config.n_epochs
    return results[:n_epochs].tolist(), results[n_epochs:] if len(results) > n_epochs else None


def _step_by_gradients(optimizer: th.optim.Optimizer, max_grad_norm: float, gradients: list[th.Tensor]) -> None:
    """Make a step of a plain Adam with gradients of all its parameters, which have them afterwards."""
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        parameter.grad = gradient
    clip_gradients(gradients, max_grad_norm)
    _apply_gradients(optimizer, gradients)


def _apply_gradients(optimizer: th.optim.Optimizer, gradients: list[th.Tensor]) -> None:
    options = optimizer.param_groups[0]
    step_adam(options, options["params"], gradients, get_adam_state(optimizer) or create_adam_state(optimizer))


def _step_as_sb3(model: DQN, max_grad_norm: float, loss: th.Tensor) -> None:
    """Make a step of the optimizer as ``DQN.train`` does."""
    optimizer = model.policy.optimizer
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.policy.parameters(), max_grad_norm)
    optimizer.step()


def _step_plain_adam(
    optimizer: th.optim.Optimizer, other_parameters: list[nn.Parameter], max_grad_norm: float, loss: th.Tensor
) -> None:
    """Make the same step for a plain Adam, without what is around the arithmetic.

    :param other_parameters: those of the policy that the optimizer does not step
    """
    parameters = optimizer.param_groups[0]["params"]
    for parameter in parameters:
        parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    other_gradients = [parameter.grad for parameter in other_parameters if parameter.grad is not None]
    clip_gradients(gradients + other_gradients, max_grad_norm)
    if len(gradients) == len(parameters):
        _apply_gradients(optimizer, gradients)
    else:
        optimizer.step()


def _have_gradients(parameters: list[nn.Parameter]) -> bool:
    return any(parameter.grad is not None for parameter in parameters)
