"""Measure how much time each callback, logger and wrapper of the toolkit adds to a training step.

    python benchmarks/features.py [--envs 16 1] [--steps 400] [--repeats 25] [--compile auto|true|false]
                                  [--results DIR]

The algorithm is that of configs/experiments/base/cartpole_few_updates.yaml, on one torch thread. Every episode has 100
steps for any actions, so that all trainings have equally many episodes. The trainings run in turns: in each repeat,
each takes `--steps` steps of all environments. The time of updates varies more than the differences to measure. So
there is one update in 100 such steps, except in the `learn()` that is the base of the percentages.

A feature's time is that of its training minus that of the training `beside` it, in the same repeat. The table has
microseconds of an environment step, by the processor's time and by the clock. The percentage is the processor's time
divided by that of `learn()`. Median (minimum to maximum). The two wrappers are `angle_penalty`. `logging` is
progress.csv and TensorBoard, which `toolkit.train` always writes. `toolkit.train` also writes monitor.csv.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from report import PROJECT, format_spread, format_table, make_parser, parse_compile, print_progress, write_page
from stable_baselines3.common.callbacks import BaseCallback

import toolkit
import toolkit.envs.factory
from toolkit.training.logger import make_logger
from toolkit.training.model import build_model
from toolkit.training.run_directory import RunDirectory

WHOLE, BARE, TRAIN = "learn()", "learn(), few updates", "toolkit.train, no callbacks"
WRAPPED = "toolkit.train, two wrappers"
CONFIG = PROJECT / "configs" / "experiments" / "base" / "cartpole_few_updates.yaml"
EPISODE = 100  # steps
SUCCESS = {"name": "success", "params": {"threshold": 1_000, "episodes": 100}}
PROGRESS = {"name": "progress"}
LOG_REWARDS = {"name": "log_rewards"}
LOG_INFO = {"name": "log_info", "params": {"names": ["TimeLimit.truncated"]}}
VIDEO = {"name": "record_video", "params": {"every_timesteps": 1_000_000_000}}
ANGLE_PENALTY = {"name": "angle_penalty"}
WRAPPERS: list[dict[str, Any]] = [
    {"name": "terminal_reward_clip"},
    {"name": "graded_terminal_reward"},
    ANGLE_PENALTY,
    {"name": "clip_reward", "params": {"min_reward": -1.0, "max_reward": 1.0}},
    {"name": "random_first_action"},
]
COMPARED = {
    "logging": BARE,
    TRAIN: BARE,
    "success": TRAIN,
    "progress": TRAIN,
    "record_video, never due": TRAIN,
    "success + progress + logging": BARE,
    WRAPPED: TRAIN,
    "log_rewards, two wrappers": WRAPPED,
    "log_info, one number": TRAIN,
    **{wrapper["name"]: BARE for wrapper in WRAPPERS},
}
"""What each feature is compared with."""


class FixedLengthCartPole(CartPoleEnv):
    """CartPole in which only a time limit ends an episode."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment, also after the pole has fallen."""
        observation, reward, _, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        self.steps_beyond_terminated = None  # CartPole warns of steps after the end
        return observation, float(reward), False, truncated, info


class TakeTurns(BaseCallback):
    """Let several trainings, each in its own thread, run in turns.

    :param steps: length of a turn, in steps of all environments
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.all_turns: list[TakeTurns] = []
        self.has_ended = False
        self.times: list[tuple[float, float]] = []
        self._semaphore = threading.Semaphore(0)

    def _on_step(self) -> bool:
        if self.n_calls % self.steps == 0:
            if self.n_calls > self.steps:  # learning starts in the first turn
                self.times.append((time.process_time() - self._start[0], time.perf_counter() - self._start[1]))
            self.pass_on()
            self.wait()
        return True

    def wait(self) -> None:
        """Wait for this turn and start the clocks."""
        self._semaphore.acquire()
        self._start = time.process_time(), time.perf_counter()

    def pass_on(self) -> None:
        """Start the next turn whose training has not ended, perhaps this one again."""
        index = self.all_turns.index(self) + 1
        waiting = [turn for turn in self.all_turns[index:] + self.all_turns[:index] if not turn.has_ended]
        if waiting:
            waiting[0]._semaphore.release()


def main() -> None:
    """Measure the features and write the tables."""
    parser = make_parser(__doc__, repeats=25)
    parser.add_argument("--envs", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--steps", type=int, default=400, help="steps of all environments at once in each repeat")
    parser.add_argument("--compile", type=parse_compile, default=False, help="as DoubleDQN takes it; by default false")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gym.register("FixedLengthCartPole-v0", FixedLengthCartPole, max_episode_steps=EPISODE)  # type: ignore[arg-type]

    measured = {}
    for n_envs in arguments.envs:
        print_progress(f"n_envs: {n_envs}")
        n_steps = n_envs * arguments.steps
        measured[n_envs] = {
            name: [[1e6 * seconds / n_steps for seconds in both] for both in times]
            for name, times in measure(n_envs, arguments).items()
        }
    text = "\n\n".join(f"## `n_envs: {n_envs}`\n\n{make_table(times)}" for n_envs, times in measured.items())
    write_page("features", __doc__, text, measured, arguments)


def measure(n_envs: int, arguments: Any) -> dict[str, list[tuple[float, float]]]:
    """Run all trainings in turns; return the seconds of each repeat, by the processor and by the clock."""
    values = {
        "timesteps": n_envs * arguments.steps * (arguments.repeats + 1),
        "env": {"id": "FixedLengthCartPole-v0", "n_envs": n_envs},
        "callbacks": [],
        "algorithm.params.compile": arguments.compile,
        "algorithm.params.learning_starts": n_envs * arguments.steps // 2,  # in the first turn, which does not count
    }
    jobs = make_trainings(toolkit.load_config(CONFIG, values))
    turns = {name: TakeTurns(arguments.steps) for name in jobs}
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.redirect_stderr(io.StringIO()),  # what the progress callback prints
        ThreadPoolExecutor(len(jobs)) as threads,
    ):
        for turn in turns.values():
            turn.all_turns = [*turns.values()]
        futures = [
            threads.submit(run_in_turns, turns[name], partial(job, Path(directory) / str(number), turns[name]))
            for number, (name, job) in enumerate(jobs.items())
        ]
        turns[WHOLE].all_turns[-1].pass_on()
        for future in futures:
            future.result()
    return {name: turn.times for name, turn in turns.items()}


def run_in_turns(turn: TakeTurns, job: Callable[[], Any]) -> None:
    """Run a job in turns with others, which continue even if it fails."""
    turn.wait()
    try:
        job()
    finally:
        turn.has_ended = True
        turn.pass_on()


def make_trainings(whole: toolkit.RunConfig) -> dict[str, Callable[[Path, TakeTurns], Any]]:
    """Return a function for each training; it takes the run directory and the callback that waits for its turn."""
    few_updates = {"algorithm.params.train_freq": EPISODE, "algorithm.params.gradient_steps": 1}
    config = toolkit.load_config(whole, few_updates)

    def train_with(*callbacks: dict[str, Any], n_wrappers: int = 0) -> Callable[[Path, TakeTurns], Any]:
        values = {"callbacks": [*callbacks], "env.wrappers": [ANGLE_PENALTY] * n_wrappers}
        with_callbacks = toolkit.load_config(config, values)
        return lambda directory, turn: toolkit.train(with_callbacks, directory, [turn])

    return {
        WHOLE: partial(learn, whole, False),
        BARE: partial(learn, config, False),
        "logging": partial(learn, config, True),
        TRAIN: train_with(),
        "success": train_with(SUCCESS),
        "progress": train_with(PROGRESS),
        "record_video, never due": train_with(VIDEO),
        "success + progress + logging": train_with(SUCCESS, PROGRESS),
        WRAPPED: train_with(n_wrappers=2),
        "log_rewards, two wrappers": train_with(LOG_REWARDS, n_wrappers=2),
        "log_info, one number": train_with(LOG_INFO),
        **{
            wrapper["name"]: partial(learn, toolkit.load_config(config, {"env.wrappers": [wrapper]}), False)
            for wrapper in WRAPPERS
        },
    }


def learn(config: toolkit.RunConfig, has_logger: bool, directory: Path, turn: TakeTurns) -> None:
    """Train with only the environments of the toolkit, and perhaps its logger."""
    env = toolkit.envs.factory.make_vec_env(config, seed=0)
    model = build_model(config, env, seed=0)
    if has_logger:
        model.set_logger(make_logger(RunDirectory.create(config, directory), env, model))
    model.learn(config.timesteps, callback=turn)
    model.logger.close()
    env.close()


def make_table(measured: dict[str, list[list[float]]]) -> str:
    """Write the table for one number of environments."""
    whole = [processor for processor, _ in measured[WHOLE]]
    rows = [[WHOLE, "", format_spread(whole, 1), format_spread([clock for _, clock in measured[WHOLE]], 1), "100"]]
    for name, beside in COMPARED.items():
        processor, clock = (
            [times[index] - base[index] for times, base in zip(measured[name], measured[beside], strict=True)]
            for index in (0, 1)
        )
        percent = [100 * added / total for added, total in zip(processor, whole, strict=True)]
        rows.append([name, beside, format_spread(processor), format_spread(clock), format_spread(percent, 1)])
    return format_table(["what", "beside", "us a step, processor", "us a step, clock", "% of learn()"], rows)


if __name__ == "__main__":
    main()
