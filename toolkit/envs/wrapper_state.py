"""What wrappers learn during training, such as running statistics: out of some environments, into others."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from toolkit.envs.episodes import EpisodeRecorder
from toolkit.snapshots import capture, restore


def wrapper_statistics(venv: VecEnv) -> dict[str, Any]:
    """Return what the wrappers have learned, such as statistics of observations, as plain data.

    Among several environments the wrappers of the first one count.

    :return: an empty mapping if no wrapper learns
    """
    (wrappers,) = venv.env_method("learned_states", indices=[0])
    if not vec_wrappers(venv) and not any(wrappers):
        return {}
    return {"wrappers": wrappers, "vec_wrappers": [_vec_statistics(layer) for layer in vec_wrappers(venv)]}


def load_wrapper_statistics(venv: VecEnv, statistics: dict[str, Any]) -> None:
    """Load what :func:`wrapper_statistics` returned for other environments of the same config, and freeze it.

    :raises ValueError: if it does not fit
    """
    if not statistics:
        return
    venv.env_method("load_wrapper_states", statistics["wrappers"])
    venv.env_method("freeze_statistics")
    for layer, state in zip(vec_wrappers(venv), statistics["vec_wrappers"], strict=True):
        restore.restore_attributes(layer, state)
        if isinstance(layer, VecNormalize):
            layer.training = False


def vec_wrappers(venv: VecEnv) -> list[VecEnvWrapper]:
    """Return the config's vec wrappers, outermost first."""
    layers: list[VecEnvWrapper] = []
    while isinstance(venv, VecEnvWrapper):
        if not isinstance(venv, EpisodeRecorder | VecTransposeImage):
            layers.append(venv)
        venv = venv.venv
    return layers


def _vec_statistics(layer: VecEnvWrapper) -> dict[str, Any]:
    names = ("obs_rms", "ret_rms") if isinstance(layer, VecNormalize) else ()
    return {name: capture.capture_value(getattr(layer, name)) for name in names if name in vars(layer)}
