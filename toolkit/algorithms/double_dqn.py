"""Double DQN: Stable-Baselines3's DQN with the overestimation of its targets removed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from toolkit.algorithms.policies import (
    DuelingCnnPolicy,
    DuelingMlpPolicy,
    DuelingMultiInputPolicy,
)


class DoubleDQN(DQN):
    """Double DQN: the online network chooses the next action, the target network values it.

    Plain DQN takes the maximum of noisy estimates and so overestimates. Choosing with one network and
    valuing with the other removes most of that bias. Everything else is SB3's DQN: n-step replay, Dict and
    image observations, several environments, callbacks, saving and loading.

    Paper: van Hasselt, Guez and Silver, "Deep Reinforcement Learning with Double Q-learning" (2016),
    https://arxiv.org/abs/1509.06461. Asked for in SB3 issues #487 and #1737.

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``, one of these with ``Dueling`` in front,
        or a policy class
    :param env: the environment to learn from; its action space must be ``Discrete``
    :param double: whether to use Double-DQN targets; ``False`` gives SB3's own DQN update
    :param kwargs: every other parameter of :class:`stable_baselines3.DQN`, with SB3's defaults
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **DQN.policy_aliases,
        "DuelingMlpPolicy": DuelingMlpPolicy,
        "DuelingCnnPolicy": DuelingCnnPolicy,
        "DuelingMultiInputPolicy": DuelingMultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        *args: Any,
        double: bool = True,
        **kwargs: Any,
    ) -> None:
        self.double = double
        super().__init__(policy, env, *args, **kwargs)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Make ``gradient_steps`` updates on minibatches of ``batch_size`` transitions from the replay buffer."""
        if not self.double:
            super().train(gradient_steps, batch_size)
            return
        # SB3 asks `q_net_target` for the next Q-values and takes their maximum. Handing it one column, the value of
        # the action that the online network chose, makes its update a Double-DQN update without repeating it here.
        target = self.q_net_target
        self.q_net_target = _DoubleEstimator(self.q_net, target)  # type: ignore[assignment]
        try:
            super().train(gradient_steps, batch_size)
        finally:
            self.q_net_target = target


class _DoubleEstimator:
    """Values the online network's greedy action with the target network."""

    def __init__(self, online: QNetwork, target: QNetwork) -> None:
        self.online = online
        self.target = target

    def __call__(self, observations: PyTorchObs) -> th.Tensor:
        """Return the values, of shape (batch, 1)."""
        self.online.set_training_mode(False)  # as the target network's: no dropout, batch statistics left alone
        actions = self.online(observations).argmax(dim=1, keepdim=True)
        self.online.set_training_mode(True)
        return th.gather(self.target(observations), dim=1, index=actions)
