"""Compare the steps per second of HalfCheetahs that step one by one and in EnvPool's threads.

    python benchmarks/envpool_steps.py [--envs 1 8 32] [--steps 200] [--repeats 5] [--results DIR]

`dummy` and `envpool` are the toolkit's environments, as they train: with raw returns and the recorder of episodes.
Both take the same random actions, without an agent, on the cores that the process may use. EnvPool decides how many
threads it starts. Steps are those of all environments together. The ratio is the time of `dummy` divided by that of
`envpool`, for each repeat. Median (minimum to maximum).
"""

from __future__ import annotations

import os
from functools import partial
from importlib.metadata import version
from typing import Any

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
from vector_envs import measure_steps

import toolkit
from toolkit.config.load import resolve_config
from toolkit.envs.factory import make_vec_env

SIDES = ("dummy", "envpool")


def main() -> None:
    """Measure each number of environments and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--envs", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=200, help="steps of all environments at once in each repeat")
    arguments = parser.parse_args()
    seconds: dict[str, dict[str, list[float]]] = {}
    rows = []
    for n_envs in arguments.envs:
        print_progress(f"{n_envs:,} environments")
        envs = {side: make(side, n_envs) for side in SIDES}
        shape = (arguments.steps, n_envs, *envs["dummy"].action_space.shape)
        actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        measure = {side: partial(measure_steps, env, actions) for side, env in envs.items()}
        measured = seconds[str(n_envs)] = measure_alternately(measure, arguments.repeats)
        for env in envs.values():
            env.close()
        n_steps = arguments.steps * n_envs
        speeds = [format_spread([n_steps / duration for duration in measured[side]], 0) for side in SIDES]
        rows.append([f"{n_envs:,}", *speeds, format_spread(compute_ratios(measured["dummy"], measured["envpool"]), 1)])
    cores = len(os.sched_getaffinity(0))
    header = ["environments", *(f"{side}, steps/s" for side in SIDES), "ratio"]
    text = f"{format_table(header, rows)}\n\nEnvPool {version('envpool')}; cores for the process: {cores}."
    write_page("envpool_steps", __doc__, text, {"seconds": seconds, "cores": cores}, arguments)


def make(side: str, n_envs: int) -> Any:
    """Build environments, and reset them."""
    env = {"id": "HalfCheetah-v5", "n_envs": n_envs, "vec_env": side}
    config = toolkit.load_config(PROJECT / "configs" / "pendulum_sac.yaml", {"env": env})
    venv = make_vec_env(resolve_config(config), seed=0)
    venv.reset()
    return venv


if __name__ == "__main__":
    main()
