"""Why training cannot be learning: noticed from what it did, without a change to it.

A run that meets its success criterion is told only that no update was made. For other runs, these are the signs. None
of their thresholds depends on the environment.

No update
    The weights are exactly those before training.
Divergence
    Weights or value estimates are not finite, or the estimates are on average more than 3 times the largest value that
    rewards can add up to: the largest absolute reward / (1 - gamma). Three times leaves room for overestimates that
    training corrects.
No reward
    All rewards of at least 20,000 timesteps are 0.
One action
    The greedy policy takes the same action in at least 99 % of the last 10,000 steps. Exploration takes it too, in a
    share of ``epsilon / n``, which is subtracted. Actions that are not ``Discrete`` are the greedy ones for up to 64
    observations of these steps: each component stays within 1 % of its range.

    Early training may look like that, so a run has at least 20,000 timesteps, and its returns are poor: the last
    episodes are no better than the first ones, or, with a success criterion, they have covered less than a
    quarter of the way to its threshold. So an environment where one action is right raises no alarm. Each group is a
    tenth of all episodes, at least 3 and at most 100.
Wrong values
    The value estimates of these observations differ from the discounted rewards that followed, as the algorithm
    sees them, by more than two thirds of the larger of both. Three standard errors of the difference are subtracted,
    and all that rewards could have added after a time limit. This is said only beside one action, because estimates
    start near 0.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from toolkit.envs.episodes import EpisodeLog, EpisodeRecorder
from toolkit.envs.recent_steps import RecentSteps
from toolkit.training.callbacks import SuccessCriterion
from toolkit.training.value_estimates import bound_values, estimate_values
from toolkit.utils.data import DEFAULT_WINDOW, compute_mean
from toolkit.utils.text import format_number

_log = logging.getLogger("toolkit")
_WINDOW = 10_000  # steps
_MIN_VECTOR_STEPS = 100  # in a window, with very many environments
_MIN_WINDOWS = 2  # in a run
_MIN_EPISODES = 3
_MIN_SAMPLES = 16
_MIN_PROGRESS = 0.25
_MIN_SHARE = 0.99
_MAX_SPREAD = 0.01
_MAX_EXCESS = 3.0
_MAX_DIFFERENCE = 2 / 3
_MAX_DISCOUNT = 0.1  # of what came after a sample's last step, if its episode goes on
_MAX_EPSILON = 0.5
_EXPLORE = "try more exploration or another learning rate"


class _Sign(NamedTuple):
    """A sign that training cannot be learning.

    :param text: what was noticed
    :param advice: what to try
    """

    text: str
    advice: str
    is_divergence: bool = False


def keep_recent_steps(env: EpisodeRecorder) -> None:
    """Let environments keep the steps that a diagnosis at the end of training needs."""
    n_steps = max(_WINDOW, _MIN_VECTOR_STEPS * env.num_envs)
    env.recent_steps = RecentSteps(env.observation_space, env.action_space, env.num_envs, n_steps)


def hash_weights(model: BaseAlgorithm) -> str:
    """Return a hash of the weights of a model's policy; it is empty if the policy has none."""
    digest = hashlib.sha256()
    parameters = [*model.policy.parameters()]
    for parameter in parameters:
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() if parameters else ""


def diagnose_training(
    model: BaseAlgorithm, env: EpisodeRecorder, timesteps: int, first_weights: str, criterion: SuccessCriterion | None
) -> str | None:
    """Say in one line why training that has ended did not learn, and what to try.

    Call it when the model is saved: it changes the policy's mode.

    :param timesteps: those that the config asks for
    :param first_weights: :func:`hash_weights` where training started
    :return: ``None`` without such a sign
    """
    if text := explain_no_update(model, timesteps, first_weights):
        return text
    if criterion is not None and criterion.success is not None:
        return None
    try:
        signs = [*_find_signs(model, env, criterion)]
    except Exception:  # an algorithm or a policy of others may compute in any way
        _log.debug("no diagnosis of training", exc_info=True)
        return None
    if not signs:
        return None
    verdict = "training diverged" if any(sign.is_divergence for sign in signs) else "training did not learn"
    return f"{verdict}: {'; '.join(sign.text for sign in signs)}: {signs[-1].advice}"


class HalfTimeCheck(BaseCallback):
    """Warn when half of the timesteps are over, and the weights are those before training or not finite.

    It has no state: a resumed run warns again.

    :param timesteps: those that the config asks for
    :param first_weights: :func:`hash_weights` where training started
    """

    def __init__(self, timesteps: int, first_weights: str) -> None:
        super().__init__()
        self._timesteps = timesteps
        self._first_weights = first_weights
        self._is_done = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        n = self.model.num_timesteps
        if self._is_done or 2 * n < self._timesteps:
            return
        self._is_done = True
        text = explain_no_update(self.model, self._timesteps, self._first_weights)
        if text is None and (sign := _find_infinite_weights(self.model)):
            text = f"{sign.text} after {n:,} of {self._timesteps:,} timesteps: {sign.advice}"
        if text is not None:
            _log.warning("%s", text)


def explain_no_update(model: BaseAlgorithm, timesteps: int, first_weights: str) -> str | None:
    """Say in one line that training has not changed the policy, why, and what to try.

    :param timesteps: those that the config asks for
    :param first_weights: :func:`hash_weights` where training started
    :return: ``None`` if the policy has changed, or has no weights
    """
    if not first_weights or hash_weights(model) != first_weights:
        return None
    n = model.num_timesteps
    period = f"{n:,} timesteps" if n >= timesteps else f"{n:,} of {timesteps:,} timesteps"
    if reason := _find_obstacle(model):
        return f"no update was made in {period}, because {reason}"
    zeros = [name for name in ("learning_rate", "max_grad_norm") if getattr(model, name, None) == 0]
    reason = f", because {zeros[0]} is 0: set it above 0" if zeros else ""
    return f"no update changed a weight in {period}{reason}"


def _find_obstacle(model: BaseAlgorithm) -> str | None:
    """Return why no update was made so far, and what to try."""
    if isinstance(model, OffPolicyAlgorithm):
        return _find_off_policy_obstacle(model)
    if isinstance(model, OnPolicyAlgorithm) and model.num_timesteps < model.n_steps * model.n_envs:
        size = model.n_steps * model.n_envs
        return f"the first rollout has {size:,}: lower n_steps, or increase timesteps"
    return None


def _find_off_policy_obstacle(model: OffPolicyAlgorithm) -> str | None:
    timesteps, train_freq, buffer = model.num_timesteps, model.train_freq, model.replay_buffer
    if timesteps <= model.learning_starts:
        return f"learning_starts is {model.learning_starts:,}: lower it, or increase timesteps"
    if model.gradient_steps == 0:
        return "gradient_steps is 0: set it above 0"
    if isinstance(train_freq, TrainFreq) and train_freq.unit is TrainFrequencyUnit.STEP:
        size = train_freq.frequency * model.n_envs
        if timesteps < size:
            return f"the first rollout has {size:,}: lower train_freq, or increase timesteps"
    if not getattr(model, "sample_with_replacement", True) and buffer is not None:
        n_stored = buffer.size()
        if n_stored < model.batch_size:
            text = f"without replacement, updates need {model.batch_size:,} stored vector steps, not {n_stored:,}"
            return f"{text}: lower batch_size, or increase timesteps"
    return None


def _find_signs(model: BaseAlgorithm, env: EpisodeRecorder, criterion: SuccessCriterion | None) -> Iterator[_Sign]:
    """Find signs, the one with the best advice last."""
    if sign := _find_infinite_weights(model):
        yield sign
        return
    steps = env.recent_steps
    if steps is None:
        return
    is_long = model.num_timesteps >= _MIN_WINDOWS * steps.n_steps and steps.is_full
    signs = [*_find_constant_action(model, steps)] if is_long and _are_returns_poor(env.episodes, criterion) else []
    yield from signs
    if steps.largest_reward > 0:
        yield from _find_wrong_values(model, steps, must_match=bool(signs))
    elif is_long:
        yield _Sign("every reward was 0", "try more exploration, or rewards on the way to the goal")


def _find_infinite_weights(model: BaseAlgorithm) -> _Sign | None:
    if all(torch.isfinite(parameter).all() for parameter in model.policy.parameters()):
        return None
    return _Sign("the weights are not finite numbers", _advise_against_divergence(model), is_divergence=True)


def _advise_against_divergence(model: BaseAlgorithm) -> str:
    measures = ["a lower learning rate"]
    if hasattr(model, "target_update_interval") or hasattr(model, "tau"):
        measures.insert(0, "slower target updates")
    if getattr(model, "max_grad_norm", 0) == math.inf:
        measures.append("a finite max_grad_norm")
    return f"try {' or '.join([', '.join(measures[:-1]), measures[-1]])}" if measures[1:] else f"try {measures[0]}"


def _are_returns_poor(episodes: EpisodeLog, criterion: SuccessCriterion | None) -> bool:
    n = min(DEFAULT_WINDOW, len(episodes) // 10)
    if n < _MIN_EPISODES:
        return False
    first, last = (compute_mean([episode.raw_return for episode in group]) for group in (episodes[:n], episodes[-n:]))
    has_goal = criterion is not None and criterion.measure == "mean_return"
    goal = criterion.threshold if criterion is not None and has_goal else first
    return last <= first or last - first < _MIN_PROGRESS * (goal - first)


def _find_constant_action(model: BaseAlgorithm, steps: RecentSteps) -> Iterator[_Sign]:
    if counts := steps.count_actions():
        action = max(counts, key=lambda key: counts[key])
        share = counts[action] / sum(counts.values())
        epsilon: float = getattr(model, "exploration_rate", 0.0)
        if epsilon > _MAX_EPSILON:
            return
        n_actions = int(model.action_space.n)  # type: ignore[attr-defined]  # actions are counted if it is Discrete
        if (share - epsilon / n_actions) / (1 - epsilon) >= _MIN_SHARE:
            text = f"the agent takes action {action} in {100 * share:.3g} % of the last {steps.n_steps:,} steps"
            yield _Sign(text, _EXPLORE)
        return
    actions, state = model.predict(steps.observations, deterministic=True)
    if state is None and len(actions) >= _MIN_SAMPLES and _compute_spread(actions, model.action_space) <= _MAX_SPREAD:
        text = f"the greedy action is the same for {len(actions)} observations of the last {steps.n_steps:,} steps"
        yield _Sign(text, _EXPLORE)


def _compute_spread(actions: NDArray[Any], space: gym.Space[Any]) -> float:
    """Return how far actions (batch, ...) are apart at most in a component, as a share of its range."""
    widths = np.ptp(actions.astype(np.float64), axis=0)
    if not isinstance(space, gym.spaces.Box):
        return float(widths.max())
    ranges = np.where(space.bounded_below & space.bounded_above, space.high - space.low, np.abs(actions).max(axis=0))
    return float((widths / np.maximum(ranges, np.finfo(np.float64).tiny)).max())


def _find_wrong_values(model: BaseAlgorithm, steps: RecentSteps, must_match: bool) -> Iterator[_Sign]:
    """Find value estimates that are impossible, or, if they must match, other than the rewards that followed."""
    gamma: float | None = getattr(model, "gamma", None)
    returns = [] if gamma is None else steps.sample_returns(gamma)
    if gamma is None or len(returns) < _MIN_SAMPLES or not (estimates := estimate_values(model, steps.observations)):
        return
    # all rewards of a replay buffer are normalized as the last ones
    reward = steps.largest_reward if model.get_vec_normalize_env() is None else steps.largest_recent_reward
    values, bound = estimates.values, bound_values(model, reward)
    is_finite = bool(np.isfinite(values).all())
    if not is_finite or np.abs(values).mean() > _MAX_EXCESS * bound:
        size = f"near {_format(values.mean())}" if is_finite else "not finite numbers"
        limit = f"rewards up to {_format(reward)} cannot add up to more than {_format(bound)} with gamma {gamma:g}"
        advice = _advise_against_divergence(model)
        yield _Sign(f"{estimates.noun} are {size}, but {limit}", advice, is_divergence=True)
        return
    known = [index for index, item in enumerate(returns) if item.has_ended or item.discount <= _MAX_DISCOUNT]
    if not must_match or len(known) < _MIN_SAMPLES:
        return
    earned = np.array([returns[index].value for index in known])
    discount = compute_mean([returns[index].discount for index in known])
    unknown = bound * discount if discount else 0.0
    differences = values[known] - earned
    excess = abs(differences.mean()) - unknown - 3 * differences.std() / math.sqrt(len(known))
    value, mean = values[known].mean(), earned.mean()
    if excess > _MAX_DIFFERENCE * max(abs(value), abs(mean)):
        text = f"{estimates.noun} are near {_format(value)} while discounted returns are near {_format(mean)}"
        yield _Sign(
            text,
            "try a higher learning rate or more updates"
            if abs(value) < abs(mean)
            else _advise_against_divergence(model),
        )


def _format(value: float) -> str:
    return format_number(value, 1 if abs(value) < 100 else 0, ",").removesuffix(".0")
