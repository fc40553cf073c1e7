"""A curriculum: parameters of environments and wrappers that change when the agent has learned enough."""

from __future__ import annotations

import logging
from typing import Any, Literal

from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.wrapper_state import find_recorder
from toolkit.training.callbacks import RunPlan, StageCallback
from toolkit.utils.errors import ComponentError, ConfigError, Problem

_log = logging.getLogger("toolkit")


class Curriculum(StageCallback):
    """Give environments and wrappers other parameters, stage by stage, as the agent reaches a threshold in each.

    The first stage holds from the start. Values apply to episodes that start after the change. Only episodes that
    started in the present stage, or evaluations in it, count for the next one.

    :param stages: for each stage, its values by dotted path, such as ``env.params.gravity`` or
        ``env.wrappers.0.params.scale``. A stage without a path keeps the value of the stage before
    :param threshold: value of ``measure`` that ends a stage; a list has one for each stage but the last
    :param episodes: number of last training episodes of a stage that it is computed over, at least 1; 100 by default
    :param evaluation: label of an `evaluate` callback whose latest evaluation counts, in place of training episodes
    :param measure: ``mean_return``, the mean raw return; or ``success_rate``, the share of episodes with a true
        ``info["is_success"]``
    """

    def __init__(
        self,
        stages: list[dict[str, Any]],
        threshold: float | list[float],
        episodes: int | None = None,
        evaluation: str | None = None,
        measure: Literal["mean_return", "success_rate"] = "mean_return",
    ) -> None:
        super().__init__()
        if evaluation is not None and episodes is not None:
            raise ValueError("episodes counts training episodes: give either episodes or evaluation")
        if episodes is not None and episodes < 1:
            raise ValueError(f"episodes must be at least 1, not {episodes}")
        self.stages = stages
        self.paths = tuple(dict.fromkeys(path for stage in stages for path in stage))
        self.thresholds = [threshold] * (len(stages) - 1) if isinstance(threshold, int | float) else threshold
        self.episodes = episodes or 100
        self.evaluation = evaluation
        self.measure = measure
        self.stage = 0
        self._has_begun = False
        self._n_judged = 0  # episodes
        self._judged_timestep = 0  # of the latest evaluation that was judged

    @property
    def is_last_stage(self) -> bool:
        """Whether no threshold is left to reach."""
        return self.stage >= len(self.thresholds)

    def check_run(self, plan: RunPlan) -> None:
        """Check the stages, the parameters of the environments, and that the evaluation exists.

        :raises ConfigError: with every problem
        """
        n_stages = len(self.stages)
        if n_stages < 2:
            raise ConfigError([Problem(("params", "stages"), f"should be at least 2 stages, not {n_stages}")])
        if len(self.thresholds) != n_stages - 1:
            message = f"should be one number, or {n_stages - 1} for {n_stages} stages, not {len(self.thresholds)}"
            raise ConfigError([Problem(("params", "threshold"), message)])
        super().check_run(plan)
        if self.evaluation is not None:
            plan.require_evaluation(self.evaluation)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Check that the environments can change every parameter to every value.

        :raises ConfigError: with every problem
        """
        parameters = _get_recorder(model).parameters
        problems = []
        for index, stage in enumerate(self.stages):
            for path, value in stage.items():
                try:
                    parameters.check(path, value)
                except ComponentError as error:
                    problems.append(Problem(("params", "stages", index, path), error.message, error.hint))
        if problems:
            raise ConfigError(problems)

    def before_first_reset(self) -> None:
        """Start a new run with the first stage."""
        if not self.context.is_resumed:
            self.context.parameters.set(self.stages[0])
            self._has_begun = True

    def _on_step(self) -> bool:
        if not self._has_begun:  # new or changed in a run that continues
            self._has_begun = True
            self._begin_stage(0)
        if not self.is_last_stage:
            value = self._judge_training() if self.evaluation is None else self._judge_evaluation(self.evaluation)
            if value is not None and value >= self.thresholds[self.stage]:
                self._begin_stage(self.stage + 1)
        self.logger.record("curriculum/stage", self.stage + 1)
        return True

    def _on_training_end(self) -> None:
        if not self.is_last_stage:  # a mean return that reaches the threshold of `success` is then no success
            _log.info("curriculum: training stops in stage %d of %d", self.stage + 1, len(self.stages))

    def _judge_training(self) -> float | None:
        """Return the value of the last episodes of this stage; None without a new one, or with too few."""
        log = self.context.episodes
        if len(log) == self._n_judged:
            return None
        self._n_judged = len(log)
        if len(log) - self.first_episode < self.episodes:
            return None
        if self.measure == "mean_return":
            return log.mean_return(self.episodes)
        return sum(episode.is_success or 0.0 for episode in log[-self.episodes :]) / self.episodes

    def _judge_evaluation(self, label: str) -> float | None:
        """Return the value of the latest evaluation; None without a new one."""
        latest = self.context.evaluations.latest(label)
        if latest is None or latest.timestep <= self._judged_timestep:
            return None
        self._judged_timestep = latest.timestep
        return latest.mean_return if self.measure == "mean_return" else latest.success_rate

    def _begin_stage(self, index: int) -> None:
        self.stage = index
        values = self.stages[self.stage]
        self.context.parameters.set(values)
        self.first_episode = _get_recorder(self.model).n_started
        changes = ", ".join(f"{path} is {value}" for path, value in values.items())
        message = "timestep %s: stage %d of %d begins: %s"
        _log.info(message, f"{self.num_timesteps:,}", self.stage + 1, len(self.stages), changes or "nothing changes")


def _get_recorder(model: BaseAlgorithm) -> EpisodeRecorder:
    recorder = find_recorder(model.get_env())
    if recorder is None:
        raise ValueError("the model has no environments of the toolkit")
    return recorder
