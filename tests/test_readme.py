"""What both READMEs show; test_docs.py checks their links, commands, YAML and Python."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from support import PROJECT, Toolkit

README = (PROJECT / "README.md").read_text(encoding="utf-8")
JAPANESE = (PROJECT / "README.ja.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_readme_has_at_most_900_words() -> None:
    assert len(README.split()) <= 900


def test_ci_runs_second_command_of_readme() -> None:
    _, tests = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert tests in (PROJECT / ".ci" / "run").read_text().splitlines()


def test_yaml_of_readme_has_ten_lines() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert len(text.splitlines()) == 10


def test_tutorial_shows_the_main_config() -> None:
    tutorial = (PROJECT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    config = next(yaml.safe_load(text) for text in BLOCKS.findall(tutorial) if text.startswith("timesteps:"))
    assert config == yaml.safe_load((PROJECT / "configs" / "cartpole_ddqn.yaml").read_text())


def test_japanese_readme_has_the_same_commands_yaml_and_numbers() -> None:
    assert BLOCKS.findall(JAPANESE) == BLOCKS.findall(README)
    english, japanese = ({*re.findall(r"\d+(?:[.,]\d+)*", BLOCKS.sub("", text))} for text in (README, JAPANESE))
    assert english <= japanese


def test_mistakes_are_reported_as_shown(toolkit: Toolkit) -> None:
    lines = ["# a comment", "timesteps: 1_000", "env:", "  id: CartPole-v1", "  n_env: 2"]
    lines += ["algorithm:", "  name: ppo", "  params:", "    learning_rte: 1e-3"]
    Path("my.yaml").write_text("\n".join(lines))
    (shown,) = re.findall(r"\$ toolkit check my.yaml\n(.*?)```", README, re.DOTALL)
    assert toolkit("check", "my.yaml").err == shown
