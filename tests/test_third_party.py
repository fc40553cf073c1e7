"""Components of other authors, in a file beside the config. `test_scaffold.py` installs packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Toolkit

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


def test_wrapper_in_file_beside_config_trains(working_directory: Path, toolkit: Toolkit) -> None:
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
