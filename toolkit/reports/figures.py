"""The figures of a report: scores, learning curves, times to success, performance profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from toolkit.reports.captions import EVALUATION_PREFIX, write_figure_caption
from toolkit.reports.compare import Comparison, VariantSummary
from toolkit.reports.statistics import Array, Band
from toolkit.utils.figures import GRID, INK, add_legend, distinct_colours, figure_style, shorten, style_axes

WIDTH, HEIGHT = 5.2, 3.1  # inches; text of ten points stays legible on a telephone
_GREY = "#8a8a8a"
_MAX_NAME_LENGTH = 60  # characters above a row
_MAX_OPAQUE_DOTS = 40  # runs of a variant; the dots of more runs are fainter
_DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))  # equal curves stay visible
FIGURE_SETTINGS = {"font.size": 10.0}

_LineStyles = dict[str, dict[str, Any]]
"""Matplotlib's properties of a variant's line, by the name of the variant."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure with its caption.

    :param kind: ``scores``, ``learning``, ``evaluation-LABEL``, ``success`` or ``profile``
    :param svg: a complete SVG document
    """

    kind: str
    title: str
    caption: str
    svg: str


def draw_figures(comparison: Comparison) -> list[ReportFigure]:
    """Draw the figures that the runs of a comparison have data for."""
    with figure_style(FIGURE_SETTINGS):
        return [
            ReportFigure(kind, title, write_figure_caption(comparison, kind), to_svg(figure))
            for kind, title, figure in _draw_available(comparison)
        ]


def _draw_available(comparison: Comparison) -> Iterator[tuple[str, str, Figure]]:
    score = "Final greedy return" if comparison.uses_greedy_returns else "Return at the end of training"
    styles = _assign_styles(comparison)
    scored = comparison.scored_selection
    has_several_scores = any(len(summary.scores) > 1 for summary in scored)
    if has_several_scores or len(scored) > 1:
        yield "scores", score, _draw_scores(comparison, styles, score.lower())
    if comparison.curves:
        yield "learning", "Learning curves", _draw_learning_curves(comparison, styles)
    for label, curves in comparison.evaluation_curves.items():
        if any(len(curve.timesteps) > 1 for curve in curves.values()):
            title = f"Evaluation '{label}' during training"
            yield f"{EVALUATION_PREFIX}{label}", title, _draw_evaluations(comparison, label, styles)
    if any(summary.time_to_success and len(summary.variant.runs) > 1 for summary in comparison.selection):
        yield "success", "Runs that have succeeded", _draw_success(comparison, styles)
    if has_several_scores:
        yield "profile", "Performance profile", _draw_profile(comparison, styles, score.lower())


def _assign_styles(comparison: Comparison) -> _LineStyles:
    names = [summary.name for summary in comparison.selection]
    colours = distinct_colours(len(names))
    return {
        name: {"color": colours[index], "linestyle": _DASHES[index % len(_DASHES)]} for index, name in enumerate(names)
    }


def make_axes(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return a figure as wide as a report's, and its axes.

    :param height: in inches
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _draw_scores(comparison: Comparison, styles: _LineStyles, label: str) -> Figure:
    """Draw each run as a dot and the interquartile mean with its interval, the first variant on top."""
    rows = [(summary, summary.mean_score) for summary in comparison.selection if summary.mean_score]
    figure, axes = make_axes(0.75 + 0.5 * len(rows))
    for row, (summary, mean) in enumerate(rows):
        opacity = 0.5 if len(summary.scores) <= _MAX_OPAQUE_DOTS else 0.25
        dots = {"color": styles[summary.name]["color"], "alpha": opacity}
        spread = 0.12 * np.sin(np.arange(len(summary.scores)) * 2.4)  # so that one can count equal scores
        axes.plot(summary.scores, row + 0.25 + spread, "o", markersize=4, markeredgewidth=0, **dots)
        if mean.has_interval:
            axes.plot([mean.low, mean.high], [row, row], color=INK, linewidth=2, solid_capstyle="butt")
        axes.plot(mean.value, row, "D", color="white", markeredgecolor=INK, markeredgewidth=1.5, markersize=6)
        if row:
            axes.axhline(row - 0.55, color=GRID, linewidth=0.8, zorder=0)
        name = shorten(summary.name, _MAX_NAME_LENGTH)
        axes.text(0, row - 0.15, name, transform=axes.get_yaxis_transform(), color=INK, va="bottom", parse_math=False)
    style_axes(axes, grid="x")
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.4, -0.75)
    axes.set_xlabel(label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    return figure


def _draw_learning_curves(comparison: Comparison, styles: _LineStyles) -> Figure:
    figure, axes = make_axes()
    summaries = [summary for summary in comparison.selection if summary.name in comparison.curves]
    for name, curve in comparison.curves.items():
        _draw_band(axes, curve.timesteps, curve.band, styles[name])
    low, high = axes.get_ylim()
    margin = (high - low) / 4  # a threshold farther away would flatten the curves
    criteria = {run.criterion for summary in summaries for run in summary.variant.runs if run.criterion}
    for threshold in {criterion.return_threshold for criterion in criteria}:
        if threshold is not None and low - margin <= threshold <= high + margin:
            axes.axhline(threshold, color=_GREY, linewidth=1, zorder=1)
    label_axes(axes, "timesteps", "training return")
    _add_legend(figure, summaries, styles)
    return figure


def _draw_evaluations(comparison: Comparison, label: str, styles: _LineStyles) -> Figure:
    """Draw the mean returns of one evaluation during training, with bands over runs."""
    figure, axes = make_axes()
    curves = comparison.evaluation_curves[label]
    summaries = [summary for summary in comparison.selection if summary.name in curves]
    for name, curve in curves.items():
        _draw_band(axes, curve.timesteps, curve.band, styles[name])
    criteria = {run.criterion for summary in summaries for run in summary.variant.runs if run.criterion}
    for criterion in criteria:
        if criterion.evaluation == label and criterion.measure == "mean_return":
            axes.axhline(criterion.threshold, color=_GREY, linewidth=1, zorder=1)
    label_axes(axes, "timesteps", "return in the evaluation")
    _add_legend(figure, summaries, styles)
    return figure


def _draw_success(comparison: Comparison, styles: _LineStyles) -> Figure:
    figure, axes = make_axes()
    summaries = [summary for summary in comparison.selection if summary.time_to_success]
    for summary in summaries:
        if summary.time_to_success:
            times, share = summary.time_to_success.times, summary.time_to_success.share
            _draw_band(axes, times, share, styles[summary.name], is_stepwise=True)
            runs = [run for run in summary.variant.runs if run.success_timestep is None and run.timesteps]
            stops = [run.timesteps for run in runs]
            heights = share.value[np.searchsorted(times, stops, side="right") - 1]
            axes.plot(stops, heights, "|", color=styles[summary.name]["color"], markersize=8)
    label_axes(axes, "timesteps", "runs that have succeeded", is_share=True)
    _add_legend(figure, summaries, styles)
    return figure


def _draw_profile(comparison: Comparison, styles: _LineStyles, label: str) -> Figure:
    figure, axes = make_axes()
    thresholds, bands = comparison.estimate_profiles()
    for summary, band in zip(comparison.scored_selection, bands, strict=True):
        _draw_band(axes, thresholds, band, styles[summary.name], is_stepwise=True)
    label_axes(axes, f"{label} of more than", "runs", is_share=True)
    _add_legend(figure, comparison.scored_selection, styles)
    return figure


def _draw_band(axes: Axes, x: Array, band: Band, style: dict[str, Any], is_stepwise: bool = False) -> None:
    step: Any = "post" if is_stepwise else None
    axes.fill_between(x, band.low, band.high, step=step, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(x, band.value, linewidth=1.8, drawstyle="steps-post" if is_stepwise else "default", **style)


def label_axes(axes: Axes, x: str, y: str, is_share: bool = False) -> None:
    """Label axes; a share of runs is between 0 % and 100 %."""
    style_axes(axes)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if is_share:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))


def _add_legend(figure: Figure, summaries: Sequence[VariantSummary], styles: _LineStyles) -> None:
    entries: list[tuple[Artist, str]] = [
        (Line2D([], [], linewidth=2, **styles[summary.name]), summary.name) for summary in summaries
    ]
    add_legend(figure, entries)


def to_svg(figure: Figure) -> str:
    """Return a figure as a complete SVG document."""
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return file.getvalue()
