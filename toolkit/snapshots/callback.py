"""What happens between two rollouts of a training, where its whole state can be saved and restored."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from toolkit.snapshots import training_state
from toolkit.snapshots.store import SnapshotStore
from toolkit.utils.signals import SignalGuard

_log = logging.getLogger("toolkit")


class StopTraining(Exception):  # noqa: N818 - no error, as StopIteration
    """Ends the training of an algorithm that continues after a callback returned False."""


class RunCallbackList(CallbackList):
    """The callbacks of a run. Each of them can end training.

    ARS ignores what ``on_step`` returns, so the next step raises :class:`StopTraining`.
    """

    def __init__(self, callbacks: list[BaseCallback], rollout_hook: RolloutHook) -> None:
        super().__init__(callbacks)
        self._rollout_hook = rollout_hook
        self._is_stopped = False

    def _init_callback(self) -> None:
        with warnings.catch_warnings():  # of the toolkit's layer around the training environments
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            super()._init_callback()

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._rollout_hook.on_training_start()

    def _on_rollout_start(self) -> None:
        self._rollout_hook.on_rollout_start()
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        if self._is_stopped:
            raise StopTraining
        self._is_stopped = not super()._on_step()
        return not self._is_stopped


class RolloutHook:
    """Restores a snapshot where the first rollout starts, and saves one or stops training where others start.

    :param callbacks: those whose state belongs to the training state
    :param score: returns the mean raw return of the last episodes; None before the first has ended
    :param saved_state: the snapshot that training resumes from; None if it starts anew
    :ivar rollouts: number of rollouts that have started
    :ivar is_resumed: whether training resumes from a snapshot
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        callbacks: Sequence[BaseCallback],
        score: Callable[[], float | None],
        snapshots: SnapshotStore,
        signal_guard: SignalGuard,
        saved_state: dict[str, Any] | None,
    ) -> None:
        self._model = model
        self._callbacks = callbacks
        self._score = score
        self._signal_guard = signal_guard
        self._saved_state = saved_state
        self._first_rollout = self.rollouts = saved_state["rollouts"] if saved_state else 0
        self.is_resumed = saved_state is not None
        self._snapshots = snapshots
        self._state_capture: training_state.TrainingStateCapture  # from the start of training on
        self._n_warned = 0

    def on_training_start(self) -> None:
        """Warn of what no snapshot can restore."""
        run = self._snapshots.run_directory
        self._state_capture = training_state.TrainingStateCapture(self._model, self._callbacks, run)
        self._warn_of_unsaved()

    def on_rollout_start(self) -> None:
        """Restore or save what is due, then let a rollout start.

        :raises InterruptedTraining: if a signal has come; the snapshot is saved before
        """
        if not training_state.can_resume(self._model):
            return
        timesteps = self._model.num_timesteps
        if self._saved_state is not None:
            run = self._snapshots.run_directory
            training_state.restore_at_rollout_start(self._model, self._callbacks, self._saved_state, run)
            self._saved_state = None
        if self.rollouts == self._first_rollout:
            self._snapshots.resume_from(timesteps)
        if self._signal_guard.pending is not None or self._snapshots.is_due(timesteps):
            self._snapshots.save(timesteps, self._capture, self._score())
        self._signal_guard.raise_pending()
        self.rollouts += 1

    def _capture(self) -> dict[str, Any]:
        state = self._state_capture.capture() | {"rollouts": self.rollouts}
        self._warn_of_unsaved()
        return state

    def _warn_of_unsaved(self) -> None:
        for part in self._state_capture.unsaved[self._n_warned :]:
            _log.warning("not exact after `toolkit resume`: %s", part)
        self._n_warned = len(self._state_capture.unsaved)
