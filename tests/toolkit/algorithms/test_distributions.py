"""C51 and quantile regression, checked against arithmetic by hand and against loops in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from numpy.typing import NDArray

from toolkit.algorithms.distributions import (
    CategoricalDistribution,
    Distribution,
    QuantileDistribution,
    make_distribution,
)

Floats = NDArray[np.float64]


def softmax(values: Floats) -> Floats:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def project(distribution: Distribution, reward: float, discount: float, probabilities: list[float]) -> list[float]:
    """Return the target for one transition, from the next action's probabilities."""
    outputs = th.tensor([probabilities]).log()
    targets = distribution.compute_targets(th.tensor([[reward]]), th.tensor([[discount]]), outputs)
    return targets[0].tolist()


@pytest.mark.parametrize(
    ("reward", "discount", "probabilities", "expected"),
    [
        (1.0, 1.0, [0.1, 0.2, 0.3, 0.4, 0.0], [0, 0.1, 0.2, 0.3, 0.4]),
        (0.25, 1.0, [0.0, 0.0, 1.0, 0.0, 0.0], [0, 0, 0.75, 0.25, 0]),
        (9.0, 1.0, [0.2, 0.2, 0.2, 0.2, 0.2], [0, 0, 0, 0, 1]),
        (-9.0, 1.0, [0.2, 0.2, 0.2, 0.2, 0.2], [1, 0, 0, 0, 0]),
        (3.0, 1.0, [0.1, 0.0, 0.0, 0.0, 0.9], [0, 0, 0, 0.1, 0.9]),
        (2.5, 0.0, [0.3, 0.3, 0.1, 0.2, 0.1], [0, 0, 0.5, 0.5, 0]),
        (0.0, 0.5**3, [0.0, 0.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0, 0, 0]),
        (0.0, 0.5, [0.0, 0.5, 0.0, 0.5, 0.0], [0.25, 0.5, 0.25, 0, 0]),
    ],
    ids=["on_atoms", "between", "above", "below", "one_above", "terminal", "three_steps", "shared_atom"],
)
def test_c51_target_shares_probability_between_nearest_atoms(
    reward: float, discount: float, probabilities: list[float], expected: list[float]
) -> None:
    distribution = CategoricalDistribution(5, 0.0, 4.0)
    np.testing.assert_allclose(project(distribution, reward, discount, probabilities), expected, atol=1e-6)


def project_by_loops(atoms: Floats, rewards: Floats, discounts: Floats, probabilities: Floats) -> Floats:
    """Follow algorithm 1 of Bellemare et al. (2017), with the case that an atom lands on another."""
    projected, step = np.zeros_like(probabilities), atoms[1] - atoms[0]
    for row, (reward, discount) in enumerate(zip(rewards, discounts, strict=True)):
        for atom, probability in zip(atoms, probabilities[row], strict=True):
            position = min((np.clip(reward + discount * atom, atoms[0], atoms[-1]) - atoms[0]) / step, len(atoms) - 1)
            lower, upper = math.floor(position), math.ceil(position)
            if lower == upper:
                projected[row, lower] += probability
            else:
                projected[row, lower] += probability * (upper - position)
                projected[row, upper] += probability * (position - lower)
    return projected


def test_c51_targets_and_losses_match_loops_in_float64() -> None:
    rng = np.random.default_rng(0)
    atoms, outputs = np.linspace(-10, 20, 51), rng.normal(size=(64, 51)) * 3
    rewards, discounts = rng.normal(size=64) * 8, rng.choice([0, 0.99, 0.99**3], 64)
    predicted = rng.normal(size=(64, 51)) * 3
    targets = project_by_loops(atoms, rewards, discounts, softmax(outputs))
    losses = (
        targets * (np.log(targets, where=targets > 0, out=np.zeros_like(targets)) - np.log(softmax(predicted)))
    ).sum(1)
    distribution = CategoricalDistribution(51, -10.0, 20.0)
    columns = [th.tensor(values, dtype=th.float32)[:, None] for values in (rewards, discounts)]
    computed = distribution.compute_targets(*columns, th.tensor(outputs, dtype=th.float32))
    np.testing.assert_allclose(computed, targets, atol=1e-5)
    np.testing.assert_allclose(computed.sum(dim=1), 1, atol=1e-6)
    found = distribution.compute_losses(th.tensor(predicted, dtype=th.float32), computed)
    np.testing.assert_allclose(found, losses, atol=1e-4)
    logits = th.randn(3, 51)
    np.testing.assert_allclose(distribution.compute_losses(logits, logits.softmax(dim=1)), 0, atol=1e-5)


def test_c51_gradient_is_prediction_less_target() -> None:
    distribution, outputs = CategoricalDistribution(3, 0.0, 1.0), th.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    distribution.compute_losses(outputs, th.tensor([[0.0, 0.25, 0.75]])).backward()
    assert outputs.grad is not None
    expected = softmax(np.array([1.0, 0.0, -1.0])) - [0, 0.25, 0.75]
    np.testing.assert_allclose(outputs.grad[0], expected, atol=1e-6)


def test_c51_values_are_expected_returns_of_each_action() -> None:
    outputs = th.tensor([[0.5, 0.25, 0.25, 0.0, 0.0, 1.0]]).log()
    assert CategoricalDistribution(3, -1.0, 3.0)(outputs).tolist() == [[pytest.approx(0.5), 3]]


def test_quantile_loss_matches_loops_in_float64() -> None:
    rng = np.random.default_rng(1)
    predicted, targets = rng.normal(size=(16, 7)) * 2, rng.normal(size=(16, 7)) * 2
    losses = np.zeros(16)
    for row in range(16):
        for index in range(7):
            for target in targets[row]:
                error = target - predicted[row, index]
                huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
                losses[row] += abs((2 * index + 1) / 14 - (error < 0)) * huber / 7
    outputs, target = (th.tensor(values, dtype=th.float64) for values in (predicted, targets))
    distribution = QuantileDistribution(7)
    distribution.levels = distribution.levels.double()
    found = distribution.compute_losses(outputs.requires_grad_(), target)
    np.testing.assert_allclose(found.detach(), losses, rtol=1e-6)
    found.sum().backward()
    moved = predicted.copy()
    moved[:, 2] += 1e-6
    slopes = (distribution.compute_losses(th.tensor(moved), target) - found).detach() / 1e-6
    assert outputs.grad is not None
    np.testing.assert_allclose(outputs.grad[:, 2], slopes, atol=1e-4)


def test_quantile_targets_are_discounted_quantiles() -> None:
    rewards, discounts = th.tensor([[1.0], [2.0]]), th.tensor([[0.5], [0.0]])
    targets = QuantileDistribution(3).compute_targets(
        rewards, discounts, th.tensor([[0.0, 2.0, 4.0], [5.0, 6.0, 7.0]])
    )
    assert targets.tolist() == [[1, 2, 3], [2, 2, 2]]
    assert QuantileDistribution(3)(th.tensor([[0.0, 1.0, 5.0, 6.0, 6.0, 9.0]])).tolist() == [[2, 7]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"distribution": "c51", "v_min": 2, "v_max": 2}, "v_min must be below v_max, both finite, not 2 and 2"),
        ({"distribution": "c51", "v_min": 0, "v_max": math.inf}, "v_min must be below v_max, both finite"),
        ({"distribution": "c51"}, "needs v_min and v_max"),
        ({"distribution": "c51", "v_min": 0}, "needs v_min and v_max"),
        ({"distribution": "c51", "n_atoms": 1, "v_min": 0, "v_max": 1}, "n_atoms must be at least 2, not 1"),
        ({"distribution": "c51", "n_quantiles": 5, "v_min": 0, "v_max": 1}, "n_quantiles needs distribution='qr'"),
        ({"distribution": "qr", "n_quantiles": 0}, "n_quantiles must be at least 1, not 0"),
        ({"distribution": "qr", "v_min": 0}, "v_min needs distribution='c51', not 'qr'"),
        ({"distribution": None, "n_atoms": 51}, "n_atoms needs distribution='c51', not None"),
        ({"distribution": "iqn"}, "distribution must be c51 or qr, not 'iqn'"),
        ({"distribution": "iqn", "n_atoms": 51}, "distribution must be c51 or qr, not 'iqn'"),
    ],
)
def test_unfit_parameters_of_distribution_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_distribution(**parameters)
