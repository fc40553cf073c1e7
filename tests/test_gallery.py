"""The shipped configs are measured: their results, their comments and the gallery agree."""

from __future__ import annotations

import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import PROJECT, files_in

from toolkit.reports.gallery_entry import GalleryEntry, read_entries
from toolkit.reports.gallery_page import format_page
from toolkit.reports.thumbnails import MAX_BYTES, WIDTH

GALLERY, PAGE = Path("benchmarks/gallery"), Path("docs/gallery.md")


@pytest.fixture(scope="module")
def entries() -> dict[str, GalleryEntry]:
    return read_entries(PROJECT / GALLERY)


@pytest.fixture
def headers() -> Any:
    """Import the script that writes the comments."""
    spec = spec_from_file_location("headers", PROJECT / "benchmarks" / "headers.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def replace_runs(entry: GalleryEntry, n_solved: int) -> GalleryEntry:
    """Return an entry of ten runs that returned 1 to 10; the first ones were solved, at timesteps 1,000 to 10,000."""
    runs = [
        entry.runs[0].model_copy(
            update={
                "solved": number <= n_solved,
                "timesteps_to_success": 1_000 * number if number <= n_solved else None,
                "seconds_to_success": 60.0 * number if number <= n_solved else None,
                "timesteps": 20_000,
                "seconds": 1_200.0,
                "greedy_return": float(number),
            }
        )
        for number in range(1, 11)
    ]
    return entry.model_copy(update={"runs": tuple(runs)})


def test_every_config_is_measured(entries: dict[str, GalleryEntry]) -> None:
    assert entries.keys() >= {path.stem for path in (PROJECT / "configs").glob("*.yaml")}


def test_configs_have_the_values_that_were_measured(entries: dict[str, GalleryEntry], headers: Any) -> None:
    assert [*headers.find_outdated_entries(entries)] == []


def test_comments_of_configs_state_the_measured_results(entries: dict[str, GalleryEntry], headers: Any) -> None:
    assert [path.name for path in headers.find_outdated_comments(entries)] == [], "run `python benchmarks/headers.py`"


def test_results_are_those_of_ten_evaluated_seeds(entries: dict[str, GalleryEntry]) -> None:
    for name, entry in entries.items():
        assert len({run.seed for run in entry.runs}) == len(entry.runs) >= 10, name
        assert {run.greedy_episodes for run in entry.runs} == {100}, name
        assert entry.file == f"configs/{name}.yaml"
        assert entry.machines


def test_gallery_page_shows_the_results(entries: dict[str, GalleryEntry]) -> None:
    expected = format_page([*entries.values()], GALLERY, PAGE)
    command = f"toolkit report --gallery {GALLERY} --out {PAGE}"
    assert (PROJECT / PAGE).read_text(encoding="utf-8") == expected, f"run `{command}`"


def test_gifs_are_small_and_equally_wide(entries: dict[str, GalleryEntry]) -> None:
    assert files_in(PROJECT / GALLERY) == {f"{name}.{suffix}" for name in entries for suffix in ("gif", "json")}
    for path in (PROJECT / GALLERY).glob("*.gif"):
        assert path.stat().st_size < MAX_BYTES, path.name
        with Image.open(path) as image:
            assert image.width == WIDTH, path.name


@pytest.mark.parametrize(
    ("n_solved", "sentence"),
    [
        (10, "solved on 10 of 10 seeds, after a median of 5,000 timesteps (1,000 to 8,000), in 5 min."),
        (6, "solved on 6 of 10 seeds, after a median of 5,000 timesteps (1,000 or more), in 5 min."),
        (4, "solved on 4 of 10 seeds within 20,000 timesteps."),
        (0, "not solved on any of 10 seeds within 20,000 timesteps, in 20 min."),
    ],
)
def test_comment_says_how_many_seeds_are_solved(
    n_solved: int, sentence: str, entries: dict[str, GalleryEntry], headers: Any
) -> None:
    entry = replace_runs(entries["cartpole_ppo"], n_solved)
    greedy_return = "Greedy mean return 5.50, on the worst seed 1.00."
    assert headers.describe_result(entry) == f"{sentence} {greedy_return}"


def test_comment_is_the_last_paragraph_of_the_header(headers: Any) -> None:
    for header in ("# PPO.\n# Expect: much,\n# and more.\n", "# PPO.\n"):
        text = headers.replace_expectation(f"{header}timesteps: 5\n# Expect: kept\n", "solved. " * 20)
        first, *lines, keys, comment = text.splitlines()
        assert (first, keys, comment) == ("# PPO.", "timesteps: 5", "# Expect: kept")
        assert " ".join(line.removeprefix("# ") for line in lines) == f"Expect: {'solved. ' * 20}".strip()
        assert max(map(len, lines)) <= 119


def test_script_writes_comment_unless_the_config_was_changed(
    headers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PROJECT / GALLERY, GALLERY)
    Path("configs").mkdir()
    config = Path("configs/cartpole_ppo.yaml")
    shipped = (PROJECT / config).read_text()
    config.write_text(shipped.replace("# Expect: ", "# Expect: much, or "))
    shutil.copy(PROJECT / "configs" / "cartpole_a2c.yaml", "configs/mine.yaml")
    monkeypatch.setattr(headers, "PROJECT", Path())
    for name in read_entries(GALLERY).keys() - {"cartpole_ppo"}:
        (GALLERY / f"{name}.json").unlink()

    def run(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["headers.py", *arguments])
        with pytest.raises(SystemExit) as exited:
            headers.main()
        assert capsys.readouterr().out == "configs/mine.yaml: is not measured\n"
        return exited.value.code

    assert run("--check") == f"{config}: its comment differs: run `python benchmarks/headers.py`"
    assert run() is None
    assert config.read_text() == shipped
    assert run("--check") is None
    config.write_text(shipped.replace("timesteps: 100_000", "timesteps: 50_000").replace("Expect: ", "Expect: much, "))
    changed = f"{config}: measure it again: timesteps was 100000 and is now 50000"
    assert (run("--check"), run()) == (changed, changed)
    assert "Expect: much, " in config.read_text()
