"""The toolkit in Python: train, load, and a run that evaluates, records and shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from toolkit.config.load import load_config, trust_code
from toolkit.config.schema import RunConfig
from toolkit.evaluation import evaluate, video
from toolkit.evaluation.evaluate import Evaluation
from toolkit.evaluation.notebook import render_run
from toolkit.evaluation.summary import format_run_summary
from toolkit.evaluation.video import VideoFormat
from toolkit.training import run_directory, trainer
from toolkit.utils.display import is_notebook
from toolkit.utils.errors import ToolkitError


class Run(run_directory.RunDirectory):
    """A run directory in Python; as the last value of a notebook's cell it shows itself.

    Callbacks know their run as a :class:`toolkit.training.run_directory.RunDirectory`, which has the files alone.
    """

    def evaluate(self, episodes: int = 100, seed: int | None = None) -> Evaluation:
        """Play greedy episodes on seeds that training never used; see :func:`toolkit.evaluate`."""
        return evaluate.evaluate(self, episodes, seed)

    def record(
        self,
        episodes: int = 1,
        formats: Sequence[VideoFormat] = ("mp4",),
        out: str | Path | None = None,
        tail: int = 0,
    ) -> list[Path]:
        """Record greedy episodes, by default into the run's ``videos``; see :func:`toolkit.record`."""
        return video.record(self, episodes, formats, out, tail=tail)

    def show(self, tail: int = 40) -> None:
        """Record a greedy episode and show it with the learning curve and how the run went.

        Outside a notebook the video stays in the run, and the rest is told in words.

        :param tail: frames, 0 to 1000, that go on after a fall
        :raises RunError: if the run has no model
        """
        if not is_notebook():
            self.record(tail=tail)
            print(format_run_summary(self))
            return
        from IPython.display import HTML, display

        with TemporaryDirectory() as folder:
            (video,) = self.record(out=folder, tail=tail)
            display(HTML(render_run(self, video)))

    def __repr__(self) -> str:
        """Name the run's directory."""
        return f"Run({str(self.directory)!r})"

    def _repr_html_(self) -> str:
        return render_run(self)


def train(
    config: str | Path | RunConfig,
    out: str | Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    progress_bar: bool | None = None,
    **overrides: Any,
) -> Run:
    """Train as a config says, into a new run directory; see :func:`toolkit.training.trainer.train`.

    ``train("cartpole.yaml", seed=3, env__wrappers=[MyReward], algorithm__params__gamma=0.9)`` lays values over the
    config by dotted path, with ``__`` for the dot; a class stands where the config names one.

    :param config: a YAML file, or a config that :func:`toolkit.load_config` has read
    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :param callbacks: objects called after the config's own
    :param progress_bar: whether to show how training goes; by default in a notebook
    :raises ConfigError: if the config or a value does not fit
    :raises TrainingError: if training breaks off
    """
    if not all(isinstance(callback, BaseCallback) for callback in callbacks):
        hint = "change the config's own by their path: callbacks__0__params__threshold=100"
        raise ToolkitError("callbacks takes objects of SB3's BaseCallback", hint)
    loaded = load_config(config, overrides)
    shown = is_notebook() if progress_bar is None else progress_bar
    trained = trainer.train(loaded, None if out is None else Path(out), callbacks, progress_bar=shown)
    return Run(trained.directory, trained.config)


def load(directory: str | Path | None = None, trust: bool = False) -> Run:
    """Open a run: its directory, or the newest under ``runs/``.

    Nothing that the directory contains is executed. Code in files that the run's config names runs, once it is needed,
    if this user has trained the run here with those very files.

    :param trust: whether it runs otherwise too, now and from now on
    :raises RunError: if there is no such run
    """
    run = Run.newest() if directory is None else Run.open(Path(directory))
    if trust:
        trust_code(run.config)
    return run
