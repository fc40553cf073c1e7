"""An experiment of four short runs, and helpers for its files."""

from __future__ import annotations

from pathlib import Path

import in_process_launcher
from support import files_in

LAUNCHER = Path(in_process_launcher.__file__)
EXPERIMENT = f"""\
base: small.yaml
variants:
  none: {{timesteps: 160, env.wrappers: []}}
  clip: {{timesteps: 104}}
seeds: [0, 7]
evaluation_episodes: 2
launcher: {LAUNCHER}:InProcessLauncher
"""
RUNS = ["none/seed-0", "clip/seed-0", "none/seed-7", "clip/seed-7"]


def write_file(text: str = EXPERIMENT, name: str = "both.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_short_experiment(text: str, name: str = "x.yaml") -> Path:
    """Write an experiment file whose runs are evaluated with one episode, in this process."""
    return write_file(f"{text}evaluation_episodes: 1\nlauncher: {LAUNCHER}:InProcessLauncher\n", name)


def read_contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the modification time of every file below a directory."""
    return {
        name: ((directory / name).read_bytes(), (directory / name).stat().st_mtime_ns) for name in files_in(directory)
    }
