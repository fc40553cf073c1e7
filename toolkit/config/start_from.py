"""The model that a config starts from: where it is, whether it can be this config's, and its SHA-256.

Of a run directory only the shape of ``config.yaml`` is read: no code that it names is executed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from toolkit.config.compose import compose_document
from toolkit.config.schema import RunConfig, StartFromConfig, parse_config
from toolkit.config.yaml_document import flatten_to_text
from toolkit.utils.errors import ConfigError, Problem, RunError
from toolkit.utils.model_files import find_model

# keys that a continued run may change; the state of training does not depend on them
_CHANGEABLE = ("name", "timesteps", "callbacks", "snapshots", "start_from", "params", "accelerate")


def find_start(config: RunConfig) -> tuple[StartFromConfig | None, list[Problem]]:
    """Find the model that a config starts from, and add its SHA-256.

    :return: the config's ``start_from``; and a problem if there is no such model, or it is of another algorithm
    """
    start = config.start_from
    if start is None:
        return None, []
    try:
        file = find_model_file(start)
        if Path(start.path).is_dir():
            trained = _read_config(Path(start.path))
            _refuse_other_algorithm(start, trained, config)
            if start.continues and (problems := _list_fixed_changes(trained, config)):
                return start, problems
        elif start.continues:
            raise RunError(f"{start.path}: is no run directory, so it cannot be continued", "name a run directory")
        digest = hash_model(file)
    except RunError as error:
        return start, [Problem(("start_from", "path"), error.message, error.hint)]
    if start.sha256 not in (None, digest):
        message = f"{file} is not the model that this config was written for: its SHA-256 is {digest[:16]}..."
        return start, [Problem(("start_from", "sha256"), message, "restore that model, or remove this key")]
    return start.model_copy(update={"sha256": digest}), []


def find_model_file(start: StartFromConfig) -> Path:
    """Return the zip of the model to start from, or the directory of a snapshot.

    :raises RunError: if it does not exist
    """
    path = Path(start.path)
    if not os.path.exists(path):
        raise RunError(f"{path}: does not exist")
    if not path.is_dir():
        if start.model != "final":
            raise RunError(f"{path}: is no run directory, so it has no {start.model}", "leave out start_from.model")
        return path
    if not (path / "config.yaml").is_file():
        raise RunError(f"{path}: is not a run directory, because it has no config.yaml")
    return find_model(path, start.model)


def hash_model(file: Path) -> str:
    """Return the SHA-256 of a zip, or of the checksums of a snapshot.

    :raises RunError: if it cannot be read
    """
    file = file / "SHA256SUMS" if file.is_dir() else file
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from None


def _read_config(run: Path) -> RunConfig:
    """Read the config of a run, and check its shape.

    :raises RunError: if it is not valid
    """
    try:
        trained, problems = parse_config(compose_document(run / "config.yaml"))
    except ConfigError as error:
        raise RunError(error.message) from None
    if trained is None or problems:
        raise RunError(f"{run / 'config.yaml'}: {problems[0].message if problems else 'is not a config'}")
    return trained


def _refuse_other_algorithm(start: StartFromConfig, trained: RunConfig, config: RunConfig) -> None:
    """Refuse a run of another algorithm: the same networks may mean something else there.

    :raises RunError: if it is one
    """
    if trained.algorithm.name != config.algorithm.name:
        message = f"{start.path}: is a run of '{trained.algorithm.name}', not of '{config.algorithm.name}'"
        raise RunError(message, "start from its model.zip if the networks are the same")


def _list_fixed_changes(trained: RunConfig, config: RunConfig) -> list[Problem]:
    """List what a config changes of the run that it continues, and that its state depends on."""
    before, after = (flatten_to_text(_select_fixed(item)) for item in (trained, config))
    hint = "keep it, or start a new run with start_from and without continues"
    return [
        Problem(path, f"was {before.get(path, 'not set')} in the run that this continues", hint)
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def _select_fixed(config: RunConfig) -> dict[str, Any]:
    data = {key: value for key, value in config.to_document().data.items() if key not in _CHANGEABLE}
    algorithm = {key: value for key, value in data["algorithm"].items() if key not in _CHANGEABLE}
    return {**data, "algorithm": algorithm}
