"""Training that cannot be learning says so, in runs that fail for real. Runs that learn say nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from small_runs import ALGORITHMS, make_config, train_with_interruptions
from stable_baselines3 import PPO

from toolkit import Run, RunConfig, train
from toolkit.config.load import resolve_config
from toolkit.envs.factory import make_vec_env
from toolkit.evaluation.notebook import render_run
from toolkit.evaluation.summary import format_run_summary
from toolkit.training.model import build_model
from toolkit.training.results import read_result
from toolkit.training.value_estimates import bound_values, estimate_values


class Choice(gym.Env[NDArray[np.float32], np.int64]):
    """Episodes of ten steps and three actions. The right action gives a reward of 1; by default, no action does."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(3)

    def __init__(self, right_action: int | None = None) -> None:
        self.right_action = right_action

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), float(action == self.right_action), self.steps == 10, False, {}

    def _observe(self) -> NDArray[np.float32]:
        return self.np_random.uniform(-1, 1, 1).astype(np.float32)


gym.register("toolkit_tests/Choice-v0", Choice)
ENV = {"n_envs": 40}
CHOICE = {"id": "toolkit_tests/Choice-v0", **ENV}
DQN = {"learning_starts": 400, "train_freq": 8, "exploration_fraction": 0.05, "exploration_final_eps": 0.01}
CONSTANT = {"timesteps": 20_000, "seed": 1, "env": ENV, "params": DQN | {"learning_rate": 1e-6}}
WILD = {"learning_rate": 1e3, "loss": "mse", "max_grad_norm": float("inf")}


def diagnose(algorithm: str = "double_dqn", net_arch: tuple[int, ...] = (16, 16), **changes: Any) -> str | None:
    config = make_config(algorithm, **{"snapshots": {"every_timesteps": 20_000}, **changes})
    run = train(config, Path("run"), algorithm__policy_params={"net_arch": [*net_arch]})
    assert run.result is not None
    text = run.result.get("diagnosis")
    assert text is None or (f"\n  note   {text}\n" in format_run_summary(run) and text in render_run(run))
    return text


def test_run_that_takes_one_action_is_told_so_also_after_resumes() -> None:
    text = diagnose(**CONSTANT)
    assert re.fullmatch(
        r"training did not learn: the agent takes action 1 in (99\.\d|100) % of the last 10,000 steps; Q-values are "
        r"near 0\.\d+ while discounted returns are near \d\.\d: try a higher learning rate or more updates",
        str(text),
    )
    resumed = train_with_interruptions(
        make_config(**CONSTANT, snapshots={"every_timesteps": 700}), Path("resumed"), (930, 1_710)
    )
    assert resumed.result is not None
    assert resumed.result["diagnosis"] == text


def test_short_run_that_takes_one_action_is_told_nothing() -> None:
    assert diagnose(**CONSTANT | {"timesteps": 19_000}) is None


def test_run_where_one_action_is_right_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    env = CHOICE | {"params": {"right_action": 0}}
    assert diagnose(timesteps=20_000, callbacks=[], env=env, params=DQN | {"learning_rate": 3e-3}) is None
    assert not caplog.messages
    rewards = [episode.raw_return for episode in Run.open(Path("run")).read_episodes()]
    assert np.mean(rewards[-100:]) > 9.5


def test_run_with_impossible_values_is_told_the_largest_possible() -> None:
    assert re.fullmatch(
        r"training diverged: Q-values are near \d+,\d{3}, but rewards up to 1 cannot add up to more than 100 with "
        r"gamma 0\.99: try slower target updates, a lower learning rate or a finite max_grad_norm",
        str(diagnose(timesteps=3_000, env={"n_envs": 8}, params=DQN | WILD, net_arch=())),
    )


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_run_with_infinite_weights_says_so_at_half_time(caplog: pytest.LogCaptureFixture) -> None:
    wild = DQN | WILD | {"learning_rate": 1e30}
    advice = "try slower target updates, a lower learning rate or a finite max_grad_norm"
    assert diagnose(timesteps=1_600, env=ENV, params=wild) == (
        f"training diverged: the weights are not finite numbers: {advice}"
    )
    assert caplog.messages == [f"the weights are not finite numbers after 960 of 1,600 timesteps: {advice}"]


def test_run_without_any_reward_says_so() -> None:
    text = "training did not learn: every reward was 0: try more exploration, or rewards on the way to the goal"
    assert diagnose("a2c", timesteps=20_000, callbacks=[], env=CHOICE) == text


def test_run_with_one_continuous_action_says_so() -> None:
    env = {"max_episode_steps": 50, **ENV}
    assert diagnose("td3", timesteps=20_000, env=env, params={"learning_rate": 1.0}) == (
        "training did not learn: the greedy action is the same for 63 observations of the last 10,000 steps: "
        "try more exploration or another learning rate"
    )


class Brittle(PPO):
    """PPO whose greedy actions nobody can have."""

    def predict(self, *_: Any, **options: Any) -> Any:
        raise NotImplementedError


def test_algorithm_that_cannot_be_diagnosed_ends_training() -> None:
    env = {"id": "Pendulum-v1", "max_episode_steps": 50, **ENV}
    config = make_config("ppo", env=env, timesteps=20_000, params={"batch_size": 2_560, "n_epochs": 1})
    run = train(config, Path("run"), algorithm__name=Brittle)
    assert run.result is not None
    assert run.result["status"] == "finished"
    assert "diagnosis" not in run.result


@pytest.mark.parametrize("name", [*ALGORITHMS, "ddpg", "crossq", "trpo", "maskable_ppo", "ars"])
def test_values_are_estimated_for_every_algorithm_that_has_them(name: str) -> None:
    discrete = {"double_dqn", "dqn", "qrdqn", "ppo", "a2c", "trpo", "maskable_ppo", "recurrent_ppo", "ars"}
    policy = {"recurrent_ppo": "MlpLstmPolicy", "ars": "LinearPolicy"}.get(name, "MlpPolicy")
    config = resolve_config(
        RunConfig.model_validate(
            {
                "name": "values",
                "timesteps": 10,
                "env": {"id": "CartPole-v1" if name in discrete else "Pendulum-v1", "n_envs": 3},
                "algorithm": {"name": name, "policy": policy},
            }
        )
    )
    env = make_vec_env(config, seed=0)
    model = build_model(config, env)
    estimates = estimate_values(model, env.reset())
    env.close()
    if name in ("recurrent_ppo", "ars"):
        assert estimates is None
    else:
        assert estimates is not None
        assert estimates.values.shape == (3,)
        assert np.isfinite(estimates.values).all()
        entropy = 1.0 if name in ("sac", "tqc", "crossq") else 0.0  # its coefficient starts at 1
        assert bound_values(model, 2.0) == pytest.approx((2.0 + entropy) / 0.01)


def test_run_that_starts_to_learn_late_says_so_at_half_time(caplog: pytest.LogCaptureFixture) -> None:
    assert diagnose(params={"learning_starts": 600}) is None
    assert caplog.messages == [
        "no update was made in 400 of 800 timesteps, because learning_starts is 600: lower it, or increase timesteps"
    ]


SAMPLING = {"learning_starts": 32, "batch_size": 200, "sample_with_replacement": False}
IDLE: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "learning starts later": (
        "sac",
        {"params": {"learning_starts": 1_000}},
        "no update was made in 104 timesteps, because learning_starts is 1,000: lower it, or increase timesteps",
    ),
    "no learning rate": (
        "ppo",
        {"params": {"learning_rate": 0.0}},
        "no update changed a weight in 128 timesteps, because learning_rate is 0: set it above 0",
    ),
    "a callback stops the first rollout": (
        "ppo",
        {"callbacks": [{"name": "max_episodes", "params": {"max_episodes": 1}}]},
        r"no update was made in \d+ of 100 timesteps, because the first rollout has 64: lower n_steps, or increase "
        "timesteps",
    ),
    "too few transitions for one minibatch": (
        "double_dqn",
        {"params": SAMPLING},
        "no update was made in 100 timesteps, because without replacement, updates need 200 stored vector steps, not "
        "100: lower batch_size, or increase timesteps",
    ),
    "an update": ("ppo", {}, None),
}


@pytest.mark.parametrize(("algorithm", "changes", "text"), IDLE.values(), ids=IDLE)
def test_run_without_an_update_says_why(algorithm: str, changes: dict[str, Any], text: str | None) -> None:
    diagnosis = diagnose(algorithm, timesteps=100, **changes)
    assert re.fullmatch(text, str(diagnosis)) if text else diagnosis is None


def test_resumed_run_without_an_update_says_so() -> None:
    idle = make_config(params={"learning_starts": 2_000})
    result = train_with_interruptions(idle, Path("run")).result
    assert result is not None
    text = "no update was made in 800 timesteps, because learning_starts is 2,000: lower it, or increase timesteps"
    assert result["diagnosis"] == text


def test_earlier_file_with_no_update_has_a_diagnosis(run_copy: Run) -> None:
    path = run_copy.directory / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"no_update": "learning_rate is 0"}))
    result = read_result(path)
    assert result is not None
    assert result["diagnosis"] == "no update was made: learning_rate is 0"
    assert "no_update" not in result
