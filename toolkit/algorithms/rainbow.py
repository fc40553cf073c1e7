"""Rainbow: every part of the DQN family together, with the paper's hyperparameters."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.dqn.policies import DQNPolicy

from toolkit.algorithms.double_dqn import DoubleDQN
from toolkit.algorithms.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from toolkit.algorithms.prioritized import PrioritizedReplayBuffer

_LOWEST, _HIGHEST = -10.0, 10.0  # discounted returns of clipped rewards
_ADAM_EPSILON = 1.5e-4
_ALPHA = 0.5  # exponent of the priorities


class RainbowMlpPolicy(MlpPolicy):
    """``MlpPolicy`` with Rainbow's parts: dueling, noisy, and with 51 atoms from -10 to 10. Adam's epsilon is 1.5e-4.

    :param dueling: see :class:`toolkit.algorithms.policies.MlpPolicy`, also for the other parameters
    :param distribution: ``c51``, ``qr`` or None
    :param v_min: for ``c51``, the lowest discounted return to expect; -10 by default
    :param v_max: for ``c51``, the highest discounted return to expect; 10 by default
    :param optimizer_kwargs: arguments of the optimizer; for Adam, ``{"eps": 1.5e-4}`` by default
    """

    def __init__(
        self,
        *args: Any,
        dueling: bool = True,
        noisy: bool = True,
        distribution: Literal["c51", "qr"] | None = "c51",
        v_min: float | None = None,
        v_max: float | None = None,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if distribution == "c51":
            v_min = _LOWEST if v_min is None else v_min
            v_max = _HIGHEST if v_max is None else v_max
        if optimizer_kwargs is None and issubclass(kwargs.get("optimizer_class", th.optim.Adam), th.optim.Adam):
            optimizer_kwargs = {"eps": _ADAM_EPSILON}
        super().__init__(
            *args,
            dueling=dueling,
            noisy=noisy,
            distribution=distribution,
            v_min=v_min,
            v_max=v_max,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )


class RainbowCnnPolicy(RainbowMlpPolicy, CnnPolicy):
    """``CnnPolicy`` with the parts of :class:`RainbowMlpPolicy`."""


class RainbowMultiInputPolicy(RainbowMlpPolicy, MultiInputPolicy):
    """``MultiInputPolicy`` with the parts of :class:`RainbowMlpPolicy`."""


class Rainbow(DoubleDQN):
    """Double DQN with all parts of Rainbow on, and the paper's hyperparameters as defaults.

    The parts are double Q-learning, prioritized replay, dueling networks, 3-step returns, C51 and noisy layers. Each
    default can be changed, and each part be switched off. The parts in ``policy_kwargs`` are parameters of
    :class:`RainbowMlpPolicy`. ``replay_buffer_class=None`` draws uniformly.

    The defaults are those for Atari, where an action lasts 4 frames and rewards are clipped to -1, 0 and 1. Elsewhere,
    ``v_min`` and ``v_max`` must cover the discounted returns. Small environments need smaller ``learning_starts`` and
    ``target_update_interval``, and a larger ``learning_rate``.

    Paper: Hessel et al., "Rainbow: Combining Improvements in Deep Reinforcement Learning" (2018),
    https://arxiv.org/abs/1710.02298, table 1.

    >>> from toolkit.algorithms import Rainbow
    >>> head = {"net_arch": [16], "v_min": 0, "v_max": 100}
    >>> model = Rainbow("MlpPolicy", "CartPole-v1", learning_starts=50, buffer_size=1000, policy_kwargs=head, seed=0)
    >>> model.learn(100).q_net
    DistributionalQNetwork(...)

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``, or a policy class
    :param env: environment to learn from, or its Gymnasium id; its action space is ``Discrete``
    :param learning_rate: Adam's learning rate, above 0, or a function of the remaining progress from 1 to 0
    :param learning_starts: timesteps before the first update; actions are random until then
    :param replay_buffer_class: class of the replay buffer; None draws uniformly
    :param replay_buffer_kwargs: arguments of the replay buffer; ``alpha`` of a prioritized one is 0.5 by default
    :param n_steps: steps in an n-step return, at least 1
    :param target_update_interval: timesteps between updates of the target network, or ``(n, "episode")``
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": RainbowMlpPolicy,
        "CnnPolicy": RainbowCnnPolicy,
        "MultiInputPolicy": RainbowMultiInputPolicy,
    }

    def __init__(  # noqa: PLR0913 - the defaults that differ
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 6.25e-5,
        *,
        learning_starts: int = 20_000,
        replay_buffer_class: type[ReplayBuffer] | None = PrioritizedReplayBuffer,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        n_steps: int = 3,
        target_update_interval: int | tuple[int, Literal["step", "episode"]] = 8_000,
        **kwargs: Any,
    ) -> None:
        if replay_buffer_class is not None and issubclass(replay_buffer_class, PrioritizedReplayBuffer):
            replay_buffer_kwargs = {"alpha": _ALPHA, **(replay_buffer_kwargs or {})}
        super().__init__(
            policy,
            env,
            learning_rate,
            learning_starts=learning_starts,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            **kwargs,
        )
