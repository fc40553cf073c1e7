"""Measure commands of the toolkit from start to exit: seconds, and peak memory.

    python benchmarks/process.py [CONFIG] [--repeats 5] [--train-repeats 5] [--cold] [--commands NAME...]
                                 [--before TOOLKIT] [--results DIR]

The commands take turns. Unless `--cold`, each runs once before, so that the files it reads are in memory. `toolkit
train` runs all of CONFIG, by default configs/cartpole_ddqn.yaml, with its videos. `learning` are its seconds in
`learn()`. `toolkit plot` and `toolkit report` read a run of 300 steps with a video. TOOLKIT is the command of an older
version, whose rows end in `before`. The memory is that of the largest process, in MiB. Two imports are there for
comparison. Median (minimum to maximum).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from report import PROJECT, format_spread, format_table, make_parser, print_progress, write_page

TOOLKIT = str(Path(sys.executable).with_name("toolkit"))
TRAIN, LEARNING = "toolkit train", "learning"
COMMANDS = {
    "toolkit --help": [TOOLKIT, "--help"],
    "toolkit plugins": [TOOLKIT, "plugins"],
    "toolkit plot": [TOOLKIT, "plot", "RUN", "--out", "curve.png"],
    "toolkit report": [TOOLKIT, "report", "RUN"],
    "toolkit import-zoo": [TOOLKIT, "import-zoo", "ENTRIES", "CartPole-v1", "--algorithm", "ppo"],
    "toolkit schema": [TOOLKIT, "schema"],
    "toolkit check": [TOOLKIT, "check", "CONFIG"],
    TRAIN: [TOOLKIT, "train", "CONFIG", "--out", "OUT"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "python -c 'import stable_baselines3'": [sys.executable, "-c", "import stable_baselines3"],
}
BEFORE = " before"
SHORT_CONFIG = """\
timesteps: 300
env: {id: CartPole-v1}
algorithm: {name: double_dqn, params: {learning_starts: 50}}
callbacks: [record_video]
"""
ENTRIES = "CartPole-v1: {n_timesteps: 1e5, policy: MlpPolicy, n_envs: 8}\n"


def main() -> None:
    """Measure the commands and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=PROJECT / "configs" / "cartpole_ddqn.yaml")
    parser.add_argument("--train-repeats", type=int, help="how often to train; by default as often as the rest")
    parser.add_argument("--cold", action="store_true", help="count the first run too")
    parser.add_argument("--commands", nargs="+", choices=[*COMMANDS], default=[*COMMANDS], help="by default all")
    parser.add_argument("--before", metavar="TOOLKIT", help="also measure the command of an older version")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        measured = measure_commands(arguments, write_files(arguments, Path(directory)))
    for name, runs in measured.items():
        seconds, *memory = zip(*runs, strict=True)
        command = name.removesuffix(BEFORE)
        cells = [name.replace(command, f"`{command}`") if command in COMMANDS else name, format_spread(seconds)]
        rows.append([*cells, "".join(format_spread(mebibytes, 0) for mebibytes in memory)])
    placeholders = {arguments.before: "TOOLKIT"} if arguments.before else {}
    table = format_table(["command", "seconds", "MiB"], rows)
    write_page("process", __doc__, table, measured, arguments, placeholders)


def write_files(arguments: argparse.Namespace, directory: Path) -> dict[str, str]:
    """Write what the commands read; return what stands for each word in capitals."""
    (directory / "short.yaml").write_text(SHORT_CONFIG)
    (directory / "entries.yml").write_text(ENTRIES)
    if any("RUN" in COMMANDS[name] for name in arguments.commands):
        toolkit = arguments.before or TOOLKIT  # an older version may not read the runs of a newer one
        run([toolkit, "train", str(directory / "short.yaml"), "--out", str(directory / "run")])
    return {
        "CONFIG": str(arguments.config.resolve()),
        "RUN": str(directory / "run"),
        "ENTRIES": str(directory / "entries.yml"),
        "OUT": str(directory / "out"),
    }


def measure_commands(arguments: argparse.Namespace, words: Mapping[str, str]) -> dict[str, list[tuple[float, ...]]]:
    """Run the commands in turns; return the seconds and MiB of each repeat, and the seconds of learning.

    :param words: what stands for each word in capitals
    """
    sides = {}
    for name in arguments.commands:
        sides[name] = [words.get(word, word) for word in COMMANDS[name]]
        if arguments.before and name.startswith("toolkit"):
            sides[name + BEFORE] = [arguments.before, *sides[name][1:]]
    measured: dict[str, list[tuple[float, ...]]] = {}
    repeats = dict.fromkeys(sides, arguments.repeats) | dict.fromkeys(
        (TRAIN, TRAIN + BEFORE), arguments.train_repeats or arguments.repeats
    )
    for repeat in range(0 if arguments.cold else -1, max(repeats.values())):
        print_progress(f"repeat {repeat + 1} of {max(repeats.values())}")
        for name, command in sides.items():
            results = measure_command(name, command, words["OUT"]) if repeat < repeats[name] else {}
            for key, numbers in results.items() if repeat >= 0 else ():
                measured.setdefault(key, []).append(numbers)
    return measured


def measure_command(name: str, command: list[str], out: str) -> dict[str, tuple[float, ...]]:
    """Run a command once; return its seconds and MiB, and for a training into ``out`` also the seconds of learning."""
    seconds_and_memory = run(command)
    if out not in command:
        return {name: seconds_and_memory}
    result = json.loads((Path(out) / "result.json").read_text(encoding="utf-8"))
    shutil.rmtree(out)
    return {name: seconds_and_memory, name.replace(TRAIN, LEARNING): (result["seconds"],)}


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
