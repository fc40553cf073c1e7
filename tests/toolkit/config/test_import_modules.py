"""`import_modules` and `module:Env-v0`: what registers environments is imported, in every process and command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from support import Finished, Toolkit
from trained import differences

ENVIRONMENT = """\
import gymnasium, pathlib
from gymnasium.envs.classic_control import CartPoleEnv

class Heavy(CartPoleEnv):
    def __init__(self, masspole=0.5, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.masspole = masspole

gymnasium.register("Heavy-v0", Heavy, max_episode_steps=30)
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
    forget()


def forget() -> None:
    """Let this process know nothing of the environment, as a new one would."""
    from toolkit.config.imports import _import_source

    gym.registry.pop("Heavy-v0", None)
    sys.modules.pop("heavy_poles", None)
    _import_source.cache_clear()


def write(modules: str, env_id: str = "Heavy-v0") -> Path:
    path = Path("mine.yaml")
    path.write_text(CONFIG.format(modules=modules, id=env_id))
    return path


WAYS = {
    "a module": ("[heavy_poles]", "Heavy-v0"),
    "a file": ("[./heavy_poles.py]", "Heavy-v0"),
    "with the environment": ("[]", "heavy_poles:Heavy-v0"),
}


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize(("modules", "env_id"), WAYS.values(), ids=WAYS)
def test_a_module_registers_the_environment_wherever_it_is_made(
    modules: str, env_id: str, vec_env: str, module: Path, toolkit: Toolkit
) -> None:
    config = write(modules, env_id)
    for directory in ("whole", "broken"):
        done = toolkit("train", config, "--set", f"env.vec_env={vec_env}", "--out", directory, "--quiet")
        assert (done.status, done.err) == (0, "")
    Path("broken/result.json").unlink()
    for command in (["resume", "broken", "--quiet"], ["evaluate", "broken", "--episodes=1"], ["describe", "broken"]):
        forget()
        done = toolkit(*command)
        assert (done.status, done.err) == (0, "")
    assert differences(Path("whole"), Path("broken")) == []


def test_a_video_is_made_of_an_environment_that_a_file_registers(module: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", write("[./heavy_poles.py]"), "--out", "run", "--quiet").status == 0
    forget()
    assert toolkit("record", "run").status == 0
    assert Path("run/videos/record.mp4").stat().st_size > 0


def test_a_file_is_looked_for_beside_the_config_or_where_the_value_is_given(module: Path, toolkit: Toolkit) -> None:
    Path("project").mkdir()
    module.rename("project/heavy_poles.py")
    write("[./heavy_poles.py]").rename("project/mine.yaml")
    assert toolkit("check", "project/mine.yaml").status == 0
    forget()
    wrong = toolkit("check", "project/mine.yaml", "--set", "import_modules.0=./heavy_poles.py")
    assert "import_modules.0: file " in wrong.err
    assert toolkit("check", "project/mine.yaml", "--set", "import_modules=[project/heavy_poles.py]").status == 0


def test_an_environment_s_parameters_are_checked(module: Path, toolkit: Toolkit) -> None:
    done = toolkit("check", write("[heavy_poles]"), "--set", "env.params={maspole: 1}")
    assert "env.params.maspole: unknown parameter; did you mean 'masspole'?" in done.err


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("[heavy_pole]", "import_modules.0: module 'heavy_pole' does not exist; is its package installed here?"),
        ("[json, ./absent.py]", "import_modules.1: file "),
        ("[./raises.py]", "raises.py' failed: ZeroDivisionError: division by zero"),
        ("[./exits.py]", "exits.py' failed: SystemExit: 3"),
        ("[./wrong.py]", "wrong.py' failed: SyntaxError: "),
        ("['json:loads']", "import_modules.0: 'json:loads' is not a module; write 'json'"),
        ("[json.loads]", "import_modules.0: module 'json.loads' does not exist"),
        ("[./mine.yaml]", "import_modules.0: './mine.yaml' is not a module; the path of a file ends in .py"),
        ("['']", "import_modules.0: "),
        ("[3]", "import_modules.0: should be a valid string, not 3"),
        ("heavy_poles", "import_modules: should be a list, not 'heavy_poles'"),
    ],
)
def test_what_cannot_be_imported_is_named_with_its_line(modules: str, message: str, toolkit: Toolkit) -> None:
    Path("raises.py").write_text("1 / 0")
    Path("exits.py").write_text("raise SystemExit(3)")
    Path("wrong.py").write_text("import import")
    done = toolkit("train", write(modules, "CartPole-v1"))
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("mine.yaml:2: import_modules")
    assert message in line
    assert not Path("runs").exists()


@pytest.mark.parametrize("env_id", ["Qqqqqq-v0", "poles/Heavy-v0"])
def test_an_unknown_environment_says_how_its_package_is_imported(env_id: str, toolkit: Toolkit) -> None:
    done = toolkit("check", write("[]", env_id))
    assert "mine.yaml:4: env.id: " in done.err
    assert "import_modules" in done.err


# --- a run directory that somebody else made -------------------------------------------------------------------------


def opened(modules: str, toolkit: Toolkit, *more: str) -> Finished:
    """Evaluate a run whose config has been edited to import modules."""
    config = Path("run/config.yaml")
    if not config.exists():
        assert toolkit("train", write("[]", "CartPole-v1"), "--out", "run", "--quiet").status == 0
    lines = config.read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith("import_modules:")]
    lines[number] = f"import_modules: {modules}"
    config.write_text("\n".join(lines))
    return toolkit("evaluate", "run", "--episodes", "1", *more)


@pytest.mark.parametrize(
    ("modules", "refused"),
    [
        ("[antigravity]", "belongs to Python's standard library"),
        ("[this]", "belongs to Python's standard library"),
        ("[idlelib.idle]", "belongs to Python's standard library"),
        ("[rich.__main__]", "is a program"),
        ("[heavy_poles]", "has not trained this run here"),
        ("[{directory}/heavy_poles.py]", "has not trained this run here"),
        ("[../heavy_poles.py]", "has not trained this run here"),
        ("[gymnasium, {directory}/heavy_poles.py]", "has not trained this run here"),
    ],
)
def test_opening_a_run_imports_nothing_that_is_not_installed(
    modules: str, refused: str, module: Path, marker: Path, toolkit: Toolkit
) -> None:
    before = {*sys.modules}
    done = opened(modules.format(directory=module.parent), toolkit)
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert "config.yaml:" in line
    assert "import_modules." in line
    assert refused in line
    assert not marker.exists()
    assert not {"antigravity", "this", "idlelib.idle", "rich.__main__", "heavy_poles"} & ({*sys.modules} - before)


@pytest.mark.parametrize("modules", ["[os]", "[__main__]", "[gymnasium.envs.classic_control.cartpole]"])
def test_what_is_imported_already_or_installed_is_no_danger(modules: str, toolkit: Toolkit) -> None:
    assert opened(modules, toolkit).status == 0


def test_a_file_that_trained_a_run_may_be_imported_when_it_is_opened_until_it_changes(
    module: Path, marker: Path, toolkit: Toolkit
) -> None:
    assert toolkit("train", write("[./heavy_poles.py]"), "--out", "run", "--quiet").status == 0
    assert json.loads(toolkit("evaluate", "run", "--episodes", "1", "--json").out)["episodes"] == 1
    module.write_text(module.read_text() + "# changed\n")
    marker.unlink()
    assert "import_modules.0: the code in" in toolkit("evaluate", "run").err
    assert not marker.exists()
    forget()
    assert toolkit("evaluate", "run", "--episodes", "1", "--trust").status == 0
    assert marker.exists()
