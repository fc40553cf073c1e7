"""Write the `# Expect:` comment of each shipped config from its measured result.

    python benchmarks/headers.py [--check]

The results are the entries of the gallery, `benchmarks/gallery/NAME.json`. The comment is the last paragraph above the
keys, and the script replaces all of it. If a config has other values than the measured one, its comment stays and the
script fails. `--check` writes nothing, and fails if a comment differs. Configs without an entry are listed.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from toolkit.config.load import read_config
from toolkit.reports.gallery_entry import GalleryEntry, read_entries
from toolkit.reports.gallery_page import format_return, format_time
from toolkit.reports.statistics import Estimate

PROJECT = Path(__file__).resolve().parents[1]
_LINE_LENGTH = 119  # characters
_UNITS = ((3_600, "h"), (60, "min"), (1, "s"))
_HEADER = re.compile(r"(?:#.*\n)*")


def main() -> None:
    """Write the comments, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a comment differs")
    is_check = parser.parse_args().check
    entries = read_entries(PROJECT / "benchmarks" / "gallery")
    for path in sorted((PROJECT / "configs").glob("*.yaml")):
        if path.stem not in entries:
            print(f"{path.relative_to(PROJECT)}: is not measured")
    problems = [*find_outdated_entries(entries)]
    for path, text in find_outdated_comments(entries).items():
        if is_check:
            problems.append(f"{path.relative_to(PROJECT)}: its comment differs: run `python benchmarks/headers.py`")
        else:
            path.write_text(text, encoding="utf-8")
    sys.exit("\n".join(problems) or None)


def find_outdated_entries(entries: Mapping[str, GalleryEntry]) -> Iterator[str]:
    """Describe how configs differ from those that were measured."""
    for name, entry in entries.items():
        path = PROJECT / "configs" / f"{name}.yaml"
        if not path.is_file():
            yield f"benchmarks/gallery/{name}.json: configs/{name}.yaml does not exist"
        elif changes := entry.list_changes(read_config(path)):
            yield f"configs/{name}.yaml: measure it again: {', '.join(changes)}"


def find_outdated_comments(entries: Mapping[str, GalleryEntry]) -> dict[Path, str]:
    """Return the configs whose comment differs from their result, with the text that they should have."""
    texts: dict[Path, str] = {}
    for name, entry in entries.items():
        path = PROJECT / "configs" / f"{name}.yaml"
        if path.is_file() and not entry.list_changes(read_config(path)):
            text = path.read_text(encoding="utf-8")
            expected = replace_expectation(text, describe_result(entry))
            texts |= {path: expected} if text != expected else {}
    return texts


def replace_expectation(text: str, result: str) -> str:
    """Return a config in which the paragraph `# Expect:` says the result."""
    header = _HEADER.match(text)[0]  # type: ignore[index] # it matches no lines, too
    introduction, _, _ = header.partition("# Expect: ")
    lines = textwrap.wrap(f"Expect: {result}", _LINE_LENGTH - len("# "), break_on_hyphens=False)
    return introduction + "".join(f"# {line}\n" for line in lines) + text.removeprefix(header)


def describe_result(entry: GalleryEntry) -> str:
    """Say in one or two sentences what training reaches."""
    return " ".join([_describe_success(entry), *_describe_greedy_return(entry)])


def _describe_success(entry: GalleryEntry) -> str:
    timesteps, seconds, n_runs = entry.timesteps_to_success, entry.seconds_to_success, len(entry.runs)
    budget = f"{max(run.timesteps for run in entry.runs):,} timesteps"
    if not entry.criterion:
        return f"trained for {budget} on {n_runs} seeds."
    if not entry.n_solved:
        return f"not solved on any of {n_runs} seeds within {budget}{_format_seconds(_find_median_seconds(entry))}."
    share = f"solved on {entry.n_solved} of {n_runs} seeds"
    if timesteps is None or math.isinf(timesteps.value):
        return f"{share} within {budget}."
    duration = _format_seconds(seconds.value) if seconds else ""
    return f"{share}, after a median of {_put_unit(format_time(timesteps), 'timesteps')}{duration}."


def _describe_greedy_return(entry: GalleryEntry) -> Iterator[str]:
    if entry.greedy_return:
        mean, lowest = (
            format_return(Estimate(value, math.nan, math.nan))
            for value in (entry.greedy_return.value, min(entry.greedy_returns))
        )
        yield f"Greedy mean return {mean}{f', on the worst seed {lowest}' if lowest != mean else ''}."


def _put_unit(text: str, unit: str) -> str:
    """Put a unit between an estimate and its interval."""
    value, bracket, interval = text.partition(" (")
    return f"{value} {unit}{bracket}{interval}"


def _find_median_seconds(entry: GalleryEntry) -> float | None:
    seconds = [run.seconds for run in entry.runs if run.seconds is not None]
    return statistics.median(seconds) if seconds else None


def _format_seconds(seconds: float | None) -> str:
    if seconds is None or math.isinf(seconds):
        return ""
    length, unit = next((length, unit) for length, unit in _UNITS if seconds >= 2 * length or unit == "s")
    return f", in {float(f'{seconds / length:.2g}'):g} {unit}"


if __name__ == "__main__":
    main()
