"""The state of every random generator that training draws from, and of the noise of gSDE."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

from toolkit.snapshots.plain_data import check_bit_generator_state, decode, encode, encode_value
from toolkit.snapshots.restore import restore_value
from toolkit.utils.seeds import derive_generator_seeds


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
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "python": encode_value(random.getstate()),
        "numpy": encode_value(numpy_state),
        "torch": torch.get_rng_state().numpy(),
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
    random.setstate(restore_value(saved_state["python"]))
    np.random.set_state(check_bit_generator_state(restore_value(saved_state["numpy"])))
    torch.set_rng_state(torch.from_numpy(saved_state["torch"].copy()))
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
