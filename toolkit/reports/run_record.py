"""What one run directory says of its run, read back for comparison with other runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.config.load import read_config
from toolkit.config.schema import RunConfig
from toolkit.envs.episode_numbers import REWARD_PREFIX
from toolkit.evaluation.learning_curves import compute_moving_average
from toolkit.experiments.status import EVALUATION_FILE
from toolkit.training.evaluations import FILE_NAME as EVALUATIONS_FILE
from toolkit.training.evaluations import group_by_label, read_evaluation_file
from toolkit.training.results import ENDED, RecordedEpisode, read_episodes_with, read_evaluation, read_result
from toolkit.utils.data import DEFAULT_WINDOW, compute_mean
from toolkit.utils.errors import RunError, make_printable
from toolkit.utils.files import read_text

RAW_RETURN = "raw return"
"""Name of the raw return among :attr:`RunRecord.reward_means`."""
_MAX_CURVE_POINTS = 1000  # more than a picture has columns, and little memory for a thousand runs
_MAX_REASON_LENGTH = 300  # characters
_TRACEBACK_START = re.compile(r"^Traceback\b.*\n", re.MULTILINE)
_SEED_LINE = re.compile(r"^seed: (\d{1,10})\n", re.MULTILINE)


class Criterion(NamedTuple):
    """Success criterion of a run: the measure reaches ``threshold`` over the last ``window`` episodes."""

    threshold: float
    window: int
    measure: str = "mean_return"
    evaluation: str = ""  # label of the evaluation whose episodes count; empty for training episodes

    @property
    def return_threshold(self) -> float | None:
        """The mean training return to reach; None if something else counts."""
        return self.threshold if self.measure == "mean_return" and not self.evaluation else None


@dataclass(frozen=True)
class RunRecord:
    """What a run directory says of its run.

    :param config: the config of the run; its seed may be that of another run of the variant
    :param status: the status in ``result.json``, or ``unfinished`` if the file does not exist
    :param failure_reason: the exception that ended a failed run; empty for other runs
    :param diagnosis: why training did not learn; empty without a sign of that
    :param criterion: the success criterion, if the run has one
    :param success_timestep: the timestep at which the run met it
    :param success_seconds: seconds of training until then
    :param curve_timesteps: timesteps at which episodes counted, of shape (points,)
    :param curve_returns: mean raw return of the last episodes at each of them, of shape (points,). The success
        criterion gives the number of episodes, by default 100
    :param reward_means: by name, the means of the raw return, of what each wrapper adds to it, and of the parts that
        ``info`` names, over the last 100 training episodes; empty if the run did not log them
    :param evaluations: timesteps and mean returns of the evaluations during training, by label
    :param greedy_return: mean raw return of the greedy episodes in ``evaluation.json``
    """

    directory: Path
    config: RunConfig
    seed: int
    status: str
    failure_reason: str
    diagnosis: str
    timesteps: int
    episodes: int
    seconds: float | None
    criterion: Criterion | None
    success_timestep: int | None
    success_seconds: float | None
    curve_timesteps: NDArray[np.int64]
    curve_returns: NDArray[np.float64]
    evaluations: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    reward_means: Mapping[str, float]
    greedy_return: float | None
    greedy_episodes: int

    @property
    def has_ended(self) -> bool:
        """Whether training ended by itself."""
        return self.status in ENDED

    @property
    def training_return(self) -> float | None:
        """Mean raw return of the last training episodes, if there are any."""
        return float(self.curve_returns[-1]) if len(self.curve_returns) else None


class RunRecordReader:
    """Read run directories; parse configs that differ only in the seed once, because parsing takes longest."""

    def __init__(self) -> None:
        self._configs: dict[str, RunConfig] = {}

    def read(self, directory: Path) -> RunRecord:
        """Read what a run directory says of its run.

        :raises RunError: if ``result.json``, ``monitor.csv`` or ``evaluation.json`` is damaged
        :raises ConfigError: if ``config.yaml`` is not a valid config
        """
        config, seed = self._read_config(directory / "config.yaml")
        result = read_result(directory / "result.json") or {}
        success: dict[str, Any] = result.get("success") or {}
        window = DEFAULT_WINDOW if "evaluation" in success else success.get("episodes", DEFAULT_WINDOW)
        curve_timesteps, curve_returns, n_episodes, reward_means = _read_curve(directory / "monitor.csv", window)
        evaluation = read_evaluation(directory / EVALUATION_FILE) or {}
        status = result.get("status", "unfinished")
        last_timestep = int(curve_timesteps[-1]) if len(curve_timesteps) else 0
        try:
            return RunRecord(
                directory=directory,
                config=config,
                seed=seed,
                status=status,
                failure_reason=_read_failure_reason(directory / "traceback.txt") if status == "failed" else "",
                diagnosis=make_printable(result.get("diagnosis", "")[:_MAX_REASON_LENGTH]),
                timesteps=result["timesteps"] if result else last_timestep,
                episodes=result["episodes"] if result else n_episodes,
                seconds=result.get("seconds"),
                criterion=_read_criterion(success),
                success_timestep=success["timestep"] if success.get("solved") else None,
                success_seconds=success["seconds"] if success.get("solved") else None,
                curve_timesteps=curve_timesteps,
                curve_returns=curve_returns,
                evaluations=_read_evaluations(directory / EVALUATIONS_FILE),
                reward_means=reward_means,
                greedy_return=evaluation.get("mean_return"),
                greedy_episodes=evaluation.get("episodes", 0),
            )
        except KeyError as error:
            raise RunError(f"{directory / 'result.json'}: is damaged: it has no {error}") from None

    def _read_config(self, path: Path) -> tuple[RunConfig, int]:
        """Return a config, perhaps that of another seed, and the seed."""
        try:
            text = read_text(path)
        except (OSError, ValueError):
            text = ""  # read_config below says why the file cannot be read
        seed = _SEED_LINE.search(text)
        if not seed or "extends" in text:  # the path in `extends` is relative to the file
            config = read_config(path)
            return config, config.seed
        text_without_seed = _SEED_LINE.sub("", text, count=1)
        if text_without_seed not in self._configs:
            self._configs[text_without_seed] = read_config(path)
        return self._configs[text_without_seed], int(seed[1])


def _read_curve(path: Path, window: int) -> tuple[NDArray[np.int64], NDArray[np.float64], int, dict[str, float]]:
    """Return the timesteps and values of the moving average of returns, the number of episodes, and reward means."""
    try:
        episodes, numbers = read_episodes_with(path, REWARD_PREFIX)
    except FileNotFoundError:
        episodes, numbers = [], {}
    table = np.array(episodes, dtype=np.float64).reshape(-1, len(RecordedEpisode._fields))
    last_episodes, averages = compute_moving_average(table[:, 0], window, _MAX_CURVE_POINTS)
    means = _compute_reward_means([episode.raw_return for episode in episodes], numbers) if episodes else {}
    return table[last_episodes - 1, 2].astype(np.int64), averages, len(table), means


def _compute_reward_means(returns: Sequence[float], numbers: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the means over the last 100 episodes; a number that an episode does not have is 0."""
    if not numbers:
        return {}
    columns = {RAW_RETURN: returns, **numbers}
    return {name: compute_mean(np.nan_to_num(values[-DEFAULT_WINDOW:])) for name, values in columns.items()}


def _read_evaluations(path: Path) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    groups = group_by_label(read_evaluation_file(path))
    return {
        label: (np.array([item.timestep for item in items]), np.array([item.mean_return for item in items]))
        for label, items in groups.items()
    }


def _read_criterion(success: Mapping[str, Any]) -> Criterion | None:
    if not success:
        return None
    label = make_printable(success.get("evaluation", ""))
    return Criterion(success["threshold"], success["episodes"], success["measure"], label)


def _read_failure_reason(path: Path) -> str:
    """Return the first line of the exception in a traceback; skip links, which could leak any file of the user."""
    try:
        text = "" if path.is_symlink() else read_text(path)
    except (OSError, ValueError):
        text = ""
    lines = _TRACEBACK_START.split(text)[-1].splitlines()
    message = next((line for line in lines if line[:1].strip()), "")  # lines of source code are indented
    return make_printable(message[:_MAX_REASON_LENGTH]) or "traceback.txt does not say why"
