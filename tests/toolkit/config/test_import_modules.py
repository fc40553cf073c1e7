"""`import_modules` and `module:Env-v0` register environments in every process and command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from small_runs import find_differences
from support import Toolkit

from toolkit.config.load import load_config, read_config, resolve_config
from toolkit.utils.errors import ConfigError

ENVIRONMENT = """\
import gymnasium, pathlib
from gymnasium.envs.classic_control import CartPoleEnv

class Heavy(CartPoleEnv):
    def __init__(self, masspole=0.5, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.masspole = masspole

gymnasium.register("Heavy-v0", Heavy, max_episode_steps=30)

def register_again():
    gymnasium.register("Heavy-v1", Heavy, max_episode_steps=30)

def register_as(env_id):
    gymnasium.register(env_id, Heavy)

def register_wrongly():
    1 / 0

CENTRE = 0.5

pathlib.Path({marker!r}).touch()
"""
CONFIG = """\
timesteps: 60
import_modules: {modules}
env:
  id: {id}
  n_envs: 2
algorithm:
  name: a2c
  policy_params: {{net_arch: [4]}}
snapshots: {{every_timesteps: 20}}
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the module in these tests makes when it is imported."""
    return tmp_path / "executed"


@pytest.fixture
def module(working_directory: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `heavy_poles` in the working directory, which is on the path and registers an environment."""
    path = working_directory / "heavy_poles.py"
    path.write_text(ENVIRONMENT.format(marker=str(marker)))
    monkeypatch.syspath_prepend(working_directory)
    yield path
    unregister_env()


def unregister_env() -> None:
    """Make this process forget the environment, like a new process."""
    for env_id in ("Heavy-v0", "Heavy-v1"):
        gym.registry.pop(env_id, None)
    for name in [name for name in sys.modules if name.startswith(("heavy_poles", "toolkit_file_"))]:
        del sys.modules[name]


def write_config(modules: str, env_id: str = "Heavy-v0") -> Path:
    path = Path("mine.yaml")
    path.write_text(CONFIG.format(modules=modules, id=env_id))
    return path


REGISTRATIONS = {
    "a module": ("[heavy_poles]", "Heavy-v0"),
    "a file": ("[./heavy_poles.py]", "Heavy-v0"),
    "with the environment": ("[]", "heavy_poles:Heavy-v0"),
}


@pytest.mark.parametrize(("modules", "env_id"), REGISTRATIONS.values(), ids=REGISTRATIONS)
def test_import_modules_registers_env_for_every_command(
    modules: str, env_id: str, module: Path, toolkit: Toolkit
) -> None:
    config = write_config(modules, env_id)
    for directory in ("whole", "broken"):
        result = toolkit("train", config, "--out", directory, "--quiet")
        assert (result.status, result.err) == (0, "")
    Path("broken/result.json").unlink()
    for command in (["resume", "broken", "--quiet"], ["evaluate", "broken", "--episodes=1"], ["describe", "broken"]):
        unregister_env()
        result = toolkit(*command)
        assert (result.status, result.err) == (0, "")
    assert find_differences(Path("whole"), Path("broken")) == []


@pytest.mark.parametrize(("modules", "env_id"), REGISTRATIONS.values(), ids=REGISTRATIONS)
def test_import_modules_registers_env_in_every_process(
    modules: str, env_id: str, module: Path, toolkit: Toolkit
) -> None:
    result = toolkit("train", write_config(modules, env_id), "--set", "env.vec_env=subproc", "--quiet")
    assert (result.status, result.err) == (0, "")


@pytest.mark.parametrize("modules", ["[./heavy_poles.py:register_again]", "['heavy_poles:register_again']"])
def test_import_modules_calls_function_once(
    modules: str, module: Path, toolkit: Toolkit, recwarn: pytest.WarningsRecorder
) -> None:
    result = toolkit("train", write_config(modules, "Heavy-v1"), "--out", "run", "--quiet")
    assert (result.status, result.err) == (0, "")
    assert "Overriding" not in "".join(str(warning.message) for warning in recwarn)
    unregister_env()
    assert toolkit("evaluate", "run", "--episodes=1").status == 0


def test_file_before_id_registers_env(module: Path) -> None:
    assert load_config(write_config("[]", "./heavy_poles.py:Heavy-v0")).env.name == "Heavy-v0"


def test_record_works_with_env_registered_by_file(module: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", write_config("[./heavy_poles.py]"), "--out", "run", "--quiet").status == 0
    unregister_env()
    assert toolkit("record", "run").status == 0
    assert Path("run/videos/record.mp4").stat().st_size > 0


def test_module_file_is_relative_to_config_or_working_directory(module: Path, toolkit: Toolkit) -> None:
    Path("project").mkdir()
    module.rename("project/heavy_poles.py")
    write_config("[./heavy_poles.py]").rename("project/mine.yaml")
    assert toolkit("check", "project/mine.yaml").status == 0
    unregister_env()
    wrong = toolkit("check", "project/mine.yaml", "--set", "import_modules.0=./heavy_poles.py")
    assert "import_modules.0: file " in wrong.err
    assert toolkit("check", "project/mine.yaml", "--set", "import_modules=[project/heavy_poles.py]").status == 0


def test_env_params_are_checked_against_env_class(module: Path, toolkit: Toolkit) -> None:
    result = toolkit("check", write_config("[heavy_poles]"), "--set", "env.params={maspole: 1}")
    assert "env.params.maspole: unknown parameter; did you mean 'masspole'?" in result.err


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("[heavy_pole]", "import_modules.0: module 'heavy_pole' does not exist; is its package installed here?"),
        ("[json, ./absent.py]", "import_modules.1: file "),
        ("[./raises.py]", "raises.py' failed: ZeroDivisionError: division by zero"),
        ("[./exits.py]", "exits.py' failed: SystemExit: 3"),
        ("[./wrong.py]", "wrong.py' failed: SyntaxError: "),
        ("['json:loads']", "import_modules.0: 'json:loads' belongs to Python's standard library"),
        ("[./heavy_poles.py:register_agian]", "has no 'register_agian'; did you mean 'register_again'?"),
        ("['heavy_poles:register_as']", "cannot be called without arguments: missing a required argument: 'env_id'"),
        ("['heavy_poles:Heavy']", "is a class, not a function that registers environments; write 'heavy_poles'"),
        ("['heavy_poles:CENTRE']", "cannot be called: it is an object of type float"),
        ("['heavy_poles:register_wrongly']", "failed: ZeroDivisionError"),
        ("[json.loads]", "import_modules.0: module 'json.loads' does not exist"),
        ("[./mine.yaml]", "import_modules.0: './mine.yaml' is not a module; the path of a file ends in .py"),
        ("['']", "import_modules.0: "),
        ("[3]", "import_modules.0: should be a valid string, not 3"),
        ("heavy_poles", "import_modules: should be a list, not 'heavy_poles'"),
    ],
)
def test_failed_import_is_reported_with_its_line(modules: str, message: str, module: Path, toolkit: Toolkit) -> None:
    Path("raises.py").write_text("1 / 0")
    Path("exits.py").write_text("raise SystemExit(3)")
    Path("wrong.py").write_text("import import")
    result = toolkit("train", write_config(modules, "CartPole-v1"))
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("mine.yaml:2: import_modules")
    assert message in line
    assert not Path("runs").exists()


@pytest.mark.parametrize("env_id", ["Qqqqqq-v0", "poles/Heavy-v0"])
def test_unknown_env_hint_mentions_import_modules(env_id: str, toolkit: Toolkit) -> None:
    result = toolkit("check", write_config("[]", env_id))
    assert "mine.yaml:4: env.id: " in result.err
    assert "import_modules" in result.err


def test_hint_for_unknown_env_names_function_that_registers(module: Path, toolkit: Toolkit) -> None:
    result = toolkit("check", write_config("[heavy_poles]", "poles/Qqqqqq-v0"))
    assert "heavy_poles registered nothing of that name; name the function that does" in result.err
    assert "import_modules: [heavy_poles:register_again]" in result.err


# --- a run directory that somebody else made -------------------------------------------------------------------------


def resolve_opened(modules: str) -> str:
    """Find the components of a run directory whose config imports modules; return the error, if any."""
    Path("run").mkdir()
    write_config(modules, "CartPole-v1").rename("run/config.yaml")
    try:
        resolve_config(read_config("run/config.yaml"))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ("[antigravity]", "belongs to Python's standard library"),
        ("[idlelib.idle]", "belongs to Python's standard library"),
        ("[rich.__main__]", "is a program"),
        ("['gymnasium:pprint_registry']", "has not trained this run here"),
        ("[heavy_poles]", "has not trained this run here"),
        ("[{directory}/heavy_poles.py]", "has not trained this run here"),
        ("[../heavy_poles.py]", "has not trained this run here"),
        ("[gymnasium, {directory}/heavy_poles.py]", "has not trained this run here"),
    ],
)
def test_opened_run_imports_only_installed_modules(modules: str, reason: str, module: Path, marker: Path) -> None:
    before = {*sys.modules}
    (line,) = resolve_opened(modules.format(directory=module.parent)).splitlines()
    assert line.startswith("run/config.yaml:2: import_modules.")
    assert reason in line
    assert not marker.exists()
    assert not {"antigravity", "idlelib.idle", "rich.__main__", "heavy_poles"} & ({*sys.modules} - before)


@pytest.mark.parametrize("modules", ["[os]", "[__main__]", "[gymnasium.envs.classic_control.cartpole]"])
def test_opened_run_allows_imported_and_installed_modules(modules: str) -> None:
    assert resolve_opened(modules) == ""


def test_module_file_of_training_is_trusted_until_it_changes(module: Path, marker: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", write_config("[./heavy_poles.py]"), "--out", "run", "--quiet").status == 0
    assert json.loads(toolkit("evaluate", "run", "--episodes", "1", "--json").out)["episodes"] == 1
    module.write_text(module.read_text() + "# changed\n")
    marker.unlink()
    assert "import_modules.0: the code in" in toolkit("evaluate", "run").err
    assert not marker.exists()
    unregister_env()
    assert toolkit("evaluate", "run", "--episodes", "1", "--trust").status == 0
    assert marker.exists()
