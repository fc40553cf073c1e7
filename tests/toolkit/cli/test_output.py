"""What commands print on stdout, and how a signal ends them."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from support import Toolkit, toolkit_process, wait_until

from toolkit import Run, record

NOISY = """\
import atexit
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np

print("a library greets")
atexit.register(os.write, 1, b"a library says goodbye\\n")


class Noisy(gym.Env):
    '''Prints from Python, past Python's stream, and from a program that it starts.'''

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        os.write(1, b"argv[0]=--background_color_red=0.87\\n")
        subprocess.run(["echo", "a program starts"], check=True)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("reset", file=sys.__stdout__, flush=True)
        self.steps = 0
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        print("step")
        self.steps += 1
        return self.np_random.random(2, np.float32), 1.0, self.steps >= 5, False, {}

    def render(self):
        os.write(1, b"frame\\n")
        return np.full((32, 32, 3), self.steps, np.uint8)


gym.register("toolkit_tests/Noisy-v0", Noisy)
"""
CONFIG = """\
timesteps: 20
import_modules: [./noisy.py]
env: {id: toolkit_tests/Noisy-v0}
algorithm: {name: double_dqn, params: {learning_starts: 10, buffer_size: 100, compile: false}}
"""


@pytest.fixture
def noisy_config(working_directory: Path) -> Path:
    (working_directory / "noisy.py").write_text(NOISY)
    path = working_directory / "noisy.yaml"
    path.write_text(CONFIG)
    return path


def test_stdout_holds_results_without_what_environments_print(
    noisy_config: Path, toolkit: Toolkit, capfd: pytest.CaptureFixture[str]
) -> None:
    checked = toolkit("check", noisy_config)
    assert yaml.safe_load(checked.out)["timesteps"] == 20
    assert "argv[0]" in checked.err
    trained = toolkit("train", noisy_config, "--out", "run", "--quiet")
    assert trained.out == "run\n"
    assert {"a program starts", "reset", "step"} <= {*trained.err.splitlines()}
    assert json.loads(toolkit("evaluate", "run", "--episodes", "2", "--json").out)["mean_return"] == 5
    recorded = toolkit("record", "run", "--format", "gif")
    assert recorded.out == "run/videos/record.gif\n"
    assert "frame" in recorded.err.splitlines()
    assert toolkit("describe", "run").out.startswith("run: double_dqn")
    print("free")
    assert capfd.readouterr().out == "free\n"


def test_new_process_prints_only_the_run_directory(noisy_config: Path) -> None:
    settings = ["--set", "env.vec_env=subproc", "--out", "run", "--quiet"]
    with toolkit_process(["train", noisy_config, *settings]) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "run\n")
    assert {"a library greets", "a library says goodbye", "a program starts", "step"} <= {*err.splitlines()}


def test_result_that_cannot_be_written_is_an_error(toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        finished = toolkit("plugins", "schedules")
    assert finished.status == 2
    assert finished.err.startswith("error: stdout: cannot be written to: No space left on device")


def test_help_is_printed_on_stdout(toolkit: Toolkit) -> None:
    shown = toolkit("evaluate", "--help")
    assert ("Usage: toolkit evaluate" in shown.out, shown.err) == (True, "")


def test_terminated_record_leaves_no_files(cartpole: Run, tmp_path: Path) -> None:
    arguments = ["record", cartpole.directory, "--episodes", "100000", "--out", tmp_path / "videos"]
    with toolkit_process(arguments) as process:
        wait_until(lambda: [*tmp_path.glob("videos/.recording-*/clips/*")])
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "", "interrupted by SIGTERM\n")
    assert [*(tmp_path / "videos").iterdir()] == []


def test_record_removes_folders_of_killed_processes(cartpole: Run, tmp_path: Path) -> None:
    for name in (".recording-killed", ".recording-running", "recording"):
        (tmp_path / name / "clips").mkdir(parents=True)
    descriptor = os.open(tmp_path / ".recording-running", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    record(cartpole, formats=["gif"], out=tmp_path)
    os.close(descriptor)
    assert {path.name for path in tmp_path.iterdir()} == {".recording-running", "recording", "record.gif", "work"}
