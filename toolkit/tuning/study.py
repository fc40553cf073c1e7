"""A study in Optuna's database: opened if it is of the same search, asked for trials, read as plain data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from toolkit.config.yaml_document import flatten
from toolkit.tuning.config import Tuning
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.search_space import Dimension
from toolkit.tuning.storage import opened_storage, shown
from toolkit.utils.errors import StorageError
from toolkit.utils.text import abbreviate

if TYPE_CHECKING:
    import optuna

State = Literal["finished", "pruned", "failed", "running", "waiting"]

REPORTS = 20  # of the learning curve, during the training with one seed
_STATES: dict[str, State] = {
    "COMPLETE": "finished",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
_SEARCH, _FAILURE, _SURPLUS, _SCORES = "search", "failure", "surplus", "scores"
_MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class Trial:
    """A trial as it stands.

    :param value: by the objective; of a pruned one, what it had reported last; ``None`` if there is none
    :param values: of the config, by dotted path
    :param scores: those of the seeds that the value is the mean of
    :param share: of the learning curves of all seeds, how much has been reported, 0 to 1
    :param seconds: how long it took; ``None`` if it has not ended
    :param failure: why it failed; empty if it did not
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
def opened_study(url: str, tuning: Tuning, lost: str | None = None) -> Iterator[optuna.Study]:
    """Open the study of a search, or make it; what goes wrong with the database meanwhile is said.

    One that is made begins with the base's own values, where they are among those searched.

    :param lost: what to do if there is none, where there has to be one
    :raises StorageError: if the database cannot be used, has none, a damaged one, or another search by that name
    """
    import optuna

    name = tuning.config.name
    with opened_storage(url) as storage:
        if name not in optuna.get_all_study_names(storage):
            if lost is not None:
                raise StorageError(f"there is no study '{name}' in {shown(url)}", lost)
            _make(storage, tuning)
        study = optuna.load_study(study_name=name, storage=storage)
        if differences := _differences(study.user_attrs.get(_SEARCH, {}), _searched(tuning)):
            changes = "; ".join(abbreviate(differences, _MOST_DIFFERENCES))
            message = f"the study '{name}' in {shown(url)} is of another search: {changes}"
            raise StorageError(message, "give the search another name, or go on with the file as it was")
        for trial in trials_of(study, tuning):
            if trial.state == "finished" and len(trial.values) < len(tuning.space):
                message = f"the study '{name}' in {shown(url)} is damaged: trial {trial.number} lacks values"
                raise StorageError(message, "bring back a copy of the database, or give the search another name")
        yield study


def _make(storage: optuna.storages.BaseStorage, tuning: Tuning) -> None:
    import optuna

    direction = OBJECTIVES[tuning.config.objective].direction
    study = optuna.create_study(storage=storage, study_name=tuning.config.name, direction=direction)
    study.set_user_attr(_SEARCH, _searched(tuning))
    if all(dimension.holds(dimension.present) for dimension in tuning.space):
        study.enqueue_trial({one.path: _label(one, one.present) for one in tuning.space})


def suggest(trial: optuna.Trial, space: tuple[Dimension, ...]) -> dict[str, Any]:
    """Let the sampler choose a trial's values, and return them by dotted path."""
    return {dimension.path: _suggested(trial, dimension) for dimension in space}


def _suggested(trial: optuna.Trial, dimension: Dimension) -> Any:
    one, path = dimension.searched, dimension.path
    if one.choices is not None:
        return one.choices[dimension.labels.index(trial.suggest_categorical(path, dimension.labels))]
    if dimension.is_whole:
        return trial.suggest_int(path, one.low, one.high, step=one.step or 1, log=one.log)
    return trial.suggest_float(path, one.low, one.high, step=one.step, log=one.log)


def wait_for_work(study: optuna.Study, total: int, check: Callable[[], None]) -> bool:
    """Wait until there is a trial to run, as there may be again when the process of one that runs dies.

    :param check: called now and then; may raise
    :return: whether there is; ``False`` when as many trials as wanted have ended
    """
    import optuna

    while True:
        check()
        optuna.storages.fail_stale_trials(study)
        states = [trial.state for trial in _counted(study)]
        ended = sum(state.is_finished() for state in states)
        if ended >= total:
            return False
        if ended + states.count(optuna.trial.TrialState.RUNNING) < total:
            return True
        time.sleep(0.5)


def is_unfinished(study: optuna.Study, tuning: Tuning) -> bool:
    """Say whether fewer trials have ended than are wanted."""
    ended = [trial for trial in _counted(study) if trial.state.is_finished()]
    return len(ended) < tuning.config.trials


def is_surplus(study: optuna.Study, trial: optuna.Trial, total: int) -> bool:
    """Say whether enough trials had begun before this one, as happens when two workers ask in the same instant."""
    import optuna

    begun = [one for one in _counted(study) if one.state != optuna.trial.TrialState.WAITING]
    if sum(one.number < trial.number for one in begun) < total:
        return False
    trial.set_user_attr(_SURPLUS, True)
    return True


def note_failure(trial: optuna.Trial, reason: str) -> None:
    """Write down why a trial fails."""
    trial.set_user_attr(_FAILURE, reason)


def note_scores(trial: optuna.Trial, scores: list[float]) -> None:
    """Write down what the seeds trained so far have come to."""
    trial.set_user_attr(_SCORES, scores)


def give_back(study: optuna.Study, number: int) -> None:
    """Have a trial that was stopped run again, with what it has reported so far."""
    import optuna

    study.tell(number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
    again = optuna.storages.RetryHeartbeatStaleTrialCallback(None, inherit_intermediate_values=True)
    again(study, study.get_trials(deepcopy=True)[number])


def trials_of(study: optuna.Study, tuning: Tuning) -> list[Trial]:
    """Return the trials of a study by number, without those that were stopped and run again."""
    return [_plain(trial, tuning) for trial in _counted(study)]


def importances(study: optuna.Study) -> dict[str, float]:
    """Return how much it depends on each value whether a trial is among the best tenth (PED-ANOVA, Watanabe 2023).

    :return: shares by dotted path, which sum to 1; none if the trials do not tell
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return dict(optuna.importance.get_param_importances(study))
        except UserWarning:  # too few trials, or too many equal ones
            return {}


def _plain(trial: optuna.trial.FrozenTrial, tuning: Tuning) -> Trial:
    space = {dimension.path: dimension for dimension in tuning.space}
    state = _STATES[trial.state.name]
    failure = trial.user_attrs.get(_FAILURE, "its process died") if state == "failed" else ""
    return Trial(
        number=trial.number,
        state=state,
        value=trial.value,
        values={path: _value(space[path], label) for path, label in trial.params.items()},
        scores=tuple(trial.user_attrs.get(_SCORES, ())),
        share=(trial.last_step or 0) / (REPORTS * len(tuning.config.seeds)),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        failure=failure,
    )


def _counted(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    return [one for one in trials if one.number not in again and _SURPLUS not in one.user_attrs]


def _label(dimension: Dimension, value: Any) -> Any:
    choices = dimension.searched.choices
    return value if choices is None else dimension.labels[choices.index(value)]


def _value(dimension: Dimension, label: Any) -> Any:
    choices = dimension.searched.choices
    return label if choices is None else choices[dimension.labels.index(label)]


def _searched(tuning: Tuning) -> dict[str, Any]:
    """Return what makes a search another one when it changes."""
    kept = {"search", "seeds", "objective"}
    return {"base": tuning.base.to_document().data} | tuning.config.model_dump(mode="json", include=kept)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = flatten(then), flatten(now)
    return [
        f"{'.'.join(map(str, path))} was {old.get(path, 'not there')} and is {new.get(path, 'not there')}"
        for path in dict.fromkeys([*new, *old])
        if old.get(path) != new.get(path)
    ]
