"""A search, from its file to its best config: workers on one study, stopped and gone on with as often as one likes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.config import yaml_document
from toolkit.experiments.launcher import Job, Launcher
from toolkit.training.trainer import dry_run
from toolkit.tuning.config import Tuning, load_tuning
from toolkit.tuning.results import TABLE, best_of, write_results
from toolkit.tuning.storage import quiet, reached, shown
from toolkit.tuning.study import Trial, is_unfinished, opened_study, trials_of
from toolkit.tuning.worker import work
from toolkit.utils.errors import RunError, StorageError, TuningError
from toolkit.utils.files import claim_directory, convert_read_errors, read_text, write_text
from toolkit.utils.signals import InterruptedTraining, SignalGuard

if TYPE_CHECKING:
    import optuna

DEFAULT_ROOT = Path("tunings")
_SECONDS = 1.0  # between two looks at a study
_OWN_FILE = "tuning.yaml"

Watcher = Callable[[Tuning, Sequence[Trial]], None]


@dataclass(frozen=True)
class Search:
    """A search that has ended, or was stopped.

    :param trials: by number
    :param best: the best that trained to its end; ``None`` if none has
    :param stopped_by: the signal that ended the search early, if one did
    """

    directory: Path
    tuning: Tuning
    trials: Sequence[Trial]
    best: Trial | None
    stopped_by: int | None


def tune(file: Path, overrides: Sequence[str] = (), out: Path | None = None, watch: Watcher | None = None) -> Search:
    """Search as a tuning file says, and write what was found into the search's directory.

    Called again, it goes on with the same study until there are as many trials as the file says. Ctrl-C and SIGTERM
    stop it early; trials that were running are run again then.

    :param overrides: ``dotted.path=YAML value``, as after ``--set``, over the tuning file
    :param out: the directory; by default ``tunings/<name>``, the same each time
    :param watch: called with the trials as they stand, before, about every second, and after, from another thread
    :raises ConfigError: if the file is wrong, or its base cannot be built
    :raises StorageError: if the database cannot be used, or has another search
    :raises RunError: if the directory has another search, or another process searches in it
    :raises TuningError: if workers fail, or no trial was finished
    """
    tuning = load_tuning(file, overrides)
    directory = out or DEFAULT_ROOT / tuning.config.name
    url = tuning.config.storage or f"sqlite:///{directory.absolute() / 'study.db'}"
    _refuse_another(directory, tuning)
    lost = _what_is_lost(directory)
    launcher: Launcher = tuning.launcher.build()
    dry_run(tuning.base)
    launcher.prepare()
    with quiet():
        if tuning.config.storage:
            with opened_study(url, tuning, lost):
                pass  # before there is a directory
        with claim_directory(directory, "searches in it"):
            if not (directory / _OWN_FILE).exists():
                _write_what_is_searched(directory, tuning)  # first: a database alone would be taken for anybody's
            with opened_study(url, tuning, lost) as study:
                _write_what_is_searched(directory, tuning)
                errors, stopped_by = _launch(launcher, study, tuning, _jobs(directory, tuning, url), watch)
                _remove_empty(directory / "workers")
                trials = trials_of(study, tuning)
                write_results(directory, file, tuning, trials, study)
                unfinished = is_unfinished(study, tuning)
    best = best_of(trials, tuning)
    if errors and unfinished and not stopped_by:
        raise TuningError(f"workers failed: {'; '.join(errors)}", "the same command again goes on where they stopped")
    if best is None and not stopped_by:
        failures = [trial.failure for trial in trials if trial.failure]
        raise TuningError(f"{directory}: no trial trained to its end" + (f": {failures[-1]}" if failures else ""))
    return Search(directory, tuning, trials, best, stopped_by)


def _refuse_another(directory: Path, tuning: Tuning) -> None:
    """Refuse a directory that is not of this study, or nothing of the kind."""
    own = directory / _OWN_FILE
    with convert_read_errors(directory, "choose another with --out"):
        if not directory.exists():
            return
        if not directory.is_dir():
            raise RunError(f"{directory}: is not a directory", "choose another with --out")
        if not own.is_file():
            if any(directory.iterdir()):
                raise RunError(f"{directory}: is not empty, and has no {_OWN_FILE}", "choose another with --out")
            return
    try:
        then: Any = yaml_document.parse(read_text(own), str(own)).data or {}
        kept = {key: then.get(key) for key in ("name", "storage")}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{own}: cannot be read: {error}", "choose another directory with --out") from error
    for key, value in kept.items():
        now = _resolved(tuning).get(key)
        if value != now:
            message = f"{directory}: is of another search: {key} was {value!r} and is {now!r}"
            raise RunError(message, "choose another directory with --out")


def _what_is_lost(directory: Path) -> str | None:
    """Say what to do if there is no study, though the directory has trials of one."""
    table = directory / TABLE
    with convert_read_errors(table, "choose another directory with --out"), suppress(FileNotFoundError):
        if len(table.read_bytes().splitlines()) >= 2:
            return f"{table} has its trials: bring the database back, or choose another directory with --out"
    return None


def _resolved(tuning: Tuning) -> dict[str, Any]:
    """Return the tuning file as it is kept in the directory: with its defaults, without a password."""
    data = tuning.config.model_dump(mode="json", exclude={"storage"}) | {"base": "base.yaml"}
    if tuning.config.storage:
        data["storage"] = shown(tuning.config.storage)
    data["search"] = {
        path: {key: value for key, value in entry.items() if value is not None and value is not False}
        for path, entry in data["search"].items()
    }
    return data


def _write_what_is_searched(directory: Path, tuning: Tuning) -> None:
    for name, text in ((_OWN_FILE, yaml_document.dump(_resolved(tuning))), ("base.yaml", tuning.base.to_yaml())):
        write_text(directory / name, text)


def _jobs(directory: Path, tuning: Tuning, url: str) -> list[Job]:
    shared = {
        "tuning": tuning.config.model_dump(mode="json", exclude={"storage"}),
        "base": tuning.base.to_document().data,
        "storage": url,
    }
    return [
        Job(f"worker {number}", directory / "workers" / str(number), work, shared | {"worker": number})
        for number in range(tuning.config.workers)
    ]


def _launch(
    launcher: Launcher, study: optuna.Study, tuning: Tuning, jobs: Sequence[Job], watch: Watcher | None
) -> tuple[list[str], int | None]:
    """Let the workers work; return what went wrong with them, and the signal that stopped them, if one did."""
    errors: list[str] = []
    if not is_unfinished(study, tuning):
        return errors, None
    try:
        with (
            SignalGuard(defer_first=False).installed(),
            _watched(study, tuning, watch),
            closing(launcher.launch(jobs)) as launched,
        ):
            errors += [f"{ended.job.name}: {ended.error}" for ended in launched if ended.error]
    except (KeyboardInterrupt, InterruptedTraining) as error:
        return errors, getattr(error, "signal", signal.SIGINT)
    return errors, None


def _remove_empty(directory: Path) -> None:
    for path in (*directory.glob("*"), directory):
        with suppress(OSError):
            path.rmdir()  # which fails for a file, too


@contextmanager
def _watched(study: optuna.Study, tuning: Tuning, watch: Watcher | None) -> Iterator[None]:
    """Show the trials as they stand, from a thread of its own: what launches has to wait."""
    if watch is None:
        yield
        return
    ended = threading.Event()

    def look() -> None:
        last = False
        with suppress(StorageError, OSError), reached(""):  # the workers say so as well
            while not last:
                last = ended.wait(_SECONDS)
                watch(tuning, trials_of(study, tuning))

    watch(tuning, trials_of(study, tuning))
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
