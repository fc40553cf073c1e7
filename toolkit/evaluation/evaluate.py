"""Evaluation of a run's model: raw returns of greedy episodes on fresh seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from toolkit.envs.factory import derived_seed
from toolkit.evaluation.rollout import check_episodes, limit_episode_steps, open_greedy_env, play_greedy_episodes
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory

_N_ENVS = 10


@dataclass(frozen=True)
class Evaluation:
    """Raw returns of greedy episodes, with their mean, spread and confidence interval.

    :param episodes: number of episodes
    :param std_return: population standard deviation, as NumPy and SB3 compute it
    :param ci95: 95 % bootstrap confidence interval (BCa) of the mean return
    :param returns: raw return of each episode
    """

    episodes: int
    mean_return: float
    std_return: float
    min_return: float
    max_return: float
    ci95: tuple[float, float]
    returns: tuple[float, ...] = field(repr=False)


def evaluate(run: RunDirectory, episodes: int = 100, seed: int | None = None) -> Evaluation:
    """Play greedy episodes with a run's model on seeds that training never used.

    >>> import toolkit
    >>> evaluation = toolkit.evaluate(toolkit.load(), episodes=20)
    >>> evaluation.min_return <= evaluation.mean_return <= evaluation.max_return
    True

    :param episodes: number of whole episodes, at least 1
    :param seed: seed of the environments; by default it follows from the run's seed
    :raises ValueError: if ``episodes`` is below 1
    :raises RunError: if the run has no model that can be loaded
    """
    check_episodes(episodes)
    model = load_model(run)
    env_seed = derived_seed(run.config.seed if seed is None else seed, "evaluation")
    n_envs = min(episodes, _N_ENVS)
    with open_greedy_env(run.resolved_config, seed=env_seed, n_envs=n_envs, wrap=limit_episode_steps) as env:
        returns = play_greedy_episodes(model, env, episodes)
    return Evaluation(
        episodes=episodes,
        mean_return=float(np.mean(returns)),
        std_return=float(np.std(returns)),
        min_return=min(returns),
        max_return=max(returns),
        ci95=_bootstrap_interval(returns),
        returns=tuple(returns),
    )


def _bootstrap_interval(returns: list[float]) -> tuple[float, float]:
    if min(returns) == max(returns):  # all resamples are equal, and BCa is undefined
        return returns[0], returns[0]
    from scipy.stats import bootstrap

    result = bootstrap((returns,), np.mean, n_resamples=9_999, batch=1_000, rng=np.random.default_rng(0))
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)
