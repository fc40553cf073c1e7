"""What a run logs of its episodes besides return and length: parts of the reward, and numbers of ``info``."""

from __future__ import annotations

import logging
from typing import Any, Literal

from toolkit.envs.episode_numbers import INFO_PREFIX, REWARD_PARTS, REWARD_PREFIX, is_column_name
from toolkit.training.callbacks import RunCallback

_log = logging.getLogger("toolkit")


class _EpisodeLogger(RunCallback):
    """Base of callbacks that only tell what is logged: the environments sum it up, and the logger writes it."""

    def __init__(self) -> None:
        super().__init__()

    def _on_step(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the environments have the sums."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class LogRewardsCallback(_EpisodeLogger):
    """Log what each wrapper adds to the return, and the parts of the reward that the environment names.

    Each wrapper that may change rewards gets a number per episode: the sum of its rewards, minus the sum of the
    rewards that it was given. The raw return and these numbers sum up to the shaped return. Each number in the mapping
    ``info["reward_components"]`` gets its sum over the episode.
    """

    logs_rewards = True

    def _on_training_end(self) -> None:
        episodes = self.context.episodes
        if len(episodes) and not any(
            name.startswith(REWARD_PREFIX) for episode in episodes for name, _ in episode.numbers
        ):
            message = "callback log_rewards: no wrapper changes rewards, and none of %d episodes has info[%r]"
            _log.warning(message, len(episodes), REWARD_PARTS)


class LogInfoCallback(_EpisodeLogger):
    """Log numbers of ``info``: for each episode their mean, or the last one. A bool counts as 0 or 1.

    Steps without a number, or with None, NaN or infinity, are left out.

    :param names: keys of ``info``
    :param value: ``mean`` over the steps of an episode, or the ``last`` of them, such as ``is_success``
    """

    def __init__(self, names: list[str], value: Literal["mean", "last"] = "mean") -> None:
        if not names or len({*names}) < len(names):
            raise ValueError("names must be different keys of info, at least one")
        for name in names:
            if not is_column_name(name):
                raise ValueError(f'names: {name!r} cannot be a column; use text without / , " and line ends')
        super().__init__()
        self.logged_info = dict.fromkeys(names, value)

    def _on_training_end(self) -> None:
        episodes = self.context.episodes
        logged = {name for episode in episodes for name, _ in episode.numbers}
        for name in self.logged_info:
            if len(episodes) and f"{INFO_PREFIX}{name}" not in logged:
                _log.warning("callback log_info: none of %d episodes has a number info[%r]", len(episodes), name)
