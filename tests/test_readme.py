"""What the README shows is what there is."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from support import PROJECT, Toolkit

from toolkit.experiments.config import load_plan
from toolkit.tuning.config import load_tuning

README = (PROJECT / "README.md").read_text(encoding="utf-8")
JAPANESE = (PROJECT / "README.ja.md").read_text(encoding="utf-8")
BOTH = pytest.mark.parametrize("readme", [README, JAPANESE], ids=["English", "Japanese"])


def test_the_second_command_is_what_ci_runs() -> None:
    _, tests = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert tests in (PROJECT / ".ci" / "run").read_text().splitlines()


def test_the_yaml_it_shows_is_the_main_config() -> None:
    shown = re.search(r"configs/cartpole_ddqn\.yaml`\):\n\n```yaml\n(.*?)```", README, re.DOTALL)
    assert shown
    assert yaml.safe_load(shown[1]) == yaml.safe_load((PROJECT / "configs" / "cartpole_ddqn.yaml").read_text())


def yaml_shown(key: str) -> Path:
    """Write the example that has such a key to a file beside a clone's `configs`."""
    (shown,) = (text for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if f"\n{key}:" in text)
    Path("configs").symlink_to(PROJECT / "configs")
    Path("shown.yaml").write_text(shown)
    return Path("shown.yaml")


def test_the_experiment_it_shows_is_one() -> None:
    names = {variant.name for variant in load_plan(yaml_shown("grid")).variants}
    assert names == {"clip,gamma=0.97", "clip,gamma=0.99", "graded,gamma=0.97", "graded,gamma=0.99"}


def test_the_search_it_shows_is_one() -> None:
    pytest.importorskip("optuna")
    assert load_tuning(yaml_shown("search")).config.objective == "timesteps_to_success"


@BOTH
def test_every_command_of_the_program_is_in_the_table(readme: str, toolkit: Toolkit) -> None:
    listed = set(re.findall(r"^\| `toolkit ([\w-]+)", readme, re.MULTILINE))
    assert listed == set(re.findall(r"^│ (\w[\w-]*) ", toolkit("--help").out, re.MULTILINE))


@BOTH
def test_the_links_lead_to_files(readme: str) -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", readme):
        assert (PROJECT / target).is_file(), target


@pytest.mark.parametrize(
    "facts",
    [r"^```.*?^```$", r"^(?:#+) ()", r"^\| `[^`]+`", r"\]\([^)]+\)"],
    ids=["examples", "headings", "rows", "links"],
)
def test_the_japanese_one_says_the_same(facts: str) -> None:
    def found(readme: str) -> list[str]:
        return [one for one in re.findall(facts, readme, re.MULTILINE | re.DOTALL) if "README" not in one]

    assert found(JAPANESE) == found(README)


def test_the_japanese_one_has_every_number_of_the_text() -> None:
    def numbers(readme: str) -> Counter[str]:
        text = re.sub(r"^```.*?^```$|`[^`]*`", "", readme, flags=re.MULTILINE | re.DOTALL)
        return Counter(re.findall(r"\d+(?:[.,]\d+)*", text))

    assert not numbers(README) - numbers(JAPANESE)


def test_the_benchmarks_page_has_all_results() -> None:
    page = (PROJECT / "BENCHMARKS.md").read_text(encoding="utf-8")
    results = [*(PROJECT / "benchmarks" / "results").glob("*.md")]
    assert len(results) == len([*(PROJECT / "benchmarks" / "results").glob("*.json")]) > 0
    for result in results:
        for line in result.read_text(encoding="utf-8").splitlines():
            if line.startswith(("|", "`")):
                assert line in page, result.name
