"""The page of a gallery: a table with a row for each config, in Markdown."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import fill
from urllib.parse import quote

from toolkit.config.schema import name_env
from toolkit.reports.gallery_entry import GalleryCriterion, GalleryEntry, Machine
from toolkit.reports.markdown import escape, join_cells
from toolkit.reports.statistics import MIN_BOOTSTRAP_RUNS, Estimate
from toolkit.reports.tables import MISSING, format_estimate
from toolkit.reports.thumbnails import MAX_SECONDS
from toolkit.utils.text import format_count, format_table

_HEADER = ("config", "algorithm, environment", "criterion", "solved", "timesteps", "seconds", "greedy return")
_LINE_LENGTH = 119  # characters


def format_page(entries: Sequence[GalleryEntry], gallery: Path, page: Path) -> str:
    """Return the page of a gallery.

    :param entries: at least one
    :param gallery: directory of the entries; links are relative to the page
    :param page: file of the page
    """
    entries = sorted(entries, key=lambda entry: (name_env(entry.config["env"]["id"]), entry.name))
    rows = [_HEADER, ["---"] * len(_HEADER), *(_make_row(entry, gallery, page) for entry in entries)]
    blocks = [
        "# Gallery",
        _wrap(
            f"Each row is a config, trained with {_count_seeds(entries)}. Small numbers below an estimate are its "
            f"95 % interval. `toolkit report` wrote this page from the JSON files in `{_quote(gallery)}`."
        ),
        join_cells(rows),
        "## How to read it",
        _format_list(_explain_columns(entries)),
        "## Where it was measured",
        _format_list(_describe_machines(entries)),
        "## Measure again",
        *_explain_commands(entries[0], gallery, page),
    ]
    return "\n\n".join(blocks) + "\n"


def format_entries(entries: Sequence[GalleryEntry]) -> list[str]:
    """Return a table of entries for a terminal; no lines without entries."""
    rows = [
        (
            entry.name,
            f"{entry.n_solved} of {len(entry.runs)}" if entry.criterion else MISSING,
            format_time(entry.timesteps_to_success),
            format_time(entry.seconds_to_success),
            format_return(entry.greedy_return),
        )
        for entry in entries
    ]
    return format_table(("config", "solved", "timesteps", "seconds", "greedy return"), rows) if rows else []


def format_time(estimate: Estimate | None) -> str:
    """Write timesteps or seconds with three significant digits.

    >>> format_time(Estimate(27436.0, 25870.0, float("inf")))
    '27,400 (25,900 or more)'
    """
    if estimate is None:
        return MISSING
    rounded = Estimate(*(float(f"{number:.3g}") for number in (estimate.value, estimate.low, estimate.high)))
    return format_estimate(rounded, 1 if rounded.value < 10 else 0)


def format_return(estimate: Estimate | None) -> str:
    """Write a return with one decimal place, or two if it is small.

    >>> format_return(Estimate(0.736, 0.721, 0.755))
    '0.74 (0.72 to 0.76)'
    """
    return format_estimate(estimate, 2 if estimate and abs(estimate.value) < 10 else 1)


def _make_row(entry: GalleryEntry, gallery: Path, page: Path) -> Sequence[str]:
    env = entry.config["env"]
    limit = f"{env['max_episode_steps']:,} steps" if env["max_episode_steps"] else ""
    return (
        _show_agent(entry, gallery, page),
        _stack(escape(entry.config["algorithm"]["name"]), escape(name_env(env["id"])), limit),
        _describe_criterion(entry.criterion),
        *_describe_success(entry),
        _describe_greedy_return(entry),
    )


def _show_agent(entry: GalleryEntry, gallery: Path, page: Path) -> str:
    """Return the name and the GIF in one cell: the name keeps the cell as wide as the GIF."""
    file = Path(entry.file) if entry.file else gallery / f"{entry.name}.json"
    name = f"[`{entry.name}`]({_link(file, page)})"
    if entry.gif_seed is None:
        return name
    return f"{name}<br>![A greedy episode of seed {entry.gif_seed}]({_link(gallery / f'{entry.name}.gif', page)})"


def _describe_criterion(criterion: GalleryCriterion | None) -> str:
    if criterion is None:
        return "none"
    confirmation = f"and {criterion.confirm_episodes:,} greedy" if criterion.confirm_episodes else ""
    is_rate = criterion.measure == "success_rate"
    threshold = f"{100 * criterion.threshold:g} % successes" if is_rate else f"{criterion.threshold:,g}"
    return _stack(threshold, format_count(criterion.episodes, "episode"), confirmation)


def _describe_success(entry: GalleryEntry) -> tuple[str, str, str]:
    rate, timesteps, seconds = entry.success_rate, entry.timesteps_to_success, entry.seconds_to_success
    if rate is None:
        return MISSING, MISSING, MISSING
    budget = f"within {max(run.timesteps for run in entry.runs):,}"
    is_reached = timesteps is None or math.isfinite(timesteps.value)
    return (
        _stack(f"{entry.n_solved} of {len(entry.runs)}", f"{100 * rate.low:.0f} to {100 * rate.high:.0f} %"),
        _stack(*_split_interval(format_time(timesteps)), "" if is_reached else budget),
        _stack(*_split_interval(format_time(seconds))),
    )


def _describe_greedy_return(entry: GalleryEntry) -> str:
    estimate = entry.greedy_return
    if estimate is None:
        return MISSING
    lowest = min(entry.greedy_returns)
    has_spread = lowest < max(entry.greedy_returns)
    return _stack(
        *_split_interval(format_return(estimate)),
        f"lowest {format_return(Estimate(lowest, math.nan, math.nan))}" if has_spread else "",
    )


def _split_interval(text: str) -> tuple[str, str]:
    """Split an estimate and its interval, ``5 (4 to 6)``."""
    value, _, interval = text.partition(" (")
    return value, interval.removesuffix(")")


def _stack(text: str, *details: str) -> str:
    """Return a cell with details in small letters below its text, without those that are empty; no line breaks."""
    lines = [text, *(f"<sub>{detail}</sub>" for detail in details if detail)]
    return "<br>".join(line.replace(" ", "&nbsp;") for line in lines)


def _link(target: Path, page: Path) -> str:
    return quote(Path(os.path.relpath(target, page.parent)).as_posix())


def _format_list(texts: Iterable[str]) -> str:
    return "\n".join(_wrap(text, "- ") for text in texts)


def _wrap(text: str, bullet: str = "") -> str:
    indent = " " * len(bullet)
    return fill(text, _LINE_LENGTH, initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False)


def _count_seeds(entries: Sequence[GalleryEntry]) -> str:
    counts = sorted({len(entry.runs) for entry in entries})
    return format_count(counts[0], "seed") if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} seeds"


def _explain_columns(entries: Sequence[GalleryEntry]) -> Iterator[str]:
    episodes = sorted({run.greedy_episodes for entry in entries for run in entry.runs} - {0})
    yield (
        f"*config*: with the first {MAX_SECONDS} seconds of a greedy episode. The agent is that of the seed with the "
        "median greedy return (the upper of two)."
    )
    yield (
        "*criterion*: the mean raw return over the last training episodes that ends training; where it says *greedy*, "
        "over greedy episodes as well."
    )
    yield "*solved*: how many seeds met the criterion, with Wilson's interval of their share."
    yield (
        "*timesteps*, *seconds*: median over all seeds until success (Kaplan-Meier). A seed without success "
        "counts as slower than its whole training. *not reached*: fewer than half of the seeds succeed. Seconds are "
        "wall-clock time of training, on a machine that may have done other work."
    )
    if episodes:
        counts = " or ".join(f"{count:,}" for count in episodes)
        yield (
            f"*greedy return*: mean raw return of {counts} greedy episodes after training, the interquartile mean "
            "over seeds. Its interval is a bootstrap, or Student's t for fewer than "
            f"{MIN_BOOTSTRAP_RUNS} seeds. Equal returns have no interval. *lowest*: the seed with the lowest mean."
        )


def _describe_machines(entries: Sequence[GalleryEntry]) -> Iterator[str]:
    """Describe each machine once, with the entries that it measured if there are several machines."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        for description in map(_describe_machine, entry.machines) if entry.machines else ["not recorded"]:
            names.setdefault(description, []).append(f"`{entry.name}`")
    for description, measured in names.items():
        yield f"{description}: {', '.join(measured)}" if len(names) > 1 else f"{description}."


def _describe_machine(machine: Machine) -> str:
    parts = [machine.cpu, machine.processor, machine.system]
    parts += [format_count(machine.cores, "core")] if machine.cores else []
    parts += [format_count(machine.threads, "torch thread")] if machine.threads else []
    parts += [f"{name.title() if name == 'python' else name} {number}" for name, number in machine.versions.items()]
    return escape(", ".join(filter(None, parts)))


def _explain_commands(entry: GalleryEntry, gallery: Path, page: Path) -> Iterator[str]:
    seeds = ", ".join(str(run.seed) for run in entry.runs)
    options = f"--gallery {_quote(gallery)} --out {_quote(page)}"
    yield "Name a config and seeds in an experiment file, here `measure.yaml`:"
    yield f"```yaml\nbase: {entry.file or f'{entry.name}.yaml'}\nseeds: [{seeds}]\n```"
    yield "Train it, and replace its row:"
    yield f"```\ntoolkit experiment measure.yaml\ntoolkit report experiments/measure {options}\n```"


def _quote(path: Path) -> str:
    return shlex.quote(Path(os.path.relpath(path)).as_posix())
