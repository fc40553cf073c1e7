"""The callbacks `log_rewards` and `log_info`: parts of returns, and numbers of `info`."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import StopAt, find_differences, train_with_interruptions
from stable_baselines3.common.callbacks import BaseCallback
from support import Toolkit

from toolkit import Run
from toolkit.config.load import load_config
from toolkit.envs.episodes import Episode
from toolkit.envs.factory import make_vec_env
from toolkit.evaluation.reward_curves import read_reward_curves
from toolkit.reports.contents import build_report
from toolkit.reports.html import to_html
from toolkit.reports.markdown import to_markdown
from toolkit.training.callbacks import RunCallback
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import train
from toolkit.utils.errors import ConfigError, TrainingError

WALK = """\
import gymnasium as gym
import numpy as np


class Walk(gym.Env):
    '''Twelve steps to the left or the right; says what the parts of its reward are.'''

    observation_space, action_space = gym.spaces.Box(-20, 20, (1,)), gym.spaces.Discrete(2)

    def __init__(self, parts=None, length=12, render_mode=None):
        self.parts, self.length = parts, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = 0, 0
        return np.float32([0]), {}

    def step(self, action):
        self.place += 2 * action - 1
        self.steps += 1
        parts = {"forward": self.place / 8, "effort": -0.25} if self.parts is None else self.parts
        info = {"place": self.place, "is_right": self.place > 0, "reward_components": parts, "mood": "good"}
        if self.steps >= self.length:
            info |= {"is_success": self.place > 2, "end": self.place}
        return np.float32([self.place]), self.place / 8 - 0.25, False, self.steps >= self.length, info


class Bonus(gym.Wrapper):
    '''Adds a reward, as a part of its own.'''

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["reward_components"] = {**info["reward_components"], "bonus": np.float32(0.5)}
        return observation, reward + 0.5, terminated, truncated, info


class Double(gym.Wrapper):
    def reset(self, **kwargs):
        self.env.scale = 2 * self.env.scale
        return self.env.reset(**kwargs)


class TakeTwo(gym.Wrapper):
    '''Takes each action twice, and hides every second end of the environment.'''

    def step(self, action):
        total = 0.0
        for _ in range(2):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if truncated:
                break
        self.ends = getattr(self, "ends", 0) + truncated
        if truncated and self.ends % 2:
            observation, info = self.env.reset()
            truncated = False
        return observation, total, terminated, truncated, info
"""
HEAD = """\
timesteps: 128
seed: 3
algorithm: {name: ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 1}, policy_params: {net_arch: [8]}}
snapshots: {every_timesteps: 32}
"""
CARTPOLE = """\
env:
  id: CartPole-v1
  n_envs: 2
  max_episode_steps: 15
  wrappers:
    - {name: angle_penalty, params: {scale: 2.0}}
    - {name: angle_penalty, params: {scale: 1.0}}
    - {name: graded_terminal_reward, params: {midpoint: 10, keep_step_rewards: true}}
callbacks:
  - {name: log_rewards}
"""
WALKING = """\
env: {id: "./walk.py:Walk", n_envs: 2, wrappers: ["./walk.py:Bonus"]}
callbacks:
  - {name: log_rewards}
  - {name: log_info, params: {names: [place, is_right]}}
  - {name: log_info, params: {names: [end, is_success], value: last}}
"""
WALK_ENV = 'env: {id: "./walk.py:Walk"}\n'
LONG_ENV = 'env: {id: "./walk.py:Walk", params: {length: 500}}\n'
LOG_INFO = "callbacks: [{name: log_info, params: {names: [%s]}}]\n"


class KeepEpisodes(RunCallback):
    """Keeps the episodes that count."""

    def _on_step(self) -> bool:
        self.episodes = [*self.context.episodes]
        return True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.fixture(autouse=True)
def walk(working_directory: Path) -> None:
    Path("walk.py").write_text(WALK)


def write(body: str) -> Path:
    Path("c.yaml").write_text(HEAD + body)
    return Path("c.yaml")


def train_and_keep(body: str, overrides: Mapping[str, Any] | None = None) -> list[Episode]:
    keeper = KeepEpisodes()
    train(load_config(write(body), overrides or {}), Path("run"), [keeper])
    assert len(keeper.episodes) > 3
    return keeper.episodes


def read_rows(name: str) -> list[dict[str, str]]:
    lines = Path("run", name).read_text().splitlines()
    return [*csv.DictReader(line for line in lines if not line.startswith("#"))]


def sum_of_rewards(episode: Episode) -> float:
    parts = [value for name, value in episode.numbers if not name.startswith("reward/part/")]
    return episode.raw_return + sum(parts)


@pytest.mark.parametrize("vec_env", ["dummy", "subproc", "vector"])
def test_raw_return_and_each_wrapper_add_up_to_shaped_return(vec_env: str) -> None:
    episodes = train_and_keep(CARTPOLE, {"env.vec_env": vec_env})
    for episode in episodes:
        numbers = dict(episode.numbers)
        assert [*numbers] == ["reward/angle_penalty_1", "reward/angle_penalty_2", "reward/graded_terminal_reward"]
        assert numbers["reward/angle_penalty_1"] == pytest.approx(2 * numbers["reward/angle_penalty_2"])
        assert numbers["reward/angle_penalty_1"] < 0
        assert sum_of_rewards(episode) == pytest.approx(episode.shaped_return, abs=1e-5)


def test_progress_and_monitor_have_a_column_for_each_wrapper() -> None:
    episodes = train_and_keep(CARTPOLE)
    rows = read_rows("monitor.csv")
    for key in ("reward/angle_penalty_1", "reward/graded_terminal_reward"):
        assert [float(row[key]) for row in rows] == [dict(episode.numbers)[key] for episode in episodes]
    row = {key: float(value) for key, value in read_rows("progress.csv")[-1].items() if value}
    added = sum(value for key, value in row.items() if key.startswith("reward/"))
    assert row["rollout/ep_rew_mean"] + added == pytest.approx(row["rollout/ep_shaped_rew_mean"], abs=1e-5)


def test_vec_normalize_is_a_share_and_wrappers_of_observations_are_not() -> None:
    values = {
        "env.wrappers": [{"name": "gymnasium.wrappers:TimeAwareObservation", "params": {"normalize_time": True}}],
        "env.vec_wrappers": ["vec_normalize"],
    }
    for episode in train_and_keep(CARTPOLE, values):
        assert [name for name, _ in episode.numbers] == ["reward/vec_normalize"]
        assert sum_of_rewards(episode) == pytest.approx(episode.shaped_return)


def test_wrapper_that_skips_steps_and_hides_ends_adds_nothing() -> None:
    episodes = train_and_keep(
        'env: {id: "./walk.py:Walk", wrappers: ["./walk.py:TakeTwo"]}\ncallbacks: [log_rewards]\n'
    )
    for episode in episodes:
        assert dict(episode.numbers)["reward/TakeTwo"] == 0
        assert episode.shaped_return == pytest.approx(episode.raw_return)


@pytest.mark.parametrize("traces_rewards", [False, True])
def test_wrapper_reads_and_sets_attributes_of_the_wrapper_inside(traces_rewards: bool) -> None:
    wrappers = [{"name": "angle_penalty", "params": {"scale": 1.0}}, "./walk.py:Double"]
    config = load_config(write(CARTPOLE), {"env.wrappers": wrappers, "env.n_envs": 1})
    with closing(make_vec_env(config, seed=1, traces_rewards=traces_rewards)) as env:
        for expected in (2.0, 4.0):
            env.reset()
            assert env.get_attr("scale") == [expected]


def test_parts_that_info_names_are_summed_over_an_episode() -> None:
    for episode in train_and_keep(WALKING):
        numbers = dict(episode.numbers)
        assert numbers["reward/part/effort"] == -3
        assert numbers["reward/part/forward"] + numbers["reward/part/effort"] == pytest.approx(episode.raw_return)
        assert numbers["reward/part/bonus"] == numbers["reward/Bonus"] == 6


def test_log_info_logs_mean_or_last_of_numbers_and_bools() -> None:
    for episode in train_and_keep(WALKING):
        numbers = dict(episode.numbers)
        forward = numbers["reward/part/forward"]
        assert numbers["info/place"] == pytest.approx(8 * forward / 12)
        assert numbers["info/is_success"] == (numbers["info/end"] > 2) == episode.is_success
        assert 0 <= numbers["info/is_right"] * 12 == round(numbers["info/is_right"] * 12, 6)
    row = read_rows("progress.csv")[-1]
    assert float(row["info/is_success"]) == pytest.approx(float(row["rollout/success_rate"]))


@pytest.mark.parametrize(("body", "vec_env"), [(WALKING, "dummy"), (CARTPOLE, "vector")], ids=["dummy", "vector"])
def test_resume_in_mid_episode_continues_all_sums(body: str, vec_env: str) -> None:
    config = load_config(write(body), {"env.vec_env": vec_env, "env.vec_wrappers": ["vec_normalize"]})
    train(config, Path("whole"), [StopAt()])
    train_with_interruptions(config, Path("stopped"), (70, 110))
    assert not find_differences(Path("whole"), Path("stopped"))
    assert "reward/vec_normalize" in Path("stopped", "monitor.csv").read_text()


def test_nothing_is_logged_or_added_without_the_callbacks() -> None:
    episodes = train_and_keep(CARTPOLE.replace("log_rewards", "progress"))
    assert not any(episode.numbers for episode in episodes)
    assert not [key for key in read_rows("progress.csv")[0] if key.startswith(("reward/", "info/"))]


def test_callbacks_leave_training_unchanged() -> None:
    class KeepWeights(BaseCallback):
        def _on_step(self) -> bool:
            self.weights = {name: tensor.clone() for name, tensor in self.model.policy.state_dict().items()}
            return True

    with_callbacks, without = KeepWeights(), KeepWeights()
    train(load_config(write(WALKING)), Path("with"), [with_callbacks])
    train(load_config(write(WALKING), {"callbacks": []}), Path("without"), [without])
    assert all((with_callbacks.weights[name] == tensor).all() for name, tensor in without.weights.items())


def test_callback_that_python_passes_logs_too() -> None:
    class LogPlace(RunCallback):
        logs_rewards = True
        logged_info = {"place": "last"}

        def _on_step(self) -> bool:
            return True

    train(load_config(write(WALKING), {"callbacks": []}), Path("run"), [LogPlace()])
    assert {"reward/Bonus", "reward/part/bonus", "info/place"} <= read_rows("monitor.csv")[0].keys()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "",
            "c.yaml:6: callbacks.0.params.names: 'log_info' cannot be built: ValueError: names must be different keys",
        ),
        (
            "place, place",
            "c.yaml:6: callbacks.0.params.names: 'log_info' cannot be built: ValueError: names must be diff",
        ),
        (
            '"a,b"',
            "c.yaml:6: callbacks.0.params.names: 'log_info' cannot be built: ValueError: names: 'a,b' cannot be a",
        ),
        ("3", "c.yaml:6: callbacks.0.params.names: should be list[str], not [3]"),
        ("mood", "c.yaml:6: callbacks.0: info['mood'] is 'good', not a number; remove it from names"),
    ],
)
def test_check_refuses_names_that_cannot_be_logged(names: str, message: str, toolkit: Toolkit) -> None:
    finished = toolkit("check", write(WALK_ENV + LOG_INFO % names))
    assert finished.status == 2
    assert message in finished.err
    assert not Path("runs").exists()


def test_check_refuses_a_number_that_two_callbacks_log(toolkit: Toolkit) -> None:
    body = WALKING.replace("[end, is_success]", "[end, place]")
    finished = toolkit("check", write(body))
    assert (finished.status, finished.err) == (
        2,
        "c.yaml:9: callbacks.2: info['place'] is logged by another callback already; log it once\n",
    )


@pytest.mark.parametrize(
    ("env", "more"), [(WALK_ENV, ""), (LONG_ENV, ", and no episode ended")], ids=["short", "long"]
)
def test_check_warns_of_names_that_no_step_of_the_trial_has(
    env: str, more: str, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    assert toolkit("check", write(env + LOG_INFO % "plaice, place")).status == 0
    message = f"c.yaml:6: callbacks.0: no step of the trial has a number info['plaice']{more}; did you mean 'place'?"
    assert caplog.messages == [message]


def test_training_says_that_there_were_no_parts_of_rewards(caplog: pytest.LogCaptureFixture) -> None:
    Path("plain.yaml").write_text(
        "timesteps: 64\nenv: {id: CartPole-v1, wrappers: ['gymnasium.wrappers:NormalizeObservation']}\n"
        "algorithm: {name: ppo, params: {n_steps: 64, batch_size: 64, n_epochs: 1}}\ncallbacks: [log_rewards]\n"
    )
    train(load_config("plain.yaml"), Path("run"))
    assert "callback log_rewards: no wrapper changes rewards, and none of " in caplog.text


def test_training_says_once_that_a_name_never_appeared(caplog: pytest.LogCaptureFixture) -> None:
    train(load_config(write(WALK_ENV + LOG_INFO % "place, plaice")), Path("run"))
    assert caplog.messages == ["callback log_info: none of 10 episodes has a number info['plaice']"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            "3",
            "the environment returns info['reward_components'] as int; return a mapping of names and finite numbers",
        ),
        ("{a: far}", "info['reward_components']['a'] is 'far'; return a mapping of names and finite numbers"),
        ("{a: .nan}", "info['reward_components']['a'] is nan; return a mapping of names and finite numbers"),
        ("{a/b: 1}", "info['reward_components'] has the name 'a/b'; use text without"),
    ],
)
def test_parts_that_are_no_finite_numbers_are_refused(parts: str, message: str, toolkit: Toolkit) -> None:
    path = write(f'env: {{id: "./walk.py:Walk", params: {{parts: {parts}}}}}\ncallbacks: [log_rewards]\n')
    finished = toolkit("check", path)
    assert finished.status == 2
    assert f"c.yaml:5: env: 'Walk' cannot be trained in: {message}" in finished.err
    with pytest.raises(TrainingError, match="training failed at timestep 0"):
        train(load_config(path), Path("run"))


def test_text_in_place_of_a_number_ends_training_with_its_place() -> None:
    config = load_config(write(WALK_ENV + LOG_INFO % "mood"))
    with pytest.raises(TrainingError, match=r"c.yaml:6: callbacks.0: info\['mood'\] is 'good', not a number"):
        train(config, Path("run"))


def test_vec_env_vector_sums_parts_of_a_batch() -> None:
    Path("batch.py").write_text(
        """\
import gymnasium as gym
import numpy as np
from toolkit_plugins.vector_envs import CartPole


class Parts(CartPole):
    def step(self, actions):
        *results, info = super().step(actions)
        return *results, {"reward_components": {"half": results[1] / 2}, "angle": results[0][:, 2]}
"""
    )
    body = """\
env: {id: "./batch.py:Parts", n_envs: 3, max_episode_steps: 15, vec_env: vector}
callbacks: [log_rewards, {name: log_info, params: {names: [angle], value: last}}]
"""
    for episode in train_and_keep(body, {"algorithm.params.batch_size": 48}):
        numbers = dict(episode.numbers)
        assert numbers["reward/part/half"] == episode.raw_return / 2
        assert np.abs(numbers["info/angle"]) < 0.5


def test_unknown_value_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"c.yaml:6: callbacks.0.params.value: "):
        load_config(write("env: {id: CartPole-v1}\ncallbacks: [{name: log_info, params: {names: [x], value: sum}}]\n"))


def test_plot_rewards_stacks_what_adds_up_to_shaped_return(toolkit: Toolkit) -> None:
    episodes = train_and_keep(WALKING)
    curves = read_reward_curves(RunDirectory.open("run"))
    assert [*curves.shares] == ["raw return", "Bonus"]
    assert [*curves.parts] == ["bonus", "effort", "forward"]
    assert curves.shaped[-1] == pytest.approx(np.mean([episode.shaped_return for episode in episodes]), abs=1e-5)
    finished = toolkit("plot", "run", "--rewards")
    assert (finished.status, finished.out) == (0, "run/rewards.png\n")
    with Image.open("run/rewards.png") as picture:
        assert picture.size[1] > 900  # two panels and the legend


def test_plot_rewards_refuses_several_runs_and_a_run_without_parts(toolkit: Toolkit, finished_run: Run) -> None:
    directory = str(finished_run.directory)
    assert "takes one run" in toolkit("plot", directory, directory, "--rewards").err
    finished = toolkit("plot", directory, "--rewards", "--out", "new.png")
    assert finished.status == 2
    assert f"{directory}: has no parts of rewards\ntrain with the callback log_rewards" in finished.err
    assert not Path("new.png").exists()


def test_plot_rewards_refuses_a_damaged_number(toolkit: Toolkit) -> None:
    train_and_keep(CARTPOLE)
    lines = Path("run/monitor.csv").read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0] + ",far"
    Path("run/monitor.csv").write_text("\n".join([*lines, ""]))
    finished = toolkit("plot", "run", "--rewards")
    assert (finished.status, finished.err.partition(":4: ")[2][:17]) == (2, "is not an episode")
    assert not Path("run/rewards.png").exists()


def test_report_has_a_table_of_what_each_wrapper_adds() -> None:
    episodes = train_and_keep(WALKING)
    shutil.copytree("run", "other")
    report = build_report([Path("run"), Path("other")])
    table = report.sections[0].rewards
    assert table is not None
    parts = ("part/bonus", "part/effort", "part/forward")
    assert table.header == ("variant", "raw return", "Bonus", "shaped return", *parts)
    raw, bonus, shaped, *sums = map(float, table.rows[0][1:])
    assert raw == pytest.approx(np.mean([episode.raw_return for episode in episodes]), abs=0.01)
    assert (bonus, shaped, *sums[:2]) == (6, pytest.approx(raw + 6), 6, -3)
    assert "<h3>Parts of the return</h3>" in to_html(report, [])
    assert "### Parts of the return" in to_markdown(report)
