"""Compare the speed of accelerated algorithms with that of Stable-Baselines3's and sb3-contrib's own.

    python benchmarks/accelerate.py [--algorithms PPO SAC ...] [--repeats 7] [--results DIR]

Both sides learn in turns, in one process with one torch thread, at the algorithm's default settings on the same
environments: CartPole-v1 for discrete actions and Pendulum-v1 for continuous ones, eight of them for PPO and A2C, one
for the others. One side learns as `algorithm.accelerate: true` does, the other as `false` does. Both train to the same
weights but for rounding. Everything that `learn()` does is in the time of a step. The ratio is SB3's time divided by
ours, for each repeat. Median (minimum to maximum).

The other columns are of our side. `matrix products` and `Adam`, in its fused form, are what PyTorch's profiler counts
for them in the updates of some more steps. `collecting` is a step without updates: acting, the environment and the
replay buffer. SB3's side takes as long for each or longer, and a compiled update computes the same products and reads
the same moments. So `at most` is what another form of the update could gain: SB3's time divided by their sum. PPO and
A2C cannot leave out updates, so they have no such figure, and their products include those of acting.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
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
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch.profiler import ProfilerActivity, profile

from toolkit.algorithms.acceleration import accelerated

SB3, OURS = "SB3", "accelerated"
PRODUCTS, ADAM, COLLECTING = "matrix products", "Adam", "collecting"
_OPERATIONS = {PRODUCTS: ("aten::mm", "aten::addmm"), ADAM: ("aten::_fused_adam_",)}


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

    def measure_operations(self) -> dict[str, float]:
        """Return the milliseconds that matrix products and Adam take in the updates of an environment step."""
        parts = self._profile()
        if isinstance(self._model, OffPolicyAlgorithm):
            with self._without_updates():
                parts = {part: parts[part] - acting for part, acting in self._profile().items()}
        return parts

    def _profile(self) -> dict[str, float]:
        steps = SETTINGS[self._name].profiled_steps
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            self.learn(steps)
        microseconds = {event.key: float(event.self_cpu_time_total) for event in profiler.key_averages()}
        return {
            part: sum(microseconds.get(name, 0.0) for name in names) / 1e3 / steps
            for part, names in _OPERATIONS.items()
        }

    def measure_collecting(self) -> float | None:
        """Return the milliseconds of an environment step without updates; None for an on-policy algorithm."""
        if not isinstance(self._model, OffPolicyAlgorithm):
            return None
        with self._without_updates():
            return self.learn()

    @contextmanager
    def _without_updates(self) -> Iterator[None]:
        gradient_steps, self._model.gradient_steps = self._model.gradient_steps, 0
        yield
        self._model.gradient_steps = gradient_steps


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
        ours = learners[OURS]
        measured[name] |= {part: [figure] for part, figure in ours.measure_operations().items()}
        collecting = [ours.measure_collecting() for _ in range(arguments.repeats)]
        measured[name][COLLECTING] = [figure for figure in collecting if figure is not None]
    write_page("accelerate", __doc__, format_results(measured), measured, arguments)


def compute_bound(sides: dict[str, list[float]]) -> float:
    """Return SB3's time as a multiple of what no form of the update can leave out."""
    return median(sides[SB3]) / sum(median(sides[part]) for part in (PRODUCTS, ADAM, COLLECTING))


def format_results(measured: dict[str, Any]) -> str:
    """Write the table of algorithms."""
    rows = [
        [
            f"{name}, {SETTINGS[name].n_envs} {SETTINGS[name].env}",
            *(format_spread(sides[side], 3) for side in (SB3, OURS)),
            format_spread(compute_ratios(sides[SB3], sides[OURS])),
            *(f"{median(sides[part]):.3f}" if sides[part] else "" for part in (PRODUCTS, ADAM, COLLECTING)),
            f"{compute_bound(sides):.2f}" if sides[COLLECTING] else "",
        ]
        for name, sides in measured.items()
    ]
    header = ["algorithm, environments", "SB3, ms a step", "accelerated, ms a step", "ratio"]
    header += [*(f"{part}, ms" for part in (PRODUCTS, ADAM, COLLECTING)), "at most"]
    return format_table(header, rows)


if __name__ == "__main__":
    main()
