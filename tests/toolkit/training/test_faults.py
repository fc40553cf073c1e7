"""What goes wrong around training ends it clearly, leaves what is true, and can be gone on from."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PROJECT, Toolkit, files_in, terminal_process, toolkit_process
from trained import differences

from toolkit import Run, load_config, train
from toolkit.envs import vec_env
from toolkit.experiments.runner import run_job
from toolkit.snapshots import archive

FAULTY = """\
import ctypes
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
    if fault == "segfault":
        ctypes.string_at(0)
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
            time.sleep(600)
        answer = [self.observe(), 1.0, self.left == 0, False, {}]
        if self.is_at("step"):
            in_the_process(self.fault)
            answer = self.wrong(*answer)
        return None if answer is None else tuple(answer)

    def wrong(self, observation, reward, *rest):
        return {
            "NaN": [observation * np.nan, reward, *rest],
            "infinity": [observation + np.inf, reward, *rest],
            "NaN at the end": [observation * (np.nan if rest[0] else 1), reward, *rest],
            "reward NaN": [observation, np.nan, *rest],
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
  params: {learning_starts: 50, buffer_size: 400, batch_size: 16, target_update_interval: 100}
  policy_params: {net_arch: [8]}
snapshots: {every_timesteps: 50}
"""

# what is wrong, where, and what is said of it
WRONG = {
    ("raise", "step"): "RuntimeError: the arm is stuck (",
    ("raise", "reset"): "RuntimeError: the arm is stuck (",
    ("exit python", "step"): "SystemExit: 0 (",
    ("NaN", "step"): "observations that are not finite",
    ("NaN", "reset"): "observations that are not finite",
    ("NaN at the end", "step"): "last observations that are not finite",
    ("infinity", "step"): "observations that are not finite",
    ("reward NaN", "step"): "rewards that are not finite",
    ("reward infinity", "step"): "rewards that are not finite",
    ("reward None", "step"): "the environment's step does not return observation, reward, terminated, truncated",
    ("shape", "step"): "gives an observation of shape (3,) and type float32, not (2,) and numbers",
    ("text", "step"): "gives an observation of shape (2,) and type <U1, not (2,) and numbers",
    ("no observation", "step"): "gives an observation of shape () and type object",
    ("four", "step"): "the environment's step does not return observation, reward, terminated, truncated",
    ("None", "step"): "the environment's step does not return observation, reward, terminated, truncated",
    ("None", "reset"): "the environment's reset does not return an observation and a dict",
    ("no info", "step"): "the environment's step does not return observation, reward, terminated, truncated",
    ("a lock", "step"): "cannot pickle '_thread.lock' object",
}
APART = {
    ("exit", "step"): "the process of environment 0 ended with status 7",
    ("exit", "reset"): "the process of environment 0 ended with status 7",
    ("be killed", "step"): "the process of environment 0 was killed by SIGKILL",
    ("segfault", "step"): "the process of environment 0 was killed by SIGSEGV",
    ("hang", "step"): "environment 0 did not step within 0.5 s; env.step_timeout says how long it may take",
    ("hang", "reset"): "environment 0 did not step within 0.5 s; env.step_timeout says how long it may take",
}


@pytest.fixture(autouse=True)
def here(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config of an environment that goes wrong while there is a file `cause`."""
    Path("faulty.py").write_text(FAULTY)
    Path("faulty.yaml").write_text(CONFIG)
    Path("cause").touch()
    monkeypatch.setenv("PYTHONPATH", str(working_directory))
    monkeypatch.syspath_prepend(str(working_directory))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the faulty environment that nothing went wrong in."""
    directory = tmp_path_factory.mktemp("undisturbed")
    for name, text in {"faulty.py": FAULTY, "faulty.yaml": CONFIG}.items():
        (directory / name).write_text(text)
    env = {**os.environ, "PYTHONPATH": str(directory)}
    command = [Path(sys.executable).parent / "toolkit", "train", "faulty.yaml", "--out", "run", "--quiet"]
    subprocess.run(command, cwd=directory, env=env, check=True, capture_output=True)
    return directory / "run"


def result_of(run: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(run) / "result.json").read_text())
    return found


def processes() -> list[int]:
    """Return the processes that environments have run in and that still run."""
    return [pid for pid in map(int, Path("pids").read_text().split()) if runs(pid)]


def runs(pid: int) -> bool:
    """Say whether a process runs; of one that has ended nobody may have asked yet how."""
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
    return [*archive.list_archives(Path(run) / "snapshots")]


def assert_failed_truly(run: Path, n_envs: int = 1) -> None:
    """A run that has failed says how far it came, and its snapshots are whole."""
    result = result_of(run)
    rows = (run / "monitor.csv").read_text().splitlines()[2:]
    assert (result["status"], result["episodes"]) == ("failed", len(rows))
    assert 59 * n_envs <= result["timesteps"] <= 70 * n_envs
    assert [archive.read(one) for one in snapshots_of(run)]
    assert not [name for name in files_in(run) if "tmp" in name]
    assert (run / "traceback.txt").read_text().startswith(("Traceback", "toolkit"))


@pytest.mark.parametrize(("fault", "where"), WRONG)
def test_an_environment_that_goes_wrong_fails_the_run_which_goes_on_when_it_is_mended(
    fault: str, where: str, toolkit: Toolkit, undisturbed: Path
) -> None:
    wrong = f"env.params={{fault: {fault}, where: {where}}}"
    done = toolkit("train", "faulty.yaml", "--set", wrong, "--out", "run", "--quiet")
    assert done.status == 1
    message, hint = done.err.splitlines()
    assert message.startswith("error: training failed at timestep ")
    assert WRONG[fault, where] in message
    assert hint == "the traceback is in run/traceback.txt"
    assert_failed_truly(Path("run"))
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert differences(undisturbed, Path("run")) == []


def apart(**env: Any) -> list[str]:
    """Put environments into processes of their own."""
    settings = {"vec_env": "subproc", **env}
    return [part for key, value in settings.items() for part in ("--set", f"env.{key}={json.dumps(value)}")]


@pytest.mark.parametrize(
    ("fault", "where", "n_envs"),
    [
        *((*one, 3) for one in APART),
        ("exit", "step", 1),
        ("hang", "step", 1),
        ("raise", "reset", 3),
        ("NaN", "step", 3),
    ],
)
def test_so_does_one_in_a_process_of_its_own_of_which_nothing_stays(
    fault: str, where: str, n_envs: int, toolkit: Toolkit
) -> None:
    settings = apart(n_envs=n_envs, params={"fault": fault, "where": where}, step_timeout=0.5)
    done = toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet")
    assert done.status == 1
    message, hint = done.err.splitlines()
    assert (APART.get((fault, where)) or WRONG[fault, where]) in message
    assert hint == "the traceback is in run/traceback.txt"
    assert_failed_truly(Path("run"), n_envs)
    assert len(Path("pids").read_text().split()) == n_envs
    assert processes() == []


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("raise", 2, "faulty.yaml:2: env: 'faulty:Faulty-v0' cannot be built: RuntimeError: the arm is stuck"),
        ("exit", 1, "error: the process of environment 0 ended with status 7"),
        ("hang", 1, "error: environment 0 did not start within 1 s"),
    ],
)
def test_one_in_a_process_of_its_own_that_goes_wrong_when_it_is_built_is_reported_before_there_is_a_run(
    fault: str, status: int, message: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "hang":
        monkeypatch.setattr(vec_env, "_SECONDS_TO_START", 1.0)
    settings = apart(n_envs=2, params={"fault": fault, "where": "start"}, step_timeout=0.5)
    done = toolkit("train", "faulty.yaml", *settings, "--out", "run")
    assert (done.status, done.err.splitlines()[0][: len(message)]) == (status, message)
    assert "Traceback" not in done.err
    assert not Path("run").exists()
    assert processes() == []


@pytest.mark.parametrize("settings", [[], ["--set", "env.vec_env=subproc"]], ids=["here", "apart"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [("exit python", "cannot be built: SystemExit: 0 ("), ("hoard", "does not fit into this machine's memory of ")],
)
def test_one_that_exits_or_asks_for_too_much_when_it_is_built_is_bad_input(
    fault: str, said: str, settings: list[str], toolkit: Toolkit
) -> None:
    wrong = ["--set", f"env.params={{fault: {fault}, where: start}}", *settings]
    done = toolkit("train", "faulty.yaml", *wrong, "--out", "run")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"faulty.yaml:2: env: 'faulty:Faulty-v0' {said}")
    assert not Path("run").exists()


def test_one_that_hangs_while_its_episode_is_played_again_is_named(toolkit: Toolkit, undisturbed: Path) -> None:
    settings = apart(params={"fault": "raise"}, step_timeout=0.5)
    assert toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet").status == 1
    Path("cause").unlink()
    Path("stuck").touch()
    done = toolkit("resume", "run", "--quiet")
    did_not = "environment 0 did not play its episode again within 1.5 s"  # a reset and two steps after timestep 50
    assert done.status == 2
    assert done.err.startswith(f"error: environment 0 failed while its episode was replayed: {did_not}")
    assert processes() == []
    Path("stuck").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert differences(undisturbed, Path("run")) == []


def test_a_run_whose_process_of_an_environment_was_killed_goes_on_with_the_same_result(toolkit: Toolkit) -> None:
    env = apart(n_envs=2, params={"fault": "be killed"})
    assert toolkit("train", "faulty.yaml", *env, "--out", "run", "--quiet").status == 1
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert toolkit("train", "faulty.yaml", *env, "--out", "undisturbed", "--quiet").status == 0
    assert differences(Path("undisturbed"), Path("run")) == []


def test_processes_of_environments_end_at_once_when_they_are_told_to() -> None:
    from toolkit.envs.factory import make_vec_env

    env = make_vec_env(load_config("faulty.yaml", ["env.vec_env=subproc", "env.n_envs=3"]), seed=0)
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 2
    assert processes() == []


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


def test_an_environment_in_a_process_of_its_own_can_end_what_it_has_started(toolkit: Toolkit) -> None:
    Path("simulator.py").write_text(SIMULATOR)
    settings = apart(wrappers=["./simulator.py:Simulator"])
    assert toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet").status == 0
    assert len(Path("pids").read_text().split()) == 2
    assert processes() == []


def test_an_environment_that_does_not_close_costs_a_warning(
    toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    Path("simulator.py").write_text(SIMULATOR)
    wrapped = ["--set", "env.wrappers=['./simulator.py:Stuck']"]
    done = toolkit("train", "faulty.yaml", *wrapped, "--out", "run", "--quiet")
    assert (done.status, result_of("run")["status"]) == (0, "finished")
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


HOOKS = {
    "_init_callback": 0,
    "_on_training_start": 0,
    "_on_rollout_start": 60,
    "_on_step": 60,
    "_on_rollout_end": 60,
    "_on_training_end": 300,
}


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_that_raises_fails_the_run_which_goes_on_when_it_is_mended(
    hook: str, toolkit: Toolkit, undisturbed: Path
) -> None:
    settings = ["--set", f"callbacks=[{{name: './own.py:Raises', params: {{hook: {hook}}}}}]"]
    done = toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet")
    assert done.status == 1
    assert "RuntimeError: the sky falls (" in done.err
    assert "Traceback" not in done.err
    assert (result_of("run")["status"], result_of("run")["timesteps"]) == ("failed", HOOKS[hook])
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0
    assert differences(undisturbed, Path("run")) == []


@pytest.mark.usefixtures("callbacks")
def test_whatever_a_callback_logs_training_goes_on(toolkit: Toolkit) -> None:
    changes = ["callbacks=['./own.py:Logs']", "algorithm.name=ppo", "algorithm.params={n_steps: 64}"]
    settings = [part for change in changes for part in ("--set", change)]
    assert toolkit("train", "faulty.yaml", *settings, "--out", "run", "--quiet").status == 0
    header, *rows = Path("run/progress.csv").read_text().splitlines()
    assert {"nan", "infinity", "text"} < {*header.split(",")}
    assert rows
    assert all("nan" in row and "inf" in row and '"a,""b"' in row for row in rows)


def fills(leave: int, end: int | None = None) -> list[str]:
    return ["--set", f"callbacks=[{{name: './own.py:Fills', params: {{leave: {leave}, end: {end or 'null'}}}}}]"]


@pytest.mark.usefixtures("callbacks")
def test_a_full_disk_costs_snapshots_and_nothing_else_while_there_is_room_for_the_logs(
    disk: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISK", str(disk))
    done = toolkit("train", "faulty.yaml", *fills(12 << 10, 260), "--out", disk / "run", "--quiet")
    assert (done.status, result_of(disk / "run")["status"]) == (0, "finished")
    said = [record.getMessage() for record in caplog.records]
    assert [one.partition(":")[0] for one in said] == [f"no snapshot at timestep {n}" for n in (152, 200, 252)]
    assert all("No space left on device" in one for one in said)
    assert snapshots_of(disk / "run")
    assert all(archive.read(one) for one in snapshots_of(disk / "run"))
    assert not [name for name in files_in(disk / "run") if "tmp" in name]


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("leave", [0, 8 << 10, 12 << 10])
def test_a_disk_that_stays_full_fails_the_run_which_goes_on_when_there_is_room(
    leave: int,
    disk: Path,
    toolkit: Toolkit,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Path,
) -> None:
    monkeypatch.setenv("DISK", str(disk))
    run = disk / "run"
    done = toolkit("train", "faulty.yaml", *fills(leave), "--out", run, "--quiet")
    assert done.status == 1
    assert f"No space left on device: '{run}/" in done.err
    assert "Traceback" not in done.err
    assert (run / "result.json").exists() or f"{run}: the result cannot be written: No space left" in done.err
    assert not [name for name in files_in(run) if "tmp" in name]
    assert all(line.count(",") == 2 for line in (run / "monitor.csv").read_text().splitlines()[1:])
    assert all(archive.read(one) for one in snapshots_of(run))
    Path("cause").unlink()
    (disk / "filler").unlink()
    assert toolkit("resume", run, "--quiet").status == 0
    assert differences(undisturbed, run) == []


@pytest.mark.usefixtures("callbacks")
def test_a_full_disk_costs_a_video_and_leaves_nothing_of_it(
    disk: Path,
    toolkit: Toolkit,
    caplog: pytest.LogCaptureFixture,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISK", str(disk))
    fill = "{name: './own.py:Fills', params: {leave: 8192, end: 260}}"
    film = "{name: record_video, params: {every_timesteps: 200, formats: [gif], tail: 200}}"
    done = toolkit("train", config_file, "--set", f"callbacks=[{fill}, {film}]", "--out", disk / "run", "--quiet")
    assert (done.status, result_of(disk / "run")["status"]) == (0, "finished")
    assert "no video was made" in caplog.text
    assert "No space left on device" in caplog.text
    assert files_in(disk / "run" / "videos") == set()


def test_a_directory_that_cannot_be_written_to_is_named(disk: Path, toolkit: Toolkit) -> None:
    wrong = "env.params={fault: raise}"
    assert toolkit("train", "faulty.yaml", "--set", wrong, "--out", disk / "run", "--quiet").status == 1
    before = {name: (disk / "run" / name).read_bytes() for name in files_in(disk / "run")}
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    started = toolkit("train", "faulty.yaml", "--out", disk / "new")
    assert started.status == 2
    assert started.err.startswith(f"error: {disk / 'new'}: cannot be made: Read-only file system\n")
    gone_on = toolkit("resume", disk / "run")
    assert gone_on.status == 2
    assert gone_on.err.startswith(f"error: {disk / 'run'}: cannot be written to: Read-only file system\n")
    assert before == {name: (disk / "run" / name).read_bytes() for name in files_in(disk / "run")}


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def gigantic(path: Path) -> None:
    """Claim a tensor of a terabyte, with checksums that are right."""
    header = json.dumps({"0": {"dtype": "F64", "shape": [1 << 37], "data_offsets": [0, 1 << 40]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    sums = [f"{hashlib.sha256((path.parent / name).read_bytes()).hexdigest()}  {name}\n" for name in PARTS[:2]]
    (path.parent / "SHA256SUMS").write_text("".join(sums))


def emptied(path: Path) -> None:
    for one in path.parent.iterdir():
        one.unlink()


PARTS = ["state.json", "arrays.safetensors", "SHA256SUMS"]
DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), PARTS),
    "empty": (lambda path: os.truncate(path, 0), PARTS),
    "a bit flipped": (flipped, PARTS),
    "missing": (Path.unlink, PARTS),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), PARTS),
    "all missing": (emptied, PARTS[:1]),
    "a terabyte claimed": (gigantic, PARTS[1:2]),
}


def broken_off(toolkit: Toolkit) -> list[Path]:
    """Let a run fail; return its snapshots, the newest first."""
    callback = "callbacks=[{name: './own.py:Raises', params: {hook: _on_step}}]"
    every = "snapshots.every_timesteps=20"
    assert toolkit("train", "faulty.yaml", "--set", callback, "--set", every, "--out", "run", "--quiet").status == 1
    Path("cause").unlink()
    return snapshots_of("run")


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize(("damage", "name"), [(damage, name) for damage in DAMAGES for name in DAMAGES[damage][1]])
def test_a_damaged_snapshot_is_passed_over_for_the_one_before(
    damage: str,
    name: str,
    toolkit: Toolkit,
    caplog: pytest.LogCaptureFixture,
    undisturbed: Path,
) -> None:
    newest, *_ = broken_off(toolkit)
    DAMAGES[damage][0](newest / name)
    caplog.clear()
    assert toolkit("resume", "run", "--quiet").status == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(str(newest))
    assert "is damaged" in said
    assert said.endswith("; the snapshot before it is used")
    assert differences(undisturbed, Path("run")) == []


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("name", PARTS)
def test_a_snapshot_that_leads_elsewhere_is_refused(name: str, toolkit: Toolkit) -> None:
    newest, *_ = broken_off(toolkit)
    content = (newest / name).read_bytes()
    (newest / name).rename("elsewhere")
    (newest / name).symlink_to(Path("elsewhere").resolve())
    done = toolkit("resume", "run", "--quiet")
    assert (done.status, done.err.splitlines()[0].partition(", ")[0]) == (2, f"error: {newest / name}: is a link")
    assert Path("elsewhere").read_bytes() == content


@pytest.mark.usefixtures("callbacks")
def test_with_all_snapshots_damaged_a_run_starts_from_the_beginning_and_says_so(
    toolkit: Toolkit,
    caplog: pytest.LogCaptureFixture,
    undisturbed: Path,
) -> None:
    for one in broken_off(toolkit):
        flipped(one / "state.json")
    assert toolkit("resume", "run", "--quiet").status == 0
    assert "run: has no whole snapshot; it starts from the beginning" in caplog.text
    assert differences(undisturbed, Path("run")) == []


@pytest.mark.usefixtures("callbacks")
def test_snapshots_that_cannot_be_read_on_this_machine_are_not_deleted(toolkit: Toolkit) -> None:
    snapshots = broken_off(toolkit)
    for one in snapshots:
        os.truncate(one / "arrays.safetensors", 1 << 40)
    done = toolkit("resume", "run", "--quiet")
    assert done.status == 2
    assert f"{snapshots[-1] / 'arrays.safetensors'}: is too large to be read" in done.err
    assert snapshots_of("run") == snapshots


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in a session of its own, as a terminal does; whatever is left is killed."""
    all_of_them: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        all_of_them.append(toolkit_process(arguments, session=True))
        return all_of_them[-1]

    yield start
    for process in all_of_them:
        process.kill()
        process.communicate()


def under_way(process: subprocess.Popen[str], run: str = "run", episodes: int = 3) -> None:
    """Wait until a run has completed some episodes."""

    def completed() -> bool:
        assert process.poll() is None, process.communicate()
        monitor = Path(run) / "monitor.csv"
        return monitor.exists() and len(monitor.read_text().splitlines()) > 1 + episodes

    wait_until(completed)


def slow(*, is_slow: bool = True) -> None:
    """Let every step take fifteen milliseconds, or no time any more."""
    if is_slow:
        Path("slow").touch()
    else:
        Path("slow").unlink()


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "settings"),
    [(signal.SIGINT, apart()), (signal.SIGTERM, apart()), (signal.SIGHUP, [])],
    ids=["Ctrl-C, processes", "SIGTERM, processes", "SIGHUP"],
)
def test_a_signal_to_all_processes_of_a_terminal_saves_the_run_which_goes_on_as_if_nothing_had_been(
    number: signal.Signals,
    settings: list[str],
    started: Callable[..., subprocess.Popen[str]],
    toolkit: Toolkit,
    undisturbed: Path,
) -> None:
    Path("cause").unlink()
    slow()
    # at every timestep: as like as not the signal comes while a snapshot is taken
    settings = [*settings, "--set", "snapshots.every_timesteps=1"]
    process = started("train", "faulty.yaml", *settings, "--out", "run", "--quiet")
    under_way(process)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == SIGNALS[number]
    assert said == "warning: stopping where training can be saved; once more stops it at once\n"
    result = result_of("run")
    assert result["status"] == "interrupted"
    assert int(snapshots_of("run")[0].name) == result["timesteps"]
    assert archive.read(snapshots_of("run")[0])
    wait_until(lambda: not processes(), seconds=1)  # SIGTERM ends the process that they are children of
    slow(is_slow=False)
    assert toolkit("resume", "run", "--quiet").status == 0
    assert differences(undisturbed, Path("run")) == []


SEARCH = f"""\
base: late.yaml
search: {{algorithm.params.gamma: {{choices: [0.5, 0.9]}}}}
trials: 2
seeds: [1, 2]
sampler: brute_force
pruner: none
objective: timesteps_to_success
launcher: {PROJECT}/tests/here.py:Here
"""


def too_late(where: str) -> str:
    return f"callbacks=[{{name: './own.py:ToldTooLate', params: {{where: {where}}}}}]"


TOO_LATE = pytest.mark.parametrize("where", ["the last step", "the end"])


@pytest.mark.usefixtures("callbacks")
@TOO_LATE
def test_a_signal_that_comes_too_late_to_stop_training_is_in_the_exit_status(where: str, toolkit: Toolkit) -> None:
    done = toolkit("train", "faulty.yaml", "--set", too_late(where), "--out", "run", "--quiet")
    assert (done.status, result_of("run")["status"]) == (143, "finished")


@pytest.mark.usefixtures("callbacks")
@TOO_LATE
def test_a_signal_that_comes_too_late_to_stop_training_stops_the_evaluation(where: str) -> None:
    config = load_config("faulty.yaml", [too_late(where)]).to_document().data
    with pytest.raises(KeyboardInterrupt):
        run_job(Path("run"), config, 2)
    assert result_of("run")["status"] == "finished"
    assert not Path("run/evaluation.json").exists()
    run_job(Path("run"), config, 2)
    assert Path("run/evaluation.json").exists()


@pytest.mark.usefixtures("callbacks")
@TOO_LATE
def test_a_signal_that_comes_too_late_to_stop_training_stops_the_search(where: str, toolkit: Toolkit) -> None:
    pytest.importorskip("optuna")
    Path("late.yaml").write_text(load_config("faulty.yaml", [too_late(where)]).to_yaml())
    Path("search.yaml").write_text(SEARCH)
    done = toolkit("tune", "search.yaml")
    assert (done.status, "stopped: 0 of 2 trials" in done.out) == (130, True)
    assert [path.name for path in Path("tunings/search/workers/0/trial-0").glob("seed-*")] == ["seed-1"]
    done = toolkit("tune", "search.yaml")
    assert (done.status, "stopped: 1 of 2 trials" in done.out) == (130, True)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_a_step_that_takes_for_ever(started: Callable[..., subprocess.Popen[str]]) -> None:
    process = started("train", "faulty.yaml", "--set", "env.params={fault: hang}", "--out", "run", "--quiet")
    under_way(process, episodes=5)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert result_of("run")["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], apart(n_envs=2)], ids=["one", "processes"])
def test_ctrl_c_before_training_begins_leaves_nothing(
    settings: list[str], started: Callable[..., subprocess.Popen[str]]
) -> None:
    changes = [*settings, "--set", "env.params={fault: hang, where: start}"]
    process = started("train", "faulty.yaml", *changes, "--out", "run", "--quiet")
    wait_until(Path("pids").exists)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not Path("run").exists()
    wait_until(lambda: not processes())


@pytest.mark.slow
def test_a_closed_terminal_stops_training_where_it_can_be_saved(toolkit: Toolkit) -> None:
    slow()
    process, terminal = terminal_process("train", "faulty.yaml", "--out", "run")
    under_way(process)
    os.close(terminal)
    assert process.wait(60) == 129
    assert result_of("run")["status"] == "interrupted"
    slow(is_slow=False)
    Path("cause").unlink()
    assert toolkit("resume", "run", "--quiet").status == 0


@pytest.mark.slow
def test_what_nobody_reads_any_more_does_not_stop_training(started: Callable[..., subprocess.Popen[str]]) -> None:
    slow()
    process = started("train", "faulty.yaml", "--out", "run")
    assert process.stderr is not None
    process.stderr.close()
    process.wait(60)
    assert result_of("run")["status"] == "finished"


def test_training_in_a_thread_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(train(load_config("faulty.yaml"), Path("run"))))
    thread.start()
    thread.join()
    assert runs[0].result is not None
    assert runs[0].result["status"] == "finished"
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.slow
def test_processes_of_environments_do_not_outlive_training_that_is_killed(
    started: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = apart(n_envs=2, params={"fault": "hang"})
    process = started("train", "faulty.yaml", *hanging, "--out", "run", "--quiet")
    under_way(process, episodes=10)
    process.kill()
    process.wait()
    wait_until(lambda: not processes(), seconds=20)


def inode(path: str) -> int | None:
    return Path(path).stat().st_ino if Path(path).exists() else None


@pytest.mark.slow
def test_a_run_is_trained_by_one_process_at_a_time(
    started: Callable[..., subprocess.Popen[str]],
    toolkit: Toolkit,
    undisturbed: Path,
) -> None:
    Path("cause").unlink()
    slow()
    for first in (["train", "faulty.yaml", "--out", "run"], ["resume", "run"]):
        begun = inode("run/monitor.csv")
        process = started(*first, "--quiet")
        wait_until(lambda: inode("run/monitor.csv") != begun)  # noqa: B023
        under_way(process)
        there = files_in(Path("run"))
        refused = toolkit("resume", "run")
        assert (refused.status, refused.err.splitlines()[0]) == (2, "error: run: another process trains in it")
        refused = toolkit("train", "faulty.yaml", "--out", "run")
        assert (refused.status, refused.err.splitlines()[0]) == (2, "error: run: another process trains in it")
        assert there <= files_in(Path("run")) | {name for name in there if "tmp" in name or "snapshots" in name}
        process.kill()
        process.wait()
    slow(is_slow=False)
    assert toolkit("resume", "run", "--quiet").status == 0
    assert differences(undisturbed, Path("run")) == []


@pytest.mark.slow
def test_of_two_that_start_in_one_directory_at_once_one_trains(started: Callable[..., subprocess.Popen[str]]) -> None:
    slow()
    both = [started("train", "faulty.yaml", "--out", "run", "--quiet") for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert "run: another process trains in it" in "".join(said) or "run: is not empty" in "".join(said)
    assert result_of("run")["status"] == "finished"


JUMPING = """\
import time

real, real_ns = time.time, time.time_ns


def jump():
    return 3 * 3600 * (int(time.monotonic() * 50) % 3 - 1)


time.time = lambda: real() + jump()
time.time_ns = lambda: real_ns() + jump() * 10**9
"""


def test_a_clock_that_jumps_by_hours_changes_nothing(undisturbed: Path) -> None:
    Path("cause").unlink()
    Path("sitecustomize.py").write_text(JUMPING)
    start = time.monotonic()
    minutes = ["--set", "snapshots={every_minutes: 60}"]
    process = toolkit_process(["train", "faulty.yaml", *minutes, "--out", "run", "--quiet"])
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert 0 < result_of("run")["seconds"] < time.monotonic() - start
    assert snapshots_of("run") == []
    assert all(0 <= float(row.split(",")[2]) < 60 for row in Path("run/monitor.csv").read_text().splitlines()[2:])
    assert differences(undisturbed, Path("run")) == []
