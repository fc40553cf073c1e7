"""The videos of a report: one for each variant, of its median run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from toolkit.config.load import trust_code
from toolkit.evaluation.html_media import find_newest_video, make_video_element
from toolkit.reports.compare import Comparison, VariantSummary, get_score, select_median_run
from toolkit.reports.run_record import RunRecord
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import RunError, ToolkitError, describe_error
from toolkit.utils.text import format_number

if TYPE_CHECKING:
    from toolkit.evaluation.clip_recorder import Clip
    from toolkit.evaluation.video_files import VideoFormat

_MAX_VIDEO_BYTES = 4 << 20
_MAX_VIDEO_STEPS = 500  # of a video that is recorded for the report
_log = logging.getLogger("toolkit")


@dataclass(frozen=True)
class VideoClip:
    """A video on the page.

    :param element: HTML element of the video; empty if there is no video
    :param caption: what the video shows, or why there is none
    """

    title: str
    element: str
    caption: str


def make_clips(comparison: Comparison, name_environment: bool, trust: bool) -> Iterator[VideoClip]:
    """Yield a clip for each selected variant: the newest video of its median run, or else a new one.

    :param name_environment: whether titles name the environment
    :param trust: whether code in files that the runs name may run
    """
    for summary in comparison.selection:
        title = f"{summary.name} on {comparison.environment}" if name_environment else summary.name
        run = select_median_run(summary.variant, comparison.uses_greedy_returns)
        if run is None:
            yield VideoClip(title, "", "No run of it has ended.")
            continue
        description = _describe_run(run, summary, comparison.uses_greedy_returns)
        try:
            element, source = _make_video(run, trust)
        except Exception as error:  # the environment can raise anything
            yield VideoClip(title, "", f"No video of {description}: {explain_failure(error)}.")
            continue
        yield VideoClip(title, element, f"{description[:1].upper()}{description[1:]}; {source}.")


def _describe_run(run: RunRecord, summary: VariantSummary, uses_greedy_returns: bool) -> str:
    n_scores, score = len(summary.scores), get_score(run, uses_greedy_returns)
    if n_scores < 2 or score is None:
        return f"seed {run.seed}"
    kind = "final greedy return" if uses_greedy_returns else "return at the end of training"
    median = "median" if n_scores % 2 else "median (the upper of two)"
    score_text = format_number(score, 1, ",")
    return f"seed {run.seed}, the {median} of {n_scores} runs by {kind}: {score_text}"


def _make_video(record: RunRecord, trust: bool) -> tuple[str, str]:
    """Return the HTML element of a run's newest video, or of one recorded now, and what the video is."""
    run = open_recorded_run(record, trust)
    if video := find_newest_video(run, _MAX_VIDEO_BYTES, (".mp4",)):
        return make_video_element(video, autoplay=False), f"its newest video, {video.name}"
    with TemporaryDirectory() as directory:
        clip = film_episode(run, directory, "mp4")
        source = "; it ".join([f"one greedy episode, at most {_MAX_VIDEO_STEPS} steps", *clip.doubts])
        return make_video_element(clip.files[0], autoplay=False), source


def film_episode(run: RunDirectory, directory: str, file_format: VideoFormat) -> Clip:
    """Record one greedy episode of a run's agent, at most 500 steps, into a directory.

    :raises RunError: if the run has no model, or it cannot be played
    """
    if not run.model_path.exists():  # checked here because opening a model imports torch
        raise RunError("it has no model.zip")
    from toolkit.evaluation.video import record_clips
    from toolkit.training.model import load_model

    _log.info("recording %s", run.directory)
    (clip,) = record_clips(
        load_model(run),
        run.resolved_config,
        Path(directory),
        "record",
        formats=[file_format],
        max_steps=_MAX_VIDEO_STEPS,
    )
    return clip


def explain_failure(error: Exception) -> str:
    """Return in one line why a run could not be filmed."""
    return error.message.splitlines()[0] if isinstance(error, ToolkitError) else describe_error(error)


def open_recorded_run(record: RunRecord, trust: bool) -> RunDirectory:
    """Open the run directory of a record.

    :param trust: whether code in files that the run names may run from now on
    """
    run = RunDirectory.open(record.directory)
    if trust:
        trust_code(run.config)
    return run
