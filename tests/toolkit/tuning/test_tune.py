"""`toolkit tune`: a search from its file to its best config, also interrupted, killed and continued."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from statistics import fmean

import pytest
from support import Install, Toolkit, files_in, terminal_process, toolkit_process, wait_until
from tuning_files import BASE, Tune, change_search, expire_heartbeats, read_states, read_table, write_variant_of_base

from toolkit import load_config
from toolkit.experiments.config import load_plan
from toolkit.training.run_directory import RunDirectory
from toolkit.tuning.config import load_tuning
from toolkit.tuning.storage import quiet_optuna
from toolkit.tuning.study import open_study, requeue_trial, wait_for_trial
from toolkit.tuning.tune import tune
from toolkit.utils.files import lock_directory

pytest.importorskip("optuna")

GAMMA, BUFFER_SIZE = "algorithm.params.gamma", "algorithm.params.buffer_size"

# --- results --------------------------------------------------------------------------------------------------------


def test_best_config_and_output_describe_best_trial(run_tune: Tune, toolkit: Toolkit) -> None:
    finished = run_tune()
    best = Path("tunings/search/best.yaml")
    assert load_config(best).env.params == {"slope": 2.0}
    text = best.read_text()
    assert "`toolkit tune search.yaml`" in text
    assert "of 3 of the study 'search'" in text
    assert "mean return of the last 100 training episodes: 21.0, the mean over seeds 5, 6; the base's: 10.5" in text
    plan = load_plan(Path("tunings/search/confirm.yaml"))
    assert [*plan.seeds] == [*range(7, 17)], "no trial has used them"
    assert {variant.name: variant.config.env.params["slope"] for variant in plan.variants} == {
        "base": 1.0,
        "best": 2.0,
    }
    assert toolkit("check", best).status == 0
    for line in ("3 of 3 trials", "env.params.slope: 2.0", "base: trial 0, 10.5", "train tunings/"):
        assert line in finished.out
    assert len([line for line in finished.err.splitlines() if line.startswith("trial ")]) == 3
    assert "trial 0: 10.5, best so far  (slope 1.0)" in finished.err


def test_best_config_trains_as_its_trial(run_tune: Tune, toolkit: Toolkit) -> None:
    Path("base.yaml").write_text(BASE + "  - {name: progress}\n")
    run_tune("--set", "seeds=[4294967295]", "--set", "trials=2")
    score = max((row["seed 4294967295"] for row in read_table()), key=float)
    best = Path("tunings/search/best.yaml")
    assert toolkit("train", best, "--seed", "4294967295", "--out", "run", "--quiet").status == 0
    returns = [raw_return for raw_return, _ in RunDirectory.open(Path("run")).episodes]
    assert (len(returns), str(fmean(returns))) == (20, score), "the base would stop after the fourth episode"
    assert "# The success criterion of the base is removed" in best.read_text()
    plan = load_plan(Path("tunings/search/confirm.yaml"))
    assert [*plan.seeds] == [*range(10)], "there are no seeds above"
    callbacks = [[callback.name for callback in variant.config.callbacks] for variant in plan.variants]
    assert callbacks == [["progress"]] * 2


def test_table_and_figures_show_all_trials(run_tune: Tune) -> None:
    formula = "'$\\frac$'"  # no valid formula for matplotlib, which must not read it as one
    base = write_variant_of_base("short.yaml", "timesteps: 20\nenv: {params: {fails: false}}")
    search = f"{{env.params.slope: {{low: 0.0, high: 2.0}}, env.params.fails: {{choices: [false, {formula}]}}}}"
    change_search(search=search, base=base, sampler="random", trials="10", seeds="1")
    run_tune()
    rows = read_table()
    assert [row["number"] for row in rows] == [str(number) for number in range(10)]
    assert {row["state"] for row in rows} == {"finished"}
    assert rows[0]["env.params.slope"] == "1.0", "the base comes first"
    assert len({row["mean_return"] for row in rows}) == 10
    for row in rows:
        assert row["mean_return"] == row["seed 0"]
        assert float(row["mean_return"]) == pytest.approx(1.5 * float(row["env.params.slope"]), rel=1e-4)
    for name in ("history.png", "slices.png", "importances.png"):
        assert Path("tunings/search", name).read_bytes().startswith(b"\x89PNG")


def test_quiet_prints_only_directory(two_trials: Path, toolkit: Toolkit) -> None:
    two_trials.rename("out")
    finished = toolkit("tune", "search.yaml", "--out", "out", "--set", "trials=2", "--quiet")
    assert (finished.status, finished.out, finished.err) == (0, "out\n", "")
    assert {path.partition("/")[0] for path in files_in(Path("out"))} == {
        "tuning.yaml", "base.yaml", "study.db", "trials.csv", "best.yaml", "confirm.yaml", "history.png", "slices.png",
    }  # fmt: skip
    assert load_tuning(Path("out/tuning.yaml")).config.trials == 2


def test_integer_ranges_yield_integers(run_tune: Tune) -> None:
    Path("base.yaml").write_text(BASE.replace(", gamma: 0.5", "").replace("timesteps: 200", "timesteps: 20"))
    ranges = f"{BUFFER_SIZE}: {{low: 1e2, high: 1e4, log: true}}, {GAMMA}: {{low: 0, high: 1}}"
    untyped = "env.params.slope: {low: 0, high: 2}, env.params.delay: {low: 0, high: 2}"  # the base sets only slope
    change_search(search=f"{{{ranges}, {untyped}}}")
    space = load_tuning(Path("search.yaml")).space
    assert [dimension.is_integer for dimension in space] == [True, False, False, True]
    change_search(search=f"{{{ranges}}}", sampler="random", trials="2", seeds="1")
    run_tune()
    for row in read_table():
        assert row["state"] == "finished"
        assert 0 < float(row[GAMMA]) < 1
        assert 100 <= int(row[BUFFER_SIZE]) <= 10_000


def test_search_without_finished_trial_fails(toolkit: Toolkit) -> None:
    change_search(base=write_variant_of_base("short.yaml", "timesteps: 4"), trials="1")
    finished = toolkit("tune", "search.yaml")
    assert finished.status == 1
    assert "no trial has finished: no episode counts after 4 timesteps" in finished.err


def test_missing_optuna_names_extra(monkeypatch: pytest.MonkeyPatch, toolkit: Toolkit) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    finished = toolkit("tune", "search.yaml")
    assert finished.status == 2
    assert 'pip install "sb3-toolkit[tune]"' in finished.err
    assert not Path("tunings").exists()


def test_sampler_of_another_package_is_used(install: Install, toolkit: Toolkit) -> None:
    source = "import optuna\n\nclass Mine(optuna.samplers.RandomSampler):\n    '''Samples as I like.'''\n"
    install("mine", "mine_module", source, "mine", "samplers")
    assert "Samples as I like." in toolkit("plugins", "samplers").out
    change_search(sampler="mine", trials="1", seeds="1")
    assert tune(Path("search.yaml")).best is not None


# --- objectives, pruning and failures -------------------------------------------------------------------------------


def test_timesteps_to_success_and_its_learning_curve(run_tune: Tune) -> None:
    import optuna

    change_search(objective="timesteps_to_success")
    run_tune()
    scores = {row["env.params.slope"]: row["timesteps_to_success"] for row in read_table()}
    # the mean of two episodes reaches 6 with the 7th, 4th and 13th
    assert scores == {"1.0": "70.0", "2.0": "40.0", "0.5": "130.0"}
    assert load_config("tunings/search/best.yaml").env.params == {"slope": 2.0}
    study = optuna.load_study(study_name="search", storage="sqlite:///tunings/search/study.db")
    for trial in study.trials:
        assert [*trial.intermediate_values] == [*range(1, 41)]
        first, second = (
            [trial.intermediate_values[step] for step in steps] for steps in (range(1, 21), range(21, 41))
        )
        assert [2 * value - first[-1] for value in second] == pytest.approx(first), "means with the first seed's end"
        assert first[-1] == -6, "at most the threshold"


def test_failed_seed_makes_mean_worse_than_all_timesteps(run_tune: Tune) -> None:
    base = write_variant_of_base("short.yaml", "timesteps: 40")
    change_search(objective="timesteps_to_success", base=base, seeds="2")
    run_tune()
    scores = {row["env.params.slope"]: float(row["timesteps_to_success"]) for row in read_table()}
    # the mean of the last two of four episodes is 3.5, 7 and 1.75, and the threshold 6
    assert scores == pytest.approx({"1.0": 80 * (1 + 2.5 / 8.5), "2.0": 40, "0.5": 80 * (1 + 4.25 / 10.25)})


def test_unpromising_trial_is_pruned(run_tune: Tune) -> None:
    change_search(pruner="{name: threshold, params: {lower: 3.0, n_warmup_steps: 10}}")
    finished = run_tune()
    rows = {row["env.params.slope"]: row for row in read_table()}
    states = {slope: row["state"] for slope, row in rows.items()}
    assert states == {"1.0": "finished", "2.0": "finished", "0.5": "pruned"}
    assert rows["0.5"]["mean_return"] == ""
    assert rows["0.5"]["share"] == "0.25", "half of the first of two seeds, where the mean is 2.75"
    assert "1 pruned" in finished.out
    assert "pruned after 25%  (slope 0.5)" in finished.err


def test_failed_trial_gives_reason_and_stops_no_other(run_tune: Tune) -> None:
    change_search(search="{env.params.fails: {choices: [true, false]}}", trials="2", seeds="1")
    finished = run_tune()
    rows = {row["env.params.fails"]: row for row in read_table()}
    assert rows["false"]["state"] == "finished"
    assert rows["true"]["state"] == "failed"
    assert "the fourth episode is too much" in rows["true"]["failure"]
    assert "the fourth episode is too much" in finished.err
    assert "1 failed" in finished.out
    assert any("traceback.txt" in path for path in files_in(Path("tunings/search/workers"))), "its run is kept"


# --- continue -------------------------------------------------------------------------------------------------------


def test_second_call_continues_study_until_no_combination_is_left(two_trials: Path, run_tune: Tune) -> None:
    first = read_table()
    finished = run_tune("--set", "trials=9")
    assert "3 of 9 trials" in finished.out
    assert "trial 0" not in finished.err, "the first call printed it"
    assert read_table()[:2] == first
    assert len(read_table()) == 3
    assert run_tune().err == "", "no trial is left"
    assert "3 trials, 1 wanted" in run_tune("--set", "trials=1").out
    assert read_states() == ["COMPLETE"] * 3


def test_worker_moves_directories_of_stopped_workers_only(two_trials: Path, run_tune: Tune) -> None:
    stopped, running = (two_trials / "workers" / "7" / trial for trial in ("trial-2", "trial-3"))
    for directory in (stopped, running):
        (directory / "seed-5").mkdir(parents=True)
    change_search(sampler="random", trials="4")
    with lock_directory(running, "runs a trial in it"):
        run_tune()
    assert (stopped.exists(), running.exists()) == (False, True)


def test_trial_fails_after_repeated_deaths_but_not_after_stops() -> None:
    def begin_trial() -> int:
        with pytest.warns(UserWarning, match="Heartbeat"):
            return study.ask().number

    def has_trial() -> bool:
        return wait_for_trial(study, total=1, check=lambda: None)

    def let_trial_die() -> None:
        begin_trial()
        with closing(sqlite3.connect("study.db")) as database, database:
            latest = "select max(trial_id), '2000-01-01 00:00:00' from trials where state = 'RUNNING'"
            database.execute(f"insert into trial_heartbeats (trial_id, heartbeat) {latest}")

    with quiet_optuna(), open_study("sqlite:///study.db", load_tuning(change_search(trials="1"))) as study:
        for _ in range(3):
            requeue_trial(study, begin_trial())
        for _ in range(3):
            let_trial_die()
            assert has_trial()
        requeue_trial(study, begin_trial())
        assert has_trial()
        let_trial_die()
        assert not has_trial()


def has_begun_trial() -> bool:
    with suppress(sqlite3.Error, OSError):
        return any(Path("tunings/search/workers/0").glob("trial-0/seed-0/monitor.csv"))
    return False


def write_slow_search(**values: str) -> None:
    """Write a search of one trial that takes two seconds."""
    base = write_variant_of_base("slow.yaml", "env: {params: {delay: 0.01}}")
    change_search(base=base, trials="1", seeds="1", **values)


@pytest.mark.slow
def test_trial_runs_again_after_ctrl_c(run_tune: Tune) -> None:
    write_slow_search()
    process = toolkit_process(["tune", "search.yaml"])
    try:
        wait_until(Path("tunings/search/study.db").exists)
        assert Path("tunings/search/tuning.yaml").exists(), "else a search stopped here could not be continued"
        wait_until(has_begun_trial)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "stopped: 0 of 1 trials" in out
    assert "tune search.yaml" in out.partition("next   ")[2]
    assert [(row["state"], row["env.params.slope"]) for row in read_table()] == [("waiting", "1.0")]
    Path("tunings/search/workers/0").rename("tunings/search/workers/1")  # as if another worker had begun it
    run_tune()
    assert read_states() == ["FAIL", "COMPLETE"]
    assert [(row["state"], row["env.params.slope"]) for row in read_table()] == [("finished", "1.0")]
    assert not Path("tunings/search/workers").exists()


@pytest.mark.slow
def test_trial_runs_again_after_its_process_was_killed(run_tune: Tune) -> None:
    write_slow_search()
    process = toolkit_process(["tune", "search.yaml"])
    wait_until(has_begun_trial)
    process.kill()
    process.communicate()
    assert read_states() == ["RUNNING"]
    expire_heartbeats()
    run_tune()
    assert read_states() == ["FAIL", "COMPLETE"]
    assert [row["mean_return"] for row in read_table()] == ["10.5"]
    assert not Path("tunings/search/workers").exists()


@pytest.mark.slow
def test_closed_terminal_interrupts_search() -> None:
    write_slow_search(launcher="local")
    process, terminal = terminal_process("tune", "search.yaml")
    try:
        wait_until(has_begun_trial)
        os.close(terminal)
        assert process.wait(60) == 129
    finally:
        process.kill()
    assert [row["state"] for row in read_table()] == ["waiting"]


@pytest.mark.slow
def test_closed_stderr_does_not_stop_search(two_trials: Path) -> None:
    process = toolkit_process(["tune", "search.yaml", "--set", "trials=3"])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.close()
    with process.stdout:
        assert process.stdout.read().startswith("3 of 3 trials")
    assert process.wait(60) == 0


@pytest.mark.slow
def test_workers_share_number_of_trials_and_sample_different_values(run_tune: Tune) -> None:
    base = write_variant_of_base("short.yaml", "timesteps: 40")
    change_search(base=base, launcher="local", workers="2", sampler="{name: random, params: {seed: 0}}", trials="4",
                  seeds="1", search="{algorithm.params.gamma: {low: 0.1, high: 0.9}}")  # fmt: skip
    run_tune()
    assert [row["state"] for row in read_table()] == ["finished"] * 4
    assert len({row[GAMMA] for row in read_table()}) == 4, "no worker repeats the values of another"
