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

from toolkit.algorithms.acceleration.actor_critic import (
    ACTOR_CRITICS,
    ActorCritic,
    FastActorCriticPolicy,
    find_fast_policy,
)
from toolkit.algorithms.acceleration.functions import replaced_functions
from toolkit.algorithms.acceleration.networks import MLPS, FastSequential, Mlp, can_be_fast
from toolkit.algorithms.acceleration.off_policy import (
    OFF_POLICY_NETWORKS,
    FastSAC,
    FastTD3,
    OffPolicyNetworks,
    find_fast_off_policy_class,
)
from toolkit.algorithms.acceleration.optimizers import (
    CRITICS,
    CRITICS_OF_ACTORS,
    FastAdam,
    FastAdamW,
    find_fast_optimizer,
)
from toolkit.algorithms.acceleration.ppo import FastPPO, FastRolloutBuffer
from toolkit.algorithms.acceleration.replay import find_fast_replay_buffer
from toolkit.algorithms.acceleration.squashed_actor import SQUASHED_ACTORS, FastActor, SquashedActor, find_fast_actor

# where a `train` is defined that differentiates once, and steps one optimizer after the other
_KNOWN_MODULES = {
    *(f"stable_baselines3.{name}.{name}" for name in ("a2c", "dqn", "ppo", "sac", "td3")),
    *(f"sb3_contrib.{name}.{name}" for name in ("ppo_mask", "ppo_recurrent", "qrdqn", "tqc")),
}


@contextmanager
def accelerated(model: BaseAlgorithm) -> Iterator[None]:
    """Let a model train in a faster form within this context, to the same weights but for their last digits.

    The algorithms are those whose ``train`` is that of Stable-Baselines3's A2C, DQN, PPO, SAC, TD3 or DDPG, or of
    sb3-contrib's MaskablePPO, QRDQN, RecurrentPPO or TQC, with a policy of these packages. For another model, this
    does nothing. The random numbers are the same, and the model saves the same. The policy's ``action_dist`` holds no
    distribution.
    """
    with ExitStack() as stack:
        if _is_known(model):
            stack.enter_context(replaced_functions(type(model)))
            _replace_classes(model, stack)
        yield


def _is_known(model: BaseAlgorithm) -> bool:
    train = getattr(type(model), "train", None)
    is_own_train = getattr(train, "__globals__", {}).get("__name__") in _KNOWN_MODULES and "train" not in vars(model)
    return is_own_train and type(model.policy).__module__.split(".")[0] in ("stable_baselines3", "sb3_contrib")


def _replace_classes(model: BaseAlgorithm, stack: ExitStack) -> None:
    for part, cls in [*_find_fast_classes(model)]:
        stack.callback(setattr, part, "__class__", type(part))
        part.__class__ = cls
    policy: Any = model.policy

    def remember(registry: dict[Any, Any], key: Any, value: Any) -> None:
        registry[key] = value
        stack.callback(registry.pop, key)

    for module in policy.modules():
        if isinstance(module, FastSequential):
            remember(MLPS, module, Mlp([*module], [module]))
        if isinstance(module, FastActor):
            remember(SQUASHED_ACTORS, module, SquashedActor(module))
    if isinstance(policy, FastActorCriticPolicy):
        remember(ACTOR_CRITICS, policy, ActorCritic(policy))
    if isinstance(model, FastSAC | FastTD3):
        remember(OFF_POLICY_NETWORKS, model, OffPolicyNetworks(policy))
    critics = _find_critics(policy)
    if critics:
        remember(CRITICS_OF_ACTORS, policy.actor.optimizer, critics)
        remember(CRITICS, policy.critic.optimizer, critics)


def _find_critics(policy: Any) -> list[Mlp]:
    """Return the MLPs of critics whose gradients by the actor's loss nothing uses."""
    actor, critic = getattr(policy, "actor", None), getattr(policy, "critic", None)
    optimizers = [getattr(network, "optimizer", None) for network in (actor, critic)]
    if not all(isinstance(optimizer, FastAdam | FastAdamW) for optimizer in optimizers):
        return []
    stepped = {id(parameter) for parameter in optimizers[0].param_groups[0]["params"]}  # type: ignore[union-attr]
    mlps = [MLPS[module] for module in critic.modules() if module in MLPS]  # type: ignore[union-attr]
    return [mlp for mlp in mlps if stepped.isdisjoint(map(id, mlp.gradients.parameters))]


def _find_fast_classes(model: BaseAlgorithm) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of a model that a fast class may take over, each with that class."""
    policy, buffer = model.policy, getattr(model, "replay_buffer", None)
    modules = [*policy.modules()]
    optimizers = {id(part): part for part in map(_get_optimizer, [*modules, model]) if part}.values()
    fast_classes = [
        *((optimizer, find_fast_optimizer(optimizer)) for optimizer in optimizers),
        (policy, find_fast_policy(policy)),
        (buffer, find_fast_replay_buffer(buffer)),
        (model, find_fast_off_policy_class(model)),
        *((module, find_fast_actor(module)) for module in modules),
        *((module, FastSequential if can_be_fast(module) else None) for module in modules),
    ]
    yield from ((part, fast_class) for part, fast_class in fast_classes if fast_class)
    if type(model) is PPO and find_fast_policy(policy):
        yield model, FastPPO
        if type(model.rollout_buffer) is RolloutBuffer and model.device.type == "cpu":
            yield model.rollout_buffer, FastRolloutBuffer


def _get_optimizer(owner: Any) -> Any:
    return getattr(owner, "ent_coef_optimizer" if isinstance(owner, BaseAlgorithm) else "optimizer", None)
