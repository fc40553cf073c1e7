"""One run directory, read back to be compared with others: how the run went, and what was measured of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.config.load import read_config
from toolkit.config.schema import RunConfig
from toolkit.evaluation.learning_curves import compute_moving_average
from toolkit.experiments.status import EVALUATION_FILE
from toolkit.training.results import ENDED, read_episodes, read_evaluation, read_result
from toolkit.utils.data import DEFAULT_WINDOW
from toolkit.utils.errors import RunError, readable
from toolkit.utils.files import read_text

_CURVE_POINTS = 1000  # more than a picture has columns, and little to keep of a thousand runs
_TRACEBACK = re.compile(r"^Traceback\b.*\n", re.MULTILINE)
_SEED = re.compile(r"^seed: (\d{1,10})\n", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What a run directory says of its run.

    :param config: that of the run but for the seed
    :param status: that of ``result.json``, or ``unfinished`` where there is none
    :param reason: why it failed, if it did
    :param criterion: threshold, and over how many episodes, if there is a success criterion
    :param solved_at: the timestep that met it
    :param ends: timesteps at the ends of episodes, of shape (points,)
    :param averages: mean raw return of the last episodes then, as many as the criterion has, or else 100
    :param greedy_return: mean raw return of the greedy episodes in ``evaluation.json``
    """

    directory: Path
    config: RunConfig
    seed: int
    status: str
    reason: str
    timesteps: int
    episodes: int
    seconds: float | None
    criterion: tuple[float, int] | None
    solved_at: int | None
    ends: NDArray[np.int64]
    averages: NDArray[np.float64]
    greedy_return: float | None
    greedy_episodes: int

    @property
    def has_ended(self) -> bool:
        """Whether training came to its own end."""
        return self.status in ENDED

    @property
    def training_return(self) -> float | None:
        """Mean raw return of its last training episodes, if it had any."""
        return float(self.averages[-1]) if len(self.averages) else None


class OutcomeReader:
    """Reads run directories; configs that differ in the seed alone are parsed once, as that takes longest."""

    def __init__(self) -> None:
        self._configs: dict[str, RunConfig] = {}

    def read(self, directory: Path) -> Outcome:
        """Read what a run directory says.

        :raises RunError: if ``result.json``, ``monitor.csv`` or ``evaluation.json`` is damaged
        :raises ConfigError: if its config is none
        """
        config, seed = self._config(directory / "config.yaml")
        result = read_result(directory / "result.json") or {}
        success: dict[str, Any] = result.get("success") or {}
        ends, averages, episodes = _curve(directory / "monitor.csv", success.get("episodes", DEFAULT_WINDOW))
        evaluation = read_evaluation(directory / EVALUATION_FILE) or {}
        status = result.get("status", "unfinished")
        try:
            return Outcome(
                directory=directory,
                config=config,
                seed=seed,
                status=status,
                reason=_reason(directory / "traceback.txt") if status == "failed" else "",
                timesteps=result["timesteps"] if result else int(ends[-1]) if len(ends) else 0,
                episodes=result["episodes"] if result else episodes,
                seconds=result.get("seconds"),
                criterion=(success["threshold"], success["episodes"]) if success else None,
                solved_at=success["timestep"] if success.get("solved") else None,
                ends=ends,
                averages=averages,
                greedy_return=evaluation.get("mean_return"),
                greedy_episodes=evaluation.get("episodes", 0),
            )
        except KeyError as error:
            raise RunError(f"{directory / 'result.json'}: is damaged: it has no {error}") from None

    def _config(self, path: Path) -> tuple[RunConfig, int]:
        try:
            text = read_text(path)
        except (OSError, ValueError):
            text = ""  # why it cannot be read is said below
        seed = _SEED.search(text)
        if not seed or "extends" in text:  # what it extends depends on where it is
            config = read_config(path)
            return config, config.seed
        rest = _SEED.sub("", text, count=1)
        if rest not in self._configs:
            self._configs[rest] = read_config(path)
        return self._configs[rest], int(seed[1])


def _curve(path: Path, window: int) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Return points of the moving average of returns, and how many episodes there are."""
    try:
        episodes = read_episodes(path)
    except FileNotFoundError:
        episodes = []
    table = np.array(episodes, dtype=np.float64).reshape(-1, 2)
    last, averages = compute_moving_average(table[:, 0], window, _CURVE_POINTS)
    return np.cumsum(table[:, 1]).astype(np.int64)[last - 1], averages, len(table)


def _reason(path: Path) -> str:
    """Return the first line of a traceback's exception; a link could bring any file of this user into a report."""
    try:
        text = "" if path.is_symlink() else read_text(path)
    except (OSError, ValueError):
        text = ""
    lines = _TRACEBACK.split(text)[-1].splitlines()
    own = next((line for line in lines if line[:1].strip()), "")  # those of the code that raised it are indented
    return readable(own[:300]) or "traceback.txt does not say why"
