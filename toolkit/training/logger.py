"""SB3's logger of a run: ``progress.csv`` and TensorBoard files."""

from __future__ import annotations

import csv
import hashlib
import inspect
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from tensorboard.summary.writer.record_writer import RecordWriter

from toolkit.envs.episode_numbers import REWARD_PREFIX
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.value_trace import TracedEpisode
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.data import compute_mean
from toolkit.utils.files import AppendOnlyFile, sync
from toolkit.utils.memory import installed_memory

_log = logging.getLogger("toolkit")
_MAX_TEXT_LENGTH = csv.field_size_limit()  # characters that a reader with default settings accepts


def make_logger(run: RunDirectory, env: EpisodeRecorder, model: BaseAlgorithm) -> Logger:
    """Make the logger that writes ``progress.csv`` and ``tensorboard/`` in a run directory."""
    return _RunLogger(run, env, model)


class _RunLogger(Logger):
    """SB3's logger, with the means of the episodes that count, value estimates beside what followed, and parameters.

    SB3 takes its means over the episodes that completed last. Among many environments, these are mostly short ones.
    """

    def __init__(self, run: RunDirectory, env: EpisodeRecorder, model: BaseAlgorithm) -> None:
        super().__init__(str(run.directory), [_ProgressFile(run), _TensorBoardFiles(run)])
        self._episodes = env.episodes
        self._value_trace = env.value_trace
        self._model = model
        self._parameters = env.parameters
        self._has_wrappers = bool(run.config.env.wrappers)
        self._info_keywords = run.config.env.info_keywords

    def dump(self, step: int = 0) -> None:
        """Write a row of what is recorded, with our means where SB3 has recorded its own."""
        if "rollout/ep_rew_mean" in self.name_to_value:
            self._replace_mean("rollout/ep_rew_mean", self._episodes.mean_return)
            self._replace_mean("rollout/ep_len_mean", self._episodes.mean_length)
            numbers = self._episodes.mean_numbers(self._model._stats_window_size)
            for name, mean in numbers.items():
                self.record(name, mean)
            if self._has_wrappers or any(name.startswith(REWARD_PREFIX) for name in numbers):
                self._replace_mean("rollout/ep_shaped_rew_mean", self._episodes.mean_shaped_return)
            if self._model.ep_success_buffer:
                self._replace_mean("rollout/success_rate", self._episodes.success_rate)
            for name in self._info_keywords:
                if (key := f"rollout/{name}") not in self.name_to_value:  # else SB3 has recorded another number
                    self._replace_mean(key, partial(self._episodes.mean_extra, name))
        if self._value_trace is not None and "time/total_timesteps" in self.name_to_value:
            self._record_values(self._value_trace.take())
        for path, value in self._parameters.values.items():
            self.record(f"parameters/{path}", value)
        super().dump(step)

    def _record_values(self, traced: Sequence[TracedEpisode]) -> None:
        if traced:
            for name, values in zip(TracedEpisode._fields, zip(*traced, strict=True), strict=True):
                self.record(f"value/{name}", compute_mean(values))

    def _replace_mean(self, name: str, compute_mean: Callable[[int], float | None]) -> None:
        self.record(name, mean := compute_mean(self._model._stats_window_size))
        if mean is None:
            del self.name_to_value[name], self.name_to_excluded[name]


def default_log_interval(model: BaseAlgorithm) -> int:
    """Return an algorithm's own default of ``log_interval``, from the signature of its ``learn``."""
    signatures = [
        inspect.signature(vars(cls)["learn"]).parameters for cls in type(model).__mro__ if "learn" in vars(cls)
    ]
    interval: int = next(signature["log_interval"].default for signature in signatures if "log_interval" in signature)
    return interval


class IterationLogger(BaseCallback):
    """Dump a row of the log every ``interval`` iterations of an on-policy algorithm, across resumes.

    ``OnPolicyAlgorithm.learn`` counts iterations from 0 in a local variable, so after a resume its rows would have
    other numbers and come at other timesteps. Call ``learn`` with ``log_interval=None`` instead, and add this callback
    last. SB3 calls it at the end of a rollout, right before ``learn`` itself would dump.

    :param interval: iterations from one row to the next
    :param iterations: number of iterations before this call of ``learn``
    """

    def __init__(self, interval: int, iterations: int) -> None:
        super().__init__()
        self._interval = interval
        self._iterations = iterations

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._iterations += 1
        if self._iterations % self._interval == 0 and isinstance(self.model, OnPolicyAlgorithm):
            self.model.dump_logs(self._iterations)


class _ProgressFile(KVWriter):
    """A CSV file with one row per dump, complete at any instant and the same for the same run.

    SB3's own CSV format orders new columns by string hash, which differs from process to process. It also rewrites the
    file in place when a new column appears. Here new columns come last, so a snapshot can cut them off again.
    """

    NAME = "progress.csv"

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._path = run.directory / self.NAME
        self._columns: list[str] = []
        self._rows = 0
        self._checksum = hashlib.sha256()
        self._file: AppendOnlyFile | None = None  # None until there is a row

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row of numbers and short texts; figures and images are for TensorBoard alone."""
        row = {
            key: str(value)
            for key, value in filter_excluded_keys(key_values, key_excluded, "csv").items()
            if (isinstance(value, str) and len(value) <= _MAX_TEXT_LENGTH) or hasattr(value, "__float__")
        }
        if new := sorted(row.keys() - set(self._columns)):
            self._rewrite([*self._columns, *new], self._rows)
        if self._file is not None:
            line = _line([row.get(column, "") for column in self._columns])
            self._file.write(line)
            self._checksum.update(line)
            self._rows += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rows and their checksum, and make sure that they are on the disk."""
        if self._file is not None:
            with suppress(FileNotFoundError):  # somebody has deleted it; a resume reports that
                sync(self._path)
                sync(self._path.parent)
        return {"columns": list(self._columns), "rows": self._rows, "sha256": self._checksum.hexdigest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut off later rows; if earlier rows have changed, warn, move the file aside and start a new one."""
        if not state["rows"]:
            self._path.unlink(missing_ok=True)
            return
        try:
            if not self._path.is_file() or self._path.stat().st_size > installed_memory():
                raise _ChangedRowsError
            self._rewrite(state["columns"], state["rows"], state["sha256"])
        except (_ChangedRowsError, csv.Error):
            self._set_aside()

    def _set_aside(self) -> None:
        message = "%s: differs from the snapshot, so its earlier rows are lost"
        if self._path.exists():
            names = (f"{self.NAME}.old{number or ''}" for number in itertools.count())
            name = next(name for name in names if not self._path.with_name(name).exists())
            message = f"%s: differs from the snapshot, so its earlier rows are moved to {name}"
            self._path.rename(self._path.with_name(name))
        _log.warning(message, self._path)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _rewrite(self, columns: list[str], rows: int, expected: str | None = None) -> None:
        """Rewrite the first rows with more or fewer columns at the end.

        :raises _ChangedRowsError: if the result does not have the expected checksum; the file then stays as it was
        """
        checksum = hashlib.sha256()
        with self._run.atomic_file(self.NAME) as path, path.open("wb") as file:
            for cells in itertools.chain([columns], self._read(rows)):
                line = _line([*cells, *[""] * len(columns)][: len(columns)])
                file.write(line)
                checksum.update(line)
            if expected not in (None, checksum.hexdigest()):
                raise _ChangedRowsError
        self.close()
        self._columns, self._rows, self._checksum = columns, rows, checksum
        self._file = AppendOnlyFile(self._path)

    def _read(self, rows: int) -> Iterator[list[str]]:
        if rows:
            with self._path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                yield from itertools.islice(csv.reader(file), 1, rows + 1)


class _ChangedRowsError(Exception):
    """A file does not begin with the rows that it had when the snapshot was taken."""


def _line(cells: list[str]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # with \r\n, csv quotes a cell that has a \r in it
    return (text.getvalue().removesuffix("\r\n") + "\n").encode()


class _TensorBoardFiles(TensorBoardOutputFormat):
    """TensorBoard's event files; a resume cuts those of earlier processes where the snapshot was taken."""

    def __init__(self, run: RunDirectory) -> None:
        self._folder = run.directory / "tensorboard"
        self._earlier_files = [
            path for path in self._folder.glob("events*") if path.is_file() and not path.is_symlink()
        ]
        super().__init__(str(self._folder))
        self._write_without_thread()

    def _write_without_thread(self) -> None:
        """Replace TensorBoard's writer thread, which prints its errors and raises them late or never."""
        file_writer = self.writer.file_writer
        if file_writer is not None:
            file_writer.event_writer.close()
            (path,) = {*self._folder.glob("events*")} - {*self._earlier_files}
            file_writer.event_writer = _EventFile(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the size of each file in bytes, and make sure that it is on the disk."""
        self.writer.flush()
        paths = [*self._folder.glob("events*")]
        with suppress(FileNotFoundError):  # somebody has deleted them; a resume reports that
            for path in (*paths, self._folder):
                sync(path)
        return {"sizes": {path.name: path.stat().st_size for path in paths if path.exists()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut off later events; warn if earlier ones are missing."""
        sizes = state["sizes"]
        if not all(type(size) is int and size >= 0 for size in sizes.values()):
            raise ValueError("a file size is not a natural number")
        present = {path.name: path.stat().st_size for path in self._earlier_files}
        if any(present.get(name, 0) < size for name, size in sizes.items()):
            _log.warning("%s: some events from before the snapshot are missing", self._folder)
        for path in self._earlier_files:
            size = sizes.get(path.name)
            if size is None:
                path.unlink()
            elif present[path.name] > size:
                os.truncate(path, size)


class _EventFile:
    """The used part of TensorBoard's ``EventFileWriter``, without a thread."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._file = AppendOnlyFile(path)
        self._records = RecordWriter(self._file)

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Do nothing: everything is written already."""

    def close(self) -> None:
        self._file.close()
