"""The numbers that the logger recorded over a run, ``progress.csv``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.utils.errors import RunError
from toolkit.utils.files import read_text

NAME = "progress.csv"
TIMESTEPS = "time/total_timesteps"
_MAX_BYTES = 1 << 28
_LARGEST = 1e150


class Series(NamedTuple):
    """The numbers of one column, in the order of the rows that have one; both arrays have shape (rows,)."""

    timesteps: NDArray[np.int64]
    values: NDArray[np.float64]


def read_progress(path: Path) -> dict[str, Series]:
    """Read the columns of numbers by their names.

    Rows without a timestep are left out, and so are cells that are empty, infinite or NaN. A column with other text is
    left out. A last row that is still being written is left out, too.

    :return: an empty mapping if the file does not exist, is a link, or has no timesteps
    :raises RunError: if it cannot be read, or is not such a file
    """
    header, rows = _read_rows(path)
    if TIMESTEPS not in header:
        return {}
    place = header.index(TIMESTEPS)
    rows = [row for row in rows if row[place]]
    timesteps = _parse(path, [row[place] for row in rows])
    columns = {name: _parse_column([row[index] for row in rows]) for index, name in enumerate(header)}
    series = {}
    for name, values in columns.items():
        if values is not None and (is_known := np.abs(values) <= _LARGEST).any():
            series[name] = Series(timesteps[is_known], values[is_known])
    return series


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = "" if path.is_symlink() else read_text(path, _MAX_BYTES)
    except FileNotFoundError:
        text = ""
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    reader = csv.reader(StringIO(text[: text.rfind("\n") + 1], newline=""))
    numbered = []
    try:
        header = next(reader, [])
        numbered = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise RunError(f"{path}:{reader.line_num}: is not a row of a CSV file: {error}", "delete the row") from None
    for number, row in numbered:
        if len(row) != len(header):
            problem = f"has {len(row):,} cells, and the header has {len(header):,}"
            raise RunError(f"{path}:{number}: {problem}", "delete the row")
    return header, [row for _, row in numbered]


def _parse(path: Path, cells: Sequence[str]) -> NDArray[np.int64]:
    values = _parse_column(cells)
    if values is None or not ((values >= 0) & (values < 2**53)).all():
        raise RunError(f"{path}: {TIMESTEPS} has a cell that is no count of timesteps", "delete the row with it")
    return values.astype(np.int64)


def _parse_column(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the numbers of a column, NaN where a cell is empty; None if a cell is other text."""
    try:
        return np.array([cell or "nan" for cell in cells], dtype=np.float64)
    except ValueError:
        return None
