"""SB3's logger of a run: ``progress.csv`` and TensorBoard files."""

from __future__ import annotations

import csv
import inspect
import os
from io import StringIO
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from tensorboard.summary.writer.record_writer import RecordWriter

from toolkit.run import GrowingFile, Run


def run_logger(run: Run, iterations: int = 0) -> Logger:
    """Make the logger that writes ``progress.csv`` and ``tensorboard/`` in a run directory.

    :param iterations: how many a training that is gone on with has made before
    """
    return _RunLogger(str(run.directory), [_ProgressFile(run), _TensorBoardFiles(run)], iterations)


def log_interval(model: BaseAlgorithm, iterations: int) -> int:
    """Return an algorithm's own interval between two rows of its log, which counts iterations made before as well."""
    interval: int = inspect.signature(model.learn).parameters["log_interval"].default
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
    file in place when a column comes in late.
    """

    NAME = "progress.csv"

    def __init__(self, run: Run) -> None:
        self._run = run
        self._columns: list[str] = []
        self._rows: list[dict[str, str]] = []
        self._file: GrowingFile | None = None  # until there is a row

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row; values that are no numbers or text (figures, images) are left to TensorBoard."""
        row = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {key: str(value) for key, value in row.items() if isinstance(value, str) or hasattr(value, "__float__")}
        self._rows.append(row)
        new = sorted(row.keys() - set(self._columns))
        if new or self._file is None:
            self._columns += new
            self._rewrite()
        else:
            self._file.write(self._text([row]).encode())

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"columns": list(self._columns), "rows": list(self._rows)}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Go on after the rows of another run."""
        self._columns, self._rows = kept["columns"], kept["rows"]
        if self._rows:
            self._rewrite()
        else:
            (self._run.directory / self.NAME).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _rewrite(self) -> None:
        header = dict(zip(self._columns, self._columns, strict=True))
        self.close()
        self._run.write(self.NAME, self._text([header, *self._rows]))
        self._file = GrowingFile(self._run.directory / self.NAME)

    def _text(self, rows: list[dict[str, str]]) -> str:
        text = StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        return text.getvalue()


class _TensorBoardFiles(TensorBoardOutputFormat):
    """TensorBoard's event files, of which those of a training that is gone on with are cut where it was saved."""

    def __init__(self, run: Run) -> None:
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
        """Return how long each file is."""
        self.writer.flush()
        return {"sizes": {path.name: path.stat().st_size for path in self._folder.glob("events*")}}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Cut off what was logged after that."""
        for path in self._earlier:
            size = kept["sizes"].get(path.name)
            if size is None:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)


class _EventFile:
    """What of TensorBoard's ``EventFileWriter`` is used, without a thread."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._file = GrowingFile(path)
        self._records = RecordWriter(self._file)

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Everything is written already."""

    def close(self) -> None:
        self._file.close()
