"""Decode videos into frames."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Video:
    """A decoded video; `pixel_format` and `color_matrix` are those that the file names."""

    frames: NDArray[np.uint8]
    seconds: float
    pixel_format: str
    color_matrix: str = ""


def decode(path: Path) -> Video:
    """Decode a whole video."""
    return _decode_gif(path) if path.suffix == ".gif" else _decode_mp4(path)


def _decode_gif(path: Path) -> Video:
    frames, milliseconds = [], 0
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")))
            milliseconds += image.info["duration"]
    return Video(np.stack(frames), milliseconds / 1000, "palette")


def _decode_mp4(path: Path) -> Video:
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run([get_ffmpeg_exe(), "-i", path, *raw], capture_output=True, check=True)
    stream = re.search(r"Video: h264.*?, (yuv\w+)(?:\(tv, (\w+))?.*?, (\d+)x(\d+)", result.stderr.decode())
    duration = re.search(r"Duration: 00:(\d\d):(\d\d\.\d\d)", result.stderr.decode())
    assert stream
    assert duration
    frames = np.frombuffer(result.stdout, np.uint8).reshape(-1, int(stream[4]), int(stream[3]), 3)
    return Video(frames, 60 * int(duration[1]) + float(duration[2]), stream[1], stream[2])
