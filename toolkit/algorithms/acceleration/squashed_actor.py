"""SAC's actor, whose random actions and their log probabilities are one operation for PyTorch's autograd."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.acceleration.actor_critic import LOG_SQRT_2_PI
from toolkit.algorithms.acceleration.functions import are_plain
from toolkit.algorithms.acceleration.networks import Mlp, load_tensors, save_tensors
from toolkit.algorithms.acceleration.replacement import Replacement
from toolkit.algorithms.stock import are_in_place, get_functions

_METHODS = ("proba_distribution", "actions_from_params", "log_prob_from_params", "sample", "log_prob", "get_actions")
_FUNCTIONS = get_functions(
    [(SquashedDiagGaussianDistribution, name) for name in _METHODS]
    + [(Actor, name) for name in ("forward", "action_log_prob", "get_action_dist_params", "extract_features")]
)


class Sample(NamedTuple):
    """Random actions, (batch, actions) each.

    :ivar log_std: before it is clamped
    """

    actions: th.Tensor
    noise: th.Tensor
    std: th.Tensor
    log_std: th.Tensor


class SquashedActor:
    """The networks of an actor, as they are when this object is made. Call its methods without autograd."""

    def __init__(self, actor: Any) -> None:
        self.heads = (actor.mu, actor.log_std)
        self.mlp = Mlp([*actor.latent_pi], [actor, actor.latent_pi, *self.heads])
        self._distribution: SquashedDiagGaussianDistribution = actor.action_dist

    def is_current(self, actor: Any) -> bool:
        """Return whether an actor still consists of these networks."""
        parameters = [*chain.from_iterable(head._parameters.values() for head in self.heads)]
        is_known = actor.action_dist is self._distribution and vars(self._distribution).keys().isdisjoint(_METHODS)
        return is_known and are_plain(parameters) and self.mlp.is_current()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters in the order of their gradients."""
        return [*self.mlp.gradients.parameters, *(part for head in self.heads for part in (head.weight, head.bias))]

    def forward(self, features: th.Tensor) -> tuple[list[th.Tensor], th.Tensor, th.Tensor]:
        """Return what the layers give, means, and logarithms of standard deviations, (batch, actions) each."""
        passed = self.mlp.gradients.forward(features)
        mean, log_std = (F.linear(passed[-1], head.weight, head.bias) for head in self.heads)
        return passed, mean, log_std

    def sample(self, mean: th.Tensor, log_std: th.Tensor) -> Sample:
        """Return actions, with the random numbers that PyTorch's distribution takes."""
        std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        if not math.isfinite((mean + std).sum().item()):
            self._distribution.proba_distribution(mean, log_std)  # raises an error about numbers that are not finite
        noise = th.empty_like(mean).normal_()
        return Sample(th.tanh(mean + noise * std), noise, std, log_std)

    def compute_log_prob(self, sample: Sample) -> th.Tensor:
        """Return the log probabilities (batch,) of actions."""
        of_gaussian = -(sample.noise**2) / 2 - sample.std.log() - LOG_SQRT_2_PI
        return (of_gaussian - (1 - sample.actions**2 + self._distribution.epsilon).log()).sum(dim=1)

    def differentiate(
        self, passed: list[th.Tensor], sample: Sample, of_actions: th.Tensor, of_log_prob: th.Tensor
    ) -> list[th.Tensor]:
        """Return the gradients of the parameters from those of actions and log probabilities.

        The log probability of the noise before it is squashed depends on the standard deviation alone.
        """
        actions, of_log_prob = sample.actions, of_log_prob.unsqueeze(-1)
        slope = 1 - actions**2
        of_mean = (of_actions + of_log_prob * (2 * actions / (slope + self._distribution.epsilon))) * slope
        of_log_std = of_mean * sample.noise * sample.std - of_log_prob
        is_clamped = (sample.log_std < LOG_STD_MIN) | (sample.log_std > LOG_STD_MAX)
        of_heads = (of_mean, of_log_std.masked_fill(is_clamped, 0))
        of_latent = sum(gradient.mm(head.weight) for gradient, head in zip(of_heads, self.heads, strict=True))
        gradients, _ = self.mlp.gradients.backward(passed, of_latent)  # type: ignore[arg-type]
        for gradient in of_heads:
            gradients += [gradient.t().mm(passed[-1]), gradient.sum(0)]
        return gradients


class _Sampling(th.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, networks: SquashedActor, features: th.Tensor, *parameters: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        passed, mean, log_std = networks.forward(features)
        sample = networks.sample(mean, log_std)
        ctx.networks = networks
        save_tensors(ctx, passed, sample, parameters)
        return sample.actions, networks.compute_log_prob(sample)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_actions: th.Tensor, of_log_prob: th.Tensor) -> tuple[Any, ...]:
        passed, sample, _ = load_tensors(ctx)
        return None, None, *ctx.networks.differentiate(passed, Sample(*sample), of_actions, of_log_prob)


SQUASHED_ACTORS: dict[nn.Module, SquashedActor] = {}  # of the models that train now


class FastActor(Actor, Replacement):
    """Replaces the class of an actor of MLPs; computes the same."""

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions, with the random numbers that the former class takes."""
        networks = None if deterministic or th.is_grad_enabled() else self._get_networks()
        if networks is None:
            return super().forward(obs, deterministic)
        _, mean, log_std = networks.forward(self.extract_features(obs, self.features_extractor))
        return networks.sample(mean, log_std).actions

    def action_log_prob(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """Return random actions and their log probabilities."""
        networks = self._get_networks()
        if networks is None or getattr(obs, "requires_grad", True):
            return super().action_log_prob(obs)
        features = self.extract_features(obs, self.features_extractor)
        actions, log_prob = _Sampling.apply(networks, features, *networks.parameters)  # type: ignore[no-untyped-call]
        return actions, log_prob

    def _get_networks(self) -> SquashedActor | None:
        networks = SQUASHED_ACTORS.get(self)
        return networks if networks and networks.is_current(self) else None


def find_fast_actor(actor: Any) -> type[FastActor] | None:
    """Return the class that may take over an actor; None if none may."""
    is_known = type(actor) is Actor and type(actor.features_extractor) is FlattenExtractor
    if not is_known or actor.use_sde or not are_in_place(_FUNCTIONS):
        return None
    heads: list[Any] = [actor.mu, actor.log_std]
    are_linear = all(type(head) is nn.Linear and head.bias is not None for head in heads)
    is_mlp = type(actor.latent_pi) is nn.Sequential and Mlp.can_run([*actor.latent_pi], [actor.latent_pi, *heads])
    return FastActor if are_linear and is_mlp else None
