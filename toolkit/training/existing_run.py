"""Whether a directory holds a run of a config already, and whether it has ended."""

from __future__ import annotations

from pathlib import Path

from toolkit.config.changes import describe_changes
from toolkit.config.load import read_config
from toolkit.config.schema import RunConfig
from toolkit.training.results import ENDED, read_result
from toolkit.utils.errors import RunError, ToolkitError
from toolkit.utils.files import read_text


def has_ended(directory: Path) -> bool:
    """Return whether training in a run directory has ended by itself.

    :raises RunError: if ``result.json`` is damaged
    """
    return (read_result(directory / "result.json") or {}).get("status") in ENDED


def has_started(directory: Path, config: RunConfig, hint: str) -> bool:
    """Return whether a directory, which may be missing, holds a run of a config.

    :param hint: what to do if it holds something else
    :raises RunError: if it holds something that training cannot continue
    """
    path = directory / "config.yaml"
    try:
        if not path.exists():
            if directory.exists() and not (directory.is_dir() and is_unused(directory)):
                raise RunError(f"{directory}: is not a run directory: it has no config.yaml")
            return False
        if changes := compare_configs(path, config):
            raise RunError(f"{directory}: holds a run of another config: {changes[0]}")
        if has_ended(directory) and not (directory / "model.zip").is_file():
            raise RunError(f"{directory}: has no model.zip")
    except ToolkitError as error:
        raise RunError(error.message, hint) from error
    except OSError as error:  # for example a name that is too long
        raise RunError(f"{directory}: cannot be read: {error.strerror}", hint) from error
    return True


def is_unused(directory: Path) -> bool:
    """Return whether a directory holds at most temporary files, which a killed process has left."""
    return all(path.name.endswith(".tmp") for path in directory.iterdir())


def compare_configs(path: Path, planned: RunConfig) -> list[str]:
    """Describe how a run's config file differs from the planned config.

    :raises ConfigError: if the file is invalid
    """
    try:
        if read_text(path) == planned.to_yaml():  # faster than to parse it
            return []
    except (OSError, ValueError):
        pass  # read_config reports it
    old, new = (config.to_document().data for config in (read_config(path), planned))
    return [f"{path}: {change}" for change in describe_changes(old, new)]
