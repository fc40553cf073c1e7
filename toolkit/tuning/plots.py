"""A search in pictures: how it went, which values mattered, how each of them did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from toolkit.config.snippets import dump_inline
from toolkit.tuning.config import Tuning
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.search_space import Dimension, short_names
from toolkit.tuning.study import Trial
from toolkit.utils.figures import INK, distinct_colours, style_axes

_BLUE, _ORANGE = distinct_colours(2)
_GREY = "#94a4a2"
_DOT: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgewidth": 0}
_STAR: dict[str, Any] = _DOT | {"marker": "*", "markersize": 14, "markeredgewidth": 1, "markeredgecolor": INK}
_MOST_COLUMNS = 3


def draw_history(trials: Sequence[Trial], tuning: Tuning, best: Trial) -> Figure:
    """Draw what each trial came to, and the best until then; below, where the others were stopped.

    :return: a figure of its own, unknown to pyplot
    """
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    numbers, values = [trial.number for trial in finished], [trial.value or 0.0 for trial in finished]
    better = max if OBJECTIVES[tuning.config.objective].direction == "maximize" else min
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    _decorate(axes, f"{tuning.config.name}: {len(trials)} trials", _score_label(tuning))
    so_far = [*accumulate(values, better)]
    axes.step([*numbers, trials[-1].number], [*so_far, so_far[-1]], where="post", color=_ORANGE, label="best so far")
    axes.plot(numbers, values, color=_BLUE, markersize=5, label="finished", **_DOT)
    axes.plot([best.number], [best.value or 0.0], color=_ORANGE, label=f"best: trial {best.number}", **_STAR)
    for state, marker in (("pruned", "|"), ("failed", "x")):
        others = [trial.number for trial in trials if trial.state == state]
        if others:
            at_the_bottom = axes.get_xaxis_transform()
            style = _DOT | {"marker": marker, "markersize": 7, "markeredgewidth": 1.2, "clip_on": False}
            axes.plot(others, [0.015] * len(others), transform=at_the_bottom, color=_GREY, label=state, **style)
    axes.set_xlabel("trial", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower left", ncols=5, frameon=False, labelcolor=INK)
    return figure


def draw_importances(shares: Mapping[str, float], tuning: Tuning) -> Figure:
    """Draw how much of what makes the best tenth of trials is up to each value.

    :param shares: by dotted path, the sum of all being 1
    """
    names = sorted(shares, key=shares.__getitem__)
    figure = Figure(figsize=(9, 1.3 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    _decorate(axes, f"{tuning.config.name}: which values tell the best trials from the others", "")
    bars = axes.barh(range(len(names)), [shares[name] for name in names], color=_BLUE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=4, color=INK)
    axes.set_yticks(range(len(names)), short_names(names), parse_math=False)
    axes.set_xlim(0, max(shares.values()) * 1.1)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return figure


def draw_slices(trials: Sequence[Trial], tuning: Tuning, best: Trial) -> Figure:
    """Draw what finished trials came to over each value, later trials darker."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    columns = min(_MOST_COLUMNS, len(tuning.space))
    rows = -(-len(tuning.space) // columns)
    figure = Figure(figsize=(max(5, 3.6 * columns), 0.8 + 2.8 * rows), layout="constrained")
    figure.suptitle(f"{tuning.config.name}: finished trials, later ones darker", x=0.01, ha="left", color=INK)
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False, sharey=True))
    for number, (axes, dimension) in enumerate(zip(panels, tuning.space, strict=False)):
        _decorate(axes, "", "" if number % columns else _score_label(tuning))
        places = [_place(dimension, trial) for trial in finished]
        shades = np.linspace(0.25, 1, len(finished))
        axes.scatter(places, [one.value for one in finished], color=_BLUE, alpha=shades, s=22, linewidths=0)
        axes.plot([_place(dimension, best)], [best.value or 0.0], color=_ORANGE, **_STAR)
        axes.set_xlabel(short_names([one.path for one in tuning.space])[number], color=INK, parse_math=False)
        _scale(axes, dimension)
    for axes in panels[len(tuning.space) :]:
        axes.set_visible(False)
    return figure


def _place(dimension: Dimension, trial: Trial) -> Any:
    value, choices = trial.values[dimension.path], dimension.searched.choices
    return value if choices is None else choices.index(value)


def _scale(axes: Axes, dimension: Dimension) -> None:
    searched, choices = dimension.searched, dimension.searched.choices
    if choices is not None:
        names = [dump_inline(choice) for choice in choices]
        long = sum(map(len, names)) > 30
        rotation, alignment = (30, "right") if long else (0, "center")
        axes.set_xticks(range(len(choices)), names, parse_math=False, rotation=rotation, ha=alignment)
        axes.set_xlim(-0.5, len(choices) - 0.5)
        return
    low, high = float(searched.low or 0), float(searched.high or 0)
    if searched.log:
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=dimension.is_whole))


def _score_label(tuning: Tuning) -> str:
    title = OBJECTIVES[tuning.config.objective].title
    return title.replace("of the last", "of\nthe last") if len(title) > 30 else title


def _decorate(axes: Axes, title: str, label: str) -> None:
    style_axes(axes)
    axes.set_title(title, loc="left", parse_math=False, color=INK)
    axes.set_ylabel(label, color=INK)
