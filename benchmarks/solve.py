"""Compare how long training takes until CartPole is solved.

    python benchmarks/solve.py [--seeds FIRST END] [--tianshou PYTHON] [--sides NAME...] [--results DIR]

Solved is when the mean of the last 100 raw training returns is 195, at a limit of 200 steps. The seconds are those of
`learn()` up to then, on one torch thread; each side has learnt for a moment before, so that they include no imports.
The sides take turns seed by seed, each for as many steps as its settings say, if it takes so many.

`toolkit` is configs/cartpole_ddqn.yaml without its videos, with all its files and logs; `greedy` is the mean raw
return of 100 greedy episodes afterwards. Its settings were searched for just this measure, those of the others are
what their projects publish: this compares what a user gets, and `throughput` the implementations at equal settings.

`SB3 PPO` and `SB3 DQN` have RL Zoo 2.9's settings for CartPole-v1 and log nothing. `Tianshou DQN` has the settings of
Tianshou 2.0's example discrete_dqn, and logs and tests nothing; its epsilon of 0.1 costs it returns to the end.
`Tianshou DQN, tested` stops by the example's own criterion, in a training of its own; it asks for something else: as
soon as training episodes return 195, or after 10,000 steps, 100 test episodes are played, whose mean has to be 195.
Tianshou needs an environment of its own, whose interpreter is PYTHON; it runs in a process beside this one.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from report import PROJECT, options, progress, table, write
from seeds import runs
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import toolkit

CONFIG = PROJECT / "configs" / "cartpole_ddqn.yaml"
WARM_UP = 1_500  # steps; RL Zoo's DQN first learns after 1,280
OURS, SB3_PPO, SB3_DQN, TIANSHOU, TESTED = "toolkit", "SB3 PPO", "SB3 DQN", "Tianshou DQN", "Tianshou DQN, tested"

Outcome = dict[str, Any]
"""``seconds`` until solved, or None; ``timesteps`` and ``trained_seconds`` until then or until the end."""
Side = Callable[[int, int | None], Outcome]
"""Trains on a seed, for at most so many steps if that is fewer than its settings say."""


class Solved(BaseCallback):
    """Stops training when the last 100 raw returns are good enough, and says when that was."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.returns: deque[float] = deque(maxlen=100)
        self.at: float | None = None

    def _on_step(self) -> bool:
        ended = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        self.returns.extend(ended)
        if ended and len(self.returns) == 100 and sum(self.returns) >= 100 * self.threshold:
            self.at = time.perf_counter()
        return self.at is None


class Tianshou:
    """Tianshou, in a process of an environment where it is installed."""

    def __init__(self, python: str) -> None:
        command = [python, str(PROJECT / "benchmarks" / "tianshou_dqn.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def train(self, tested: bool, threshold: float, seed: int, most: int | None = None) -> Outcome:
        """Train once; say whether it is solved by the returns of training, or by the example's tests."""
        print(json.dumps([seed, threshold, most, tested]), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"Tianshou's process ended with status {self._process.wait()}; is Tianshou installed?")
        said: dict[str, Any] = json.loads(line)
        return said


def main() -> None:
    """Train on every seed and write the table."""
    parser = options(__doc__, repeats=None)
    parser.add_argument("--seeds", nargs=2, type=int, default=(7000, 7010), metavar=("FIRST", "END"))
    parser.add_argument("--sides", nargs="+", choices=[OURS, SB3_PPO, SB3_DQN], default=[OURS, SB3_PPO, SB3_DQN])
    parser.add_argument("--tianshou", metavar="PYTHON", help="an interpreter that has Tianshou")
    parser.add_argument("--threshold", type=float, default=195.0, help="the mean return that counts as solved")
    parser.add_argument("--timesteps", type=int, help="at most so many, whatever the settings say")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    peers = {OURS: train_ours, SB3_PPO: train_ppo, SB3_DQN: train_dqn}
    sides: dict[str, Side] = {name: partial(peers[name], arguments.threshold) for name in arguments.sides}
    tianshou = Tianshou(arguments.tianshou) if arguments.tianshou else None
    if tianshou:
        sides[TIANSHOU] = partial(tianshou.train, False, arguments.threshold)
        sides[TESTED] = partial(tianshou.train, True, arguments.threshold)
    else:
        progress("Tianshou is left out: --tianshou PYTHON names an interpreter that has it")
    measured = measure(sides, range(*arguments.seeds), arguments.timesteps)
    if tianshou:
        tianshou.close()
        measured["tianshou"] = tianshou.versions
    write("solve", __doc__, page([*sides], measured), measured, arguments, {arguments.tianshou: "PYTHON"})


def measure(sides: dict[str, Side], seeds: range, most: int | None) -> dict[str, Any]:
    """Train all sides on each seed in turn, after a short training of each that does not count."""
    progress("warming up: " + ", ".join(sides))
    measured: dict[str, Any] = {"warm_up": {name: side(0, WARM_UP) for name, side in sides.items()}, "seeds": {}}
    for turn, seed in enumerate(seeds):
        outcomes = {name: sides[name](seed, most) for name in in_turn([*sides], turn)}
        measured["seeds"][seed] = {name: outcomes[name] for name in sides}
        progress(f"seed {seed}: " + "; ".join(f"{name} {cell(outcomes[name])}" for name in sides))
    return measured


def in_turn(names: list[str], turn: int) -> list[str]:
    """Let another side begin each time."""
    return names[turn % len(names) :] + names[: turn % len(names)]


def train_ours(threshold: float, seed: int, most: int | None = None) -> Outcome:
    """Train as the config says, in a temporary directory and without videos; test the greedy policy, untimed."""
    config = toolkit.load_config(CONFIG)
    success = [callback.name for callback in config.callbacks].index("success")
    overrides = [f"timesteps={min(most or config.timesteps, config.timesteps)}"]
    overrides.append(f"callbacks.{success}.params.threshold={threshold}")
    ((result, greedy),) = runs(CONFIG, range(seed, seed + 1), overrides)
    return {
        "seconds": result["success"]["seconds"],
        "timesteps": result["success"]["timestep"] or result["timesteps"],
        "trained_seconds": result["success"]["seconds"] or result["seconds"],
        "greedy": greedy,
    }


def train_ppo(threshold: float, seed: int, most: int | None = None) -> Outcome:
    """Train SB3's PPO with the settings of RL Zoo."""
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 8, seed=seed, env_kwargs={"max_episode_steps": 200}),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda remaining: remaining * 0.001,
        clip_range=lambda remaining: remaining * 0.2,
        device="cpu",
        seed=seed,
    )
    return learn(model, threshold, min(most or 100_000, 100_000))


def train_dqn(threshold: float, seed: int, most: int | None = None) -> Outcome:
    """Train SB3's DQN with the settings of RL Zoo."""
    model = DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 1, seed=seed, env_kwargs={"max_episode_steps": 200}),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        device="cpu",
        seed=seed,
    )
    return learn(model, threshold, min(most or 50_000, 50_000))


def learn(model: BaseAlgorithm, threshold: float, timesteps: int) -> Outcome:
    """Time ``learn()`` until it has solved the environment."""
    solved = Solved(threshold)
    start = time.perf_counter()
    model.learn(timesteps, callback=solved)
    trained = (solved.at or time.perf_counter()) - start
    seconds = trained if solved.at else None
    return {"seconds": seconds, "timesteps": model.num_timesteps, "trained_seconds": trained}


def page(sides: list[str], measured: dict[str, Any]) -> str:
    """Write the table of seeds with the medians below, and what there is to know of it."""
    rows = [[str(seed), *(cell(outcomes[name]) for name in sides)] for seed, outcomes in measured["seeds"].items()]
    times = [[outcomes[name]["seconds"] or math.inf for outcomes in measured["seeds"].values()] for name in sides]
    medians = [statistics.median(one) for one in times]
    solved = [f"{sum(map(math.isfinite, one))} of {len(one)}" for one in times]
    rows += [
        ["solved", *solved],
        ["median", *map(told, medians)],
        ["least to greatest", *(f"{told(min(one))} to {told(max(one))}" for one in times)],
    ]
    if OURS in sides:
        ours = medians[sides.index(OURS)]
        rows.append(["median, times ours", *(against(median, ours) for median in medians)])
    warm_up = ", ".join(f"{name} {one['trained_seconds']:.1f} s" for name, one in measured["warm_up"].items())
    told_of = [
        table(["seed", *sides], rows),
        "A seed that was not solved counts as slower than any that was.",
        f"The first {WARM_UP:,} steps of each side, not counted above, ours before the others: {warm_up}.",
    ]
    if "tianshou" in measured:
        versions = ", ".join(f"{name} {number}" for name, number in measured["tianshou"].items())
        told_of.append(f"Tianshou's process: {versions}.")
    return "\n\n".join(told_of)


def cell(outcome: Outcome) -> str:
    """Say when it was solved, or what was tried."""
    steps = f"{outcome['timesteps']:,} steps"
    greedy = f", greedy {outcome['greedy']:.1f}" if "greedy" in outcome else ""
    if outcome["seconds"] is None:
        return f"no, in {steps}, {outcome['trained_seconds']:.2f} s{greedy}"
    return f"{outcome['seconds']:.2f} s, {steps}{greedy}"


def told(seconds: float) -> str:
    """Write seconds, which may be infinite."""
    return f"{seconds:.2f} s" if math.isfinite(seconds) else "not solved"


def against(theirs: float, ours: float) -> str:
    """Write how many times ours theirs is."""
    return f"{theirs / ours:.2f}" if math.isfinite(theirs) and math.isfinite(ours) else ""


if __name__ == "__main__":
    main()
