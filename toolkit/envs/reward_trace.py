"""What each wrapper adds to the rewards of an episode: the rewards that leave it minus those that reach it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorRewardWrapper, VectorWrapper
from gymnasium.wrappers import AtariPreprocessing, NormalizeReward
from gymnasium.wrappers.vector import NormalizeReward as VectorNormalizeReward
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from toolkit.envs.replayable import TransparentLayer, iterate_layers
from toolkit.utils.vec_envs import iterate_vec_wrappers

_CLASSES_THAT_CHANGE_REWARDS = (
    *(gym.RewardWrapper, NormalizeReward, VectorRewardWrapper, VectorNormalizeReward),
    AtariPreprocessing,  # drops those of its first steps
)
_STEPS_THAT_CHANGE_REWARDS = {cls.step for cls in _CLASSES_THAT_CHANGE_REWARDS}
_VEC_WRAPPERS_THAT_KEEP_REWARDS = (
    *(VecCheckNan, VecExtractDictObs, VecFrameStack, VecMonitor, VecTransposeImage, VecVideoRecorder),
)


class RewardProbe(TransparentLayer):
    """Keeps the rewards of an episode that leave the wrapper inside."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._rewards: list[float] = []
        self._append = self._rewards.append
        self._total = 0.0

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the wrapper inside, where a wrapper outside means to."""
        if name == "env" or name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self.env, name, value)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment."""
        result = self.env.step(action)
        self._append(float(result[1]))
        return result

    def end_episode(self) -> None:
        """Add the rewards so far to the episode that is taken next."""
        try:
            self._total += math.fsum(self._rewards)
        except (OverflowError, ValueError):  # of infinite rewards, which a wrapper outside may clip
            self._total = math.nan
        self._rewards.clear()

    def pop(self) -> float:
        """Return the sum of the episodes that have ended since the last call."""
        total, self._total = self._total, 0.0
        return total


class RewardTrace:
    """The probes around the wrappers of one environment.

    Monitor says where an episode ends, so that the sums are of the same steps as the raw return.
    """

    def __init__(self) -> None:
        self._probes: dict[str, RewardProbe] = {}

    def add_probe(self, name: str, env: gym.Env[Any, Any], inside: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return an environment with a probe around its outermost wrapper, if that may change rewards.

        :param name: of the wrapper
        :param inside: what is inside the wrapper
        """
        layers = [*iterate_layers(env)]
        if inside in layers and all(map(_keeps_rewards, layers[: layers.index(inside)])):
            return env
        self._probes[name] = RewardProbe(env)
        return self._probes[name]

    def end_episode(self) -> None:
        """Note that the environment itself is about to be reset."""
        for probe in self._probes.values():
            probe.end_episode()

    def pop(self) -> dict[str, float]:
        """Return the sums of the episodes that have ended since the last call."""
        return {name: probe.pop() for name, probe in self._probes.items()}

    def drop(self) -> None:
        """Forget the running episode."""
        self.end_episode()
        self.pop()


class BatchRewardProbe(VectorWrapper[Any, Any, Any, Any, Any]):
    """Sums up the rewards that leave the wrapper inside, for each environment of a batch.

    :ivar totals: of the running episodes, of shape (environments,)
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.totals = np.zeros(env.num_envs)
        self.completed = np.zeros(env.num_envs)

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step all environments."""
        result = self.env.step(actions)
        self.totals += result[1]
        return result


class BatchRewardTrace:
    """The probes around the wrappers of a batch; see :class:`RewardTrace`."""

    def __init__(self) -> None:
        self._probes: dict[str, BatchRewardProbe] = {}

    def add_probe(
        self, name: str, env: VectorEnv[Any, Any, Any], inside: VectorEnv[Any, Any, Any]
    ) -> VectorEnv[Any, Any, Any]:
        """Return a batch with a probe around its outermost wrapper, if that may change rewards."""
        layers = [*iterate_layers(env)]
        if inside in layers and all(map(_keeps_rewards, layers[: layers.index(inside)])):
            return env
        self._probes[name] = BatchRewardProbe(env)
        return self._probes[name]

    def end_episodes(self, mask: NDArray[np.bool_]) -> None:
        """Note that some environments are about to be reset."""
        for probe in self._probes.values():
            probe.completed[mask] += probe.totals[mask]
            probe.totals[mask] = 0.0

    def pop(self, index: int) -> dict[str, float]:
        """Return the sums of an environment's episodes that have ended since the last call."""
        sums = {name: float(probe.completed[index]) for name, probe in self._probes.items()}
        for probe in self._probes.values():
            probe.completed[index] = 0.0
        return sums

    def drop(self) -> None:
        """Forget all episodes."""
        for probe in self._probes.values():
            probe.totals[:], probe.completed[:] = 0.0, 0.0


def name_reward_wrappers(names: Sequence[str]) -> list[str]:
    """Return short names of wrappers, without their files or modules; equal ones are numbered.

    >>> name_reward_wrappers(["angle_penalty", "./upright.py:Upright", "angle_penalty"])
    ['angle_penalty_1', 'Upright', 'angle_penalty_2']
    """
    short = [name.rpartition(":")[2] for name in names]
    counts, seen = Counter(short), Counter[str]()
    numbered = []
    for name in short:
        seen[name] += 1
        numbered.append(f"{name}_{seen[name]}" if counts[name] > 1 else name)
    return numbered


def changes_vec_rewards(venv: VecEnv, inside: VecEnv) -> bool:
    """Return whether vec wrappers may change rewards.

    :param venv: the outermost of them
    :param inside: the environments inside them
    """
    for layer in iterate_vec_wrappers(venv):
        if layer is inside:
            return False
        is_known = isinstance(layer, _VEC_WRAPPERS_THAT_KEEP_REWARDS)
        if not (is_known or (isinstance(layer, VecNormalize) and not layer.norm_reward)):
            return True
    return False


def _keeps_rewards(layer: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> bool:
    """Return whether a layer returns the rewards of the layer inside, over an episode.

    Gymnasium's wrappers do, except those of rewards. One that repeats actions returns the sum of their rewards.
    """
    step: Any = type(layer).step
    return step.__module__.startswith("gymnasium.") and step not in _STEPS_THAT_CHANGE_REWARDS
