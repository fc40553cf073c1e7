"""Double DQN: Stable-Baselines3's DQN with the overestimation of its targets removed.

:func:`toolkit.algorithms.targets.compute_double_dqn_target` computes the target.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule, polyak_update
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.her import HerReplayBuffer

from toolkit.algorithms.adam import use_fused_form
from toolkit.algorithms.learner import Learner
from toolkit.algorithms.losses import has_own_losses
from toolkit.algorithms.policies import (
    CnnPolicy,
    DuelingCnnPolicy,
    DuelingMlpPolicy,
    DuelingMultiInputPolicy,
    MlpPolicy,
    MultiInputPolicy,
)
from toolkit.algorithms.prioritized import PrioritizedDictReplayBuffer, PrioritizedReplayBuffer
from toolkit.algorithms.ranges import ABOVE_ZERO, AT_LEAST_ONE, EXPLORATION, FROM_ZERO_TO_ONE, Range, check_ranges
from toolkit.algorithms.replay import Rows, StoredBatch, has_stock_sample, has_stock_scaling
from toolkit.algorithms.targets import Minibatch
from toolkit.algorithms.updates import LOSSES, UpdateConfig

_NEVER = sys.maxsize
_MIN_UPDATES_TO_COMPILE = 50_000  # docs/explanation/speed.md: what compiling costs and saves
_RANGES: dict[str, Range] = {
    "n_epochs": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
    "max_grad_norm": ABOVE_ZERO,
    "munchausen_alpha": (lambda value: value is None or 0 <= value <= 1, "from 0 to 1"),
    "munchausen_tau": ABOVE_ZERO,
    "munchausen_clip": (lambda value: value <= 0, "at most 0"),
    "tau": FROM_ZERO_TO_ONE,
    **EXPLORATION,
}
_FRACTION, _INITIAL_EPS, _FINAL_EPS = 0.1, 1.0, 0.05  # of the linear exploration, by default


class DoubleDQN(DQN):
    """Double DQN: the online network chooses the next action, the target network values it.

    Plain DQN takes the maximum of noisy estimates and so overestimates. Choosing with one network and valuing with the
    other removes most of that bias. Everything else is SB3's DQN: n-step replay, Dict and image observations, several
    environments, callbacks, saving and loading.

    Paper: van Hasselt, Guez and Silver, "Deep Reinforcement Learning with Double Q-learning" (2016),
    https://arxiv.org/abs/1509.06461. SB3 issues #487 and #1737 ask for it.

    It is faster than SB3's DQN because it leaves out much of what SB3 and PyTorch do around small networks. It checks
    in every call that nobody has changed what it leaves out, by a hook, a method set on an object or another layer,
    and takes SB3's own way otherwise. Functions replaced on a class count from the next update or ``learn`` on.

    As in SB3, a time limit does not end an episode for the targets. SB3's own switch,
    ``replay_buffer_kwargs={"handle_timeout_termination": False}``, makes it terminal.

    >>> from toolkit.algorithms import DoubleDQN
    >>> model = DoubleDQN("MlpPolicy", "CartPole-v1", learning_starts=50, seed=0).learn(200)
    >>> action, _ = model.predict(model.get_env().reset(), deterministic=True)
    >>> action.shape
    (1,)

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``, one of these with ``Dueling`` in front,
        or a policy class. ``policy_kwargs`` make its networks dueling, noisy or distributional, see
        :class:`toolkit.algorithms.policies.MlpPolicy`
    :param env: environment to learn from, or its Gymnasium id; its action space is ``Discrete``
    :param learning_rate: Adam's learning rate, above 0, or a function of the remaining progress from 1 to 0
    :param buffer_size: transitions that the replay buffer holds, over all environments
    :param learning_starts: timesteps before the first update; actions are random until then
    :param batch_size: transitions in a minibatch, at least 1
    :param tau: share of the online network in an update of the target network, 0 to 1; 1 copies it, 0 changes only
        running statistics
    :param gamma: discount factor, 0 to 1
    :param train_freq: vector steps between updates, or ``(n, "step")`` or ``(n, "episode")``
    :param gradient_steps: minibatches after each ``train_freq``; -1 for as many as vector steps since the last ones
    :param replay_buffer_class: class of the replay buffer, as ``HerReplayBuffer``; by default it follows from the
        observations and ``n_steps``
    :param replay_buffer_kwargs: arguments of the replay buffer
    :param optimize_memory_usage: store each observation once; slower, and without Dict observations
    :param n_steps: steps in an n-step return, at least 1; without Dict observations if above 1
    :param target_update_interval: timesteps between updates of the target network, or ``(n, "episode")``: an update
        when an episode starts after every n completed ones, over all environments
    :param exploration_fraction: share of the training in which epsilon falls linearly, above 0 and at most 1
    :param exploration_initial_eps: epsilon at the start, 0 to 1
    :param exploration_final_eps: epsilon at the end, 0 to 1
    :param max_grad_norm: the gradient is clipped to this norm, above 0; ``inf`` clips nothing
    :param stats_window_size: episodes over which SB3 averages what it logs of rollouts
    :param tensorboard_log: directory of TensorBoard's logs; by default none are written
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 prints nothing, 1 information, 2 debugging messages
    :param seed: seed of the random generators; by default it is not fixed
    :param device: PyTorch's device; ``auto`` is the GPU if there is one
    :param _init_setup_model: whether to build the networks in the constructor
    :param double: whether to use Double DQN's targets; ``False`` gives SB3's own DQN targets
    :param loss: ``huber`` (SB3's smooth L1, the default) or ``mse``, averaged over the minibatch. A policy with a
        ``distribution`` has a loss of its own
    :param loss_over_all_actions: average the loss over the outputs of all actions, as ``fit`` in Keras does; the
        target of an action that was not taken is the network's own prediction before the update
    :param n_epochs: updates on each minibatch, at least 1, with targets computed once before the first
    :param sample_with_replacement: whether a transition may come twice in one minibatch, as in SB3. If not, a
        minibatch's transitions come from as many different vector steps, and updates wait for so many. Replay buffers
        with a ``sample`` of their own cannot do that
    :param exploration: epsilon, 0 to 1, as a function of the number of completed episodes (over all environments) and
        the timestep, both from 0. It replaces the three ``exploration_*`` parameters and applies from the first step:
        ``learning_starts`` only delays updates then
    :param compile: whether to compile the whole update to one function, which takes 10 to 40 seconds once. ``auto``
        compiles on a CPU, for vectors of float32, if at least 50,000 updates are to come. If PyTorch cannot compile
        the update, as without a C++ compiler or with images, the reason is logged and updates are plain
    :param munchausen_alpha: share of the log-policy that Munchausen DQN adds to the reward, 0 to 1; the paper has 0.9.
        Targets are soft then: 0 gives soft DQN, null DQN's own targets. :func:`compute_munchausen_target` has the
        equation. With ``double``, the online network's policy is valued; ``double=False`` is the paper's algorithm
    :param munchausen_tau: temperature of the policy, above 0
    :param munchausen_clip: lower bound of the log-policy times the temperature, at most 0
    :raises ValueError: if parameters are out of range or do not fit together
    """

    #: whether updates take the weights of ``sample_weighted``, and give errors to ``update_priorities``
    supports_weighted_replay: ClassVar[bool] = True
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "DuelingMlpPolicy": DuelingMlpPolicy,
        "DuelingCnnPolicy": DuelingCnnPolicy,
        "DuelingMultiInputPolicy": DuelingMultiInputPolicy,
    }

    def __init__(  # noqa: PLR0913, PLR0917 - SB3's parameters in SB3's order, then our own by keyword
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int | tuple[int, Literal["step", "episode"]] = 10_000,
        exploration_fraction: float = _FRACTION,
        exploration_initial_eps: float = _INITIAL_EPS,
        exploration_final_eps: float = _FINAL_EPS,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        double: bool = True,
        loss: Literal["huber", "mse"] | None = None,
        loss_over_all_actions: bool = False,
        n_epochs: int = 1,
        sample_with_replacement: bool = True,
        exploration: Callable[[int, int], float] | None = None,
        compile: Literal["auto"] | bool = "auto",
        munchausen_alpha: float | None = None,
        munchausen_tau: float = 0.03,
        munchausen_clip: float = -1.0,
    ) -> None:
        linear_exploration = {
            "exploration_final_eps": (exploration_final_eps, _FINAL_EPS),
            "exploration_fraction": (exploration_fraction, _FRACTION),
            "exploration_initial_eps": (exploration_initial_eps, _INITIAL_EPS),
        }
        replaced = [name for name, (value, default) in linear_exploration.items() if value != default]
        self._has_default_exploration = exploration is None and not replaced
        if exploration is not None and replaced:
            raise ValueError(f"exploration replaces {', '.join(replaced)}: give one or the other")
        self.double = double
        self.loss = loss
        self.loss_over_all_actions = loss_over_all_actions
        self.n_epochs = n_epochs
        self.sample_with_replacement = sample_with_replacement
        self.exploration = exploration
        self.compile = compile
        self.munchausen_alpha = munchausen_alpha
        self.munchausen_tau = munchausen_tau
        self.munchausen_clip = munchausen_clip
        self.target_update_episodes: int | None = None
        self._episodes_at_target_update = 0
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,  # type: ignore[arg-type] # `_setup_model` converts it
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        # not in the constructor, because `load` sets parameters after it
        self._convert_target_update_interval()
        self._set_up_model_and_buffer()
        self._fit_to_policy()
        self._check_parameters()
        use_fused_form(self.policy.optimizer, self.policy.device)
        self._learner = Learner(should_compile=self.compile is True)

    def _set_up_model_and_buffer(self) -> None:
        """Do what SB3 does, and pass ``n_steps`` and ``gamma`` to a prioritized buffer as SB3 does to its own."""
        buffer_class, own_params = self.replay_buffer_class, self.replay_buffer_kwargs
        if not isinstance(buffer_class, type) or not issubclass(buffer_class, PrioritizedReplayBuffer):
            super()._setup_model()
            return
        if buffer_class is PrioritizedReplayBuffer and isinstance(get_obs_shape(self.observation_space), dict):
            self.replay_buffer_class = PrioritizedDictReplayBuffer
        if self.n_steps not in (1, n_steps := own_params.get("n_steps", self.n_steps)):
            raise ValueError(f"n_steps is {self.n_steps}, but {n_steps} in replay_buffer_kwargs: give one of the two")
        self.replay_buffer_kwargs = {"n_steps": self.n_steps, "gamma": self.gamma, **own_params}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`n_steps=.*` is ignored because")
            super()._setup_model()
        self.replay_buffer_kwargs = own_params

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        total_timesteps, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self._episode_num == 0:  # SB3 counts anew
            self._episodes_at_target_update = 0
        network = self._learner.get_networks(self).online
        is_fast_when_compiled = network.has_bare_layers and self.device.type == "cpu"
        is_worth_it = is_fast_when_compiled and self._count_updates(total_timesteps) >= _MIN_UPDATES_TO_COMPILE
        is_wanted = self.compile is True or (self.compile == "auto" and is_worth_it)
        self._learner.should_compile = is_wanted and self._learner.can_compile
        return total_timesteps, callback

    def _count_updates(self, total_timesteps: int) -> float:
        """Return how many updates are to come; 0 if ``train_freq`` counts episodes, because nobody knows then."""
        timesteps = total_timesteps - max(self.num_timesteps, self.learning_starts)
        minibatches_per_timestep = 1.0
        if self.gradient_steps >= 0:
            frequency: TrainFreq = self.train_freq  # type: ignore[assignment]
            counts_steps = frequency.unit is TrainFrequencyUnit.STEP
            minibatches_per_timestep = (
                self.gradient_steps / (frequency.frequency * self.n_envs) if counts_steps else 0.0
            )
        return timesteps * minibatches_per_timestep * self.n_epochs

    def state_dict(self) -> dict[str, Any]:
        """Return what lasts from one rollout to the next besides attributes, networks and buffer."""
        return {"compiles": self._learner.should_compile}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` once learning has started, because a run decides only once whether to compile."""
        self._learner.should_compile = state["compiles"] and self._learner.can_compile

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_learner"]

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Draw ``gradient_steps`` minibatches of ``batch_size`` transitions and make ``n_epochs`` updates on each.

        Without replacement, do nothing while the buffer holds fewer vector steps than ``batch_size``.
        """
        if not self.sample_with_replacement and self._n_stored_steps < batch_size:
            return
        learner = self._learner
        is_stock = learner.look_over(self)
        if is_stock:
            learner.set_training_mode(True)
        else:
            self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        config = UpdateConfig(
            self.double,
            self.loss or "huber",
            self.loss_over_all_actions,
            self.n_epochs,
            self.gamma,
            self.max_grad_norm,
            self.munchausen_alpha,
            self.munchausen_tau,
            self.munchausen_clip,
        )
        losses = []
        for _ in range(gradient_steps):
            batch, rows = self._sample_minibatch(batch_size)
            if not is_stock:
                learner.look_over(self)
            new_losses, errors = learner.learn(self, config, batch)
            losses += new_losses
            if rows is not None and errors is not None:
                self.replay_buffer.update_priorities(rows, errors.cpu().numpy())  # type: ignore[union-attr]
        self._n_updates += len(losses)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if learner.seconds_compiling:
            self.logger.record("time/seconds_compiling", learner.seconds_compiling, exclude="tensorboard")
        if losses:
            self.logger.record("train/loss", sum(losses) / len(losses))

    def _sample_minibatch(self, batch_size: int) -> tuple[Minibatch | StoredBatch, Rows | None]:
        """Return a minibatch, and the rows of its transitions if they have weights."""
        buffer: Any = self.replay_buffer
        if self.sample_with_replacement and hasattr(buffer, "sample_weighted"):
            return buffer.sample_weighted(batch_size, self._current_progress_remaining, self._vec_normalize_env)  # type: ignore[no-any-return]
        return self._sample_uniformly(batch_size), None

    def _sample_uniformly(self, batch_size: int) -> Minibatch | StoredBatch:
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        env = self._vec_normalize_env
        memory = self._learner.find_memory(buffer) if has_stock_scaling(env) else None
        if not self.sample_with_replacement:
            self._check_sampling()
            # `random.sample` takes time for each number drawn, `np.random.choice` for each stored
            steps = np.array(random.sample(range(self._n_stored_steps), batch_size))
        elif memory:
            steps = np.random.randint(0, self._n_stored_steps, size=batch_size)
        else:
            return buffer.sample(batch_size, env=env)
        if memory:
            return (memory.refer if self._learner.should_compile else memory.gather)(buffer, steps, env)
        return buffer._get_samples(steps, env=env)

    @property
    def _n_stored_steps(self) -> int:
        """Vector steps that the replay buffer holds."""
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        return buffer.buffer_size if buffer.full else buffer.pos

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        # an episode starts here: after the updates that follow the last step of the one before
        every = self.target_update_episodes
        if every and self._episode_num // every != self._episodes_at_target_update // every:
            self._episodes_at_target_update = self._episode_num
            self._update_target_network()
        if self.exploration is not None:
            self.exploration_rate = self._compute_epsilon(self.exploration)
            learning_starts = 0
        if self.num_timesteps < learning_starts or "predict" in vars(self):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        networks = self._learner.get_networks(self, for_acting=True)
        if not networks.can_act_fast(self._last_obs):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        if np.random.rand() < self.exploration_rate:
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            actions = networks.online.choose_greedy_actions(self._last_obs)  # type: ignore[arg-type]
        return actions, actions

    def _compute_epsilon(self, exploration: Callable[[int, int], float]) -> float:
        epsilon = exploration(self._episode_num, self.num_timesteps)
        if not isinstance(epsilon, Real) or not 0 <= epsilon <= 1:
            when = f"episode {self._episode_num} and timestep {self.num_timesteps}"
            raise ValueError(f"exploration returns {epsilon!r} for {when}; epsilon is a number from 0 to 1")
        return float(epsilon)

    def _update_target_network(self) -> None:
        polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
        polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

    def _on_step(self) -> None:
        epsilon = self.exploration_rate
        super()._on_step()
        if self.exploration is not None:
            self.exploration_rate = epsilon
            self.logger.record("rollout/exploration_rate", epsilon)

    def _convert_target_update_interval(self) -> None:
        """Split an interval that is a pair. SB3 counts steps, and must never update where episodes are counted."""
        value: Any = self.target_update_interval
        if value == _NEVER:  # a loaded model's, converted before it was saved
            return
        interval, unit = value if isinstance(value, tuple | list) and len(value) == 2 else (value, "step")
        if unit not in ("step", "episode") or not isinstance(interval, Integral) or interval < 1:
            expected = "steps or (n, 'step' | 'episode'), n at least 1"
            raise ValueError(f"target_update_interval must be {expected}, not {value!r}")
        self.target_update_episodes = int(interval) if unit == "episode" else None
        self.target_update_interval = _NEVER if unit == "episode" else int(interval)

    def _fit_to_policy(self) -> None:
        """Fill in the defaults that follow from the policy, and refuse what a policy cannot learn by."""
        policy: Any = self.policy
        is_noisy, has_distribution = getattr(policy, "is_noisy", False), getattr(policy, "has_distribution", False)
        if is_noisy and self._has_default_exploration:  # the noise explores
            self.exploration_initial_eps = self.exploration_final_eps = 0.0
            self.exploration_schedule = LinearSchedule(0.0, 0.0, self.exploration_fraction)
        self._has_default_exploration = False  # a loaded model's values were set before it was saved
        if has_distribution and self.loss is not None:
            raise ValueError("loss cannot be given with a policy's distribution, which has its own: leave it out")
        if self.loss_over_all_actions and (is_noisy or has_distribution):
            raise ValueError(
                "loss_over_all_actions needs a policy without noisy and distribution: their predictions for other "
                "actions cannot be targets"
            )
        if self.munchausen_alpha is not None and has_own_losses(self.q_net):
            raise ValueError("munchausen_alpha needs a policy without distribution: its targets are Q-values")
        if self.loss is None and not has_distribution:
            self.loss = "huber"

    def _check_parameters(self) -> None:
        if self.loss is not None and self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        if self.compile not in ("auto", True, False):
            raise ValueError(f"compile must be 'auto', True or False, not {self.compile!r}")
        check_ranges(vars(self), _RANGES)
        if self.exploration is not None:
            self._compute_epsilon(self.exploration)
        if not self.sample_with_replacement:
            self._check_sampling()

    def _check_sampling(self) -> None:
        buffer: ReplayBuffer = self.replay_buffer  # type: ignore[assignment]
        if isinstance(buffer, HerReplayBuffer) or getattr(buffer, "optimize_memory_usage", False):
            raise ValueError(
                "sample_with_replacement=False supports neither HerReplayBuffer nor optimize_memory_usage"
            )
        if not has_stock_sample(buffer):
            raise ValueError(
                "sample_with_replacement=False draws transitions itself and would pass over the `sample` of "
                f"{type(buffer).__name__}: leave sample_with_replacement out"
            )
        if self.batch_size > buffer.buffer_size:
            size = f"{buffer.buffer_size} transitions" + (f" of each of {self.n_envs} envs" if self.n_envs > 1 else "")
            raise ValueError(
                f"a batch_size of {self.batch_size} cannot be drawn without replacement from a buffer of {size}; "
                f"make buffer_size at least {self.batch_size * self.n_envs}"
            )
