"""Greedy episodes of a model on separate environments. They leave the state of training unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.episodes import Episode, EpisodeRecorder, read_is_success
from toolkit.envs.factory import WrapEnv, make_vec_env
from toolkit.envs.wrapper_state import capture_wrapper_states, load_wrapper_states
from toolkit.snapshots.rng import preserve_model_generators, preserve_rng_state, seed_global_generators
from toolkit.training.evaluations import PlayedEpisodes
from toolkit.training.model import limit_torch_threads

SelectStates = Callable[[EpisodeRecorder, dict[str, Any]], dict[str, Any]]


def check_episodes(episodes: int) -> int:
    """Return the number of episodes if it is valid.

    :raises ValueError: if it is below 1
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, not {episodes}")
    return episodes


@contextmanager
def open_greedy_env(
    config: ResolvedConfig, *, seed: int, n_envs: int, wrap: WrapEnv, render_mode: str | None = None
) -> Iterator[EpisodeRecorder]:
    """Build environments for greedy episodes in this process, and close them at the end.

    The global generators of Python, NumPy and torch follow from the seed until then. So environments that draw from
    them repeat. Afterwards the generators have the state from before.

    :param seed: see :func:`toolkit.envs.factory.make_vec_env`, as for the other parameters
    """
    with preserve_rng_state():
        seed_global_generators(seed)
        env = make_vec_env(config, seed=seed, n_envs=n_envs, render_mode=render_mode, wrap=wrap)
        try:
            yield env
        finally:
            env.close()


def play_on_one_env(
    model: BaseAlgorithm,
    config: ResolvedConfig,
    episodes: int,
    seed: int,
    select_states: SelectStates | None = None,
) -> PlayedEpisodes:
    """Play greedy episodes, one after another, on an environment that is closed afterwards.

    :param select_states: see :func:`play_greedy_episodes`
    """
    with open_greedy_env(config, seed=seed, n_envs=1, wrap=limit_episode_steps) as env:
        return play_greedy_episodes(model, env, episodes, select_states=select_states)


def play_greedy_episodes(
    model: BaseAlgorithm,
    env: EpisodeRecorder,
    episodes: int,
    on_episode_end: Callable[[Episode], None] | None = None,
    *,
    deterministic: bool = True,
    select_states: SelectStates | None = None,
) -> PlayedEpisodes:
    """Play whole episodes with deterministic actions.

    Wrappers take over what the wrappers of the model's own environments have learned and counted, such as statistics
    of observations. Statistics are frozen where there is a switch. The random generators that training draws from keep
    their state.

    :param env: built by :func:`open_greedy_env`, or closed by the caller; wrap its environments with
        :func:`toolkit.envs.episode_limit.limit_episode_steps` if they may never end
    :param on_episode_end: called with each episode when it has ended
    :param deterministic: False to draw actions from the policy
    :param select_states: for an environment that differs from the model's own: returns the part of the states of the
        model's wrappers that fits it, see :func:`toolkit.envs.wrapper_state.select_wrapper_states`
    :raises RunError: if an episode of an environment with such a limit does not end
    """
    evaluate: Callable[..., Any] = evaluate_policy
    if "action_masks" in inspect.signature(model.predict).parameters:
        from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_maskable_policy

        evaluate = evaluate_maskable_policy
    if (training_env := model.get_env()) is not None and training_env.has_attr("capture_for_copies"):
        states = capture_wrapper_states(training_env)
        load_wrapper_states(env, select_states(env, states) if select_states else states)
    successes: list[float] = []
    callbacks = [_make_success_callback(successes)]
    if on_episode_end:
        callbacks.append(_make_step_callback(env, on_episode_end))
    drawing = nullcontext() if deterministic else preserve_model_generators(model)
    with preserve_rng_state(), drawing, limit_torch_threads(model):
        returns, lengths = evaluate(
            model,
            env,
            n_eval_episodes=episodes,
            deterministic=deterministic,
            return_episode_rewards=True,
            callback=lambda *arguments: [callback(*arguments) for callback in callbacks],
        )
    return PlayedEpisodes([*map(float, returns)], [*map(int, lengths)], successes)


def _make_success_callback(successes: list[float]) -> Callable[..., None]:
    """Return a callback for ``evaluate_policy``, which calls it at each step of an episode that counts."""

    def keep_success(local_variables: Mapping[str, Any], _: Any) -> None:
        info = local_variables["info"]
        if local_variables["done"] and "episode" in info and (success := read_is_success(info)) is not None:
            successes.append(success)

    return keep_success


def _make_step_callback(env: EpisodeRecorder, on_episode_end: Callable[[Episode], None]) -> Callable[..., None]:
    """Return a callback for ``evaluate_policy``, which calls it at each step, that reports episodes as they end."""
    n_reported = len(env.episodes)

    def report_new_episodes(*_: Any) -> None:
        nonlocal n_reported
        new_episodes, n_reported = env.episodes[n_reported:], len(env.episodes)
        for episode in new_episodes:
            on_episode_end(episode)

    return report_new_episodes
