"""The figures of a page about one run: learning curve, values, logged numbers, actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from toolkit.envs.action_count import ActionCount
from toolkit.evaluation.learning_curves import draw_learning_curves
from toolkit.evaluation.reward_curves import draw_rewards
from toolkit.reports.figures import FIGURE_SETTINGS, HEIGHT, WIDTH, label_axes, make_axes, to_svg
from toolkit.training.evaluations import RecordedEvaluation
from toolkit.training.progress_csv import Series
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.figures import INK, add_legend, distinct_colours, figure_style, style_axes

MAX_PANELS = 12
_MAX_POINTS = 400  # of a line
_MAX_MARKED_POINTS = 40  # of a line with a dot at each point
_MAX_ACTION_TICKS = 20
_BLUE = distinct_colours(1)[0]
_PANEL_HEIGHT, _FRAME_HEIGHT = 1.05, 0.45  # inches


def draw_learning(run: RunDirectory) -> str:
    """Draw the raw returns of a run's training episodes, at least one, and their moving average, as SVG."""

    def draw() -> Figure:
        figure = draw_learning_curves([run], size=(WIDTH, HEIGHT))
        figure.axes[0].set_title("", loc="left")
        figure.axes[0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return figure

    return _draw(draw)


def draw_reward_parts(run: RunDirectory) -> str:
    """Draw what each wrapper adds to a run's returns, which has logged it, as SVG."""

    def draw() -> Figure:
        figure = draw_rewards(run, size=(WIDTH, HEIGHT))
        figure.axes[0].set_title("", loc="left")
        figure.axes[-1].set_xlabel("timesteps", color=INK)
        figure.axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return figure

    return _draw(draw)


def draw_evaluations(evaluations: Mapping[str, Sequence[RecordedEvaluation]]) -> str:
    """Draw the mean returns of evaluations during training with their intervals, as SVG.

    :param evaluations: by their labels
    """

    def draw() -> Figure:
        figure, axes = make_axes()
        entries: list[tuple[Artist, str]] = []
        for (label, items), colour in zip(evaluations.items(), distinct_colours(len(evaluations)), strict=True):
            timesteps, means = [item.timestep for item in items], [item.mean_return for item in items]
            lows, highs = zip(*(item.ci95 or (item.mean_return, item.mean_return) for item in items), strict=True)
            axes.fill_between(timesteps, lows, highs, color=colour, alpha=0.16, linewidth=0)
            axes.plot(timesteps, means, color=colour, linewidth=1.6, marker="o", markersize=3)
            entries.append((Line2D([], [], color=colour, linewidth=2), label))
        label_axes(axes, "timesteps", "raw return")
        add_legend(figure, entries)
        return figure

    return _draw(draw)


def draw_lines(lines: Mapping[str, Series], y_label: str) -> str:
    """Draw several lines on one scale, as SVG.

    :param lines: by their names in the legend
    """

    def draw() -> Figure:
        figure, axes = make_axes()
        entries: list[tuple[Artist, str]] = []
        for (name, series), colour in zip(lines.items(), distinct_colours(len(lines)), strict=True):
            points = average_groups(series, _MAX_MARKED_POINTS)
            axes.plot(points.timesteps, points.values, color=colour, linewidth=1.6, marker="o", markersize=3)
            entries.append((Line2D([], [], color=colour, linewidth=2), name))
        label_axes(axes, "timesteps", y_label)
        add_legend(figure, entries)
        return figure

    return _draw(draw)


def draw_panels(lines: Mapping[str, Series]) -> str:
    """Draw each line on a scale of its own, one below the other, as SVG.

    :param lines: at most 12, by their names
    """

    def draw() -> Figure:
        figure, panels = _make_panels(len(lines), share_x=True)
        for axes, (name, series) in zip(panels, lines.items(), strict=True):
            points = average_groups(series, _MAX_POINTS)
            axes.plot(*points, color=_BLUE, linewidth=1.4, marker="o" if len(points.values) == 1 else "")
            _style_panel(axes, name)
        panels[-1].set_xlabel("timesteps", color=INK)
        panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return figure

    return _draw(draw)


def draw_actions(counts: Sequence[ActionCount]) -> str:
    """Draw a histogram of each component of the actions, at most 12, as SVG.

    :param counts: in the order of the components
    """
    groups = [[*group] for _, group in groupby(counts, key=lambda count: count.component)][:MAX_PANELS]

    def draw() -> Figure:
        figure, panels = _make_panels(len(groups), share_x=False)
        for axes, group in zip(panels, groups, strict=True):
            _draw_histogram(axes, group)
            _style_panel(axes, f"component {group[0].component}" if len(groups) > 1 else "")
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))  # 2.5 % between 0 and 5 %
        panels[-1].set_xlabel("action", color=INK)
        figure.supylabel("share of the steps", fontsize="medium", color=INK)
        return figure

    return _draw(draw)


def average_groups(series: Series, max_points: int) -> Series:
    """Return the means of groups of consecutive rows, at the last timestep of each group.

    :param max_points: number of groups, or fewer if there are fewer rows
    """
    size = group_size(series, max_points)
    starts = np.arange(0, len(series.values), size)
    lengths = np.diff(np.append(starts, len(series.values)))
    return Series(series.timesteps[starts + lengths - 1], np.add.reduceat(series.values, starts) / lengths)


def group_size(series: Series, max_points: int = _MAX_POINTS) -> int:
    """Return how many rows a point of a line averages; lines with a dot at each point have fewer points."""
    return -(-len(series.values) // max_points)


def group_size_of_lines(lines: Mapping[str, Series]) -> int:
    """Return how many rows a point of :func:`draw_lines` averages at most."""
    return max(group_size(series, _MAX_MARKED_POINTS) for series in lines.values())


def _draw(draw: Callable[[], Figure]) -> str:
    with figure_style(FIGURE_SETTINGS):
        return to_svg(draw())


def _make_panels(count: int, share_x: bool) -> tuple[Figure, list[Axes]]:
    height = max(HEIGHT if count == 1 else 0.0, _FRAME_HEIGHT + _PANEL_HEIGHT * count)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, [*figure.subplots(count, 1, sharex=share_x, squeeze=False)[:, 0]]


def _style_panel(axes: Axes, name: str) -> None:
    style_axes(axes)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.set_title(name, loc="left", fontsize=9, color=INK, parse_math=False)


def _draw_histogram(axes: Axes, counts: Sequence[ActionCount]) -> None:
    total = max(1, sum(count.steps for count in counts))
    shares = [count.steps / total for count in counts]
    if all(count.low == count.high for count in counts):
        axes.bar([count.low for count in counts], shares, width=0.8, color=_BLUE)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=_MAX_ACTION_TICKS, integer=True))
        return
    edges = [count.low for count in counts]
    axes.bar(
        edges, shares, width=[count.high - count.low for count in counts], align="edge", color=_BLUE, edgecolor="white"
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
