"""Double DQN: Stable-Baselines3's DQN with the overestimation of its targets removed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.her import HerReplayBuffer

from toolkit.algorithms.learner import Learner
from toolkit.algorithms.policies import (
    CnnPolicy,
    DuelingCnnPolicy,
    DuelingMlpPolicy,
    DuelingMultiInputPolicy,
    MlpPolicy,
    MultiInputPolicy,
)
from toolkit.algorithms.replay import Stored, can_gather, gather, stored
from toolkit.algorithms.updates import LOSSES, Minibatch, UpdateConfig

_NEVER = sys.maxsize
_UPDATES_THAT_PAY = 50_000  # for compiling: BENCHMARKS.md has what it costs and what it saves


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
    :param compile: whether to compile the whole update to one function, which takes 10 to 40 seconds once; ``auto``:
        on a CPU, for vectors of float32, where at least 50,000 updates are to come. Where it cannot be done, as
        without a C++ compiler or with images, the reason is logged and updates are plain
    :param target_update_interval: environment steps between updates of the target network, or ``(n, "episode")``:
        updated when an episode starts after every n completed ones, counted over all environments
    :param kwargs: every other parameter of :class:`stable_baselines3.DQN`, with SB3's defaults
    :raises ValueError: if parameters are out of range or do not fit together
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
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
        compile: Literal["auto"] | bool = "auto",
        target_update_interval: int | tuple[int, Literal["step", "episode"]] = 10_000,
        **kwargs: Any,
    ) -> None:
        self.double = double
        self.loss = loss
        self.loss_over_all_actions = loss_over_all_actions
        self.n_epochs = n_epochs
        self.sample_with_replacement = sample_with_replacement
        self.exploration = exploration
        self.compile = compile
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
        self._learner = Learner(self.policy, compiles=self.compile is True)

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        total_timesteps, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        self._learner.refresh()
        is_known_to_pay = self._learner.online.is_bare and self.device.type == "cpu"
        pays = is_known_to_pay and self._updates_until(total_timesteps) >= _UPDATES_THAT_PAY
        asked = self.compile is True or (self.compile == "auto" and pays)
        self._learner.compiles = asked and self._learner.can_compile
        return total_timesteps, callback

    def _updates_until(self, total_timesteps: int) -> float:
        """Return how many updates there will be; with ``train_freq`` in episodes that is not known: 0."""
        steps = total_timesteps - max(self.num_timesteps, self.learning_starts)
        a_step = 1.0
        if self.gradient_steps >= 0:
            frequency: TrainFreq = self.train_freq  # type: ignore[assignment]
            in_steps = frequency.unit is TrainFrequencyUnit.STEP
            a_step = self.gradient_steps / (frequency.frequency * self.n_envs) if in_steps else 0.0
        return steps * a_step * self.n_epochs

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on from one rollout to the next besides attributes, networks and buffer."""
        return {"compiles": self._learner.compiles}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned, after learning has started: ``compile`` is decided only once."""
        self._learner.compiles = kept["compiles"] and self._learner.can_compile

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_learner"]

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Draw ``gradient_steps`` minibatches of ``batch_size`` transitions and make ``n_epochs`` updates on each.

        Without replacement nothing is done while fewer transitions are stored.
        """
        if not self.sample_with_replacement and self._stored < batch_size:
            return
        if self._learner.online.has_modes:
            self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rule = UpdateConfig(
            self.double, self.loss, self.loss_over_all_actions, self.n_epochs, self.gamma, self.max_grad_norm
        )
        losses = []
        for _ in range(gradient_steps):
            losses += self._learner.learn(rule, self._sample(batch_size))
        self._n_updates += len(losses)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self._learner.seconds_compiling:
            self.logger.record("time/seconds_compiling", self._learner.seconds_compiling, exclude="tensorboard")
        if losses:
            self.logger.record("train/loss", sum(losses) / len(losses))

    def _sample(self, batch_size: int) -> Minibatch | Stored:
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        gathers = self._vec_normalize_env is None and can_gather(buffer)
        if not self.sample_with_replacement:
            # `random.sample` takes time for what it draws, `np.random.choice` for all that is stored
            steps = np.array(random.sample(range(self._stored), batch_size))
        elif gathers:
            steps = np.random.randint(0, self._stored, size=batch_size)
        else:
            return buffer.sample(batch_size, env=self._vec_normalize_env)
        if gathers:
            return stored(buffer, steps) if self._learner.compiles else gather(buffer, steps)
        return buffer._get_samples(steps, env=self._vec_normalize_env)

    @property
    def _stored(self) -> int:
        """How many vector steps the replay buffer holds."""
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        return buffer.buffer_size if buffer.full else buffer.pos

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
        if self.num_timesteps < learning_starts or not self._acts_plainly:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        if np.random.rand() < self.exploration_rate:
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            actions = self._learner.online.greedy(self._last_obs)  # type: ignore[arg-type] # _acts_plainly
        return actions, actions

    @property
    def _acts_plainly(self) -> bool:
        """Whether actions come from arrays of observations as SB3 chooses them, and not as a subclass does."""
        policy = type(self.policy)
        ways = (type(self).predict, policy.predict, policy.obs_to_tensor, policy._predict, type(self.q_net)._predict)
        stock = (DQN.predict, BasePolicy.predict, BasePolicy.obs_to_tensor, DQNPolicy._predict, QNetwork._predict)
        return ways == stock and isinstance(self._last_obs, np.ndarray) and not self._learner.online.has_modes

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
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        if self.compile not in ("auto", True, False):
            raise ValueError(f"compile must be 'auto', True or False, not {self.compile!r}")
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
