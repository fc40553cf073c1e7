"""SAC, TD3 and DDPG whose losses are differentiated by formulas instead of autograd."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as DeterministicActor
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from toolkit.algorithms.acceleration.functions import polyak_update
from toolkit.algorithms.acceleration.networks import Mlp
from toolkit.algorithms.acceleration.replacement import Replacement
from toolkit.algorithms.acceleration.squashed_actor import SquashedActor, find_fast_actor
from toolkit.algorithms.stock import are_in_place, get_functions, is_frozen_or_hooked

_FUNCTIONS = get_functions(
    [
        *((ContinuousCritic, name) for name in ("forward", "q1_forward")),
        *((BaseModel, "extract_features"), (DeterministicActor, "forward"), (FlattenExtractor, "forward")),
    ]
)
_Losses = dict[str, list[float]]


class _MlpGroup:
    """MLPs that get the same inputs, as they are when this object is made. Call its methods without autograd.

    :param networks: each an ``nn.Sequential``
    :param callers: the modules that call them
    """

    def __init__(self, networks: Iterable[Any], callers: list[nn.Module]) -> None:
        self._mlps = [Mlp([*network], [network, *callers]) for network in networks]
        self._layers = [mlp.gradients for mlp in self._mlps]

    def are_current(self) -> bool:
        """Return whether the layers still are what they were at first, with nothing around them."""
        return all(mlp.is_current() for mlp in self._mlps)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters in the order of their gradients."""
        return [*chain.from_iterable(layers.parameters for layers in self._layers)]

    def forward(self, inputs: th.Tensor, n_networks: int | None = None) -> list[list[th.Tensor]]:
        """Return what each layer of the first networks, or of all, gives for inputs (batch, features)."""
        return [layers.forward(inputs) for layers in self._layers[:n_networks]]

    def evaluate(self, inputs: th.Tensor) -> th.Tensor:
        """Return what the networks give for inputs (batch, features), side by side."""
        return th.cat([passed[-1] for passed in self.forward(inputs)], dim=1)

    def differentiate(self, passed: list[list[th.Tensor]], of_values: list[th.Tensor]) -> list[th.Tensor]:
        """Return the gradients of the parameters from those of what each network gave."""
        each = zip(self._layers, passed, of_values, strict=True)
        return [*chain.from_iterable(layers.backward(values, gradient)[0] for layers, values, gradient in each)]

    def differentiate_inputs(self, passed: list[list[th.Tensor]], of_values: Iterable[th.Tensor]) -> th.Tensor:
        """Return the gradient of the inputs from those of what the first networks gave."""
        each = zip(self._layers, passed, of_values, strict=False)
        gradients = [layers.backward(values, gradient, False, True)[1] for layers, values, gradient in each]
        return th.stack(gradients).sum(0) if len(gradients) > 1 else gradients[0]  # type: ignore[arg-type, return-value]


class OffPolicyNetworks:
    """The networks of SAC, TD3 or DDPG, as they are when this object is made. Call its methods without autograd."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._actor, self._critic, self._critic_target = policy.actor, policy.critic, policy.critic_target
        self.critic, self.critic_target = (
            _MlpGroup(critic.q_networks, _get_callers(critic)) for critic in (policy.critic, policy.critic_target)
        )
        self.squashed_actor = SquashedActor(policy.actor) if isinstance(policy, SACPolicy) else None
        deterministic = () if self.squashed_actor else (policy.actor, policy.actor_target)
        self.actors = [_MlpGroup([actor.mu], _get_callers(actor)) for actor in deterministic]

    @property
    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The actor's and the critic's parameters, each in the order of their gradients."""
        return (self.squashed_actor or self.actors[0]).parameters, self.critic.parameters

    def are_current(self, model: Any) -> bool:
        """Return whether a model still trains these networks, and nothing but their parameters."""
        networks = (model.policy, model.actor, model.critic, model.critic_target)
        known = (self._policy, self._actor, self._critic, self._critic_target)
        if any(network is not other for network, other in zip(networks, known, strict=True)):
            return False
        if self.squashed_actor and not self.squashed_actor.is_current(model.actor):
            return False
        if not all(group.are_current() for group in (self.critic, self.critic_target, *self.actors)):
            return False
        each = zip(self.parameters, (model.actor, model.critic), strict=True)
        return all(_are_stepped(parameters, network.optimizer) for parameters, network in each)

    def extract_features(self, batch: ReplayBufferSamples) -> tuple[th.Tensor, th.Tensor]:
        """Return the features of a minibatch's observations and next observations, which all networks share."""
        actor = self._actor
        features, next_features = (
            actor.extract_features(observations, actor.features_extractor).float()
            for observations in (batch.observations, batch.next_observations)
        )
        return features, next_features

    def update_critic(self, inputs: th.Tensor, targets: th.Tensor, factor: float) -> float:
        """Step the critics' optimizer once.

        :param inputs: features and actions, (batch, both)
        :param targets: returns to learn, (batch, 1)
        :param factor: of the sum of the critics' mean squared errors
        :return: the loss before the step
        """
        passed, targets = self.critic.forward(inputs), targets.float()
        errors = [values[-1] - targets for values in passed]
        of_values = [error * (2 * factor / len(targets)) for error in errors]
        _step(self._critic.optimizer, self.critic.parameters, self.critic.differentiate(passed, of_values))
        return factor * sum(error.square().mean().item() for error in errors)


def _get_callers(network: Any) -> list[nn.Module]:
    return [network, *network.features_extractor.modules()]


def _are_stepped(parameters: list[nn.Parameter], optimizer: th.optim.Optimizer) -> bool:
    """Return whether an optimizer steps these parameters alone, each once, and none needs autograd itself."""
    ids = {*map(id, parameters)}
    stepped = [*chain.from_iterable(map(id, group["params"]) for group in optimizer.param_groups)]
    is_plain = len(ids) == len(parameters) == len(stepped) and ids == {*stepped}
    return is_plain and not any(map(is_frozen_or_hooked, parameters))


def _step(optimizer: th.optim.Optimizer, parameters: list[nn.Parameter], gradients: list[th.Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def _compute_targets(model: Any, batch: ReplayBufferSamples, next_values: th.Tensor) -> th.Tensor:
    discounts = model.gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * next_values


def _record(model: Any, losses: _Losses) -> None:
    model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
    for name, values in losses.items():
        model.logger.record(f"train/{name}", np.mean(values))


OFF_POLICY_NETWORKS: dict[BaseAlgorithm, OffPolicyNetworks] = {}  # of the models that train now


def _get_networks(model: BaseAlgorithm) -> OffPolicyNetworks | None:
    networks = OFF_POLICY_NETWORKS.get(model)
    return networks if networks and networks.are_current(model) else None


class FastSAC(SAC, Replacement):
    """Replaces the class of a SAC; computes the same."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Do what SAC's method of this name does."""
        networks = _get_networks(self)
        if networks is None:
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        self._update_learning_rate([optimizer for optimizer in optimizers if optimizer is not None])
        losses: _Losses = defaultdict(list)
        with th.no_grad():
            for gradient_step in range(gradient_steps):
                batch: Any = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
                self._update(networks, batch, losses)
                if gradient_step % self.target_update_interval == 0:
                    polyak_update(networks.critic.parameters, networks.critic_target.parameters, self.tau)
        self._n_updates += gradient_steps
        _record(self, losses)

    def _update(self, networks: OffPolicyNetworks, batch: ReplayBufferSamples, losses: _Losses) -> None:
        actor: Any = networks.squashed_actor
        critic, n = networks.critic, len(batch.rewards)
        features, next_features = networks.extract_features(batch)
        # one pass for both is faster, and the actor is the same
        passed, mean, log_std = actor.forward(th.cat([features, next_features]))
        sample, next_sample = (actor.sample(mean[rows], log_std[rows]) for rows in (slice(n), slice(n, None)))
        log_prob, next_log_prob = (actor.compute_log_prob(each).unsqueeze(1) for each in (sample, next_sample))
        entropy_coefficient = self._update_entropy_coefficient(log_prob, losses)

        next_values = networks.critic_target.evaluate(th.cat([next_features, next_sample.actions], dim=1))
        next_values = next_values.min(dim=1, keepdim=True).values - entropy_coefficient * next_log_prob
        targets, inputs = _compute_targets(self, batch, next_values), th.cat([features, batch.actions], dim=1)
        losses["critic_loss"].append(networks.update_critic(inputs, targets, factor=0.5))

        passed_critic = critic.forward(th.cat([features, sample.actions], dim=1))
        values, indices = th.cat([each[-1] for each in passed_critic], dim=1).min(dim=1, keepdim=True)
        losses["actor_loss"].append((entropy_coefficient * log_prob - values).mean().item())
        of_values = (
            th.zeros(n, len(passed_critic)).scatter_(1, indices, -1 / n).tensor_split(len(passed_critic), dim=1)
        )
        of_actions = critic.differentiate_inputs(passed_critic, of_values)[:, features.shape[1] :]
        of_log_prob = (entropy_coefficient / n).expand(n)
        gradients = actor.differentiate([each[:n] for each in passed], sample, of_actions, of_log_prob)
        _step(self.actor.optimizer, actor.parameters, gradients)

    def _update_entropy_coefficient(self, log_prob: th.Tensor, losses: _Losses) -> th.Tensor:
        """Return the coefficient before its step, if it is learned."""
        logarithm: Any = self.log_ent_coef
        if self.ent_coef_optimizer is None or logarithm is None:
            losses["ent_coef"].append(self.ent_coef_tensor.item())
            return self.ent_coef_tensor
        coefficient: th.Tensor = logarithm.exp()
        gradient = -(log_prob + self.target_entropy).mean(dim=0)  # type: ignore[operator]
        losses["ent_coef_loss"].append((logarithm * gradient).item())
        losses["ent_coef"].append(coefficient.item())
        _step(self.ent_coef_optimizer, [logarithm], [gradient])
        return coefficient


class FastTD3(TD3, Replacement):
    """Replaces the class of a TD3; computes the same."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Do what TD3's method of this name does."""
        networks = _get_networks(self)
        if networks is None:
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        losses: _Losses = defaultdict(list)
        with th.no_grad():
            for _ in range(gradient_steps):
                self._n_updates += 1
                batch: Any = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
                self._update(networks, batch, losses)
        _record(self, losses)

    def _update(self, networks: OffPolicyNetworks, batch: ReplayBufferSamples, losses: _Losses) -> None:
        actor, actor_target = networks.actors
        features, next_features = networks.extract_features(batch)
        noise = th.empty_like(batch.actions).normal_(0, self.target_policy_noise)
        noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
        next_actions = (actor_target.evaluate(next_features) + noise).clamp(-1, 1)
        next_values = networks.critic_target.evaluate(th.cat([next_features, next_actions], dim=1))
        targets = _compute_targets(self, batch, next_values.min(dim=1, keepdim=True).values)
        inputs = th.cat([features, batch.actions], dim=1)
        losses["critic_loss"].append(networks.update_critic(inputs, targets, factor=1))
        if self._n_updates % self.policy_delay == 0:
            losses["actor_loss"].append(self._update_actor(networks, features))
            polyak_update(networks.critic.parameters, networks.critic_target.parameters, self.tau)
            polyak_update(actor.parameters, actor_target.parameters, self.tau)

    def _update_actor(self, networks: OffPolicyNetworks, features: th.Tensor) -> float:
        """Step the actor's optimizer once, and return the loss before the step."""
        actor, critic = networks.actors[0], networks.critic
        passed = actor.forward(features)
        passed_critic = critic.forward(th.cat([features, passed[0][-1]], dim=1), n_networks=1)
        values = passed_critic[0][-1]
        of_values = th.full_like(values, -1 / len(values))
        of_actions = critic.differentiate_inputs(passed_critic, [of_values])[:, features.shape[1] :]
        _step(self.actor.optimizer, actor.parameters, actor.differentiate(passed, [of_actions]))
        return -values.mean().item()


class FastDDPG(FastTD3, DDPG):
    """Replaces the class of a DDPG; computes the same."""


_FAST_CLASSES: dict[type, type] = {SAC: FastSAC, TD3: FastTD3, DDPG: FastDDPG}


def find_fast_off_policy_class(model: Any) -> type | None:
    """Return the class that may take over a model of SAC, TD3 or DDPG; None if none may."""
    fast_class, policy = _FAST_CLASSES.get(type(model)), model.policy
    if fast_class is None or type(policy) not in (SACPolicy, TD3Policy) or not are_in_place(_FUNCTIONS):
        return None
    if type(policy) is SACPolicy:
        actors: list[Any] = [policy.actor]
        has_known_actor = find_fast_actor(policy.actor) is not None
    else:
        actors = [policy.actor, policy.actor_target]
        has_known_actor = all(type(actor) is DeterministicActor and _is_mlp(actor.mu) for actor in actors)
    critics = [policy.critic, policy.critic_target]
    are_known = has_known_actor and all(type(critic) is ContinuousCritic for critic in critics)
    if not are_known or any(type(network.features_extractor) is not FlattenExtractor for network in actors + critics):
        return None
    return fast_class if all(_is_mlp(network) for critic in critics for network in critic.q_networks) else None


def _is_mlp(network: Any) -> bool:
    return type(network) is nn.Sequential and Mlp.can_run([*network], [network])
