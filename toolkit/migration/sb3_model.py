"""Import of models that Stable-Baselines3 has saved, as run directories."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path

from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from stable_baselines3.common.vec_env import VecNormalize

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig, remember_trusted_code
from toolkit.snapshots.weights import load_weights
from toolkit.training.model import save_model, untrained_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import Problem, RunError


def import_sb3(file: Path, config: ResolvedConfig, out: Path | None = None) -> RunDirectory:
    """Make a run directory from an SB3 zip. Only the tensors in the zip are read, and the config builds the model.

    The run can be evaluated, recorded and watched. It has no ``result.json``, no episodes and no snapshot, because
    nothing was trained. ``environment.json`` names the file under ``imported_from``.

    :param file: a zip that ``model.save`` wrote; it may come from an untrusted source
    :param config: how the model was trained; its environment and networks must be the model's
    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :raises RunError: if the file does not exist, is damaged or does not fit the config; no directory is left
    :raises ConfigError: if the config's model cannot be built, or a wrapper needs statistics, which the zip lacks
    """
    if not file.is_file():
        raise RunError(f"{file}: {'is not a file' if file.exists() else 'does not exist'}")
    _refuse_learning_wrappers(config)
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


def _refuse_learning_wrappers(config: ResolvedConfig) -> None:
    """Refuse wrappers that an agent depends on and whose statistics are not in a model's zip.

    :raises ConfigError: with each of them
    """
    components = config.components
    learning = [
        component
        for component in (*components.wrappers, *components.vec_wrappers)
        if inspect.isclass(component.cls) and _needs_statistics(component)
    ]
    if learning:
        raise config.make_error(
            [
                Problem(
                    component.path,
                    f"'{component.name}' acts on statistics of its training, which the zip does not have",
                    "train in the toolkit: statistics cannot be imported",
                )
                for component in learning
            ]
        )


def _needs_statistics(component: BoundComponent) -> bool:
    if issubclass(component.cls, VecNormalize):
        return bool(component.arguments.get("norm_obs", True))
    has_state = hasattr(component.cls, "state_dict") and not issubclass(component.cls, NormalizeReward)
    return has_state or issubclass(component.cls, NormalizeObservation)
