"""Compare the steps per second of DoubleDQN with those of Stable-Baselines3's DQN at the same settings.

    python benchmarks/throughput.py [--rows a b c d e] [--repeats 5] [--json FILE]

Both sides learn alternately in one process with one torch thread. `rollout` and `update` are the milliseconds of an
environment step, of which `update` is spent in `train`. The ratio is SB3's time over ours, its median over the repeats
with the least and the greatest. In row e SB3 draws five minibatches where the recipe passes five times over one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env

from toolkit.algorithms import DoubleDQN


class Frames(gym.Env[Any, Any]):
    """Four stacked frames of noise, for free; an episode is 100 steps."""

    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.frames = self.np_random.integers(0, 256, (8, 4, 84, 84), dtype=np.uint8)
        self.steps = 0
        return self.frames[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show the next frames."""
        self.steps += 1
        return self.frames[self.steps % 8], 1.0, self.steps == 100, False, {}


@dataclass(frozen=True)
class Row:
    """One setting, and how many environment steps each repeat measures after those that warm up."""

    what: str
    env: str | Callable[[], gym.Env[Any, Any]]
    n_envs: int
    steps: int
    params: dict[str, Any]
    policy: str = "MlpPolicy"
    own: dict[str, Any] | None = None


SMALL = {"policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 32, "learning_starts": 100, "buffer_size": 10_000}
ROWS = {
    "a": Row("1 env, 16x16, batch 32, an update a step", "CartPole-v1", 1, 1_000, {**SMALL, "train_freq": 1}),
    "b": Row(
        "RL Zoo's CartPole settings",
        "CartPole-v1",
        1,
        1_024,
        {
            "policy_kwargs": {"net_arch": [256, 256]},
            "batch_size": 64,
            "learning_rate": 2.3e-3,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
        },
    ),
    "c": Row(
        "16 envs, 16x16, batch 32, an update a vector step", "CartPole-v1", 16, 16_000, {**SMALL, "train_freq": 1}
    ),
    "d": Row(
        "CNN on 84x84x4",
        Frames,
        1,
        60,
        {"batch_size": 32, "learning_starts": 100, "buffer_size": 1_000, "train_freq": 4},
        "CnnPolicy",
    ),
    "e": Row(
        "the course's recipe: 5 passes a step",
        "CartPole-v1",
        1,
        500,
        {**SMALL, "train_freq": 1, "gradient_steps": 5},
        own={"gradient_steps": 1, "n_epochs": 5},
    ),
}


class Learner:
    """A model that is timed while it learns on."""

    def __init__(self, algorithm: type[DQN], row: Row, params: dict[str, Any]) -> None:
        env = make_vec_env(row.env, row.n_envs, seed=0)
        self.model = algorithm(row.policy, env, **params, exploration_fraction=1e-3, device="cpu", seed=0)
        self._train, self._updating = self.model.train, 0.0
        self.model.train = self._timed_train  # type: ignore[method-assign]
        self.learn(max(row.params["learning_starts"], row.steps) + row.steps)

    def learn(self, steps: int) -> tuple[float, float]:
        """Learn for so many steps more; return the milliseconds of a step, outside and inside of updates."""
        self._updating = 0.0
        start = time.perf_counter()
        self.model.learn(steps, reset_num_timesteps=False, log_interval=1_000_000)
        whole = time.perf_counter() - start
        return 1e3 * (whole - self._updating) / steps, 1e3 * self._updating / steps

    def _timed_train(self, *arguments: Any, **more: Any) -> None:
        start = time.perf_counter()
        self._train(*arguments, **more)
        self._updating += time.perf_counter() - start


def main() -> None:
    """Measure the rows and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    packages = ("stable-baselines3", "gymnasium", "torch")
    print(f"{platform.machine()}, Python {platform.python_version()},", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in packages), end="\n\n")
    print("| row | | SB3 DQN: rollout + update | DoubleDQN: rollout + update | rollout | update | steps/s |")
    print("|---|---|---|---|---|---|---|")
    measured = {name: measure(ROWS[name], arguments.repeats) for name in arguments.rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")


def measure(row: Row, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Time both sides alternately, and print the row."""
    sides = {
        "sb3": Learner(DQN, row, row.params),
        "ours": Learner(DoubleDQN, row, row.params | (row.own or {})),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(side.learn(row.steps))
    letter = next(name for name, one in ROWS.items() if one is row)
    cells = [f"{median(times[name], 0):.3f} + {median(times[name], 1):.3f} ms" for name in sides]
    ratios = [ratio(times, parts) for parts in ((0,), (1,), (0, 1))]
    print("|", " | ".join([letter, row.what, *cells, *ratios]), "|", flush=True)
    return times


def median(times: list[tuple[float, float]], part: int) -> float:
    """Return the median of one part of a step's time."""
    return statistics.median(one[part] for one in times)


def ratio(times: dict[str, list[tuple[float, float]]], parts: tuple[int, ...]) -> str:
    """Return SB3's time over ours, repeat by repeat: the median, the least and the greatest."""
    ratios = [
        sum(theirs[part] for part in parts) / sum(ours[part] for part in parts)
        for theirs, ours in zip(times["sb3"], times["ours"], strict=True)
    ]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
