"""Searches over several variants of a config: their files, scores, results and pruning."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Toolkit
from tuning_files import Tune, change_search, read_table

from toolkit.experiments.config import load_plan
from toolkit.tuning.config import load_tuning

pytest.importorskip("optuna")

GAMMA = "algorithm.params.gamma"
# The k-th episode has the raw return k * slope; its mean over the last two reaches the threshold of 6 with the 7th
# episode for a slope of 1. The criterion of `slow` is twice as high.
VARIANTS = "{slow: {callbacks.0.params.threshold: 12.0}, fast: {}}"


def search_variants(**values: str) -> Path:
    """Write a search over two variants with different timesteps to success."""
    return change_search(**{"variants": VARIANTS, "objective": "timesteps_to_success"} | values)


# --- results --------------------------------------------------------------------------------------------------------


def test_worst_variant_decides_and_is_named(run_tune: Tune) -> None:
    search_variants()
    finished = run_tune()
    rows = {row["env.params.slope"]: row for row in read_table()}
    scores = {slope: row["timesteps_to_success"] for slope, row in rows.items()}
    assert (scores["1.0"], scores["2.0"]) == ("130.0", "70.0"), "of the variant slow"
    assert [float(rows["2.0"][name]) for name in ("variant slow", "variant fast", "fast seed 6")] == [70, 40, 40]
    assert "timesteps to success: 70.0 on the worst variant, slow, the mean over seeds 5, 6" in finished.out
    assert "base: trial 0, 130.0 on slow" in finished.out
    assert "trial 0: 130.0 on slow, best so far  (slope 1.0)" in finished.err
    table = [line.split() for line in finished.out.splitlines() if line.startswith(("variant", "slow", "fast"))]
    assert table == [["variant", "base", "best"], ["slow", "130.0", "70.0"], ["fast", "70.0", "40.0"]]


def test_confirming_experiment_has_base_and_best_of_each_variant(run_tune: Tune, toolkit: Toolkit) -> None:
    search_variants(seeds="1")
    run_tune()
    variants = {variant.name: variant.config for variant in load_plan(Path("tunings/search/confirm.yaml")).variants}
    values = {
        name: (config.env.params["slope"], config.callbacks[0].params["threshold"])
        for name, config in variants.items()
    }
    assert values == {
        "slow-base": (1.0, 12.0),
        "slow-best": (2.0, 12.0),
        "fast-base": (1.0, 6.0),
        "fast-best": (2.0, 6.0),
    }
    best = Path("tunings/search/best.yaml")
    assert "slow 70.0, fast 40.0" in best.read_text()
    assert toolkit("check", best).status == 0
    assert load_tuning(Path("tunings/search/tuning.yaml")).config.across_variants == "worst"
