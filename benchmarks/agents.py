"""Evaluate RL Zoo's published agents, and compare their mean returns with the published ones.

    python benchmarks/agents.py rl-trained-agents rl-baselines3-zoo/benchmark.md [--match TEXT] [--episodes N]

The arguments are a clone of https://github.com/DLR-RM/rl-trained-agents, and the table of RL Zoo's own evaluations.
`toolkit import-agent` makes a run of each agent whose zip is in the clone, and `toolkit evaluate` plays greedy
episodes. The tables have the mean and the standard deviation of the returns. An agent agrees if its mean is within two
of the published standard deviations.

The agent of PPO on BipedalWalker-v3 falls more often than published. It does so without the toolkit and SB3, too: in a
loop over its three layers in NumPy, it fell in 14 of 40 episodes.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from report import format_table, make_parser, print_progress, write_page

import toolkit
from toolkit.migration.rl_zoo.agent import import_agent
from toolkit.utils.errors import ToolkitError

Row = dict[str, Any]


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__, repeats=None)
    parser.add_argument("directory", type=Path, help="clone of rl-trained-agents")
    parser.add_argument("published", type=Path, help="benchmark.md of rl-baselines3-zoo")
    parser.add_argument("--match", default="", help="only agents with this text in their path")
    parser.add_argument("--episodes", type=int, default=100, help="greedy episodes of each agent")
    arguments = parser.parse_args()
    published = read_published(arguments.published)
    rows = []
    for config in sorted(arguments.directory.glob("*/*/*/config.yml")):
        directory, env_id = config.parent.parent, config.parent.name
        name = f"{directory.parent.name}/{directory.name}"
        if arguments.match in name and (directory / f"{env_id}.zip").is_file():
            mean_and_spread = published.get((directory.parent.name, env_id))
            rows.append({"agent": name, "published": mean_and_spread} | evaluate(directory, arguments.episodes))
            print_progress(f"{rows[-1]}")
    names = {arguments.directory: "rl-trained-agents", arguments.published: "rl-baselines3-zoo/benchmark.md"}
    placeholders = {str(path): name for path, name in names.items()}
    write_page("agents", __doc__, format_rows(rows), {"agents": rows}, arguments, placeholders)


def read_published(path: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the published mean and standard deviation of each algorithm on each environment."""
    cells = [[cell.strip() for cell in line.split("|")[1:5]] for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [row for row in cells if len(row) == 4 and re.fullmatch(r"-?\d+\.\d+", row[2])]
    return {(algorithm, env_id): (float(mean), float(std)) for algorithm, env_id, mean, std in lines}


def evaluate(directory: Path, episodes: int) -> Row:
    """Import an agent and evaluate it; return its notes and returns, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = import_agent(directory, Path(folder) / "run")
            return {"returns": [*toolkit.evaluate(run, episodes).returns]}
        except ToolkitError as error:
            message = str(error).replace(f"{directory.parent.parent}/", "").splitlines()[0]
            return {"refused": re.sub(r" \(\S+:\d+\)$", "", message)}  # without the place in a package


def format_rows(rows: Iterable[Row]) -> str:
    """Write the tables: agents that were evaluated, and the reasons why others are refused."""
    evaluated = [row for row in rows if "returns" in row]
    table = format_table(("agent", "published", "measured", "agrees"), map(format_row, evaluated))
    # without the place in a file and the environment's name
    pattern = r"^\S+: (\S+: )?('\S+' )?"
    reasons = Counter(re.sub(pattern, "", row["refused"]) for row in rows if "refused" in row)
    n_agreeing = sum(format_row(row)[3] == "yes" for row in evaluated)
    parts = [f"{n_agreeing} of {len(evaluated)} agents that run here agree.", table]
    if reasons:
        parts += [
            f"{reasons.total()} agents are refused:",
            format_table(("agents", "reason"), [(f"{count}", reason) for reason, count in reasons.most_common()]),
        ]
    return "\n\n".join(parts)


def format_row(row: Row) -> tuple[str, str, str, str]:
    """Return the cells of an agent that was evaluated."""
    mean, published = fmean(row["returns"]), row["published"]
    spread = stdev(row["returns"]) if len(row["returns"]) > 1 else 0.0
    verdict = "not published"
    if published:
        # the published ones are rounded to three decimals
        verdict = "yes" if abs(mean - published[0]) <= 2 * published[1] + 0.001 else "no"
    return (
        row["agent"],
        f"{published[0]:.1f} ± {published[1]:.1f}" if published else "",
        f"{mean:.1f} ± {spread:.1f}",
        verdict,
    )


if __name__ == "__main__":
    main()
