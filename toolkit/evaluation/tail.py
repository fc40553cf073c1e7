"""Steps after the end of an episode, which only viewers of videos and windows see."""

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

MAX_TAIL = 1000  # steps; a recorder keeps a frame of each in memory


def check_tail(tail: int) -> int:
    """Return the number of steps if it is valid.

    :raises ValueError: if it is negative or above ``MAX_TAIL``
    """
    if not 0 <= tail <= MAX_TAIL:
        raise ValueError(f"tail must be 0 to {MAX_TAIL}, not {tail}")
    return tail


class TailWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Continues to step an environment that has terminated its episode, so that viewers see the fall.

    The steps go to the unwrapped environment: no time limit, Monitor or reward wrapper counts them. They leave its
    random generator unchanged, so that the next episode is the same with and without them. With two actions, the
    actions alternate, starting after the agent's last one. Otherwise they are sampled, and a seed repeats them.

    An episode that a time limit or a wrapper ended has no tail. The environment itself has not ended; for example, its
    game continues after a lost life.

    :param env: has a Monitor inside
    :param steps: number of steps, 0 to ``MAX_TAIL``
    :param seed: seed of the sampled actions
    :param on_step: called after each step
    """

    def __init__(self, env: gym.Env[Any, Any], steps: int, seed: int, on_step: Callable[[], None]) -> None:
        super().__init__(env)
        self._steps, self._on_step = steps, on_step
        self._sampler = copy.deepcopy(self.unwrapped.action_space)  # the environment may draw from its own
        self._sampler.seed(seed)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and add the tail when it has terminated the episode.

        :raises RunError: if the environment cannot be stepped after its end
        """
        result = self.env.step(action)
        if self._steps and result[2] and self.get_wrapper_attr("needs_reset"):
            result = copy.deepcopy(result)  # the steps of the tail may write into its arrays
            with _hide_steps(self.unwrapped):
                self._step_tail(action)
        return result

    def _step_tail(self, last_action: Any) -> None:
        for action in islice(self._generate_actions(last_action), self._steps):
            try:
                self.unwrapped.step(action)
            except Exception as error:
                spec = self.unwrapped.spec
                name = spec.id if spec else type(self.unwrapped).__name__
                raise RunError(
                    f"{name} cannot be stepped after the end of its episode: {describe_error(error)}",
                    "leave out --tail",
                ) from error
            self._on_step()

    def _generate_actions(self, last_action: Any) -> Iterator[Any]:
        outer, inner = self.action_space, self.unwrapped.action_space
        if isinstance(outer, Discrete) and isinstance(inner, Discrete) and outer.n == inner.n == 2:
            index = int(last_action) - int(outer.start)  # a wrapper may have moved the start
            while True:
                index = 1 - index
                yield inner.start + index
        while True:
            yield self._sampler.sample()


@contextmanager
def _hide_steps(env: gym.Env[Any, Any]) -> Iterator[None]:
    """Restore the environment's random generator afterwards, and ignore its warnings of steps after the end."""
    generator = env.np_random
    state = generator.bit_generator.state if isinstance(generator, np.random.Generator) else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if state is not None:
            generator.bit_generator.state = state
