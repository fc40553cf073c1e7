"""Every config that ships: checked as it stands, and trained for a few hundred steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import CONFIGS, PROJECT, Toolkit

SHORT = {"timesteps": "400", "callbacks": "[{name: success, params: {threshold: 1e9, episodes: 2}}]"}
FEWER = {"learning_starts": "100", "n_steps": "32", "batch_size": "32"}
BANNER = "A.L.E: Arcade Learning Environment"  # which the emulator of video games prints, and a line more


def shortened(config: Path) -> list[str]:
    """Return overrides that make a config train, with updates, in 400 steps."""
    text = config.read_text()
    fewer = {key: value for key, value in FEWER.items() if "learning_starts" not in text or key != "n_steps"}
    params = {key: value for key, value in fewer.items() if f"{key}:" in text}
    settings = SHORT | {f"algorithm.params.{key}": value for key, value in params.items()}
    return [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_trains_and_its_model_evaluates(config: Path, toolkit: Toolkit) -> None:
    trained = toolkit("train", config, *shortened(config), "--out", "run", "--quiet")
    assert trained.status == 0
    assert trained.err == "" or trained.err.startswith(BANNER)
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "finished"
    assert result["timesteps"] >= 400
    evaluated = toolkit("evaluate", "run", "--episodes", "2", "--json")
    assert (evaluated.status, evaluated.err) == (0, "")
    assert len(json.loads(evaluated.out)["returns"]) == 2


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_says_what_to_expect(config: Path, toolkit: Toolkit) -> None:
    assert toolkit("check", config).status == 0
    comment = [line for line in config.read_text().splitlines() if line.startswith("#")]
    (expectation,) = [line for line in comment if line.startswith("# Expect: ")]
    assert any(character.isdigit() for character in expectation)
    assert "PLACEHOLDER" not in expectation


def test_there_is_a_config_for_every_algorithm() -> None:
    from toolkit.config.registry import KINDS, list_entry_points

    named = {path.stem.partition("_")[2] for path in CONFIGS}
    assert {name.replace("double_dqn", "ddqn") for name in list_entry_points(KINDS["algorithms"])} <= named


@pytest.mark.parametrize("command", [["evaluate", "run", "--episodes", "1", "--json"], ["record", "run"]])
def test_a_model_is_used_with_fewer_environments_than_it_was_trained_with(
    command: list[str], toolkit: Toolkit
) -> None:
    params = "{n_steps: 1, batch_size: 8}"  # PPO refuses them with a single environment
    settings = ["--set", "timesteps=8", "--set", f"algorithm.params={params}"]
    assert toolkit("train", PROJECT / "configs" / "cartpole_ppo.yaml", *settings, "--out", "run").status == 0
    used = toolkit(*command)
    assert (used.status, used.err) == (0, "")


@pytest.mark.slow
def test_the_main_config_solves_cartpole_and_films_it(toolkit: Toolkit) -> None:
    trained = toolkit("train", PROJECT / "configs" / "cartpole_ddqn.yaml", "--out", "run", "--require-success")
    assert trained.status == 0, trained.err
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "success"
    assert result["success"]["mean_return"] >= 195
    assert {path.suffix for path in Path("run/videos").iterdir()} == {".mp4", ".gif"}
    evaluated = json.loads(toolkit("evaluate", "run", "--json").out)
    assert evaluated["mean_return"] >= 195
