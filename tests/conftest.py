"""Fixtures for every test: an empty working directory, a small config, a finished run, the command in this process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from support import PROJECT, SMALL_CONFIG, WRAPPER_MODULE, Finished, Install, Toolkit

from toolkit import Run, load_config, train
from toolkit_plugins.local_launcher import LocalLauncher

sys.path.append(str(PROJECT))  # processes import environments from `tests`; the installed toolkit comes first
torch.set_num_threads(1)  # several test processes share the machine
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs so
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the tests, and the processes they start, a list of trusted code of their own."""
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory))
        yield directory


@pytest.fixture(autouse=True, scope="session")
def warm_fork_server(state_directory: Path) -> None:
    """Start the fork server with all imports: the one that an environment starts lacks those of jobs."""
    LocalLauncher().prepare()


@pytest.fixture
def own_fork_server(warm_fork_server: None) -> Iterator[None]:
    """Let the test start a fork server itself."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    LocalLauncher().prepare()


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in its own empty directory."""
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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small config, trained once for all tests that only read: `small.yaml`, and `run` beside it."""
    directory = tmp_path_factory.mktemp("finished")
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    return train(load_config(directory / "small.yaml"), directory / "run")


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small config, trained for only 100 steps: the pole falls after some ten, and pygame draws it."""
    directory = tmp_path_factory.mktemp("cartpole")
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    return train(load_config(directory / "small.yaml", ["timesteps=100"]), directory / "run")


@pytest.fixture
def run_copy(finished_run: Run, working_directory: Path) -> Run:
    """A copy of the finished run, `run` in the working directory, for tests that write to it."""
    return Run.open(shutil.copytree(finished_run.directory, working_directory / "run"))


@pytest.fixture
def toolkit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Toolkit:
    """Run the command line in this process."""
    from toolkit.cli.app import main

    def run(*arguments: str | Path) -> Finished:
        monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capfd.readouterr()
        status = exited.value.code
        return Finished(status if isinstance(status, int) else int(status is not None), out, err)

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system: 3 MB in memory."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", directory]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one module and one component, as pip would leave it in site-packages."""
    from toolkit.config.registry import read_entry_points

    def run(
        distribution: str,
        module: str,
        source: str = WRAPPER_MODULE,
        name: str = "mine",
        kind: str = "wrappers",
        target: str = "{module}:Mine",
        requires: str = "",
    ) -> Path:
        directory = tmp_path / distribution
        information = directory / f"{distribution}-1.0.dist-info"
        information.mkdir(parents=True)
        required = f"Requires-Dist: {requires}\n" if requires else ""
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n{required}")
        (information / "entry_points.txt").write_text(f"[toolkit.{kind}]\n{name} = {target.format(module=module)}\n")
        (directory / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(directory)
        read_entry_points.cache_clear()
        modules.add(module)
        return directory

    modules: set[str] = set()
    read_entry_points.cache_clear()
    yield run
    read_entry_points.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)
