"""What no machine's memory holds is refused before it is asked for."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from toolkit.utils.memory import installed_memory, limit_memory_to_installed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")


def test_more_than_the_installed_memory_cannot_be_had() -> None:
    with limit_memory_to_installed(), pytest.raises(MemoryError):
        np.empty(installed_memory() * 5 // 4, dtype=np.uint8)


def test_what_the_process_holds_already_does_not_count() -> None:
    held = np.empty(installed_memory() // 2, dtype=np.uint8)
    with limit_memory_to_installed():
        assert np.empty(installed_memory() * 3 // 4, dtype=np.uint8).nbytes > held.nbytes


def test_the_limit_ends_with_what_it_was_for() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limit_memory_to_installed(), limit_memory_to_installed():
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with pytest.raises(ZeroDivisionError), limit_memory_to_installed():
        1 / 0  # noqa: B018
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
