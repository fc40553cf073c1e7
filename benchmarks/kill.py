"""Kill training at random instants, go on with it, and compare the result with that of a run that was never stopped.

    python benchmarks/kill.py [--kills 100] [--cases double_dqn ...] [--seed 0] [--results DIR]

Each case is trained once undisturbed. Then it is trained again by `toolkit train`, which gets a SIGKILL at a random
instant, start-up included, and by `toolkit resume`, which gets one too, twice or three times, before it may finish. A
process that has ended by then counts as no kill. Survived is a kill after which the run came to the same end: weights,
optimizer, `monitor.csv`, `progress.csv` and `result.json` identical but for wall-clock times.
"""

from __future__ import annotations

import csv
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
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
_WALL_CLOCK = {"t", "time/fps", "time/time_elapsed"}
_TOOLKIT = [sys.executable, "-c", "from toolkit.cli import main; main()"]
_TIMESTEPS = {"sac": 2_500, "td3": 2_500, "ppo": 10_000, "a2c": 8_000}


def main() -> None:
    """Kill, go on, compare, and write the table."""
    parser = options(__doc__, repeats=None)
    parser.add_argument("--kills", type=int, default=100, help="at least so many over all cases")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    measured: dict[str, Any] = {name: {"kills": 0, "survived": 0, "differences": []} for name in arguments.cases}
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
            measured[case]["kills"] += kills
            measured[case]["survived"] += 0 if found else kills
            measured[case]["differences"] += found
            progress(f"{case}: {kills} kills, {'; '.join(found) or 'identical'}")
    rows = [[name, f"{one['kills']}", f"{one['survived']}"] for name, one in measured.items()]
    totals = [f"{sum(one[key] for one in measured.values())}" for key in ("kills", "survived")]
    write("kill", __doc__, table(["case", "kills", "survived"], [*rows, ["all", *totals]]), measured, arguments)


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


def disturbed(folder: Path, case: str, seconds: float, rng: random.Random, reference: Path) -> tuple[int, list[str]]:
    """Train a case with kills in between; return how many there were, and how the result differs."""
    directory = folder.with_name(f"disturbed-{folder.name}")
    config = folder.with_suffix(".disturbed.yaml")
    config.write_text(yaml.safe_dump(config_of(case)), encoding="utf-8")
    kills = 0
    for _ in range(rng.choice((2, 3))):
        kills += killed(command(config, directory), rng.uniform(0.3, 1.05) * seconds)
        if (directory / "result.json").exists():
            break
    while not (directory / "result.json").exists():
        subprocess.run(command(config, directory), check=True, capture_output=True)
    return kills, differences(reference, directory)


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


def differences(one: Path, other: Path) -> list[str]:
    """Name what differs between two runs' results, wall-clock times aside."""
    found = [name for name in ("monitor.csv", "progress.csv") if rows(one / name) != rows(other / name)]
    tensors, others = (dict(leaves(weights(directory / "model.zip"))) for directory in (one, other))
    found += [f"model.zip {name}" for name in {*tensors, *others} if not same(tensors.get(name), others.get(name))]
    results = [result(directory) for directory in (one, other)]
    return found + (["result.json"] if results[0] != results[1] else [])


def rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file without what the clock says."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [{key: text for key, text in row.items() if key not in _WALL_CLOCK} for row in csv.DictReader(lines)]


def weights(path: Path) -> dict[str, Any]:
    """Read the tensors of an SB3 zip."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        return {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in names}


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give the tensors and numbers in nested dictionaries and lists."""
    if isinstance(tree, dict | list | tuple):
        for key, one in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(one, f"{name}/{key}")
    else:
        yield name, tree


def same(one: Any, other: Any) -> bool:
    """Say whether two leaves are identical."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def result(directory: Path) -> dict[str, Any]:
    """Read ``result.json`` without what the clock says."""
    read: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    read.pop("seconds")
    if read["success"]:
        read["success"].pop("seconds")
    return read


if __name__ == "__main__":
    main()
