"""Resume is exact with every kind of component that SB3 and Gymnasium offer, and names what it cannot restore."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_runs import StopAt, find_differences, make_config, train_with_interruptions
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper

from toolkit import Run, RunConfig
from toolkit.training.model import load_model
from toolkit.training.trainer import train

SMALL = {"learning_starts": 40, "buffer_size": 150, "batch_size": 8, "train_freq": 2, "target_update_interval": 50}
FEW_STEPS: dict[str, Any] = {"name": "few", "seed": 3, "timesteps": 260, "snapshots": {"every_timesteps": 60}}


class Walk(gym.Env[Any, Any]):
    """A walk on a line of ten positions, towards a goal."""

    def __init__(self, shows: str = "position") -> None:
        self.action_space = gym.spaces.Discrete(2)
        self.shows = shows
        position = gym.spaces.Box(0, 9, (1,))
        self.observation_space: gym.Space[Any] = {
            "position": position,
            "image": gym.spaces.Box(0, 255, (36, 36, 1), np.uint8),
            "parts": gym.spaces.Dict({"position": position, "goal": gym.spaces.Discrete(10)}),
            "goals": gym.spaces.Dict({"observation": position, "achieved_goal": position, "desired_goal": position}),
        }[shows]
        self.position = self.goal = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.goal = map(int, self.np_random.integers(0, 10, 2))
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position = min(9, max(0, self.position + (1 if action else -1)))
        self.steps += 1
        reward = float(self.compute_reward(np.float32([[self.position]]), np.float32([[self.goal]]), [{}])[0])
        return self.observe(), reward, reward == 0, self.steps == 12, {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -(np.abs(achieved - desired)[..., 0] > 0).astype(np.float32)

    def observe(self) -> Any:
        position, goal = np.float32([self.position]), np.float32([self.goal])
        image = np.zeros((36, 36, 1), np.uint8)
        image[self.position * 3, self.goal * 3] = 255
        return {
            "position": position,
            "image": image,
            "parts": {"position": position, "goal": self.goal},
            "goals": {"observation": position, "achieved_goal": position, "desired_goal": goal},
        }[self.shows]


@pytest.fixture(autouse=True)
def environments() -> Iterator[None]:
    """Register the environments of these tests."""
    gym.register("Walk-v0", Walk)
    gym.register("ObjectWalk-v0", ObjectWalk, disable_env_checker=True)
    yield
    del gym.registry["Walk-v0"], gym.registry["ObjectWalk-v0"]


def walk_config(shows: str = "position", env: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    policy = {"position": "MlpPolicy", "image": "CnnPolicy"}.get(shows, "MultiInputPolicy")
    small_network = {"features_extractor_kwargs": {"features_dim": 8}} if shows == "image" else {}
    algorithm = {
        "name": "double_dqn",
        "policy": policy,
        "params": more.pop("params", SMALL),
        "policy_params": {"net_arch": [8], **small_network},
    }
    environment = {"id": "Walk-v0", "params": {"shows": shows}, **(env or {})}
    return RunConfig.model_validate({"env": environment, "algorithm": algorithm} | FEW_STEPS | more)


def assert_resume_is_exact(run_config: RunConfig, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Train without a break and with one; both runs are the same, and no part is named as not exact."""
    train(run_config, folder / "whole", [StopAt()])
    train_with_interruptions(run_config, folder / "resumed", (190,))
    assert find_differences(folder / "whole", folder / "resumed") == []
    assert [message for message in caplog.messages if "not exact" in message] == []


STACK = {"name": "vec_frame_stack", "params": {"n_stack": 2}}
PRIORITIZED = {"replay_buffer_class": "prioritized", "replay_buffer_kwargs": {"alpha": 0.6, "beta": 0.4}}
HER = {
    "replay_buffer_class": "stable_baselines3.her:HerReplayBuffer",
    "replay_buffer_kwargs": {"n_sampled_goal": 2},
}


@pytest.mark.parametrize(
    "options",
    [
        {"shows": "image", "env": {"n_envs": 2, "vec_wrappers": [STACK]}},
        {"shows": "parts"},
        {"shows": "goals", "env": {"vec_wrappers": ["vec_normalize"]}},
        {"shows": "goals", "params": SMALL | HER, "env": {"n_envs": 2}},
        {"params": SMALL | {"train_freq": [1, "episode"]}},
        {"params": SMALL | PRIORITIZED | {"n_steps": 3}, "env": {"n_envs": 2}},
        {"shows": "parts", "params": SMALL | PRIORITIZED},
    ],
    ids=str,
)
def test_resume_is_exact_for_observation_space_and_buffer(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_resume_is_exact(walk_config(**options), tmp_path, caplog)


@pytest.mark.parametrize(
    ("algorithm", "env", "params"),
    [
        ("ppo", {"id": "Pendulum-v1", "n_envs": 2}, {"use_sde": True, "sde_sample_freq": 7}),
        ("sac", {}, {"use_sde": True, "learning_starts": 50}),
    ],
)
def test_resume_restores_gsde_noise(
    algorithm: str, env: dict[str, Any], params: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_resume_is_exact(make_config(algorithm, env, params=params, **FEW_STEPS), tmp_path, caplog)


class CuriosityCallback(BaseCallback):
    """Trains a network of its own to predict the next position, and refers to the model's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.errors: deque[float] = deque(maxlen=20)

    def _init_callback(self) -> None:
        self.policy = self.model.policy
        self.parameters = [*self.model.policy.parameters()]
        self.environments = self.training_env

    def _on_step(self) -> bool:
        self.optimizer.zero_grad()
        error = (self.network(torch.ones(1)) - float(self.locals["new_obs"][0, 0])).square().sum()
        error.backward()
        self.optimizer.step()
        self.errors.append(error.item())
        self.logger.record("own/error", sum(self.errors))
        return True


def test_resume_restores_network_that_callback_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_resume_is_exact(walk_config(callbacks=[f"{__name__}:CuriosityCallback"]), tmp_path, caplog)


class FixedWalk(Walk):
    """Starts at the same position in every episode."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=7)


EVALUATION = {
    "name": "stable_baselines3.common.callbacks:EvalCallback",
    "params": {
        "eval_env": {"name": f"{__name__}:FixedWalk"},
        "n_eval_episodes": 2,
        "eval_freq": 25,
        "verbose": 0,
        "callback_after_eval": {
            "name": "stable_baselines3.common.callbacks:StopTrainingOnNoModelImprovement",
            "params": {"max_no_improvement_evals": 7},
        },
    },
}


@pytest.mark.filterwarnings(
    "ignore:Training and eval env are not of the same type", "ignore:Evaluation environment is"
)
def test_resume_restores_sb3_eval_and_checkpoint_callbacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = {"name": "stable_baselines3.common.callbacks:CheckpointCallback"}
    saved = {}
    for name in ("whole", "resumed"):
        folder = tmp_path / f"{name} checkpoints"
        run_config = walk_config(
            callbacks=[EVALUATION, checkpoints | {"params": {"save_freq": 50, "save_path": str(folder)}}]
        )
        if name == "whole":
            train(run_config, tmp_path / name, [StopAt()])
        else:
            train_with_interruptions(run_config, tmp_path / name, (190,))
        saved[name] = {path.name for path in folder.iterdir()}
    assert find_differences(tmp_path / "whole", tmp_path / "resumed") == []
    assert "eval/mean_reward" in (tmp_path / "resumed" / "progress.csv").read_text()
    assert saved["resumed"] == saved["whole"]
    named = {message for message in caplog.messages if "not exact" in message}
    assert named == {"not exact after `toolkit resume`: callback EvalCallback: eval_env"}


class ObjectCallback(BaseCallback):
    """Holds objects that it makes in training, and numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.walks: deque[Any] = deque(maxlen=3)
        self.calls: list[int] = []

    def _on_step(self) -> bool:
        self.calls.append(self.n_calls)
        if self.n_calls > 100:
            self.walks.append(Walk())
        self.logger.record("own/calls", sum(self.calls))
        return True


class ObjectWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Holds an object for each episode."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.seen: list[Any] = []
        self.episodes = 0
        self.running: StopAt | None = None

    def reset(self, **more: Any) -> tuple[Any, dict[str, Any]]:
        self.episodes += 1
        self.running = StopAt(self.episodes)
        self.seen.append(StopAt(self.episodes) if self.episodes > 1 else None)
        return self.env.reset(**more)


def test_objects_made_in_training_are_named_once_and_rest_is_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_config = walk_config(
        callbacks=[f"{__name__}:ObjectCallback"], env={"wrappers": [f"{__name__}:ObjectWrapper"], "n_envs": 2}
    )
    train(run_config, tmp_path / "whole", [StopAt()])
    expected = [
        "not exact after `toolkit resume`: wrapper ObjectWrapper: seen",
        "not exact after `toolkit resume`: callback ObjectCallback: walks",
    ]
    assert sorted(message for message in caplog.messages if "not exact" in message) == sorted(expected)
    train_with_interruptions(run_config, tmp_path / "resumed", (190,))
    assert find_differences(tmp_path / "whole", tmp_path / "resumed") == []


class LateAttributes(VecEnvWrapper):
    """Scales rewards by attributes that only training sets; one has a default in the class."""

    scale = 1.0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.scale = 0.9 * self.scale + 0.1
        self.tilt = getattr(self, "tilt", 0) + int(dones.sum())
        return observations, rewards * np.float32(self.scale + self.tilt), dones, infos


def test_resume_restores_attributes_first_set_in_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_resume_is_exact(walk_config(env={"vec_wrappers": [f"{__name__}:LateAttributes"]}), tmp_path, caplog)


class GravityWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Changes an attribute of the environment by the number of episodes."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes = 0

    def reset(self, **more: Any) -> tuple[Any, dict[str, Any]]:
        self.episodes += 1
        self.unwrapped.gravity = 9.8 + self.episodes  # type: ignore[attr-defined]
        return self.env.reset(**more)


@pytest.mark.parametrize("train_freq", [2, [1, "episode"]], ids=str)
def test_resume_replays_environment_that_wrapper_changes(
    train_freq: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = {"wrappers": [f"{__name__}:GravityWrapper"], "n_envs": 1}
    assert_resume_is_exact(make_config("dqn", env, params={"train_freq": train_freq}, **FEW_STEPS), tmp_path, caplog)


@pytest.mark.parametrize("optimizer", ["NAdam", "ASGD"])
def test_resume_restores_scalars_of_optimizer(
    optimizer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_config = walk_config()
    run_config.algorithm.policy_params["optimizer_class"] = f"torch.optim:{optimizer}"
    assert_resume_is_exact(run_config, tmp_path, caplog)
    load_model(Run.open(tmp_path / "resumed"))


class FreezeCallback(BaseCallback):
    """Freezes the first layer halfway."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 130:
            self.model.policy.q_net.q_net[0].requires_grad_(False)  # type: ignore[union-attr,index,operator]
        return True


def test_resume_restores_frozen_layers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_resume_is_exact(walk_config(callbacks=[f"{__name__}:FreezeCallback"]), tmp_path, caplog)


class ObjectWalk(Walk):
    """Observes its position in an array that also holds an object."""

    def observe(self) -> Any:
        return np.array([self.position, object()], dtype=object)


class PositionOnly(gym.ObservationWrapper[Any, Any, Any]):
    """Removes the object from an observation."""

    def observation(self, observation: Any) -> Any:
        return np.float32(observation[:1])


def test_resume_supports_observations_that_are_not_plain_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_resume_is_exact(
        walk_config(env={"id": "ObjectWalk-v0", "wrappers": [f"{__name__}:PositionOnly"]}), tmp_path, caplog
    )
    assert [message for message in caplog.messages if "no snapshot" in message] == []
