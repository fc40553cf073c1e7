"""The benchmarks run, and what they write in words is what they measured."""

from __future__ import annotations

import json
import random
import runpy
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from support import PROJECT

pytestmark = pytest.mark.slow


def run(script: str, results: Path, *arguments: str | Path) -> tuple[Any, str]:
    """Run a benchmark at a small size; return what it measured, and the page it wrote."""
    command = [sys.executable, PROJECT / "benchmarks" / f"{script}.py", *arguments, "--results", results]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((results / f"{script}.json").read_text())
    page = (results / f"{script}.md").read_text()
    assert f"`{written['command']}`" in page
    assert f"Python {written['machine']['python']}" in page
    assert page in done.stdout
    return written["measured"], page


def spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def test_throughput(tmp_path: Path) -> None:
    measured, page = run("throughput", tmp_path, "--rows", "c", "--steps", "160", "--repeats", "2")
    sides = {name: side["milliseconds"] for name, side in measured["c"].items()}
    assert [*sides] == ["SB3 DQN", "eager", "eager, on the toolkit's environments"]
    for ours in [*sides][1:]:
        pairs = [*zip(sides["SB3 DQN"], sides[ours], strict=True)]
        parts = [[theirs[part] / mine[part] for theirs, mine in pairs] for part in (0, 1)]
        both = [sum(theirs) / sum(mine) for theirs, mine in pairs]
        (line,) = [line for line in page.splitlines() if f"; {ours} |" in line]
        assert f" | {' | '.join(map(spread, [*parts, both]))} | " in line


def test_acting(tmp_path: Path) -> None:
    measured, page = run("acting", tmp_path, "--steps", "20", "--repeats", "2")
    sides = [*measured][2:]
    assert sides == ["SB3 DQN", "eager", "eager, on the toolkit's environments"]
    for side in sides:
        for one in measured[side]:
            assert one["sum"] == pytest.approx(sum(time for part, time in one.items() if part != "sum"))
    sums = [[one["sum"] for one in measured[side]] for side in sides]
    over = [spread([theirs / mine for theirs, mine in zip(sums[0], ours, strict=True)]) for ours in sums]
    assert f"| SB3's over it | {' | '.join(over)} |" in page


def test_growth(tmp_path: Path) -> None:
    sizes = ["--envs", "2", "--widths", "16", "--buffers", "20000", "--steps", "40", "--repeats", "2"]
    measured, page = run("growth", tmp_path, *sizes)
    for what, size in (("environments", "2"), ("width", "16"), ("buffer", "20000")):
        theirs, ours = measured[what][size]["SB3 DQN"], measured[what][size]["DoubleDQN"]
        ratio = spread([one / other for one, other in zip(theirs, ours, strict=True)])
        speed = spread([1e3 / one for one in ours], 0)
        assert f" | {speed} | {ratio} |\n" in page.partition(f"| {what} |")[2]


def test_features(tmp_path: Path) -> None:
    measured, page = run("features", tmp_path, "--envs", "2", "--steps", "100", "--repeats", "2")
    whole, trained, bare = (
        [processor for processor, _ in measured["2"][name]]
        for name in ("learn()", "success + progress + logging", "learn(), few updates")
    )
    added = [one - other for one, other in zip(trained, bare, strict=True)]
    percent = [100 * more / all_of_it for more, all_of_it in zip(added, whole, strict=True)]
    (line,) = [line for line in page.splitlines() if line.startswith("| success + progress + logging |")]
    assert f" | {spread(added)} | " in line
    assert line.endswith(f" | {spread(percent, 1)} |")
    assert len(measured["2"]) == 13


def test_process(tmp_path: Path, config_file: Path) -> None:
    measured, page = run("process", tmp_path, config_file, "--repeats", "1", "--cold")
    for command, ((seconds, memory),) in measured.items():
        assert f"| `{command}` | {spread([seconds])} | {spread([memory], 0)} |" in page
    assert measured["toolkit --help"][0][0] < measured["toolkit train"][0][0]
    assert measured["toolkit --help"][0][1] < measured["toolkit train"][0][1]


def test_report_runs(tmp_path: Path) -> None:
    sizes = ["--runs", "4", "--seeds", "2", "--episodes", "150", "--repeats", "1"]
    measured, page = run("report_runs", tmp_path, *sizes)
    ((seconds, memory),) = measured["4"]["seconds_and_mebibytes"]
    assert f"| 4 | {spread([seconds])} | {spread([memory], 0)} | {measured['4']['page_bytes'] / 2**20:.2f} |" in page


def test_solve(tmp_path: Path) -> None:
    small = ["--seeds", "0", "1", "--threshold", "9", "--timesteps", "6000", "--sides", "toolkit", "SB3 PPO"]
    measured, page = run("solve", tmp_path, *small)
    ours, theirs = (measured["seeds"]["0"][name]["seconds"] for name in ("toolkit", "SB3 PPO"))
    assert "| solved | 1 of 1 | 1 of 1 |" in page
    assert f"| median, times ours | 1.00 | {theirs / ours:.2f} |" in page


def test_a_seed_that_is_not_solved_counts_as_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    page = runpy.run_path(str(PROJECT / "benchmarks" / "solve.py"))["page"]

    def seed(ours: float, theirs: float | None) -> dict[str, Any]:
        outcomes = {"toolkit": ours, "SB3 DQN": theirs}
        return {name: {"seconds": one, "timesteps": 9, "trained_seconds": 7.0} for name, one in outcomes.items()}

    first_two = {0: seed(1.0, None), 1: seed(2.0, 3.0)}
    written = page(["toolkit", "SB3 DQN"], {"warm_up": seed(1.0, 1.0), "seeds": first_two})
    assert "| 0 | 1.00 s, 9 steps | no, in 9 steps, 7.00 s |" in written
    assert "| solved | 2 of 2 | 1 of 2 |\n| median | 1.50 s | not solved |" in written
    written = page(["toolkit", "SB3 DQN"], {"warm_up": seed(1.0, 1.0), "seeds": first_two | {2: seed(4.0, 5.0)}})
    assert "| median | 2.00 s | 5.00 s |" in written
    assert "| median, times ours | 1.00 | 2.50 |" in written


def test_a_killed_run_that_cannot_be_gone_on_with_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    kill = runpy.run_path(str(PROJECT / "benchmarks" / "kill.py"))
    (tmp_path / "disturbed-1").mkdir()
    (tmp_path / "disturbed-1" / "config.yaml").write_text("timesteps: none\n")
    kills, found = kill["disturbed"](tmp_path / "1", "ppo", 0.1, random.Random(0), tmp_path)
    assert len(kills) in (2, 3)
    assert not any(kills)  # each hit start-up
    (said,) = found
    assert said.startswith("status 2: ")
    page = kill["page"]({"ppo": {"kills": 3, "while it trained": 1, "survived": 0, "differences": found}})
    assert "| ppo | 3 | 1 | 0 |\n| all | 3 | 1 | 0 |\n\n- ppo: status 2: " in page
