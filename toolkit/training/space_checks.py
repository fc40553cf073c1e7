"""What a policy makes of its spaces against the user's intention: warnings, once the model is built."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor

from toolkit.config.load import ResolvedConfig
from toolkit.utils.errors import Problem
from toolkit.utils.log import log_problems

_SMALLEST_IMAGE = 36  # pixels, of SB3's NatureCNN
_REACH = 10.0  # a policy with a deviation of 1 never gets so far from 0


def log_space_warnings(config: ResolvedConfig, model: BaseAlgorithm) -> None:
    """Log, each in one line, that images are flattened, or that actions are far from where a policy starts."""
    problems = [*_find_flattened_images(config, model), *_find_distant_actions(config, model)]
    log_problems(config.make_error(problems))


def _find_flattened_images(config: ResolvedConfig, model: BaseAlgorithm) -> Iterator[Problem]:
    extractor = getattr(model.policy, "features_extractor_class", None)
    space = model.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if extractor not in (FlattenExtractor, CombinedExtractor) or not _holds_images(part):
            continue
        if extractor is CombinedExtractor and is_image_space(part):
            continue
        place = f" of {key!r}" if key else ""
        size = f"{int(np.prod(part.shape or ())):,}"
        message = f"'{config.algorithm.policy}' takes images{place} of shape {part.shape} as {size} numbers in a row"
        hint = "choose CnnPolicy" if extractor is FlattenExtractor else "its images need three dimensions"
        if len(part.shape or ()) > 3:
            hint = "stack frames by vec_frame_stack, in env.vec_wrappers, for images of three dimensions and CnnPolicy"
        yield Problem(("algorithm", "policy"), message, hint)


def _holds_images(space: spaces.Space[object]) -> bool:
    """Return whether a space has arrays that SB3's networks for images could take, or stacks of them."""
    sizes = sorted(space.shape or ())
    return (
        isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(sizes) > 2 and sizes[-2] >= _SMALLEST_IMAGE
    )


def _find_distant_actions(config: ResolvedConfig, model: BaseAlgorithm) -> Iterator[Problem]:
    space = model.action_space
    is_normal = isinstance(model, OnPolicyAlgorithm) and not model.policy.squash_output
    if not isinstance(space, spaces.Box) or not is_normal or "log_std_init" in config.algorithm.policy_params:
        return
    low, high = float(space.low.min()), float(space.high.max())
    if max(-low, high) > _REACH or (space.low > 0).any() or (space.high < 0).any():
        message = (
            f"'{config.env.name}' takes actions from {low:g} to {high:g}, and those of '{config.algorithm.name}' start"
            " near 0, with a deviation of 1"
        )
        hint = "add the wrapper gymnasium.wrappers:RescaleAction with min_action: -1 and max_action: 1"
        yield Problem(("env",), message, hint)
