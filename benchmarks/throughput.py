"""Compare the steps per second of DoubleDQN with those of Stable-Baselines3's DQN at the same settings.

    python benchmarks/throughput.py [--rows a b c d e] [--repeats 5] [--steps N] [--results DIR]

All sides of a row learn alternately in one process with one torch thread. `rollout` and `update` are the milliseconds
of an environment step, of which `update` is spent in `train`. The ratios are SB3's time over ours, repeat by repeat:
the median (least to greatest). DoubleDQN runs Adam fused unless told otherwise, SB3's DQN does not. In row e SB3 draws
five minibatches where the recipe passes five times over one.

Before it is measured a side learns for a while. `compiling` is what that took longer, with building the model, than as
many steps take later on; the compiler's caches are empty when the benchmark starts.
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
from report import alternately, options, progress, ratios, spread, table, write
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

import toolkit.envs.factory
from toolkit import RunConfig
from toolkit.algorithms import DoubleDQN
from toolkit.config.load import resolve_config

SB3, EAGER, COMPILED, OWN_ENVS = "SB3 DQN", "eager", "compiled", "eager, on the toolkit's environments"


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
    """One setting, and how many environment steps each repeat measures after those that warm up.

    :param own: parameters of DoubleDQN alone
    :param sides: what is measured beside SB3's DQN
    """

    what: str
    env: str | Callable[[], gym.Env[Any, Any]]
    n_envs: int
    steps: int
    params: dict[str, Any]
    policy: str = "MlpPolicy"
    own: dict[str, Any] | None = None
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
        own={"gradient_steps": 1, "n_epochs": 5},
        sides=(EAGER, COMPILED),
    ),
}


class Learner:
    """A model that is timed while it learns on.

    :param make: builds the model
    :param warm_up: environment steps that it learns for before anything is measured
    """

    def __init__(self, make: Callable[[], DQN], warm_up: int) -> None:
        start = time.perf_counter()
        self.model, self.warm_up = make(), warm_up
        self._train, self._updating = self.model.train, 0.0
        self.model.train = self._timed_train  # type: ignore[method-assign]
        self.learn(warm_up)
        self.start_seconds = time.perf_counter() - start

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
    """Measure the rows and write the table."""
    parser = options(__doc__)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--steps", type=int, help="at most so many environment steps a repeat")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    measured = {}
    with tempfile.TemporaryDirectory() as caches:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = caches
        for name in arguments.rows:
            progress(f"row {name}: {ROWS[name].what}")
            measured[name] = measure(ROWS[name], arguments.repeats, arguments.steps)
    header = ["row", "", "SB3 DQN: rollout + update", "DoubleDQN: rollout + update"]
    rows = [line for name in measured for line in lines(name, measured[name])]
    text = table([*header, "rollout", "update", "steps/s", "compiling"], rows)
    write("throughput", __doc__, text, measured, arguments)


def measure(row: Row, repeats: int, most_steps: int | None = None) -> dict[str, Any]:
    """Time all sides of a row alternately.

    :return: by side, ``milliseconds`` of a step in each repeat as (rollout, update), and before them ``start_seconds``
        for building the model and learning for ``warm_up`` steps
    """
    steps = min(row.steps, most_steps or row.steps)
    warm_up = max(row.params["learning_starts"], steps) + steps
    learners = {side: Learner(partial(build, row, side), warm_up) for side in (SB3, *row.sides)}
    times = alternately({side: partial(learner.learn, steps) for side, learner in learners.items()}, repeats)
    return {
        side: {"milliseconds": times[side], "start_seconds": learner.start_seconds, "warm_up": warm_up}
        for side, learner in learners.items()
    }


def build(row: Row, side: str) -> DQN:
    """Build the model of one side of a row."""
    params: dict[str, Any] = row.params | {"exploration_fraction": 1e-3, "device": "cpu", "seed": 0}
    if side == SB3:
        return DQN(row.policy, make_vec_env(row.env, row.n_envs, seed=0), **params)
    env = own_environments(row) if side == OWN_ENVS else make_vec_env(row.env, row.n_envs, seed=0)
    return DoubleDQN(row.policy, env, compile=side == COMPILED, **params | (row.own or {}))


def own_environments(row: Row) -> VecEnv:
    """Build a row's environments as the toolkit builds those of a config without wrappers."""
    parts = {"env": {"id": row.env, "n_envs": row.n_envs}, "algorithm": "double_dqn", "timesteps": 1, "name": "row"}
    return toolkit.envs.factory.make_vec_env(resolve_config(RunConfig.model_validate(parts)), seed=0)


def lines(name: str, measured: dict[str, Any]) -> list[list[str]]:
    """Write the lines of a row's table, one for each side of ours."""
    theirs = measured[SB3]["milliseconds"]
    written = []
    for side in ROWS[name].sides:
        ours = measured[side]["milliseconds"]
        parts = [spread(ratios(total(theirs, part), total(ours, part))) for part in ((0,), (1,), (0, 1))]
        what = f"{ROWS[name].what}; {side}"
        compiling = f"{compile_seconds(measured[side]):.1f} s" if side == COMPILED else ""
        written.append([name, what, medians(theirs), medians(ours), *parts, compiling])
    return written


def total(milliseconds: list[list[float]], parts: tuple[int, ...]) -> list[float]:
    """Add up parts of a step's time, repeat by repeat."""
    return [sum(one[part] for part in parts) for one in milliseconds]


def medians(milliseconds: list[list[float]]) -> str:
    """Write the median of each part of a step's time."""
    rollout, update = (statistics.median(total(milliseconds, (part,))) for part in (0, 1))
    return f"{rollout:.3f} + {update:.3f} ms"


def compile_seconds(measured: dict[str, Any]) -> float:
    """Return what a side took before it was measured, less what its steps take when all is compiled."""
    step = statistics.median(total(measured["milliseconds"], (0, 1)))
    seconds: float = measured["start_seconds"] - measured["warm_up"] * step / 1e3
    return seconds


if __name__ == "__main__":
    main()
