"""What wrappers and policy learned or counted in training goes to evaluation: the agent acts as it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

import toolkit as tk
from toolkit.training import trainer

SIZE = N_ENVS = 4  # numbers of an observation, and environments in training
RATE = 0.05  # of running means
STEPS = 20  # of an episode; an agent that sees centred observations returns as much, one that does not returns half


class Shifted(gym.Env[Any, Any]):
    """Shows 1000 or 1005 and rewards the matching action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = gym.spaces.Box(-1e4, 1e4, (SIZE,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def _show(self) -> NDArray[np.float32]:
        self.is_up = int(self.np_random.integers(2))
        return np.full(SIZE, 1000 + 5 * self.is_up, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = STEPS
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        reward = float(action == self.is_up)
        return self._show(), reward, self.left == 0, False, {}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return np.zeros((16, 16, 3), np.uint8)


gym.register("toolkit_tests/Shifted-v0", Shifted)


class Mean:
    """A running mean; with a rate it learns too slowly for an evaluation that starts anew."""

    def __init__(self, rate: float = 0.0) -> None:
        self.value, self.count, self.rate = np.zeros(SIZE), 0, rate

    def update(self, observation: NDArray[Any]) -> None:
        self.count += 1
        self.value = self.value + (observation - self.value) * (self.rate or 1 / self.count)


class Centre(gym.ObservationWrapper[Any, Any, Any]):
    """Subtracts a running mean, which is plain attributes."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.mean, self.count = np.zeros(SIZE), 0

    def observation(self, observation: Any) -> Any:
        self.count += 1
        self.mean = self.mean + (observation - self.mean) / self.count
        return (observation - self.mean).astype(np.float32)


class CentreByObject(gym.ObservationWrapper[Any, Any, Any]):
    """Subtracts a running mean, which is an object that the first reset makes."""

    mean: Mean | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.mean is None:
            self.mean = Mean()
        return super().reset(**kwargs)

    def observation(self, observation: Any) -> Any:
        assert self.mean is not None
        self.mean.update(observation)
        return (observation - self.mean.value).astype(np.float32)


class RandomSign(gym.ObservationWrapper[Any, Any, Any]):
    """Centres observations, and keeps or turns their sign as its constructor has drawn."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.sign = int(np.random.default_rng().choice([-1, 1]))

    def observation(self, observation: Any) -> Any:
        return ((observation - 1002.5) * self.sign).astype(np.float32)


class GameOfEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Ends episodes after five steps of a game that continues, as a lost life does in Atari games."""

    is_over, steps, observation = True, 0, None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.is_over:
            self.observation, _ = self.env.reset(**kwargs)
        self.is_over, self.steps = False, 0
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.observation, reward, self.is_over, truncated, info = self.env.step(action)
        self.steps += 1
        return self.observation, reward, self.is_over or self.steps == 5, truncated, info


class VecCentre(VecEnvWrapper):
    """Subtracts a running mean over all environments, and counts the steps of each."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.mean = np.zeros(SIZE)
        self.steps = np.zeros(venv.num_envs)

    def reset(self) -> Any:
        return self._centre(self.venv.reset())

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += ~dones
        return self._centre(observations), rewards, dones, infos

    def _centre(self, observations: Any) -> Any:
        for observation in observations:
            self.mean = self.mean + RATE * (observation - self.mean)
        return (observations - self.mean).astype(np.float32)


class LateVecCentre(VecCentre):
    """The same, with an object and an array for each environment that the first reset makes."""

    running: Mean | None = None

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.steps = None  # type: ignore[assignment]

    def _centre(self, observations: Any) -> Any:
        if self.running is None:
            self.running, self.steps = Mean(RATE), np.zeros(self.num_envs)
        for observation in observations:
            self.running.update(observation)
        return (observations - self.running.value).astype(np.float32)


class OffsetPolicy(ActorCriticPolicy):
    """Subtracts a number that a callback changes."""

    offset = 0.0

    def get_distribution(self, obs: Any) -> Any:
        return super().get_distribution(obs - self.offset)


class ArrayExtractor(FlattenExtractor):
    """Subtracts a running mean, which is a NumPy array."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space)
        self.mean = np.zeros(SIZE, np.float32)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        for observation in observations:
            self.mean = self.mean + RATE * (observation.numpy() - self.mean)
        return observations - torch.from_numpy(self.mean)


class BufferExtractor(FlattenExtractor):
    """Subtracts a running mean, which is a buffer outside the state dict."""

    mean: torch.Tensor

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space)
        self.register_buffer("mean", torch.zeros(SIZE), persistent=False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        for observation in observations:
            self.mean += RATE * (observation - self.mean)
        return observations - self.mean


class ArrayPolicy(ActorCriticPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=ArrayExtractor, **kwargs)


class BufferPolicy(ActorCriticPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=BufferExtractor, **kwargs)


class SetPolicy(BaseCallback):
    """Gives the policy weights that are right for centred observations."""

    def _on_training_start(self) -> None:
        sign = self.training_env.get_attr("sign")[0] if self.training_env.has_attr("sign") else 1
        policy: Any = self.model.policy
        with torch.no_grad():
            policy.action_net.weight.zero_()
            policy.action_net.bias.zero_()
            policy.action_net.weight[1] = sign

    def _on_step(self) -> bool:
        if isinstance(self.model.policy, OffsetPolicy):
            self.model.policy.offset = 1002.5
        return True


def make_config(wrappers: list[str] = [], vec_wrappers: list[str] = [], policy: str = "MlpPolicy", **more: Any) -> Any:  # noqa: B006
    parts = {
        "name": "carried",
        "timesteps": 192,
        "env": {
            "id": "toolkit_tests/Shifted-v0",
            "n_envs": N_ENVS,
            "wrappers": [_qualify(name) for name in wrappers],
            "vec_wrappers": [_qualify(name) for name in vec_wrappers],
        },
        "algorithm": {
            "name": "ppo",
            "policy": policy if policy == "MlpPolicy" else f"{__name__}:{policy}",
            "params": {"n_steps": 16, "batch_size": 64, "n_epochs": 1, "learning_rate": 1e-30},
            "policy_params": {"net_arch": []},
        },
        "callbacks": [f"{__name__}:SetPolicy"],
        "snapshots": {"every_timesteps": None, "every_minutes": None},
    }
    return tk.RunConfig.model_validate(parts | more)


def _qualify(name: str) -> str:
    return name if ":" in name or name.islower() else f"{__name__}:{name}"


CASES: dict[str, dict[str, Any]] = {
    "attributes of a wrapper": {"wrappers": ["Centre"]},
    "an object of a wrapper": {"wrappers": ["CentreByObject"]},
    "a draw of a wrapper's constructor": {"wrappers": ["RandomSign"]},
    "a wrapper in the middle of a game": {"wrappers": ["Centre", "GameOfEpisodes"]},
    "Gymnasium's statistics": {"wrappers": ["gymnasium.wrappers:NormalizeObservation"]},
    "vec_normalize": {"vec_wrappers": ["vec_normalize"]},
    "attributes of a vec wrapper": {"vec_wrappers": ["VecCentre"]},
    "an object of a vec wrapper": {"vec_wrappers": ["LateVecCentre"]},
    "an attribute of the policy": {"policy": "OffsetPolicy"},
    "an array of the features extractor": {"policy": "ArrayPolicy"},
    "a buffer outside the state dict": {"policy": "BufferPolicy"},
}


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_evaluation_acts_on_what_training_learned(parts: dict[str, Any], tmp_path: Path) -> None:
    run = tk.load(trainer.train(make_config(**parts), tmp_path / "run").directory)
    assert run.evaluate(6).returns == (float(STEPS),) * 6
