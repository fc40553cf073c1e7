"""Compare the speed of accelerated algorithms with that of Stable-Baselines3's and sb3-contrib's own.

    python benchmarks/accelerate.py [--algorithms PPO SAC ...] [--repeats 7] [--results DIR]

Both sides learn in turns, in one process with one torch thread, at the algorithm's default settings on the same
environments: CartPole-v1 for discrete actions and Pendulum-v1 for continuous ones, eight of them for PPO and A2C, one
for the others. One side learns as `algorithm.accelerate: true` does, the other as `false` does. Both train to the same
weights but for rounding. Everything that `learn()` does is in the time of a step. The ratio is SB3's time divided by
ours, for each repeat. Median (minimum to maximum).

`matrix products` is what PyTorch's profiler counts for them in some more steps, on our side. SB3's side has as many or
more. So no other change, compiling included, can gain more than SB3's time divided by that of the products.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import sb3_contrib
import stable_baselines3
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
from stable_baselines3.common.env_util import make_vec_env
from torch.profiler import ProfilerActivity, profile

from toolkit.algorithms.acceleration import accelerated

SB3, OURS, PRODUCTS = "SB3", "accelerated", "matrix products"


@dataclass(frozen=True)
class Setting:
    """An algorithm on its environments.

    :param steps: environment steps of a repeat
    """

    env: str
    n_envs: int
    steps: int
    profiled_steps: int = 100


SETTINGS = {
    "PPO": Setting("CartPole-v1", 8, 16_384, 16_384),
    "A2C": Setting("CartPole-v1", 8, 8_000),
    "DQN": Setting("CartPole-v1", 1, 2_000),
    "QRDQN": Setting("CartPole-v1", 1, 1_000),
    "SAC": Setting("Pendulum-v1", 1, 200),
    "TD3": Setting("Pendulum-v1", 1, 200),
    "DDPG": Setting("Pendulum-v1", 1, 200),
    "TQC": Setting("Pendulum-v1", 1, 100),
}


class Learner:
    """A model that is timed while it continues to learn."""

    def __init__(self, name: str, is_accelerated: bool) -> None:
        setting = SETTINGS[name]
        cls = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
        self._name, self._steps, self._is_accelerated = name, setting.steps, is_accelerated
        self._model = cls("MlpPolicy", make_vec_env(setting.env, setting.n_envs, seed=0), seed=0, device="cpu")
        self.learn()

    def learn(self, steps: int | None = None) -> float:
        """Return the milliseconds of an environment step."""
        steps = steps or self._steps
        with accelerated(self._model) if self._is_accelerated else nullcontext():
            start = time.perf_counter()
            self._model.learn(steps, reset_num_timesteps=False, log_interval=1_000_000)
            return 1e3 * (time.perf_counter() - start) / steps

    def measure_matrix_products(self) -> float:
        """Return the milliseconds that matrix products take in an environment step."""
        steps = SETTINGS[self._name].profiled_steps
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            self.learn(steps)
        products = [event for event in profiler.key_averages() if event.key in ("aten::mm", "aten::addmm")]
        return float(sum(event.self_cpu_time_total for event in products)) / 1e3 / steps


def main() -> None:
    """Measure the algorithms and write the table."""
    parser = make_parser(__doc__, repeats=7)
    parser.add_argument("--algorithms", nargs="+", choices=[*SETTINGS], default=[*SETTINGS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = {}
    for name in arguments.algorithms:
        print_progress(name)
        learners = {side: Learner(name, side == OURS) for side in (SB3, OURS)}
        measured[name] = measure_alternately({side: each.learn for side, each in learners.items()}, arguments.repeats)
        measured[name][PRODUCTS] = [learners[OURS].measure_matrix_products()]
    write_page("accelerate", __doc__, format_results(measured), measured, arguments)


def format_results(measured: dict[str, Any]) -> str:
    """Write the table of algorithms."""
    rows = [
        [
            f"{name}, {SETTINGS[name].n_envs} {SETTINGS[name].env}",
            *(format_spread(sides[side], 3) for side in (SB3, OURS)),
            format_spread(compute_ratios(sides[SB3], sides[OURS])),
            f"{sides[PRODUCTS][0]:.3f}",
        ]
        for name, sides in measured.items()
    ]
    header = ["algorithm, environments", "SB3, ms a step", "accelerated, ms a step", "ratio", "matrix products, ms"]
    return format_table(header, rows)


if __name__ == "__main__":
    main()
