"""Checks that plugin authors run on their own components, one line each, in tests of their own.

Each takes a component as a config names it (a registered name, ``module:Name``, ``./file.py:Name``) or its class, and
returns nothing if the component keeps the promises of its kind. They take seconds; give ``params`` that make it learn
soon, as small buffers and networks do.

.. code-block:: python

    def test_my_reward_is_a_wrapper_as_the_toolkit_expects() -> None:
        check_wrapper(MyReward, params={"scale": 2.0}, env={"id": "CartPole-v1", "max_episode_steps": 50})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from toolkit.experiments.launcher import Launcher
from toolkit.testing import algorithms, callbacks, launchers, schedules, wrappers
from toolkit.testing.component import ConformanceError, Env, named

__all__ = [
    "ConformanceError",
    "check_algorithm",
    "check_callback",
    "check_launcher",
    "check_policy",
    "check_schedule",
    "check_wrapper",
]

_ENV = "CartPole-v1"
_NONE: Mapping[str, Any] = {}


def check_wrapper(
    wrapper: str | type[gym.Wrapper[Any, Any, Any, Any]], *, params: Mapping[str, Any] = _NONE, env: Env = _ENV
) -> None:
    """Check that a wrapper keeps Gymnasium's API and the toolkit's, in which it stands outside Monitor.

    It passes ``gymnasium.utils.env_checker.check_env``; each step of it is one step inside; seed, options, rendering
    and closing are passed on, and so is how an episode ends, except where it ends episodes itself; the same seed and
    actions give the same episodes; and its state can be put into another instance, which goes on alike.

    :param params: of its constructor, besides ``env``
    :param env: an environment that it is made for, a Gymnasium id or a mapping as ``env`` in the YAML; wrappers in it
        are further inside
    :raises ConformanceError: with the first promise that is not kept, and what to change
    :raises ToolkitError: if there is no such wrapper, it cannot be built, or the environment is faulty by itself
    """
    with named(wrapper) as name:
        wrappers.check(name, params, env)


def check_callback(
    callback: str | type[BaseCallback],
    *,
    params: Mapping[str, Any] = _NONE,
    env: Env = _ENV,
    changes_training: bool = False,
) -> None:
    """Check that a callback works with one environment and with four, leaves training as it is, and can be resumed.

    :param params: of its constructor
    :param env: where PPO is trained for a few hundred timesteps, a Gymnasium id or a mapping as ``env`` in the YAML
    :param changes_training: whether it may change the weights, or end training early
    :raises ConformanceError: with the first promise that is not kept, and what to change
    :raises ToolkitError: if there is no such callback, or it cannot be built
    """
    with named(callback) as name:
        callbacks.check(name, params, env, changes_training)


def check_algorithm(
    algorithm: str | type[BaseAlgorithm],
    *,
    params: Mapping[str, Any] = _NONE,
    policy: str = "MlpPolicy",
    env: Env = _ENV,
) -> None:
    """Check that an algorithm trains, repeatably, is saved and loaded whole, and goes on.

    It is trained for 300 timesteps, or two rollouts if these are longer. Loading is tried the toolkit's way, which
    unpickles nothing, and with its own ``load``. If it is one of SB3's on-policy or off-policy algorithms, it also has
    to come to the same weights after a break and ``toolkit resume``.

    :param params: of its constructor, besides ``policy`` and ``env``
    :param env: an environment that it is made for, a Gymnasium id or a mapping as ``env`` in the YAML
    :raises ConformanceError: with the first promise that is not kept, and what to change
    :raises ToolkitError: if there is no such algorithm or policy, or it cannot be built
    """
    with named(algorithm) as name:
        algorithms.check_algorithm(name, params, policy, env)


def check_policy(
    policy: str | type[BasePolicy], *, params: Mapping[str, Any] = _NONE, algorithm: str = "dqn", env: Env = _ENV
) -> None:
    """Check that a policy is trained, predicts, and is saved and loaded whole, with its algorithm and by itself.

    :param params: of its constructor, besides spaces and schedule: SB3's ``policy_kwargs``
    :param algorithm: one that it is made for, by name
    :param env: an environment that both are made for, a Gymnasium id or a mapping as ``env`` in the YAML
    :raises ConformanceError: with the first promise that is not kept, and what to change
    :raises ToolkitError: if there is no such policy or algorithm, or it cannot be built
    """
    with named(policy) as name:
        algorithms.check_policy(name, params, algorithm, env)


def check_schedule(schedule: str | type[Any], *, params: Mapping[str, Any] = _NONE) -> None:
    """Check that a schedule gives a finite number wherever it is asked, which depends on nothing else.

    One that takes a single argument is asked as SB3 does, with ``progress_remaining`` from 1 to 0 and a little below;
    one that takes two as ``DoubleDQN``'s ``exploration``, with an episode and a timestep, for a number from 0 to 1.
    Whether the number of the first kind is negative is not checked: a schedule may be of anything.

    :param params: of its constructor
    :raises ConformanceError: with the first promise that is not kept, and what to change
    :raises ToolkitError: if there is no such schedule, or it cannot be built
    """
    with named(schedule) as name:
        schedules.check(name, params)


def check_launcher(launcher: str | type[Launcher], *, params: Mapping[str, Any] = _NONE) -> None:
    """Check that a launcher gives every job once, as it ended, and stops those at work where it has to end early.

    It launches a few jobs, four times: ones that write files, raise, and lose their process; none; ones that work
    until they are stopped, because the iterator is closed, and because a signal raises an exception in it, which is
    tried in the main thread alone. Their temporary directory has to be at the same path wherever they run.

    :param params: of its constructor; with room for two jobs at once more is seen, and sooner
    :raises ConformanceError: with the first promise that is not kept, and what to change
    :raises ToolkitError: if there is no such launcher, it cannot be built, or there is nowhere to run jobs
    """
    with named(launcher) as name:
        launchers.check(name, params)
