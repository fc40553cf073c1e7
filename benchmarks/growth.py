"""Compare DoubleDQN with Stable-Baselines3's DQN as environments, networks and replay buffers grow.

    python benchmarks/growth.py [--envs 1 2 4 ... 64] [--widths 16 ... 512] [--buffers 10000 ... 1000000]
                                [--steps 500] [--repeats 5] [--compile auto|true|false] [--results DIR]

Both sides learn alternately in one process with one torch thread, at the same settings on the same CartPole, with an
update after every step of all environments. Two layers, 64 wide unless said otherwise, batch 64. A buffer is full
before anything is measured, and as large as is said, or else holds 10,000 transitions. Steps are environment steps, of
all environments together; the ratio is SB3's time over ours, repeat by repeat. Median (least to greatest).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from report import alternately, compiled, options, progress, ratios, spread, table, write
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from throughput import SB3, Learner

from toolkit.algorithms import DoubleDQN

OURS = "DoubleDQN"
START = 100  # environment steps before the first update, of all environments together


def main() -> None:
    """Measure each size and write the tables."""
    parser = options(__doc__)
    parser.add_argument("--envs", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--buffers", type=int, nargs="*", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=500, help="steps of all environments at once in each repeat")
    parser.add_argument("--compile", type=compiled, default=False, help="as DoubleDQN takes it; by default false")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    measured: dict[str, dict[int, dict[str, list[float]]]] = {}
    for what, size, sizes in settings(arguments):
        progress(f"{what}: {size:,}")
        steps = arguments.steps * sizes["n_envs"]
        learners = {
            SB3: Learner(partial(build, DQN, **sizes), START + steps),
            OURS: Learner(partial(build, DoubleDQN, **sizes, compile=arguments.compile), START + steps),
        }
        times = alternately({side: partial(one.learn, steps) for side, one in learners.items()}, arguments.repeats)
        milliseconds = {side: [sum(parts) for parts in taken] for side, taken in times.items()}
        measured.setdefault(what, {})[size] = milliseconds
    write("growth", __doc__, "\n\n".join(tables(measured)), measured, arguments)


def settings(arguments: argparse.Namespace) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Give what grows, its size, and all the sizes of the setting."""
    usual = {"n_envs": 1, "width": 64, "buffer_size": 10_000}
    for what, key, sizes in (
        ("environments", "n_envs", arguments.envs),
        ("width", "width", arguments.widths),
        ("buffer", "buffer_size", arguments.buffers),
    ):
        for size in sizes:
            yield what, size, usual | {key: size}


def build(algorithm: type[DQN], n_envs: int, width: int, buffer_size: int, **own: Any) -> DQN:
    """Build a model whose replay buffer is full."""
    model = algorithm(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs, seed=0),
        batch_size=64,
        buffer_size=buffer_size,
        learning_starts=START,
        train_freq=1,
        exploration_fraction=1e-3,
        policy_kwargs={"net_arch": [width, width]},
        device="cpu",
        seed=0,
        **own,
    )
    fill(model)
    return model


def fill(model: DQN) -> None:
    """Fill a replay buffer with noise, so that all its memory is in use."""
    buffer: Any = model.replay_buffer
    noise = np.random.default_rng(0)
    for array in (buffer.observations, buffer.next_observations):
        array[:] = noise.standard_normal(array.shape, dtype=np.float32)
    buffer.actions[:] = noise.integers(0, 2, buffer.actions.shape)
    for array in (buffer.rewards, buffer.dones, buffer.timeouts):
        array[:] = noise.integers(0, 2, array.shape)
    buffer.full = True


def tables(measured: dict[str, Any]) -> Iterator[str]:
    """Write a table for each thing that grows."""
    for what, sizes in measured.items():
        rows = []
        for size, milliseconds in sizes.items():
            speeds = [spread([1e3 / one for one in milliseconds[side]], 0) for side in (SB3, OURS)]
            rows.append([f"{size:,}", *speeds, spread(ratios(milliseconds[SB3], milliseconds[OURS]))])
        yield table([what, f"{SB3}, steps/s", f"{OURS}, steps/s", "ratio"], rows)


if __name__ == "__main__":
    main()
