"""What code runs when a run directory is opened: none but what is installed, or has trained that run here."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Toolkit

import toolkit as tk
from toolkit.config.load import load_config
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
Train = Callable[..., Path]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the code in these tests makes when it runs."""
    return tmp_path / "executed"


@pytest.fixture
def trained(working_directory: Path, marker: Path, toolkit: Toolkit) -> Path:
    """A run that was trained here with a wrapper in a file; its wrapper leaves the marker when it is imported."""
    Path("mine.py").write_text(WRAPPER.format(marker=str(marker)))
    Path("mine.yaml").write_text(CONFIG.format(wrapper="./mine.py:Mine"))
    assert toolkit("train", "mine.yaml", "--out", "run", "--quiet").status == 0
    marker.unlink()
    return Path("run")


def as_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forget what this user has trained."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))


def name_wrapper(run: Path, name: str) -> None:
    """Let the config of a run name another wrapper."""
    config = run / "config.yaml"
    before = tk.load(run).config.env.wrappers[0].name
    config.write_text(config.read_text().replace(before, name))


def python(code: str, *search: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as `python -c` does, with the working directory first on its path."""
    paths = os.pathsep.join(map(str, search))
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        check=False,
    )


EVALUATE = "import toolkit; print(toolkit.load('run').evaluate(1).episodes)"


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_run_trained_here_with_a_file_is_opened_without_a_question(trained: Path, toolkit: Toolkit) -> None:
    for command in ("evaluate", "record", "describe"):
        assert toolkit(command, trained).status == 0
    moved = trained.rename("moved")
    assert toolkit("evaluate", moved, "--episodes", "1").status == 0


@pytest.mark.parametrize("command", ["evaluate", "record", "describe", "resume"])
def test_a_file_that_somebody_else_trained_with_does_not_run(
    command: str, trained: Path, marker: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_somebody_else(monkeypatch, tmp_path)
    (trained / "result.json").unlink()
    Path("mine.py").write_text(Path("mine.py").read_text() + "# not what was imported in this process\n")
    done = toolkit(command, trained)
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("run/config.yaml:")
    assert f"env.wrappers.0.name: the code in {Path('mine.py').resolve()} has not trained this run here" in line
    assert "--trust" in line
    assert not marker.exists()


def test_a_file_that_has_changed_since_training_does_not_run(trained: Path, marker: Path, toolkit: Toolkit) -> None:
    Path("mine.py").write_text(Path("mine.py").read_text() + "# changed\n")
    assert toolkit("evaluate", trained).status == 2
    assert not marker.exists()
    assert toolkit("plot", trained).status == 0, "a curve needs no code"


@pytest.mark.parametrize("command", ["evaluate", "record", "describe"])
def test_trust_runs_a_file_from_then_on_and_no_other(
    command: str, trained: Path, marker: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_somebody_else(monkeypatch, tmp_path)
    Path("mine.py").write_text(Path("mine.py").read_text() + f"# {command}\n")
    assert toolkit(command, trained, "--trust").status == 0
    assert marker.exists()
    assert toolkit(command, trained).status == 0
    Path("mine.py").write_text(Path("mine.py").read_text() + "# changed\n")
    assert toolkit(command, trained).status == 2


def test_trust_in_python(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_somebody_else(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"has not trained this run here .*trust=True"):
        tk.load(trained).evaluate(1)
    assert tk.load(trained, trust=True).evaluate(1).episodes == 1
    assert tk.load(trained).evaluate(1).episodes == 1


def test_a_trusted_file_is_trusted_in_the_run_that_it_trained_alone(trained: Path, toolkit: Toolkit) -> None:
    config = trained / "config.yaml"
    config.write_text(config.read_text().replace("buffer_size: 100", "buffer_size: 200"))
    assert "has not trained this run here" in toolkit("evaluate", trained).err


def test_a_config_that_was_opened_stays_so(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_somebody_else(monkeypatch, tmp_path)
    for use in (load_config, tk.train):
        with pytest.raises(ConfigError, match="has not trained this run here"):
            use(tk.load(trained).config)


def test_to_train_the_config_of_a_run_by_its_path_is_consent(
    trained: Path, marker: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_somebody_else(monkeypatch, tmp_path)
    Path("mine.py").write_text(Path("mine.py").read_text() + "# consent\n")
    assert toolkit("check", trained / "config.yaml").status == 0
    assert toolkit("evaluate", trained).status == 2, "a check is remembered by nobody"
    assert toolkit("train", trained / "config.yaml", "--out", "again", "--quiet").status == 0
    assert marker.exists()
    assert toolkit("evaluate", "again").status == 0


def test_a_compiled_copy_beside_a_trusted_file_does_not_run(trained: Path, marker: Path) -> None:
    Path("evil.py").write_text(WRAPPER.format(marker=f"{marker}-compiled"))
    compiled = importlib.util.cache_from_source("mine.py")
    py_compile.compile("evil.py", compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    done = python(EVALUATE)
    assert (done.stdout, marker.exists()) == ("1\n", True)
    assert not Path(f"{marker}-compiled").exists()


def test_what_is_trusted_is_kept_in_the_user_s_state_directory(
    trained: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # which the specification ignores
    assert toolkit("evaluate", trained, "--trust", "--episodes", "1").status == 0
    (kept,) = (tmp_path / "home/.local/state/toolkit/trusted").iterdir()
    assert str(Path("mine.py").resolve()) in kept.read_text()


def test_training_goes_on_where_nothing_can_be_remembered(
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
def test_a_module_that_merely_lies_on_the_path_does_not_run(name: str, path: str, trained: Path, marker: Path) -> None:
    name_wrapper(trained, name)
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(WRAPPER.format(marker=str(marker)))
    done = python(EVALUATE)
    assert f"the code in {Path(path).resolve()} has not trained this run here" in done.stderr
    assert not marker.exists()
    trusting = python(EVALUATE.replace("'run'", "'run', trust=True"))
    assert (trusting.stdout, marker.exists()) == ("1\n", True)


def test_a_package_on_the_path_does_not_run_for_a_module_in_it(trained: Path, marker: Path) -> None:
    name_wrapper(trained, "pack.inner:Mine")
    Path("pack").mkdir()
    Path("pack/__init__.py").write_text(WRAPPER.format(marker=str(marker)))
    Path("pack/inner.py").write_text(WRAPPER.format(marker=str(marker)))
    assert f"the code in {Path('pack/__init__.py').resolve()}" in python(EVALUATE).stderr
    assert not marker.exists()


def test_a_module_of_one_s_own_project_is_trusted_where_it_has_trained(working_directory: Path, marker: Path) -> None:
    Path("project").mkdir()
    Path("project/rewards.py").write_text(WRAPPER.format(marker=str(marker)))
    Path("mine.yaml").write_text(CONFIG.format(wrapper="project.rewards:Mine"))
    assert python("import toolkit; toolkit.train('mine.yaml', 'run')").returncode == 0
    assert python(EVALUATE).stdout == "1\n"
    Path("project/rewards.py").write_text(WRAPPER.format(marker=str(marker)) + "# changed\n")
    assert "has not trained this run here" in python(EVALUATE).stderr


def test_what_the_program_itself_has_imported_is_used(trained: Path, marker: Path) -> None:
    name_wrapper(trained, "rewards:Mine")
    Path("rewards.py").write_text(WRAPPER.format(marker=str(marker)))
    assert python(f"import rewards; {EVALUATE}").stdout == "1\n"


def distribution(directory: Path, marker: Path, recorded: bool) -> None:
    """Lay down a distribution with the module `pole`, as `pip install --target` does, or without what pip records."""
    information = directory / "pole-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pole\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[toolkit.wrappers]\npole = pole:Mine\n")
    if recorded:
        (information / "RECORD").write_text("pole.py,,\npole-1.0.dist-info/METADATA,,\n")
    (directory / "pole.py").write_text(WRAPPER.format(marker=str(marker)))


@pytest.mark.parametrize("name", ["pole", "pole:Mine"])
@pytest.mark.parametrize(("place", "runs"), [("elsewhere", True), ("here", False), ("unrecorded", False)])
def test_a_distribution_runs_unless_it_only_pretends_to_be_installed(
    name: str, place: str, runs: bool, trained: Path, marker: Path
) -> None:
    directory = Path() if place == "here" else Path("target")
    distribution(directory, marker, recorded=place != "unrecorded")
    name_wrapper(trained, name)
    done = python(EVALUATE, directory.resolve())
    assert (done.stdout == "1\n", marker.exists()) == (runs, runs), done.stderr
    if not runs:
        assert f"the code in {(directory / 'pole.py').resolve()} has not trained this run here" in done.stderr


@pytest.mark.parametrize(("name", "runs"), [("pole:Mine", True), ("stray:Mine", False), ("runs.pole:Mine", False)])
def test_of_an_editable_project_its_own_modules_run_alone(
    name: str, runs: bool, trained: Path, marker: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    distribution(project, marker, recorded=False)
    for stray in ("stray.py", "runs/pole.py"):
        (project / stray).parent.mkdir(exist_ok=True)
        (project / stray).write_text((project / "pole.py").read_text())
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    information = (project / "pole-1.0.dist-info").rename(site / "pole-1.0.dist-info")
    (information / "direct_url.json").write_text(f'{{"url": "{project.as_uri()}", "dir_info": {{"editable": true}}}}')
    inherited = [path for path in sys.path if path and Path(path).is_dir()]
    (site / "editable.pth").write_text("\n".join([str(project), *inherited]))
    name_wrapper(trained, name)
    done = subprocess.run([tmp_path / "venv/bin/python", "-c", EVALUATE], capture_output=True, text=True, check=False)
    assert (done.stdout == "1\n", marker.exists()) == (runs, runs), done.stderr


# --- every place that can name code ----------------------------------------------------------------------------------

PLACES = {
    "a wrapper": "env.wrappers=['{}']",
    "a wrapper of all environments": "env.vec_wrappers=['{}']",
    "a callback": "callbacks=['{}']",
    "an algorithm": "algorithm.name={}",
    "a policy": "algorithm.policy={}",
    "an activation": "algorithm.policy_params.activation_fn={}",
    "an optimizer": "algorithm.policy_params.optimizer_class={}",
    "a features extractor": "algorithm.policy_params.features_extractor_class={}",
    "a replay buffer": "algorithm.params.replay_buffer_class={}",
    "a schedule": "algorithm.params.learning_rate={{name: '{}', params: {{args: [touch, executed]}}}}",
    "an object": "env.wrappers=[{{name: 'gymnasium.wrappers:TransformReward', params: {{func: "
    "{{name: '{}', params: {{args: [touch, executed]}}}}}}}}]",
}


@pytest.mark.parametrize("name", ["subprocess:Popen", "os:system", "logging.handlers:SocketHandler", "this:s"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_is_no_component_is_refused_before_it_is_built(place: str, name: str, toolkit: Toolkit) -> None:
    Path("mine.yaml").write_text(CONFIG.format(wrapper=""))
    done = toolkit("check", "mine.yaml", "--set", place.format(name))
    assert done.status == 2
    assert "Traceback" not in done.err
    assert not Path("executed").exists()


@pytest.mark.parametrize("place", [*PLACES.values(), "env.id={}"], ids=[*PLACES, "an environment"])
def test_no_place_of_an_opened_config_runs_a_file_or_a_module_of_the_run(
    place: str, trained: Path, marker: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = trained / "evil.py"
    evil.write_text(WRAPPER.format(marker=str(marker)))
    monkeypatch.syspath_prepend(trained.resolve())
    plain = tk.load(trained).config.to_yaml().replace(tk.load(trained).config.env.wrappers[0].name, "clip_reward")
    for name in (f"{evil.resolve()}:Mine", "evil:Mine", "antigravity:Mine", "idlelib.idle:X", "rich.__main__:main"):
        (trained / "config.yaml").write_text(plain)
        key, _, value = place.format(name).partition("=")
        (trained / "config.yaml").write_text(load_set(trained, key, value))
        done = toolkit("evaluate", trained, "--episodes", "1")
        assert done.status == 2
        assert len(done.err.splitlines()) == 1
        assert ("belongs to Python's standard library" in done.err) == name.startswith(("antigravity", "idlelib"))
        assert not marker.exists()
        assert not {"antigravity", "idlelib.idle", "evil", "rich.__main__"} & {*sys.modules}


def load_set(run: Path, key: str, value: str) -> str:
    """Return the config of a run with another value, whether or not that is one that can be looked up."""
    from toolkit.config import compose, yaml_document

    document = compose.compose_document(run / "config.yaml")
    compose.apply_overrides(document, [f"{key}={value}"])
    return yaml_document.dump(document.data)
