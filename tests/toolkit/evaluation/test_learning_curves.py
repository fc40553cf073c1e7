"""Learning curves: what is drawn is what happened, and the picture is whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image
from support import SMALL_CONFIG, Toolkit, files_in

from toolkit.config.load import load_config
from toolkit.evaluation.learning_curves import draw_learning_curves, plot
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import train
from toolkit.utils.errors import RunError, ToolkitError

HEAD = '#{"t_start": 1.0, "env_id": "CartPole-v1"}\nr,l,t\n'
BLUE, ORANGE, INK = (63, 144, 218), (255, 169, 14), (51, 51, 51)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that met its criterion: a mean of 12 over 5 episodes."""
    directory = tmp_path_factory.mktemp("trained")
    (directory / "small.yaml").write_text(
        SMALL_CONFIG.replace("{threshold: 195, episodes: 10}", "{threshold: 12, episodes: 5}")
    )
    run = train(load_config(directory / "small.yaml"), directory / "solved-1")
    assert run.result is not None
    assert run.result["success"]["solved"]
    return run


@pytest.fixture
def solved(trained: RunDirectory, working_directory: Path) -> RunDirectory:
    """The trained run, in a directory that a test may spoil."""
    shutil.copytree(trained.directory, working_directory / "runs" / "solved-1")
    return RunDirectory.open(Path("runs/solved-1"))


def made_up(
    solved: RunDirectory, name: str, returns: Sequence[float], length: int = 20, /, **success: Any
) -> RunDirectory:
    """Make a run with these returns; without `success` it is still going."""
    directory = solved.directory.parent / name
    directory.mkdir(parents=True)
    shutil.copy(solved.directory / "config.yaml", directory)
    rows = [f"{value},{length},{number}.5\r\n" for number, value in enumerate(returns)]
    (directory / "monitor.csv").write_text(HEAD + "".join(rows), newline="")
    if success:
        result = {"threshold": 195.0, "episodes": 3, "solved": False, "episode": None, "timestep": None} | success
        (directory / "result.json").write_text(json.dumps({"status": "finished", "success": result}))
    return RunDirectory.open(directory)


def lines(axes: Axes) -> dict[str, list[tuple[NDArray[Any], NDArray[Any]]]]:
    """Return what is drawn, by kind: dots, curves, dashes and stars."""
    drawn: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {"dots": [], "curves": [], "dashes": [], "stars": []}
    for line in axes.lines:
        kind = {"*": "stars", "o": "dots"}.get(line.get_marker() if line.get_linestyle() == "None" else "")
        kind = kind or ("curves" if line.get_linestyle() == "-" else "dashes")
        drawn[kind].append((np.asarray(line.get_xdata()), np.asarray(line.get_ydata())))
    return drawn


def moving_average(returns: Sequence[float], window: int) -> list[float]:
    return [float(np.mean(returns[max(0, end - window) : end])) for end in range(1, len(returns) + 1)]


def texts(svg: Path) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def pixels(png: Path) -> NDArray[np.uint8]:
    with Image.open(png) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def share(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    """Return the largest share of a colour in a row of pixels."""
    return float((image == colour).all(axis=2).mean(axis=1).max())


def amount(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(axis=2).sum())


@pytest.mark.parametrize("by", ["timestep", "episode"])
def test_the_curve_of_a_real_run_is_that_of_its_monitor_file(solved: RunDirectory, by: Any) -> None:
    rows = [line.split(",") for line in (solved.directory / "monitor.csv").read_text().splitlines()[2:] if line]
    returns, lengths = [float(row[0]) for row in rows], [int(row[1]) for row in rows]
    x = np.cumsum(lengths) if by == "timestep" else np.arange(1, len(rows) + 1)
    figure = draw_learning_curves([solved], by)
    drawn = lines(figure.axes[0])
    ((dots_x, dots_y),) = drawn["dots"]
    ((curve_x, curve_y),) = drawn["curves"]
    assert (dots_x.tolist(), dots_y.tolist()) == (x.tolist(), returns)
    assert curve_x.tolist() == x.tolist()
    assert curve_y == pytest.approx(moving_average(returns, 5))
    success = (solved.result or {})["success"]
    ((_, dashes),) = drawn["dashes"]
    assert set(dashes) == {12.0}
    ((star_x, star_y),) = drawn["stars"]
    assert star_x.tolist() == [x[success["episode"] - 1]]
    assert star_y == pytest.approx([success["mean_return"]])
    assert figure.axes[0].get_xlabel() == f"{by}s"


def test_the_picture_of_the_newest_run_goes_into_it(solved: RunDirectory, toolkit: Toolkit) -> None:
    done = toolkit("plot")
    assert (done.status, done.out, done.err) == (0, "runs/solved-1/learning_curve.png\n", "")
    image = pixels(Path(done.out.strip()))
    assert image.shape[1] == 1350
    assert image.shape[0] > 750
    assert amount(image, BLUE) > 500  # the moving average
    assert share(image, INK) > 0.4  # the threshold, dashed


def test_without_a_criterion_there_is_no_threshold_in_the_picture(solved: RunDirectory) -> None:
    image = pixels(plot([made_up(solved, "going-1", range(50))]))
    assert amount(image, BLUE) > 500
    assert share(image, INK) < 0.2


def test_svg_has_its_texts_as_text(solved: RunDirectory, toolkit: Toolkit) -> None:
    done = toolkit("plot", solved.directory, "--out", "curve.SVG", "--by", "episode")
    assert (done.status, done.out) == (0, "curve.SVG\n")
    found = texts(Path("curve.SVG"))
    success = (solved.result or {})["success"]
    assert "solved-1: double_dqn on CartPole-v1" in found
    assert "mean of the last 5 episodes, fewer at first" in found
    assert "success threshold: 12" in found
    assert f"solved: episode {success['episode']}, timestep {success['timestep']}" in found
    assert "episodes" in found


def test_equal_runs_give_equal_files(solved: RunDirectory) -> None:
    assert plot([solved], Path("1.svg")).read_bytes() == plot([solved], Path("2.svg")).read_bytes()


def test_a_run_that_did_not_succeed_has_a_threshold_but_no_star(solved: RunDirectory) -> None:
    run = made_up(solved, "unsolved-1", [-1500.0, -900.5, -1200.0, -300.0], threshold=-200.0)
    figure = draw_learning_curves([run])
    drawn = lines(figure.axes[0])
    assert set(drawn["dashes"][0][1]) == {-200.0}
    assert drawn["stars"] == []
    assert drawn["curves"][0][1] == pytest.approx(moving_average([-1500.0, -900.5, -1200.0, -300.0], 3))
    assert not any("solved" in text.get_text() for text in figure.legends[0].get_texts())


def test_a_run_that_goes_on_is_drawn_as_far_as_it_has_come(solved: RunDirectory) -> None:
    run = made_up(solved, "going-1", range(120))
    with (run.directory / "monitor.csv").open("a") as file:
        file.write("77.0,2")  # the row that is being written
    drawn = lines(draw_learning_curves([run]).axes[0])
    assert drawn["dots"][0][1].tolist() == [*range(120)]
    assert drawn["curves"][0][1] == pytest.approx(moving_average([*range(120)], 100))
    assert drawn["dashes"] == drawn["stars"] == []


def test_one_episode_is_enough(solved: RunDirectory) -> None:
    run = made_up(solved, "one-1", [20.0])
    (line,) = [line for line in draw_learning_curves([run]).axes[0].lines if line.get_linestyle() == "-"]
    assert line.get_marker() == "o"  # a line through one point shows nothing


def test_several_runs_have_a_colour_each_and_their_names(solved: RunDirectory, toolkit: Toolkit) -> None:
    made_up(solved, "other-1", range(60), threshold=30.0)
    done = toolkit("plot", "runs/solved-1", "runs/other-1")
    assert (done.status, done.out, done.err) == (0, "learning_curves.png\n", "")
    image = pixels(Path("learning_curves.png"))
    assert amount(image, BLUE) > 500
    assert amount(image, ORANGE) > 500
    toolkit("plot", "runs/solved-1", "runs/other-1", "--out", "curves.svg")
    found = texts(Path("curves.svg"))
    assert {"solved-1", "other-1", "success threshold: 12 or 30"} < set(found)
    assert "mean of the last 3 or 5 episodes, fewer at first" in found


def test_many_runs_all_differ_in_colour(solved: RunDirectory) -> None:
    figure = draw_learning_curves([made_up(solved, f"run-{number}", range(10)) for number in range(14)])
    colours = [tuple(line.get_color()) for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert len(set(colours)) == 14


def test_equal_names_are_told_apart_by_their_parents(solved: RunDirectory) -> None:
    runs = [made_up(solved, name, [1, 2]) for name in ("a/x/same", "b/x/same", "b/other")]
    assert {"a/x/same", "b/x/same", "other"} < set(texts(plot(runs, Path("curves.svg"))))
    assert texts(plot([runs[0], runs[0]], Path("twice.svg"))).count("same") == 2


def test_names_show_as_they_are(solved: RunDirectory) -> None:
    names = ["_hidden", "$x_1$ & <b>", "$", "long" * 50 + "-7"]
    runs = [made_up(solved, name, [1, 2]) for name in names]
    found = texts(plot(runs, Path("curves.svg")))
    assert {"_hidden", "$x_1$ & <b>", "$"} < set(found)
    assert any(text.startswith("…") and text.endswith("-7") and len(text) <= 90 for text in found)
    for number, run in enumerate(runs[:3]):
        assert f"{names[number]}: double_dqn on CartPole-v1" in texts(plot([run], Path("curve.svg")))


def test_twenty_thousand_episodes_make_no_huge_file_and_no_blot(solved: RunDirectory) -> None:
    returns = np.random.default_rng(0).integers(8, 201, 20_000).tolist()
    run = made_up(solved, "long-1", returns, 1000, episodes=100, solved=True, episode=20_000, timestep=20_000_000)
    assert plot([run], Path("curve.svg")).stat().st_size < 600_000
    assert "10,000,000" in texts(Path("curve.svg"))
    drawn = lines(draw_learning_curves([run]).axes[0])
    (x, y) = drawn["curves"][0]
    assert x[-1] == 20_000_000
    assert y[-1] == drawn["stars"][0][1] == pytest.approx(np.mean(returns[-100:]))
    image = pixels(plot([run]))
    inside = image[100:600, 100:1300].astype(int)
    assert (inside.min(axis=2) > 150).mean() > 0.9  # pale nearly everywhere


def test_a_figure_is_known_to_no_one_else(solved: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot, rcParams

    monkeypatch.setitem(rcParams, "svg.fonttype", "path")
    before = dict(rcParams)
    draw_learning_curves([solved])
    plot([solved], Path("curve.svg"))
    assert dict(rcParams) == before
    assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (None, "has no monitor.csv"),
        ("", "has no completed episode yet"),
        ('#{"t_start": 1.0', "has no completed episode yet"),
        (HEAD, "has no completed episode yet"),
        (HEAD + "10.0,10,0.5", "has no completed episode yet"),
        ("solved = true\n", "is not a monitor.csv"),
        ("#{}\na,b,c\n1,2,3\n", "is not a monitor.csv"),
        ("\0\1\udcff\n" * 5, "is not a monitor.csv"),
        (HEAD + "10.0,10,0.5\n10.0\n", "monitor.csv:4: is not an episode: '10.0'"),
        (HEAD + "ten,10,0.5\n10.0,10,0.5\n", "monitor.csv:3: is not an episode"),
    ],
)
def test_a_run_without_a_curve_is_bad_input(
    solved: RunDirectory, toolkit: Toolkit, monitor: str | None, message: str
) -> None:
    path = solved.directory / "monitor.csv"
    path.unlink()
    if monitor is not None:
        path.write_text(monitor, errors="surrogateescape")
    before = files_in(Path())
    done = toolkit("plot")
    assert (done.status, done.out) == (2, "")
    assert "runs/solved-1" in done.err
    assert message in done.err
    assert len(done.err.splitlines()) == 2  # what is wrong, and what to do
    assert files_in(Path()) == before


@pytest.mark.parametrize("result", ["{", "[]x", "3", "\0"])
def test_a_damaged_result_is_bad_input(solved: RunDirectory, toolkit: Toolkit, result: str) -> None:
    (solved.directory / "result.json").write_text(result)
    done = toolkit("plot")
    assert done.status == 2
    assert "result.json: is damaged" in done.err
    with pytest.raises(RunError, match="damaged"):
        assert solved.result


@pytest.mark.parametrize(
    "out", ["curve.pdf", "curve", "png", ".png", "absent/curve.png", "small.yaml/curve.png", "d.svg"]
)
def test_a_place_where_no_picture_can_be_is_bad_input(
    solved: RunDirectory, toolkit: Toolkit, config_file: Path, out: str
) -> None:
    Path("d.svg").mkdir()
    before = files_in(Path())
    done = toolkit("plot", solved.directory, "--out", out)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {out}: cannot be ")
    assert files_in(Path()) == before


def test_a_picture_is_replaced_by_a_whole_one_or_not_at_all(
    solved: RunDirectory, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("curve.png").write_text("old")

    def full(self: Any, path: Path, **_: Any) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("matplotlib.figure.Figure.savefig", full)
        done = toolkit("plot", "--out", "curve.png")
    assert done.status == 2
    assert "No space left on device" in done.err
    assert Path("curve.png").read_text() == "old"
    assert files_in(Path()) == {"curve.png"} | {f"runs/solved-1/{name}" for name in files_in(solved.directory)}
    assert toolkit("plot", "--out", "curve.png").status == 0
    assert pixels(Path("curve.png")).size


def test_the_suffix_is_looked_at_first(solved: RunDirectory) -> None:
    (solved.directory / "monitor.csv").unlink()
    with pytest.raises(ToolkitError, match=r"\.png or \.svg"):
        plot([solved], Path("curve.jpg"))
