"""Kill training at random times, resume it, and compare the result with that of an undisturbed run.

    python benchmarks/kill.py [--kills 100] [--cases double_dqn ...] [--seed 0] [--results DIR]

Each case is trained once undisturbed. Then `toolkit train` trains it again and gets a SIGKILL at a random time within
the duration of the undisturbed process, start-up included. `toolkit resume` continues it and gets the same, for two or
three kills in all, before the run may finish. If the process has ended by then, there is no kill.

"While it trained" counts the kills of processes that had started to train; the others hit start-up. "Survived" counts
the kills of runs with the same result: weights, optimizer, `monitor.csv`, `progress.csv` and `result.json` are
identical except for wall-clock times. If the result differs, all kills of the run count as lost.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from comparison import list_differences
from report import format_table, make_parser, print_progress, write_page

_OFF_POLICY = {"learning_starts": 200, "buffer_size": 2_000, "batch_size": 32}
_DISCRETE, _CONTINUOUS = ("CartPole-v1", _OFF_POLICY), ("Pendulum-v1", _OFF_POLICY | {"train_freq": 8})
_ALGORITHMS: dict[str, tuple[str, dict[str, Any]]] = {
    "double_dqn": _DISCRETE,
    "dqn": _DISCRETE,
    "qrdqn": _DISCRETE,
    "ppo": ("CartPole-v1", {"n_steps": 128, "batch_size": 64, "n_epochs": 4}),
    "a2c": ("CartPole-v1", {}),
    "sac": _CONTINUOUS,
    "td3": _CONTINUOUS,
}
_STATISTICS = [{"name": "vec_frame_stack", "params": {"n_stack": 2}}, {"name": "vec_normalize"}]
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {"env": {}},
    ", 4 envs": {"env": {"n_envs": 4}},
    ", 2 processes": {"env": {"n_envs": 2, "vec_env": "subproc"}},
    ", normalized and stacked": {"env": {"vec_wrappers": _STATISTICS}},
}
CASES = {f"{name}{variant}": (name, parts) for variant, parts in _VARIANTS.items() for name in _ALGORITHMS}
CASES["double_dqn, n-step"] = ("double_dqn", {"env": {}, "params": {"n_steps": 3}})
_TOOLKIT = [sys.executable, "-c", "from toolkit.cli.app import main; main()"]
_TIMESTEPS = {"sac": 2_500, "td3": 2_500, "ppo": 10_000, "a2c": 8_000}


def main() -> None:
    """Kill, resume, compare, and write the table."""
    parser = make_parser(__doc__, repeats=None)
    parser.add_argument("--kills", type=int, default=100, help="minimum over all cases")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    measured: dict[str, Any] = {
        name: {"kills": 0, "while it trained": 0, "survived": 0, "differences": []} for name in arguments.cases
    }
    with tempfile.TemporaryDirectory() as folder:
        undisturbed: dict[str, tuple[Path, float]] = {}
        number = 0
        while sum(counts["kills"] for counts in measured.values()) < arguments.kills:
            case = arguments.cases[number % len(arguments.cases)]
            number += 1
            if case not in undisturbed:
                undisturbed[case] = train_undisturbed(Path(folder), case)
            reference, seconds = undisturbed[case]
            kills, problems = train_disturbed(Path(folder) / f"{number}", case, seconds, rng, reference)
            counts = {"kills": len(kills), "while it trained": sum(kills), "survived": 0 if problems else len(kills)}
            for key, count in counts.items():
                measured[case][key] += count
            measured[case]["differences"] += problems
            print_progress(f"{case}: {len(kills)} kills, {'; '.join(problems) or 'identical'}")
    write_page("kill", __doc__, format_results(measured), measured, arguments)


def format_results(measured: dict[str, Any]) -> str:
    """Write the table, and the differences of lost runs below it."""
    columns = ["kills", "while it trained", "survived"]
    rows = [[name, *(f"{counts[column]}" for column in columns)] for name, counts in measured.items()]
    totals = [f"{sum(counts[column] for counts in measured.values())}" for column in columns]
    lost = [f"- {name}: {problem}" for name, counts in measured.items() for problem in counts["differences"]]
    return "\n\n".join(
        [format_table(["case", *columns], [*rows, ["all", *totals]]), *(["\n".join(lost)] if lost else [])]
    )


def make_config(case: str) -> dict[str, Any]:
    """Return the config of a case."""
    algorithm, parts = CASES[case]
    env_id, params = _ALGORITHMS[algorithm]
    return {
        "name": "killed",
        "seed": 7,
        "timesteps": _TIMESTEPS.get(algorithm, 4_000),
        "env": {"id": env_id, "max_episode_steps": 200, **parts["env"]},
        "algorithm": {
            "name": algorithm,
            "params": params | parts.get("params", {}),
            "policy_params": {"net_arch": [32, 32]},
        },
        "callbacks": [{"name": "success", "params": {"threshold": 1e9, "episodes": 10}}],
        "snapshots": {"every_timesteps": 400, "keep": 2},
    }


def train_undisturbed(folder: Path, case: str) -> tuple[Path, float]:
    """Train a case; return its run directory and the seconds of the process."""
    config = folder / f"{len([*folder.glob('*.yaml')])}.yaml"
    config.write_text(yaml.safe_dump(make_config(case)), encoding="utf-8")
    directory = config.with_suffix("")
    start = time.monotonic()
    subprocess.run(
        [*_TOOLKIT, "train", str(config), "--out", str(directory), "--quiet"], check=True, capture_output=True
    )
    return directory, time.monotonic() - start


def train_disturbed(
    folder: Path, case: str, seconds: float, rng: random.Random, reference: Path
) -> tuple[list[bool], list[str]]:
    """Train a case with kills in between.

    :return: for each kill whether the process was training, and how the result differs from the undisturbed run's
    """
    directory = folder.with_name(f"disturbed-{folder.name}")
    config = folder.with_suffix(".disturbed.yaml")
    config.write_text(yaml.safe_dump(make_config(case)), encoding="utf-8")
    kills = []
    for _ in range(rng.choice((2, 3))):
        before = get_start_time(directory)
        if run_and_kill(make_command(config, directory), rng.uniform(0, 1.05) * seconds):
            kills.append(get_start_time(directory) != before)
        if (directory / "result.json").exists():
            break
    if not (directory / "result.json").exists():
        command = make_command(config, directory)
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60 + 10 * seconds)
        except subprocess.CalledProcessError as error:
            return kills, [f"status {error.returncode}: {error.stderr.strip()}"]
        except subprocess.TimeoutExpired as error:
            return kills, [f"still running after {error.timeout:.0f} s"]
    return kills, list_differences(reference, directory)


def get_start_time(directory: Path) -> int | None:
    """Return when `monitor.csv` was written last; training writes it whenever it starts or resumes."""
    path = directory / "monitor.csv"
    return path.stat().st_mtime_ns if path.exists() else None


def make_command(config: Path, directory: Path) -> list[str]:
    """Return the command that starts a run, or resumes it if it exists."""
    if (directory / "config.yaml").exists():
        return [*_TOOLKIT, "resume", str(directory), "--quiet"]
    return [*_TOOLKIT, "train", str(config), "--out", str(directory), "--quiet"]


def run_and_kill(command: list[str], seconds: float) -> bool:
    """Run a process and kill it after some seconds; return whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


if __name__ == "__main__":
    main()
