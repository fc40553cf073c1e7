"""Start a training from the weights and statistics of another model, checked to fit; no code in its files runs."""

from __future__ import annotations

import logging
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecNormalize

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig
from toolkit.config.schema import StartFromConfig
from toolkit.config.start_from import find_model_file, hash_model
from toolkit.envs.wrapper_state import load_statistics
from toolkit.snapshots import archive
from toolkit.snapshots.policy_state import restore_policy
from toolkit.snapshots.restore import RESTORE_ERRORS, restore_value
from toolkit.snapshots.weights import load_older_weights, load_parameters
from toolkit.training.model import MARK, MAX_ARCHIVE_BYTES, WRAPPER_ARCHIVE
from toolkit.utils.errors import Problem, RunError

_log = logging.getLogger("toolkit")
_NORMALIZERS = ("VecNormalize", "NormalizeObservation")  # without them, a policy gets observations of another scale


def needs_statistics(component: BoundComponent) -> bool:
    """Return whether what a wrapper does to observations depends on what it saw in training."""
    if issubclass(component.cls, VecNormalize):
        return bool(component.arguments.get("norm_obs", True))
    has_state = hasattr(component.cls, "state_dict") and not issubclass(component.cls, NormalizeReward)
    return has_state or issubclass(component.cls, NormalizeObservation)


def load_start(config: ResolvedConfig, model: BaseAlgorithm) -> None:
    """Load what the config starts from into a model with fresh weights, and into its environments, if anything.

    Optimizers keep the settings of the config.

    :raises ConfigError: if the model to start from is not there, is another one, is damaged or does not fit
    """
    start = config.start_from
    if start is None:
        return
    optimizers = {name: deepcopy(optimizer.state_dict()) for name, optimizer in _iterate_optimizers(model)}
    try:
        file = find_model_file(start)
        if hash_model(file) != start.sha256:
            message = f"{file}: is not the model that this run started from (SHA-256 {start.sha256})"
            raise RunError(message, "restore that model")
        states = _load_snapshot(file, model) if file.is_dir() else _load_zip(file, start, model)
        _load_states(config, file, states, model)
    except RunError as error:
        raise config.make_error([Problem(("start_from",), error.message, error.hint)]) from error
    for name, optimizer in _iterate_optimizers(model):
        own = optimizers[name]
        if start.optimizer:
            own = {"state": optimizer.state_dict()["state"], "param_groups": own["param_groups"]}
        optimizer.load_state_dict(own)


def _iterate_optimizers(model: BaseAlgorithm) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    for name in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, name)
        if isinstance(part, torch.optim.Optimizer):
            yield name, part


def _load_zip(file: Path, start: StartFromConfig, model: BaseAlgorithm) -> dict[str, Any] | None:
    """Load the weights of a zip; return what is saved beside it, None if nothing is.

    :raises RunError: if it does not fit, or what belongs to it is missing
    """
    for reason in load_older_weights(file, model, "this config", with_optimizers=start.optimizer):
        _log.warning("%s: %s: this optimizer starts anew", file, reason)
    directory = file.parent / WRAPPER_ARCHIVE
    with zipfile.ZipFile(file) as content:
        is_own, is_of_run = content.comment == MARK, Path(start.path).is_dir()
    if not directory.exists() and is_own and is_of_run:
        raise RunError(f"{directory}: does not exist, but must hold what the wrappers and the policy learned")
    if not directory.exists() or not (is_own or is_of_run):
        return None
    state: dict[str, Any] = archive.read(directory, MAX_ARCHIVE_BYTES)
    return state


def _load_snapshot(directory: Path, model: BaseAlgorithm) -> dict[str, Any]:
    """Load the weights of a snapshot; return its statistics in the form of a run's.

    :raises RunError: if it is damaged, or does not fit
    """
    saved = archive.read(directory)
    try:
        load_parameters(restore_value(saved["parameters"]), model)
        for name, variable in saved["variables"].items():
            recursive_getattr(model, name).data.copy_(restore_value(variable))
        environments = saved["environments"]
        first = environments[0] if environments else {}
        names, states = first.get("classes", []), first.get("wrappers", [])
        return {
            "policy": saved.get("policy", {}),
            "wrappers": [{"class": name, "state": state} for name, state in zip(names, states, strict=False)],
            "vec_wrappers": [{"class": name, "state": state} for name, state in saved["vec_wrappers"]],
            "n_envs": len(environments),
        }
    except RESTORE_ERRORS as error:
        raise RunError(f"{directory}: does not fit this config: {error}") from error


def _load_states(config: ResolvedConfig, file: Path, states: dict[str, Any] | None, model: BaseAlgorithm) -> None:
    """Load what wrappers and policy learned.

    :raises RunError: if it does not fit, or this config needs statistics that the model does not have, or other ones
    """
    components = config.components
    wrappers = [*components.base_wrappers, *components.wrappers, *components.vec_wrappers]
    needed = Counter(wrapper.cls.__name__ for wrapper in wrappers if needs_statistics(wrapper))
    states = states or {"wrappers": [], "vec_wrappers": [], "n_envs": 0}
    try:
        has_classes = "n_envs" in states
        known = Counter(_list_learned(states)) if has_classes else needed
        if missing := needed - known:
            hint = "start from a run with it; `toolkit import-sb3 --vec-normalize FILE` makes one of a zip"
            raise RunError(f"{file}: has no statistics of {next(iter(missing))}, on which this config acts", hint)
        left_out = {name: n for name, n in (known - needed).items() if name in _NORMALIZERS}
        if left_out:
            name = next(iter(left_out))
            raise RunError(f"{file}: acts on observations of {name}, which this config does not have", "add it")
        restore_policy(model, states.get("policy", {}))
        venv = model.get_env()
        if venv is not None and states.get("vec_wrappers") is not None and (misfits := load_statistics(venv, states)):
            raise ValueError(f"it has other {misfits[0]}")
    except RESTORE_ERRORS as error:
        raise RunError(f"{file}: does not fit this config: {error}") from error


def _list_learned(states: dict[str, Any]) -> Iterator[str]:
    """Yield the class names of wrappers whose states are saved, except those that leave observations as they are."""
    for state in [*states["wrappers"], *states["vec_wrappers"]]:
        if state is None:
            continue
        with suppress(TypeError, KeyError):
            if state["state"]["state"]["norm_obs"] is False:
                continue
        yield state["class"]
