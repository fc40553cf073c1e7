"""A config to a finished run."""

from __future__ import annotations

import json
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.monitor import ResultsWriter

from toolkit.callbacks import RunCallback, SuccessCriterion, TrainingContext
from toolkit.components import components_of
from toolkit.config import RunConfig
from toolkit.environments import EpisodeRecorder, derived_seed, make_vec_env
from toolkit.errors import Problem, TrainingError, describe
from toolkit.logs import run_logger
from toolkit.models import build_model, save_model, suitable_threads
from toolkit.registry import KINDS, find
from toolkit.run import Run


def train(
    config: RunConfig,
    out: Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    *,
    progress_bar: bool = False,
) -> Run:
    """Train as a config says, into a new run directory.

    Everything is built before the directory is made, so that bad input leaves nothing behind. An interrupt
    (Ctrl-C) ends training early: the model is saved and the result says ``interrupted``.

    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :param callbacks: called after the config's own
    :param progress_bar: whether to show how training goes, if the config does not do so itself
    :raises ConfigError: if something in the config cannot be built, or does not fit together
    :raises TrainingError: if training breaks off; the run directory then says ``failed``
    """
    shows = any(callback.name == "progress" for callback in config.callbacks)
    shown = [find(KINDS["callbacks"], "progress")()] if progress_bar and not shows else []
    with _prepared(config, [*callbacks, *shown]) as session:
        run = Run.create(config, out)
        _learn(session, run)
    return run


def rehearse(config: RunConfig) -> None:
    """Build everything that training needs, and take it down again.

    :raises ConfigError: if something in the config cannot be built, or does not fit together
    """
    with _prepared(config, ()):
        pass


@dataclass
class _Session:
    """The live objects of one run."""

    env: EpisodeRecorder
    model: BaseAlgorithm
    bookkeeper: _Bookkeeper
    callbacks: list[BaseCallback]
    criterion: SuccessCriterion | None

    @property
    def run_callbacks(self) -> list[RunCallback]:
        return [callback for callback in self.callbacks if isinstance(callback, RunCallback)]


@contextmanager
def _prepared(config: RunConfig, callbacks: Sequence[BaseCallback]) -> Iterator[_Session]:
    session = _prepare(config, callbacks)
    try:
        yield session
    finally:
        with ExitStack() as closing:  # each is closed, whatever another raises
            closing.callback(session.env.close)
            for callback in session.run_callbacks:
                closing.callback(callback.close)


def _prepare(config: RunConfig, callbacks: Sequence[BaseCallback]) -> _Session:
    seed = derived_seed(config.seed, "training")
    env = make_vec_env(config, seed=seed)
    env.hides_monitor = bool(config.env.wrappers)
    try:
        model = build_model(config, env, seed=seed)
        own = [bound.build() for bound in components_of(config).callbacks]
        criteria = [callback for callback in own if isinstance(callback, SuccessCriterion)]
        if len(criteria) > 1:
            raise config.error([Problem(("callbacks",), "a run has at most one success criterion")])
        bookkeeper = _Bookkeeper(env)
        return _Session(env, model, bookkeeper, [bookkeeper, *own, *callbacks], criteria[0] if criteria else None)
    except BaseException:
        env.close()
        raise


def _learn(session: _Session, run: Run) -> None:
    """Train, and write down how it went."""
    status = "finished"
    failure: BaseException | None = None
    try:
        _train_model(session, run)
    except KeyboardInterrupt:
        status = "interrupted"
    except (Exception, SystemExit) as error:
        status, failure = "failed", error
    if status == "finished" and session.criterion and session.criterion.success:
        status = "success"
    with _uninterrupted():
        failure = _write_end(session, run, status, failure)
    if failure:
        message = f"training failed at timestep {session.model.num_timesteps}: {describe(failure)}"
        raise TrainingError(message, f"the traceback is in {run.directory / 'traceback.txt'}") from failure


def _train_model(session: _Session, run: Run) -> None:
    context = TrainingContext(run, session.env.episodes, session.criterion)
    for callback in session.run_callbacks:
        callback.context = context
    root = _StoppableCallbacks(session.callbacks)
    logger = run_logger(run)
    session.model.set_logger(logger)
    try:
        with suitable_threads(session.model):
            session.model.learn(run.config.timesteps, callback=root)
    except _StopTraining:
        root.on_training_end()
    finally:
        logger.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let no second Ctrl-C keep the end of a run from being written down."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of this thread's business
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _write_end(session: _Session, run: Run, status: str, failure: BaseException | None) -> BaseException | None:
    """Save the model and the result; return what went wrong, in training or here."""
    try:
        save_model(run, session.model)
    except Exception as error:
        status, failure = "failed", failure or error
    result = {
        "status": status,
        "seed": run.config.seed,
        "timesteps": session.model.num_timesteps,
        "episodes": len(session.env.episodes),
        "seconds": round(session.bookkeeper.seconds, 3),
        "success": session.criterion.report() if session.criterion else None,
    }
    try:
        run.write("result.json", json.dumps(result, indent=2) + "\n")
        if failure:
            run.write("traceback.txt", "".join(traceback.format_exception(failure)))
    except OSError as error:
        raise TrainingError(f"{run.directory}: the result cannot be written: {error.strerror}") from failure or error
    return failure


class _StopTraining(Exception):  # noqa: N818 - as StopIteration, no error
    """Ends the training of an algorithm that goes on after a callback said stop."""


class _StoppableCallbacks(CallbackList):
    """A callback list whose word counts: ARS drops what ``on_step`` returns, so the next step ends it."""

    stopped = False

    def _on_step(self) -> bool:
        if self.stopped:
            raise _StopTraining
        self.stopped = not super()._on_step()
        return not self.stopped


class _Bookkeeper(RunCallback):
    """Writes ``monitor.csv`` in SB3's format, and logs the shaped return beside SB3's raw one."""

    def __init__(self, env: EpisodeRecorder) -> None:
        super().__init__()
        self._env = env
        self._seconds: float | None = None
        self._written = 0

    @property
    def seconds(self) -> float:
        """How long training took, without what other callbacks do at its end."""
        return self._env.seconds if self._seconds is None else self._seconds

    def _init_callback(self) -> None:
        header: dict[str, Any] = {"t_start": time.time(), "env_id": self.context.run.config.env.id}
        self._writer = ResultsWriter(str(self.context.run.directory / "monitor.csv"), header=header)

    def _on_step(self) -> bool:
        for episode in self.context.episodes[self._written :]:
            row = {"r": round(episode.raw_return, 6), "l": episode.length, "t": round(episode.seconds, 6)}
            self._writer.write_row(row)
            self._written += 1
            if self.context.run.config.env.wrappers:
                recent = self.context.episodes[max(0, self._written - 100) : self._written]
                mean = float(np.mean([one.shaped_return for one in recent]))
                self.logger.record("rollout/ep_shaped_rew_mean", mean)
        return True

    def _on_training_end(self) -> None:
        self._seconds = self._env.seconds

    def close(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()
