"""A run directory: the paths in it, and how its files are created, found and written."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any, Self

from toolkit.config.load import ResolvedConfig, read_config, resolve_config
from toolkit.config.schema import RunConfig
from toolkit.training.results import RecordedEpisode, read_episodes_with, read_result
from toolkit.utils.errors import RunError
from toolkit.utils.files import atomic_file, cannot_create, lock_directory, read_text, remove_abandoned
from toolkit.utils.model_files import BEST, BEST_BEFORE, MODEL_FILE, find_model
from toolkit.utils.processes import read_cpu_name

DEFAULT_ROOT = Path("runs")
RECORDING_PREFIX = ".recording-"  # of the directories beside videos in which they are made
# what the toolkit writes in it, and callbacks do not
OWN_FILES = {
    *("config.yaml", "environment.json", "monitor.csv", "progress.csv", "tensorboard", "snapshots", "model.zip"),
    *("wrappers", "videos", "result.json", "evaluation.json", "evaluations.csv", "traceback.txt", "actions.csv"),
    "report",
}
_FIELD = re.compile(r"^(Name|Version): *(.+?)\s*$", re.MULTILINE)  # of a package's metadata
_RECORDED_VERSIONS = ("sb3-toolkit", "stable-baselines3", "sb3-contrib", "gymnasium", "torch", "numpy")


class RunDirectory:
    """A run directory, and the config of the run.

    :param directory: holds the run's files
    :param config: the checked config, as in ``config.yaml``
    :ivar stopped_by: the signal that stopped its training in this process, also one that came when training ended
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        self.directory = directory
        self.config = config
        self.stopped_by: int | None = None

    @classmethod
    def create(cls, config: RunConfig, out: Path | None = None) -> Self:
        """Create a run directory: ``out``, or the next free ``runs/<name>-<n>``, which no other process gets.

        :raises RunError: if ``out`` is not empty, or the directory cannot be created
        :raises ConfigError: if the config holds a value that YAML cannot represent
        """
        text = config.to_yaml()
        try:
            run = cls(_next_free(DEFAULT_ROOT, config.name) if out is None else _create_directory(out), config)
            with run.lock():
                if any(not path.name.endswith(".tmp") for path in run.directory.iterdir()):
                    raise RunError(f"{out}: is not empty", "choose a new directory with --out")
                run.write("config.yaml", text)
                environment = _environment() | {"code": _list_code(config)}
                run.write("environment.json", json.dumps(environment, indent=2) + "\n")
        except OSError as error:
            raise cannot_create(out or DEFAULT_ROOT / config.name, error) from None
        return run

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open an existing run directory; the components of its config are found when they are needed.

        :raises RunError: if it is not a run directory
        :raises ConfigError: if its config is not valid
        """
        directory = Path(directory)
        if not os.path.exists(directory):  # unlike the method of Path, it accepts any name
            raise RunError(f"{directory}: does not exist", "`toolkit train CONFIG` creates a run under runs/")
        if not (directory / "config.yaml").is_file():
            raise RunError(f"{directory}: is not a run directory, because it has no config.yaml")
        return cls(directory, read_config(directory / "config.yaml"))

    @classmethod
    def newest(cls, root: Path = DEFAULT_ROOT) -> Self:
        """Open the run under ``root`` that started last.

        :raises RunError: if there is no run
        """
        configs = sorted(root.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
        if not configs:
            raise RunError(f"{root}/: has no run yet", "`toolkit train CONFIG` creates one, or name the path of a run")
        return cls.open(configs[-1].parent)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in the run's directory; the lock ends with this process.

        :raises RunError: if another process trains in it
        """
        with lock_directory(self.directory, "trains in it"):
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
        return self.directory / MODEL_FILE

    def find_model(self, choice: str = "final") -> Path:
        """Return where a model of the run lies: an SB3 zip, or the directory of a snapshot.

        What the wrappers and the policy learned lies in ``wrappers/`` beside a zip, and in a snapshot itself.

        :param choice: ``final`` for the end of training, ``best`` by an evaluation with ``keep_best``, or
            ``snapshot:N`` for timestep N
        :raises RunError: if the run does not have it
        """
        return find_model(self.directory, choice)

    @property
    def videos(self) -> Path:
        """The directory of the run's videos."""
        return self.directory / "videos"

    def refuse_links(self) -> None:
        """Refuse a run with symbolic links: writing or deleting through a link could hit any file.

        :raises RunError: with the first link
        """
        for path in self.directory.rglob("*"):
            if path.is_symlink():
                raise RunError(f"{path}: is a link, and nothing is written through it", "replace it by its target")

    def remove_leftovers(self) -> None:
        """Delete temporary files of a process that was killed; call it only while the run is locked."""
        if (before := self.directory / BEST_BEFORE).is_dir() and not (self.directory / BEST).exists():
            before.rename(self.directory / BEST)
        for directory in (self.directory, self.directory / "snapshots", self.videos):
            for path in [*directory.glob(".*.tmp"), *directory.glob(".tmp-*")]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        remove_abandoned(self.videos, RECORDING_PREFIX)  # `toolkit record` takes no lock of the run

    def version_differences(self) -> list[str]:
        """Name the packages that are installed in another version than the run started with."""
        try:
            then = json.loads(read_text(self.directory / "environment.json"))["versions"]
            return [f"{name} was {then[name]} and is {now}" for name, now in _versions().items() if then[name] != now]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return [f"{self.directory / 'environment.json'} does not have the versions that the run started with"]

    def list_changed_code(self, config: ResolvedConfig) -> list[str]:
        """Return the code files that a config names and that differ from those of the run's snapshots.

        A file that the run did not have at that path is left out: the run may have started on another machine.
        """
        if not any((self.directory / "snapshots").glob("*")):
            return []  # it starts from the beginning
        try:
            then = json.loads(read_text(self.directory / "environment.json"))["code"]
            return [path for path, digest in _list_code(config).items() if then.get(path, digest) != digest]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []  # of a version without this record

    def record_code(self, config: ResolvedConfig) -> None:
        """Note the code files that training starts with from the beginning, after a start that left no snapshot."""
        try:
            environment = json.loads(read_text(self.directory / "environment.json"))
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(environment, dict) and environment.get("code") != (code := _list_code(config)):
            self.write("environment.json", json.dumps(environment | {"code": code}, indent=2) + "\n")

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json``; None while the run trains, or when it was killed.

        :raises RunError: if the file is damaged
        """
        return read_result(self.directory / "result.json")

    @property
    def episodes(self) -> list[tuple[float, int]]:
        """Raw return and length in the agent's steps of every training episode that counts, in ``monitor.csv``.

        A last line that is still being written is left out.

        :raises RunError: if ``monitor.csv`` does not exist, or is damaged
        """
        return [(episode.raw_return, episode.length) for episode in self.read_episodes()]

    def read_episodes(self) -> list[RecordedEpisode]:
        """Read ``monitor.csv``, as :attr:`episodes` does, with the timestep of each episode.

        :raises RunError: if ``monitor.csv`` does not exist, or is damaged
        """
        return self.read_episodes_with()[0]

    def read_episodes_with(self, prefix: str | None = None) -> tuple[list[RecordedEpisode], dict[str, list[float]]]:
        """Read ``monitor.csv``, with the numbers in columns whose names have a prefix; NaN where there is none.

        :raises RunError: if ``monitor.csv`` does not exist, or is damaged
        """
        try:
            return read_episodes_with(self.directory / "monitor.csv", prefix)
        except FileNotFoundError:
            hint = f"training writes it; to train again: `toolkit train {self.directory / 'config.yaml'}`"
            raise RunError(f"{self.directory}: has no monitor.csv", hint) from None

    def write(self, name: str, text: str) -> None:
        """Write a file of the run so that at any instant it is complete or absent."""
        with self.atomic_file(name) as path:
            path.write_text(text, encoding="utf-8", newline="")

    @contextmanager
    def atomic_file(self, name: str) -> Iterator[Path]:
        """Yield a temporary path to write to; it replaces the file ``name`` when it is complete and on the disk."""
        with atomic_file(self.directory / name) as path:
            yield path


def _create_directory(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is not a directory", "choose a new directory with --out")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _next_free(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    suffixes = [path.name.removeprefix(f"{name}-") for path in root.glob(f"{name}-*")]
    number = max((int(suffix) for suffix in suffixes if suffix.isdigit()), default=0)
    while True:
        number += 1
        try:
            (root / f"{name}-{number}").mkdir()
        except FileExistsError:
            continue  # another run has just created it
        return root / f"{name}-{number}"


def _list_code(config: RunConfig) -> dict[str, str]:
    """Return the SHA-256 of each code file outside installed distributions that a resolved config names."""
    if not isinstance(config, ResolvedConfig):
        return {}
    return {os.fspath(path): digest for path, digest in sorted(config.components.code.items())}


def _environment() -> dict[str, Any]:
    """Describe what the run trains with: versions, machine, git commit of the working directory, command."""
    import torch

    return {
        "versions": _versions(),
        "packages": _packages(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpu": read_cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
    }


@cache
def _packages() -> dict[str, str]:
    """Return the version of every package; cached, because it reads hundreds of files."""
    return dict(sorted(map(_read_name_and_version, distributions())))


def _read_name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Read the two fields alone: to parse all metadata takes fifteen times as long."""
    header, _, _ = (distribution.read_text("METADATA") or "").partition("\n\n")
    fields = dict(_FIELD.findall(header))
    if {"Name", "Version"} <= fields.keys():
        return fields["Name"], fields["Version"]
    return distribution.name, distribution.version


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: _version(name) for name in _RECORDED_VERSIONS}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
