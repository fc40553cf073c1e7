"""Measure `toolkit experiment` with `launcher: ray`, on a Ray of its own, against `local`, from shell to exit.

    python benchmarks/launchers.py [CONFIG] [--seeds 10] [--timesteps 12_000] [--repeats 3]

The same runs on the same cores. No run ends early or makes videos; after each the experiment plays one greedy episode.
CONFIG is configs/course_ddqn.yaml if it is left out. Seconds: median (least to greatest); the shares are of the pairs
of each repeat.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from experiment import TOOLKIT, run
from report import PROJECT, alternately, options, progress, ratios, spread, table, write

LAUNCHERS = ("local", "ray")


def main() -> None:
    """Measure both and write the table."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("config", type=Path, nargs="?", default=PROJECT / "configs" / "course_ddqn.yaml")
    parser.add_argument("--seeds", type=int, default=10, help="how many runs")
    parser.add_argument("--timesteps", type=int, default=12_000, help="of each run")
    arguments = parser.parse_args()

    text = f"base: {arguments.config.resolve()}\nseeds: {arguments.seeds}\nevaluation_episodes: 1\n"
    text += f"variants: {{same: {{timesteps: {arguments.timesteps}, callbacks: []}}}}\n"
    progress(f"{arguments.seeds} runs of {arguments.timesteps:,} timesteps")
    sides: dict[str, Callable[[], float]] = {name: lambda name=name: experiment(text, name) for name in LAUNCHERS}
    measured = alternately(sides, arguments.repeats)
    header = ["runs", *(f"`{name}`, s" for name in LAUNCHERS), "share", "target"]
    row = [
        f"{arguments.seeds} x {arguments.timesteps:,} timesteps",
        *(spread(measured[name], 1) for name in LAUNCHERS),
    ]
    row += [spread(ratios(measured["ray"], measured["local"])), "at most 1.10"]
    write("launchers", __doc__, table(header, [row]), measured, arguments)


def experiment(text: str, launcher: str) -> float:
    """Carry an experiment out; return the seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"{text}launcher: {launcher}\n")
        file.flush()
        return run([TOOLKIT, "experiment", file.name, "--quiet"])


if __name__ == "__main__":
    main()
