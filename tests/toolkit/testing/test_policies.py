"""`check_policy` names the broken promise of a policy."""

from __future__ import annotations

import pytest
import torch
from stable_baselines3.dqn.policies import DQNPolicy

from toolkit.testing import ConformanceError, check_policy


class PlainTensorAttribute(DQNPolicy):
    def set_training_mode(self, mode):
        super().set_training_mode(mode)
        if mode:
            self.updates = getattr(self, "updates", torch.zeros(1)) + 1


class SavesNoTarget(DQNPolicy):
    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if "q_net_target" not in name}


class LosesWidth(DQNPolicy):
    def __init__(self, *args, width=64, **kwargs):
        super().__init__(*args, net_arch=[width], **kwargs)

    def _get_constructor_parameters(self):
        state = super()._get_constructor_parameters()
        return {name: value for name, value in state.items() if name != "net_arch"}


class OneActionForBatch(DQNPolicy):
    def _predict(self, observation, deterministic=True):
        return super()._predict(observation, deterministic)[:1]


class LeavesActionSpace(DQNPolicy):
    def _predict(self, observation, deterministic=True):
        return super()._predict(observation, deterministic) + 7


BROKEN_POLICIES: list[tuple[type[DQNPolicy], str]] = [
    (PlainTensorAttribute, r"policy.save and PlainTensorAttribute.load lose updates; add"),
    (SavesNoTarget, r"loading the weights of model.zip into a fresh model raised .*keep what is learned in"),
    (LosesWidth, r"policy.save and LosesWidth.load raised .*_get_constructor_parameters"),
    (OneActionForBatch, r"predict returned .* for 4 observations; return one action of Discrete\(2\) for each"),
    (LeavesActionSpace, r"training failed: .*correct what was raised"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "message"), BROKEN_POLICIES, ids=lambda part: getattr(part, "__name__", ""))
def test_broken_policy_is_reported_with_advice(policy: type[DQNPolicy], message: str) -> None:
    params = {"width": 16} if policy is LosesWidth else {}
    with pytest.raises(ConformanceError, match=f"(?s){policy.__name__}.*{message}"):
        check_policy(policy, params=params)
