"""Weights & Biases, offline unless it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from toolkit_plugins.tracking import TrackingCallback

# W&B reports its own errors to its makers unless it is told before its import
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

_EXIT_CODE = {"success": 0, "finished": 0, "interrupted": 130}


class WandbCallback(TrackingCallback):
    """Log a run to Weights & Biases: config, every number of SB3's logger by timestep, and the result.

    Training is the same without it; a service that fails costs a warning. What is logged offline is in ``wandb/`` in
    the run directory; ``wandb sync RUN/wandb/offline-run-*`` uploads it. A resumed run goes on under the same W&B id,
    in an ``offline-run-*`` of its own. Values that training logs once more, as it was killed after a snapshot, may be
    in both: W&B writes late. Metrics of the machine, the code and the console are not collected.

    :param project: W&B's name for the runs that belong together; by default the config's name
    :param mode: ``offline`` sends nothing over the network; ``online`` needs a W&B account that is logged in
    :param artifacts: save the config, the result, the model and the videos there when training ends
    """

    SERVICE = "wandb"

    def __init__(
        self, project: str | None = None, mode: Literal["offline", "online"] = "offline", artifacts: bool = False
    ) -> None:
        super().__init__(artifacts)
        self.project = project
        self.mode = mode
        self._serving = False
        self._run: Any = None

    def _open(self, known: str | None) -> str:
        run = self.context.run
        settings = wandb.Settings(
            console="off",
            silent=True,
            symlink=False,  # no run with links in it is gone on with
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self._serving = True
        with _started_with(WANDB_CACHE_DIR=str(run.directory.resolve()), WANDB_SILENT="true"):
            self._run = wandb.init(
                project=self.project or run.config.name,
                dir=run.directory.resolve(),
                id=known,
                name=run.directory.resolve().name,
                config=run.config.to_document().data,
                mode=self.mode,
                resume="allow" if self.mode == "online" else None,
                reinit="create_new",  # beside a run of the user's own
                settings=settings,
            )
        for path in (run.directory / "wandb").rglob("*"):  # to its process's log, whatever the settings say
            if path.is_symlink():
                path.unlink()
        begun: str = self._run.id
        return begun

    def _send(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def _end(self, result: dict[str, Any]) -> None:
        try:
            self._run.summary.update({f"result/{key}": value for key, value in result.items()})
            for path in self._files():
                self._run.save(path, base_path=self.context.run.directory, policy="now")
        finally:
            self._run.finish(exit_code=_EXIT_CODE.get(result["status"], 1))

    def close(self) -> None:
        """Send how the run ended, and end W&B's process, unless it serves another run."""
        super().close()
        if self._serving:
            self._serving = False
            with self._reported():
                if wandb.setup().most_recent_active_run in (None, self._run):  # its own is there if it did not end
                    wandb.teardown()


@contextmanager
def _started_with(**variables: str) -> Iterator[None]:
    """Set what W&B reads once, when it starts: where its process has its log, by default in the user's home."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
