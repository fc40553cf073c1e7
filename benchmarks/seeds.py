"""Train a config on several seeds and print a Markdown table of how each went.

    python benchmarks/seeds.py configs/course_ddqn.yaml [--seeds 0 10] [--set KEY=VALUE]...

`episode` and `timestep` are those of success; `seconds` is the wall-clock time of training until success or the end,
without start-up and videos; `greedy` is the mean raw return of 100 greedy episodes on fresh seeds afterwards.
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
    """Run the seeds one after another."""
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
    for result, greedy in runs(arguments.config, range(*arguments.seeds), arguments.overrides):
        results.append(result)
        success = result["success"] or parser.error(f"{arguments.config} has no success criterion")
        solved = "yes" if success["solved"] else f"no (mean {success['mean_return']:.1f})"
        counts = f"{success['episode'] or result['episodes']} | {success['timestep'] or result['timesteps']:,}"
        print(f"| {result['seed']} | {solved} | {counts} | {result['seconds']:.1f} | {greedy:.1f} |", flush=True)
    solved = [result["success"] for result in results if result["success"]["solved"]]
    print(f"\n{len(solved)} of {len(results)} solved", end="")
    for key in ("episode", "timestep") if solved else ():
        print(f", median {key} {statistics.median(one[key] for one in solved):,.0f}", end="")
    seconds = [result["seconds"] for result in results]
    print(f"; median {statistics.median(seconds):.1f} s, slowest {max(seconds):.1f} s")


def runs(config: Path, seeds: range, overrides: list[str]) -> Iterator[tuple[dict[str, Any], float]]:
    """Train once per seed, without videos; give each result with the mean greedy return."""
    for seed in seeds:
        loaded = toolkit.load_config(config, [*overrides, f"seed={seed}"])
        kept = [callback for callback in loaded.callbacks if callback.name != "record_video"]
        with tempfile.TemporaryDirectory() as directory:
            run = toolkit.train(loaded.model_copy(update={"callbacks": tuple(kept)}), Path(directory) / "run")
            yield run.result or {}, toolkit.evaluate(run).mean_return


if __name__ == "__main__":
    main()
