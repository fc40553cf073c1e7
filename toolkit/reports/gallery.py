"""A gallery: the results of configs as data, and a page that shows them with videos of their agents."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from toolkit.reports.captions import list_doubts, list_stopped_runs
from toolkit.reports.collect import RunCollection, VariantRuns, collect_runs, is_experiment
from toolkit.reports.compare import select_median_run
from toolkit.reports.gallery_entry import GalleryEntry, make_entry, read_entries, serialize_entry
from toolkit.reports.gallery_page import format_page
from toolkit.reports.run_record import RunRecord
from toolkit.reports.thumbnails import write_thumbnail
from toolkit.reports.videos import explain_failure, film_episode, open_recorded_run
from toolkit.utils.errors import RunError
from toolkit.utils.files import atomic_file, write_text

_PAGE = "gallery.md"
_log = logging.getLogger("toolkit")


def write_gallery(
    directories: Sequence[Path], gallery: Path, page: Path | None = None, trust: bool = False
) -> tuple[list[GalleryEntry], Path]:
    """Write the entry of each variant, ``<name>.json`` and ``<name>.gif``, and the page of all entries.

    Entries of other configs stay. A variant whose runs have not all ended gets none.

    :param directories: run and experiment directories; without any, only the page is written
    :param gallery: directory of the entries, created if needed
    :param page: Markdown file, by default ``gallery.md`` in the gallery
    :param trust: allow code in files that the runs name, for videos, from now on
    :return: the new entries, and the page
    :raises RunError: if a directory is neither a run nor an experiment, a file in it is damaged, no variant is
        complete, two variants have one name, or something cannot be written
    :raises ConfigError: if the config of a run is not valid
    """
    page = page or gallery / _PAGE
    if page.is_dir():
        raise RunError(f"{page}: is a directory", f"name a file for the page, such as {page / _PAGE}")
    entries = read_entries(gallery)
    variants = _collect_complete_variants(directories) if directories else {}
    if not entries and not variants:
        raise RunError(f"{gallery}: has no entry yet", "name the directory of a run or of an experiment")
    for directory in (gallery, page.parent):
        _create_directory(directory)
    new_entries = {name: _write_entry(name, variant, gallery, trust) for name, variant in variants.items()}
    write_text(page, format_page([*(entries | new_entries).values()], gallery, page))
    return [*new_entries.values()], page


def _create_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{directory}: cannot be created: {error.strerror}", "choose another directory") from error


def _collect_complete_variants(directories: Sequence[Path]) -> dict[str, VariantRuns]:
    """Return the variants whose runs have all ended, by the names of their entries, and log the others.

    :raises RunError: if there is none, or two have one name
    """
    collections = [*_collect(directories)]
    for collection in collections:
        for notice in (*list_stopped_runs(collection.runs), *list_doubts(collection)):
            _log.warning("%s", notice)
    named = [pair for collection in collections for pair in _name_complete_variants(collection)]
    if not named:
        raise RunError(
            f"{directories[0]}: no variant is complete", "continue with `toolkit experiment FILE` until all runs end"
        )
    name, count = Counter(name for name, _ in named).most_common(1)[0]
    if count > 1:
        raise RunError(f"{count} variants have the name {name}", "give each a gallery of its own, or rename them")
    return dict(named)


def _collect(directories: Sequence[Path]) -> Iterator[RunCollection]:
    """Collect each experiment by itself, so that names of its variants do not depend on the others."""
    unique = [*{os.path.realpath(directory): directory for directory in directories}.values()]
    experiments = [directory for directory in unique if is_experiment(directory)]
    yield from (collect_runs([directory]) for directory in experiments)
    if other_runs := [directory for directory in unique if directory not in experiments]:
        yield collect_runs(other_runs)


def _name_complete_variants(collection: RunCollection) -> Iterator[tuple[str, VariantRuns]]:
    """Yield the variants whose runs have all ended with the names of their entries, and log the others.

    The name of a variant on several environments has the environment, too. Names are those of files.
    """
    counts = Counter(variant.name for variant in collection.variants)
    for variant in collection.variants:
        if collection.n_not_started or len(variant.ended_runs) < len(variant.runs):
            _log.warning("%s gets no entry: its runs have not all ended", variant.name)
            continue
        name = f"{variant.name}-{variant.environment}" if counts[variant.name] > 1 else variant.name
        yield re.sub(r"[^\w.+=,-]+", "-", name).strip("-.") or "variant", variant


def _write_entry(name: str, variant: VariantRuns, gallery: Path, trust: bool) -> GalleryEntry:
    """Write the files of an entry, and replace those of an earlier one."""
    gif = gallery / f"{name}.gif"
    run = select_median_run(variant, any(run.greedy_return is not None for run in variant.runs))
    gif_seed = run.seed if run and _film(run, gif, trust) else None
    if gif_seed is None:
        gif.unlink(missing_ok=True)
    entry = make_entry(name, variant, gif_seed)
    write_text(gallery / f"{name}.json", serialize_entry(entry))
    return entry


def _film(record: RunRecord, gif: Path, trust: bool) -> bool:
    """Write a small GIF of a run's agent; log a warning and return False if it cannot be filmed."""
    try:
        with TemporaryDirectory() as directory:
            clip = film_episode(open_recorded_run(record, trust), directory, "gif")
            with atomic_file(gif) as path:
                write_thumbnail(clip.files[0], path)
            for doubt in clip.doubts:
                _log.warning("%s %s", gif, doubt)
    except Exception as error:  # the environment can raise anything
        _log.warning("no video of %s: %s", record.directory, explain_failure(error))
        return False
    return True
