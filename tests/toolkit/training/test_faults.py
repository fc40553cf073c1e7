"""Faults during training fail the run with a clear message, leave valid files, and do not prevent a resume."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_server import Command
from small_runs import find_differences
from support import PROJECT, Toolkit, files_in, terminal_process, toolkit_process

from toolkit import Run, load_config, train
from toolkit.envs import vec_env
from toolkit.envs.factory import make_vec_env
from toolkit.experiments.runner import run_job
from toolkit.snapshots import archive
from toolkit.snapshots.store import SnapshotStore
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import FaultyEnvironmentError, TrainingError

FAULTY = """\
import os
import signal
import threading
import time

import gymnasium as gym
import numpy as np

from toolkit.utils.memory import installed_memory


def in_the_process(fault):
    if fault == "raise":
        raise RuntimeError("the arm is stuck")
    if fault == "exit python":
        raise SystemExit(0)
    if fault == "exit":
        os._exit(7)
    if fault == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(600)
    if fault == "hoard":
        np.empty(installed_memory() * 5 // 4, np.uint8)


class Faulty(gym.Env):
    '''Episodes of ten steps; a fault in steps or resets, once it has stepped often enough, while `cause` is there.'''

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault="", where="step"):
        self.fault, self.where, self.steps = fault, where, 0
        with open("pids", "a") as file:
            print(os.getpid(), file=file)
        if where == "start":
            in_the_process(fault)

    def is_at(self, where):
        return self.fault and self.where == where and self.steps >= 60 and os.path.exists("cause")

    def observe(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        if self.is_at("reset"):
            in_the_process(self.fault)
            return {"NaN": (self.observe() * np.nan, {}), "None": None}[self.fault]
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        self.left -= 1
        if os.path.exists("slow"):
            time.sleep(0.015)
        if os.path.exists("stuck"):
            os.remove("stuck")
            time.sleep(600)
        answer = [self.observe(), 1.0, self.left == 0, False, {}]
        if self.is_at("step"):
            in_the_process(self.fault)
            answer = self.wrong(*answer)
        return None if answer is None else tuple(answer)

    def wrong(self, observation, reward, *rest):
        return {
            "NaN": [observation * np.nan, reward, *rest],
            "NaN at the end": [observation * (np.nan if rest[0] else 1), reward, *rest],
            "reward infinity": [observation, -np.inf, *rest],
            "reward None": [observation, None, *rest],
            "shape": [np.zeros(3, np.float32), reward, *rest],
            "text": [np.array(["a", "b"]), reward, *rest],
            "no observation": [None, reward, *rest],
            "four": [observation, reward, rest[0], rest[2]],
            "None": None,
            "no info": [observation, reward, *rest[:2], None],
            "a lock": [observation, reward, *rest[:2], {"lock": threading.Lock()}],
        }[self.fault]


if "Faulty-v0" not in gym.registry:
    gym.register("Faulty-v0", Faulty)
"""

CONFIG = """\
timesteps: 300
env:
  id: faulty:Faulty-v0
algorithm:
  name: double_dqn
  params: {learning_starts: 50, buffer_size: 400, batch_size: 16, target_update_interval: 100, compile: false}
  policy_params: {net_arch: [8]}
snapshots: {every_timesteps: 50}
"""

STEP = "the environment's step does not return observation, reward, terminated, truncated"
MESSAGES = {
    ("raise", "step"): "the arm is stuck",
    ("NaN", "step"): "observations that are not finite",
    ("NaN", "reset"): "observations that are not finite",
    ("NaN at the end", "step"): "last observations that are not finite",
    ("reward infinity", "step"): "rewards whose sum over an episode is not finite",
    ("reward None", "step"): "returns a reward that is not one number: NoneType",
    ("shape", "step"): "returns an observation of shape (3,) and type float32, not (2,) and numbers",
    ("text", "step"): "returns an observation of shape (2,) and type <U1, not (2,) and numbers",
    ("no observation", "step"): "returns an observation of shape () and type object",
    ("four", "step"): f"{STEP} and info: it returns (ndarray, float, bool, dict)",
    ("None", "step"): f"{STEP} and info: it returns NoneType",
    ("None", "reset"): "the environment's reset does not return an observation and a dict: it returns NoneType",
    ("no info", "step"): f"{STEP} and info: it returns (ndarray, float, bool, bool, NoneType)",
    ("a lock", "step"): "cannot pickle '_thread.lock' object",
}
SUBPROCESS_MESSAGES = {
    ("raise", "reset"): "environment 0 failed in its process: RuntimeError: the arm is stuck (",
    ("NaN", "step"): "observations that are not finite",
    ("None", "step"): f"environment 0: {STEP}",
    ("exit", "reset"): "the process of environment 0 ended with status 7",
    ("be killed", "step"): "the process of environment 0 was killed by SIGKILL",
    ("hang", "reset"): "environment 0 did not step within 0.5 s\nincrease env.step_timeout if it needs longer",
}


@pytest.fixture(autouse=True)
def faulty_environment(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config with an environment that is faulty as long as the file `cause` exists."""
    Path("faulty.py").write_text(FAULTY)
    Path("faulty.yaml").write_text(CONFIG)
    Path("cause").touch()
    monkeypatch.setenv("PYTHONPATH", str(working_directory))
    monkeypatch.syspath_prepend(str(working_directory))


@pytest.fixture(scope="session")
def intact_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the faulty environment without any fault."""
    directory = tmp_path_factory.mktemp("intact")
    (directory / "faulty.py").write_text(FAULTY)
    (directory / "faulty.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.syspath_prepend(str(directory))
        return train(load_config("faulty.yaml"), directory / "run").directory


def result_of(run: str | Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(run) / "result.json").read_text())
    return result


def running_processes() -> list[int]:
    """Return the processes of environments that still run."""
    return [pid for pid in map(int, Path("pids").read_text().split()) if is_running(pid)]


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended may still wait for its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def snapshots_of(run: str | Path) -> list[Path]:
    """Return the snapshots of a run, the latest first."""
    return [*archive.list_archives(Path(run) / "snapshots")]


def assert_failed_run(run: Path, n_envs: int = 1) -> None:
    """Check the result and the snapshots of a run that has failed."""
    result = result_of(run)
    rows = (run / "monitor.csv").read_text().splitlines()[2:]
    assert (result["status"], result["episodes"]) == ("failed", len(rows))
    assert 59 * n_envs <= result["timesteps"] <= 70 * n_envs
    assert [archive.read(snapshot) for snapshot in snapshots_of(run)]
    assert not [name for name in files_in(run) if "tmp" in name]
    assert (run / "traceback.txt").read_text().startswith(("Traceback", "toolkit"))


def subprocess_settings(**env: Any) -> list[str]:
    """Return overrides that put the environments into subprocesses."""
    settings = {"vec_env": "subproc", **env}
    return [part for key, value in settings.items() for part in ("--set", f"env.{key}={json.dumps(value)}")]


def step_until_error(**env: Any) -> str:
    """Step the faulty environments until an error, and return its text."""
    overrides = [f"env.{key}={json.dumps(value)}" for key, value in env.items()]
    venv = make_vec_env(load_config("faulty.yaml", overrides), seed=0)
    try:
        venv.reset()
        for _ in range(100):
            venv.step(np.zeros(venv.num_envs, int))
    except (FaultyEnvironmentError, RuntimeError, TypeError) as error:
        return str(error)
    finally:
        venv.close()
    raise AssertionError("the fault raised no error")


@pytest.mark.parametrize(("fault", "where"), MESSAGES)
def test_faulty_environment_raises_error_that_names_fault(fault: str, where: str) -> None:
    assert MESSAGES[fault, where] in step_until_error(params={"fault": fault, "where": where})


def test_faulty_return_value_is_named_inside_time_limit() -> None:
    assert f"{STEP} and info: it returns NoneType" in step_until_error(params={"fault": "None"}, max_episode_steps=50)


@pytest.mark.parametrize("fault", ["raise", "exit python", "NaN"])
def test_environment_fault_fails_run_and_resume_completes_it(fault: str, toolkit: Toolkit, intact_run: Path) -> None:
    failed = toolkit("train", "faulty.yaml", "--set", f"env.params={{fault: {fault}}}", "--out", "run", "--quiet")
    assert failed.status == 1
    message, hint = failed.err.splitlines()
    assert message.startswith("error: training failed at timestep ")
    assert {"raise": "RuntimeError: ", "exit python": "SystemExit: 0 (", "NaN": "not finite"}[fault] in message
    assert hint == "the traceback is in run/traceback.txt"
    assert_failed_run(Path("run"))
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert find_differences(intact_run, Path("run")) == []


@pytest.mark.parametrize(("fault", "where"), SUBPROCESS_MESSAGES)
def test_faulty_subprocess_environment_raises_error_and_ends_all_processes(fault: str, where: str) -> None:
    n_envs = 1 if fault == "be killed" else 3
    params = {"fault": fault, "where": where}
    error = step_until_error(vec_env="subproc", n_envs=n_envs, params=params, step_timeout=0.5)
    assert SUBPROCESS_MESSAGES[fault, where] in error
    assert len(Path("pids").read_text().split()) == n_envs
    assert running_processes() == []


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("raise", 2, "faulty.yaml:2: env: 'Faulty-v0' cannot be built: RuntimeError: the arm is stuck"),
        ("exit", 1, "error: the process of environment 0 ended with status 7"),
        ("hang", 1, "error: environment 0 did not start within 3 s"),
    ],
)
def test_subprocess_environment_that_does_not_start_creates_no_run(
    fault: str, status: int, message: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "hang":
        monkeypatch.setattr(vec_env, "_START_TIMEOUT", 3.0)  # long enough to import and to write `pids`
    settings = subprocess_settings(n_envs=2, params={"fault": fault, "where": "start"}, step_timeout=0.5)
    refused = toolkit("train", "faulty.yaml", *settings, "--out", "run")
    assert (refused.status, refused.err.splitlines()[0][: len(message)]) == (status, message)
    assert "Traceback" not in refused.err
    assert not Path("run").exists()
    assert running_processes() == []


@pytest.mark.parametrize("settings", [[], ["--set", "env.vec_env=subproc"]], ids=["in process", "subprocess"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [("exit python", "cannot be built: SystemExit: 0 ("), ("hoard", "does not fit into this machine's memory of ")],
)
def test_environment_that_cannot_be_built_is_reported_with_its_line(
    fault: str, message: str, settings: list[str], toolkit: Toolkit
) -> None:
    wrong = ["--set", f"env.params={{fault: {fault}, where: start}}", *settings]
    refused = toolkit("train", "faulty.yaml", *wrong, "--out", "run")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert refused.err.startswith(f"faulty.yaml:2: env: 'Faulty-v0' {message}")
    assert not Path("run").exists()


def test_replay_that_hangs_is_reported_and_new_episode_starts(
    toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    settings = subprocess_settings(params={"fault": "raise"}, step_timeout=0.5)
    assert toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet").status == 1
    Path("cause").unlink()
    Path("stuck").touch()
    assert toolkit("resume", "run", "--quiet").status == 0
    timeout = "environment 0 did not replay its episode within 1.5 s"  # a reset and two steps after timestep 50
    assert f"environment 0 cannot repeat its episode ({timeout}): a new episode starts" in caplog.messages
    assert {tuple(episode) for episode in Run.open(Path("run")).episodes} == {(10.0, 10)}
    assert running_processes() == []


def test_resume_after_killed_environment_process_gives_same_result(toolkit: Toolkit) -> None:
    env = subprocess_settings(n_envs=2, params={"fault": "be killed"})
    assert toolkit("train", "faulty.yaml", *env, "--out", "run", "--quiet").status == 1
    assert_failed_run(Path("run"), 2)
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert toolkit("train", "faulty.yaml", *env, "--out", "intact", "--quiet").status == 0
    assert find_differences(Path("intact"), Path("run")) == []


def test_close_ends_environment_processes_at_once() -> None:
    env = make_vec_env(load_config("faulty.yaml", ["env.vec_env=subproc", "env.n_envs=3"]), seed=0)
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 2
    assert running_processes() == []


SIMULATOR = """\
import subprocess

import gymnasium as gym


class Simulator(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.program = subprocess.Popen(["sleep", "600"])
        with open("pids", "a") as file:
            print(self.program.pid, file=file)

    def close(self):
        self.program.terminate()
        self.program.wait()
        super().close()


class Stuck(gym.Wrapper):
    def close(self):
        raise OSError("stuck")
"""


def test_subprocess_environment_can_terminate_its_own_program(toolkit: Toolkit) -> None:
    Path("simulator.py").write_text(SIMULATOR)
    settings = subprocess_settings(wrappers=["./simulator.py:Simulator"])
    assert toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet").status == 0
    assert len(Path("pids").read_text().split()) == 2
    assert running_processes() == []


def test_environment_that_does_not_close_costs_a_warning(toolkit: Toolkit, caplog: pytest.LogCaptureFixture) -> None:
    Path("simulator.py").write_text(SIMULATOR)
    wrapped = ["--set", "env.wrappers=['./simulator.py:Stuck']"]
    finished = toolkit("train", "faulty.yaml", *wrapped, "--out", "run", "--quiet")
    assert (finished.status, result_of("run")["status"]) == (0, "finished")
    assert "EpisodeRecorder does not close: OSError: stuck" in caplog.text


CALLBACKS = """\
import os
import signal
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from toolkit_plugins.success import MeanReturnSuccess


class Raises(BaseCallback):
    '''Raises in one of its hooks, the later ones once training is under way.'''

    def __init__(self, hook):
        super().__init__()
        self.hook = hook

    def reached(self, hook, timestep):
        if hook == self.hook and os.path.exists("cause") and self.num_timesteps >= timestep:
            raise RuntimeError("the sky falls")

    def _init_callback(self):
        self.reached("_init_callback", 0)

    def _on_training_start(self):
        self.reached("_on_training_start", 0)

    def _on_rollout_start(self):
        self.reached("_on_rollout_start", 60)

    def _on_step(self):
        self.reached("_on_step", 60)
        return True

    def _on_rollout_end(self):
        self.reached("_on_rollout_end", 60)

    def _on_training_end(self):
        self.reached("_on_training_end", 60)


class ToldTooLate(MeanReturnSuccess):
    '''Gets a signal in the last step, or while the result is written.'''

    def __init__(self, where):
        super().__init__(threshold=1e9)
        self.where = where

    def reached(self, where):
        if where == self.where:
            signal.raise_signal(signal.SIGTERM)

    def _on_step(self):
        if self.num_timesteps == 300:
            self.reached("the last step")
        return super()._on_step()

    def report(self):
        self.reached("the end")
        return super().report()


class Logs(BaseCallback):
    def _on_step(self):
        values = {"nan": np.nan, "infinity": np.inf, "none": None, "object": object(), "list": [1], "text": 'a,"b'}
        for name, value in values.items():
            self.logger.record(name, value)
        return True


class Fills(BaseCallback):
    '''Fills the disk, but for so many bytes, when half of training is over; empties it at `end`.'''

    def __init__(self, leave, end=None):
        super().__init__()
        self.leave, self.end = leave, end

    def _on_step(self):
        filler = Path(os.environ.get("DISK", ".")) / "filler"
        if self.num_timesteps == 150 and os.path.exists("cause"):
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 12))
                except OSError:
                    pass
            os.truncate(filler, max(0, filler.stat().st_size - self.leave))
        elif self.num_timesteps == self.end:
            filler.unlink()
        return True
"""


@pytest.fixture
def callbacks() -> None:
    Path("own.py").write_text(CALLBACKS)


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize(
    ("hook", "timestep"),
    [("_init_callback", 0), ("_on_rollout_start", 60), ("_on_rollout_end", 60), ("_on_training_end", 300)],
)
def test_callback_that_raises_fails_run_and_resume_completes_it(
    hook: str, timestep: int, toolkit: Toolkit, intact_run: Path
) -> None:
    settings = ["--set", f"callbacks=[{{name: './own.py:Raises', params: {{hook: {hook}}}}}]"]
    failed = toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet")
    assert failed.status == 1
    assert "RuntimeError: the sky falls (" in failed.err
    assert "Traceback" not in failed.err
    assert (result_of("run")["status"], result_of("run")["timesteps"]) == ("failed", timestep)
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert find_differences(intact_run, Path("run")) == []


@pytest.mark.usefixtures("callbacks")
def test_training_continues_after_callback_logs_unusual_values(toolkit: Toolkit) -> None:
    changes = ["callbacks=['./own.py:Logs']", "algorithm.name=ppo", "algorithm.params={n_steps: 64}"]
    settings = [part for change in changes for part in ("--set", change)]
    assert toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet").status == 0
    header, *rows = Path("run/progress.csv").read_text().splitlines()
    assert {"nan", "infinity", "text"} < {*header.split(",")}
    assert rows
    assert all("nan" in row and "inf" in row and '"a,""b"' in row for row in rows)


def fill_settings(leave: int, end: int | None = None) -> list[str]:
    """Return overrides that fill the disk except for some bytes; `end` is the timestep that empties it."""
    return ["--set", f"callbacks=[{{name: './own.py:Fills', params: {{leave: {leave}, end: {end or 'null'}}}}}]"]


@pytest.mark.usefixtures("callbacks")
def test_full_disk_costs_only_snapshots_while_logs_fit(
    disk: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISK", str(disk))
    finished = toolkit("train", "faulty.yaml", *fill_settings(12 << 10, 260), "--out", disk / "run", "--quiet")
    assert (finished.status, result_of(disk / "run")["status"]) == (0, "finished")
    messages = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in messages] == [f"no snapshot at timestep {n}" for n in (152, 200, 252)]
    assert all("No space left on device" in text for text in messages)
    assert snapshots_of(disk / "run")
    assert all(archive.read(snapshot) for snapshot in snapshots_of(disk / "run"))
    assert not [name for name in files_in(disk / "run") if "tmp" in name]


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("leave", [0, 12 << 10])
def test_run_on_full_disk_fails_and_resumes_when_there_is_room(
    leave: int,
    disk: Path,
    toolkit: Toolkit,
    monkeypatch: pytest.MonkeyPatch,
    intact_run: Path,
) -> None:
    monkeypatch.setenv("DISK", str(disk))
    run = disk / "run"
    finished = toolkit("train", "faulty.yaml", *fill_settings(leave), "--out", run, "--quiet")
    assert finished.status == 1
    assert f"No space left on device: '{run}/" in finished.err
    assert "Traceback" not in finished.err
    assert (run / "result.json").exists() or f"{run}: the result cannot be written: No space left" in finished.err
    assert not [name for name in files_in(run) if "tmp" in name]
    assert all(line.count(",") == 3 for line in (run / "monitor.csv").read_text().splitlines()[1:])
    assert all(archive.read(snapshot) for snapshot in snapshots_of(run))
    Path("cause").unlink()
    (disk / "filler").unlink()
    assert toolkit("resume", run, "--quiet").status == 0
    assert find_differences(intact_run, run) == []


@pytest.mark.usefixtures("callbacks")
def test_full_disk_costs_video_and_leaves_no_part_of_it(
    disk: Path,
    toolkit: Toolkit,
    caplog: pytest.LogCaptureFixture,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISK", str(disk))
    fill = "{name: './own.py:Fills', params: {leave: 8192, end: 260}}"
    film = "{name: record_video, params: {every_timesteps: 200, formats: [gif], tail: 200}}"
    finished = toolkit("train", config_file, "--set", f"callbacks=[{fill}, {film}]", "--out", disk / "run", "--quiet")
    assert (finished.status, result_of(disk / "run")["status"]) == (0, "finished")
    assert "no video was made" in caplog.text
    assert "No space left on device" in caplog.text
    assert files_in(disk / "run" / "videos") == set()


def test_read_only_directory_is_named(disk: Path, toolkit: Toolkit) -> None:
    wrong = "env.params={fault: raise}"
    assert toolkit("train", "faulty.yaml", "--set", wrong, "--out", disk / "run", "--quiet").status == 1
    before = {name: (disk / "run" / name).read_bytes() for name in files_in(disk / "run")}
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    started = toolkit("train", "faulty.yaml", "--out", disk / "new")
    assert started.status == 2
    assert started.err.startswith(f"error: {disk / 'new'}: cannot be created: Read-only file system\n")
    resumed = toolkit("resume", disk / "run")
    assert resumed.status == 2
    assert resumed.err.startswith(f"error: {disk / 'run'}: cannot be written to: Read-only file system\n")
    assert before == {name: (disk / "run" / name).read_bytes() for name in files_in(disk / "run")}


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def claim_terabyte(path: Path) -> None:
    """Claim a tensor of a terabyte, with correct checksums."""
    header = json.dumps({"0": {"dtype": "F64", "shape": [1 << 37], "data_offsets": [0, 1 << 40]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    sums = [f"{hashlib.sha256((path.parent / name).read_bytes()).hexdigest()}  {name}\n" for name in PARTS[:2]]
    (path.parent / "SHA256SUMS").write_text("".join(sums))


def remove_all(path: Path) -> None:
    for part in path.parent.iterdir():
        part.unlink()


PARTS = ["state.json", "arrays.safetensors", "SHA256SUMS"]
DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), PARTS),
    "empty": (lambda path: os.truncate(path, 0), PARTS),
    "a bit flipped": (flip_bit, PARTS),
    "missing": (Path.unlink, PARTS),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), PARTS),
    "all missing": (remove_all, PARTS[:1]),
    "a terabyte claimed": (claim_terabyte, PARTS[1:2]),
}


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that a callback has failed at timestep 60, with snapshots at 44 and 60."""
    directory = tmp_path_factory.mktemp("failed")
    for name, text in {"faulty.py": FAULTY, "faulty.yaml": CONFIG, "own.py": CALLBACKS, "cause": ""}.items():
        (directory / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.syspath_prepend(str(directory))
        callback = "callbacks=[{name: './own.py:Raises', params: {hook: _on_step}}]"
        with pytest.raises(TrainingError):
            train(load_config("faulty.yaml", [callback, "snapshots.every_timesteps=20"]), Path("run"))
    return directory / "run"


@pytest.fixture
def failed_copy(failed_run: Path) -> Path:
    """A copy of the failed run, `run` in the working directory, that can be resumed."""
    shutil.copy(failed_run.parent / "own.py", "own.py")
    Path("cause").unlink()
    return Path(shutil.copytree(failed_run, "run"))


@pytest.mark.parametrize(("damage", "name"), [(damage, name) for damage in DAMAGES for name in DAMAGES[damage][1]])
def test_damaged_snapshot_is_skipped_for_earlier_one(
    damage: str, name: str, failed_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latest, earlier, *_ = snapshots_of(failed_copy)
    expected = archive.read(earlier)
    DAMAGES[damage][0](latest / name)
    snapshot = SnapshotStore(failed_copy, Run.open(failed_copy).config).latest_valid()
    assert snapshot is not None
    assert snapshot["rollouts"] == expected["rollouts"]
    (message,) = caplog.messages
    assert message.startswith(str(latest))
    assert "is damaged" in message


def test_resume_with_damaged_snapshot_gives_same_result(
    failed_copy: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture, intact_run: Path
) -> None:
    latest, *_ = snapshots_of(failed_copy)
    flip_bit(latest / "arrays.safetensors")
    assert toolkit("resume", "run", "--quiet").status == 0
    assert len(caplog.messages) == 1
    assert find_differences(intact_run, failed_copy) == []


@pytest.mark.parametrize("name", PARTS)
def test_linked_snapshot_part_is_refused(name: str, failed_copy: Path, toolkit: Toolkit) -> None:
    latest, *_ = snapshots_of(failed_copy)
    content = (latest / name).read_bytes()
    (latest / name).rename("elsewhere")
    (latest / name).symlink_to(Path("elsewhere").resolve())
    refused = toolkit("resume", "run", "--quiet")
    assert (refused.status, refused.err.splitlines()[0].partition(", ")[0]) == (
        2,
        f"error: {latest / name}: is a link",
    )
    assert Path("elsewhere").read_bytes() == content


def test_resume_without_valid_snapshot_starts_from_beginning(
    failed_copy: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture, intact_run: Path
) -> None:
    for snapshot in snapshots_of(failed_copy):
        flip_bit(snapshot / "state.json")
    assert toolkit("resume", "run", "--quiet").status == 0
    assert "run: has no valid snapshot; training starts from the beginning" in caplog.text
    assert find_differences(intact_run, failed_copy) == []


def test_snapshots_larger_than_memory_are_not_deleted(failed_copy: Path, toolkit: Toolkit) -> None:
    snapshots = snapshots_of(failed_copy)
    for snapshot in snapshots:
        os.truncate(snapshot / "arrays.safetensors", 1 << 40)
    refused = toolkit("resume", "run", "--quiet")
    assert refused.status == 2
    assert f"{snapshots[-1] / 'arrays.safetensors'}: is too large to be read" in refused.err
    assert snapshots_of("run") == snapshots


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    """Start the command in a session of its own, as a terminal does; the test's end kills it."""
    commands: list[Any] = []

    def start_command(*arguments: str | Path) -> Any:
        commands.append(toolkit_process(arguments, session=True))
        return commands[-1]

    yield start_command
    for command in commands:
        command.kill()
        command.communicate()


def wait_for_episodes(process: Command, episodes: int = 3) -> None:
    """Wait until a run has completed some episodes."""

    def has_episodes() -> bool:
        assert process.poll() is None, process.communicate()
        monitor = Path("run/monitor.csv")
        return monitor.exists() and len(monitor.read_text().splitlines()) > 1 + episodes

    wait_until(has_episodes)


@contextmanager
def slow_steps() -> Iterator[None]:
    """Let every step take fifteen milliseconds."""
    Path("slow").touch()
    yield
    Path("slow").unlink()


Start = Callable[..., Command]
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "settings"),
    [(signal.SIGINT, subprocess_settings()), (signal.SIGTERM, subprocess_settings()), (signal.SIGHUP, [])],
    ids=["SIGINT, subprocesses", "SIGTERM, subprocesses", "SIGHUP"],
)
def test_signal_to_process_group_saves_run_that_resumes_the_same(
    number: signal.Signals, settings: list[str], start: Start, toolkit: Toolkit, intact_run: Path
) -> None:
    Path("cause").unlink()
    # at every timestep: the signal probably arrives while a snapshot is saved
    settings = [*settings, "--set", "snapshots.every_timesteps=1"]
    with slow_steps():
        process = start("train", "faulty.yaml", *settings, "--out", "run", "--quiet")
        wait_for_episodes(process)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == SIGNALS[number]
    assert errors == "warning: stopping at the next snapshot; a second signal stops at once\n"
    result = result_of("run")
    assert result["status"] == "interrupted"
    assert int(snapshots_of("run")[0].name) == result["timesteps"]
    assert archive.read(snapshots_of("run")[0])
    wait_until(lambda: not running_processes(), seconds=1)  # SIGTERM ends the fork server that started them
    assert toolkit("resume", "run", "--quiet").status == 0
    assert find_differences(intact_run, Path("run")) == []


SEARCH = f"""\
base: late.yaml
search: {{algorithm.params.gamma: {{choices: [0.5, 0.9]}}}}
trials: 2
seeds: [1, 2]
sampler: brute_force
pruner: none
objective: timesteps_to_success
launcher: {PROJECT}/tests/in_process_launcher.py:InProcessLauncher
"""


def late_signal(where: str) -> str:
    return f"callbacks=[{{name: './own.py:ToldTooLate', params: {{where: {where}}}}}]"


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("where", ["the last step", "the end"])
def test_signal_after_last_rollout_sets_exit_status(where: str, toolkit: Toolkit) -> None:
    finished = toolkit("train", "faulty.yaml", "--set", late_signal(where), "--out", "run", "--quiet")
    assert (finished.status, result_of("run")["status"]) == (143, "finished")


@pytest.mark.usefixtures("callbacks")
def test_signal_after_last_rollout_stops_evaluation() -> None:
    config = load_config("faulty.yaml", [late_signal("the end")]).to_document().data
    with pytest.raises(KeyboardInterrupt):
        run_job(Path("run"), config, 2)
    assert result_of("run")["status"] == "finished"
    assert not Path("run/evaluation.json").exists()
    run_job(Path("run"), config, 2)
    assert Path("run/evaluation.json").exists()


@pytest.mark.usefixtures("callbacks")
def test_signal_after_last_rollout_stops_search(toolkit: Toolkit) -> None:
    pytest.importorskip("optuna")
    Path("late.yaml").write_text(load_config("faulty.yaml", [late_signal("the last step")]).to_yaml())
    Path("search.yaml").write_text(SEARCH)
    stopped = toolkit("tune", "search.yaml")
    assert (stopped.status, "stopped: 0 of 2 trials" in stopped.out) == (130, True)
    assert [path.name for path in Path("tunings/search/workers/0/trial-0").glob("seed-*")] == ["seed-1"]
    stopped = toolkit("tune", "search.yaml")
    assert (stopped.status, "stopped: 1 of 2 trials" in stopped.out) == (130, True)


@pytest.mark.slow
def test_second_ctrl_c_stops_endless_step(start: Start) -> None:
    process = start("train", "faulty.yaml", "--set", "env.params={fault: hang}", "--out", "run", "--quiet")
    wait_for_episodes(process, 5)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert result_of("run")["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], subprocess_settings(n_envs=2)], ids=["in process", "subprocesses"])
def test_ctrl_c_before_training_leaves_no_files(settings: list[str], start: Start) -> None:
    changes = [*settings, "--set", "env.params={fault: hang, where: start}"]
    process = start("train", "faulty.yaml", *changes, "--out", "run", "--quiet")
    wait_until(Path("pids").exists)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not Path("run").exists()
    wait_until(lambda: not running_processes())


@pytest.mark.slow
def test_closed_terminal_saves_run(toolkit: Toolkit) -> None:
    with slow_steps():
        process, terminal = terminal_process("train", "faulty.yaml", "--out", "run")
        wait_for_episodes(process)
        os.close(terminal)
        assert process.wait(60) == 129
    assert result_of("run")["status"] == "interrupted"
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0


@pytest.mark.slow
def test_training_continues_after_output_is_closed(start: Start) -> None:
    with slow_steps():
        process = start("train", "faulty.yaml", "--out", "run")
        process.stderr.close()
        process.wait(60)
    assert result_of("run")["status"] == "finished"


def test_training_in_thread_leaves_signal_handlers_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    runs: list[RunDirectory] = []
    thread = threading.Thread(target=lambda: runs.append(train(load_config("faulty.yaml"), Path("run"))))
    thread.start()
    thread.join()
    assert runs[0].result is not None
    assert runs[0].result["status"] == "finished"
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.slow
def test_environment_processes_end_after_sigkill_of_training(start: Start) -> None:
    settings = subprocess_settings(n_envs=2, params={"fault": "hang"})
    process = start("train", "faulty.yaml", *settings, "--out", "run", "--quiet")
    wait_for_episodes(process, 10)
    process.kill()
    process.wait()
    wait_until(lambda: not running_processes(), seconds=20)


def inode(path: str) -> int | None:
    return Path(path).stat().st_ino if Path(path).exists() else None


@pytest.mark.slow
def test_run_directory_is_locked_against_second_process(start: Start, toolkit: Toolkit, intact_run: Path) -> None:
    Path("cause").unlink()
    with slow_steps():
        for first in (["train", "faulty.yaml", "--out", "run"], ["resume", "run"]):
            before = inode("run/monitor.csv")
            process = start(*first, "--quiet")
            wait_until(lambda: inode("run/monitor.csv") != before)  # noqa: B023
            wait_for_episodes(process)
            files = files_in(Path("run"))
            for second in (["resume", "run"], ["train", "faulty.yaml", "--out", "run"]):
                refused = toolkit(*second)
                assert (refused.status, refused.err.splitlines()[0]) == (2, "error: run: another process trains in it")
            changing = {name for name in files if "tmp" in name or "snapshots" in name}
            assert files <= files_in(Path("run")) | changing
            process.kill()
            process.wait()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert find_differences(intact_run, Path("run")) == []


@pytest.mark.slow
def test_only_one_of_two_simultaneous_processes_trains(start: Start) -> None:
    with slow_steps():
        both = [start("train", "faulty.yaml", "--out", "run", "--quiet") for _ in range(2)]
        errors = "".join(process.communicate(timeout=120)[1] for process in both)
    assert sorted(process.returncode for process in both) == [0, 2]
    assert "run: another process trains in it" in errors or "run: is not empty" in errors
    assert result_of("run")["status"] == "finished"


def test_jumping_clock_does_not_change_training(intact_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, real_ns = time.time, time.time_ns

    def jump() -> int:
        return 3 * 3600 * (int(time.monotonic() * 50) % 3 - 1)

    Path("cause").unlink()
    config = load_config("faulty.yaml", ["snapshots={every_minutes: 60}"])
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + jump())
        patch.setattr(time, "time_ns", lambda: real_ns() + jump() * 10**9)
        run = train(config, Path("run"))
    assert 0 < result_of("run")["seconds"] < time.monotonic() - start
    assert snapshots_of("run") == []
    assert all(0 <= float(row.split(",")[2]) < 60 for row in Path("run/monitor.csv").read_text().splitlines()[2:])
    assert find_differences(intact_run, run.directory) == []
