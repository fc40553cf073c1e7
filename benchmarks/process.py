"""Measure commands of the toolkit from shell to exit: seconds, and the greatest memory that they held.

    python benchmarks/process.py [CONFIG] [--repeats 5] [--train-repeats 5] [--cold] [--results DIR]

The commands take turns, after each has run once (unless `--cold`), so that what they read is in memory. `toolkit
train` does all that CONFIG says, videos too; CONFIG is configs/cartpole_ddqn.yaml if it is left out. The memory is
that of the largest process, in MiB. Two imports stand beside them for scale. Median (least to greatest).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import PROJECT, options, progress, spread, table, write

TRAIN = "toolkit train"


def main() -> None:
    """Measure the commands and write the table."""
    parser = options(__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=PROJECT / "configs" / "cartpole_ddqn.yaml")
    parser.add_argument("--train-repeats", type=int, help="how often to train; by default as often as the rest")
    parser.add_argument("--cold", action="store_true", help="count the first run too")
    arguments = parser.parse_args()

    config = str(arguments.config.resolve())
    toolkit = str(Path(sys.executable).with_name("toolkit"))
    commands = {
        "toolkit --help": [toolkit, "--help"],
        "toolkit check": [toolkit, "check", config],
        TRAIN: [toolkit, "train", config],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "python -c 'import stable_baselines3'": [sys.executable, "-c", "import stable_baselines3"],
    }
    repeats = dict.fromkeys(commands, arguments.repeats) | {TRAIN: arguments.train_repeats or arguments.repeats}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for repeat in range(0 if arguments.cold else -1, max(repeats.values())):
        progress(f"repeat {repeat + 1} of {max(repeats.values())}")
        for name, command in commands.items():
            if repeat < repeats[name]:
                taken = run(command)
                measured[name] += [taken] if repeat >= 0 else []
    rows = [
        [f"`{name}`", spread([seconds for seconds, _ in taken]), spread([memory for _, memory in taken], 0)]
        for name, taken in measured.items()
    ]
    write("process", __doc__, table(["command", "seconds", "MiB"], rows), measured, arguments)


def run(command: list[str]) -> tuple[float, float]:
    """Run a command in an empty directory; return its seconds from start to exit, and its MiB at most."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        # wait4 tells of this child, getrusage of the largest so far; neither tells less than this process holds itself
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{said.read()}")
    # Linux counts in KiB, macOS in bytes
    return seconds, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
