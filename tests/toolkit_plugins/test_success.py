"""When training has succeeded, on environments whose returns are written down."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from support import SMALL_CONFIG, Toolkit

from toolkit import Run, load_config, train
from toolkit.algorithms import DoubleDQN
from toolkit_plugins.success import MeanReturnSuccess


class Scripted(gym.Env[Any, Any]):
    """Episodes of `steps` steps that return what `scripts` says: each new environment takes the next script."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    scripts: ClassVar[list[list[float]]] = []

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps
        self.returns = itertools.chain(self.scripts.pop(0), itertools.repeat(-1000.0))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.steps
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        reward = 0.0 if self.left else next(self.returns)
        return np.zeros(1, np.float32), reward, self.left == 0, False, {}


gym.register("toolkit_tests/Scripted-v0", Scripted)

SCRIPTED = """\
timesteps: 20
env:
  id: toolkit_tests/Scripted-v0
algorithm:
  name: double_dqn
  params: {buffer_size: 100, train_freq: 1}
  policy_params: {net_arch: [4]}
"""


def scripted_run(*scripts: list[float], overrides: tuple[str, ...] = (), **success: float) -> Run:
    """Train on scripted returns; one environment for training unless the overrides say otherwise."""
    Scripted.scripts = [*scripts]
    Path("scripted.yaml").write_text(SCRIPTED)
    criterion = json.dumps([{"name": "success", "params": success}])
    return train(load_config("scripted.yaml", [f"callbacks={criterion}", *overrides]))


def solved(run: Run) -> tuple[int, int, float] | None:
    """Return episode, timestep and mean return of the success that `result.json` tells of."""
    result = json.loads((run.directory / "result.json").read_text())
    success = result["success"]
    assert success["solved"] == (result["status"] == "success")
    return (success["episode"], success["timestep"], success["mean_return"]) if success["solved"] else None


def test_the_window_must_be_full() -> None:
    assert solved(scripted_run([50.0] * 20, threshold=10, episodes=3)) == (3, 3, 50.0)


def test_only_the_last_episodes_count() -> None:
    assert solved(scripted_run([-90, 0, 9, 9, 12], threshold=10, episodes=3)) == (5, 5, 10.0)


def test_reaching_the_threshold_exactly_is_enough() -> None:
    assert solved(scripted_run([9, 11, 0], threshold=10, episodes=2)) == (2, 2, 10.0)


def test_one_great_episode_is_not_a_mean() -> None:
    assert solved(scripted_run([0, 19, 0, 19] * 5, threshold=10, episodes=2)) is None


@pytest.mark.parametrize(
    "algorithm",
    ["{name: double_dqn, params: {train_freq: 7}}", "{name: ppo, params: {n_steps: 10, batch_size: 10}}", "a2c"],
)
def test_training_stops_at_once(algorithm: str) -> None:
    run = scripted_run([0, 0, 0] + [10] * 17, threshold=10, episodes=1, overrides=(f"algorithm={algorithm}",))
    assert solved(run) == (4, 4, 10.0)
    result = run.result or {}
    assert (result["timesteps"], result["episodes"]) == (4, 4)
    assert len((run.directory / "monitor.csv").read_text().splitlines()) == 2 + 4


@pytest.mark.parametrize(("raw_return", "expected"), [(10.0, (2, 2, 10.0)), (0.5, None)])
def test_raw_returns_count_and_not_shaped_ones(raw_return: float, expected: tuple[int, int, float] | None) -> None:
    # the wrapper turns every one of these episodes into a return of 1
    wrappers = "env.wrappers=[{name: terminal_reward_clip, params: {success_steps: 0}}]"
    run = scripted_run([raw_return] * 20, threshold=1, episodes=2, overrides=(wrappers,))
    assert solved(run) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 10], [10, 0], (3, 4, 10.0)),  # 0 10 | 10 0: met in the middle of the second step
        ([10, 0], [0, 10], None),  # 10 0 | 0 10
        ([0, 9], [10, 10], (3, 4, 9.5)),
    ],
)
def test_episodes_that_end_together_count_in_the_order_of_their_environments(
    first: list[float], second: list[float], expected: tuple[int, int, float] | None
) -> None:
    run = scripted_run(first, second, threshold=9.5, episodes=2, overrides=("env.n_envs=2",))
    assert solved(run) == expected
    if expected:
        assert (run.result or {})["episodes"] == 4  # the fourth ended in the same step


def test_it_is_not_met_before_min_timesteps() -> None:
    assert solved(scripted_run([10] * 20, threshold=10, episodes=2, min_timesteps=7)) == (7, 7, 10.0)


def test_min_timesteps_counts_steps_and_not_episodes() -> None:
    params = ("env.params.steps=3",)
    assert solved(scripted_run([10] * 20, threshold=10, min_timesteps=7, episodes=1, overrides=params)) == (3, 9, 10.0)


def test_min_timesteps_counts_the_steps_of_all_environments() -> None:
    run = scripted_run([10] * 20, [10] * 20, threshold=10, episodes=2, min_timesteps=7, overrides=("env.n_envs=2",))
    assert solved(run) == (7, 8, 10.0)


def test_the_result_of_a_success_has_exactly_the_keys_of_the_design() -> None:
    result = scripted_run([0, 10, 10], threshold=10, episodes=2).result or {}
    seconds = result["success"].pop("seconds")
    assert 0 <= seconds <= result["seconds"] + 0.001
    assert result["success"] == {
        "threshold": 10,
        "episodes": 2,
        "solved": True,
        "episode": 3,
        "timestep": 3,
        "mean_return": 10.0,
    }


@pytest.mark.parametrize(("episodes", "mean_return"), [(4, 3.0), (100, 2.8)])
def test_the_result_of_no_success_has_the_last_mean_return(episodes: int, mean_return: float) -> None:
    result = scripted_run([2.5] * 10 + [3.0] * 10, threshold=10, episodes=episodes).result or {}
    assert result["status"] == "finished"
    assert result["success"] == {
        "threshold": 10,
        "episodes": episodes,
        "solved": False,
        "episode": None,
        "timestep": None,
        "seconds": None,
        "mean_return": pytest.approx(mean_return, abs=0.06),
    }


def test_without_any_episode_there_is_no_mean_return(config_file: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", config_file, "--set", "timesteps=4").status == 0
    assert (Run.newest().result or {})["success"]["mean_return"] is None


def test_a_confirmed_success_is_one() -> None:
    run = scripted_run([10] * 20, [0, 10, 20], threshold=10, episodes=2, confirm_episodes=3)
    assert solved(run) == (2, 2, 10.0)
    assert Scripted.scripts == []


def test_a_success_that_the_greedy_policy_does_not_confirm_is_none_and_is_asked_again_later() -> None:
    run = scripted_run([10] * 20, [0, 10, 10], [10, 10, 9], [10] * 3, threshold=10, episodes=2, confirm_episodes=3)
    assert solved(run) == (8, 8, 10.0)  # asked at 2, at 5 and at 8 episodes
    assert Scripted.scripts == []


def test_it_is_asked_again_only_where_the_training_episodes_meet_the_threshold() -> None:
    returns = [10, 10, 10, 10, 0, 0, 10, 10]
    run = scripted_run(returns, [0, 0, 0], [10] * 3, threshold=10, episodes=2, confirm_episodes=3)
    assert solved(run) == (8, 8, 10.0)  # asked at 2; not at 5, where the last return is 0; at 8


def trained(directory: Path, callbacks: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Train on CartPole; return the weights, and the returns and lengths of the episodes."""
    directory.mkdir()
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    run = train(load_config(directory / "small.yaml", [f"callbacks={callbacks}"]), directory / "run")
    assert (run.result or {})["status"] == "finished"
    rows = (run.directory / "monitor.csv").read_text().splitlines()[2:]
    return DoubleDQN.load(run.model_path).policy.state_dict(), [row.rpartition(",")[0] for row in rows]


@pytest.mark.parametrize(
    "params",
    [
        "{threshold: 195, episodes: 10, confirm_episodes: 3}",  # never asked
        "{threshold: 12, episodes: 3, confirm_episodes: 2}",  # asked, and never confirmed
    ],
)
def test_a_criterion_that_is_not_met_leaves_training_as_it_is(tmp_path: Path, params: str) -> None:
    weights, episodes = trained(tmp_path / "with", f"[{{name: success, params: {params}}}]")
    plain_weights, plain_episodes = trained(tmp_path / "without", "[]")
    assert episodes == plain_episodes
    assert all(torch.equal(weights[name], plain_weights[name]) for name in plain_weights)


@pytest.mark.parametrize(("name", "value"), [("episodes", 0), ("min_timesteps", -1), ("confirm_episodes", -1)])
def test_parameters_that_make_no_sense_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}, not {value}"):
        MeanReturnSuccess(**{"threshold": 1.0, name: value})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{episodes: 10}", "threshold: required parameter is missing"),
        ("{threshold: 1, episodes: 0}", "episodes must be at least 1, not 0"),
        ("{threshold: much}", "threshold: should be float, not 'much'"),
        ("{threshold: 1, episode: 3}", "did you mean 'episodes'?"),
    ],
)
def test_parameters_that_make_no_sense_are_bad_input(
    config_file: Path, toolkit: Toolkit, params: str, message: str
) -> None:
    done = toolkit("train", config_file, "--set", f"callbacks=[{{name: success, params: {params}}}]")
    assert done.status == 2
    assert message in done.err
    assert not Path("runs").exists()


def test_a_run_has_at_most_one_criterion(config_file: Path, toolkit: Toolkit) -> None:
    one = "{name: success, params: {threshold: 1}}"
    done = toolkit("train", config_file, "--set", f"callbacks=[{one}, {one}]")
    assert done.status == 2
    assert "at most one success criterion" in done.err
    assert not Path("runs").exists()
