"""Measure `toolkit report` on experiments of up to 1,000 runs: seconds, peak memory, size of the page.

    python benchmarks/report_runs.py [--runs 10 100 1000] [--seeds 10] [--episodes 1000] [--repeats 5] [--results DIR]

The run directories are synthetic: their learning curves come from a random generator, some runs are solved, one in
fifty failed. They have no models, so that no video is recorded; that would take about a second for each of at most ten
variants. Each experiment has one report before it is measured. Seconds are from start to exit. Median (minimum to
maximum).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from process import run
from report import PROJECT, format_spread, format_table, make_parser, print_progress, write_page

from toolkit.config.load import load_config
from toolkit.config.schema import RunConfig

MAX_RETURN = 200.0
THRESHOLD, WINDOW = 195.0, 100


def main() -> None:
    """Write the experiments, measure their reports and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--seeds", type=int, default=10, help="runs of each variant")
    parser.add_argument("--episodes", type=int, default=1000, help="maximum of each run")
    arguments = parser.parse_args()

    toolkit = str(Path(sys.executable).with_name("toolkit"))
    measured, rows = {}, []
    with tempfile.TemporaryDirectory() as directory:
        for runs in arguments.runs:
            print_progress(f"{runs:,} runs")
            experiment = Path(directory) / f"experiment-{runs}"
            write_experiment(experiment, runs, arguments.seeds, arguments.episodes)
            repeats = [run([toolkit, "report", str(experiment)]) for _ in range(arguments.repeats + 1)][1:]
            size = (experiment / "report" / "report.html").stat().st_size
            measured[runs] = {"seconds_and_mebibytes": repeats, "page_bytes": size}
            seconds, memory = zip(*repeats, strict=True)
            rows.append([f"{runs:,}", format_spread(seconds), format_spread(memory, 0), f"{size / 2**20:.2f}"])
    write_page(
        "report_runs", __doc__, format_table(["runs", "seconds", "MiB", "page, MiB"], rows), measured, arguments
    )


def write_experiment(directory: Path, runs: int, seeds: int, episodes: int) -> None:
    """Write run directories like those of an experiment; each variant learns a little faster than the one before."""
    base = load_config(PROJECT / "configs" / "cartpole_fast.yaml")
    for number in range(runs):
        variant, seed = divmod(number, seeds)
        config = load_config(base, {"algorithm.params.gamma": 0.9 + variant / 1e4, "seed": seed})
        skill = (variant + 1) / (runs / seeds)
        write_run(directory / f"variant-{variant}" / f"seed-{seed}", config, skill, episodes)


def write_run(directory: Path, config: RunConfig, skill: float, episodes: int) -> None:
    """Write a run directory.

    :param skill: how fast the agent learns, 0 to 1
    """
    random = np.random.default_rng([config.seed, round(1e6 * skill)])
    rate = (0.5 + skill) * random.uniform(0.5, 2) * 3 / episodes
    expected = 10 + (MAX_RETURN - 5) * (1 - np.exp(-rate * np.arange(episodes)))
    returns = np.clip(expected * random.normal(1, 0.1, episodes), 8, MAX_RETURN).round()
    means = np.convolve(returns, np.full(WINDOW, 1 / WINDOW), "valid")
    solved = bool((means >= THRESHOLD).any())
    returns = returns[: int(np.argmax(means >= THRESHOLD)) + WINDOW] if solved else returns
    failed = not solved and random.random() < 0.02
    timesteps = int(returns.sum())
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(config.to_yaml())
    rows = (f"{value},{int(value)},{index / 100:.6f}\r\n" for index, value in enumerate(returns))
    (directory / "monitor.csv").write_text(f'#{{"t_start": 0.0}}\nr,l,t\n{"".join(rows)}', newline="")
    success = {
        "threshold": THRESHOLD,
        "episodes": WINDOW,
        "solved": solved,
        "episode": len(returns) if solved else None,
        "timestep": timesteps if solved else None,
        "seconds": timesteps / 1000 if solved else None,
        "mean_return": float(returns[-WINDOW:].mean()),
    }
    result = {
        "status": "failed" if failed else "success" if solved else "finished",
        "seed": config.seed,
        "timesteps": timesteps,
        "episodes": len(returns),
        "seconds": timesteps / 1000,
        "success": success,
    }
    (directory / "result.json").write_text(json.dumps(result))
    if failed:
        (directory / "traceback.txt").write_text("Traceback\nRuntimeError: made up\n")
        return
    greedy = np.clip(random.normal(expected[len(returns) - 1], 5, 100), 8, MAX_RETURN).round().tolist()
    evaluation = {"episodes": 100, "mean_return": float(np.mean(greedy)), "returns": greedy}
    (directory / "evaluation.json").write_text(json.dumps(evaluation))


if __name__ == "__main__":
    main()
