"""Kill training at random instants, go on with it, and compare the result with that of a run that was never stopped.

    python benchmarks/kill.py [--kills 100] [--cases double_dqn ...] [--seed 0] [--results DIR]

Each case is trained once undisturbed. Then it is trained again by `toolkit train`, which gets a SIGKILL at a random
instant of the time that the undisturbed process took, start-up included, and by `toolkit resume`, which gets one too,
two or three in all, before it may finish. A process that has ended by then counts as no kill.

"While it trained" are the kills of a process that had begun to train; the others hit start-up. "Survived" are those
after which the run came to the same end: weights, optimizer, `monitor.csv`, `progress.csv` and `result.json` identical
but for wall-clock times. All kills of a run that did not come to that end are lost, whichever was to blame.
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
from comparison import differences
from report import options, progress, table, write

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
    """Kill, go on, compare, and write the table."""
    parser = options(__doc__, repeats=None)
    parser.add_argument("--kills", type=int, default=100, help="at least so many over all cases")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    measured: dict[str, Any] = {
        name: {"kills": 0, "while it trained": 0, "survived": 0, "differences": []} for name in arguments.cases
    }
    with tempfile.TemporaryDirectory() as folder:
        undisturbed: dict[str, tuple[Path, float]] = {}
        number = 0
        while sum(one["kills"] for one in measured.values()) < arguments.kills:
            case = arguments.cases[number % len(arguments.cases)]
            number += 1
            if case not in undisturbed:
                undisturbed[case] = train_undisturbed(Path(folder), case)
            reference, seconds = undisturbed[case]
            kills, found = disturbed(Path(folder) / f"{number}", case, seconds, rng, reference)
            counts = {"kills": len(kills), "while it trained": sum(kills), "survived": 0 if found else len(kills)}
            for key, count in counts.items():
                measured[case][key] += count
            measured[case]["differences"] += found
            progress(f"{case}: {len(kills)} kills, {'; '.join(found) or 'identical'}")
    write("kill", __doc__, page(measured), measured, arguments)


def page(measured: dict[str, Any]) -> str:
    """Write the table, and below it what came to another end."""
    columns = ["kills", "while it trained", "survived"]
    rows = [[name, *(f"{one[column]}" for column in columns)] for name, one in measured.items()]
    totals = [f"{sum(one[column] for one in measured.values())}" for column in columns]
    lost = [f"- {name}: {found}" for name, one in measured.items() for found in one["differences"]]
    return "\n\n".join([table(["case", *columns], [*rows, ["all", *totals]]), *(["\n".join(lost)] if lost else [])])


def config_of(case: str) -> dict[str, Any]:
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
    """Train a case; return its run directory, and how long the process took."""
    config = folder / f"{len([*folder.glob('*.yaml')])}.yaml"
    config.write_text(yaml.safe_dump(config_of(case)), encoding="utf-8")
    directory = config.with_suffix("")
    start = time.monotonic()
    subprocess.run(
        [*_TOOLKIT, "train", str(config), "--out", str(directory), "--quiet"], check=True, capture_output=True
    )
    return directory, time.monotonic() - start


def disturbed(
    folder: Path, case: str, seconds: float, rng: random.Random, reference: Path
) -> tuple[list[bool], list[str]]:
    """Train a case with kills in between; return of each whether it trained then, and how the result differs."""
    directory = folder.with_name(f"disturbed-{folder.name}")
    config = folder.with_suffix(".disturbed.yaml")
    config.write_text(yaml.safe_dump(config_of(case)), encoding="utf-8")
    kills = []
    for _ in range(rng.choice((2, 3))):
        before = last_written(directory)
        if killed(command(config, directory), rng.uniform(0, 1.05) * seconds):
            kills.append(last_written(directory) != before)
        if (directory / "result.json").exists():
            break
    if not (directory / "result.json").exists():
        last = command(config, directory)
        try:
            subprocess.run(last, check=True, capture_output=True, text=True, timeout=60 + 10 * seconds)
        except subprocess.CalledProcessError as error:
            return kills, [f"status {error.returncode}: {error.stderr.strip()}"]
        except subprocess.TimeoutExpired as error:
            return kills, [f"has not ended after {error.timeout:.0f} s"]
    return kills, differences(reference, directory)


def last_written(directory: Path) -> int | None:
    """Return when `monitor.csv` was written last, which is so each time that training begins or goes on."""
    path = directory / "monitor.csv"
    return path.stat().st_mtime_ns if path.exists() else None


def command(config: Path, directory: Path) -> list[str]:
    """Return what begins a run, or goes on with it once there is one."""
    if (directory / "config.yaml").exists():
        return [*_TOOLKIT, "resume", str(directory), "--quiet"]
    return [*_TOOLKIT, "train", str(config), "--out", str(directory), "--quiet"]


def killed(arguments: list[str], seconds: float) -> bool:
    """Run a process for so long and kill it; say whether it was there to be killed."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


if __name__ == "__main__":
    main()
