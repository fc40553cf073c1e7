"""The curve of a trial, which pruners compare with the curves of other trials: its reports to the study."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING

from toolkit.training.callbacks import TrainingContext
from toolkit.tuning.config import TuningPlan
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.scores import get_worst, score_trial
from toolkit.tuning.study import REPORTS_PER_TRAINING

if TYPE_CHECKING:
    import optuna


def make_curve(trial: optuna.Trial, plan: TuningPlan) -> TrialCurve:
    """Return the curve of a trial: of its scores if there are variants, else of its returns."""
    return ReturnCurve(trial, plan) if plan.config.variants is None else ScoreCurve(trial, plan)


class TrialCurve(ABC):
    """The reports of a trial over its trainings, one after another.

    The step of a report is ``20 * index of the training + twentieth of the training``. At equal steps all trials have
    trained equally long with equal variants and seeds.

    :ivar is_pruned: whether the pruner stops the trial
    """

    def __init__(self, trial: optuna.Trial, plan: TuningPlan) -> None:
        self._trial = trial
        self._plan = plan
        self._objective = OBJECTIVES[plan.config.objective]
        self._trainings = plan.trainings
        self._n_ended = 0
        self._twentieths = 0  # of the current training
        self._reported_steps = {*_read_trial(trial).intermediate_values}
        self.is_pruned = False

    def report_until(self, share: float, context: TrainingContext) -> None:
        """Report at each twentieth of the current training up to ``share``.

        :param share: of the current training, 0 to 1
        """
        self._report_until(share, lambda: self._compute_value(context))

    def end_training(self, score: float, final_value: float) -> None:
        """Complete the curve of the current training and begin the next one.

        A training that ended early keeps its last report until its last twentieth.

        :param final_value: last value of its learning curve
        """
        value = self._add_training(score, final_value)
        self._report_until(1, lambda: value)
        self._n_ended += 1
        self._twentieths = 0

    @abstractmethod
    def _compute_value(self, context: TrainingContext) -> float | None:
        """Return the report during a training, at the current twentieth; ``None`` for no report."""

    @abstractmethod
    def _add_training(self, score: float, final_value: float) -> float:
        """Store the results of the current training, and return the report at its end."""

    @abstractmethod
    def _should_prune(self) -> bool:
        """Return whether the pruner would stop the trial after its latest report."""

    def _report_until(self, share: float, compute_value: Callable[[], float | None]) -> None:
        reached = min(REPORTS_PER_TRAINING, math.floor(share * REPORTS_PER_TRAINING + 1e-9))
        last_step = len(self._trainings) * REPORTS_PER_TRAINING
        while self._twentieths < reached and not self.is_pruned:
            self._twentieths += 1
            step = self._n_ended * REPORTS_PER_TRAINING + self._twentieths
            value = compute_value()
            if step in self._reported_steps or value is None:
                continue
            self._trial.report(value, step)
            self.is_pruned = step < last_step and self._should_prune()


class ReturnCurve(TrialCurve):
    """The learning curve of a trial without variants.

    Each report is the mean over the final values of the seeds before and the current value of this seed, negative if
    a smaller score is better.
    """

    def __init__(self, trial: optuna.Trial, plan: TuningPlan) -> None:
        super().__init__(trial, plan)
        self._sign = 1 if self._objective.direction == "maximize" else -1
        self._final_values: list[float] = []

    def _compute_value(self, context: TrainingContext) -> float | None:
        value = self._objective.current_value(context)
        return None if value is None else self._sign * fmean([*self._final_values, value])

    def _add_training(self, score: float, final_value: float) -> float:
        self._final_values.append(final_value)
        return self._sign * fmean(self._final_values)

    def _should_prune(self) -> bool:
        return bool(self._trial.should_prune())


class ScoreCurve(TrialCurve):
    """The score so far of a trial with variants.

    Each report is the score of the trial, were the trainings so far all of them. A training counts from where its
    score is known, or known to make the trial's score worse: for ``timesteps_to_success``, once the training is longer
    than the worst so far; for ``mean_return``, at its end. So a trial is never worse because its current training has
    just begun. With ``across_variants: worst`` it can be stopped as soon as one variant fails.

    Some pruners take the best report of the trial to prune. That would be one of the first, as the worst of more
    trainings is worse. So pruners see no earlier report as better than the latest.
    """

    def __init__(self, trial: optuna.Trial, plan: TuningPlan) -> None:
        super().__init__(trial, plan)
        self._scores: list[float] = []

    def report_until(self, share: float, context: TrainingContext) -> None:
        """Report at each twentieth of the current training up to ``share``, but leave the last one to its score."""
        super().report_until(min(share, 1 - 1 / REPORTS_PER_TRAINING), context)

    def _compute_value(self, context: TrainingContext) -> float | None:
        timesteps = self._trainings[self._n_ended].variant.config.timesteps * self._twentieths / REPORTS_PER_TRAINING
        bound = self._objective.bound_score(timesteps)
        if bound is None:
            return None
        with_current = score_trial([*self._scores, bound], self._plan)
        return get_worst([score_trial(self._scores, self._plan), with_current], self._plan) if self._scores else bound

    def _add_training(self, score: float, final_value: float) -> float:
        self._scores.append(score)
        return score_trial(self._scores, self._plan)

    def _should_prune(self) -> bool:
        study, trial = self._trial.study, copy.copy(_read_trial(self._trial))
        reports = trial.intermediate_values
        latest = reports[max(reports)]
        trial.intermediate_values = {step: get_worst([value, latest], self._plan) for step, value in reports.items()}
        return bool(study.pruner.prune(study, trial))


def _read_trial(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]
