"""Learning curves: pictures of the returns of training episodes."""

from __future__ import annotations

import math
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
from toolkit.utils.data import DEFAULT_WINDOW, mean_of_last
from toolkit.utils.errors import RunError
from toolkit.utils.figures import INK, add_legend, distinct_colours, figure_style, shorten, style_axes
from toolkit.utils.files import picture_file, picture_format

By = Literal["timestep", "episode"]

_MAX_CURVE_POINTS = 2000  # more than the picture has columns
_MAX_VECTOR_DOTS = 2000  # more dots become pixels in an SVG, which would be huge otherwise
_TITLE_WIDTH = 75  # characters that fit the width of the picture
_DASHES: dict[str, Any] = {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.2}
_STAR: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": INK, "linestyle": "none"}


@dataclass(frozen=True)
class _Curve:
    """The learning curve of a run.

    :param x: timesteps or episodes when each episode counted, of shape (episodes,)
    :param returns: raw return of each episode, of shape (episodes,)
    :param window: number of episodes that the success criterion averages, or the default
    :param threshold: mean return that the success criterion requires
    :param solved_episode: the episode, counted from 1, that met the criterion
    :param solved_timestep: the timestep at which it met the criterion, over all environments
    """

    x: NDArray[np.int64]
    returns: NDArray[np.float64]
    window: int
    threshold: float | None
    solved_episode: int | None
    solved_timestep: int | None

    def average_at(self, episode: int) -> float:
        """Return the mean of the window that ends with an episode, counted from 1. The first windows are shorter."""
        mean = mean_of_last(self.returns[:episode], self.window)
        return math.nan if mean is None else mean

    def moving_average(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return points of the moving average as x and y, no more than the picture can show."""
        ends, averages = compute_moving_average(self.returns, self.window, _MAX_CURVE_POINTS)
        return self.x[ends - 1], averages


def compute_moving_average(
    returns: NDArray[np.float64], window: int, max_points: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return points of the moving average of returns, spread evenly from the first episode to the last.

    :param returns: return of each episode, of shape (episodes,)
    :param window: number of episodes to average; the first windows are shorter
    :param max_points: number of points, or fewer if there are fewer episodes
    :return: the last episode of each window, counted from 1, and its average, each of shape (points,)
    """
    last = np.unique(np.linspace(1, len(returns), min(len(returns), max_points)).round().astype(int))
    first = np.maximum(0, last - window)
    # each window has its own sum: in a running sum, a huge return would spoil all later averages by rounding
    windows, padded = np.column_stack([first, last]).ravel(), np.append(returns, 0.0)
    sums, lowest, highest = (function.reduceat(padded, windows)[::2] for function in (np.add, np.minimum, np.maximum))
    return last, np.clip(sums / (last - first), lowest, highest)  # equal returns have their own mean


def draw_learning_curves(
    runs: Sequence[RunDirectory], by: By = "timestep", size: tuple[float, float] = (9, 5)
) -> Figure:
    """Draw the raw return of every training episode and the moving average for each run.

    The average is over the window of the run's success criterion, by default 100 episodes. The curve of a run in
    progress ends at its last episode. Its success criterion is drawn once it has ended.

    :param runs: at least one; several get a colour each, and a legend with the names of their directories
    :param by: what the horizontal axis counts: the run's timesteps when an episode counted, or episodes
    :param size: width and height in inches, without the legend
    :return: a figure that pyplot does not manage
    :raises ValueError: if there is no run, or ``by`` is invalid
    :raises RunError: if a run has no episode that counts, or its ``monitor.csv`` or ``result.json`` is damaged
    """
    if not runs or by not in get_args(By):
        raise ValueError(f"learning curves need at least one run, by {' or '.join(get_args(By))}, not {by!r}")
    curves = [_read_curve(run, by) for run in runs]
    colours = distinct_colours(len(curves))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    _style_axes(axes, by, format_title(runs))
    dots = _dot_style(sum(len(curve.returns) for curve in curves))
    for curve, colour in zip(curves, colours, strict=True):
        axes.plot(curve.x, curve.returns, color=colour, zorder=1, **dots)
        _draw_average(axes, curve, colour)
    for threshold in _get_thresholds(curves):
        axes.axhline(threshold, zorder=2, **_DASHES)
    named = zip(colours, disambiguate_names([run.directory for run in runs]), strict=True) if len(runs) > 1 else ()
    entries = [(Line2D([], [], color=colour, linewidth=2), name) for colour, name in named]
    add_legend(figure, [*entries, *_make_key(curves, colours[0] if len(runs) == 1 else INK)])
    return figure


def plot(runs: Sequence[RunDirectory], out: str | Path | None = None, by: By = "timestep") -> Path:
    """Write the learning curves of runs to a file, PNG or SVG by its suffix, and replace a file that is there.

    :param runs: at least one run directory
    :param out: by default ``learning_curve.png`` in the run's directory, or ``learning_curves.png`` in the working
        directory for several runs
    :param by: what the horizontal axis counts: environment steps or episodes
    :return: the file
    :raises ToolkitError: if ``out`` is named neither ``.png`` nor ``.svg``
    :raises RunError: if a run has no episode that counts, or the file cannot be written
    """
    default = runs[0].directory / "learning_curve.png" if len(runs) == 1 else "learning_curves.png"
    path = Path(out or default)
    suffix = picture_format(path)
    figure = draw_learning_curves(runs, by)
    with figure_style(), picture_file(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    return path


def _read_curve(run: RunDirectory, by: By) -> _Curve:
    episodes = run.read_episodes()
    if not episodes and run.result:
        hint = "train for more timesteps, or end long episodes by env.max_episode_steps"
        raise RunError(f"{run.directory}: has ended, and none of its episodes counts", hint)
    if not episodes:
        raise RunError(f"{run.directory}: has no episode that counts yet", "wait for it")
    timesteps = np.array([episode.timestep for episode in episodes])
    success: dict[str, Any] = (run.result or {}).get("success") or {}
    solved_episode = success.get("episode")
    judges_training = "evaluation" not in success
    return _Curve(
        x=timesteps if by == "timestep" else np.arange(1, len(episodes) + 1),
        returns=np.array([episode.raw_return for episode in episodes]),
        window=success.get("episodes", DEFAULT_WINDOW) if judges_training else DEFAULT_WINDOW,
        threshold=success["threshold"] if judges_training and success.get("measure") == "mean_return" else None,
        solved_episode=solved_episode if solved_episode and solved_episode <= len(episodes) else None,
        solved_timestep=success.get("timestep"),
    )


def _draw_average(axes: Axes, curve: _Curve, colour: Any) -> None:
    """Draw the moving average of a run, with a star where it met its success criterion."""
    marker = "o" if len(curve.x) == 1 else ""
    axes.plot(*curve.moving_average(), color=colour, linewidth=2, zorder=3, marker=marker)
    if curve.solved_episode:
        average = curve.average_at(curve.solved_episode)
        axes.plot(curve.x[curve.solved_episode - 1], average, color=colour, zorder=4, **_STAR)


def _get_thresholds(curves: Sequence[_Curve]) -> list[float]:
    return sorted({curve.threshold for curve in curves if curve.threshold is not None})


def _dot_style(count: int) -> dict[str, Any]:
    """Return the style of dots. More dots are smaller and fainter, so that dense regions stay visible."""
    return {
        "linestyle": "none",
        "marker": "o",
        "markeredgewidth": 0,
        "markersize": float(np.clip(40 / count**0.4, 1.5, 4.5)),
        "alpha": float(np.clip(10 / count**0.5, 0.15, 0.45)),
        "rasterized": count > _MAX_VECTOR_DOTS,
    }


def _style_axes(axes: Axes, by: By, title: str) -> None:
    axes.set_title(shorten(title, _TITLE_WIDTH), loc="left", parse_math=False, color=INK)
    axes.set_xlabel(f"{by}s", color=INK)
    axes.set_ylabel("raw return of an episode", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    style_axes(axes)


def format_title(runs: Sequence[RunDirectory]) -> str:
    """Return the title of a picture of runs: their environments, of one run its name and algorithm, too."""
    if len(runs) == 1:
        config = runs[0].config
        return (
            f"{disambiguate_names([run.directory for run in runs])[0]}: {config.algorithm.name} on {config.env.name}"
        )
    return ", ".join(dict.fromkeys(run.config.env.name for run in runs))


def disambiguate_names(directories: Sequence[Path]) -> list[str]:
    """Return the names of directories, with as many parent directories as equal names need to differ."""
    paths = [directory.resolve().parts for directory in directories]

    def name(parts: tuple[str, ...]) -> str:
        unique_lengths = (
            count
            for count in range(1, len(parts))
            if sum(other[-count:] == parts[-count:] for other in dict.fromkeys(paths)) == 1
        )
        return str(Path(*parts[-next(unique_lengths, len(parts)) :]))

    return [name(parts) for parts in paths]


def _make_key(curves: Sequence[_Curve], colour: Any) -> list[tuple[Line2D, str]]:
    """Return the legend entries of the lines and marks that all runs share."""
    windows = " or ".join(f"{window:,}" for window in sorted({curve.window for curve in curves}))
    mean = f"mean of the last {windows} episodes, fewer at first"
    dot = Line2D([], [], color=colour, alpha=0.5, linestyle="none", marker="o", markeredgewidth=0, markersize=5)
    key = [(dot, "one episode"), (Line2D([], [], color=colour, linewidth=2), mean)]
    if thresholds := _get_thresholds(curves):
        values = " or ".join(f"{threshold:,.10g}" for threshold in thresholds)
        key.append((Line2D([], [], **_DASHES), f"success threshold: {values}"))
    solved = [curve for curve in curves if curve.solved_episode]
    if solved:
        first = solved[0]
        when = f": episode {first.solved_episode:,}, timestep {first.solved_timestep:,}" if len(curves) == 1 else ""
        key.append((Line2D([], [], color=colour, **_STAR | {"markersize": 11}), f"solved{when}"))
    return key
