"""What is done between two rollouts of a training, where all of it can be saved and brought back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from toolkit.snapshots import training_state
from toolkit.snapshots.store import SnapshotStore
from toolkit.utils.signals import SignalGuard

_log = logging.getLogger("toolkit")


class StopTraining(Exception):  # noqa: N818 - as StopIteration, no error
    """Ends the training of an algorithm that goes on after a callback said stop."""


class RunCallbackList(CallbackList):
    """A run's callbacks; the word of each counts: ARS drops what ``on_step`` returns, so the next step ends it."""

    def __init__(self, callbacks: list[BaseCallback], boundary: RolloutHook) -> None:
        super().__init__(callbacks)
        self._boundary = boundary
        self._stopped = False

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._boundary.begin()

    def _on_rollout_start(self) -> None:
        self._boundary.on_rollout_start()
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        if self._stopped:
            raise StopTraining
        self._stopped = not super()._on_step()
        return not self._stopped


class RolloutHook:
    """What happens where a rollout starts: the state of a snapshot is put back, or one is taken, or training stops.

    :param callbacks: those whose state is a part of training's
    :param score: gives the mean raw return of the last episodes, if any has been completed
    :param kept: the snapshot that training goes on from, if there is one
    :ivar rollouts: how many there have been before
    :ivar is_resumed: whether there is such a snapshot
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        callbacks: Sequence[BaseCallback],
        score: Callable[[], float | None],
        snapshots: SnapshotStore,
        interrupts: SignalGuard,
        kept: dict[str, Any] | None,
    ) -> None:
        self._model = model
        self._callbacks = callbacks
        self._score = score
        self._interrupts = interrupts
        self._kept = kept
        self._first = self.rollouts = kept["rollouts"] if kept else 0
        self.is_resumed = kept is not None
        self._snapshots = snapshots
        self._taker: training_state.TrainingStateCapture  # from the start of training on
        self._said = 0

    def begin(self) -> None:
        """Say what no snapshot could bring back."""
        self._taker = training_state.TrainingStateCapture(self._model, self._callbacks)
        self._say_what_is_missed()

    def on_rollout_start(self) -> None:
        """Pass from one rollout to the next.

        :raises InterruptedTraining: if a signal has come, after a snapshot
        """
        if not training_state.can_resume(self._model):
            return
        timesteps = self._model.num_timesteps
        if self._kept is not None:
            training_state.restore_at_rollout_start(self._model, self._callbacks, self._kept)
            self._kept = None
        if self.rollouts == self._first:
            self._snapshots.resume_from(timesteps)
        if self._interrupts.pending is not None or self._snapshots.is_due(timesteps):
            self._snapshots.save(timesteps, self._take, self._score())
        self._interrupts.raise_pending()
        self.rollouts += 1

    def _take(self) -> dict[str, Any]:
        taken = self._taker.take() | {"rollouts": self.rollouts}
        self._say_what_is_missed()
        return taken

    def _say_what_is_missed(self) -> None:
        for what in self._taker.missed[self._said :]:
            _log.warning("not exact after `toolkit resume`: %s", what)
        self._said = len(self._taker.missed)
