"""A trial of a search: the config with the trial's values, trained with each seed, judged, stopped if it lags behind.

The seeds are trained one after another. At every twentieth of a training the trial reports its learning curve: the
mean over the seeds trained before, where they ended, and the one that is being trained, where it stands. The step is
``20 * position of the seed + twentieth``, so that at equal steps all trials have trained equally long with equal
seeds. A training that ends early stays where it ended until its last twentieth.
"""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from toolkit.config.load import resolve_document, trust_code
from toolkit.config.schema import RunConfig
from toolkit.config.yaml_document import Document
from toolkit.experiments.status import has_ended
from toolkit.training.callbacks import RunCallback
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import resume, train
from toolkit.tuning.config import Tuning, TuningConfig, bind_tuning
from toolkit.tuning.objectives import OBJECTIVES, Objective
from toolkit.tuning.search_space import config_with
from toolkit.tuning.storage import quiet
from toolkit.tuning.study import (
    REPORTS,
    give_back,
    is_surplus,
    note_failure,
    note_scores,
    opened_study,
    suggest,
    wait_for_work,
)
from toolkit.utils.errors import RunError, ToolkitError, describe_error
from toolkit.utils.files import claim_directory, lock_directory
from toolkit.utils.signals import InterruptedTraining, SignalGuard

if TYPE_CHECKING:
    import optuna

_REACHED = "each worker has to reach the same database: give 'storage' the URL of a server's"
_AT_WORK = "runs a trial in it"
_ONLY_SHOWN = ("progress", "record_video")  # callbacks that change nothing about a trial


class _TrialError(Exception):
    """A trial that fails, and stops no other."""


def work(directory: Path, *, tuning: dict[str, Any], base: dict[str, Any], storage: str, worker: int) -> None:
    """Run trials of a study until it has as many as wanted; the job of a worker.

    When it is stopped, the trial that it runs is run again by whoever goes on with the study, from its snapshot if
    that is here.

    :param directory: where the trials that run have their run directories; those that failed stay
    :param tuning: the tuning file
    :param base: the config
    :param storage: URL of the database
    :param worker: number of the worker, from 0
    :raises StorageError: if the database cannot be used
    :raises KeyboardInterrupt: if a signal has stopped it
    """
    config = TuningConfig.model_validate(tuning)
    bound, problems = bind_tuning(config, resolve_document(Document(base)), Document(tuning, {(): config.name}))
    if bound is None or problems:
        raise ToolkitError("; ".join(problem.text({}) for problem in problems), "it was right where it was checked")
    interrupts = SignalGuard(defer_first=True)
    with quiet(), interrupts.installed(), opened_study(storage, bound, _REACHED) as study:
        study.sampler, study.pruner = bound.sampler.build(), bound.pruner.build()
        if worker or any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            study.sampler.reseed_rng()  # or it would draw what another worker has drawn, or itself before
        _Worker(study, bound, directory, interrupts).run()


class _Worker:
    """Runs one trial after another.

    :param interrupts: a signal that has come stops it where it knows which trial it runs
    """

    def __init__(self, study: optuna.Study, tuning: Tuning, directory: Path, interrupts: SignalGuard) -> None:
        self._study = study
        self._tuning = tuning
        self._objective = OBJECTIVES[tuning.config.objective]
        self._directory = directory
        self._interrupts = interrupts
        self._running: int | None = None

    def run(self) -> None:
        total, check = self._tuning.config.trials, self._interrupts.raise_pending

        def stop_when_done(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
            self._running = None
            if not wait_for_work(study, total, check):
                study.stop()

        try:
            if wait_for_work(self._study, total, check):
                self._study.optimize(self._value_of, callbacks=[stop_when_done], catch=(_TrialError,))
        except (KeyboardInterrupt, InterruptedTraining):
            if self._running is not None:
                give_back(self._study, self._running)
            raise KeyboardInterrupt from None

    def _value_of(self, trial: optuna.Trial) -> float:
        import optuna

        self._running = trial.number
        if is_surplus(self._study, trial, self._tuning.config.trials):
            raise _TrialError
        place = trial.user_attrs.get("place", trial.number)  # where it was run before, if it is run again
        trial.set_user_attr("place", place)
        directory = self._directory / f"trial-{place}"
        _take_over(directory)
        curve = _Curve(trial, self._objective, len(self._tuning.config.seeds))
        try:
            with claim_directory(directory, _AT_WORK):
                scores = self._scores(trial, directory, curve)
                shutil.rmtree(directory, ignore_errors=True)
        except RunError as error:
            note_failure(trial, describe_error(error))
            raise _TrialError from error
        if curve.is_pruned:
            raise optuna.TrialPruned
        return fmean(scores)

    def _scores(self, trial: optuna.Trial, directory: Path, curve: _Curve) -> list[float]:
        """Train with each seed until the trial is pruned; return what those come to that trained to their end."""
        values = suggest(trial, self._tuning.space)
        scores: list[float] = []
        for seed in self._tuning.config.seeds:
            self._interrupts.raise_pending()
            reporter = _Reporter(curve, self._interrupts)
            try:
                run = self._trained(values | {"seed": seed}, directory / f"seed-{seed}", reporter)
                ended = has_ended(run.directory)
                if ended:
                    scores.append(self._objective.score(run))
                    end = self._objective.end(run)
            except Exception as error:
                note_failure(trial, describe_error(error))
                raise _TrialError from error
            if reporter.failure is not None:
                raise reporter.failure
            if ended:
                note_scores(trial, scores)
                curve.close(end)
            elif run.stopped_by is not None and not curve.is_pruned:
                raise InterruptedTraining(run.stopped_by)
            if curve.is_pruned:
                break
        return scores

    def _trained(self, values: dict[str, Any], directory: Path, reporter: _Reporter) -> RunDirectory:
        """Train in a directory, or go on with what is there."""
        config = self._objective.trained(config_with(self._tuning.base, values))
        config = config.without_callbacks(lambda callback: callback.name in _ONLY_SHOWN)
        if _is_begun(directory, config):
            run = RunDirectory.open(directory)
            trust_code(run.config)  # the user's own
            return run if has_ended(directory) else resume(run, [reporter])
        shutil.rmtree(directory, ignore_errors=True)
        return train(config, directory, [reporter])


def _take_over(directory: Path) -> None:
    """Move a trial here that another worker has begun; not from one that was taken for dead, and is at work in it."""
    for other in directory.parent.parent.glob(f"*/{directory.name}"):
        with suppress(OSError, RunError), lock_directory(other, _AT_WORK):
            directory.parent.mkdir(parents=True, exist_ok=True)
            other.rename(directory)  # which fails if there is one here


def _is_begun(directory: Path, config: RunConfig) -> bool:
    try:
        return RunDirectory.open(directory).config == config
    except ToolkitError:
        return False


class _Curve:
    """The learning curve of a trial, over its seeds one after another, as its study knows it."""

    def __init__(self, trial: optuna.Trial, objective: Objective, seeds: int) -> None:
        self._trial = trial
        self._sign = 1 if objective.direction == "maximize" else -1
        self._last = seeds * REPORTS
        self._known = {*trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values}
        self._ends: list[float] = []
        self._done = 0
        self.objective = objective
        self.is_pruned = False

    def reach(self, share: float, progress: Callable[[], float | None]) -> None:
        """Report where the seed that is being trained stands, at each twentieth that has been reached."""
        while self._done < min(REPORTS, math.floor(share * REPORTS + 1e-9)) and not self.is_pruned:
            self._done += 1
            step = len(self._ends) * REPORTS + self._done
            mean = progress()
            if step in self._known or mean is None:
                continue
            self._trial.report(self._sign * fmean([*self._ends, mean]), step)
            self.is_pruned = step < self._last and bool(self._trial.should_prune())

    def close(self, end: float) -> None:
        """Go on to the next seed."""
        self.reach(1, lambda: end)
        self._ends.append(end)
        self._done = 0


class _Reporter(RunCallback):
    """Reports how training goes, and stops it when the trial is pruned, or cannot be reported.

    A run stopped so is an interrupted one, which nobody takes for a whole one when the trial is run again.
    """

    def __init__(self, curve: _Curve, interrupts: SignalGuard) -> None:
        super().__init__()
        self._curve = curve
        self._interrupts = interrupts
        self.failure: Exception | None = None

    def _on_step(self) -> bool:
        self._interrupts.raise_pending()  # which has come before those of training were installed
        share = self.num_timesteps / self.context.run.config.timesteps
        try:
            self._curve.reach(share, lambda: self._curve.objective.progress(self.context))
        except Exception as error:  # of the database; no fault of the training
            self.failure = error
        if self.failure is not None or self._curve.is_pruned:
            raise InterruptedTraining(signal.SIGTERM)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the study has what was reported."""
        return {}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Take nothing."""
