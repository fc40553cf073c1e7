"""Learning curves show the episodes of runs, and their files are complete or absent."""

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
from toolkit.evaluation.learning_curves import compute_moving_average, draw_learning_curves, plot
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


def make_run(
    solved: RunDirectory, name: str, returns: Sequence[float], length: int = 20, /, **success: Any
) -> RunDirectory:
    """Write a run with these returns; without `success` it has not ended."""
    directory = solved.directory.parent / name
    directory.mkdir(parents=True)
    shutil.copy(solved.directory / "config.yaml", directory)
    rows = [f"{value},{length},{number}.5\r\n" for number, value in enumerate(returns)]
    (directory / "monitor.csv").write_text(HEAD + "".join(rows), newline="")
    if success:
        result = {"threshold": 195.0, "episodes": 3, "solved": False, "episode": None, "timestep": None} | success
        (directory / "result.json").write_text(json.dumps({"status": "finished", "success": result}))
    return RunDirectory.open(directory)


def collect_lines(axes: Axes) -> dict[str, list[tuple[NDArray[Any], NDArray[Any]]]]:
    """Return the x and y values of drawn lines by kind: dots, curves, dashes and stars."""
    drawn: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {"dots": [], "curves": [], "dashes": [], "stars": []}
    for line in axes.lines:
        kind = {"*": "stars", "o": "dots"}.get(line.get_marker() if line.get_linestyle() == "None" else "")
        kind = kind or ("curves" if line.get_linestyle() == "-" else "dashes")
        drawn[kind].append((np.asarray(line.get_xdata()), np.asarray(line.get_ydata())))
    return drawn


def compute_expected_average(returns: Sequence[float], window: int) -> list[float]:
    return [float(np.mean(returns[max(0, end - window) : end])) for end in range(1, len(returns) + 1)]


def read_texts(svg: Path) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def read_pixels(png: Path) -> NDArray[np.uint8]:
    with Image.open(png) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def compute_max_row_share(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    """Return the largest share of a colour in a row of pixels."""
    return float((image == colour).all(axis=2).mean(axis=1).max())


def count_pixels(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(axis=2).sum())


@pytest.mark.parametrize("by", ["timestep", "episode"])
def test_curve_of_trained_run_matches_monitor_csv(solved: RunDirectory, by: Any) -> None:
    rows = [line.split(",") for line in (solved.directory / "monitor.csv").read_text().splitlines()[2:] if line]
    returns, timesteps = [float(row[0]) for row in rows], [int(row[3]) for row in rows]
    x = np.array(timesteps) if by == "timestep" else np.arange(1, len(rows) + 1)
    figure = draw_learning_curves([solved], by)
    drawn = collect_lines(figure.axes[0])
    ((dots_x, dots_y),) = drawn["dots"]
    ((curve_x, curve_y),) = drawn["curves"]
    assert (dots_x.tolist(), dots_y.tolist()) == (x.tolist(), returns)
    assert curve_x.tolist() == x.tolist()
    assert curve_y == pytest.approx(compute_expected_average(returns, 5))
    success = (solved.result or {})["success"]
    ((_, dashes),) = drawn["dashes"]
    assert set(dashes) == {12.0}
    ((star_x, star_y),) = drawn["stars"]
    assert star_x.tolist() == [success[by]]
    assert star_y == pytest.approx([success["mean_return"]])
    assert figure.axes[0].get_xlabel() == f"{by}s"


def test_plot_writes_picture_into_newest_run(solved: RunDirectory, toolkit: Toolkit) -> None:
    result = toolkit("plot")
    assert (result.status, result.out, result.err) == (0, "runs/solved-1/learning_curve.png\n", "")
    image = read_pixels(Path(result.out.strip()))
    assert image.shape[1] == 1350
    assert image.shape[0] > 750
    assert count_pixels(image, BLUE) > 500  # the moving average
    assert compute_max_row_share(image, INK) > 0.4  # the threshold, dashed


def test_run_without_criterion_has_no_threshold_line(solved: RunDirectory) -> None:
    image = read_pixels(plot([make_run(solved, "going-1", range(50))]))
    assert count_pixels(image, BLUE) > 500
    assert compute_max_row_share(image, INK) < 0.2


def test_svg_contains_searchable_text(solved: RunDirectory, toolkit: Toolkit) -> None:
    result = toolkit("plot", solved.directory, "--out", "curve.SVG", "--by", "episode")
    assert (result.status, result.out) == (0, "curve.SVG\n")
    labels = read_texts(Path("curve.SVG"))
    success = (solved.result or {})["success"]
    assert "solved-1: double_dqn on CartPole-v1" in labels
    assert "mean of the last 5 episodes, fewer at first" in labels
    assert "success threshold: 12" in labels
    assert f"solved: episode {success['episode']}, timestep {success['timestep']}" in labels
    assert "episodes" in labels


def test_same_run_gives_identical_svg(solved: RunDirectory) -> None:
    assert plot([solved], Path("1.svg")).read_bytes() == plot([solved], Path("2.svg")).read_bytes()


def test_unsolved_run_has_threshold_but_no_star(solved: RunDirectory) -> None:
    run = make_run(solved, "unsolved-1", [-1500.0, -900.5, -1200.0, -300.0], threshold=-200.0)
    figure = draw_learning_curves([run])
    drawn = collect_lines(figure.axes[0])
    assert set(drawn["dashes"][0][1]) == {-200.0}
    assert drawn["stars"] == []
    assert drawn["curves"][0][1] == pytest.approx(compute_expected_average([-1500.0, -900.5, -1200.0, -300.0], 3))
    assert not any("solved" in text.get_text() for text in figure.legends[0].get_texts())


def test_running_training_is_drawn_up_to_last_episode(solved: RunDirectory) -> None:
    run = make_run(solved, "going-1", range(120))
    with (run.directory / "monitor.csv").open("a") as file:
        file.write("77.0,2")  # the row that is being written
    drawn = collect_lines(draw_learning_curves([run]).axes[0])
    assert drawn["dots"][0][1].tolist() == [*range(120)]
    assert drawn["curves"][0][1] == pytest.approx(compute_expected_average([*range(120)], 100))
    assert drawn["dashes"] == drawn["stars"] == []


def test_moving_average_of_equal_returns_is_their_value() -> None:
    _, averages = compute_moving_average(np.full(250, 0.7 / 3), 100, 60)
    assert {*averages} == {0.7 / 3}


def test_single_episode_is_drawn_as_marker(solved: RunDirectory) -> None:
    run = make_run(solved, "one-1", [20.0])
    (line,) = [line for line in draw_learning_curves([run]).axes[0].lines if line.get_linestyle() == "-"]
    assert line.get_marker() == "o"  # a line through one point shows nothing


def test_several_runs_have_own_colours_and_names(solved: RunDirectory, toolkit: Toolkit) -> None:
    make_run(solved, "other-1", range(60), threshold=30.0)
    result = toolkit("plot", "runs/solved-1", "runs/other-1")
    assert (result.status, result.out, result.err) == (0, "learning_curves.png\n", "")
    image = read_pixels(Path("learning_curves.png"))
    assert count_pixels(image, BLUE) > 500
    assert count_pixels(image, ORANGE) > 500
    toolkit("plot", "runs/solved-1", "runs/other-1", "--out", "curves.svg")
    labels = read_texts(Path("curves.svg"))
    assert {"solved-1", "other-1", "success threshold: 12 or 30"} < set(labels)
    assert "mean of the last 3 or 5 episodes, fewer at first" in labels


def test_fourteen_runs_have_different_colours(solved: RunDirectory) -> None:
    figure = draw_learning_curves([make_run(solved, f"run-{number}", range(10)) for number in range(14)])
    colours = [tuple(line.get_color()) for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert len(set(colours)) == 14


def test_equal_names_are_shown_with_parent_directories(solved: RunDirectory) -> None:
    runs = [make_run(solved, name, [1, 2]) for name in ("a/x/same", "b/x/same", "b/other")]
    assert {"a/x/same", "b/x/same", "other"} < set(read_texts(plot(runs, Path("curves.svg"))))
    assert read_texts(plot([runs[0], runs[0]], Path("twice.svg"))).count("same") == 2


def test_special_characters_in_names_are_shown_literally(solved: RunDirectory) -> None:
    names = ["_hidden", "$x_1$ & <b>", "$", "long" * 50 + "-7"]
    runs = [make_run(solved, name, [1, 2]) for name in names]
    labels = read_texts(plot(runs, Path("curves.svg")))
    assert {"_hidden", "$x_1$ & <b>", "$"} < set(labels)
    assert any(text.startswith("…") and text.endswith("-7") and len(text) <= 90 for text in labels)
    for number, run in enumerate(runs[:3]):
        assert f"{names[number]}: double_dqn on CartPole-v1" in read_texts(plot([run], Path("curve.svg")))


def test_many_episodes_keep_file_small_and_dots_pale(solved: RunDirectory) -> None:
    returns = np.random.default_rng(0).integers(8, 201, 20_000).tolist()
    run = make_run(solved, "long-1", returns, 1000, episodes=100, solved=True, episode=20_000, timestep=20_000_000)
    assert plot([run], Path("curve.svg")).stat().st_size < 600_000
    assert "10,000,000" in read_texts(Path("curve.svg"))
    drawn = collect_lines(draw_learning_curves([run]).axes[0])
    (x, y) = drawn["curves"][0]
    assert x[-1] == 20_000_000
    assert y[-1] == drawn["stars"][0][1] == pytest.approx(np.mean(returns[-100:]))
    image = read_pixels(plot([run]))
    inside = image[100:600, 100:1300].astype(int)
    assert (inside.min(axis=2) > 150).mean() > 0.9  # pale nearly everywhere


def test_drawing_leaves_pyplot_and_rcparams_unchanged(solved: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("", "has ended, and none of its episodes counts"),
        ('#{"t_start": 1.0', "has ended, and none of its episodes counts"),
        (HEAD, "has ended, and none of its episodes counts"),
        (HEAD + "10.0,10,0.5", "has ended, and none of its episodes counts"),
        ("solved = true\n", "is not a monitor.csv"),
        ("#{}\na,b,c\n1,2,3\n", "is not a monitor.csv"),
        ("\0\1\udcff\n" * 5, "is not a monitor.csv"),
        (HEAD + "10.0,10,0.5\n10.0\n", "monitor.csv:4: is not an episode: '10.0'"),
        (HEAD + "ten,10,0.5\n10.0,10,0.5\n", "monitor.csv:3: is not an episode"),
    ],
)
def test_plot_refuses_run_without_valid_episodes(
    solved: RunDirectory, toolkit: Toolkit, monitor: str | None, message: str
) -> None:
    path = solved.directory / "monitor.csv"
    path.unlink()
    if monitor is not None:
        path.write_text(monitor, errors="surrogateescape")
    before = files_in(Path())
    result = toolkit("plot")
    assert (result.status, result.out) == (2, "")
    assert "runs/solved-1" in result.err
    assert message in result.err
    assert len(result.err.splitlines()) == 2  # what is wrong, and what to do
    assert files_in(Path()) == before


def test_plot_of_running_training_waits_for_first_episode(solved: RunDirectory, toolkit: Toolkit) -> None:
    (solved.directory / "result.json").unlink()
    (solved.directory / "monitor.csv").write_text(HEAD)
    assert toolkit("plot").err == "error: runs/solved-1: has no episode that counts yet\nwait for it\n"


@pytest.mark.parametrize("result", ["{", "3"])
def test_plot_refuses_damaged_result_json(solved: RunDirectory, toolkit: Toolkit, result: str) -> None:
    (solved.directory / "result.json").write_text(result)
    output = toolkit("plot")
    assert output.status == 2
    assert "result.json: is damaged" in output.err
    with pytest.raises(RunError, match="damaged"):
        assert solved.result


@pytest.mark.parametrize("out", ["curve.pdf", "curve", ".png", "absent/curve.png", "d.svg"])
def test_plot_refuses_invalid_output_path(solved: RunDirectory, toolkit: Toolkit, config_file: Path, out: str) -> None:
    Path("d.svg").mkdir()
    before = files_in(Path())
    result = toolkit("plot", solved.directory, "--out", out)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"error: {out}: cannot be ")
    assert files_in(Path()) == before


def test_failed_plot_keeps_existing_picture(
    solved: RunDirectory, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("curve.png").write_text("old")

    def full(self: Any, path: Path, **_: Any) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("matplotlib.figure.Figure.savefig", full)
        result = toolkit("plot", "--out", "curve.png")
    assert result.status == 2
    assert "No space left on device" in result.err
    assert Path("curve.png").read_text() == "old"
    assert files_in(Path()) == {"curve.png"} | {f"runs/solved-1/{name}" for name in files_in(solved.directory)}
    assert toolkit("plot", "--out", "curve.png").status == 0
    assert read_pixels(Path("curve.png")).size


def test_plot_checks_suffix_before_reading_run(solved: RunDirectory) -> None:
    (solved.directory / "monitor.csv").unlink()
    with pytest.raises(ToolkitError, match=r"\.png or \.svg"):
        plot([solved], Path("curve.jpg"))
