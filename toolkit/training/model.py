"""Build the SB3 model of a run, save it, and load it without running code from a file."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from toolkit.algorithms import DoubleDQN
from toolkit.algorithms.optimizer_imports import avoid_compiler_import
from toolkit.config.components import copy_arguments
from toolkit.config.load import ResolvedConfig
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import make_vec_env
from toolkit.envs.wrapper_state import capture_wrapper_states, keep_wrapper_states, load_wrapper_states
from toolkit.snapshots import archive
from toolkit.snapshots.capture import NOTHING
from toolkit.snapshots.policy_state import capture_policy, remember_initial_policy, restore_policy
from toolkit.snapshots.restore import RESTORE_ERRORS
from toolkit.snapshots.rng import preserve_rng_state
from toolkit.snapshots.training_state import restore_for_acting
from toolkit.snapshots.weights import find_unreadable_weights, load_weights
from toolkit.training.device import find_device_problem
from toolkit.training.replay_buffer_checks import (
    describe_unfit_replay_buffer,
    refuse_negative_goals,
    refuse_weights_without_use,
)
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import ConfigError, Problem, RunError, describe_error
from toolkit.utils.files import atomic_file, sync
from toolkit.utils.model_files import BEST, BEST_BEFORE, MODEL_FILE

_log = logging.getLogger("toolkit")

WRAPPER_ARCHIVE = "wrappers"  # beside model.zip
MARK = b"sb3-toolkit: the directory wrappers/ belongs to this model"  # comment of the zip, since archives are complete
MAX_ARCHIVE_BYTES = 1 << 26
_MAX_STATE_BYTES = 1 << 22  # of a wrapper's state
_SMALL_NETWORK = 500_000  # parameters; three 256x256 networks have fewer, one NatureCNN has more


def build_model(config: ResolvedConfig, env: EpisodeRecorder, *, seed: int | None = None) -> BaseAlgorithm:
    """Build the config's algorithm, with fresh weights, on its environments.

    The CPU replaces a device that this machine does not have.

    :raises ConfigError: if the algorithm does not fit the environment, or refuses its parameters
    """
    refuse_negative_goals(config)
    refuse_weights_without_use(config)
    avoid_compiler_import()
    components = config.components
    algorithm = components.algorithm
    if find_device_problem(config):
        algorithm = replace(algorithm, arguments=algorithm.arguments | {"device": "cpu"})
    try:
        model: BaseAlgorithm = algorithm.build(
            components.policy, env, policy_kwargs=copy_arguments(components.policy_arguments), seed=seed, verbose=0
        )
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, AssertionError) and "as action spaces" in str(cause):
            message = re.sub(r"<class '[\w.]*?(\w+)'>,?", r"\1", str(cause))
            problem = Problem(
                ("algorithm", "name"),
                f"'{config.algorithm.name}' cannot act in {config.env.name}: {message}",
                "choose an algorithm for this action space (continuous: sac, td3, ppo; discrete: double_dqn, ppo)",
            )
            raise config.make_error([problem]) from cause
        unfit = _describe_unfit_images(config, env, str(cause))
        unfit = unfit or describe_unfit_replay_buffer(config, env.observation_space, str(cause))
        if unfit := unfit or _describe_unfit_policy_params(config, error):
            raise config.make_error([unfit]) from cause
        raise
    train_freq = getattr(model, "train_freq", None)
    if env.num_envs > 1 and isinstance(train_freq, TrainFreq) and train_freq.unit is TrainFrequencyUnit.EPISODE:
        problem = Problem(
            ("algorithm", "params", "train_freq"),
            f"is counted in episodes, but {env.num_envs} environments end them at different times",
            "count it in steps, or set env.n_envs to 1",
        )
        raise config.make_error([problem])
    _require_readable_weights(model, config)
    _require_losses_of_policy(model, config)
    _expand_noise(getattr(model, "action_noise", None), env)
    remember_initial_policy(model)
    return model


def _describe_unfit_policy_params(config: ResolvedConfig, error: ConfigError) -> Problem | None:
    """Describe a parameter of the policy from an error that names one, and no parameter of the algorithm."""
    cause = error.__cause__ or error
    names = [name for name in re.findall(r"\w+", str(cause)) if name in config.algorithm.policy_params]
    if not names or any(problem.path != ("algorithm",) for problem in error.problems):
        return None
    message = describe_error(cause).removeprefix("ValueError: ")
    return Problem(("algorithm", "policy_params", names[0]), message)


def _require_losses_of_policy(model: BaseAlgorithm, config: ResolvedConfig) -> None:
    """Refuse a noisy or distributional policy of an algorithm that would train it as if it had plain Q-values.

    :raises ConfigError: if it is such an algorithm
    """
    switches = {"noisy": "is_noisy", "distribution": "has_distribution"}
    names = [name for name, attribute in switches.items() if getattr(model.policy, attribute, False)]
    if names and not isinstance(model, DoubleDQN):
        message = f"'{config.algorithm.name}' cannot train a policy with {' and '.join(names)}"
        raise config.make_error([Problem(("algorithm", "name"), message, "choose double_dqn")])


def _describe_unfit_images(config: ResolvedConfig, env: EpisodeRecorder, error: str) -> Problem | None:
    """Describe observations that SB3's network for images cannot take, from the error that it raises."""
    policy, name, space = config.algorithm.policy, config.env.name, env.observation_space
    if "use NatureCNN only with images" in error:
        message = f"'{policy}' needs images, uint8 from 0 to 255 in three dimensions; '{name}' gives {space}"
        return Problem(("algorithm", "policy"), message, "choose MlpPolicy, or correct the space")
    if "Calculated padded input size" in error:
        message = f"'{policy}' needs images of at least 36x36 pixels; '{name}' gives shape {space.shape}"
        hint = "add the wrapper gymnasium.wrappers:ResizeObservation, or name a policy_params.features_extractor_class"
        return Problem(("algorithm", "policy"), message, hint)
    return None


def _require_readable_weights(model: BaseAlgorithm, config: ResolvedConfig) -> None:
    """Refuse an algorithm whose policy cannot be built again from saved tensors, such as one with JAX arrays (SBX).

    :raises ConfigError: if it is such an algorithm
    """
    if reason := find_unreadable_weights(model):
        problem = Problem(
            ("algorithm", "name"),
            f"'{config.algorithm.name}' has weights that cannot be saved and read without pickle: {reason}",
            "choose an algorithm with a torch policy, as those of stable_baselines3 and sb3_contrib",
        )
        raise config.make_error([problem])


def _expand_noise(noise: ActionNoise | None, env: EpisodeRecorder) -> None:
    """Expand a number as mean or sigma of SB3's action noise to every dimension of an action.

    SB3 takes arrays only, and a config may not know their size. For size 1, SB3 draws one value for all dimensions.
    """
    if isinstance(noise, NormalActionNoise | OrnsteinUhlenbeckActionNoise):
        for name in ("_mu", "_sigma"):
            if np.ndim(getattr(noise, name)) == 0:
                setattr(noise, name, np.full(env.action_space.shape, getattr(noise, name)))
        noise.reset()


def untrained_model(config: ResolvedConfig) -> BaseAlgorithm:
    """Build the config's algorithm, with fresh weights, on environments that are closed.

    :raises ConfigError: if an environment or the algorithm cannot be built
    """
    env = make_vec_env(config, seed=0, n_envs=config.env.n_envs)  # in this process
    env.close()
    return build_model(config, env)


def save_model(run: RunDirectory, model: BaseAlgorithm) -> None:
    """Save what wrappers and policy learned beside their weights, then ``model.zip``, each completely or not at all.

    A warning names what cannot be saved.
    """
    if unsaved := _write_model(run.directory, model):
        _log.warning(
            "%s: does not have %s: evaluation starts with the initial value",
            run.directory / WRAPPER_ARCHIVE,
            ", ".join(unsaved),
        )


def save_best_model(run: RunDirectory, model: BaseAlgorithm) -> None:
    """Save a model as the run's best one, with what wrappers and policy learned; :meth:`find_model` always finds one.

    If it cannot be written, there is a warning, and the best one so far remains.
    """
    best, before = run.directory / BEST, run.directory / BEST_BEFORE
    new = run.directory / f".{BEST}.tmp"
    try:
        remove_best_model(run, keeps_current=True)
        new.mkdir()
        _write_model(new, model)
        sync(new)
        if best.exists():
            best.rename(before)
        new.rename(best)
        sync(run.directory)
    except OSError as error:
        _log.warning("the best model at timestep %d is not saved: %s", model.num_timesteps, describe_error(error))
    finally:
        remove_best_model(run, keeps_current=True)


def remove_best_model(run: RunDirectory, *, keeps_current: bool = False) -> None:
    """Delete the best model, or only what an interrupted :func:`save_best_model` has left."""
    best, before = run.directory / BEST, run.directory / BEST_BEFORE
    if keeps_current and before.exists() and not best.exists():
        before.rename(best)
    for directory in (before, run.directory / f".{BEST}.tmp", *(() if keeps_current else (best,))):
        shutil.rmtree(directory, ignore_errors=True)


def _write_model(directory: Path, model: BaseAlgorithm) -> list[str]:
    """Write ``wrappers/`` and ``model.zip``; return the names of what cannot be saved."""
    state, unsaved = _capture_learned_state(model)
    path = directory / MODEL_FILE
    path.unlink(missing_ok=True)  # an earlier model does not fit the new state
    archive.remove(directory / WRAPPER_ARCHIVE)
    archive.write(directory / WRAPPER_ARCHIVE, state)
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file:
            model.save(file)
        with zipfile.ZipFile(temporary, "a") as file:
            file.comment = MARK
    return unsaved


def _capture_learned_state(model: BaseAlgorithm) -> tuple[dict[str, Any], list[str]]:
    """Return the content of the archive beside ``model.zip``, and the names of what it lacks."""
    policy, unsaved = capture_policy(model)
    state: dict[str, Any] = {"policy": policy}
    venv = model.get_env()
    if venv is not None:
        wrappers = capture_wrapper_states(venv)
        unsaved = [*wrappers.pop("unsaved", ()), *unsaved]
        unsaved += _remove_large_states([*wrappers["wrappers"], *wrappers["vec_wrappers"]])
        state |= wrappers
    return state, unsaved


def _remove_large_states(states: list[dict[str, Any] | None]) -> list[str]:
    """Empty the states that are too large for the archive, and return their names."""
    names = []
    for state in states:
        if state is not None and not archive.fits(state, _MAX_STATE_BYTES):
            state["state"] = state["before"] = {"$": NOTHING}
            names.append(f"wrapper {state['class']}: everything, which takes more than {_MAX_STATE_BYTES >> 20} MiB")
    return names


def load_model(run: RunDirectory, choice: str = "final") -> BaseAlgorithm:
    """Build a run's model from its config and load the saved weights; the pickled part of a zip is not read.

    The model predicts for any number of environments; its own are closed. The global random generators keep their
    state, so a training in this process is not affected.

    :param choice: ``final``, ``best`` or ``snapshot:N``, see :meth:`RunDirectory.find_model`
    :raises RunError: if the run does not have the model, or one that does not fit its config
    """
    path = run.find_model(choice)
    if path.is_dir():
        return _load_snapshot(run, path)
    with preserve_rng_state():
        model = untrained_model(run.resolved_config)
    load_weights(path, model, "the run's config.yaml")
    _load_learned_state(model, run, path)
    return model


def _load_snapshot(run: RunDirectory, directory: Path) -> BaseAlgorithm:
    """Load the model of a snapshot. Its environments repeat the running episode, for the states of their wrappers."""
    config = run.resolved_config
    is_batch = config.env.vec_env in ("vector", "envpool")
    with preserve_rng_state():
        env = make_vec_env(config, seed=0, n_envs=None if is_batch else config.env.n_envs)
        try:
            model = build_model(config, env)
            restore_for_acting(model, archive.read(directory))
            keep_wrapper_states(env)
        finally:
            env.close()
    return model


def _load_learned_state(model: BaseAlgorithm, run: RunDirectory, path: Path) -> None:
    """Load what was saved beside a zip into the model's policy and the wrappers of its own environments."""
    directory, venv = path.parent / WRAPPER_ARCHIVE, model.get_env()
    if not directory.exists():
        if _needs_learned_state(model, run, path):
            raise RunError(
                f"{directory}: does not exist, but must hold what the wrappers and the policy learned",
                "restore it, or train the run again",
            )
        return
    try:
        state = archive.read(directory, MAX_ARCHIVE_BYTES)
        restore_policy(model, state.get("policy", {}))
        if venv is not None and "wrappers" in state:
            load_wrapper_states(venv, state)
    except RESTORE_ERRORS as error:
        raise RunError(f"{directory}: does not fit the run's config.yaml: {error}") from error


def _needs_learned_state(model: BaseAlgorithm, run: RunDirectory, path: Path) -> bool:
    """Return whether a model was saved with an archive: always, except by version 0.1.0 if no wrapper had learned."""
    with zipfile.ZipFile(path) as file:
        if file.comment == MARK:
            return True
    venv = model.get_env()
    return bool(run.config.env.vec_wrappers) or (
        venv is not None and any(*venv.env_method("learned_states", indices=[0]))
    )


@contextmanager
def limit_torch_threads(model: BaseAlgorithm) -> Iterator[None]:
    """Compute with one CPU thread if the network is small.

    Waiting for each other costs threads more than a small network gains, on a busy machine fifty times more. Torch's
    own choice stays for larger networks, and if the environment has ``OMP_NUM_THREADS``.
    """
    default = torch.get_num_threads()
    size = sum(parameter.numel() for parameter in model.policy.parameters())
    if size <= _SMALL_NETWORK and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(default)
