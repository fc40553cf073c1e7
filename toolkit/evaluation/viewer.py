"""A model at play in a window, at its environment's own speed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.wrappers import HumanRendering
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.envs.episodes import Episode, EpisodeRecorder
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.evaluation.rollout import check_episodes, limit_episode_steps, play_greedy_episodes
from toolkit.evaluation.tail import Tail, check_tail
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.display import has_display, require_display
from toolkit.utils.errors import ToolkitError, WatchingError, describe_error

_WITHOUT_WINDOW = "'toolkit record' makes a video without one"


def watch(
    run: RunDirectory,
    episodes: int = 5,
    seed: int | None = None,
    tail: int = 0,
    ended: Callable[[Episode], None] | None = None,
) -> list[float]:
    """Play greedy episodes of a run's model in a window, until they are over or the window is closed.

    :param episodes: how many, at least 1
    :param seed: which episodes; by default those that ``record`` films
    :param tail: so many steps, 0 to 1000, follow where the environment terminated, so that the fall is seen
    :param ended: called when an episode has ended
    :return: the raw returns of the episodes that ended
    :raises ValueError: if ``episodes`` or ``tail`` cannot be played
    :raises RunError: if the run has no model that can be loaded, or its environment cannot be stepped after its end
    :raises WatchingError: if there is no display, or the environment draws no window
    """
    check_episodes(episodes)
    check_tail(tail)
    if not has_display():
        raise WatchingError("there is no display here that a window could open on", _WITHOUT_WINDOW)
    model = load_model(run)
    _refuse_the_unseen(model, run.config.env.id)
    env_seed = derived_seed(run.config.seed if seed is None else seed, "video")

    def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        window = _Window(limit_episode_steps(env))
        return Tail(window, tail, env_seed, window.show)

    returns: list[float] = []

    def take_down(episode: Episode) -> None:
        returns.append(episode.raw_return)
        if ended:
            ended(episode)

    with require_display():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of the environment was said when the model was loaded
            env = make_vec_env(run.resolved_config, seed=env_seed, n_envs=1, render_mode="human", wrap=wrap)
        _play(model, env, episodes, take_down, run.config.env.id)
    return returns


def _play(
    model: BaseAlgorithm, env: EpisodeRecorder, episodes: int, ended: Callable[[Episode], None], name: str
) -> None:
    try:
        with closing(env), suppress(_WindowClosed):
            play_greedy_episodes(model, env, episodes, ended)
    except ToolkitError:
        raise
    except Exception as error:  # each window system has its own
        raise WatchingError(
            f"{name} cannot be watched in a window here: {describe_error(error)}", _WITHOUT_WINDOW
        ) from error


def _refuse_the_unseen(model: BaseAlgorithm, name: str) -> None:
    env = model.get_env()
    modes = env.get_attr("unwrapped")[0].metadata.get("render_modes") if env else None
    if modes is not None and not {"human", "rgb_array", "rgb_array_list"} & {*modes}:
        raise WatchingError(
            f"{name} cannot be watched: it draws neither a window nor frames", f"its render modes: {[*modes]}"
        )


class _WindowClosed(Exception):  # noqa: N818 - as StopIteration, no error
    """The user has closed the window."""


class _Window(gym.Wrapper[Any, Any, Any, Any]):
    """Notices that the user has closed the window, and draws where the environment does not by itself."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step.

        :raises _WindowClosed: if the window was closed meanwhile
        """
        result = self.env.step(action)
        self._check_open()
        return result

    def show(self) -> None:
        """Draw a step that went to the unwrapped environment alone.

        :raises _WindowClosed: if the window was closed meanwhile
        """
        layer = self.env
        while isinstance(layer, gym.Wrapper) and not isinstance(layer, HumanRendering):
            layer = layer.env
        if isinstance(layer, HumanRendering):  # Gymnasium's, for frames; others draw in their steps
            layer._render_frame()  # type: ignore[no-untyped-call]
        self._check_open()

    def _check_open(self) -> None:
        pygame: Any = sys.modules.get("pygame")  # not everybody's windows are pygame's
        if pygame and pygame.display.get_init() and pygame.event.peek(pygame.QUIT):
            raise _WindowClosed
