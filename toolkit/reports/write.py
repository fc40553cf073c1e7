"""Many runs to one report: a page to look at, Markdown, CSV, figures."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from toolkit.config.load import trust_code
from toolkit.evaluation.html_media import find_newest_video, make_video_element
from toolkit.experiments.status import EVALUATION_FILE, format_evaluation
from toolkit.reports.collect import gather, is_experiment
from toolkit.reports.compare import Comparison, Summary, median_run, score_of
from toolkit.reports.contents import Report, read_report
from toolkit.reports.html import Clip, page
from toolkit.reports.markdown import csv_of, markdown
from toolkit.reports.run_record import Outcome
from toolkit.reports.tables import number
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import RunError, ToolkitError, describe, readable
from toolkit.utils.files import atomic_file

_EPISODES = 100  # of an evaluation
_LARGEST_VIDEO = 4 << 20  # bytes
_LONGEST_VIDEO = 500  # steps of one that is made here
_log = logging.getLogger("toolkit")


def report(
    directories: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    evaluate: bool = False,
    trust: bool = False,
) -> Path:
    """Write a report of runs and experiments: ``report.html``, ``report.md``, ``report.csv`` and ``figures``.

    Runs of an experiment are variants by their directories; other runs, by their configs, equal but for the seed.

    :param directories: one, or several
    :param out: directory of the report, made if need be; by default ``report`` in an experiment, or else here
    :param evaluate: whether to play 100 greedy episodes of each run that has ended and lacks ``evaluation.json``
    :param trust: whether code in files that the runs name may run, for that and for videos, from now on
    :return: the page
    :raises RunError: if a directory is neither, a file in it is damaged, no run has ended, or ``out`` cannot be
        written
    :raises ConfigError: if a run's config is none
    :raises ValueError: if there is no directory
    """
    if not directories:
        raise ValueError("a report is of at least one run")
    given = [directories] if isinstance(directories, str | Path) else directories
    places = [Path(directory) for directory in given]
    directory = report_directory(places, out)
    if evaluate:
        evaluate_missing(places, trust)
    return write_report(read_report(places), directory, trust)


def report_directory(directories: Sequence[Path], out: str | Path | None) -> Path:
    """Return where a report goes.

    :raises RunError: if it cannot be written there
    """
    if out is not None:
        directory = Path(out)
    elif len(directories) == 1 and is_experiment(directories[0]):
        directory = directories[0] / "report"
    else:
        directory = Path("report")
    with _writing(directory):
        there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is not a directory" if not there.is_dir() else "must not be written to"
        raise RunError(f"{directory}: cannot be written: {there} {why}", "choose another place with --out")
    return directory


def evaluate_missing(directories: Sequence[Path], trust: bool = False) -> None:
    """Play 100 greedy episodes of each run that has ended and has no ``evaluation.json``, and write it.

    Of a run that cannot be played a warning says why.

    :raises RunError: if one cannot be written to
    """
    from toolkit.evaluation.evaluate import evaluate

    missing = [run for run in gather(directories).runs if run.has_ended and run.greedy_return is None]
    for place, outcome in enumerate(missing, start=1):
        _log.info("%d of %d: %s plays %d greedy episodes", place, len(missing), outcome.directory, _EPISODES)
        try:
            run = _opened(outcome, trust)
            text = format_evaluation(run.directory, evaluate(run, _EPISODES))
        except Exception as error:  # out of its environment as well
            _log.warning("%s is not evaluated: %s", readable(str(outcome.directory)), describe(error))
            continue
        with _writing(run.directory):
            run.write(EVALUATION_FILE, text)


def write_report(contents: Report, directory: Path, trust: bool = False) -> Path:
    """Write a report, each file whole or not at all; those of an earlier one are replaced.

    :return: the page
    :raises RunError: if it cannot be written
    """
    several = len(contents.sections) > 1
    clips = [clip for section in contents.sections for clip in _clips(section.comparison, several, trust)]
    html = page(contents, clips)  # before anything is written
    files = {figure.file: figure.svg for section in contents.sections for figure in section.figures}
    files |= {"report.csv": csv_of(contents), "report.md": markdown(contents), "report.html": html}
    with _writing(directory):
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with atomic_file(directory / name) as path:
                path.write_text(text, encoding="utf-8", newline="")
    return directory / "report.html"


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "make room there, or choose another place with --out"
        raise RunError(f"{error.filename or directory}: cannot be written: {error.strerror}", hint) from error


def _clips(comparison: Comparison, of_several: bool, trust: bool) -> Iterator[Clip]:
    """Give a video of each variant, or say why there is none."""
    for summary in comparison.drawn:
        title = f"{summary.name} on {comparison.task}" if of_several else summary.name
        run = median_run(summary, comparison.greedy)
        if run is None:
            yield Clip(title, "", "No run of it has ended.")
            continue
        which = _which(run, summary, comparison.greedy)
        try:
            element, made = _video(run, trust)
        except Exception as error:  # out of its environment as well
            why = error.message.splitlines()[0] if isinstance(error, ToolkitError) else describe(error)
            yield Clip(title, "", f"No video of {which}: {why}.")
            continue
        yield Clip(title, element, f"{which[:1].upper()}{which[1:]}; {made}.")


def _which(run: Outcome, summary: Summary, greedy: bool) -> str:
    score = score_of(run, greedy)
    if len(summary.scores) < 2 or score is None:
        return f"seed {run.seed}"
    kind = "final greedy return" if greedy else "return at the end of training"
    median = "median" if len(summary.scores) % 2 else "median (the upper of two)"
    return f"seed {run.seed}, of {len(summary.scores)} runs the {median} by {kind}: {number(score, 1)}"


def _video(outcome: Outcome, trust: bool) -> tuple[str, str]:
    """Return a run's newest video as an element, or else one recorded now, and what it is."""
    run = _opened(outcome, trust)
    if video := find_newest_video(run, _LARGEST_VIDEO, (".mp4",)):
        return make_video_element(video, autoplay=False), f"its newest video, {video.name}"
    if not run.model_path.exists():  # known without importing torch
        raise RunError("it has no model.zip")
    from toolkit.evaluation.video import record

    _log.info("recording %s", outcome.directory)
    with TemporaryDirectory() as folder:
        (made,) = record(run, out=folder, max_steps=_LONGEST_VIDEO)
        return make_video_element(made, autoplay=False), f"one greedy episode, at most {_LONGEST_VIDEO} steps"


def _opened(outcome: Outcome, trust: bool) -> RunDirectory:
    run = RunDirectory.open(outcome.directory)
    if trust:
        trust_code(run.config)
    return run
