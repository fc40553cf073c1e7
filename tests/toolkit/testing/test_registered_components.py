"""Every registered component keeps the promises of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
from goal_line import GOAL_LINE

from toolkit.algorithms import Rainbow
from toolkit.config.registry import KINDS, list_entry_points
from toolkit.testing import (
    algorithms,
    check_algorithm,
    check_callback,
    check_launcher,
    check_policy,
    check_replay_buffer,
    check_schedule,
    check_wrapper,
)

CHECKS: dict[str, Callable[..., None]] = {
    "wrappers": check_wrapper,
    "callbacks": check_callback,
    "algorithms": check_algorithm,
    "policies": check_policy,
    "replay_buffers": check_replay_buffer,
    "schedules": check_schedule,
    "launchers": check_launcher,
}
OFF_POLICY = {"learning_starts": 60, "buffer_size": 1_000, "batch_size": 16, "train_freq": 8}
CONTINUOUS: dict[str, Any] = {"params": OFF_POLICY | {"train_freq": 16}, "env": "Pendulum-v1"}
ON_POLICY = {"n_steps": 60, "batch_size": 30, "n_epochs": 1}
IMAGES = "toolkit_tests/Images-v0"
if IMAGES not in gym.registry:
    size = {"screen_height": 36, "screen_width": 36}
    gym.register(IMAGES, "stable_baselines3.common.envs:FakeImageEnv", kwargs=size)
TIME_AWARE = {"name": "gymnasium.wrappers:TimeAwareObservation", "params": {"flatten": False}}
SCALE = "env.wrappers.0.params.scale"
# Arguments of the checks; a component that is not listed needs none.
ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "wrappers": {
        "clip_reward": {"params": {"min_reward": -1}},
        "info_action_mask": {"env": "Taxi-v4"},
        "terminal_reward_clip": {"params": {"success_steps": 195}},
    },
    "callbacks": {
        "curriculum": {
            "params": {"stages": [{SCALE: 0.0}, {SCALE: 1.0}], "threshold": 0, "episodes": 2},
            "env": {"id": "CartPole-v1", "wrappers": ["angle_penalty"]},
            "changes_training": True,
        },
        "eval": {"params": {"eval_freq": 16, "n_eval_episodes": 1, "log_path": ".", "verbose": 0}},
        "every_n_timesteps": {"params": {"n_steps": 50, "callback": "progress"}},
        "log_info": {"params": {"names": ["TimeLimit.truncated"]}},
        "max_episodes": {"params": {"max_episodes": 5}, "changes_training": True},
        "record_video": {"params": {"every_timesteps": 100, "formats": ["gif"], "max_steps": 5}},
        "success": {"params": {"threshold": 500}},
    },
    "algorithms": {
        "crossq": CONTINUOUS,
        "ddpg": CONTINUOUS,
        "double_dqn": {"params": OFF_POLICY},
        "dqn": {"params": OFF_POLICY},
        "maskable_ppo": {"params": ON_POLICY, "env": {"id": "Taxi-v4", "wrappers": ["info_action_mask"]}},
        "ppo": {"params": ON_POLICY},
        "qrdqn": {"params": OFF_POLICY},
        "recurrent_ppo": {"params": ON_POLICY, "policy": "MlpLstmPolicy"},
        "sac": CONTINUOUS,
        "td3": CONTINUOUS,
        "tqc": CONTINUOUS,
        "trpo": {"params": {"n_steps": 60, "batch_size": 30}},
    },
    "policies": {
        "DuelingCnnPolicy": {"algorithm": "double_dqn", "env": IMAGES},
        "DuelingMultiInputPolicy": {"algorithm": "double_dqn", "env": {"id": "CartPole-v1", "wrappers": [TIME_AWARE]}},
    },
    "replay_buffers": {
        "her": {"env": GOAL_LINE},
        "prioritized": {"algorithm": "double_dqn", "params": {"n_steps": 3}},
    },
    "schedules": {
        "by_success": {"params": {"start": 0, "end": 1, "low": -10, "high": 100}},
        "constant": {"params": {"val": 0.5}},
        "exponential": {"params": {"start": 1e-3, "end": 1e-5}},
        "harmonic": {"params": {"final": 0.1, "scale": 0.5}},
        "linear": {"params": {"start": 1e-3}},
    },
    "launchers": {"local": {"params": {"workers": 2}}},
}
# Components that are not checked here, and why.
EXEMPT = {
    ("callbacks", "checkpoint"): "test_config_callbacks.py trains with it",
    ("callbacks", "maskable_eval"): "needs action masks; test_config_callbacks.py trains with it",
    ("callbacks", "no_model_improvement"): "is nested in eval; test_config_callbacks.py trains with it",
    ("callbacks", "reward_threshold"): "is nested in eval; test_config_callbacks.py trains with it",
    ("callbacks", "demonstrations"): "needs a file of transitions; test_demonstrations.py checks it",
    ("wrappers", "atari"): "skips frames on purpose; test_extras.py plays a game with it",
    ("launchers", "ray"): "test_ray_launcher.py checks it on a cluster",
}


def marks(kind: str, name: str) -> list[pytest.MarkDecorator]:
    if (kind, name) in EXEMPT:
        return [pytest.mark.skip(reason=EXEMPT[kind, name])]
    return [] if kind in ("wrappers", "schedules") else [pytest.mark.slow]


REGISTERED = [
    pytest.param(kind, name, marks=marks(kind, name)) for kind in CHECKS for name in list_entry_points(KINDS[kind])
]


@pytest.mark.slow
def test_noisy_distributional_policy_keeps_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "_TIMESTEPS", 120)
    params = {"dueling": True, "noisy": True, "distribution": "qr", "n_quantiles": 5}
    check_policy("MlpPolicy", params=params, algorithm="double_dqn")


@pytest.mark.slow
def test_rainbow_keeps_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "_TIMESTEPS", 120)
    check_algorithm(Rainbow, params=OFF_POLICY)


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_registered_component_keeps_promises(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "_TIMESTEPS", 120)  # of 300, to save time
    for extra in list_entry_points(KINDS[kind])[name][0].extras:
        pytest.importorskip(extra)
    CHECKS[kind](name, **ARGUMENTS[kind].get(name, {}))
