"""Vec envs copy observations, actions and infos, and return them in the types of the spaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import find_differences

from toolkit import RunConfig, load_config, train
from toolkit.config.load import resolve_config
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import make_vec_env
from toolkit.utils.errors import FaultyEnvironmentError

ENVS = """\
import gymnasium as gym
import numpy as np


class Reusing(gym.Env):
    '''Writes every observation, info and action into the arrays of the one before; episodes take 5 steps.

    It returns float64 where its space has float32, and rewards with fractions.
    '''

    action_space = gym.spaces.MultiDiscrete([3, 3])
    observation_space = gym.spaces.Dict(
        {"count": gym.spaces.Box(0, 100, (1,), np.float32), "noise": gym.spaces.Box(-9, 9, (2,), np.float32)}
    )

    def __init__(self):
        self.observation = {"count": np.zeros(1), "noise": np.zeros(2)}
        self.info = {"steps": np.zeros(1, int)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation["count"][:] = self.info["steps"][:] = 0
        self.observation["noise"][:] = self.np_random.normal(size=2)
        return self.observation, self.info

    def step(self, action):
        action -= 1
        self.observation["count"] += 1
        self.info["steps"] += 1
        self.observation["noise"][:] = self.np_random.normal(size=2)
        reward = float(action.sum()) + self.np_random.random()
        return self.observation, reward, False, bool(self.info["steps"][0] >= 5), self.info


class CountOnly(gym.ObservationWrapper):
    observation_space = gym.spaces.Box(0, 100, (1,), np.float64)

    def observation(self, observation):
        return observation["count"]


class Typed(gym.Env):
    '''Returns numbers of one type where its space has another.'''

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space, number, returned, late=False):
        self.observation_space = gym.spaces.Box(0, 1 if space == "bool" else 255, (2,), np.dtype(space).type)
        self.returned, self.late = np.full(2, number, returned), late

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, self.observation_space.dtype) if self.late else self.returned, {}

    def step(self, action):
        return self.returned, 0.0, False, False, {}


class Keyless(Typed):
    '''Has a Dict space, and returns an observation without one of its keys, or with one of another shape.'''

    def __init__(self, observation):
        box = gym.spaces.Box(0, 1, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"a": box, "b": box})
        self.returned, self.late = observation, False


for name in ("Reusing", "Typed", "Keyless"):
    gym.register(f"toolkit_tests/{name}-v0", globals()[name], disable_env_checker=True)
"""
REUSING = {"id": "toolkit_tests/Reusing-v0", "n_envs": 2}
PPO = {"name": "ppo", "policy": "MultiInputPolicy", "params": {"n_steps": 32, "batch_size": 32, "n_epochs": 2}}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the module of the environments, which can be registered once."""
    path = tmp_path_factory.mktemp("envs")
    (path / "reusing_envs.py").write_text(ENVS)
    return path


def make_config(directory: Path, **env: Any) -> RunConfig:
    parts = {"name": "arrays", "timesteps": 128, "env": env, "algorithm": PPO, "import_modules": ["./reusing_envs.py"]}
    (directory / "arrays.yaml").write_text(str(parts))
    return load_config(directory / "arrays.yaml")


def open_env(directory: Path, **env: Any) -> closing[EpisodeRecorder]:
    return closing(make_vec_env(resolve_config(make_config(directory, **env)), seed=0))


@pytest.fixture(params=["dummy", "subproc"])
def reusing(request: pytest.FixtureRequest, directory: Path) -> Iterator[EpisodeRecorder]:
    """Two environments that use their arrays again."""
    with open_env(directory, **REUSING, vec_env=request.param) as env:
        yield env


def test_reused_arrays_do_not_change_what_was_returned(reusing: EpisodeRecorder) -> None:
    actions = np.array([[0, 2], [2, 2]])
    observations = [reusing.reset()]
    reset_info = reusing.unwrapped.reset_infos[0]
    infos = []
    for _ in range(7):
        batch, _, _, (info, _) = reusing.step(actions)
        observations.append(batch)
        infos.append(info)
    assert actions.tolist() == [[0, 2], [2, 2]]
    assert [int(batch["count"][0, 0]) for batch in observations] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert [int(info["steps"][0]) for info in (reset_info, *infos)] == [0, 1, 2, 3, 4, 5, 1, 2]
    assert int(reusing.unwrapped.reset_infos[0]["steps"][0]) == 0
    assert [*filter(lambda number: "terminal_observation" in infos[number], range(7))] == [4]
    last = infos[4]["terminal_observation"]
    assert last["count"].tolist() == [5.0]
    assert {array.dtype for array in [*last.values(), *observations[0].values()]} == {np.dtype(np.float32)}


def test_frame_stack_keeps_frames_of_reused_array(directory: Path) -> None:
    stack = {"name": "gymnasium.wrappers:FrameStackObservation", "params": {"stack_size": 3}}
    wrappers = ["./reusing_envs.py:CountOnly", stack]
    with open_env(directory, id="toolkit_tests/Reusing-v0", wrappers=wrappers) as env:
        env.reset()
        stacks = [np.ravel(env.step(np.array([[1, 1]]))[0]).tolist() for _ in range(4)]
    assert stacks == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_each_environment_gets_its_own_copy_of_actions(reusing: EpisodeRecorder) -> None:
    reusing.reset()
    for number in (0, 1, 2, 0):
        rewards = reusing.step(np.array([[number, 2], [2, 2]]))[1]
        assert np.floor(rewards).tolist() == [number, 2]
        assert rewards.dtype == np.float32


def test_subprocesses_train_the_same_run(directory: Path, tmp_path: Path) -> None:
    runs = [
        train(make_config(directory, **REUSING, vec_env=vec_env), tmp_path / vec_env)
        for vec_env in ("dummy", "subproc")
    ]
    assert len(runs[0].episodes) == 24
    assert find_differences(*(run.directory for run in runs)) == []


@pytest.mark.parametrize(
    ("space", "number", "returned", "message"),
    [
        ("uint8", 0.9, "float64", "of type float64, but its space has uint8, which loses fractions"),
        ("int64", 1.0, "float32", "of type float32, but its space has int64, which loses fractions"),
        ("uint8", 300, "int64", "from 300 to 300, but its space has uint8, from 0 to 255"),
        ("uint8", -1, "int64", "from -1 to -1, but its space has uint8, from 0 to 255"),
        ("bool", 2, "int8", "from 2 to 2, but its space has bool, from 0 to 1"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_numbers_that_the_space_cannot_hold_are_refused(
    directory: Path, space: str, number: float, returned: str, message: str, late: bool
) -> None:
    params = {"space": space, "number": number, "returned": returned, "late": late}
    with open_env(directory, id="toolkit_tests/Typed-v0", params=params) as env:
        if late:
            env.reset()
        with pytest.raises(FaultyEnvironmentError, match=message):
            env.step(np.zeros(1, int)) if late else env.reset()


@pytest.mark.parametrize(
    ("space", "number", "returned"),
    [("float32", 3, "int64"), ("uint8", 255, "int64"), ("bool", 1, "int64"), ("float32", 0.5, "float64")],
)
def test_other_number_type_becomes_that_of_space(directory: Path, space: str, number: float, returned: str) -> None:
    params = {"space": space, "number": number, "returned": returned}
    with open_env(directory, id="toolkit_tests/Typed-v0", params=params) as env:
        observations = env.reset()
        assert isinstance(observations, np.ndarray)
        assert observations.dtype == space
        assert observations.tolist() == [[number, number]]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"a": [0.0, 0.0]}, "without 'b', which its space has"),
        ({"a": [0.0, 0.0], "b": [0.0]}, r"whose 'b' is of shape \(1,\) and type float64, not \(2,\) and numbers"),
    ],
)
def test_observation_that_lacks_part_of_its_dict_is_refused(
    directory: Path, observation: dict[str, list[float]], message: str
) -> None:
    with (
        open_env(directory, id="toolkit_tests/Keyless-v0", params={"observation": observation}) as env,
        pytest.raises(FaultyEnvironmentError, match=message),
    ):
        env.reset()
