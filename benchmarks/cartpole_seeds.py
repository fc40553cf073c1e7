"""Train configs/cartpole_ddqn.yaml on several seeds and print a Markdown table of how each went.

    python benchmarks/cartpole_seeds.py [--seeds 0 10] [--config configs/cartpole_ddqn.yaml]

`seconds` is the wall-clock time of training until success, without start-up and videos; `greedy` is the mean raw
return of 100 greedy episodes on fresh seeds afterwards.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path

import toolkit


def main() -> None:
    """Run the seeds one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 10), metavar=("FIRST", "END"))
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "configs" / "cartpole_ddqn.yaml")
    arguments = parser.parse_args()

    packages = ("stable-baselines3", "gymnasium", "torch")
    print(f"{platform.machine()}, Python {platform.python_version()},", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in packages), end="\n\n")
    print("| seed | solved | timesteps | episodes | seconds | greedy |\n|---|---|---|---|---|---|")
    seconds = []
    for seed in range(*arguments.seeds):
        config = toolkit.load_config(arguments.config, [f"seed={seed}", "callbacks.1.params={at_end: true}"])
        with tempfile.TemporaryDirectory() as directory:
            run = toolkit.train(config, Path(directory) / "run")
            result, greedy = run.result or {}, toolkit.evaluate(run).mean_return
        solved = "yes" if result["success"]["solved"] else "no"
        seconds.append(result["seconds"])
        counts = f"{result['timesteps']:,} | {result['episodes']}"
        print(f"| {seed} | {solved} | {counts} | {seconds[-1]:.1f} | {greedy:.1f} |", flush=True)
    print(f"\nmedian {statistics.median(seconds):.1f} s, slowest {max(seconds):.1f} s")


if __name__ == "__main__":
    main()
