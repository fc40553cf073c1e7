"""Helpers of the tests that are not fixtures."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from command_server import Command

PROJECT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent / "toolkit"
_MODULES = {"atari": "ale_py", "box2d": "Box2D", "minigrid": "minigrid", "mujoco": "mujoco"}


def needed_extra(config: Path) -> str | None:
    """Return the extra that a config needs, according to its comment."""
    named = re.search(r"sb3-toolkit\[(\w+)\]", config.read_text())
    return named and named[1]


def can_run(config: Path) -> bool:
    """Return whether the extra that a config needs is installed."""
    extra = needed_extra(config)
    return extra is None or has_extra(extra)


def has_extra(extra: str) -> bool:
    """Return whether an extra with environments is installed."""
    return find_spec(_MODULES[extra]) is not None


CONFIGS = [path for path in sorted((PROJECT / "configs").glob("*.yaml")) if can_run(path)]

SMALL_CONFIG = """\
timesteps: 300
env:
  id: CartPole-v1
  max_episode_steps: 200
  n_envs: 2
  wrappers:
    - name: terminal_reward_clip
      params: {success_steps: 195}
algorithm:
  name: double_dqn
  params: {learning_rate: 1e-3, buffer_size: 1_000, learning_starts: 50, compile: false, target_update_interval: 100}
  policy_params: {net_arch: [16, 16]}
callbacks:
  - name: success
    params: {threshold: 195, episodes: 10}
"""

WRAPPER_MODULE = """\
import gymnasium

class Mine(gymnasium.Wrapper):
    pass
"""


@dataclass(frozen=True)
class Finished:
    """A finished command: exit status and what it printed."""

    status: int
    out: str
    err: str


Toolkit = Callable[..., Finished]
Install = Callable[..., Path]


def toolkit_process(
    arguments: Sequence[str | Path], *, session: bool = False, is_new: bool = False, **environment: str
) -> Command | subprocess.Popen[str]:
    """Start the command in its own process.

    :param session: whether the process leads a session, as the shell of a terminal does
    :param is_new: whether to start a new Python, which costs seconds, and not a copy of one that has imported all
    :param environment: variables; one that Python reads when it starts asks for a new one
    """
    variables = {**os.environ, **environment}
    if not is_new and sys.platform == "linux" and not any(name.startswith("PYTHON") for name in environment):
        return Command([*map(str, arguments)], variables, session=session)
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=variables,
        start_new_session=session,
        preexec_fn=restore_default_signals,  # noqa: PLW1509 - it only sets signals
    )


def terminal_process(*arguments: str | Path, width: int = 80, **environment: str) -> tuple[Command, int]:
    """Start the command on its own terminal; return the descriptor that reads and closes the terminal, too."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = Command([*map(str, arguments)], {**os.environ, **environment}, terminal=inside)
    os.close(inside)
    return process, terminal


def restore_default_signals() -> None:
    """Let Ctrl-C and a closed terminal reach the process that is about to start, also where the tests ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def files_in(directory: Path) -> set[str]:
    """Return every file below a directory, by relative path."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds, which takes long on a busy machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition does not hold in time"
        time.sleep(0.02)
