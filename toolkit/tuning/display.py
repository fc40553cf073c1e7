"""The progress of a search on the screen, and its results as text."""

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
from toolkit.tuning.config import TuningPlan
from toolkit.tuning.results import describe_score, find_base_trial, find_best_trial, format_score
from toolkit.tuning.scores import find_worst_variant, score_variants
from toolkit.tuning.search_space import shorten_paths
from toolkit.tuning.study import Trial
from toolkit.tuning.tune import TuningResult
from toolkit.utils.text import format_table

_ENDED = ("finished", "pruned", "failed")


class TuningDisplay:
    """Prints a line for each ended trial to stderr. On a terminal, a progress bar below shows the best trial.

    :param quiet: show nothing
    """

    def __init__(self, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._bar: Progress | None = None
        self._printed: set[int] | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True, refresh_per_second=2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):  # the terminal is closed
                self._bar.stop()

    def show(self, plan: TuningPlan, trials: Sequence[Trial]) -> None:
        """Show the state of all trials. The first call only counts the trials that have ended, and prints no line."""
        ended = [trial for trial in trials if trial.state in _ENDED]
        if self._printed is None:
            self._printed = {trial.number for trial in ended}
        for trial in ended:
            if trial.number not in self._printed:
                self._printed.add(trial.number)
                best = find_best_trial([other for other in ended if other.number in self._printed], plan)
                self._print(format_trial(trial, best, plan))
        if self._bar is not None:
            with suppress(OSError):
                self._update_bar(self._bar, plan, trials)

    def _print(self, line: str) -> None:
        with suppress(OSError):  # the reader has closed the pipe; the search continues
            if self._bar is not None:
                self._console.print(line, markup=False, soft_wrap=True)
            elif not self._console.quiet:
                print(line, file=sys.stderr, flush=True)  # Rich would close stdout, too, when the pipe is closed

    def _update_bar(self, bar: Progress, plan: TuningPlan, trials: Sequence[Trial]) -> None:
        if not bar.task_ids:
            bar.add_task("")
            bar.start()
        n_ended = sum(trial.state in _ENDED for trial in trials)
        description = _format_counts(trials, plan.config.trials)
        if (best := find_best_trial(trials, plan)) is not None:
            description += f"; best {format_score(best.value)} (trial {best.number})"
        bar.update(bar.task_ids[0], completed=n_ended, total=plan.config.trials, description=description)


def format_trial(trial: Trial, best: Trial | None, plan: TuningPlan) -> str:
    """Return a line about a trial that has ended."""
    names = shorten_paths([*trial.values])
    values = ", ".join(
        f"{name} {dump_inline(_round(value))}" for name, value in zip(names, trial.values.values(), strict=True)
    )
    if trial.state == "failed":
        text = f"failed: {trial.failure}"
    elif trial.state == "pruned":
        text = f"pruned after {trial.share:.0%}"
    else:
        is_best = best is not None and trial.number == best.number
        text = _format_worst(trial, plan) + (", best so far" if is_best else "")
    return f"trial {trial.number}: {text}" + (f"  ({values})" if values else "")


def format_tuning_summary(result: TuningResult) -> str:
    """Return the results of a search, its directory, and the next commands."""
    plan, trials, best = result.plan, result.trials, result.best
    base_trial = find_base_trial(trials, plan)
    lines = [("stopped: " if result.stopped_by else "") + _format_counts(trials, plan.config.trials)]
    if best is not None:
        lines += [f"best: trial {best.number}, {describe_score(best, plan)}"]
        lines += [f"  {path}: {dump_inline(value)}" for path, value in best.values.items()]
        lines += [*_format_base(base_trial, best, plan), *_format_variants(base_trial, best, plan)]
    lines.append(f"  search  {result.directory}")
    commands = [format_command(*sys.argv[1:])] if result.stopped_by else []
    if best is not None:
        if best != base_trial:
            commands.append(format_command("experiment", str(result.directory / "confirm.yaml")))
        commands.append(format_command("train", str(result.directory / "best.yaml")))
    return "\n".join([*lines, *format_next_commands(commands)])


def _format_worst(trial: Trial, plan: TuningPlan) -> str:
    """Return the score of a trial, with the name of its worst variant."""
    worst = find_worst_variant(trial.scores, plan)
    return format_score(trial.value) + (f" on {worst}" if worst is not None else "")


def _format_variants(base_trial: Trial | None, best: Trial, plan: TuningPlan) -> list[str]:
    """Return a table of the scores of each variant, if there are variants."""
    if plan.config.variants is None:
        return []
    trials = {"base": base_trial, "best": best} if base_trial is not None and base_trial != best else {"best": best}
    scores = {name: score_variants(trial.scores, plan) for name, trial in trials.items() if trial is not None}
    rows = [
        (variant, *(format_score(by_variant[variant]) for by_variant in scores.values()))
        for variant in plan.config.variants
    ]
    return format_table(("variant", *scores), rows, "<>")


def _format_base(base_trial: Trial | None, best: Trial, plan: TuningPlan) -> list[str]:
    """Return how the best trial compares with the base's own values."""
    if base_trial == best:
        return ["these are the values of the base"]
    lines = ["the best trial was selected by these seeds: expect a worse score on others, and confirm it"]
    if base_trial is not None:
        lines.insert(0, f"base: trial {base_trial.number}, {_format_worst(base_trial, plan)}")
    return lines


def _format_counts(trials: Sequence[Trial], total: int) -> str:
    states = [trial.state for trial in trials]
    n_ended = sum(state in _ENDED for state in states)
    others = [f"{states.count(state)} {state}" for state in ("pruned", "failed") if state in states]
    return ", ".join(
        [f"{n_ended} of {total} trials" if n_ended <= total else f"{n_ended} trials, {total} wanted", *others]
    )


def _round(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
