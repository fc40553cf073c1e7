"""Evaluation of a run's model: raw returns of greedy episodes on fresh seeds."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.factory import derived_seed
from toolkit.evaluation.played_steps import PlayedSteps, are_copies_equal
from toolkit.evaluation.rollout import check_episodes, open_greedy_env, play_greedy_episodes
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.data import compute_mean
from toolkit.utils.errors import ConfigError, describe_error

_log = logging.getLogger("toolkit")

_N_ENVS = 10


@dataclass(frozen=True)
class Evaluation:
    """Raw returns of greedy episodes, with their mean, spread and confidence interval.

    :param episodes: number of episodes
    :param std_return: population standard deviation, as NumPy and SB3 compute it
    :param ci95: 95 % confidence interval (Student's t) of the mean return; None for one return, or equal ones
    :param returns: raw return of each episode
    :param n_envs: number of copies of the environment that played; 1 if copies would play equal episodes
    :param success_rate: share of successes among the episodes with ``info["is_success"]``; None if no episode has it
    """

    episodes: int
    mean_return: float
    std_return: float
    min_return: float
    max_return: float
    ci95: tuple[float, float] | None
    returns: tuple[float, ...] = field(repr=False)
    n_envs: int = field(repr=False)
    success_rate: float | None = field(default=None, repr=False)


def evaluate(run: RunDirectory, episodes: int = 100, seed: int | None = None) -> Evaluation:
    """Play greedy episodes with a run's model on seeds that training never used.

    >>> import toolkit
    >>> evaluation = toolkit.evaluate(toolkit.load(), episodes=20)
    >>> evaluation.min_return <= evaluation.mean_return <= evaluation.max_return
    True

    Up to ten copies of the environment play. If all of them play equal episodes, one plays again alone: then the
    environment is deterministic, or draws from a generator of its own that ignores the seed of a reset.

    :param episodes: number of whole episodes, at least 1
    :param seed: seed of the environments; by default it follows from the run's seed
    :raises ValueError: if ``episodes`` is below 1
    :raises RunError: if the run has no model that can be loaded
    """
    check_episodes(episodes)
    model = load_model(run)
    env_seed = derived_seed(run.config.seed if seed is None else seed, "evaluation")
    n_envs = min(episodes, _N_ENVS)
    try:
        played = _play(run, model, episodes, env_seed, n_envs)
    except ConfigError as error:
        if n_envs == 1:
            raise
        n_envs = 1
        played = _play(run, model, episodes, env_seed, n_envs)
        cause = describe_error(error.__cause__ or error).partition("; ")[0]
        _log.warning("%s: played on one environment: %s", run.directory, cause)
    if n_envs > 1 and played.has_equal_copies:
        message = "%s: %d copies of %s play equal episodes though their seeds differ: played again on one environment"
        _log.warning(message, run.directory, n_envs, run.config.env.name)
        n_envs = 1
        played = _play(run, model, episodes, env_seed, n_envs)
    returns = played.returns
    low, high = min(returns), max(returns)
    return Evaluation(
        episodes=episodes,
        mean_return=compute_mean(returns),
        std_return=float(np.std(returns)) if low < high else 0.0,
        min_return=low,
        max_return=high,
        ci95=estimate_interval(returns),
        returns=tuple(returns),
        n_envs=n_envs,
        success_rate=compute_mean(played.successes) if played.successes else None,
    )


class _Played(NamedTuple):
    """Greedy episodes: their returns and successes, and whether all copies of the environment played the same ones."""

    returns: list[float]
    successes: list[float]
    has_equal_copies: bool


def _play(run: RunDirectory, model: BaseAlgorithm, episodes: int, seed: int, n_envs: int) -> _Played:
    successes: list[float] = []
    with open_greedy_env(
        run.resolved_config, seed=seed, n_envs=n_envs, wrap=lambda env: PlayedSteps(limit_episode_steps(env))
    ) as env:
        returns = play_greedy_episodes(model, env, episodes, successes=successes)
        return _Played(returns, successes, are_copies_equal(env))


def estimate_interval(returns: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean, by Student's t distribution.

    A bootstrap of few returns is too narrow. In 1,000 simulations with 3, 5, 10 and 30 returns, this interval held the
    mean of a normal distribution 95 times in 100, and of an exponential one 86, 89, 89 and 92 times. BCa held the
    former 72, 83, 88 and 93 times, and the latter 66, 80, 86 and 91 times.

    :return: None for one return, or equal ones: they do not show how others would differ
    """
    if min(returns) == max(returns):
        return None
    from scipy.special import stdtrit

    mean, error = np.mean(returns), np.std(returns, ddof=1) / math.sqrt(len(returns))
    half_width = error * stdtrit(len(returns) - 1, 0.975)
    return float(mean - half_width), float(mean + half_width)
