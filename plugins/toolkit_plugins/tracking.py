"""Base of the callbacks that send a run to an experiment-tracking service."""

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
from toolkit.utils.data import flatten
from toolkit.utils.errors import describe_error
from toolkit.utils.files import read_text


class TrackingCallback(RunCallback):
    """Send the config, every number that SB3's logger gets, and the result of a run to a tracking service.

    The service never changes training: if it fails, the callback logs a warning and sends nothing more. A resumed run
    continues its run at the service. The id of that run is in ``<service>_run_id.txt`` in the run directory. It is not
    in snapshots, because a run can be resumed before its first snapshot.

    :param artifacts: whether to store config, result, model and videos at the service when training ends
    :cvar SERVICE: name of the service in messages, and in the ``exclude`` parameter of SB3's ``Logger.record``
    """

    SERVICE: ClassVar[str]

    def __init__(self, artifacts: bool) -> None:
        super().__init__()
        self.artifacts = artifacts
        self._is_open = False
        self._has_failed = False

    @abstractmethod
    def _open(self, run_id: str | None) -> str:
        """Start a run at the service, or continue the run with this id; return the id."""

    @abstractmethod
    def _send(self, numbers: dict[str, float], step: int) -> None:
        """Send the numbers of one timestep."""

    @abstractmethod
    def _finish(self, result: dict[str, Any]) -> None:
        """Send the result and the artifacts, and close the run at the service.

        :param result: ``result.json`` as flat data; it always has a ``status``
        """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing, because the service has the state of its run."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""

    def _on_training_start(self) -> None:
        run = self.context.run
        id_file = run.directory / f"{self.SERVICE}_run_id.txt"
        with self._warn_of_failure():
            run_id = read_text(id_file).strip() if id_file.exists() else None
            run.write(id_file.name, f"{self._open(run_id)}\n")
            self._is_open = True
            self.logger.output_formats.append(_TrackingWriter(self))

    def _on_step(self) -> bool:
        return True

    def write(self, values: dict[str, Any], step: int) -> None:
        """Send those of the values that are numbers, unless the service has failed before."""
        if not self._has_failed:
            with self._warn_of_failure():
                self._send({key: float(value) for key, value in values.items() if isinstance(value, Real)}, step)

    def close(self) -> None:
        """Send the result, and close the run at the service."""
        if self._is_open:
            self._is_open = False
            with self._warn_of_failure():
                self._finish(flatten(self.context.run.result or {"status": "failed"}, "/"))

    def _list_artifacts(self) -> list[Path]:
        """List the files to store at the service."""
        if not self.artifacts:
            return []
        run = self.context.run
        files = [run.directory / name for name in ("config.yaml", "result.json", "model.zip")]
        return [path for path in [*files, *sorted(run.videos.glob("*"))] if path.is_file()]

    @contextmanager
    def _warn_of_failure(self) -> Iterator[None]:
        """Turn every failure into a warning, also W&B's, which exits Python if its process was killed."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._has_failed = True
            logging.getLogger("toolkit").warning(
                "%s: %s; training continues without it", self.SERVICE, describe_error(error).replace("\n", "; ")
            )


class _TrackingWriter(KVWriter):
    """Pass what SB3's logger records to a tracking callback."""

    def __init__(self, callback: TrackingCallback) -> None:
        self._callback = callback

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self._callback.write(filter_excluded_keys(key_values, key_excluded, self._callback.SERVICE), step)

    def close(self) -> None:
        """Do nothing: the result is not known when SB3 closes its logger."""
