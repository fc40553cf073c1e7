"""The videos of one run, in the order of training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolkit.evaluation.html_media import MEDIA_TYPES, make_video_element
from toolkit.reports.videos import VideoClip
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import make_printable
from toolkit.utils.text import format_count

_MAX_BYTES = 4 << 20  # of a video; the page contains it
_MAX_VIDEOS = 12
_NAME = re.compile(r"([a-z]+)-step-(\d{1,15})-episode-(\d{1,15})(?:-\d+)?", re.ASCII)
_TRIGGERS = {
    "timesteps": "recorded at this timestep",
    "episodes": "recorded at this episode",
    "success": "recorded when training met its success criterion",
    "end": "recorded when training ended",
}


def make_run_clips(run: RunDirectory) -> tuple[list[VideoClip], str]:
    """Return the clips of a run's videos, those of training first, and what is left out.

    Nothing is recorded. Of more than 12 videos, 12 are spread evenly from the first to the last.
    """
    videos = _list_videos(run)
    small = [video for video in videos if video.stat().st_size <= _MAX_BYTES]
    chosen = _spread(small)
    notes = []
    if len(small) < len(videos):
        notes.append(f"{format_count(len(videos) - len(small), 'video')} of more than 4 MiB")
    if len(chosen) < len(small):
        notes.append(f"{format_count(len(small) - len(chosen), 'video')} between those shown")
    note = f"In {make_printable(str(run.videos))}, and not on this page: {', '.join(notes)}." if notes else ""
    return [_make_clip(video) for video in chosen], note


def _list_videos(run: RunDirectory) -> list[Path]:
    """Return the files of videos, the MP4 of each; links are left out, because they could bring in any file."""
    if run.videos.is_symlink():
        return []
    files = [path for path in run.videos.glob("*") if path.suffix in MEDIA_TYPES and not path.is_symlink()]
    videos = {path.stem: path for path in sorted(files) if path.is_file()}  # .mp4 comes after .gif
    return sorted(videos.values(), key=_rank)


def _rank(video: Path) -> tuple[bool, int, int, str]:
    match = _NAME.fullmatch(video.stem)
    return (False, int(match[2]), 0, video.name) if match else (True, 0, video.stat().st_mtime_ns, video.name)


def _spread(videos: Sequence[Path]) -> list[Path]:
    if len(videos) <= _MAX_VIDEOS:
        return [*videos]
    return [videos[index] for index in np.linspace(0, len(videos) - 1, _MAX_VIDEOS).round().astype(int)]


def _make_clip(video: Path) -> VideoClip:
    element, name = make_video_element(video, autoplay=False), make_printable(video.name)
    if match := _NAME.fullmatch(video.stem):
        title = f"timestep {int(match[2]):,}, episode {int(match[3]):,}"
        trigger = _TRIGGERS.get(match[1], "recorded during training")
        return VideoClip(title, element, f"One greedy episode, {trigger}; {name}.")
    return VideoClip("recorded outside training", element, f"{name}.")
