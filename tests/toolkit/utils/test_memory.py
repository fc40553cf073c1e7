"""An allocation beyond the machine's memory fails at once."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from toolkit.utils.memory import installed_memory, limit_memory_to_installed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")


def test_allocation_beyond_installed_memory_raises_memory_error() -> None:
    with limit_memory_to_installed(), pytest.raises(MemoryError):
        np.empty(installed_memory() * 5 // 4, dtype=np.uint8)


def test_limit_does_not_count_present_memory() -> None:
    present = np.empty(installed_memory() // 2, dtype=np.uint8)
    with limit_memory_to_installed():
        assert np.empty(installed_memory() * 3 // 4, dtype=np.uint8).nbytes > present.nbytes


def test_limit_ends_with_context() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limit_memory_to_installed(), limit_memory_to_installed():
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with pytest.raises(ZeroDivisionError), limit_memory_to_installed():
        1 / 0  # noqa: B018
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
