"""Directories on their way between machines, in storage that all of them reach."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsspec.core import url_to_fs

from toolkit.experiments.monitor_tail import MonitorTail
from toolkit.experiments.status import RunStatus
from toolkit.utils.errors import ToolkitError, describe_error

_log = logging.getLogger("toolkit")
_LOOKS_EVERY = 1.0  # seconds


def make_storage(url: str) -> None:
    """Make a directory that parcels can be in, unless it is there.

    :raises ToolkitError: if that cannot be done
    """
    try:
        files, root = url_to_fs(url)
        files.makedirs(root, exist_ok=True)
    except Exception as error:  # of any package for any storage
        hint = "is the URL right, and the package installed that fsspec needs for it?"
        raise ToolkitError(f"storage '{url}' cannot be used: {describe_error(error)}", hint) from error


class RemoteDirectory:
    """A directory in storage, as one file that is whole at any instant, whoever writes it and dies.

    :param storage: URL of a directory, for fsspec
    :param home: the directory's own path, which also says where it is in there
    """

    def __init__(self, storage: str, home: Path) -> None:
        self.home = home.absolute()
        self._files, root = url_to_fs(storage)
        readable = re.sub(r"[^\w.-]+", "-", "/".join(self.home.parts[-2:]), flags=re.ASCII)[:100]
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:32]
        self._path = f"{root.rstrip('/')}/{readable}-{digest}.tar"

    def is_there(self) -> bool:
        """Say whether it is in the storage."""
        self._files.invalidate_cache()
        return bool(self._files.exists(self._path))

    def is_behind(self) -> bool:
        """Say whether the directory at home has come further, as somebody has trained there since it was sent.

        :raises FileNotFoundError: if it is not in the storage
        """
        with tempfile.TemporaryDirectory(prefix="toolkit-") as place:
            self.fetch(Path(place), snapshots=False)
            return _how_far(Path(place)) < _how_far(self.home)

    def send(self, directory: Path) -> None:
        """Put the files of a directory there, in the place of those from before; training may be at work in it.

        A snapshot in it then has all beside it that :func:`toolkit.training.trainer.resume` needs.
        """
        part = f"{self._path}.{secrets.token_hex(8)}"
        self._files.makedirs(part.rpartition("/")[0], exist_ok=True)
        try:
            with self._files.open(part, "wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
                for path in sorted(_paths(directory), key=_rank):
                    try:
                        tar.add(directory / path, path, recursive=False)
                    except FileNotFoundError:
                        continue  # a snapshot that is not kept
            self._files.mv(part, self._path)
        except BaseException:
            if self._files.exists(part):
                self._files.rm_file(part)
            raise

    def fetch(self, directory: Path, snapshots: bool = True) -> None:
        """Put its files into an empty directory, with snapshots or without."""
        with self._files.open(self._path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            members = (one for one in tar if snapshots or "snapshots" not in Path(one.name).parts)
            tar.extractall(directory, members, filter="data")

    def download(self) -> None:
        """Put it in the place of the directory at home, and take it out of the storage."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".parcel-", dir=self.home.parent) as beside:
            new, old = Path(beside) / "new", Path(beside) / "old"
            new.mkdir()
            self.fetch(new)
            if self.home.exists():
                self.home.rename(old)
            new.rename(self.home)
        self._files.rm_file(self._path)

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """Give a directory of this machine with what is in it, which is sent after each snapshot and at the end."""
        with tempfile.TemporaryDirectory(prefix="toolkit-") as place:
            own = Path(place) / self.home.name
            own.mkdir()
            if self.is_there():
                self.fetch(own)
            ended = threading.Event()
            sender = threading.Thread(target=self._send_snapshots, args=(own, ended), daemon=True)
            sender.start()
            try:
                yield own
            finally:
                ended.set()
                sender.join()
                self.send(own)

    def _send_snapshots(self, own: Path, ended: threading.Event) -> None:
        sent = _snapshots(own)
        while not ended.wait(_LOOKS_EVERY):
            there = _snapshots(own)
            if there <= sent:
                continue
            try:
                self.send(own)
                sent = there
            except Exception as error:  # it is tried again, and training goes on
                _log.warning("%s: a snapshot could not be sent: %s", self.home, describe_error(error))


def _how_far(directory: Path) -> tuple[int, bool, bool]:
    """Say how far the run in a directory is, by what is in its files: clocks of machines differ."""
    tail, status = MonitorTail(directory), RunStatus.read(directory)
    tail.poll(since=0)
    return tail.timesteps, status.has_ended, bool(status.evaluation)


def _paths(directory: Path) -> Iterator[Path]:
    """Give the path of each file in a directory, from there, but for what is being written or deleted."""
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith((".tmp-", ".recording-"))]
        for name in files:
            if not name.endswith(".tmp"):
                yield Path(folder, name).relative_to(directory)


def _rank(path: Path) -> tuple[int, Path]:
    """Order files so that a snapshot is followed by what grows, and what says how a run ended by all that it ends."""
    return (1 if "snapshots" in path.parts else 0 if path.suffix == ".json" else 2), path


def _snapshots(directory: Path) -> set[Path]:
    folders = (path.parent for path in _paths(directory))
    return {folder for folder in folders if folder.parent.name == "snapshots" and folder.name.isdecimal()}
