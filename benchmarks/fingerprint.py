"""Hash what a short training of every shipped config leaves, to show that a change of the code changed no number.

Run it with the interpreter of each version, then compare:

    python benchmarks/fingerprint.py before.json
    python benchmarks/fingerprint.py after.json
    python benchmarks/fingerprint.py --compare before.json after.json

Hashed are the weights, the returns and lengths in ``monitor.csv``, and ``result.json``, without clocks.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import toolkit

CONFIGS = Path(__file__).parents[1] / "configs"
TIMESTEPS = 2_000
CLOCKS = ("seconds",)


def weights_hash(model: Path) -> str:
    """Return the SHA-256 of every tensor of a model's policy, in the order of their names."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(model) as archive:
        tensors = torch.load(BytesIO(archive.read("policy.pth")), weights_only=True)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def monitor_hash(file: Path) -> str:
    """Return the SHA-256 of the episodes' returns and lengths."""
    rows = [line.split(",")[:2] for line in file.read_text().splitlines()[1:]]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def without_clocks(result: dict[str, Any]) -> dict[str, Any]:
    """Return ``result.json`` without what differs from one training to the next."""
    success = result["success"]
    kept = {key: value for key, value in result.items() if key not in CLOCKS}
    if success:
        kept["success"] = {key: value for key, value in success.items() if key not in CLOCKS}
    return kept


def fingerprint(config: Path) -> dict[str, Any]:
    """Train a config for a short time and return the hashes of what that leaves."""
    with TemporaryDirectory() as directory:
        run = toolkit.train(config, Path(directory) / "run", timesteps=TIMESTEPS)
        return {
            "weights": weights_hash(run.model_path),
            "monitor.csv": monitor_hash(run.directory / "monitor.csv"),
            "result.json": without_clocks(run.result or {}),
        }


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name what differs; a key that ``result.json`` has gained is no difference."""
    differences = [f"{name}: only in one of the files" for name in before.keys() ^ after.keys()]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        gained = new["result.json"].keys() - old["result.json"].keys()
        new["result.json"] = {key: value for key, value in new["result.json"].items() if key not in gained}
        differences += [f"{name}: {key}" for key in old if old[key] != new[key]]
    return differences


def main() -> None:
    """Write a file of fingerprints, or compare two of them."""
    if sys.argv[1:2] == ["--compare"]:
        before, after = (json.loads(Path(name).read_text()) for name in sys.argv[2:4])
        differences = compare(before, after)
        print("\n".join(differences) or f"identical: {len(after)} configs")
        raise SystemExit(1 if differences else 0)
    torch.set_num_threads(1)
    fingerprints = {}
    for config in sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("experiments/base/*.yaml")]):
        name = str(config.relative_to(CONFIGS))
        fingerprints[name] = fingerprint(config)
        print(name, fingerprints[name]["weights"][:12], flush=True)
        Path(sys.argv[1]).write_text(json.dumps(fingerprints, indent=2) + "\n")


if __name__ == "__main__":
    main()
