"""SB3's logger of a run: ``progress.csv`` and TensorBoard files."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any, TextIO

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys

from toolkit.run import Run


def run_logger(run: Run) -> Logger:
    """Make the logger that writes ``progress.csv`` and ``tensorboard/`` in a run directory."""
    formats = [_ProgressFile(run), TensorBoardOutputFormat(str(run.directory / "tensorboard"))]
    return Logger(str(run.directory), formats)


class _ProgressFile(KVWriter):
    """A CSV file with a row a dump, whole at any instant and the same for the same run.

    SB3's own CSV format orders new columns by string hash, which differs from process to process, and rewrites the
    file in place when a column comes in late.
    """

    NAME = "progress.csv"

    def __init__(self, run: Run) -> None:
        self._run = run
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._file: TextIO | None = None  # until there is a row

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row; values that are no numbers or text (figures, images) are left to TensorBoard."""
        row = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {key: value for key, value in row.items() if isinstance(value, str) or hasattr(value, "__float__")}
        self._rows.append(row)
        new = sorted(row.keys() - set(self._columns))
        if new or self._file is None:
            self._columns += new
            self._rewrite()
        else:
            self._file.write(self._text([row]))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _rewrite(self) -> None:
        header = dict(zip(self._columns, self._columns, strict=True))
        self.close()
        self._run.write(self.NAME, self._text([header, *self._rows]))
        self._file = (self._run.directory / self.NAME).open("a", newline="", encoding="utf-8")

    def _text(self, rows: list[dict[str, Any]]) -> str:
        text = StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        return text.getvalue()
