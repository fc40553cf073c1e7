"""How a run looks in a notebook."""

from __future__ import annotations

import base64
import sys
from html import escape
from io import BytesIO

from toolkit.errors import RunError
from toolkit.presentation import verdict
from toolkit.run import Run

_MEDIA = {".mp4": "video/mp4", ".gif": "image/gif"}
_STYLE = "max-width:100%;margin:0.5em 0"


def in_notebook() -> bool:
    """Say whether this is a Jupyter kernel, where what is displayed can be more than text."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def page(run: Run) -> str:
    """Return a run as HTML that needs no other file: how it went, its learning curve, its newest video."""
    parts = [f"<p><b>{escape(str(run.directory))}</b>: {escape(verdict(run))}</p>", _curve(run), _video(run)]
    return f"<div>{''.join(parts)}</div>"


def _curve(run: Run) -> str:
    from toolkit.plotting import learning_curves

    try:
        figure = learning_curves([run])
    except RunError as error:
        return f"<p>no learning curve: {escape(error.message)}</p>"
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=80)
    return f'<img alt="learning curve" style="{_STYLE}" src="{_data("image/png", picture.getvalue())}">'


def _video(run: Run) -> str:
    videos = sorted(
        (path for path in run.videos.glob("*") if path.suffix in _MEDIA), key=lambda path: path.stat().st_mtime_ns
    )
    if not videos:
        return "<p>no video yet: <code>run.record()</code> makes one</p>"
    source = _data(_MEDIA[videos[-1].suffix], videos[-1].read_bytes())
    if videos[-1].suffix == ".gif":
        return f'<img alt="video" style="{_STYLE}" src="{source}">'
    return f'<video controls autoplay loop muted style="{_STYLE}" src="{source}"></video>'


def _data(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
