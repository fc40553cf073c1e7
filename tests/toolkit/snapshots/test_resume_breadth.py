"""A run goes on exactly with whatever SB3 and Gymnasium let a config ask for, and says where it cannot."""

from __future__ import annotations

import shutil
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
from toolkit.snapshots import archive
from toolkit.snapshots.plain_data import decode, encode
from toolkit.training.model import load_model
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import ToolkitError, TrainingError

SMALL = {"learning_starts": 40, "buffer_size": 150, "batch_size": 8, "train_freq": 2, "target_update_interval": 50}
FEW_STEPS: dict[str, Any] = {"name": "few", "seed": 3, "timesteps": 260, "snapshots": {"every_timesteps": 60}}


class Walk(gym.Env[Any, Any]):
    """A walk on a line of ten places, towards a goal."""

    def __init__(self, shows: str = "place") -> None:
        self.action_space = gym.spaces.Discrete(2)
        self.shows = shows
        place = gym.spaces.Box(0, 9, (1,))
        self.observation_space: gym.Space[Any] = {
            "place": place,
            "image": gym.spaces.Box(0, 255, (36, 36, 1), np.uint8),
            "parts": gym.spaces.Dict({"place": place, "goal": gym.spaces.Discrete(10)}),
            "goals": gym.spaces.Dict({"observation": place, "achieved_goal": place, "desired_goal": place}),
        }[shows]
        self.place = self.goal = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal = (int(one) for one in self.np_random.integers(0, 10, 2))
        self.steps = 0
        return self.shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = min(9, max(0, self.place + (1 if action else -1)))
        self.steps += 1
        reward = float(self.compute_reward(np.float32([[self.place]]), np.float32([[self.goal]]), [{}])[0])
        return self.shown(), reward, reward == 0, self.steps == 12, {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -(np.abs(achieved - desired)[..., 0] > 0).astype(np.float32)

    def shown(self) -> Any:
        place, goal = np.float32([self.place]), np.float32([self.goal])
        image = np.zeros((36, 36, 1), np.uint8)
        image[self.place * 3, self.goal * 3] = 255
        return {
            "place": place,
            "image": image,
            "parts": {"place": place, "goal": self.goal},
            "goals": {"observation": place, "achieved_goal": place, "desired_goal": goal},
        }[self.shows]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Walk-v0", Walk)
    gym.register("Odd-v0", Odd, disable_env_checker=True)
    yield
    del gym.registry["Walk-v0"], gym.registry["Odd-v0"]


def walking(shows: str = "place", env: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    policy = {"place": "MlpPolicy", "image": "CnnPolicy"}.get(shows, "MultiInputPolicy")
    small_network = {"features_extractor_kwargs": {"features_dim": 8}} if shows == "image" else {}
    algorithm = {
        "name": "double_dqn",
        "policy": policy,
        "params": more.pop("params", SMALL),
        "policy_params": {"net_arch": [8], **small_network},
    }
    environment = {"id": "Walk-v0", "params": {"shows": shows}, **(env or {})}
    return RunConfig.model_validate({"env": environment, "algorithm": algorithm} | FEW_STEPS | more)


def assert_exact(parts: RunConfig, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Train without a break and with one, and find no difference and nothing that is named as not exact."""
    train(parts, folder / "whole", [StopAt()])
    train_with_interruptions(parts, folder / "broken", (190,))
    assert find_differences(folder / "whole", folder / "broken") == []
    assert [message for message in caplog.messages if "not exact" in message] == []


STACK = {"name": "vec_frame_stack", "params": {"n_stack": 2}}
HER = {
    "replay_buffer_class": "stable_baselines3.her:HerReplayBuffer",
    "replay_buffer_kwargs": {"n_sampled_goal": 2},
}


@pytest.mark.parametrize(
    "parts",
    [
        {"shows": "image", "env": {"n_envs": 2, "vec_wrappers": [STACK]}},
        {"shows": "parts"},
        {"shows": "goals", "env": {"vec_wrappers": ["vec_normalize"]}},
        {"shows": "goals", "params": SMALL | HER, "env": {"n_envs": 2}},
        {"params": SMALL | {"train_freq": [1, "episode"]}},
    ],
    ids=str,
)
def test_observations_goals_and_episodes_of_all_kinds(
    parts: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_exact(walking(**parts), tmp_path, caplog)


@pytest.mark.parametrize(
    ("algorithm", "env", "params"),
    [
        ("ppo", {"id": "Pendulum-v1", "n_envs": 2}, {"use_sde": True, "sde_sample_freq": 7}),
        ("sac", {}, {"use_sde": True, "learning_starts": 50}),
    ],
)
def test_state_dependent_exploration(
    algorithm: str, env: dict[str, Any], params: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_exact(make_config(algorithm, env, params=params, **FEW_STEPS), tmp_path, caplog)


class Curious(BaseCallback):
    """Learns to foresee the next place with a network of its own; has the model's at hand."""

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


def test_networks_that_callbacks_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_exact(walking(callbacks=[f"{__name__}:Curious"]), tmp_path, caplog)


class FixedWalk(Walk):
    """Starts where it always starts."""

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
def test_callbacks_of_sb3_that_evaluate_and_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = {"name": "stable_baselines3.common.callbacks:CheckpointCallback"}
    saved = {}
    for name in ("whole", "broken"):
        folder = tmp_path / f"{name} checkpoints"
        parts = walking(callbacks=[EVALUATION, checkpoints | {"params": {"save_freq": 50, "save_path": str(folder)}}])
        if name == "whole":
            train(parts, tmp_path / name, [StopAt()])
        else:
            train_with_interruptions(parts, tmp_path / name, (190,))
        saved[name] = {path.name for path in folder.iterdir()}
    assert find_differences(tmp_path / "whole", tmp_path / "broken") == []
    assert "eval/mean_reward" in (tmp_path / "broken" / "progress.csv").read_text()
    assert saved["broken"] == saved["whole"]
    named = {message for message in caplog.messages if "not exact" in message}
    assert named == {"not exact after `toolkit resume`: callback EvalCallback: eval_env"}


class Collecting(BaseCallback):
    """Keeps objects that it makes, and numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: deque[Any] = deque(maxlen=3)
        self.calls: list[int] = []

    def _on_step(self) -> bool:
        self.calls.append(self.n_calls)
        if self.n_calls > 100:
            self.made.append(Walk())
        self.logger.record("own/calls", sum(self.calls))
        return True


class Archive(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps an object of every episode."""

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


def test_what_training_makes_is_named_once_when_it_is_there_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = walking(callbacks=[f"{__name__}:Collecting"], env={"wrappers": [f"{__name__}:Archive"], "n_envs": 2})
    train(parts, tmp_path / "whole", [StopAt()])
    expected = [
        "not exact after `toolkit resume`: wrapper Archive: seen",
        "not exact after `toolkit resume`: callback Collecting: made",
    ]
    assert sorted(message for message in caplog.messages if "not exact" in message) == sorted(expected)
    train_with_interruptions(parts, tmp_path / "broken", (190,))
    assert find_differences(tmp_path / "whole", tmp_path / "broken") == []


class Seesaw(VecEnvWrapper):
    """Scales rewards by what it has seen; its class has an attribute that training sets."""

    scale = 1.0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.scale = 0.9 * self.scale + 0.1
        self.tilt = getattr(self, "tilt", 0) + int(dones.sum())
        return observations, rewards * np.float32(self.scale + self.tilt), dones, infos


def test_attributes_that_are_first_set_in_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_exact(walking(env={"vec_wrappers": [f"{__name__}:Seesaw"]}), tmp_path, caplog)


class Heavier(gym.Wrapper[Any, Any, Any, Any]):
    """Makes each episode harder than the one before."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes = 0

    def reset(self, **more: Any) -> tuple[Any, dict[str, Any]]:
        self.episodes += 1
        self.unwrapped.gravity = 9.8 + self.episodes  # type: ignore[attr-defined]
        return self.env.reset(**more)


@pytest.mark.parametrize("train_freq", [2, [1, "episode"]], ids=str)
def test_wrappers_that_change_the_environment_by_what_they_counted(
    train_freq: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = {"wrappers": [f"{__name__}:Heavier"], "n_envs": 1}
    assert_exact(make_config("dqn", env, params={"train_freq": train_freq}, **FEW_STEPS), tmp_path, caplog)


@pytest.mark.parametrize("optimizer", ["NAdam", "ASGD"])
def test_optimizers_that_keep_numbers_of_their_own(
    optimizer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = walking()
    parts.algorithm.policy_params["optimizer_class"] = f"torch.optim:{optimizer}"
    assert_exact(parts, tmp_path, caplog)
    load_model(Run.open(tmp_path / "broken"))


class Freezing(BaseCallback):
    """Stops training the first layers when it is halfway."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 130:
            self.model.policy.q_net.q_net[0].requires_grad_(False)  # type: ignore[union-attr,index,operator]
        return True


def test_layers_that_are_frozen_stay_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_exact(walking(callbacks=[f"{__name__}:Freezing"]), tmp_path, caplog)


class Odd(Walk):
    """Shows its place in an array that also holds an object."""

    def shown(self) -> Any:
        return np.array([self.place, object()], dtype=object)


class Plainly(gym.ObservationWrapper[Any, Any, Any]):
    """Leaves the place of it."""

    def observation(self, observation: Any) -> Any:
        return np.float32(observation[:1])


def test_environments_that_show_what_cannot_be_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_exact(walking(env={"id": "Odd-v0", "wrappers": [f"{__name__}:Plainly"]}), tmp_path, caplog)
    assert [message for message in caplog.messages if "no snapshot" in message] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["generators"]["numpy"]["state"].update(pos=400_000_000), "not between 0 and 624"),
        (lambda data: data["environments"].clear(), "it has 0 environments, not 1"),
        (lambda data: data["trained"].pop(), "not of a run of this config"),
        (lambda data: data.update(trained=[0] * len(data["trained"])), "'trained' does not say"),
    ],
    ids=["generator", "environments", "fewer parameters", "numbers for flags"],
)
def test_snapshots_that_do_not_fit_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(walking(), tmp_path / "run", [StopAt(190)])
    newest = max(
        (tmp_path / "run" / "snapshots").iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1
    )
    data = archive.read(newest)
    change(data)
    shutil.rmtree(newest)
    archive.write(newest, data)
    with pytest.raises(ToolkitError, match=message):
        resume(Run.open(tmp_path / "run"), [StopAt()])


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox])
def test_a_generator_does_not_read_what_is_not_its_own(kind: type[np.random.BitGenerator]) -> None:
    kept = encode(np.random.Generator(kind(3)))
    numbers = kept["state"] if "buffer_pos" in kept["state"] else kept["state"]["state"]
    numbers["buffer_pos" if "buffer_pos" in numbers else "pos"] = -400_000_000
    with pytest.raises(ValueError, match="of a generator is not between"):
        decode(kept, np.random.Generator(kind(3)))
