"""Helpers of the tests that are no fixtures."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).parents[1]
_MODULES = {"atari": "ale_py", "box2d": "Box2D", "mujoco": "mujoco"}


def needed_extra(config: Path) -> str | None:
    """Return the extra that a config says it needs."""
    named = re.search(r"sb3-toolkit\[(\w+)\]", config.read_text())
    return named and named[1]


def can_run(config: Path) -> bool:
    """Say whether the extra that a config says it needs is installed."""
    extra = needed_extra(config)
    return extra is None or find_spec(_MODULES[extra]) is not None


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
  params: {learning_rate: 1e-3, buffer_size: 1_000, learning_starts: 50, batch_size: 32, target_update_interval: 100}
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
    arguments: Sequence[str | Path], *, session: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """Start the installed command in a process of its own, which may lead a session."""
    command = Path(sys.executable).parent / "toolkit"
    return subprocess.Popen(
        [str(command), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
        start_new_session=session,
        preexec_fn=default_signals,  # noqa: PLW1509 - it sets signals and no more
    )


def terminal_process(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start the installed command on a terminal of its own; return the descriptor that closes that, too."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "-c", Path(sys.executable).parent / "toolkit", *arguments],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        preexec_fn=default_signals,  # noqa: PLW1509 - as above
    )
    os.close(inside)
    return process, terminal


def default_signals() -> None:
    """Let Ctrl-C and a closed terminal reach the process that is about to start, also where the tests run without."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def files_in(directory: Path) -> set[str]:
    """Return every file below a directory, by relative path."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
