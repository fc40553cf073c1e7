"""Compare the time of `toolkit experiment` with `launcher: ray` and with `launcher: local`.

    python benchmarks/launchers.py [CONFIG] [--seeds 10] [--timesteps 12_000] [--repeats 3]

Both launchers have the same runs on the same cores; Ray starts for each experiment. No run ends early or records
videos. After each run the experiment plays one greedy episode. CONFIG is configs/course_ddqn.yaml by default. Seconds
are from start to exit: median (minimum to maximum). The share is Ray's time divided by that of `local`, for each
repeat.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from experiment import TOOLKIT, time_commands
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

LAUNCHERS = ("local", "ray")


def main() -> None:
    """Measure both launchers and write the table."""
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("config", type=Path, nargs="?", default=PROJECT / "configs" / "course_ddqn.yaml")
    parser.add_argument("--seeds", type=int, default=10, help="how many runs")
    parser.add_argument("--timesteps", type=int, default=12_000, help="of each run")
    arguments = parser.parse_args()

    text = f"base: {arguments.config.resolve()}\nseeds: {arguments.seeds}\nevaluation_episodes: 1\n"
    text += f"variants: {{same: {{timesteps: {arguments.timesteps}, callbacks: []}}}}\n"
    print_progress(f"{arguments.seeds} runs of {arguments.timesteps:,} timesteps")
    sides: dict[str, Callable[[], float]] = {name: lambda name=name: time_experiment(text, name) for name in LAUNCHERS}
    measured = measure_alternately(sides, arguments.repeats)
    header = ["runs", *(f"`{name}`, s" for name in LAUNCHERS), "share"]
    row = [
        f"{arguments.seeds} x {arguments.timesteps:,} timesteps",
        *(format_spread(measured[name], 1) for name in LAUNCHERS),
    ]
    row += [format_spread(compute_ratios(measured["ray"], measured["local"]))]
    write_page("launchers", __doc__, format_table(header, [row]), measured, arguments)


def time_experiment(text: str, launcher: str) -> float:
    """Run an experiment and return the seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"{text}launcher: {launcher}\n")
        file.flush()
        return time_commands([TOOLKIT, "experiment", file.name, "--quiet"])


if __name__ == "__main__":
    main()
