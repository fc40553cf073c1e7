"""What the callbacks of a run log of its episodes: parts of the reward, and numbers of ``info``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stable_baselines3.common.callbacks import BaseCallback

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_numbers import EpisodeNumbers, LoggedInfo
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.training.callbacks import RunCallback
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.errors import KeyPath, Problem


def logs_rewards(config: ResolvedConfig, callbacks: Sequence[BaseCallback]) -> bool:
    """Return whether a callback, nested ones too, logs the parts of returns; those of the config are not built yet.

    :param callbacks: those that Python passed
    """
    classes = [
        nested.cls
        for component in config.components.callbacks
        for nested in component.iterate_nested()
        if isinstance(nested.cls, type)
    ]
    classes += [type(nested) for callback in callbacks for nested in iterate_nested(callback)]
    return any(issubclass(cls, RunCallback) and cls.logs_rewards for cls in classes)


def log_info(
    config: ResolvedConfig,
    env: EpisodeRecorder,
    config_callbacks: Sequence[BaseCallback],
    callbacks: Sequence[BaseCallback],
) -> None:
    """Let the training environments sum up the numbers of ``info`` that callbacks log.

    :param config_callbacks: those of the config, in its order
    :param callbacks: those that Python passed
    :raises ConfigError: if two log the same number
    """
    logged = list_logged_info(config_callbacks, callbacks)
    if not logged:
        return
    names = [item.name for item in logged]
    problems = [
        Problem(item.path, f"info['{item.name}'] is logged by another callback already", "log it once")
        for index, item in enumerate(logged)
        if item.name in names[:index]
    ]
    if problems:
        raise config.make_error(problems)
    if env.numbers is None:
        env.numbers = EpisodeNumbers(env.num_envs, config)
    env.numbers.log_info(logged)


def list_logged_info(
    config_callbacks: Sequence[BaseCallback], callbacks: Sequence[BaseCallback] = ()
) -> list[LoggedInfo]:
    """Return what callbacks log of ``info``, nested ones too."""
    paths: list[KeyPath] = [("callbacks", index) for index in range(len(config_callbacks))]
    paths += [("callbacks",)] * len(callbacks)
    pairs = zip(paths, [*config_callbacks, *callbacks], strict=True)
    return [
        LoggedInfo(name, value, path)
        for path, callback in pairs
        for nested in _iterate_run_callbacks(callback)
        for name, value in nested.logged_info.items()
    ]


def _iterate_run_callbacks(callback: BaseCallback) -> Iterator[RunCallback]:
    yield from (nested for nested in iterate_nested(callback) if isinstance(nested, RunCallback))
