"""Compare DoubleDQN with Stable-Baselines3's DQN as environments, networks and replay buffers grow.

    python benchmarks/growth.py [--envs 1 2 4 ... 1024] [--widths 16 ... 1024] [--buffers 10000 ... 10000000]
                                [--steps 500] [--repeats 5] [--compile auto|true|false] [--results DIR]

All sides learn in turns, in one process with one torch thread, at the same settings on the same CartPole, with an
update after every step of all environments. By default the networks have two layers of 64 units, the batch size is 64,
and the replay buffer holds 10,000 transitions. The buffer is full before anything is measured. `vector` are the
toolkit's environments with `env.vec_env: vector`. `once` is DoubleDQN with `optimize_memory_usage: true`, which stores
each observation once. Steps are environment steps of all environments together, at most 100,000 in a repeat. The ratio
is SB3's time divided by that of DoubleDQN, for each repeat. Median (minimum to maximum). Bytes are those of the replay
buffer's arrays for each transition. MiB are what building the model and filling its buffer adds to the memory of the
process.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import (
    PROJECT,
    compute_ratios,
    format_spread,
    format_table,
    make_parser,
    measure_alternately,
    parse_compile,
    print_progress,
    write_page,
)
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from throughput import SB3, Learner

import toolkit
from toolkit.algorithms import DoubleDQN
from toolkit.config.load import resolve_config
from toolkit.envs.factory import make_vec_env as make_toolkit_envs

OURS = "DoubleDQN"
VECTOR = "DoubleDQN, vector"
ONCE = "DoubleDQN, once"
MAX_STEPS = 100_000  # environment steps in a repeat
LEARNING_STARTS = 100  # environment steps before the first update, of all environments together


def main() -> None:
    """Measure each size and write the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--envs", type=int, nargs="*", default=[2**power for power in range(11)])
    parser.add_argument("--widths", type=int, nargs="*", default=[2**power for power in range(4, 11)])
    parser.add_argument("--buffers", type=int, nargs="*", default=[10**4, 10**5, 10**6, 3 * 10**6, 10**7])
    parser.add_argument("--steps", type=int, default=500, help="steps of all environments at once in each repeat")
    parser.add_argument("--compile", type=parse_compile, default=False, help="as DoubleDQN takes it; by default false")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    measured: dict[str, dict[int, dict[str, Any]]] = {}
    for quantity, size, sizes in list_settings(arguments):
        print_progress(f"{quantity}: {size:,}")
        steps = min(arguments.steps * sizes["n_envs"], MAX_STEPS)
        learners: dict[str, Learner] = {}
        memory = {}
        gc.collect()  # the learners of the size before
        for side, build_model in list_sides(quantity, sizes, arguments.compile).items():
            before = measure_memory()
            learners[side] = Learner(build_model, LEARNING_STARTS + steps)
            mib = (measure_memory() - before) / 2**20
            memory[side] = {"bytes": count_bytes(learners[side].model.replay_buffer), "mib": mib}
        times = measure_alternately(
            {side: partial(learner.learn, steps) for side, learner in learners.items()}, arguments.repeats
        )
        measured.setdefault(quantity, {})[size] = {
            **{side: [sum(parts) for parts in repeats] for side, repeats in times.items()},
            "memory": memory,
        }
    write_page("growth", __doc__, "\n\n".join(format_tables(measured)), measured, arguments)


def list_sides(quantity: str, sizes: dict[str, int], compiles: bool | str) -> dict[str, Callable[[], DQN]]:
    """Return what builds the models that are compared as a quantity grows."""
    ours = partial(build, DoubleDQN, **sizes, compile=compiles)
    sides = {SB3: partial(build, DQN, **sizes), OURS: ours}
    if quantity == "environments":
        sides[VECTOR] = partial(ours, make_envs=make_batch)
    if quantity == "buffer":
        once = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
        sides[ONCE] = partial(ours, **once)
    return sides


def measure_memory() -> int:
    """Return the bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_bytes(buffer: Any) -> int:
    """Return the bytes of a replay buffer's arrays for each transition."""
    arrays = [array for array in vars(buffer).values() if isinstance(array, np.ndarray)]
    if not buffer.handle_timeout_termination:  # never written to: the system gives it no memory
        arrays = [array for array in arrays if array is not buffer.timeouts]
    return sum(array.nbytes for array in arrays) // (buffer.buffer_size * buffer.n_envs)


def make_batch(n_envs: int) -> VecEnv:
    """Make environments that step in one call, as the toolkit trains with them."""
    config = {"env.vec_env": "vector", "env.n_envs": n_envs, "env.vec_wrappers": [], "env.max_episode_steps": 500}
    path = PROJECT / "configs" / "cartpole_ddqn.yaml"
    return make_toolkit_envs(resolve_config(toolkit.load_config(path, config)), seed=0)


def list_settings(arguments: argparse.Namespace) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Yield the name of the quantity that grows, its size, and all sizes of the setting."""
    defaults = {"n_envs": 1, "width": 64, "buffer_size": 10_000}
    for quantity, key, sizes in (
        ("environments", "n_envs", arguments.envs),
        ("width", "width", arguments.widths),
        ("buffer", "buffer_size", arguments.buffers),
    ):
        for size in sizes:
            yield quantity, size, defaults | {key: size}


def build(
    algorithm: type[DQN],
    n_envs: int,
    width: int,
    buffer_size: int,
    make_envs: Callable[[int], VecEnv] | None = None,
    **params: Any,
) -> DQN:
    """Build a model whose replay buffer is full."""
    model = algorithm(
        "MlpPolicy",
        make_envs(n_envs) if make_envs else make_vec_env("CartPole-v1", n_envs, seed=0),
        batch_size=64,
        buffer_size=buffer_size,
        learning_starts=LEARNING_STARTS,
        train_freq=1,
        exploration_fraction=1e-3,
        policy_kwargs={"net_arch": [width, width]},
        device="cpu",
        seed=0,
        **params,
    )
    fill_replay_buffer(model)
    return model


def fill_replay_buffer(model: DQN) -> None:
    """Fill the replay buffer with noise, so that all its memory is in use."""
    buffer: Any = model.replay_buffer
    noise = np.random.default_rng(0)
    for rows in np.array_split(np.arange(buffer.buffer_size), max(1, buffer.buffer_size // 10_000)):
        block = slice(rows[0], rows[-1] + 1)
        for name in ("observations", "next_observations"):
            if hasattr(buffer, name):
                array = getattr(buffer, name)[block]
                array[:] = noise.standard_normal(array.shape, dtype=np.float32)
        buffer.actions[block] = noise.integers(0, 2, buffer.actions[block].shape)
        for array in (buffer.rewards, buffer.dones, buffer.timeouts)[: 3 if buffer.handle_timeout_termination else 2]:
            array[block] = noise.integers(0, 2, array[block].shape)
    buffer.full = True


def format_tables(measured: dict[str, Any]) -> Iterator[str]:
    """Write a table for each quantity that grows."""
    for quantity, sizes in measured.items():
        rows = []
        sides = [side for side in (SB3, OURS, VECTOR, ONCE) if side in next(iter(sizes.values()))]
        for size, values in sizes.items():
            speeds = [format_spread([1e3 / duration for duration in values[side]], 0) for side in sides]
            rows.append([f"{size:,}", *speeds, format_spread(compute_ratios(values[SB3], values[OURS]))])
        yield format_table([quantity, *(f"{side}, steps/s" for side in sides), "ratio"], rows)
        if quantity == "buffer":
            yield format_table(*make_memory_table(sides, sizes))


def make_memory_table(sides: list[str], sizes: dict[int, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table with the memory that replay buffers take."""
    rows = []
    for size, values in sizes.items():
        memory = [values["memory"][side] for side in sides]
        rows.append(
            [f"{size:,}", *(f"{side['bytes']}" for side in memory), *(f"{side['mib']:,.0f}" for side in memory)]
        )
    return ["buffer", *(f"{side}, bytes" for side in sides), *(f"{side}, MiB" for side in sides)], rows


if __name__ == "__main__":
    main()
