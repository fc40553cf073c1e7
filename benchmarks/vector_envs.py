"""Compare the steps per second of CartPoles that step one by one and in one call.

    python benchmarks/vector_envs.py [--envs 1 4 16 ... 1024] [--steps 200] [--repeats 5] [--results DIR]

All take the same random actions, on one core, without an agent. `dummy` and `vector` are the toolkit's environments,
as they train: with the wrapper `terminal_reward_clip`, raw returns, and the recorder of episodes. Gymnasium's
vectorized CartPole runs without any of that. Steps are those of all environments together. The ratio is the time of
`dummy` divided by that of `vector`, for each repeat. Median (minimum to maximum).
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from report import (
    PROJECT,
    compute_ratios,
    format_spread,
    format_table,
    make_parser,
    measure_alternately,
    print_progress,
    write_page,
)

import toolkit
from toolkit.config.load import resolve_config
from toolkit.envs.factory import make_vec_env

GYMNASIUM = "Gymnasium's alone"
SIDES = ("dummy", "vector", GYMNASIUM)


def main() -> None:
    """Measure each number of environments and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--envs", type=int, nargs="*", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--steps", type=int, default=200, help="steps of all environments at once in each repeat")
    arguments = parser.parse_args()
    measured: dict[str, dict[str, list[float]]] = {}
    rows = []
    for n_envs in arguments.envs:
        print_progress(f"{n_envs:,} environments")
        actions = np.random.default_rng(0).integers(0, 2, (arguments.steps, n_envs))
        envs = {side: make(side, n_envs) for side in SIDES}
        measure = {side: partial(measure_steps, env, actions) for side, env in envs.items()}
        seconds = measure_alternately(measure, arguments.repeats)
        for env in envs.values():
            env.close()
        measured[str(n_envs)] = seconds
        speeds = [format_spread([actions.size / duration for duration in seconds[side]], 0) for side in SIDES]
        rows.append([f"{n_envs:,}", *speeds, format_spread(compute_ratios(seconds["dummy"], seconds["vector"]), 1)])
    header = ["environments", *(f"{side}, steps/s" for side in SIDES), "ratio"]
    write_page("vector_envs", __doc__, format_table(header, rows), measured, arguments)


def make(side: str, n_envs: int) -> Any:
    """Build environments, and reset them."""
    if side == GYMNASIUM:
        env: Any = gym.make_vec("CartPole-v1", num_envs=n_envs, vectorization_mode="vector_entry_point")
        env.reset(seed=0)
        return env
    path = PROJECT / "configs" / "cartpole_fast.yaml"
    config = toolkit.load_config(path, {"env.vec_env": side, "env.n_envs": n_envs, "env.max_episode_steps": 500})
    venv = make_vec_env(resolve_config(config), seed=0)
    venv.reset()
    return venv


def measure_steps(env: Any, actions: Any) -> float:
    """Return the seconds that steps with these actions take."""
    start = time.perf_counter()
    for row in actions:
        env.step(row)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
