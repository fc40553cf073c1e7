"""A config to a finished run."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from toolkit.config.load import ResolvedConfig, remember_trusted_code, resolve_config
from toolkit.config.registry import KINDS, find
from toolkit.config.schema import RunConfig
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.snapshots import training_state
from toolkit.snapshots.callback import RolloutHook, RunCallbackList, StopTraining
from toolkit.snapshots.store import SnapshotStore
from toolkit.training.callbacks import RunCallback, SuccessCriterion, TrainingContext
from toolkit.training.logger import log_interval, run_logger
from toolkit.training.model import build_model, limit_torch_threads, save_model
from toolkit.training.monitor_csv import MonitorCsvWriter
from toolkit.training.results import ENDED
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import Problem, RunError, TrainingError, describe
from toolkit.utils.signals import InterruptedTraining, SignalGuard

_log = logging.getLogger("toolkit")


def train(
    config: RunConfig,
    out: Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    *,
    progress_bar: bool = False,
) -> RunDirectory:
    """Train as a config says, into a new run directory.

    Everything is built before the directory is made, so that bad input leaves nothing behind. Ctrl-C and SIGTERM end
    training early, where the next rollout starts: a snapshot and the model are saved, and the result says
    ``interrupted``. A second one ends it at once.

    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :param callbacks: called after the config's own
    :param progress_bar: whether to show how training goes, if the config does not do so itself
    :raises ConfigError: if something in the config cannot be built, or does not fit together
    :raises TrainingError: if training breaks off; the run directory then says ``failed``
    """
    resolved = resolve_config(config)
    with _prepared(resolved, callbacks, _shown(config, progress_bar)) as session:
        run = RunDirectory.create(resolved, out)
        remember_trusted_code(resolved)
        with run.locked():
            _learn(session, run, SnapshotStore(run.directory, run.config), None)
    return run


def resume(run: RunDirectory, callbacks: Sequence[BaseCallback] = (), *, progress_bar: bool = False) -> RunDirectory:
    """Go on with a run that was stopped or killed, from its newest whole snapshot; without one, from the beginning.

    All files are then what they would be if the run had never been stopped, but for wall-clock times.

    :param callbacks: those that :func:`train` was given, if any
    :param progress_bar: whether to show how training goes, if the config does not do so itself
    :raises RunError: if the run has ended, another process trains in it, or its snapshot is of something else
    :raises ConfigError: if something in its config cannot be built
    :raises TrainingError: if training breaks off; the run directory then says ``failed``
    """
    with run.locked():
        status = (run.result or {}).get("status")
        if status in ENDED:
            raise RunError(f"{run.directory}: has ended ({status}): there is nothing to go on with")
        if run.model_path.exists() and not (run.directory / "monitor.csv").exists():
            raise RunError(f"{run.directory}: holds a model that was not trained here: there is nothing to go on with")
        for difference in run.differences():
            _log.warning("%s: the run may go on differently", difference)
        run.refuse_links()
        with _prepared(run.resolved_config, callbacks, _shown(run.config, progress_bar)) as session:
            run.remove_leftovers()
            snapshots = SnapshotStore(run.directory, run.config)
            kept = snapshots.latest_valid()
            if kept is None:
                _log.warning("%s: has no whole snapshot; it starts from the beginning", run.directory)
                shutil.rmtree(run.directory / "tensorboard", ignore_errors=True)
                (run.directory / "progress.csv").unlink(missing_ok=True)
            else:
                for index in training_state.restore_before_learning(session.model, session.kept_callbacks, kept):
                    _log.warning("environment %d does not repeat its episodes: training goes on differently", index)
            _remove_the_end(run)
            _learn(session, run, snapshots, kept)
    return run


def _remove_the_end(run: RunDirectory) -> None:
    """Delete what an earlier training wrote when it ended."""
    try:
        for name in ("result.json", "traceback.txt"):
            (run.directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{run.directory}: cannot be written to: {error.strerror}") from error


def _shown(config: RunConfig, progress_bar: bool) -> list[BaseCallback]:
    shows = any(callback.name == "progress" for callback in config.callbacks)
    return [find(KINDS["callbacks"], "progress")()] if progress_bar and not shows else []


def dry_run(config: RunConfig) -> None:
    """Build everything that training needs, and take it down again.

    :raises ConfigError: if something in the config cannot be built, or does not fit together
    """
    with _prepared(resolve_config(config), ()):
        pass


@dataclass
class _Session:
    """The live objects of one run."""

    env: EpisodeRecorder
    model: BaseAlgorithm
    bookkeeper: MonitorCsvWriter
    callbacks: list[BaseCallback]
    criterion: SuccessCriterion | None
    shown: list[BaseCallback]

    @property
    def kept_callbacks(self) -> list[BaseCallback]:
        """Those whose state is a part of training's; what only shows it may be there or not."""
        return [callback for callback in self.callbacks if callback not in self.shown]

    def score(self) -> float | None:
        """Return the mean raw return of the last episodes, if any has been completed."""
        return self.env.episodes.mean_return()

    @property
    def run_callbacks(self) -> list[RunCallback]:
        return [callback for callback in self.callbacks if isinstance(callback, RunCallback)]


@contextmanager
def _prepared(
    config: ResolvedConfig, callbacks: Sequence[BaseCallback], shown: Sequence[BaseCallback] = ()
) -> Iterator[_Session]:
    session = _prepare(config, callbacks, [*shown])
    try:
        yield session
    finally:
        closing: list[RunCallback | EpisodeRecorder] = [*reversed(session.run_callbacks), session.env]
        for one in closing:
            try:
                one.close()
            except Exception as error:  # training is over, and the others are to be closed as well
                _log.warning("%s does not close: %s", type(one).__name__, describe(error))


def _prepare(config: ResolvedConfig, callbacks: Sequence[BaseCallback], shown: list[BaseCallback]) -> _Session:
    seed = derived_seed(config.seed, "training")
    env = make_vec_env(config, seed=seed)
    env.hides_monitor = bool(config.env.wrappers)
    try:
        model = build_model(config, env, seed=seed)
        own = [component.build() for component in config.components.callbacks]
        criteria = [callback for callback in own if isinstance(callback, SuccessCriterion)]
        if len(criteria) > 1:
            raise config.make_error([Problem(("callbacks",), "a run has at most one success criterion")])
        bookkeeper = MonitorCsvWriter(env)
        criterion = criteria[0] if criteria else None
        return _Session(env, model, bookkeeper, [bookkeeper, *own, *callbacks, *shown], criterion, shown)
    except BaseException:
        env.close()
        raise


def _learn(session: _Session, run: RunDirectory, snapshots: SnapshotStore, kept: dict[str, Any] | None) -> None:
    """Train, from a snapshot if there is one, and write down how it went."""
    status = "finished"
    failure: BaseException | None = None
    stopped_by: int | None = None
    interrupts = SignalGuard(put_off=training_state.can_resume(session.model))
    with interrupts.installed():
        try:
            boundary = RolloutHook(session.model, session.kept_callbacks, session.score, snapshots, interrupts, kept)
            _train_model(session, run, boundary)
        except (KeyboardInterrupt, InterruptedTraining) as error:
            status, stopped_by = "interrupted", getattr(error, "signal", signal.SIGINT)
        except (Exception, SystemExit) as error:
            status, failure = "failed", error
        if status == "finished" and session.criterion and session.criterion.success:
            status = "success"
        with interrupts.deferred():
            failure = _write_end(session, run, status, failure)
    run.stopped_by = interrupts.pending if stopped_by is None else stopped_by
    if failure:
        message = f"training failed at timestep {session.model.num_timesteps}: {describe(failure)}"
        raise TrainingError(message, f"the traceback is in {run.directory / 'traceback.txt'}") from failure


def _train_model(session: _Session, run: RunDirectory, boundary: RolloutHook) -> None:
    model = session.model
    context = TrainingContext(run, session.env.episodes, session.criterion)
    for callback in session.run_callbacks:
        callback.context = context
    done = boundary.rollouts
    logger = run_logger(run, done)
    model.set_logger(logger)
    root = RunCallbackList(session.callbacks, boundary)
    try:
        remaining = run.config.timesteps - model.num_timesteps
        with limit_torch_threads(model):
            interval = log_interval(model, done)
            model.learn(remaining, callback=root, log_interval=interval, reset_num_timesteps=not boundary.is_resumed)
    except StopTraining:
        root.on_training_end()
    finally:
        logger.close()


def _write_end(
    session: _Session, run: RunDirectory, status: str, failure: BaseException | None
) -> BaseException | None:
    """Save the model and the result; return what went wrong, in training or here."""
    try:
        save_model(run, session.model)
    except Exception as error:
        if status == "interrupted":  # at once, so that an environment may still be at work
            _log.warning("the model is not saved: %s", describe(error))
        else:
            status, failure = "failed", failure or error
    result = {
        "status": status,
        "seed": run.config.seed,
        "timesteps": session.model.num_timesteps,
        "episodes": len(session.env.episodes),
        "seconds": round(session.bookkeeper.seconds, 3),
        "mean_return": session.score(),
        "success": session.criterion.report() if session.criterion else None,
    }
    try:
        run.write("result.json", json.dumps(result, indent=2) + "\n")
        if failure:
            run.write("traceback.txt", "".join(traceback.format_exception(failure)))
    except OSError as error:
        message = f"{run.directory}: the result cannot be written: {error.strerror}"
        raise TrainingError(message, describe(failure) if failure else "") from failure or error
    return failure
