"""SB3's `EvalCallback` in a run: what it cannot evaluate is refused, and what it lacks is said at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.wrappers import NormalizeObservation
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3.common.callbacks import EvalCallback, EveryNTimesteps
from stable_baselines3.common.monitor import Monitor
from support import Toolkit

import toolkit as tk
from toolkit.training import trainer
from toolkit.utils.errors import ConfigError

EVAL = "stable_baselines3.common.callbacks:EvalCallback"
TAXI = """\
timesteps: 32
env: {id: Taxi-v4, max_episode_steps: 10, wrappers: [info_action_mask]}
algorithm: {name: maskable_ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 1}}
callbacks:
"""
MESSAGE = "SB3's EvalCallback passes no action masks, so it plays invalid actions; use maskable_eval"


class MaskedTaxi(Monitor):
    """Taxi with masks, for an evaluation."""

    def __init__(self) -> None:
        super().__init__(gym.make("Taxi-v4", max_episode_steps=10))

    def action_masks(self) -> Any:
        return self.unwrapped.action_mask(self.unwrapped.s)  # type: ignore[attr-defined]


class Plain(Monitor):
    """CartPole without wrappers."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))


class Normalized(NormalizeObservation):
    """CartPole with statistics of its own."""

    def __init__(self) -> None:
        super().__init__(Monitor(gym.make("CartPole-v1")))


@pytest.mark.parametrize(
    "callback",
    [
        f"  - {{name: '{EVAL}', params: {{eval_env: {{name: '{__name__}:MaskedTaxi'}}}}}}",
        "  - name: stable_baselines3.common.callbacks:EveryNTimesteps\n"
        f"    params: {{n_steps: 16, callback: {{name: '{EVAL}', params: "
        f"{{eval_env: {{name: '{__name__}:MaskedTaxi'}}}}}}}}",
    ],
    ids=["alone", "nested"],
)
def test_eval_callback_without_masks_is_refused_with_its_place(callback: str, toolkit: Toolkit) -> None:
    Path("taxi.yaml").write_text(f"{TAXI}  - progress\n{callback}\n")
    for command in ("check", "train"):
        finished = toolkit(command, "taxi.yaml")
        assert (finished.status, finished.out) == (2, "")
        assert finished.err == f"taxi.yaml:6: callbacks.1: {MESSAGE}\n"
    assert not Path("runs").exists()


def test_eval_callback_without_masks_is_refused_in_python() -> None:
    Path("taxi.yaml").write_text(f"{TAXI}  - progress\n")
    nested = EveryNTimesteps(16, EvalCallback(MaskedTaxi(), verbose=0))
    nested.callback.outer = nested  # type: ignore[attr-defined]  # callbacks may refer to each other
    with pytest.raises(ConfigError) as raised:
        tk.train("taxi.yaml", callbacks=[nested])
    assert str(raised.value) == f"callbacks[0] of toolkit.train: {MESSAGE}"
    assert not Path("runs").exists()


def test_eval_callback_with_masks_plays_valid_actions() -> None:
    Path("taxi.yaml").write_text(f"{TAXI}  - progress\n")
    callback = MaskableEvalCallback(MaskedTaxi(), eval_freq=16, verbose=0)
    tk.train("taxi.yaml", callbacks=[callback])
    assert callback.last_mean_reward >= -10  # an invalid action costs ten


@pytest.mark.parametrize(
    ("wrappers", "eval_env", "lacks"),
    [
        (
            ["gymnasium.wrappers:NormalizeObservation"],
            {"name": f"{__name__}:Plain"},
            "NormalizeObservation (env.wrappers.0)",
        ),
        (
            ["gymnasium.wrappers:NormalizeObservation"],
            {"name": f"{__name__}:Normalized"},
            "the training's statistics of NormalizeObservation (env.wrappers.0)",
        ),
        (["terminal_reward_clip", "angle_penalty"], {"name": f"{__name__}:Plain"}, None),
    ],
    ids=["missing", "other statistics", "only rewards"],
)
def test_eval_callback_names_wrappers_that_it_plays_without(
    wrappers: list[str], eval_env: Any, lacks: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    parts = {
        "name": "evaluated",
        "timesteps": 32,
        "env": {"id": "CartPole-v1", "wrappers": wrappers},
        "algorithm": {"name": "ppo", "params": {"n_steps": 32, "batch_size": 32, "n_epochs": 1}},
        "callbacks": ["progress", {"name": EVAL, "params": {"eval_env": eval_env, "verbose": 0}}],
    }
    trainer.dry_run(tk.RunConfig.model_validate(parts))
    expected = [f"callbacks.1: EvalCallback plays without {lacks}"] if lacks else []
    assert [text for text in caplog.messages if "EvalCallback" in text] == expected
