"""Continue the training of a run that has ended, in a directory of its own.

The whole training state comes from a snapshot of that run. Without one, training continues from its model.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from toolkit.config.compose import apply_overrides
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.schema import RunConfig
from toolkit.snapshots import archive, training_state
from toolkit.snapshots.capture import NOTHING
from toolkit.snapshots.restore import RESTORE_ERRORS
from toolkit.training.results import ENDED
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import ConfigError, Problem, RunError
from toolkit.utils.model_files import BEST, find_model

_log = logging.getLogger("toolkit")
_GROWING = ("progress.csv", "tensorboard", BEST)  # files of a run that later training adds to
_INSTEAD = {
    "timesteps": "say how many more with --timesteps",
    "start_from": "start a new run with `toolkit train`, and set start_from there",
}
_MADE_FROM = {  # attributes of SB3's algorithms that follow from parameters of another name
    "learning_rate": "lr_schedule",
    "exploration_fraction": "exploration_schedule",
    "exploration_initial_eps": "exploration_schedule",
    "exploration_final_eps": "exploration_schedule",
}


def make_continued_config(run: RunDirectory, timesteps: int, overrides: Sequence[str]) -> ResolvedConfig:
    """Return the config that trains a run for more timesteps.

    :param timesteps: how many more than the run has
    :param overrides: as after ``--set``
    :raises RunError: if the run has not ended, or has no model
    :raises ConfigError: if an override is invalid, or changes what has to stay
    """
    result = run.result
    if result is None and run.model_path.exists() and not (run.directory / "monitor.csv").exists():
        message = f"{run.directory}: holds a model that was trained elsewhere, and cannot be continued"
        raise RunError(message, "start a new run from it with start_from")
    if result is None or result["status"] not in ENDED:
        raise RunError(f"{run.directory}: has not ended", "`toolkit resume` continues it")
    find_model(run.directory)
    snapshot = _find_latest_snapshot(run.directory)
    model = "final" if snapshot is None else f"snapshot:{snapshot}"
    document = run.config.to_document()
    start_from = {"path": str(run.directory.resolve()), "model": model, "continues": True}
    own = {"timesteps": result["timesteps"] + timesteps, "start_from": start_from}
    apply_overrides(document, own)
    apply_overrides(document, overrides)
    if changed := [key for key in own if document.data[key] != own[key]]:
        problems = [
            Problem((key,), "follows from the options of `toolkit continue`", _INSTEAD[key]) for key in changed
        ]
        raise ConfigError(problems, document.locations)
    return resolve_document(document)


def _find_latest_snapshot(run: Path) -> int | None:
    """Return the timesteps of the latest snapshot that is not damaged."""
    for directory in archive.list_archives(run / "snapshots"):
        with suppress(RunError):
            archive.read(directory)
            return int(directory.name)
    return None


def restore_continued(
    config: ResolvedConfig, model: BaseAlgorithm, callbacks: Sequence[BaseCallback]
) -> dict[str, Any] | None:
    """Restore what ``learn`` reads when it starts, if the config continues a run.

    :param callbacks: the writer of ``monitor.csv``, those of the config, and others
    :return: the training state, whose rest is restored where the first rollout starts; None if there is none
    :raises ConfigError: if it does not fit
    """
    start = config.start_from
    if start is None or not start.continues:
        return None
    parent = RunDirectory.open(start.path)
    try:
        parent.refuse_links()
        if not start.model.startswith("snapshot:"):
            _continue_from_model(config, model, parent)
            return None
        timesteps = int(start.model.partition(":")[2])
        _require_more_timesteps(config, timesteps)
        state: dict[str, Any] = archive.read(parent.directory / "snapshots" / str(timesteps))
        _adapt(state, config, parent.config, callbacks)
        for text in training_state.restore_before_learning(model, callbacks, state):
            _log.warning("%s", text)
    except RESTORE_ERRORS as error:
        text = f"{start.path}: its snapshot is not of such a run: {error}"
        raise config.make_error([Problem(("start_from",), text)]) from error
    except RunError as error:
        raise config.make_error([Problem(("start_from",), error.message, error.hint)]) from error
    _log.info("training continues from timestep %d of %s", timesteps, start.path)
    return state


def copy_logs(config: RunConfig, directory: Path) -> None:
    """Copy the files that training adds to from the run that a config continues from a snapshot, if it does."""
    start = config.start_from
    if start is None or not start.continues or start.model in ("final", "best"):
        return
    for name in _GROWING:
        source = Path(start.path) / name
        if source.is_dir():
            shutil.copytree(source, directory / name)
        elif source.is_file():
            shutil.copy(source, directory / name)


def _continue_from_model(config: ResolvedConfig, model: BaseAlgorithm, parent: RunDirectory) -> None:
    timesteps = (parent.result or {}).get("timesteps", 0)
    _require_more_timesteps(config, timesteps)
    model.num_timesteps = timesteps
    what = "episodes, callbacks and random generators start anew"
    if isinstance(model, OffPolicyAlgorithm):
        model.learning_starts += timesteps
        what = f"{what}, the replay buffer is empty, and learning_starts counts from here"
    _log.warning("%s: has no snapshot, so training continues from its model: %s", parent.directory, what)


def _require_more_timesteps(config: ResolvedConfig, timesteps: int) -> None:
    if config.timesteps <= timesteps:
        message = f"must be more than {timesteps:,}, which the run that this continues has"
        raise config.make_error([Problem(("timesteps",), message)])


def _adapt(
    state: dict[str, Any], config: ResolvedConfig, parent: RunConfig, callbacks: Sequence[BaseCallback]
) -> None:
    """Leave out of a snapshot what the config has changed: parameters of the algorithm, and callbacks."""
    old, new = parent.algorithm.params, config.algorithm.params
    changed = {name for name in {*old, *new} if name not in old or name not in new or old[name] != new[name]}
    left_out = {"_total_timesteps", *changed, *(_MADE_FROM[name] for name in changed & _MADE_FROM.keys())}
    for key in ("attributes", "objects"):
        attributes = state["progress"][key]
        state["progress"][key] = {name: data for name, data in attributes.items() if name not in left_out}
    if config.callbacks == parent.callbacks and len(callbacks) == len(state["callbacks"]):
        return
    state.pop("eval_generators", None)
    writer, *saved = state["callbacks"]
    known = [*zip(parent.callbacks, saved, strict=False)]
    adapted = [writer]
    timesteps = writer[3]
    for index, callback in enumerate(callbacks[1:]):
        entry = config.callbacks[index] if index < len(config.callbacks) else None
        match = next((pair for pair in known if pair[0] == entry), None)
        if match is None:
            adapted.append([type(callback).__name__, {"$": NOTHING}, 0, timesteps])
        else:
            known.remove(match)
            adapted.append(match[1])
    state["callbacks"] = adapted
