"""Runs that the tests of snapshots share, because each of them takes a second or more to train."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import StopAt, make_config

from toolkit import RunConfig
from toolkit.training.trainer import train

UninterruptedRun = Callable[[RunConfig], Path]


@pytest.fixture(scope="session")
def uninterrupted_run(tmp_path_factory: pytest.TempPathFactory) -> UninterruptedRun:
    """Train a config without a break, once for all tests, and return the run directory."""
    directories: dict[str, Path] = {}

    def train_once(run_config: RunConfig) -> Path:
        key = run_config.to_yaml()
        if key not in directories:
            directory = tmp_path_factory.mktemp("uninterrupted") / "run"
            directories[key] = train(run_config, directory, [StopAt()]).directory
        return directories[key]

    return train_once


@pytest.fixture(scope="session")
def interrupted_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was interrupted at timestep 310; its latest snapshot is of timestep 300."""
    directory = train(make_config(timesteps=310), tmp_path_factory.mktemp("interrupted") / "run").directory
    result = directory / "result.json"
    result.write_text(result.read_text().replace("finished", "interrupted"))
    return directory


@pytest.fixture
def interrupted_run(interrupted_directory: Path, tmp_path: Path) -> Path:
    """A copy of a run that was interrupted, to change."""
    return Path(shutil.copytree(interrupted_directory, tmp_path / "run"))
