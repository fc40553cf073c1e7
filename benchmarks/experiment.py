"""Compare the time of `toolkit experiment` with that of `toolkit train` for the same runs one after another.

    python benchmarks/experiment.py [CONFIG] [--seeds 10] [--timesteps 12_000] [--long 30_000] [--repeats 3]

`many` is `--seeds` runs, on as many processes as there are cores. `one` is a single longer run, which shows what the
launcher costs. No run ends early or records videos. After each run the experiment plays one greedy episode, which
`train` does not. CONFIG is configs/course_ddqn.yaml by default. Seconds are from start to exit: median (minimum to
maximum). The share is the experiment's time divided by that of the trainings, for each repeat.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import (
    PROJECT,
    compute_ratios,
    format_spread,
    format_table,
    make_parser,
    measure_alternately,
    print_progress,
    write_page,
)

TOOLKIT = str(Path(sys.executable).with_name("toolkit"))


def main() -> None:
    """Measure both commands and write the table."""
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("config", type=Path, nargs="?", default=PROJECT / "configs" / "course_ddqn.yaml")
    parser.add_argument("--seeds", type=int, default=10, help="runs of `many`")
    parser.add_argument("--timesteps", type=int, default=12_000, help="of each run of `many`")
    parser.add_argument("--long", type=int, default=30_000, help="timesteps of `one`")
    arguments = parser.parse_args()

    config = arguments.config.resolve()
    sizes = {"many": (arguments.seeds, arguments.timesteps), "one": (1, arguments.long)}
    measured = {}
    for name, (seeds, timesteps) in sizes.items():
        print_progress(f"{name}: {seeds} runs of {timesteps:,} timesteps")
        sides: dict[str, Callable[[], float]] = {
            "one after another": lambda seeds=seeds, timesteps=timesteps: time_trainings(config, seeds, timesteps),
            "experiment": lambda seeds=seeds, timesteps=timesteps: time_experiment(config, seeds, timesteps),
        }
        measured[name] = measure_alternately(sides, arguments.repeats)
    rows = [
        [
            f"{name}: {sizes[name][0]} x {sizes[name][1]:,} timesteps",
            *(format_spread(seconds, 1) for seconds in sides.values()),
            format_spread(compute_ratios(sides["experiment"], sides["one after another"])),
        ]
        for name, sides in measured.items()
    ]
    header = ["runs", "`toolkit train`, s", "`toolkit experiment`, s", "share"]
    write_page("experiment", __doc__, format_table(header, rows), measured, arguments)


def time_trainings(config: Path, seeds: int, timesteps: int) -> float:
    """Train seeds one after another and return the seconds."""
    settings = ["--set", f"timesteps={timesteps}", "--set", "callbacks=[]", "--quiet"]
    return time_commands(*([TOOLKIT, "train", str(config), "--seed", str(seed), *settings] for seed in range(seeds)))


def time_experiment(config: Path, seeds: int, timesteps: int) -> float:
    """Train the same seeds as an experiment and return the seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"base: {config}\nvariants: {{same: {{timesteps: {timesteps}, callbacks: []}}}}\n")
        file.write(f"seeds: {seeds}\nevaluation_episodes: 1\n")
        file.flush()
        return time_commands([TOOLKIT, "experiment", file.name, "--quiet"])


def time_commands(*commands: list[str]) -> float:
    """Run commands one after another in an empty directory and return the seconds."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        for command in commands:
            subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
