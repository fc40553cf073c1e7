"""Searches over several variants of a config: their files, scores, results and pruning."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from support import Toolkit, toolkit_process, wait_until
from tuning_files import BASE, SEARCH, Tune, change_search, read_table, write_variant_of_base

from toolkit.experiments.config import load_plan
from toolkit.tuning.config import TuningPlan, load_tuning
from toolkit.tuning.storage import quiet_optuna
from toolkit.tuning.trial_curve import TrialCurve, make_curve
from toolkit.tuning.tune import tune

if TYPE_CHECKING:
    import optuna
else:
    optuna = pytest.importorskip("optuna")

SLOPE = "env.params.slope"
THRESHOLD = "callbacks.0.params.threshold"
# The k-th episode returns k * slope after 10 * k timesteps. The mean of two reaches 6 with the 7th, 12 with the 13th.
VARIANTS = f"{{slow: {{{THRESHOLD}: 12.0}}, fast: {{}}}}"


def search_variants(**values: str) -> Path:
    return change_search(**{"variants": VARIANTS, "objective": "timesteps_to_success"} | values)


# --- results --------------------------------------------------------------------------------------------------------


def test_worst_variant_decides_and_is_named(run_tune: Tune, toolkit: Toolkit) -> None:
    search_variants(search=f"{{{SLOPE}: {{choices: [1.0, 2.0]}}}}")
    finished = run_tune()
    rows = {row[SLOPE]: row for row in read_table()}
    assert {slope: float(row["timesteps_to_success"]) for slope, row in rows.items()} == {"1.0": 130, "2.0": 70}
    assert [float(rows["2.0"][name]) for name in ("variant slow", "variant fast", "fast seed 6")] == [70, 40, 40]
    assert "timesteps to success: 70.0 on the worst variant, slow, the mean over seeds 5, 6" in finished.out
    assert "base: trial 0, 130.0 on slow" in finished.out
    assert "trial 0: 130.0 on slow, best so far  (slope 1.0)" in finished.err
    table = [line.split() for line in finished.out.splitlines() if line.startswith(("variant", "slow", "fast"))]
    assert table == [["variant", "base", "best"], ["slow", "130.0", "70.0"], ["fast", "70.0", "40.0"]]
    best, confirm = Path("tunings/search/best.yaml"), Path("tunings/search/confirm.yaml")
    assert "slow 70.0, fast 40.0" in best.read_text()
    assert toolkit("check", best).status == 0
    configs = {variant.name: variant.config for variant in load_plan(confirm).variants}
    values = {
        name: (config.env.params["slope"], config.callbacks[0].params["threshold"]) for name, config in configs.items()
    }
    assert values == {
        "slow-base": (1.0, 12.0), "slow-best": (2.0, 12.0), "fast-base": (1.0, 6.0), "fast-best": (2.0, 6.0),
    }  # fmt: skip
    assert load_tuning(Path("tunings/search/tuning.yaml")).config.across_variants == "worst"


def test_mean_over_variants_decides_if_wanted(toolkit: Toolkit) -> None:
    variants = "{double: {env.params.slope: 2.0}, triple: {env.params.slope: 3.0}}"
    settings = {"base": write_variant_of_base("short.yaml", "timesteps: 20"), "trials": "1", "seeds": "1"}
    search = "{algorithm.params.gamma: {choices: [0.5]}}"
    result = tune(change_search(variants=variants, across_variants="mean", search=search, **settings))
    assert [trial.value for trial in result.trials] == [3.75], "episodes return 2 and 4, 3 and 6"
    again = toolkit("tune", "search.yaml")
    assert "3.75 on average over 2 variants, seed 0" in again.out
    for name in ("double-base", "triple-best"):
        assert f"{name}:\n" in Path("tunings/search/confirm.yaml").read_text()
    change_search(variants="{triple: {env.params.slope: 3.0}, double: {env.params.slope: 2.0}}", search=search,
                  across_variants="mean", **settings)  # fmt: skip
    finished = toolkit("tune", "search.yaml")
    assert finished.status == 2, "steps of reports would mean other trainings"
    assert "variants.0.name was 'double' and is now 'triple'" in finished.err


@pytest.mark.slow
def test_interrupted_trial_keeps_trainings_of_its_variants(run_tune: Tune) -> None:
    base = write_variant_of_base("slow.yaml", "env: {params: {delay: 0.01}}")
    search_variants(base=base, search=f"{{{SLOPE}: {{choices: [1.0]}}}}", trials="1", seeds="1")
    trial = Path("tunings/search/workers/0/trial-0")
    process = toolkit_process(["tune", "search.yaml"])
    try:
        wait_until((trial / "fast/seed-0/monitor.csv").exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    result_file = trial / "slow/seed-0/result.json"
    result = json.loads(result_file.read_text())
    result["success"]["timestep"] = 131
    result_file.write_text(json.dumps(result))
    run_tune()
    assert [(row["variant slow"], row["variant fast"]) for row in read_table()] == [("131.0", "70.0")]


# --- pruning --------------------------------------------------------------------------------------------------------


@contextmanager
def open_study(plan: TuningPlan) -> Iterator[optuna.Study]:
    with quiet_optuna():
        yield optuna.create_study(direction="minimize", pruner=plan.pruner.build())


def begin_curve(study: optuna.Study, plan: TuningPlan) -> tuple[optuna.Trial, TrialCurve]:
    trial = study.ask()
    return trial, make_curve(trial, plan)


def read_reports(study: optuna.Study, number: int) -> dict[int, float]:
    return study.trials[number].intermediate_values


def report_training(curve: TrialCurve, score: float, timesteps: int = 200) -> None:
    """Report a training of at most 200 timesteps as it goes."""
    for step in range(10, timesteps + 1, 10):
        curve.report_until(step / 200, cast(Any, None))
    curve.end_training(score, final_value=0.0)


def test_curve_is_worst_score_so_far() -> None:
    plan = load_tuning(search_variants(pruner="none"))
    assert [(run.variant.name, run.seed) for run in plan.trainings] == [
        ("slow", 5), ("fast", 5), ("slow", 6), ("fast", 6),
    ]  # fmt: skip
    with open_study(plan) as study:
        _, curve = begin_curve(study, plan)
        for score, timesteps in ((100, 100), (250, 200), (40, 40), (60, 60)):
            report_training(curve, score, timesteps)
        reports = [*read_reports(study, 0).values()]
    assert reports[:20] == [*range(10, 101, 10)] + [100] * 10
    assert reports[20:40] == [100] * 10 + [*range(110, 200, 10)] + [250], "the last twentieth has the score"
    assert reports[40:60] == [250] * 20, "the mean of slow is 70 and of fast 250"
    assert reports[60:80] == [250] * 6 + [155] * 14, "the mean of fast, once its second seed has ended"


@pytest.mark.parametrize("pruner", ["median", "percentile", "hyperband"])
def test_trial_is_pruned_once_one_variant_is_worse(pruner: str) -> None:
    params = {
        "median": "{n_startup_trials: 1}", "percentile": "{percentile: 50.0, n_startup_trials: 1}",
        "hyperband": "{min_resource: 30, max_resource: 80}",  # one bracket, whatever the trial's number
    }[pruner]  # fmt: skip
    plan = load_tuning(search_variants(pruner=f"{{name: {pruner}, params: {params}}}"))
    with open_study(plan) as study:
        for _ in range(3):
            trial, curve = begin_curve(study, plan)
            for score in (50, 80, 60, 70):
                report_training(curve, score, score)
            study.tell(trial, 75.0)
        _, curve = begin_curve(study, plan)
        report_training(curve, 20, 20)
        assert not curve.is_pruned
        report_training(curve, 300)
        reports = read_reports(study, 3)
    assert curve.is_pruned
    if pruner != "hyperband":  # which compares at its own steps only
        assert max(reports) == 29, "longer than the 80 timesteps of the others"


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("variants: {a: {env.params.slope: 3.0}}", "variants.a.env.params.slope: the search's"),
        ("variants: {a: {env: {id: Growing-v0}}}", "variants.a.env: contains env.params.slope, which is searched"),
        ("variants: {a: {seed: 3}}", "variants.a.seed: the key 'seeds' sets it; remove it here"),
        ("variants: {a: {algorithm.params.gama: 0.3}}", "variants.a.algorithm.params.gama: unknown parameter"),
        ("variants: {a: {algorithm.params.gamma: much}}", "variants.a.algorithm.params.gamma: should be float"),
        ("variants: {a/b: {}}", "variants.a/b: cannot be a variant's directory"),
        ("variants: {a: {}, A: {}}", "variants.A: differs from 'a' only in upper and lower case"),
        ("variants: {}", "variants: is empty"),
        ("across_variants: mean", "across_variants: there are no variants; add 'variants', or remove it"),
        ("variants: {a: {}}\nacross_variants: best", "across_variants: should be 'worst' or 'mean', not 'best'"),
        ("objective: timesteps_to_success\nvariants: {b: {callbacks: []}}", "variants.b: has no success criterion"),
    ],
)  # fmt: skip
def test_invalid_variants_are_refused(lines: str, message: str, toolkit: Toolkit) -> None:
    Path("search.yaml").write_text(f"{SEARCH}{lines}\n")
    finished = toolkit("tune", "search.yaml")
    assert (finished.status, finished.out) == (2, "")
    line = SEARCH.count("\n") + lines.count("\n") + 1
    assert f"search.yaml:{line}: {message}" in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not Path("tunings").exists()


def test_searched_value_is_tried_in_each_variant(toolkit: Toolkit) -> None:
    Path("base.yaml").write_text(BASE.replace("learning_starts: 10_000, buffer_size: 100, gamma: 0.5", "gamma: 0.5"))
    search = "{algorithm.params.tau: {choices: [1.0, 0.5]}, env.n_envs: {low: 0, high: 2}}"
    change_search(search=search, variants="{dqn: {}, a2c: {algorithm.name: a2c}}")
    finished = toolkit("tune", "search.yaml")
    assert finished.status == 2
    assert "search.yaml:7: search.algorithm.params.tau: unknown parameter (in a2c)" in finished.err
    assert "search.yaml:7: search.env.n_envs.low: should be greater than or equal to 1, not 0\n" in finished.err
