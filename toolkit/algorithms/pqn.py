"""PQN: Q-learning in parallel environments, without a replay buffer and without a target network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import LinearSchedule, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn import policies as sb3

from toolkit.algorithms.pqn_policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from toolkit.algorithms.pqn_update import PQNNetwork
from toolkit.algorithms.ranges import ABOVE_ZERO, AT_LEAST_ONE, EXPLORATION, FROM_ZERO_TO_ONE, Range, check_ranges

_Observations = NDArray[Any] | dict[str, NDArray[Any]]
_Self = TypeVar("_Self", bound="PQN")
_RANGES: dict[str, Range] = {
    "n_steps": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
    "n_epochs": AT_LEAST_ONE,
    "q_lambda": FROM_ZERO_TO_ONE,
    **EXPLORATION,
    "max_grad_norm": ABOVE_ZERO,
}


class PQN(OnPolicyAlgorithm):
    """Parallelised Q-network (PQN): Q-learning on rollouts of many environments, as PPO collects them.

    The rollouts replace the replay buffer, and layer normalization the target network. With n environments, PQN
    collects ``n_steps`` vector steps with epsilon-greedy actions; each environment draws for itself. Then it computes
    the targets once, and makes ``n_epochs`` passes over the rollout in random minibatches.

    The targets are those of Peng's Q(lambda), from the last step of the rollout back to the first:

        R_t = r_t + gamma * (lambda * R_(t+1) + (1 - lambda) * max_a Q(s_(t+1), a))

    Here r_t is a reward, s_(t+1) the next observation and Q the network that collected the rollout. Where the
    environment terminates the episode, R_t is r_t. Where a time limit truncates it, and at the end of the rollout,
    R_t is r_t + gamma * max_a Q(s', a), with s' the last observation of the episode or of the rollout. So no return
    reaches from one episode into another. The loss is (Q(s_t, a_t) - R_t)² / 2, averaged over a minibatch.

    Paper: Gallici, Fellows, Ellis, Pou, Masmitja, Foerster and Martin, "Simplifying Deep Temporal Difference
    Learning" (2024), https://arxiv.org/abs/2407.04811, algorithm 1. The defaults are those of its experiments with
    Atari, but for ``exploration_final_eps``, which is 0.001 there. These experiments have 128 environments, so that a
    rollout is 4,096 timesteps. Fewer environments need longer rollouts, or a lower learning rate.

    >>> from toolkit.algorithms import PQN
    >>> model = PQN("MlpPolicy", "CartPole-v1", seed=0).learn(200)
    >>> action, _ = model.predict(model.get_env().reset(), deterministic=True)
    >>> action.shape
    (1,)

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a policy class
    :param env: environment to learn from, or its Gymnasium id; its action space is ``Discrete``
    :param learning_rate: the optimizer's learning rate, above 0, or a function of the remaining progress from 1 to 0
    :param n_steps: vector steps in a rollout, at least 1
    :param batch_size: transitions in a minibatch, at least 1; the last one of an epoch may be smaller
    :param n_epochs: passes over each rollout, at least 1
    :param gamma: discount factor, 0 to 1
    :param q_lambda: lambda of the returns, 0 to 1; 0 bootstraps after one step, 1 at the end of episode or rollout
    :param exploration_fraction: share of the training in which epsilon falls linearly, above 0 and at most 1
    :param exploration_initial_eps: epsilon at the start, 0 to 1
    :param exploration_final_eps: epsilon at the end, 0 to 1
    :param max_grad_norm: the gradient is clipped to this norm, above 0; ``inf`` clips nothing
    :param rollout_buffer_class: class of the rollout buffer; by default it follows from the observations
    :param rollout_buffer_kwargs: arguments of the rollout buffer
    :param stats_window_size: episodes over which SB3 averages what it logs of rollouts
    :param tensorboard_log: directory of TensorBoard's logs; by default none are written
    :param policy_kwargs: arguments of the policy, such as ``layer_norm``
    :param verbose: 0 prints nothing, 1 information, 2 debugging messages
    :param seed: seed of the random generators; by default it is not fixed
    :param device: PyTorch's device; ``auto`` is the GPU if there is one
    :param _init_setup_model: whether to build the network in the constructor
    :raises ValueError: if parameters are out of range
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: MlpPolicy  # type: ignore[assignment]

    def __init__(  # noqa: PLR0913, PLR0917 - in the order of SB3's PPO
        self,
        policy: str | type[MlpPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 2.5e-4,
        n_steps: int = 32,
        batch_size: int = 128,
        n_epochs: int = 2,
        gamma: float = 0.99,
        q_lambda: float = 0.65,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.q_lambda = q_lambda
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.exploration_rate = 0.0  # as in SB3's DQN until the first step
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=q_lambda,
            ent_coef=0.0,
            vf_coef=0.5,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            supported_action_spaces=(sb3.spaces.Discrete,),  # type: ignore[attr-defined]
        )

    def _setup_model(self) -> None:
        check_ranges(vars(self), _RANGES)
        self._learner: PQNNetwork | None = None
        self._setup_lr_schedule()
        self.exploration_schedule = LinearSchedule(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        )
        self.set_random_seed(self.seed)
        policy = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        self.policy = policy.to(self.device)  # type: ignore[assignment]
        if self.rollout_buffer_class is None:
            has_parts = isinstance(self.observation_space, sb3.spaces.Dict)  # type: ignore[attr-defined]
            self.rollout_buffer_class = DictRolloutBuffer if has_parts else RolloutBuffer
        self.rollout_buffer = self.rollout_buffer_class(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.q_lambda,
            n_envs=self.n_envs,
            **self.rollout_buffer_kwargs,
        )

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with ``n_rollout_steps`` vector steps and the returns that follow each.

        :return: whether training continues
        """
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        n_steps = 0
        while n_steps < n_rollout_steps:
            actions, values = self._choose_actions()
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            n_steps += 1
            rewards = self._add_values_after_time_limits(rewards, dones, infos)
            rollout_buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, values, values)  # type: ignore[arg-type]
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        last_values = self._compute_q_values(new_obs).amax(dim=1)
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _choose_actions(self) -> tuple[NDArray[Any], th.Tensor]:
        """Return epsilon-greedy actions for the last observations, and the highest Q-values, each (n_envs,)."""
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        values, greedy_actions = self._compute_q_values(self._last_obs).max(dim=1)
        return self._explore(greedy_actions.cpu().numpy()), values

    def _explore(self, greedy_actions: NDArray[Any]) -> NDArray[Any]:
        """Replace each action with a random one, with a probability of epsilon."""
        n_actions = int(self.action_space.n)  # type: ignore[attr-defined]
        is_random = np.random.rand(len(greedy_actions)) < self.exploration_rate
        return np.where(is_random, np.random.randint(n_actions, size=len(greedy_actions)), greedy_actions)

    def _compute_q_values(self, observations: Any) -> th.Tensor:
        return self._get_network().compute_q_values(obs_as_tensor(observations, self.device))

    def _get_network(self) -> PQNNetwork:
        """Return what is known of the policy's network, found out anew if something has changed."""
        if self._learner is None or not self._learner.is_current(self.policy):
            self._learner = PQNNetwork(self.policy)
        return self._learner

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_learner": None}  # a copy finds out anew

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_learner"]

    def _add_values_after_time_limits(
        self, rewards: NDArray[Any], dones: NDArray[Any], infos: list[dict[str, Any]]
    ) -> NDArray[Any]:
        """Add to rewards the discounted values of what would have followed, where a time limit ends the episode."""
        indices = [index for index in np.flatnonzero(dones) if infos[index].get("TimeLimit.truncated", False)]
        indices = [index for index in indices if infos[index].get("terminal_observation") is not None]
        if not indices:
            return rewards
        rewards = rewards.copy()
        for index in indices:
            observations, _ = self.policy.obs_to_tensor(infos[index]["terminal_observation"])
            rewards[index] += self.gamma * self._get_network().compute_q_values(observations).max().item()
        return rewards

    def train(self) -> None:
        """Update the network with minibatches of the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        network = self._get_network()
        can_differentiate = network.can_differentiate()
        update = network.update_by_layers if can_differentiate else network.update
        values, returns = [], []
        for _ in range(self.n_epochs):
            for observations, actions, batch_returns in self._iterate_minibatches():
                values.append(update(observations, actions, batch_returns, self.max_grad_norm))  # type: ignore[arg-type]
                returns.append(batch_returns)
        self._n_updates += len(values)
        all_values = th.cat(values)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", (all_values - th.cat(returns)).square().mean().item() / 2)
        self.logger.record("train/q_mean", all_values.mean().item())

    def _iterate_minibatches(self) -> Iterator[tuple[PyTorchObs, th.Tensor, th.Tensor]]:
        """Yield observations, actions (batch, 1) and returns (batch,) of the rollout in random order."""
        buffer = self.rollout_buffer
        if type(buffer) is not RolloutBuffer or buffer.device.type != "cpu":
            for batch in buffer.get(self.batch_size):
                yield batch.observations, batch.actions.long(), batch.returns
            return
        # as the buffer itself does, without the columns that PQN does not need
        indices = th.from_numpy(np.random.permutation(buffer.buffer_size * buffer.n_envs))
        columns = (buffer.observations, buffer.actions, buffer.returns)
        observations, actions, returns = (th.from_numpy(buffer.swap_and_flatten(column)) for column in columns)
        for batch_indices in th.split(indices, self.batch_size):
            yield observations[batch_indices], actions[batch_indices], returns[batch_indices].flatten()

    def predict(
        self,
        observation: _Observations,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return actions for observations, as SB3's DQN does: greedy ones, or epsilon-greedy by default.

        Each observation of a batch draws for itself.
        """
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        if not deterministic:
            actions = self._explore(actions.reshape(-1)).reshape(actions.shape)
        return actions, state

    def learn(
        self: _Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "PQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> _Self:
        """Learn for a number of timesteps, rounded up to whole rollouts."""
        return super().learn(
            total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
