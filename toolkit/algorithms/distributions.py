"""Distributions of returns in place of Q-values: C51's categorical one, and quantiles."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from torch import nn

_N_ATOMS, _N_QUANTILES = 51, 200  # of the papers


class Distribution(nn.Module):
    """What a network's outputs for one action say about the return. Calling it gives the expected return.

    :param n_atoms: outputs of the network for each action
    """

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        self.n_atoms = n_atoms

    def forward(self, outputs: th.Tensor) -> th.Tensor:
        """Map outputs (batch, actions * n_atoms) to expected returns (batch, actions)."""
        raise NotImplementedError

    def compute_targets(self, returns: th.Tensor, discounts: th.Tensor, outputs: th.Tensor) -> th.Tensor:
        """Return what the network should say about ``returns + discounts * Z``, for the Z of these outputs.

        :param returns: (batch, 1), rewards up to the next observation
        :param discounts: (batch, 1), 0 where the episode terminates
        :param outputs: (batch, n_atoms), of the next observation and its action
        :return: (batch, n_atoms)
        """
        raise NotImplementedError

    def compute_losses(self, outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """Return the loss of each transition, (batch,).

        :param outputs: (batch, n_atoms), of the actions taken
        :param targets: (batch, n_atoms), from :meth:`compute_targets`
        """
        raise NotImplementedError


class CategoricalDistribution(Distribution):
    """C51: probabilities of ``n_atoms`` fixed returns from ``v_min`` to ``v_max``, by a softmax of the outputs.

    The target moves the atoms to ``r + gamma * z``, clips them to the range and shares each one's probability between
    the two nearest atoms. The loss is the KL divergence from the target to the prediction.

    Paper: Bellemare, Dabney and Munos, "A Distributional Perspective on Reinforcement Learning" (2017),
    https://arxiv.org/abs/1707.06887, equation 7 and algorithm 1.

    :param n_atoms: at least 2
    :param v_min: the lowest return
    :param v_max: the highest return
    """

    atoms: th.Tensor

    def __init__(self, n_atoms: int, v_min: float, v_max: float) -> None:
        super().__init__(n_atoms)
        self.v_min, self.v_max = v_min, v_max
        self.register_buffer("atoms", th.linspace(v_min, v_max, n_atoms), persistent=False)

    def forward(self, outputs: th.Tensor) -> th.Tensor:
        """Map outputs (batch, actions * n_atoms) to expected returns (batch, actions)."""
        return outputs.reshape(len(outputs), -1, self.n_atoms).softmax(dim=2) @ self.atoms

    def compute_targets(self, returns: th.Tensor, discounts: th.Tensor, outputs: th.Tensor) -> th.Tensor:
        """Return the probabilities (batch, n_atoms) of ``returns + discounts * Z``, projected onto the atoms."""
        moved = (returns + discounts * self.atoms).clamp(self.v_min, self.v_max)
        positions = (moved - self.v_min) * ((self.n_atoms - 1) / (self.v_max - self.v_min))  # in steps between atoms
        lower = positions.floor().clamp(0, self.n_atoms - 2)
        to_upper = (positions - lower).clamp(0, 1)
        probabilities, index = outputs.softmax(dim=1), lower.long()
        projected = th.zeros_like(probabilities).scatter_add(1, index, probabilities * (1 - to_upper))
        return projected.scatter_add(1, index + 1, probabilities * to_upper)

    def compute_losses(self, outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """Return the KL divergence (batch,) from targets to predictions."""
        return (th.xlogy(targets, targets) - targets * outputs.log_softmax(dim=1)).sum(dim=1)


class QuantileDistribution(Distribution):
    """QR-DQN: the outputs are the returns at ``n_quantiles`` quantiles, the middles of equal shares of probability.

    The target is the quantiles ``r + gamma * theta``. The loss is the quantile Huber loss with kappa 1, averaged over
    the target's quantiles and summed over the prediction's.

    Paper: Dabney et al., "Distributional Reinforcement Learning with Quantile Regression" (2018),
    https://arxiv.org/abs/1710.10044, equation 10 and algorithm 1.

    :param n_quantiles: at least 1
    """

    levels: th.Tensor

    def __init__(self, n_quantiles: int) -> None:
        super().__init__(n_quantiles)
        self.register_buffer("levels", (th.arange(n_quantiles) + 0.5) / n_quantiles, persistent=False)

    def forward(self, outputs: th.Tensor) -> th.Tensor:
        """Map outputs (batch, actions * n_quantiles) to expected returns (batch, actions)."""
        return outputs.reshape(len(outputs), -1, self.n_atoms).mean(dim=2)

    def compute_targets(self, returns: th.Tensor, discounts: th.Tensor, outputs: th.Tensor) -> th.Tensor:
        """Return the quantiles (batch, n_quantiles) of ``returns + discounts * Z``."""
        return returns + discounts * outputs

    def compute_losses(self, outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """Return the quantile Huber loss (batch,)."""
        levels = self.levels.unsqueeze(1)
        with th.no_grad():
            errors = targets.unsqueeze(1) - outputs.unsqueeze(2)  # (batch, quantiles of the prediction, of the target)
            weights = th.where(errors < 0, 1 - levels, levels)
            clipped = errors.clamp(-1, 1)
            slopes = weights * clipped  # of the weighted Huber losses
            # which are slopes * (errors - clipped / 2)
            losses = (errors.sub_(clipped, alpha=0.5) * slopes).mean(dim=2).sum(dim=1)
            gradient = slopes.mean(dim=2).neg_()
        # autograd would keep ten tensors of the errors' size, and take longer
        return losses + (gradient * (outputs - outputs.detach())).sum(dim=1)


def make_distribution(
    distribution: str | None,
    n_atoms: int | None = None,
    v_min: float | None = None,
    v_max: float | None = None,
    n_quantiles: int | None = None,
) -> Distribution | None:
    """Make the distribution that a policy's parameters describe; ``None`` without one.

    :raises ValueError: if the parameters do not fit together
    """
    _refuse_useless(distribution, "c51", {"n_atoms": n_atoms, "v_min": v_min, "v_max": v_max})
    _refuse_useless(distribution, "qr", {"n_quantiles": n_quantiles})
    if distribution is None:
        return None
    if distribution == "qr":
        n_quantiles = _N_QUANTILES if n_quantiles is None else n_quantiles
        if n_quantiles < 1:
            raise ValueError(f"n_quantiles must be at least 1, not {n_quantiles}")
        return QuantileDistribution(n_quantiles)
    if distribution != "c51":
        raise ValueError(f"distribution must be c51 or qr, not {distribution!r}")
    n_atoms = _N_ATOMS if n_atoms is None else n_atoms
    if n_atoms < 2:
        raise ValueError(f"n_atoms must be at least 2, not {n_atoms}")
    if v_min is None or v_max is None:
        raise ValueError("distribution='c51' needs v_min and v_max, the lowest and the highest return to expect")
    if not (math.isfinite(v_min) and math.isfinite(v_max) and v_min < v_max):
        raise ValueError(f"v_min must be below v_max, both finite, not {v_min} and {v_max}")
    return CategoricalDistribution(n_atoms, v_min, v_max)


def _refuse_useless(distribution: str | None, user: str, parameters: dict[str, Any]) -> None:
    given = [name for name, value in parameters.items() if value is not None]
    if given and distribution in (None, *{"c51", "qr"} - {user}):
        raise ValueError(f"{', '.join(given)} needs distribution={user!r}, not {distribution!r}")
