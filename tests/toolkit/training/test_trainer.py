"""Training writes a run directory, repeats exactly, and ends with a status."""

from __future__ import annotations

import csv
import json
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from support import SMALL_CONFIG, Toolkit, files_in, toolkit_process

from toolkit import Run, evaluate, load_config, train
from toolkit.algorithms import DoubleDQN
from toolkit.utils.errors import RunError, TrainingError

RESULT_KEYS = {"status", "seed", "timesteps", "episodes", "seconds", "mean_return", "success"}
CLOCK_COLUMNS = {"time/fps", "time/time_elapsed"}


class EpisodeNotes(BaseCallback):
    """Notes the episodes that SB3 itself sees: timestep of the start, environment, return and length."""

    def __init__(self) -> None:
        super().__init__()
        self.episodes: list[tuple[int, int, float, int]] = []
        self.starts: list[int] = []

    def _on_step(self) -> bool:
        n_envs = self.training_env.num_envs
        self.starts = self.starts or [0] * n_envs
        for index, info in enumerate(self.locals["infos"]):
            if episode := info.get("episode"):
                self.episodes.append((self.starts[index], index, episode["r"], episode["l"]))
                self.starts[index] = self.num_timesteps
        return True


class Failing(BaseCallback):
    """Raises at a timestep."""

    def _on_step(self) -> bool:
        if self.num_timesteps >= 100:
            raise ZeroDivisionError("on purpose")
        return True


def train_small_run(directory: Path, *overrides: str, callbacks: tuple[BaseCallback, ...] = ()) -> Run:
    """Train the small config into `directory/run`."""
    path = directory / "small.yaml"
    path.write_text(SMALL_CONFIG)
    return train(load_config(path, overrides), directory / "run", callbacks)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file, past a first line that is a comment."""
    lines = path.read_text().splitlines()
    return [*csv.DictReader(lines[1:] if lines and lines[0].startswith("#") else lines)]


def drop_columns(rows: list[dict[str, str]], columns: set[str]) -> list[dict[str, str]]:
    """Return rows without some columns."""
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def load_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Load a run's network as an SB3 user would."""
    return DoubleDQN.load(directory / "model.zip").policy.state_dict()


def is_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two networks have the same weights, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_same_training(first: Path, second: Path) -> None:
    """Compare everything that two runs have in common: all but wall-clock times."""
    assert is_equal(load_weights(first), load_weights(second))
    assert Run.open(first).episodes == Run.open(second).episodes
    rows, other_rows = read_rows(first / "progress.csv"), read_rows(second / "progress.csv")
    assert drop_columns(rows, CLOCK_COLUMNS) == drop_columns(other_rows, CLOCK_COLUMNS)
    assert [*rows[0]] == [*other_rows[0]]


@pytest.fixture(scope="module")
def notes() -> EpisodeNotes:
    return EpisodeNotes()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, notes: EpisodeNotes) -> Run:
    """The small config, trained once for the tests that only read."""
    return train_small_run(tmp_path_factory.mktemp("training"), callbacks=(notes,))


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Start commands that do not outlive the test."""
    commands: list[Any] = []

    def start_command(*arguments: str | Path, **options: Any) -> Any:
        commands.append(toolkit_process(arguments, **options))
        return commands[-1]

    yield start_command
    for command in commands:
        command.kill()
        command.communicate()


def wait_for_rows(monitor: Path, process: Any, rows: int = 3) -> None:
    """Wait until a training process has completed episodes."""
    deadline = time.monotonic() + 120
    while not (monitor.is_file() and monitor.read_text().count("\n") >= 2 + rows):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_run_directory_has_exactly_the_documented_files(run: Run) -> None:
    names = {name.partition("/")[0] for name in files_in(run.directory)}
    expected = {
        "config.yaml",
        "environment.json",
        "monitor.csv",
        "progress.csv",
        "tensorboard",
        "model.zip",
        "wrappers",
        "actions.csv",
    }
    assert names == expected | {"result.json"}
    assert any("tfevents" in path.name for path in (run.directory / "tensorboard").iterdir())


def test_result_has_status_seed_steps_and_mean_return(run: Run) -> None:
    result = json.loads((run.directory / "result.json").read_text())
    assert result == run.result
    assert result.keys() == RESULT_KEYS
    assert result["status"] == "finished"
    assert (result["seed"], result["timesteps"]) == (0, 304)  # Double DQN ends after whole `train_freq` steps
    assert result["episodes"] == len(read_rows(run.directory / "monitor.csv"))
    assert 0 < result["seconds"] < 60
    assert result["mean_return"] == pytest.approx(np.mean([raw_return for raw_return, _ in run.episodes[-100:]]))
    assert result["success"]["solved"] is False


def test_result_without_criterion_has_mean_return_and_null_success(tmp_path: Path) -> None:
    run = train_small_run(tmp_path, "callbacks=[]", "timesteps=120")
    returns = [raw_return for raw_return, _ in run.episodes]
    result = run.result or {}
    assert returns
    assert result["mean_return"] == sum(returns) / len(returns)
    assert result["success"] is None


def test_result_without_completed_episode_has_null_mean_return(tmp_path: Path) -> None:
    result = train_small_run(tmp_path, "callbacks=[]", "timesteps=4").result or {}
    assert (result["episodes"], result["mean_return"]) == (0, None)


def test_environment_json_has_versions_and_machine(run: Run) -> None:
    environment = json.loads((run.directory / "environment.json").read_text())
    for name in ("stable-baselines3", "gymnasium", "torch", "numpy"):
        assert environment["versions"][name] == version(name)
    assert {"versions", "packages", "platform", "cpu", "cores", "threads", "git_commit"} <= environment.keys()


def test_monitor_csv_has_sb3_format(run: Run) -> None:
    first, header, *rows = (run.directory / "monitor.csv").read_text().splitlines()
    assert first.startswith("#")
    assert json.loads(first[1:]).keys() == {"t_start", "env_id"}
    assert json.loads(first[1:])["env_id"] == "CartPole-v1"
    assert header == "r,l,t,timestep"
    times = [float(row.split(",")[2]) for row in rows]
    assert times == sorted(times)
    assert times[-1] <= (run.result or {})["seconds"]


def test_monitor_csv_has_raw_returns_in_order_of_start(run: Run, notes: EpisodeNotes) -> None:
    rows = [(float(row["r"]), int(row["l"])) for row in read_rows(run.directory / "monitor.csv")]
    assert rows == [episode[2:] for episode in sorted(notes.episodes) if episode[0] < min(notes.starts)]
    assert all(raw_return == length for raw_return, length in rows)  # CartPole pays 1 a step; the wrapper pays -1


def test_progress_csv_has_means_of_episodes_that_count(run: Run) -> None:
    episodes = read_rows(run.directory / "monitor.csv")
    progress = read_rows(run.directory / "progress.csv")
    for row in progress:
        timestep = int(row["time/total_timesteps"])
        returns = [float(episode["r"]) for episode in episodes if int(episode["timestep"]) <= timestep]
        means = [row.get(f"rollout/{name}", "") for name in ("ep_rew_mean", "ep_len_mean", "ep_shaped_rew_mean")]
        mean = np.mean(returns) if returns else None
        assert means == ([str(float(mean)), str(float(mean)), "-1.0"] if mean is not None else [""] * 3)
    assert progress[-1]["rollout/ep_rew_mean"]


def test_progress_csv_without_wrappers_has_no_shaped_return(tmp_path: Path) -> None:
    progress = read_rows(train_small_run(tmp_path, "env.wrappers=[]").directory / "progress.csv")
    assert "rollout/ep_rew_mean" in progress[0]
    assert "rollout/ep_shaped_rew_mean" not in progress[0]


def test_training_the_config_of_a_run_repeats_the_run(run: Run, toolkit: Toolkit) -> None:
    assert toolkit("train", run.directory / "config.yaml", "--out", "again").status == 0
    assert_same_training(run.directory, Path("again"))
    assert Path("again/config.yaml").read_bytes() == (run.directory / "config.yaml").read_bytes()


def test_accelerated_ppo_has_the_weights_of_sb3_but_for_rounding(tmp_path: Path) -> None:
    algorithm = "algorithm={name: ppo, params: {n_steps: 16, batch_size: 32}}"
    weights = []
    for accelerate in ("true", "false"):
        (tmp_path / accelerate).mkdir()
        run = train_small_run(tmp_path / accelerate, "timesteps=128", algorithm, f"algorithm.accelerate={accelerate}")
        with zipfile.ZipFile(run.directory / "model.zip") as archive:
            weights.append(torch.load(archive.open("policy.pth"), weights_only=True))
    assert not is_equal(*weights)
    for fast, plain in zip(*map(dict.values, weights), strict=True):
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["{name: ppo, params: {n_steps: 16, batch_size: 32}}", "a2c"])
def test_on_policy_algorithm_repeats_run(tmp_path: Path, algorithm: str) -> None:
    files = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        directory = train_small_run(tmp_path / name, "timesteps=128", f"algorithm={algorithm}").directory
        with zipfile.ZipFile(directory / "model.zip") as archive:
            network = torch.load(archive.open("policy.pth"), weights_only=True)
        files.append((drop_columns(read_rows(directory / "monitor.csv"), {"t"}), network))
    assert files[0][0] == files[1][0]
    assert is_equal(files[0][1], files[1][1])


def test_other_seed_gives_other_run(run: Run, config_file: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", config_file, "--seed", "1", "--out", "other").status == 0
    assert not is_equal(load_weights(run.directory), load_weights(Path("other")))
    assert run.episodes != Run.open(Path("other")).episodes
    assert (Run.open(Path("other")).result or {})["seed"] == 1


def test_quiet_prints_only_run_directory(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", config_file, "--quiet", "--out", "mine")
    assert (finished.status, finished.out, finished.err) == (0, "mine\n", "")


def test_train_prints_run_directory_and_next_commands(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", config_file)
    assert finished.status == 0
    assert "runs/small-1" in finished.out
    assert "evaluate runs/small-1" in finished.out


def test_train_refuses_nonempty_directory(config_file: Path, toolkit: Toolkit) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep me")
    finished = toolkit("train", config_file, "--out", "mine")
    assert finished.status == 2
    assert "mine: is not empty" in finished.err
    assert files_in(Path("mine")) == {"notes.txt"}
    with pytest.raises(RunError):
        train(load_config(config_file), Path("mine"))


def test_sb3_loads_and_trains_saved_model(run: Run) -> None:
    env = gym.make("CartPole-v1")
    model = DoubleDQN.load(run.directory / "model.zip", env=env)
    assert model.num_timesteps == 304
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(int(action))
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps >= 324


def test_sb3_callback_from_file_stops_training(toolkit: Toolkit) -> None:
    Path("mine.py").write_text(
        "from stable_baselines3.common.callbacks import BaseCallback\n\n\n"
        "class StopAt(BaseCallback):\n"
        "    def __init__(self, timestep: int):\n"
        "        super().__init__()\n"
        "        self.timestep = timestep\n\n"
        "    def _on_step(self) -> bool:\n"
        "        return self.num_timesteps < self.timestep\n"
    )
    callbacks = "callbacks:\n  - name: ./mine.py:StopAt\n    params: {timestep: 40}\n"
    Path("small.yaml").write_text(SMALL_CONFIG.partition("callbacks:")[0] + callbacks)
    assert toolkit("train", "small.yaml", "--out", "mine").status == 0
    result = Run.open(Path("mine")).result or {}
    assert (result["status"], result["timesteps"]) == ("finished", 40)


@pytest.mark.parametrize(
    ("algorithm", "extra"),
    [
        ("{name: ars, policy: LinearPolicy, params: {n_delta: 2}}", 1),
        ("{name: ppo, params: {n_steps: 64}}", 0),
        ("{name: double_dqn, params: {train_freq: 50}}", 0),
    ],
)
def test_met_criterion_stops_every_algorithm(tmp_path: Path, algorithm: str, extra: int) -> None:
    overrides = [f"algorithm={algorithm}", "env.n_envs=1", "timesteps=5000", "env.wrappers=[]"]
    run = train_small_run(tmp_path, *overrides, "callbacks=[{name: success, params: {threshold: 1, episodes: 2}}]")
    result = run.result or {}
    assert result["status"] == "success"
    assert (result["episodes"], result["success"]["episode"]) == (2, 2)
    steps = sum(int(row["l"]) for row in read_rows(run.directory / "monitor.csv"))
    assert result["success"]["timestep"] == steps
    assert result["timesteps"] <= steps + extra  # ARS does not listen; the step that follows ends it
    assert run.model_path.is_file()


def test_failing_callback_raises_training_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"failed at timestep 100: ZeroDivisionError: on purpose") as caught:
        train_small_run(tmp_path, callbacks=(Failing(),))
    assert caught.value.exit_status == 1
    directory = tmp_path / "run"
    result = Run.open(directory).result or {}
    assert result.keys() == RESULT_KEYS
    assert (result["status"], result["timesteps"]) == ("failed", 100)
    trace = (directory / "traceback.txt").read_text()
    assert trace.startswith("Traceback")
    assert trace.endswith("ZeroDivisionError: on purpose\n")
    assert DoubleDQN.load(directory / "model.zip").num_timesteps == 100


def test_failed_run_exits_with_1_and_one_message(toolkit: Toolkit) -> None:
    Path("mine.py").write_text(
        "from stable_baselines3.common.callbacks import BaseCallback\n\n\n"
        "class Failing(BaseCallback):\n"
        "    def _on_step(self) -> bool:\n"
        "        raise RuntimeError('on purpose')\n"
    )
    Path("small.yaml").write_text(SMALL_CONFIG.partition("callbacks:")[0] + "callbacks: ['./mine.py:Failing']\n")
    finished = toolkit("train", "small.yaml", "--quiet")
    assert (finished.status, finished.out) == (1, "")
    assert "on purpose" in finished.err
    assert "runs/small-1/traceback.txt" in finished.err
    assert "Traceback" not in finished.err
    assert len(finished.err.splitlines()) == 2


def test_require_success_exits_with_3_if_not_met(config_file: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", config_file, "--require-success").status == 3
    assert (Run.newest().result or {})["status"] == "finished"


def test_require_success_exits_with_0_if_met(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit(
        "train", config_file, "--require-success", "--set", "callbacks.0.params={threshold: 5, episodes: 5}"
    )
    assert finished.status == 0
    assert finished.out.startswith("solved")
    assert (Run.newest().result or {})["status"] == "success"


def test_require_success_without_criterion_is_refused(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", config_file, "--require-success", "--set", "callbacks=[]")
    assert finished.status == 2
    assert "needs a success criterion" in finished.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_hash_seed_of_python_does_not_change_run(run: Run, config_file: Path, start: Callable[..., Any]) -> None:
    process = start("train", config_file, "--quiet", PYTHONHASHSEED="1")
    assert process.communicate(timeout=120)[0].strip() == "runs/small-1"
    assert_same_training(Path("runs/small-1"), run.directory)


@pytest.mark.slow
def test_ctrl_c_saves_model_and_exits_with_130(config_file: Path, start: Callable[..., Any]) -> None:
    process = start("train", config_file, "--out", "mine", "--set", "timesteps=10_000_000")
    wait_for_rows(Path("mine/monitor.csv"), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in out
    assert "mine" in out
    result = Run.open(Path("mine")).result or {}
    assert result.keys() == RESULT_KEYS
    assert result["status"] == "interrupted"
    assert result["episodes"] == len(read_rows(Path("mine/monitor.csv")))
    assert DoubleDQN.load("mine/model.zip").num_timesteps == result["timesteps"]
    assert not [name for name in files_in(Path("mine")) if "tmp" in name]


def assert_complete(path: Path) -> None:
    """Check one file of a run that was killed."""
    match path.suffix:
        case ".json":
            json.loads(path.read_text())
        case ".yaml":
            load_config(path)
        case ".csv":
            text = path.read_text()
            assert text.endswith("\n")
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            assert {line.count(",") for line in lines} in (set(), {lines[0].count(",") if lines else 0})
        case ".zip":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None


@pytest.mark.slow
@pytest.mark.parametrize(("timesteps", "moment"), [(10_000_000, "in training"), (1_000, "while saving")])
def test_sigkill_leaves_only_complete_files(
    timesteps: int, moment: str, config_file: Path, start: Callable[..., Any]
) -> None:
    run = Path("run")
    process = start("train", config_file, "--out", run, "--set", f"timesteps={timesteps}")
    if moment == "in training":
        wait_for_rows(run / "monitor.csv", process)
    else:
        while process.poll() is None and not any("model" in path.name for path in run.glob("*")):
            time.sleep(0.001)
    process.kill()
    process.wait()
    files = [path for path in run.rglob("*") if path.is_file() and "tmp" not in path.name]
    assert {"config.yaml", "environment.json", "monitor.csv"} <= {path.name for path in files}
    for path in files:
        assert_complete(path)
    if moment == "in training":
        with pytest.raises(RunError, match=r"has no model\.zip"):
            evaluate(Run.open(run), 1)
