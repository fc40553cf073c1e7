"""Helpers of the tests that are no fixtures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]

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


@dataclass(frozen=True)
class Finished:
    """A finished command: exit status and what it printed."""

    status: int
    out: str
    err: str


Toolkit = Callable[..., Finished]


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
        preexec_fn=default_hangup,  # noqa: PLW1509 - it sets a signal and no more
    )


def default_hangup() -> None:
    """Let a closed terminal end the process that is about to start, also where the tests run under ``nohup``."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def files_in(directory: Path) -> set[str]:
    """Return every file below a directory, by relative path."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
