"""Fixtures that every test has: an empty working directory, a small config, the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import SMALL_CONFIG, Finished, Toolkit

torch.set_num_threads(1)  # several test processes share the machine


@pytest.fixture(autouse=True, scope="session")
def state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let the tests, and the processes they start, remember nothing beside what they remember themselves."""
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory))
        yield directory


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in an empty directory of its own."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def config_file(working_directory: Path) -> Path:
    """`small.yaml` in the working directory: 300 steps of Double DQN on CartPole, about a second."""
    path = working_directory / "small.yaml"
    path.write_text(SMALL_CONFIG)
    return path


@pytest.fixture
def toolkit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Toolkit:
    """Run the command line in this process."""
    from toolkit.cli import main

    def run(*arguments: str | Path) -> Finished:
        monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capfd.readouterr()
        status = exited.value.code
        return Finished(status if isinstance(status, int) else int(status is not None), out, err)

    return run
