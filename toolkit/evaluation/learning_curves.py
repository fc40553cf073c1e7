"""Learning curves: the returns of training episodes, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from toolkit.training.run_directory import RunDirectory
from toolkit.utils.data import DEFAULT_WINDOW
from toolkit.utils.errors import RunError
from toolkit.utils.figures import INK, add_legend, distinct_colours, figure_style, shorten, style_axes
from toolkit.utils.files import picture_file, picture_format

By = Literal["timestep", "episode"]

_CURVE_POINTS = 2000  # more than the picture has columns
_SHARP_DOTS = 2000  # more of them make an SVG huge unless they are pixels in it
_TITLE_WIDTH = 75  # characters that fit the width of the picture
_DASHES: dict[str, Any] = {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.2}
_STAR: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": INK, "linestyle": "none"}


@dataclass(frozen=True)
class _Curve:
    """What there is to draw of a run.

    :param x: timesteps or episodes at the end of each episode, of shape (episodes,)
    :param returns: raw return of each episode, of shape (episodes,)
    :param window: over how many episodes success is judged, or else the default
    :param solved: the episode, counted from 1, that met the criterion
    :param solved_at: the timestep of that, over all environments, those in the middle of an episode too
    """

    x: NDArray[np.int64]
    returns: NDArray[np.float64]
    window: int
    threshold: float | None
    solved: int | None
    solved_at: int | None

    def mean(self, episode: int) -> float:
        """Return the mean of the window that ends with an episode, counted from 1, or of as many as there are."""
        return float(np.mean(self.returns[max(0, episode - self.window) : episode]))

    def average(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return points of the moving average, as x and y, no more than can be told apart."""
        ends, averages = compute_moving_average(self.returns, self.window, _CURVE_POINTS)
        return self.x[ends - 1], averages


def compute_moving_average(
    returns: NDArray[np.float64], window: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return points of a learning curve, spread evenly from the first episode to the last.

    :param returns: of each episode, of shape (episodes,)
    :param window: over how many episodes the average goes, or over as many as there are by then
    :param most: how many points there are, if there are as many episodes
    :return: episodes, counted from 1, and the average then, each of shape (points,)
    """
    last = np.unique(np.linspace(1, len(returns), min(len(returns), most)).round().astype(int))
    first = np.maximum(0, last - window)
    # each window summed by itself: what one huge return takes from a running sum is missing ever after
    sums = np.add.reduceat(np.append(returns, 0.0), np.column_stack([first, last]).ravel())[::2]
    return last, sums / (last - first)


def learning_curves(runs: Sequence[RunDirectory], by: By = "timestep") -> Figure:
    """Draw the raw return of every training episode, and its moving average, for each run.

    The average is over the window of the run's success criterion, or else 100 episodes, or over as many as there are
    by then. A run that goes on is drawn as far as it has come; its success criterion is known when it has ended.

    :param runs: at least one; several get a colour each, and a legend with the names of their directories
    :param by: what the horizontal axis counts: environment steps, the sum of the episodes' lengths, or episodes
    :return: a figure of its own, unknown to pyplot
    :raises ValueError: if there is no run, or ``by`` is neither
    :raises RunError: if a run has no completed episode, or its ``monitor.csv`` or ``result.json`` is damaged
    """
    if not runs or by not in get_args(By):
        raise ValueError(f"learning curves are of at least one run, by {' or '.join(get_args(By))}, not {by!r}")
    curves = [_curve(run, by) for run in runs]
    colours = distinct_colours(len(curves))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    _decorate(axes, by, _title(runs))
    dots = _dot_style(sum(len(curve.returns) for curve in curves))
    for curve, colour in zip(curves, colours, strict=True):
        axes.plot(curve.x, curve.returns, color=colour, zorder=1, **dots)
        axes.plot(*curve.average(), color=colour, linewidth=2, zorder=3, marker="o" if len(curve.x) == 1 else "")
        if curve.solved:
            axes.plot(curve.x[curve.solved - 1], curve.mean(curve.solved), color=colour, zorder=4, **_STAR)
    for threshold in _thresholds(curves):
        axes.axhline(threshold, zorder=2, **_DASHES)
    named = zip(colours, disambiguate_names([run.directory for run in runs]), strict=True) if len(runs) > 1 else ()
    entries = [(Line2D([], [], color=colour, linewidth=2), name) for colour, name in named]
    add_legend(figure, [*entries, *_key(curves, colours[0] if len(runs) == 1 else INK)])
    return figure


def plot(runs: Sequence[RunDirectory], out: str | Path | None = None, by: By = "timestep") -> Path:
    """Write the learning curves of runs to a file, PNG or SVG by its suffix; one that is there is replaced.

    :param out: by default ``learning_curve.png`` in the run, for several ``learning_curves.png`` where one works
    :return: the file
    :raises ToolkitError: if ``out`` is named neither ``.png`` nor ``.svg``
    :raises RunError: if a run has no curve, or the file cannot be written
    """
    default = runs[0].directory / "learning_curve.png" if len(runs) == 1 else "learning_curves.png"
    path = Path(out or default)
    suffix = picture_format(path)
    figure = learning_curves(runs, by)
    with figure_style(), picture_file(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    return path


def _curve(run: RunDirectory, by: By) -> _Curve:
    episodes = run.episodes
    if not episodes:
        raise RunError(f"{run.directory}: has no completed episode yet", "wait for it, or train for more timesteps")
    returns, lengths = zip(*episodes, strict=True)
    success: dict[str, Any] = (run.result or {}).get("success") or {}
    solved = success.get("episode")
    return _Curve(
        x=np.cumsum(lengths) if by == "timestep" else np.arange(1, len(episodes) + 1),
        returns=np.array(returns),
        window=success.get("episodes", DEFAULT_WINDOW),
        threshold=success.get("threshold"),
        solved=solved if solved and solved <= len(episodes) else None,
        solved_at=success.get("timestep"),
    )


def _thresholds(curves: Sequence[_Curve]) -> list[float]:
    return sorted({curve.threshold for curve in curves if curve.threshold is not None})


def _dot_style(count: int) -> dict[str, Any]:
    """Return dots that get smaller and fainter with their number, so that where they are dense can be seen."""
    return {
        "linestyle": "none",
        "marker": "o",
        "markeredgewidth": 0,
        "markersize": float(np.clip(40 / count**0.4, 1.5, 4.5)),
        "alpha": float(np.clip(10 / count**0.5, 0.15, 0.45)),
        "rasterized": count > _SHARP_DOTS,
    }


def _decorate(axes: Axes, by: By, title: str) -> None:
    axes.set_title(shorten(title, _TITLE_WIDTH), loc="left", parse_math=False, color=INK)
    axes.set_xlabel(f"{by}s", color=INK)
    axes.set_ylabel("raw return of an episode", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    style_axes(axes)


def _title(runs: Sequence[RunDirectory]) -> str:
    if len(runs) == 1:
        config = runs[0].config
        return f"{disambiguate_names([run.directory for run in runs])[0]}: {config.algorithm.name} on {config.env.id}"
    return ", ".join(dict.fromkeys(run.config.env.id for run in runs))


def disambiguate_names(directories: Sequence[Path]) -> list[str]:
    """Return the names of directories, with as many of those above as tell equal ones apart."""
    places = [directory.resolve().parts for directory in directories]

    def name(parts: tuple[str, ...]) -> str:
        enough = (
            count
            for count in range(1, len(parts))
            if sum(other[-count:] == parts[-count:] for other in dict.fromkeys(places)) == 1
        )
        return str(Path(*parts[-next(enough, len(parts)) :]))

    return [name(parts) for parts in places]


def _key(curves: Sequence[_Curve], colour: Any) -> list[tuple[Line2D, str]]:
    """Return what the legend says of the lines and marks that all runs have in common."""
    windows = " or ".join(f"{window:,}" for window in sorted({curve.window for curve in curves}))
    mean = f"mean of the last {windows} episodes, fewer at first"
    dot = Line2D([], [], color=colour, alpha=0.5, linestyle="none", marker="o", markeredgewidth=0, markersize=5)
    key = [(dot, "one episode"), (Line2D([], [], color=colour, linewidth=2), mean)]
    if thresholds := _thresholds(curves):
        wanted = " or ".join(f"{threshold:,.10g}" for threshold in thresholds)
        key.append((Line2D([], [], **_DASHES), f"success threshold: {wanted}"))
    solved = [curve for curve in curves if curve.solved]
    if solved:
        first = solved[0]
        when = f": episode {first.solved:,}, timestep {first.solved_at:,}" if len(curves) == 1 else ""
        key.append((Line2D([], [], color=colour, **_STAR | {"markersize": 11}), f"solved{when}"))
    return key
