"""What a model estimates that observations are worth, for SB3's kinds of policies."""

from __future__ import annotations

import inspect
import logging
import math
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.value_trace import ValueTrace

_log = logging.getLogger("toolkit")
_MIN_INTERVAL = 500  # timesteps from one estimate to the next: it takes as long as one or two of them
_MAX_ESTIMATES = 1_000  # in a run
_MIN_VECTOR_STEPS = 20  # from one estimate to the next, with very many environments


class ValueEstimates(NamedTuple):
    """Estimated values of observations, of shape (batch,).

    :param noun: what they are called
    """

    noun: str
    values: NDArray[np.float64]


def estimate_values(model: BaseAlgorithm, observations: Any) -> ValueEstimates | None:
    """Estimate the values of observations under the model's policy; greedy ones if it has Q-values.

    The policy is in evaluation mode then.

    :param observations: a batch as the model's environments return it
    :return: ``None`` if the policy has no value estimates, or they need more than observations, as those of an LSTM do
    """
    policy: Any = model.policy
    policy.set_training_mode(False)
    with th.no_grad():
        batch, _ = policy.obs_to_tensor(observations)
        if hasattr(policy, "predict_values"):
            if len(inspect.signature(policy.predict_values).parameters) > 1:
                return None
            return ValueEstimates("value estimates", _average(policy.predict_values(batch)))
        if hasattr(policy, "quantile_net"):
            return ValueEstimates("Q-values", _to_array(policy.quantile_net(batch).mean(1).amax(1)))
        if hasattr(policy, "q_net"):
            return ValueEstimates("Q-values", _to_array(policy.q_net(batch).amax(1)))
        if getattr(policy, "critic", None) is not None:
            values = policy.critic(batch, policy._predict(batch, deterministic=True))
            return ValueEstimates("Q-values", _average(th.cat(values, 1) if isinstance(values, tuple) else values))
    return None


def trace_values(env: EpisodeRecorder, model: BaseAlgorithm, timesteps: int) -> None:
    """Let environments compare value estimates with the discounted rewards that follow; training stays the same.

    :param timesteps: those that the config asks for
    """
    gamma: float | None = getattr(model, "gamma", None)
    if gamma is None:
        return
    interval = max(_MIN_INTERVAL, timesteps // _MAX_ESTIMATES) // env.num_envs
    env.value_trace = ValueTrace(_ValueEstimator(model), gamma, env.num_envs, max(_MIN_VECTOR_STEPS, interval))


class _ValueEstimator:
    """Estimate the value of one observation while a model collects experience, until that fails once."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self._model = model
        self._is_possible = True

    def __call__(self, observation: VecEnvObs) -> float | None:
        # a policy in training mode could learn from the observation, as batch normalization does
        if not self._is_possible or self._model.policy.training:
            return None
        state = th.get_rng_state()  # the layers of others can draw noise
        try:
            estimates = estimate_values(self._model, observation)
        except Exception:  # a policy of others may compute in any way
            _log.debug("no value estimates", exc_info=True)
            estimates = None
        finally:
            th.set_rng_state(state)
        self._is_possible = estimates is not None
        return None if estimates is None else float(estimates.values[0])


def bound_values(model: BaseAlgorithm, largest_reward: float) -> float:
    """Return the largest absolute value that rewards can add up to, discounted.

    Algorithms with a target entropy, such as SAC, pay for entropy too, by their present coefficient.

    :param largest_reward: the largest absolute reward
    :return: infinity if ``gamma`` is 1
    """
    gamma: float = getattr(model, "gamma", 1.0)
    bonus = 0.0
    if isinstance(entropy := getattr(model, "target_entropy", None), float | np.floating):
        log_coefficient = getattr(model, "log_ent_coef", None)
        coefficient = model.ent_coef_tensor if log_coefficient is None else log_coefficient.detach().exp()  # type: ignore[attr-defined]
        bonus = abs(float(entropy)) * coefficient.item()
    return (largest_reward + bonus) / (1 - gamma) if gamma < 1 else math.inf


def _average(values: th.Tensor) -> NDArray[np.float64]:
    return _to_array(values.flatten(1).mean(1))


def _to_array(values: th.Tensor) -> NDArray[np.float64]:
    return values.cpu().numpy().astype(np.float64)
