"""StopOnPlateau."""

from pathlib import Path

import pytest
import toolkit
from toolkit.testing import check_callback

from cartpole_extras.callbacks import StopOnPlateau

CONFIG = Path(__file__).parents[1] / "config.yaml"


def test_stop_on_plateau_passes_conformance_check() -> None:
    check_callback("stop_on_plateau", params={"patience": 3, "episodes": 2}, changes_training=True)


def find_last_episode(returns: list[float], patience: int, episodes: int) -> int:
    """Return the number of the episode that ends training."""
    means = {n: sum(returns[n - episodes : n]) / episodes for n in range(episodes, len(returns) + 1)}
    best = episodes
    for number, mean in means.items():
        if mean > means[best]:
            best = number
        if number - best >= patience:
            return number
    raise AssertionError("the returns have no plateau")


@pytest.mark.parametrize("n_envs", [1, 8])
def test_training_ends_after_patience_episodes_without_new_best_mean(tmp_path: Path, n_envs: int) -> None:
    patience, episodes = 5, 3
    run = toolkit.train(
        CONFIG,
        out=tmp_path / "run",
        timesteps=5_000,
        env__n_envs=n_envs,
        algorithm__params__learning_starts=5_000,  # returns of random actions soon stop rising
        callbacks__0__params={"threshold": 500, "episodes": 1},  # out of reach
        callbacks__1__params={"patience": patience, "episodes": episodes},
    )
    assert run.result is not None
    assert run.result["timesteps"] < 5_000
    returns = [raw_return for raw_return, _ in run.episodes]
    expected = find_last_episode(returns, patience, episodes)
    assert expected <= len(returns) < expected + n_envs  # several environments may end an episode in the same step


@pytest.mark.parametrize(("patience", "episodes"), [(0, 5), (5, 0)])
def test_patience_and_episodes_below_1_are_refused(patience: int, episodes: int) -> None:
    with pytest.raises(ValueError, match="patience and episodes must be at least 1"):
        StopOnPlateau(patience, episodes)
