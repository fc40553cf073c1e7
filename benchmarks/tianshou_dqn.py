"""Train Tianshou's DQN with the settings of its example discrete_dqn; `solve.py` starts this process.

First it writes its versions to stdout. Then each line of stdin is a training: the JSON of [seed, threshold, maximum of
timesteps or null, whether to stop by the example's tests]. The answer is a line with an outcome of `solve.py`. This
runs in Tianshou's Python environment, where the toolkit is not installed.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import deque
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

EPOCHS, EPOCH_STEPS = 10, 10_000


class StopTraining(Exception):  # noqa: N818 - like StopIteration, this is no error
    """End a training; Tianshou itself ends one only by its tests."""


class ReturnsCollector(Collector):
    """A collector that has the last 100 training returns."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.last_returns: deque[float] = deque(maxlen=100)

    def collect(self, *arguments: Any, **options: Any) -> Any:
        """Collect, and store the returns of the episodes that ended."""
        stats = super().collect(*arguments, **options)
        self.last_returns.extend(stats.returns)
        return stats


def main() -> None:
    """Train for each line of stdin."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # other output is no answer
    versions = {"python": platform.python_version()}
    print(json.dumps(versions | {name: version(name) for name in ("tianshou", "torch")}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(train(*json.loads(line))), file=answers, flush=True)


def train(seed: int, threshold: float, max_timesteps: int | None, is_tested: bool) -> dict[str, Any]:
    """Train once and time it until CartPole is solved."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    limit = min(max_timesteps or EPOCHS * EPOCH_STEPS, EPOCHS * EPOCH_STEPS)
    algorithm, env = build()
    training = ReturnsCollector(algorithm, make_envs(10, seed), VectorReplayBuffer(20_000, 10), exploration_noise=True)

    def stop(*_: int) -> None:
        is_solved = len(training.last_returns) == 100 and sum(training.last_returns) >= 100 * threshold
        if training.collect_step >= limit or (is_solved and not is_tested):
            raise StopTraining

    example: dict[str, Any] = {}
    if is_tested:
        example = {
            "test_collector": Collector(algorithm, make_envs(100, seed + 10), exploration_noise=True),
            "test_step_num_episodes": 100,
            "stop_fn": lambda mean_return: mean_return >= threshold,
            "test_in_training": True,
        }
    params = OffPolicyTrainerParams(
        training_collector=training,
        max_epochs=EPOCHS,
        epoch_num_steps=EPOCH_STEPS,
        collection_step_num_env_steps=10,
        batch_size=64,
        update_step_num_gradient_steps_per_sample=1 / 10,
        training_fn=stop,
        verbose=False,
        show_progress=False,
        **example,
    )
    start = time.perf_counter()
    is_solved = False
    try:
        best = algorithm.run_training(params).best_score
        is_solved = is_tested and best >= threshold
    except StopTraining:
        is_solved = not is_tested and sum(training.last_returns) >= 100 * threshold
    trained = time.perf_counter() - start
    env.close()
    return {"seconds": trained if is_solved else None, "timesteps": training.collect_step, "trained_seconds": trained}


def build() -> tuple[DQN, gym.Env[Any, Any]]:
    """Build the example's algorithm, and the environment whose spaces it has."""
    env = gym.make("CartPole-v1", max_episode_steps=200)
    net = Net(state_shape=env.observation_space.shape, action_shape=2, hidden_sizes=[128, 128, 128])
    policy = DiscreteQLearningPolicy(model=net, action_space=env.action_space, eps_training=0.1, eps_inference=0.05)
    optimizer = AdamOptimizerFactory(lr=1e-3)
    return DQN(policy=policy, optim=optimizer, gamma=0.9, n_step_return_horizon=3, target_update_freq=320), env


def make_envs(number: int, seed: int) -> DummyVectorEnv:
    """Build environments with a limit of 200 steps."""
    envs = DummyVectorEnv([lambda: gym.make("CartPole-v1", max_episode_steps=200) for _ in range(number)])
    envs.seed(seed)
    return envs


if __name__ == "__main__":
    main()
