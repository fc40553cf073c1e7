"""How a run looks in a notebook."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from pathlib import Path

from toolkit.errors import RunError
from toolkit.presentation import verdict
from toolkit.run import Run

_MEDIA = {".mp4": "video/mp4", ".gif": "image/gif"}
_LARGEST = 1 << 28  # bytes of a video, which the page holds
_STYLE = "max-width:100%;margin:0.5em 0"


def page(run: Run, video: Path | None = None) -> str:
    """Return a run as HTML that needs no other file: how it went, its learning curve, a video.

    :param video: by default the run's newest
    """
    return f"<div>{_verdict(run)}{_curve(run)}{_video(video or _newest_video(run))}</div>"


def _verdict(run: Run) -> str:
    try:
        said = verdict(run)
    except RunError as error:
        said = error.message
    except (KeyError, TypeError):
        said = "result.json is damaged"
    return f"<p><b>{escape(str(run.directory))}</b>: {escape(said)}</p>"


def _curve(run: Run) -> str:
    from toolkit.plotting import learning_curves

    try:
        figure = learning_curves([run])
    except RunError as error:
        return f"<p>no learning curve: {escape(error.message)}</p>"
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=80)
    return f'<img alt="learning curve" style="{_STYLE}" src="{_data("image/png", picture.getvalue())}">'


def _newest_video(run: Run) -> Path | None:
    if run.videos.is_symlink():
        return None
    videos = [path for path in run.videos.glob("*") if path.suffix in _MEDIA and _is_shown(path)]
    return max(videos, key=lambda path: path.stat().st_mtime_ns, default=None)


def _is_shown(path: Path) -> bool:
    """Say whether a file goes into a page; a link could bring any file of this user into it."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST


def _video(video: Path | None) -> str:
    if video is None:
        return "<p>no video yet: <code>run.record()</code> makes one</p>"
    source = _data(_MEDIA[video.suffix], video.read_bytes())
    if video.suffix == ".gif":
        return f'<img alt="video" style="{_STYLE}" src="{source}">'
    return f'<video controls autoplay loop muted style="{_STYLE}" src="{source}"></video>'


def _data(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
