"""The progress of an experiment on the screen."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from toolkit.experiments.monitor_tail import MonitorTail
from toolkit.experiments.runner import Experiment, ExperimentDisplay
from toolkit.experiments.status import EXPERIMENT_FILE
from toolkit.experiments.summary import format_run_end
from toolkit.experiments.variants import PlannedRun
from toolkit.utils.data import compute_mean
from toolkit.utils.text import format_number

_WIDE = 80  # columns of a terminal from which a table shows progress and returns beside the counts
_OTHER_LINES = 5  # of a terminal: header, last line, prompt, an echoed ^C
_REFRESHES_PER_SECOND = 2
_MAX_SHARES = 4  # of a variant's running runs
_STATES = ("done", "running", "failed", "waiting")
_SHORT_STATES = ("done", "run", "fail", "wait")


def create_display() -> ExperimentDisplay:
    """Return a display on stderr: a live table on a terminal, else a line for each run."""
    console = Console(stderr=True)
    return _TableDisplay(console) if console.is_terminal and not console.is_dumb_terminal else _LineDisplay()


class _LineDisplay:
    """Prints a line for each run that has ended."""

    def begin(self, experiment: Experiment, unfinished: Sequence[PlannedRun]) -> None:
        self._directory = experiment.directory
        n_runs = len(experiment.plan.variants) * len(experiment.plan.seeds)
        self._print(f"{experiment.directory}: {n_runs - len(unfinished):,} of {n_runs:,} runs done")

    def end_run(self, run: PlannedRun, error: str | None) -> None:
        self._print(format_run_end(self._directory, run, error))

    def close(self) -> None:
        pass

    def _print(self, line: str) -> None:
        with suppress(OSError):  # the reader has closed the pipe; training continues
            print(line, file=sys.stderr, flush=True)


class _TableDisplay:
    """Shows a live table on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, experiment: Experiment, unfinished: Sequence[PlannedRun]) -> None:
        self._table = LiveTable(experiment, unfinished)
        self._live = Live(self._table, console=self._console, refresh_per_second=_REFRESHES_PER_SECOND, transient=True)
        self._live.start()
        self._log_handlers = [handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler]
        # while the table is live, sys.stderr writes above it
        self._log_streams = [handler.setStream(sys.stderr) for handler in self._log_handlers]

    def end_run(self, run: PlannedRun, error: str | None) -> None:
        self._table.end_run(run, error)
        if error is not None:
            with suppress(OSError):  # the terminal is closed
                self._live.console.print(Text(format_run_end(self._table.directory, run, error)))

    def close(self) -> None:
        for handler, stream in zip(self._log_handlers, self._log_streams, strict=True):
            if stream is not None:
                handler.setStream(stream)
        with suppress(OSError):
            self._live.stop()


@dataclass
class _Row:
    """A variant in the table.

    :param counts: of its runs, by state
    :param shares: of each running run, the share of its timesteps, 0 to 1
    :param returns: of each run, the mean return of its last episodes
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    shares: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    def add(self, other: _Row) -> None:
        self.counts += other.counts
        self.shares += other.shares
        self.returns += other.returns

    def format_cells(self, is_wide: bool) -> list[str]:
        cells = [self.name, *(f"{self.counts[state]:,}" for state in _STATES)]
        if not is_wide:
            return cells
        progress = " ".join(f"{share:.0%}" for share in sorted(self.shares, reverse=True)[:_MAX_SHARES])
        ellipsis = " ..." if len(self.shares) > _MAX_SHARES else ""
        mean_return = format_number(compute_mean(self.returns), 1) if self.returns else ""
        return [*cells, progress + ellipsis, mean_return]


class LiveTable:
    """A table with a row for each variant, read from the run directories whenever it is drawn."""

    def __init__(self, experiment: Experiment, unfinished: Sequence[PlannedRun]) -> None:
        self.directory = experiment.directory
        self._experiment = experiment
        self._errors: dict[str, str | None] = {}
        self._tails = {run.name: MonitorTail(experiment.directory / run.name) for run in unfinished}
        self._started = time.monotonic()
        self._file_time = (experiment.directory / EXPERIMENT_FILE).stat().st_mtime  # in the clock of the file system

    def end_run(self, run: PlannedRun, error: str | None) -> None:
        """Count a run as ended; ``error`` says why it failed, if it did. Its files are read for the last time."""
        self._tails[run.name].poll(self._file_time)
        self._errors[run.name] = error

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        is_wide = console.width >= _WIDE
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("variant", no_wrap=True, overflow="ellipsis", min_width=8)
        for header in (*_STATES, "progress", "mean return") if is_wide else _SHORT_STATES:
            table.add_column(header, justify="right", no_wrap=True, min_width=len(header))
        rows = self._read_rows()
        for row in _select_rows(rows, console.height - _OTHER_LINES):
            table.add_row(*row.format_cells(is_wide))
        yield table
        yield Text(self._format_total(rows), no_wrap=True, overflow="ellipsis")

    def _read_rows(self) -> list[_Row]:
        rows = {variant.name: _Row(variant.name) for variant in self._experiment.plan.variants}
        for run in self._experiment.plan.runs():
            self._add_run(run, rows[run.variant.name])
        return [*rows.values()]

    def _add_run(self, run: PlannedRun, row: _Row) -> None:
        tail = self._tails.get(run.name)
        if tail is None:
            row.counts["done"] += 1
            return
        if run.name in self._errors:
            row.counts["done" if self._errors[run.name] is None else "failed"] += 1
        elif tail.poll(self._file_time):
            row.counts["running"] += 1
            row.shares.append(min(1.0, tail.timesteps / run.variant.config.timesteps))
        else:
            row.counts["waiting"] += 1
        if tail.mean_return is not None:
            row.returns.append(tail.mean_return)

    def _format_total(self, rows: Sequence[_Row]) -> str:
        counts = sum((row.counts for row in rows), Counter[str]())
        seconds = time.monotonic() - self._started
        line = f"{counts['done']:,} of {counts.total():,} runs done, {_format_duration(seconds)} elapsed"
        n_ended, n_launched = len(self._errors), len(self._tails)
        if 0 < n_ended < n_launched:
            trained = n_ended + sum(share for row in rows for share in row.shares)
            line += f", about {_format_duration(seconds / trained * (n_launched - trained))} left"
        return line


def _select_rows(rows: Sequence[_Row], limit: int) -> Iterator[_Row]:
    """Select the rows to show, those with running or failed runs first; a last row sums up the others."""
    if len(rows) <= limit:
        yield from rows
        return
    by_activity = sorted(rows, key=lambda row: (not row.counts["running"], not row.counts["failed"]))
    names = {row.name for row in by_activity[: max(1, limit - 1)]}
    others = _Row(f"{len(rows) - len(names)} others")
    for row in rows:
        if row.name in names:
            yield row
        else:
            others.add(row)
    others.shares = []
    yield others


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
