"""Measure what each callback, logger and wrapper of the toolkit adds to a step of training.

    python benchmarks/features.py [--envs 16 1] [--steps 400] [--repeats 25] [--compile auto|true|false]
                                  [--results DIR]

The algorithm is that of configs/cartpole_ddqn.yaml, on one torch thread. The pole may fall, and an episode ends after
100 steps whatever the agent does, so that all trainings have as many. They run in turns, each for a moment in every
repeat: `--steps` steps of all environments at once. Updates, whose time varies by more than what is looked for, come
but once in 100 such steps, save in the `learn()` that percents are of.

What one adds is its time less that of what stands beside it, in the same repeat: microseconds of an environment step
by the processor's time of the process and by the clock, and, of the former, percent of `learn()`. Median (least to
greatest). `logging` is progress.csv and TensorBoard, as `toolkit.train` always has them; `toolkit.train` also writes
monitor.csv.
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
from report import PROJECT, compiled, options, progress, spread, table, write
from stable_baselines3.common.callbacks import BaseCallback

import toolkit
import toolkit.envs.factory
from toolkit.training.logger import make_logger
from toolkit.training.model import build_model
from toolkit.training.run_directory import RunDirectory

WHOLE, BARE, TRAIN = "learn()", "learn(), few updates", "toolkit.train, no callbacks"
EPISODE = 100  # steps
SUCCESS = {"name": "success", "params": {"threshold": 1_000, "episodes": 100}}
PROGRESS = {"name": "progress"}
VIDEO = {"name": "record_video", "params": {"every_timesteps": 1_000_000_000}}
WRAPPERS: list[dict[str, Any]] = [
    {"name": "terminal_reward_clip"},
    {"name": "graded_terminal_reward"},
    {"name": "angle_penalty"},
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
    **{wrapper["name"]: BARE for wrapper in WRAPPERS},
}
"""What is measured, and what it is compared with."""


class Unending(CartPoleEnv):
    """CartPole whose pole may fall: only a time limit ends an episode."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step on, whatever has happened."""
        observation, reward, _, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        self.steps_beyond_terminated = None  # CartPole warns of steps after the end
        return observation, float(reward), False, truncated, info


class Turn(BaseCallback):
    """Lets one of several trainings, each in a thread of its own, run for a moment, then the next.

    :param steps: how long a moment is, in steps of all environments at once
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.others: list[Turn] = []
        self.over = False
        self.times: list[tuple[float, float]] = []
        self._mine = threading.Semaphore(0)

    def _on_step(self) -> bool:
        if self.n_calls % self.steps == 0:
            if self.n_calls > self.steps:  # learning starts in the first moment
                self.times.append((time.process_time() - self._start[0], time.perf_counter() - self._start[1]))
            self.hand_on()
            self.wait()
        return True

    def wait(self) -> None:
        """Wait for the turn, and start the clocks."""
        self._mine.acquire()
        self._start = time.process_time(), time.perf_counter()

    def hand_on(self) -> None:
        """Let the next one run that is not over, which may be this one."""
        at = self.others.index(self)
        following = [other for other in self.others[at + 1 :] + self.others[: at + 1] if not other.over]
        if following:
            following[0]._mine.release()


def main() -> None:
    """Measure, and write the tables."""
    parser = options(__doc__, repeats=25)
    parser.add_argument("--envs", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--steps", type=int, default=400, help="steps of all environments at once in each repeat")
    parser.add_argument("--compile", type=compiled, default=False, help="as DoubleDQN takes it; by default false")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gym.register("Unending-v0", Unending, max_episode_steps=EPISODE)  # type: ignore[arg-type]

    measured = {}
    for n_envs in arguments.envs:
        progress(f"n_envs: {n_envs}")
        taken = measure(n_envs, arguments)
        measured[n_envs] = {
            name: [[1e6 * seconds / (n_envs * arguments.steps) for seconds in one] for one in times]
            for name, times in taken.items()
        }
    text = "\n\n".join(f"## `n_envs: {n_envs}`\n\n{page(one)}" for n_envs, one in measured.items())
    write("features", __doc__, text, measured, arguments)


def measure(n_envs: int, arguments: Any) -> dict[str, list[tuple[float, float]]]:
    """Run all trainings in turns; return the seconds of each repeat, of the processor and by the clock."""
    values = {
        "timesteps": n_envs * arguments.steps * (arguments.repeats + 1),
        "env": {"id": "Unending-v0", "n_envs": n_envs},
        "callbacks": [],
        "algorithm.params.compile": arguments.compile,
        "algorithm.params.learning_starts": n_envs * arguments.steps // 2,  # in the moment that is not counted
    }
    jobs = trainings(toolkit.load_config(PROJECT / "configs" / "cartpole_ddqn.yaml", values))
    turns = {name: Turn(arguments.steps) for name in jobs}
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.redirect_stderr(io.StringIO()),  # what the progress callback prints
        ThreadPoolExecutor(len(jobs)) as threads,
    ):
        for turn in turns.values():
            turn.others = [*turns.values()]
        running = [
            threads.submit(in_turn, turns[name], partial(job, Path(directory) / str(number), turns[name]))
            for number, (name, job) in enumerate(jobs.items())
        ]
        turns[WHOLE].others[-1].hand_on()
        for one in running:
            one.result()
    return {name: turn.times for name, turn in turns.items()}


def in_turn(turn: Turn, job: Callable[[], Any]) -> None:
    """Do a job when its turn comes, and let the others go on however it ends."""
    turn.wait()
    try:
        job()
    finally:
        turn.over = True
        turn.hand_on()


def trainings(whole: toolkit.RunConfig) -> dict[str, Callable[[Path, Turn], Any]]:
    """Return what is measured by its name; each trains in a directory, with a callback."""
    few = {"algorithm.params.train_freq": EPISODE, "algorithm.params.gradient_steps": 1}
    config = toolkit.load_config(whole, few)

    def through(*callbacks: dict[str, Any]) -> Callable[[Path, Turn], Any]:
        changed = toolkit.load_config(config, {"callbacks": [*callbacks]})
        return lambda directory, turn: toolkit.train(changed, directory, [turn])

    return {
        WHOLE: partial(learn, whole, False),
        BARE: partial(learn, config, False),
        "logging": partial(learn, config, True),
        TRAIN: through(),
        "success": through(SUCCESS),
        "progress": through(PROGRESS),
        "record_video, never due": through(VIDEO),
        "success + progress + logging": through(SUCCESS, PROGRESS),
        **{
            wrapper["name"]: partial(learn, toolkit.load_config(config, {"env.wrappers": [wrapper]}), False)
            for wrapper in WRAPPERS
        },
    }


def learn(config: toolkit.RunConfig, logged: bool, directory: Path, turn: Turn) -> None:
    """Train with nothing of the toolkit but environments, and its logger if wanted."""
    env = toolkit.envs.factory.make_vec_env(config, seed=0)
    model = build_model(config, env, seed=0)
    if logged:
        model.set_logger(make_logger(RunDirectory.create(config, directory)))
    model.learn(config.timesteps, callback=turn)
    model.logger.close()
    env.close()


def page(measured: dict[str, list[list[float]]]) -> str:
    """Write the table of one number of environments."""
    whole = [processor for processor, _ in measured[WHOLE]]
    rows = [[WHOLE, "", spread(whole, 1), spread([clock for _, clock in measured[WHOLE]], 1), "100"]]
    for name, beside in COMPARED.items():
        processor, clock = (
            [one[way] - other[way] for one, other in zip(measured[name], measured[beside], strict=True)]
            for way in (0, 1)
        )
        percent = [100 * added / all_of_it for added, all_of_it in zip(processor, whole, strict=True)]
        rows.append([name, beside, spread(processor), spread(clock), spread(percent, 1)])
    return table(["what", "beside", "us a step, processor", "us a step, clock", "% of learn()"], rows)


if __name__ == "__main__":
    main()
