"""Networks as a picture: inputs, layers with their shapes, and how tensors pass between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextToPath
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from toolkit.evaluation.graph_layout import Box, arrange
from toolkit.evaluation.network_trace import Node, trace_network
from toolkit.evaluation.networks import Layer, Network, describe_networks, format_shape, get_networks, join_path
from toolkit.utils.figures import INK, figure_style
from toolkit.utils.files import picture_file, picture_format

_TRAINED, _UNTRAINED, _INPUT, _OPERATION = "#cfe3f7", "#f3f3f3", "#fff3c4", "#ffffff"
_BORDER, _FRAME, _ARROW, _DETAIL = "#8a8a8a", "#cccccc", "#666666", "#666666"
# sizes are in points, 1/72 inch
_TITLE_SIZE, _TEXT_SIZE, _DETAIL_SIZE = 12.0, 10.0, 8.0
_LINE_HEIGHT, _PADDING_X, _PADDING_Y, _GAP_X, _GAP_Y = 13.0, 10.0, 6.0, 18.0, 20.0
_MARGIN, _FRAME_PADDING, _TITLE_HEIGHT, _ARROW_LENGTH = 10.0, 14.0, 24.0, 4.0


@dataclass(frozen=True)
class _Label:
    """What a box says.

    :param title: bold, the start of the first line
    :param text: the rest of the first line
    :param detail: the second line, small; there is none if it is empty
    """

    title: str
    text: str
    detail: str
    colour: str
    is_round: bool = False

    @property
    def width(self) -> float:
        first = _measure(self.title, _TEXT_SIZE, True) + _measure(f"  {self.text}" if self.text else "", _TEXT_SIZE)
        return max(first, _measure(self.detail, _DETAIL_SIZE)) + 2 * _PADDING_X

    @property
    def height(self) -> float:
        return _LINE_HEIGHT * (2 if self.detail else 1) + 2 * _PADDING_Y


@dataclass(frozen=True)
class _Panel:
    """A network, laid out."""

    network: Network
    boxes: dict[Box, _Label]
    edges: list[list[Box]]

    @property
    def title(self) -> tuple[str, str]:
        return self.network.name, f"{self.network.kind}, {self.network.parameters:,} parameters"

    @property
    def width(self) -> float:
        name, rest = self.title
        title = _measure(name, _TITLE_SIZE, True) + _measure(f"  {rest}", _TEXT_SIZE)
        return max(title, *(box.x + box.width / 2 for box in self.boxes)) + 2 * _FRAME_PADDING

    @property
    def height(self) -> float:
        return max(box.y + box.height / 2 for box in self.boxes) + _TITLE_HEIGHT + 2 * _FRAME_PADDING


def draw_networks(model: BaseAlgorithm, out: Path) -> None:
    """Draw a model's networks to a file, PNG or SVG by its suffix, and replace a file that is there.

    Left out are the target networks, and what a policy computes after its last layers to choose an action.

    :raises ToolkitError: if ``out`` is named neither ``.png`` nor ``.svg``
    :raises NetworkError: if a network cannot be traced
    :raises RunError: if the file cannot be written
    """
    suffix = picture_format(out)
    panels = [_lay_out(model.policy, network) for network in describe_networks(model).networks]
    width = sum(panel.width for panel in panels) + _MARGIN * (len(panels) + 1)
    panel_height = max(panel.height for panel in panels)
    height = panel_height + 2 * _MARGIN
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    x = _MARGIN
    for panel in panels:
        _draw_panel(axes, panel, x, _MARGIN, panel_height)
        x += panel.width + _MARGIN
    with figure_style(), picture_file(out) as temporary:
        figure.savefig(temporary, format=suffix, dpi=144, metadata={"Date": None} if suffix == "svg" else None)


def _lay_out(policy: BasePolicy, network: Network) -> _Panel:
    labels = _make_labels(policy, network)
    nodes = [*labels]
    width = max((labels[node].width for node in nodes if node.module), default=0.0)
    boxes = {node: Box(width if node.module else labels[node].width, labels[node].height) for node in nodes}
    sources = {boxes[node]: [boxes[source] for source in node.sources] for node in nodes}
    edges = arrange([*boxes.values()], sources, _GAP_X, _GAP_Y)
    return _Panel(network, {boxes[node]: labels[node] for node in nodes}, edges)


def _make_labels(policy: BasePolicy, network: Network) -> dict[Node, _Label]:
    model = get_networks(policy)[network.name]
    prefix = "" if model is policy else network.name
    paths = {module: join_path(prefix, name) for name, module in model.named_modules()}
    layers = {layer.name: layer for layer in network.layers}
    nodes = trace_network(policy, network.name, model)
    return {node: _make_label(node, network, layers[paths[node.module]] if node.module else None) for node in nodes}


def _make_label(node: Node, network: Network, layer: Layer | None) -> _Label:
    if layer is not None:
        shapes = [format_shape(node.input_shape), format_shape(node.output_shape)]
        if not layer.parameters:
            return _Label(layer.kind, " → ".join(dict.fromkeys(shapes)), layer.name, _UNTRAINED)
        return _Label(layer.kind, " → ".join(shapes), f"{layer.name} · {layer.parameters:,} parameters", _TRAINED)
    if node.is_input:
        return _Label(node.name, network.inputs[node.name], "", _INPUT)
    return _Label(node.name, f"→ {format_shape(node.output_shape)}", "", _OPERATION, is_round=True)


def _draw_panel(axes: Axes, panel: _Panel, x: float, y: float, height: float) -> None:
    _draw_box(axes, (x, y, panel.width, height), _FRAME, "none", 8)
    _write(axes, x + _FRAME_PADDING, y + _FRAME_PADDING + _TITLE_SIZE / 2, panel.title, _TITLE_SIZE)
    extent = max(box.x + box.width / 2 for box in panel.boxes)
    x += (panel.width - extent) / 2
    y += _TITLE_HEIGHT + _FRAME_PADDING
    for edge in panel.edges:
        _draw_edge(axes, edge, x, y)
    for box, label in panel.boxes.items():
        rectangle = (x + box.x - box.width / 2, y + box.y - box.height / 2, box.width, box.height)
        _draw_box(axes, rectangle, _BORDER, label.colour, box.height / 2 if label.is_round else 4)
        parts = (label.title, label.text)
        width = _measure(label.title, _TEXT_SIZE, True) + _measure(f"  {label.text}" if label.text else "", _TEXT_SIZE)
        first_line = y + box.y - (_LINE_HEIGHT / 2 if label.detail else 0)
        _write(axes, x + box.x - width / 2, first_line, parts, _TEXT_SIZE)
        if label.detail:
            _text(axes, x + box.x, first_line + _LINE_HEIGHT, label.detail, _DETAIL_SIZE, ha="center", color=_DETAIL)


def _draw_box(axes: Axes, rectangle: tuple[float, float, float, float], edge: str, face: str, radius: float) -> None:
    x, y, width, height = rectangle
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, edgecolor=edge, facecolor=face, linewidth=1))


def _draw_edge(axes: Axes, edge: Sequence[Box], x: float, y: float) -> None:
    """Draw a line that crosses rows vertically and bends only between them."""
    first = edge[0]
    points, codes = [(first.x, first.y + first.height / 2)], [Curve.MOVETO]
    for upper, lower in itertools.pairwise(edge):
        start, end = upper.y + upper.height / 2, lower.y - lower.height / 2 - _ARROW_LENGTH
        middle = (start + end) / 2
        points += [(upper.x, start), (upper.x, middle), (lower.x, middle), (lower.x, end)]
        codes += [Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    points.append((edge[-1].x, edge[-1].y - edge[-1].height / 2))
    codes.append(Curve.LINETO)
    path = Curve([(x + along, y + down) for along, down in points], codes)
    arrow = FancyArrowPatch(
        path=path, arrowstyle="-|>", mutation_scale=8, color=_ARROW, linewidth=1, shrinkA=0, shrinkB=0, zorder=1
    )
    axes.add_patch(arrow)


def _write(axes: Axes, x: float, y: float, parts: Iterable[str], size: float) -> None:
    """Write a bold text and a plain one after it."""
    title, text = parts
    _text(axes, x, y, title, size, fontweight="bold")
    if text:
        x += _measure(title, size, True) + _measure("  ", _TEXT_SIZE)
        _text(axes, x, y, text, _TEXT_SIZE)


def _text(axes: Axes, x: float, y: float, text: str, size: float, **style: Any) -> None:
    style = {"color": INK, "va": "center_baseline"} | style
    axes.text(x, y, text, fontsize=size, parse_math=False, zorder=3, **style)


@cache
def _measure(text: str, size: float, is_bold: bool = False) -> float:
    """Return the width of a text in points."""
    font = FontProperties(size=size, weight="bold" if is_bold else "normal")
    width: float = TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]
    return width
