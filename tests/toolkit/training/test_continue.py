"""`toolkit continue` trains a run that has ended for more timesteps, in a directory of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import find_differences, make_config
from support import Toolkit, files_in

from toolkit import Run, load
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import train

CONSTANT = {"double_dqn": {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}, "ppo": {}}


def train_parent(algorithm: str, out: Path, **more: Any) -> RunDirectory:
    return train(make_config(algorithm, params=CONSTANT[algorithm], timesteps=320, **more), out)


@pytest.fixture(scope="module")
def finished_ppo(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of PPO with 320 timesteps; its latest snapshot is of timestep 192."""
    return train_parent("ppo", tmp_path_factory.mktemp("continue") / "parent")


@pytest.fixture
def parent(finished_ppo: RunDirectory, working_directory: Path) -> Path:
    return Path(shutil.copytree(finished_ppo.directory, working_directory / "parent"))


@pytest.mark.parametrize("algorithm", CONSTANT)
def test_continued_run_equals_one_long_run(algorithm: str, tmp_path: Path, toolkit: Toolkit) -> None:
    env = {"n_envs": 2, "vec_wrappers": ["vec_normalize"]} if algorithm == "ppo" else {}
    parent = train_parent(algorithm, tmp_path / "parent", env=env)
    long = train(make_config(algorithm, env, params=CONSTANT[algorithm], timesteps=620), tmp_path / "long")
    n_more = 620 - (parent.result or {})["timesteps"]
    finished = toolkit("continue", parent.directory, "--timesteps", str(n_more), "--out", "more", "--quiet")
    assert (finished.status, finished.out) == (0, "more\n"), finished.err
    assert find_differences(long.directory, Path("more")) == []
    start = load("more").config.start_from
    assert start is not None
    assert start.path == str(parent.directory)

    shutil.rmtree("more/snapshots")
    Path("more/result.json").unlink()
    assert toolkit("resume", "more", "--quiet").status == 0
    assert find_differences(long.directory, Path("more")) == [], "it starts where the parent was"


def test_continue_without_snapshot_starts_from_model_and_says_so(
    parent: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(parent / "snapshots")
    finished = toolkit("continue", "parent", "--timesteps", "64", "--set", "algorithm.params.learning_rate=0.0")
    assert finished.status == 0, finished.err
    assert (
        "parent: has no snapshot, so training continues from its model: episodes, callbacks and random" in caplog.text
    )
    run = Run.newest()
    assert run.directory == Path("runs/stopped-1")
    assert (run.result or {})["timesteps"] == 384
    assert run.read_episodes()[0].timestep > 320
    weights = run.model.policy.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in load("parent").model.policy.state_dict().items())


def test_changed_parameters_and_callbacks_take_effect(parent: Path, toolkit: Toolkit) -> None:
    changes = ["algorithm.params.learning_rate=0.0", "callbacks.0.params.threshold=7"]
    options = [option for change in changes for option in ("--set", change)]
    assert toolkit("continue", "parent", "--timesteps", "64", *options, "--out", "more").status == 0
    more, snapshot = load("more"), load_model(load("parent"), "snapshot:192")
    assert (more.result or {})["success"]["threshold"] == 7
    weights = more.model.policy.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in snapshot.policy.state_dict().items())


def test_continued_config_needs_more_timesteps_than_its_parent(parent: Path, toolkit: Toolkit) -> None:
    start = "start_from={path: parent, continues: true}"
    finished = toolkit("train", "parent/config.yaml", "--set", start, "--set", "timesteps=300")
    assert finished.status == 2
    assert "timesteps: must be more than 320, which the run that this continues has" in finished.err


REFUSED = {
    "absent --timesteps 9": "error: absent: does not exist",
    "parent": "--timesteps",
    "parent --timesteps 0": "--timesteps",
    "parent --timesteps 9 --set env.n_envs=2": "env.n_envs: was 1 in the run that this continues; keep it, or start",
    "parent --timesteps 9 --set seed=8": "seed: was 3 in the run that this continues",
    "parent --timesteps 9 --set timesteps=999": "--set timesteps=999: timesteps: follows from the options of",
    "parent --timesteps 9 --set start_from=imported": "start_from: follows from the options of `toolkit continue`; ",
    "parent --timesteps 9 --set start_from.model=final": "start_from: follows from the options of `toolkit continue`",
    "parent --timesteps 9 --set algorithm.name=a2c": "is a run of 'ppo', not of 'a2c'",
    "parent --timesteps 9 --out parent": "error: parent: is not empty",
    "interrupted --timesteps 9": "error: interrupted: has not ended\n`toolkit resume` continues it",
    "imported --timesteps 9": "trained elsewhere, and cannot be continued\nstart a new run from it with start_from",
    "unsaved --timesteps 9": "error: unsaved: has no model.zip",
}


@pytest.mark.parametrize("command", REFUSED)
def test_continue_refuses_bad_input_and_writes_nothing(
    command: str, parent: Path, working_directory: Path, toolkit: Toolkit
) -> None:
    for name in ("interrupted", "imported", "unsaved"):
        shutil.copytree(parent, name)
    result = (parent / "result.json").read_text()
    Path("interrupted/result.json").write_text(result.replace('"finished"', '"interrupted"'))
    for name in ("result.json", "monitor.csv"):
        Path("imported", name).unlink()
    Path("unsaved/model.zip").unlink()
    files = files_in(working_directory)
    finished = toolkit("continue", *command.split())
    assert finished.status == 2, finished.err
    assert REFUSED[command] in finished.err
    assert "Traceback" not in finished.err
    assert files_in(working_directory) == files
