"""Compare two runs of one config and seed, except for wall-clock times.

This module does not import the toolkit, so that it can read the runs of any version.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_CLOCK_COLUMNS = {"t", "time/fps", "time/time_elapsed"}


def list_differences(first: Path, second: Path) -> list[str]:
    """List what differs between two run directories; the list is empty if the runs are identical."""
    differences = [
        name for name in ("monitor.csv", "progress.csv") if read_rows(first / name) != read_rows(second / name)
    ]
    first_tensors, second_tensors = (
        dict(iterate_leaves(read_tensors(directory / "model.zip"))) for directory in (first, second)
    )
    differences += [
        f"model.zip {name}"
        for name in {*first_tensors, *second_tensors}
        if not is_identical(first_tensors.get(name), second_tensors.get(name))
    ]
    for name, read in {"wrappers": read_wrapper_checksums, "result.json": read_result}.items():
        differences += [name] if read(first) != read(second) else []
    return differences


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file without the columns of the clock; a missing file has no rows."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [{key: text for key, text in row.items() if key not in _CLOCK_COLUMNS} for row in csv.DictReader(lines)]


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what torch saved in a model of SB3, by the names of its files; a missing model has none."""
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        return {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in names}


def iterate_leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors and numbers in nested dictionaries, lists and tuples, with their paths."""
    if isinstance(tree, dict | list | tuple):
        for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from iterate_leaves(child, f"{path}/{key}")
    else:
        yield path, tree


def is_identical(first: Any, second: Any) -> bool:
    """Return whether two leaves are identical, bit for bit if they are tensors."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def read_wrapper_checksums(directory: Path) -> str:
    """Read the checksums of the statistics that wrappers learned, if there are any."""
    path = directory / "wrappers" / "SHA256SUMS"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def read_result(directory: Path) -> dict[str, Any]:
    """Read ``result.json`` without the seconds."""
    result: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    result.pop("seconds")
    if result["success"]:
        result["success"].pop("seconds")
    return result
