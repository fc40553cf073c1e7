"""Measure what `toolkit experiment` takes for each run beyond the run itself.

    python benchmarks/many_runs.py [--runs 100] [--many 1000] [--timesteps 64] [--repeats 3] [--directory DIR]

The runs are as short as can be: DoubleDQN makes 32 updates on CartPole, and plays one greedy episode. In one process
that has everything imported, one after another takes the milliseconds of `run`, the mean of 30. An experiment trains
one run at a time, each in its own process; its seconds are from start to exit. Without those of an experiment of one
run, measured beside it, they give the milliseconds of each further run, and without those of `run`, the overhead. The
largest experiment is measured once. Files are written to DIR: in a RAM disk such as /dev/shm, no disk disturbs the
measurement. Median (minimum to maximum).
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiment import TOOLKIT, time_commands
from report import format_spread, format_table, make_parser, measure_alternately, print_progress, write_page

from toolkit.config import yaml_document

N_ALONE = 30  # runs in one process, after a first one that is not counted
CONFIG: dict[str, Any] = {
    "env": {"id": "CartPole-v1"},
    "algorithm": {"name": "double_dqn", "policy": "MlpPolicy", "params": {"batch_size": 16, "buffer_size": 1_000}},
}


def main() -> None:
    """Measure both numbers of runs and write the table."""
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--runs", type=int, default=100, help="of the experiment that each repeat measures")
    parser.add_argument("--many", type=int, default=1_000, help="runs of the experiment that is measured once")
    parser.add_argument("--timesteps", type=int, default=64, help="of each run; half of them before the first update")
    parser.add_argument("--directory", type=Path, help="where the runs are written; by default the system's for such")
    arguments = parser.parse_args()
    tempfile.tempdir = arguments.directory and str(arguments.directory)
    sides: dict[str, Callable[[], float]] = {"run": partial(time_alone, arguments.timesteps)}
    sides |= {str(runs): partial(time_experiment, runs, arguments.timesteps) for runs in (1, arguments.runs)}
    measured = measure_alternately(sides, arguments.repeats)
    measured[str(arguments.many)] = [time_experiment(arguments.many, arguments.timesteps)]
    rows = [make_row(measured, runs) for runs in (arguments.runs, arguments.many)]
    header = ["runs", "experiment, s", "each further run, ms", "run, ms", "overhead, ms"]
    write_page("many_runs", __doc__, format_table(header, rows), measured, arguments)


def make_row(measured: dict[str, list[float]], runs: int) -> list[str]:
    """Return the cells of a number of runs."""
    seconds, alone, single = measured[str(runs)], measured["run"], measured["1"]
    if len(seconds) < len(single):  # measured once
        alone, single = [statistics.median(alone)], [statistics.median(single)]
    further = [(many - one) / (runs - 1) for many, one in zip(seconds, single, strict=True)]
    overhead = [each - run for each, run in zip(further, alone, strict=True)]
    milliseconds = [format_spread([1e3 * second for second in values], 0) for values in (further, alone, overhead)]
    return [f"{runs:,}", format_spread(seconds, 1), *milliseconds]


def make_config(timesteps: int) -> dict[str, Any]:
    """Return the config of a run as plain data."""
    algorithm = CONFIG["algorithm"]
    params = {**algorithm["params"], "learning_starts": timesteps // 2, "train_freq": 1}
    return {"name": "short", "timesteps": timesteps, **CONFIG, "algorithm": {**algorithm, "params": params}}


def time_alone(timesteps: int) -> float:
    """Return the mean seconds of runs that another process makes one after another."""
    print_progress(f"{N_ALONE} runs in one process")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return statistics.mean(pool.apply(time_runs, (timesteps, tempfile.gettempdir())))


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
    print_progress(f"an experiment of {runs:,} runs")
    launcher = {"name": "local", "params": {"workers": 1}}
    content = {"base": make_config(timesteps), "seeds": runs, "evaluation_episodes": 1, "launcher": launcher}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml_document.dump(content))
        file.flush()
        return time_commands([TOOLKIT, "experiment", file.name, "--quiet"])


if __name__ == "__main__":
    main()
