"""Reports: what runs say together, nothing left out, on a page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import SMALL_CONFIG, Toolkit, files_in

import toolkit as package
from toolkit.config.load import load_config
from toolkit.experiments.config import load_plan
from toolkit.reports.captions import findings, notices
from toolkit.reports.collect import gather
from toolkit.reports.compare import compare
from toolkit.reports.figures import figures
from toolkit.reports.statistics import interquartile_mean
from toolkit.reports.tables import runs_table, summary_table

HEAD = '#{"t_start": 1.0, "env_id": "CartPole-v1"}\nr,l,t\n'
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(config_file: Path) -> MakeRun:
    """Make run directories as training and evaluation leave them."""

    def make(
        directory: str,
        returns: Sequence[float] = (20.0, 30.0),
        *,
        solved: bool = False,
        status: str | None = "",
        greedy: float | None = None,
        **values: Any,
    ) -> Path:
        run = Path(directory)
        run.mkdir(parents=True)
        seed = run.name.removeprefix("seed-")
        config = load_config(config_file, {"seed": int(seed) if seed.isdecimal() else 0, **values})
        (run / "config.yaml").write_text(config.to_yaml())
        rows = [f"{value},{max(1, int(abs(value)))},{number}.5\r\n" for number, value in enumerate(returns)]
        (run / "monitor.csv").write_text(HEAD + "".join(rows), newline="")
        steps = sum(max(1, int(abs(value))) for value in returns)
        success = {"threshold": 195.0, "episodes": 10, "solved": solved, "mean_return": float(np.mean(returns))}
        success |= {
            "episode": len(returns) if solved else None,
            "timestep": steps if solved else None,
            "seconds": None,
        }
        result = {"status": status or ("success" if solved else "finished"), "seed": config.seed, "timesteps": steps}
        result |= {"episodes": len(returns), "seconds": 1.5, "success": success}
        if status is not None:
            (run / "result.json").write_text(json.dumps(result))
        if greedy is not None:
            evaluation = {"episodes": 100, "mean_return": greedy, "returns": [greedy] * 100}
            (run / "evaluation.json").write_text(json.dumps(evaluation))
        return run

    return make


@pytest.fixture
def experiment(make_run: MakeRun) -> Path:
    """Two variants of four runs each: one learns, and one does not."""
    for seed in range(4):
        make_run(f"rewards/clip/seed-{seed}", [20, 100, 195 + seed], solved=seed > 0, greedy=190.0 + seed)
        make_run(f"rewards/none/seed-{seed}", [20, 21, 22, 23 + seed], greedy=20.0 + seed)
    return Path("rewards")


def lines(directory: Path) -> list[dict[str, str]]:
    with (directory / "report.csv").open() as file:
        return [*csv.DictReader(file)]


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_an_experiment_is_reported_in_its_directory(experiment: Path, toolkit: Toolkit) -> None:
    done = toolkit("report", experiment)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == "8 runs of 2 variants on CartPole-v1; all have ended."
    assert done.out.splitlines()[-1] == "rewards/report/report.html"
    assert re.search(r"clip +4 +75 % \(30 to 95\) +317 \(316 or more\) +191\.5 \(", done.out)
    assert re.search(r"none +4 +0 % \(0 to 49\) +not reached +21\.5 \(", done.out)
    assert files_in(experiment / "report") == {
        "report.html",
        "report.md",
        "report.csv",
        "figures/scores.svg",
        "figures/learning.svg",
        "figures/success.svg",
        "figures/profile.svg",
    }


def test_the_table_has_one_line_for_each_run(experiment: Path) -> None:
    page = package.report(experiment)
    read = lines(page.parent)
    assert len(read) == 8
    assert read[1] == {
        "variant": "clip",
        "environment": "CartPole-v1",
        "seed": "1",
        "status": "success",
        "reason": "",
        "timesteps": "316",
        "episodes": "3",
        "seconds": "1.5",
        "success_timestep": "316",
        "final_greedy_return": "191.0",
        "greedy_episodes": "100",
        "training_return": str((20 + 100 + 196) / 3),
        "directory": "rewards/clip/seed-1",
    }


def test_what_is_said_is_what_the_statistics_say(experiment: Path) -> None:
    (comparison,) = compare(gather([experiment]).variants)
    clip, none = comparison.summaries
    assert clip.score == interquartile_mean([np.array([190.0, 191, 192, 193])])
    assert comparison.pairs["clip", "none"].value == 1
    assert clip.success is not None
    assert (clip.solved, clip.success.value) == (3, 0.75)
    assert clip.times is not None
    assert clip.times.median.value == 317  # without success until 315, then of three with at 316, 317 and 318
    assert none.times is not None
    assert none.times.median.value == np.inf


def test_curves_go_on_with_the_last_value_of_runs_that_ended_early(make_run: MakeRun) -> None:
    make_run("e/a/seed-0", [10, 10, 10, 190], solved=True)
    make_run("e/a/seed-1", [100, 100, 100, 100])
    (comparison,) = compare(gather([Path("e")]).variants)
    curve = comparison.curves["a"]
    assert (curve.timesteps[0], curve.timesteps[-1]) == (100, 400)  # from where both have an episode
    assert curve.band.value[0] == (10 + 100) / 2
    assert curve.band.value[-1] == (55 + 100) / 2


TRACEBACK = """\
Traceback (most recent call last):
  File "pole.py", line 1, in step
    return self.rod[0]
KeyError: 0

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "cart.py", line 2, in step
    raise RuntimeError(
RuntimeError: the pole broke
mend it, or its wrappers
"""


def test_runs_that_have_not_ended_are_named_and_in_no_average(
    experiment: Path, make_run: MakeRun, toolkit: Toolkit
) -> None:
    failed = make_run("rewards/clip/seed-4", [1, 1], status="failed", greedy=1.0)
    (failed / "traceback.txt").write_text(TRACEBACK)
    make_run("rewards/clip/seed-5", [1, 1], status="interrupted")
    make_run("rewards/none/seed-4", [1, 1], status=None)
    file = {"base": {}, "variants": {"none": {}, "clip": {}}, "grid": {"a.b": [1]}, "seeds": [*range(10)]}
    (experiment / "experiment.yaml").write_text(json.dumps(file))
    done = toolkit("report", experiment)
    assert done.status == 0
    for said in (
        "11 runs of 2 variants on CartPole-v1; 8 have ended.",
        "rewards/clip/seed-4 failed at timestep 2: RuntimeError: the pole broke.",
        "Interrupted, can be resumed: rewards/clip/seed-5.",
        "Not ended, at work or killed: rewards/none/seed-4.",
        "Not begun: 9 runs.",
    ):
        assert said in done.out
        assert said in Page(experiment / "report" / "report.html").text
    assert done.out.index("These are in no average") < done.out.index("Not begun")  # of which there is nothing to say
    assert re.search(r"clip +4 of 6 +75 % .*191\.5 ", done.out)
    assert [line["variant"] for line in lines(experiment / "report")] == ["none"] * 5 + ["clip"] * 6  # as in the file
    assert [line["status"] for line in lines(experiment / "report")][-2:] == ["failed", "interrupted"]


def test_the_page_needs_nothing_else(experiment: Path) -> None:
    page = Page(package.report([experiment], "out"))
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; ")
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attributes.items():
            if name.endswith(("src", "href")):
                assert str(value).startswith(("#", "data:")), (tag, value)
    assert not re.findall(r"url\((?!#)|@import|https?:", page.source)
    assert "width=device-width" in str(page.all("meta")[1]["content"])


def test_figures_are_described_and_do_not_disturb_one_another(experiment: Path) -> None:
    page = Page(package.report([experiment]))
    labels = [str(svg["aria-label"]) for svg in page.all("svg")]
    assert len(labels) == 4
    assert all(" on CartPole-v1. " in label for label in labels)
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', page.source)
    assert used
    assert {*used} <= {*ids}


def test_the_words_say_of_how_many_runs_and_what_may_not_be_concluded(experiment: Path) -> None:
    text = Page(package.report([experiment])).text
    assert "over 100 greedy episodes" in text
    assert "interquartile mean over runs (4 each)" in text
    assert "goes on with its last value" in text
    assert "Ticks: runs that stopped without success (clip 1, none 4)." in text
    assert "A run of clip scores higher than one of none with probability 100 % (100 to 100)." in text
    assert "cannot put that in doubt, other seeds could" in text
    assert "Nothing is corrected for looking at 1 pair" in text


def test_a_single_run_is_no_reason_for_intervals(make_run: MakeRun, toolkit: Toolkit) -> None:
    run = make_run("runs/alone-1", [20, 30, 40], greedy=50.0)
    done = toolkit("report", run)
    assert done.status == 0
    assert done.out.splitlines()[-1] == "report/report.html"
    assert re.search(r"small +1 +0 % \(0 to 79\) +not reached +50\.00$", done.out, re.MULTILINE)
    page = Page(Path("report/report.html"))
    assert len(page.all("svg")) == 1
    assert "Probability" not in page.text.partition("Methods")[0]


def test_a_variant_without_a_score_is_no_single_run(make_run: MakeRun) -> None:
    for seed in range(3):
        make_run(f"e/a/seed-{seed}", greedy=5.0 + seed)
        make_run(f"e/b/seed-{seed}", status="failed")
    (comparison,) = compare(gather([Path("e")]).variants)
    assert findings(comparison) == ["Fewer than two variants have a score: nothing can be said of which is better."]


def test_one_huge_return_takes_nothing_from_the_averages_after_it(make_run: MakeRun) -> None:
    run = make_run("runs/huge")
    (run / "monitor.csv").write_text(f"{HEAD}-1e20,1,0.5\n" + "200.0,1,1.5\n" * 300)
    (outcome,) = gather([run]).runs
    assert outcome.training_return == 200
    assert outcome.averages[[8, 9, 10]].tolist() == [-1e20 / 9, -1e20 / 10, 200]  # of ten episodes


def test_variants_of_a_grid_are_in_the_order_of_its_values(make_run: MakeRun, config_file: Path) -> None:
    grid = {"algorithm.params.batch_size": [32, 64, 128], "algorithm.params.gamma": [0.99, 0.9]}
    file = {"base": config_file.name, "variants": {"b": {}, "a": {}}, "grid": grid, "seeds": 1}
    Path("e.yaml").write_text(json.dumps(file))
    plan = load_plan(Path("e.yaml"))
    for run in plan.runs():
        make_run(f"e/{run.name}")
    make_run("e/b,by=hand/seed-0")
    Path("e/experiment.yaml").write_text(plan.text)
    names = [variant.name for variant in plan.variants]
    assert names[:3] == ["b,batch_size=32,gamma=0.99", "b,batch_size=32,gamma=0.9", "b,batch_size=64,gamma=0.99"]
    assert [variant.name for variant in gather([Path("e")]).variants] == [*names[:6], "b,by=hand", *names[6:]]


def test_two_single_runs_allow_no_conclusion(make_run: MakeRun) -> None:
    page = Page(package.report([make_run(f"runs/{gamma}", algorithm__params__gamma=gamma) for gamma in (0.9, 0.99)]))
    assert "With a single run of a variant nothing can be said" in page.text
    assert not page.all("strong")


def test_without_evaluations_runs_are_judged_by_training(make_run: MakeRun, toolkit: Toolkit) -> None:
    for seed in range(3):
        make_run(f"e/a/seed-{seed}", [10 + seed, 20 + seed])
    done = toolkit("report", "e")
    assert "3 runs without evaluation.json" in done.out
    assert "--evaluate" in done.out
    assert re.search(r"return at the end of training\n.* 16\.0 \(", done.out)


def test_runs_with_equal_configs_are_one_variant_and_named_by_what_differs(make_run: MakeRun) -> None:
    runs = [
        make_run(f"runs/{name}/seed-{seed}", algorithm__params__gamma=gamma, env__wrappers=wrappers)
        for name, gamma, wrappers in (("a", 0.9, []), ("b", 0.99, []), ("c", 0.99, ["angle_penalty"]))
        for seed in range(2)
    ]
    variants = gather(runs).variants
    assert [(one.name, len(one.runs)) for one in variants] == [
        ("small (wrappers=none, gamma=0.9)", 2),
        ("small (wrappers=none, gamma=0.99)", 2),
        ("small (wrappers=angle_penalty, gamma=0.99)", 2),
    ]
    assert [run.seed for run in variants[1].runs] == [0, 1]


def test_variants_of_one_name_are_told_apart_by_their_experiments(make_run: MakeRun) -> None:
    for place in ("first/a/seed-0", "second/a/seed-0", "second/b/seed-0"):
        make_run(place)
    assert [one.name for one in gather([Path("first"), Path("second")]).variants] == ["first/a", "second/a", "b"]


def test_experiments_of_one_name_are_told_apart_by_where_they_are(make_run: MakeRun) -> None:
    for place in ("first/same/a/seed-0", "second/same/a/seed-0"):
        make_run(place)
    gathered = gather([Path("first/same"), Path("second/same")])
    assert gathered.title == "first/same, second/same"
    assert [one.name for one in gathered.variants] == ["first/same/a", "second/same/a"]


def test_a_run_counts_once_however_often_it_is_named(experiment: Path) -> None:
    Path("again").symlink_to(experiment)
    (experiment / "clip" / "seed-9").symlink_to("seed-0")
    gathered = gather([experiment / "clip" / "seed-0", experiment, Path("again"), experiment / "none"])
    assert gathered.title == "rewards"
    assert [(one.name, len(one.runs)) for one in gathered.variants] == [("clip", 4), ("none", 4)]


def test_runs_of_one_seed_are_not_passed_over(make_run: MakeRun) -> None:
    runs = [make_run(f"runs/small-{number}", greedy=9.36) for number in range(3)]
    assert notices(gather(runs)) == [
        "Seed 0 is there 3 times in small: these runs are not independent, and intervals are too narrow."
    ]


def test_a_variant_of_an_experiment_can_be_reported_alone(experiment: Path) -> None:
    (variant,) = gather([experiment / "clip"]).variants
    assert [run.seed for run in variant.runs] == [0, 1, 2, 3]


def test_runs_on_different_environments_are_not_of_one_variant(make_run: MakeRun) -> None:
    make_run("mixed/a/seed-0", greedy=200.0)
    make_run("mixed/a/seed-1", greedy=-500.0, env__id="Acrobot-v1")
    make_run("mixed/a/seed-2", greedy=100.0, env__max_episode_steps=100)
    scores = {one.task: one.summaries[0].scores.tolist() for one in compare(gather([Path("mixed")]).variants)}
    assert scores == {"CartPole-v1 (200 steps)": [200], "Acrobot-v1": [-500], "CartPole-v1 (100 steps)": [100]}


def test_a_grid_over_environments_gives_each_variant_on_all_of_them(make_run: MakeRun, config_file: Path) -> None:
    ids = ["CartPole-v1", "gymnasium.envs.classic_control:CartPole-v1"]
    grid = {"env.id": ids, "algorithm.params.gamma": [0.9, 0.99]}
    file = {"base": config_file.name, "variants": {"a": {}, "b": {}}, "grid": grid, "seeds": 1}
    Path("e.yaml").write_text(json.dumps(file))
    plan = load_plan(Path("e.yaml"))
    for run in plan.runs():
        make_run(f"e/{run.name}", env__id=run.config.env.id)
    Path("e/experiment.yaml").write_text(plan.text)
    variants = gather([Path("e")]).variants
    names = ["a,gamma=0.9", "a,gamma=0.99", "b,gamma=0.9", "b,gamma=0.99"]
    for task in ids:
        assert [one.name for one in variants if one.task == task] == names


def test_a_variant_that_is_called_by_its_environment_alone_has_a_name(make_run: MakeRun) -> None:
    make_run("e/id=CartPole-v1/seed-0")
    make_run("e/id=Acrobot-v1/seed-0", env__id="Acrobot-v1")
    assert [one.name for one in gather([Path("e")]).variants] == ["small", "small"]


def test_a_single_run_of_the_first_variant_hides_no_figure(make_run: MakeRun) -> None:
    for place in ("e/a/seed-0", "e/b/seed-0", "e/b/seed-1"):
        make_run(place)
    (comparison,) = compare(gather([Path("e")]).variants)
    assert "success" in [figure.kind for figure in figures(comparison)]


def test_huge_returns_are_written_in_few_characters(make_run: MakeRun) -> None:
    for seed in range(2):
        make_run(f"e/a/seed-{seed}", greedy=1e149 + seed * 1e148)
    gathered = gather([Path("e")])
    (comparison,) = compare(gathered.variants)
    assert summary_table(comparison).rows[0][-1] == "1.05e+149 (1e+149 to 1.1e+149)"
    assert runs_table(gathered).rows[1][-2] == "1.1e+149"


def test_environments_are_compared_each_by_itself(make_run: MakeRun, toolkit: Toolkit) -> None:
    environments = {"cart": "CartPole-v1", "acro": "Acrobot-v1"}
    for place, env_id in environments.items():
        for seed in range(3):
            make_run(f"{place}/dqn/seed-{seed}", greedy=-100.0 + seed, env__id=env_id, env__wrappers=[])
            make_run(f"{place}/double,id={env_id}/seed-{seed}", greedy=-99.0 + seed, env__id=env_id, env__wrappers=[])
    done = toolkit("report", *environments)
    assert done.status == 0
    page = Page(Path("report/report.html"))
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert headings == ["CartPole-v1", "Acrobot-v1", "All environments", "Videos", "Runs", "Methods"]
    overall = Path("report/report.md").read_text().partition("## All environments")[2]
    assert re.search(r"\| double \| {2}\| 78 % \(", overall)  # of nine pairs six are won and two are ties
    assert (Path("report/figures") / "learning-2.svg").is_file()


def test_one_environment_with_two_time_limits_is_two_tasks(make_run: MakeRun) -> None:
    runs = [make_run(f"runs/{limit}", env__max_episode_steps=limit) for limit in (200, 500)]
    assert [one.task for one in gather(runs).variants] == ["CartPole-v1 (200 steps)", "CartPole-v1 (500 steps)"]


def test_of_many_variants_the_best_are_drawn_and_all_are_in_the_table(make_run: MakeRun, toolkit: Toolkit) -> None:
    for number in range(12):
        for seed in range(2):
            make_run(f"e/v{number:02}/seed-{seed}", greedy=float(number + seed))
    done = toolkit("report", "e")
    assert "and 2 more, which score lower, in the report" in done.out
    page = Page(Path("e/report/report.html"))
    assert "Of 12 variants the 10 that score highest are drawn" in page.text
    assert "v00" in page.text
    assert "v00" not in Path("e/report/figures/learning.svg").read_text()
    assert len(lines(Path("e/report"))) == 24


HOSTILE = [
    "<script>alert(1)<",
    "$x_1$",
    "a|b`*_",
    "名前 é",
    '"><img src=x onerror=alert(1)>',
    "\x1b[31mred\n",
    "&amp;",
    '=1+1 www.x.example id="k" href="#z" url(#q)',
    os.fsdecode(b"\xff"),
]


def test_names_show_as_they_are_and_do_nothing(make_run: MakeRun, toolkit: Toolkit) -> None:
    for name in HOSTILE:
        for seed in range(2):
            run = make_run(f"e/{name}/seed-{seed}", greedy=float(seed))
    make_run(f"e/{HOSTILE[5]}/seed-2", status="interrupted")
    failed = make_run(f"e/{HOSTILE[0]}/seed-2", status="failed")
    (failed / "traceback.txt").write_text("<img src=http://example.com/x>\n")
    (run / "traceback.txt").write_text("not shown")
    done = toolkit("report", "e")
    assert done.status == 0
    assert "\x1b" not in done.out
    page = Page(Path("e/report/report.html"))
    assert not page.all("script")
    assert not page.all("img")
    for name in (*HOSTILE[:5], *HOSTILE[6:8], "\\x1b[31mred\\n", "\\udcff"):
        assert name in page.text
    assert "svg-k" not in page.text  # only what is an id is made one of its own
    text = Path("e/report/report.md").read_text()
    assert "<script" not in text
    assert "a\\|b\\`\\*\\_" in text
    assert "www.x" not in text  # of which GitHub would make a link
    assert "http://" not in text
    read = lines(Path("e/report"))
    names = {"'" + name if name.startswith("=") else name for name in HOSTILE}  # no formulas
    assert {line["variant"] for line in read} == names - {HOSTILE[5], HOSTILE[8]} | {"\\x1b[31mred\\n", "\\udcff"}
    assert {"\\udcff" in line["directory"] for line in read} == {True, False}


def test_a_report_is_replaced_and_nothing_else_is_touched(experiment: Path, toolkit: Toolkit) -> None:
    out = Path("out")
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert toolkit("report", experiment, "--out", out).status == 0
    first = {name: (out / name).read_bytes() for name in files_in(out)}
    (out / "report.html").write_text("spoilt")
    assert toolkit("report", experiment, "--out", out).status == 0
    assert {name: (out / name).read_bytes() for name in files_in(out)} == first  # equal runs give equal files
    (experiment / "clip" / "seed-0" / "evaluation.json").unlink()
    assert toolkit("report", experiment, "--out", out).status == 0
    assert "of 3 runs" in (out / "report.html").read_text()
    assert (out / "mine.txt").read_text() == "mine"
    assert not [name for name in files_in(Path()) if name.endswith(".tmp")]


def test_runs_that_share_all_but_the_seed_are_read_as_they_are(make_run: MakeRun) -> None:
    """Configs are read once for all seeds; one that differs otherwise is read anew."""
    runs = [make_run(f"runs/{seed}/seed-{seed}", timesteps=300 + (seed == 2)) for seed in range(3)]
    assert [[(run.seed, run.config.timesteps) for run in one.runs] for one in gather(runs).variants] == [
        [(0, 300), (1, 300)],
        [(2, 301)],
    ]


LONG = "x" * 300
DAMAGE = {
    "config.yaml": ("timesteps: many\n", "config.yaml"),
    "result.json": ("{", "result.json: is damaged"),
    "monitor.csv": (HEAD + "ten,1,2\n", "monitor.csv:3: is no episode: 'ten,1,2'"),
    "evaluation.json": ('{"episodes": 100}', "evaluation.json: is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_bad_input(experiment: Path, toolkit: Toolkit, name: str) -> None:
    content, message = DAMAGE[name]
    (experiment / "none" / "seed-2" / name).write_text(content)
    before = files_in(Path())
    done = toolkit("report", experiment)
    assert (done.status, done.out) == (2, "")
    assert "rewards/none/seed-2/" in done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert files_in(Path()) == before


def test_all_damaged_files_are_named_at_once(experiment: Path, toolkit: Toolkit) -> None:
    for seed, value in enumerate(("{}", "[1]", '{"episodes": 1, "mean_return": NaN}', "\0")):
        (experiment / "none" / f"seed-{seed}" / "evaluation.json").write_text(value)
    done = toolkit("report", experiment)
    assert done.status == 2
    assert done.err.count("evaluation.json: is damaged") == 4
    assert done.err.splitlines()[-1] == "remove it: the run then counts as not evaluated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: there is no such directory"),
        (["loop"], "loop: there is no such directory"),
        ([LONG], f"{LONG}/config.yaml: cannot be read: File name too long"),
        (["rewards", LONG], f"{LONG}/config.yaml: cannot be read: File name too long"),
        (["rewards", "--out", LONG], f"{LONG}: cannot be written: File name too long"),
        (["empty"], "empty: is neither a run, with a config.yaml, nor an experiment"),
        (["small.yaml"], "small.yaml: is neither a run"),
        (["rewards", "empty"], "empty: is neither a run"),
        (["rewards", "--out", "small.yaml"], "small.yaml: cannot be written: small.yaml is not a directory"),
        (["rewards", "--out", "small.yaml/report"], "small.yaml/report: cannot be written"),
        (["rewards", "--out", "spoilt"], "spoilt/figures: cannot be written"),
        (["going"], "going: no run has ended: Not ended, at work or killed: going/a/seed-0.\nwait for one"),
        (
            ["broken"],
            "broken: no run has ended: broken/a/seed-0 failed at timestep 50: traceback.txt does not say why.",
        ),
        (["broken"], "`toolkit resume RUN` goes on with one"),
        ([], "Missing argument 'DIR"),
    ],
)
def test_what_is_no_report_is_bad_input(
    experiment: Path, make_run: MakeRun, toolkit: Toolkit, arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    Path("loop").symlink_to("loop")
    Path("spoilt").mkdir()
    Path("spoilt/figures").write_text("a file")
    make_run("going/a/seed-0", status=None)
    make_run("broken/a/seed-0", status="failed")
    before = files_in(Path())
    done = toolkit("report", *arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err
    assert files_in(Path()) == before


def test_runs_are_evaluated_and_filmed(working_directory: Path, toolkit: Toolkit) -> None:
    Path("small.yaml").write_text(SMALL_CONFIG)
    runs = [package.train("small.yaml", seed=seed, timesteps=100).directory for seed in (0, 1)]
    done = toolkit("report", *runs, "--evaluate", "--out", "out")
    assert done.status == 0
    for run in runs:
        asked = json.loads(toolkit("evaluate", run, "--json").out)
        assert json.loads((run / "evaluation.json").read_text()) == asked
    assert "without" not in done.out
    page = Page(Path("out/report.html"))
    (video,) = page.all("video")
    assert base64.b64decode(str(video["src"]).partition(",")[2])[4:8] == b"ftyp"
    assert "of 2 runs the median (the upper of two) by final greedy return: " in page.text
    assert not files_in(Path("runs/small-1/videos"))


def test_a_run_that_cannot_be_evaluated_is_named_and_no_reason_to_say_nothing(
    make_run: MakeRun, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    make_run("e/a/seed-0", greedy=5.0)
    make_run("e/a/seed-1")
    done = toolkit("report", "e", "--evaluate")
    assert done.status == 0
    assert "e/a/seed-1 is not evaluated: e/a/seed-1: has no model.zip" in caplog.text
    assert "1 run without evaluation.json" in done.out
    assert "5.000 of 1 run" in done.out


BREAKS = """\
import pathlib
import gymnasium


class Breaks(gymnasium.Wrapper):
    def close(self):
        super().close()
        if pathlib.Path("broken").exists():
            raise RuntimeError("it does not close")
"""


def test_an_environment_that_raises_is_no_reason_to_say_nothing(
    config_file: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    Path("breaks.py").write_text(BREAKS)
    run = package.train(config_file, timesteps=8, env__wrappers=["./breaks.py:Breaks"]).directory
    Path("broken").touch()
    done = toolkit("report", run, "--evaluate")
    assert done.status == 0, done.err
    assert f"{run} is not evaluated: RuntimeError: it does not close (" in caplog.text
    assert "No video of seed 0: RuntimeError: it does not close (" in Page(Path("report/report.html")).text


def test_a_run_of_somebody_elses_code_runs_none_of_it(make_run: MakeRun, toolkit: Toolkit) -> None:
    Path("mine.py").write_text(
        "import pathlib, gymnasium\npathlib.Path('ran').touch()\nclass Mine(gymnasium.Wrapper):\n    pass\n"
    )
    run = make_run("runs/theirs-1", env__wrappers=["./mine.py:Mine"])
    Path("ran").unlink()  # while the config was made
    (run / "model.zip").write_bytes(b"none")
    done = toolkit("report", run)
    assert done.status == 0
    assert "has not trained this run here" in Page(Path("report/report.html")).text
    assert not Path("ran").exists()
    assert toolkit("report", run, "--trust").status == 0
    assert "has not trained this run here" not in Page(Path("report/report.html")).text


def test_links_bring_no_other_file_into_the_page(make_run: MakeRun, toolkit: Toolkit) -> None:
    run = make_run("runs/theirs-1")
    failed = make_run("runs/theirs-2", status="failed")
    Path("secret.mp4").write_text("secret")
    (run / "videos").mkdir()
    (run / "videos" / "video.mp4").symlink_to(Path("secret.mp4").resolve())
    (failed / "traceback.txt").symlink_to(Path("secret.mp4").resolve())
    assert toolkit("report", run, failed).status == 0
    page = Page(Path("report/report.html"))
    assert not page.all("video")
    assert "it has no model.zip" in page.text
    assert "secret" not in page.source
