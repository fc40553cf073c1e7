"""The benchmarks run, and their pages say what they measured."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from statistics import fmean, median, stdev
from types import ModuleType
from typing import Any

import pytest
from support import PROJECT

import toolkit

BENCHMARKS = PROJECT / "benchmarks"
ImportBenchmark = Callable[[str], ModuleType]
RunBenchmark = Callable[..., tuple[Any, str]]


@pytest.fixture
def import_benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportBenchmark]:
    """Import a script of the benchmarks as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    names_before = {*sys.modules}
    yield import_module
    for name in {*sys.modules} - names_before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def run_benchmark(
    import_benchmark: ImportBenchmark,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> RunBenchmark:
    """Run a benchmark in this process; return what it measured, and the page it wrote."""

    def run(script: str, *arguments: str | Path) -> tuple[Any, str]:
        argv = [f"{BENCHMARKS / script}.py", *map(str, arguments), "--results", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", argv)
        import_benchmark(script).main()
        results = json.loads((tmp_path / f"{script}.json").read_text())
        page = (tmp_path / f"{script}.md").read_text()
        assert f"`{results['command']}`" in page
        assert f"\n{results['date']}, " in page
        assert f"Python {results['machine']['python']}" in page
        assert page in capsys.readouterr().out
        return results["measured"], page

    return run


def format_spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def test_benchmarks_page_shows_current_results(import_benchmark: ImportBenchmark) -> None:
    page = (PROJECT / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert page == import_benchmark("summary").format_page(), "run `python benchmarks/summary.py`"
    assert len(re.findall(r"[^\s|-]+", page)) <= 1_000


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("results/*.json")), ids=lambda file: file.stem)
def test_result_page_belongs_to_its_json(file: Path, import_benchmark: ImportBenchmark) -> None:
    results = json.loads(file.read_text(encoding="utf-8"))
    page = file.with_suffix(".md").read_text(encoding="utf-8")
    machine = import_benchmark("report").format_machine(results["machine"])
    assert f"\n`{results['command']}`\n\n{results['date']}, {machine}\n" in page


def test_figures_of_benchmarks_page_are_on_linked_pages(import_benchmark: ImportBenchmark) -> None:
    groups = import_benchmark("summary").GROUPS
    for name, list_rows in {name: list_rows for group in groups.values() for name, list_rows in group.items()}.items():
        if not (BENCHMARKS / "results" / f"{name}.json").exists():
            continue
        measured = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())["measured"]
        page = (BENCHMARKS / "results" / f"{name}.md").read_text()
        digits = {"features": 1, "vector_envs": 1, "envpool_steps": 1, "many_runs": 0}.get(name, 2)
        for row in list_rows(measured):
            is_count, is_of_other_columns = not row.unit, "`import " in row.what or "`vec_env: vector`" in row.what
            is_on_page = f" {row.figure:.{digits}f} " in page
            assert is_count or is_of_other_columns or is_on_page or math.isnan(row.figure), row


@pytest.mark.parametrize(
    ("figure", "is_met"), [(0.994, False), (0.996, True), (2.0, True), (2.004, True), (2.006, False)]
)
def test_figure_is_compared_with_target_as_written(
    figure: float, is_met: bool, import_benchmark: ImportBenchmark
) -> None:
    row = import_benchmark("summary").Row("a quantity", figure, at_least=1, at_most=2)
    assert row.is_met is is_met
    assert ("**missed**" in row.format("solve", "command")[2]) is not is_met


def test_throughput_page_has_ratios_of_each_side(run_benchmark: RunBenchmark) -> None:
    measured, page = run_benchmark("throughput", "--rows", "c", "--steps", "160", "--repeats", "2")
    sides = {name: side["milliseconds"] for name, side in measured["c"].items()}
    assert [*sides] == ["SB3 DQN", "eager", "eager, on the toolkit's environments"]
    for ours in [*sides][1:]:
        pairs = [*zip(sides["SB3 DQN"], sides[ours], strict=True)]
        parts = [[theirs[part] / mine[part] for theirs, mine in pairs] for part in (0, 1)]
        both = [sum(theirs) / sum(mine) for theirs, mine in pairs]
        (line,) = [line for line in page.splitlines() if f"; {ours} |" in line]
        assert f" | {' | '.join(map(format_spread, [*parts, both]))} | " in line


def test_acting_parts_add_up_to_the_sum(run_benchmark: RunBenchmark) -> None:
    measured, page = run_benchmark("acting", "--steps", "20", "--repeats", "2")
    sides = [*measured][2:]
    assert sides == ["SB3 DQN", "eager", "eager, on the toolkit's environments"]
    for side in sides:
        for times in measured[side]:
            assert times["sum"] == pytest.approx(sum(time for part, time in times.items() if part != "sum"))
    sums = [[times["sum"] for times in measured[side]] for side in sides]
    ratios = [format_spread([theirs / mine for theirs, mine in zip(sums[0], ours, strict=True)]) for ours in sums]
    assert f"| SB3's over it | {' | '.join(ratios)} |" in page


def test_growth_page_has_a_table_per_quantity(run_benchmark: RunBenchmark) -> None:
    sizes = ["--envs", "2", "--widths", "16", "--buffers", "2000", "--steps", "40", "--repeats", "2"]
    measured, page = run_benchmark("growth", *sizes)
    for quantity, size in (("environments", "2"), ("width", "16"), ("buffer", "2000")):
        times = {side: values for side, values in measured[quantity][size].items() if side != "memory"}
        ratio = format_spread([t / o for t, o in zip(times["SB3 DQN"], times["DoubleDQN"], strict=True)])
        speeds = [format_spread([1e3 / milliseconds for milliseconds in values], 0) for values in times.values()]
        assert f"| {' | '.join(speeds)} | {ratio} |\n" in page.partition(f"| {quantity} |")[2]
    assert "\n| 2,000 | 52 | 52 | 32 | " in page


def test_vector_envs_page_has_the_ratio_of_each_number(run_benchmark: RunBenchmark) -> None:
    measured, page = run_benchmark("vector_envs", "--envs", "2", "3", "--steps", "20", "--repeats", "2")
    for n_envs, seconds in measured.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds["dummy"], seconds["vector"], strict=True)]
        speed = format_spread([20 * int(n_envs) / duration for duration in seconds["vector"]], 0)
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {n_envs} | ")]
        assert f" | {speed} | " in line
        assert line.endswith(f" | {format_spread(ratios, 1)} |")


def test_features_page_has_the_added_time_of_each(run_benchmark: RunBenchmark) -> None:
    measured, page = run_benchmark("features", "--envs", "2", "--steps", "30", "--repeats", "2")
    whole, trained, bare = (
        [processor for processor, _ in measured["2"][name]]
        for name in ("learn()", "success + progress + logging", "learn(), few updates")
    )
    added = [time - base for time, base in zip(trained, bare, strict=True)]
    percent = [100 * time / total for time, total in zip(added, whole, strict=True)]
    (line,) = [line for line in page.splitlines() if line.startswith("| success + progress + logging |")]
    assert f" | {format_spread(added)} | " in line
    assert line.endswith(f" | {format_spread(percent, 1)} |")
    assert len(measured["2"]) == 16


def test_process_page_has_seconds_and_memory(run_benchmark: RunBenchmark) -> None:
    measured, page = run_benchmark("process", "--commands", "toolkit --help", "--repeats", "1", "--cold")
    ((seconds, memory),) = measured["toolkit --help"]
    assert f"| `toolkit --help` | {format_spread([seconds])} | {format_spread([memory], 0)} |" in page
    assert min(seconds, memory) > 0


def test_report_runs_writes_runs_that_a_report_reads(
    import_benchmark: ImportBenchmark, run_benchmark: RunBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(command: list[str]) -> tuple[float, float]:
        assert command[1] == "report"
        toolkit.report(command[2])
        return 1.5, 300.0

    monkeypatch.setattr(import_benchmark("report_runs"), "run", report)
    sizes = ["--runs", "4", "--seeds", "2", "--episodes", "150", "--repeats", "1"]
    measured, page = run_benchmark("report_runs", *sizes)
    size = measured["4"]["page_bytes"] / 2**20
    assert f"| 4 | {format_spread([1.5])} | {format_spread([300.0], 0)} | {size:.2f} |" in page


def test_agents_page_compares_returns_with_published(
    finished_run: toolkit.Run, working_directory: Path, run_benchmark: RunBenchmark
) -> None:
    for env_id in ("CartPole-v1", "Absent-v1"):
        folder = working_directory / "dqn" / f"{env_id}_1" / env_id
        folder.mkdir(parents=True)
        (folder / "config.yml").write_text("n_timesteps: 300\npolicy_kwargs: dict(net_arch=[16, 16])")
        (folder / "args.yml").write_text(f"algo: dqn\nenv: {env_id}")
        shutil.copy(finished_run.model_path, folder.parent / f"{env_id}.zip")
    published = working_directory / "benchmark.md"
    published.write_text("|algo|env_id|mean_reward|std_reward|\n|dqn |CartPole-v1|  900.000| 10.000|\n")
    measured, page = run_benchmark("agents", working_directory, published, "--episodes", "3")
    _, row = measured["agents"]
    assert "0 of 1 agents that run here agree." in page
    assert (
        f"| dqn/CartPole-v1_1 | 900.0 ± 10.0 | {fmean(row['returns']):.1f} ± {stdev(row['returns']):.1f} | no |"
        in page
    )
    assert "| 1 | environment 'Absent-v1' does not exist" in page


@pytest.mark.slow
def test_solve_page_compares_solved_seeds(run_benchmark: RunBenchmark) -> None:
    sizes = ["--seeds", "0", "1", "--threshold", "9", "--timesteps", "9000", "--sides", "toolkit", "SB3 PPO"]
    measured, page = run_benchmark("solve", *sizes)
    ours, theirs = (measured["seeds"]["0"][name]["seconds"] for name in ("toolkit", "SB3 PPO"))
    assert "| solved | 1 of 1 | 1 of 1 |" in page
    assert f"| median, times ours | 1.00 | {theirs / ours:.2f} |" in page


def test_solve_counts_unsolved_seed_as_slowest(import_benchmark: ImportBenchmark) -> None:
    format_results = import_benchmark("solve").format_results

    def make_outcomes(ours: float, theirs: float | None) -> dict[str, Any]:
        times = {"toolkit": ours, "SB3 DQN": theirs}
        return {name: {"seconds": seconds, "timesteps": 9, "trained_seconds": 7.0} for name, seconds in times.items()}

    seeds = {0: make_outcomes(1.0, None), 1: make_outcomes(2.0, 3.0)}
    page = format_results(["toolkit", "SB3 DQN"], {"warm_up": make_outcomes(1.0, 1.0), "seeds": seeds})
    assert "| 0 | 1.00 s, 9 steps | no, in 9 steps, 7.00 s |" in page
    assert "| solved | 2 of 2 | 1 of 2 |\n| median | 1.50 s | not solved |" in page
    seeds[2] = make_outcomes(4.0, 5.0)
    page = format_results(["toolkit", "SB3 DQN"], {"warm_up": make_outcomes(1.0, 1.0), "seeds": seeds})
    assert "| median | 2.00 s | 5.00 s |" in page
    assert "| median, times ours | 1.00 | 2.50 |" in page


def test_kill_counts_run_that_cannot_resume_as_lost(tmp_path: Path, import_benchmark: ImportBenchmark) -> None:
    kill = import_benchmark("kill")
    (tmp_path / "disturbed-1").mkdir()
    (tmp_path / "disturbed-1" / "config.yaml").write_text("timesteps: none\n")
    kills, problems = kill.train_disturbed(tmp_path / "1", "ppo", 0.1, random.Random(0), tmp_path)
    assert len(kills) in (2, 3)
    assert not any(kills), "each kill hit the start-up"
    (problem,) = problems
    assert problem.startswith("status 2: ")
    counts = {"kills": 3, "while it trained": 1, "survived": 0, "differences": problems}
    page = kill.format_results({"ppo": counts})
    assert "| ppo | 3 | 1 | 0 |\n| all | 3 | 1 | 0 |\n\n- ppo: status 2: " in page


def test_rewards_page_has_measures_of_each_reward(
    import_benchmark: ImportBenchmark, run_benchmark: RunBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_benchmark("rewards"), "PROBE_INTERVAL", 600)
    sizes = ["--parts", "rewards", "--seeds", "0", "1", "--timesteps", "1000"]
    measured, page = run_benchmark("rewards", *sizes)
    assert len(measured["rewards"]) == 7
    for name, reward in measured["rewards"].items():
        (row,) = reward["seeds"][0]["rows"]
        cells = [f"{row[key]:.3g}" for key in ("q", "last_step_q", "share_outside_1")]
        assert f"| {name} | {reward['bound']:.3g} | {' | '.join(cells)} | no: " in page
    own, tenfold = (measured["rewards"][name]["bound"] for name in ("own reward", "own reward times 10"))
    assert (own, tenfold) == pytest.approx((1 / 0.03, 10 / 0.03), rel=1e-3)
    assert "<svg" in (tmp_path / "rewards.svg").read_text()
    assert run_benchmark("rewards", "--parts")[0] == measured


def test_rewards_probe_leaves_training_unchanged(tmp_path: Path, import_benchmark: ImportBenchmark) -> None:
    rewards = import_benchmark("rewards")
    hash_weights = import_benchmark("fingerprint").hash_weights
    probe = rewards.Probe()
    runs = [
        toolkit.train(rewards.FEW_UPDATES, tmp_path / str(len(callbacks)), callbacks, timesteps=4_500)
        for callbacks in ([], [probe])
    ]
    assert len(probe.rows) == 2
    assert len({hash_weights(run.model_path) for run in runs}) == 1


@pytest.mark.parametrize("gamma", [0.9, 0.97, 0.99, 0.999])
def test_rewards_best_step_maximizes_discounted_graded_reward(gamma: float, import_benchmark: ImportBenchmark) -> None:
    best = max(range(200), key=lambda step: gamma**step * (step - 99))
    assert import_benchmark("rewards").compute_best_step(gamma) == pytest.approx(best, abs=1)


def test_fingerprint_names_each_difference(
    import_benchmark: ImportBenchmark, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = import_benchmark("fingerprint")
    before = fingerprint.fingerprint(config_file, timesteps=100)
    after = json.loads(json.dumps(before))
    after["result.json"]["new_key"] = 1.0
    assert fingerprint.list_differences({"small.yaml": before}, {"small.yaml": after}) == []
    after |= {"weights": "other", "result.json": after["result.json"] | {"episodes": -1}}
    assert fingerprint.list_differences({"a": before, "small.yaml": before}, {"small.yaml": after}) == [
        "a: missing after the change",
        "small.yaml: weights",
        f"small.yaml: result.json: episodes: {before['result.json']['episodes']} became -1",
    ]
