"""Train the peers of `solve_classics.py`, which starts this process in a Python environment that has SBX and Tianshou.

First it writes its versions to stdout. Then each line of stdin is a training: the JSON of [task, peer, seed,
timesteps]. The answer is a line with an outcome of `solve_classics.py`. The toolkit is not installed here.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
import sbx
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou_dqn import StopTraining

Act = Callable[[Any], Any]
"""Choose the greedy action for one observation."""


@dataclass(frozen=True)
class Task:
    """What is to be solved: a mean return of greedy episodes, played every so many timesteps."""

    env_id: str
    threshold: float
    every: int


TASKS = {
    "acrobot": Task("Acrobot-v1", -100, 2_500),
    "mountaincar": Task("MountainCar-v0", -110, 2_500),
    "lunarlander": Task("LunarLander-v3", 200, 10_000),
}
_ZOO_DQN = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "gamma": 0.99,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "policy_kwargs": {"net_arch": [256, 256]},
}
ZOO_DQN: dict[str, dict[str, Any]] = {
    "acrobot": _ZOO_DQN,
    "mountaincar": _ZOO_DQN
    | {
        "learning_rate": 4e-3,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "gamma": 0.98,
        "target_update_interval": 600,
        "train_freq": 16,
        "gradient_steps": 8,
        "exploration_fraction": 0.2,
        "exploration_final_eps": 0.07,
    },
    "lunarlander": _ZOO_DQN,
}
"""RL Zoo 2.9's settings of DQN."""
ZOO_PPO: dict[str, dict[str, Any]] = {
    "acrobot": {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    "mountaincar": {"n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    "lunarlander": {
        "n_steps": 1_024,
        "batch_size": 64,
        "gae_lambda": 0.98,
        "gamma": 0.999,
        "n_epochs": 4,
        "ent_coef": 0.01,
    },
}
"""RL Zoo 2.9's settings of PPO, for 16 environments; all but LunarLander's normalize observations and rewards."""
TIANSHOU: dict[str, dict[str, Any]] = {
    "acrobot": {
        "envs": 10,
        "lr": 1e-3,
        "gamma": 0.95,
        "n_step": 3,
        "target_update_freq": 320,
        "buffer_size": 20_000,
        "step": 100,
        "batch_size": 64,
        "hidden_sizes": [128],
        "epsilon": 0.5,
        "epsilon_decay": 0.0,
    },
    "lunarlander": {
        "envs": 16,
        "lr": 0.013,
        "gamma": 0.99,
        "n_step": 4,
        "target_update_freq": 500,
        "buffer_size": 100_000,
        "step": 16,
        "batch_size": 128,
        "hidden_sizes": [128, 128],
        "epsilon": 0.73,
        "epsilon_decay": 5e-6,
    },
}
"""Settings of Tianshou 2.0's examples acrobot_dualdqn and lunarlander_dqn; it has none for MountainCar.

Within the timesteps of the comparison, the first example keeps epsilon at 0.5. Both make one update per ``step``
timesteps.
"""


class Judge:
    """Find out whether greedy episodes reach the mean return of a task: ten first, and if they do, ninety more."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task = task
        self._env = gym.make(task.env_id)
        self._env.reset(seed=100_000 + seed)
        self._next_check = task.every

    def is_solved(self, timestep: int, act: Act) -> bool:
        """Play, if a check is due."""
        if timestep < self._next_check:
            return False
        self._next_check += self._task.every
        returns = [self._play(act) for _ in range(10)]
        if np.mean(returns) >= self._task.threshold:
            returns += [self._play(act) for _ in range(90)]
        return bool(np.mean(returns) >= self._task.threshold)

    def _play(self, act: Act) -> float:
        observation, _ = self._env.reset()
        total, ended = 0.0, False
        while not ended:
            observation, reward, terminated, truncated, _ = self._env.step(act(observation))
            total += float(reward)
            ended = terminated or truncated
        return total


class StopWhenSolved(BaseCallback):
    """Stop a training of SB3's interface when the judge is satisfied."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge
        self.is_solved = False

    def _on_step(self) -> bool:
        self.is_solved = self.judge.is_solved(self.num_timesteps, self._act)
        return not self.is_solved

    def _act(self, observation: Any) -> int:
        normalization = self.model.get_vec_normalize_env()
        seen = normalization.normalize_obs(observation) if normalization else observation
        return int(self.model.predict(seen, deterministic=True)[0])


def main() -> None:
    """Train for each line of stdin."""
    torch.set_num_threads(1)
    peers = {"SBX DQN": train_sbx_dqn, "SBX PPO": train_sbx_ppo, "Tianshou DQN": train_tianshou}
    answers, sys.stdout = sys.stdout, sys.stderr  # other output is no answer
    versions = {"python": platform.python_version()}
    versions |= {name: version(name) for name in ("sbx-rl", "jax", "tianshou", "torch")}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        task, peer, seed, timesteps = json.loads(line)
        print(json.dumps(peers[peer](task, seed, timesteps)), file=answers, flush=True)


def train_sbx_dqn(name: str, seed: int, timesteps: int) -> dict[str, Any]:
    """Train SBX's DQN with RL Zoo's settings."""
    env = make_vec_env(TASKS[name].env_id, 1, seed=seed)
    return learn(sbx.DQN("MlpPolicy", env, seed=seed, **ZOO_DQN[name]), name, seed, timesteps)


def train_sbx_ppo(name: str, seed: int, timesteps: int) -> dict[str, Any]:
    """Train SBX's PPO with RL Zoo's settings."""
    env = make_vec_env(TASKS[name].env_id, 16, seed=seed)
    if name != "lunarlander":
        env = VecNormalize(env, gamma=ZOO_PPO[name]["gamma"])
    return learn(sbx.PPO("MlpPolicy", env, seed=seed, **ZOO_PPO[name]), name, seed, timesteps)


def learn(model: Any, name: str, seed: int, timesteps: int) -> dict[str, Any]:
    """Time ``learn()`` until the task is solved."""
    stop = StopWhenSolved(Judge(TASKS[name], seed))
    start = time.perf_counter()
    model.learn(timesteps, callback=stop)
    return make_outcome(time.perf_counter() - start, model.num_timesteps, stop.is_solved)


def train_tianshou(name: str, seed: int, timesteps: int) -> dict[str, Any]:
    """Train Tianshou's DQN with the settings of its example, without its logs and tests."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    settings, judge = TIANSHOU[name], Judge(TASKS[name], seed)
    algorithm, training = build_tianshou(TASKS[name].env_id, settings, seed)
    policy = algorithm.policy
    is_solved = False

    @torch.no_grad()
    def act(observation: Any) -> int:
        return int(policy.model(observation[None])[0].argmax())

    def stop(_: int, __: int) -> None:
        nonlocal is_solved
        decay = (1 - settings["epsilon_decay"]) ** training.collect_step
        policy.set_eps_training(max(settings["epsilon"] * decay, 0.01))
        is_solved = judge.is_solved(training.collect_step, act)
        if is_solved or training.collect_step >= timesteps:
            raise StopTraining

    start = time.perf_counter()
    training.reset()
    training.collect(n_step=settings["batch_size"] * settings["envs"])
    params = OffPolicyTrainerParams(
        training_collector=training,
        max_epochs=1,
        epoch_num_steps=2 * timesteps,
        collection_step_num_env_steps=settings["step"],
        batch_size=settings["batch_size"],
        update_step_num_gradient_steps_per_sample=1 / settings["step"],
        training_fn=stop,
        verbose=False,
        show_progress=False,
    )
    with suppress(StopTraining):
        algorithm.run_training(params)
    return make_outcome(time.perf_counter() - start, training.collect_step, is_solved)


def build_tianshou(env_id: str, settings: dict[str, Any], seed: int) -> tuple[DQN, Collector]:
    """Build the example's algorithm, and the collector of its training episodes."""
    envs = DummyVectorEnv([lambda: gym.make(env_id) for _ in range(settings["envs"])])
    envs.seed(seed)
    dueling = {"hidden_sizes": [128, 128]}
    net = Net(
        state_shape=envs.observation_space[0].shape,
        action_shape=int(envs.action_space[0].n),
        hidden_sizes=settings["hidden_sizes"],
        dueling_param=(dueling, dueling),
    )
    policy = DiscreteQLearningPolicy(model=net, action_space=envs.action_space[0], eps_training=0.5)
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=settings["lr"]),
        gamma=settings["gamma"],
        n_step_return_horizon=settings["n_step"],
        target_update_freq=settings["target_update_freq"],
    )
    buffer = VectorReplayBuffer(settings["buffer_size"], settings["envs"])
    return algorithm, Collector(algorithm, envs, buffer, exploration_noise=True)


def make_outcome(seconds: float, timesteps: int, is_solved: bool) -> dict[str, Any]:
    """Return an outcome in the form of `solve.py`."""
    return {"seconds": seconds if is_solved else None, "timesteps": timesteps, "trained_seconds": seconds}


if __name__ == "__main__":
    main()
