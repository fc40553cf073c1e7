"""A policy of PPO and A2C whose evaluation of actions is one operation for PyTorch's autograd."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.autograd.function import once_differentiable

from toolkit.algorithms.acceleration.networks import Mlp, load_tensors, save_tensors
from toolkit.algorithms.acceleration.replacement import Replacement
from toolkit.algorithms.stock import are_in_place, get_functions

LOG_SQRT_2_PI = math.log(math.sqrt(2 * math.pi))
_Tensors = tuple[th.Tensor, ...]


class _Categorical:
    """Discrete actions. As Stable-Baselines3 does, it normalizes the logits before it uses them."""

    @staticmethod
    def sample(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        logits = outputs - outputs.logsumexp(dim=-1, keepdim=True)
        actions = th.multinomial(th.softmax(logits, dim=-1), 1, True)
        return actions.squeeze(-1), logits.gather(-1, actions).squeeze(-1)

    @staticmethod
    def evaluate(outputs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, _Tensors]:
        logits = outputs - outputs.logsumexp(dim=-1, keepdim=True)
        probabilities = th.softmax(logits, dim=-1)
        indices = actions.long().unsqueeze(-1)
        entropy = -(logits.clamp(min=th.finfo(logits.dtype).min) * probabilities).sum(-1)
        return logits.gather(-1, indices).squeeze(-1), entropy, (logits, probabilities, indices, entropy)

    @staticmethod
    def differentiate(saved: _Tensors, of_log_prob: th.Tensor, of_entropy: th.Tensor) -> tuple[th.Tensor, _Tensors]:
        logits, probabilities, indices, entropy = saved
        of_log_prob = of_log_prob.unsqueeze(-1)
        slopes = (logits + entropy.unsqueeze(-1)).mul_(of_entropy.unsqueeze(-1)).add_(of_log_prob)
        return slopes.mul_(probabilities).neg_().scatter_add_(-1, indices, of_log_prob), ()


class _Gaussian:
    """Continuous actions with a standard deviation that depends on no observation."""

    @staticmethod
    def sample(mean: th.Tensor, log_std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        std = th.ones_like(mean) * log_std.exp()
        actions = mean + th.normal(th.zeros_like(mean), th.ones_like(mean)) * std
        return actions, _Gaussian._compute_log_prob(mean, actions, std, std.log())

    @staticmethod
    def evaluate(mean: th.Tensor, actions: th.Tensor, log_std: th.Tensor) -> tuple[th.Tensor, th.Tensor, _Tensors]:
        std = th.ones_like(mean) * log_std.exp()
        log_of_std = std.log()
        scaled = (actions - mean) / std
        log_prob = _Gaussian._compute_log_prob(mean, actions, std, log_of_std)
        entropy = (0.5 + 0.5 * math.log(2 * math.pi) + log_of_std).sum(dim=1)
        return log_prob, entropy, (scaled, std)

    @staticmethod
    def differentiate(saved: _Tensors, of_log_prob: th.Tensor, of_entropy: th.Tensor) -> tuple[th.Tensor, _Tensors]:
        scaled, std = saved
        of_log_prob = of_log_prob.unsqueeze(-1)
        of_log_std = (of_log_prob * (scaled**2 - 1)).sum(0) + of_entropy.sum()
        return of_log_prob * (scaled / std), (of_log_std,)

    @staticmethod
    def _compute_log_prob(mean: th.Tensor, actions: th.Tensor, std: th.Tensor, log_of_std: th.Tensor) -> th.Tensor:
        return (-((actions - mean) ** 2) / (2 * std**2) - log_of_std - LOG_SQRT_2_PI).sum(dim=1)


_HEADS: dict[type, Any] = {CategoricalDistribution: _Categorical, DiagGaussianDistribution: _Gaussian}
_METHODS = ("proba_distribution", "log_prob", "entropy", "sample", "get_actions")
_FUNCTIONS = get_functions(
    [(cls, name) for cls in _HEADS for name in _METHODS]
    + [(ActorCriticPolicy, name) for name in ("forward", "evaluate_actions", "extract_features")]
)


class Passed(NamedTuple):
    """What a backward pass needs of a forward pass."""

    actor: list[th.Tensor]
    critic: list[th.Tensor]
    head: tuple[th.Tensor, ...]


class ActorCritic:
    """The networks of a policy, as they are when this object is made. Call its methods without autograd."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        extractor = policy.mlp_extractor
        self._actor = Mlp([*extractor.policy_net, policy.action_net], [policy, extractor, extractor.policy_net])
        self._critic = Mlp([*extractor.value_net, policy.value_net], [extractor.value_net])
        self._head_class = type(policy.action_dist)
        self._head = _HEADS[self._head_class]
        #: whether actions are numbers of a Discrete space
        self.are_discrete = self._head is _Categorical

    def are_current(self, policy: ActorCriticPolicy) -> bool:
        """Return whether a policy still consists of these networks."""
        distribution = policy.action_dist
        is_known = type(distribution) is self._head_class and vars(distribution).keys().isdisjoint(_METHODS)
        return is_known and self._actor.is_current() and self._critic.is_current()

    def get_parameters(self, policy: ActorCriticPolicy) -> list[nn.Parameter]:
        """Return the parameters in the order of their gradients."""
        return [*_get_log_std(policy), *self._actor.gradients.parameters, *self._critic.gradients.parameters]

    def act(self, policy: ActorCriticPolicy, features: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return random actions, values and log probabilities."""
        outputs, values = self._actor.gradients.forward(features)[-1], self._critic.gradients.forward(features)[-1]
        if not math.isfinite(outputs.sum().item()):
            _build_distribution(policy, outputs)
        actions, log_prob = self._head.sample(outputs, *_get_log_std(policy))
        return actions, values, log_prob

    def evaluate(
        self, policy: ActorCriticPolicy, features: th.Tensor, actions: th.Tensor
    ) -> tuple[tuple[th.Tensor, th.Tensor, th.Tensor], Passed]:
        """Return values (batch, 1), log probabilities (batch,) and entropy (batch,), and what led to them."""
        actor, critic = self._actor.gradients.forward(features), self._critic.gradients.forward(features)
        log_prob, entropy, head = self._head.evaluate(actor[-1], actions, *_get_log_std(policy))
        if not math.isfinite(log_prob.sum().item()):
            _build_distribution(policy, actor[-1])
        return (critic[-1], log_prob, entropy), Passed(actor, critic, head)

    def differentiate(
        self, passed: Passed, of_values: th.Tensor, of_log_prob: th.Tensor, of_entropy: th.Tensor
    ) -> list[th.Tensor]:
        """Return the gradients of the parameters from those of what :meth:`evaluate` returned."""
        of_outputs, of_log_std = self._head.differentiate(passed.head, of_log_prob, of_entropy)
        actor, _ = self._actor.gradients.backward(passed.actor, of_outputs)
        critic, _ = self._critic.gradients.backward(passed.critic, of_values)
        return [*of_log_std, *actor, *critic]


def _get_log_std(policy: ActorCriticPolicy) -> tuple[nn.Parameter, ...]:
    return (policy.log_std,) if isinstance(policy.action_dist, DiagGaussianDistribution) else ()


def _build_distribution(policy: Any, outputs: th.Tensor) -> None:
    """Build PyTorch's distribution, which refuses numbers that are not finite.

    :raises ValueError: if it does
    """
    policy.action_dist.proba_distribution(outputs, *_get_log_std(policy))


class _Evaluation(th.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        networks: ActorCritic,
        policy: ActorCriticPolicy,
        features: th.Tensor,
        actions: th.Tensor,
        *parameters: th.Tensor,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        outputs, passed = networks.evaluate(policy, features, actions)
        ctx.networks = networks
        save_tensors(ctx, *passed, parameters)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[Any, ...]:
        actor, critic, head, _ = load_tensors(ctx)
        return None, None, None, None, *ctx.networks.differentiate(Passed(actor, critic, (*head,)), *gradients)


ACTOR_CRITICS: dict[nn.Module, ActorCritic] = {}  # of the models that train now


class FastActorCriticPolicy(ActorCriticPolicy, Replacement):
    """Replaces the class of an actor-critic policy of MLPs; computes the same."""

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return actions, values and log probabilities, with the random numbers that the former class takes."""
        networks = None if deterministic or th.is_grad_enabled() else get_actor_critic(self)
        if networks is None:
            return super().forward(obs, deterministic)
        features: Any = self.extract_features(obs)
        actions, values, log_prob = networks.act(self, features)
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob  # type: ignore[misc]

    def evaluate_actions(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Return values, log probabilities and entropy of actions."""
        networks = get_actor_critic(self)
        if networks is None or getattr(obs, "requires_grad", True):
            return super().evaluate_actions(obs, actions)
        features = self.extract_features(obs)
        parameters = networks.get_parameters(self)
        return _Evaluation.apply(networks, self, features, actions, *parameters)  # type: ignore[no-any-return, no-untyped-call]


def get_actor_critic(policy: Any) -> ActorCritic | None:
    """Return what computes a policy's values and actions; None if it is the policy's own methods."""
    networks = ACTOR_CRITICS.get(policy)
    return networks if networks and networks.are_current(policy) else None


def find_fast_policy(policy: Any) -> type[FastActorCriticPolicy] | None:
    """Return the class that may take over a policy; None if none may."""
    if type(policy) is not ActorCriticPolicy or type(policy.features_extractor) is not FlattenExtractor:
        return None
    extractor = policy.mlp_extractor
    if type(extractor) is not MlpExtractor or type(policy.action_dist) not in _HEADS or not are_in_place(_FUNCTIONS):
        return None
    networks = ((extractor.policy_net, policy.action_net), (extractor.value_net, policy.value_net))
    are_mlps = all(
        type(network) is nn.Sequential and Mlp.can_run([*network, head], [network]) for network, head in networks
    )
    return FastActorCriticPolicy if are_mlps and policy.share_features_extractor else None
