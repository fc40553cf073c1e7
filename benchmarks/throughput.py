"""Compare the steps per second of DoubleDQN with those of Stable-Baselines3's DQN at the same settings.

    python benchmarks/throughput.py [--rows a b c d e] [--repeats 5] [--steps N] [--results DIR]

All sides of a row learn in turns, in one process with one torch thread. `update` is the milliseconds of an environment
step in `train`, `rollout` those outside of it. The ratios are SB3's time divided by ours, for each repeat: median
(minimum to maximum). By default DoubleDQN uses fused Adam, SB3's DQN does not. In row e SB3 draws five minibatches
where the recipe passes five times over one.

Each side warms up before it is measured. `compiling` is how much longer building the model and the warm-up took than
as many steps take later. The compiler's caches are empty when the benchmark starts.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from report import (
    compute_ratios,
    format_spread,
    format_table,
    make_parser,
    measure_alternately,
    print_progress,
    write_page,
)
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

import toolkit.envs.factory
from toolkit import RunConfig
from toolkit.algorithms import DoubleDQN
from toolkit.config.load import resolve_config

SB3, EAGER, COMPILED, OWN_ENVS = "SB3 DQN", "eager", "compiled", "eager, on the toolkit's environments"


class Frames(gym.Env[Any, Any]):
    """Four stacked frames of noise that cost no time; an episode has 100 steps."""

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
    """One setting, and the environment steps of each repeat.

    :param own_params: parameters of DoubleDQN that differ from those of DQN
    :param sides: the sides that are measured besides SB3's DQN
    """

    description: str
    env: str | Callable[[], gym.Env[Any, Any]]
    n_envs: int
    steps: int
    params: dict[str, Any]
    policy: str = "MlpPolicy"
    own_params: dict[str, Any] | None = None
    sides: tuple[str, ...] = (EAGER,)


SMALL = {"policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 32, "learning_starts": 100, "buffer_size": 10_000}
ROWS = {
    "a": Row(
        "1 env, 16x16, batch 32, an update a step",
        "CartPole-v1",
        1,
        1_000,
        {**SMALL, "train_freq": 1},
        sides=(EAGER, COMPILED),
    ),
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
        sides=(EAGER, COMPILED),
    ),
    "c": Row(
        "16 envs, 16x16, batch 32, an update a vector step",
        "CartPole-v1",
        16,
        16_000,
        {**SMALL, "train_freq": 1},
        sides=(EAGER, OWN_ENVS),
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
        own_params={"gradient_steps": 1, "n_epochs": 5},
        sides=(EAGER, COMPILED),
    ),
}


class Learner:
    """A model that is timed while it continues to learn.

    :param build_model: builds the model
    :param warm_up: environment steps before anything is measured
    """

    def __init__(self, build_model: Callable[[], DQN], warm_up: int) -> None:
        start = time.perf_counter()
        self.model, self.warm_up = build_model(), warm_up
        self._train, self._update_seconds = self.model.train, 0.0
        self.model.train = self._timed_train  # type: ignore[method-assign]
        self.learn(warm_up)
        self.start_seconds = time.perf_counter() - start

    def learn(self, steps: int) -> tuple[float, float]:
        """Learn for so many more steps; return the milliseconds of a step, outside and inside of updates."""
        self._update_seconds = 0.0
        start = time.perf_counter()
        self.model.learn(steps, reset_num_timesteps=False, log_interval=1_000_000)
        seconds = time.perf_counter() - start
        return 1e3 * (seconds - self._update_seconds) / steps, 1e3 * self._update_seconds / steps

    def _timed_train(self, *arguments: Any, **options: Any) -> None:
        start = time.perf_counter()
        self._train(*arguments, **options)
        self._update_seconds += time.perf_counter() - start


def main() -> None:
    """Measure the rows and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--steps", type=int, help="maximum of environment steps in a repeat")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    measured = {}
    with tempfile.TemporaryDirectory() as caches:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = caches
        for name in arguments.rows:
            print_progress(f"row {name}: {ROWS[name].description}")
            measured[name] = measure(ROWS[name], arguments.repeats, arguments.steps)
    header = ["row", "", "SB3 DQN: rollout + update", "DoubleDQN: rollout + update"]
    rows = [line for name in measured for line in format_rows(name, measured[name])]
    text = format_table([*header, "rollout", "update", "steps/s", "compiling"], rows)
    write_page("throughput", __doc__, text, measured, arguments)


def measure(row: Row, repeats: int, max_steps: int | None = None) -> dict[str, Any]:
    """Time all sides of a row in turns.

    :return: for each side, ``milliseconds`` of a step in each repeat as (rollout, update), and the ``start_seconds``
        of building the model and learning for ``warm_up`` steps
    """
    steps = min(row.steps, max_steps or row.steps)
    warm_up = max(row.params["learning_starts"], steps) + steps
    learners = {side: Learner(partial(build, row, side), warm_up) for side in (SB3, *row.sides)}
    times = measure_alternately({side: partial(learner.learn, steps) for side, learner in learners.items()}, repeats)
    return {
        side: {"milliseconds": times[side], "start_seconds": learner.start_seconds, "warm_up": warm_up}
        for side, learner in learners.items()
    }


def build(row: Row, side: str) -> DQN:
    """Build the model of one side of a row."""
    params: dict[str, Any] = row.params | {"exploration_fraction": 1e-3, "device": "cpu", "seed": 0}
    if side == SB3:
        return DQN(row.policy, make_vec_env(row.env, row.n_envs, seed=0), **params)
    env = make_toolkit_env(row) if side == OWN_ENVS else make_vec_env(row.env, row.n_envs, seed=0)
    return DoubleDQN(row.policy, env, compile=side == COMPILED, **params | (row.own_params or {}))


def make_toolkit_env(row: Row) -> VecEnv:
    """Build a row's environments as the toolkit builds those of a config without wrappers."""
    parts = {"env": {"id": row.env, "n_envs": row.n_envs}, "algorithm": "double_dqn", "timesteps": 1, "name": "row"}
    return toolkit.envs.factory.make_vec_env(resolve_config(RunConfig.model_validate(parts)), seed=0)


def format_rows(name: str, measured: dict[str, Any]) -> list[list[str]]:
    """Write the table rows of a setting, one for each of our sides."""
    theirs = measured[SB3]["milliseconds"]
    rows = []
    for side in ROWS[name].sides:
        ours = measured[side]["milliseconds"]
        parts = [
            format_spread(compute_ratios(add_parts(theirs, part), add_parts(ours, part)))
            for part in ((0,), (1,), (0, 1))
        ]
        description = f"{ROWS[name].description}; {side}"
        compiling = f"{compute_compile_seconds(measured[side]):.1f} s" if side == COMPILED else ""
        rows.append([name, description, format_medians(theirs), format_medians(ours), *parts, compiling])
    return rows


def add_parts(milliseconds: list[list[float]], parts: tuple[int, ...]) -> list[float]:
    """Add parts of a step's time, for each repeat."""
    return [sum(step[part] for part in parts) for step in milliseconds]


def format_medians(milliseconds: list[list[float]]) -> str:
    """Write the median of each part of a step's time."""
    rollout, update = (statistics.median(add_parts(milliseconds, (part,))) for part in (0, 1))
    return f"{rollout:.3f} + {update:.3f} ms"


def compute_compile_seconds(measured: dict[str, Any]) -> float:
    """Return the seconds of a side before it was measured, minus those of as many steps when all is compiled."""
    step = statistics.median(add_parts(measured["milliseconds"], (0, 1)))
    seconds: float = measured["start_seconds"] - measured["warm_up"] * step / 1e3
    return seconds


if __name__ == "__main__":
    main()
