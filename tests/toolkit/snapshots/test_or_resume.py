"""`toolkit train --or-resume`: one command that starts a run, resumes it, or finds that it has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import find_differences, make_config
from support import Toolkit

from toolkit import Run


@pytest.fixture
def config_file(working_directory: Path) -> Path:
    """The config of the interrupted run, as a user's file."""
    (working_directory / "mine.yaml").write_text(make_config(timesteps=310).to_yaml())
    return working_directory / "mine.yaml"


def read_files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_or_resume_starts_run_and_leaves_ended_one_unchanged(
    config_file: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    command = ("train", config_file, "--out", "run", "--or-resume", "--set", "timesteps=60")
    assert toolkit(*command, "--quiet").out == "run\n"
    files = read_files(Path("run"))
    finished = toolkit(*command)
    assert finished.status == 0
    assert caplog.messages[-1] == "run: has ended: there is nothing left to train"
    assert finished.out.startswith("not solved: mean return ")
    assert read_files(Path("run")) == files
    assert toolkit(*command, "--require-success").status == 3


def test_or_resume_continues_interrupted_run_exactly(
    config_file: Path, interrupted_directory: Path, interrupted_run: Path, toolkit: Toolkit
) -> None:
    (interrupted_run / "model.zip").unlink()
    finished = toolkit("train", config_file, "--out", interrupted_run, "--or-resume", "--quiet")
    assert finished.status == 0, finished.err
    assert (Run.open(interrupted_run).result or {})["status"] == "finished"
    assert find_differences(interrupted_directory, interrupted_run) == ["result.json"]  # its status


def test_or_resume_refuses_other_config_and_busy_run(
    config_file: Path, interrupted_run: Path, toolkit: Toolkit
) -> None:
    files = read_files(interrupted_run)
    command = ("train", config_file, "--out", interrupted_run, "--or-resume")
    finished = toolkit(*command, "--set", "algorithm.params.gamma=0.9")
    assert finished.status == 2
    assert finished.err == (
        f"error: {interrupted_run}: holds a run of another config: {interrupted_run / 'config.yaml'}: "
        "algorithm.params.gamma was not set and is now 0.9\nchoose another directory with --out\n"
    )
    with Run.open(interrupted_run).lock():
        finished = toolkit(*command)
    assert finished.status == 2
    assert "another process trains in it" in finished.err
    assert read_files(interrupted_run) == files


def test_or_resume_refuses_changed_code_unless_run_has_ended(
    working_directory: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    code = Path("shaping.py")
    code.write_text("import gymnasium as gym\n\n\nclass Own(gym.Wrapper):\n    pass\n")
    config = make_config(env={"wrappers": [{"name": "./shaping.py:Own"}]}, timesteps=200)
    Path("mine.yaml").write_text(config.to_yaml())
    command = ("train", "mine.yaml", "--out", "run", "--or-resume", "--quiet")
    assert toolkit(*command).status == 0
    result = Path("run/result.json").read_text()
    code.write_text(code.read_text().replace("pass", "bonus = 1"))
    assert toolkit(*command).status == 0, "it has ended"
    Path("run/result.json").unlink()
    files = read_files(Path("run"))
    finished = toolkit(*command)
    assert finished.status == 2
    assert finished.err == (
        f"error: {code.resolve()}: has changed since run started\n"
        "restore it, or choose another directory with --out; `toolkit resume --trust` runs the new code\n"
    )
    assert read_files(Path("run")) == files
    assert "has not trained this run here" in toolkit("resume", "run", "--quiet").err
    assert toolkit("resume", "run", "--trust", "--quiet").status == 0
    assert f"{code.resolve()} has changed: the run may continue differently" in caplog.text
    assert '"finished"' in result


def test_or_resume_needs_run_directory(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", config_file, "--or-resume")
    assert finished.status == 2
    assert finished.err == "error: --or-resume needs the run directory\nname it with --out\n"
    assert not Path("runs").exists()
