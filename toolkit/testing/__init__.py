"""Conformance checks for plugin authors: one line per component, in the plugin's own tests.

Each check takes a component's class, or its name in a config: a registered name, ``module:Name``, ``./file.py:Name``.
It returns None if the component keeps every promise of its kind, and raises :class:`ConformanceError` with the first
broken one. A check takes seconds. Pass ``params`` with which the component learns soon: small buffers, small networks.

>>> import gymnasium as gym
>>> from toolkit.testing import check_wrapper
>>> class HalvedReward(gym.RewardWrapper):
...     def reward(self, reward):
...         return reward / 2
>>> check_wrapper(HalvedReward, env={"id": "CartPole-v1", "max_episode_steps": 50})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.testing.algorithms import check_algorithm
    from toolkit.testing.callbacks import check_callback
    from toolkit.testing.component import ConformanceError
    from toolkit.testing.launchers import check_launcher
    from toolkit.testing.policies import check_policy
    from toolkit.testing.replay_buffers import check_replay_buffer
    from toolkit.testing.schedules import check_schedule
    from toolkit.testing.wrappers import check_wrapper

_MODULES = {  # imported when used: a launcher's processes need the sample jobs alone
    "ConformanceError": "component",
    "check_algorithm": "algorithms",
    "check_callback": "callbacks",
    "check_launcher": "launchers",
    "check_policy": "policies",
    "check_replay_buffer": "replay_buffers",
    "check_schedule": "schedules",
    "check_wrapper": "wrappers",
}

__all__ = [
    "ConformanceError",
    "check_algorithm",
    "check_callback",
    "check_launcher",
    "check_policy",
    "check_replay_buffer",
    "check_schedule",
    "check_wrapper",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'toolkit.testing' has no attribute '{name}'")
    return getattr(import_module(f"toolkit.testing.{_MODULES[name]}"), name)
