"""Every shipped config passes its check, trains a few updates, and evaluates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import CONFIGS, PROJECT, Toolkit

TIMESTEPS = 200
SHORT = {
    "timesteps": str(TIMESTEPS),
    "env.max_episode_steps": "200",  # untrained agents play some games for long
    "callbacks": "[{name: success, params: {threshold: 1e9, episodes: 2}}]",
}
SMALL_PARAMS = {"learning_starts": "150", "n_steps": "32", "batch_size": "32", "n_epochs": "1"}
BANNER = "A.L.E: Arcade Learning Environment"  # the Atari emulator prints two lines


def shorten(config: Path) -> list[str]:
    """Return overrides with which a config trains, with updates, in a few hundred timesteps."""
    text = config.read_text()
    params = {key: value for key, value in SMALL_PARAMS.items() if f"{key}:" in text}
    if "learning_starts" in text:
        params.pop("n_steps", None)  # of n-step returns, not of rollouts
    settings = SHORT | {f"algorithm.params.{key}": value for key, value in params.items()}
    if "n_envs:" in text:
        settings["env.n_envs"] = "2"
    return [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_trains_and_its_model_evaluates(config: Path, toolkit: Toolkit) -> None:
    trained = toolkit("train", config, *shorten(config), "--out", "run", "--quiet")
    assert trained.status == 0
    assert trained.err == "" or trained.err.startswith(BANNER)
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "finished"
    assert result["timesteps"] >= TIMESTEPS
    evaluated = toolkit("evaluate", "run", "--episodes", "2", "--json")
    assert (evaluated.status, evaluated.err) == (0, "")
    assert len(json.loads(evaluated.out)["returns"]) == 2


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_passes_check_and_states_expectation(config: Path, toolkit: Toolkit) -> None:
    assert toolkit("check", config).status == 0
    comments = [line for line in config.read_text().splitlines() if line.startswith("#")]
    (expectation,) = [line for line in comments if line.startswith("# Expect: ")]
    assert any(character.isdigit() for character in expectation)
    assert "PLACEHOLDER" not in expectation


def test_every_algorithm_has_a_config() -> None:
    from toolkit.config.registry import KINDS, list_entry_points

    config_algorithms = {path.stem.partition("_")[2] for path in CONFIGS}
    assert {name.replace("double_dqn", "ddqn") for name in list_entry_points(KINDS["algorithms"])} <= config_algorithms


def test_model_is_used_with_fewer_environments_than_in_training(toolkit: Toolkit) -> None:
    params = "{n_steps: 1, batch_size: 8}"  # PPO refuses them with one environment
    settings = ["--set", "timesteps=8", "--set", f"algorithm.params={params}"]
    assert toolkit("train", PROJECT / "configs" / "cartpole_ppo.yaml", *settings, "--out", "run").status == 0
    for command in (["evaluate", "run", "--episodes", "1", "--json"], ["record", "run", "--format", "gif"]):
        used = toolkit(*command)
        assert (used.status, used.err) == (0, "")


@pytest.mark.slow
def test_main_config_solves_cartpole_and_records_it(toolkit: Toolkit) -> None:
    trained = toolkit("train", PROJECT / "configs" / "cartpole_ddqn.yaml", "--out", "run", "--require-success")
    assert trained.status == 0, trained.err
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "success"
    assert result["success"]["mean_return"] >= 195
    assert {path.suffix for path in Path("run/videos").iterdir()} == {".mp4", ".gif"}
    evaluated = json.loads(toolkit("evaluate", "run", "--json").out)
    assert evaluated["mean_return"] >= 195
