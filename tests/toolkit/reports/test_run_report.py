"""The page of one run: what it shows of the run's files."""

from __future__ import annotations

import csv
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_files import HEAD, write_run
from small_runs import find_differences
from support import Toolkit, files_in

import toolkit as package
from toolkit import Run
from toolkit.training import trainer

PROGRESS = """\
rollout/ep_rew_mean,rollout/exploration_rate,time/total_timesteps,train/learning_rate,train/loss,own/text
10.0,0.9,100,0.001,4.5,hello
12.0,0.5,200,0.001,2.25,hello
14.0,0.1,300,0.001,inf,hello
"""
CHANGES = """\
curriculum/stage,parameters/env.params.g,time/total_timesteps
1,2.5,100
2,10.0,200
"""
VALUES = """\
time/total_timesteps,value/discount_left,value/discounted_return,value/estimate
100,0.0,4.0,6.0
200,0.3,8.0,9.5
"""
EVALUATIONS = """\
timestep,label,mean_return,std,ci_low,ci_high,success_rate,returns,lengths
100,greedy,20.0,2.0,18.0,22.0,0.5,18.0 22.0,18 22
200,greedy,31.5,0.5,31.0,32.0,0.75,31.0 32.0,31 32
100,long,9.0,0.0,,,,9.0,9
"""
ACTIONS = "component,low,high,steps\n0,0,0,750\n0,1,1,250\n"


class Page(HTMLParser):
    """Titles, texts, cells and pictures of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def titles(self) -> list[str]:
        return re.findall(r"<h[23]>(.*?)</h", self.source)

    def has_row(self, *cells: str) -> bool:
        """Return whether a table has these cells, one after the other."""
        pattern = r"</t[hd]>\s*<t[hd][^>]*>".join(map(re.escape, cells))
        return re.search(rf"<t[hd][^>]*>{pattern}</t[hd]>", self.source) is not None


@pytest.fixture
def run(config_file: Path) -> Path:
    """A run directory with a file of each kind that the page shows."""
    run = write_run("runs/small-1", [20, 100, 250], solved=True, greedy=191.0)
    (run / "progress.csv").write_text(PROGRESS)
    (run / "evaluations.csv").write_text(EVALUATIONS)
    (run / "actions.csv").write_text(ACTIONS)
    (run / "videos").mkdir()
    for name in ("timesteps-step-200-episode-2", "success-step-1000-episode-3", "episode-1"):
        (run / "videos" / f"{name}.mp4").write_text(name)
    return run


def read_page(run: Path) -> Page:
    return Page(run / "report" / "report.html")


def test_page_of_a_run_is_in_its_directory(run: Path, toolkit: Toolkit) -> None:
    finished = toolkit("report", run)
    assert (finished.status, finished.err) == (0, "")
    assert finished.out.splitlines()[0] == ("double_dqn on CartPole-v1, seed 0: training met its success criterion.")
    assert finished.out.splitlines()[-1] == "runs/small-1/report/report.html"
    names = ("learning", "actions", "evaluations", "exploration", "losses")
    assert files_in(run / "report") == {"report.html", "report.md", *(f"figures/{name}.svg" for name in names)}
    assert package.report(run, "other") == Path("other/report.html")
    assert files_in(Path("other")) == files_in(run / "report")


def test_page_has_the_numbers_of_the_files(run: Path, toolkit: Toolkit) -> None:
    toolkit("report", run)
    page = read_page(run)
    assert page.has_row("timesteps", "370 of 300")
    assert page.has_row("success at timestep", "370")
    assert page.has_row("return of the last 10 training episodes", "123.3")
    assert page.has_row("return of 100 greedy episodes", "191.0")
    assert page.has_row("train/loss", "2", "2.25", "2.25", "4.5")
    assert page.has_row("rollout/exploration_rate", "3", "0.1", "0.1", "0.9")
    assert page.has_row("greedy", "2", "31.5 at 200", "31.5 at 200", "75 %")
    assert page.has_row("long", "1", "9.0 at 100", "9.0 at 100", "-")
    assert "Share of each action in the last 1,000 steps of training" in page.text
    assert "own/text" not in page.source
    assert page.tags.count("svg") == 5
    text = (run / "report" / "report.md").read_text()
    assert "| train/loss | 2 | 2.25 | 2.25 | 4.5 |" in text
    assert "![Learning curve](figures/learning.svg)" in text


def test_page_shows_parameters_that_change_and_stages(run: Path, toolkit: Toolkit) -> None:
    (run / "progress.csv").write_text(CHANGES)
    toolkit("report", run)
    page = read_page(run)
    assert "Parameters of the environment" in page.titles
    assert page.has_row("curriculum/stage", "2", "2", "1", "2")
    assert page.has_row("parameters/env.params.g", "2", "10", "2.5", "10")


def test_actions_have_ticks_with_their_exact_shares(run: Path, toolkit: Toolkit) -> None:
    rows = [f"0,{action},{action},50\n" for action in range(16)]
    (run / "actions.csv").write_text(f"component,low,high,steps\n{''.join(rows)}")
    toolkit("report", run)
    assert ">2.5%</text>" in (run / "report" / "figures" / "actions.svg").read_text()


def test_parts_of_the_return_are_those_of_monitor_csv(run: Path, toolkit: Toolkit) -> None:
    rows = ["20.0,20,1.0,20,-5.0", "100.0,100,2.0,120,-10.0"]
    header = HEAD.replace("r,l,t", "r,l,t,timestep,reward/angle_penalty")
    (run / "monitor.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    toolkit("report", run)
    page = read_page(run)
    assert page.has_row("raw return", "60.0")
    assert page.has_row("reward/angle_penalty", "-7.5")
    assert "Parts of the return" in page.titles


def test_videos_are_in_the_order_of_training(run: Path, toolkit: Toolkit) -> None:
    toolkit("report", run)
    page = read_page(run)
    assert page.titles[-4:] == [
        "Videos",
        "timestep 200, episode 2",
        "timestep 1,000, episode 3",
        "recorded outside training",
    ]
    assert page.tags.count("video") == 3
    assert "recorded when training met its success criterion; success-step-1000-episode-3.mp4." in page.text


def test_many_and_large_videos_are_left_out_and_counted(run: Path, toolkit: Toolkit) -> None:
    for number in range(20):
        (run / "videos" / f"episodes-step-{number}-episode-{number}.gif").write_text("small")
    os.truncate(run / "videos" / "episode-1.mp4", (4 << 20) + 1)
    toolkit("report", run)
    page = read_page(run)
    assert "not on this page: 1 video of more than 4 MiB, 10 videos between those shown." in page.text
    shown = [title for title in page.titles if title.startswith("timestep")]
    assert (len(shown), shown[0], shown[-1]) == (12, "timestep 0, episode 0", "timestep 1,000, episode 3")


def test_value_estimates_are_compared_with_returns(run: Path, toolkit: Toolkit) -> None:
    (run / "progress.csv").write_text(VALUES)
    toolkit("report", run)
    page = read_page(run)
    assert "Value estimates" in page.titles
    assert "In the last row the mean estimate is 9.50, and the mean return 8.00: 1.50 above what" in page.text
    assert "with a discount of up to 0.30" in page.text
    assert "entropy" not in page.text


@pytest.mark.parametrize("status", [None, "interrupted", "failed"])
def test_run_that_has_not_ended_has_a_page(config_file: Path, toolkit: Toolkit, status: str | None) -> None:
    run = write_run("runs/small-1", [20, 30], status=status)
    finished = toolkit("report", run)
    assert finished.status == 0
    page = read_page(run)
    note = {
        None: "Still running, or killed",
        "interrupted": "Interrupted, can be resumed",
        "failed": "failed at timestep",
    }
    assert note[status] in page.text
    assert page.titles == ["What was learned", "Learning curve"]


def test_run_without_episodes_has_a_page_of_facts(config_file: Path, toolkit: Toolkit) -> None:
    run = write_run("runs/small-1", status=None)
    (run / "monitor.csv").unlink()
    assert toolkit("report", run).status == 0
    assert read_page(run).titles == []


DAMAGE = {
    "progress.csv": ("a,time/total_timesteps\n1,2,3\n", ":2: has 3 cells, and the header has 2\ndelete the row"),
    "progress.csv ": ("time/total_timesteps\n-5\n", ": time/total_timesteps has a cell that is no count of timesteps"),
    "actions.csv": (
        "component,low,high,steps\n0,2,1,5\n",
        ":2: is not a count of actions: '0,2,1,5'\ndelete the file",
    ),
    "actions.csv ": ("nothing\n", ":1: is not the header of an actions.csv"),
    "evaluations.csv": ("nothing\n", ": is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file_of_a_run_is_bad_input(run: Path, toolkit: Toolkit, name: str) -> None:
    content, message = DAMAGE[name]
    (run / name.strip()).write_text(content)
    finished = toolkit("report", run)
    assert (finished.status, finished.out) == (2, "")
    assert f"{run / name.strip()}{message}" in finished.err
    assert "Traceback" not in finished.err
    assert not (run / "report").exists()


def test_row_that_is_being_written_is_left_out(run: Path, toolkit: Toolkit) -> None:
    (run / "progress.csv").write_text(f"{PROGRESS}15.0,0.0")
    assert toolkit("report", run).status == 0
    assert read_page(run).has_row("rollout/exploration_rate", "3", "0.1", "0.1", "0.9")


def test_page_of_a_run_executes_nothing_and_follows_no_link(config_file: Path, toolkit: Toolkit) -> None:
    Path("mine.py").write_text(
        "import pathlib, gymnasium\npathlib.Path('ran').touch()\nclass Mine(gymnasium.Wrapper):\n    pass\n"
    )
    run = write_run("runs/theirs-1", env__wrappers=["./mine.py:Mine"])
    Path("ran").unlink()  # building the config imported it
    Path("secret").write_text("time/total_timesteps,train/secret\n1,2\n")
    (run / "model.zip").write_bytes(b"none")
    (run / "videos").mkdir()
    for name in ("progress.csv", "actions.csv", "videos/video.mp4"):
        (run / name).symlink_to(Path("secret").resolve())
    (run / "progress.csv").with_name("x.csv").write_text("<script>")
    assert toolkit("report", run, "--trust").status == 0
    page = read_page(run)
    assert page.titles == ["What was learned", "Learning curve"]
    assert "secret" not in page.source
    assert not Path("ran").exists()


def test_names_in_files_cannot_change_the_page(run: Path, toolkit: Toolkit) -> None:
    (run / "progress.csv").write_text("time/total_timesteps,train/<script>$x_y$\n1,2\n")
    toolkit("report", run)
    page = read_page(run)
    assert "script" not in page.tags
    assert "train/<script>$x_y$" in page.text


def test_page_of_a_trained_run_shows_what_was_logged(run_copy: Run, toolkit: Toolkit) -> None:
    assert toolkit("report", run_copy.directory).status == 0
    with (run_copy.directory / "progress.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    numbers = (losses[-1], min(losses), max(losses))
    page = read_page(run_copy.directory)
    assert page.has_row("train/loss", f"{len(losses)}", *(f"{number:.6g}" for number in numbers))
    assert {"Learning curve", "Actions", "Losses"} <= {*page.titles}


def test_training_is_the_same_without_value_estimates(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "trace_values", lambda *_: None)
    other = trainer.train(finished_run.config, tmp_path / "other")
    assert find_differences(finished_run.directory, other.directory) == ["progress.csv"]
