"""`check_wrapper` checks that parameters which a wrapper calls changeable really change."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import VectorWrapper

from toolkit.testing import ConformanceError, check_wrapper


class Bonus(gym.Wrapper):
    """Keeps its promises. The others break one each."""

    changeable_params: tuple[str, ...] = ("bonus",)

    def __init__(self, env, bonus: float = 1.0):
        super().__init__(env)
        self.bonus = bonus

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) + self.give(), *rest

    def give(self):
        return self.bonus


class Undeclared(Bonus):
    changeable_params = ()


class ListsOther(Bonus):
    changeable_params = ("bonuses",)


class Derives(Bonus):
    def __init__(self, env, bonus: float = 1.0):
        super().__init__(env, bonus)
        self.half = bonus / 2

    def give(self):
        return self.half


class Derived(Derives):
    def set_bonus(self, bonus):
        self.half = bonus / 2


class Remembers(Bonus):
    def __init__(self, env, bonus: float = 1.0):
        super().__init__(env, bonus)
        self.first = bonus

    def give(self):
        return max(self.first, self.bonus)


class VectorBonus(VectorWrapper):
    changeable_params = ("bonus",)

    def __init__(self, env, bonus: float = 1.0):
        super().__init__(env)
        self.bonus = bonus

    def step(self, actions):
        observations, rewards, *rest = self.env.step(actions)
        return observations, rewards + self.bonus, *rest


class VectorOfFirst(VectorBonus):
    def step(self, actions):
        observations, rewards, *rest = self.env.step(actions)
        return observations, rewards + (self.bonus if isinstance(self.bonus, float) else self.bonus[0]), *rest


class InBatches(Bonus):
    vector_form = VectorBonus


class InEqualBatches(Bonus):
    vector_form = VectorOfFirst


LINEAR = {"bonus": {"name": "linear", "params": {"start": 1.0, "end": 5.0}}}


@pytest.mark.parametrize(
    ("wrapper", "params"), [(Bonus, {}), (Bonus, {"bonus": 0}), (Bonus, LINEAR), (Derived, {}), (InBatches, {})]
)
def test_wrapper_whose_parameter_changes_passes(wrapper: type[gym.Wrapper], params: dict[str, Any]) -> None:
    check_wrapper(wrapper, params=params)


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (ListsOther, "lists 'bonuses', which is no parameter of its constructor"),
        (Derives, r"starts after bonus changes to 2.0 is not that of a wrapper built so: .*define set_bonus\(value\)"),
        (Remembers, r"starts after bonus changes to 0.5 is not that of a wrapper built so"),
        (InEqualBatches, "differs from InEqualBatches with env.wrappers.0.params.bonus changed in one environment"),
    ],
)
def test_broken_parameter_is_reported_with_advice(wrapper: type[gym.Wrapper], message: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){wrapper.__name__}.*{message}"):
        check_wrapper(wrapper)


def test_undeclared_parameter_with_schedule_is_refused() -> None:
    with pytest.raises(
        Exception, match=r"bonus: cannot change between episodes: Undeclared lets these change: nothing"
    ):
        check_wrapper(Undeclared, params=LINEAR)
