"""The promises of an algorithm, and the checks that policies share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from toolkit.config.load import ResolvedConfig
from toolkit.envs.factory import make_vec_env
from toolkit.snapshots import replay_buffer, training_state
from toolkit.testing.component import (
    DEFAULT_ENV,
    NO_PARAMS,
    SEED,
    ConformanceError,
    Env,
    make_config,
    make_env_config,
    name_component,
    report_exceptions,
)
from toolkit.testing.short_runs import crash_and_resume, find_different_tensors, join_names, train_briefly
from toolkit.training.model import load_model, untrained_model
from toolkit.training.run_directory import RunDirectory

_TIMESTEPS = 300
_SAVE_ADVICE = (
    "keep what is learned in the policy's modules, or name it in _get_torch_save_params; recompute what follows from "
    "it in set_parameters"
)
_LOAD_ADVICE = (
    "SB3's load calls the constructor with only policy, env, device and _init_setup_model: give all other parameters "
    "defaults. It then sets what was saved and calls _setup_model: create there what is not saved"
)
_TRAINING_ADVICE = "correct what was raised; if it needs a certain environment or params, pass them"


def check_algorithm(
    algorithm: str | type[BaseAlgorithm],
    *,
    params: Mapping[str, Any] = NO_PARAMS,
    policy: str = "MlpPolicy",
    env: Env = DEFAULT_ENV,
) -> None:
    """Check that an algorithm trains, repeatably, and that it can be saved, loaded and trained further.

    It trains for 300 timesteps, or for two rollouts if they are longer. Its model is loaded in the toolkit's way,
    without unpickling, and with its own ``load``. One of SB3's on-policy or off-policy algorithms must also reach the
    same weights after a crash and ``toolkit resume``.

    :param algorithm: its name or its class
    :param params: arguments of its constructor besides ``policy`` and ``env``
    :param policy: name of its policy
    :param env: an environment that it can act in: a Gymnasium id, or a mapping like ``env`` in the YAML
    :raises ConformanceError: with the first promise that it breaks, and what to change
    :raises ToolkitError: if the algorithm or policy does not exist or cannot be built
    """
    with name_component(algorithm) as name, TemporaryDirectory() as folder:
        config = make_short_config(env, {"name": name, "params": dict(params), "policy": policy})
        label = config.components.algorithm.cls.__name__
        run, model = train_and_check(label, config, Path(folder) / "run")
        check_load_from_run(label, run, model)
        _, repeated_model = train_and_check(label, config, Path(folder) / "repeated")
        if names := find_different_tensors(model, repeated_model):
            advice = "draw only from np.random, random, torch and action_space, which set_random_seed seeds"
            raise ConformanceError(f"{label}: the same seed trained different weights ({join_names(names)}); {advice}")
        _check_load_and_continue(label, run, model)
        _check_resume(label, config, model, Path(folder) / "resumed")


def make_short_config(env: Env, algorithm: dict[str, Any]) -> ResolvedConfig:
    """Make a config with at least two rollouts, and a snapshot in the second half of training."""
    sections = {"env": make_env_config(env), "algorithm": algorithm}
    model = untrained_model(make_config(timesteps=1, **sections))
    rollout_timesteps = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 1
    timesteps = max(_TIMESTEPS, 2 * rollout_timesteps)
    snapshots = {"every_timesteps": timesteps // 2, "every_minutes": None}
    return make_config(timesteps=timesteps, snapshots=snapshots, **sections)


def train_and_check(label: str, config: ResolvedConfig, out: Path) -> tuple[RunDirectory, BaseAlgorithm]:
    """Train, and check that the callback was called, all timesteps were trained and a weight changed.

    :raises ConformanceError: if not
    """
    run, observer = train_briefly(config, out, f"{label}: training failed", _TRAINING_ADVICE)
    if not observer.initial_weights:
        advice = "pass callback to _setup_learn, and call what it returns: on_training_start, on_step, on_training_end"
        raise ConformanceError(f"{label}.learn never called its callback; {advice}")
    model = observer.model
    if not observer.n_calls or model.num_timesteps < config.timesteps:
        end = f"ended at num_timesteps {model.num_timesteps}, after {observer.n_calls} calls of on_step"
        advice = "call callback.on_step() and add the number of environments to num_timesteps at each of their steps"
        raise ConformanceError(f"{label}: learn({config.timesteps}) {end}; {advice}")
    weights = model.policy.state_dict()
    if all(weights[name].equal(value) for name, value in observer.initial_weights.items() if name in weights):
        advice = "if params delay learning (learning_starts) or slow it down, pass others to the check"
        raise ConformanceError(f"{label} learned nothing in {config.timesteps} timesteps: no weight changed; {advice}")
    return run, model


def check_load_from_run(label: str, run: RunDirectory, model: BaseAlgorithm) -> None:
    """Check that the run's model.zip, loaded without unpickling, has the trained model's weights and actions.

    :raises ConformanceError: if not
    """
    with report_exceptions(f"{label}: loading the weights of model.zip into a fresh model", _SAVE_ADVICE):
        loaded_model = load_model(run)
    _check_equal_models(label, "loaded from its run directory", run, model, loaded_model)


def sample_observations(config: ResolvedConfig, model: BaseAlgorithm) -> list[Any]:
    """Return batches of observations of four environments that take random actions."""
    env = make_vec_env(config, seed=SEED, n_envs=4)
    model.action_space.seed(SEED)
    try:
        observations = [env.reset()]
        for _ in range(8):
            observations.append(env.step(np.array([model.action_space.sample() for _ in range(4)]))[0])
    finally:
        env.close()
    return observations


def _check_equal_models(
    label: str, origin: str, run: RunDirectory, model: BaseAlgorithm, loaded_model: BaseAlgorithm
) -> None:
    if names := find_different_tensors(model, loaded_model):
        raise ConformanceError(
            f"{label}: {origin}, a model lacks what was learned: {join_names(names)}; {_SAVE_ADVICE}"
        )
    for observation in sample_observations(run.resolved_config, model):
        action, loaded_action = (
            predictor.predict(observation, deterministic=True)[0] for predictor in (model, loaded_model)
        )
        if not np.array_equal(action, loaded_action):
            actions = f"{action} and then {loaded_action} for the same observation"
            raise ConformanceError(f"{label}: {origin}, a model acts differently: {actions}; {_SAVE_ADVICE}")


def _check_load_and_continue(label: str, run: RunDirectory, model: BaseAlgorithm) -> None:
    """Load the model with its own ``load``, and train it further."""
    env = make_vec_env(run.resolved_config, seed=SEED)
    try:
        call = f"{type(model).__name__}.load(model.zip)"
        with report_exceptions(call, _LOAD_ADVICE):
            loaded_model = type(model).load(run.model_path, env=env)
        _check_equal_models(label, f"with {call}", run, model, loaded_model)
        loaded_timesteps = loaded_model.num_timesteps
        advice = "save what learn needs, or create it in _setup_model or _setup_learn"
        with report_exceptions(f"{label}.learn after load", advice):
            loaded_model.learn(_TIMESTEPS // 3, reset_num_timesteps=False)
        if loaded_model.num_timesteps <= loaded_timesteps:
            advice = "reset_num_timesteps=False continues from num_timesteps: pass it to _setup_learn"
            raise ConformanceError(f"{label}.learn after load took no steps; {advice}")
    finally:
        env.close()


def _check_resume(label: str, config: ResolvedConfig, model: BaseAlgorithm, out: Path) -> None:
    """Crash and resume a training, if snapshots support the algorithm. They do not support ARS, for example."""
    if not training_state.can_resume(model) or replay_buffer.find_unsaved_parts(getattr(model, "replay_buffer", None)):
        return
    advice = "define state_dict and load_state_dict for what it holds beyond SB3's algorithms, tensors above all"
    failure = f"{label}: `toolkit resume` after a crash failed"
    resumed = crash_and_resume(config, out, config.timesteps - 1, failure, advice)
    if resumed is not None and (names := find_different_tensors(model, resumed.model)):
        raise ConformanceError(
            f"{label}: a run that crashed and resumed has different weights ({join_names(names)}); {advice}"
        )
