"""How an experiment goes, on the screen, and how it went, as text."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from toolkit.evaluation.summary import format_command, format_next_commands
from toolkit.experiments.runner import Display, Experiment
from toolkit.experiments.status import FILE, Progress, Standing
from toolkit.experiments.variants import PlannedRun
from toolkit.utils.errors import readable
from toolkit.utils.text import abbreviate, format_table

_NARROW = 80  # columns of a terminal, below which a table has the counts alone
_LINES_BESIDE = 5  # of a terminal: the table's head, the line below it, a prompt, an echoed ^C
_REFRESHES = 2  # per second
_MOST_FAILED = 20


def display() -> Display:
    """Return what shows an experiment on stderr: a table on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    return _LiveTable(console) if console.is_terminal and not console.is_dumb_terminal else _Lines()


class _Lines:
    """A line for each run that has ended."""

    def begin(self, experiment: Experiment, left: Sequence[PlannedRun]) -> None:
        self._directory = experiment.directory
        total = len(experiment.plan.variants) * len(experiment.plan.seeds)
        self._print(f"{experiment.directory}: {total:,} runs, {total - len(left):,} of them done")

    def ended(self, run: PlannedRun, error: str | None) -> None:
        self._print(how_it_ended(self._directory, run, error))

    def close(self) -> None:
        pass

    def _print(self, line: str) -> None:
        with suppress(OSError):  # nobody reads it any more: training goes on unseen
            print(line, file=sys.stderr, flush=True)


def how_it_ended(experiment: Path, run: PlannedRun, error: str | None) -> str:
    """Say in one line how a run has ended.

    :param error: why it failed, if it did
    """
    if error is not None:
        return f"{run.name}: failed: {readable(error)}"
    standing = Standing.of(experiment / run.name)
    status, timesteps = standing.result.get("status"), standing.result.get("timesteps", 0)
    greedy = standing.evaluation.get("mean_return", math.nan)
    return f"{run.name}: {status} at {timesteps:,} timesteps, greedy {greedy:.1f}"


class _LiveTable:
    """A row for each variant, as many as there is room for."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, experiment: Experiment, left: Sequence[PlannedRun]) -> None:
        self._view = Overview(experiment, left)
        self._live = Live(self._view, console=self._console, refresh_per_second=_REFRESHES, transient=True)
        self._live.start()
        self._logs = [one for one in logging.root.handlers if type(one) is logging.StreamHandler]
        self._streams = [one.setStream(sys.stderr) for one in self._logs]  # which now writes above the table

    def ended(self, run: PlannedRun, error: str | None) -> None:
        self._view.ended(run, error)
        if error is not None:
            with suppress(OSError):  # the terminal was closed
                self._live.console.print(Text(how_it_ended(self._view.directory, run, error)))

    def close(self) -> None:
        for handler, stream in zip(self._logs, self._streams, strict=True):
            if stream is not None:
                handler.setStream(stream)
        with suppress(OSError):
            self._live.stop()


@dataclass
class _Row:
    """What is said of a variant."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    shares: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)

    def add(self, other: _Row) -> None:
        self.counts += other.counts
        self.shares += other.shares
        self.means += other.means

    def cells(self, wide: bool) -> list[str]:
        cells = [self.name, *(f"{self.counts[state]:,}" for state in ("done", "running", "failed", "waiting"))]
        progress = " ".join(f"{share:.0%}" for share in sorted(self.shares, reverse=True)[:4])
        more = " ..." if len(self.shares) > 4 else ""
        mean = f"{sum(self.means) / len(self.means):.1f}" if self.means else ""
        return [*cells, progress + more, mean] if wide else cells


class Overview:
    """What a live table shows; read anew from the runs' directories whenever it is drawn."""

    def __init__(self, experiment: Experiment, left: Sequence[PlannedRun]) -> None:
        self.directory = experiment.directory
        self._experiment = experiment
        self._left = {run.name for run in left}
        self._errors: dict[str, str | None] = {}
        self._progress = {run.name: Progress(experiment.directory / run.name) for run in left}
        self._started = time.monotonic()
        self._since = (experiment.directory / FILE).stat().st_mtime  # by the disk's own clock

    def ended(self, run: PlannedRun, error: str | None) -> None:
        """Note that a run has ended, and why it failed, if it did."""
        self._errors[run.name] = error

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = console.width >= _NARROW
        heads = ("done", "running", "failed", "waiting", "progress", "mean return")
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        grid.add_column("variant", no_wrap=True, overflow="ellipsis", min_width=8)
        for head in heads if wide else ("done", "run", "fail", "wait"):
            grid.add_column(head, justify="right", no_wrap=True, min_width=len(head))
        rows = self._rows()
        for row in _as_many_as_fit(rows, console.height - _LINES_BESIDE):
            grid.add_row(*row.cells(wide))
        yield grid
        yield Text(self._line_below(rows), no_wrap=True, overflow="ellipsis")

    def _rows(self) -> list[_Row]:
        rows = {variant.name: _Row(variant.name) for variant in self._experiment.plan.variants}
        for run in self._experiment.plan.runs():
            self._count(run, rows[run.variant.name])
        return [*rows.values()]

    def _count(self, run: PlannedRun, row: _Row) -> None:
        progress = self._progress.get(run.name)
        if progress is None:
            row.counts["done"] += 1
            return
        begun = progress.follow(self._since)
        if run.name in self._errors:
            row.counts["done" if self._errors[run.name] is None else "failed"] += 1
        elif begun:
            row.counts["running"] += 1
            row.shares.append(min(1.0, progress.timesteps / run.variant.config.timesteps))
        else:
            row.counts["waiting"] += 1
        if progress.mean_return is not None:
            row.means.append(progress.mean_return)

    def _line_below(self, rows: Sequence[_Row]) -> str:
        counts = sum((row.counts for row in rows), Counter[str]())
        seconds = time.monotonic() - self._started
        line = f"{counts['done']:,} of {counts.total():,} runs done, {_duration(seconds)} so far"
        ended = len(self._errors)
        if ended and ended < len(self._left):
            share = ended + sum(share for row in rows for share in row.shares)
            line += f", about {_duration(seconds / share * (len(self._left) - share))} left"
        return line


def _as_many_as_fit(rows: Sequence[_Row], room: int) -> Iterator[_Row]:
    """Choose the variants to show, those that something goes on in rather than others, with a row for the rest."""
    if len(rows) <= room:
        yield from rows
        return
    by_interest = sorted(rows, key=lambda row: (not row.counts["running"], not row.counts["failed"]))
    shown = {row.name for row in by_interest[: max(1, room - 1)]}
    rest = _Row(f"{len(rows) - len(shown)} others")
    for row in rows:
        if row.name in shown:
            yield row
        else:
            rest.add(row)
    rest.shares = []
    yield rest


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def summary(experiment: Experiment) -> str:
    """Say how an experiment went, a line for each variant, where it is, and what to do next."""
    plan, directory = experiment.plan, experiment.directory
    standings = {run.name: Standing.of(directory / run.name) for run in plan.runs()}
    head = ("variant", "runs", "solved", "median timesteps to success", "mean greedy return")
    rows = [_outcome(one.name, [standings[f"{one.name}/seed-{seed}"] for seed in plan.seeds]) for one in plan.variants]
    lines = [_verdict(experiment, standings), *format_table(head, rows, "<>")]
    lines += [*failures(experiment), f"  experiment  {directory}"]
    if logs := sorted(directory.glob("*/log-*.txt")):
        lines.append(f"  printed     {', '.join(abbreviate([*map(str, logs)], 1))}")
    commands = [format_command(*sys.argv[1:])] if experiment.stopped_by or experiment.failed else []
    return "\n".join([*lines, *format_next_commands([*commands, format_command("report", str(directory))])])


def failures(experiment: Experiment) -> list[str]:
    """Say which runs have failed, and why: the first twenty."""
    lines = [f"failed: {name}: {readable(error)}" for name, error in experiment.failed.items()]
    return abbreviate(lines, _MOST_FAILED, "more failed")


def _verdict(experiment: Experiment, standings: Mapping[str, Standing]) -> str:
    episodes = experiment.plan.evaluation_episodes
    done = sum(standing.is_done(episodes) for name, standing in standings.items() if name not in experiment.failed)
    word = "interrupted" if experiment.stopped_by else "failed" if experiment.failed else "done"
    return f"{word}: {done:,} of {len(standings):,} runs trained and evaluated"


def _outcome(variant: str, standings: Sequence[Standing]) -> tuple[str, ...]:
    """Say how a variant went; a run that was not solved takes longer than any other."""
    ended = [one for one in standings if one.has_ended]
    returns = [one.evaluation["mean_return"] for one in ended if one.evaluation]
    judged = [success for one in ended if (success := one.result.get("success"))]
    solved = [success["timestep"] for success in judged if success.get("solved") and success.get("timestep")]
    timesteps = [*solved, *[math.inf] * (len(judged) - len(solved))]
    median = statistics.median_low(timesteps) if judged else math.nan
    return (
        variant,
        f"{len(ended)} of {len(standings)}",
        f"{len(solved)}" if judged else "-",
        f"{median:,.0f}" if median < math.inf else "not reached" if judged else "-",
        f"{statistics.fmean(returns):.1f}" if returns else "-",
    )
