"""Measure commands of the toolkit from start to exit: seconds, and peak memory.

    python benchmarks/process.py [CONFIG] [--repeats 5] [--train-repeats 5] [--cold] [--commands NAME...]
                                 [--results DIR]

The commands take turns. Unless `--cold`, each runs once before, so that the files it reads are in memory. `toolkit
train` runs all of CONFIG, by default configs/cartpole_ddqn.yaml, with its videos. `learning` are its seconds in
`learn()`. The memory is that of the largest process, in MiB. Two imports are there for comparison. Median (minimum to
maximum).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import PROJECT, format_spread, format_table, make_parser, print_progress, write_page

TOOLKIT = str(Path(sys.executable).with_name("toolkit"))
TRAIN, LEARNING = "toolkit train", "learning"
COMMANDS = {
    "toolkit --help": [TOOLKIT, "--help"],
    "toolkit check": [TOOLKIT, "check", "CONFIG"],
    TRAIN: [TOOLKIT, "train", "CONFIG"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "python -c 'import stable_baselines3'": [sys.executable, "-c", "import stable_baselines3"],
}


def main() -> None:
    """Measure the commands and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=PROJECT / "configs" / "cartpole_ddqn.yaml")
    parser.add_argument("--train-repeats", type=int, help="how often to train; by default as often as the rest")
    parser.add_argument("--cold", action="store_true", help="count the first run too")
    parser.add_argument("--commands", nargs="+", choices=[*COMMANDS], default=[*COMMANDS], help="by default all")
    arguments = parser.parse_args()
    rows = []
    measured = measure_commands(arguments)
    for name, runs in measured.items():
        seconds, *memory = zip(*runs, strict=True)
        cells = [f"`{name}`" if name in COMMANDS else name, format_spread(seconds)]
        rows.append([*cells, "".join(format_spread(mebibytes, 0) for mebibytes in memory)])
    write_page("process", __doc__, format_table(["command", "seconds", "MiB"], rows), measured, arguments)


def measure_commands(arguments: argparse.Namespace) -> dict[str, list[tuple[float, ...]]]:
    """Run the commands in turns; return the seconds and MiB of each repeat, and the seconds of learning."""
    repeats = dict.fromkeys(arguments.commands, arguments.repeats)
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in arguments.commands}
    if TRAIN in repeats:
        repeats[TRAIN] = arguments.train_repeats or arguments.repeats
        measured[LEARNING] = []
    for repeat in range(0 if arguments.cold else -1, max(repeats.values())):
        print_progress(f"repeat {repeat + 1} of {max(repeats.values())}")
        for name in arguments.commands:
            if repeat < repeats[name]:
                results = measure_command(name, arguments.config.resolve())
                for key, numbers in results.items() if repeat >= 0 else ():
                    measured[key].append(numbers)
    return measured


def measure_command(name: str, config: Path) -> dict[str, tuple[float, ...]]:
    """Run a command once; return its seconds and MiB, and for a training also the seconds of learning."""
    command = [str(config) if word == "CONFIG" else word for word in COMMANDS[name]]
    if name != TRAIN:
        return {name: run(command)}
    with tempfile.TemporaryDirectory() as directory:
        run_directory = Path(directory) / "run"
        seconds_and_memory = run([*command, "--out", str(run_directory)])
        result = json.loads((run_directory / "result.json").read_text(encoding="utf-8"))
    return {name: seconds_and_memory, LEARNING: (result["seconds"],)}


def run(command: list[str]) -> tuple[float, float]:
    """Run a command in an empty directory; return its seconds from start to exit, and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        # wait4 measures this child alone, getrusage the largest so far; neither is below this process's own memory
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{output.read()}")
    # Linux counts in KiB, macOS in bytes
    return seconds, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
