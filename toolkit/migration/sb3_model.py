"""Import of models that Stable-Baselines3 has saved, as run directories."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig, remember_trusted_code
from toolkit.migration.vec_normalize import load_statistics, read_statistics
from toolkit.snapshots.weights import load_older_weights
from toolkit.training.model import save_model, untrained_model
from toolkit.training.run_directory import RunDirectory
from toolkit.training.start import needs_statistics
from toolkit.utils.errors import Problem, RunError
from toolkit.utils.vec_envs import iterate_vec_wrappers


def import_sb3(
    file: Path,
    config: ResolvedConfig,
    out: Path | None = None,
    *,
    statistics: Path | None = None,
    untrained_statistics: bool = False,
    notes: Sequence[str] = (),
) -> RunDirectory:
    """Make a run directory from an SB3 zip. Only tensors and statistics are read, and the config builds the model.

    The run can be evaluated, recorded and watched. It has no ``result.json``, no episodes and no snapshot, because
    nothing was trained. ``environment.json`` names the files under ``imported_from``, and what was left out.

    :param file: a zip that ``model.save`` wrote; it may come from an untrusted source
    :param config: how the model was trained; its environment and networks must be the model's
    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :param statistics: a file that ``VecNormalize.save`` wrote; it may come from an untrusted source
    :param untrained_statistics: whether wrappers may act on no statistics, as at the start of a training
    :param notes: what the run's ``environment.json`` should say of the import, too
    :raises RunError: if a file does not exist, is damaged or does not fit the config; no directory is left
    :raises ConfigError: if the config's model cannot be built, or a wrapper needs statistics that are missing
    """
    if not file.is_file():
        raise RunError(f"{file}: {'is not a file' if file.exists() else 'does not exist'}")
    normalizer = _find_normalizer(config, statistics) if statistics else None
    components = config.components
    wrappers = [*components.base_wrappers, *components.wrappers, *components.vec_wrappers]
    untrained = [wrapper for wrapper in wrappers if needs_statistics(wrapper) and wrapper is not normalizer]
    if untrained and not untrained_statistics:
        raise config.make_error([_require_statistics(component) for component in untrained])
    model = untrained_model(config)
    misfits = load_older_weights(file, model, "the config")
    if statistics and normalizer:
        _load_statistics(statistics, normalizer, model)
    notes = [
        *notes,
        *(f"{misfit}: this optimizer starts anew." for misfit in misfits),
        *(f"{component.name} acts without the statistics of a training." for component in untrained),
    ]
    run = RunDirectory.create(config, out)
    remember_trusted_code(config)
    save_model(run, model)
    origin = _describe_file(file) | {"notes": notes}
    if statistics:
        origin["statistics"] = _describe_file(statistics)
    environment = json.loads((run.directory / "environment.json").read_text(encoding="utf-8"))
    run.write("environment.json", json.dumps(environment | {"imported_from": origin}, indent=2) + "\n")
    return run


def _find_normalizer(config: ResolvedConfig, statistics: Path) -> BoundComponent:
    """Return the ``VecNormalize`` that statistics are for.

    :raises ConfigError: if the config has none, or several
    """
    normalizers = [wrapper for wrapper in config.components.vec_wrappers if issubclass(wrapper.cls, VecNormalize)]
    if len(normalizers) == 1:
        return normalizers[0]
    number = "several of VecNormalize" if normalizers else "no vec_normalize"
    message = f"has {number}, for the statistics in {statistics}"
    raise config.make_error([Problem(("env", "vec_wrappers"), message, "write vec_normalize once")])


def _require_statistics(component: BoundComponent) -> Problem:
    message = f"'{component.name}' acts on statistics of its training, which the zip does not have"
    hint = "pass --untrained-statistics to import the weights without them"
    if issubclass(component.cls, VecNormalize):
        hint = "pass --vec-normalize FILE, which VecNormalize.save wrote, or --untrained-statistics"
    return Problem(component.path, message, hint)


def _load_statistics(path: Path, component: BoundComponent, model: BaseAlgorithm) -> None:
    """Load statistics into the ``VecNormalize`` of a model's environments.

    :raises RunError: if they cannot be read, or are of other observations
    :raises ConfigError: if the config's ``VecNormalize`` normalizes observations in another way
    """
    saved = read_statistics(path)
    layer = next(layer for layer in iterate_vec_wrappers(model.get_env()) if isinstance(layer, VecNormalize))
    problems = []
    for name, value in saved.settings.items():
        own = getattr(layer, name)
        if own != value:
            message = f"is {json.dumps(own)} here, and {json.dumps(value)} in {path}"
            problems.append(Problem((*component.path, "params", name), message, f"set it to {json.dumps(value)}"))
    if problems:
        raise component.make_error(problems)
    try:
        load_statistics(saved, layer)
    except ValueError as error:
        raise RunError(f"{path}: does not fit the config: {error}") from None


def _describe_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as content:
        return {"file": path.name, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
