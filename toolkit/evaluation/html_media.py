"""Pictures and videos inside HTML, so that a page needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Collection
from pathlib import Path

from toolkit.training.run_directory import RunDirectory

MEDIA_TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}


def find_newest_video(
    run: RunDirectory, max_bytes: int, suffixes: Collection[str] = tuple(MEDIA_TYPES)
) -> Path | None:
    """Return a run's newest video, or ``None`` if it has none.

    Symbolic links are ignored: one could bring any file of the user into a page.

    :param max_bytes: larger videos are ignored
    """
    if run.videos.is_symlink():
        return None
    files = [path for path in run.videos.glob("*") if path.suffix in suffixes and not path.is_symlink()]
    videos = [path for path in files if path.is_file() and path.stat().st_size <= max_bytes]
    return max(videos, key=lambda path: path.stat().st_mtime_ns, default=None)


def make_video_element(video: Path, style: str = "", autoplay: bool = True) -> str:
    """Return an HTML element that contains a video.

    :param video: an MP4 or GIF file
    :param style: CSS of the element
    :param autoplay: whether an MP4 starts by itself
    """
    source = make_data_url(MEDIA_TYPES[video.suffix], video.read_bytes())
    if video.suffix == ".gif":
        return f'<img alt="video" style="{style}" src="{source}">'
    start = "autoplay " if autoplay else ""
    return f'<video controls {start}loop muted playsinline style="{style}" src="{source}"></video>'


def make_data_url(media_type: str, content: bytes) -> str:
    """Return a ``data:`` URL that contains a file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
