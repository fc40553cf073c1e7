"""What chance has left behind: the state of every generator that training draws from, and of noise already drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

from toolkit.snapshots.capture import encode_value
from toolkit.snapshots.plain_data import checked_position, made, turned
from toolkit.snapshots.restore import decode


def generators(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the state of all generators, and the exploration matrices of gSDE, as plain data."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "python": encode_value(random.getstate()),
        "numpy": encode_value(numpy_state),
        "torch": torch.get_rng_state().numpy(),
        "cuda": [one.numpy() for one in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "actions": [turned(space.np_random) for space in _spaces(model.action_space)],
        "exploration": [[*map(turned, _matrices(noise))] for noise in _noises(model)],
    }


def put_generators_back(model: BaseAlgorithm, kept: dict[str, Any]) -> None:
    """Put back what :func:`generators` returned.

    :raises ValueError: if it does not fit; also another of :data:`toolkit.snapshots.restore.MISFITS`
    """
    random.setstate(decode(kept["python"]))
    np.random.set_state(checked_position(decode(kept["numpy"])))
    torch.set_rng_state(torch.from_numpy(kept["torch"].copy()))
    if kept["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.from_numpy(one.copy()) for one in kept["cuda"]])
    for space, held in zip(_spaces(model.action_space), kept["actions"], strict=True):
        made(held, space.np_random)
    for noise, matrices in zip(_noises(model), kept["exploration"], strict=True):
        _put_matrices_back(noise, matrices)


def _put_matrices_back(noise: StateDependentNoiseDistribution, kept: list[dict[str, Any]]) -> None:
    one, several = (made(held, present) for held, present in zip(kept, _matrices(noise), strict=True))
    if [one.shape, several.shape] != [matrix.shape for matrix in _matrices(noise)]:
        raise ValueError("its exploration matrices have other shapes")
    noise.exploration_mat, noise.exploration_matrices = one, several


def _matrices(noise: StateDependentNoiseDistribution) -> tuple[torch.Tensor, torch.Tensor]:
    return noise.exploration_mat, noise.exploration_matrices


def _noises(model: BaseAlgorithm) -> Iterator[StateDependentNoiseDistribution]:
    for module in model.policy.modules():
        if isinstance(noise := getattr(module, "action_dist", None), StateDependentNoiseDistribution):
            yield noise


def _spaces(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    yield space
    if isinstance(space, gym.spaces.Dict):
        for one in space.spaces.values():
            yield from _spaces(one)
    elif isinstance(space, gym.spaces.Tuple):
        for one in space.spaces:
            yield from _spaces(one)
