"""Run a search: launch the workers of a study, watch its trials, and write the results. It can be continued."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.config import yaml_document
from toolkit.experiments.launcher import Job, Launcher, list_slow_imports
from toolkit.experiments.runner import dry_run_variants
from toolkit.tuning.config import TuningPlan, load_tuning
from toolkit.tuning.results import TRIALS_FILE, find_best_trial, write_results
from toolkit.tuning.search_space import find_space_warnings
from toolkit.tuning.storage import hide_password, quiet_optuna, storage_errors
from toolkit.tuning.study import Trial, has_trials_left, open_study, read_trials
from toolkit.tuning.worker import run_worker
from toolkit.utils.errors import RunError, StorageError, TuningError
from toolkit.utils.files import claim_directory, convert_read_errors, read_text, write_text
from toolkit.utils.log import log_problems
from toolkit.utils.signals import InterruptedTraining, SignalGuard

if TYPE_CHECKING:
    import optuna

DEFAULT_ROOT = Path("tunings")
_POLL_INTERVAL = 1.0  # seconds
_PLAN_FILE = "tuning.yaml"
_OTHER_DIRECTORY = "choose another directory with --out"

TrialsCallback = Callable[[TuningPlan, Sequence[Trial]], None]


@dataclass(frozen=True)
class TuningResult:
    """A search that has ended or was stopped.

    :param trials: all trials by number
    :param best: the best finished trial; ``None`` if none has finished
    :param stopped_by: number of the signal that ended the search early; ``None`` if none did
    """

    directory: Path
    plan: TuningPlan
    trials: Sequence[Trial]
    best: Trial | None
    stopped_by: int | None


def tune(
    file: Path, overrides: Sequence[str] = (), out: Path | None = None, on_trials: TrialsCallback | None = None
) -> TuningResult:
    """Run the search of a tuning file, and write its results to the directory of the search.

    A second call continues the study until it has as many trials as the file wants. Ctrl-C and SIGTERM stop the
    search. The trials that are running then run again when it continues.

    :param overrides: ``dotted.path=YAML value``, as after ``--set``
    :param out: directory of the search, by default ``tunings/<name>``
    :param on_trials: called with all trials at the beginning, every second from another thread, and at the end
    :raises ConfigError: if the file is invalid, or its base cannot be built
    :raises StorageError: if the database cannot be used, or holds another search
    :raises RunError: if the directory holds another search, or another process uses it
    :raises TuningError: if a worker fails, or no trial has finished
    """
    plan = load_tuning(file, overrides)
    directory = out or DEFAULT_ROOT / plan.config.name
    url = plan.config.storage or f"sqlite:///{directory.absolute() / 'study.db'}"
    _check_directory(directory, plan)
    missing_hint = _make_missing_hint(directory)
    launcher: Launcher = plan.launcher.build()
    dry_run_variants(plan.trainings, plan.problems, launcher.is_local)
    log_problems(plan.launcher.make_error([*find_space_warnings(plan.space, plan.variants)]))
    launcher.slow_imports = list_slow_imports(variant.config.algorithm.name for variant in plan.variants)
    launcher.prepare()
    with quiet_optuna():
        if plan.config.storage:
            with open_study(url, plan, missing_hint):
                pass  # raise its errors before the directory exists
        with claim_directory(directory, "searches in it"):
            if not (directory / _PLAN_FILE).exists():
                _write_plan(directory, plan)  # before the database, which alone does not identify the search
            with open_study(url, plan, missing_hint) as study:
                _write_plan(directory, plan)
                jobs = _make_jobs(directory, plan, url)
                errors, stopped_by = _run_workers(launcher, jobs, study, plan, on_trials)
                _remove_empty_directories(directory / "workers")
                trials = read_trials(study, plan)
                write_results(directory, file, plan, trials, study)
                is_incomplete = has_trials_left(study, plan)
    if not stopped_by:
        _raise_failures(directory, trials, errors if is_incomplete else [])
    return TuningResult(directory, plan, trials, find_best_trial(trials, plan), stopped_by)


def _raise_failures(directory: Path, trials: Sequence[Trial], errors: Sequence[str]) -> None:
    """Raise the errors of workers that keep the search from its end, or that no trial has finished."""
    if errors:
        raise TuningError(f"workers failed: {'; '.join(errors)}", "run the same command again to continue")
    if all(trial.state != "finished" for trial in trials):
        failures = [trial.failure for trial in trials if trial.failure]
        raise TuningError(f"{directory}: no trial has finished" + (f": {failures[-1]}" if failures else ""))


def _check_directory(directory: Path, plan: TuningPlan) -> None:
    """Check that a directory is new, empty, or of this search.

    :raises RunError: if it is none of these
    """
    path = directory / _PLAN_FILE
    with convert_read_errors(directory, _OTHER_DIRECTORY):
        if not directory.exists():
            return
        if not directory.is_dir():
            raise RunError(f"{directory}: is not a directory", _OTHER_DIRECTORY)
        if not path.is_file():
            if any(directory.iterdir()):
                raise RunError(f"{directory}: is not empty, and has no {_PLAN_FILE}", _OTHER_DIRECTORY)
            return
    try:
        old_plan: Any = yaml_document.parse(read_text(path), str(path)).data or {}
        old_values = {key: old_plan.get(key) for key in ("name", "storage")}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read: {error}", _OTHER_DIRECTORY) from error
    for key, old_value in old_values.items():
        value = _dump_plan(plan).get(key)
        if value != old_value:
            message = f"{directory}: belongs to another search: {key} was {old_value!r} and is now {value!r}"
            raise RunError(message, _OTHER_DIRECTORY)


def _make_missing_hint(directory: Path) -> str | None:
    """Return what to do if the study does not exist, although the directory has results of its trials."""
    table = directory / TRIALS_FILE
    with convert_read_errors(table, _OTHER_DIRECTORY), suppress(FileNotFoundError):
        if len(table.read_bytes().splitlines()) >= 2:
            return f"restore the database of the trials in {table}, or {_OTHER_DIRECTORY}"
    return None


def _dump_plan(plan: TuningPlan) -> dict[str, Any]:
    """Return the content of the directory's ``tuning.yaml``: the file with its defaults, without a password."""
    data = plan.config.dump() | {"base": "base.yaml"}
    if plan.config.storage:
        data["storage"] = hide_password(plan.config.storage)
    data["search"] = {
        path: {key: value for key, value in domain.items() if value is not None and value is not False}
        for path, domain in data["search"].items()
    }
    return data


def _write_plan(directory: Path, plan: TuningPlan) -> None:
    write_text(directory / _PLAN_FILE, yaml_document.dump(_dump_plan(plan)))
    write_text(directory / "base.yaml", plan.base.to_yaml())


def _make_jobs(directory: Path, plan: TuningPlan, url: str) -> list[Job]:
    arguments = {
        "tuning": plan.config.dump(),
        "base": plan.base.to_document().data,
        "storage": url,
    }
    return [
        Job(f"worker {number}", directory / "workers" / str(number), run_worker, arguments | {"worker": number})
        for number in range(plan.config.workers)
    ]


def _run_workers(
    launcher: Launcher, jobs: Sequence[Job], study: optuna.Study, plan: TuningPlan, on_trials: TrialsCallback | None
) -> tuple[list[str], int | None]:
    """Run the workers until the study is complete.

    :return: the errors of workers, and the number of the signal that stopped them; ``None`` if none did
    """
    errors: list[str] = []
    if not has_trials_left(study, plan):
        return errors, None
    try:
        with (
            SignalGuard(defer_first=False).installed(),
            _watch_trials(study, plan, on_trials),
            closing(launcher.launch(jobs)) as launched,
        ):
            errors += [f"{ended.job.name}: {ended.error}" for ended in launched if ended.error]
    except (KeyboardInterrupt, InterruptedTraining) as error:
        return errors, getattr(error, "signal", signal.SIGINT)
    return errors, None


def _remove_empty_directories(directory: Path) -> None:
    for path in (*directory.glob("*"), directory):
        with suppress(OSError):  # a file, or not empty
            path.rmdir()


@contextmanager
def _watch_trials(study: optuna.Study, plan: TuningPlan, on_trials: TrialsCallback | None) -> Iterator[None]:
    """Call ``on_trials`` every second, from another thread, since the main thread waits for the workers."""
    if on_trials is None:
        yield
        return
    has_ended = threading.Event()

    def poll() -> None:
        is_last = False
        with suppress(StorageError, OSError), storage_errors(""):  # the workers report them, too
            while not is_last:
                is_last = has_ended.wait(_POLL_INTERVAL)
                on_trials(plan, read_trials(study, plan))

    on_trials(plan, read_trials(study, plan))
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()
