"""A worker runs the trials of a study: it trains each variant with each seed, and scores or prunes the trial."""

from __future__ import annotations

import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.config.load import ResolvedConfig, trust_code
from toolkit.config.yaml_document import Document
from toolkit.experiments.variants import PlannedRun
from toolkit.training.callbacks import RunCallback
from toolkit.training.existing_run import has_ended
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import resume, train
from toolkit.tuning.config import TuningConfig, TuningPlan, make_plan
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.scores import score_trial
from toolkit.tuning.search_space import override_config
from toolkit.tuning.storage import quiet_optuna
from toolkit.tuning.study import (
    is_surplus,
    open_study,
    record_failure,
    record_scores,
    requeue_trial,
    suggest_values,
    wait_for_trial,
)
from toolkit.tuning.trial_curve import TrialCurve, make_curve
from toolkit.utils.errors import ConfigError, RunError, ToolkitError, describe_error
from toolkit.utils.files import claim_directory, lock_directory
from toolkit.utils.signals import InterruptedTraining, SignalGuard

if TYPE_CHECKING:
    import optuna

_UNREACHABLE = "give 'storage' the URL of a database that every worker reaches"
_LOCK_REASON = "runs a trial in it"
_DISPLAY_CALLBACKS = ("progress", "record_video")  # do not affect a trial
_NUMBER = "place"  # attribute of a trial: number in the name of its directory, which a retried trial keeps


class _TrialError(Exception):
    """A trial fails. Other trials continue."""


def run_worker(directory: Path, *, tuning: dict[str, Any], base: dict[str, Any], storage: str, worker: int) -> None:
    """Run trials of a study until it has as many as wanted: the job of a worker.

    When a signal stops the worker, the worker that continues the study runs the trial again. It resumes the latest
    valid snapshot if that is on this machine.

    :param directory: holds the run directories of the running trials and of the failed ones
    :param tuning: the tuning file
    :param base: the base config
    :param storage: URL of the database
    :param worker: number of the worker, from 0
    :raises StorageError: if the database cannot be used
    :raises KeyboardInterrupt: if a signal stopped the worker
    """
    config = TuningConfig.model_validate(tuning)
    try:
        plan = make_plan(config, Document(base), Document(tuning, {(): config.name}), Path())
    except ConfigError as error:
        message = "; ".join(problem.text({}) for problem in error.problems)
        raise ToolkitError(message, "install the same packages on the machine of every worker") from error
    guard = SignalGuard(defer_first=True)
    with quiet_optuna(), guard.installed(), open_study(storage, plan, _UNREACHABLE) as study:
        study.sampler, study.pruner = plan.sampler.build(), plan.pruner.build()
        if worker or any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            study.sampler.reseed_rng()  # else it samples what another worker or an earlier call has sampled
        _Worker(study, plan, directory, guard).run()


class _Worker:
    """Runs one trial after another.

    :param guard: defers a signal until the worker knows which trial it interrupts
    """

    def __init__(self, study: optuna.Study, plan: TuningPlan, directory: Path, guard: SignalGuard) -> None:
        self._study = study
        self._plan = plan
        self._objective = OBJECTIVES[plan.config.objective]
        self._directory = directory
        self._guard = guard
        self._running_trial: int | None = None

    def run(self) -> None:
        n_trials, check = self._plan.config.trials, self._guard.raise_pending

        def stop_if_complete(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
            self._running_trial = None
            if not wait_for_trial(study, n_trials, check):
                study.stop()

        try:
            if wait_for_trial(self._study, n_trials, check):
                self._study.optimize(self._run_trial, callbacks=[stop_if_complete], catch=(_TrialError,))
        except (KeyboardInterrupt, InterruptedTraining):
            if self._running_trial is not None:
                requeue_trial(self._study, self._running_trial)
            raise KeyboardInterrupt from None

    def _run_trial(self, trial: optuna.Trial) -> float:
        """Run a trial; return its score."""
        import optuna

        self._running_trial = trial.number
        if is_surplus(self._study, trial, self._plan.config.trials):
            raise _TrialError
        number = trial.user_attrs.get(_NUMBER, trial.number)
        trial.set_user_attr(_NUMBER, number)
        directory = self._directory / f"trial-{number}"
        _move_from_other_worker(directory)
        curve = make_curve(trial, self._plan)
        try:
            with claim_directory(directory, _LOCK_REASON):
                scores = self._run_trainings(trial, directory, curve)
                shutil.rmtree(directory, ignore_errors=True)
        except RunError as error:
            record_failure(trial, describe_error(error))
            raise _TrialError from error
        if curve.is_pruned:
            raise optuna.TrialPruned
        return score_trial(scores, self._plan)

    def _run_trainings(self, trial: optuna.Trial, directory: Path, curve: TrialCurve) -> list[float]:
        """Run the trainings until the trial is pruned; return the scores of those that have ended."""
        values = suggest_values(trial, self._plan.space)
        scores: list[float] = []
        for training in self._plan.trainings:
            self._guard.raise_pending()
            reporter = _Reporter(curve, self._guard)
            try:
                run = self._train(training, values, directory / self._plan.get_directory_name(training), reporter)
                is_complete = has_ended(run.directory)
                if is_complete:
                    scores.append(self._objective.score(run, self._plan.n_averaged))
                    final_value = self._objective.final_value(run)
            except Exception as error:
                record_failure(trial, describe_error(error))
                raise _TrialError from error
            if reporter.failure is not None:
                raise reporter.failure
            if is_complete:
                record_scores(trial, scores)
                curve.end_training(scores[-1], final_value)
            elif run.stopped_by is not None and not curve.is_pruned:
                raise InterruptedTraining(run.stopped_by)
            if curve.is_pruned:
                break
        return scores

    def _train(
        self, training: PlannedRun, values: dict[str, Any], directory: Path, reporter: _Reporter
    ) -> RunDirectory:
        """Train in a directory, or resume its run."""
        config = override_config(training.variant.config, values | {"seed": training.seed})
        config = self._objective.adapt_config(config)
        config = config.without_callbacks(lambda callback: callback.name in _DISPLAY_CALLBACKS)
        if _has_run_of(directory, config):
            run = RunDirectory.open(directory)
            trust_code(run.config)  # the user's own
            return run if has_ended(directory) else resume(run, [reporter])
        shutil.rmtree(directory, ignore_errors=True)
        return train(config, directory, [reporter])


def _move_from_other_worker(directory: Path) -> None:
    """Take over the directory of a trial that another worker began, unless that worker is alive and still runs it."""
    for other in directory.parent.parent.glob(f"*/{directory.name}"):
        with suppress(OSError, RunError), lock_directory(other, _LOCK_REASON):
            directory.parent.mkdir(parents=True, exist_ok=True)
            other.rename(directory)  # fails if it exists


def _has_run_of(directory: Path, config: ResolvedConfig) -> bool:
    try:
        return RunDirectory.open(directory).config == config
    except ToolkitError:
        return False


class _Reporter(RunCallback):
    """Reports the learning curve, and stops training when the trial is pruned or the database fails.

    The run is then interrupted, not finished: a retried trial resumes it.
    """

    def __init__(self, curve: TrialCurve, guard: SignalGuard) -> None:
        super().__init__()
        self._curve = curve
        self._guard = guard
        self.failure: Exception | None = None

    def _on_step(self) -> bool:
        self._guard.raise_pending()  # a signal from before training installed its own guard
        share = self.num_timesteps / self.context.run.config.timesteps
        try:
            self._curve.report_until(share, self.context)
        except Exception as error:  # of the database, not of training
            self.failure = error
        if self.failure is not None or self._curve.is_pruned:
            raise InterruptedTraining(signal.SIGTERM)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return no state: the study holds the reports."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load no state."""
