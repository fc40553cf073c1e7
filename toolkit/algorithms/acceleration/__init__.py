"""Faster training of Stable-Baselines3's and sb3-contrib's algorithms, to the same weights.

Their time goes to what PyTorch does around small tensors, not to arithmetic. So while :func:`accelerated` lasts, parts
of a model have other classes, whose methods do the same with fewer and larger operations. Where something else is to
be computed, as for a network with hooks, a part does what its former class does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer

from toolkit.algorithms.acceleration.actor_critic import FastActorCriticPolicy, find_fast_policy, remember_actor_critic
from toolkit.algorithms.acceleration.functions import find_replacements
from toolkit.algorithms.acceleration.networks import FastSequential, can_be_fast, remember_mlp
from toolkit.algorithms.acceleration.optimizers import find_fast_optimizer, pass_through
from toolkit.algorithms.acceleration.ppo import FastPPO, FastRolloutBuffer
from toolkit.algorithms.acceleration.squashed_actor import FastActor, find_fast_actor, remember_actor

# where a `train` is defined that differentiates once, and steps one optimizer after the other
_KNOWN_MODULES = {
    *(f"stable_baselines3.{name}.{name}" for name in ("a2c", "dqn", "ppo", "sac", "td3")),
    *(f"sb3_contrib.{name}.{name}" for name in ("ppo_mask", "ppo_recurrent", "qrdqn", "tqc")),
}


@contextmanager
def accelerated(model: BaseAlgorithm) -> Iterator[None]:
    """Let a model train faster on the CPU while this lasts, to the same weights but for their last digits.

    The algorithms are those whose ``train`` is that of Stable-Baselines3's A2C, DQN, PPO, SAC, TD3 or DDPG, or of
    sb3-contrib's MaskablePPO, QRDQN, RecurrentPPO or TQC. For another model, this does nothing. The random
    numbers are the same, and the model saves the same.
    """
    train = getattr(model, "train", None)
    with ExitStack() as stack:
        if getattr(train, "__module__", None) in _KNOWN_MODULES and "train" not in vars(model):
            _replace_parts(model, stack)
        yield


def _replace_parts(model: BaseAlgorithm, stack: ExitStack) -> None:
    for owner, name, replacement in (*find_replacements(type(model)), *_find_fast_classes(model)):
        former = getattr(owner, name)
        replacement.__name__ = former.__name__  # snapshots and messages name the former class
        stack.callback(setattr, owner, name, former)
        setattr(owner, name, replacement)
    policy: Any = model.policy
    mlps = {module: remember_mlp(module) for module in policy.modules() if isinstance(module, FastSequential)}
    if isinstance(policy, FastActorCriticPolicy):
        remember_actor_critic(policy)
    if actor := getattr(policy, "actor", None):
        if isinstance(actor, FastActor):
            remember_actor(actor)
        others = {*policy.critic.modules()} - {*actor.modules()}
        pass_through(actor.optimizer, [mlp for module, mlp in mlps.items() if module in others])


def _find_fast_classes(model: BaseAlgorithm) -> Iterator[tuple[Any, str, Any]]:
    """Yield the parts of a model that a fast class may take over, each with ``"__class__"`` and that class."""
    modules = [*model.policy.modules()]
    for optimizer in {id(part): part for part in map(_get_optimizer, [*modules, model]) if part}.values():
        if fast_class := find_fast_optimizer(optimizer):
            yield optimizer, "__class__", fast_class
    if fast_policy := find_fast_policy(model.policy):
        yield model.policy, "__class__", fast_policy
    if fast_policy and type(model) is PPO:
        yield model, "__class__", FastPPO
        if type(model.rollout_buffer) is RolloutBuffer and model.device.type == "cpu":
            yield model.rollout_buffer, "__class__", FastRolloutBuffer
    for module in modules:
        if fast_actor := find_fast_actor(module):
            yield module, "__class__", fast_actor
        if can_be_fast(module):
            yield module, "__class__", FastSequential


def _get_optimizer(owner: Any) -> Any:
    return getattr(owner, "ent_coef_optimizer" if isinstance(owner, BaseAlgorithm) else "optimizer", None)
