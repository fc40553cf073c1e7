"""`check_schedule` names the broken promise of a schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from toolkit.testing import ConformanceError, check_schedule


class ReturnsNan:
    def __call__(self, progress_remaining):
        return float("nan") if progress_remaining < 0.5 else 1.0


class ReturnsTensor:
    def __call__(self, progress_remaining):
        return torch.tensor(progress_remaining)


class DividesByZero:
    def __call__(self, progress_remaining):
        return 1 / progress_remaining


class SquareRoot:
    def __call__(self, progress_remaining):
        return progress_remaining**0.5


class CountsCalls:
    calls = 0

    def __call__(self, progress_remaining):
        self.calls += 1
        return 1 / self.calls


class ThreeArguments:
    def __call__(self, one, two, three):
        return 1.0


class EpsilonAboveOne:
    def __call__(self, episode, timestep):
        return 2.0 / (1 + episode)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (ReturnsNan, r"returned nan for progress_remaining=0\.\d+; return a finite float"),
        (ReturnsTensor, r"returned tensor\(1.\) for progress_remaining=1; return a finite float"),
        (DividesByZero, r"called with progress_remaining=0 raised ZeroDivisionError.*return a finite float"),
        (SquareRoot, r"returned \(.*j\) for progress_remaining=-0.05; .*use max\(progress_remaining, 0.0\)"),
        (CountsCalls, r"returned 1.0 and then 0.\d+ for progress_remaining=1; .*keep no count"),
        (ThreeArguments, r"is called with \(one, two, three\); .*define __call__\(self, progress_remaining\)"),
        (EpsilonAboveOne, r"returned 2.0 for episode=0, timestep=0; return a float from 0 to 1"),
    ],
)
def test_broken_schedule_is_reported_with_advice(schedule: type[Any], message: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){schedule.__name__}.*{message}"):
        check_schedule(schedule)
