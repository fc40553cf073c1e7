"""Runs in Python: train one, load one, and evaluate, record or show it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from toolkit.config.load import load_config, trust_code
from toolkit.config.schema import RunConfig
from toolkit.envs.factory import derived_seed
from toolkit.evaluation import evaluate, video
from toolkit.evaluation.acting import Predictor, make_raw_env
from toolkit.evaluation.evaluate import Evaluation
from toolkit.evaluation.notebook import render_run
from toolkit.evaluation.summary import format_run_summary
from toolkit.evaluation.video_files import VideoFormat
from toolkit.training import run_directory, trainer
from toolkit.training.checks import log_config_warnings
from toolkit.training.model import load_model
from toolkit.utils.display import is_notebook
from toolkit.utils.errors import ToolkitError
from toolkit.utils.signals import deliver_again


class Run(run_directory.RunDirectory):
    """A run directory with methods to evaluate, record and show the trained agent. A notebook displays it.

    >>> import toolkit
    >>> run = toolkit.load()
    >>> len(run.evaluate(episodes=5).returns)
    5
    >>> [video.suffix for video in run.record(formats=["gif"])]
    ['.gif']

    Callbacks get their run as a :class:`toolkit.training.run_directory.RunDirectory`, without these methods.
    """

    def evaluate(self, episodes: int = 100, seed: int | None = None, model: str = "final") -> Evaluation:
        """Play greedy episodes on seeds that training never used; see :func:`toolkit.evaluate`."""
        return evaluate.evaluate(self, episodes, seed, model)

    def load_model(self, choice: str = "final") -> BaseAlgorithm:
        """Load the trained model with what its wrappers and policy learned; its own environments are closed.

        Its policy expects observations behind the vec wrappers: :meth:`predict` prepares them.

        :param choice: ``final``, ``best`` of the callback `evaluate`, or ``snapshot:N`` for timestep N
        :raises RunError: if the run has no such model that can be loaded
        """
        return load_model(self, choice)

    @cached_property
    def model(self) -> BaseAlgorithm:
        """The trained model, loaded once; see :meth:`load_model`. :meth:`predict` prepares observations for it."""
        return load_model(self)

    def make_env(self, seed: int | None = None, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Build one environment of the run, to act in with :meth:`predict`.

        >>> import toolkit
        >>> run = toolkit.load()
        >>> env = run.make_env()
        >>> observation, _ = env.reset()
        >>> observation, reward, terminated, truncated, info = env.step(run.predict(observation, episode_start=True))

        It has the config's wrappers, with what they learned in training, and returns raw rewards. It has no vec
        wrappers: :meth:`predict` applies them. If the algorithm takes masks, ``env.action_masks()`` returns them.

        :param seed: its episodes follow from it; by default they are those of :meth:`evaluate` with one episode
        :raises RunError: if the run has no model that can be loaded, or its environments only step together
        :raises ConfigError: if the environment cannot be built
        """
        env_seed = derived_seed(self.config.seed if seed is None else seed, "evaluation")
        return make_raw_env(self.resolved_config, self.model, env_seed, render_mode)

    def predict(
        self,
        observation: Any,
        episode_start: bool | None = None,
        *,
        action_masks: Any | None = None,
        deterministic: bool = True,
    ) -> Any:
        """Return the model's action for one observation of :meth:`make_env`, or of an environment like it.

        Vec wrappers prepare the observation as in training: statistics of ``vec_normalize``, stacks of frames, the
        order of an image's axes. Calls with stacked frames or an LSTM must follow one another as the steps of an
        episode do.

        :param observation: as the environment returns it, not a batch
        :param episode_start: whether a reset returned it; needed only if the agent remembers earlier observations
        :param action_masks: legal actions, needed only if the algorithm takes them
        :param deterministic: whether to take the most probable action, as :meth:`evaluate` does
        :return: an action for ``env.step``
        :raises RunError: if the run has no model that can be loaded
        :raises ToolkitError: if the observation has another shape or type, or an argument is missing
        """
        return self._predictor.predict(observation, episode_start, action_masks, deterministic)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.resolved_config, self.model)

    def record(
        self,
        episodes: int = 1,
        formats: Sequence[VideoFormat] = ("mp4",),
        out: str | Path | None = None,
        tail: int = 0,
        model: str = "final",
    ) -> list[Path]:
        """Record greedy episodes, by default into the run's ``videos`` directory; see :func:`toolkit.record`."""
        return video.record(self, episodes, formats, out, tail=tail, model=model)

    def show(self, tail: int = 40) -> None:
        """Record a greedy episode and show it with the learning curve and the result of the run.

        Outside a notebook, write the video to the run directory and print the summary of the run.

        :param tail: frames, 0 to 1000, after the environment terminates the episode
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
    """Train an agent as a config says and write a new run directory.

    Keyword arguments override values of the config by dotted path, with ``__`` for the dot:
    ``train("cartpole.yaml", seed=3, env__wrappers=[MyReward], algorithm__params__gamma=0.9)``. A class may stand where
    the config names one. What training would ignore is logged as a warning.

    Ctrl-C and SIGTERM stop training where it can be resumed. A notebook then gets the run. Other programs get the
    signal, as ``KeyboardInterrupt`` or what else they have set for it.

    :param config: a YAML file, or the result of :func:`toolkit.load_config`
    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :param callbacks: SB3 callbacks, called after the config's own
    :param progress_bar: whether to show progress; by default only in a notebook
    :raises ConfigError: if the config or an override is invalid
    :raises TrainingError: if training fails
    """
    if not all(isinstance(callback, BaseCallback) for callback in callbacks):
        hint = "override the config's own callbacks by their path: callbacks__0__params__threshold=100"
        raise ToolkitError("callbacks must be instances of SB3's BaseCallback", hint)
    loaded = load_config(config, overrides)
    show_progress = is_notebook() if progress_bar is None else progress_bar
    log_config_warnings(loaded)
    run = trainer.train(loaded, None if out is None else Path(out), callbacks, progress_bar=show_progress)
    deliver_again(run.stopped_by)
    return Run(run.directory, run.config)


def load(directory: str | Path | None = None, trust: bool = False) -> Run:
    """Open a run directory, by default the newest under ``runs/``.

    Nothing in the directory is executed. Code in loose files that the config names runs only when it is needed. This
    user must have trained the run on this machine with the same files.

    :param trust: whether to trust the code of this run, now and from now on
    :raises RunError: if the directory is not a run
    """
    run = Run.newest() if directory is None else Run.open(directory)
    if trust:
        trust_code(run.config)
    return run
