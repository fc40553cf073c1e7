"""The style of the toolkit's figures: colours, axes, legends, SVG files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

INK = "#333333"
GRID = "#e6e6e6"
_CHARACTERS_PER_INCH = 10  # of a legend
# text stays text in an SVG, and the same data gives the same file
_SAVING: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "toolkit"}


@contextmanager
def figure_style(settings: Mapping[Any, Any] = MappingProxyType({})) -> Iterator[None]:
    """Draw and save figures in the toolkit's style, without warnings about characters that the font lacks.

    :param settings: Matplotlib's ``rcParams``
    """
    with matplotlib.rc_context(_SAVING), matplotlib.rc_context(dict(settings)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def distinct_colours(count: int) -> list[Any]:
    """Return different colours; up to ten are safe for people with colour vision deficiency."""
    if count <= 10:
        return list(matplotlib.color_sequences["petroff10"])[:count]
    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def style_axes(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Reduce axes to what is needed to read values: thin grid lines, and numbers with thousands separators."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")


def add_legend(figure: Figure, entries: Sequence[tuple[Artist, str]]) -> None:
    """Put a legend below the axes, with as many columns as fit, and make the figure higher by its rows."""
    max_length = int(_CHARACTERS_PER_INCH * figure.get_figwidth())
    names = [shorten(name, max_length) for _, name in entries]
    columns = max(1, min(3, max_length // max(map(len, names))))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.25 * rows)
    legend = figure.legend(
        [artist for artist, _ in entries],
        [str(number) for number in range(len(names))],  # Matplotlib leaves out a name that starts with _
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # show $ as a character
        text.set_text(name)


def shorten(text: str, max_length: int) -> str:
    """Leave out the beginning of a long text; the number of a run is at its end."""
    return text if len(text) <= max_length else f"…{text[1 - max_length :]}"
