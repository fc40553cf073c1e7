"""Measure what `toolkit experiment` takes for each run beyond the run itself.

    python benchmarks/many_runs.py [--runs 10 100 1000] [--timesteps 64] [--directory DIR] [--results DIR]

The runs are as short as can be: DoubleDQN makes 32 updates on CartPole, and plays one greedy episode. In one process
that has everything imported, one after another takes the milliseconds of `run`: the mean of 50 before the experiments
and 50 after them. The experiment trains one run at a time, each in its own process. `experiment` is its time from
start to exit. Without the time of an experiment of one run, it gives the milliseconds for each further run, and
without those of `run`, the overhead. The files are in DIR: in a RAM disk such as /dev/shm, no disk disturbs the
measurement.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from experiment import TOOLKIT, time_commands
from report import format_table, make_parser, print_progress, write_page

from toolkit.config import yaml_document

N_ALONE = 50  # runs in one process, after a first one that is not counted
CONFIG: dict[str, Any] = {
    "env": {"id": "CartPole-v1"},
    "algorithm": {"name": "double_dqn", "policy": "MlpPolicy", "params": {"batch_size": 16, "buffer_size": 1_000}},
}


def main() -> None:
    """Measure each number of runs and write the table."""
    parser = make_parser(__doc__, repeats=None)
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--timesteps", type=int, default=64, help="of each run; half of them before the first update")
    parser.add_argument("--directory", type=Path, help="where the runs are written; by default the system's for such")
    arguments = parser.parse_args()
    tempfile.tempdir = arguments.directory and str(arguments.directory)
    alone = time_alone(arguments.timesteps)
    seconds = {}
    for runs in (1, *arguments.runs):
        print_progress(f"an experiment of {runs:,} runs")
        seconds[runs] = time_experiment(runs, arguments.timesteps)
    alone += time_alone(arguments.timesteps)
    run = statistics.mean(alone)
    rows = []
    for runs in arguments.runs:
        further = (seconds[runs] - seconds[1]) / (runs - 1)
        rows.append([f"{runs:,}", f"{seconds[runs]:.1f}", *(f"{1e3 * s:.0f}" for s in (further, run, further - run))])
    header = ["runs", "experiment, s", "each further run, ms", "run, ms", "overhead, ms"]
    measured = {"run": alone, "experiment": {str(runs): value for runs, value in seconds.items()}}
    write_page("many_runs", __doc__, format_table(header, rows), measured, arguments)


def make_config(timesteps: int) -> dict[str, Any]:
    """Return the config of a run as plain data."""
    algorithm = CONFIG["algorithm"]
    params = {**algorithm["params"], "learning_starts": timesteps // 2, "train_freq": 1}
    return {"name": "short", "timesteps": timesteps, **CONFIG, "algorithm": {**algorithm, "params": params}}


def time_alone(timesteps: int) -> list[float]:
    """Return the seconds of runs that another process makes one after another."""
    print_progress(f"{N_ALONE} runs in one process")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(time_runs, (timesteps, tempfile.gettempdir()))


def time_runs(timesteps: int, parent: str) -> list[float]:
    """Train and evaluate runs one after another, and return the seconds of each."""
    import logging

    from toolkit.experiments.runner import run_job

    logging.disable()  # each would say that half of its timesteps are without an update
    config, seconds = make_config(timesteps), []
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        for seed in range(N_ALONE + 1):
            start = time.perf_counter()
            run_job(Path(directory) / f"seed-{seed}", {**config, "seed": seed}, evaluation_episodes=1)
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def time_experiment(runs: int, timesteps: int) -> float:
    """Train and evaluate runs as an experiment, one at a time, and return the seconds."""
    launcher = {"name": "local", "params": {"workers": 1}}
    content = {"base": make_config(timesteps), "seeds": runs, "evaluation_episodes": 1, "launcher": launcher}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml_document.dump(content))
        file.flush()
        return time_commands([TOOLKIT, "experiment", file.name, "--quiet"])


if __name__ == "__main__":
    main()
