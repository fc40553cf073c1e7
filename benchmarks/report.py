"""What the benchmarks share: sides that take turns, the machine they ran on, and results as JSON and Markdown.

    python benchmarks/report.py

puts the pages of `benchmarks/results` into BENCHMARKS.md, below its line on where they begin.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

# Nothing here imports torch: `process.py` must stay smaller than the processes whose memory it measures.
PROJECT = Path(__file__).resolve().parents[1]
PAGES = (
    "throughput",
    "acting",
    "solve",
    "solve_peers",
    "growth",
    "features",
    "process",
    "snapshot",
    "kill",
    "experiment",
    "launchers",
    "report_runs",
)
RESULTS_BEGIN = "<!-- what follows is written by `python benchmarks/report.py` -->"
_PACKAGES = ("sb3-toolkit", "stable-baselines3", "gymnasium", "torch", "numpy")

T = TypeVar("T")


def options(doc: str | None, repeats: int | None = 5) -> argparse.ArgumentParser:
    """Make the parser of a benchmark, with what all of them take.

    :param doc: the docstring of its script
    :param repeats: how often it measures each side by default; None if that is no option of its
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if repeats:
        parser.add_argument("--repeats", type=int, default=repeats, help="how often each side is measured")
    parser.add_argument("--results", type=Path, default=PROJECT / "benchmarks" / "results", help="where to write")
    return parser


def compiled(text: str) -> bool | str:
    """Read the value of a ``--compile`` option: what DoubleDQN's ``compile`` takes."""
    values: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}
    if text not in values:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(values)}")
    return values[text]


def alternately(sides: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Measure all sides in each repeat, every second time in reverse, so that a busy moment of the machine hits all.

    :return: what each side returned, in the order of the repeats
    """
    measured: dict[str, list[T]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in sides if repeat % 2 == 0 else reversed([*sides]):
            measured[name].append(sides[name]())
    return measured


def ratios(theirs: Iterable[float], ours: Iterable[float]) -> list[float]:
    """Return how many times ours theirs took, repeat by repeat."""
    return [their / our for their, our in zip(theirs, ours, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Write the median with the least and the greatest."""
    median, least, greatest = (f"{one:,.{digits}f}" for one in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {greatest})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, Any]:
    """Describe the machine and what is installed, as far as this process uses it."""
    torch = sys.modules.get("torch")
    return {
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "torch_threads": torch.get_num_threads() if torch else None,
    }


def write(
    name: str,
    doc: str | None,
    text: str,
    measured: Mapping[str, Any],
    arguments: argparse.Namespace,
    called: Mapping[str, str] | None = None,
) -> None:
    """Print the page of a benchmark, and write it and its raw numbers as ``NAME.md`` and ``NAME.json``.

    :param doc: the docstring of its script: what it does, how it is called, and what its numbers mean
    :param text: the tables
    :param measured: all that the tables are computed from
    :param called: what the command calls arguments that are of this machine alone
    """
    what, _, *explained = (doc or "").strip().split("\n\n")
    command, here = _command(called or {}), machine()
    page = "\n\n".join([f"# {what.rstrip('.')}", f"`{command}`", _line(here), text, *explained]) + "\n"
    described = {"command": command, "machine": here, "measured": measured}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    (arguments.results / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def progress(text: str) -> None:
    """Say on stderr how far a benchmark is."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _line(described: Mapping[str, Any]) -> str:
    parts = [described["architecture"], described["processor"], f"{described['cores']} cores", described["system"]]
    parts += [f"Python {described['python']}", *(f"{name} {number}" for name, number in described["packages"].items())]
    if described["torch_threads"]:
        parts.append(f"torch threads: {described['torch_threads']}")
    return ", ".join(filter(None, parts))


def _command(called: Mapping[str, str]) -> str:
    """Return the command as it is typed in the project's directory, whatever this machine calls its directories."""
    home = f"{PROJECT}{os.sep}"
    return shlex.join(["python", *(called.get(argument, argument.removeprefix(home)) for argument in sys.argv)])


def collect() -> None:
    """Put the results' pages into BENCHMARKS.md, their titles one level down."""
    target, results = PROJECT / "BENCHMARKS.md", PROJECT / "benchmarks" / "results"
    written, mark, _ = target.read_text(encoding="utf-8").partition(RESULTS_BEGIN)
    pages = ((results / f"{name}.md").read_text(encoding="utf-8") for name in PAGES)
    below = "\n".join(page.replace("\n## ", "\n### ").replace("# ", "## ", 1) for page in pages)
    target.write_text(f"{written}{mark}\n\n{below}", encoding="utf-8")


if __name__ == "__main__":
    collect()
