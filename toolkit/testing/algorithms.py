"""What an algorithm and a policy promise."""

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
from toolkit.testing.component import SEED, ConformanceError, Env, called, config_of, env_of
from toolkit.testing.short_runs import differing, dry_run, few, rehearse_in_two
from toolkit.training.model import load_model, untrained_model
from toolkit.training.run_directory import RunDirectory

_TIMESTEPS = 300
_LOADS = (
    "what is learnt belongs in the policy's modules, or is named in _get_torch_save_params; what follows from it is "
    "made anew in set_parameters"
)
_LOAD_ADVICE = (
    "SB3's load calls the constructor with policy, env, device and _init_setup_model alone, sets what was saved, and "
    "calls _setup_model: give all other parameters defaults, and make there what is not saved"
)
_RAISED = "mend what was raised; if it needs a certain environment or params, give them"


def check_algorithm(name: str, params: Mapping[str, Any], policy: str, env: Env) -> None:
    """Check everything.

    :raises ConformanceError: with the first promise that is not kept
    :raises ConfigError: if the algorithm cannot be built
    """
    algorithm = {"name": name, "params": dict(params), "policy": policy}
    config = _long_enough(env, algorithm)
    label = config.components.algorithm.cls.__name__
    with TemporaryDirectory() as folder:
        run, model = _trained(label, config, Path(folder) / "run")
        _loads(label, run, model)
        _, again = _trained(label, config, Path(folder) / "again")
        if names := differing(model, again):
            advice = "draw only from np.random, random, torch and action_space, which set_random_seed seeds"
            raise ConformanceError(f"{label}: the same seed trained other weights ({few(names)}); {advice}")
        _goes_on_after_loading(label, run, model)
        _resumes(label, config, model, Path(folder) / "two")


def check_policy(name: str, params: Mapping[str, Any], algorithm: str, env: Env) -> None:
    """Check everything.

    :raises ConformanceError: with the first promise that is not kept
    :raises ConfigError: if the policy cannot be built
    """
    config = _long_enough(env, {"name": algorithm, "policy": name, "policy_params": dict(params)})
    with TemporaryDirectory() as folder:
        label = type(untrained_model(config).policy).__name__
        run, model = _trained(label, config, Path(folder) / "run")
        _predicts(label, model, _observations(config, model))
        _loads(label, run, model)
        _loads_by_itself(label, model, Path(folder) / "policy")


def _long_enough(env: Env, algorithm: dict[str, Any]) -> ResolvedConfig:
    """Make a config of a training with at least two rollouts, and a snapshot within the second half."""
    parts = {"env": env_of(env), "algorithm": algorithm}
    model = untrained_model(config_of(timesteps=1, **parts))
    rollout = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 1
    timesteps = max(_TIMESTEPS, 2 * rollout)
    return config_of(
        timesteps=timesteps, snapshots={"every_timesteps": timesteps // 2, "every_minutes": None}, **parts
    )


def _trained(label: str, config: ResolvedConfig, out: Path) -> tuple[RunDirectory, BaseAlgorithm]:
    run, observer = dry_run(config, out, f"{label}: training failed", _RAISED)
    if not observer.before:
        advice = (
            "pass callback on to _setup_learn, and call what that returns: on_training_start, on_step, on_training_end"
        )
        raise ConformanceError(f"{label}.learn never called the callback it was given; {advice}")
    model = observer.model
    if not observer.n_calls or model.num_timesteps < config.timesteps:
        seen = f"learn({config.timesteps}) ended at num_timesteps {model.num_timesteps}"
        seen += f", after {observer.n_calls} calls of on_step"
        advice = "call callback.on_step() and raise num_timesteps by the number of environments at each of their steps"
        raise ConformanceError(f"{label}: {seen}; {advice}")
    after = model.policy.state_dict()
    if all(after[name].equal(value) for name, value in observer.before.items() if name in after):
        advice = "if params put learning off (learning_starts) or make it slow, give others for the check"
        raise ConformanceError(f"{label} learnt nothing in {config.timesteps} timesteps: no weight changed; {advice}")
    return run, model


def _loads(label: str, run: RunDirectory, model: BaseAlgorithm) -> None:
    with called(f"{label}: loading the weights of model.zip into a fresh model", _LOADS):
        loaded = load_model(run)
    _same(label, "loaded from its run directory", run, model, loaded)


def _same(label: str, how: str, run: RunDirectory, model: BaseAlgorithm, loaded: BaseAlgorithm) -> None:
    if names := differing(model, loaded):
        raise ConformanceError(f"{label}: {how}, a model has not what was learnt: {few(names)}; {_LOADS}")
    for observation in _observations(run.resolved_config, model):
        one, other = (each.predict(observation, deterministic=True)[0] for each in (model, loaded))
        if not np.array_equal(one, other):
            seen = f"{how}, a model acts otherwise: {one} and then {other} for the same observation"
            raise ConformanceError(f"{label}: {seen}; {_LOADS}")


def _goes_on_after_loading(label: str, run: RunDirectory, model: BaseAlgorithm) -> None:
    env = make_vec_env(run.resolved_config, seed=SEED)
    try:
        how = f"{type(model).__name__}.load(model.zip)"
        with called(how, _LOAD_ADVICE):
            loaded = type(model).load(run.model_path, env=env)
        _same(label, f"with {how}", run, model, loaded)
        before = loaded.num_timesteps
        with called(
            f"{label}.learn after load", "whatever learn needs is saved, or made anew in _setup_model or _setup_learn"
        ):
            loaded.learn(_TIMESTEPS // 3, reset_num_timesteps=False)
        if loaded.num_timesteps <= before:
            advice = "reset_num_timesteps=False goes on from num_timesteps: pass it on to _setup_learn"
            raise ConformanceError(f"{label}.learn after load took no steps; {advice}")
    finally:
        env.close()


def _resumes(label: str, config: ResolvedConfig, model: BaseAlgorithm, out: Path) -> None:
    """Break training off and resume it, if the toolkit says that it can: ARS for one has no snapshots."""
    if not training_state.can_resume(model) or replay_buffer.find_unsaved_parts(getattr(model, "replay_buffer", None)):
        return
    advice = "offer state_dict and load_state_dict for what it keeps that SB3's algorithms do not, tensors above all"
    failed = f"{label}: going on after a break with `toolkit resume` failed"
    resumed = rehearse_in_two(config, out, config.timesteps - 1, failed, advice)
    if resumed is not None and (names := differing(model, resumed.model)):
        raise ConformanceError(
            f"{label}: after a break and `toolkit resume` it has other weights ({few(names)}); {advice}"
        )


def _observations(config: ResolvedConfig, model: BaseAlgorithm) -> list[Any]:
    """Return observations of four environments each, with random actions."""
    env = make_vec_env(config, seed=SEED, n_envs=4)
    model.action_space.seed(SEED)
    try:
        observations = [env.reset()]
        for _ in range(8):
            observations.append(env.step(np.array([model.action_space.sample() for _ in range(4)]))[0])
    finally:
        env.close()
    return observations


def _predicts(label: str, model: BaseAlgorithm, observations: list[Any]) -> None:
    space = model.action_space
    for batch in observations:
        single = {key: one[0] for key, one in batch.items()} if isinstance(batch, dict) else batch[0]
        with called(f"{label}.predict", "it takes one observation, or a batch with the batch's dimension in front"):
            many, one = (model.policy.predict(each, deterministic=True)[0] for each in (batch, single))
        if len(np.atleast_1d(many)) != 4 or not all(space.contains(action) for action in many):
            raise ConformanceError(
                f"{label}.predict gave {many!r} for 4 observations; expected is one action of {space} for each"
            )
        if not space.contains(np.asarray(one)[()]):
            raise ConformanceError(
                f"{label}.predict gave {one!r} for one observation; expected is an action of {space}"
            )


def _loads_by_itself(label: str, model: BaseAlgorithm, path: Path) -> None:
    advice = "add what its constructor takes to _get_constructor_parameters, and keep tensors as parameters or buffers"
    with called(f"{label}: policy.save and {label}.load", advice):
        model.policy.save(str(path))
        loaded = type(model.policy).load(str(path))
    if names := differing(model.policy, loaded):
        raise ConformanceError(f"{label}: after policy.save and {label}.load this is lost: {few(names)}; {advice}")
