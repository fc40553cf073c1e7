"""Seeds that follow from another seed, small enough for simulators that store them in a signed 32-bit integer."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_RUN_BITS, _EPISODE_BITS = 30, 31  # an environment's index is added to a seed of 30 bits


def derive_run_seed(seed: int, key: int) -> int:
    """Return the seed of one use of a run's seed, from 0 to 2**30 - 1.

    :param key: number of the use
    """
    return _derive(seed, key, _RUN_BITS)


def derive_episode_seed(seed: int, episode: int) -> int:
    """Return the seed of a later episode of an environment, from 0 to 2**31 - 1.

    :param seed: the environment's own seed, which is that of its first episode
    :param episode: number of the episode, from 1
    """
    return _derive(seed, episode, _EPISODE_BITS)


def derive_former_episode_seed(seed: int, episode: int) -> int:
    """Return what :func:`derive_episode_seed` returned in version 0.1.0, up to 2**32 - 1."""
    return _derive(seed, episode, 32)


def derive_generator_seeds(seed: int, index: int) -> list[int]:
    """Return the seeds of the global generators where environment ``index`` runs: Python's, NumPy's and torch's.

    They differ from all seeds of episodes, so that an environment that draws from several generators draws no number
    twice.

    :return: three seeds from 0 to 2**32 - 1
    """
    import numpy as np

    return [int(word) for word in np.random.SeedSequence(seed, spawn_key=(index, 0)).generate_state(3)]


@contextmanager
def fix_global_seeds() -> Iterator[None]:
    """Let a block draw the same numbers from the global generators each time, and others afterwards as without it.

    These are Python's, NumPy's and, if it is imported, torch's on the CPU.
    """
    import numpy as np

    python_state, numpy_state, torch = random.getstate(), np.random.get_state(), sys.modules.get("torch")
    torch_state = torch.default_generator.get_state() if torch else None
    random.seed(0)
    np.random.seed(0)
    if torch:
        torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if torch:
            torch.default_generator.set_state(torch_state)


def _derive(seed: int, key: int, bits: int) -> int:
    import numpy as np  # reading a config does not need it

    return int(np.random.SeedSequence(seed, spawn_key=(key,)).generate_state(1)[0]) >> (32 - bits)
