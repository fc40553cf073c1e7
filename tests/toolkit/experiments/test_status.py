"""Directories that hold another experiment, or something else: they are refused and left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment_files import EXPERIMENT, read_contents, write_file
from support import SMALL_CONFIG, Toolkit, files_in

from toolkit.experiments.config import load_plan
from toolkit.experiments.runner import run_job
from toolkit.utils.errors import RunError
from toolkit.utils.files import lock_directory

LOCKING_WRAPPER = """\
from pathlib import Path
import gymnasium
from toolkit.utils.files import lock_directory


class Locking(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        with lock_directory(Path("experiments/both"), "trains in it"):
            raise ValueError("the directory is not locked")
"""


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "another base": (("n_envs: 2", "n_envs: 3"), "none/seed-0/config.yaml: env.n_envs was 2 and is now 3"),
        "fewer seeds": (("[0, 7]", "[7]"), "all/clip/seed-0 is not a run of both.yaml"),
        "another variant": (("none:", "nothing:"), "all/none/seed-0 is not a run of both.yaml"),
    }.values(),
)
def test_directory_of_another_experiment_is_refused(
    change: tuple[str, str], message: str, finished: Path, toolkit: Toolkit
) -> None:
    before = read_contents(finished)
    write_file(SMALL_CONFIG.replace(*change), "small.yaml")
    completed = toolkit("experiment", write_file(EXPERIMENT.replace(*change)), "--out", "all")
    assert completed.status == 2
    assert "all: holds another experiment than both.yaml" in completed.err
    assert message in completed.err
    assert read_contents(finished) == before


@pytest.mark.parametrize(
    ("file", "out"),
    [("experiments/a/experiment.yaml", "experiments/a"), ("experiment.yaml", "."), ("a.yaml", "experiments/a")],
)
def test_users_experiment_file_is_not_overwritten(file: str, out: str, toolkit: Toolkit) -> None:
    write_file(f"# mine\n{EXPERIMENT}".replace("small.yaml", f"{Path.cwd()}/small.yaml"), f"{out}/experiment.yaml")
    if file == "a.yaml":
        write_file(name=file)
    before = read_contents(Path(out))
    completed = toolkit("experiment", file, "--out", out)
    assert (completed.status, completed.out) == (2, "")
    assert "experiment.yaml: `toolkit experiment` did not write this file and would replace it" in completed.err
    assert read_contents(Path(out)) == before


def test_file_in_experiment_directory_continues_experiment(finished: Path, toolkit: Toolkit) -> None:
    before = (finished / "experiment.yaml").read_text()
    completed = toolkit("experiment", finished / "experiment.yaml", "--out", "all")
    assert (completed.status, completed.err) == (0, "all: 4 of 4 runs done\n")
    assert (finished / "experiment.yaml").read_text() == before


def test_experiment_without_runs_may_change(toolkit: Toolkit) -> None:
    write_file(load_plan(write_file()).text, "all/experiment.yaml")
    file = write_file(EXPERIMENT.replace("[0, 7]", "[3]").replace("timesteps: 1", "timesteps: 2"))
    completed = toolkit("experiment", file, "--out", "all")
    assert completed.status == 0, completed.err


def test_directory_is_locked_from_its_check_on(toolkit: Toolkit) -> None:
    Path("own.py").write_text(LOCKING_WRAPPER)  # another process locks the directory during the dry run
    completed = toolkit(
        "experiment", write_file("base: small.yaml\nseeds: 1\nvariants: {a: {env.wrappers: [./own.py:Locking]}}\n")
    )
    assert completed.status == 2
    assert "experiments/both: another process trains in it" in completed.err
    assert not Path("experiments").exists()


def test_job_refuses_run_of_another_config(finished: Path) -> None:
    config = load_plan(write_file(EXPERIMENT.replace("104", "105"))).runs()[1].config.to_document().data
    with pytest.raises(RunError, match=r"holds a run of another config: .*timesteps was 104 and is now 105\n"):
        run_job(finished / "clip/seed-0", config, 2)


def test_directory_with_other_files_is_refused(toolkit: Toolkit) -> None:
    write_file("mine", "all/notes.txt")
    completed = toolkit("experiment", write_file(), "--out", "all")
    assert (completed.status, completed.out) == (2, "")
    assert "all: is not empty, and is not an experiment" in completed.err
    assert files_in(Path("all")) == {"notes.txt"}


def test_locked_directory_is_refused(finished: Path, toolkit: Toolkit) -> None:
    (finished / "clip/seed-0/evaluation.json").unlink()
    before = read_contents(finished)
    with lock_directory(finished, "tests"):
        completed = toolkit("experiment", "both.yaml", "--out", "all")
    assert (completed.status, completed.out) == (2, "")
    assert "all: another process trains in it" in completed.err
    assert read_contents(finished) == before


def test_directory_that_cannot_be_created_is_refused(toolkit: Toolkit) -> None:
    completed = toolkit("experiment", write_file(), "--out", "small.yaml/all")
    assert (completed.status, completed.out) == (2, "")
    assert "small.yaml/all: cannot be" in completed.err
