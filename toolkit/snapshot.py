"""The whole state of training out of its live objects and into others like them, as plain data without pickle.

It is taken and put back where a rollout starts: there the algorithms of SB3 hold nothing in local variables that
matters, and a rollout buffer is empty.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from toolkit import state
from toolkit.errors import RunError, describe
from toolkit.state import NotPlainError, attributes, capture, decode, encode, restore, restore_attributes
from toolkit.weights import put_weights

_STOCK = ("stable_baselines3.", "sb3_contrib.")
_BUFFERS = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer)
_NOT_THE_MODELS = {"replay_buffer", "rollout_buffer", "start_time", "_learner", "tensorboard_log", "_custom_logger"}


def can_resume(model: BaseAlgorithm) -> bool:
    """Say whether an algorithm collects rollouts as SB3's do, so that there is a place to take snapshots."""
    return isinstance(model, OffPolicyAlgorithm | OnPolicyAlgorithm)


def unrestorable(model: BaseAlgorithm, callbacks: Sequence[BaseCallback]) -> list[str]:
    """Name what of a training run no snapshot can bring back."""
    named = []
    cls = type(model)
    if not can_resume(model):
        return [f"algorithm {cls.__name__}: it collects no rollouts as SB3's algorithms do"]
    if not cls.__module__.startswith(_STOCK) and not hasattr(cls, "state_dict"):
        named.append(f"algorithm {cls.__name__}: whatever it keeps that SB3's do not, as it has no state_dict")
    if getattr(model, "use_sde", False):
        named.append("algorithm.params.use_sde: the noise matrices")
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None and type(buffer) not in _BUFFERS:
        named.append(f"replay buffer {type(buffer).__name__}: what it keeps besides transitions")
    venv = _environments(model)
    for index, names in enumerate(venv.env_method("unrestorable")):
        named += names if index == 0 else []
    for layer in _layers(venv):
        named += [f"wrapper {type(layer).__name__}: {name}" for name in capture(layer).missed]
    for callback in callbacks:
        named += [f"callback {type(callback).__name__}: {name}" for name in capture(callback).missed]
    return named


def take(model: BaseAlgorithm, callbacks: Sequence[BaseCallback]) -> dict[str, Any]:
    """Return the whole state of training as plain data; large arrays are those of the live objects."""
    venv = _environments(model)
    return {
        "timesteps": model.num_timesteps,
        "progress": _progress(model),
        "parameters": encode(model.get_parameters()),
        "variables": {name: encode(recursive_getattr(model, name).data) for name in _variables(model)},
        "replay_buffer": _transitions(model),
        "environments": venv.env_method("place"),
        "vec_wrappers": [_of(layer) for layer in _layers(venv)],
        "callbacks": [[*_of(callback), callback.n_calls, callback.num_timesteps] for callback in callbacks],
        "logger": _logger_state(model.logger),
        "generators": _generators(model),
    }


def put_back_before_learning(
    model: BaseAlgorithm, callbacks: Sequence[BaseCallback], kept: dict[str, Any]
) -> list[int]:
    """Put back what ``learn`` reads when it starts, and all that is large.

    :return: the environments that did not come back to where they were
    :raises RunError: if the state is not that of such a run
    """
    with _fitting():
        then, now = [name for name, *_ in kept["callbacks"]], [type(callback).__name__ for callback in callbacks]
        if then != now:
            raise ValueError(f"its callbacks are {', '.join(then[1:])}, and here they are {', '.join(now[1:])}")
        venv = _environments(model)
        put_weights(decode(kept["parameters"]), model)
        for name in _variables(model):
            recursive_getattr(model, name).data.copy_(decode(kept["variables"][name]))
        _put_transitions_back(model, kept["replay_buffer"])
        venv.reset()  # so that wrappers of all environments have what they make when they are reset
        reached = [_replay(venv, index, place) for index, place in enumerate(kept["environments"])]
        for layer, (name, data) in zip(_layers(venv), kept["vec_wrappers"], strict=True):
            _into(layer, name, data)
        attributes_kept = {name: one for name, one in kept["progress"]["attributes"].items() if name != "action_noise"}
        restore_attributes(model, attributes_kept)  # without noise, of which `learn` makes one for each environment
        # the live objects have it now; a replay buffer is not to be in memory twice
        kept.update(parameters=None, replay_buffer=None, environments=None)
        return [index for index, there in enumerate(reached) if not there]


def _replay(venv: VecEnv, index: int, place: dict[str, Any]) -> bool:
    """Bring an environment where it was; say whether it shows what it showed there."""
    try:
        (reached,) = venv.env_method("go_to", place, indices=[index])
    except Exception as error:
        message = f"environment {index} failed while its episode was played again: {describe(error)}"
        raise RunError(message) from error
    return bool(reached)


def put_back_where_taken(model: BaseAlgorithm, callbacks: Sequence[BaseCallback], kept: dict[str, Any]) -> None:
    """Put back the rest, where the first rollout starts: what starting to learn has changed, and what it draws from.

    :raises RunError: if the state is not that of such a run
    """
    with _fitting():
        _put_progress_back(model, kept["progress"])
        for callback, (name, data, n_calls, num_timesteps) in zip(callbacks, kept["callbacks"], strict=True):
            _into(callback, name, data)
            callback.n_calls, callback.num_timesteps = n_calls, num_timesteps
        _put_logger_back(model.logger, kept["logger"])
        _put_generators_back(model, kept["generators"])


@contextmanager
def _fitting() -> Iterator[None]:
    """Say of data that does not fit that it does not."""
    try:
        yield
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        AssertionError,
    ) as error:
        raise RunError(f"the snapshot is not of a run of this config: {error}") from error


def _of(owner: Any) -> list[Any]:
    return [type(owner).__name__, capture(owner).state]


def _into(owner: Any, name: str, data: dict[str, Any]) -> None:
    if name != type(owner).__name__:
        raise ValueError(f"where it has {name} there is {type(owner).__name__}")
    restore(owner, data)


def _environments(model: BaseAlgorithm) -> VecEnv:
    venv = model.get_env()
    if venv is None:
        raise ValueError("the model has no environments")
    return venv


def _layers(venv: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv


def _variables(model: BaseAlgorithm) -> list[str]:
    return model._get_torch_save_params()[1]


def _progress(model: BaseAlgorithm) -> dict[str, Any]:
    skipped = {name for name in vars(model) if name in _NOT_THE_MODELS or "batch_norm_stats" in name}
    skipped |= {name for name, value in vars(model).items() if isinstance(value, torch.Tensor)}
    own = model.state_dict() if hasattr(type(model), "state_dict") else {}  # type: ignore[attr-defined]
    return {
        "attributes": attributes(model, skipped).state,
        "own": encode(own),
        "seconds": (time.time_ns() - model.start_time) / 1e9,
    }


def _put_progress_back(model: BaseAlgorithm, kept: dict[str, Any]) -> None:
    restore_attributes(model, kept["attributes"])
    if hasattr(type(model), "state_dict"):
        model.load_state_dict(decode(kept["own"]))  # type: ignore[attr-defined]
    model.start_time = time.time_ns() - int(kept["seconds"] * 1e9)


def _transitions(model: BaseAlgorithm) -> dict[str, Any] | None:
    """Return what of a replay buffer is filled, with the step after, whose observation may be stored already."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return None
    filled = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)

    def rows(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rows(one) for key, one in value.items()}
        return value[:filled]

    held = {name: rows(value) for name, value in vars(buffer).items() if _is_memory(value, buffer.buffer_size)}
    return {"pos": buffer.pos, "full": buffer.full, "memory": held}


def _is_memory(value: Any, size: int) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(_is_memory(one, size) for one in value.values())
    return isinstance(value, np.ndarray) and value.ndim > 0 and len(value) == size and not value.dtype.hasobject


def _put_transitions_back(model: BaseAlgorithm, kept: dict[str, Any] | None) -> None:
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None or kept is None:
        return

    def fill(memory: Any, rows: Any) -> None:
        if isinstance(rows, dict):
            for key, one in rows.items():
                fill(memory[key], one)
        elif memory.dtype != rows.dtype or memory.shape[1:] != rows.shape[1:]:
            raise ValueError("its transitions have other shapes")
        else:
            memory[: len(rows)] = rows

    for name, rows in kept["memory"].items():
        fill(vars(buffer)[name], rows)
    buffer.pos, buffer.full = kept["pos"], kept["full"]


def _logger_state(logger: Logger) -> dict[str, Any]:
    """Return what was recorded and not yet dumped, and where each output stands."""
    recorded: dict[str, Any] = {}
    for name, value in logger.name_to_value.items():
        try:
            recorded[name] = [
                encode(value),
                logger.name_to_count.get(name),
                list(logger.name_to_excluded.get(name, ())),
            ]
        except NotPlainError:  # a figure, a video: for TensorBoard alone
            continue
    outputs = [_of(output) for output in logger.output_formats if hasattr(type(output), "state_dict")]
    return {"recorded": recorded, "outputs": outputs}


def _put_logger_back(logger: Logger, kept: dict[str, Any]) -> None:
    for recorded in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
        recorded.clear()  # of what callbacks record when training starts
    for name, (value, count, excluded) in kept["recorded"].items():
        logger.name_to_value[name] = decode(value)
        logger.name_to_excluded[name] = tuple(excluded)
        if count is not None:
            logger.name_to_count[name] = count
    outputs = [output for output in logger.output_formats if hasattr(type(output), "state_dict")]
    for output, (name, data) in zip(outputs, kept["outputs"], strict=True):
        _into(output, name, data)


def _generators(model: BaseAlgorithm) -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "python": encode(random.getstate()),
        "numpy": encode(numpy_state),
        "torch": torch.get_rng_state().numpy(),
        "cuda": [one.numpy() for one in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "actions": [state.generator_state(space.np_random) for space in _spaces(model.action_space)],
    }


def _put_generators_back(model: BaseAlgorithm, kept: dict[str, Any]) -> None:
    random.setstate(decode(kept["python"]))
    np.random.set_state(decode(kept["numpy"]))
    torch.set_rng_state(torch.from_numpy(kept["torch"].copy()))
    if kept["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.from_numpy(one.copy()) for one in kept["cuda"]])
    for space, held in zip(_spaces(model.action_space), kept["actions"], strict=True):
        space.np_random.bit_generator.state = decode(held["state"])


def _spaces(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    yield space
    if isinstance(space, gym.spaces.Dict):
        for one in space.spaces.values():
            yield from _spaces(one)
    elif isinstance(space, gym.spaces.Tuple):
        for one in space.spaces:
            yield from _spaces(one)
