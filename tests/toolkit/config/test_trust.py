"""Which code runs when a run directory is opened: installed packages, and what has trained that run here."""

from __future__ import annotations

import importlib
import importlib.util
import os
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Toolkit, toolkit_process

import toolkit as tk
from toolkit.config import imports, yaml_document
from toolkit.config.compose import apply_overrides, compose_document
from toolkit.config.load import load_config, read_config, resolve_config
from toolkit.config.registry import read_entry_points
from toolkit.utils.errors import ConfigError

CONFIG = """\
timesteps: 40
env:
  id: CartPole-v1
  wrappers: [{wrapper}]
algorithm:
  name: stable_baselines3:DQN
  params: {{learning_starts: 8, buffer_size: 100}}
  policy_params: {{net_arch: [4]}}
"""
WRAPPER = """\
import gymnasium, pathlib

class Mine(gymnasium.Wrapper):
    pass

pathlib.Path({marker!r}).touch()
"""
REFUSED = "has not trained this run here"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the code in these tests creates when it runs."""
    return tmp_path / "executed"


@pytest.fixture
def trained(working_directory: Path, marker: Path, toolkit: Toolkit) -> Path:
    """A run that was trained here with a wrapper in a file, which creates the marker when it is imported."""
    Path("mine.py").write_text(WRAPPER.format(marker=str(marker)))
    Path("mine.yaml").write_text(CONFIG.format(wrapper="./mine.py:Mine"))
    assert toolkit("train", "mine.yaml", "--out", "run", "--quiet").status == 0
    marker.unlink()
    return Path("run")


def test_code_is_not_said_to_be_foreign_without_a_home(trained: Path) -> None:
    process = toolkit_process(["evaluate", trained, "--episodes", "1"], HOME="/no/home", XDG_STATE_HOME="")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "it is not known whether the code in" in errors
    assert "/no/home does not exist" in errors
    assert "has not trained" not in errors


@pytest.fixture
def fresh_imports(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the working directory on the path, as `python -c` does, and forget what a test imports."""
    monkeypatch.syspath_prepend(working_directory)
    modules = {*sys.modules}
    read_entry_points.cache_clear()
    yield
    forget_modules(modules)
    read_entry_points.cache_clear()


def forget_modules(modules: set[str]) -> None:
    """Let this process import again what is not among the modules."""
    for name in {*sys.modules} - modules:
        del sys.modules[name]
    importlib.invalidate_caches()


def become_other_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forget what this user has trained."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))


def append_comment(path: str, comment: str) -> None:
    """Change a file, so that this process has not imported it yet."""
    Path(path).write_text(Path(path).read_text() + f"# {comment}\n")


def set_wrapper(run: Path, name: str) -> None:
    """Let the config of a run name another wrapper."""
    config = run / "config.yaml"
    old_name = read_config(config).env.wrappers[0].name
    config.write_text(config.read_text().replace(old_name, name))


def resolve_run(run: Path) -> str:
    """Find the components of a run as every command that loads its model does; return the error, if any."""
    try:
        resolve_config(read_config(run / "config.yaml"))
    except ConfigError as error:
        return str(error)
    return ""


# --- files ----------------------------------------------------------------------------------------------------------


def test_run_trained_here_with_file_opens_without_question(trained: Path, toolkit: Toolkit) -> None:
    for command in ("evaluate", "record", "describe"):
        assert toolkit(command, trained).status == 0
    moved = trained.rename("moved")
    assert toolkit("evaluate", moved, "--episodes", "1").status == 0


@pytest.mark.parametrize("command", ["evaluate", "record", "describe", "resume"])
def test_file_of_other_user_does_not_run(
    command: str, trained: Path, marker: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_other_user(monkeypatch, tmp_path)
    (trained / "result.json").unlink()
    append_comment("mine.py", "new in this process")
    result = toolkit(command, trained)
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("run/config.yaml:")
    assert f"env.wrappers.0.name: the code in {Path('mine.py').resolve()} {REFUSED}" in line
    assert "--trust" in line
    assert not marker.exists()


def test_file_changed_since_training_does_not_run(trained: Path, marker: Path, toolkit: Toolkit) -> None:
    append_comment("mine.py", "changed")
    assert toolkit("evaluate", trained).status == 2
    assert not marker.exists()
    assert toolkit("plot", trained).status == 0, "a curve needs no code"


@pytest.mark.parametrize("command", ["evaluate", "record", "describe"])
def test_trust_option_lets_only_that_file_run(
    command: str, trained: Path, marker: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_other_user(monkeypatch, tmp_path)
    append_comment("mine.py", command)
    assert toolkit(command, trained, "--trust").status == 0
    assert marker.exists()
    assert resolve_run(trained) == ""
    append_comment("mine.py", "changed")
    assert REFUSED in resolve_run(trained)


def test_trust_argument_lets_file_run(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    become_other_user(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=rf"{REFUSED} .*trust=True"):
        tk.load(trained).evaluate(1)
    assert tk.load(trained, trust=True).evaluate(1).episodes == 1
    assert tk.load(trained).evaluate(1).episodes == 1


def test_trusted_file_is_not_trusted_in_run_of_other_config(trained: Path) -> None:
    config = trained / "config.yaml"
    config.write_text(config.read_text().replace("buffer_size: 100", "buffer_size: 200"))
    assert REFUSED in resolve_run(trained)


def test_config_of_opened_run_stays_untrusted(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    become_other_user(monkeypatch, tmp_path)
    for use in (load_config, tk.train):
        with pytest.raises(ConfigError, match=REFUSED):
            use(tk.load(trained).config)


def test_training_config_of_run_by_path_is_consent(
    trained: Path, marker: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_other_user(monkeypatch, tmp_path)
    append_comment("mine.py", "consent")
    assert toolkit("check", trained / "config.yaml").status == 0
    assert REFUSED in resolve_run(trained), "a check is not remembered"
    assert toolkit("train", trained / "config.yaml", "--out", "again", "--quiet").status == 0
    assert marker.exists()
    assert resolve_run(Path("again")) == ""


def test_compiled_copy_of_trusted_file_does_not_run(trained: Path, marker: Path) -> None:
    Path("evil.py").write_text(WRAPPER.format(marker=f"{marker}-compiled"))
    compiled = importlib.util.cache_from_source("mine.py")
    py_compile.compile("evil.py", compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    forget_modules({name for name in sys.modules if not name.startswith("toolkit_file_")})
    assert resolve_run(trained) == ""
    assert marker.exists()
    assert not Path(f"{marker}-compiled").exists()


def test_trusted_code_is_recorded_in_state_directory(
    trained: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # which the specification ignores
    assert toolkit("evaluate", trained, "--trust", "--episodes", "1").status == 0
    (record,) = (tmp_path / "home/.local/state/toolkit/trusted").iterdir()
    assert str(Path("mine.py").resolve()) in record.read_text()


def test_training_continues_if_code_cannot_be_recorded(
    working_directory: Path, monkeypatch: pytest.MonkeyPatch, marker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("blocked").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("blocked").resolve()))
    Path("mine.py").write_text(WRAPPER.format(marker=str(marker)))
    Path("mine.yaml").write_text(CONFIG.format(wrapper="./mine.py:Mine"))
    tk.train("mine.yaml", "run")
    assert "opening this run will ask for --trust" in caplog.text


# --- modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [("evil:Mine", "evil.py"), ("run.evil:Mine", "run/evil.py"), ("pack.evil:Mine", "pack/evil.py")],
)
@pytest.mark.usefixtures("fresh_imports")
def test_module_on_path_runs_only_if_trusted(name: str, path: str, trained: Path, marker: Path) -> None:
    set_wrapper(trained, name)
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(WRAPPER.format(marker=str(marker)))
    assert f"the code in {Path(path).resolve()} {REFUSED}" in resolve_run(trained)
    assert not marker.exists()
    assert tk.load(trained, trust=True).resolved_config
    assert marker.exists()


def test_module_in_working_directory_of_new_process_does_not_run(trained: Path, marker: Path) -> None:
    set_wrapper(trained, "evil:Mine")
    Path("evil.py").write_text(WRAPPER.format(marker=str(marker)))
    command = [sys.executable, "-c", "import toolkit; toolkit.load('run').resolved_config"]
    environment = {**os.environ, "PYTHONPATH": ""}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert f"the code in {Path('evil.py').resolve()} {REFUSED}" in result.stderr
    assert not marker.exists()


@pytest.mark.usefixtures("fresh_imports")
def test_package_of_module_on_path_does_not_run(trained: Path, marker: Path) -> None:
    set_wrapper(trained, "pack.inner:Mine")
    Path("pack").mkdir()
    for file in ("__init__.py", "inner.py"):
        Path("pack", file).write_text(WRAPPER.format(marker=str(marker)))
    assert f"the code in {Path('pack/__init__.py').resolve()}" in resolve_run(trained)
    assert not marker.exists()


@pytest.mark.usefixtures("fresh_imports")
def test_module_of_own_project_is_trusted_until_it_changes(marker: Path) -> None:
    modules = {*sys.modules}
    Path("project").mkdir()
    Path("project/rewards.py").write_text(WRAPPER.format(marker=str(marker)))
    Path("mine.yaml").write_text(CONFIG.format(wrapper="project.rewards:Mine"))
    tk.train("mine.yaml", "run")
    forget_modules(modules)
    assert resolve_run(Path("run")) == ""
    forget_modules(modules)
    append_comment("project/rewards.py", "changed")
    assert REFUSED in resolve_run(Path("run"))


@pytest.mark.usefixtures("fresh_imports")
def test_module_that_program_has_imported_is_used(trained: Path, marker: Path) -> None:
    set_wrapper(trained, "rewards:Mine")
    Path("rewards.py").write_text(WRAPPER.format(marker=str(marker)))
    importlib.import_module("rewards")
    assert resolve_run(trained) == ""


def write_distribution(directory: Path, marker: Path, has_record: bool) -> None:
    """Write a distribution with the module `pole`, as `pip install --target` does, or without its RECORD."""
    information = directory / "pole-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pole\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[toolkit.wrappers]\npole = pole:Mine\n")
    if has_record:
        (information / "RECORD").write_text("pole.py,,\npole-1.0.dist-info/METADATA,,\n")
    (directory / "pole.py").write_text(WRAPPER.format(marker=str(marker)))


@pytest.mark.parametrize("name", ["pole", "pole:Mine"])
@pytest.mark.parametrize(
    ("directory", "has_record", "runs"),
    [("target", True, True), (".", True, False), ("target", False, False)],
    ids=["installed elsewhere", "in the working directory", "without a record"],
)
@pytest.mark.usefixtures("fresh_imports")
def test_only_really_installed_distribution_runs(
    name: str,
    directory: str,
    has_record: bool,
    runs: bool,
    trained: Path,
    marker: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_distribution(Path(directory), marker, has_record)
    monkeypatch.syspath_prepend(Path(directory).resolve())
    set_wrapper(trained, name)
    error = resolve_run(trained)
    assert (error == "", marker.exists()) == (runs, runs), error
    if not runs:
        assert f"the code in {(Path(directory) / 'pole.py').resolve()} {REFUSED}" in error


@pytest.mark.parametrize(("name", "runs"), [("pole:Mine", True), ("stray:Mine", False), ("runs.pole:Mine", False)])
@pytest.mark.usefixtures("fresh_imports")
def test_only_own_modules_of_editable_project_run(
    name: str, runs: bool, trained: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, site = tmp_path / "project", tmp_path / "site-packages"
    write_distribution(project, marker, has_record=False)
    for stray in ("stray.py", "runs/pole.py"):
        (project / stray).parent.mkdir(exist_ok=True)
        (project / stray).write_text((project / "pole.py").read_text())
    site.mkdir()
    information = (project / "pole-1.0.dist-info").rename(site / "pole-1.0.dist-info")
    (information / "direct_url.json").write_text(f'{{"url": "{project.as_uri()}", "dir_info": {{"editable": true}}}}')
    directories = imports._list_site_directories()
    monkeypatch.setattr(imports, "_list_site_directories", lambda: {*directories, site})
    monkeypatch.syspath_prepend(project)
    set_wrapper(trained, name)
    error = resolve_run(trained)
    assert (error == "", marker.exists()) == (runs, runs), error


# --- every key that can name code -----------------------------------------------------------------------------------

OVERRIDES = {
    "a wrapper": "env.wrappers=['{}']",
    "a wrapper of all environments": "env.vec_wrappers=['{}']",
    "a callback": "callbacks=['{}']",
    "an algorithm": "algorithm.name={}",
    "a policy": "algorithm.policy={}",
    "an activation": "algorithm.policy_params.activation_fn={}",
    "an optimizer": "algorithm.policy_params.optimizer_class={}",
    "a features extractor": "algorithm.policy_params.features_extractor_class={}",
    "a replay buffer": "algorithm.params.replay_buffer_class={}",
    "a replay buffer with parameters": "algorithm.params.replay_buffer_class={{name: '{}', params: {{}}}}",
    "a schedule": "algorithm.params.learning_rate={{name: '{}', params: {{args: [touch, executed]}}}}",
    "a schedule of a wrapper": "env.wrappers=[{{name: angle_penalty, params: {{scale: "
    "{{name: '{}', params: {{args: [touch, executed]}}}}}}}}]",
    "an object": "env.wrappers=[{{name: 'gymnasium.wrappers:TransformReward', params: {{func: "
    "{{name: '{}', params: {{args: [touch, executed]}}}}}}}}]",
}


@pytest.mark.parametrize("override", OVERRIDES.values(), ids=OVERRIDES)
def test_object_that_is_no_component_is_never_built(override: str) -> None:
    Path("mine.yaml").write_text(CONFIG.format(wrapper=""))
    for name in ("subprocess:Popen", "os:system", "logging.handlers:SocketHandler", "this:s"):
        with pytest.raises(ConfigError):
            load_config("mine.yaml", [override.format(name)])
    assert not Path("executed").exists()


@pytest.mark.parametrize("override", [*OVERRIDES.values(), "env.id={}"], ids=[*OVERRIDES, "an environment"])
@pytest.mark.usefixtures("fresh_imports")
def test_opened_config_runs_no_file_or_module_of_run(
    override: str, trained: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = trained / "evil.py"
    evil.write_text(WRAPPER.format(marker=str(marker)))
    monkeypatch.syspath_prepend(trained.resolve())
    set_wrapper(trained, "clip_reward")
    text = (trained / "config.yaml").read_text()
    for name in (f"{evil.resolve()}:Mine", "evil:Mine", "antigravity:Mine", "idlelib.idle:X", "rich.__main__:main"):
        (trained / "config.yaml").write_text(text)
        (trained / "config.yaml").write_text(compose_text(trained / "config.yaml", override.format(name)))
        (line,) = resolve_run(trained).splitlines()
        assert ("belongs to Python's standard library" in line) == name.startswith(("antigravity", "idlelib"))
        assert not marker.exists()
        assert not {"antigravity", "idlelib.idle", "evil", "rich.__main__"} & {*sys.modules}


def compose_text(config: Path, override: str) -> str:
    """Return the YAML of a config with another value, without resolving it."""
    document = compose_document(config)
    apply_overrides(document, [override])
    return yaml_document.dump(document.data)
