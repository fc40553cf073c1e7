"""One run directory: every path in it, and how its files are written and found."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any, Self

from toolkit.config.load import ResolvedConfig, read_config, resolve_config
from toolkit.config.schema import RunConfig
from toolkit.training.results import read_episodes, read_result
from toolkit.utils.errors import RunError
from toolkit.utils.files import atomic_file, locked, read_text

DEFAULT_ROOT = Path("runs")
_RECORDED_VERSIONS = ("sb3-toolkit", "stable-baselines3", "sb3-contrib", "gymnasium", "torch", "numpy")


class RunDirectory:
    """A run directory and the config it was made from.

    :param directory: where the run's files are
    :param config: the resolved config, as in ``config.yaml``

    ``stopped_by`` is the signal that told its training in this process to stop, if one did, be it in its last moment.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        self.directory = directory
        self.config = config
        self.stopped_by: int | None = None

    @classmethod
    def create(cls, config: RunConfig, out: Path | None = None) -> Self:
        """Make a new run directory: ``out``, or the next free ``runs/<name>-<n>``, which no other process gets.

        :raises RunError: if ``out`` is not empty, or the directory cannot be made
        :raises ConfigError: if the config holds what YAML cannot
        """
        text = config.to_yaml()
        try:
            run = cls(_next_free(DEFAULT_ROOT, config.name) if out is None else _made(out), config)
            with run.locked():
                if any(not path.name.endswith(".tmp") for path in run.directory.iterdir()):
                    raise RunError(f"{out}: is not empty", "choose a new directory with --out")
                run.write("config.yaml", text)
                run.write("environment.json", json.dumps(_environment(), indent=2) + "\n")
        except OSError as error:
            place = out or DEFAULT_ROOT / config.name
            raise RunError(f"{place}: cannot be made: {error.strerror}", "choose another place with --out") from None
        return run

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open an existing run directory; what its config names is looked up when it is needed.

        :raises RunError: if it is not one
        :raises ConfigError: if its config is none
        """
        if not os.path.exists(directory):
            raise RunError(f"{directory}: there is no such run", "`toolkit train CONFIG` makes one under runs/")
        if not (directory / "config.yaml").is_file():
            raise RunError(f"{directory}: is not a run directory: it has no config.yaml")
        return cls(directory, read_config(directory / "config.yaml"))

    @classmethod
    def newest(cls, root: Path = DEFAULT_ROOT) -> Self:
        """Open the run under ``root`` that was started last.

        :raises RunError: if there is none
        """
        configs = sorted(root.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
        if not configs:
            raise RunError(
                f"{root}/: there is no run here yet", "`toolkit train CONFIG` makes one, or name a run's path"
            )
        return cls.open(configs[-1].parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the run's directory; the lock goes when this process does.

        :raises RunError: if another process does
        """
        with locked(self.directory, "trains in it"):
            yield

    @cached_property
    def resolved_config(self) -> ResolvedConfig:
        """The config with the components that it names, found once, under the rules of :mod:`toolkit.config.trust`.

        :raises ConfigError: with every problem
        """
        return resolve_config(self.config)

    @property
    def model_path(self) -> Path:
        """The trained model, an SB3 zip."""
        return self.directory / "model.zip"

    @property
    def videos(self) -> Path:
        """The directory of the run's videos."""
        return self.directory / "videos"

    def refuse_links(self) -> None:
        """Refuse a run with links in it: what is written or deleted through one could lie anywhere.

        :raises RunError: with the first of them
        """
        for path in self.directory.rglob("*"):
            if path.is_symlink():
                raise RunError(f"{path}: is a link, and nothing is written through it", "put there what it leads to")

    def remove_leftovers(self) -> None:
        """Delete what a process that was killed had begun to write; none may be at work in the run."""
        for place in (self.directory, self.directory / "snapshots", self.videos):
            for path in [*place.glob(".*.tmp"), *place.glob(".tmp-*"), *place.glob(".recording-*")]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def differences(self) -> list[str]:
        """Name what is installed here in another version than the run was started with."""
        try:
            then = json.loads(read_text(self.directory / "environment.json"))["versions"]
            return [f"{name} was {then[name]} and is {now}" for name, now in _versions().items() if then[name] != now]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return [f"{self.directory / 'environment.json'} does not say what the run was started with"]

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``result.json`` says; ``None`` while the run goes on, or when it was killed.

        :raises RunError: if the file is damaged
        """
        return read_result(self.directory / "result.json")

    @property
    def episodes(self) -> list[tuple[float, int]]:
        """Raw return and length in steps of every episode completed so far, as ``monitor.csv`` has them.

        A last line that is still being written is left out.

        :raises RunError: if there is no ``monitor.csv``, or it is not one
        """
        try:
            return read_episodes(self.directory / "monitor.csv")
        except FileNotFoundError:
            hint = f"training writes it; to train again: `toolkit train {self.directory / 'config.yaml'}`"
            raise RunError(f"{self.directory}: has no monitor.csv", hint) from None

    def write(self, name: str, text: str) -> None:
        """Write a file of the run so that at any instant it is whole or absent."""
        with self.atomic_file(name) as path:
            path.write_text(text, encoding="utf-8", newline="")

    @contextmanager
    def atomic_file(self, name: str) -> Iterator[Path]:
        """Give a path to write a file of the run to; it takes the file's place when it is whole and on the disk."""
        with atomic_file(self.directory / name) as path:
            yield path


def _made(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is not a directory", "choose a new directory with --out")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _next_free(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    taken = [path.name.removeprefix(f"{name}-") for path in root.glob(f"{name}-*")]
    number = max((int(suffix) for suffix in taken if suffix.isdigit()), default=0)
    while True:
        number += 1
        try:
            (root / f"{name}-{number}").mkdir()
        except FileExistsError:
            continue  # another run took it in this instant
        return root / f"{name}-{number}"


def _environment() -> dict[str, Any]:
    """Describe what the run was made with: versions, platform, git commit of the working directory, command."""
    return {
        "versions": _versions(),
        "packages": _packages(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
    }


@cache
def _packages() -> dict[str, str]:
    """Return the version of everything installed; a process that trains many runs reads hundreds of files once."""
    return dict(sorted((dist.name, dist.version) for dist in distributions()))


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: _version(name) for name in _RECORDED_VERSIONS}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
