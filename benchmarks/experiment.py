"""Measure `toolkit experiment` against `toolkit train` on the same runs, one after another, from shell to exit.

    python benchmarks/experiment.py [CONFIG] [--seeds 10] [--timesteps 12_000] [--long 30_000] [--repeats 3]

`many`: as many seeds as are asked for, on as many processes as there are cores. `one`: a single longer run, to see
what the launcher costs. No run ends early or makes videos; after each the experiment plays one greedy episode, which
`train` does not. CONFIG is configs/course_ddqn.yaml if it is left out. Seconds: median (least to greatest); the shares
are of the pairs of each repeat.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import PROJECT, alternately, options, progress, ratios, spread, table, write

TOOLKIT = str(Path(sys.executable).with_name("toolkit"))
TARGETS = {"many": "at most 0.60", "one": "at most 1.05"}


def main() -> None:
    """Measure both and write the table."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("config", type=Path, nargs="?", default=PROJECT / "configs" / "course_ddqn.yaml")
    parser.add_argument("--seeds", type=int, default=10, help="how many runs are many")
    parser.add_argument("--timesteps", type=int, default=12_000, help="of each of many runs")
    parser.add_argument("--long", type=int, default=30_000, help="timesteps of the single run")
    arguments = parser.parse_args()

    config = arguments.config.resolve()
    sizes = {"many": (arguments.seeds, arguments.timesteps), "one": (1, arguments.long)}
    measured = {}
    for name, (seeds, timesteps) in sizes.items():
        progress(f"{name}: {seeds} runs of {timesteps:,} timesteps")
        sides: dict[str, Callable[[], float]] = {
            "one after another": lambda seeds=seeds, timesteps=timesteps: trainings(config, seeds, timesteps),
            "experiment": lambda seeds=seeds, timesteps=timesteps: experiment(config, seeds, timesteps),
        }
        measured[name] = alternately(sides, arguments.repeats)
    rows = [
        [
            f"{name}: {sizes[name][0]} x {sizes[name][1]:,} timesteps",
            *(spread(seconds, 1) for seconds in sides.values()),
            spread(ratios(sides["experiment"], sides["one after another"])),
            TARGETS[name],
        ]
        for name, sides in measured.items()
    ]
    header = ["runs", "`toolkit train`, s", "`toolkit experiment`, s", "share", "target"]
    write("experiment", __doc__, table(header, rows), measured, arguments)


def trainings(config: Path, seeds: int, timesteps: int) -> float:
    """Train seeds one after another; return the seconds."""
    settings = ["--set", f"timesteps={timesteps}", "--set", "callbacks=[]", "--quiet"]
    return run(*([TOOLKIT, "train", str(config), "--seed", str(seed), *settings] for seed in range(seeds)))


def experiment(config: Path, seeds: int, timesteps: int) -> float:
    """Train the same as an experiment; return the seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"base: {config}\nvariants: {{same: {{timesteps: {timesteps}, callbacks: []}}}}\n")
        file.write(f"seeds: {seeds}\nevaluation_episodes: 1\n")
        file.flush()
        return run([TOOLKIT, "experiment", file.name, "--quiet"])


def run(*commands: list[str]) -> float:
    """Run commands in an empty directory; return how long they took, in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        for command in commands:
            subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
