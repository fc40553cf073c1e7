"""The callback ``demonstrations`` fills the replay buffer before training, and refuses files that do not fit."""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from goal_line import GOAL_LINE
from small_runs import StopAt, find_differences
from stable_baselines3.common.callbacks import BaseCallback
from support import Toolkit, files_in

from toolkit import Run
from toolkit.config.load import load_config
from toolkit.training.trainer import dry_run, resume, train
from toolkit.utils.errors import TrainingError

N = 40
IMAGES = "toolkit_tests/DemonstratedImages-v0"
if IMAGES not in gym.registry:
    gym.register(
        IMAGES,
        "stable_baselines3.common.envs:FakeImageEnv",
        kwargs={"screen_height": 36, "screen_width": 36, "n_channels": 3},
    )
CARTPOLE = """\
timesteps: 48
env: {id: CartPole-v1, n_envs: 2}
algorithm:
  name: double_dqn
  params: {learning_starts: 0, buffer_size: 200, batch_size: 8, train_freq: 4}
  policy_params: {net_arch: [8]}
callbacks:
  - {name: demonstrations, params: {path: ./demos.npz}}
snapshots: {every_timesteps: 16}
"""
PENDULUM = CARTPOLE.replace("CartPole-v1, n_envs: 2", "Pendulum-v1, vec_wrappers: [vec_normalize]")
CONTINUOUS = PENDULUM.replace("double_dqn", "sac")
GOALS = CARTPOLE.replace("CartPole-v1", GOAL_LINE).replace("buffer_size", "replay_buffer_class: her, buffer_size")
GOALS = GOALS.replace("timesteps: 48\n", "timesteps: 48\nimport_modules: [goal_line]\n")
GOALS = GOALS.replace("  policy_params", "  policy: MultiInputPolicy\n  policy_params")
PIXELS = CARTPOLE.replace("CartPole-v1, n_envs: 2", IMAGES).replace(
    "  policy_params", "  policy: CnnPolicy\n  policy_params"
)


@functools.cache
def play(env_id: str) -> dict[str, Any]:
    """Return the transitions of random actions, by the names that the callback reads."""
    env = gym.make(env_id)
    env.action_space.seed(0)
    rows = []
    observation, _ = env.reset(seed=0)
    for _ in range(N):
        action = env.action_space.sample()
        next_observation, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, reward, next_observation, terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else next_observation
    names = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
    arrays: dict[str, Any] = {}
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        if isinstance(column[0], dict):
            arrays |= {f"{name}/{key}": np.array([row[key] for row in column]) for key in column[0]}
        else:
            arrays[name] = np.array(column)
    return arrays


def write(config: str, arrays: dict[str, Any]) -> Path:
    np.savez("demos.npz", **arrays)
    Path("demo.yaml").write_text(config)
    return Path("demo.yaml")


class KeepStart(BaseCallback):
    """Keeps the replay buffer as it is when training starts, and the model."""

    def _on_training_start(self) -> None:
        self.trained = self.model
        buffer = self.model.replay_buffer  # type: ignore[attr-defined]
        self.n_steps = buffer.size()
        self.arrays = {name: value.copy() for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
        if isinstance(buffer.observations, dict):
            self.arrays |= {f"observations/{key}": value.copy() for key, value in buffer.observations.items()}

    def _on_step(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def train_and_keep(config: Path) -> Any:
    start = KeepStart()
    train(load_config(config), Path("run"), [start])
    return start


def test_each_environment_gets_stretch_of_file(working_directory: Path) -> None:
    arrays = play("CartPole-v1")
    start = train_and_keep(write(CARTPOLE, arrays))
    assert start.n_steps == N // 2
    for name in ("observations", "next_observations", "rewards"):
        stored = start.arrays[name][: N // 2]
        assert np.array_equal(np.concatenate([stored[:, 0], stored[:, 1]]), arrays[name].astype(np.float32))
    dones, timeouts = (np.concatenate(list(start.arrays[name][: N // 2].T)) for name in ("dones", "timeouts"))
    is_cut = np.isin(np.arange(N), (N // 2 - 1, N - 1)) & ~arrays["terminated"]
    assert arrays["terminated"].any()
    assert is_cut.any()
    assert np.array_equal(dones == 1, arrays["terminated"] | is_cut)
    assert np.array_equal(timeouts == 1, is_cut)


TWICE = CARTPOLE.replace("snapshots", "  - {name: demonstrations, params: {path: ./demos.npz}}\nsnapshots")


def test_two_files_fill_replay_buffer_together(working_directory: Path) -> None:
    assert train_and_keep(write(TWICE, play("CartPole-v1"))).n_steps == N


def test_check_refuses_files_that_replay_buffer_cannot_hold_together(
    working_directory: Path, toolkit: Toolkit
) -> None:
    checked = toolkit("check", write(TWICE.replace("200", "70"), play("CartPole-v1")))
    problem = "demos.npz has 40 transitions, but the replay buffer has room for 30 beside those of other files; raise"
    assert checked.status == 2
    assert checked.err.startswith(f"demo.yaml:9: callbacks.1.params.path: {working_directory}/{problem}")


@pytest.mark.parametrize(("n_steps", "n_terminal"), [(1, 0), (3, 1)])
def test_end_of_file_is_terminal_only_if_buffer_must_know_it(
    n_steps: int, n_terminal: int, working_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = f"n_steps: {n_steps}, replay_buffer_kwargs: {{handle_timeout_termination: false}}, train_freq"
    arrays = {name: array[:5] for name, array in play("CartPole-v1").items()}
    assert not arrays["terminated"].any()
    config = write(CARTPOLE.replace("train_freq", params).replace("n_envs: 2", "n_envs: 1"), arrays)
    assert train_and_keep(config).arrays["dones"][:5].sum() == n_terminal
    warning = "in the middle of an episode, and counts as terminal without handle_timeout_termination"
    assert sum(warning in message for message in caplog.messages) == n_terminal


def test_array_of_wrong_shape_is_refused_before_it_is_unpacked(working_directory: Path, toolkit: Toolkit) -> None:
    arrays = dict(play("CartPole-v1"))
    del arrays["observations"]
    config = write(CARTPOLE, arrays)
    with zipfile.ZipFile("demos.npz", "a") as archive, archive.open("observations.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (N, 10**8)}
        np.lib.format.write_array_header_1_0(file, header)  # the numbers themselves do not follow
    checked = toolkit("check", config)
    assert "demos.npz: 'observations' has the shape (40, 100000000), not (40, 4); write a row" in checked.err


def test_transitions_beyond_last_full_row_are_left_out(working_directory: Path) -> None:
    start = train_and_keep(write(CARTPOLE.replace("n_envs: 2", "n_envs: 3"), play("CartPole-v1")))
    assert start.n_steps == N // 3


def test_actions_are_scaled_and_observations_stay_raw_under_normalization(working_directory: Path) -> None:
    arrays = play("Pendulum-v1")
    start = train_and_keep(write(CONTINUOUS, arrays))
    assert np.allclose(start.arrays["actions"][:N, 0], arrays["actions"] / 2)
    assert np.array_equal(start.arrays["observations"][:N, 0], arrays["observations"])
    model = start.trained
    rewards = model.replay_buffer.sample(200, model.get_vec_normalize_env()).rewards
    assert rewards.abs().max() < np.abs(arrays["rewards"]).max()


def test_hindsight_samples_other_goals_of_demonstrations(working_directory: Path) -> None:
    arrays = play(GOAL_LINE)
    start = train_and_keep(write(GOALS, arrays))
    stored = start.arrays["observations/achieved_goal"][: N // 2]
    assert np.array_equal(np.concatenate([stored[:, 0], stored[:, 1]]), arrays["observations/achieved_goal"])
    assert (start.arrays["ep_length"][: N // 2] > 0).all()


def test_images_are_transposed_as_sb3_does(working_directory: Path) -> None:
    arrays = play(IMAGES)
    start = train_and_keep(write(PIXELS, arrays))
    assert np.array_equal(start.arrays["observations"][:N, 0], arrays["observations"].transpose(0, 3, 1, 2))


def test_resume_does_not_fill_replay_buffer_again(tmp_path: Path, working_directory: Path) -> None:
    config = load_config(write(CARTPOLE.replace("train_freq: 4", "train_freq: 4, n_steps: 3"), play("CartPole-v1")))
    train(config, tmp_path / "whole")
    with pytest.raises(TrainingError):
        train(config, tmp_path / "stopped", [StopAt(40)])
    Path("demos.npz").unlink()
    resume(Run.open(tmp_path / "stopped"), [StopAt()])
    assert not find_differences(tmp_path / "whole", tmp_path / "stopped")


def test_file_is_found_from_another_directory(
    tmp_path: Path, working_directory: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(CARTPOLE, play("CartPole-v1")).resolve()
    monkeypatch.chdir(tmp_path)
    checked = toolkit("check", config)
    assert (checked.status, checked.err) == (0, "")


def change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets arrays, removes those that are None, and writes rows at indices."""

    def apply(arrays: dict[str, Any]) -> None:
        for name, value in changes.items():
            if value is None:
                del arrays[name]
            elif isinstance(value, tuple):
                arrays[name] = arrays[name].copy()
                arrays[name][value[0]] = value[1]
            else:
                arrays[name] = value(arrays[name]) if callable(value) else value

    return apply


@pytest.mark.parametrize(
    ("config", "change_arrays", "problem"),
    [
        (CARTPOLE, change(terminated=None, dones=np.zeros(N)), "no array 'terminated': it has observations, actions,"),
        (
            CARTPOLE,
            change(observations=lambda array: array[:, :3]),
            r"'observations' has the shape \(40, 3\), not \(40",
        ),
        (CARTPOLE, change(actions=lambda array: array[:-1]), r"'actions' has the shape \(39,\), not \(40,\)"),
        (CARTPOLE, change(actions=lambda array: array / 2), "'actions' has the type float64, but its space has int64"),
        (CARTPOLE, change(actions=(3, 2)), r"actions\[3\] is 2, which is not in Discrete\(2\); correct"),
        (CARTPOLE, change(observations=((7, 2), np.nan)), r"observations\[7, 2\] is nan, which is not in Box"),
        (CARTPOLE, change(next_observations=((5, 0), 9.0)), r"next_observations\[5, 0\] is 9.0, which is not in Box"),
        (CARTPOLE, change(rewards=(2, np.inf)), r"rewards\[2\] is inf, which is not finite; correct the file$"),
        (
            CARTPOLE,
            change(rewards=np.float32(1)),
            r"'rewards' has the shape \(\), not \(N,\); write a number for each",
        ),
        (CARTPOLE, change(rewards=lambda array: array[:, None]), r"'rewards' has the shape \(40, 1\), not \(40,\)"),
        (CARTPOLE, change(truncated=lambda array: array + 2), "'truncated' should be true or false for each"),
        (CARTPOLE, change(observations=np.array([{}] * N)), "'observations' has objects; write it"),
        (CARTPOLE, change(observations=np.full((N, 4), "x")), "'observations' has the type <U1, not numbers; write"),
        (CARTPOLE.replace("200", "38"), change(), "has 40 transitions, but the replay buffer has room for 38; raise"),
        (CARTPOLE.replace("n_envs: 2", "n_envs: 41"), change(), "has 40 transitions, fewer than env.n_envs, 41"),
        (
            CARTPOLE.replace("train_freq", "n_steps: 3, train_freq"),
            change(observations=(1, 0.0)),
            r"next_observations\[0\] differs from observations\[1\], but no episode ends .*NStepReplayBuffer",
        ),
    ],
)
def test_check_names_what_does_not_fit(
    config: str, change_arrays: Any, problem: str, working_directory: Path, toolkit: Toolkit
) -> None:
    arrays = dict(play("CartPole-v1"))
    change_arrays(arrays)
    checked = toolkit("check", write(config, arrays))
    assert (checked.status, checked.out) == (2, "")
    place = rf"demo.yaml:8: callbacks.0.params.path: {working_directory}/demos.npz"
    assert checked.err.count("\n") == 1
    assert re.match(f"{place}:? .*{problem}", checked.err), checked.err


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            "algorithm={name: ppo}",
            "demo.yaml:8: callbacks.0: PPO has no replay buffer; choose an off-policy algorithm",
        ),
        ("callbacks.0.params.path=other.npz", "other.npz does not exist; correct the path"),
        (
            "callbacks.0={name: every_n_timesteps, params: {n_steps: 1, callback: {name: demonstrations, params: "
            "{path: other.npz}}}}",
            "other.npz does not exist; correct the path",
        ),
        ("callbacks.0.params.path='~/demos.npz'", "~/demos.npz does not exist; write the home directory for ~"),
        ("callbacks.0.params.path=''", "callbacks.0.params.path: an empty path is not an .npz; write it"),
        ("callbacks.0.params.path='{run}/demos.npz'", ".path: {run}/demos.npz does not exist; correct the path, or"),
        ("callbacks.0.params.path=demo.yaml", "demo.yaml is not an .npz; write it with numpy.savez"),
        ("callbacks.0.params.path=text.npz", "text.npz cannot be read: it is damaged, or has objects"),
        (
            "algorithm.params.replay_buffer_kwargs={handle_timeout_termination: false}",
            "a replay buffer with optimize_memory_usage has no place for the last observation of a file",
        ),
    ],
)
def test_train_refuses_file_or_algorithm_and_leaves_nothing(
    params: str, problem: str, working_directory: Path, toolkit: Toolkit
) -> None:
    Path("text.npz").write_text("text")
    config = write(CARTPOLE, play("CartPole-v1"))
    more = ["--set", "algorithm.params.optimize_memory_usage=true"] if "timeout" in params else []
    before = files_in(working_directory)
    trained = toolkit("train", config, "--set", params, *more, "--out", "run")
    assert (trained.status, trained.out) == (2, "")
    assert problem in trained.err
    assert files_in(working_directory) == before


def test_hindsight_with_rewards_of_another_scale_warns(
    working_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = play(GOAL_LINE)
    dry_run(load_config(write(GOALS, arrays)))
    assert not caplog.messages
    dry_run(load_config(write(GOALS, arrays | {"rewards": 100 * arrays["rewards"]})))
    (message,) = caplog.messages
    assert "demos.npz: rewards[0] is -100, but compute_reward gives -1 for it" in message


def test_hindsight_with_infos_is_refused(working_directory: Path) -> None:
    config = write(GOALS.replace("class: her", "class: {name: her, params: {copy_info_dict: true}}"), play(GOAL_LINE))
    with pytest.raises(Exception, match="copy_info_dict needs infos"):
        dry_run(load_config(config))
