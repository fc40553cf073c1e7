"""One run directory: every path in it, and how its files are written and found."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from toolkit.components import read_config
from toolkit.config import RunConfig
from toolkit.errors import RunError

DEFAULT_ROOT = Path("runs")
_RECORDED_VERSIONS = ("sb3-toolkit", "stable-baselines3", "sb3-contrib", "gymnasium", "torch", "numpy")


class Run:
    """A run directory and the config it was made from.

    :param directory: where the run's files are
    :param config: the resolved config, as in ``config.yaml``
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        self.directory = directory
        self.config = config

    @classmethod
    def create(cls, config: RunConfig, out: Path | None = None) -> Self:
        """Make a new run directory: ``out``, or the next free ``runs/<name>-<n>``, which no other process gets.

        :raises RunError: if ``out`` is not empty, or the directory cannot be made
        :raises ConfigError: if the config holds what YAML cannot
        """
        text = config.to_yaml()
        try:
            directory = _next_free(DEFAULT_ROOT, config.name) if out is None else _claim(out)
            run = cls(directory, config)
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

    @property
    def model_path(self) -> Path:
        """The trained model, an SB3 zip."""
        return self.directory / "model.zip"

    @property
    def videos(self) -> Path:
        """The directory of the run's videos."""
        return self.directory / "videos"

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``result.json`` says; ``None`` while the run goes on, or when it was killed.

        :raises RunError: if the file is damaged
        """
        path = self.directory / "result.json"
        if not path.is_file():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RunError(f"{path}: is damaged: it is not the JSON object that training wrote") from error

    @property
    def episodes(self) -> list[tuple[float, int]]:
        """Raw return and length in steps of every episode completed so far, as ``monitor.csv`` has them.

        A last line that is still being written is left out.

        :raises RunError: if there is no ``monitor.csv``, or it is not one
        """
        path = self.directory / "monitor.csv"
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            hint = f"training writes it; to train again: `toolkit train {self.directory / 'config.yaml'}`"
            raise RunError(f"{self.directory}: has no monitor.csv", hint) from None
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from error
        return _episodes(path, text)

    def write(self, name: str, text: str) -> None:
        """Write a file of the run so that at any instant it is whole or absent."""
        with self.whole_file(name) as path:
            path.write_text(text, encoding="utf-8", newline="")

    @contextmanager
    def whole_file(self, name: str) -> Iterator[Path]:
        """Give a path to write a file of the run to; it takes the file's place when it is whole and on the disk."""
        with whole_file(self.directory / name) as path:
            yield path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` when it is whole and on the disk."""
    temporary = path.parent / f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _episodes(path: Path, text: str) -> list[tuple[float, int]]:
    """Read what SB3's Monitor writes: a line of JSON, the names of the columns, a line for each episode."""
    lines = [line.rstrip("\r") for line in text.split("\n")[:-1]]  # after the last line end is what is being written
    if not (text or "#").startswith("#") or (len(lines) > 1 and lines[1] != "r,l,t"):
        raise RunError(f"{path}: is not a monitor.csv of Stable-Baselines3", "restore it, or train the run again")
    episodes: list[tuple[float, int]] = []
    for number, line in enumerate(lines[2:], start=3):
        try:
            raw_return, length, _ = line.split(",")
            episodes.append((float(raw_return), int(length)))
        except ValueError:
            raise RunError(f"{path}:{number}: is no episode: {line[:80]!r}", "remove the line") from None
    return episodes


def _claim(out: Path) -> Path:
    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out}: is not empty", "choose a new directory with --out")
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
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _RECORDED_VERSIONS},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
    }


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
