"""The cosine schedule."""

import pytest
from toolkit.testing import check_schedule

from cartpole_extras.schedules import Cosine


def test_cosine_passes_conformance_check() -> None:
    check_schedule("cosine", params={"start": 1e-3, "end": 1e-4})


def test_cosine_falls_slowly_then_fast_then_slowly() -> None:
    schedule = Cosine(start=1.0, end=0.2)
    values = [schedule(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert values == pytest.approx([1.0, 0.8828, 0.6, 0.3172, 0.2], abs=1e-4)
