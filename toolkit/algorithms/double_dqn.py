"""Double DQN: Stable-Baselines3's DQN with the overestimation of its targets removed."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, GymEnv, PyTorchObs, ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.her import HerReplayBuffer
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.policies import (
    DuelingCnnPolicy,
    DuelingMlpPolicy,
    DuelingMultiInputPolicy,
)

_LOSSES = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}
_NEVER = sys.maxsize


class DoubleDQN(DQN):
    """Double DQN: the online network chooses the next action, the target network values it.

    Plain DQN takes the maximum of noisy estimates and so overestimates. Choosing with one network and
    valuing with the other removes most of that bias. Everything else is SB3's DQN: n-step replay, Dict and
    image observations, several environments, callbacks, saving and loading.

    Paper: van Hasselt, Guez and Silver, "Deep Reinforcement Learning with Double Q-learning" (2016),
    https://arxiv.org/abs/1509.06461. Asked for in SB3 issues #487 and #1737.

    Time limits are no ends of an episode for it, as in SB3; ``replay_buffer_kwargs={"handle_timeout_termination":
    False}``, SB3's own switch, makes them terminal.

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``, one of these with ``Dueling`` in front,
        or a policy class
    :param env: the environment to learn from; its action space must be ``Discrete``
    :param double: whether to use Double-DQN targets; ``False`` gives SB3's own DQN targets
    :param loss: ``huber`` (SB3's smooth L1) or ``mse``, averaged over the minibatch
    :param loss_over_all_actions: average the loss over the outputs of all actions, as ``fit`` in Keras does; the
        targets of the actions not taken are the network's own predictions before the update
    :param n_epochs: passes over each minibatch, with targets computed once, before the first
    :param sample_with_replacement: whether a transition may come twice in one minibatch, as in SB3. If not, a
        minibatch's transitions were stored at as many different vector steps, and updates wait for so many.
    :param exploration: epsilon by number of completed episodes (over all environments) and timestep, both from 0,
        from the first step on: with it, ``learning_starts`` only says when updates begin. Replaces the three
        ``exploration_*`` parameters
    :param target_update_interval: environment steps between updates of the target network, or ``(n, "episode")``:
        updated when an episode starts after every n completed ones, counted over all environments
    :param kwargs: every other parameter of :class:`stable_baselines3.DQN`, with SB3's defaults
    :raises ValueError: if parameters are out of range or do not fit together
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **DQN.policy_aliases,
        "DuelingMlpPolicy": DuelingMlpPolicy,
        "DuelingCnnPolicy": DuelingCnnPolicy,
        "DuelingMultiInputPolicy": DuelingMultiInputPolicy,
    }

    def __init__(  # noqa: PLR0913 - as SB3's algorithms have it; all of these by keyword
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        *args: Any,
        double: bool = True,
        loss: Literal["huber", "mse"] = "huber",
        loss_over_all_actions: bool = False,
        n_epochs: int = 1,
        sample_with_replacement: bool = True,
        exploration: Callable[[int, int], float] | None = None,
        target_update_interval: int | tuple[int, Literal["step", "episode"]] = 10_000,
        **kwargs: Any,
    ) -> None:
        self.double = double
        self.loss = loss
        self.loss_over_all_actions = loss_over_all_actions
        self.n_epochs = n_epochs
        self.sample_with_replacement = sample_with_replacement
        self.exploration = exploration
        self.target_update_episodes: int | None = None
        self._episodes_at_target_update = 0
        if exploration is not None and (given := sorted(name for name in kwargs if name.startswith("exploration_"))):
            raise ValueError(f"exploration replaces {', '.join(given)}: give one or the other")
        kwargs["target_update_interval"] = target_update_interval  # which SB3 keeps until `_setup_model`
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        # here, and not in the constructor, because `load` sets parameters after that
        self._convert_target_update_interval()
        super()._setup_model()
        self._check_parameters()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Draw ``gradient_steps`` minibatches of ``batch_size`` transitions and make ``n_epochs`` updates on each.

        Without replacement nothing is done while fewer transitions are stored.
        """
        if not self.sample_with_replacement and self._stored < batch_size:
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch = self._sample(batch_size)
            targets = self._targets(batch)
            losses += [self._update(batch, targets) for _ in range(self.n_epochs)]
        self._n_updates += len(losses)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))

    def _sample(self, batch_size: int) -> ReplayBufferSamples | DictReplayBufferSamples:
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        if self.sample_with_replacement:
            return buffer.sample(batch_size, env=self._vec_normalize_env)
        # `random.sample` takes time for what it draws, `np.random.choice` for all that is stored
        drawn = np.array(random.sample(range(self._stored), batch_size))
        return buffer._get_samples(drawn, env=self._vec_normalize_env)

    @property
    def _stored(self) -> int:
        """How many vector steps the replay buffer holds."""
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        return buffer.buffer_size if buffer.full else buffer.pos

    @th.no_grad()
    def _targets(self, batch: ReplayBufferSamples | DictReplayBufferSamples) -> th.Tensor:
        """Return the values to learn: (batch, 1) for the actions taken, or (batch, actions) for all of them."""
        next_values: th.Tensor = self.q_net_target(batch.next_observations)
        if self.double:
            chosen = self._predicted(batch.next_observations).argmax(dim=1, keepdim=True)
            next_values = next_values.gather(dim=1, index=chosen)
        else:
            next_values = next_values.max(dim=1, keepdim=True).values
        discounts = self.gamma if batch.discounts is None else batch.discounts
        targets = batch.rewards + (1 - batch.dones) * discounts * next_values
        if not self.loss_over_all_actions:
            return targets
        return self._predicted(batch.observations).scatter(dim=1, index=batch.actions.long(), src=targets)

    def _predicted(self, observations: PyTorchObs) -> th.Tensor:
        """Return the online network's Q-values, in its evaluation mode: no dropout, batch statistics left alone."""
        self.q_net.set_training_mode(False)
        values: th.Tensor = self.q_net(observations)
        self.q_net.set_training_mode(True)
        return values

    def _update(self, batch: ReplayBufferSamples | DictReplayBufferSamples, targets: th.Tensor) -> float:
        """Make one step of the optimizer; return the loss before it."""
        values = self.q_net(batch.observations)
        if not self.loss_over_all_actions:
            values = values.gather(dim=1, index=batch.actions.long())
        loss = _LOSSES[self.loss](values, targets)
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.max_grad_norm < math.inf:
            th.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        return loss.item()

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        # Episodes start here: after the updates that follow the last step of one, before the first action of the next.
        every = self.target_update_episodes
        if every and self._episode_num // every != self._episodes_at_target_update // every:
            self._episodes_at_target_update = self._episode_num
            self._update_target()
        if self.exploration is not None:
            self.exploration_rate = self._epsilon(self.exploration)
            learning_starts = 0
        return super()._sample_action(learning_starts, action_noise, n_envs)

    def _epsilon(self, exploration: Callable[[int, int], float]) -> float:
        rate = exploration(self._episode_num, self.num_timesteps)
        if not isinstance(rate, Real) or not 0 <= rate <= 1:
            place = f"episode {self._episode_num} and timestep {self.num_timesteps}"
            raise ValueError(f"exploration gives {rate!r} for {place}; epsilon is a number from 0 to 1")
        return float(rate)

    def _update_target(self) -> None:
        polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
        polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

    def _on_step(self) -> None:
        explored_with = self.exploration_rate
        super()._on_step()
        if self.exploration is not None:
            self.exploration_rate = explored_with
            self.logger.record("rollout/exploration_rate", explored_with)

    def _convert_target_update_interval(self) -> None:
        """Split an interval given as a pair; SB3 counts steps, and must never update where episodes are counted."""
        given: Any = self.target_update_interval
        if given == _NEVER:  # loaded, and converted when it was saved
            return
        interval, unit = given if isinstance(given, tuple | list) and len(given) == 2 else (given, "step")
        if unit not in ("step", "episode") or not isinstance(interval, Integral) or interval < 1:
            wanted = "steps or (n, 'step' | 'episode'), n at least 1"
            raise ValueError(f"target_update_interval must be {wanted}, not {given!r}")
        self.target_update_episodes = int(interval) if unit == "episode" else None
        self.target_update_interval = _NEVER if unit == "episode" else int(interval)

    def _check_parameters(self) -> None:
        if self.loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)}, not {self.loss!r}")
        for name, fits, wanted in (
            ("n_epochs", self.n_epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("max_grad_norm", self.max_grad_norm > 0, "above 0"),
            ("tau", 0 < self.tau <= 1, "above 0 and at most 1"),
            ("exploration_fraction", 0 < self.exploration_fraction <= 1, "above 0 and at most 1"),
            ("exploration_initial_eps", 0 <= self.exploration_initial_eps <= 1, "from 0 to 1"),
            ("exploration_final_eps", 0 <= self.exploration_final_eps <= 1, "from 0 to 1"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)}")
        if self.exploration is not None:
            self._epsilon(self.exploration)
        if not self.sample_with_replacement:
            self._check_sampling()

    def _check_sampling(self) -> None:
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        if isinstance(buffer, HerReplayBuffer) or self.optimize_memory_usage:
            raise ValueError("sample_with_replacement=False fits neither HerReplayBuffer nor optimize_memory_usage")
        if self.batch_size > buffer.buffer_size:
            held = f"{buffer.buffer_size} transitions" + (f" of each of {self.n_envs} envs" if self.n_envs > 1 else "")
            raise ValueError(
                f"a batch_size of {self.batch_size} cannot be drawn without replacement from a buffer of {held}; "
                f"make buffer_size at least {self.batch_size * self.n_envs}"
            )
