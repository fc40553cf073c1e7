"""Figures of a search: the history of its trials, the importance of each value, and the scores over each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from toolkit.config.snippets import dump_inline
from toolkit.tuning.config import TuningPlan
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.search_space import Dimension, shorten_paths
from toolkit.tuning.study import Trial
from toolkit.utils.figures import INK, distinct_colours, style_axes

_BLUE, _ORANGE = distinct_colours(2)
_GREY = "#94a4a2"
_DOT: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgewidth": 0}
_STAR: dict[str, Any] = _DOT | {"marker": "*", "markersize": 14, "markeredgewidth": 1, "markeredgecolor": INK}
_MAX_COLUMNS = 3


def draw_history(trials: Sequence[Trial], plan: TuningPlan, best: Trial) -> Figure:
    """Draw the score of each finished trial, the best score so far, and the other trials below.

    :return: a figure that pyplot does not manage
    """
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    numbers, values = [trial.number for trial in finished], [trial.value or 0.0 for trial in finished]
    select = max if OBJECTIVES[plan.config.objective].direction == "maximize" else min
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    _label_axes(axes, f"{plan.config.name}: {len(trials)} trials", _get_score_label(plan))
    best_values = [*accumulate(values, select)]
    steps = [*numbers, trials[-1].number], [*best_values, best_values[-1]]
    axes.step(*steps, where="post", color=_ORANGE, label="best so far")
    axes.plot(numbers, values, color=_BLUE, markersize=5, label="finished", **_DOT)
    axes.plot([best.number], [best.value or 0.0], color=_ORANGE, label=f"best: trial {best.number}", **_STAR)
    _mark_trials(axes, trials, "pruned", "|")
    _mark_trials(axes, trials, "failed", "x")
    axes.set_xlabel("trial", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower left", ncols=5, frameon=False, labelcolor=INK)
    return figure


def _mark_trials(axes: Axes, trials: Sequence[Trial], state: str, marker: str) -> None:
    """Mark the trials of a state at the bottom of the axes."""
    numbers = [trial.number for trial in trials if trial.state == state]
    if numbers:
        style = _DOT | {"marker": marker, "markersize": 7, "markeredgewidth": 1.2, "clip_on": False}
        transform = axes.get_xaxis_transform()
        axes.plot(numbers, [0.015] * len(numbers), transform=transform, color=_GREY, label=state, **style)


def draw_importances(importances: Mapping[str, float], plan: TuningPlan) -> Figure:
    """Draw how much each value decides whether a trial is among the best tenth.

    :param importances: shares by dotted path, whose sum is 1
    """
    names = sorted(importances, key=importances.__getitem__)
    figure = Figure(figsize=(9, 1.3 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    _label_axes(axes, f"{plan.config.name}: importance of each value for the best trials", "")
    bars = axes.barh(range(len(names)), [importances[name] for name in names], color=_BLUE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=4, color=INK)
    axes.set_yticks(range(len(names)), shorten_paths(names), parse_math=False)
    axes.set_xlim(0, max(importances.values()) * 1.1)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return figure


def draw_slices(trials: Sequence[Trial], plan: TuningPlan, best: Trial) -> Figure:
    """Draw the scores of finished trials over each value. Later trials are darker."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    columns = min(_MAX_COLUMNS, len(plan.space))
    rows = -(-len(plan.space) // columns)
    figure = Figure(figsize=(max(5, 3.6 * columns), 0.8 + 2.8 * rows), layout="constrained")
    figure.suptitle(f"{plan.config.name}: finished trials, later trials are darker", x=0.01, ha="left", color=INK)
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False, sharey=True))
    for number, (axes, dimension) in enumerate(zip(panels, plan.space, strict=False)):
        _label_axes(axes, "", "" if number % columns else _get_score_label(plan))
        positions = [_get_position(dimension, trial) for trial in finished]
        shades = np.linspace(0.25, 1, len(finished))
        axes.scatter(positions, [trial.value for trial in finished], color=_BLUE, alpha=shades, s=22, linewidths=0)
        axes.plot([_get_position(dimension, best)], [best.value or 0.0], color=_ORANGE, **_STAR)
        axes.set_xlabel(shorten_paths([other.path for other in plan.space])[number], color=INK, parse_math=False)
        _set_scale(axes, dimension)
    for axes in panels[len(plan.space) :]:
        axes.set_visible(False)
    return figure


def _get_position(dimension: Dimension, trial: Trial) -> Any:
    value, choices = trial.values[dimension.path], dimension.domain.choices
    return value if choices is None else choices.index(value)


def _set_scale(axes: Axes, dimension: Dimension) -> None:
    domain, choices = dimension.domain, dimension.domain.choices
    if choices is not None:
        names = [dump_inline(choice) for choice in choices]
        rotation, alignment = (30, "right") if sum(map(len, names)) > 30 else (0, "center")
        axes.set_xticks(range(len(choices)), names, parse_math=False, rotation=rotation, ha=alignment)
        axes.set_xlim(-0.5, len(choices) - 0.5)
        return
    low, high = float(domain.low or 0), float(domain.high or 0)
    if domain.log:
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=dimension.is_integer))


def _get_score_label(plan: TuningPlan) -> str:
    title = OBJECTIVES[plan.config.objective].title
    title = title.replace("of the last", "of\nthe last") if len(title) > 30 else title
    if plan.config.variants is None:
        return title
    return f"{title}\n" + ("worst variant" if plan.config.across_variants == "worst" else "mean over the variants")


def _label_axes(axes: Axes, title: str, label: str) -> None:
    style_axes(axes)
    axes.set_title(title, loc="left", parse_math=False, color=INK)
    axes.set_ylabel(label, color=INK)
