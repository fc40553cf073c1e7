"""What all benchmarks share: sides measured in turns, the machine they run on, results as JSON and Markdown."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from toolkit.utils.processes import read_cpu_name

# This module does not import torch: `process.py` must use less memory than the processes that it measures.
PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
_PACKAGES = ("sb3-toolkit", "stable-baselines3", "gymnasium", "torch", "numpy")

T = TypeVar("T")


def make_parser(doc: str | None, repeats: int | None = 5) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks.

    :param doc: docstring of the script
    :param repeats: default of ``--repeats``; None if the benchmark has no such option
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if repeats:
        parser.add_argument("--repeats", type=int, default=repeats, help="how often each side is measured")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    return parser


def parse_compile(text: str) -> bool | str:
    """Parse the value of a ``--compile`` option: one that DoubleDQN's ``compile`` accepts."""
    values: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}
    if text not in values:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(values)}")
    return values[text]


def measure_alternately(sides: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Measure all sides in each repeat, so that other load on the machine affects all of them.

    Every second repeat goes through the sides in reverse.

    :return: for each side, what it returned in each repeat
    """
    measured: dict[str, list[T]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in sides if repeat % 2 == 0 else reversed([*sides]):
            measured[name].append(sides[name]())
    return measured


def compute_ratios(theirs: Iterable[float], ours: Iterable[float]) -> list[float]:
    """Return their time divided by ours, for each repeat."""
    return [their / our for their, our in zip(theirs, ours, strict=True)]


def format_spread(values: Sequence[float], digits: int = 2) -> str:
    """Write the median with the minimum and the maximum."""
    numbers = (statistics.median(values), min(values), max(values))
    median, minimum, maximum = (f"{number:,.{digits}f}" for number in numbers)
    return f"{median} ({minimum} to {maximum})"


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe_machine() -> dict[str, Any]:
    """Return facts about the machine and the installed packages; torch's threads only if torch is imported."""
    torch = sys.modules.get("torch")
    return {
        "architecture": platform.machine(),
        "processor": read_cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "torch_threads": torch.get_num_threads() if torch else None,
    }


def write_page(
    name: str,
    doc: str | None,
    text: str,
    measured: Mapping[str, Any],
    arguments: argparse.Namespace,
    placeholders: Mapping[str, str] | None = None,
) -> None:
    """Print the page of a benchmark, and write it as ``NAME.md`` with the raw numbers in ``NAME.json``.

    :param doc: docstring of the script: its title, its usage, and what its numbers mean
    :param text: the tables
    :param measured: the numbers that the tables are computed from
    :param placeholders: what the command shows instead of arguments that make sense only on this machine
    """
    title, _, *explanation = (doc or "").strip().split("\n\n")
    command = _format_command(placeholders or {})
    date, machine = datetime.now(UTC).date().isoformat(), describe_machine()
    heading = [f"# {title.rstrip('.')}", f"`{command}`", f"{date}, {format_machine(machine)}"]
    page = "\n\n".join([*heading, text, *explanation]) + "\n"
    results = {"command": command, "date": date, "machine": machine, "measured": measured}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (arguments.results / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def print_progress(text: str) -> None:
    """Print on stderr how far a benchmark is."""
    print(text, file=sys.stderr, flush=True)


def format_machine(machine: Mapping[str, Any]) -> str:
    """Write what :func:`describe_machine` returns in one line."""
    parts = [machine["architecture"], machine["processor"], f"{machine['cores']} cores", machine["system"]]
    parts += [f"Python {machine['python']}", *(f"{name} {number}" for name, number in machine["packages"].items())]
    if machine["torch_threads"]:
        parts.append(f"torch threads: {machine['torch_threads']}")
    return ", ".join(filter(None, parts))


def _format_command(placeholders: Mapping[str, str]) -> str:
    """Return the command as a user types it in the project's directory."""
    project = f"{PROJECT}{os.sep}"
    words = (placeholders.get(argument, argument.removeprefix(project)) for argument in sys.argv)
    return shlex.join(["python", *words])
