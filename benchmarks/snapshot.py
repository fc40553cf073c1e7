"""Measure how long a snapshot stops training, by the size of the replay buffer, and how long it takes to read one.

    python benchmarks/snapshot.py [--sizes 10000 100000 1000000] [--numbers 4 17 100] [--repeats 5] [--results DIR]

Seconds, median (least to greatest), for DoubleDQN with a full buffer whose observations are so many float32 numbers:
taking the state, writing it, checksums and syncing to the disk included. `reading` is what `toolkit resume` needs to
read and check it. Megabytes are those on the disk.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from report import options, progress, spread, table, write
from stable_baselines3.common.logger import Logger

from toolkit.algorithms import DoubleDQN
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.replayable import RawMonitor, ReplayableEpisodes
from toolkit.envs.vec_env import InProcessVecEnv
from toolkit.snapshots import archive, training_state


class Numbers(gym.Env[Any, Any]):
    """Observations of so many zeros."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, numbers: int) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (numbers,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step."""
        return np.zeros(self.observation_space.shape or (), np.float32), 0.0, False, False, {}


def main() -> None:
    """Measure all sizes and write the table."""
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="transitions")
    parser.add_argument("--numbers", nargs="+", type=int, default=[4, 17, 100], help="numbers of an observation")
    arguments = parser.parse_args()
    measured = {}
    for numbers in arguments.numbers:
        for size in arguments.sizes:
            progress(f"{size:,} transitions of {numbers} numbers")
            measured[f"{size:,} transitions, {numbers} numbers"] = measure(size, numbers, arguments.repeats)
    rows = [
        [name, f"{one['megabytes']:,.0f}", spread(one["writing"]), spread(one["reading"])]
        for name, one in measured.items()
    ]
    write("snapshot", __doc__, table(["replay buffer", "MB", "writing", "reading"], rows), measured, arguments)


def measure(size: int, numbers: int, repeats: int) -> dict[str, Any]:
    """Time the snapshots of a model with a full buffer."""

    def make() -> ReplayableEpisodes:
        monitor = RawMonitor(Numbers(numbers))
        return ReplayableEpisodes(monitor, monitor)

    model = DoubleDQN("MlpPolicy", EpisodeRecorder(InProcessVecEnv([make])), buffer_size=size, learning_starts=10**9)
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
