"""Pictures of the parts of the return over training: what each wrapper adds, and what ``info`` names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from toolkit.envs.episode_numbers import PART_PREFIX, REWARD_PREFIX
from toolkit.evaluation.learning_curves import By, compute_moving_average, format_title
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.data import DEFAULT_WINDOW
from toolkit.utils.errors import RunError
from toolkit.utils.figures import INK, add_legend, distinct_colours, figure_style, shorten, style_axes
from toolkit.utils.files import picture_file, picture_format

_MAX_POINTS = 1000  # more than the picture has columns
_TITLE_WIDTH = 75  # characters that fit the width of the picture
_RAW = "raw return"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class RewardCurves:
    """Moving averages of the parts of a run's returns, each of shape (points,).

    :param x: timesteps or episodes
    :param shares: the raw return, and what each wrapper adds to it, innermost first; they add up to the shaped return
    :param parts: the sums of what ``info["reward_components"]`` names
    """

    x: NDArray[np.int64]
    shares: Mapping[str, Array]
    parts: Mapping[str, Array]

    @property
    def shaped(self) -> Array:
        """The shaped return."""
        shaped: Array = np.sum([*self.shares.values()], axis=0)
        return shaped


def read_reward_curves(run: RunDirectory, by: By = "timestep", window: int = DEFAULT_WINDOW) -> RewardCurves:
    """Read the parts of a run's returns.

    :param by: what ``x`` counts: the run's timesteps when an episode counted, or episodes
    :param window: number of episodes to average; the first windows are shorter
    :raises RunError: if the run has none, or its ``monitor.csv`` is damaged
    """
    episodes, numbers = run.read_episodes_with(REWARD_PREFIX)
    if not numbers or not episodes:
        hint = "train with the callback log_rewards, and with a wrapper or an environment that it can log"
        raise RunError(f"{run.directory}: has no parts of rewards", hint)
    x = np.array([episode.timestep for episode in episodes]) if by == "timestep" else np.arange(1, len(episodes) + 1)
    columns = {_RAW: np.array([episode.raw_return for episode in episodes])}
    columns |= {name: np.nan_to_num(np.array(values)) for name, values in numbers.items()}  # a missing part is 0
    averages = {name: compute_moving_average(values, window, _MAX_POINTS) for name, values in columns.items()}
    ends, _ = averages[_RAW]
    return RewardCurves(
        x[ends - 1],
        {
            name.removeprefix(REWARD_PREFIX): values
            for name, (_, values) in averages.items()
            if not name.startswith(PART_PREFIX)
        },
        {
            name.removeprefix(PART_PREFIX): values
            for name, (_, values) in averages.items()
            if name.startswith(PART_PREFIX)
        },
    )


def draw_rewards(run: RunDirectory, by: By = "timestep", size: tuple[float, float] = (9, 4.5)) -> Figure:
    """Draw the raw return and what each wrapper adds to it, stacked; below, the parts that ``info`` names.

    What is above 0 is stacked upwards, what is below 0 downwards. All are moving averages over 100 episodes.

    :param size: width and height in inches; parts that ``info`` names make the figure higher, and so does the legend
    :return: a figure that pyplot does not manage
    :raises RunError: if the run has no parts of rewards, or its ``monitor.csv`` is damaged
    """
    curves = read_reward_curves(run, by)
    has_shares, has_parts = len(curves.shares) > 1, bool(curves.parts)
    colours = distinct_colours(len(curves.shares) + len(curves.parts))
    figure = Figure(figsize=(size[0], size[1] * (1.55 if has_shares and has_parts else 1)), layout="constrained")
    all_axes: Any = figure.subplots(has_shares + has_parts, sharex=True, squeeze=False)[:, 0]
    entries: list[tuple[Any, str]] = []
    if has_shares:
        entries += _draw_stack(all_axes[0], curves.x, curves.shares, colours)
        all_axes[0].plot(curves.x, curves.shaped, color=INK, linewidth=2)
        entries.append((Line2D([], [], color=INK, linewidth=2), "shaped return, their sum"))
        _style(all_axes[0], "return of an episode")
    if has_parts:
        part_colours = colours[len(curves.shares) :]
        entries += _draw_stack(all_axes[-1], curves.x, curves.parts, part_colours, "part ")
        _style(all_axes[-1], "parts that info names")
    all_axes[0].set_title(shorten(format_title([run]), _TITLE_WIDTH), loc="left", parse_math=False, color=INK)
    all_axes[-1].set_xlabel(f"{by}s, means of the last {DEFAULT_WINDOW} episodes, fewer at first", color=INK)
    add_legend(figure, entries)
    return figure


def plot_rewards(run: RunDirectory, out: str | Path | None = None, by: By = "timestep") -> Path:
    """Write the parts of a run's returns to a picture, PNG or SVG by its suffix, and replace a file that is there.

    :param out: by default ``rewards.png`` in the run's directory
    :param by: what the horizontal axis counts: timesteps or episodes
    :return: the file
    :raises ToolkitError: if ``out`` is named neither ``.png`` nor ``.svg``
    :raises RunError: if the run has no parts of rewards, or the file cannot be written
    """
    path = Path(out or run.directory / "rewards.png")
    suffix = picture_format(path)
    figure = draw_rewards(run, by)
    with figure_style(), picture_file(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    return path


def _draw_stack(
    axes: Axes, x: NDArray[np.int64], values: Mapping[str, Array], colours: list[Any], prefix: str = ""
) -> list[tuple[Any, str]]:
    """Stack areas away from 0, each to the side of its sign; return their legend entries."""
    above, below = np.zeros(len(x)), np.zeros(len(x))
    entries: list[tuple[Any, str]] = []
    width = 8 if len(x) == 1 else 0  # one point has no area
    for (name, part), colour in zip(values.items(), colours, strict=False):
        for total, side in ((above, np.maximum(part, 0)), (below, np.minimum(part, 0))):
            axes.fill_between(x, total, total + side, color=colour, alpha=0.75, linewidth=width)
            np.add(total, side, out=total)
        entries.append((Patch(color=colour, alpha=0.75, linewidth=0), f"{prefix}{name}"))
    return entries


def _style(axes: Axes, label: str) -> None:
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_ylabel(label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.01)
    style_axes(axes)
