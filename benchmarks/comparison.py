"""What differs between two runs of one config and seed, wall-clock times aside."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_WALL_CLOCK = {"t", "time/fps", "time/time_elapsed"}


def differences(one: Path, other: Path) -> list[str]:
    """Name what differs between two runs' directories; empty if nothing does."""
    found = [name for name in ("monitor.csv", "progress.csv") if rows(one / name) != rows(other / name)]
    tensors, others = (dict(leaves(weights(directory / "model.zip"))) for directory in (one, other))
    found += [f"model.zip {name}" for name in {*tensors, *others} if not same(tensors.get(name), others.get(name))]
    for name, read in {"wrappers": sums, "result.json": result}.items():
        found += [name] if read(one) != read(other) else []
    return found


def rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file without what the clock says."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [{key: text for key, text in row.items() if key not in _WALL_CLOCK} for row in csv.DictReader(lines)]


def weights(path: Path) -> dict[str, Any]:
    """Read the tensors of an SB3 zip, if there is one."""
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        return {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in names}


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give the tensors and numbers in nested dictionaries and lists."""
    if isinstance(tree, dict | list | tuple):
        for key, one in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(one, f"{name}/{key}")
    else:
        yield name, tree


def same(one: Any, other: Any) -> bool:
    """Say whether two leaves are identical."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def sums(directory: Path) -> str:
    """Read the checksums of what wrappers have learnt, if there are any."""
    path = directory / "wrappers" / "SHA256SUMS"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def result(directory: Path) -> dict[str, Any]:
    """Read ``result.json`` without what the clock says."""
    read: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    read.pop("seconds")
    if read["success"]:
        read["success"].pop("seconds")
    return read
