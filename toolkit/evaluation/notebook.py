"""A run as HTML, for notebooks."""

from __future__ import annotations

from html import escape
from io import BytesIO
from pathlib import Path

from toolkit.evaluation.html_media import find_newest_video, make_data_url, make_video_element
from toolkit.evaluation.summary import format_run_result
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import RunError

_MAX_VIDEO_BYTES = 1 << 28  # the page contains the video
_STYLE = "max-width:100%;margin:0.5em 0"


def render_run(run: RunDirectory, video: Path | None = None) -> str:
    """Return HTML with a run's result, learning curve and video. It needs no other file.

    :param video: by default the run's newest
    """
    video = video or find_newest_video(run, _MAX_VIDEO_BYTES)
    return f"<div>{_render_result(run)}{_render_learning_curve(run)}{_render_video(video)}</div>"


def _render_result(run: RunDirectory) -> str:
    diagnosis = ""
    try:
        text = format_run_result(run)
        diagnosis = (run.result or {}).get("diagnosis", "")
    except RunError as error:
        text = error.message
    except (KeyError, TypeError):
        text = "result.json is damaged"
    note = f"<p>{escape(diagnosis)}</p>" if diagnosis else ""
    return f"<p><b>{escape(str(run.directory))}</b>: {escape(text)}</p>{note}"


def _render_learning_curve(run: RunDirectory) -> str:
    from toolkit.evaluation.learning_curves import draw_learning_curves

    try:
        figure = draw_learning_curves([run])
    except RunError as error:
        return f"<p>no learning curve: {escape(error.message)}</p>"
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=80)
    return f'<img alt="learning curve" style="{_STYLE}" src="{make_data_url("image/png", picture.getvalue())}">'


def _render_video(video: Path | None) -> str:
    if video is None:
        return "<p>no video yet: <code>run.record()</code> makes one</p>"
    return make_video_element(video, _STYLE)
