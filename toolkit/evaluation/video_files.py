"""MP4 and GIF files of frames, which play in real time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.evaluation.frames import Frame

VideoFormat = Literal["mp4", "gif"]
# the conversion that ffmpeg makes from RGB; without a name, players take another one for pictures of 720 rows or more
_COLORS = ("-colorspace", "smpte170m", "-color_range", "tv")
_Area = tuple[slice, slice]  # rows and columns
_N_CODES = 1 << 24  # of colours
_N_CELLS = 1 << 15  # of similar colours: 8 levels of each channel
_SAMPLE_SIZE = 1 << 16  # pixels
_MIN_DURATION = 20  # milliseconds of a frame in a GIF: browsers slow down shorter ones
_MAX_DURATION = 655_350  # 2**16 - 1 hundredths of a second


def write_mp4(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write H.264 that every browser plays. Frames get an even height and width, which this needs."""
    from imageio_ffmpeg import write_frames

    height, width = (size + size % 2 for size in frames[0].shape[:2])
    margin = ((0, height - frames[0].shape[0]), (0, width - frames[0].shape[1]), (0, 0))
    writer = write_frames(
        str(path), (width, height), fps=fps, codec=_find_codec(), macro_block_size=1, output_params=[*_COLORS]
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(np.pad(frame, margin, mode="edge") if np.any(margin) else frame))
    finally:
        writer.close()


def _find_codec() -> str | None:
    """Return the codec of imageio-ffmpeg's own ffmpeg; None for another ffmpeg, whose codecs have to be tried."""
    import imageio_ffmpeg

    folder = Path(imageio_ffmpeg.__file__).parent
    return "libx264" if Path(imageio_ffmpeg.get_ffmpeg_exe()).is_relative_to(folder) else None


def write_gif_at_rate(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write a GIF that plays in real time, except for pictures of more than 655 seconds.

    GIF counts time in hundredths of a second, and browsers slow down frames shorter than two. So frames above 50 per
    second are dropped. The last frame stays.
    """
    every = math.ceil(fps / 50)
    visible_frames = [*frames[::every]]
    visible_frames[-1] = frames[-1]
    ends = [round(100 * min(number * every, len(frames)) / fps) for number in range(len(visible_frames) + 1)]
    write_gif(path, visible_frames, [10 * (end - start) for start, end in itertools.pairwise(ends)])


def write_gif(path: Path, frames: Sequence[Frame], durations: Sequence[int], n_colors: int = 255) -> None:
    """Write frames of equal size as a GIF that repeats. Equal frames in a row become one.

    All frames share a palette, which avoids flicker. If all of them together have no more colours than it, the GIF
    has exactly these. Dithering would make the file larger. Pixels that a frame does not change are transparent in it:
    the file is smaller.

    :param durations: milliseconds of each frame; a picture stays for at least 20, and at most 655,350
    :param n_colors: largest number of colours, 8 to 255
    """
    from PIL.GifImagePlugin import getdata, getheader

    colors = _find_colors(frames, n_colors)
    if colors is None:
        palette = _make_palette(*_count_colors(frames), n_colors)
        indexed = _select_colors(frames, palette)
    else:
        palette = _decode_colors(colors)
        indexed = _index_colors(frames, colors)
    unused = next(code for code in range(_N_CODES) if code not in _encode_colors(palette))
    palette = np.concatenate([palette, _decode_colors(np.array([unused]))])  # its last colour means: as before
    changes: list[tuple[Any, tuple[int, int]]] = []
    shown: list[int] = []  # milliseconds of each change
    for change, duration in zip(_draw_changes(indexed, palette), durations, strict=True):
        if change is None:
            shown[-1] += duration
        else:
            changes.append(change)
            shown.append(duration)
    with path.open("wb") as file:
        # Image.save would compare all pictures and palettes again
        file.writelines(getheader(changes[0][0], info={"loop": 0})[0])
        for (image, offset), duration in zip(changes, shown, strict=True):
            shown_for = min(max(duration, _MIN_DURATION), _MAX_DURATION)
            file.writelines(getdata(image, offset, duration=shown_for, transparency=len(palette) - 1, disposal=1))
        file.write(b";")


def _encode_colors(frame: Frame) -> NDArray[np.int32]:
    """Return each colour as one number below 2**24."""
    red, green, blue = (frame[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _decode_colors(codes: NDArray[Any]) -> Frame:
    """Return colours of shape (n, 3)."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8)


def _find_colors(frames: Sequence[Frame], limit: int) -> NDArray[Any] | None:
    """Return the codes of all colours in the frames; None if there are more than a limit."""
    is_used = np.zeros(_N_CODES, dtype=np.bool_)
    used: list[int] = []
    for frame, area in _find_changed_areas(frames):
        codes = _encode_colors(frame[area])
        new = np.unique(codes[~is_used[codes]])
        is_used[new] = True
        used += new.tolist()
        if len(used) > limit:
            return None
    return np.array(sorted(used))


def _index_colors(frames: Sequence[Frame], codes: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """Yield frames (height, width) of indices of their colours."""
    indices = np.zeros(_N_CODES, dtype=np.uint8)
    indices[codes] = np.arange(len(codes))
    indexed = np.zeros(frames[0].shape[:2], np.uint8)
    for frame, area in _find_changed_areas(frames):
        indexed[area] = indices[_encode_colors(frame[area])]
        yield indexed


def _find_changed_areas(frames: Sequence[Frame]) -> Iterator[tuple[Frame, _Area]]:
    """Yield each frame and the rectangle around its pixels that are not those of the frame before."""
    previous: Frame | None = None
    for frame in frames:
        if previous is None:
            yield frame, (slice(None), slice(None))
        else:
            is_changed = (frame != previous).reshape(len(frame), -1)
            rows = _find_span(is_changed.any(axis=1))
            levels = _find_span(is_changed[rows].any(axis=0))
            yield frame, (rows, slice(levels.start // 3, -(-levels.stop // 3)))
        previous = frame


def _find_span(is_changed: NDArray[np.bool_]) -> slice:
    """Return the slice from the first to the last true value, empty without one."""
    indices = np.flatnonzero(is_changed)
    return slice(indices[0], indices[-1] + 1) if len(indices) else slice(0, 0)


def _draw_changes(
    indexed_frames: Iterator[NDArray[np.uint8]], palette: Frame
) -> Iterator[tuple[Any, tuple[int, int]] | None]:
    """Yield an image of the rectangle that a frame changes, and its left and upper end.

    Pixels in it that the frame before has already are of the palette's last colour. None stands for a frame that
    equals the one before.
    """
    from PIL import Image

    previous: NDArray[np.uint8] | None = None
    for indices in indexed_frames:
        is_new: Any = np.ones_like(indices, np.bool_) if previous is None else indices != previous
        rows, columns = _find_span(is_new.any(axis=1)), _find_span(is_new.any(axis=0))
        if not is_new.any():
            yield None
            continue
        pixels = np.where(is_new[rows, columns], indices[rows, columns], np.uint8(len(palette) - 1))
        image = Image.fromarray(pixels)
        image.putpalette(palette.tobytes())
        yield image, (int(columns.start), int(rows.start))
        previous = indices.copy()


def _select_colors(frames: Sequence[Frame], palette: Frame) -> Iterator[NDArray[np.uint8]]:
    """Yield frames (height, width) of indices of the colours that are nearest to theirs."""
    from PIL import Image

    image = Image.new("P", (1, 1))
    image.putpalette(palette.tobytes())
    for frame in frames:
        yield np.asarray(Image.fromarray(frame).quantize(palette=image, dither=Image.Dither.NONE))


def _count_colors(frames: Sequence[Frame]) -> tuple[Frame, NDArray[np.float64]]:
    """Return a colour for each group of similar ones, of shape (n, 3), and its largest share of a frame.

    So a colour that fills one frame counts as much as one that fills all of them.
    """
    shares, codes = np.zeros(_N_CELLS), np.zeros(_N_CELLS, dtype=np.int32)
    for frame in frames:
        frame_codes = _encode_colors(frame).ravel()
        cells = frame_codes >> 19 << 10 | (frame_codes >> 11 & 31) << 5 | frame_codes >> 3 & 31
        frame_shares = np.bincount(cells, minlength=_N_CELLS) / cells.size
        is_larger = (frame_shares > shares)[cells]
        codes[cells[is_larger]] = frame_codes[is_larger]
        np.maximum(shares, frame_shares, out=shares)
    used_cells = np.flatnonzero(shares)
    return _decode_colors(codes[used_cells]), shares[used_cells]


def _make_palette(colors: Frame, shares: NDArray[np.float64], n_colors: int) -> Frame:
    """Return a palette of shape (n_colors, 3): most entries for frequent colours, the others for those far from them.

    Otherwise a small object of its own colour would get that of its background.
    """
    from PIL import Image

    repeats = np.ceil(_SAMPLE_SIZE * shares / shares.sum()).astype(np.int64)
    sample = Image.fromarray(np.repeat(colors, repeats, axis=0)[np.newaxis])
    n_frequent = n_colors - n_colors // 8
    quantized = sample.quantize(n_frequent, method=Image.Quantize.FASTOCTREE)
    means = np.array(quantized.getpalette(), dtype=np.uint8).reshape(-1, 3)[:n_frequent]
    palette: Frame = colors[_measure_distances(colors, means).argmin(axis=0)]
    distances = _measure_distances(colors, palette).min(axis=1)
    for _ in range(n_colors - len(palette)):
        farthest = colors[[distances.argmax()]]
        palette = np.concatenate([palette, farthest])
        distances = np.minimum(distances, _measure_distances(colors, farthest)[:, 0])
    return palette


def _measure_distances(colors: Frame, others: Frame) -> NDArray[np.float32]:
    """Return the squared distance of each colour to each of the others, of shape (n_colors, n_others)."""
    rows, columns = colors.astype(np.float32), others.astype(np.float32)
    sums: NDArray[np.float32] = (rows**2).sum(axis=1)[:, np.newaxis] + (columns**2).sum(axis=1)
    return sums - 2 * rows @ columns.T
