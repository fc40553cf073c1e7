"""Greedy episodes of a run's model in a window, at the environment's own speed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.wrappers import HumanRendering
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.episodes import Episode, EpisodeRecorder
from toolkit.envs.factory import derived_seed
from toolkit.evaluation.rollout import check_episodes, open_greedy_env, play_greedy_episodes
from toolkit.evaluation.tail import TailWrapper, check_tail
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.display import has_display, require_display
from toolkit.utils.errors import ToolkitError, WatchingError, describe_error

_RECORD_HINT = "'toolkit record' makes a video without a window"


def watch(
    run: RunDirectory,
    episodes: int = 5,
    seed: int | None = None,
    tail: int = 0,
    ended: Callable[[Episode], None] | None = None,
    *,
    model: str = "final",
) -> list[float]:
    """Play greedy episodes of a run's model in a window, until they have ended or the user closes the window.

    :param episodes: number of episodes, at least 1
    :param seed: seed of the environment; by default the episodes are those that ``record`` films
    :param tail: steps, 0 to 1000, after the environment terminates an episode, so that the fall is visible
    :param ended: called with each episode when it has ended
    :param model: ``final``, ``best`` or ``snapshot:N``
    :return: the raw returns of the episodes that ended
    :raises ValueError: if ``episodes`` or ``tail`` is out of range
    :raises RunError: if the run has no model that can be loaded, or its environment cannot be stepped after its end
    :raises WatchingError: if there is no display, or the environment cannot draw a window
    """
    check_episodes(episodes)
    check_tail(tail)
    if not has_display():
        raise WatchingError("a window cannot open because there is no display", _RECORD_HINT)
    loaded = load_model(run, model)
    _check_render_modes(loaded, run.config.env.name)
    env_seed = derived_seed(run.config.seed if seed is None else seed, "video")

    def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        window = _Window(limit_episode_steps(env))
        return TailWrapper(window, tail, env_seed, window.show)

    returns: list[float] = []

    def add_return(episode: Episode) -> None:
        returns.append(episode.raw_return)
        if ended:
            ended(episode)

    with require_display(), ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loading the model has shown the environment's warnings already
            env = stack.enter_context(
                open_greedy_env(run.resolved_config, seed=env_seed, n_envs=1, render_mode="human", wrap=wrap)
            )
        _play(loaded, env, episodes, add_return, run.config.env.name)
    return returns


def _play(
    model: BaseAlgorithm, env: EpisodeRecorder, episodes: int, on_episode_end: Callable[[Episode], None], env_id: str
) -> None:
    try:
        with suppress(_WindowClosed):
            play_greedy_episodes(model, env, episodes, on_episode_end)
    except ToolkitError:
        raise
    except Exception as error:  # each window system has its own exceptions
        raise WatchingError(
            f"{env_id} cannot be watched in a window: {describe_error(error)}", _RECORD_HINT
        ) from error


def _check_render_modes(model: BaseAlgorithm, env_id: str) -> None:
    env = model.get_env()
    modes = env.get_attr("unwrapped")[0].metadata.get("render_modes") if env else None
    if modes is not None and not {"human", "rgb_array", "rgb_array_list"} & {*modes}:
        raise WatchingError(
            f"{env_id} cannot be watched: it renders neither a window nor frames", f"its render modes: {[*modes]}"
        )


class _WindowClosed(Exception):  # noqa: N818 - like StopIteration, not an error
    """The user has closed the window."""


class _Window(gym.Wrapper[Any, Any, Any, Any]):
    """Notices that the user has closed the window, and draws the steps of a tail."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment.

        :raises _WindowClosed: if the user has closed the window
        """
        result = self.env.step(action)
        self._check_open()
        return result

    def show(self) -> None:
        """Draw a step that only the unwrapped environment made.

        :raises _WindowClosed: if the user has closed the window
        """
        env = self.env
        while isinstance(env, gym.Wrapper) and not isinstance(env, HumanRendering):
            env = env.env
        if isinstance(env, HumanRendering):  # Gymnasium's window for frames; other environments draw in their steps
            env._render_frame()  # type: ignore[no-untyped-call]
        self._check_open()

    def _check_open(self) -> None:
        pygame: Any = sys.modules.get("pygame")  # an environment may draw its window without pygame
        if pygame and pygame.display.get_init() and pygame.event.peek(pygame.QUIT):
            raise _WindowClosed
