"""Greedy episodes of a model, on environments of their own, that leave training as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy

from toolkit.envs.episodes import Episode, EpisodeRecorder
from toolkit.envs.wrapper_state import load_wrapper_statistics, wrapper_statistics
from toolkit.training.model import limit_torch_threads, preserve_rng_state
from toolkit.utils.errors import RunError

EPISODE_LIMIT = 100_000  # steps; an environment that never ends would hold an evaluation up for ever


def limit_episode_steps(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Give up on an episode that does not end within ``EPISODE_LIMIT`` steps: a step raises :class:`RunError`."""
    limited: gym.Env[Any, Any] = _Patience(env, EPISODE_LIMIT)
    return limited


class _Patience(TimeLimit):
    """Counts the agent's steps: what Monitor counts inside the wrappers can be frames of a video game."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        step = super().step(action)
        if (self._elapsed_steps or 0) >= EPISODE_LIMIT:
            raise RunError(f"an episode did not end within {EPISODE_LIMIT:,} steps", "set env.max_episode_steps")
        return step


def check_episodes(episodes: int) -> int:
    """Return the number of episodes, if it is one that can be played.

    :raises ValueError: if it is below 1
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, not {episodes}")
    return episodes


def play_greedy_episodes(
    model: BaseAlgorithm, env: EpisodeRecorder, episodes: int, ended: Callable[[Episode], None] | None = None
) -> list[float]:
    """Play whole episodes with deterministic actions and return their raw returns.

    Wrappers that have learnt something, statistics of observations for one, know what those of the model's own
    environments know, and learn nothing more. No random generator that training draws from moves.

    :param env: closed by the caller; wrap its environments with :func:`bounded` where they may never end
    :param ended: called with each episode when it has ended
    :raises RunError: if an episode of a :func:`bounded` environment does not end
    """
    play: Callable[..., Any] = evaluate_policy
    if "action_masks" in inspect.signature(model.predict).parameters:
        from sb3_contrib.common.maskable.evaluation import evaluate_policy as play_with_masks

        play = play_with_masks
    if (own := model.get_env()) is not None and own.has_attr("wrapper_states"):
        load_wrapper_statistics(env, wrapper_statistics(own))
    callback = _teller(env, ended) if ended else None
    with preserve_rng_state(), limit_torch_threads(model):
        returns, _ = play(
            model, env, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True, callback=callback
        )
    return [float(episode_return) for episode_return in returns]


def _teller(env: EpisodeRecorder, ended: Callable[[Episode], None]) -> Callable[..., None]:
    """Return a callback of ``evaluate_policy`` that tells of the episodes that ended since it was last called."""
    told = len(env.episodes)

    def tell(*_: Any) -> None:
        nonlocal told
        news, told = env.episodes[told:], len(env.episodes)
        for episode in news:
            ended(episode)

    return tell
