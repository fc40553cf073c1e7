"""A run directory made of a model that Stable-Baselines3 has saved."""

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
    """Make a run directory of an SB3 zip: its tensors alone are read, checked, and put into the config's model.

    The run can be evaluated, recorded and watched. It has no ``result.json``, no episodes and no snapshot, as nothing
    was trained here; ``environment.json`` says under ``imported_from`` which file it was.

    :param file: what ``model.save`` wrote, of whatever origin
    :param config: as the model was trained, its environment and networks above all
    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :raises RunError: if there is no such file, it is damaged, or it does not fit; then there is no directory either
    :raises ConfigError: if the config's model cannot be built
    """
    if not file.is_file():
        raise RunError(f"{file}: there is no such file")
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
