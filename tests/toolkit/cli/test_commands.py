"""Every command once: on good input on a shared small run, and on bad input."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import in_process_launcher
import pytest
from support import SMALL_CONFIG, Toolkit, files_in
from typer.main import get_command

from toolkit import load_config
from toolkit.cli.app import app
from toolkit.training.trainer import train

PRELOAD = "toolkit.evaluation.preload"
FILES = {
    "small.yaml": SMALL_CONFIG,
    "short.yaml": "extends: small.yaml\ntimesteps: 100\nsnapshots: {every_timesteps: 40}\n",
    "launcher.py": Path(in_process_launcher.__file__).read_text(),  # starts no processes
    "experiment.yaml": """\
base: short.yaml
seeds: [3]
evaluation_episodes: 1
launcher: ./launcher.py:InProcessLauncher
""",
    "tuning.yaml": """\
base: short.yaml
search:
  algorithm.params.gamma: {choices: [0.9, 0.99]}
trials: 1
seeds: [3]
launcher: ./launcher.py:InProcessLauncher
""",
    "agent/CartPole-v1/config.yml": "n_timesteps: 100\npolicy: MlpPolicy\npolicy_kwargs: dict(net_arch=[16, 16])\n",
    "agent/CartPole-v1/args.yml": "algo: dqn\nenv: CartPole-v1\n",
    "zoo.yml": "CartPole-v1:\n  n_timesteps: !!float 4e4\n  policy: MlpPolicy\n",
}


class Command(NamedTuple):
    """A command line and what it does.

    :param line: the arguments
    :param output: regular expression that stdout starts with
    :param files: some of the files that it writes
    :param preloads: whether it imports torch and SB3 in one go
    """

    line: str
    output: str
    files: set[str] = set()
    preloads: bool = False


COMMANDS = {
    "train": Command("short.yaml --out new --quiet", "new\n$", {"new/model.zip"}, preloads=True),
    "resume": Command("stopped --quiet", "stopped\n$", {"stopped/result.json"}, preloads=True),
    "continue": Command("run --timesteps 20 --out more --quiet", "more\n$", {"more/model.zip"}, preloads=True),
    "experiment": Command(
        "experiment.yaml --quiet",
        "experiments/experiment\n$",
        {"experiments/experiment/short/seed-3/evaluation.json"},
        preloads=True,
    ),
    "evaluate": Command(
        "run --episodes 2", r"run: 2 greedy episodes, raw returns\n  mean  \d+\.\d\d  \(95 % interval", preloads=True
    ),
    "record": Command("run --format gif --out videos", r"videos/.*\.gif\n$", preloads=True),
    "watch": Command("run --episodes 1", r"episode 1: return \d+\n$", preloads=True),
    "plot": Command("run --out curve.png", "curve.png\n$", {"curve.png"}),
    "report": Command(
        "run",
        r"double_dqn on CartPole-v1, seed \d: training has ended",
        {"run/report/report.html", "run/report/report.md"},
    ),
    "describe": Command(
        "run --plot net.svg", "run: double_dqn, MlpPolicy on CartPole-v1\n\nq_net: ", {"net.svg"}, preloads=True
    ),
    "import-agent": Command(
        "agent --out imported",
        "imported the weights in agent\n",
        {"imported/model.zip"},
        preloads=True,
    ),
    "import-sb3": Command(
        "run/model.zip --config small.yaml --out imported",
        "imported the weights in run/model.zip\n",
        {"imported/model.zip"},
        preloads=True,
    ),
    "import-zoo": Command("zoo.yml CartPole-v1 --algorithm dqn", "# RL Zoo's 'CartPole-v1' in 'zoo.yml', for dqn."),
    "tune": Command(
        "tuning.yaml --quiet",
        "tunings/tuning\n$",
        {"tunings/tuning/best.yaml"},
        preloads=True,
    ),
    "check": Command("short.yaml", "name: short\nseed: 0\ntimesteps: 100\n", preloads=True),
    "schema": Command("", r'{\n  "'),
    "plugins": Command("", r"algorithms\n  a2c +"),
    "new": Command("plugin my_reward", "created: a package with the wrapper", {"my_reward/pyproject.toml"}),
}
BAD_INPUT = {
    "train": ("absent.yaml", "absent.yaml: cannot be read"),
    "resume": ("absent", "error: absent: "),
    "continue": ("stopped --timesteps 9", "error: stopped: has not ended"),
    "experiment": ("small.yaml", "small.yaml:1: timesteps: unknown key"),
    "evaluate": ("run --episodes 0", "'--episodes'"),
    "record": ("run --format avi", "'--format'"),
    "watch": ("run --tail 1001", "'--tail'"),
    "plot": ("run --out curve.txt", "error: curve.txt"),
    "report": ("absent", "error: absent: "),
    "describe": ("run --plot net.txt", "error: net.txt"),
    "import-agent": ("absent", "error: absent: does not exist"),
    "import-sb3": ("absent.zip --config small.yaml", "error: absent.zip: "),
    "import-zoo": ("zoo.yml Absent-v1 --algorithm dqn", "Absent-v1"),
    "tune": ("tuning.yaml --set trials=0", "--set trials=0: trials: "),
    "check": ("small.yaml --set sed=1", "--set sed=1: sed: unknown key; did you mean 'seed'?"),
    "schema": ("run", "'config'"),
    "plugins": ("wraper", "kind 'wraper' does not exist\ndid you mean 'wrappers'?"),
    "new": ("plugin my-reward", "did you mean 'my_reward'?"),
}


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train `run`, and copy it to `stopped` as if it had been killed."""
    folder = tmp_path_factory.mktemp("commands")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    train(load_config(folder / "short.yaml"), folder / "run")
    shutil.copytree(folder / "run", folder / "stopped")
    shutil.copy(folder / "run" / "model.zip", folder / "agent" / "CartPole-v1.zip")
    (folder / "stopped" / "result.json").unlink()  # as after SIGKILL
    return folder


@pytest.fixture
def folder(shared_folder: Path, working_directory: Path) -> Path:
    """Copy the shared files and runs into the working directory."""
    shutil.copytree(shared_folder, working_directory, dirs_exist_ok=True)
    return working_directory


def test_tables_cover_every_command() -> None:
    assert COMMANDS.keys() == BAD_INPUT.keys() == {*get_command(app).commands}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_command_prints_result_and_writes_files(
    name: str, folder: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "tune":
        pytest.importorskip("optuna")
    command = COMMANDS[name]
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.delitem(sys.modules, PRELOAD, raising=False)
    finished = toolkit(name, *command.line.split())
    assert finished.status == 0, finished.err
    assert re.match(command.output, finished.out), finished.out
    assert files_in(folder) >= command.files
    assert (PRELOAD in sys.modules) is command.preloads


@pytest.mark.parametrize("name", BAD_INPUT)
def test_command_refuses_bad_input_and_writes_nothing(name: str, folder: Path, toolkit: Toolkit) -> None:
    if name == "tune":
        pytest.importorskip("optuna")
    arguments, message = BAD_INPUT[name]
    files = {*folder.rglob("*")}
    finished = toolkit(name, *arguments.split())
    assert (finished.status, finished.out) == (2, "")
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert {*folder.rglob("*")} == files
