"""`toolkit tune`: a search from its file to its best config, stopped, killed, gone on with, on several databases."""

from __future__ import annotations

import csv
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from statistics import fmean

import in_process_launcher
import pytest
from support import PROJECT, Finished, Install, Toolkit, files_in, terminal_process, toolkit_process

from toolkit import load_config
from toolkit.experiments.config import load_plan
from toolkit.training.run_directory import RunDirectory
from toolkit.tuning.config import load_tuning
from toolkit.tuning.storage import quiet_optuna
from toolkit.tuning.study import open_study, requeue_trial, wait_for_trial
from toolkit.tuning.tune import tune
from toolkit.utils.files import lock_directory

pytest.importorskip("optuna")

# the k-th episode of an environment takes 10 steps and returns k times its `slope`
ENVS = """\
import gymnasium
import numpy as np

class Growing(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    episode = 0

    def __init__(self, slope=1.0, fails=False, slow=0.0):
        self.slope, self.fails, self.slow = slope, fails, slow

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        if self.fails and self.episode > 3:
            raise RuntimeError("the fourth episode is too much")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        import time
        time.sleep(self.slow)
        self.steps += 1
        return np.zeros(1, np.float32), self.slope * self.episode / 10, self.steps == 10, False, {}

if "Growing-v0" not in gymnasium.registry:  # by another test's copy
    gymnasium.register("Growing-v0", Growing)
"""
BASE = """\
timesteps: 200
import_modules: [./envs.py]
env: {id: Growing-v0, params: {slope: 1.0}}
algorithm: {name: dqn, params: {learning_starts: 10_000, buffer_size: 100, gamma: 0.5}}
callbacks:
  - {name: success, params: {threshold: 6.0, episodes: 2}}
"""
SEARCH = """\
base: base.yaml
search:
  env.params.slope: {choices: [1.0, 2.0, 0.5]}
trials: 3
seeds: [5, 6]
sampler: brute_force
pruner: none
launcher: ./launcher.py:InProcessLauncher
"""


@pytest.fixture(autouse=True)
def files(working_directory: Path) -> None:
    launcher = Path(in_process_launcher.__file__).read_text()
    for name, text in {"envs.py": ENVS, "launcher.py": launcher, "base.yaml": BASE, "search.yaml": SEARCH}.items():
        Path(name).write_text(text)


def changed(**lines: str) -> Path:
    """Write the search with other values of top-level keys, or the search space, and return its path."""
    text = SEARCH
    for key, value in lines.items():
        kept = [
            line for line in text.splitlines() if not line.startswith((f"{key}:", "  " if key == "search" else "\0"))
        ]
        text = "\n".join([*kept, f"{key}: {value}", ""])
    Path("search.yaml").write_text(text)
    return Path("search.yaml")


def table(directory: str = "tunings/search") -> list[dict[str, str]]:
    with Path(directory, "trials.csv").open() as file:
        return list(csv.DictReader(file))


def states(directory: str = "tunings/search") -> list[str]:
    """Return the states of all trials in a study's database, those too that were run again."""
    with closing(sqlite3.connect(Path(directory, "study.db"))) as database:
        return [state for (state,) in database.execute("select state from trials order by number")]


def searched(toolkit: Toolkit, *arguments: str | Path) -> Finished:
    done = toolkit("tune", "search.yaml", *arguments)
    assert done.status == 0, done.err
    return done


# --- what comes out of it -------------------------------------------------------------------------------------------


def test_the_best_config_is_one_that_trains_and_says_where_it_comes_from(toolkit: Toolkit) -> None:
    done = searched(toolkit)
    found = Path("tunings/search/best.yaml")
    assert load_config(found).env.params == {"slope": 2.0}
    text = found.read_text()
    assert "`toolkit tune search.yaml`" in text
    assert "of 3 of the study 'search'" in text
    assert "mean return of the last 100 training episodes: 21.0, the mean over seeds 5, 6; the base's: 10.5" in text
    plan = load_plan(Path("tunings/search/confirm.yaml"))
    assert [*plan.seeds] == [*range(7, 17)], "which nothing was chosen by"
    assert {one.name: one.config.env.params["slope"] for one in plan.variants} == {"base": 1.0, "best": 2.0}
    assert toolkit("check", found).status == 0
    for said in ("3 of 3 trials", "env.params.slope: 2.0", "base: trial 0, 10.5", "train tunings/"):
        assert said in done.out
    assert len([line for line in done.err.splitlines() if line.startswith("trial ")]) == 3
    assert "trial 0: 10.5, best so far  (slope 1.0)" in done.err


def test_what_comes_out_trains_as_its_trials_did(toolkit: Toolkit) -> None:
    Path("base.yaml").write_text(BASE + "  - {name: progress}\n")
    searched(toolkit, "--set", "seeds=[4294967295]", "--set", "trials=2")
    score = max((row["seed 4294967295"] for row in table()), key=float)
    found = Path("tunings/search/best.yaml")
    assert toolkit("train", found, "--seed", "4294967295", "--out", "run", "--quiet").status == 0
    returns = [raw_return for raw_return, _ in RunDirectory.open(Path("run")).episodes]
    assert (len(returns), str(fmean(returns))) == (20, score), "though its base would stop with the fourth episode"
    assert "# The success criterion of the base is removed" in found.read_text()
    plan = load_plan(Path("tunings/search/confirm.yaml"))
    assert [*plan.seeds] == [*range(10)], "as there are none above"
    assert [[one.name for one in variant.config.callbacks] for variant in plan.variants] == [["progress"]] * 2


def test_all_trials_are_in_a_table_and_in_pictures(toolkit: Toolkit) -> None:
    changed(search="{env.params.slope: {low: 0.0, high: 2.0}}", sampler="random", trials="10", seeds="1")
    searched(toolkit)
    rows = table()
    assert [row["number"] for row in rows] == [str(number) for number in range(10)]
    assert {row["state"] for row in rows} == {"finished"}
    assert rows[0]["env.params.slope"] == "1.0", "the base comes first"
    assert len({row["mean_return"] for row in rows}) == 10
    for row in rows:
        assert row["mean_return"] == row["seed 0"]
        assert float(row["mean_return"]) == pytest.approx(10.5 * float(row["env.params.slope"]))
    for name in ("history.png", "slices.png", "importances.png"):
        assert Path("tunings/search", name).read_bytes().startswith(b"\x89PNG")


def test_what_is_in_a_picture_is_no_mathematics(toolkit: Toolkit) -> None:
    changed(search="{env.params.fails: {choices: [false, '$\\frac$']}}", trials="2", seeds="1")
    searched(toolkit)
    assert Path("tunings/search/slices.png").exists()


def test_quiet_prints_the_directory_alone(toolkit: Toolkit) -> None:
    done = toolkit("tune", "search.yaml", "--out", "here", "--set", "trials=1", "--quiet")
    assert (done.status, done.out, done.err) == (0, "here\n", "")
    assert not Path("tunings").exists()
    assert {path.partition("/")[0] for path in files_in(Path("here"))} == {
        "tuning.yaml", "base.yaml", "study.db", "trials.csv", "best.yaml", "confirm.yaml", "history.png", "slices.png",
    }  # fmt: skip
    assert load_tuning(Path("here/tuning.yaml")).config.trials == 1


def test_whole_numbers_stay_whole_and_fractions_fractions(toolkit: Toolkit) -> None:
    Path("base.yaml").write_text(BASE.replace(", gamma: 0.5", ""))
    ranges = f"algorithm.params.buffer_size: {{low: 1e2, high: 1e4, log: true}}, {GAMMA}: {{low: 0, high: 1}}"
    unsaid = "env.params.slope: {low: 0, high: 2}, env.params.slow: {low: 0, high: 2}"  # the base has 1.0, and nothing
    changed(search=f"{{{ranges}, {unsaid}}}")
    assert [one.is_integer for one in load_tuning(Path("search.yaml")).space] == [True, False, False, True]
    changed(search=f"{{{ranges}}}", sampler="random", trials="2", seeds="1")
    searched(toolkit)
    for row in table():
        assert row["state"] == "finished"
        assert 0 < float(row[GAMMA]) < 1
        assert 100 <= int(row["algorithm.params.buffer_size"]) <= 10_000


def test_what_the_base_does_not_have_is_not_null(toolkit: Toolkit) -> None:
    for base, is_there in ((BASE, False), (BASE.replace("slope: 1.0", "slope: 1.0, slow: null"), True)):
        Path("base.yaml").write_text(base)
        (dimension,) = load_tuning(changed(search="{env.params.slow: {choices: [null, 0.0]}}")).space
        assert dimension.contains(dimension.base_value) == is_there


def test_the_search_that_ships_is_one_that_its_config_can_come_out_of() -> None:
    tuning = load_tuning(PROJECT / "configs" / "tune" / "cartpole_ddqn.yaml")
    assert tuning.base == load_config(PROJECT / "configs" / "cartpole_ddqn.yaml")
    for dimension in tuning.space:
        assert dimension.contains(dimension.base_value), dimension.path


# --- what a trial is judged by, and stopped by ----------------------------------------------------------------------


def test_timesteps_to_success_counts_all_timesteps_where_there_is_none(toolkit: Toolkit) -> None:
    changed(objective="timesteps_to_success")
    searched(toolkit)
    scores = {row["env.params.slope"]: row["timesteps_to_success"] for row in table()}
    # the mean of two episodes is 6 at the latest with the 7th, 4th and 13th
    assert scores == {"1.0": "70.0", "2.0": "40.0", "0.5": "130.0"}
    assert load_config("tunings/search/best.yaml").env.params == {"slope": 2.0}
    done = toolkit(
        "tune", "search.yaml", "--out", "short", "--set", "search={env.params.slope: {choices: [1.0, 0.1]}}"
    )
    assert done.status == 0
    assert {row["env.params.slope"]: row["timesteps_to_success"] for row in table("short")} == {
        "1.0": "70.0",
        "0.1": "200.0",
    }


def test_the_learning_curve_is_reported_at_equal_steps_of_equal_seeds(toolkit: Toolkit) -> None:
    import optuna

    changed(objective="timesteps_to_success")
    searched(toolkit)
    study = optuna.load_study(study_name="search", storage="sqlite:///tunings/search/study.db")
    for trial in study.trials:
        assert [*trial.intermediate_values] == [*range(1, 41)]
        first, second = (
            [trial.intermediate_values[step] for step in steps] for steps in (range(1, 21), range(21, 41))
        )
        assert [2 * one - first[-1] for one in second] == pytest.approx(first), "the mean with the first seed's end"
        assert first[-1] == -6, "up to the threshold, and no further"


def test_a_trial_that_lags_behind_is_stopped(toolkit: Toolkit) -> None:
    changed(pruner="{name: threshold, params: {lower: 3.0, n_warmup_steps: 10}}", workers="1")
    done = searched(toolkit)
    rows = {row["env.params.slope"]: row for row in table()}
    assert {slope: row["state"] for slope, row in rows.items()} == {
        "1.0": "finished",
        "2.0": "finished",
        "0.5": "pruned",
    }
    assert rows["0.5"]["mean_return"] == ""
    assert rows["0.5"]["share"] == "0.25", "half of the first of two seeds, where the mean is 2.75"
    assert "1 pruned" in done.out
    assert "pruned after 25%  (slope 0.5)" in done.err


def test_a_trial_that_fails_says_why_and_stops_no_other(toolkit: Toolkit) -> None:
    changed(search="{env.params.fails: {choices: [true, false]}}", trials="2")
    done = searched(toolkit)
    rows = {row["env.params.fails"]: row for row in table()}
    assert rows["false"]["state"] == "finished"
    assert rows["true"]["state"] == "failed"
    assert "the fourth episode is too much" in rows["true"]["failure"]
    assert "the fourth episode is too much" in done.err
    assert "1 failed" in done.out
    assert any("traceback.txt" in path for path in files_in(Path("tunings/search/workers"))), "left to be looked at"


def test_a_search_without_a_result_fails(toolkit: Toolkit) -> None:
    Path("short.yaml").write_text("extends: base.yaml\ntimesteps: 4\n")
    done = toolkit("tune", "search.yaml", "--set", "trials=1", "--set", "base=short.yaml")
    assert done.status == 1
    assert "no trial has finished: no episode ended within 4 timesteps" in done.err


# --- stopped and gone on with ---------------------------------------------------------------------------------------


def test_again_it_goes_on_with_the_same_study(toolkit: Toolkit) -> None:
    searched(toolkit, "--set", "trials=2")
    first = table()
    done = searched(toolkit)
    assert table()[:2] == first
    assert len(table()) == 3
    assert "trial 0" not in done.err, "it was said before"
    assert searched(toolkit).err == "", "nothing is left to do"
    assert "3 trials, 1 wanted" in searched(toolkit, "--set", "trials=1").out
    assert states() == ["COMPLETE"] * 3


def test_every_combination_once_is_enough(toolkit: Toolkit) -> None:
    assert "3 of 9 trials" in searched(toolkit, "--set", "trials=9").out


def test_another_search_in_the_same_study_is_refused(toolkit: Toolkit) -> None:
    Path("bare.yaml").write_text(f"name: base\n{BASE}")
    Path("base.yaml").write_text(BASE.replace("algorithm: {", "algorithm: {policy_params: {net_arch: []}, "))
    searched(toolkit, "--set", "trials=1")
    before = Path("tunings/search/trials.csv").read_bytes()
    Path("other.yaml").write_text("extends: base.yaml\nname: base\ntimesteps: 100\n")
    for key, value, said in (
        ("seeds", "3", "seeds.0 was 5 and is now 0"),
        ("objective", "timesteps_to_success", "objective was 'mean_return' and is now 'timesteps_to_success'"),
        ("search", "{env.params.slope: {choices: [1.0]}}", "slope.choices.1 was 2.0 and is now not set"),
        ("base", "other.yaml", "base.timesteps was 200 and is now 100"),
        ("base", "bare.yaml", "base.algorithm.policy_params.net_arch was [] and is now not set"),
    ):
        changed(**{key: value})
        done = toolkit("tune", "search.yaml")
        assert done.status == 2
        assert said in done.err
        assert Path("tunings/search/trials.csv").read_bytes() == before


def test_what_was_found_outlives_its_database(toolkit: Toolkit) -> None:
    def contents() -> dict[str, bytes]:
        return {name: Path("tunings", name).read_bytes() for name in files_in(Path("tunings"))}

    searched(toolkit, "--set", "trials=1")
    database = Path("tunings/search/study.db")
    whole, before = database.read_bytes(), contents()
    with closing(sqlite3.connect(database)) as connected, connected:
        connected.execute("drop table trial_params")
    done = toolkit("tune", "search.yaml")
    assert done.status == 2
    assert "the study 'search' in sqlite:///" in done.err
    assert "study.db is damaged: trial 0 lacks values" in done.err
    for content in (b"", None):
        database.write_bytes(content) if content is not None else database.unlink()
        done = toolkit("tune", "search.yaml")
        assert done.status == 2
        assert "the study 'search' in sqlite:///" in done.err
        assert "does not exist\nrestore the database of the trials in tunings/search/trials.csv, or" in done.err
    database.write_bytes(whole)
    assert contents() == before
    assert states() == ["COMPLETE"]


def test_a_table_that_cannot_be_read_is_not_taken_for_none(toolkit: Toolkit) -> None:
    searched(toolkit, "--set", "trials=1")
    Path("tunings/search/study.db").unlink()
    table = Path("tunings/search/trials.csv")
    table.unlink()
    table.symlink_to(table.name)  # round in a circle
    done = toolkit("tune", "search.yaml")
    assert done.status == 2
    assert "tunings/search/trials.csv: cannot be read" in done.err
    assert not Path("tunings/search/study.db").exists()


def test_a_directory_of_something_else_is_left_alone(toolkit: Toolkit) -> None:
    done = toolkit("tune", "search.yaml", "--out", ".")
    assert (done.status, done.out) == (2, "")
    assert ".: is not empty, and has no tuning.yaml" in done.err
    assert f"{'o' * 300}: cannot be read: " in toolkit("tune", "search.yaml", "--out", "o" * 300).err
    searched(toolkit, "--out", "here", "--set", "trials=1")
    done = toolkit("tune", "search.yaml", "--out", "here", "--set", "name=other")
    assert done.status == 2
    assert "here: belongs to another search: name was 'search' and is now 'other'" in done.err


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(sqlite3.Error, OSError):
            if what():
                return
        time.sleep(0.05)
    pytest.fail("it has not come to that")


@pytest.mark.slow
def test_after_ctrl_c_the_trial_that_ran_is_run_again(toolkit: Toolkit) -> None:
    Path("slow.yaml").write_text("extends: base.yaml\nenv: {params: {slow: 0.01}}\n")
    changed(base="slow.yaml", trials="1", seeds="1")
    process = toolkit_process(["tune", "search.yaml"])
    try:
        until(Path("tunings/search/study.db").exists)
        assert Path("tunings/search/tuning.yaml").exists(), "or one that is stopped here would not be known again"
        until(lambda: any(Path("tunings/search/workers/0").glob("trial-0/seed-0/monitor.csv")))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "stopped: 0 of 1 trials" in out
    assert "tune search.yaml" in out.partition("next   ")[2]
    assert [(row["state"], row["env.params.slope"]) for row in table()] == [("waiting", "1.0")]
    Path("tunings/search/workers/0").rename("tunings/search/workers/1")  # as if another worker had begun it
    searched(toolkit)
    assert states() == ["FAIL", "COMPLETE"]
    assert [(row["state"], row["env.params.slope"]) for row in table()] == [("finished", "1.0")]
    assert not Path("tunings/search/workers").exists()


@pytest.mark.slow
def test_a_trial_whose_process_was_killed_is_run_again(toolkit: Toolkit) -> None:
    Path("slow.yaml").write_text("extends: base.yaml\nenv: {params: {slow: 0.01}}\n")
    changed(base="slow.yaml", trials="1", seeds="1")
    process = toolkit_process(["tune", "search.yaml"])
    until(lambda: any(Path("tunings/search/workers/0").glob("trial-0/seed-0/monitor.csv")))
    process.kill()
    process.communicate()
    assert states() == ["RUNNING"]
    with closing(sqlite3.connect("tunings/search/study.db")) as database, database:  # as if a minute had passed
        database.execute("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")
    searched(toolkit)
    assert states() == ["FAIL", "COMPLETE"]
    assert [row["mean_return"] for row in table()] == ["10.5"]
    assert not Path("tunings/search/workers").exists()


def test_a_trial_that_another_worker_has_begun_is_gone_on_with_unless_it_still_runs(toolkit: Toolkit) -> None:
    searched(toolkit, "--set", "trials=1")
    waiting, running = (Path("tunings/search/workers/7", trial) for trial in ("trial-1", "trial-2"))
    for directory in (waiting, running):
        (directory / "seed-5").mkdir(parents=True)
    with lock_directory(running, "is at work in it"):
        searched(toolkit)
    assert (waiting.exists(), running.exists()) == (False, True)


def test_a_trial_fails_whose_process_dies_each_time_and_not_for_being_stopped() -> None:
    def begin() -> int:
        with pytest.warns(UserWarning, match="Heartbeat"):
            return study.ask().number

    def waits() -> bool:
        return wait_for_trial(study, total=1, check=lambda: None)

    def dies() -> None:
        begin()
        with closing(sqlite3.connect("study.db")) as database, database:
            latest = "select max(trial_id), '2000-01-01 00:00:00' from trials where state = 'RUNNING'"
            database.execute(f"insert into trial_heartbeats (trial_id, heartbeat) {latest}")

    with quiet_optuna(), open_study("sqlite:///study.db", load_tuning(changed(trials="1"))) as study:
        for _ in range(3):
            requeue_trial(study, begin())
        for _ in range(3):
            dies()
            assert waits()
        requeue_trial(study, begin())
        assert waits()
        dies()
        assert not waits()


@pytest.mark.slow
def test_a_closed_terminal_stops_a_search_where_it_can_go_on(toolkit: Toolkit) -> None:
    Path("slow.yaml").write_text("extends: base.yaml\nenv: {params: {slow: 0.01}}\n")
    changed(base="slow.yaml", trials="1", seeds="1", launcher="local")
    process, terminal = terminal_process("tune", "search.yaml")
    try:
        until(lambda: any(Path("tunings/search/workers/0").glob("trial-0/seed-0/monitor.csv")))
        os.close(terminal)
        assert process.wait(60) == 129
    finally:
        process.kill()
    assert [row["state"] for row in table()] == ["waiting"]


@pytest.mark.slow
def test_what_nobody_reads_keeps_nothing_from_others() -> None:
    process = toolkit_process(["tune", "search.yaml", "--set", "trials=1"])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.close()
    with process.stdout:
        assert process.stdout.read().startswith("1 of 1 trials")
    assert process.wait(60) == 0


@pytest.mark.slow
def test_several_workers_have_as_many_trials_together_as_wanted(toolkit: Toolkit) -> None:
    changed(launcher="local", workers="3", sampler="{name: random, params: {seed: 0}}", trials="5",
            search="{algorithm.params.gamma: {low: 0.1, high: 0.9}}")  # fmt: skip
    searched(toolkit)
    assert [row["state"] for row in table()] == ["finished"] * 5
    assert len({row["algorithm.params.gamma"] for row in table()}) == 5, "none draws what another has drawn"


# --- databases ------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgresql() -> Iterator[tuple[str, Callable[[], None]]]:
    """Start a PostgreSQL server that asks for a password; give a URL, and what stops the server."""
    command = shutil.which("initdb")
    if command is None:
        pytest.skip("there is no PostgreSQL here")
    nobody = pwd.getpwnam("nobody")  # it does not run as root
    who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        password, data = Path(place, "password"), Path(place, "data")
        password.write_text("s3cret\n")
        for path in (password.parent, password) if who else ():
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        asked = ["-A", "scram-sha-256", "-U", "toolkit", f"--pwfile={password}"]
        subprocess.run([command, "-D", data, "--no-sync", *asked], check=True, capture_output=True, cwd=place, **who)
        here = ["-p", str(port), "-k", place, "-c", "listen_addresses=127.0.0.1"]
        postgres = [Path(command).with_name("postgres"), "-D", data, "-F", *here]
        server = subprocess.Popen(postgres, stderr=subprocess.DEVNULL, cwd=place, **who)

        def stop() -> None:
            server.send_signal(signal.SIGQUIT)
            server.wait()

        try:
            until(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close() is None)
            yield f"postgresql://toolkit:s3cret@127.0.0.1:{port}/postgres", stop
        finally:
            stop()


@pytest.mark.slow
def test_workers_share_a_study_in_postgresql_and_its_password_is_kept(
    postgresql: tuple[str, Callable[[], None]], toolkit: Toolkit
) -> None:
    url, stop = postgresql
    changed(storage=url, launcher="local", workers="2", sampler="tpe", trials="3", seeds="1")
    done = searched(toolkit)
    assert [row["state"] for row in table()] == ["finished"] * 3
    again = searched(toolkit, "--out", "elsewhere")
    assert [row["state"] for row in table("elsewhere")] == ["finished"] * 3, "the study is in the database"
    stop()
    down = toolkit("tune", "search.yaml", "--out", "new")
    assert down.status == 2
    assert "postgresql://toolkit:***@127.0.0.1" in down.err
    assert "cannot be used: connection failed" in down.err
    assert len(down.err.splitlines()) == 2
    assert not Path("new").exists()
    written = [path for path in [*Path("tunings").rglob("*"), *Path("elsewhere").rglob("*")] if path.is_file()]
    for text in [
        done.out,
        done.err,
        again.out,
        again.err,
        down.err,
        *(path.read_text(errors="replace") for path in written),
    ]:
        assert "s3cret" not in text


BREAKING = f"""{ENVS}
import sqlite3
from contextlib import closing
from pathlib import Path

class Breaking(Growing):
    def reset(self, seed=None, options=None):
        if self.episode == 8 and not Path("broken").exists():
            Path("broken").touch()
            with closing(sqlite3.connect("tunings/search/study.db")) as database, database:
                database.execute("alter table trial_intermediate_values rename to hidden")
        return super().reset(seed, options)

if "Breaking-v0" not in gymnasium.registry:
    gymnasium.register("Breaking-v0", Breaking)
"""


def test_a_training_in_which_the_database_fails_is_trained_whole_when_the_search_goes_on(toolkit: Toolkit) -> None:
    Path("breaking.py").write_text(BREAKING)
    Path("breaking.yaml").write_text(BASE.replace("envs.py", "breaking.py").replace("Growing", "Breaking"))
    changed(base="breaking.yaml")
    done = toolkit("tune", "search.yaml")
    assert done.status == 2
    assert "no such table: trial_intermediate_values" in done.err
    with closing(sqlite3.connect("tunings/search/study.db")) as database, database:
        database.execute("alter table hidden rename to trial_intermediate_values")
        database.execute("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")  # as if a minute had passed
    searched(toolkit)
    scores = {row["env.params.slope"]: row["mean_return"] for row in table()}
    assert scores == {"1.0": "10.5", "2.0": "21.0", "0.5": "5.25"}, "the mean of 20 episodes each"


def test_a_database_that_does_not_answer_is_waited_for_so_long(toolkit: Toolkit) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        changed(storage=f"postgresql://u:s3cret@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2")
        started = time.monotonic()
        done = toolkit("tune", "search.yaml")
    assert done.status == 2
    assert "cannot be used" in done.err
    assert "s3cret" not in done.err
    assert time.monotonic() - started < 20
    assert not Path("tunings").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "storage: nonsense is not the URL of a supported database"),
        ("postgresql:/u:s3cret@host/x", "storage: its value is not the URL of a supported database"),
        (
            "strange://u:s3cret@host/x",
            "storage: strange://u:***@host/x is not the URL of a supported database",
        ),
        ("mysql://u:s3cret@host/x", "storage: mysql://u:***@host/x needs a database driver that is not installed"),
        ("postgresql://u:s3c@ret@host/x", "storage: postgresql://u:***@host/x has more than one @"),
        ("sqlite:////nowhere/at/all.db", "cannot be used: unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(url: str, said: str, toolkit: Toolkit) -> None:
    changed(storage=f'"{url}"')
    done = toolkit("tune", "search.yaml")
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert "s3c" not in done.err
    assert not Path("tunings").exists()


def test_a_password_does_not_belong_in_a_command_line(toolkit: Toolkit) -> None:
    done = toolkit("tune", "search.yaml", "--set", "storage=postgresql://u:s3cret@host/x")
    assert done.status == 2
    assert "other users of this machine can read a password" in done.err
    assert "s3cret" not in done.err


# --- what is wrong with a file --------------------------------------------------------------------------------------

GAMMA = "algorithm.params.gamma"


@pytest.mark.parametrize(
    ("path", "entry", "said"),
    [
        ("algorithm.params.gama", "{low: 0.1, high: 0.2}", ": unknown parameter; did you mean 'gamma'?"),
        ("envv.id", "{choices: [CartPole-v1]}", ": envv: unknown key; did you mean 'env'?"),
        (GAMMA, "{low: 0.9, high: 0.1}", ".low: should be below high, which is 0.1, not 0.9"),
        (GAMMA, "{low: 0, high: 1, log: true}", ".low: should be above 0 on a logarithmic scale, not 0"),
        (GAMMA, "{low: 0.1}", ": needs low and high, or choices"),
        (GAMMA, "{choices: []}", ".choices: is empty"),
        (GAMMA, "{choices: [0.1], low: 0}", ": has choices and low; give one or the other"),
        (GAMMA, "{choices: [0.1, 0.1]}", ".choices: a value appears more than once"),
        (GAMMA, "{choices: [0.1, .nan]}", ".choices.1: cannot be searched: nan is not equal to itself"),
        (GAMMA, "{low: 0, high: .inf}", ".high: should be a number, not inf"),
        (GAMMA, "{choices: [0.1, much]}", ".choices.1: should be float, not 'much'"),
        (GAMMA, "{low: a, high: 1}", ".low: should be a number, not 'a'"),
        (GAMMA, "{low: 0.1, high: 0.9, log: true, step: 0.1}", ".step: cannot be combined with log"),
        (GAMMA, "{low: 0.1, high: 0.9, step: 2}", ".step: should be above 0 and at most high - low, not 2"),
        (GAMMA, "{low: 0.1, high: 0.9, step: 0.3}", ".high: should be a whole number of steps above low, 0.7 or 1"),
        ("algorithm.params.buffer_size", "{low: 100, high: 200, step: 0.5}", ".step: should be int, not 100.5"),
        (GAMMA, "{lo: 0.1, high: 0.9}", ".lo: unknown key; did you mean 'low'?"),
        ("env.n_envs", "{low: 0, high: 4}", ".low: should be greater than or equal to 1, not 0"),
        ("timesteps", "{low: 10, high: 20}", ": cannot be searched: trials are compared at equal timesteps"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(path: str, entry: str, said: str, toolkit: Toolkit) -> None:
    Path("search.yaml").write_text(SEARCH.replace("env.params.slope: {choices: [1.0, 2.0, 0.5]}", f"{path}: {entry}"))
    done = toolkit("tune", "search.yaml")
    assert (done.status, done.out) == (2, "")
    assert f"search.yaml:3: search.{path}{said}" in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("tunings").exists()


def test_a_value_is_searched_for_once(toolkit: Toolkit) -> None:
    changed(search=f"{{{GAMMA}: {{low: 0.1, high: 0.2}}, algorithm.params: {{choices: [{{gamma: 0.3}}]}}}}")
    done = toolkit("tune", "search.yaml")
    assert (done.status, done.out) == (2, "")
    assert f"search.{GAMMA}: is a part of algorithm.params, which is searched, too" in done.err


def test_parameters_are_searched_for_after_the_name_of_what_has_them(toolkit: Toolkit) -> None:
    name, threshold = "callbacks.0.name: {choices: [success]}", "callbacks.0.params.threshold: {low: 1, high: 2}"
    assert load_tuning(changed(search=f"{{{name}, {threshold}}}"))
    done = toolkit("tune", changed(search=f"{{{threshold}, {name}}}"))
    assert (done.status, done.out) == (2, "")
    assert "search.callbacks.0.params.threshold: is replaced by callbacks.0.name, which comes later" in done.err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("trials", "0", "trials: should be greater than or equal to 1, not 0"),
        ("seeds", "0", "seeds: should be 1 to 10,000, or a list of seeds, not 0"),
        ("seeds", "[1, 1]", "seeds: a seed appears more than once"),
        ("sampler", "tpee", "sampler.name: sampler 'tpee' does not exist; did you mean 'tpe'?"),
        ("sampler", "{name: tpe, params: {sed: 0}}", "sampler.params.sed: unknown parameter; did you mean 'seed'?"),
        ("pruner", "mean", "pruner.name: pruner 'mean' does not exist; did you mean 'median'?"),
        ("pruner", "{name: hyperband, params: {reduction_factor: many}}", "should be int, not 'many'"),
        ("objective", "speed", "objective: should be 'mean_return' or 'timesteps_to_success'"),
        ("base", "nowhere.yaml", "base: the file nowhere.yaml does not exist"),
        ("base", "b" * 300, "base: the file bbb"),
        ("trails", "3", "trails: unknown key; did you mean 'trials'?"),
    ],
)
def test_a_file_that_is_wrong_is_refused(key: str, value: str, said: str, toolkit: Toolkit) -> None:
    changed(**{key: value})
    done = toolkit("tune", "search.yaml")
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("search.yaml:")
    assert not Path("tunings").exists()


def test_an_objective_that_the_base_has_nothing_for_is_refused(toolkit: Toolkit) -> None:
    Path("other.yaml").write_text("extends: base.yaml\ncallbacks: []\n")
    changed(base="other.yaml", objective="timesteps_to_success")
    assert (
        "objective: the base has no success criterion; add the callback 'success'"
        in toolkit("tune", "search.yaml").err
    )


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, toolkit: Toolkit) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = toolkit("tune", "search.yaml")
    assert done.status == 2
    assert 'pip install "sb3-toolkit[tune]"' in done.err
    assert not Path("tunings").exists()


def test_a_sampler_of_another_package_is_one_like_any_other(install: Install, toolkit: Toolkit) -> None:
    source = "import optuna\n\nclass Mine(optuna.samplers.RandomSampler):\n    '''Samples as I like.'''\n"
    install("mine", "mine_module", source, "mine", "samplers")
    assert "Samples as I like." in toolkit("plugins", "samplers").out
    changed(sampler="mine", trials="1")
    assert tune(Path("search.yaml")).best is not None
