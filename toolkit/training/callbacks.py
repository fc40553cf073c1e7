"""Base classes of callbacks that know their run, for plugin authors.

An SB3 ``BaseCallback`` works unchanged. A callback that needs the run's directory, episodes or success criterion
subclasses :class:`RunCallback`. A success criterion subclasses :class:`SuccessCriterion`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_numbers import InfoValue
from toolkit.envs.episodes import EpisodeLog
from toolkit.envs.parameters import EnvParameters
from toolkit.training.evaluations import EvaluationLog
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import ConfigError, Problem, did_you_mean


@dataclass(frozen=True)
class Success:
    """The moment at which training met the success criterion.

    :param episode: number of training episodes that count
    :param timestep: number of the agent's steps, over all environments
    :param seconds: wall-clock time since training started
    :param mean_return: mean raw return that reached the threshold
    """

    episode: int
    timestep: int
    seconds: float
    mean_return: float


@dataclass(frozen=True)
class TrainingContext:
    """The run that a callback belongs to.

    :param run: the run directory, with the config
    :param episodes: training episodes that count; the log grows during training
    :param criterion: the run's success criterion, if it has one
    :param parameters: the parameters of environments and wrappers, which a callback can change between episodes
    :param is_resumed: whether training continues from a snapshot, so that what a callback did before it is done
    :param evaluations: the evaluations so far; ``evaluations.latest("greedy")`` is the latest one of a label
    :param stages: the callbacks that change the task in stages
    """

    run: RunDirectory
    episodes: EpisodeLog
    criterion: SuccessCriterion | None
    parameters: EnvParameters
    is_resumed: bool = False
    evaluations: EvaluationLog = field(default_factory=EvaluationLog)
    stages: Sequence[StageCallback] = ()

    @property
    def first_episode_of_task(self) -> int | None:
        """The first training episode that a success criterion may count; None before the last stage."""
        if not all(callback.is_last_stage for callback in self.stages):
            return None
        return max((callback.first_episode for callback in self.stages), default=0)


@dataclass(frozen=True)
class RunPlan:
    """What a run is about to be: its config, and the objects that it trains with.

    :param callbacks: those of the config and of :func:`toolkit.train`, in their order, nested ones too
    """

    config: ResolvedConfig
    model: BaseAlgorithm
    callbacks: Sequence[BaseCallback]

    @property
    def evaluations(self) -> list[EvaluationCallback]:
        """The callbacks that evaluate, in their order."""
        return [callback for callback in self.callbacks if isinstance(callback, EvaluationCallback)]

    def require_evaluation(self, label: str, parameter: str = "evaluation") -> EvaluationCallback:
        """Return the callback that evaluates under a label.

        :param parameter: that has the label, for the message
        :raises ConfigError: if there is none
        """
        found = [callback for callback in self.evaluations if callback.label == label]
        if not found:
            labels = [callback.label for callback in self.evaluations]
            hint = did_you_mean(label, labels) if labels else f"add the callback 'evaluate' with label: {label}"
            raise ConfigError([Problem(("params", parameter), f"no evaluation has the label '{label}'", hint)])
        return found[0]


class RunCallback(BaseCallback):
    """An SB3 callback that knows its run: ``self.context`` is set before training starts.

    Override the same methods as in a ``BaseCallback``::

        class CountEpisodes(RunCallback):
            def _on_step(self) -> bool:
                self.logger.record("rollout/episodes", len(self.context.episodes))
                return True

    :ivar logs_rewards: whether the run logs the parts of its returns: what each wrapper adds, and the numbers of
        ``info["reward_components"]``
    :ivar logged_info: the numbers of ``info`` that the run logs, by name: their mean over an episode, or the last one
    """

    logs_rewards: ClassVar[bool] = False
    logged_info: Mapping[str, InfoValue] = MappingProxyType({})
    context: TrainingContext

    def check_model(self, model: BaseAlgorithm) -> None:
        """Check that the callback fits the model; called by `toolkit check`, and before a new run has a directory.

        :raises ConfigError: with problems whose paths start at the callback, such as ``("params", "path")``. Another
            exception is reported, too
        """

    def check_run(self, plan: RunPlan) -> None:
        """Check that the callback fits the run: as :meth:`check_model`, which it calls, with the config as well.

        :raises ConfigError: see :meth:`check_model`
        """
        self.check_model(plan.model)

    def before_first_reset(self) -> None:
        """Prepare a new run, or one that resumes: ``self.context`` is set, and the environments are not reset yet."""

    def close(self) -> None:
        """Release resources; called once at the end of training, also after an error."""


class EvaluationCallback(RunCallback):
    """Base class of callbacks that evaluate the model during training and add the results to ``context.evaluations``.

    :param label: names the evaluation, once in a run
    :param episodes: number of episodes of an evaluation
    """

    def __init__(self, label: str, episodes: int) -> None:
        super().__init__()
        self.label = label
        self.episodes = episodes


class StageCallback(RunCallback):
    """Base class of callbacks that change the task in stages; a success criterion counts only what is of the last one.

    :ivar paths: the parameters that it changes in any stage, dotted, such as ``env.params.gravity``
    :ivar first_episode: the first training episode that started in the present stage
    """

    paths: Collection[str] = ()
    first_episode: int = 0

    @property
    @abstractmethod
    def is_last_stage(self) -> bool:
        """Whether the present stage lasts until the run ends."""


Measure = Literal["mean_return", "success_rate"]
"""What reaches a threshold: the mean raw return, or the share of episodes with a true ``info["is_success"]``."""


class SuccessCriterion(RunCallback):
    """Decide when training has succeeded, and stop it; a run has at most one criterion.

    :param threshold: value of :attr:`measure` to reach
    :param episodes: number of last training episodes that it is computed over
    :param evaluation: label of the evaluation whose episodes count instead
    :ivar greedy_value: value of :attr:`measure` over the greedy episodes that last had to confirm success, if any
    """

    measure: ClassVar[Measure] = "mean_return"

    def __init__(self, threshold: float, episodes: int, evaluation: str | None = None) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.threshold = threshold
        self.episodes = episodes
        self.success: Success | None = None
        self.greedy_value: float | None = None

    @property
    @abstractmethod
    def mean_return(self) -> float | None:
        """Mean raw return of the last ``episodes`` episodes that count, or of fewer; None before any."""

    @property
    def value(self) -> float | None:
        """Value of :attr:`measure` over the last ``episodes`` episodes that count; None before any."""
        return self.mean_return

    def report(self) -> dict[str, Any]:
        """Return the ``success`` entry of ``result.json``."""
        moment: dict[str, Any] = {"episode": None, "timestep": None, "seconds": None, "mean_return": self.mean_return}
        if self.success:
            moment = asdict(self.success)
        goal: dict[str, Any] = {"measure": self.measure, "threshold": self.threshold, "episodes": self.episodes}
        if self.evaluation is not None:
            goal["evaluation"] = self.evaluation
        return goal | {"solved": self.success is not None} | moment | {"greedy_value": self.greedy_value}
