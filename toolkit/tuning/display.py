"""What the command line says of a search: while it goes on, and at its end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from toolkit.config.snippets import dump_inline
from toolkit.evaluation.summary import format_command, format_next_commands
from toolkit.tuning.config import Tuning
from toolkit.tuning.results import base_trial, best_of, figure, judged
from toolkit.tuning.search_space import short_names
from toolkit.tuning.study import Trial
from toolkit.tuning.tune import Search

_ENDED = ("finished", "pruned", "failed")


class SearchDisplay:
    """A line for each trial that has ended, on stderr; on a terminal, a bar with the best so far below.

    :param quiet: whether to show nothing
    """

    def __init__(self, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._bar: Progress | None = None
        self._said: set[int] | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True, refresh_per_second=2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):  # the terminal was closed
                self._bar.stop()

    def show(self, tuning: Tuning, trials: Sequence[Trial]) -> None:
        """Show trials as they stand; those that had ended at the first look are only counted."""
        ended = [trial for trial in trials if trial.state in _ENDED]
        if self._said is None:
            self._said = {trial.number for trial in ended}
        for trial in ended:
            if trial.number not in self._said:
                self._said.add(trial.number)
                self._say(trial_line(trial, best_of([one for one in ended if one.number in self._said], tuning)))
        if self._bar is not None:
            with suppress(OSError):
                self._show_standing(self._bar, tuning, trials)

    def _say(self, line: str) -> None:
        with suppress(OSError):  # nobody reads it any more: the search goes on unseen
            if self._bar is not None:
                self._console.print(line, markup=False, soft_wrap=True)
            elif not self._console.quiet:
                print(line, file=sys.stderr, flush=True)  # Rich, where a pipe is closed, would close stdout as well

    def _show_standing(self, bar: Progress, tuning: Tuning, trials: Sequence[Trial]) -> None:
        if not bar.task_ids:
            bar.add_task("")
            bar.start()
        ended = sum(trial.state in _ENDED for trial in trials)
        standing, total = _standing(tuning, trials), tuning.config.trials
        bar.update(bar.task_ids[0], completed=ended, total=total, description=standing)


def trial_line(trial: Trial, best: Trial | None) -> str:
    """Say how a trial has ended, in one line."""
    names = short_names([*trial.values])
    values = ", ".join(
        f"{name} {dump_inline(_rounded(value))}" for name, value in zip(names, trial.values.values(), strict=True)
    )
    if trial.state == "failed":
        how = f"failed: {trial.failure}"
    elif trial.state == "pruned":
        how = f"pruned after {trial.share:.0%}"
    else:
        how = figure(trial.value) + (", best so far" if best is not None and trial.number == best.number else "")
    return f"trial {trial.number}: {how}" + (f"  ({values})" if values else "")


def outcome(search: Search) -> str:
    """Say what a search has found, where it is, and what to do next."""
    tuning, trials, best = search.tuning, search.trials, search.best
    lines = [("stopped: " if search.stopped_by else "") + _counts(trials, tuning.config.trials)]
    if best is not None:
        lines += [f"best: trial {best.number}, {judged(best, tuning)}"]
        lines += [f"  {path}: {dump_inline(value)}" for path, value in best.values.items()]
        lines += _about_the_base(base_trial(trials, tuning), best)
    lines.append(f"  search  {search.directory}")
    commands = [format_command(*sys.argv[1:])] if search.stopped_by else []
    if best is not None:
        if best != base_trial(trials, tuning):
            commands.append(format_command("experiment", str(search.directory / "confirm.yaml")))
        commands.append(format_command("train", str(search.directory / "best.yaml")))
    return "\n".join([*lines, *format_next_commands(commands)])


def _about_the_base(base: Trial | None, best: Trial) -> list[str]:
    if base == best:
        return ["which is the base itself"]
    own = [] if base is None else [f"the base itself, trial {base.number}, came to {figure(base.value)}"]
    return [*own, "the best was chosen by these seeds, so expect less of it on others: confirm it"]


def _standing(tuning: Tuning, trials: Sequence[Trial]) -> str:
    best = best_of(trials, tuning)
    said = _counts(trials, tuning.config.trials)
    return said if best is None else f"{said}; best {figure(best.value)} (trial {best.number})"


def _counts(trials: Sequence[Trial], total: int) -> str:
    states = [trial.state for trial in trials]
    others = [f"{states.count(state)} {state}" for state in ("pruned", "failed") if state in states]
    ended = sum(state in _ENDED for state in states)
    counted = f"{ended} of {total} trials" if ended <= total else f"{ended} trials, {total} wanted"
    return ", ".join([counted, *others])


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
