"""Train Tianshou's DQN with the settings of its example discrete_dqn, as `solve.py` asks; not to be called by hand.

Says on stdout which versions it runs. Then each line of stdin is a training, the JSON of [seed, threshold, most steps
or null, whether to stop by the example's tests]; it is answered by a line as `solve.py` has its outcomes. This runs in
Tianshou's environment, where the toolkit is not installed.
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


class Stopped(Exception):  # noqa: N818 - as StopIteration, no error
    """Ends a training, which Tianshou itself ends by tests alone."""


class Watched(Collector):
    """Knows the last 100 training returns."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.last_returns: deque[float] = deque(maxlen=100)

    def collect(self, *arguments: Any, **more: Any) -> Any:
        """Collect as ever, and keep the returns of the episodes that ended."""
        stats = super().collect(*arguments, **more)
        self.last_returns.extend(stats.returns)
        return stats


def main() -> None:
    """Answer until there are no more questions."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    versions = {"python": platform.python_version()}
    print(json.dumps(versions | {name: version(name) for name in ("tianshou", "torch")}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(train(*json.loads(line))), file=answers, flush=True)


def train(seed: int, threshold: float, most: int | None, tested: bool) -> dict[str, Any]:
    """Train once, and time it until it is solved."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    limit = min(most or EPOCHS * EPOCH_STEPS, EPOCHS * EPOCH_STEPS)
    algorithm, env = build()
    training = Watched(algorithm, envs(10, seed), VectorReplayBuffer(20_000, 10), exploration_noise=True)

    def stop(*_: int) -> None:
        solved = len(training.last_returns) == 100 and sum(training.last_returns) >= 100 * threshold
        if training.collect_step >= limit or (solved and not tested):
            raise Stopped

    example: dict[str, Any] = {}
    if tested:
        example = {
            "test_collector": Collector(algorithm, envs(100, seed + 10), exploration_noise=True),
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
    solved = False
    try:
        best = algorithm.run_training(params).best_score
        solved = tested and best >= threshold
    except Stopped:
        solved = not tested and sum(training.last_returns) >= 100 * threshold
    trained = time.perf_counter() - start
    env.close()
    return {"seconds": trained if solved else None, "timesteps": training.collect_step, "trained_seconds": trained}


def build() -> tuple[DQN, gym.Env[Any, Any]]:
    """Build the example's algorithm, and the environment whose spaces it has."""
    env = gym.make("CartPole-v1", max_episode_steps=200)
    net = Net(state_shape=env.observation_space.shape, action_shape=2, hidden_sizes=[128, 128, 128])
    policy = DiscreteQLearningPolicy(model=net, action_space=env.action_space, eps_training=0.1, eps_inference=0.05)
    optimizer = AdamOptimizerFactory(lr=1e-3)
    return DQN(policy=policy, optim=optimizer, gamma=0.9, n_step_return_horizon=3, target_update_freq=320), env


def envs(number: int, seed: int) -> DummyVectorEnv:
    """Build environments with a limit of 200 steps."""
    made = DummyVectorEnv([lambda: gym.make("CartPole-v1", max_episode_steps=200) for _ in range(number)])
    made.seed(seed)
    return made


if __name__ == "__main__":
    main()
