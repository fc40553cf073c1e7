"""Evaluation of a run's model: raw returns of greedy episodes on fresh seeds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.factory import derived_seed
from toolkit.evaluation.played_steps import PlayedSteps, are_copies_equal
from toolkit.evaluation.rollout import SelectStates, check_episodes, open_greedy_env, play_greedy_episodes
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
    :param lengths: number of the agent's steps in each episode
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
    lengths: tuple[int, ...] = field(default=(), repr=False)


def evaluate(run: RunDirectory, episodes: int = 100, seed: int | None = None, model: str = "final") -> Evaluation:
    """Play greedy episodes with a run's model on seeds that training never used.

    >>> import toolkit
    >>> evaluation = toolkit.evaluate(toolkit.load(), episodes=20)
    >>> evaluation.min_return <= evaluation.mean_return <= evaluation.max_return
    True

    Up to ten copies of the environment play. If all of them play equal episodes, one plays again alone: then the
    environment is deterministic, or draws from a generator of its own that ignores the seed of a reset.

    :param episodes: number of whole episodes, at least 1
    :param seed: seed of the environments; by default it follows from the run's seed
    :param model: ``final``, ``best`` or ``snapshot:N``
    :raises ValueError: if ``episodes`` is below 1
    :raises RunError: if the run has no such model that can be loaded
    """
    check_episodes(episodes)
    loaded = load_model(run, model)
    env_seed = derived_seed(run.config.seed if seed is None else seed, "evaluation")

    def warn(text: str) -> None:
        _log.warning("%s: %s", run.directory, text)

    return evaluate_model(loaded, run.resolved_config, episodes, env_seed, warn)


def evaluate_model(
    model: BaseAlgorithm,
    config: ResolvedConfig,
    episodes: int,
    seed: int,
    warn: Callable[[str], None],
    *,
    deterministic: bool = True,
    select_states: SelectStates | None = None,
) -> Evaluation:
    """Play episodes with a model, as :func:`evaluate` does.

    :param config: of the environments
    :param seed: of the environments
    :param warn: called with a text if copies of the environment cannot play
    :param deterministic: False to draw actions from the policy
    :param select_states: see :func:`toolkit.evaluation.rollout.play_greedy_episodes`
    """

    def play(n_envs: int) -> _Played:
        with open_greedy_env(
            config, seed=seed, n_envs=n_envs, wrap=lambda env: PlayedSteps(limit_episode_steps(env))
        ) as env:
            played = play_greedy_episodes(
                model, env, episodes, deterministic=deterministic, select_states=select_states
            )
            return _Played(*played, n_envs, are_copies_equal(env))

    try:
        played = play(min(episodes, _N_ENVS))
    except ConfigError as error:
        if episodes == 1:
            raise
        played = play(1)
        warn(f"played on one environment: {describe_error(error.__cause__ or error).partition('; ')[0]}")
    if played.n_envs > 1 and played.has_equal_copies:
        message = f"{played.n_envs} copies of {config.env.name} play equal episodes though their seeds differ"
        warn(f"{message}: played again on one environment")
        played = play(1)
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
        n_envs=played.n_envs,
        success_rate=compute_mean(played.successes) if played.successes else None,
        lengths=tuple(played.lengths),
    )


class _Played(NamedTuple):
    """Played episodes, and whether all copies of the environment played the same ones."""

    returns: list[float]
    lengths: list[int]
    successes: list[float]
    n_envs: int
    has_equal_copies: bool


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
