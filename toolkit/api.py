"""The toolkit in Python: train, load, and a run that evaluates, records and shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from toolkit import evaluation, recording, run, training
from toolkit.components import load_config, trust_code
from toolkit.config import RunConfig
from toolkit.display import in_notebook
from toolkit.errors import ToolkitError
from toolkit.evaluation import Evaluation
from toolkit.experiments.file import load_plan
from toolkit.experiments.running import Experiment, run_experiment
from toolkit.experiments.views import display as experiment_display
from toolkit.notebook import page
from toolkit.presentation import outcome
from toolkit.recording import VideoFormat


class Run(run.Run):
    """A run directory in Python; as the last value of a notebook's cell it shows itself.

    Callbacks know their run as a :class:`toolkit.run.Run`, which has the files alone.
    """

    def evaluate(self, episodes: int = 100, seed: int | None = None) -> Evaluation:
        """Play greedy episodes on seeds that training never used; see :func:`toolkit.evaluate`."""
        return evaluation.evaluate(self, episodes, seed)

    def record(
        self,
        episodes: int = 1,
        formats: Sequence[VideoFormat] = ("mp4",),
        out: str | Path | None = None,
        tail: int = 0,
    ) -> list[Path]:
        """Record greedy episodes, by default into the run's ``videos``; see :func:`toolkit.record`."""
        return recording.record(self, episodes, formats, out, tail=tail)

    def show(self, tail: int = 40) -> None:
        """Record a greedy episode and show it with the learning curve and how the run went.

        Outside a notebook the video stays in the run, and the rest is told in words.

        :param tail: frames, 0 to 1000, that go on after a fall
        :raises RunError: if the run has no model
        """
        if not in_notebook():
            self.record(tail=tail)
            print(outcome(self))
            return
        from IPython.display import HTML, display

        with TemporaryDirectory() as folder:
            (video,) = self.record(out=folder, tail=tail)
            display(HTML(page(self, video)))

    def __repr__(self) -> str:
        """Name the run's directory."""
        return f"Run({str(self.directory)!r})"

    def _repr_html_(self) -> str:
        return page(self)


def train(
    config: str | Path | RunConfig,
    out: str | Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    progress_bar: bool | None = None,
    **overrides: Any,
) -> Run:
    """Train as a config says, into a new run directory; see :func:`toolkit.training.train`.

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
    shown = in_notebook() if progress_bar is None else progress_bar
    trained = training.train(loaded, None if out is None else Path(out), callbacks, progress_bar=shown)
    return Run(trained.directory, trained.config)


def experiment(
    file: str | Path,
    out: str | Path | None = None,
    yes: bool = False,
    progress_bar: bool | None = None,
    **overrides: Any,
) -> Experiment:
    """Train and evaluate every variant of an experiment file with every seed, or what is left of them.

    ``experiment("wrappers.yaml", seeds=3, launcher__params__workers=2)`` lays values over the file by dotted path,
    with ``__`` for the dot. A script that calls it needs ``if __name__ == "__main__":`` around what it does.

    :param out: the experiment's directory; by default ``experiments/<name>``, in which it goes on
    :param yes: whether there may be more than a thousand runs
    :param progress_bar: whether to show how it goes; by default in a notebook
    :return: its ``directory``, why each run in ``failed`` has failed, and the signal in ``stopped_by`` that ended it
    :raises ConfigError: if the file or a variant's config does not fit
    :raises RunError: if the directory is of something else, or another process works in it
    :raises ToolkitError: if there are more runs, or there is nowhere to run them
    """
    plan = load_plan(Path(file), overrides, yes)
    shown = in_notebook() if progress_bar is None else progress_bar
    return run_experiment(plan, None if out is None else Path(out), experiment_display() if shown else None)


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
