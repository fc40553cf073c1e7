"""Run directories that version 0.1.0 made before its modules moved are still opened, evaluated, filmed and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import PROJECT, Toolkit

from toolkit import load

OLD_RUNS = PROJECT / "tests" / "data" / "runs_0_1_0"


@pytest.fixture
def old_run(working_directory: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(OLD_RUNS / request.param, working_directory / request.param))


@pytest.mark.parametrize("old_run", ["double_dqn_finished"], indirect=True)
def test_old_run_evaluates_to_the_returns_of_its_weights(old_run: Path) -> None:
    # version 0.1.0 played other episodes for a seed; its mean over 100 of them was 10.09
    assert [*load(old_run).evaluate(5, seed=7).returns] == [8.0, 9.0, 9.0, 10.0, 11.0]


@pytest.mark.parametrize("old_run", ["double_dqn_finished"], indirect=True)
def test_old_run_records_a_video(old_run: Path) -> None:
    (video,) = load(old_run).record()
    assert video.stat().st_size > 1_000


@pytest.mark.parametrize(
    ("old_run", "timesteps"), [("double_dqn_interrupted", 2_400), ("ppo_interrupted", 2_048)], indirect=["old_run"]
)
def test_old_run_resumes_from_its_snapshot(old_run: Path, timesteps: int, toolkit: Toolkit) -> None:
    episodes_before = load(old_run).episodes
    finished = toolkit("resume", old_run)
    assert finished.status == 0, finished.err
    assert "beginning" not in finished.err
    run = load(old_run)
    assert run.episodes[: len(episodes_before)] == episodes_before
    assert run.result is not None
    assert (run.result["status"], run.result["timesteps"]) == ("finished", timesteps)
