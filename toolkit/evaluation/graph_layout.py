"""Positions for the boxes of a directed graph: layers from top to bottom, few crossings, short edges."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_SWEEPS = 8


@dataclass(eq=False)
class Box:
    """A box, or a bend of an edge that passes a row.

    :param width: in points, 1/72 inch; so are height, x and y
    :param x: of its centre; y grows downwards
    """

    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    row: int = 0
    above: list[Box] = field(default_factory=list, repr=False)
    below: list[Box] = field(default_factory=list, repr=False)


def arrange(boxes: Sequence[Box], sources: Mapping[Box, Sequence[Box]], gap_x: float, gap_y: float) -> list[list[Box]]:
    """Give each box its position, the top left corner of all at 0, 0.

    The method is Sugiyama's: rows by the longest path, bends where an edge passes rows, an order with few crossings,
    then positions near a box's neighbours.

    :param boxes: sources before what they lead to
    :param sources: from which boxes edges lead to a box
    :return: each edge, as its first box, its bends and its last box
    """
    _assign_rows(boxes, sources)
    edges = [_connect(source, box) for box in boxes for source in sources[box]]
    bends = {box for edge in edges for box in edge[1:-1]}
    in_rows = sorted([*boxes, *bends], key=lambda box: box.row)
    rows = [[*row] for _, row in itertools.groupby(in_rows, key=lambda box: box.row)]
    _order(rows)
    _assign_x(rows, gap_x)
    y = 0.0
    for row in rows:
        height = max(box.height for box in row)
        for box in row:
            box.y = y + height / 2
            if box in bends:
                box.height = height
        y += height + gap_y
    left = min(box.x - box.width / 2 for box in boxes)
    for box in in_rows:
        box.x -= left
    return edges


def _assign_rows(boxes: Sequence[Box], sources: Mapping[Box, Sequence[Box]]) -> None:
    """Put the last boxes below their sources, and the others as low as their targets allow: edges get short."""
    for box in boxes:
        box.row = 1 + max((source.row for source in sources[box]), default=-1)
    for box in reversed(boxes):
        targets = [target.row for target in boxes if box in sources[target]]
        box.row = min(targets, default=box.row + 1) - 1


def _connect(source: Box, target: Box) -> list[Box]:
    bends = [Box(0.0, 0.0, row=row) for row in range(source.row + 1, target.row)]
    edge = [source, *bends, target]
    for upper, lower in itertools.pairwise(edge):
        upper.below.append(lower)
        lower.above.append(upper)
    return edge


def _order(rows: Sequence[list[Box]]) -> None:
    """Order each row by the mean position of its neighbours in the row before, down and up again."""
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            positions = {box: index for other in rows for index, box in enumerate(other)}

            def mean_position(box: Box, indices: Mapping[Box, int] = positions, down: bool = downwards) -> float:
                neighbours = box.above if down else box.below
                return float(np.mean([indices[other] for other in neighbours])) if neighbours else indices[box]

            row.sort(key=mean_position)


def _assign_x(rows: Sequence[Sequence[Box]], gap: float) -> None:
    """Move boxes towards their neighbours' mean, as far as the others in their row allow."""
    for row in rows:
        _place_boxes(row, [0.0] * len(row), gap)
    for sweep in range(2 * _SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            ideal_x = []
            for box in row:
                neighbours = (box.above if downwards else box.below) or box.above or box.below
                ideal_x.append(float(np.mean([other.x for other in neighbours])) if neighbours else box.x)
            _place_boxes(row, ideal_x, gap)


def _place_boxes(row: Sequence[Box], ideal_x: Sequence[float], gap: float) -> None:
    """Place the boxes of a row as near to their ideal positions as their order and gaps allow, by least squares."""
    offsets = [0.0]
    for left, right in itertools.pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + gap)
    blocks: list[list[float]] = []  # of boxes that touch: each is at its mean (pool adjacent violators)
    for position, offset in zip(ideal_x, offsets, strict=True):
        blocks.append([position - offset])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    shifts = [np.mean(block) for block in blocks for _ in block]
    for box, shift, offset in zip(row, shifts, offsets, strict=True):
        box.x = float(shift + offset)
