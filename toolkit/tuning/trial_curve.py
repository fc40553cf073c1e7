"""The learning curve of a trial, reported to its study."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING

from toolkit.tuning.objectives import Objective
from toolkit.tuning.study import REPORTS_PER_SEED

if TYPE_CHECKING:
    import optuna


class TrialCurve:
    """The learning curve of a trial over its seeds, which train one after another.

    Each report is the mean over the final values of the seeds before and the current value of this seed. Its step is
    ``20 * index of the seed + twentieth of the training``. At equal steps all trials have trained equally long with
    equal seeds.

    :ivar is_pruned: whether the pruner stops the trial
    """

    def __init__(self, trial: optuna.Trial, objective: Objective, n_seeds: int) -> None:
        self._trial = trial
        self._sign = 1 if objective.direction == "maximize" else -1
        self._last_step = n_seeds * REPORTS_PER_SEED
        self._reported_steps = {*trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values}
        self._final_values: list[float] = []
        self._twentieths = 0
        self.objective = objective
        self.is_pruned = False

    def report_until(self, share: float, compute_value: Callable[[], float | None]) -> None:
        """Report the current seed's value at each twentieth of the training up to ``share``.

        :param share: of the training with the current seed, 0 to 1
        """
        reached = min(REPORTS_PER_SEED, math.floor(share * REPORTS_PER_SEED + 1e-9))
        while self._twentieths < reached and not self.is_pruned:
            self._twentieths += 1
            step = len(self._final_values) * REPORTS_PER_SEED + self._twentieths
            value = compute_value()
            if step in self._reported_steps or value is None:
                continue
            self._trial.report(self._sign * fmean([*self._final_values, value]), step)
            self.is_pruned = step < self._last_step and bool(self._trial.should_prune())

    def end_seed(self, final_value: float) -> None:
        """Complete the curve of the current seed and begin the next one.

        A training that ended early keeps its final value until its last twentieth.
        """
        self.report_until(1, lambda: final_value)
        self._final_values.append(final_value)
        self._twentieths = 0
