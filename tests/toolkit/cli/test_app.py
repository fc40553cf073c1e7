"""The command line as a whole: help, light imports, errors, exit statuses."""

from __future__ import annotations

import doctest
import gc
import importlib
import json
import operator
import os
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from support import Toolkit, toolkit_process
from typer.main import get_command

from toolkit import Run
from toolkit.cli.app import app
from toolkit.config.load import load_config

_GROUP = get_command(app)
COMMANDS = dict(_GROUP.commands)  # type: ignore[attr-defined]
COMMANDS["new plugin"] = COMMANDS["new"].commands["plugin"]


BROKEN_OPTIMIZER = """\
import torch

class Optimizer(torch.optim.Adam):
    def __init__(self, *args, **kwargs):
        raise ImportError("sympy is broken")
"""


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(option: str, toolkit: Toolkit) -> None:
    help_page = toolkit(option)
    assert help_page.status == 0
    assert all(f" {command} " in help_page.out for command in COMMANDS if " " not in command)
    assert "--debug" in help_page.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_command_is_sentences_that_fit_80_columns(
    name: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    help_page = toolkit(*name.split(), "--help")
    assert help_page.status == 0
    assert f"toolkit {name}" in help_page.out
    assert max(map(len, help_page.out.splitlines())) <= 80
    parameters = [parameter for parameter in COMMANDS[name].params if parameter.name != "help"]
    for text in [COMMANDS[name].help, *(parameter.help for parameter in parameters)]:
        assert text[0].isupper()
        assert text.endswith((".", "..."))


def test_version_option_prints_version_of_distribution(toolkit: Toolkit) -> None:
    finished = toolkit("--version")
    assert (finished.status, finished.out, finished.err) == (0, f"toolkit {version('sb3-toolkit')}\n", "")


def test_command_without_arguments_shows_help(toolkit: Toolkit) -> None:
    finished = toolkit()
    assert finished.status == 2
    assert "Usage: toolkit" in finished.out + finished.err


# --- imports --------------------------------------------------------------------------------------------------------


def test_ctrl_c_during_imports_exits_without_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-m", "toolkit", "plugins"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


def test_help_takes_less_than_1_5_seconds() -> None:
    def seconds() -> float:
        start = time.monotonic()
        with toolkit_process(["--help"], is_new=True) as process:
            process.communicate()
        assert process.returncode == 0
        return time.monotonic() - start

    assert any(seconds() < 1.5 for _ in range(3))  # the machine may be busy


HEAVY_MODULES = {
    *("numpy", "scipy", "matplotlib", "pandas", "torch", "torch._dynamo", "tensorboard", "cv2", "pygame", "moviepy"),
    *("gymnasium", "stable_baselines3", "sb3_contrib", "toolkit_plugins", "wandb", "mlflow", "ray", "IPython"),
}
SB3 = {"gymnasium", "stable_baselines3", "torch", "tensorboard", "cv2"}  # SB3 imports the other ones
ADDED_BY_COMMAND: dict[str, set[str]] = {
    "--help": set(),
    "--version": set(),
    "plugins": set(),
    "new plugin my_reward": set(),
    "plot run": {"numpy", "matplotlib"},
    "report run": {"scipy"},
    "import-zoo zoo.yml CartPole-v1 --algorithm a2c": SB3,
    "schema": {"sb3_contrib", "toolkit_plugins"},
}


def test_command_imports_only_the_heavy_modules_that_it_needs(run_copy: Run) -> None:
    run_copy.videos.mkdir()
    (run_copy.videos / "record.mp4").touch()  # so that the report records none
    Path("zoo.yml").write_text("CartPole-v1: {n_timesteps: 1000, policy: MlpPolicy}\n")
    program = f"""\
import sys
import toolkit, toolkit.config.registry, toolkit.config.schema
from toolkit.cli.app import main
for command in {[*ADDED_BY_COMMAND]}:
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit as exited:
        assert not exited.code, command
    print("imported", *sorted({HEAVY_MODULES} & sys.modules.keys()))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    imported = [{*line.split()[1:]} for line in finished.stdout.splitlines() if line.startswith("imported")]
    expected = accumulate(ADDED_BY_COMMAND.values(), operator.or_)
    assert dict(zip(ADDED_BY_COMMAND, imported, strict=True)) == dict(zip(ADDED_BY_COMMAND, expected, strict=True))


@pytest.mark.parametrize("command", ["train", "check", "experiment", "tune"])
def test_absent_file_is_reported_before_torch_is_imported(command: str) -> None:
    status, modules, errors = imported_by([command, "absent.yaml"])
    assert status == 2
    assert "torch" not in modules
    assert errors.startswith("absent.yaml: ")


def test_double_dqn_trains_without_importing_compiler(config_file: Path) -> None:
    status, modules, errors = imported_by(["train", str(config_file), "--quiet"])
    assert status == 0, errors
    assert modules & HEAVY_MODULES == {*SB3, "numpy", "toolkit_plugins"}


def test_other_algorithms_train_with_preloaded_compiler(
    config_file: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "toolkit.evaluation.preload_compiler"
    monkeypatch.delitem(sys.modules, module, raising=False)
    algorithm = "algorithm={name: ppo, params: {n_steps: 50, batch_size: 50}}"
    finished = toolkit("train", config_file, "--quiet", "--set", algorithm)
    assert finished.status == 0, finished.err
    assert module in sys.modules


def imported_by(command: list[str]) -> tuple[int, set[str], str]:
    """Run a command in a process of its own; return its status, the modules that it imported, and its stderr."""
    program = f"""\
import sys
sys.argv[1:] = {command}
from toolkit.cli.app import main
try:
    main()
finally:
    print("imported", *sys.modules)
"""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    modules = {*finished.stdout.rpartition("\nimported ")[2].removeprefix("imported ").split()}
    return finished.returncode, modules, finished.stderr


def test_preloaded_modules_are_frozen_and_garbage_collection_stays_on() -> None:
    importlib.import_module("toolkit.evaluation.preload")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 100_000


def test_broken_library_is_reported_where_it_is_needed(
    config_file: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "toolkit.evaluation.preload", None)  # importing it raises ImportError
    Path("broken.py").write_text(BROKEN_OPTIMIZER)
    finished = toolkit("check", config_file, "--set", "algorithm.policy_params.optimizer_class=./broken.py:Optimizer")
    assert (finished.status, finished.out) == (2, "")
    assert "algorithm: 'double_dqn' cannot be built: ImportError: sympy is broken" in finished.err
    assert "Traceback" not in finished.err


def test_public_names_of_package_can_be_imported() -> None:
    import toolkit as package

    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = package.trian


def test_docstring_example_of_package_runs() -> None:
    import toolkit as package

    config = (package.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]
    Path("config.yaml").write_text(dedent(config))
    results = doctest.testmod(package)
    assert results.attempted == 5
    assert not results.failed


# --- check ----------------------------------------------------------------------------------------------------------


def test_check_prints_config_that_reads_back_the_same(toolkit: Toolkit, config_file: Path) -> None:
    checked = toolkit("check", config_file, "--set", "seed=3")
    assert (checked.status, checked.err) == (0, "")
    assert {*Path().iterdir()} == {Path(config_file.name)}
    resolved = Path("resolved.yaml")
    resolved.write_text(checked.out)
    assert load_config(resolved).model_dump() == load_config(config_file, ["seed=3"]).model_dump()
    assert toolkit("check", resolved).out == checked.out
    assert yaml.safe_load(checked.out)["algorithm"]["params"]["learning_rate"] == 1e-3


# --- errors and exit statuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 2])
def test_debug_shows_traceback_of_error(position: int, toolkit: Toolkit, config_file: Path) -> None:
    arguments = ["check", str(config_file), "--set", "sed=1"]
    arguments.insert(position, "--debug")
    finished = toolkit(*arguments)
    assert (finished.status, finished.out) == (2, "")
    assert finished.err.startswith("Traceback (most recent call last):")
    assert finished.err.endswith("\n--set sed=1: sed: unknown key; did you mean 'seed'?\n")


def test_error_without_debug_is_only_its_message(toolkit: Toolkit, config_file: Path) -> None:
    finished = toolkit("check", config_file, "--set", "sed=1")
    assert (finished.status, finished.out) == (2, "")
    assert finished.err == "--set sed=1: sed: unknown key; did you mean 'seed'?\n"


def test_closed_stdout_prints_no_error() -> None:
    with toolkit_process(["plugins"], is_new=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() in (0, 1)


def test_pipe_into_head_prints_no_error() -> None:
    pipe = ["sh", "-c", '"$0" plugins | head -1', Path(sys.executable).parent / "toolkit"]
    finished = subprocess.run(pipe, capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("algorithms\n", "")


# --- train ----------------------------------------------------------------------------------------------------------


def test_train_prints_next_commands_that_work(toolkit: Toolkit, config_file: Path) -> None:
    trained = toolkit("train", config_file, "--set", "timesteps=60")
    assert trained.status == 0
    assert "run    runs/small-1\n" in trained.out
    assert "evaluate runs/small-1\n" in trained.out
    evaluated = toolkit("evaluate", "runs/small-1", "--episodes", "2", "--json")
    assert evaluated.status == 0
    assert json.loads(evaluated.out)["episodes"] == 2


def test_train_exits_with_3_if_required_success_is_missed(toolkit: Toolkit, config_file: Path) -> None:
    assert toolkit("train", config_file, "--require-success", "--set", "timesteps=60").status == 3


def test_train_seed_and_out_replace_config_values(toolkit: Toolkit, config_file: Path) -> None:
    trained = toolkit("train", config_file, "--seed", "5", "--out", "run", "--set", "timesteps=60", "--quiet")
    assert (trained.status, trained.out, trained.err) == (0, "run\n", "")
    assert json.loads(Path("run/result.json").read_text())["seed"] == 5
    assert load_config(Path("run/config.yaml")).seed == 5
