"""Train a config on several seeds and print a Markdown table of the results.

    python benchmarks/seeds.py configs/course_ddqn.yaml [--seeds 0 10] [--set KEY=VALUE]...

`episode` and `timestep` are those of success. `seconds` is the wall-clock time of training until success or the end,
without start-up and videos. `greedy` is the mean raw return of 100 greedy episodes with other seeds after training.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import toolkit


def main() -> None:
    """Train the seeds one after another and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 10), metavar=("FIRST", "END"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()

    packages = ("stable-baselines3", "gymnasium", "torch")
    print(f"{platform.machine()}, Python {platform.python_version()},", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in packages), end="\n\n")
    print("| seed | solved | episode | timestep | seconds | greedy |\n|---|---|---|---|---|---|")
    results = []
    for result, greedy_return in train_seeds(arguments.config, range(*arguments.seeds), arguments.overrides):
        if not result["success"]:
            parser.error(f"{arguments.config} has no success criterion")
        results.append(result)
        print(format_row(result, greedy_return), flush=True)
    print(f"\n{format_totals(results)}")


def format_row(result: dict[str, Any], greedy_return: float) -> str:
    """Write the row of one seed."""
    success = result["success"]
    solved = "yes" if success["solved"] else f"no (mean {success['mean_return']:.1f})"
    counts = f"{success['episode'] or result['episodes']} | {success['timestep'] or result['timesteps']:,}"
    return f"| {result['seed']} | {solved} | {counts} | {result['seconds']:.1f} | {greedy_return:.1f} |"


def format_totals(results: list[dict[str, Any]]) -> str:
    """Write how many seeds were solved, and the medians."""
    successes = [result["success"] for result in results if result["success"]["solved"]]
    parts = [f"{len(successes)} of {len(results)} solved"]
    for key in ("episode", "timestep") if successes else ():
        parts.append(f"median {key} {statistics.median(success[key] for success in successes):,.0f}")
    seconds = [result["seconds"] for result in results]
    return f"{', '.join(parts)}; median {statistics.median(seconds):.1f} s, slowest {max(seconds):.1f} s"


def train_seeds(config: Path, seeds: range, overrides: list[str]) -> Iterator[tuple[dict[str, Any], float]]:
    """Train once per seed without videos; yield each result with the mean greedy return."""
    for seed in seeds:
        loaded = toolkit.load_config(config, [*overrides, f"seed={seed}"])
        callbacks = [callback for callback in loaded.callbacks if callback.name != "record_video"]
        with tempfile.TemporaryDirectory() as directory:
            run = toolkit.train(loaded.model_copy(update={"callbacks": tuple(callbacks)}), Path(directory) / "run")
            yield run.result or {}, toolkit.evaluate(run).mean_return


if __name__ == "__main__":
    main()
