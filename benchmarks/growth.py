"""Compare DoubleDQN with Stable-Baselines3's DQN as environments, networks and replay buffers grow.

    python benchmarks/growth.py [--envs 1 2 4 ... 64] [--widths 16 ... 512] [--buffers 10000 ... 1000000]
                                [--steps 500] [--repeats 5] [--compile auto|true|false] [--results DIR]

Both sides learn in turns, in one process with one torch thread, at the same settings on the same CartPole, with an
update after every step of all environments. By default the networks have two layers of 64 units, the batch size is 64,
and the replay buffer holds 10,000 transitions. The buffer is full before anything is measured. Steps are environment
steps of all environments together. The ratio is SB3's time divided by ours, for each repeat. Median (minimum to
maximum).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from report import (
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
from throughput import SB3, Learner

from toolkit.algorithms import DoubleDQN

OURS = "DoubleDQN"
LEARNING_STARTS = 100  # environment steps before the first update, of all environments together


def main() -> None:
    """Measure each size and write the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--envs", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--buffers", type=int, nargs="*", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=500, help="steps of all environments at once in each repeat")
    parser.add_argument("--compile", type=parse_compile, default=False, help="as DoubleDQN takes it; by default false")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    measured: dict[str, dict[int, dict[str, list[float]]]] = {}
    for quantity, size, sizes in list_settings(arguments):
        print_progress(f"{quantity}: {size:,}")
        steps = arguments.steps * sizes["n_envs"]
        learners = {
            SB3: Learner(partial(build, DQN, **sizes), LEARNING_STARTS + steps),
            OURS: Learner(partial(build, DoubleDQN, **sizes, compile=arguments.compile), LEARNING_STARTS + steps),
        }
        times = measure_alternately(
            {side: partial(learner.learn, steps) for side, learner in learners.items()}, arguments.repeats
        )
        milliseconds = {side: [sum(parts) for parts in repeats] for side, repeats in times.items()}
        measured.setdefault(quantity, {})[size] = milliseconds
    write_page("growth", __doc__, "\n\n".join(format_tables(measured)), measured, arguments)


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


def build(algorithm: type[DQN], n_envs: int, width: int, buffer_size: int, **params: Any) -> DQN:
    """Build a model whose replay buffer is full."""
    model = algorithm(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs, seed=0),
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
    for array in (buffer.observations, buffer.next_observations):
        array[:] = noise.standard_normal(array.shape, dtype=np.float32)
    buffer.actions[:] = noise.integers(0, 2, buffer.actions.shape)
    for array in (buffer.rewards, buffer.dones, buffer.timeouts):
        array[:] = noise.integers(0, 2, array.shape)
    buffer.full = True


def format_tables(measured: dict[str, Any]) -> Iterator[str]:
    """Write a table for each quantity that grows."""
    for quantity, sizes in measured.items():
        rows = []
        for size, milliseconds in sizes.items():
            speeds = [format_spread([1e3 / duration for duration in milliseconds[side]], 0) for side in (SB3, OURS)]
            rows.append([f"{size:,}", *speeds, format_spread(compute_ratios(milliseconds[SB3], milliseconds[OURS]))])
        yield format_table([quantity, f"{SB3}, steps/s", f"{OURS}, steps/s", "ratio"], rows)


if __name__ == "__main__":
    main()
