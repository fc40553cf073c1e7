"""Evaluation: greedy episodes, raw returns and their confidence interval."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from support import Toolkit

from toolkit import Run, evaluate, load_config, train
from toolkit.evaluation.evaluate import estimate_interval
from toolkit.training.model import load_model
from toolkit.utils.errors import RunError

KEYS = {
    *("episodes", "mean_return", "std_return", "min_return", "max_return", "ci95"),
    *("returns", "lengths", "n_envs", "success_rate"),
}


class Paying(gym.Env[Any, Any]):
    """Rewards action 1, and the end of an episode with a number drawn at reset or the next of `script`.

    It can call a prize above 500,000 a success.
    """

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    script: ClassVar[Iterator[float]] = iter(())

    def __init__(
        self, steps: int = 1, per_action: float = 0.0, lottery: bool = False, names_success: bool = False
    ) -> None:
        self.steps, self.per_action, self.lottery, self.names_success = steps, per_action, lottery, names_success

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        np.random.random()  # some environments draw from the global generator
        self.left = self.steps
        self.prize = float(self.np_random.integers(1_000_000)) if self.lottery else next(self.script, 0.0)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        reward = self.per_action * float(action) + (0.0 if self.left else self.prize)
        info = {"is_success": self.prize > 500_000} if self.names_success and not self.left else {}
        return np.ones(1, np.float32), reward, self.left == 0, False, info


class OwnGenerator(gym.Env[Any, Any]):
    """Draws from a generator of its own, which no seed of a reset changes."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.left, self.level = 3, float(self.rng.normal())
        return self.rng.random(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self.rng.random(2, np.float32), self.level, self.left == 0, False, {}


class OwnGeneratorWithForces(OwnGenerator):
    """Adds continuous actions, which networks round differently in the rows of a batch."""

    action_space = gym.spaces.Box(-1, 1, (1,))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return np.clip(observation + np.float32(0.1) * action, -1, 1), reward + float(action[0]), *rest  # type: ignore[return-value]


class Arcade(gym.Env[Any, Any]):
    """A game of three lives. A life lasts two steps, and the reward of each step is 1."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.ale = self  # where SB3's wrapper asks for lives

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        return np.ones(1, np.float32), 1.0, self.lives() == 0, False, {}

    def lives(self) -> int:
        return 3 - self.step_number // 2


gym.register("toolkit_tests/Arcade-v0", Arcade)
gym.register("toolkit_tests/OwnGenerator-v0", OwnGenerator)
gym.register("toolkit_tests/OwnGeneratorWithForces-v0", OwnGeneratorWithForces)
gym.register("toolkit_tests/Paying-v0", Paying, max_episode_steps=1000)

PAYING = """\
timesteps: 16
env:
  id: toolkit_tests/Paying-v0
algorithm:
  name: ppo
  params: {n_steps: 16, batch_size: 16, n_epochs: 1}
  policy_params: {net_arch: [4]}
"""


def train_paying(directory: Path, *overrides: str) -> Run:
    """Train for 16 steps, in which every episode returns 0."""
    Paying.script = iter(())
    path = directory / "paying.yaml"
    path.write_text(PAYING)
    return train(load_config(path, overrides), directory / "run")


@pytest.fixture(scope="module")
def lottery(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose episodes have different returns, drawn from their seeds."""
    return train_paying(tmp_path_factory.mktemp("lottery"), "env.params={lottery: true}")


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose episodes return what `Paying.script` says."""
    return train_paying(tmp_path_factory.mktemp("scripted"))


def evaluate_returns(run: Run, returns: Sequence[float]) -> Any:
    """Evaluate over episodes with these returns; if they are equal, one environment plays further ones."""
    rest = math.nan if len({*returns}) > 1 else returns[0]
    Paying.script = itertools.chain(returns, itertools.repeat(rest))
    return evaluate(run, len(returns))


@pytest.mark.parametrize("episodes", [1, 9, 10, 25])
def test_evaluation_has_requested_number_of_distinct_episodes(lottery: Run, episodes: int) -> None:
    evaluation = evaluate(lottery, episodes)
    assert evaluation.episodes == len(evaluation.returns) == episodes
    assert len(set(evaluation.returns)) == episodes  # no episode is played twice


def test_share_of_successes_is_that_of_the_played_episodes(tmp_path: Path, toolkit: Toolkit) -> None:
    run = train_paying(tmp_path, "env.params={lottery: true, steps: 2, names_success: true}")
    evaluation = evaluate(run, 25)
    n_successes = sum(episode_return > 500_000 for episode_return in evaluation.returns)
    assert 0 < n_successes < 25
    assert evaluation.success_rate == n_successes / 25
    text = toolkit("evaluate", run.directory, "--episodes", "25").out
    assert text.endswith(f"  success in {4 * n_successes} % of the episodes, as info['is_success'] says\n")


def test_environment_that_names_no_success_has_no_rate(lottery: Run, toolkit: Toolkit) -> None:
    assert evaluate(lottery, 3).success_rate is None
    assert "success" not in toolkit("evaluate", lottery.directory, "--episodes", "3").out


def test_evaluation_summarizes_its_returns(lottery: Run) -> None:
    evaluation = evaluate(lottery, 12)
    assert evaluation.mean_return == pytest.approx(np.mean(evaluation.returns))
    assert evaluation.std_return == pytest.approx(np.std(evaluation.returns))
    assert evaluation.min_return == min(evaluation.returns)
    assert evaluation.max_return == max(evaluation.returns)
    low, high = evaluation.ci95
    assert low < evaluation.mean_return < high


def test_interval_is_that_of_student(scripted: Run) -> None:
    returns = [float(value) for value in range(10)]
    half = 2.2622 * 3.02765 / np.sqrt(10)  # t(9) of a table, and the standard deviation
    assert evaluate_returns(scripted, returns).ci95 == pytest.approx((4.5 - half, 4.5 + half), abs=1e-4)


@pytest.mark.parametrize("n_returns", [2, 3, 5, 10])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_interval_of_few_returns_holds_mean_or_is_missing(n_returns: int, share: float) -> None:
    random = np.random.default_rng(0)
    intervals = [estimate_interval(random.binomial(1, share, n_returns).tolist()) for _ in range(300)]
    is_right = [interval is None or interval[0] <= share <= interval[1] for interval in intervals]
    assert np.mean(is_right) >= 0.94


@pytest.mark.parametrize(
    "returns",
    [[1, 2], [2, 1], [0, 0, 1], [1, 1, 0], [0, 1, 2], [-5, 200], [0.1, 0.1 + 1e-12], [200] * 9 + [8], [0] * 9 + [500]],
)
def test_few_or_skewed_returns_have_finite_interval_around_mean(scripted: Run, returns: list[float]) -> None:
    evaluation = evaluate_returns(scripted, returns)
    low, high = evaluation.ci95
    assert sorted(evaluation.returns) == pytest.approx(sorted(returns), abs=1e-6)
    assert -math.inf < low < evaluation.mean_return < high < math.inf


@pytest.mark.parametrize("episodes", [1, 2, 10])
def test_equal_returns_have_no_interval(scripted: Run, episodes: int) -> None:
    evaluation = evaluate_returns(scripted, [7.5] * episodes)
    assert evaluation.ci95 is None
    assert (evaluation.mean_return, evaluation.std_return) == (7.5, 0.0)
    evaluation = evaluate_returns(scripted, [0.1] * episodes)  # whose mean is less by rounding
    assert (evaluation.mean_return, evaluation.std_return) == (0.1, 0.0)


@pytest.mark.parametrize("episodes", [10, 25])
@pytest.mark.parametrize("env", ["OwnGenerator", "OwnGeneratorWithForces"])
def test_environment_that_ignores_seeds_plays_as_one_environment_does(
    env: str, episodes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train_paying(tmp_path, f"env.id=toolkit_tests/{env}-v0", "algorithm.policy_params={net_arch: [100, 100]}")
    evaluation = evaluate(run, episodes)
    stock_env = Monitor(gym.make(f"toolkit_tests/{env}-v0"))
    expected, _ = evaluate_policy(load_model(run), stock_env, episodes, return_episode_rewards=True)
    assert evaluation.returns == pytest.approx(expected, abs=1e-4)
    assert len({*evaluation.returns}) == episodes
    assert evaluation.n_envs == 1
    warning = f"10 copies of toolkit_tests/{env}-v0 play equal episodes though their seeds differ"
    assert [text for text in caplog.messages if warning in text]


def test_environment_that_obeys_seeds_plays_on_ten_copies(lottery: Run) -> None:
    assert evaluate(lottery, 25).n_envs == 10


def test_same_seed_repeats_episodes(lottery: Run) -> None:
    assert evaluate(lottery, 5) == evaluate(lottery, 5)
    assert evaluate(lottery, 5, seed=3) == evaluate(lottery, 5, seed=3)
    assert evaluate(lottery, 5) == evaluate(lottery, 5, seed=lottery.config.seed)


def test_other_seed_plays_other_episodes(lottery: Run) -> None:
    assert not {*evaluate(lottery, 5).returns} & {*evaluate(lottery, 5, seed=1).returns}


def test_evaluation_plays_no_training_episode(lottery: Run) -> None:
    rows = (lottery.directory / "monitor.csv").read_text().splitlines()[2:]
    assert len(rows) == 16
    assert not {float(row.split(",")[0]) for row in rows} & {*evaluate(lottery, 20).returns}


def test_returns_are_raw_with_reward_wrapper(tmp_path: Path) -> None:
    wrapped = "env.wrappers=[{name: terminal_reward_clip, params: {success_steps: 1}}]"
    run = train_paying(tmp_path, wrapped, "env.params={steps: 3}")
    assert evaluate_returns(run, [195.0] * 4).returns == (195.0,) * 4


def test_evaluation_actions_are_deterministic(tmp_path: Path) -> None:
    run = train_paying(tmp_path, "env.params={steps: 50, per_action: 1.0}")
    assert {*evaluate_returns(run, [0.0] * 10).returns} in (
        {0.0},
        {50.0},
    )  # a sampled action would differ from step to step


def test_evaluation_and_confirmation_count_games_not_lives(tmp_path: Path) -> None:
    wrapper = "stable_baselines3.common.atari_wrappers:EpisodicLifeEnv"
    success = "{name: success, params: {threshold: 6, episodes: 2, confirm_episodes: 2}}"
    overrides = ["env.id=toolkit_tests/Arcade-v0", f"env.wrappers=['{wrapper}']", f"callbacks=[{success}]"]
    run = train_paying(tmp_path, *overrides)
    assert run.result is not None
    assert (run.result["status"], run.result["episodes"]) == ("success", 2)
    assert evaluate(run, 3).returns == (6, 6, 6)


def test_wrapper_ends_episodes_in_evaluation(tmp_path: Path) -> None:
    run = train_paying(
        tmp_path,
        "env.params={steps: 100, per_action: 1.0}",
        "env.wrappers=[{name: 'gymnasium.wrappers:TimeLimit', params: {max_episode_steps: 10}}]",
    )
    assert {*evaluate_returns(run, [0.0] * 12).returns} in ({0.0}, {10.0})


def test_evaluation_writes_nothing_and_keeps_random_state(lottery: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in lottery.directory.rglob("*")}
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    evaluate(lottery, 3)
    assert np.random.random() == expected
    assert {path: path.stat().st_mtime_ns for path in lottery.directory.rglob("*")} == before


def test_evaluate_prints_json_with_exact_keys(lottery: Run, toolkit: Toolkit) -> None:
    result = toolkit("evaluate", lottery.directory, "--episodes", "4", "--json")
    assert (result.status, result.err) == (0, "")
    printed = json.loads(result.out, parse_constant=pytest.fail)
    assert printed.keys() == KEYS
    evaluation = evaluate(lottery, 4)
    assert printed == {key: getattr(evaluation, key) for key in KEYS} | {
        "ci95": [*evaluation.ci95],
        "returns": [*evaluation.returns],
        "lengths": [*evaluation.lengths],
    }


def test_evaluate_option_seed_selects_episodes(lottery: Run, toolkit: Toolkit) -> None:
    result = toolkit("evaluate", lottery.directory, "--episodes", "2", "--seed", "9", "--json")
    assert tuple(json.loads(result.out)["returns"]) == evaluate(lottery, 2, seed=9).returns


def test_evaluate_prints_text_without_json_option(scripted: Run, toolkit: Toolkit) -> None:
    Paying.script = itertools.repeat(7.5)
    result = toolkit("evaluate", scripted.directory, "--episodes", "3")
    assert result.status == 0
    assert "3 greedy episodes on one environment, raw returns" in result.out
    assert "mean  7.50  (no interval: all returns are equal)\n  std   0.00" in result.out
    Paying.script = itertools.chain([1e-7, 2e-7, 3e-7], itertools.repeat(math.nan))
    result = toolkit("evaluate", scripted.directory, "--episodes", "3")
    assert "mean  2e-07  (95 % interval -4.84e-08 to 4.48e-07)\n  std   8.16e-08" in result.out
    Paying.script = itertools.repeat(7.5)
    result = toolkit("evaluate", scripted.directory, "--episodes", "1")
    assert result.out.endswith("1 greedy episode, raw returns\n  mean  7.50  (no interval: one episode)\n")


def test_evaluate_uses_newest_run_by_default(config_file: Path, toolkit: Toolkit) -> None:
    for name in ("first", "second"):
        toolkit("train", config_file, "--quiet", "--set", f"name={name}", "--set", "timesteps=20")
    assert toolkit("evaluate", "--episodes", "1").out.startswith("runs/second-1:")


@pytest.mark.parametrize("episodes", ["0", "-1", "many"])
def test_evaluate_refuses_invalid_number_of_episodes(lottery: Run, toolkit: Toolkit, episodes: str) -> None:
    assert toolkit("evaluate", lottery.directory, "--episodes", episodes).status == 2


@pytest.mark.parametrize("damage", ["absent", "no zip", "other network"])
def test_evaluate_refuses_missing_or_unfit_model(tmp_path: Path, toolkit: Toolkit, damage: str) -> None:
    run = train_paying(tmp_path)
    match damage:
        case "absent":
            run.model_path.unlink()
        case "no zip":
            run.model_path.write_bytes(run.model_path.read_bytes()[:500])
        case "other network":
            config = (run.directory / "config.yaml").read_text()
            (run.directory / "config.yaml").write_text(config.replace("net_arch: [4]", "net_arch: [5]"))
    with pytest.raises(RunError, match=r"model\.zip"):
        evaluate(Run.open(run.directory), 1)
    result = toolkit("evaluate", run.directory, "--json")
    assert (result.status, result.out) == (2, "")
    assert "Traceback" not in result.err
