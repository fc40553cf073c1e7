"""Pictures of the evaluations during training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from toolkit.evaluation.learning_curves import disambiguate_names, format_title
from toolkit.training.evaluations import RecordedEvaluation, group_by_label, read_evaluations
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import RunError
from toolkit.utils.figures import INK, add_legend, distinct_colours, figure_style, shorten, style_axes
from toolkit.utils.files import picture_file, picture_format

_TITLE_WIDTH = 75  # characters that fit the width of the picture
_DASHES: dict[str, Any] = {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.2}


def draw_evaluations(runs: Sequence[RunDirectory]) -> Figure:
    """Draw the mean return of each evaluation of runs over timesteps, with the 95 % interval of each mean as a band.

    Every label of every run is a line. The threshold of a success criterion that judges an evaluation is dashed.

    :param runs: at least one
    :return: a figure that pyplot does not manage
    :raises RunError: if a run has no evaluation, or its ``evaluations.csv`` or ``result.json`` is damaged
    """
    names = disambiguate_names([run.directory for run in runs]) if len(runs) > 1 else [""]
    lines = [
        (f"{name} {label}".strip(), items)
        for run, name in zip(runs, names, strict=True)
        for label, items in _read(run)
    ]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(shorten(format_title(runs), _TITLE_WIDTH), loc="left", parse_math=False, color=INK)
    axes.set_xlabel("timesteps", color=INK)
    axes.set_ylabel("raw return, mean of an evaluation", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    style_axes(axes)
    entries: list[tuple[Artist, str]] = []
    for (name, items), colour in zip(lines, distinct_colours(len(lines)), strict=True):
        timesteps = [item.timestep for item in items]
        lows, highs = zip(*(item.ci95 or (item.mean_return, item.mean_return) for item in items), strict=True)
        axes.fill_between(timesteps, lows, highs, color=colour, alpha=0.16, linewidth=0)
        axes.plot(timesteps, [item.mean_return for item in items], color=colour, linewidth=2, marker="o", markersize=4)
        entries.append((Line2D([], [], color=colour, linewidth=2, marker="o", markersize=4), name))
    entries.append((Patch(color=INK, alpha=0.16, linewidth=0), "95 % interval of a mean"))
    for threshold in _list_thresholds(runs):
        axes.axhline(threshold, zorder=1, **_DASHES)
        entries.append((Line2D([], [], **_DASHES), f"success threshold: {threshold:,.10g}"))
    add_legend(figure, entries)
    return figure


def plot_evaluations(runs: Sequence[RunDirectory], out: str | Path | None = None) -> Path:
    """Write the evaluations of runs to a picture, PNG or SVG by its suffix, and replace a file that is there.

    :param runs: at least one
    :param out: by default ``evaluations.png`` in the run's directory, or in the working directory for several runs
    :return: the file
    :raises ToolkitError: if ``out`` is named neither ``.png`` nor ``.svg``
    :raises RunError: if a run has no evaluation, or the file cannot be written
    """
    path = Path(out or (runs[0].directory / "evaluations.png" if len(runs) == 1 else "evaluations.png"))
    suffix = picture_format(path)
    figure = draw_evaluations(runs)
    with figure_style(), picture_file(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    return path


def _read(run: RunDirectory) -> list[tuple[str, list[RecordedEvaluation]]]:
    groups = group_by_label(read_evaluations(run))
    if not groups:
        hint = "wait for the first" if run.result is None else "train with the callback evaluate"
        raise RunError(f"{run.directory}: has no evaluation", hint)
    return [*groups.items()]


def _list_thresholds(runs: Sequence[RunDirectory]) -> list[float]:
    criteria: list[dict[str, Any]] = [(run.result or {}).get("success") or {} for run in runs]
    judged = [item for item in criteria if "evaluation" in item and item.get("measure") == "mean_return"]
    return sorted({float(item["threshold"]) for item in judged})
