"""Components of somebody else: an installed package that only has entry points, and a file beside the config."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import Toolkit, toolkit_process

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "pole-rewards"
version = "1.2"

[project.entry-points."toolkit.wrappers"]
halved_reward = "pole_rewards:HalvedReward"
"""
MODULE = """\
import gymnasium as gym


class HalvedReward(gym.RewardWrapper):
    \"\"\"Half the reward.\"\"\"

    def __init__(self, env: gym.Env, factor: float = 0.5) -> None:
        super().__init__(env)
        self.factor = factor

    def reward(self, reward: float) -> float:
        return reward * self.factor
"""


@pytest.fixture
def installed(working_directory: Path) -> Path:
    """Install the package `pole-rewards` with pip, into a directory of its own."""
    source = working_directory / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "pole_rewards.py").write_text(MODULE)
    site = working_directory / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-build-isolation"]
    subprocess.run([*pip, "--no-deps", "--target", site, source], check=True, timeout=120)
    return site


@pytest.mark.slow
def test_a_wrapper_of_an_installed_package_is_listed_and_trains(installed: Path, config_file: Path) -> None:
    listing = toolkit_process(["plugins", "wrappers"], PYTHONPATH=str(installed))
    out, _ = listing.communicate(timeout=60)
    assert "halved_reward" in out
    assert "(pole-rewards 1.2)" in out
    training = toolkit_process(
        ["train", config_file, "--set", "env.wrappers.0.name=halved_reward", "--out", "run", "--quiet"],
        PYTHONPATH=str(installed),
    )
    _, err = training.communicate(timeout=120)
    assert (training.returncode, err) == (0, "")
    assert "halved_reward" in Path("run/config.yaml").read_text()


def test_a_wrapper_in_a_file_beside_the_config_trains(working_directory: Path, toolkit: Toolkit) -> None:
    folder = working_directory / "mine"
    folder.mkdir()
    (folder / "my_reward.py").write_text(MODULE)
    (folder / "config.yaml").write_text(
        "timesteps: 200\nenv: {id: CartPole-v1, wrappers: ['./my_reward.py:HalvedReward']}\nalgorithm: dqn\n"
    )
    assert toolkit("train", folder / "config.yaml", "--out", "run", "--quiet").status == 0
    header, *rows = [line.split(",") for line in Path("run/progress.csv").read_text().splitlines()]
    raw, shaped = (header.index(f"rollout/ep_{kind}rew_mean") for kind in ("", "shaped_"))
    assert float(rows[-1][shaped]) == pytest.approx(float(rows[-1][raw]) / 2)
