"""Compare how long training takes until Acrobot, MountainCar or LunarLander is solved, beside SBX and Tianshou.

    python benchmarks/solve_classics.py {acrobot,mountaincar,lunarlander} --peers PYTHON [--seeds FIRST END]

Success is judged greedily, because agents explore in different amounts: every 2,500 timesteps (LunarLander: 10,000)
ten greedy episodes are played, then ninety more if the ten reach the bar. The seconds are those of `learn()` until
then, with these episodes, on one torch thread. Each side learns briefly before, so that they include neither imports
nor JAX's compiling. The sides take turns for each seed, with the same number of timesteps.

`toolkit` is the shipped config, with all files and logs. `SBX DQN` and `SBX PPO` have RL Zoo 2.9's settings.
`Tianshou DQN` has those of Tianshou 2.0's examples acrobot_dualdqn and lunarlander_dqn, without their logs and tests;
there is none for MountainCar. The peers log nothing. They need their own Python environment, whose interpreter is
PYTHON, and run in another process.

RL Zoo's agents and CleanRL's DQN were measured in `benchmarks/experiments`, in turns with the same config, judged
alike. The last line compares those medians.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer_process import PeerProcess
from report import PROJECT, format_table, make_parser, print_progress, write_page
from seeds import train_seeds
from solve import OURS, Outcome, Side, format_outcome, format_seconds, format_totals, rotate

import toolkit

PEERS = {
    "acrobot": ("SBX DQN", "SBX PPO", "Tianshou DQN"),
    "mountaincar": ("SBX DQN", "SBX PPO"),
    "lunarlander": ("SBX DQN", "SBX PPO", "Tianshou DQN"),
}
WARM_UP = 3_000  # timesteps


def main() -> None:
    """Train on every seed and write the table."""
    parser = make_parser(__doc__, repeats=None)
    parser.add_argument("task", choices=PEERS)
    parser.add_argument("--peers", metavar="PYTHON", required=True, help="a Python interpreter that has the peers")
    parser.add_argument("--seeds", nargs=2, type=int, default=(5001, 5011), metavar=("FIRST", "END"))
    parser.add_argument("--outcomes", type=Path, help="a file that keeps each seed's outcomes, to go on from them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    config = PROJECT / "benchmarks" / "classics" / "base" / f"{arguments.task}.yaml"
    timesteps = toolkit.load_config(config).timesteps
    process = PeerProcess(arguments.peers, "classic_peers.py")
    sides: dict[str, Side] = {OURS: partial(train_ours, config)}
    sides |= {name: partial(train_peer, process, arguments.task, name) for name in PEERS[arguments.task]}
    seeds = measure(sides, range(*arguments.seeds), timesteps, arguments.outcomes)
    process.close()
    measured = {"seeds": seeds, "peers": process.versions, "experiment": read_experiment(arguments.task)}
    text = format_results([*sides], measured)
    placeholders = {arguments.peers: "PYTHON", str(arguments.outcomes): "FILE"}
    write_page(f"solve_{arguments.task}", __doc__, text, measured, arguments, placeholders)


def measure(
    sides: dict[str, Side], seeds: range, timesteps: int, outcomes: Path | None
) -> dict[int, dict[str, Outcome]]:
    """Train all sides on each seed in turns, after a short training of each that does not count."""
    measured = read_outcomes(outcomes) if outcomes and outcomes.exists() else {}
    missing = [(turn, seed) for turn, seed in enumerate(seeds) if seed not in measured]
    for name, side in sides.items() if missing else ():
        print_progress(f"warming up: {name}")
        side(0, WARM_UP)
    for turn, seed in missing:
        trained = {name: sides[name](seed, timesteps) for name in rotate([*sides], turn)}
        measured[seed] = {name: trained[name] for name in sides}
        print_progress(f"seed {seed}: " + "; ".join(f"{name} {format_outcome(trained[name])}" for name in sides))
        if outcomes:
            with outcomes.open("a", encoding="utf-8") as file:
                print(json.dumps([seed, measured[seed]]), file=file)
    return measured


def read_outcomes(path: Path) -> dict[int, dict[str, Outcome]]:
    """Read the outcomes of the seeds that have been measured."""
    return dict(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def train_ours(config: Path, seed: int, timesteps: int | None) -> Outcome:
    """Train the config in a temporary directory."""
    ((result, greedy_return),) = train_seeds(config, range(seed, seed + 1), [f"timesteps={timesteps}"])
    success = result["success"]
    return {
        "seconds": success["seconds"],
        "timesteps": success["timestep"] or result["timesteps"],
        "trained_seconds": success["seconds"] or result["seconds"],
        "greedy": greedy_return,
    }


def train_peer(process: PeerProcess, task: str, name: str, seed: int, timesteps: int | None) -> Outcome:
    """Train a peer in its process."""
    return process.train(task, name, seed, timesteps)


def read_experiment(task: str) -> dict[str, list[float | None]]:
    """Read the seconds of each variant's runs until success, None for a run without; nothing if there is no report."""
    report = PROJECT / "benchmarks" / "experiments" / f"classics_{task}" / "report.csv"
    seconds: dict[str, list[float | None]] = defaultdict(list)
    if report.exists():
        with report.open(encoding="utf-8", newline="") as file:
            for run in csv.DictReader(file):
                seconds[run["variant"]].append(float(run["seconds"]) if run["status"] == "success" else None)
    return dict(seconds)


def format_results(sides: list[str], measured: dict[str, Any]) -> str:
    """Write the table of seeds with the totals below, and the peers' versions."""
    seeds = measured["seeds"]
    rows = [[str(seed), *(format_outcome(outcomes[name]) for name in sides)] for seed, outcomes in seeds.items()]
    times = [[outcomes[name]["seconds"] or math.inf for outcomes in seeds.values()] for name in sides]
    versions = ", ".join(f"{name} {number}" for name, number in measured["peers"].items())
    return "\n\n".join(
        [
            format_table(["seed", *sides], rows + format_totals(sides, times)),
            "A seed that was not solved counts as slower than any solved one.",
            f"The peers' process: {versions}.",
            f"In the experiment: {format_experiment(measured['experiment'])}.",
        ]
    )


def format_experiment(experiment: dict[str, list[float | None]]) -> str:
    """Write the median of each variant of the experiment, the toolkit's first, and compare it with the toolkit's."""
    medians = {name: statistics.median(each or math.inf for each in seconds) for name, seconds in experiment.items()}
    parts = []
    for name, seconds in experiment.items():
        solved = f"{sum(each is not None for each in seconds)} of {len(seconds)} solved"
        ratio = medians[name] / next(iter(medians.values()))
        times = f", {ratio:.2f} times the first" if math.isfinite(ratio) else ""
        parts.append(f"{name} {format_seconds(medians[name])}{times} ({solved})")
    return "; ".join(parts) or "none"


if __name__ == "__main__":
    main()
