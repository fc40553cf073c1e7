"""Pictures of evaluations during training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_files import write_run
from support import Toolkit

from toolkit.evaluation.evaluation_curves import draw_evaluations
from toolkit.reports.collect import collect_runs
from toolkit.reports.compare import compare_variants
from toolkit.reports.figures import draw_figures
from toolkit.training.evaluations import COLUMNS
from toolkit.training.run_directory import RunDirectory


def write_evaluated(directory: str, means: list[float], label: str = "greedy") -> RunDirectory:
    run = write_run(directory, status="finished")
    rows = [
        f"{100 * (number + 1)},{label},{mean},1.0,{mean - 2},{mean + 2},,{mean},9" for number, mean in enumerate(means)
    ]
    (run / "evaluations.csv").write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    return RunDirectory.open(run)


@pytest.mark.usefixtures("config_file")
def test_each_label_of_each_run_is_a_line() -> None:
    runs = [write_evaluated("a", [10, 30]), write_evaluated("b", [20, 40], "long")]
    path = runs[0].directory / "result.json"
    success = {"measure": "mean_return", "evaluation": "greedy", "threshold": 25, "episodes": 9, "solved": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"success": success}))
    figure = draw_evaluations(runs)
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert [[*line.get_ydata()] for line in lines] == [[10, 30], [20, 40]]
    assert [*lines[0].get_xdata()] == [100, 200]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("a greedy", "b long", "95 % interval of a mean", "success threshold: 25")
    ]


@pytest.mark.usefixtures("config_file")
def test_plot_writes_evaluations(toolkit: Toolkit) -> None:
    write_evaluated("run", [10, 30])
    assert toolkit("plot", "run", "--evaluations").out == "run/evaluations.png\n"
    assert Path("run/evaluations.png").read_bytes().startswith(b"\x89PNG")
    write_run("bare", status="finished")
    bare = toolkit("plot", "bare", "--evaluations")
    assert (bare.status, bare.out) == (2, "")
    assert "bare: has no evaluation\ntrain with the callback evaluate" in bare.err
    assert toolkit("plot", "run", "--evaluations", "--by", "episode").status == 2


@pytest.mark.usefixtures("config_file")
def test_report_has_evaluations_with_bands_over_seeds() -> None:
    runs = [write_evaluated(f"runs/seed-{seed}", [10.0 + seed, 30.0 + seed]) for seed in range(3)]
    (comparison,) = compare_variants(collect_runs([run.directory for run in runs]).variants)
    (curve,) = comparison.evaluation_curves["greedy"].values()
    assert (curve.n_runs, curve.timesteps[0], curve.timesteps[-1]) == (3, 100, 200)
    assert (curve.band.value[0], curve.band.value[-1]) == (11, 31)
    assert curve.band.low[0] < 11 < curve.band.high[0]
    figure = next(figure for figure in draw_figures(comparison) if figure.kind == "evaluation-greedy")
    assert figure.title == "Evaluation 'greedy' during training"
    assert "the interquartile mean over runs (3)" in figure.caption
