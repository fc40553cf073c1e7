"""Frames that an environment draws, converted to RGB with 8 bits per channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.utils.errors import RecordingError

Frame = NDArray[np.uint8]
"""RGB levels of shape (height, width, 3)."""
RawFrame = NDArray[Any]
"""A :data:`Frame`, or one of float32 whose scale is not known yet."""

_TOLERANCE = 1e-3  # of floats beyond 0 and 1, as interpolation gives them
_HINT = "let render(), or a wrapper, return an array of shape (height, width, 3) and dtype uint8"


def convert_frame(drawn: Any) -> RawFrame:
    """Return a copy of a frame as RGB, whatever its channels and dtype.

    Grey levels become RGB, and an alpha channel is left out. False is 0, and True is 255. Integers are levels from 0
    to 255. Floats stay: only all frames of a video show whether they end at 1 or at 255 (see :func:`scale_frames`).

    :param drawn: what ``render()`` returns, of shape (height, width) or (height, width, 1, 3 or 4)
    :return: shape (height, width, 3), dtype uint8 or float32
    :raises RecordingError: if it is no such array, or has values that are no colours
    """
    if not isinstance(drawn, np.ndarray):
        raise RecordingError(f"the environment's render() returns {type(drawn).__name__}, not an array", _HINT)
    pixels = drawn[..., np.newaxis] if drawn.ndim == 2 else drawn
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise _refuse(drawn, "that is no picture")
    levels = _read_levels(drawn, pixels[..., :3])
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


def _read_levels(drawn: NDArray[Any], pixels: NDArray[Any]) -> RawFrame:
    """Return a copy of colours as uint8, or as float32."""
    kind = pixels.dtype.kind
    if kind == "b":
        return 255 * pixels.astype(np.uint8)
    if kind not in "iuf":
        raise _refuse(drawn, "that is no number")
    low, high = pixels.min(), pixels.max()
    if not (low >= -_TOLERANCE and high <= 255 + _TOLERANCE):  # false for nan, too
        raise _refuse(drawn, f"its values reach from {low:g} to {high:g}")
    return pixels.astype(np.float32 if kind == "f" else np.uint8)


def _refuse(drawn: NDArray[Any], reason: str) -> RecordingError:
    message = f"the environment's render() returns an array of shape {drawn.shape} and dtype {drawn.dtype}: {reason}"
    return RecordingError(message, _HINT)


def scale_frames(frames: Sequence[RawFrame]) -> list[Frame]:
    """Return the frames of a video as levels from 0 to 255.

    Floats that stay below 1 in all frames are shares of 255. Otherwise they are levels.

    :param frames: from :func:`convert_frame`
    """
    floats = [frame for frame in frames if frame.dtype.kind == "f"]
    scale = 255.0 if all(frame.max() <= 1 + _TOLERANCE for frame in floats) else 1.0
    return [
        np.rint(np.clip(scale * frame, 0, 255)).astype(np.uint8) if frame.dtype.kind == "f" else frame
        for frame in frames
    ]


def find_single_color(frames: Iterable[Frame]) -> tuple[int, ...] | None:
    """Return the only colour of all frames; None if some pixels differ by more than one level."""
    color: NDArray[np.int16] | None = None
    for frame in frames:
        levels = frame.astype(np.int16)
        color = levels[0, 0] if color is None else color
        if (np.abs(levels - color) > 1).any():
            return None
    return None if color is None else tuple(color.tolist())
