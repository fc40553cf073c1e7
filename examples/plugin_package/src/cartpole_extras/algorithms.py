"""DQN with Munchausen targets."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn
from torch.nn import functional


class MunchausenDQN(DQN):
    """DQN that adds the scaled log-probability of its action to the reward.

    With ``pi = softmax(Q / temperature)`` of the target network, the target for a step from s to s' by action a is
    ``r + alpha * clip(temperature * log pi(a|s), lowest_bonus, 0)
    + gamma * sum over b of pi(b|s') * (Q(s', b) - temperature * log pi(b|s'))``.
    Everything else is SB3's DQN, with its epsilon-greedy exploration.

    Paper: Vieillard, Pietquin and Geist, "Munchausen Reinforcement Learning" (2020), https://arxiv.org/abs/2007.14430,
    equation 1. The defaults are the paper's Atari settings.

    :param alpha: factor of the log-probability, from 0 to 1; 0 gives soft DQN
    :param temperature: in units of return, above 0; near 0, with ``alpha`` 0, this is DQN
    :param lowest_bonus: lower bound of the scaled log-probability, at most 0
    :param kwargs: parameters of :class:`stable_baselines3.DQN`; ``n_steps`` must be 1
    :raises ValueError: if a parameter is out of range
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.9,
        temperature: float = 0.03,
        lowest_bonus: float = -1.0,
        **kwargs: Any,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, not {alpha}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if lowest_bonus > 0:
            raise ValueError(f"lowest_bonus must be at most 0, not {lowest_bonus}")
        if kwargs.get("n_steps", 1) != 1:
            raise ValueError("n_steps must be 1, because the bonus is for one action")
        self.alpha = alpha
        self.temperature = temperature
        self.lowest_bonus = lowest_bonus
        super().__init__(*args, **kwargs)

    def compute_targets(self, batch: ReplayBufferSamples) -> th.Tensor:
        """Return the targets of the Q-values of a minibatch's actions, of shape (batch, 1)."""
        q_values = self.q_net_target(batch.observations)
        scaled_logs = self.temperature * functional.log_softmax(q_values / self.temperature, dim=1)
        bonus = scaled_logs.gather(1, batch.actions).clamp(self.lowest_bonus, 0.0)
        # logsumexp equals the sum over actions, but cannot overflow or take the logarithm of 0
        next_q_values = self.q_net_target(batch.next_observations)
        values = self.temperature * th.logsumexp(next_q_values / self.temperature, dim=1, keepdim=True)
        return batch.rewards + self.alpha * bonus + (1 - batch.dones) * self.gamma * values

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update the networks on ``gradient_steps`` minibatches of ``batch_size`` transitions."""
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            with th.no_grad():
                targets = self.compute_targets(batch)
            q_values = self.q_net(batch.observations).gather(1, batch.actions)
            loss = functional.smooth_l1_loss(q_values, targets)
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            losses.append(loss.item())
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", sum(losses) / len(losses))
