"""What environments carry from episode to episode survives a resume, and what cannot survive is said."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small_runs import StopAt, find_differences, make_config
from stable_baselines3.common.callbacks import BaseCallback

from toolkit import Run, RunConfig
from toolkit.config.load import resolve_config
from toolkit.envs.factory import make_env
from toolkit.envs.replayable import DROPPED_EPISODE, RAW_EPISODE
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError

LENGTH = 7


class Course(gym.Env[Any, Any]):
    """Episodes of 7 steps and a step for each level above 1; a step returns its level."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.level = 1

    def set_level(self, level: int) -> None:
        self.level = level

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observe(), float(self.level), False, self.steps >= LENGTH - 1 + self.level, {}


class Counts(Course):
    """Rises a level at every fifth reset, remembers its last levels, and draws from three generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.n_resets = 0
        self.levels: list[int] = []
        self.weights = np.zeros(3)
        self.view = self.weights[:2]
        self.noise = np.random.default_rng(0)
        self.coin = random.Random(0)
        self.die = np.random.RandomState(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.n_resets += 1
        self.levels = [*self.levels[-3:], 1 + self.n_resets // 5]
        self.level = self.levels[0] + self.coin.randrange(2) + self.die.randint(2)
        self.view += self.noise.normal(size=2)
        return super().reset(seed=seed)

    def observe(self) -> Any:
        return np.tanh(super().observe() + self.weights[:2]).astype(np.float32)


class SavesItself(Course):
    """Counts in an object of its own, which it saves and loads."""

    def __init__(self) -> None:
        super().__init__()
        self.task = SimpleNamespace(n_resets=0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.task.n_resets += 1
        self.level = 1 + self.task.n_resets // 5
        return super().reset(seed=seed)

    def state_dict(self) -> dict[str, Any]:
        return {"n_resets": self.task.n_resets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task.n_resets = state["n_resets"]


class Task(Course):
    """Has its level in an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.task = SimpleNamespace(level=1)

    def set_level(self, level: int) -> None:
        self.task.level = level


class Hides(Course):
    """The third step of every episode returns what no seed determines."""

    part = "observation"

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *ends, info = super().step(action)
        if self.steps == 3:
            drawn = 0.1 + int.from_bytes(os.urandom(6), "big") / 2**49  # from 0.1 to 0.6
            observation = observation * np.float32(drawn) if self.part == "observation" else observation
            reward += drawn if self.part == "reward" else 0.0
        return observation, reward, *ends, info  # type: ignore[return-value]


class HidesReward(Hides):
    part = "reward"


class ConstantReward(gym.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, *others = self.env.step(action)
        return observation, 1.0, *others  # type: ignore[return-value]


class Breaks(Course):
    """A third step does, once, what the file `fault` says."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        fault = Path("fault")
        if self.steps == 2 and fault.exists():
            name = fault.read_text()
            fault.unlink()
            if name == "raise":
                raise RuntimeError("the arm is stuck")
            if name == "exit":
                os._exit(7)
            return self.observe(), 1.0, True, False, {}
        return super().step(action)


class LevelWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Multiplies rewards by a factor, and sets the level inside."""

    factor = 1

    def set_factor(self, factor: int) -> None:
        self.factor = factor
        self.env.unwrapped.level = factor  # type: ignore[attr-defined]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *others = self.env.step(action)
        return observation, float(reward) * self.factor, *others  # type: ignore[return-value]


ENVIRONMENTS = (Course, Counts, SavesItself, Task, Hides, HidesReward, Breaks)
for environment in ENVIRONMENTS:
    gym.register(f"{environment.__name__}Resume-v0", f"{__name__}:{environment.__name__}")


def small_config(environment: type[Course], vec_env: str = "dummy", wrapper: str = "", **env: Any) -> RunConfig:
    wrappers = [f"{__name__}:{wrapper}"] if wrapper else []
    parts = {
        "id": f"{__name__}:{environment.__name__}Resume-v0",
        "n_envs": 2,
        "vec_env": vec_env,
        "wrappers": wrappers,
    }
    return make_config("a2c", parts | env, timesteps=400)


class RaiseLevel(BaseCallback):
    """Calls a method of the environments at every 74th timestep, two steps before a snapshot."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def _on_step(self) -> bool:
        if self.num_timesteps % 74 == 0:
            self.training_env.env_method(self.method, 1 + self.num_timesteps // 74)
        return True


def check_resume_is_exact(config: RunConfig, directory: Path, *callbacks: BaseCallback) -> Run:
    """Check that a run that is broken off and resumed ends as the whole run; return that one."""
    whole = train(config, directory / "whole", [*callbacks, StopAt()])
    with pytest.raises(TrainingError):
        train(config, directory / "resumed", [*callbacks, StopAt(330)])
    resume(Run.open(directory / "resumed"), [*callbacks, StopAt()])
    assert find_differences(whole.directory, directory / "resumed") == []
    return whole


@pytest.mark.parametrize(
    ("vec_env", "wrapper", "method"),
    [("dummy", "", "set_level"), ("subproc", "LevelWrapper", "set_factor")],
    ids=["environment", "wrapper"],
)
def test_resume_restores_level_that_callback_sets(
    vec_env: str, wrapper: str, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = check_resume_is_exact(small_config(Course, vec_env, wrapper), tmp_path, RaiseLevel(method))
    assert caplog.messages == []
    assert max(raw_return / length for raw_return, length, *_ in whole.episodes) > 4  # of 6 levels


@pytest.mark.parametrize("environment", [Counts, SavesItself])
def test_resume_restores_counter_inside_environment(
    environment: type[Course], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = check_resume_is_exact(small_config(environment), tmp_path)
    assert caplog.messages == []
    assert len({length for _, length, *_ in whole.episodes}) > 2


def test_training_names_object_that_callback_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(small_config(Task), tmp_path / "run", [RaiseLevel("set_level")])
    assert [message for message in caplog.messages if "toolkit resume" in message] == [
        "not exact after `toolkit resume`: environment TaskResume-v0: task after set_level()"
    ]


class SetDirectly(BaseCallback):
    """Sets the level of the second environment in mid-episode, without a method of the vec env."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 296:
            self.training_env.unwrapped.envs[1].unwrapped.level = 2  # type: ignore[attr-defined]
        return True


def test_resume_notices_attribute_that_callback_sets_directly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks = [SetDirectly()]
    with pytest.raises(TrainingError):
        train(small_config(Course), tmp_path / "run", [*callbacks, StopAt(330)])
    run = resume(Run.open(tmp_path / "run"), [*callbacks, StopAt()])
    differs = "environment 1 repeats its episode only up to step 2 (reward 1, was 2): it continues differently"
    assert caplog.messages == [differs]
    assert {tuple(episode[:2]) for episode in run.episodes[-4:]} == {(7.0, 7), (16.0, 8)}  # the level is still there


@pytest.mark.parametrize(
    ("environment", "wrapper", "difference"),
    [
        (Hides, "", r"step 3 \(another observation\)"),
        (HidesReward, "", r"step 3 \(reward 1\.\d+, was 1\.\d+\)"),
        (HidesReward, "ConstantReward", r"step 3 \(raw reward 1\.\d+, was 1\.\d+\)"),
    ],
    ids=["observation", "reward", "raw reward"],
)
def test_resume_names_first_step_that_differs(
    environment: type[Course], wrapper: str, difference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainingError):
        train(small_config(environment, wrapper=wrapper), tmp_path / "run", [StopAt(330)])
    run = resume(Run.open(tmp_path / "run"), [StopAt()])
    assert run.result is not None
    assert run.result["status"] == "finished"
    for index, message in enumerate(caplog.messages):
        assert re.fullmatch(f"environment {index} repeats its episode only up to {difference}: .*", message)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("fault", "vec_env", "reason"),
    [
        ("raise", "dummy", "RuntimeError: the arm is stuck"),
        ("end", "dummy", "it ends at step 3"),
        ("exit", "subproc", "the process of environment 0 ended with status 7"),
    ],
)
def test_resume_starts_new_episode_where_replay_fails(
    fault: str, vec_env: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainingError):
        train(small_config(Breaks, vec_env), tmp_path / "run", [StopAt(330)])
    Path("fault").write_text(fault)
    run = resume(Run.open(tmp_path / "run"), [StopAt()])
    assert {tuple(episode[:2]) for episode in run.episodes} == {(7.0, 7)}
    (message,) = caplog.messages
    assert message.startswith(f"environment 0 cannot repeat its episode ({reason}")
    assert message.endswith("): a new episode starts")


def test_dropped_episode_ends_with_its_last_step_also_after_another_snapshot() -> None:
    config = resolve_config(small_config(Breaks))
    first, second, third = (make_env(config, config.components.env, [], []) for _ in range(3))
    first.reset(seed=5)
    *_, (last, *_) = (first.step(0) for _ in range(4))
    Path("fault").write_text("raise")
    assert "RuntimeError" in second.replay(first.replay_state())
    assert third.replay(second.replay_state()) == ""
    new = []
    for env in (second, third):
        observation, reward, *ends, _ = env.step(0)
        np.testing.assert_array_equal(observation, last)
        assert (reward, *ends) == (1.0, False, True)
        observation, info = env.reset()
        assert info == {RAW_EPISODE: None, DROPPED_EPISODE: True}
        new.append([observation, *(env.step(0)[0] for _ in range(3))])
    assert not np.array_equal(new[0][0], last)
    np.testing.assert_array_equal(new[0], new[1])
