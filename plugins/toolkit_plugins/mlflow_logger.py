"""MLflow, where the runs of a project can be compared."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from toolkit.utils.files import lock_directory
from toolkit_plugins.tracking import TrackingCallback, flat

# MLflow reports how it is used to its makers, and refuses stores of plain files, unless it is told before its import
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

_STATUS = {"success": "FINISHED", "finished": "FINISHED", "interrupted": "KILLED"}
_BATCH = 100  # MLflow takes no more parameters at once


class MLflowCallback(TrackingCallback):
    """Log a run to MLflow: config, every number of SB3's logger by timestep, and the result.

    Training is the same without it; a store that fails costs a warning. A resumed run goes on in its MLflow run, which
    keeps what it has: values that training logs once more, as it was killed after a snapshot, are not added again. The
    MLflow run of a training that was killed is ``RUNNING`` until it is resumed.

    :param experiment: MLflow's name for the runs that belong together; by default the config's name
    :param tracking_uri: any that MLflow takes; by default what the environment variable ``MLFLOW_TRACKING_URI`` says,
        or else ``mlruns`` beside the run directory, so that all runs there are in one store of plain files
    :param artifacts: copy the config, the result, the model and the videos there when training ends
    """

    SERVICE = "mlflow"

    def __init__(
        self, experiment: str | None = None, tracking_uri: str | None = None, artifacts: bool = False
    ) -> None:
        super().__init__(artifacts)
        self.experiment = experiment
        self.tracking_uri = tracking_uri

    def _open(self, known: str | None) -> str:
        run = self.context.run
        beside = (run.directory.resolve().parent / "mlruns").as_uri()
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or beside
        with _one_after_the_other(uri):
            self._client = MlflowClient(uri)
            self._id = self._gone_on_with(known) or self._begun(run.directory.resolve().name)
        logged = self._client.get_run(self._id).data.metrics
        self._last = {
            name: max(one.step for one in self._client.get_metric_history(self._id, name)) for name in logged
        }
        return self._id

    def _gone_on_with(self, known: str | None) -> str | None:
        if known is not None:
            try:
                self._client.update_run(known, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return known

    def _begun(self, name: str) -> str:
        config = self.context.run.config
        experiment = self._experiment(self.experiment or config.name)
        begun: str = self._client.create_run(experiment, run_name=name).info.run_id
        leaves = flat(config.to_document().data, ".")
        params = [Param(_allowed(key), str(value)) for key, value in leaves.items()]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(begun, params=params[start : start + _BATCH])
        return begun

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which may be new."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                self._client.create_experiment(name)
            except MlflowException as error:  # a run elsewhere may have made it at this instant
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _send(self, numbers: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        new = {_allowed(name): value for name, value in numbers.items() if step > self._last.get(_allowed(name), -1)}
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in new.items()])

    def _end(self, result: dict[str, Any]) -> None:
        numbers = {f"result/{key}": float(value) for key, value in result.items() if isinstance(value, Real)}
        self._send(numbers, self.num_timesteps)
        self._client.set_tag(self._id, "status", result["status"])
        self._client.set_terminated(self._id, _STATUS.get(result["status"], "FAILED"))
        for path in self._files():
            folder = path.parent.relative_to(self.context.run.directory)
            self._client.log_artifact(self._id, str(path), None if folder.name == "" else str(folder))


@contextmanager
def _one_after_the_other(uri: str) -> Iterator[None]:
    """Let runs that start at once take turns in a store of files, where MLflow itself lets them collide."""
    if not is_local_uri(uri):
        yield
        return
    store = Path(local_file_uri_to_path(uri))
    store.mkdir(parents=True, exist_ok=True)
    with lock_directory(store):
        yield


def _allowed(name: str) -> str:
    """Replace what MLflow allows in no name."""
    return re.sub(r"[^\w\-. :/]", "_", name)
