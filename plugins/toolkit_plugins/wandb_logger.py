"""Experiment tracking with Weights & Biases, offline by default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from toolkit_plugins.optional_packages import require_package
from toolkit_plugins.tracking import TrackingCallback

require_package("wandb")
# W&B reads this when it is imported: it would send its own errors to its makers
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

_EXIT_CODE = {"success": 0, "finished": 0, "interrupted": 130}


class WandbCallback(TrackingCallback):
    """Log a run to Weights & Biases: its config, every number of SB3's logger by timestep, and its result.

    W&B never changes training; if it fails, there is a warning. Offline logs are in ``wandb/`` in the run directory.
    ``wandb sync RUN/wandb/offline-run-*`` uploads them. A resumed run continues under its W&B id, in its own
    ``offline-run-*`` directory. Values that training logs again after a snapshot may be in both
    directories, because W&B writes late. Metrics of the machine, code and console output are not collected.

    :param project: name of the W&B project; by default the name of the config
    :param mode: ``offline`` sends nothing over the network; ``online`` needs a W&B account that is logged in
    :param artifacts: save config, result, model and videos when training ends
    """

    SERVICE = "wandb"

    def __init__(
        self, project: str | None = None, mode: Literal["offline", "online"] = "offline", artifacts: bool = False
    ) -> None:
        import wandb  # noqa: F401 - so that training does not start with a broken one

        super().__init__(artifacts)
        self.project = project
        self.mode = mode
        self._is_serving = False
        self._run: Any = None

    def _open(self, run_id: str | None) -> str:
        import wandb

        run = self.context.run
        settings = wandb.Settings(
            console="off",
            silent=True,
            symlink=False,  # a run directory with links cannot be resumed
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self._is_serving = True
        with _set_variables(WANDB_CACHE_DIR=str(run.directory.resolve()), WANDB_SILENT="true"):
            self._run = wandb.init(
                project=self.project or run.config.name,
                dir=run.directory.resolve(),
                id=run_id,
                name=run.directory.resolve().name,
                config=run.config.to_document().data,
                mode=self.mode,
                resume="allow" if self.mode == "online" else None,
                reinit="create_new",  # the user may have an active run
                settings=settings,
            )
        for path in (run.directory / "wandb").rglob("*"):  # W&B links its log in spite of the settings
            if path.is_symlink():
                path.unlink()
        new_id: str = self._run.id
        return new_id

    def _send(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def _finish(self, result: dict[str, Any]) -> None:
        try:
            self._run.summary.update({f"result/{key}": value for key, value in result.items()})
            for path in self._list_artifacts():
                self._run.save(path, base_path=self.context.run.directory, policy="now")
        finally:
            self._run.finish(exit_code=_EXIT_CODE.get(result["status"], 1))

    def close(self) -> None:
        """Send the result, and stop W&B's process unless it serves another run."""
        super().close()
        if self._is_serving:
            import wandb

            self._is_serving = False
            with self._warn_of_failure():
                # this run is still active if it did not finish
                if wandb.setup().most_recent_active_run in (None, self._run):
                    wandb.teardown()


@contextmanager
def _set_variables(**variables: str) -> Iterator[None]:
    """Set environment variables that W&B reads at its start: its process would write its log in the user's home."""
    values = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in values.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
