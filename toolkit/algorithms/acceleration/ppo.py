"""PPO whose loss is differentiated by formulas instead of autograd."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch import nn

from toolkit.algorithms.acceleration.actor_critic import ActorCritic, get_actor_critic
from toolkit.algorithms.acceleration.replacement import Replacement
from toolkit.algorithms.stock import is_frozen_or_hooked


class FastPPO(PPO, Replacement):
    """Replaces the class of a PPO; computes the same."""

    def train(self) -> None:
        """Do what PPO's method of this name does."""
        networks = get_actor_critic(self.policy)
        parameters = networks.get_parameters(self.policy) if networks else []
        are_shared = len({*map(id, parameters)}) < len(parameters)
        if networks is None or are_shared or any(map(is_frozen_or_hooked, parameters)):
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        remaining = self._current_progress_remaining
        clip_range = self.clip_range(remaining)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(remaining)  # type: ignore[operator]
        means = _Means()
        with th.no_grad():
            update = _Update(self, networks, clip_range, clip_range_vf)
            for epoch in range(self.n_epochs):
                is_last = self._run_epoch(epoch, update)
                means.add(update.take_terms(), clip_range)
                self._n_updates += 1
                if is_last:
                    break
        self._log(means, clip_range, clip_range_vf)

    def _run_epoch(self, epoch: int, update: _Update) -> bool:
        """Update the networks once for each minibatch; return whether the policy has moved far enough."""
        for batch in self.rollout_buffer.get(self.batch_size):
            gradients, log_ratio = update.differentiate(batch)
            if self.target_kl is not None and (divergence := _estimate_kl(log_ratio).mean()) > 1.5 * self.target_kl:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                return True
            for parameter, gradient in zip(update.parameters, gradients, strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(update.parameters, self.max_grad_norm)
            self.policy.optimizer.step()
        return False

    def _log(self, means: _Means, clip_range: float, clip_range_vf: float | None) -> None:
        buffer, values = self.rollout_buffer, means.values
        losses = {name: values[name] for name in ("entropy_loss", "policy_gradient_loss", "value_loss")}
        for name, each in losses.items():
            self.logger.record(f"train/{name}", np.mean(each))
        entropy_loss, policy_loss, value_loss = (each[-1] for each in losses.values())
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        self.logger.record("train/approx_kl", np.mean(means.last_divergences))
        self.logger.record("train/clip_fraction", np.mean(values["clip_fraction"]))
        self.logger.record("train/loss", float(loss))
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)


class _Update:
    """The gradients of PPO's loss, and the terms of the losses so far.

    The clipped objective of Schulman et al. (2017), https://arxiv.org/abs/1707.06347, has a gradient where the ratio
    is within its range, or outside but the smaller of the two products.
    """

    def __init__(self, model: FastPPO, networks: ActorCritic, clip_range: float, clip_range_vf: float | None) -> None:
        self._model, self._policy, self._networks = model, model.policy, networks
        self._clip_range, self._clip_range_vf = clip_range, clip_range_vf
        self._terms: dict[str, list[th.Tensor]] = defaultdict(list)
        self.parameters = networks.get_parameters(self._policy)

    def differentiate(self, batch: RolloutBufferSamples) -> tuple[list[th.Tensor], th.Tensor]:
        """Return the gradients of the parameters for a minibatch, and the logarithms of its ratios."""
        model, actions, n = self._model, batch.actions, len(batch.returns)
        features: Any = self._policy.extract_features(batch.observations)
        (values, log_prob, entropy), passed = self._networks.evaluate(
            self._policy, features, actions.long().flatten() if self._networks.are_discrete else actions
        )
        advantages = batch.advantages
        if model.normalize_advantage and n > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        product = advantages * ratio
        clipped = advantages * ratio.clamp(1 - self._clip_range, 1 + self._clip_range)
        errors, is_flat = self._compute_errors(values.flatten(), batch)
        for name, term in {
            "objective": th.min(product, clipped),
            "error": errors,
            "log_ratio": log_ratio,
            "entropy": entropy,
        }.items():
            self._terms[name].append(term)
        of_values = errors * (2 * model.vf_coef / n)
        if is_flat is not None:
            of_values = of_values.masked_fill(is_flat, 0)
        # the derivative of the ratio by the logarithm of its numerator is the ratio itself
        of_log_prob = product.masked_fill(product > clipped, 0) * (-1 / n)
        of_entropy = th.full_like(entropy, -model.ent_coef / n)
        gradients = self._networks.differentiate(passed, of_values.unsqueeze(1), of_log_prob, of_entropy)
        return gradients, log_ratio

    def _compute_errors(self, values: th.Tensor, batch: RolloutBufferSamples) -> tuple[th.Tensor, th.Tensor | None]:
        """Return by how much the values differ from the returns, and where a clipped value has no gradient."""
        if self._clip_range_vf is None:
            return values - batch.returns, None
        change = values - batch.old_values
        clipped = change.clamp(-self._clip_range_vf, self._clip_range_vf)
        return batch.old_values + clipped - batch.returns, clipped != change

    def take_terms(self) -> dict[str, list[th.Tensor]]:
        """Return the terms of the losses since the last call, for each minibatch."""
        terms, self._terms = self._terms, defaultdict(list)
        return terms


class _Means:
    """What is logged: for each minibatch, the mean over its transitions."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)
        self.last_divergences: list[float] = []

    def add(self, terms: dict[str, list[th.Tensor]], clip_range: float) -> None:
        """Add the minibatches of an epoch."""
        self.values["policy_gradient_loss"] += _compute_means(terms["objective"], th.neg)
        self.values["value_loss"] += _compute_means(terms["error"], th.square)
        self.values["entropy_loss"] += _compute_means(terms["entropy"], th.neg)
        self.values["clip_fraction"] += _compute_means(
            terms["log_ratio"], lambda log_ratio: ((log_ratio.exp() - 1).abs() > clip_range).float()
        )
        self.last_divergences = _compute_means(terms["log_ratio"], _estimate_kl)


def _compute_means(terms: list[th.Tensor], function: Callable[[th.Tensor], th.Tensor]) -> list[float]:
    """Return the mean of a function of each minibatch's terms; fastest if only the last minibatch is smaller."""
    *full, last = terms
    if len({*map(len, full)}) != 1:
        return [function(term).mean().item() for term in terms]
    means: list[float] = function(th.stack(full)).mean(dim=1).tolist()
    return [*means, function(last).mean().item()]


def _estimate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """Estimate the divergence of the old policy from the new one; see http://joschu.net/blog/kl-approx.html."""
    return (log_ratio.exp() - 1) - log_ratio


class FastRolloutBuffer(RolloutBuffer, Replacement):
    """Replaces the class of a rollout buffer; takes the same minibatches from it."""

    def _get_samples(self, batch_inds: NDArray[np.int64], env: object = None) -> RolloutBufferSamples:
        indices = th.from_numpy(batch_inds)
        columns = (self.values, self.log_probs, self.advantages, self.returns)
        observations, actions, *others = (
            th.from_numpy(array).index_select(0, indices) for array in (self.observations, self.actions, *columns)
        )
        return RolloutBufferSamples(observations, actions.float(), *(each.flatten() for each in others))
