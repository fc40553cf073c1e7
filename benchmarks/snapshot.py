"""Measure how long training stops to write a snapshot, and how long reading one takes, by replay buffer size.

    python benchmarks/snapshot.py [--sizes 10000 100000 1000000] [--numbers 4 17 100] [--repeats 5] [--results DIR]

The algorithm is DoubleDQN with a full replay buffer, whose observations have `--numbers` float32 numbers. `writing` is
capturing the state and writing it, with checksums and syncing to the disk. `reading` is what `toolkit resume` needs to
read and check it. Seconds: median (minimum to maximum). Megabytes are those on the disk.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from report import format_spread, format_table, make_parser, print_progress, write_page
from stable_baselines3.common.logger import Logger

from toolkit.algorithms import DoubleDQN
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.replayable import RawMonitor, ReplayableEpisodes
from toolkit.envs.vec_env import InProcessVecEnv
from toolkit.snapshots import archive, training_state


class ZeroObservations(gym.Env[Any, Any]):
    """An endless environment whose observations are vectors of zeros."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, size: int) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (size,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the episode."""
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step without an end."""
        return np.zeros(self.observation_space.shape or (), np.float32), 0.0, False, False, {}


def main() -> None:
    """Measure all sizes and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="transitions in the buffer"
    )
    parser.add_argument("--numbers", nargs="+", type=int, default=[4, 17, 100], help="numbers in an observation")
    arguments = parser.parse_args()
    measured = {}
    for numbers in arguments.numbers:
        for size in arguments.sizes:
            print_progress(f"{size:,} transitions of {numbers} numbers")
            measured[f"{size:,} transitions, {numbers} numbers"] = measure(size, numbers, arguments.repeats)
    rows = [
        [name, f"{times['megabytes']:,.0f}", format_spread(times["writing"]), format_spread(times["reading"])]
        for name, times in measured.items()
    ]
    write_page(
        "snapshot", __doc__, format_table(["replay buffer", "MB", "writing", "reading"], rows), measured, arguments
    )


def measure(size: int, numbers: int, repeats: int) -> dict[str, Any]:
    """Time snapshots of a model with a full replay buffer."""

    def make_env() -> ReplayableEpisodes:
        monitor = RawMonitor(ZeroObservations(numbers))
        return ReplayableEpisodes(monitor, monitor)

    model = DoubleDQN(
        "MlpPolicy", EpisodeRecorder(InProcessVecEnv([make_env])), buffer_size=size, learning_starts=10**9
    )
    model.set_logger(Logger(None, []))
    model.learn(10)
    rng = np.random.default_rng(0)
    buffer: Any = model.replay_buffer
    for memory in (buffer.observations, buffer.next_observations, buffer.rewards):
        memory[:] = rng.random(memory.shape, dtype=np.float32)
    buffer.full = True
    capture = training_state.TrainingStateCapture(model, [])
    times: dict[str, Any] = {"writing": [], "reading": []}
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            directory = Path(folder) / f"{repeat}"
            start = time.perf_counter()
            archive.write(directory, capture.capture())
            times["writing"].append(time.perf_counter() - start)
            times["megabytes"] = sum(path.stat().st_size for path in directory.iterdir()) / 1e6
            start = time.perf_counter()
            archive.read(directory)
            times["reading"].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
