"""Write the estimates of rliable for some scores, as a reference for `toolkit.reports.statistics`.

    python3 -m venv rliable && rliable/bin/pip install rliable==1.2.0 "statsmodels<0.15" "pandas<3"
    rliable/bin/python tests/rliable_reference.py > tests/rliable_reference.json

The second command takes a few minutes. The JSON also holds the scores, so that the tests do not need rliable.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np

REPEATS = {"iqm": 50_000, "improvement": 10_000, "profile": 10_000}
THRESHOLDS = [-1.0, -0.3, 0.0, 0.4, 1.1]


def make_cases() -> dict[str, tuple[list[list[float]], list[list[float]]]]:
    """Return scores of two methods, each of shape (tasks, runs): one task and several, few runs and many, ties."""
    random = np.random.default_rng(5)

    def scores(tasks: int, runs: int, shift: float, digits: int = 6) -> list[list[float]]:
        values = random.normal(shift, 1, (tasks, runs)) * np.arange(1, tasks + 1)[:, None] / tasks
        return values.round(digits).tolist()

    return {
        "one task": (scores(1, 10, 0.5), scores(1, 10, 0.0)),
        "three tasks": (scores(3, 5, 0.8), scores(3, 8, 0.0)),
        "many runs with ties": (scores(1, 60, 0.2, 1), scores(1, 40, 0.0, 1)),
    }


def estimate_with_rliable(
    ours: list[list[float]], theirs: list[list[float]], repeats: dict[str, int]
) -> dict[str, Any]:
    """Return value, low and high of each estimate of rliable; this function alone needs rliable."""
    from rliable import library, metrics

    np.random.seed(0)  # rliable draws from the global generator
    x, y = np.array(ours).T, np.array(theirs).T
    estimates = {
        "iqm": library.get_interval_estimates(
            {"": x}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=repeats["iqm"]
        ),
        "improvement": library.get_interval_estimates(
            {"": (x, y)},
            lambda scores, others: np.array([metrics.probability_of_improvement(scores, others)]),
            reps=repeats["improvement"],
        ),
        "profile": library.create_performance_profile({"": x}, np.array(THRESHOLDS), reps=repeats["profile"]),
    }
    return {name: [value[""].tolist(), *interval[""].tolist()] for name, (value, interval) in estimates.items()}


if __name__ == "__main__":
    results = {
        name: {"ours": ours, "theirs": theirs, **estimate_with_rliable(ours, theirs, REPEATS)}
        for name, (ours, theirs) in make_cases().items()
    }
    print(json.dumps({"rliable": version("rliable"), "repeats": REPEATS, "cases": results}, indent=1))
