"""What the callbacks that send a run to a tracking service have in common."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from toolkit.training.callbacks import RunCallback
from toolkit.utils.errors import describe_error
from toolkit.utils.files import read_text


class TrackingCallback(RunCallback):
    """Send a run's config, every number that SB3's logger gets, and how the run ended to a tracking service.

    Training is the same without it. A service that fails is reported, and training goes on without it. A run that is
    gone on with goes on there as well: its id is kept in ``<service>_run_id.txt`` in the run directory rather than in
    snapshots, as training can be gone on with before there is one.

    :param artifacts: whether the config, the result, the model and the videos are put there too when training ends
    :cvar SERVICE: its name in messages, and in what SB3's ``Logger.record`` is told to exclude
    """

    SERVICE: ClassVar[str]

    def __init__(self, artifacts: bool) -> None:
        super().__init__()
        self.artifacts = artifacts
        self._opened = False
        self._fails = False

    @abstractmethod
    def _open(self, known: str | None) -> str:
        """Begin a run there, or go on with the one of this id; return its id."""

    @abstractmethod
    def _send(self, numbers: dict[str, float], step: int) -> None:
        """Send numbers of one timestep."""

    @abstractmethod
    def _end(self, result: dict[str, Any]) -> None:
        """Send how the run ended, as flat data with ``status``, then the artifacts, and close it there."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: what a snapshot would put back into this callback is at the service."""
        return {}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Put nothing back."""

    def _on_training_start(self) -> None:
        run = self.context.run
        id_file = run.directory / f"{self.SERVICE}_run_id.txt"
        with self._reported():
            known = read_text(id_file).strip() if id_file.exists() else None
            run.write(id_file.name, f"{self._open(known)}\n")
            self._opened = True
            self.logger.output_formats.append(_Output(self))

    def _on_step(self) -> bool:
        return True

    def write(self, values: dict[str, Any], step: int) -> None:
        """Send those of the values that are numbers, unless the service has failed before."""
        if not self._fails:
            with self._reported():
                self._send({key: float(value) for key, value in values.items() if isinstance(value, Real)}, step)

    def close(self) -> None:
        """Send how the run ended."""
        if self._opened:
            self._opened = False
            with self._reported():
                self._end(flat(self.context.run.result or {"status": "failed"}, "/"))

    def _files(self) -> list[Path]:
        """List what is put there when training ends."""
        run = self.context.run
        names = ("config.yaml", "result.json", "model.zip") if self.artifacts else ()
        videos = sorted(run.videos.glob("*")) if self.artifacts else []
        return [path for path in [*(run.directory / name for name in names), *videos] if path.is_file()]

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Let nothing that fails there end training, not even W&B, which exits Python when its process was killed."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._fails = True
            logging.getLogger("toolkit").warning(
                "%s: %s; training goes on without it", self.SERVICE, describe_error(error).replace("\n", "; ")
            )


class _Output(KVWriter):
    """The place of a service among the outputs of SB3's logger."""

    def __init__(self, callback: TrackingCallback) -> None:
        self._callback = callback

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self._callback.write(filter_excluded_keys(key_values, key_excluded, self._callback.SERVICE), step)

    def close(self) -> None:
        """How the run ended is not known yet."""


def flat(data: Any, separator: str, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists by their paths; an empty one is a leaf."""
    if not isinstance(data, dict | list) or not data:
        return {path: data}
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    leaves: dict[str, Any] = {}
    for key, value in pairs:
        leaves |= flat(value, separator, f"{path}{separator}{key}" if path else str(key))
    return leaves
