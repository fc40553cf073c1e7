"""Greedy episodes of a model, on environments of their own, that leave training as it was."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy

from toolkit.environments import EpisodeRecorder
from toolkit.models import suitable_threads


def play_greedily(model: BaseAlgorithm, env: EpisodeRecorder, episodes: int) -> list[float]:
    """Play whole episodes with deterministic actions and return their raw returns.

    No random generator that training draws from moves.

    :param env: closed by the caller
    """
    play: Callable[..., Any] = evaluate_policy
    if "action_masks" in inspect.signature(model.predict).parameters:
        from sb3_contrib.common.maskable.evaluation import evaluate_policy as play_with_masks

        play = play_with_masks
    with _untouched_generators(), suitable_threads(model):
        returns, _ = play(model, env, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True)
    return [float(episode_return) for episode_return in returns]


@contextmanager
def _untouched_generators() -> Iterator[None]:
    """Give the global random generators back as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
