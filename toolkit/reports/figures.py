"""The figures of a report: what variants score, how they learn, when they succeed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from toolkit.reports.compare import Comparison, Summary
from toolkit.reports.statistics import Array, Band
from toolkit.utils.figures import GRID, INK, add_legend, distinct_colours, plain_axes, saving, shortened

_WIDTH, _HEIGHT = 5.2, 3.1  # inches: text of ten points can still be read where a telephone shows it
_GREY = "#8a8a8a"
_NAME = 60  # characters above a row
_DOTS = 40  # runs of a variant; more are drawn fainter
_DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))  # so that equal curves all show
_SIZE = {"font.size": 10.0}

Styles = dict[str, dict[str, Any]]  # of a variant's line, by its name


@dataclass(frozen=True)
class ReportFigure:
    """A figure and what it is.

    :param kind: ``scores``, ``learning``, ``success`` or ``profile``
    :param svg: a document of its own
    """

    kind: str
    title: str
    svg: str


def figures(comparison: Comparison) -> list[ReportFigure]:
    """Draw what there is to draw of a comparison."""
    score = "Final greedy return" if comparison.greedy else "Return at the end of training"
    names = [one.name for one in comparison.drawn]
    colours = distinct_colours(len(names))
    styles = {name: {"color": colours[place], "linestyle": _DASHES[place % 4]} for place, name in enumerate(names)}
    made = []
    with saving(_SIZE):
        if any(len(one.scores) > 1 for one in comparison.drawn) or len(comparison.compared) > 1:
            made.append(("scores", score, _scores(comparison, styles, score)))
        if comparison.curves:
            made.append(("learning", "Learning curves", _learning(comparison, styles)))
        if any(one.times and len(one.variant.runs) > 1 for one in comparison.drawn):
            made.append(("success", "Runs that have succeeded", _success(comparison, styles)))
        if any(len(one.scores) > 1 for one in comparison.compared):
            made.append(("profile", "Performance profile", _profile(comparison, styles, score)))
        return [ReportFigure(kind, title, _svg(figure)) for kind, title, figure in made]


def _figure(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    return figure, axes


def _scores(comparison: Comparison, styles: Styles, label: str) -> Figure:
    """Draw each run as a dot, and the interquartile mean with its interval, the first variant on top."""
    shown = [(one, one.score) for one in comparison.drawn if one.score]
    figure, axes = _figure(0.75 + 0.5 * len(shown))
    for place, (one, score) in enumerate(shown):
        dots = {"color": styles[one.name]["color"], "alpha": 0.5 if len(one.scores) <= _DOTS else 0.25}
        spread = 0.12 * np.sin(np.arange(len(one.scores)) * 2.4)  # so that equal scores can be counted
        axes.plot(one.scores, place + 0.25 + spread, "o", markersize=4, markeredgewidth=0, **dots)
        if score.has_interval:
            axes.plot([score.low, score.high], [place, place], color=INK, linewidth=2, solid_capstyle="butt")
        axes.plot(score.value, place, "D", color="white", markeredgecolor=INK, markeredgewidth=1.5, markersize=6)
        if place:
            axes.axhline(place - 0.55, color=GRID, linewidth=0.8, zorder=0)
        name = shortened(one.name, _NAME)
        axes.text(
            0, place - 0.15, name, transform=axes.get_yaxis_transform(), color=INK, va="bottom", parse_math=False
        )
    plain_axes(axes, grid="x")
    axes.set_yticks([])
    axes.set_ylim(len(shown) - 0.4, -0.75)
    axes.set_xlabel(label.lower(), color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    return figure


def _learning(comparison: Comparison, styles: Styles) -> Figure:
    figure, axes = _figure()
    shown = [one for one in comparison.drawn if one.name in comparison.curves]
    for name, curve in comparison.curves.items():
        _draw_band(axes, curve.timesteps, curve.band, styles[name])
    low, high = axes.get_ylim()
    margin = (high - low) / 4  # one that is out of reach would flatten the curves
    for threshold in {run.criterion[0] for one in shown for run in one.variant.runs if run.criterion}:
        if low - margin <= threshold <= high + margin:
            axes.axhline(threshold, color=_GREY, linewidth=1, zorder=1)
    _finish(figure, axes, "timesteps", "training return", shown, styles)
    return figure


def _success(comparison: Comparison, styles: Styles) -> Figure:
    figure, axes = _figure()
    shown = [one for one in comparison.drawn if one.times]
    for one in comparison.drawn:
        if one.times:
            steps, share = one.times.times, one.times.share
            _draw_band(axes, steps, share, styles[one.name], steps=True)
            stopped = [run.timesteps for run in one.variant.runs if run.solved_at is None and run.timesteps]
            then = share.value[np.searchsorted(steps, stopped, side="right") - 1]
            axes.plot(stopped, then, "|", color=styles[one.name]["color"], markersize=8)
    axes.set_ylim(-0.03, 1.03)
    _finish(figure, axes, "timesteps", "runs that have succeeded", shown, styles, share=True)
    return figure


def _profile(comparison: Comparison, styles: Styles, label: str) -> Figure:
    figure, axes = _figure()
    thresholds, bands = comparison.profiles()
    for one, band in zip(comparison.compared, bands, strict=True):
        _draw_band(axes, thresholds, band, styles[one.name], steps=True)
    axes.set_ylim(-0.03, 1.03)
    _finish(figure, axes, f"{label.lower()} of more than", "runs", comparison.compared, styles, share=True)
    return figure


def _draw_band(axes: Axes, x: Array, band: Band, style: dict[str, Any], steps: bool = False) -> None:
    step: Any = "post" if steps else None
    axes.fill_between(x, band.low, band.high, step=step, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(x, band.value, linewidth=1.8, drawstyle="steps-post" if steps else "default", **style)


def _finish(
    figure: Figure,
    axes: Axes,
    x: str,
    y: str,
    shown: Sequence[Summary],
    styles: Styles,
    share: bool = False,
) -> None:
    plain_axes(axes)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    entries: list[tuple[Artist, str]] = [(Line2D([], [], linewidth=2, **styles[one.name]), one.name) for one in shown]
    add_legend(figure, entries)


def _svg(figure: Figure) -> str:
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return file.getvalue()
