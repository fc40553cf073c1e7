"""Galleries: entries of variants whose runs have ended, their GIFs, and the page of all entries."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_files import write_experiment, write_run
from support import Toolkit, files_in

import toolkit as package
from toolkit.config.load import load_config
from toolkit.evaluation.video_files import write_gif
from toolkit.reports.gallery_entry import read_entries
from toolkit.reports.thumbnails import MAX_BYTES, WIDTH, write_thumbnail

PAGE = Path("docs/gallery.md")


@pytest.fixture
def experiment(config_file: Path) -> Path:
    """Write the experiment `rewards`."""
    return write_experiment()


@pytest.fixture
def gallery(experiment: Path) -> Path:
    """Write the gallery `gallery` of the experiment, with the page `docs/gallery.md`."""
    assert package.report(experiment, PAGE, gallery="gallery") == PAGE
    return Path("gallery")


def read_rows() -> dict[str, list[str]]:
    """Return the cells of each row of the page by the name of the entry, each cell as its lines."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| [")]
    rows = [[re.sub(r"</?sub>", "", cell.replace("&nbsp;", " ")) for cell in line] for line in lines]
    return {row[0].partition("`")[2].partition("`")[0]: row[1:] for row in rows}


def test_gallery_has_entry_of_each_variant_and_one_page(experiment: Path, toolkit: Toolkit) -> None:
    finished = toolkit("report", experiment, "--gallery", "gallery", "--out", PAGE)
    assert finished.status == 0
    assert re.search(r"^clip +3 of 4 +317 \(316 or more\) ", finished.out, re.M)
    assert finished.out.splitlines()[-1] == str(PAGE)
    assert files_in(Path("gallery")) == {"clip.json", "none.json"}
    entry = json.loads(Path("gallery/clip.json").read_text())
    criterion = {"measure": "mean_return", "threshold": 195, "episodes": 10, "confirm_episodes": 0}
    assert entry["criterion"] == criterion
    assert entry["config"] == {
        key: value for key, value in load_config("small.yaml").model_dump(mode="json").items() if key != "seed"
    }
    assert entry["runs"][1] == {
        "seed": 1,
        "status": "success",
        "solved": True,
        "timesteps_to_success": 316,
        "seconds_to_success": 1.0,
        "timesteps": 316,
        "seconds": 1.5,
        "episodes": 3,
        "training_return": (20 + 100 + 196) / 3,
        "greedy_return": 191.0,
        "greedy_episodes": 100,
    }
    assert read_rows()["clip"] == [
        "double\\_dqn<br>CartPole-v1<br>200 steps",
        "195<br>10 episodes",
        "3 of 4<br>30 to 95 %",
        "317<br>316 or more",
        "1.0<br>1.0 or more",
        "191.5<br>189.4 to 193.6<br>lowest 190.0",
    ]


def test_unsolved_seeds_count_as_slower_than_their_training(gallery: Path) -> None:
    entries = read_entries(gallery)
    times = entries["clip"].timesteps_to_success, entries["none"].timesteps_to_success
    assert [time and time.value for time in times] == [317, math.inf]  # of 315 or more, 316, 317 and 318
    assert read_rows()["none"][2:5] == ["0 of 4<br>0 to 49 %", "not reached<br>within 89", "not reached"]


def test_row_of_config_without_criterion_has_no_success(config_file: Path) -> None:
    result = write_run("plain/a/seed-0", greedy=5.0) / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"success": None}))
    package.report("plain", PAGE, gallery="gallery")
    assert read_rows()["a"][1:] == ["none", "-", "-", "-", "5.00"]


def test_incomplete_variant_keeps_its_earlier_entry(
    gallery: Path, experiment: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    before = (gallery / "clip.json").read_bytes()
    write_run("rewards/clip/seed-4", status="interrupted")
    write_run("rewards/none/seed-4", greedy=24.0)
    assert toolkit("report", experiment, "--gallery", gallery, "--out", PAGE).status == 0
    assert "Interrupted, can be resumed: rewards/clip/seed-4." in caplog.text
    assert "clip gets no entry: its runs have not all ended" in caplog.text
    assert (gallery / "clip.json").read_bytes() == before
    assert len(read_entries(gallery)["none"].runs) == 5
    assert read_rows().keys() == {"clip", "none"}


def test_experiment_with_planned_runs_writes_nothing(experiment: Path, toolkit: Toolkit) -> None:
    file = {"base": {}, "variants": {"none": {}, "clip": {}}, "seeds": [*range(5)]}
    (experiment / "experiment.yaml").write_text(json.dumps(file))
    before = files_in(Path())
    finished = toolkit("report", experiment, "--gallery", "gallery")
    assert (finished.status, finished.out) == (2, "")
    assert "error: rewards: no variant is complete\ncontinue with `toolkit experiment FILE`" in finished.err
    assert files_in(Path()) == before


def test_page_is_written_again_from_the_entries_alone(gallery: Path, toolkit: Toolkit) -> None:
    before = PAGE.read_text()
    PAGE.unlink()
    assert toolkit("report", "--gallery", gallery, "--out", PAGE).out == f"{PAGE}\n"
    assert PAGE.read_text() == before
    (gallery / "none.json").unlink()
    assert toolkit("report", "--gallery", gallery).out == "gallery/gallery.md\n"
    assert "none" not in Path("gallery/gallery.md").read_text()


def test_variant_on_two_environments_has_two_entries(config_file: Path) -> None:
    for env_id in ("CartPole-v1", "Acrobot-v1"):
        write_run(f"grid/a,id={env_id}/seed-0", env__id=env_id)
    package.report(["grid", "./grid"], PAGE, gallery="gallery")
    assert read_rows().keys() == {"a-CartPole-v1", "a-Acrobot-v1"}


def test_page_links_config_with_the_measured_values(gallery: Path) -> None:
    runs = [write_run(f"runs/small-{seed}", timesteps=timesteps) for seed, timesteps in enumerate((300, 301))]
    package.report(runs[0], PAGE, gallery=gallery)
    assert "[`small`](../small.yaml) |" in PAGE.read_text()
    package.report(runs[1], PAGE, gallery=gallery)
    assert "[`small`](../gallery/small.json) |" in PAGE.read_text()


def test_changed_values_of_a_config_are_named(gallery: Path) -> None:
    entry = read_entries(gallery)["clip"]
    assert entry.list_changes(load_config("small.yaml", ["seed=9"])) == []
    Path("small.yaml").write_text(f"# another comment\n{Path('small.yaml').read_text()}")
    assert entry.list_changes(load_config("small.yaml")) == []
    changed = load_config("small.yaml", ["env.n_envs=3", "algorithm.params.gamma=0.9"])
    assert entry.list_changes(changed) == [
        "env.n_envs was 2 and is now 3",
        "algorithm.params.gamma was not set and is now 0.9",
    ]


def test_entry_measured_before_a_key_existed_has_its_default(gallery: Path) -> None:
    path = gallery / "clip.json"
    data = json.loads(path.read_text())
    del data["config"]["env"]["step_timeout"]
    path.write_text(json.dumps(data))
    assert read_entries(gallery)["clip"].list_changes(load_config("small.yaml")) == []


def test_gif_shows_agent_of_trained_run(run_copy: package.Run, toolkit: Toolkit) -> None:
    finished = toolkit("report", run_copy.directory, "--evaluate", "--gallery", "gallery", "--out", PAGE)
    assert finished.status == 0, finished.err
    gif = Path("gallery/small.gif")
    with Image.open(gif) as image:
        assert image.size == (WIDTH, round(WIDTH * 400 / 600))
        assert image.n_frames > 1  # type: ignore[attr-defined]
    assert gif.stat().st_size < MAX_BYTES
    assert "![A greedy episode of seed 0](../gallery/small.gif)" in PAGE.read_text()
    entry = read_entries(Path("gallery"))["small"]
    assert (entry.gif_seed, entry.runs[0].greedy_episodes) == (0, 100)
    environment = json.loads((run_copy.directory / "environment.json").read_text())
    assert entry.machines[0].cores == environment["cores"]
    assert f"torch {environment['versions']['torch']}" in PAGE.read_text()
    (run_copy.directory / "model.zip").unlink()
    package.report(run_copy.directory, PAGE, gallery="gallery")
    assert not gif.exists(), "a GIF of earlier runs would show another agent"
    assert "![" not in PAGE.read_text()


@pytest.mark.parametrize("size", [(300, 200), (50, 90)])
def test_thumbnail_of_noise_is_reduced_until_it_fits(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(256, size=(*size[::-1], 3), dtype=np.uint8) for _ in range(40)]
    write_gif(Path("noise.gif"), frames, [100] * 40)
    write_thumbnail(Path("noise.gif"), Path("small.gif"))
    assert Path("small.gif").stat().st_size < MAX_BYTES
    with Image.open("small.gif") as image:
        assert image.width == min(WIDTH, 240 * size[0] // size[1])


def test_thumbnail_plays_in_real_time() -> None:
    frames = [np.full((40, 60, 3), 3 * number, dtype=np.uint8) for number in range(50)]
    write_gif(Path("grey.gif"), frames, [20] * 50)
    write_thumbnail(Path("grey.gif"), Path("small.gif"))
    with Image.open("small.gif") as image:
        durations = []
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(1_000, abs=60)


def test_hostile_names_are_escaped(gallery: Path) -> None:
    path = gallery / "clip.json"
    data = json.loads(path.read_text())
    data["config"]["algorithm"]["name"] = "<script>|"
    data["config"]["env"]["id"] = "[a](http://example.com)"
    path.write_text(json.dumps(data))
    package.report([], PAGE, gallery=gallery)
    row = next(line for line in PAGE.read_text().splitlines() if "`clip`" in line)
    assert "&lt;script&gt;\\|" in row
    assert "http://" not in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gallery", "absent"], "absent: has no entry yet\nname the directory of a run or of an experiment"),
        (["rewards", "--gallery", "g", "--out", "rewards"], "rewards: is a directory\nname a file for the page"),
        (["rewards", "--gallery", "damaged"], "damaged/a.json: is not an entry of a gallery: "),
        (["rewards", "--gallery", "foreign"], "foreign/package.json: is not an entry of a gallery: "),
        (["rewards", "--gallery", "renamed"], "renamed/b.json: is the entry of clip\nrename it to clip.json"),
        (["rewards", "--gallery", "small.yaml/g"], "small.yaml/g: cannot be created: Not a directory"),
        (["rewards", "copy", "--gallery", "g"], "2 variants have the name clip\ngive each a gallery of its own"),
        (["small.yaml", "--gallery", "g"], "small.yaml: is neither a run with a config.yaml nor an experiment"),
    ],
)
def test_invalid_gallery_is_refused(gallery: Path, toolkit: Toolkit, arguments: list[str], message: str) -> None:
    texts = {"damaged/a": "{", "foreign/package": "{}", "renamed/b": (gallery / "clip.json").read_text()}
    for name, text in texts.items():
        Path(name).parent.mkdir()
        Path(f"{name}.json").write_text(text)
    write_run("copy/clip/seed-0")
    before = files_in(Path())
    finished = toolkit("report", *arguments)
    assert (finished.status, finished.out) == (2, "")
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert files_in(Path()) == before
