"""Storage of job directories that all machines of a cluster reach, through fsspec."""

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
_POLL_INTERVAL = 1.0  # seconds


def create_storage(url: str) -> None:
    """Create the directory of a storage, unless it exists.

    :raises ToolkitError: if that fails
    """
    try:
        file_system, root = url_to_fs(url)
        file_system.makedirs(root, exist_ok=True)
    except Exception as error:  # of any package for any storage
        hint = "check the URL, and install the package that fsspec needs for it"
        raise ToolkitError(f"storage '{url}' cannot be used: {describe_error(error)}", hint) from error


class RemoteDirectory:
    """A copy of a local directory in a storage: one tar file, complete at any time, even when its writer dies.

    :param storage: URL of a directory, for fsspec
    :param local: path of the local directory, which also identifies the copy in the storage
    """

    def __init__(self, storage: str, local: Path) -> None:
        self.local = local.absolute()
        self._file_system, root = url_to_fs(storage)
        label = re.sub(r"[^\w.-]+", "-", "/".join(self.local.parts[-2:]), flags=re.ASCII)[:100]
        digest = hashlib.sha256(os.fsencode(self.local)).hexdigest()[:32]
        self._path = f"{root.rstrip('/')}/{label}-{digest}.tar"

    def exists(self) -> bool:
        """Return whether the storage has a copy."""
        self._file_system.invalidate_cache()
        return bool(self._file_system.exists(self._path))

    def is_behind(self) -> bool:
        """Return whether the run in the local directory is further than the copy, because it was resumed locally.

        :raises FileNotFoundError: if the storage has no copy
        """
        with tempfile.TemporaryDirectory(prefix="toolkit-") as folder:
            self.extract(Path(folder), with_snapshots=False)
            return _get_progress(Path(folder)) < _get_progress(self.local)

    def upload(self, directory: Path) -> None:
        """Replace the copy by the files of a directory, in which a run may be training.

        Each snapshot in the copy comes with the files that :func:`toolkit.training.trainer.resume` needs.
        """
        part = f"{self._path}.{secrets.token_hex(8)}"
        self._file_system.makedirs(part.rpartition("/")[0], exist_ok=True)
        try:
            with self._file_system.open(part, "wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
                for path in sorted(_find_files(directory), key=_upload_order):
                    try:
                        tar.add(directory / path, path, recursive=False)
                    except FileNotFoundError:
                        continue  # training has deleted an old snapshot
            self._file_system.mv(part, self._path)
        except BaseException:
            if self._file_system.exists(part):
                self._file_system.rm_file(part)
            raise

    def extract(self, directory: Path, with_snapshots: bool = True) -> None:
        """Extract the files of the copy into an empty directory."""
        with self._file_system.open(self._path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            members = (member for member in tar if with_snapshots or "snapshots" not in Path(member.name).parts)
            tar.extractall(directory, members, filter="data")

    def download(self) -> None:
        """Replace the local directory by the copy, and delete the copy."""
        self.local.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=self.local.parent) as folder:
            new, old = Path(folder) / "new", Path(folder) / "old"
            new.mkdir()
            self.extract(new)
            if self.local.exists():
                self.local.rename(old)
            new.rename(self.local)
        self._file_system.rm_file(self._path)

    @contextmanager
    def working_copy(self) -> Iterator[Path]:
        """Extract the copy into a temporary directory, and upload that after each snapshot and at the end."""
        with tempfile.TemporaryDirectory(prefix="toolkit-") as folder:
            directory = Path(folder) / self.local.name
            directory.mkdir()
            if self.exists():
                self.extract(directory)
            has_ended = threading.Event()
            uploader = threading.Thread(target=self._upload_snapshots, args=(directory, has_ended), daemon=True)
            uploader.start()
            try:
                yield directory
            finally:
                has_ended.set()
                uploader.join()
                self.upload(directory)

    def _upload_snapshots(self, directory: Path, has_ended: threading.Event) -> None:
        uploaded = _find_snapshots(directory)
        while not has_ended.wait(_POLL_INTERVAL):
            snapshots = _find_snapshots(directory)
            if snapshots <= uploaded:
                continue
            try:
                self.upload(directory)
                uploaded = snapshots
            except Exception as error:  # the next look tries again, and training continues
                _log.warning("%s: a snapshot cannot be uploaded: %s", self.local, describe_error(error))


def _get_progress(directory: Path) -> tuple[int, bool, bool]:
    """Return how far the run in a directory is, from the content of its files: the clocks of machines differ."""
    tail, status = MonitorTail(directory), RunStatus.read(directory)
    tail.poll(since=0)
    return tail.timesteps, status.has_ended, bool(status.evaluation)


def _find_files(directory: Path) -> Iterator[Path]:
    """Yield the relative path of each file, except files that are being written or deleted."""
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith((".tmp-", ".recording-"))]
        for name in files:
            if not name.endswith(".tmp"):
                yield Path(folder, name).relative_to(directory)


def _upload_order(path: Path) -> tuple[int, Path]:
    """Sort files so that growing files come after the snapshots that need them, and a run's result comes first."""
    return (1 if "snapshots" in path.parts else 0 if path.suffix == ".json" else 2), path


def _find_snapshots(directory: Path) -> set[Path]:
    folders = (path.parent for path in _find_files(directory))
    return {folder for folder in folders if folder.parent.name == "snapshots" and folder.name.isdecimal()}
