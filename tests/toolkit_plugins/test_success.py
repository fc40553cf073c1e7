"""The success criterion, on environments that return scripted returns."""

from __future__ import annotations

import csv
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
from toolkit.envs.episodes import read_is_success
from toolkit.evaluation.summary import format_run_result
from toolkit.utils.errors import FaultyEnvironmentError
from toolkit_plugins.success import MeanReturnSuccess, SuccessRateCriterion


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


def train_scripted(*scripts: list[float], overrides: tuple[str, ...] = (), **success: float) -> Run:
    """Train on scripted returns; one environment for training unless the overrides say otherwise."""
    Scripted.scripts = [*scripts]
    Path("scripted.yaml").write_text(SCRIPTED)
    criterion = json.dumps([{"name": "success", "params": success}])
    return train(load_config("scripted.yaml", [f"callbacks={criterion}", *overrides]))


def read_success(run: Run) -> tuple[int, int, float] | None:
    """Return episode, timestep and mean return of the success that `result.json` tells of."""
    result = json.loads((run.directory / "result.json").read_text())
    success = result["success"]
    assert success["solved"] == (result["status"] == "success")
    return (success["episode"], success["timestep"], success["mean_return"]) if success["solved"] else None


def test_success_needs_full_window() -> None:
    assert read_success(train_scripted([50.0] * 20, threshold=10, episodes=3)) == (3, 3, 50.0)


def test_success_counts_only_last_episodes() -> None:
    assert read_success(train_scripted([-90, 0, 9, 9, 12], threshold=10, episodes=3)) == (5, 5, 10.0)


def test_mean_equal_to_threshold_is_success() -> None:
    assert read_success(train_scripted([9, 11, 0], threshold=10, episodes=2)) == (2, 2, 10.0)


def test_threshold_that_equal_returns_add_up_to_is_success() -> None:
    run = train_scripted([0.7 / 3] * 20, threshold=0.7 / 3, episodes=10)
    assert read_success(run) == (10, 10, 0.7 / 3)


def test_single_high_return_is_not_success() -> None:
    assert read_success(train_scripted([0, 19, 0, 19] * 5, threshold=10, episodes=2)) is None


@pytest.mark.parametrize(
    "algorithm",
    ["{name: double_dqn, params: {train_freq: 7}}", "{name: ppo, params: {n_steps: 10, batch_size: 10}}", "a2c"],
)
def test_success_stops_training_at_once(algorithm: str) -> None:
    run = train_scripted([0, 0, 0] + [10] * 17, threshold=10, episodes=1, overrides=(f"algorithm={algorithm}",))
    assert read_success(run) == (4, 4, 10.0)
    result = run.result or {}
    assert (result["timesteps"], result["episodes"]) == (4, 4)
    assert len((run.directory / "monitor.csv").read_text().splitlines()) == 2 + 4


@pytest.mark.parametrize(("raw_return", "expected"), [(10.0, (2, 2, 10.0)), (0.5, None)])
def test_success_counts_raw_returns(raw_return: float, expected: tuple[int, int, float] | None) -> None:
    # the wrapper turns every one of these episodes into a return of 1
    wrappers = "env.wrappers=[{name: terminal_reward_clip, params: {success_steps: 0}}]"
    run = train_scripted([raw_return] * 20, threshold=1, episodes=2, overrides=(wrappers,))
    assert read_success(run) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 10], [10, 0], (3, 4, 10.0)),  # 0 10 | 10 0: met in the middle of the second step
        ([10, 0], [0, 10], None),  # 10 0 | 0 10
        ([0, 9], [10, 10], (3, 4, 9.5)),
    ],
)
def test_simultaneous_episodes_count_in_order_of_environments(
    first: list[float], second: list[float], expected: tuple[int, int, float] | None
) -> None:
    run = train_scripted(first, second, threshold=9.5, episodes=2, overrides=("env.n_envs=2",))
    assert read_success(run) == expected
    if expected:
        assert (run.result or {})["episodes"] == 4  # the fourth ended in the same step


class Coin(gym.Env[Any, Any]):
    """Heads ends after 5 steps with a return of 1, tails after 40 with 0: the mean return is 0.5 for every agent."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number, self.is_heads = 0, bool(self.np_random.integers(2))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        has_ended = self.step_number >= (5 if self.is_heads else 40)
        info = {"is_success": self.is_heads} if has_ended else {}
        return np.zeros(1, np.float32), float(has_ended and self.is_heads), has_ended, False, info


gym.register("toolkit_tests/Coin-v0", Coin)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_short_episodes_of_many_environments_are_no_success(seed: int) -> None:
    Path("coin.yaml").write_text(
        "timesteps: 5760\nenv: {id: toolkit_tests/Coin-v0, n_envs: 48}\n"
        "algorithm: {name: ppo, params: {n_steps: 30, batch_size: 1440, n_epochs: 1, stats_window_size: 30}}\n"
        "callbacks: [{name: success, params: {threshold: 0.9, episodes: 30}}]\n"
    )
    run = train(load_config("coin.yaml", {"seed": seed}))
    episodes = run.read_episodes()
    assert (run.result or {})["status"] == "finished"
    assert 0.4 < np.mean([episode.raw_return for episode in episodes[:100]]) < 0.6
    with (run.directory / "progress.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            timestep = int(row["time/total_timesteps"])
            window = [episode for episode in episodes if episode.timestep <= timestep][-30:]
            means = [float(row[f"rollout/{name}"] or "nan") for name in ("ep_rew_mean", "success_rate", "ep_len_mean")]
            mean = np.mean([episode.raw_return for episode in window]) if window else np.nan
            assert means == pytest.approx([mean, mean, 5 * mean + 40 * (1 - mean)], nan_ok=True)


def train_coins(params: str, *callbacks: str) -> Run:
    Path("coin.yaml").write_text(
        "timesteps: 2000\nenv: {id: toolkit_tests/Coin-v0, n_envs: 2}\n"
        "algorithm: {name: ppo, params: {n_steps: 50, batch_size: 100, n_epochs: 1}}\n"
        f"callbacks: [{', '.join([f'{{name: success_rate, params: {params}}}', *callbacks])}]\n"
    )
    return train(load_config("coin.yaml"))


def test_share_of_successes_in_training_is_a_criterion() -> None:
    run = train_coins("{threshold: 1.0, episodes: 4}")
    heads = [episode.raw_return == 1 for episode in run.read_episodes()]
    windows = [all(heads[end - 4 : end]) for end in range(4, len(heads) + 1)]
    success = (run.result or {})["success"]
    assert success["episode"] == 4 + windows.index(True)
    assert (success["measure"], success["threshold"], success["success_rate"]) == ("success_rate", 1.0, 1.0)
    assert success["mean_return"] == 1.0
    assert "solved: success rate 100.0 % over the last 4 training episodes, after " in format_run_result(run)


def test_environment_without_successes_is_said(caplog: pytest.LogCaptureFixture) -> None:
    callback = "callbacks=[{name: success_rate, params: {episodes: 3}}]"
    train_scripted([1.0], overrides=(callback,))
    assert (
        caplog.messages.count(
            "callback success_rate: none of 3 episodes has info['is_success'], so none counts as a success"
        )
        == 1
    )
    caplog.clear()
    train_coins("{threshold: 1.0, episodes: 3}")
    assert not caplog.messages


def test_progress_shows_share_of_successes(capsys: pytest.CaptureFixture[str]) -> None:
    run = train_coins("{threshold: 0.99, episodes: 50}", "{name: progress}")
    share = 100 * (run.result or {})["success"]["success_rate"]
    assert capsys.readouterr().err.endswith(f"success rate of last 50: {share:.1f} % of 99 %\n")


@pytest.mark.parametrize("value", [True, np.bool_(True), 1, np.array([1.0])])
def test_success_may_be_a_bool_or_a_number(value: Any) -> None:
    assert read_is_success({"is_success": value}) == 1.0


@pytest.mark.parametrize("value", ["1", float("nan"), 7, np.array([True, False])])
def test_success_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(FaultyEnvironmentError, match=r"^the environment returns info\['is_success'\] as "):
        read_is_success({"is_success": value})


def test_missed_share_of_successes_is_said(toolkit: Toolkit) -> None:
    run = train_coins("{threshold: 0.99, episodes: 50}")
    success = (run.result or {})["success"]
    heads = [episode.raw_return == 1 for episode in run.read_episodes()][-50:]
    assert not success["solved"]
    assert success["success_rate"] == np.mean(heads)
    assert f"not solved: success rate {100 * np.mean(heads):.1f} % over" in format_run_result(run)
    assert "(to reach: 99 %)" in format_run_result(run)
    toolkit("report", run.directory, "--gallery", "gallery")
    assert "99&nbsp;%&nbsp;successes<br>" in Path("gallery/gallery.md").read_text()


def test_greedy_episodes_confirm_share_of_successes() -> None:
    success = (train_coins("{threshold: 0.9, episodes: 2, confirm_episodes: 20}").result or {})["success"]
    assert not success["solved"], "every agent throws heads half of the time"
    assert 0 < success["greedy_value"] < 0.9


@pytest.mark.parametrize("threshold", [0, 1.5])
def test_share_of_successes_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
        SuccessRateCriterion(threshold=threshold)


def test_success_waits_for_min_timesteps() -> None:
    assert read_success(train_scripted([10] * 20, threshold=10, episodes=2, min_timesteps=7)) == (7, 7, 10.0)


def test_min_timesteps_counts_steps() -> None:
    overrides = ("env.params.steps=3",)
    run = train_scripted([10] * 20, threshold=10, min_timesteps=7, episodes=1, overrides=overrides)
    assert read_success(run) == (3, 9, 10.0)


def test_min_timesteps_counts_steps_of_all_environments() -> None:
    run = train_scripted([10] * 20, [10] * 20, threshold=10, episodes=2, min_timesteps=7, overrides=("env.n_envs=2",))
    assert read_success(run) == (7, 8, 10.0)


def test_result_of_success_has_documented_keys() -> None:
    result = train_scripted([0, 10, 10], threshold=10, episodes=2).result or {}
    seconds = result["success"].pop("seconds")
    assert 0 <= seconds <= result["seconds"] + 0.001
    assert result["success"] == {
        "measure": "mean_return",
        "threshold": 10,
        "episodes": 2,
        "solved": True,
        "episode": 3,
        "timestep": 3,
        "mean_return": 10.0,
        "greedy_value": None,
    }


@pytest.mark.parametrize(("episodes", "mean_return"), [(4, 3.0), (100, 2.8)])
def test_result_without_success_has_last_mean_return(episodes: int, mean_return: float) -> None:
    result = train_scripted([2.5] * 10 + [3.0] * 10, threshold=10, episodes=episodes).result or {}
    assert result["status"] == "finished"
    assert result["success"] == {
        "measure": "mean_return",
        "threshold": 10,
        "episodes": episodes,
        "solved": False,
        "episode": None,
        "timestep": None,
        "seconds": None,
        "mean_return": pytest.approx(mean_return, abs=0.06),
        "greedy_value": None,
    }


def test_mean_return_without_episodes_is_null(config_file: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", config_file, "--set", "timesteps=4").status == 0
    assert (Run.newest().result or {})["success"]["mean_return"] is None


def test_confirmed_success_stops_training() -> None:
    run = train_scripted([10] * 20, [0, 10, 20], threshold=10, episodes=2, confirm_episodes=3)
    assert read_success(run) == (2, 2, 10.0)
    assert Scripted.scripts == []


def test_unconfirmed_success_is_checked_again_later() -> None:
    run = train_scripted([10] * 20, [0, 10, 10], [10, 10, 9], [10] * 3, threshold=10, episodes=2, confirm_episodes=3)
    assert read_success(run) == (8, 8, 10.0)  # asked at 2, at 5 and at 8 episodes
    assert Scripted.scripts == []


def test_mean_return_of_unconfirmed_success_is_said(toolkit: Toolkit) -> None:
    Scripted.scripts = [[10] * 4, [0, 10, 8]]
    Path("scripted.yaml").write_text(SCRIPTED.replace("timesteps: 20", "timesteps: 4"))
    success = "callbacks=[{name: success, params: {threshold: 10, episodes: 2, confirm_episodes: 3}}]"
    finished = toolkit("train", "scripted.yaml", "--set", success)
    assert "4 of 4 steps  mean of last 2: 10.0 of 10, greedy 6.0" in finished.err
    assert (
        "not solved: mean return 10.0 over the last 2 training episodes, 6.0 over greedy ones (to reach: 10)"
        in finished.out
    )


def test_confirmation_waits_until_training_meets_threshold_again() -> None:
    returns = [10, 10, 10, 10, 0, 0, 10, 10]
    run = train_scripted(returns, [0, 0, 0], [10] * 3, threshold=10, episodes=2, confirm_episodes=3)
    assert read_success(run) == (8, 8, 10.0)  # asked at 2; not at 5, where the last return is 0; at 8


def train_cartpole(directory: Path, callbacks: str) -> tuple[dict[str, torch.Tensor], list[list[str]]]:
    """Train on CartPole; return the weights, and the returns and lengths of the episodes."""
    directory.mkdir()
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    run = train(load_config(directory / "small.yaml", [f"callbacks={callbacks}"]), directory / "run")
    assert (run.result or {})["status"] == "finished"
    rows = (run.directory / "monitor.csv").read_text().splitlines()[2:]
    return DoubleDQN.load(run.model_path).policy.state_dict(), [row.split(",")[:2] for row in rows]


@pytest.mark.parametrize(
    "params",
    [
        "{threshold: 195, episodes: 10, confirm_episodes: 3}",  # never asked
        "{threshold: 25, episodes: 3, confirm_episodes: 2}",  # asked, and never confirmed
    ],
)
def test_unmet_criterion_does_not_change_training(tmp_path: Path, params: str) -> None:
    weights, episodes = train_cartpole(tmp_path / "with", f"[{{name: success, params: {params}}}]")
    plain_weights, plain_episodes = train_cartpole(tmp_path / "without", "[]")
    assert episodes == plain_episodes
    assert all(torch.equal(weights[name], plain_weights[name]) for name in plain_weights)


@pytest.mark.parametrize(("name", "value"), [("episodes", 0), ("min_timesteps", -1), ("confirm_episodes", -1)])
def test_parameter_below_minimum_raises_value_error(name: str, value: int) -> None:
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
def test_invalid_parameter_is_reported_with_its_path(
    config_file: Path, toolkit: Toolkit, params: str, message: str
) -> None:
    finished = toolkit("train", config_file, "--set", f"callbacks=[{{name: success, params: {params}}}]")
    assert finished.status == 2
    assert message in finished.err
    assert not Path("runs").exists()


def test_second_criterion_is_refused(config_file: Path, toolkit: Toolkit) -> None:
    criterion = "{name: success, params: {threshold: 1}}"
    finished = toolkit("train", config_file, "--set", f"callbacks=[{criterion}, {criterion}]")
    assert finished.status == 2
    assert "at most one success criterion" in finished.err
    assert not Path("runs").exists()
