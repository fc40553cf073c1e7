"""The promises of a replay buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from toolkit.config.compose import apply_overrides
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.signatures import read_signature
from toolkit.envs.factory import make_vec_env
from toolkit.snapshots.capture import CapturedState
from toolkit.snapshots.replay_buffer import capture_own_state, find_unsaved_parts
from toolkit.testing.component import (
    DEFAULT_ENV,
    NO_PARAMS,
    SEED,
    STATE_ADVICE,
    ConformanceError,
    Env,
    make_config,
    make_env_config,
    name_component,
    report_exceptions,
)
from toolkit.testing.short_runs import crash_and_resume, find_different_tensors, join_names, train_briefly
from toolkit.training.model import build_model
from toolkit.utils.errors import ConfigError

_N_ENVS = (1, 2)
_N_STEPS = 200  # vector steps, more than the buffer holds
_BUFFER_SIZE = 240
_BATCH_SIZE = 64
_EPISODE_STEPS = 5
_TIMESTEPS = 240
_SIGNATURE_ADVICE = (
    "take what SB3's algorithms pass: buffer_size, observation_space, action_space, device, n_envs and "
    "optimize_memory_usage"
)
_Pair = tuple[bytes, bytes]  # an observation and an action


def check_replay_buffer(
    replay_buffer: str | type[ReplayBuffer],
    *,
    params: Mapping[str, Any] = NO_PARAMS,
    algorithm: str = "dqn",
    env: Env = DEFAULT_ENV,
) -> None:
    """Check that a replay buffer stores and samples what it is given, trains repeatably, and can be resumed.

    With one environment and with two, it gets the transitions of random actions, more than it holds. Its minibatches
    must consist of observations and actions that it holds, in the shapes and types of SB3's. An episode that a time
    limit ends is not terminal, and observations are normalized with the statistics that it is given. With
    ``optimize_memory_usage`` it does the same, or refuses to be built. Rewards and next
    observations are its own affair, as hindsight and n-step returns change them. Last, it trains an algorithm, whose
    weights must be the same after a crash and ``toolkit resume``.

    A buffer with ``sample_weighted`` gives its minibatches by it, with weights above 0 and at most 1, and takes errors
    in ``update_priorities``. It needs an algorithm that uses both, as ``double_dqn``.

    :param replay_buffer: its name or its class
    :param params: arguments of its constructor besides those that SB3's algorithms pass
    :param algorithm: an off-policy algorithm for the environment's actions
    :param env: a Gymnasium id, or a mapping like ``env`` in the YAML; its episodes should end within 100 steps
    :raises ConformanceError: with the first promise that it breaks, and what to change
    :raises ToolkitError: if the replay buffer does not exist or cannot be built
    """
    with name_component(replay_buffer) as name:
        component = {"name": name, "params": dict(params)}
        for n_envs in _N_ENVS:
            config = _make_config(component, algorithm, env, n_envs)
            cls = config.components.algorithm.arguments["replay_buffer_class"]
            _check_contents(cls.__name__, config)
        _check_time_limits_and_normalization(cls.__name__, config)
        label = f"{cls.__name__} with optimize_memory_usage"
        _check_contents(label, _save_memory(config, cls), is_optional=True)
        _check_training(cls.__name__, config)


def _save_memory(config: ResolvedConfig, cls: type[Any]) -> ResolvedConfig:
    """Return a config with ``optimize_memory_usage``, and without what SB3's buffers cannot do together with it."""
    document = config.to_document()
    prefix, keys = "algorithm.params", {"optimize_memory_usage": True}
    if "handle_timeout_termination" in read_signature(cls).parameters:
        keys["replay_buffer_class.params.handle_timeout_termination"] = False
    apply_overrides(document, {f"{prefix}.{key}": value for key, value in keys.items()})
    return resolve_document(document)


def _make_config(component: dict[str, Any], algorithm: str, env: Env, n_envs: int) -> ResolvedConfig:
    env_config = {**make_env_config(env), "n_envs": n_envs}
    probe = make_config(timesteps=1, env=env_config, algorithm=algorithm)
    venv = make_vec_env(probe, seed=SEED, n_envs=1)
    policy = "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy"
    venv.close()
    params = {"buffer_size": _BUFFER_SIZE, "learning_starts": 120, "batch_size": 16, "train_freq": 8}
    return make_config(
        timesteps=_TIMESTEPS,
        env=env_config,
        algorithm={
            "name": algorithm,
            "policy": policy,
            "params": {**params, "replay_buffer_class": component},
            "policy_params": {"net_arch": [8]},
        },
        snapshots={"every_timesteps": _TIMESTEPS // 2, "every_minutes": None},
    )


def _check_contents(label: str, config: ResolvedConfig, *, is_optional: bool = False) -> None:
    """Fill a buffer beyond its size, and check its size and its minibatches on the way.

    :param is_optional: whether the buffer may refuse to be built
    """
    venv = make_vec_env(config, seed=SEED)
    try:
        try:
            model: Any = build_model(config, venv, seed=SEED)
        except ConfigError as error:
            if is_optional:
                return
            raise ConformanceError(f"{label} cannot be built: {error.message}; {_SIGNATURE_ADVICE}") from error
        buffer: Any = model.replay_buffer
        start = capture_own_state(buffer, [venv], None)
        if (buffer.buffer_size, buffer.n_envs) != (_BUFFER_SIZE // venv.num_envs, venv.num_envs):
            size = f"{buffer.buffer_size} steps of {buffer.n_envs} environments"
            advice = f"call super().__init__ with buffer_size={_BUFFER_SIZE} and n_envs={venv.num_envs} as they come"
            raise ConformanceError(f"{label} has room for {size}; {advice}")
        stored: deque[list[_Pair]] = deque(maxlen=buffer.buffer_size)
        env: Any = model.get_env()
        observation = env.reset()
        model.action_space.seed(SEED)
        for step in range(_N_STEPS + buffer.buffer_size):
            actions = np.array([model.action_space.sample() for _ in range(venv.num_envs)])
            stored_actions = model.policy.scale_action(actions) if _is_box(model) else actions
            next_observation, rewards, dones, infos = env.step(actions)
            last_observation = _replace_at_end(next_observation, dones, infos)
            with report_exceptions(f"{label}.add", "it is called with (obs, next_obs, action, reward, done, infos)"):
                buffer.add(observation, last_observation, stored_actions, rewards, dones, infos)
            stored.append([_identify(observation, stored_actions, index, buffer) for index in range(venv.num_envs)])
            observation = next_observation
            _check_size(label, buffer, len(stored))
            if step in (_N_STEPS // 2, _N_STEPS + buffer.buffer_size - 1):
                _check_minibatches(label, buffer, {pair for pairs in stored for pair in pairs})
        _check_can_be_saved(label, buffer, capture_own_state(buffer, [venv], start and start.structure))
    finally:
        venv.close()


def _check_time_limits_and_normalization(label: str, config: ResolvedConfig) -> None:
    """Store the first observations again and again, in episodes that a time limit ends, and sample them."""
    with closing(make_vec_env(config, seed=SEED)) as venv:
        model: Any = build_model(config, venv, seed=SEED)
        buffer, observation = model.replay_buffer, model.get_env().reset()
        for step in range(4 * _EPISODE_STEPS):
            actions = np.array([model.action_space.sample() for _ in range(venv.num_envs)])
            is_end = np.full(venv.num_envs, step % _EPISODE_STEPS == _EPISODE_STEPS - 1)
            infos = [{"TimeLimit.truncated": bool(value)} for value in is_end]
            buffer.add(observation, observation, actions, np.zeros(venv.num_envs), is_end, infos)
        if buffer.handle_timeout_termination and _sample(label, buffer).dones.any():
            advice = "store info['TimeLimit.truncated'], and sample dones * (1 - timeouts) as ReplayBuffer does"
            raise ConformanceError(f"{label}.sample: dones are 1 where a time limit ended an episode; {advice}")
        if isinstance(venv.observation_space, spaces.Box) and venv.observation_space.dtype == np.float32:
            normalizer: Any = VecNormalize(venv, training=False)
            normalizer.obs_rms.mean += 1
            sampled = _sample(label, buffer, normalizer).observations.numpy()
            is_close = np.isclose(sampled[:, None], normalizer.normalize_obs(observation), rtol=1e-4, atol=1e-5)
            is_row: Any = is_close.reshape(*is_close.shape[:2], -1).all(axis=2)
            if not is_row.any(axis=1).all():
                advice = "pass them through self._normalize_obs(..., env), and rewards through self._normalize_reward"
                raise ConformanceError(f"{label}.sample does not normalize observations by its argument env; {advice}")


def _is_box(model: Any) -> bool:
    return isinstance(model.action_space, spaces.Box)


def _replace_at_end(next_observation: Any, dones: Any, infos: list[dict[str, Any]]) -> Any:
    """Return what each environment's step led to: an ended episode's is in its info, as in SB3."""
    if isinstance(next_observation, dict):
        return {
            key: np.array([info["terminal_observation"][key] if done else row for row, done, info in rows])
            for key, rows in ((key, zip(part, dones, infos, strict=True)) for key, part in next_observation.items())
        }
    rows = zip(next_observation, dones, infos, strict=True)
    return np.array([info["terminal_observation"] if done else row for row, done, info in rows])


def _identify(observation: Any, actions: Any, index: int, buffer: ReplayBuffer) -> _Pair:
    """Return what identifies one environment's transition. Of a Dict, one part: a minibatch may have other goals."""
    if isinstance(observation, dict):
        observation = observation.get("observation", next(iter(observation.values())))
    return np.asarray(observation[index]).tobytes(), np.asarray(actions[index]).astype(buffer.actions.dtype).tobytes()


def _check_size(label: str, buffer: ReplayBuffer, n_stored: int) -> None:
    if buffer.size() != n_stored:
        advice = "call super().add, or move pos and full as it does"
        raise ConformanceError(f"{label}.size() is {buffer.size()} with {n_stored} stored steps; {advice}")


def _check_minibatches(label: str, buffer: ReplayBuffer, stored: set[_Pair]) -> None:
    """Sample, and compare shapes, types, observations and actions with what is stored."""
    with report_exceptions(f"{label}.sample({_BATCH_SIZE})", "it returns a ReplayBufferSamples, as ReplayBuffer's"):
        batch = _sample(label, buffer)
        tensors = {name: value for name, value in batch._asdict().items() if value is not None}
    for name in ("rewards", "dones"):
        shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
        if shape != (_BATCH_SIZE, 1) or dtype is not torch.float32:
            expected = f"({_BATCH_SIZE}, 1) and type float32"
            observed = f"{name} have shape {shape} and type {dtype}, not {expected}"
            raise ConformanceError(f"{label}.sample: {observed}; SB3's losses turn other shapes into wrong numbers")
    if not bool(((tensors["dones"] == 0) | (tensors["dones"] == 1)).all()):
        raise ConformanceError(f"{label}.sample: dones are not all 0 or 1; 1 marks a terminated episode")
    observations = _to_arrays(tensors["observations"])
    actions = tensors["actions"].numpy().reshape(_BATCH_SIZE, *(buffer.action_space.shape or (1,)))
    for index in range(_BATCH_SIZE):
        if _identify(observations, actions, index, buffer) not in stored:
            advice = "sample among the last buffer_size steps of each environment, and keep rows together"
            if buffer.optimize_memory_usage:
                advice = "leave out the step at pos, whose observation is overwritten, or refuse it in the constructor"
            raise ConformanceError(f"{label}.sample has an observation and action that it does not hold; {advice}")


def _sample(label: str, buffer: Any, env: VecNormalize | None = None) -> Any:
    """Return a minibatch, and give the errors of its transitions if they have weights."""
    if not hasattr(buffer, "sample_weighted"):
        return buffer.sample(_BATCH_SIZE, env=env)
    batch, rows = buffer.sample_weighted(_BATCH_SIZE, 0.5, env)
    if tuple(batch.weights.shape) != (_BATCH_SIZE,) or not bool(((batch.weights > 0) & (batch.weights <= 1)).all()):
        advice = "divide them by the largest of the minibatch"
        raise ConformanceError(f"{label}.sample_weighted: weights are not {_BATCH_SIZE} numbers from 0 to 1; {advice}")
    buffer.update_priorities(rows, np.linspace(0, 1, _BATCH_SIZE, dtype=np.float32))
    return batch


def _to_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: tensor.numpy() for key, tensor in value.items()}
    return value.numpy()


def _check_can_be_saved(label: str, buffer: ReplayBuffer, captured: CapturedState | None) -> None:
    if unsaved := [*find_unsaved_parts(buffer), *(captured.unsaved if captured else ())]:
        names = join_names(unsaved)
        raise ConformanceError(
            f"{label}: {names} cannot be saved, so a run could not be resumed exactly; {STATE_ADVICE}"
        )


def _check_training(label: str, config: ResolvedConfig) -> None:
    """Train three times, once with a crash and a resume, and compare the weights."""
    with TemporaryDirectory() as folder:
        failure = f"{label}: training failed"
        advice = "draw only from np.random, random and torch, which set_random_seed seeds"
        (_, observer), (_, repeated) = (
            train_briefly(config, Path(folder) / name, failure, "correct what was raised") for name in ("run", "again")
        )
        if names := find_different_tensors(observer.model, repeated.model):
            raise ConformanceError(f"{label}: the same seed trained different weights ({join_names(names)}); {advice}")
        failure = f"{label}: `toolkit resume` after a crash failed"
        resumed = crash_and_resume(config, Path(folder) / "resumed", _TIMESTEPS - 16, failure, STATE_ADVICE)
    if resumed is not None and (names := find_different_tensors(observer.model, resumed.model)):
        raise ConformanceError(
            f"{label}: a run that crashed and resumed has different weights ({join_names(names)}); {STATE_ADVICE}"
        )
