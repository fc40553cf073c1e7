"""Write a report of runs and experiments, or the page of a run: HTML, Markdown, CSV and figures."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from toolkit.experiments.status import EVALUATION_FILE, serialize_evaluation
from toolkit.reports.collect import collect_runs, is_experiment
from toolkit.reports.contents import Report, build_report
from toolkit.reports.gallery import write_gallery
from toolkit.reports.html import to_html
from toolkit.reports.markdown import to_csv, to_markdown, to_run_markdown
from toolkit.reports.run_contents import RunReport, build_run_report, is_run
from toolkit.reports.run_videos import make_run_clips
from toolkit.reports.videos import make_clips, open_recorded_run
from toolkit.utils.errors import RunError, describe_error, make_printable
from toolkit.utils.files import atomic_file

_EVALUATION_EPISODES = 100
_log = logging.getLogger("toolkit")


def report(
    directories: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    evaluate: bool = False,
    trust: bool = False,
    gallery: str | Path | None = None,
) -> Path:
    """Write a report of runs and experiments: ``report.html``, ``report.md``, ``report.csv`` and ``figures``.

    One run has a page of its own: learning curve, value estimates, logged numbers, actions and videos. It has no
    ``report.csv``.

    In an experiment, each directory of runs is a variant. Other runs are one variant if their configs are equal except
    for the seed.

    With ``gallery`` it writes other files: the results and a GIF of each variant, and a page that shows all variants
    that are in the gallery.

    :param directories: one directory of a run or of an experiment, or several
    :param out: directory of the report, created if needed. By default ``report`` in the experiment, or in the current
        directory if ``directories`` is not one experiment. With ``gallery``, the page: by default ``gallery.md`` in it
    :param evaluate: play 100 greedy episodes of each run that has ended without ``evaluation.json``
    :param trust: allow code in files that the runs name, for evaluations and videos, from now on
    :param gallery: directory of the gallery, created if needed; without directories, only its page is written
    :return: path of the page
    :raises RunError: if a directory is neither a run nor an experiment, a file in it is damaged, no run has ended, or
        ``out`` cannot be written
    :raises ConfigError: if the config of a run is not valid
    :raises ValueError: if ``directories`` is empty and there is no ``gallery``
    """
    if not directories and gallery is None:
        raise ValueError("a report needs at least one run")
    paths = [Path(directories)] if isinstance(directories, str | Path) else [*map(Path, directories)]
    if gallery is not None:
        if evaluate:
            evaluate_missing(paths, trust)
        return write_gallery(paths, Path(gallery), None if out is None else Path(out), trust)[1]
    report_directory = resolve_report_directory(paths, out)
    if evaluate:
        evaluate_missing(paths, trust)
    if is_single_run(paths):
        return write_run_report(build_run_report(paths[0]), report_directory)
    return write_report(build_report(paths), report_directory, trust)


def is_single_run(directories: Sequence[Path]) -> bool:
    """Return whether directories are one run, which has a page of its own."""
    return len(directories) == 1 and is_run(directories[0])


def resolve_report_directory(directories: Sequence[Path], out: str | Path | None) -> Path:
    """Return the directory of a report.

    :raises RunError: if it cannot be written
    """
    if out is not None:
        directory = Path(out)
    elif is_single_run(directories) or (len(directories) == 1 and is_experiment(directories[0])):
        directory = directories[0] / "report"
    else:
        directory = Path("report")
    with _explain_write_errors(directory):
        parent = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        problem = "is not a directory" if not parent.is_dir() else "is not writable"
        raise RunError(f"{directory}: cannot be written: {parent} {problem}", "choose another directory with --out")
    return directory


def evaluate_missing(directories: Sequence[Path], trust: bool = False) -> None:
    """Play 100 greedy episodes of each run that has ended without ``evaluation.json``, and write that file.

    If a run cannot be played, log a warning that says why.

    :raises RunError: if a run directory cannot be written
    """
    from toolkit.evaluation.evaluate import evaluate

    records = [
        record for record in collect_runs(directories).runs if record.has_ended and record.greedy_return is None
    ]
    for number, record in enumerate(records, start=1):
        _log.info(
            "%d of %d: %s plays %d greedy episodes", number, len(records), record.directory, _EVALUATION_EPISODES
        )
        try:
            run = open_recorded_run(record, trust)
            text = serialize_evaluation(evaluate(run, _EVALUATION_EPISODES))
        except Exception as error:  # the environment can raise anything
            _log.warning("%s cannot be evaluated: %s", make_printable(str(record.directory)), describe_error(error))
            continue
        with _explain_write_errors(run.directory):
            run.write(EVALUATION_FILE, text)


def write_report(contents: Report, directory: Path, trust: bool = False) -> Path:
    """Write the files of a report, each atomically; replace those of an earlier report.

    :return: path of the page
    :raises RunError: if a file cannot be written
    """
    has_several_environments = len(contents.sections) > 1
    clips = [
        clip
        for section in contents.sections
        for clip in make_clips(section.comparison, has_several_environments, trust)
    ]
    html = to_html(contents, clips)  # before anything is written
    files = {file: figure.svg for section in contents.sections for file, figure in section.figures.items()}
    files |= {"report.csv": to_csv(contents), "report.md": to_markdown(contents), "report.html": html}
    return _write_files(directory, files)


def write_run_report(contents: RunReport, directory: Path) -> Path:
    """Write the page of a run: ``report.html``, ``report.md`` and ``figures``, each atomically.

    No code of the run is executed.

    :return: path of the page
    :raises RunError: if a file cannot be written
    """
    clips, note = make_run_clips(contents.run)
    html = to_html(contents, clips, note)  # before anything is written
    files = {file: figure.svg for section in contents.sections for file, figure in section.figures.items()}
    return _write_files(directory, files | {"report.md": to_run_markdown(contents), "report.html": html})


def _write_files(directory: Path, files: Mapping[str, str]) -> Path:
    with _explain_write_errors(directory):
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with atomic_file(directory / name) as path:
                path.write_text(text, encoding="utf-8", newline="")
    return directory / "report.html"


@contextmanager
def _explain_write_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "free some space, or choose another directory with --out"
        raise RunError(f"{error.filename or directory}: cannot be written: {error.strerror}", hint) from error
