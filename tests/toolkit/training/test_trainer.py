"""A config to a run directory: what is in it, that it repeats, and how training ends."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from support import SMALL_CONFIG, Toolkit, files_in, toolkit_process

from toolkit import Run, evaluate, load_config, train
from toolkit.algorithms import DoubleDQN
from toolkit.utils.errors import RunError, TrainingError

RESULT_KEYS = {"status", "seed", "timesteps", "episodes", "seconds", "mean_return", "success"}
CLOCK_COLUMNS = {"time/fps", "time/time_elapsed"}


class EpisodeEnds(BaseCallback):
    """Notes the episodes that SB3 itself sees, environment by environment."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[float, int]] = []

    def _on_step(self) -> bool:
        self.ends += [
            (info["episode"]["r"], info["episode"]["l"]) for info in self.locals["infos"] if "episode" in info
        ]
        return True


class Failing(BaseCallback):
    """Raises at a timestep."""

    def _on_step(self) -> bool:
        if self.num_timesteps >= 100:
            raise ZeroDivisionError("on purpose")
        return True


def small_run(directory: Path, *overrides: str, callbacks: tuple[BaseCallback, ...] = ()) -> Run:
    """Train the small config into `directory/run`."""
    path = directory / "small.yaml"
    path.write_text(SMALL_CONFIG)
    return train(load_config(path, overrides), directory / "run", callbacks)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV file, past a first line that is a comment."""
    lines = path.read_text().splitlines()
    return [*csv.DictReader(lines[1:] if lines and lines[0].startswith("#") else lines)]


def without(rows: list[dict[str, str]], columns: set[str]) -> list[dict[str, str]]:
    """Leave columns out of rows."""
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Load a run's network as an SB3 user would."""
    return DoubleDQN.load(directory / "model.zip").policy.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two networks are bit for bit the same."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_same_training(one: Path, other: Path) -> None:
    """Compare all that two runs should have in common: everything but the clock."""
    assert equal(weights(one), weights(other))
    assert without(rows_of(one / "monitor.csv"), {"t"}) == without(rows_of(other / "monitor.csv"), {"t"})
    progress, other_progress = rows_of(one / "progress.csv"), rows_of(other / "progress.csv")
    assert without(progress, CLOCK_COLUMNS) == without(other_progress, CLOCK_COLUMNS)
    assert [*progress[0]] == [*other_progress[0]]


@pytest.fixture(scope="module")
def ends() -> EpisodeEnds:
    return EpisodeEnds()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ends: EpisodeEnds) -> Run:
    """The small config, trained once for the tests that only look."""
    return small_run(tmp_path_factory.mktemp("training"), callbacks=(ends,))


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Collect processes that must not outlive the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def wait_for_rows(monitor: Path, process: subprocess.Popen[str], rows: int = 3) -> None:
    """Wait until a training process has completed episodes."""
    deadline = time.monotonic() + 120
    while not (monitor.is_file() and monitor.read_text().count("\n") >= 2 + rows):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_directory_has_the_files_that_the_design_names(run: Run) -> None:
    names = {name.partition("/")[0] for name in files_in(run.directory)}
    expected = {"config.yaml", "environment.json", "monitor.csv", "progress.csv", "tensorboard", "model.zip"}
    assert names == expected | {"result.json"}
    assert any("tfevents" in path.name for path in (run.directory / "tensorboard").iterdir())


def test_the_result_says_how_training_ended(run: Run) -> None:
    result = json.loads((run.directory / "result.json").read_text())
    assert result == run.result
    assert result.keys() == RESULT_KEYS
    assert result["status"] == "finished"
    assert (result["seed"], result["timesteps"]) == (0, 304)  # Double DQN ends after whole `train_freq` steps
    assert result["episodes"] == len(rows_of(run.directory / "monitor.csv"))
    assert 0 < result["seconds"] < 60
    assert result["success"]["solved"] is False


def test_result_without_criterion_has_mean_return_and_null_success(tmp_path: Path) -> None:
    run = small_run(tmp_path, "callbacks=[]", "timesteps=120")
    returns = [raw_return for raw_return, _ in run.episodes]
    result = run.result or {}
    assert returns
    assert result["mean_return"] == sum(returns) / len(returns)
    assert result["success"] is None


def test_result_without_completed_episode_has_null_mean_return(tmp_path: Path) -> None:
    result = small_run(tmp_path, "callbacks=[]", "timesteps=4").result or {}
    assert (result["episodes"], result["mean_return"]) == (0, None)


def test_the_environment_file_has_the_versions_that_were_used(run: Run) -> None:
    environment = json.loads((run.directory / "environment.json").read_text())
    for name in ("stable-baselines3", "gymnasium", "torch", "numpy"):
        assert environment["versions"][name] == version(name)
    assert {"versions", "packages", "platform", "cores", "git_commit"} <= environment.keys()


def test_monitor_csv_is_in_the_format_of_sb3(run: Run) -> None:
    first, header, *rows = (run.directory / "monitor.csv").read_text().splitlines()
    assert first.startswith("#")
    assert json.loads(first[1:]).keys() == {"t_start", "env_id"}
    assert json.loads(first[1:])["env_id"] == "CartPole-v1"
    assert header == "r,l,t"
    times = [float(row.split(",")[2]) for row in rows]
    assert times == sorted(times)
    assert times[-1] <= (run.result or {})["seconds"]


def test_monitor_csv_has_the_raw_returns_in_the_order_of_completion(run: Run, ends: EpisodeEnds) -> None:
    rows = [(float(row["r"]), int(row["l"])) for row in rows_of(run.directory / "monitor.csv")]
    assert rows == ends.ends
    assert all(raw_return == length for raw_return, length in rows)  # CartPole pays 1 a step; the wrapper pays -1


def test_progress_csv_has_the_raw_and_the_shaped_mean_return_under_their_own_names(run: Run) -> None:
    returns = [float(row["r"]) for row in rows_of(run.directory / "monitor.csv")]
    progress = rows_of(run.directory / "progress.csv")
    for row in progress:
        completed = int(row["time/episodes"])
        assert float(row["rollout/ep_rew_mean"]) == pytest.approx(sum(returns[:completed]) / completed)
        assert float(row["rollout/ep_shaped_rew_mean"]) == -1.0
    assert progress


def test_without_wrappers_no_shaped_return_is_logged(tmp_path: Path) -> None:
    progress = rows_of(small_run(tmp_path, "env.wrappers=[]").directory / "progress.csv")
    assert "rollout/ep_rew_mean" in progress[0]
    assert "rollout/ep_shaped_rew_mean" not in progress[0]


def test_the_same_config_and_seed_give_the_same_run(run: Run, tmp_path: Path) -> None:
    assert_same_training(run.directory, small_run(tmp_path).directory)


def test_training_on_the_config_of_a_run_repeats_the_run(run: Run, toolkit: Toolkit) -> None:
    assert toolkit("train", run.directory / "config.yaml", "--out", "again").status == 0
    assert_same_training(run.directory, Path("again"))
    assert Path("again/config.yaml").read_bytes() == (run.directory / "config.yaml").read_bytes()


@pytest.mark.parametrize("algorithm", ["{name: ppo, params: {n_steps: 16, batch_size: 32}}", "a2c"])
def test_other_algorithms_repeat_too(tmp_path: Path, algorithm: str) -> None:
    files = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        directory = small_run(tmp_path / name, "timesteps=128", f"algorithm={algorithm}").directory
        with zipfile.ZipFile(directory / "model.zip") as archive:
            network = torch.load(archive.open("policy.pth"), weights_only=True)
        files.append((without(rows_of(directory / "monitor.csv"), {"t"}), network))
    assert files[0][0] == files[1][0]
    assert equal(files[0][1], files[1][1])


def test_another_seed_gives_another_run(run: Run, config_file: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", config_file, "--seed", "1", "--out", "other").status == 0
    assert not equal(weights(run.directory), weights(Path("other")))
    assert without(rows_of(run.directory / "monitor.csv"), {"t"}) != without(rows_of(Path("other/monitor.csv")), {"t"})
    assert (Run.open(Path("other")).result or {})["seed"] == 1


def test_the_runs_of_a_config_are_numbered(config_file: Path, toolkit: Toolkit) -> None:
    printed = [toolkit("train", config_file, "--quiet", "--set", "timesteps=20").out for _ in range(2)]
    assert printed == ["runs/small-1\n", "runs/small-2\n"]
    assert {path.name for path in Path("runs").iterdir()} == {"small-1", "small-2"}


def test_quiet_prints_the_run_directory_and_nothing_else(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file, "--quiet", "--out", "mine")
    assert (done.status, done.out, done.err) == (0, "mine\n", "")


def test_training_prints_the_run_directory_and_what_to_do_next(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file)
    assert done.status == 0
    assert "runs/small-1" in done.out
    assert "evaluate runs/small-1" in done.out


def test_a_directory_that_is_not_empty_is_refused_before_training(config_file: Path, toolkit: Toolkit) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep me")
    done = toolkit("train", config_file, "--out", "mine")
    assert done.status == 2
    assert "mine: is not empty" in done.err
    assert files_in(Path("mine")) == {"notes.txt"}
    with pytest.raises(RunError):
        train(load_config(config_file), Path("mine"))


def test_a_model_opens_as_any_model_of_sb3(run: Run) -> None:
    env = gym.make("CartPole-v1")
    model = DoubleDQN.load(run.directory / "model.zip", env=env)
    assert model.num_timesteps == 304
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(int(action))
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps >= 324


def test_a_plain_sb3_callback_in_a_file_beside_the_config_is_called(toolkit: Toolkit) -> None:
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
def test_a_criterion_that_is_met_stops_every_algorithm(tmp_path: Path, algorithm: str, extra: int) -> None:
    overrides = [f"algorithm={algorithm}", "env.n_envs=1", "timesteps=5000", "env.wrappers=[]"]
    run = small_run(tmp_path, *overrides, "callbacks=[{name: success, params: {threshold: 1, episodes: 2}}]")
    result = run.result or {}
    assert result["status"] == "success"
    assert (result["episodes"], result["success"]["episode"]) == (2, 2)
    steps = sum(int(row["l"]) for row in rows_of(run.directory / "monitor.csv"))
    assert result["success"]["timestep"] == steps
    assert result["timesteps"] <= steps + extra  # ARS does not listen; the step that follows ends it
    assert run.model_path.is_file()


def test_a_callback_that_fails_ends_the_run_with_a_training_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"failed at timestep 100: ZeroDivisionError: on purpose") as caught:
        small_run(tmp_path, callbacks=(Failing(),))
    assert caught.value.exit_status == 1
    directory = tmp_path / "run"
    result = Run.open(directory).result or {}
    assert result.keys() == RESULT_KEYS
    assert (result["status"], result["timesteps"]) == ("failed", 100)
    trace = (directory / "traceback.txt").read_text()
    assert trace.startswith("Traceback")
    assert trace.endswith("ZeroDivisionError: on purpose\n")
    assert DoubleDQN.load(directory / "model.zip").num_timesteps == 100


def test_a_run_that_fails_exits_with_1_and_one_message(toolkit: Toolkit) -> None:
    Path("mine.py").write_text(
        "from stable_baselines3.common.callbacks import BaseCallback\n\n\n"
        "class Failing(BaseCallback):\n"
        "    def _on_step(self) -> bool:\n"
        "        raise RuntimeError('on purpose')\n"
    )
    Path("small.yaml").write_text(SMALL_CONFIG.partition("callbacks:")[0] + "callbacks: ['./mine.py:Failing']\n")
    done = toolkit("train", "small.yaml", "--quiet")
    assert (done.status, done.out) == (1, "")
    assert "on purpose" in done.err
    assert "runs/small-1/traceback.txt" in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 2


def test_a_required_success_that_was_not_met_exits_with_3(config_file: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", config_file, "--require-success").status == 3
    assert (Run.newest().result or {})["status"] == "finished"


def test_a_required_success_that_was_met_exits_with_0(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file, "--require-success", "--set", "callbacks.0.params.threshold=5")
    assert done.status == 0
    assert done.out.startswith("solved")
    assert (Run.newest().result or {})["status"] == "success"


def test_a_required_success_needs_a_criterion(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file, "--require-success", "--set", "callbacks=[]")
    assert done.status == 2
    assert "needs a success criterion" in done.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_processes_started_at_once_get_their_own_directories_and_the_hash_seed_changes_nothing(
    config_file: Path, processes: list[subprocess.Popen[str]]
) -> None:
    for hash_seed in ("1", "2"):
        processes.append(toolkit_process(["train", config_file, "--quiet"], PYTHONHASHSEED=hash_seed))
    printed = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert printed == {"runs/small-1", "runs/small-2"}
    assert_same_training(Path("runs/small-1"), Path("runs/small-2"))


@pytest.mark.slow
def test_an_interrupted_run_saves_its_model_and_exits_with_130(
    config_file: Path, processes: list[subprocess.Popen[str]]
) -> None:
    process = toolkit_process(
        [
            "train",
            config_file,
            "--out",
            "mine",
            "--set",
            "timesteps=10_000_000",
            "--set",
            "algorithm.params.compile=false",
        ]
    )
    processes.append(process)
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
    assert result["episodes"] == len(rows_of(Path("mine/monitor.csv")))
    assert DoubleDQN.load("mine/model.zip").num_timesteps == result["timesteps"]
    assert not [name for name in files_in(Path("mine")) if "tmp" in name]


def assert_whole(path: Path) -> None:
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
def test_every_file_of_a_run_that_was_killed_is_whole(
    config_file: Path, processes: list[subprocess.Popen[str]]
) -> None:
    directories = [Path(f"run-{number}") for number in range(3)]
    for directory, timesteps in zip(directories, (10_000_000, 10_000_000, 1_000), strict=True):
        processes.append(
            toolkit_process(["train", config_file, "--out", directory, "--set", f"timesteps={timesteps}"])
        )

    def kill_after(seconds: float, directory: Path, process: subprocess.Popen[str]) -> None:
        wait_for_rows(directory / "monitor.csv", process, rows=1)
        time.sleep(seconds)
        process.kill()
        process.wait()

    def kill_while_saving(directory: Path, process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not any("model" in path.name for path in directory.glob("*")):
            time.sleep(0.001)
        process.kill()
        process.wait()

    with ThreadPoolExecutor(3) as pool:
        kills = [
            pool.submit(kill_after, seconds, directories[n], processes[n]) for n, seconds in ((0, 0.01), (1, 0.4))
        ]
        kills.append(pool.submit(kill_while_saving, directories[2], processes[2]))
        for kill in kills:
            kill.result()
    for directory in directories:
        found = [path for path in directory.rglob("*") if path.is_file() and "tmp" not in path.name]
        assert {"config.yaml", "environment.json", "monitor.csv"} <= {path.name for path in found}
        for path in found:
            assert_whole(path)
    with pytest.raises(RunError, match=r"has no model\.zip"):
        evaluate(Run.open(directories[0]), 1)
