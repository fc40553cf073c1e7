"""What the README shows is what there is."""

from __future__ import annotations

import re

import yaml
from support import PROJECT, Toolkit

README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_second_command_is_what_ci_runs() -> None:
    _, tests = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert tests in (PROJECT / ".ci" / "run").read_text().splitlines()


def test_the_yaml_it_shows_is_the_main_config() -> None:
    shown = re.search(r"configs/cartpole_ddqn\.yaml`\):\n\n```yaml\n(.*?)```", README, re.DOTALL)
    assert shown
    assert yaml.safe_load(shown[1]) == yaml.safe_load((PROJECT / "configs" / "cartpole_ddqn.yaml").read_text())


def test_every_command_of_the_program_is_in_the_table(toolkit: Toolkit) -> None:
    listed = set(re.findall(r"^\| `toolkit (\w+)", README, re.MULTILINE))
    assert listed == set(re.findall(r"^│ (\w+) ", toolkit("--help").out, re.MULTILINE))


def test_the_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (PROJECT / target).is_file(), target
