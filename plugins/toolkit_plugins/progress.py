"""How training goes, on the screen."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from toolkit.callbacks import RunCallback

_REFRESH_SECONDS = 0.1


class ProgressCallback(RunCallback):
    """A progress bar on a terminal, and a line for every tenth of training elsewhere, both on stderr.

    Shows the mean raw return of the last episodes, and the success criterion's threshold where there is one.
    """

    def _on_training_start(self) -> None:
        self._total = self.context.run.config.timesteps
        self._next_refresh = 0.0
        self._tenths = 0
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            console.width -= 3  # so that the ^C which a terminal echoes does not break the line
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
            self._task = self._bar.add_task("", total=self._total, steps="", score="")
            self._bar.start()

    def _on_step(self) -> bool:
        if self._bar is not None:
            now = time.monotonic()
            if now >= self._next_refresh:
                self._next_refresh = now + _REFRESH_SECONDS
                self._refresh(self._bar)
        elif (tenths := min(10, self.num_timesteps * 10 // self._total)) > self._tenths:
            self._tenths = tenths
            print(f"{self._steps()}  {self._score()}", file=sys.stderr, flush=True)
        return True

    def _refresh(self, bar: Progress) -> None:
        bar.update(
            self._task,
            completed=min(self.num_timesteps, self._total),
            steps=self._steps(),
            score=self._score(),
            refresh=True,
        )

    def _steps(self) -> str:
        return f"{self.num_timesteps:,} of {self._total:,} steps"

    def _score(self) -> str:
        episodes, criterion = self.context.episodes, self.context.criterion
        if not episodes or (criterion is not None and criterion.mean_return is None):
            return "no episode completed yet"
        if criterion is not None:
            last = min(criterion.episodes, len(episodes))
            return f"mean of last {last}: {criterion.mean_return:.1f} of {criterion.threshold:g}"
        recent = [episode.raw_return for episode in episodes[-100:]]
        return f"mean of last {len(recent)}: {sum(recent) / len(recent):.1f}"

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen."""
        if getattr(self, "_bar", None) is not None:
            self._bar.stop()  # type: ignore[union-attr]
            self._bar = None
