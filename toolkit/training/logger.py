"""SB3's logger of a run: ``progress.csv`` and TensorBoard files."""

from __future__ import annotations

import csv
import hashlib
import inspect
import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from tensorboard.summary.writer.record_writer import RecordWriter

from toolkit.training.run_directory import RunDirectory
from toolkit.utils.files import AppendOnlyFile, sync
from toolkit.utils.memory import installed_memory

_log = logging.getLogger("toolkit")
_LONGEST_TEXT = csv.field_size_limit()  # which a program could raise, and one that reads the file does not


def run_logger(run: RunDirectory, iterations: int = 0) -> Logger:
    """Make the logger that writes ``progress.csv`` and ``tensorboard/`` in a run directory.

    :param iterations: how many a training that is gone on with has made before
    """
    return _RunLogger(str(run.directory), [_ProgressFile(run), _TensorBoardFiles(run)], iterations)


def log_interval(model: BaseAlgorithm, iterations: int) -> int:
    """Return an algorithm's own interval between two rows of its log, which counts iterations made before as well."""
    signatures = [
        inspect.signature(vars(cls)["learn"]).parameters for cls in type(model).__mro__ if "learn" in vars(cls)
    ]
    interval: int = next(named["log_interval"].default for named in signatures if "log_interval" in named)
    return _LogInterval(interval, iterations) if isinstance(model, OnPolicyAlgorithm) else interval


class _LogInterval(int):
    """An interval that ``iteration % interval`` of SB3's on-policy ``learn``, which counts from 0, is a part of."""

    def __new__(cls, interval: int, before: int) -> _LogInterval:
        made = super().__new__(cls, interval)
        made._before = before
        return made

    _before: int

    def __rmod__(self, iteration: int) -> int:
        return (iteration + self._before) % int(self)


class _RunLogger(Logger):
    """SB3's logger, for a training that may be gone on with: ``learn`` counts its iterations from 0 again."""

    def __init__(self, folder: str, formats: list[KVWriter], iterations: int) -> None:
        super().__init__(folder, formats)
        self._iterations = iterations

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        """Record a value."""
        super().record(key, value + self._iterations if key == "time/iterations" else value, exclude)


class _ProgressFile(KVWriter):
    """A CSV file with a row a dump, whole at any instant and the same for the same run.

    SB3's own CSV format orders new columns by string hash, which differs from process to process, and rewrites the
    file in place when a column comes in late. Here new columns come last, so that a file with more of them holds what
    it was without them.
    """

    NAME = "progress.csv"

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._path = run.directory / self.NAME
        self._columns: list[str] = []
        self._rows = 0
        self._sum = hashlib.sha256()
        self._file: AppendOnlyFile | None = None  # until there is a row

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row; what is no number or short text (figures, images) is left to TensorBoard."""
        row = {
            key: str(value)
            for key, value in filter_excluded_keys(key_values, key_excluded, "csv").items()
            if (isinstance(value, str) and len(value) <= _LONGEST_TEXT) or hasattr(value, "__float__")
        }
        if new := sorted(row.keys() - set(self._columns)):
            self._lay_out([*self._columns, *new], self._rows)
        if self._file is not None:
            line = _line([row.get(column, "") for column in self._columns])
            self._file.write(line)
            self._sum.update(line)
            self._rows += 1

    def state_dict(self) -> dict[str, Any]:
        """Return how much there is, and its sum; that much is then on the disk, whatever becomes of the machine."""
        if self._file is not None:
            with suppress(FileNotFoundError):  # somebody has deleted it; that is told when training goes on
                sync(self._path)
                sync(self._path.parent)
        return {"columns": list(self._columns), "rows": self._rows, "sha256": self._sum.hexdigest()}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Cut off what was logged after that; where what came before is not there, say so and begin anew."""
        if not kept["rows"]:
            self._path.unlink(missing_ok=True)
            return
        try:
            if not self._path.is_file() or self._path.stat().st_size > installed_memory():
                raise _OtherRowsError
            self._lay_out(kept["columns"], kept["rows"], kept["sha256"])
        except (_OtherRowsError, csv.Error):
            message = "%s: is not what it was when the snapshot was taken: rows from before are not gone on with"
            if self._path.exists():
                names = (f"{self.NAME}.old{number or ''}" for number in itertools.count())
                free = next(name for name in names if not self._path.with_name(name).exists())
                message += f", and kept in {free}"
                self._path.rename(self._path.with_name(free))
            _log.warning(message, self._path)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _lay_out(self, columns: list[str], rows: int, expected: str | None = None) -> None:
        """Write the first rows once more, with other columns: more at the end, or fewer there.

        :raises _OtherRowsError: if what comes out has not the expected sum; the file is then as it was
        """
        written = hashlib.sha256()
        with self._run.atomic_file(self.NAME) as path, path.open("wb") as file:
            for cells in itertools.chain([columns], self._read(rows)):
                line = _line([*cells, *[""] * len(columns)][: len(columns)])
                file.write(line)
                written.update(line)
            if expected not in (None, written.hexdigest()):
                raise _OtherRowsError
        self.close()
        self._columns, self._rows, self._sum = columns, rows, written
        self._file = AppendOnlyFile(self._path)

    def _read(self, rows: int) -> Iterator[list[str]]:
        if rows:
            with self._path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                yield from itertools.islice(csv.reader(file), 1, rows + 1)


class _OtherRowsError(Exception):
    """A file does not begin with the rows that it had."""


def _line(cells: list[str]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # what has a \r in it is quoted then, and read back
    return (text.getvalue().removesuffix("\r\n") + "\n").encode()


class _TensorBoardFiles(TensorBoardOutputFormat):
    """TensorBoard's event files, of which those of a training that is gone on with are cut where it was saved."""

    def __init__(self, run: RunDirectory) -> None:
        self._folder = run.directory / "tensorboard"
        self._earlier = [path for path in self._folder.glob("events*") if path.is_file() and not path.is_symlink()]
        super().__init__(str(self._folder))
        self._write_at_once()

    def _write_at_once(self) -> None:
        """Write without TensorBoard's thread, which prints what goes wrong, and tells training late or not at all."""
        files = self.writer.file_writer
        if files is not None:
            files.event_writer.close()
            (path,) = {*self._folder.glob("events*")} - {*self._earlier}
            files.event_writer = _EventFile(path)

    def state_dict(self) -> dict[str, Any]:
        """Return how long each file is; that much is then on the disk, whatever becomes of the machine."""
        self.writer.flush()
        paths = [*self._folder.glob("events*")]
        with suppress(FileNotFoundError):  # somebody has deleted them; that is told when training goes on
            for path in (*paths, self._folder):
                sync(path)
        return {"sizes": {path.name: path.stat().st_size for path in paths if path.exists()}}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Cut off what was logged after that; say so where what came before is not there."""
        if not all(type(size) is int and size >= 0 for size in kept["sizes"].values()):
            raise ValueError("a file has no such length")
        there = {path.name: path.stat().st_size for path in self._earlier}
        if any(there.get(name, 0) < size for name, size in kept["sizes"].items()):
            _log.warning("%s: lacks some of what was there when the snapshot was taken", self._folder)
        for path in self._earlier:
            size = kept["sizes"].get(path.name)
            if size is None:
                path.unlink()
            elif there[path.name] > size:
                os.truncate(path, size)


class _EventFile:
    """What of TensorBoard's ``EventFileWriter`` is used, without a thread."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._file = AppendOnlyFile(path)
        self._records = RecordWriter(self._file)

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Everything is written already."""

    def close(self) -> None:
        self._file.close()
