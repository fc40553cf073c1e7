"""Runs whose training has changed nothing: whether it did, and why."""

from __future__ import annotations

import hashlib

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit


def hash_weights(model: BaseAlgorithm) -> str:
    """Return a hash of the weights of a model's policy; it is empty if the policy has none."""
    digest = hashlib.sha256()
    parameters = [*model.policy.parameters()]
    for parameter in parameters:
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() if parameters else ""


def explain_no_update(model: BaseAlgorithm, first_weights: str) -> str | None:
    """Explain in one line why training has not changed the policy.

    :param first_weights: :func:`hash_weights` where training started
    :return: ``None`` if the policy has changed, or has no weights
    """
    if not first_weights or hash_weights(model) != first_weights:
        return None
    return _find_reason(model) or "the weights are those before training"


def _find_reason(model: BaseAlgorithm) -> str:
    timesteps = model.num_timesteps
    if isinstance(model, OffPolicyAlgorithm):
        reason = _find_off_policy_reason(model)
    elif isinstance(model, OnPolicyAlgorithm) and timesteps < model.n_steps * model.n_envs:
        size = model.n_steps * model.n_envs
        reason = f"training ended at timestep {timesteps:,}, within the first rollout of {size:,}"
    else:
        reason = ""
    zeros = [name for name in ("learning_rate", "max_grad_norm") if getattr(model, name, None) == 0]
    return reason or (f"{zeros[0]} is 0" if zeros else "")


def _find_off_policy_reason(model: OffPolicyAlgorithm) -> str:
    timesteps, train_freq, buffer = model.num_timesteps, model.train_freq, model.replay_buffer
    if timesteps <= model.learning_starts:
        return f"training ended at timestep {timesteps:,}, and learning_starts is {model.learning_starts:,}"
    if model.gradient_steps == 0:
        return "gradient_steps is 0"
    if isinstance(train_freq, TrainFreq) and train_freq.unit is TrainFrequencyUnit.STEP:
        size = train_freq.frequency * model.n_envs
        if timesteps < size:
            return f"training ended at timestep {timesteps:,}, within the first rollout of {size:,} (train_freq)"
    if not getattr(model, "sample_with_replacement", True) and buffer is not None:
        n_stored = buffer.size()
        if n_stored < model.batch_size:
            return f"without replacement, updates need {model.batch_size:,} stored vector steps, not {n_stored:,}"
    return ""
