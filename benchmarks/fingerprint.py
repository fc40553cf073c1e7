"""Train every shipped config briefly and hash the result, to prove that a change of the code changes no number.

    python benchmarks/fingerprint.py before.json [--timesteps 2000] [CONFIG...]
    python benchmarks/fingerprint.py after.json
    python benchmarks/fingerprint.py --compare before.json after.json

Run the first command with the code before the change, the second one after it, on the same machine. A fingerprint has
the weights of the policy, the returns and lengths of the episodes in `monitor.csv`, and `result.json`, all without
wall-clock times. `--compare` ends with status 1 if the fingerprints differ. A key that is new in `result.json` is no
difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import toolkit

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main() -> None:
    """Write fingerprints, or compare two files of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="compare two files")
    parser.add_argument("out", type=Path, nargs="?", help="file to write")
    parser.add_argument("configs", type=Path, nargs="*", metavar="CONFIG", help="by default every shipped config")
    parser.add_argument("--timesteps", type=int, default=2_000, help="of each training")
    arguments = parser.parse_args()
    if arguments.compare:
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in arguments.compare)
        differences = list_differences(before, after)
        print("\n".join(differences) or f"identical: {len(after)} configs")
        raise SystemExit(1 if differences else 0)
    if arguments.out is None:
        parser.error("name the file to write, or two files to --compare")
    torch.set_num_threads(1)
    write_fingerprints(arguments.configs or list_shipped_configs(), arguments.out, arguments.timesteps)


def list_shipped_configs() -> list[Path]:
    """Return the configs of runs that ship with the toolkit."""
    return sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("experiments/base/*.yaml")])


def write_fingerprints(configs: list[Path], out: Path, timesteps: int) -> None:
    """Fingerprint configs one after another; rewrite the file after each, so that a stop loses nothing."""
    fingerprints: dict[str, Any] = {}
    for config in configs:
        name = name_config(config)
        fingerprints[name] = fingerprint(config, timesteps)
        print(name, fingerprints[name]["weights"][:12], flush=True)
        out.write_text(json.dumps(fingerprints, indent=2) + "\n", encoding="utf-8")


def name_config(config: Path) -> str:
    """Return the path of a config below the shipped ones, or its whole path."""
    path = config.resolve()
    return path.relative_to(CONFIGS).as_posix() if path.is_relative_to(CONFIGS) else str(path)


def fingerprint(config: Path, timesteps: int) -> dict[str, Any]:
    """Train a config briefly and return the hashes of its weights and episodes, and its result."""
    with TemporaryDirectory() as directory:
        run = toolkit.train(config, Path(directory) / "run", timesteps=timesteps)
        return {
            "weights": hash_weights(run.model_path),
            "monitor.csv": hash_episodes(run.directory / "monitor.csv"),
            "result.json": drop_seconds(run.result or {}),
        }


def hash_weights(model: Path) -> str:
    """Return the SHA-256 of the names, shapes, types and bytes of a policy's tensors, ordered by name."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(model) as archive:
        tensors = torch.load(BytesIO(archive.read("policy.pth")), weights_only=True)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def hash_episodes(monitor: Path) -> str:
    """Return the SHA-256 of the returns and lengths of all episodes."""
    rows = [line.split(",")[:2] for line in monitor.read_text(encoding="utf-8").splitlines()[1:]]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def drop_seconds(result: dict[str, Any]) -> dict[str, Any]:
    """Return ``result.json`` without its wall-clock times."""
    timeless = {key: value for key, value in result.items() if key != "seconds"}
    if timeless.get("success"):
        timeless["success"] = {key: value for key, value in timeless["success"].items() if key != "seconds"}
    return timeless


def list_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List what differs between two files of fingerprints, config by config."""
    differences = [f"{name}: missing after the change" for name in sorted(before.keys() - after.keys())]
    differences += [f"{name}: missing before the change" for name in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        differences += [f"{name}: {key}" for key in ("weights", "monitor.csv") if old[key] != new[key]]
        old_result, new_result = old["result.json"], new["result.json"]
        differences += [
            f"{name}: result.json: {key}: {value!r} became {new_result.get(key)!r}"
            for key, value in old_result.items()
            if new_result.get(key) != value
        ]
    return differences


if __name__ == "__main__":
    main()
