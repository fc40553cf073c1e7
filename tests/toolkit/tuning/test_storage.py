"""The databases of studies, and their passwords."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support import Toolkit, wait_until
from tuning_files import BASE, Tune, change_search, expire_heartbeats, read_table

pytest.importorskip("optuna")


def can_connect(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture
def postgresql() -> Iterator[tuple[str, Callable[[], None]]]:
    """Start a PostgreSQL server that asks for a password; give its URL, and a function that stops it."""
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")
    nobody = pwd.getpwnam("nobody")  # the server refuses to run as root
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        password, data = Path(folder, "password"), Path(folder, "data")
        password.write_text("s3cret\n")
        for path in (password.parent, password) if user else ():
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        options = ["-A", "scram-sha-256", "-U", "toolkit", f"--pwfile={password}"]
        subprocess.run(
            [initdb, "-D", data, "--no-sync", *options], check=True, capture_output=True, cwd=folder, **user
        )
        address = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        postgres = [Path(initdb).with_name("postgres"), "-D", data, "-F", *address]
        server = subprocess.Popen(postgres, stderr=subprocess.DEVNULL, cwd=folder, **user)

        def stop() -> None:
            server.send_signal(signal.SIGQUIT)
            server.wait()

        try:
            wait_until(lambda: can_connect(port))
            yield f"postgresql://toolkit:s3cret@127.0.0.1:{port}/postgres", stop
        finally:
            stop()


@pytest.mark.slow
def test_workers_share_postgresql_study_and_hide_its_password(
    postgresql: tuple[str, Callable[[], None]], run_tune: Tune, toolkit: Toolkit
) -> None:
    url, stop = postgresql
    change_search(storage=url, launcher="local", workers="2", sampler="tpe", trials="3", seeds="1")
    finished = run_tune()
    assert [row["state"] for row in read_table()] == ["finished"] * 3
    again = run_tune("--out", "elsewhere")
    assert [row["state"] for row in read_table("elsewhere")] == ["finished"] * 3, "the study is in the database"
    stop()
    down = toolkit("tune", "search.yaml", "--out", "new")
    assert down.status == 2
    assert "postgresql://toolkit:***@127.0.0.1" in down.err
    assert "cannot be used: connection failed" in down.err
    assert len(down.err.splitlines()) == 2
    assert not Path("new").exists()
    files = [path for path in [*Path("tunings").rglob("*"), *Path("elsewhere").rglob("*")] if path.is_file()]
    texts = [path.read_text(errors="replace") for path in files]
    for text in [finished.out, finished.err, again.out, again.err, down.err, *texts]:
        assert "s3cret" not in text


BREAKING = """\
import sqlite3
from contextlib import closing
from pathlib import Path

import gymnasium

Growing = type(gymnasium.make("Growing-v0").unwrapped)


class Breaking(Growing):
    def reset(self, seed=None, options=None):
        if self.episode == 8 and not Path("broken").exists():
            Path("broken").touch()
            with closing(sqlite3.connect("tunings/search/study.db")) as database, database:
                database.execute("alter table trial_intermediate_values rename to hidden")
        return super().reset(seed, options)


gymnasium.register("Breaking-v0", Breaking)
"""


def test_trial_resumes_completely_after_database_failure(run_tune: Tune, toolkit: Toolkit) -> None:
    Path("breaking.py").write_text(BREAKING)
    base = BASE.replace("growing_env.py]", "growing_env.py, ./breaking.py]").replace("Growing-v0", "Breaking-v0")
    Path("breaking.yaml").write_text(base)
    change_search(base="breaking.yaml", trials="2", seeds="1")
    finished = toolkit("tune", "search.yaml")
    assert finished.status == 2
    assert "no such table: trial_intermediate_values" in finished.err
    with closing(sqlite3.connect("tunings/search/study.db")) as database, database:
        database.execute("alter table hidden rename to trial_intermediate_values")
    expire_heartbeats()
    run_tune()
    scores = {row["env.params.slope"]: float(row["mean_return"]) for row in read_table()}
    assert scores["1.0"] == 10.5, "the mean of 20 episodes"
    assert all(score == 10.5 * float(slope) for slope, score in scores.items())


def test_silent_database_is_refused_after_its_timeout(toolkit: Toolkit) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        change_search(storage=f"postgresql://u:s3cret@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2")
        start = time.monotonic()
        finished = toolkit("tune", "search.yaml")
    assert finished.status == 2
    assert "cannot be used" in finished.err
    assert "s3cret" not in finished.err
    assert time.monotonic() - start < 20
    assert not Path("tunings").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "storage: nonsense is not the URL of a supported database"),
        ("postgresql:/u:s3cret@host/x", "storage: its value is not the URL of a supported database"),
        ("strange://u:s3cret@host/x", "storage: strange://u:***@host/x is not the URL of a supported database"),
        ("mysql://u:s3cret@host/x", "storage: mysql://u:***@host/x needs a database driver that is not installed"),
        ("postgresql://u:s3c@ret@host/x", "storage: postgresql://u:***@host/x has more than one @"),
        ("sqlite:////nowhere/at/all.db", "cannot be used: unable to open database file"),
    ],
)
def test_unusable_storage_is_refused(url: str, message: str, toolkit: Toolkit) -> None:
    change_search(storage=f'"{url}"')
    finished = toolkit("tune", "search.yaml")
    assert (finished.status, finished.out) == (2, "")
    assert message in finished.err
    assert "s3c" not in finished.err
    assert not Path("tunings").exists()


def test_password_in_command_line_is_refused(toolkit: Toolkit) -> None:
    finished = toolkit("tune", "search.yaml", "--set", "storage=postgresql://u:s3cret@host/x")
    assert finished.status == 2
    assert "other users of this machine can read a password" in finished.err
    assert "s3cret" not in finished.err


# --- a study that does not fit its directory or its file ------------------------------------------------------------


def test_study_of_another_search_is_refused(two_trials: Path, toolkit: Toolkit) -> None:
    Path("bare.yaml").write_text("name: base\n" + BASE.replace("  policy_params: {net_arch: []}\n", ""))
    Path("other.yaml").write_text("extends: base.yaml\nname: base\ntimesteps: 100\n")
    before = (two_trials / "trials.csv").read_bytes()
    for key, value, message in (
        ("seeds", "3", "seeds.0 was 5 and is now 0"),
        ("objective", "timesteps_to_success", "objective was 'mean_return' and is now 'timesteps_to_success'"),
        ("search", "{env.params.slope: {choices: [1.0]}}", "slope.choices.1 was 2.0 and is now not set"),
        ("base", "other.yaml", "base.timesteps was 200 and is now 100"),
        ("base", "bare.yaml", "base.algorithm.policy_params.net_arch was [] and is now not set"),
    ):
        change_search(**{key: value})
        finished = toolkit("tune", "search.yaml")
        assert finished.status == 2
        assert message in finished.err
        assert (two_trials / "trials.csv").read_bytes() == before


def test_lost_or_damaged_database_is_not_replaced(two_trials: Path, toolkit: Toolkit) -> None:
    def read_contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in two_trials.iterdir()}

    database = two_trials / "study.db"
    complete, before = database.read_bytes(), read_contents()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("drop table trial_params")
    finished = toolkit("tune", "search.yaml")
    assert finished.status == 2
    assert "the study 'search' in sqlite:///" in finished.err
    assert "study.db is damaged: trial 0 lacks values" in finished.err
    for content in (b"", None):
        database.write_bytes(content) if content is not None else database.unlink()
        finished = toolkit("tune", "search.yaml")
        assert finished.status == 2
        assert "the study 'search' in sqlite:///" in finished.err
        assert "does not exist\nrestore the database of the trials in tunings/search/trials.csv, or" in finished.err
    database.write_bytes(complete)
    assert read_contents() == before


def test_unreadable_table_does_not_count_as_missing(two_trials: Path, toolkit: Toolkit) -> None:
    (two_trials / "study.db").unlink()
    table = two_trials / "trials.csv"
    table.unlink()
    table.symlink_to(table.name)  # a loop
    finished = toolkit("tune", "search.yaml")
    assert finished.status == 2
    assert "tunings/search/trials.csv: cannot be read" in finished.err
    assert not (two_trials / "study.db").exists()


def test_directory_of_something_else_is_refused(two_trials: Path, toolkit: Toolkit) -> None:
    finished = toolkit("tune", "search.yaml", "--out", ".")
    assert (finished.status, finished.out) == (2, "")
    assert ".: is not empty, and has no tuning.yaml" in finished.err
    assert f"{'o' * 300}: cannot be read: " in toolkit("tune", "search.yaml", "--out", "o" * 300).err
    finished = toolkit("tune", "search.yaml", "--out", two_trials, "--set", "name=other")
    assert finished.status == 2
    assert "search: belongs to another search: name was 'search' and is now 'other'" in finished.err
