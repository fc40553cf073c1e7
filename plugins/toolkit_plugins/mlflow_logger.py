"""Experiment tracking with MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from toolkit.utils.data import flatten
from toolkit.utils.files import lock_directory
from toolkit_plugins.optional_packages import require_package
from toolkit_plugins.tracking import TrackingCallback

require_package("mlflow")
# MLflow reads both when it is imported: it would send usage data, and refuse stores of plain files
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

_STATUS = {"success": "FINISHED", "finished": "FINISHED", "interrupted": "KILLED"}
_MAX_PARAMS = 100  # MLflow's limit for one batch


class MLflowCallback(TrackingCallback):
    """Log a run to MLflow: its config, every number of SB3's logger by timestep, and its result.

    MLflow never changes training; if its store fails, there is a warning. A resumed run continues its MLflow run.
    Values that training logs again after a snapshot are not added twice. The MLflow run of a killed training stays
    ``RUNNING`` until the run is resumed.

    :param experiment: name of the MLflow experiment; by default the name of the config
    :param tracking_uri: URI of the MLflow server or store; by default the environment variable
        ``MLFLOW_TRACKING_URI``, or else ``mlruns`` beside the run directory, a store of plain files
    :param artifacts: store config, result, model and videos as artifacts when training ends
    """

    SERVICE = "mlflow"

    def __init__(
        self, experiment: str | None = None, tracking_uri: str | None = None, artifacts: bool = False
    ) -> None:
        import mlflow  # noqa: F401 - so that training does not start with a broken one

        super().__init__(artifacts)
        self.experiment = experiment
        self.tracking_uri = tracking_uri

    def _open(self, run_id: str | None) -> str:
        from mlflow import MlflowClient

        run = self.context.run
        default_uri = (run.directory.resolve().parent / "mlruns").as_uri()
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri
        with _lock_file_store(uri):
            self._client = MlflowClient(uri)
            self._run_id = self._continue_run(run_id) or self._create_run(run.directory.resolve().name)
        metrics = self._client.get_run(self._run_id).data.metrics
        self._last_steps = {
            name: max(metric.step for metric in self._client.get_metric_history(self._run_id, name))
            for name in metrics
        }
        return self._run_id

    def _continue_run(self, run_id: str | None) -> str | None:
        """Return the id of a run that still exists."""
        from mlflow.exceptions import MlflowException

        if run_id is not None:
            try:
                self._client.update_run(run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return run_id

    def _create_run(self, name: str) -> str:
        from mlflow.entities import Param

        config = self.context.run.config
        experiment_id = self._get_experiment_id(self.experiment or config.name)
        run_id: str = self._client.create_run(experiment_id, run_name=name).info.run_id
        params = [Param(_clean_name(key), str(value)) for key, value in flatten(config.to_document().data).items()]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
        return run_id

    def _get_experiment_id(self, name: str) -> str:
        """Return the id of an experiment; create the experiment if it does not exist."""
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                self._client.create_experiment(name)
            except MlflowException as error:  # another run may have created it just now
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id)

    def _send(self, numbers: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        milliseconds = int(time.time() * 1000)
        cleaned = {_clean_name(name): value for name, value in numbers.items()}
        new = {name: value for name, value in cleaned.items() if step > self._last_steps.get(name, -1)}
        self._client.log_batch(self._run_id, [Metric(name, new[name], milliseconds, step) for name in new])

    def _finish(self, result: dict[str, Any]) -> None:
        numbers = {f"result/{key}": float(value) for key, value in result.items() if isinstance(value, Real)}
        self._send(numbers, self.num_timesteps)
        self._client.set_tag(self._run_id, "status", result["status"])
        self._client.set_terminated(self._run_id, _STATUS.get(result["status"], "FAILED"))
        for path in self._list_artifacts():
            folder = path.parent.relative_to(self.context.run.directory)
            self._client.log_artifact(self._run_id, str(path), None if folder.name == "" else str(folder))


@contextmanager
def _lock_file_store(uri: str) -> Iterator[None]:
    """Let one run at a time open a store of files, because MLflow itself lets them collide."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if not is_local_uri(uri):
        yield
        return
    store = Path(local_file_uri_to_path(uri))
    store.mkdir(parents=True, exist_ok=True)
    with lock_directory(store):
        yield


def _clean_name(name: str) -> str:
    """Replace the characters that MLflow does not allow in names."""
    return re.sub(r"[^\w\-. :/]", "_", name)
