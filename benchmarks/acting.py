"""Measure how the time of acting in 16 environments divides into parts, and the time of a plain loop as a limit.

    python benchmarks/acting.py [--steps 1000] [--repeats 5] [--results DIR]

Microseconds of one step of all 16 CartPoles, at the settings of row c of `throughput`, without updates. All sides take
turns. Median (minimum to maximum). The first two lines are a plain loop over CartPole itself, and over CartPole in
Gymnasium's wrappers with Monitor; nothing else uses the processor's caches there.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from report import compute_ratios, format_spread, format_table, make_parser, measure_alternately, write_page
from stable_baselines3.common.env_util import make_vec_env
from throughput import EAGER, OWN_ENVS, ROWS, SB3, build

ROW = ROWS["c"]
LOOPS = {
    "CartPole itself": lambda env: env.unwrapped,
    "CartPole in Gymnasium's wrappers and Monitor": lambda env: env,
}
PARTS = {"env.step": "stepping the environments", "_sample_action": "choosing actions", "_store_transition": "storing"}
REST = "everything else"


class TimedRollouts:
    """A model whose rollouts are timed part by part while it continues to learn."""

    def __init__(self, side: str, warm_up: int) -> None:
        self.model = build(ROW, side)
        self.model.learn(warm_up)
        self._seconds: Counter[str] = Counter()
        for owner, name in (
            (self.model.env, "step"),
            (self.model, "_sample_action"),
            (self.model, "_store_transition"),
        ):
            self._time(owner, name)
        self._time(self.model, "train")
        self._time(self.model, "collect_rollouts")

    def _time(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **options)
            self._seconds["env.step" if name == "step" else name] += time.perf_counter() - start
            return result

        setattr(owner, name, timed)

    def measure(self, steps: int) -> dict[str, float]:
        """Learn for so many more steps of all environments; return the microseconds of each part of one step."""
        self._seconds.clear()
        self.model.learn(steps * ROW.n_envs, reset_num_timesteps=False, log_interval=1_000_000)
        parts = {part: 1e6 * self._seconds[name] / steps for name, part in PARTS.items()}
        whole = 1e6 * self._seconds["collect_rollouts"] / steps
        return parts | {REST: whole - sum(parts.values()), "sum": whole}


def measure_loop(select_env: Callable[[Any], Any], steps: int) -> float:
    """Step 16 CartPoles with random actions in a plain loop; return the microseconds of one step of all."""
    venv = make_vec_env(ROW.env, ROW.n_envs, seed=0)
    envs: list[gym.Env[Any, Any]] = [select_env(env) for env in venv.envs]  # type: ignore[attr-defined]
    for env in envs:
        env.reset()
    actions = [venv.action_space.sample() for _ in range(steps)]
    start = time.perf_counter()
    for action in actions:
        for env in envs:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
    return 1e6 * (time.perf_counter() - start) / steps


def main() -> None:
    """Measure and write the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=1_000, help="steps of all environments in each repeat")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rollouts = {side: TimedRollouts(side, arguments.steps * ROW.n_envs) for side in (SB3, EAGER, OWN_ENVS)}
    sides: dict[str, Callable[[], Any]] = {
        name: partial(measure_loop, select_env, arguments.steps) for name, select_env in LOOPS.items()
    }
    sides |= {name: partial(side.measure, arguments.steps) for name, side in rollouts.items()}
    measured = measure_alternately(sides, arguments.repeats)
    write_page("acting", __doc__, format_results(measured), measured, arguments)


def format_results(measured: dict[str, Any]) -> str:
    """Write the tables."""
    shared = format_table(["what both share", "us"], [[name, format_spread(measured[name], 0)] for name in LOOPS])
    sides = [name for name in measured if name not in LOOPS]
    rows = [
        [part, *(format_spread([times[part] for times in measured[side]], 0) for side in sides)]
        for part in (*PARTS.values(), REST, "sum")
    ]
    theirs = get_times(measured, SB3, "sum")
    sums = [compute_ratios(theirs, get_times(measured, side, "sum")) for side in sides]
    ratios = ["SB3's over it", *map(format_spread, sums)]
    stepping = compute_ratios(theirs, get_times(measured, sides[-1], PARTS["env.step"]))
    conclusion = (
        f"SB3's sum is {statistics.median(stepping):.2f} times our stepping alone, and "
        f"{statistics.median(compute_ratios(theirs, measured[[*LOOPS][-1]])):.2f} times the plain loop."
    )
    return "\n\n".join([shared, format_table(["us", *sides], [*rows, ratios]), conclusion])


def get_times(measured: dict[str, Any], side: str, part: str) -> list[float]:
    """Return the microseconds of one part of a side's steps, for each repeat."""
    return [times[part] for times in measured[side]]


if __name__ == "__main__":
    main()
