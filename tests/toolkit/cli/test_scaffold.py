"""`toolkit new plugin` writes a package of each kind that works, or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from support import Finished, Toolkit, files_in

from toolkit.cli.scaffold import Plugin, write_plugin
from toolkit.config.registry import KINDS, read_entry_points

COMPONENT_KINDS = {
    KINDS[name].singular: KINDS[name] for name in ("wrappers", "callbacks", "algorithms", "policies", "schedules")
}


def run_module(command: list[str], folder: Path) -> str:
    """Run a Python module that must succeed; return its output."""
    module = [sys.executable, "-m", *command]
    finished = subprocess.run(module, check=False, cwd=folder, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new package of each kind: `my_wrapper` and so on."""
    folder = tmp_path_factory.mktemp("packages")
    for singular, kind in COMPONENT_KINDS.items():
        write_plugin(Plugin(f"my_{singular}", kind), folder)
    return folder


# --- new packages ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_packages_install_pass_their_tests_train_and_are_listed(
    packages: Path, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [f"./my_{singular}" for singular in COMPONENT_KINDS]
    site = Path("site").resolve()
    run_module(
        ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), *folders], packages
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = run_module(["pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *folders], packages)
    assert " passed" in output
    assert " skipped" not in output
    monkeypatch.syspath_prepend(site)
    read_entry_points.cache_clear()
    for singular, kind in COMPONENT_KINDS.items():
        config = packages / f"my_{singular}" / "config.yaml"
        trained = toolkit("train", config, "--set", "timesteps=600", "--out", singular, "--quiet")
        assert trained == Finished(0, f"{singular}\n", "")
        assert json.loads(Path(singular, "result.json").read_text())["status"] == "finished"
        description = toolkit("plugins", kind.name, f"my_{singular}").out
        assert f"my_{singular}:My{singular.capitalize()} (my-{singular} 0.1.0)" in description
    read_entry_points.cache_clear()


def test_packages_have_no_placeholders_and_no_ruff_findings(packages: Path) -> None:
    for name in files_in(packages):
        assert name.endswith(".pyc") or "$" not in (packages / name).read_text(), name
    run_module(["ruff", "check", "--no-cache", "."], packages)
    run_module(["ruff", "format", "--check", "--no-cache", "."], packages)


def test_readme_shows_config(packages: Path) -> None:
    for singular in COMPONENT_KINDS:
        folder = packages / f"my_{singular}"
        assert f"```yaml\n{(folder / 'config.yaml').read_text()}```" in (folder / "README.md").read_text()


def test_new_plugin_prints_files_and_next_commands(toolkit: Toolkit) -> None:
    finished = toolkit("new", "plugin", "my_reward")
    assert (finished.status, finished.err) == (0, "")
    heading, *lines = finished.out.splitlines()
    assert heading == "created: a package with the wrapper 'my_reward', in my_reward/"
    assert {line.strip() for line in lines[:-3]} == files_in(Path("my_reward"))
    install, test, train = lines[-3:]
    assert install.startswith("  next   ")
    assert install.endswith(" -m pip install -e './my_reward[test]'")
    assert test.endswith(" -m pytest my_reward")
    assert train.endswith("toolkit train my_reward/config.yaml")


@pytest.mark.parametrize(
    ("path", "has_pip", "command"),
    [
        ("{folder}", True, "python -m pip install"),
        ("/nowhere", True, "{folder}/python -m pip install"),
        ("{folder}", False, "uv pip install --python python"),
        ("/nowhere", False, "uv pip install --python {folder}/python"),
    ],
)
def test_install_command_uses_current_environment(
    path: str, has_pip: bool, command: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(Path(sys.executable).parent)
    monkeypatch.setattr(sys, "executable", f"{folder}/python")
    monkeypatch.setenv("PATH", path.format(folder=folder))
    if not has_pip:
        monkeypatch.setitem(sys.modules, "pip", None)  # as in uv's environments
    install = toolkit("new", "plugin", "mine").out.splitlines()[-3]
    assert install == f"  next   {command.format(folder=folder)} -e './mine[test]'"


@pytest.mark.parametrize(
    ("name", "package", "cls", "distribution"),
    [
        ("my_reward", "my_reward", "MyReward", "my-reward"),
        ("MyReward", "my_reward", "MyReward", "my-reward"),
        ("RNDReward2", "rnd_reward2", "RNDReward2", "rnd-reward2"),
        ("x", "x", "X", "x"),
    ],
)
def test_name_is_spelled_by_convention_in_each_file(
    name: str, package: str, cls: str, distribution: str, toolkit: Toolkit
) -> None:
    assert toolkit("new", "plugin", name).status == 0
    assert Path(name, "tests", f"test_{package}.py").exists()
    assert f"class {cls}(" in Path(name, "src", package, "__init__.py").read_text()
    project = Path(name, "pyproject.toml").read_text()
    assert f'name = "{distribution}"' in project
    assert f'{package} = "{package}:{cls}"' in project
    assert f"- name: {package}\n" in Path(name, "config.yaml").read_text()


ORIGINS = {
    "an index": (None, "sb3-toolkit"),
    "a folder": ({"url": "file:///a/folder", "dir_info": {}}, "sb3-toolkit @ file:///a/folder"),
    "an editable folder": ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "--editable file:///a%20b"),
    "a wheel": ({"url": "file:///a/x.whl", "archive_info": {}}, "sb3-toolkit @ file:///a/x.whl"),
    "a commit": (
        {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
        "sb3-toolkit @ git+https://host/x.git@ab12",
    ),
    "a folder in a commit": (
        {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}, "subdirectory": "rl"},
        "sb3-toolkit @ git+https://host/x.git@ab12#subdirectory=rl",
    ),
}


@pytest.mark.parametrize(("origin", "requirement"), ORIGINS.values(), ids=ORIGINS)
def test_tox_installs_toolkit_from_its_source(
    origin: dict[str, object] | None,
    requirement: str,
    toolkit: Toolkit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    information = tmp_path / "site" / "sb3_toolkit-9.8.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sb3-toolkit\nVersion: 9.8\n")
    if origin:
        (information / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(information.parent)
    assert version("sb3-toolkit") == "9.8"
    assert toolkit("new", "plugin", "mine").status == 0
    assert f"deps = {requirement}\n" in Path("mine/tox.ini").read_text()
    assert 'dependencies = ["sb3-toolkit>=9.8"]' in Path("mine/pyproject.toml").read_text()


# --- refused names ---------------------------------------------------------------------------------------------------


BAD_NAMES = {
    "my-reward": "did you mean 'my_reward'?",
    "my reward": "letters, digits and single underscores",
    "2fast": "letters, digits and single underscores",
    "": "letters, digits and single underscores",
    "../elsewhere": "letters, digits and single underscores",
    "_private": "letters, digits and single underscores",
    "belohnungsgröße": "letters, digits and single underscores",
    "class": "Python uses it",
    "json": "Python uses it",
    "Json": "Python uses it",
    "float": "Python uses it",
    "pytest": "a tool that the package needs has it",
    "torch": "an installed module has it",
    "toolkit": "an installed module has it",
    "sb3_toolkit": "sb3-toolkit",
    "clip_reward": "a wrapper has it, from sb3-toolkit",
    "none": "Python uses it",
    "ValueError": "Python uses it",
    "SupportsFloat": "the class SupportsFloat would hide another",
    "x" * 300: "cannot be written: File name too long",
}


@pytest.mark.parametrize(("name", "message"), BAD_NAMES.items())
def test_bad_name_is_refused_and_writes_nothing(name: str, message: str, toolkit: Toolkit) -> None:
    finished = toolkit("new", "plugin", name)
    assert (finished.status, finished.out) == (2, "")
    assert finished.err.startswith("error: ")
    assert message in finished.err
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize(("name", "kind"), [("path", "callback"), ("path", "policy"), ("CONFIG", "callback")])
def test_class_name_that_the_package_imports_is_refused(name: str, kind: str, toolkit: Toolkit) -> None:
    finished = toolkit("new", "plugin", name, "--kind", kind)
    assert (finished.status, finished.out) == (2, "")
    assert f"the class {name[0].upper()}{name[1:]} would hide another" in finished.err
    assert [*Path().iterdir()] == []
    assert toolkit("new", "plugin", name, "--kind", "wrapper").status == 0


def test_name_may_repeat_component_of_another_kind(toolkit: Toolkit) -> None:
    assert toolkit("new", "plugin", "success", "--kind", "callback").status == 2
    assert toolkit("new", "plugin", "success", "--kind", "schedule").status == 0


@pytest.mark.parametrize("arguments", [[], ["mine", "--kind", "vehicle"], ["mine", "--kind", "wrappers"], ["a", "b"]])
def test_bad_arguments_are_refused_and_write_nothing(arguments: list[str], toolkit: Toolkit) -> None:
    finished = toolkit("new", "plugin", *arguments)
    assert (finished.status, "Traceback" in finished.err) == (2, False)
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize("existing", ["folder", "empty folder", "file", "broken link"])
def test_existing_path_is_never_overwritten(existing: str, toolkit: Toolkit) -> None:
    taken = Path("mine")
    if existing == "file":
        taken.write_text("precious")
    elif existing == "broken link":
        taken.symlink_to("nowhere")
    else:
        taken.mkdir()
        if existing == "folder":
            (taken / "README.md").write_text("precious")
    files, stat = files_in(Path()), taken.lstat()
    finished = toolkit("new", "plugin", "mine")
    assert (finished.status, finished.out) == (2, "")
    assert finished.err.startswith("error: mine: already exists\n")
    assert files_in(Path()) == files
    assert (taken.lstat().st_ino, taken.lstat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert [*Path().iterdir()] == [taken]


def test_error_midway_leaves_nothing() -> None:
    limited = (  # files of at most 500 bytes, as on a disk that is nearly full
        "import resource, sys; from toolkit.cli.app import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); "
        "sys.argv = ['toolkit', 'new', 'plugin', 'mine']; main()"
    )
    finished = subprocess.run(
        [sys.executable, "-B", "-c", limited], check=False, capture_output=True, text=True, timeout=60
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "error: mine: cannot be written: File too large\n"
    assert [*Path().iterdir()] == []
