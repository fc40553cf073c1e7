"""`check_wrapper` compares a wrapper's `vector_form` with the wrapper itself."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorWrapper

from toolkit.testing import ConformanceError, check_wrapper


class Shaped(gym.Wrapper):
    """Adds the number of the step to the reward, and says in `info` whether the pole fell."""

    def reset(self, **kwargs):
        self.number = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.number += 1
        info = {**info, "pole": {"has_fallen": terminated, "text": "fell" if terminated else "stands"}}
        return observation, float(reward) + self.number, terminated, truncated, info


class VectorShaped(VectorWrapper):
    """The correct form. The others differ in one thing each."""

    def reset(self, *, seed=None, options=None):
        if not hasattr(self, "numbers"):
            self.numbers = np.zeros(self.num_envs)
        self.numbers[(options or {}).get("reset_mask", slice(None))] = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, actions):
        observations, rewards, terminations, truncations, info = self.env.step(actions)
        self.numbers += 1
        texts = np.array(["fell" if fell else "stands" for fell in terminations], object)
        pole = {"has_fallen": terminations.copy(), "text": texts}
        return self.change(observations, rewards + self.numbers, terminations, truncations, {**info, "pole": pole})

    def change(self, *step: Any) -> Any:
        return step


class KeepsNumbers(VectorShaped):
    def reset(self, *, seed=None, options=None):
        numbers = self.numbers.copy() if hasattr(self, "numbers") else 0
        result = super().reset(seed=seed, options=options)
        self.numbers += numbers
        return result


class ChangesObservations(VectorShaped):
    def change(self, observations, *rest):
        return observations * np.float32(2), *rest


class NeverTerminates(VectorShaped):
    def change(self, observations, rewards, terminations, *rest):
        return observations, rewards, np.zeros_like(terminations), *rest


class TruncatesToo(VectorShaped):
    def change(self, observations, rewards, terminations, truncations, info):
        return observations, rewards, terminations, truncations | terminations, info


class InvertsInfo(VectorShaped):
    def change(self, observations, rewards, terminations, truncations, info):
        info["pole"]["has_fallen"] = ~terminations
        return observations, rewards, terminations, truncations, info


class OmitsInfo(VectorShaped):
    def change(self, *step):
        return *step[:4], {}


class OmitsSuper(VectorShaped):
    def __init__(self, env):
        pass


def test_correct_vector_form_passes() -> None:
    check_wrapper(type("Wrapper", (Shaped,), {"vector_form": VectorShaped}))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            KeepsNumbers,
            r"Wrapper\.vector_form differs from Wrapper in the reward of step \d+: .* for each environment",
        ),
        (ChangesObservations, "differs from Wrapper in the observation of step 1: "),
        (NeverTerminates, r"differs from Wrapper in the terminated of step \d+: True .*False"),
        (TruncatesToo, r"differs from Wrapper in the truncated of step \d+: False .*True"),
        (InvertsInfo, r"in the info of step 1: .*'has_fallen': 0\.0.*'has_fallen': 1\.0"),
        (OmitsInfo, r"in the info of step 1: .*'has_fallen'.* and \{\} of type dict"),
        (OmitsSuper, r"Wrapper\.vector_form raised AttributeError"),
        (Shaped, r"Wrapper\.vector_form is <class .*Shaped'>; name a subclass of gymnasium\.vector\.VectorWrapper"),
        (3, r"Wrapper\.vector_form is 3; name a subclass"),
    ],
)
def test_vector_form_that_differs_is_refused(form: Any, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_wrapper(type("Wrapper", (Shaped,), {"vector_form": form}))
