"""The model that a config starts from: where it is, whether it can be this config's, and its SHA-256.

Of a run directory only the shape of ``config.yaml`` is read: no code that it names is executed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from toolkit.config.compose import compose_document
from toolkit.config.schema import RunConfig, StartFromConfig, parse_config
from toolkit.utils.errors import ConfigError, Problem, RunError
from toolkit.utils.model_files import find_model


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
            _refuse_other_algorithm(Path(start.path), config)
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


def _refuse_other_algorithm(run: Path, config: RunConfig) -> None:
    """Refuse a run of another algorithm: the same networks may mean something else there.

    :raises RunError: if it is one, or its config cannot be read
    """
    try:
        trained, problems = parse_config(compose_document(run / "config.yaml"))
    except ConfigError as error:
        raise RunError(error.message) from None
    if trained is None or problems:
        raise RunError(f"{run / 'config.yaml'}: {problems[0].message if problems else 'is not a config'}")
    if trained.algorithm.name != config.algorithm.name:
        message = f"{run}: is a run of '{trained.algorithm.name}', not of '{config.algorithm.name}'"
        raise RunError(message, "start from its model.zip if the networks are the same")
