"""Short trainings in temporary run directories, as `toolkit train` and `toolkit resume` run them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from toolkit.config.load import ResolvedConfig
from toolkit.snapshots import training_state
from toolkit.testing.component import ConformanceError
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError, describe_error
from toolkit.utils.text import abbreviate

_SHOWN_NAMES = 3


class SimulatedCrash(Exception):  # noqa: N818 - raised on purpose, not an error
    """Ends a training as a power cut would."""


class TrainingObserver(BaseCallback):
    """Runs after the config's callbacks, keeps references to what is trained, and may crash the training.

    :param crash_at: the timestep at which it raises :class:`SimulatedCrash`
    :ivar initial_weights: the policy's weights before training
    :ivar callback_state: the state of the config's callback, if it has one, at the last rollout start
    :ivar unsaved: the callback's attributes that no snapshot can hold
    """

    def __init__(self, crash_at: float = math.inf) -> None:
        super().__init__()
        self.crash_at = crash_at
        self.initial_weights: dict[str, torch.Tensor] = {}
        self.callback_state: dict[str, Any] = {}
        self.unsaved: list[str] = []

    def _on_training_start(self) -> None:
        self.initial_weights = copy.deepcopy(self.model.policy.state_dict())
        callback_list: Any = self.locals.get("callback")
        config_callbacks = getattr(callback_list, "callbacks", ())[1:2]  # the first is the toolkit's
        self._observed = [callback for callback in config_callbacks if callback is not self]
        self._capture = training_state.TrainingStateCapture(self.model, self._observed)

    def _on_rollout_start(self) -> None:
        for callback in self._observed:  # a snapshot captures the same state at this time
            ((_, callback_state, *_),) = self._capture.capture()["callbacks"]
            self.callback_state = copy.deepcopy(callback_state)
            prefix = f"callback {type(callback).__name__}: "
            self.unsaved = [name.removeprefix(prefix) for name in self._capture.unsaved if name.startswith(prefix)]

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.crash_at:
            raise SimulatedCrash
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the observer is no part of training."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


def train_briefly(
    config: ResolvedConfig, out: Path, failure: str, advice: str
) -> tuple[RunDirectory, TrainingObserver]:
    """Train a config to its end.

    :param failure: begins the message if training fails
    :param advice: ends that message
    :raises ConformanceError: if training fails
    """
    observer = TrainingObserver()
    try:
        return train(config, out, [observer]), observer
    except TrainingError as error:
        raise ConformanceError(f"{failure}: {_describe_cause(error)}; {advice}") from error


def crash_and_resume(
    config: ResolvedConfig, out: Path, crash_at: int, failure: str, advice: str
) -> TrainingObserver | None:
    """Train, crash at a timestep, and resume from the latest snapshot; None if training ends before the crash.

    :param failure: begins the message if a training fails
    :param advice: ends that message
    :raises ConformanceError: if training or resuming fails, or there is no snapshot
    """
    try:
        train(config, out, [TrainingObserver(crash_at)])
    except TrainingError as error:
        if not isinstance(error.__cause__, SimulatedCrash):
            raise ConformanceError(f"{failure}: {_describe_cause(error)}; {advice}") from error
    else:
        return None
    if not any((out / "snapshots").glob("*/state.json")):
        raise ConformanceError(f"{failure}: no snapshot could be written; {advice}")
    observer = TrainingObserver()
    try:
        resume(RunDirectory(out, config), [observer])
    except Exception as error:
        raise ConformanceError(f"{failure}: {describe_error(error)}; {advice}") from error
    return observer


def _describe_cause(error: TrainingError) -> str:
    return describe_error(error.__cause__ or error)


def find_different_tensors(
    model: BaseAlgorithm | torch.nn.Module, other: BaseAlgorithm | torch.nn.Module
) -> list[str]:
    """Return the names of the tensors in which two models or policies differ."""
    tensors, other_tensors = _find_tensors(model), _find_tensors(other)
    names = tensors.keys() | other_tensors.keys()
    return sorted(name for name in names if not _is_equal(tensors.get(name), other_tensors.get(name)))


def join_names(names: Sequence[str]) -> str:
    """Join the first names, and count the others."""
    return ", ".join(abbreviate(names, _SHOWN_NAMES))


def _find_tensors(owner: Any) -> dict[str, torch.Tensor]:
    """Return every tensor of a model or policy, also those outside of the networks' state dicts."""
    modules = {"": owner} if isinstance(owner, torch.nn.Module) else {}
    tensors = {}
    for name, value in vars(owner).items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, torch.nn.Module):
            modules[name] = value
    for name, module in modules.items():
        for path, submodule in module.named_modules(prefix=name):
            own_tensors = {
                **dict(submodule.named_parameters(recurse=False)),
                **dict(submodule.named_buffers(recurse=False)),
                **{key: value for key, value in vars(submodule).items() if isinstance(value, torch.Tensor)},
            }
            tensors |= {f"{path}.{key}".lstrip("."): value for key, value in own_tensors.items()}
    return tensors


def _is_equal(tensor: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if tensor is None or other is None:
        return False
    return torch.equal(tensor.detach().cpu(), other.detach().cpu())
