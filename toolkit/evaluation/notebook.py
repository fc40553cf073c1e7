"""How a run looks in a notebook."""

from __future__ import annotations

from html import escape
from io import BytesIO
from pathlib import Path

from toolkit.evaluation.html_media import find_newest_video, make_data_url, make_video_element
from toolkit.evaluation.summary import format_run_result
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import RunError

_LARGEST = 1 << 28  # bytes of a video, which the page holds
_STYLE = "max-width:100%;margin:0.5em 0"


def render_run(run: RunDirectory, video: Path | None = None) -> str:
    """Return a run as HTML that needs no other file: how it went, its learning curve, a video.

    :param video: by default the run's newest
    """
    return f"<div>{_verdict(run)}{_curve(run)}{_shown(video or find_newest_video(run, _LARGEST))}</div>"


def _verdict(run: RunDirectory) -> str:
    try:
        said = format_run_result(run)
    except RunError as error:
        said = error.message
    except (KeyError, TypeError):
        said = "result.json is damaged"
    return f"<p><b>{escape(str(run.directory))}</b>: {escape(said)}</p>"


def _curve(run: RunDirectory) -> str:
    from toolkit.evaluation.learning_curves import learning_curves

    try:
        figure = learning_curves([run])
    except RunError as error:
        return f"<p>no learning curve: {escape(error.message)}</p>"
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=80)
    return f'<img alt="learning curve" style="{_STYLE}" src="{make_data_url("image/png", picture.getvalue())}">'


def _shown(video: Path | None) -> str:
    if video is None:
        return "<p>no video yet: <code>run.record()</code> makes one</p>"
    return make_video_element(video, _STYLE)
