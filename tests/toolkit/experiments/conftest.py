"""Fixtures of the experiments' tests: the base config, and an experiment that was trained once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from experiment_files import EXPERIMENT, write_file
from support import SMALL_CONFIG

from toolkit.experiments.config import load_plan
from toolkit.experiments.runner import run_experiment


@pytest.fixture(autouse=True)
def base_file(config_file: Path) -> Path:
    return config_file


@pytest.fixture(scope="session")
def trained_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("experiment")
    write_file(SMALL_CONFIG, f"{directory}/small.yaml")
    plan = load_plan(write_file(EXPERIMENT, f"{directory}/both.yaml"))
    assert not run_experiment(plan, directory / "all").failed
    return directory / "all"


@pytest.fixture
def finished(trained_experiment: Path) -> Path:
    """The directory `all` of the finished experiment in `both.yaml`."""
    write_file()
    return Path(shutil.copytree(trained_experiment, "all"))
