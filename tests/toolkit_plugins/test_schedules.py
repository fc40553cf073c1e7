from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from stable_baselines3 import DQN

from toolkit.envs.episodes import Episode
from toolkit_plugins.schedules import BySuccess, Exponential, Harmonic, Linear


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(1.0), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (Linear(1e-3, 1e-4), [1e-3, 7.75e-4, 5.5e-4, 3.25e-4, 1e-4]),
        (Linear(1.0, end_fraction=0.5), [1.0, 0.5, 0.0, 0.0, 0.0]),
        (Linear(0.1, 0.9, end_fraction=0.25), [0.1, 0.9, 0.9, 0.9, 0.9]),
        (Linear(0.2, 0.2), [0.2] * 5),
    ],
    ids=["to_zero", "to_end", "half", "rising", "constant"],
)
def test_linear_interpolates_then_stays_at_end(schedule: Linear, values: list[float]) -> None:
    assert [schedule(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)] == pytest.approx(values)


@pytest.mark.parametrize(("start", "end"), [(1e-2, 1e-4), (1e-4, 1e-2), (0.5, 0.5)])
def test_exponential_changes_by_equal_factors(start: float, end: float) -> None:
    schedule = Exponential(start, end)
    values = [schedule(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert (values[0], values[-1]) == pytest.approx((start, end))
    factors = [later / earlier for earlier, later in itertools.pairwise(values)]
    assert factors == pytest.approx([(end / start) ** 0.25] * 4)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1e-3), (1e-3, 0.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_exponential_refuses_values_not_above_0(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="start and end must be above 0"):
        Exponential(start, end)


@pytest.mark.parametrize("end_fraction", [0.0, -0.5, 1.5, float("nan")])
def test_linear_refuses_end_fraction_outside_0_and_1(end_fraction: float) -> None:
    with pytest.raises(ValueError, match="end_fraction must be above 0 and at most 1"):
        Linear(1.0, end_fraction=end_fraction)


def test_saved_model_keeps_linear_learning_rate(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", Linear(1e-3, 1e-4), learning_starts=0, buffer_size=100)
    rates = []
    for _ in range(2):
        model.learn(100)
        rates.append(model.policy.optimizer.param_groups[0]["lr"])
    assert rates == [pytest.approx(1e-4)] * 2
    model.save(tmp_path / "model.zip")
    assert DQN.load(tmp_path / "model.zip").lr_schedule(0.5) == pytest.approx(5.5e-4)


@pytest.mark.parametrize(("episode", "epsilon"), [(0, 0.901), (1, 0.451), (8, 0.101), (899, 0.002)])
def test_harmonic_depends_on_episodes_only(episode: int, epsilon: float) -> None:
    schedule = Harmonic(final=0.001, scale=0.9)
    assert [schedule(episode, timestep) for timestep in (0, 10_000)] == pytest.approx([epsilon] * 2)


@pytest.mark.parametrize(("final", "scale"), [(-0.1, 0.5), (0.1, -0.5), (0.2, 0.9), (float("nan"), 0.5)])
def test_harmonic_refuses_epsilon_outside_0_and_1(final: float, scale: float) -> None:
    with pytest.raises(ValueError, match="final and scale must be at least 0 and at most 1 together"):
        Harmonic(final, scale)


def make_episodes(returns: list[float], successes: list[float | None]) -> list[Episode]:
    pairs = zip(returns, successes, strict=True)
    return [Episode(value, -1.0, 5, 0.0, is_success=is_success) for value, is_success in pairs]


@pytest.mark.parametrize(
    ("returns", "value"),
    [([], 2.0), ([50.0], 2.0), ([0.0, 10.0], 2.0), ([99.0, 20.0, 30.0], 5.0), ([40, 40], 8.0), ([0.0, 90.0], 8.0)],
)
def test_by_success_follows_mean_of_last_episodes(returns: list[float], value: float) -> None:
    schedule = BySuccess(2.0, 8.0, low=10, high=40, episodes=2)
    assert schedule(episodes=make_episodes(returns, [None] * len(returns))) == pytest.approx(value)


def test_by_success_follows_success_rate() -> None:
    schedule = BySuccess(0.0, 1.0, low=0, high=1, episodes=4, measure="success_rate")
    assert schedule(episodes=make_episodes([0.0] * 4, [1.0, None, 0.0, 1.0])) == 0.5


@pytest.mark.parametrize("params", [{"low": 5, "high": 5}, {"low": 0, "high": 1, "episodes": 0}])
def test_by_success_refuses_empty_ranges(params: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"high must be above low|episodes must be at least 1"):
        BySuccess(0.0, 1.0, **params)
