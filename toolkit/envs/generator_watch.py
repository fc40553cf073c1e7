"""Notice environments that draw from global generators, which the algorithm in the same process shares."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.snapshots.rng import find_drawn_generators, get_generator_states

_N_CALLS = 100  # each takes about 0.4 ms


class GeneratorWatch:
    """Warns once for each global generator that an environment draws from in its first resets and steps.

    A replay of such an episode draws other numbers, because the algorithm's own draws are not repeated in between.

    :param name: of the environment, for the user
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._n_calls = 0
        self._drawn: set[str] = set()

    @property
    def is_over(self) -> bool:
        """Whether enough calls have been watched."""
        return self._n_calls >= _N_CALLS

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch a reset or a step."""
        self._n_calls += 1
        before = get_generator_states()
        yield
        for generator in find_drawn_generators(before, get_generator_states()):
            if generator not in self._drawn:
                self._drawn.add(generator)
                logging.getLogger("toolkit").warning(
                    "not exact after `toolkit resume`: environment %s or a wrapper draws from %s's global generator; "
                    "draw from its own np_random, or set env.vec_env to subproc",
                    self._name,
                    generator,
                )
