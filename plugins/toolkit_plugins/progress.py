"""Show the progress of training on the screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from toolkit.training.callbacks import RunCallback
from toolkit.training.evaluations import RecordedEvaluation
from toolkit.utils.data import DEFAULT_WINDOW
from toolkit.utils.display import is_notebook
from toolkit.utils.text import format_number


class ProgressCallback(RunCallback):
    """Show a bar on a terminal or in a notebook; elsewhere print a line to stderr for every tenth of training.

    Each has the mean raw return of the last episodes, and the threshold of the success criterion if there is one. The
    latest evaluation of each label follows.
    """

    _display: _Display | None = None
    _next_refresh = 0.0

    def _on_training_start(self) -> None:
        total = self.context.run.config.timesteps
        console = Console(stderr=True)
        if is_notebook():
            self._display = _NotebookBar(total)
        elif console.is_terminal:
            self._display = _TerminalBar(total, console)
        else:
            self._display = _LinePrinter(total)

    def _on_step(self) -> bool:
        display = self._display
        if display is not None and (now := time.monotonic()) >= self._next_refresh:
            self._next_refresh = now + display.seconds
            self._show(display)
        return True

    def _show(self, display: _Display) -> None:
        try:
            display.show(self.num_timesteps, lambda: ", ".join([self._score(), *self._list_evaluations()]))
        except OSError:  # the terminal or the reader is gone: training continues
            self._display = None

    def _score(self) -> str:
        episodes, criterion = self.context.episodes, self.context.criterion
        if criterion is not None and criterion.evaluation is not None:
            criterion = None  # the list of evaluations has it
        value = criterion.value if criterion else episodes.mean_return()
        if value is None:
            return "no episode counts yet"
        last = min(criterion.episodes if criterion else DEFAULT_WINDOW, len(episodes))
        if criterion is None:
            return f"mean of last {last}: {format_number(value, 1)}"
        solved = "solved, " if criterion.success else ""
        greedy = criterion.greedy_value
        if criterion.measure == "success_rate":
            text = f"success rate of last {last}: {100 * value:.1f} % of {100 * criterion.threshold:g} %"
            more = "" if greedy is None else f", greedy {100 * greedy:.1f} %"
        else:
            text = f"mean of last {last}: {format_number(value, 1)} of {criterion.threshold:g}"
            more = "" if greedy is None else f", greedy {format_number(greedy, 1)}"
        return f"{solved}{text}{more}"

    def _list_evaluations(self) -> list[str]:
        evaluations = self.context.evaluations
        latest = [evaluation for label in evaluations.labels if (evaluation := evaluations.latest(label))]
        return [f"{evaluation.label}: {self._format_evaluation(evaluation)}" for evaluation in latest]

    def _format_evaluation(self, evaluation: RecordedEvaluation) -> str:
        criterion = self.context.criterion
        text = format_number(evaluation.mean_return, 1)
        if criterion is None or criterion.evaluation != evaluation.label:
            return text
        if criterion.measure == "success_rate":
            rate = 100 * (evaluation.success_rate or 0.0)
            text, goal = f"{rate:.1f} %", f"{100 * criterion.threshold:g} % successes"
        else:
            goal = f"{criterion.threshold:g}"
        return f"{text} of {goal}{', solved' if criterion.success else ''}"

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a resume draws the display again."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""

    def _on_training_end(self) -> None:
        if self._display is not None:
            self._show(self._display)
        self.close()

    def close(self) -> None:
        """End the display."""
        if self._display is not None:
            self._display.close()
            self._display = None


class _Display(Protocol):
    seconds: float
    """Shortest time between two refreshes."""

    def show(self, timesteps: int, score: Callable[[], str]) -> None: ...

    def close(self) -> None: ...


class _LinePrinter:
    seconds = 0.0

    def __init__(self, total: int) -> None:
        self._total = total
        self._tenths = 0

    def show(self, timesteps: int, score: Callable[[], str]) -> None:
        tenths = min(10, timesteps * 10 // self._total)
        if tenths > self._tenths:
            self._tenths = tenths
            print(f"{_steps(timesteps, self._total)}  {score()}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _TerminalBar:
    seconds = 0.1

    def __init__(self, total: int, console: Console) -> None:
        self._total = total
        console.width -= 3  # room for the ^C that a terminal echoes
        self._bar = Progress(
            TextColumn("{task.fields[steps]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, steps="", score="")
        self._bar.start()

    def show(self, timesteps: int, score: Callable[[], str]) -> None:
        completed = min(timesteps, self._total)
        steps = _steps(timesteps, self._total)
        self._bar.update(self._task, completed=completed, steps=steps, score=score(), refresh=True)

    def close(self) -> None:
        self._bar.stop()


class _NotebookBar:
    """A bar in the output of a cell; it stays there after training."""

    seconds = 0.3

    def __init__(self, total: int) -> None:
        from IPython.display import HTML, display

        self._total = total
        self._html: Any = HTML
        self._handle: Any = display(HTML(""), display_id=True)

    def show(self, timesteps: int, score: Callable[[], str]) -> None:
        bar = f'<progress value="{timesteps}" max="{self._total}" style="width:20em"></progress>'
        self._handle.update(self._html(f"{bar} {_steps(timesteps, self._total)}, {escape(score())}"))

    def close(self) -> None:
        pass


def _steps(timesteps: int, total: int) -> str:
    return f"{timesteps:,} of {total:,} steps"
