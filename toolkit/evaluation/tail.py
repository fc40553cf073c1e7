"""Steps after an episode's end, for the eye alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete

from toolkit.utils.errors import RunError, describe_error

MAX_TAIL = 1000  # steps; a recorder keeps as many frames in memory


def check_tail(tail: int) -> int:
    """Return the number of steps, if it is one that can be asked for.

    :raises ValueError: if it is negative or above ``MAX_TAIL``
    """
    if not 0 <= tail <= MAX_TAIL:
        raise ValueError(f"tail must be 0 to {MAX_TAIL}, not {tail}")
    return tail


class Tail(gym.Wrapper[Any, Any, Any, Any]):
    """Steps an environment on when it has terminated an episode, so that the fall is seen.

    The steps go to the unwrapped environment, so that no limit, Monitor or reward wrapper counts them, and they leave
    its random generator as it was: the next episode is the one that would have come. With two actions, each is the
    other one than that before, starting from the agent's last; else they are sampled, the same ones for a seed.

    Nothing follows where a time limit or a wrapper ended the episode: the environment has not, and may be in the midst
    of a game that goes on after a lost life.

    :param env: has a Monitor inside
    :param steps: 0 to ``MAX_TAIL``
    :param seed: of sampled actions
    :param show: called after each step
    """

    def __init__(self, env: gym.Env[Any, Any], steps: int, seed: int, show: Callable[[], None]) -> None:
        super().__init__(env)
        self._steps, self._show = steps, show
        self._sampled = copy.deepcopy(self.unwrapped.action_space)  # the environment may draw from its own
        self._sampled.seed(seed)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and step on after the end.

        :raises RunError: if the environment cannot be stepped after its end
        """
        result = self.env.step(action)
        if self._steps and result[2] and self.get_wrapper_attr("needs_reset"):
            with _unnoticed(self.unwrapped):
                self._go_on(action)
        return result

    def _go_on(self, action: Any) -> None:
        for following in islice(self._actions_after(action), self._steps):
            try:
                self.unwrapped.step(following)
            except Exception as error:
                spec = self.unwrapped.spec
                name = spec.id if spec else type(self.unwrapped).__name__
                raise RunError(
                    f"{name} cannot be stepped after the end of its episode: {describe_error(error)}",
                    "leave out --tail",
                ) from error
            self._show()

    def _actions_after(self, action: Any) -> Iterator[Any]:
        agents, own = self.action_space, self.unwrapped.action_space
        if isinstance(agents, Discrete) and isinstance(own, Discrete) and agents.n == own.n == 2:
            number = int(action) - int(agents.start)  # a wrapper may have moved the start
            while True:
                number = 1 - number
                yield own.start + number
        while True:
            yield self._sampled.sample()


@contextmanager
def _unnoticed(env: gym.Env[Any, Any]) -> Iterator[None]:
    """Keep the environment's random generator as it was, and its warnings of what is done on purpose to ourselves."""
    generator = env.np_random
    state = generator.bit_generator.state if isinstance(generator, np.random.Generator) else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if state is not None:
            generator.bit_generator.state = state
