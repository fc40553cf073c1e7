"""Short trainings in temporary run directories, as `toolkit train` and `toolkit resume` make them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from toolkit.config.schema import RunConfig
from toolkit.snapshots import training_state
from toolkit.testing.component import ConformanceError
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError, describe_error


class BrokenOff(Exception):  # noqa: N818 - no error: it was asked for
    """Ends a rehearsal as a power cut would."""


class Observer(BaseCallback):
    """Comes after the config's callbacks, keeps hold of what is trained, and may break training off.

    :param stop_at: the timestep at which it does
    :ivar before: the policy's weights before training
    :ivar held: the state of the config's callback, if it has one, where the last rollout started
    :ivar missed: what of it no snapshot can hold
    """

    def __init__(self, stop_at: float = math.inf) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.before: dict[str, torch.Tensor] = {}
        self.held: dict[str, Any] = {}
        self.missed: list[str] = []

    def _on_training_start(self) -> None:
        self.before = copy.deepcopy(self.model.policy.state_dict())
        root: Any = self.locals.get("callback")
        called = getattr(root, "callbacks", ())[1:2]  # before them is the toolkit's
        self._watched = [one for one in called if one is not self]
        self._taker = training_state.TrainingStateCapture(self.model, self._watched)

    def _on_rollout_start(self) -> None:
        for callback in self._watched:  # as a snapshot has it, which is taken just before
            ((_, held, *_),) = self._taker.capture()["callbacks"]
            self.held = copy.deepcopy(held)
            own = f"callback {type(callback).__name__}: "
            self.missed = [what.removeprefix(own) for what in self._taker.unsaved if what.startswith(own)]

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.stop_at:
            raise BrokenOff
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: it is no part of training."""
        return {}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Take nothing."""


def dry_run(config: RunConfig, out: Path, failed: str, advice: str) -> tuple[RunDirectory, Observer]:
    """Train as a config says.

    :param failed: what to say first if it fails, and ``advice`` last
    :raises ConformanceError: if training fails
    """
    observer = Observer()
    try:
        return train(config, out, [observer]), observer
    except TrainingError as error:
        raise ConformanceError(f"{failed}: {_cause(error)}; {advice}") from error


def rehearse_in_two(config: RunConfig, out: Path, stop_at: int, failed: str, advice: str) -> Observer | None:
    """Train, break off, and go on from the last snapshot; None if training ended before the break.

    :raises ConformanceError: if training fails, or there is no snapshot
    """
    try:
        train(config, out, [Observer(stop_at)])
    except TrainingError as error:
        if not isinstance(error.__cause__, BrokenOff):
            raise ConformanceError(f"{failed}: {_cause(error)}; {advice}") from error
    else:
        return None
    if not any((out / "snapshots").glob("*/state.json")):
        raise ConformanceError(f"{failed}: no snapshot could be written; {advice}")
    observer = Observer()
    try:
        resume(RunDirectory(out, config), [observer])
    except Exception as error:
        raise ConformanceError(f"{failed}: {describe_error(error)}; {advice}") from error
    return observer


def _cause(error: TrainingError) -> str:
    return describe_error(error.__cause__ or error)


def tensors(owner: Any) -> dict[str, torch.Tensor]:
    """Return every tensor in a model or policy, also what networks keep beside their state dicts."""
    modules = {"": owner} if isinstance(owner, torch.nn.Module) else {}
    found = {}
    for name, value in vars(owner).items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, torch.nn.Module):
            modules[name] = value
    for name, module in modules.items():
        for path, part in module.named_modules(prefix=name):
            held = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
            held |= {key: value for key, value in vars(part).items() if isinstance(value, torch.Tensor)}
            found |= {f"{path}.{key}".lstrip("."): value for key, value in held.items()}
    return found


def differing(one: BaseAlgorithm | torch.nn.Module, other: BaseAlgorithm | torch.nn.Module) -> list[str]:
    """Name the tensors in which two models or policies differ."""
    ones, others = tensors(one), tensors(other)
    return sorted(name for name in ones.keys() | others.keys() if not _equal(ones.get(name), others.get(name)))


def few(names: Sequence[str]) -> str:
    """Write the first of some names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one.detach().cpu(), other.detach().cpu())
