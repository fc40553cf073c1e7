"""A small search whose results are known, and helpers for its files."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import in_process_launcher
from support import Finished

Tune = Callable[..., Finished]

BASE = f"""\
timesteps: 200
import_modules: [{Path(__file__).with_name("growing_env.py")}]
env: {{id: Growing-v0, params: {{slope: 1.0}}}}
algorithm:
  name: dqn
  params: {{learning_starts: 10_000, buffer_size: 100, gamma: 0.5}}
  policy_params: {{net_arch: []}}
callbacks:
  - {{name: success, params: {{threshold: 6.0, episodes: 2}}}}
"""
SEARCH = f"""\
base: base.yaml
search:
  env.params.slope: {{choices: [1.0, 2.0, 0.5]}}
trials: 3
seeds: [5, 6]
sampler: brute_force
pruner: none
launcher: {in_process_launcher.__file__}:InProcessLauncher
"""


def write_files() -> None:
    for name, text in {"base.yaml": BASE, "search.yaml": SEARCH}.items():
        Path(name).write_text(text)


def change_search(**values: str) -> Path:
    """Write the search with other values of top-level keys, and return its path."""
    text = SEARCH
    for key, value in values.items():
        prefixes = (f"{key}:", "  ") if key == "search" else (f"{key}:",)
        lines = [line for line in text.splitlines() if not line.startswith(prefixes)]
        text = "\n".join([*lines, f"{key}: {value}", ""])
    Path("search.yaml").write_text(text)
    return Path("search.yaml")


def write_variant_of_base(name: str, lines: str) -> str:
    Path(name).write_text(f"extends: base.yaml\n{lines}\n")
    return name


def read_table(directory: str = "tunings/search") -> list[dict[str, str]]:
    with Path(directory, "trials.csv").open() as file:
        return list(csv.DictReader(file))


def read_states(directory: str = "tunings/search") -> list[str]:
    """Return the states of all trials in a study's database, also of those that were retried."""
    with closing(sqlite3.connect(Path(directory, "study.db"))) as database:
        return [state for (state,) in database.execute("select state from trials order by number")]


def expire_heartbeats() -> None:
    """Make the heartbeats of running trials old, as if a minute had passed."""
    with closing(sqlite3.connect("tunings/search/study.db")) as database, database:
        database.execute("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")
