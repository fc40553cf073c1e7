"""A study in Optuna's database: open it, ask it for trials, and read its trials as plain data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from toolkit.config.changes import describe_changes
from toolkit.tuning.config import TuningPlan
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.search_space import Dimension
from toolkit.tuning.storage import hide_password, open_storage
from toolkit.utils.errors import StorageError
from toolkit.utils.text import abbreviate

if TYPE_CHECKING:
    import optuna

State = Literal["finished", "pruned", "failed", "running", "waiting"]

REPORTS_PER_TRAINING = 20  # steps of a trial's curve
_STATES: dict[str, State] = {
    "COMPLETE": "finished",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
# attributes in the database: of the study, and of its trials
_SEARCH, _FAILURE, _SURPLUS, _SCORES = "search", "failure", "surplus", "scores"
_MAX_CHANGES = 5  # in a message
_WAIT = 0.5  # seconds between two looks for a trial to run


@dataclass(frozen=True)
class Trial:
    """The state of a trial.

    :param value: its score, or the last report of a pruned trial; ``None`` without either
    :param values: values of the config, by dotted path
    :param scores: the scores of the trainings that have ended, in the order of ``TuningPlan.trainings``
    :param share: share of the curve that is reported, 0 to 1
    :param seconds: duration; ``None`` if the trial has not ended
    :param failure: why the trial failed; empty if it did not
    """

    number: int
    state: State
    value: float | None
    values: Mapping[str, Any]
    scores: tuple[float, ...]
    share: float
    seconds: float | None
    failure: str


@contextmanager
def open_study(url: str, plan: TuningPlan, missing_hint: str | None = None) -> Iterator[optuna.Study]:
    """Open the study of a search, or create it. Errors of the database in the meantime become ``StorageError``.

    The first trial of a new study has the base's own values, if they belong to the search space.

    :param missing_hint: what to do if the study does not exist; by default it is created
    :raises StorageError: if the database cannot be used, or its study is missing, damaged, or of another search
    """
    import optuna

    name = plan.config.name
    label = f"the study '{name}' in {hide_password(url)}"
    with open_storage(url) as storage:
        if name not in optuna.get_all_study_names(storage):
            if missing_hint is not None:
                raise StorageError(f"{label} does not exist", missing_hint)
            _create_study(storage, plan)
        study = optuna.load_study(study_name=name, storage=storage)
        _check_study(study, plan, label)
        yield study


def _create_study(storage: optuna.storages.BaseStorage, plan: TuningPlan) -> None:
    import optuna

    direction = OBJECTIVES[plan.config.objective].direction
    study = optuna.create_study(storage=storage, study_name=plan.config.name, direction=direction)
    study.set_user_attr(_SEARCH, _describe_search(plan))
    if all(dimension.contains(dimension.base_value) for dimension in plan.space):
        study.enqueue_trial({dimension.path: _encode(dimension, dimension.base_value) for dimension in plan.space})


def _check_study(study: optuna.Study, plan: TuningPlan, label: str) -> None:
    """Check that a study belongs to a search and is complete.

    :raises StorageError: if it does not, or is not
    """
    if changes := [*describe_changes(study.user_attrs.get(_SEARCH, {}), _describe_search(plan))]:
        message = f"{label} belongs to another search: {'; '.join(abbreviate(changes, _MAX_CHANGES))}"
        raise StorageError(message, "rename the search, or undo the changes")
    for trial in read_trials(study, plan):
        if trial.state == "finished" and len(trial.values) < len(plan.space):
            message = f"{label} is damaged: trial {trial.number} lacks values"
            raise StorageError(message, "restore a copy of the database, or rename the search")


def suggest_values(trial: optuna.Trial, space: tuple[Dimension, ...]) -> dict[str, Any]:
    """Let the sampler choose the values of a trial; return them by dotted path."""
    return {dimension.path: _suggest_value(trial, dimension) for dimension in space}


def _suggest_value(trial: optuna.Trial, dimension: Dimension) -> Any:
    domain, path, labels = dimension.domain, dimension.path, dimension.choice_labels
    if domain.choices is not None:
        return domain.choices[labels.index(trial.suggest_categorical(path, labels))]
    if dimension.is_integer:
        return trial.suggest_int(path, domain.low, domain.high, step=domain.step or 1, log=domain.log)
    return trial.suggest_float(path, domain.low, domain.high, step=domain.step, log=domain.log)


def wait_for_trial(study: optuna.Study, total: int, check: Callable[[], None]) -> bool:
    """Wait until there is a trial to run. While others run, one of them may die and have to run again.

    :param total: number of trials that are wanted
    :param check: called repeatedly; may raise
    :return: whether there is a trial to run; ``False`` when ``total`` trials have ended
    """
    import optuna

    while True:
        check()
        optuna.storages.fail_stale_trials(study)
        states = [trial.state for trial in _get_counted_trials(study)]
        n_ended = sum(state.is_finished() for state in states)
        if n_ended >= total:
            return False
        if n_ended + states.count(optuna.trial.TrialState.RUNNING) < total:
            return True
        time.sleep(_WAIT)


def has_trials_left(study: optuna.Study, plan: TuningPlan) -> bool:
    """Return whether fewer trials have ended than are wanted."""
    n_ended: int = sum(trial.state.is_finished() for trial in _get_counted_trials(study))
    return n_ended < plan.config.trials


def is_surplus(study: optuna.Study, trial: optuna.Trial, total: int) -> bool:
    """Return whether ``total`` trials began before this one. Two workers that ask at once can cause that."""
    import optuna

    begun = [other for other in _get_counted_trials(study) if other.state != optuna.trial.TrialState.WAITING]
    if sum(other.number < trial.number for other in begun) < total:
        return False
    trial.set_user_attr(_SURPLUS, True)
    return True


def record_failure(trial: optuna.Trial, reason: str) -> None:
    """Store why a trial fails."""
    trial.set_user_attr(_FAILURE, reason)


def record_scores(trial: optuna.Trial, scores: list[float]) -> None:
    """Store the scores of the trainings so far."""
    trial.set_user_attr(_SCORES, scores)


def requeue_trial(study: optuna.Study, number: int) -> None:
    """Enqueue an interrupted trial again, with its reports so far."""
    import optuna

    with suppress(RuntimeError):  # brute_force stops the study after its last values, which only a running one accepts
        study.tell(number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(None, inherit_intermediate_values=True)
    retry(study, study.get_trials(deepcopy=True)[number])


def read_trials(study: optuna.Study, plan: TuningPlan) -> list[Trial]:
    """Return the trials of a study by number, without those that another trial has replaced."""
    return [_read_trial(trial, plan) for trial in _get_counted_trials(study)]


def compute_importances(study: optuna.Study) -> dict[str, float]:
    """Return how much each value decides whether a trial is among the best tenth (PED-ANOVA, Watanabe et al. 2023).

    :return: shares by dotted path, whose sum is 1; empty if the trials are too few or too similar
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return dict(optuna.importance.get_param_importances(study))
        except UserWarning:  # too few trials, or too many equal ones
            return {}


def _read_trial(trial: optuna.trial.FrozenTrial, plan: TuningPlan) -> Trial:
    space = {dimension.path: dimension for dimension in plan.space}
    state = _STATES[trial.state.name]
    failure = trial.user_attrs.get(_FAILURE, "its process died") if state == "failed" else ""
    return Trial(
        number=trial.number,
        state=state,
        value=trial.value,
        values={path: _decode(space[path], label) for path, label in trial.params.items()},
        scores=tuple(trial.user_attrs.get(_SCORES, ())),
        share=(trial.last_step or 0) / (REPORTS_PER_TRAINING * len(plan.trainings)),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        failure=failure,
    )


def _get_counted_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that count: no retried and no surplus ones."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    return [trial for trial in trials if trial.number not in retried and _SURPLUS not in trial.user_attrs]


def _encode(dimension: Dimension, value: Any) -> Any:
    choices = dimension.domain.choices
    return value if choices is None else dimension.choice_labels[choices.index(value)]


def _decode(dimension: Dimension, label: Any) -> Any:
    choices = dimension.domain.choices
    return label if choices is None else choices[dimension.choice_labels.index(label)]


def _describe_search(plan: TuningPlan) -> dict[str, Any]:
    """Return what identifies a search: its study accepts no other."""
    search = plan.config.dump()
    keys = ("search", "seeds", "objective", "across_variants")
    description = {"base": plan.base.to_document().data} | {key: search[key] for key in keys if key in search}
    if "variants" in search:  # in a list, as their order counts
        description["variants"] = [{"name": name, "values": values} for name, values in search["variants"].items()]
    return description
