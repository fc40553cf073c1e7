"""The course's notebook, run from top to bottom as a trainee runs it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support import PROJECT

NOTEBOOK = PROJECT / "examples" / "course.ipynb"
THRESHOLD = 20


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cells by id, executed beside a copy of the configs, without a display."""
    clone = tmp_path_factory.mktemp("clone")
    (clone / "examples").mkdir()
    shutil.copytree(PROJECT / "configs", clone / "configs", ignore=shutil.ignore_patterns("*.gif"))
    config = clone / "configs" / "course_ddqn.yaml"  # 195 takes minutes; benchmarks/course.md shows that it is reached
    config.write_text(config.read_text().replace("threshold: 195", f"threshold: {THRESHOLD}"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("DISPLAY", raising=False)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(clone / "examples")}}).execute()
    return {cell["id"]: cell for cell in notebook.cells}


def html(cell: Any) -> str:
    return "".join(output["data"].get("text/html", "") for output in cell["outputs"] if "data" in output)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_notebook_runs_and_shows_runs_curves_and_videos(cells: dict[str, Any]) -> None:
    outputs = [output for cell in cells.values() for output in cell.get("outputs", [])]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert re.fullmatch(r"mean \d+\.\d, 95 % interval .*\n", cells["evaluate-run"]["outputs"][0]["text"])
    (mean,) = [output["text"] for output in cells["show-fall"]["outputs"] if "text" in output]
    assert float(mean.removeprefix("mean ")) < 100, "the text says that this agent falls"
    bars = [html(cells[training]) for training in ("train-run", "train-graded", "train-own")]
    full = re.compile(r"<progress .*[\d,]+ of 100,000 steps, .*mean of last 10: \d+\.\d of " + str(THRESHOLD))
    assert all(full.search(bar) for bar in bars)
    assert all("solved, " in bar for bar in bars)
    for cell in ("show-run", "show-fall", "train-own"):
        is_filmed = ": solved" in html(cells[cell]) or cell == "show-fall"
        assert "data:image/png;base64," in html(cells[cell])
        assert ("data:video/mp4;base64," in html(cells[cell])) is is_filmed
    assert re.search(r"<b>runs/course_ddqn-1</b>: (not )?solved: mean return", html(cells["show-run"]))
    for cell in ("plot-both", "plot-three"):
        assert "image/png" in cells[cell]["outputs"][0]["data"]


def test_notebook_is_stored_without_output() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert not [cell["id"] for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def test_configs_in_the_notebook_exist() -> None:
    names = re.findall(r"\.\./(configs/\w+\.yaml)", Path(NOTEBOOK).read_text())
    assert names
    assert all((PROJECT / name).is_file() for name in names)
