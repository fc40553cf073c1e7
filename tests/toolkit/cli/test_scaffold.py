"""A plugin package to start from works as it is written, for every kind, and is written whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from support import Finished, Toolkit, files_in

from toolkit.config.registry import list_entry_points

KINDS = {
    "wrapper": "wrappers",
    "callback": "callbacks",
    "algorithm": "algorithms",
    "policy": "policies",
    "schedule": "schedules",
}


def run(command: list[str], folder: Path) -> str:
    """Run a program to its good end; return what it printed."""
    module = [sys.executable, "-m", *command]
    done = subprocess.run(module, check=False, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_package_installs_passes_its_tests_trains_and_is_listed(
    kind: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"my_{kind}"
    assert toolkit("new", "plugin", name, "--kind", kind).status == 0
    run(["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", "site", f"./{name}"], Path())
    monkeypatch.setenv("PYTHONPATH", str(Path("site").resolve()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tested = run(["pytest", "-q", "-W", "error"], Path(name))
    assert " passed" in tested
    assert " skipped" not in tested
    monkeypatch.syspath_prepend(Path("site").resolve())
    list_entry_points.cache_clear()
    trained = toolkit("train", f"{name}/config.yaml", "--set", "timesteps=600", "--out", "trained", "--quiet")
    assert trained == Finished(0, "trained\n", "")
    assert json.loads(Path("trained/result.json").read_text())["status"] == "finished"
    assert f"{name}:My{kind.capitalize()} (my-{kind} 0.1.0)" in toolkit("plugins", KINDS[kind], name).out
    list_entry_points.cache_clear()


def test_it_says_what_it_wrote_and_what_to_do_next(toolkit: Toolkit) -> None:
    done = toolkit("new", "plugin", "my_reward")
    assert (done.status, done.err) == (0, "")
    told, *lines = done.out.splitlines()
    assert told == "created: a package with the wrapper 'my_reward', in my_reward/"
    assert {line.strip() for line in lines[:-3]} == files_in(Path("my_reward"))
    install, test, train = lines[-3:]
    assert install.startswith("  next   ")
    assert install.endswith(" -m pip install -e './my_reward[test]'")
    assert test.endswith(" -m pytest my_reward")
    assert train.endswith("toolkit train my_reward/config.yaml")


@pytest.mark.parametrize(
    ("path", "pip", "said"),
    [
        ("{here}", True, "python -m pip install"),
        ("/nowhere", True, "{here}/python -m pip install"),
        ("{here}", False, "uv pip install --python python"),
        ("/nowhere", False, "uv pip install --python {here}/python"),
    ],
)
def test_it_is_installed_where_the_toolkit_is_with_what_is_there(
    path: str, pip: bool, said: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(Path(sys.executable).parent)
    monkeypatch.setattr(sys, "executable", f"{here}/python")
    monkeypatch.setenv("PATH", path.format(here=here))
    if not pip:
        monkeypatch.setitem(sys.modules, "pip", None)  # as in uv's environments
    install = toolkit("new", "plugin", "mine").out.splitlines()[-3]
    assert install == f"  next   {said.format(here=here)} -e './mine[test]'"


@pytest.mark.parametrize(
    ("name", "package", "cls", "distribution"),
    [
        ("my_reward", "my_reward", "MyReward", "my-reward"),
        ("MyReward", "my_reward", "MyReward", "my-reward"),
        ("RNDReward2", "rnd_reward2", "RNDReward2", "rnd-reward2"),
        ("x", "x", "X", "x"),
    ],
)
def test_names_are_spelled_as_each_place_has_them(
    name: str, package: str, cls: str, distribution: str, toolkit: Toolkit
) -> None:
    assert toolkit("new", "plugin", name).status == 0
    assert Path(name, "tests", f"test_{package}.py").exists()
    assert f"class {cls}(" in Path(name, "src", package, "__init__.py").read_text()
    project = Path(name, "pyproject.toml").read_text()
    assert f'name = "{distribution}"' in project
    assert f'{package} = "{package}:{cls}"' in project
    assert f"- name: {package}\n" in Path(name, "config.yaml").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_templates_is_left_and_ruff_finds_nothing(kind: str, toolkit: Toolkit) -> None:
    assert toolkit("new", "plugin", "mine", "--kind", kind).status == 0
    for name in files_in(Path("mine")):
        assert "$" not in Path("mine", name).read_text(), name
    ruff = ["--no-cache", "mine"]
    run(["ruff", "check", *ruff], Path())
    run(["ruff", "format", "--check", *ruff], Path())


def test_the_readme_shows_the_config(toolkit: Toolkit) -> None:
    assert toolkit("new", "plugin", "my_reward").status == 0
    assert f"```yaml\n{Path('my_reward/config.yaml').read_text()}```" in Path("my_reward/README.md").read_text()


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
def test_its_tox_installs_the_toolkit_from_where_it_came(
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


# --- what is refused ------------------------------------------------------------------------------------------------


BAD_NAMES = {
    "my-reward": "did you mean 'my_reward'?",
    "my reward": "letters, digits and single underscores",
    "2fast": "letters, digits and single underscores",
    "": "letters, digits and single underscores",
    "../elsewhere": "letters, digits and single underscores",
    "_private": "letters, digits and single underscores",
    "belohnungsgröße": "letters, digits and single underscores",
    "class": "it is one of Python's own",
    "json": "it is one of Python's own",
    "Json": "it is one of Python's own",
    "float": "it is one of Python's own",
    "pytest": "a tool the package needs",
    "torch": "a module of that name is installed here",
    "toolkit": "a module of that name is installed here",
    "sb3_toolkit": "sb3-toolkit",
    "clip_reward": "there is a wrapper of that name, by sb3-toolkit",
    "none": "it is one of Python's own",
    "ValueError": "it is one of Python's own",
    "SupportsFloat": "the class would be called SupportsFloat, as one that it needs",
    "x" * 300: "cannot be written: File name too long",
}


@pytest.mark.parametrize(("name", "message"), BAD_NAMES.items())
def test_a_name_that_will_not_do_is_refused_and_leaves_nothing(name: str, message: str, toolkit: Toolkit) -> None:
    done = toolkit("new", "plugin", name)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize(("name", "kind"), [("path", "callback"), ("path", "policy"), ("CONFIG", "callback")])
def test_a_name_that_its_own_test_needs_is_refused(name: str, kind: str, toolkit: Toolkit) -> None:
    done = toolkit("new", "plugin", name, "--kind", kind)
    assert (done.status, done.out) == (2, "")
    assert f"the class would be called {name[0].upper()}{name[1:]}, as one that it needs" in done.err
    assert [*Path().iterdir()] == []
    assert toolkit("new", "plugin", name, "--kind", "wrapper").status == 0


def test_a_name_is_taken_only_by_components_of_its_kind(toolkit: Toolkit) -> None:
    assert toolkit("new", "plugin", "success", "--kind", "callback").status == 2
    assert toolkit("new", "plugin", "success", "--kind", "schedule").status == 0


@pytest.mark.parametrize("arguments", [[], ["mine", "--kind", "vehicle"], ["mine", "--kind", "wrappers"], ["a", "b"]])
def test_bad_arguments_are_refused_and_leave_nothing(arguments: list[str], toolkit: Toolkit) -> None:
    done = toolkit("new", "plugin", *arguments)
    assert (done.status, "Traceback" in done.err) == (2, False)
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize("what", ["folder", "empty folder", "file", "broken link"])
def test_what_is_there_is_never_overwritten(what: str, toolkit: Toolkit) -> None:
    taken = Path("mine")
    if what == "file":
        taken.write_text("precious")
    elif what == "broken link":
        taken.symlink_to("nowhere")
    else:
        taken.mkdir()
        if what == "folder":
            (taken / "README.md").write_text("precious")
    before = (files_in(Path()), taken.lstat())
    done = toolkit("new", "plugin", "mine")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: mine: is there already\n")
    assert (files_in(Path()), taken.lstat()) == before
    assert [*Path().iterdir()] == [taken]


def test_an_error_in_the_middle_leaves_nothing() -> None:
    limited = (  # files of at most 500 bytes, as on a disk that is nearly full
        "import resource, sys; from toolkit.cli.app import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); "
        "sys.argv = ['toolkit', 'new', 'plugin', 'mine']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", limited], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: mine: cannot be written: File too large\n"
    assert [*Path().iterdir()] == []
