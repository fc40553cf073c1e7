"""DoubleDQN's policies: SB3's DQN policies, with dueling, noisy and distributional networks by parameters."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn import policies as sb3
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from toolkit.algorithms.distributions import make_distribution
from toolkit.algorithms.heads import DistributionalDuelingHead, DuelingHead, draw_noise, make_layers_noisy
from toolkit.algorithms.losses import TransitionLosses
from toolkit.algorithms.stock import evaluation_mode, set_training_mode
from toolkit.algorithms.targets import Minibatch
from toolkit.algorithms.updates import UpdateConfig


class DuelingQNetwork(QNetwork):
    """SB3's Q-network with a dueling head in place of its last layer; ``net_arch`` is the trunk both streams share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        *_, last_layer = self.q_net.children()
        self.q_net[-1] = DuelingHead(last_layer.in_features, last_layer.out_features)  # type: ignore[arg-type]


class NoisyQNetwork(QNetwork):
    """SB3's Q-network with noisy linear layers after the features extractor, and a dueling head if wanted.

    Called with observations it computes without noise. Noise is drawn to explore, by :meth:`_predict`, and for each
    pass of an update.

    :param dueling: see :class:`MlpPolicy`
    :param noisy: whether the layers are noisy, for subclasses
    """

    def __init__(self, *args: Any, dueling: bool = False, noisy: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_dueling, self.is_noisy = dueling, noisy
        *_, last_layer = self.q_net.children()
        self.q_net[-1] = self._make_head(last_layer.in_features, int(self.action_space.n))  # type: ignore[arg-type]
        if noisy:
            make_layers_noisy(self.q_net)

    def _make_head(self, n_features: int, n_actions: int) -> nn.Module:
        return DuelingHead(n_features, n_actions) if self.is_dueling else nn.Linear(n_features, n_actions)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        """Choose the actions (batch,) with the highest Q-values, with new noise if not deterministic."""
        with nullcontext() if deterministic else draw_noise(self):
            return super()._predict(observation)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "dueling": self.is_dueling, "noisy": self.is_noisy}


class DistributionalQNetwork(NoisyQNetwork):
    """SB3's Q-network with a distribution of returns for each action, by which it learns. Q-values are its mean.

    :param dueling: see :class:`MlpPolicy`, also for the other parameters
    """

    def __init__(self, *args: Any, distribution_kwargs: dict[str, Any], noisy: bool = False, **kwargs: Any) -> None:
        distribution = make_distribution(**distribution_kwargs)
        if distribution is None:
            raise ValueError("distribution_kwargs must have a distribution")
        self.distribution_kwargs, self._n_atoms = distribution_kwargs, distribution.n_atoms
        super().__init__(*args, noisy=noisy, **kwargs)
        self.distribution = distribution

    def _make_head(self, n_features: int, n_actions: int) -> nn.Module:
        if self.is_dueling:
            return DistributionalDuelingHead(n_features, n_actions, self._n_atoms)
        return nn.Linear(n_features, n_actions * self._n_atoms)

    def forward(self, obs: PyTorchObs, as_distribution: bool = False) -> th.Tensor:
        """Map observations to Q-values (batch, actions).

        :param as_distribution: return each action's outputs instead, (batch, actions, atoms)
        """
        outputs = super().forward(obs)
        if as_distribution:
            return outputs.reshape(len(outputs), -1, self._n_atoms)
        return self.distribution(outputs)  # type: ignore[no-any-return]

    def compute_targets(self, config: UpdateConfig, target: DistributionalQNetwork, batch: Minibatch) -> th.Tensor:
        """Return the outputs (batch, atoms) that the network learns from a minibatch.

        With Double DQN, the expected returns of this network choose the next actions.
        """
        with draw_noise(target):
            outputs = target(batch.next_observations, as_distribution=True)
        if config.double:
            with draw_noise(self), evaluation_mode(self):
                values = self(batch.next_observations)
        else:
            values = target.distribution(outputs.flatten(1))
        discounts = config.gamma if batch.discounts is None else batch.discounts
        next_outputs = _select(outputs, values.argmax(dim=1))
        return self.distribution.compute_targets(batch.rewards, (1 - batch.dones) * discounts, next_outputs)

    def compute_losses(self, config: UpdateConfig, targets: th.Tensor, batch: Minibatch) -> TransitionLosses:
        """Return the losses of the actions taken, which are the transitions' errors, too."""
        with draw_noise(self):
            outputs = self(batch.observations, as_distribution=True)
        losses = self.distribution.compute_losses(_select(outputs, batch.actions.long().squeeze(1)), targets)
        return TransitionLosses(losses, losses.detach())

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "distribution_kwargs": self.distribution_kwargs}


def _select(outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Return the outputs (batch, atoms) of actions (batch,), from those of all (batch, actions, atoms)."""
    return outputs[th.arange(len(actions), device=actions.device), actions]


_SET_TRAINING_MODE = BaseModel.set_training_mode


class FastModePolicy(sb3.DQNPolicy):
    """DQN's policy, which puts its Q-network in a mode in a fraction of the time."""

    def set_training_mode(self, mode: bool) -> None:
        """Put the Q-network in training or evaluation mode. SB3 leaves the target network in evaluation mode."""
        network = self.__dict__["_modules"]["q_net"]
        if type(network).set_training_mode is not _SET_TRAINING_MODE or "set_training_mode" in network.__dict__:
            super().set_training_mode(mode)
            return
        set_training_mode(network, mode)
        self.__dict__["training"] = mode


class MlpPolicy(FastModePolicy):
    """DQN's ``MlpPolicy``, with a dueling, noisy or distributional network if asked for.

    Without these parameters it is SB3's policy, but for a faster change of its networks' mode. SB3 asks for a mode at
    each step of the environment. PyTorch's way to set it takes as long as choosing the action.

    >>> from toolkit.algorithms import DoubleDQN
    >>> head = {"dueling": True, "noisy": True, "distribution": "c51", "v_min": 0, "v_max": 200}
    >>> model = DoubleDQN("MlpPolicy", "CartPole-v1", policy_kwargs=head, buffer_size=1000)
    >>> model.q_net
    DistributionalQNetwork(...)

    :param dueling: join a state value and the actions' advantages (:class:`toolkit.algorithms.heads.DuelingHead`)
    :param noisy: put noise on the weights after the features extractor, to explore
        (:class:`toolkit.algorithms.heads.NoisyLinear`). Each step draws new noise, and so does each minibatch,
        independently for the online network, the target network and the choice of the next action. Deterministic
        actions have none. Unless ``exploration`` or an ``exploration_*`` parameter is given, epsilon is 0
    :param distribution: learn the distribution of returns: ``c51``
        (:class:`toolkit.algorithms.distributions.CategoricalDistribution`) or ``qr``
        (:class:`toolkit.algorithms.distributions.QuantileDistribution`); Q-values are its mean
    :param n_atoms: for ``c51``, the number of atoms, at least 2; 51 by default
    :param v_min: for ``c51``, the lowest discounted return to expect; required
    :param v_max: for ``c51``, the highest discounted return to expect; required
    :param n_quantiles: for ``qr``, the number of quantiles, at least 1; 200 by default
    :raises ValueError: if the parameters do not fit together
    """

    def __init__(
        self,
        *args: Any,
        dueling: bool = False,
        noisy: bool = False,
        distribution: Literal["c51", "qr"] | None = None,
        n_atoms: int | None = None,
        v_min: float | None = None,
        v_max: float | None = None,
        n_quantiles: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.distribution_kwargs: dict[str, Any] = {
            "distribution": distribution,
            "n_atoms": n_atoms,
            "v_min": v_min,
            "v_max": v_max,
            "n_quantiles": n_quantiles,
        }
        make_distribution(**self.distribution_kwargs)  # refuses what does not fit
        self.is_dueling, self.is_noisy, self.has_distribution = dueling, noisy, distribution is not None
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        """Make one Q-network; SB3 calls this for the online and for the target network."""
        if not (self.is_dueling or self.is_noisy or self.has_distribution):
            return super().make_q_net()
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        if self.has_distribution:
            net_args |= {"noisy": self.is_noisy, "distribution_kwargs": self.distribution_kwargs}
            return DistributionalQNetwork(**net_args, dueling=self.is_dueling).to(self.device)
        if self.is_noisy:
            return NoisyQNetwork(**net_args, dueling=self.is_dueling).to(self.device)
        return DuelingQNetwork(**net_args).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        head = {"dueling": self.is_dueling, "noisy": self.is_noisy, **self.distribution_kwargs}
        return {**super()._get_constructor_parameters(), **head}


class CnnPolicy(MlpPolicy, sb3.CnnPolicy):
    """DQN's ``CnnPolicy``, with the parameters of :class:`MlpPolicy`."""


class MultiInputPolicy(MlpPolicy, sb3.MultiInputPolicy):
    """DQN's ``MultiInputPolicy``, with the parameters of :class:`MlpPolicy`."""


class DuelingMlpPolicy(MlpPolicy):
    """DQN's ``MlpPolicy`` with a dueling head: :class:`MlpPolicy` with ``dueling=True``."""

    def __init__(self, *args: Any, dueling: Literal[True] = True, **kwargs: Any) -> None:
        if not dueling:
            raise ValueError(f"dueling cannot be {dueling} for {type(self).__name__}; take MlpPolicy or another")
        super().__init__(*args, dueling=dueling, **kwargs)


class DuelingCnnPolicy(DuelingMlpPolicy, CnnPolicy):
    """DQN's ``CnnPolicy`` with a dueling head."""


class DuelingMultiInputPolicy(DuelingMlpPolicy, MultiInputPolicy):
    """DQN's ``MultiInputPolicy`` with a dueling head."""
