"""Show where the time of acting in 16 environments goes, and how much faster it could be at most.

    python benchmarks/acting.py [--steps 1000] [--repeats 5] [--results DIR]

Microseconds of one step of all 16 CartPoles at the settings of `throughput`'s row c, without the updates. All sides
take turns; medians (least to greatest). The first two lines are CartPole's own Python, and CartPole in Gymnasium's
wrappers with Monitor, stepped in a plain loop in which nothing else needs the processor's caches.
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
from report import alternately, options, ratios, spread, table, write
from stable_baselines3.common.env_util import make_vec_env
from throughput import EAGER, OWN_ENVS, ROWS, SB3, build

ROW = ROWS["c"]
LOOPS = {
    "CartPole itself": lambda env: env.unwrapped,
    "CartPole in Gymnasium's wrappers and Monitor": lambda env: env,
}
PARTS = {"env.step": "stepping the environments", "_sample_action": "choosing actions", "_store_transition": "storing"}
REST = "everything else"


class Acting:
    """A model whose rollouts are timed part by part while it learns on."""

    def __init__(self, side: str) -> None:
        self.model = build(ROW, side)
        self.model.learn(ROW.steps)
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

        def timed(*arguments: Any, **more: Any) -> Any:
            start = time.perf_counter()
            done = function(*arguments, **more)
            self._seconds["env.step" if name == "step" else name] += time.perf_counter() - start
            return done

        setattr(owner, name, timed)

    def act(self, steps: int) -> dict[str, float]:
        """Learn on for so many steps of all environments; return the microseconds of each part of one."""
        self._seconds.clear()
        self.model.learn(steps * ROW.n_envs, reset_num_timesteps=False, log_interval=1_000_000)
        parts = {said: 1e6 * self._seconds[name] / steps for name, said in PARTS.items()}
        whole = 1e6 * self._seconds["collect_rollouts"] / steps
        return parts | {REST: whole - sum(parts.values()), "sum": whole}


def loop(inner: Callable[[Any], Any], steps: int) -> float:
    """Step 16 CartPoles with random actions in a plain loop; return the microseconds of a step of all."""
    venv = make_vec_env(ROW.env, ROW.n_envs, seed=0)
    envs: list[gym.Env[Any, Any]] = [inner(env) for env in venv.envs]  # type: ignore[attr-defined]
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
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=1_000, help="steps of all environments in each repeat")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    acting = {side: Acting(side) for side in (SB3, EAGER, OWN_ENVS)}
    sides: dict[str, Callable[[], Any]] = {
        name: partial(loop, inner, arguments.steps) for name, inner in LOOPS.items()
    }
    sides |= {name: partial(side.act, arguments.steps) for name, side in acting.items()}
    measured = alternately(sides, arguments.repeats)
    write("acting", __doc__, page(measured), measured, arguments)


def page(measured: dict[str, Any]) -> str:
    """Write the tables."""
    shared = table(["what both share", "us"], [[name, spread(measured[name], 0)] for name in LOOPS])
    sides = [name for name in measured if name not in LOOPS]
    rows = [
        [part, *(spread([one[part] for one in measured[side]], 0) for side in sides)]
        for part in (*PARTS.values(), REST, "sum")
    ]
    theirs = [one["sum"] for one in measured[SB3]]
    now = ["SB3's over it", *(spread(ratios(theirs, [one["sum"] for one in measured[side]])) for side in sides)]
    stepping = ratios(theirs, [one[PARTS["env.step"]] for one in measured[sides[-1]]])
    said = (
        f"SB3's sum is {statistics.median(stepping):.2f} times our stepping alone, and "
        f"{statistics.median(ratios(theirs, measured[[*LOOPS][-1]])):.2f} times the plain loop."
    )
    return "\n\n".join([shared, table(["us", *sides], [*rows, now]), said])


if __name__ == "__main__":
    main()
