"""Reports: collection of runs, comparison of variants, and the files of a report."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from run_files import HEAD, write_experiment, write_run
from support import SMALL_CONFIG, Toolkit, files_in

import toolkit as package
from toolkit.experiments.config import load_plan
from toolkit.reports.captions import list_findings, list_notices
from toolkit.reports.collect import collect_runs
from toolkit.reports.compare import Comparison, compare_variants
from toolkit.reports.figures import draw_figures
from toolkit.reports.statistics import estimate_interquartile_mean
from toolkit.reports.tables import make_run_table, make_summary_table

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(config_file: Path) -> MakeRun:
    """Write run directories of the small config."""
    return write_run


@pytest.fixture
def experiment(config_file: Path) -> Path:
    """Write the experiment `rewards`."""
    return write_experiment()


@pytest.fixture(scope="module")
def rewards_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report the experiment `rewards` once, for tests that only read the report; return its directory."""
    directory = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        Path("small.yaml").write_text(SMALL_CONFIG)
        package.report(write_experiment())
    return directory / "rewards" / "report"


def read_csv(directory: Path) -> list[dict[str, str]]:
    with (directory / "report.csv").open() as file:
        return [*csv.DictReader(file)]


def compare_directory(directory: str | Path) -> list[Comparison]:
    return compare_variants(collect_runs([Path(directory)]).variants)


class Page(HTMLParser):
    """The elements and the text of an HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def find_all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_report_of_experiment_goes_into_its_directory(experiment: Path, toolkit: Toolkit) -> None:
    finished = toolkit("report", experiment)
    assert (finished.status, finished.err) == (0, "")
    assert finished.out.splitlines()[0] == "8 runs of 2 variants on CartPole-v1; all have ended."
    assert finished.out.splitlines()[-1] == "rewards/report/report.html"
    assert re.search(r"clip +4 +75 % \(30 to 95\) +317 \(316 or more\) +191\.5 \(", finished.out)
    assert re.search(r"none +4 +0 % \(0 to 49\) +not reached +21\.5 \(", finished.out)
    assert files_in(experiment / "report") == {
        "report.html",
        "report.md",
        "report.csv",
        "figures/scores.svg",
        "figures/learning.svg",
        "figures/success.svg",
        "figures/profile.svg",
    }


def test_csv_has_one_row_per_run(rewards_report: Path) -> None:
    rows = read_csv(rewards_report)
    assert len(rows) == 8
    assert rows[1] == {
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


def test_comparison_has_the_estimates_of_the_statistics(experiment: Path) -> None:
    (comparison,) = compare_directory(experiment)
    clip, none = comparison.summaries
    assert clip.mean_score == estimate_interquartile_mean([np.array([190.0, 191, 192, 193])])
    assert comparison.improvements["clip", "none"].value == 1
    assert clip.success_rate is not None
    assert clip.success_rate.value == 0.75
    assert clip.time_to_success is not None
    assert clip.time_to_success.median.value == 317  # one run stops at 315, three succeed at 316, 317 and 318
    assert none.time_to_success is not None
    assert none.time_to_success.median.value == np.inf


def test_learning_curve_keeps_last_value_of_shorter_runs(make_run: MakeRun) -> None:
    make_run("e/a/seed-0", [10, 10, 10, 190], solved=True)
    make_run("e/a/seed-1", [100, 100, 100, 100])
    (comparison,) = compare_directory("e")
    curve = comparison.curves["a"]
    assert (curve.timesteps[0], curve.timesteps[-1]) == (100, 400)  # both runs have an episode by then
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


def test_runs_that_have_not_ended_are_named_but_not_averaged(
    experiment: Path, make_run: MakeRun, toolkit: Toolkit
) -> None:
    failed = make_run("rewards/clip/seed-4", [1, 1], status="failed", greedy=1.0)
    (failed / "traceback.txt").write_text(TRACEBACK)
    make_run("rewards/clip/seed-5", [1, 1], status="interrupted")
    make_run("rewards/none/seed-4", [1, 1], status=None)
    file = {"base": {}, "variants": {"none": {}, "clip": {}}, "grid": {"a.b": [1]}, "seeds": [*range(10)]}
    (experiment / "experiment.yaml").write_text(json.dumps(file))
    finished = toolkit("report", experiment)
    assert finished.status == 0
    for sentence in (
        "11 runs of 2 variants on CartPole-v1; 8 have ended.",
        "rewards/clip/seed-4 failed at timestep 2: RuntimeError: the pole broke.",
        "Interrupted, can be resumed: rewards/clip/seed-5.",
        "Still running, or killed: rewards/none/seed-4.",
        "Not started: 9 runs.",
    ):
        assert sentence in finished.out
        assert sentence in Page(experiment / "report" / "report.html").text
    assert finished.out.index("Averages and success rates leave these runs out.") < finished.out.index("Not started")
    assert re.search(r"clip +4 of 6 +75 % .*191\.5 ", finished.out)
    assert [row["variant"] for row in read_csv(experiment / "report")] == ["none"] * 5 + [
        "clip"
    ] * 6  # the order of the file
    assert [row["status"] for row in read_csv(experiment / "report")][-2:] == ["failed", "interrupted"]


def test_page_loads_no_other_file(rewards_report: Path) -> None:
    page = Page(rewards_report / "report.html")
    (policy,) = [
        meta["content"] for meta in page.find_all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert str(policy).startswith("default-src 'none'; ")
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attributes.items():
            if name.endswith(("src", "href")):
                assert str(value).startswith(("#", "data:")), (tag, value)
    assert not re.findall(r"url\((?!#)|@import|https?:", page.source)
    assert "width=device-width" in str(page.find_all("meta")[1]["content"])


def test_inline_figures_have_labels_and_unique_ids(rewards_report: Path) -> None:
    page = Page(rewards_report / "report.html")
    labels = [str(svg["aria-label"]) for svg in page.find_all("svg")]
    assert len(labels) == 4
    assert all(" on CartPole-v1. " in label for label in labels)
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', page.source)
    assert used
    assert {*used} <= {*ids}


def test_captions_count_runs_and_limit_conclusions(rewards_report: Path) -> None:
    text = Page(rewards_report / "report.html").text
    assert "over 100 greedy episodes" in text
    assert "interquartile mean over runs (4 each)" in text
    assert "keeps its last value" in text
    assert "Ticks: runs that stopped without success (clip 1, none 4)." in text
    assert "A run of clip scores higher than a run of none with probability 100 % (51 to 100)." in text
    assert "not corrected for multiple comparisons (1 pair)" in text


def test_experiment_of_one_run_has_no_intervals(make_run: MakeRun, toolkit: Toolkit) -> None:
    make_run("alone/small/seed-1", [20, 30, 40], greedy=50.0)
    finished = toolkit("report", "alone")
    assert finished.status == 0
    assert finished.out.splitlines()[-1] == "alone/report/report.html"
    assert re.search(r"small +1 +0 % \(0 to 79\) +not reached +50\.00$", finished.out, re.MULTILINE)
    page = Page(Path("alone/report/report.html"))
    assert len(page.find_all("svg")) == 1
    assert "Probability" not in page.text.partition("Methods")[0]


def test_variant_without_score_is_not_compared(make_run: MakeRun) -> None:
    for seed in range(3):
        make_run(f"e/a/seed-{seed}", greedy=5.0 + seed)
        make_run(f"e/b/seed-{seed}", status="failed")
    (comparison,) = compare_directory("e")
    assert list_findings(comparison) == ["Fewer than two variants have a score, so none can be called better."]


def test_huge_return_does_not_distort_later_averages(make_run: MakeRun) -> None:
    run = make_run("runs/huge")
    (run / "monitor.csv").write_text(f"{HEAD}-1e20,1,0.5\n" + "200.0,1,1.5\n" * 300)
    (record,) = collect_runs([run]).runs
    assert record.training_return == 200
    assert record.curve_returns[[8, 9, 10]].tolist() == [-1e20 / 9, -1e20 / 10, 200]  # means of ten episodes


def test_variants_of_grid_keep_the_order_of_the_file(make_run: MakeRun, config_file: Path) -> None:
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
    assert [variant.name for variant in collect_runs([Path("e")]).variants] == [*names[:6], "b,by=hand", *names[6:]]


def test_two_single_runs_allow_no_conclusion(make_run: MakeRun) -> None:
    page = Page(package.report([make_run(f"runs/{gamma}", algorithm__params__gamma=gamma) for gamma in (0.9, 0.99)]))
    assert "A single run does not show how the runs of its variant differ" in page.text
    assert not page.find_all("strong")


def test_scores_are_training_returns_without_evaluations(make_run: MakeRun, toolkit: Toolkit) -> None:
    for seed in range(3):
        make_run(f"e/a/seed-{seed}", [10 + seed, 20 + seed])
    finished = toolkit("report", "e")
    assert "without a final greedy return: 3 runs." in finished.out
    assert "--evaluate" in finished.out
    assert re.search(r"return at the end of training\n.* 16\.0 \(", finished.out)


def test_runs_with_equal_configs_are_one_variant_named_by_differences(make_run: MakeRun) -> None:
    runs = [
        make_run(f"runs/{name}/seed-{seed}", algorithm__params__gamma=gamma, env__wrappers=wrappers)
        for name, gamma, wrappers in (("a", 0.9, []), ("b", 0.99, []), ("c", 0.99, ["angle_penalty"]))
        for seed in range(2)
    ]
    variants = collect_runs(runs).variants
    assert [(variant.name, len(variant.runs)) for variant in variants] == [
        ("small (wrappers=none, gamma=0.9)", 2),
        ("small (wrappers=none, gamma=0.99)", 2),
        ("small (wrappers=angle_penalty, gamma=0.99)", 2),
    ]
    assert [run.seed for run in variants[1].runs] == [0, 1]


def test_equal_variant_names_get_their_experiments_names(make_run: MakeRun) -> None:
    for directory in ("first/a/seed-0", "second/a/seed-0", "second/b/seed-0"):
        make_run(directory)
    assert [variant.name for variant in collect_runs([Path("first"), Path("second")]).variants] == [
        "first/a",
        "second/a",
        "b",
    ]


def test_equal_experiment_names_get_their_parent_directories(make_run: MakeRun) -> None:
    for directory in ("first/same/a/seed-0", "second/same/a/seed-0"):
        make_run(directory)
    collection = collect_runs([Path("first/same"), Path("second/same")])
    assert collection.title == "first/same, second/same"
    assert [variant.name for variant in collection.variants] == ["first/same/a", "second/same/a"]


def test_run_named_twice_counts_once(experiment: Path) -> None:
    Path("again").symlink_to(experiment)
    (experiment / "clip" / "seed-9").symlink_to("seed-0")
    collection = collect_runs([experiment / "clip" / "seed-0", experiment, Path("again"), experiment / "none"])
    assert collection.title == "rewards"
    assert [(variant.name, len(variant.runs)) for variant in collection.variants] == [("clip", 4), ("none", 4)]


def test_repeated_seed_is_a_notice(make_run: MakeRun) -> None:
    runs = [make_run(f"runs/small-{number}", greedy=9.36) for number in range(3)]
    assert list_notices(collect_runs(runs)) == [
        "Seed 0 occurs 3 times in small: these runs are not independent, so that intervals are too narrow."
    ]


def test_run_that_did_not_learn_is_a_notice(make_run: MakeRun) -> None:
    runs = [make_run(f"small/seed-{seed}", greedy=9.36) for seed in range(2)]
    result = json.loads((runs[1] / "result.json").read_text())
    (runs[1] / "result.json").write_text(json.dumps(result | {"diagnosis": "training did not learn: why"}))
    assert list_notices(collect_runs(runs)) == ["small/seed-1 is in the averages, but training did not learn: why."]


def test_directory_of_one_variant_is_a_valid_input(experiment: Path) -> None:
    (variant,) = collect_runs([experiment / "clip"]).variants
    assert [run.seed for run in variant.runs] == [0, 1, 2, 3]


def test_runs_on_different_environments_are_different_variants(make_run: MakeRun) -> None:
    make_run("mixed/a/seed-0", greedy=200.0)
    make_run("mixed/a/seed-1", greedy=-500.0, env__id="Acrobot-v1")
    make_run("mixed/a/seed-2", greedy=100.0, env__max_episode_steps=100)
    scores = {
        comparison.environment: comparison.summaries[0].scores.tolist() for comparison in compare_directory("mixed")
    }
    assert scores == {"CartPole-v1 (200 steps)": [200], "Acrobot-v1": [-500], "CartPole-v1 (100 steps)": [100]}


def test_grid_over_environments_keeps_variant_names(make_run: MakeRun, config_file: Path) -> None:
    ids = ["CartPole-v1", "gymnasium.envs.classic_control:CartPole-v1"]
    grid = {"env.id": ids, "algorithm.params.gamma": [0.9, 0.99]}
    file = {"base": config_file.name, "variants": {"a": {}, "b": {}}, "grid": grid, "seeds": 1}
    Path("e.yaml").write_text(json.dumps(file))
    plan = load_plan(Path("e.yaml"))
    for run in plan.runs():
        make_run(f"e/{run.name}", env__id=run.config.env.id)
    Path("e/experiment.yaml").write_text(plan.text)
    variants = collect_runs([Path("e")]).variants
    names = ["a,gamma=0.9", "a,gamma=0.99", "b,gamma=0.9", "b,gamma=0.99"]
    for environment in ids:
        assert [variant.name for variant in variants if variant.environment == environment] == names


def test_variant_named_only_by_environment_gets_config_name(make_run: MakeRun) -> None:
    make_run("e/id=CartPole-v1/seed-0")
    make_run("e/id=Acrobot-v1/seed-0", env__id="Acrobot-v1")
    assert [variant.name for variant in collect_runs([Path("e")]).variants] == ["small", "small"]


def test_single_run_of_first_variant_hides_no_figure(make_run: MakeRun) -> None:
    for directory in ("e/a/seed-0", "e/b/seed-0", "e/b/seed-1"):
        make_run(directory)
    (comparison,) = compare_directory("e")
    assert "success" in [figure.kind for figure in draw_figures(comparison)]


def test_huge_returns_use_powers_of_ten(make_run: MakeRun) -> None:
    for seed in range(2):
        make_run(f"e/a/seed-{seed}", greedy=1e149 + seed * 1e148)
    collection = collect_runs([Path("e")])
    (comparison,) = compare_variants(collection.variants)
    assert make_summary_table(comparison).rows[0][-1] == "1.05e+149 (4.1469e+148 to 1.68531e+149)"
    assert make_run_table(collection).rows[1][-2] == "1.1e+149"


def test_each_environment_has_its_own_section(make_run: MakeRun, toolkit: Toolkit) -> None:
    environments = {"cart": "CartPole-v1", "acro": "Acrobot-v1"}
    for directory, env_id in environments.items():
        for seed in range(3):
            make_run(f"{directory}/dqn/seed-{seed}", greedy=-100.0 + seed, env__id=env_id, env__wrappers=[])
            make_run(
                f"{directory}/double,id={env_id}/seed-{seed}", greedy=-99.0 + seed, env__id=env_id, env__wrappers=[]
            )
    finished = toolkit("report", *environments)
    assert finished.status == 0
    page = Page(Path("report/report.html"))
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert headings == ["CartPole-v1", "Acrobot-v1", "All environments", "Videos", "Runs", "Methods"]
    overall = Path("report/report.md").read_text().partition("## All environments")[2]
    assert re.search(r"\| double \| {2}\| 78 % \(", overall)  # of nine pairs six are won and two are ties
    assert (Path("report/figures") / "learning-2.svg").is_file()


def test_environment_by_path_has_name_of_its_class(make_run: MakeRun) -> None:
    paths = [Path(directory, "poles.py").absolute() for directory in ("a", "b")]
    runs = []
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text("from gymnasium.envs.classic_control import CartPoleEnv as Pole\n")
        runs.append(make_run(f"runs/{number}", env__id=f"{path}:Pole", env__max_episode_steps=None))
    assert [variant.environment for variant in collect_runs(runs[:1]).variants] == ["Pole"]
    assert [variant.environment for variant in collect_runs(runs).variants] == [f"{path}:Pole" for path in paths]


def test_two_time_limits_are_two_environments(make_run: MakeRun) -> None:
    runs = [make_run(f"runs/{limit}", env__max_episode_steps=limit) for limit in (200, 500)]
    assert [variant.environment for variant in collect_runs(runs).variants] == [
        "CartPole-v1 (200 steps)",
        "CartPole-v1 (500 steps)",
    ]


def test_only_best_of_many_variants_are_plotted(make_run: MakeRun, toolkit: Toolkit) -> None:
    for number in range(12):
        for seed in range(2):
            make_run(f"e/v{number:02}/seed-{seed}", greedy=float(number + seed))
    finished = toolkit("report", "e")
    assert "and 2 more with lower scores, in the report" in finished.out
    page = Page(Path("e/report/report.html"))
    assert "The 10 of 12 variants with the highest scores are plotted" in page.text
    assert "v00" in page.text
    assert "v00" not in Path("e/report/figures/learning.svg").read_text()
    assert len(read_csv(Path("e/report"))) == 24


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


def test_hostile_names_are_escaped_everywhere(make_run: MakeRun, toolkit: Toolkit) -> None:
    for name in HOSTILE:
        for seed in range(2):
            run = make_run(f"e/{name}/seed-{seed}", greedy=float(seed))
    make_run(f"e/{HOSTILE[5]}/seed-2", status="interrupted")
    failed = make_run(f"e/{HOSTILE[0]}/seed-2", status="failed")
    (failed / "traceback.txt").write_text("<img src=http://example.com/x>\n")
    (run / "traceback.txt").write_text("not shown")
    finished = toolkit("report", "e")
    assert finished.status == 0
    assert "\x1b" not in finished.out
    page = Page(Path("e/report/report.html"))
    assert not page.find_all("script")
    assert not page.find_all("img")
    for name in (*HOSTILE[:5], *HOSTILE[6:8], "\\x1b[31mred\\n", "\\udcff"):
        assert name in page.text
    assert "svg-k" not in page.text  # only ids get a prefix
    text = Path("e/report/report.md").read_text()
    assert "<script" not in text
    assert "a\\|b\\`\\*\\_" in text
    assert "www.x" not in text  # GitHub would make a link
    assert "http://" not in text
    rows = read_csv(Path("e/report"))
    names = {"'" + name if name.startswith("=") else name for name in HOSTILE}  # no formulas
    assert {row["variant"] for row in rows} == names - {HOSTILE[5], HOSTILE[8]} | {"\\x1b[31mred\\n", "\\udcff"}
    assert {"\\udcff" in row["directory"] for row in rows} == {True, False}


def test_equal_runs_give_equal_files(experiment: Path, rewards_report: Path) -> None:
    page = package.report([experiment], "out")
    files = files_in(page.parent)
    assert files == files_in(rewards_report)
    assert all((page.parent / name).read_bytes() == (rewards_report / name).read_bytes() for name in files)


def test_second_report_replaces_only_its_own_files(make_run: MakeRun) -> None:
    run = make_run("e/one/seed-1", greedy=5.0)
    page = package.report("e", "out")
    (page.parent / "mine.txt").write_text("mine")
    page.write_text("damaged")
    (run / "evaluation.json").unlink()
    assert package.report("e", "out") == page
    assert "without a final greedy return: 1 run." in page.read_text()
    assert (page.parent / "mine.txt").read_text() == "mine"
    assert not [name for name in files_in(Path()) if name.endswith(".tmp")]


def test_shared_configs_keep_each_runs_seed(make_run: MakeRun) -> None:
    """The reader parses configs that differ only in the seed once."""
    runs = [make_run(f"runs/{seed}/seed-{seed}", timesteps=300 + (seed == 2)) for seed in range(3)]
    assert [[(run.seed, run.config.timesteps) for run in variant.runs] for variant in collect_runs(runs).variants] == [
        [(0, 300), (1, 300)],
        [(2, 301)],
    ]


LONG = "x" * 300
DAMAGE = {
    "config.yaml": ("timesteps: many\n", "config.yaml"),
    "result.json": ("{", "result.json: is damaged"),
    "monitor.csv": (HEAD + "ten,1,2\n", "monitor.csv:3: is not an episode: 'ten,1,2'"),
    "evaluation.json": ('{"episodes": 100}', "evaluation.json: is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file_is_bad_input(experiment: Path, toolkit: Toolkit, name: str) -> None:
    content, message = DAMAGE[name]
    (experiment / "none" / "seed-2" / name).write_text(content)
    before = files_in(Path())
    finished = toolkit("report", experiment)
    assert (finished.status, finished.out) == (2, "")
    assert "rewards/none/seed-2/" in finished.err
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert files_in(Path()) == before


def test_all_damaged_files_are_listed(experiment: Path, toolkit: Toolkit) -> None:
    for seed, value in enumerate(("{}", "[1]", '{"episodes": 1, "mean_return": NaN}', "\0")):
        (experiment / "none" / f"seed-{seed}" / "evaluation.json").write_text(value)
    finished = toolkit("report", experiment)
    assert finished.status == 2
    assert finished.err.count("evaluation.json: is damaged") == 4
    assert finished.err.splitlines()[-1] == "delete it: the run then counts as not evaluated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: does not exist"),
        (["loop"], "loop: does not exist"),
        ([LONG], f"{LONG}/config.yaml: cannot be read: File name too long"),
        (["rewards", LONG], f"{LONG}/config.yaml: cannot be read: File name too long"),
        (["rewards", "--out", LONG], f"{LONG}: cannot be written: File name too long"),
        (["empty"], "empty: is neither a run with a config.yaml nor an experiment"),
        (["small.yaml"], "small.yaml: is neither a run"),
        (["rewards", "empty"], "empty: is neither a run"),
        (["rewards", "--out", "small.yaml"], "small.yaml: cannot be written: small.yaml is not a directory"),
        (["rewards", "--out", "small.yaml/report"], "small.yaml/report: cannot be written"),
        (["rewards", "--out", "spoilt"], "spoilt/figures: cannot be written"),
        (["going"], "going: no run has ended: Still running, or killed: going/a/seed-0.\nwait for a run to end"),
        (
            ["broken"],
            "broken: no run has ended: broken/a/seed-0 failed at timestep 50: traceback.txt does not say why.\n"
            "continue with `toolkit resume RUN`",
        ),
        ([], "no run is named"),
    ],
)
def test_invalid_input_is_refused(make_run: MakeRun, toolkit: Toolkit, arguments: list[str], message: str) -> None:
    make_run("rewards/clip/seed-0", greedy=5.0)
    Path("empty").mkdir()
    Path("loop").symlink_to("loop")
    Path("spoilt").mkdir()
    Path("spoilt/figures").write_text("a file")
    make_run("going/a/seed-0", status=None)
    make_run("broken/a/seed-0", status="failed")
    before = files_in(Path())
    finished = toolkit("report", *arguments)
    assert (finished.status, finished.out) == (2, "")
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert files_in(Path()) == before


def test_evaluate_option_evaluates_and_records_runs(working_directory: Path, toolkit: Toolkit) -> None:
    Path("small.yaml").write_text(SMALL_CONFIG)
    runs = [package.train("small.yaml", seed=seed, timesteps=100).directory for seed in (0, 1)]
    finished = toolkit("report", *runs, "--evaluate", "--out", "out")
    assert finished.status == 0
    evaluation = json.loads(toolkit("evaluate", runs[0], "--json").out)
    assert json.loads((runs[0] / "evaluation.json").read_text()) == evaluation
    assert (runs[1] / "evaluation.json").is_file()
    assert "Without" not in finished.out
    page = Page(Path("out/report.html"))
    (video,) = page.find_all("video")
    assert base64.b64decode(str(video["src"]).partition(",")[2])[4:8] == b"ftyp"
    assert "the median (the upper of two) of 2 runs by final greedy return: " in page.text
    assert not files_in(Path("runs/small-1/videos"))


def test_run_that_cannot_be_evaluated_is_named(
    make_run: MakeRun, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    make_run("e/a/seed-0", greedy=5.0)
    make_run("e/a/seed-1")
    finished = toolkit("report", "e", "--evaluate")
    assert finished.status == 0
    assert "e/a/seed-1 cannot be evaluated: e/a/seed-1: has no model.zip" in caplog.text
    assert "without a final greedy return: 1 run." in finished.out
    assert "5.000 of 1 run" in finished.out


BREAKS = """\
import pathlib
import gymnasium


class Breaks(gymnasium.Wrapper):
    def close(self):
        super().close()
        if pathlib.Path("broken").exists():
            raise RuntimeError("it does not close")
"""


def test_report_survives_environment_that_raises(
    config_file: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    Path("breaks.py").write_text(BREAKS)
    run = package.train(config_file, "e/a/seed-0", timesteps=8, env__wrappers=["./breaks.py:Breaks"]).directory
    Path("broken").touch()
    finished = toolkit("report", "e", "--evaluate")
    assert finished.status == 0, finished.err
    assert f"{run} cannot be evaluated: RuntimeError: it does not close (" in caplog.text
    assert "No video of seed 0: RuntimeError: it does not close (" in Page(Path("e/report/report.html")).text


BLACK = """\
import gymnasium
import numpy


class Black(gymnasium.Wrapper):
    def render(self):
        return numpy.zeros((16, 16))
"""


def test_report_says_that_its_video_has_one_color(
    config_file: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    Path("black.py").write_text(BLACK)
    run = package.train(config_file, "e/a/seed-0", timesteps=8, env__wrappers=["./black.py:Black"]).directory
    assert toolkit("report", run, "--gallery", "gallery").status == 0
    doubt = "shows one colour throughout, RGB (0, 0, 0): check what the environment's render() draws"
    assert f"gallery/small.gif {doubt}" in caplog.messages
    assert toolkit("report", "e").status == 0
    assert f"one greedy episode, at most 500 steps; it {doubt}." in Page(Path("e/report/report.html")).text


def test_untrusted_code_of_a_run_does_not_execute(make_run: MakeRun, toolkit: Toolkit) -> None:
    Path("mine.py").write_text(
        "import pathlib, gymnasium\npathlib.Path('ran').touch()\nclass Mine(gymnasium.Wrapper):\n    pass\n"
    )
    run = make_run("e/theirs/seed-1", env__wrappers=["./mine.py:Mine"])
    Path("ran").unlink()  # building the config imported it
    (run / "model.zip").write_bytes(b"none")
    finished = toolkit("report", "e")
    assert finished.status == 0
    assert "has not trained this run here" in Page(Path("e/report/report.html")).text
    assert not Path("ran").exists()
    assert toolkit("report", "e", "--trust").status == 0
    assert "has not trained this run here" not in Page(Path("e/report/report.html")).text


def test_symlinks_bring_no_other_file_into_the_page(make_run: MakeRun, toolkit: Toolkit) -> None:
    run = make_run("runs/theirs-1")
    failed = make_run("runs/theirs-2", status="failed")
    Path("secret.mp4").write_text("secret")
    (run / "videos").mkdir()
    (run / "videos" / "video.mp4").symlink_to(Path("secret.mp4").resolve())
    (failed / "traceback.txt").symlink_to(Path("secret.mp4").resolve())
    assert toolkit("report", run, failed).status == 0
    page = Page(Path("report/report.html"))
    assert not page.find_all("video")
    assert "it has no model.zip" in page.text
    assert "secret" not in page.source
