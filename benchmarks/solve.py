"""Compare how long training takes until CartPole is solved.

    python benchmarks/solve.py [--seeds FIRST END] [--tianshou PYTHON] [--sides NAME...] [--results DIR]

CartPole is solved when the mean of the last 100 raw training returns is 195, at a limit of 200 steps. The seconds are
those of `learn()` until then, on one torch thread. Each side learns briefly before, so that they include no imports.
The sides take turns for each seed. Each takes at most as many steps as its settings say.

`toolkit` is configs/cartpole_fast.yaml without videos, with all files and logs. `greedy` is the mean raw return of 100
greedy episodes after training. Its settings come from a search for this very measure; those of the others are what
their projects publish. So this compares what a user gets. `throughput` compares implementations at equal settings.

`SB3 PPO` and `SB3 DQN` have RL Zoo 2.9's settings for CartPole-v1 and log nothing. `Tianshou DQN` has the settings of
Tianshou 2.0's example discrete_dqn, without logs and tests; its epsilon of 0.1 lowers its returns until the end.
`Tianshou DQN, tested` is another training, which stops by the example's own, different criterion: as soon as training
episodes return 195, or after 10,000 steps, it plays 100 test episodes, whose mean must be 195. Tianshou needs its own
Python environment, whose interpreter is PYTHON, and runs in another process.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peer_process import PeerProcess
from report import PROJECT, format_table, make_parser, print_progress, write_page
from seeds import train_seeds
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import toolkit

CONFIG = PROJECT / "configs" / "cartpole_fast.yaml"
WARM_UP = 1_500  # steps; RL Zoo's DQN first learns after 1,280
OURS, SB3_PPO, SB3_DQN, TIANSHOU, TESTED = "toolkit", "SB3 PPO", "SB3 DQN", "Tianshou DQN", "Tianshou DQN, tested"

Outcome = dict[str, Any]
"""``seconds`` until solved, or None; ``timesteps`` and ``trained_seconds`` until solved or the end."""
Side = Callable[[int, int | None], Outcome]
"""Train on a seed; the second argument limits the timesteps of the settings."""


class StopWhenSolved(BaseCallback):
    """Stop training when the mean of the last 100 raw returns reaches a threshold, and note the time."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.returns: deque[float] = deque(maxlen=100)
        self.solved_at: float | None = None

    def _on_step(self) -> bool:
        returns = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        self.returns.extend(returns)
        if returns and len(self.returns) == 100 and sum(self.returns) >= 100 * self.threshold:
            self.solved_at = time.perf_counter()
        return self.solved_at is None


def main() -> None:
    """Train on every seed and write the table."""
    parser = make_parser(__doc__, repeats=None)
    parser.add_argument("--seeds", nargs=2, type=int, default=(7000, 7010), metavar=("FIRST", "END"))
    parser.add_argument("--sides", nargs="+", choices=[OURS, SB3_PPO, SB3_DQN], default=[OURS, SB3_PPO, SB3_DQN])
    parser.add_argument("--tianshou", metavar="PYTHON", help="a Python interpreter that has Tianshou")
    parser.add_argument("--threshold", type=float, default=195.0, help="the mean return that counts as solved")
    parser.add_argument("--timesteps", type=int, help="limit the timesteps of the settings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    peers = {OURS: train_ours, SB3_PPO: train_ppo, SB3_DQN: train_dqn}
    sides: dict[str, Side] = {name: partial(peers[name], arguments.threshold) for name in arguments.sides}
    tianshou = PeerProcess(arguments.tianshou, "tianshou_dqn.py") if arguments.tianshou else None
    if tianshou:
        sides[TIANSHOU] = partial(train_tianshou, tianshou, False, arguments.threshold)
        sides[TESTED] = partial(train_tianshou, tianshou, True, arguments.threshold)
    else:
        print_progress("Tianshou is left out; --tianshou PYTHON names an interpreter that has it")
    measured = measure(sides, range(*arguments.seeds), arguments.timesteps)
    if tianshou:
        tianshou.close()
        measured["tianshou"] = tianshou.versions
    write_page(
        "solve", __doc__, format_results([*sides], measured), measured, arguments, {arguments.tianshou: "PYTHON"}
    )


def measure(sides: dict[str, Side], seeds: range, max_timesteps: int | None) -> dict[str, Any]:
    """Train all sides on each seed in turns, after a short training of each that does not count."""
    print_progress("warming up: " + ", ".join(sides))
    measured: dict[str, Any] = {"warm_up": {name: side(0, WARM_UP) for name, side in sides.items()}, "seeds": {}}
    for turn, seed in enumerate(seeds):
        outcomes = {name: sides[name](seed, max_timesteps) for name in rotate([*sides], turn)}
        measured["seeds"][seed] = {name: outcomes[name] for name in sides}
        print_progress(f"seed {seed}: " + "; ".join(f"{name} {format_outcome(outcomes[name])}" for name in sides))
    return measured


def rotate(names: list[str], turn: int) -> list[str]:
    """Return the names so that another one is first in each turn."""
    return names[turn % len(names) :] + names[: turn % len(names)]


def train_ours(threshold: float, seed: int, max_timesteps: int | None = None) -> Outcome:
    """Train the config in a temporary directory without videos; evaluate the greedy policy, untimed."""
    config = toolkit.load_config(CONFIG)
    success = [callback.name for callback in config.callbacks].index("success")
    overrides = [f"timesteps={min(max_timesteps or config.timesteps, config.timesteps)}"]
    overrides.append(f"callbacks.{success}.params.threshold={threshold}")
    ((result, greedy_return),) = train_seeds(CONFIG, range(seed, seed + 1), overrides)
    return {
        "seconds": result["success"]["seconds"],
        "timesteps": result["success"]["timestep"] or result["timesteps"],
        "trained_seconds": result["success"]["seconds"] or result["seconds"],
        "greedy": greedy_return,
    }


def train_ppo(threshold: float, seed: int, max_timesteps: int | None = None) -> Outcome:
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
    return learn(model, threshold, min(max_timesteps or 100_000, 100_000))


def train_dqn(threshold: float, seed: int, max_timesteps: int | None = None) -> Outcome:
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
    return learn(model, threshold, min(max_timesteps or 50_000, 50_000))


def train_tianshou(
    process: PeerProcess, is_tested: bool, threshold: float, seed: int, max_timesteps: int | None = None
) -> Outcome:
    """Train Tianshou's example; judge success by the returns of training, or by its own tests."""
    return process.train(seed, threshold, max_timesteps, is_tested)


def learn(model: BaseAlgorithm, threshold: float, timesteps: int) -> Outcome:
    """Time ``learn()`` until it solves the environment."""
    stop = StopWhenSolved(threshold)
    start = time.perf_counter()
    model.learn(timesteps, callback=stop)
    trained = (stop.solved_at or time.perf_counter()) - start
    seconds = trained if stop.solved_at else None
    return {"seconds": seconds, "timesteps": model.num_timesteps, "trained_seconds": trained}


def format_results(sides: list[str], measured: dict[str, Any]) -> str:
    """Write the table of seeds with the totals below, and notes on it."""
    seeds = measured["seeds"]
    rows = [[str(seed), *(format_outcome(outcomes[name]) for name in sides)] for seed, outcomes in seeds.items()]
    rows += format_totals(
        sides, [[outcomes[name]["seconds"] or math.inf for outcomes in seeds.values()] for name in sides]
    )
    warm_up = ", ".join(f"{name} {side['trained_seconds']:.1f} s" for name, side in measured["warm_up"].items())
    blocks = [
        format_table(["seed", *sides], rows),
        "A seed that was not solved counts as slower than any solved one.",
        f"The first {WARM_UP:,} steps of each side do not count. They took, ours before the others: {warm_up}.",
    ]
    if "tianshou" in measured:
        versions = ", ".join(f"{name} {number}" for name, number in measured["tianshou"].items())
        blocks.append(f"Tianshou's process: {versions}.")
    return "\n\n".join(blocks)


def format_totals(sides: list[str], times: list[list[float]]) -> list[list[str]]:
    """Write the last rows of the table.

    :param times: for each side, the seconds until each seed was solved; infinite if it was not
    """
    medians = [statistics.median(seconds) for seconds in times]
    rows = [
        ["solved", *(f"{sum(map(math.isfinite, seconds))} of {len(seconds)}" for seconds in times)],
        ["median", *map(format_seconds, medians)],
        ["minimum to maximum", *(f"{format_seconds(min(each))} to {format_seconds(max(each))}" for each in times)],
    ]
    if OURS in sides:
        our_median = medians[sides.index(OURS)]
        rows.append(["median, times ours", *(format_ratio(median, our_median) for median in medians)])
    return rows


def format_outcome(result: Outcome) -> str:
    """Write when the environment was solved, or how long the attempt took."""
    steps = f"{result['timesteps']:,} steps"
    greedy = f", greedy {result['greedy']:.1f}" if "greedy" in result else ""
    if result["seconds"] is None:
        return f"no, in {steps}, {result['trained_seconds']:.2f} s{greedy}"
    return f"{result['seconds']:.2f} s, {steps}{greedy}"


def format_seconds(seconds: float) -> str:
    """Write seconds, which may be infinite."""
    return f"{seconds:.2f} s" if math.isfinite(seconds) else "not solved"


def format_ratio(theirs: float, ours: float) -> str:
    """Write their seconds divided by ours, or nothing if one is infinite."""
    return f"{theirs / ours:.2f}" if math.isfinite(theirs) and math.isfinite(ours) else ""


if __name__ == "__main__":
    main()
