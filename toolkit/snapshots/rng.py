"""The state of every random generator that training draws from, and of the noise of gSDE."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

from toolkit.snapshots.plain_data import check_bit_generator_state, decode, encode, encode_value, is_equal
from toolkit.snapshots.restore import restore_value
from toolkit.utils.seeds import derive_generator_seeds


class GeneratorStates(NamedTuple):
    """The states of Python's, NumPy's and torch's global generators; GPUs have their own."""

    python: Any
    numpy: Any
    torch: torch.Tensor


def get_generator_states() -> GeneratorStates:
    """Return the present states of the global generators."""
    return GeneratorStates(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state())


def set_generator_states(states: GeneratorStates) -> None:
    """Restore what :func:`get_generator_states` returned."""
    random.setstate(states.python)
    np.random.set_state(check_bit_generator_state(states.numpy))
    torch.set_rng_state(states.torch)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the states of the global generators at the end."""
    states = get_generator_states()
    try:
        yield
    finally:
        set_generator_states(states)


@contextmanager
def preserve_model_generators(model: BaseAlgorithm) -> Iterator[None]:
    """Restore, at the end, what a policy draws actions from beside the global generators: its space, and the GPU.

    In the block they follow from NumPy's global generator.
    """
    generators = [(space, space._np_random) for space in _iterate_spaces(model.action_space)]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        seed = int(np.random.randint(2**30))
        model.action_space.seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            for space, generator in generators:
                space._np_random = generator


def find_drawn_generators(before: GeneratorStates, after: GeneratorStates) -> list[str]:
    """Name the global generators that have been drawn from."""
    is_drawn = {
        "Python": before.python != after.python,
        "NumPy": not is_equal(before.numpy, after.numpy),
        "torch": not torch.equal(before.torch, after.torch),
    }
    return [name for name, drawn in is_drawn.items() if drawn]


def encode_generator_states(states: GeneratorStates) -> dict[str, Any]:
    """Return the states of the global generators as plain data."""
    return {
        "python": encode_value(states.python),
        "numpy": encode_value(states.numpy),
        "torch": states.torch.numpy(),
    }


def decode_generator_states(data: dict[str, Any]) -> GeneratorStates:
    """Return what :func:`encode_generator_states` encoded.

    :raises ValueError: if it is something else
    """
    return GeneratorStates(
        restore_value(data["python"]), restore_value(data["numpy"]), torch.from_numpy(data["torch"].copy())
    )


def seed_global_generators(seed: int, index: int = 0) -> None:
    """Seed Python's, NumPy's and torch's global generators for environments that draw from them; not those of GPUs.

    :param seed: seed of the environments
    :param index: number of the environment that is alone in this process
    """
    python_seed, numpy_seed, torch_seed = derive_generator_seeds(seed, index)
    random.seed(python_seed)
    np.random.seed(numpy_seed)
    torch.default_generator.manual_seed(torch_seed)


def capture_rng_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the state of all generators, and the exploration matrices of gSDE, as plain data."""
    return {
        **encode_generator_states(get_generator_states()),
        "cuda": [state.numpy() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "actions": [encode(space.np_random) for space in _iterate_spaces(model.action_space)],
        "exploration": [
            [*map(encode, _get_exploration_matrices(noise))] for noise in _iterate_noise_distributions(model)
        ],
    }


def restore_rng_state(model: BaseAlgorithm, saved_state: dict[str, Any]) -> None:
    """Restore what :func:`capture_rng_state` returned.

    :raises ValueError: if it does not fit; also another of :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    set_generator_states(decode_generator_states(saved_state))
    if saved_state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.from_numpy(state.copy()) for state in saved_state["cuda"]])
    for space, data in zip(_iterate_spaces(model.action_space), saved_state["actions"], strict=True):
        decode(data, space.np_random)
    for noise, matrices in zip(_iterate_noise_distributions(model), saved_state["exploration"], strict=True):
        _restore_exploration_matrices(noise, matrices)


def _restore_exploration_matrices(noise: StateDependentNoiseDistribution, saved_matrices: list[Any]) -> None:
    current = _get_exploration_matrices(noise)
    matrix, matrices = (decode(*pair) for pair in zip(saved_matrices, current, strict=True))
    if (matrix.shape, matrices.shape) != tuple(tensor.shape for tensor in current):
        raise ValueError("its exploration matrices have other shapes")
    noise.exploration_mat, noise.exploration_matrices = matrix, matrices


def _get_exploration_matrices(noise: StateDependentNoiseDistribution) -> tuple[torch.Tensor, torch.Tensor]:
    return noise.exploration_mat, noise.exploration_matrices


def _iterate_noise_distributions(model: BaseAlgorithm) -> Iterator[StateDependentNoiseDistribution]:
    for module in model.policy.modules():
        if isinstance(noise := getattr(module, "action_dist", None), StateDependentNoiseDistribution):
            yield noise


def _iterate_spaces(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    yield space
    if isinstance(space, gym.spaces.Dict):
        for subspace in space.spaces.values():
            yield from _iterate_spaces(subspace)
    elif isinstance(space, gym.spaces.Tuple):
        for subspace in space.spaces:
            yield from _iterate_spaces(subspace)
