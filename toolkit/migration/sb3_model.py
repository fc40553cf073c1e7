"""Import of models that Stable-Baselines3 has saved, as run directories."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from toolkit.config.load import ResolvedConfig, remember_trusted_code
from toolkit.snapshots.weights import load_weights
from toolkit.training.model import save_model, untrained_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import RunError


def import_sb3(file: Path, config: ResolvedConfig, out: Path | None = None) -> RunDirectory:
    """Make a run directory from an SB3 zip. Only the tensors in the zip are read, and the config builds the model.

    The run can be evaluated, recorded and watched. It has no ``result.json``, no episodes and no snapshot, because
    nothing was trained. ``environment.json`` names the file under ``imported_from``.

    :param file: a zip that ``model.save`` wrote; it may come from an untrusted source
    :param config: how the model was trained; its environment and networks must be the model's
    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :raises RunError: if the file does not exist, is damaged or does not fit the config; no directory is left
    :raises ConfigError: if the config's model cannot be built
    """
    if not file.is_file():
        raise RunError(f"{file}: {'is not a file' if file.exists() else 'does not exist'}")
    model = untrained_model(config)
    load_weights(file, model, "the config")
    with file.open("rb") as content:
        origin = {"file": file.name, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
    run = RunDirectory.create(config, out)
    remember_trusted_code(config)
    save_model(run, model)
    environment = json.loads((run.directory / "environment.json").read_text(encoding="utf-8"))
    run.write("environment.json", json.dumps(environment | {"imported_from": origin}, indent=2) + "\n")
    return run
