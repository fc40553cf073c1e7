"""The progress of an experiment on the screen."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
from experiment_files import EXPERIMENT, RUNS, write_file
from rich.console import Console

from toolkit.experiments.config import load_plan
from toolkit.experiments.display import LiveTable, create_display
from toolkit.experiments.runner import Experiment


@pytest.mark.parametrize(("width", "height"), [(110, 24), (110, 9), (45, 9)])
def test_live_table_fits_terminal_and_counts_every_run(finished: Path, width: int, height: int) -> None:
    gammas = ", ".join(str(number / 100) for number in range(40))
    file = write_file(EXPERIMENT + f"grid: {{algorithm.params.gamma: [{gammas}]}}\n")
    plan = load_plan(file, {"seeds": 3, "variants.clip.timesteps": 100})
    runs = plan.runs()
    completed, failed, training = runs[0], runs[1], runs[77]
    for run in (completed, training):
        shutil.copytree(finished / RUNS[0], finished / run.name)
        (finished / run.name / "monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n10,60,1\n20,20,2\n30,1')
    table = LiveTable(Experiment(plan, finished), runs)
    table.end_run(completed, None)
    table.end_run(failed, "for a reason")
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    with console.capture() as output:
        console.print(table)
    lines = output.get().splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("1 of 240 runs done, 0:0")
    rows = [re.findall(r"\d+", line.partition("  ")[2].partition("%")[0])[:4] for line in lines[1:-1]]
    assert [sum(int(row[state]) for row in rows) for state in range(4)] == [1, 1, 1, 237]
    assert ("80%" in output.get() and "15.0" in output.get()) == (width > 80)


def test_dumb_terminal_gets_lines_instead_of_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if stderr were a terminal
    displays = []
    for terminal in ("xterm", "dumb"):
        monkeypatch.setenv("TERM", terminal)
        displays.append(create_display())
    assert type(displays[0]) is not type(displays[1])
