"""Small GIFs of recorded episodes, for a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolkit.evaluation.frames import Frame
from toolkit.evaluation.video_files import write_gif

WIDTH = 160  # pixels
MAX_BYTES = 150_000
MAX_SECONDS = 10
_MAX_HEIGHT = 240  # pixels
# milliseconds between frames, colours and seconds, from the best picture on; the last one is a single frame
_QUALITIES = (
    (60, 64, MAX_SECONDS),
    (80, 64, MAX_SECONDS),
    (100, 32, MAX_SECONDS),
    (120, 16, MAX_SECONDS),
    (120, 32, MAX_SECONDS / 2),
    (200, 16, MAX_SECONDS / 2),
    (200, 16, MAX_SECONDS / 4),
    (200, 8, MAX_SECONDS / 10),
    (200, 8, 0.1),
)


def write_thumbnail(video: Path, target: Path) -> None:
    """Write the first seconds of a GIF as a GIF of 160 pixels width and less than 150,000 bytes, in real time.

    Colours, frame rate and length are reduced until it fits. A picture higher than 240 pixels becomes narrower.

    :param video: a GIF
    """
    frames, ends = _read_frames(video)
    for interval, n_colors, seconds in _QUALITIES:
        write_gif(target, *_select_frames(frames, ends, interval, min(ends[-1], round(1000 * seconds))), n_colors)
        if target.stat().st_size < MAX_BYTES:
            return


def _read_frames(video: Path) -> tuple[list[Frame], list[int]]:
    """Return the resized frames of a GIF, and when each of them ends, in milliseconds."""
    from PIL import Image, ImageSequence

    with Image.open(video) as gif:
        scale = min(WIDTH / gif.width, _MAX_HEIGHT / gif.height)
        size = (max(1, round(scale * gif.width)), max(1, round(scale * gif.height)))
        frames, durations = [], []
        for frame in ImageSequence.Iterator(gif):
            durations.append(int(frame.info.get("duration", 0)) or 100)  # browsers show such frames for so long
            frames.append(np.asarray(frame.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    return frames, [*itertools.accumulate(durations)]


def _select_frames(
    frames: Sequence[Frame], ends: Sequence[int], interval: int, end: int
) -> tuple[list[Frame], list[int]]:
    """Return the frames that show at each multiple of an interval, and at last that before ``end``; milliseconds.

    :return: the frames and their durations
    """
    times = np.arange(0, end, interval)
    shown = np.searchsorted(ends, times, side="right")
    if len(shown) > 1:
        shown[-1] = np.searchsorted(ends, end)
    groups = [(index, len([*group])) for index, group in itertools.groupby(shown.tolist())]
    return [frames[index] for index, _ in groups], [interval * count for _, count in groups]
