"""`Run.predict` over `Run.make_env`: the agent acts as in `evaluate`, whatever is between environment and policy."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from toolkit import Run, ToolkitError, train

PPO = {"name": "ppo", "params": {"n_steps": 32, "batch_size": 32, "n_epochs": 1}}
PENDULUM = {"id": "Pendulum-v1", "max_episode_steps": 40, "n_envs": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "stack_of_normalized": {
        "env": PENDULUM | {"vec_wrappers": ["vec_normalize", {"name": "vec_frame_stack", "params": {"n_stack": 3}}]},
        "algorithm": PPO,
    },
    "wrappers": {
        "env": PENDULUM
        | {
            "wrappers": [
                "gymnasium.wrappers:NormalizeObservation",
                {"name": "gymnasium.wrappers:RescaleAction", "params": {"min_action": -1.0, "max_action": 1.0}},
                {"name": "clip_reward", "params": {"min_reward": -1.0, "max_reward": 1.0}},
            ]
        },
        "algorithm": PPO,
    },
    "lstm": {
        "env": PENDULUM | {"vec_wrappers": ["vec_normalize"]},
        "algorithm": PPO
        | {"name": "recurrent_ppo", "policy": "MlpLstmPolicy", "policy_params": {"lstm_hidden_size": 8}},
    },
    "masks": {
        "env": {"id": "Taxi-v4", "max_episode_steps": 40, "wrappers": ["info_action_mask"]},
        "algorithm": PPO | {"name": "maskable_ppo"},
    },
}


@functools.cache
def train_run(name: str, directory: Path) -> Run:
    file = directory / f"{name}.yaml"
    file.write_text("timesteps: 64\nenv: {id: CartPole-v1}\nalgorithm: ppo\n")
    return train(file, directory / name, env=CONFIGS[name]["env"], algorithm=CONFIGS[name]["algorithm"])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("acting")


def play_greedily(run: Run, env: gym.Env[Any, Any]) -> float:
    observation, _ = env.reset()
    total, is_start, is_done = 0.0, True, False
    while not is_done:
        masks = {"action_masks": env.action_masks()} if hasattr(env, "action_masks") else {}  # type: ignore[attr-defined]
        action = run.predict(observation, episode_start=is_start, **masks)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, is_start, is_done = total + float(reward), False, terminated or truncated
    return total


@pytest.mark.filterwarnings("ignore:.*precision lowered")
@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_return_of_predict_equals_evaluation(name: str, directory: Path) -> None:
    run = train_run(name, directory)
    play_greedily(run, run.make_env(seed=4))
    greedy_return = play_greedily(run, run.make_env(seed=5))  # without memory of the first episode
    assert greedy_return == pytest.approx(run.evaluate(episodes=1, seed=5).mean_return, rel=1e-9)


def test_predict_says_what_it_needs(directory: Path) -> None:
    run = train_run("stack_of_normalized", directory)
    observation = np.zeros(3)
    with pytest.raises(ToolkitError, match=r"remembers earlier observations.*\npass episode_start=True after a reset"):
        run.predict(observation)
    with pytest.raises(ToolkitError, match=r"one observation of make_env\(\), but got .* of shape \(2, 3\)"):
        run.predict(np.zeros((2, 3)), episode_start=True)
    with pytest.raises(ToolkitError, match="takes no action_masks"):
        run.predict(observation, episode_start=True, action_masks=[True])
    lstm = train_run("lstm", directory)
    lstm.predict(observation, episode_start=True)
    with pytest.raises(ToolkitError, match="remembers earlier observations"):
        lstm.predict(observation)
    with pytest.raises(ToolkitError, match="pass action_masks="):
        train_run("masks", directory).predict(0)
    with pytest.raises(ToolkitError, match="action_masks should have 6 values, one for each action, not 2"):
        train_run("masks", directory).predict(0, action_masks=[True, False])
