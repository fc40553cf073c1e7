"""The command line, as a person or a program meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support import PROJECT, SMALL_CONFIG, Toolkit, toolkit_process

from toolkit.config.load import load_config

CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))
COMMANDS = ["train", "evaluate", "record", "watch", "plot", "describe", "check", "schema", "plugins"]


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(option: str, toolkit: Toolkit) -> None:
    shown = toolkit(option)
    assert shown.status == 0
    assert all(f" {command} " in shown.out for command in COMMANDS)
    assert "--debug" in shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, toolkit: Toolkit) -> None:
    shown = toolkit(command, "--help")
    assert shown.status == 0
    assert f"toolkit {command}" in shown.out


def test_the_command_alone_shows_help(toolkit: Toolkit) -> None:
    shown = toolkit()
    assert shown.status == 2
    assert "Usage: toolkit" in shown.out + shown.err


def test_ctrl_c_while_the_command_is_imported_ends_it_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-m", "toolkit", "plugins"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_help_is_quick() -> None:
    def seconds() -> float:
        start = time.monotonic()
        with toolkit_process(["--help"]) as process:
            process.communicate()
        assert process.returncode == 0
        return time.monotonic() - start

    assert any(seconds() < 1.5 for _ in range(3))  # the machine may be busy


@pytest.mark.parametrize(
    "module",
    ["toolkit", "toolkit.cli.app", "toolkit.utils.errors", "toolkit.config.registry", "toolkit.config.schema"],
)
def test_importing_the_light_modules_imports_neither_torch_nor_sb3(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'stable_baselines3', 'gymnasium'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["train", "check", "experiment", "tune"])
def test_a_file_that_is_not_there_is_said_before_torch_is_imported(command: str) -> None:
    code = f"import sys; sys.argv[1:] = [{command!r}, 'nowhere.yaml']\nfrom toolkit.cli.app import main\n"
    code += "try: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith("nowhere.yaml: ")


def test_what_training_imports_is_left_out_of_garbage_collection_which_goes_on() -> None:
    code = "import gc, toolkit.preloaded; print(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_commands_that_train_or_play_import_it_so(
    toolkit: Toolkit, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in [
        ["train", config_file, "--out", "run"],
        ["check", config_file],
        ["import-sb3", "run/model.zip", "--config", config_file, "--out", "imported"],
        *(["resume", "run"], ["evaluate", "run"], ["record", "run"], ["describe", "run"]),
    ]:
        monkeypatch.delitem(sys.modules, "toolkit.evaluation.preload", raising=False)
        toolkit(*command)
        assert "toolkit.evaluation.preload" in sys.modules, command


@pytest.mark.parametrize("command", ["plot", "plugins", "schema"])
def test_other_commands_do_not(command: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "toolkit.evaluation.preload", raising=False)
    toolkit(command)
    assert "toolkit.evaluation.preload" not in sys.modules


def test_what_cannot_be_imported_is_said_where_it_is_needed(config_file: Path) -> None:
    Path("sympy.py").write_text("raise ImportError('sympy is broken')")
    broken = toolkit_process(["check", config_file], PYTHONPATH=str(Path.cwd()))
    _, err = broken.communicate()
    assert broken.returncode == 2
    assert err.startswith(f"{config_file}:9: algorithm: 'double_dqn' cannot be built: ")
    assert "Traceback" not in err


def test_every_public_name_of_the_package_can_be_imported() -> None:
    import toolkit as package

    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = package.trian


# --- check ----------------------------------------------------------------------------------------------------------


def test_check_prints_a_config_that_reads_back_as_the_same(toolkit: Toolkit, config_file: Path) -> None:
    checked = toolkit("check", config_file, "--set", "seed=3")
    assert (checked.status, checked.err) == (0, "")
    resolved = Path("resolved.yaml")
    resolved.write_text(checked.out)
    assert load_config(resolved).model_dump() == load_config(config_file, ["seed=3"]).model_dump()
    assert toolkit("check", resolved).out == checked.out


def test_what_check_prints_other_yaml_readers_read_too(toolkit: Toolkit, config_file: Path) -> None:
    assert yaml.safe_load(toolkit("check", config_file).out)["algorithm"]["params"]["learning_rate"] == 1e-3


def test_check_leaves_nothing(toolkit: Toolkit, config_file: Path, working_directory: Path) -> None:
    assert toolkit("check", config_file).status == 0
    assert [*working_directory.iterdir()] == [config_file]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_that_ships_is_whole(path: Path, toolkit: Toolkit) -> None:
    assert toolkit("check", path).status == 0


# --- exits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 2])
def test_debug_shows_the_traceback_of_an_error(position: int, toolkit: Toolkit, config_file: Path) -> None:
    arguments = ["check", str(config_file), "--set", "sed=1"]
    arguments.insert(position, "--debug")
    done = toolkit(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Traceback (most recent call last):")
    assert done.err.endswith("\n--set sed=1: sed: unknown key; did you mean 'seed'?\n")


def test_without_debug_the_message_stands_alone(toolkit: Toolkit, config_file: Path) -> None:
    done = toolkit("check", config_file, "--set", "sed=1")
    assert (done.status, done.out) == (2, "")
    assert done.err == "--set sed=1: sed: unknown key; did you mean 'seed'?\n"


def test_a_reader_that_goes_away_is_no_error_to_be_shown() -> None:
    with toolkit_process(["plugins"]) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() in (0, 1)


def test_nothing_is_written_to_a_closed_pipe_that_had_its_first_line() -> None:
    pipe = ["sh", "-c", '"$0" plugins | head -1', Path(sys.executable).parent / "toolkit"]
    done = subprocess.run(pipe, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("algorithms\n", "")


# --- train ----------------------------------------------------------------------------------------------------------


def test_quiet_training_prints_the_run_directory_alone(toolkit: Toolkit) -> None:
    Path("tiny.yaml").write_text(SMALL_CONFIG)
    done = toolkit("train", "tiny.yaml", "--set", "timesteps=60", "--quiet")
    assert (done.status, done.out, done.err) == (0, "runs/tiny-1\n", "")


def test_training_says_what_to_do_next_and_that_works(toolkit: Toolkit, config_file: Path) -> None:
    done = toolkit("train", config_file, "--set", "timesteps=60")
    assert done.status == 0
    assert "run    runs/small-1\n" in done.out
    assert "evaluate runs/small-1\n" in done.out
    evaluated = toolkit("evaluate", "runs/small-1", "--episodes", "2", "--json")
    assert evaluated.status == 0
    assert json.loads(evaluated.out)["episodes"] == 2


def test_required_success_that_is_not_met_exits_with_status_3(toolkit: Toolkit, config_file: Path) -> None:
    assert toolkit("train", config_file, "--require-success", "--set", "timesteps=60").status == 3


def test_seed_and_out_go_over_the_config(toolkit: Toolkit, config_file: Path) -> None:
    assert toolkit("train", config_file, "--seed", "5", "--out", "here", "--set", "timesteps=60").status == 0
    assert json.loads(Path("here/result.json").read_text())["seed"] == 5
    assert load_config(Path("here/config.yaml")).seed == 5
