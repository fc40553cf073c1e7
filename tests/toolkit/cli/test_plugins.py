"""`toolkit plugins`: what there is, what is broken, and a component in detail with YAML to paste."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import WRAPPER_MODULE, Install, Toolkit, toolkit_process

from toolkit.cli.text import format_component, format_listing
from toolkit.config.catalog import list_claims
from toolkit.config.components import bind_component
from toolkit.config.docstrings import parse_docstring
from toolkit.config.load import load_config
from toolkit.config.registry import KINDS, find
from toolkit.config.schema import ComponentConfig
from toolkit.utils.errors import ConfigError, Problem

USABLE = [(kind.name, claim.name) for kind in KINDS.values() for claim in list_claims(kind) if not claim.install]


def row(text: str, name: str) -> str:
    """Return the one line of a listing that is about a name."""
    (found,) = (line for line in text.splitlines() if line.split()[0] == name and line.startswith(" "))
    return found


# --- what there is --------------------------------------------------------------------------------------------------


def test_plugins_lists_every_kind(toolkit: Toolkit) -> None:
    shown = toolkit("plugins")
    assert (shown.status, shown.err) == (0, "")
    assert [line for line in shown.out.splitlines() if not line.startswith(" ")] == [*KINDS]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ppo", "Proximal Policy Optimization algorithm (PPO) (clip version) (sb3-toolkit "),
        ("clip_reward", "Clips the rewards for an environment between an upper and lower bound. (sb3-toolkit "),
        ("vec_normalize", "A moving average, normalizing wrapper for vectorized environment. (sb3-toolkit "),
        ("linear", "Change in a straight line from `start` to `end`, then stay at `end`. (sb3-toolkit "),
    ],
)
def test_a_component_is_listed_with_its_first_line_and_who_provides_it(name: str, line: str, toolkit: Toolkit) -> None:
    assert line in row(toolkit("plugins").out, name)


@pytest.mark.parametrize(("kind", "name"), USABLE)
def test_the_first_line_is_found_without_an_import(kind: str, name: str) -> None:
    said = row(format_listing(KINDS[kind]), name).removeprefix(f"  {name}").strip()
    assert not said.startswith("(")
    said = said.rpartition(" (")[0].partition(" [needs ")[0]
    assert parse_docstring(find(KINDS[kind], name).__doc__)[0].startswith(said)


def test_plugins_of_one_kind_lists_that_kind_alone(toolkit: Toolkit) -> None:
    shown = toolkit("plugins", "schedules").out.splitlines()
    assert shown[0] == "schedules"
    assert {line.split()[0] for line in shown[1:]} == {"constant", "harmonic", "linear"}


def test_listing_imports_nothing_of_the_toolkit_s_own() -> None:
    code = """\
import sys
from toolkit.cli.app import main
sys.argv = ["toolkit", "plugins"]
try:
    main()
finally:
    print("imported:", sorted({"torch", "stable_baselines3", "gymnasium", "toolkit_plugins"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported: []\n")


def test_listing_is_quick() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with toolkit_process(["plugins"], is_new=True) as process:
            process.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < 1.5 for _ in range(3))  # of the processor: the machine may be busy


@pytest.mark.parametrize("width", [40, 80, 120])
def test_on_a_terminal_lines_are_no_wider_than_it_is(width: int) -> None:
    lines = [line for kind in KINDS.values() for line in format_listing(kind, width).splitlines()]
    assert all(len(line) <= width or " " not in line.strip() for line in lines)  # a path is not broken
    text, _, _ = format_component(KINDS["callbacks"], "success", width).partition("# to paste")
    assert all(len(line) <= width or " " not in line.strip() for line in text.splitlines())
    assert "if not 0, the greedy policy must reach the threshold too" in " ".join(text.split())


def test_another_package_s_component_is_listed_with_its_docstring(install: Install, toolkit: Toolkit) -> None:
    source = WRAPPER_MODULE.replace("pass", '"""Halves the reward.\n\n    And more.\n    """')
    install("their-rewards", "their_rewards", source)
    assert row(toolkit("plugins", "wrappers").out, "mine").endswith("  Halves the reward. (their-rewards 1.0)")


def test_a_component_without_a_docstring_is_listed(install: Install, toolkit: Toolkit) -> None:
    install("silent-rewards", "silent_rewards")
    assert row(toolkit("plugins", "wrappers").out, "mine").endswith("  (silent-rewards 1.0)")


# --- what is broken -------------------------------------------------------------------------------------------------

BROKEN = {
    "raises": ("raise RuntimeError('half installed')\n", "{module}:Mine", "RuntimeError: half installed ("),
    "exits": ("import sys\nsys.exit(3)\n", "{module}:Mine", "SystemExit: 3 ("),
    "no Python": ("def broken(:\n", "{module}:Mine", "SyntaxError: "),
    "lacks a module": (
        "import no_such_module\n",
        "{module}:Mine",
        "broken-dist 1.0 needs the module 'no_such_module': install its package",
    ),
    "lacks what an extra brings": (
        "import no_such_module\n",
        "{module}:Mine [fancy]",
        "wrapper 'mine' needs the module 'no_such_module', which is not installed; pip install \"broken-dist[fancy]\"",
    ),
    "no such attribute": ("", "{module}:Mine", "has no 'Mine'; it comes with broken-dist 1.0"),
    "no such module": ("", "not_there:Mine", "module 'not_there' does not exist; it comes with broken-dist 1.0"),
    "no class": ("", "{module}", "does not name a class; "),
    "of another kind": ("class Mine: pass\n", "{module}:Mine", "'mine' is not a valid wrapper: "),
}


@pytest.fixture(params=BROKEN, ids=str)
def broken(request: pytest.FixtureRequest, install: Install) -> str:
    """Install a plugin that is broken in some way; what is said of it."""
    source, target, what = BROKEN[request.param]
    install("broken-dist", f"broken_{request.param.replace(' ', '_')}", source, target=target)
    return what


def test_a_broken_component_is_listed_with_its_error_beside_the_others(broken: str, toolkit: Toolkit) -> None:
    shown = toolkit("plugins")
    assert (shown.status, shown.err) == (0, "")
    line = row(shown.out, "mine")
    assert "  error: " in line
    assert broken in line
    assert line.endswith(" (broken-dist 1.0)")
    assert "error: " not in row(shown.out, "angle_penalty")


def test_a_broken_component_is_refused_with_one_message_where_it_is_named_and_breaks_nothing_else(
    broken: str, toolkit: Toolkit, config_file: Path
) -> None:
    assert toolkit("check", config_file).status == 0
    for command in ("check", "train"):
        refused = toolkit(command, config_file, "--set", "env.wrappers.0.name=mine")
        assert (refused.status, refused.out) == (2, "")
        assert refused.err.startswith("--set env.wrappers.0.name=mine: env.wrappers.0.name: ")
        assert broken in refused.err
        assert refused.err.count("\n") == 1
    shown = toolkit("plugins", "wrappers", "mine")
    assert (shown.status, shown.out) == (2, "")
    assert shown.err.startswith("error: ")
    assert broken in shown.err.replace("\n", "; ")
    assert {path.name for path in Path().iterdir()} == {"small.yaml"}


def test_two_claims_to_a_name_are_listed_as_errors_with_both_paths(install: Install, toolkit: Toolkit) -> None:
    install("first-dist", "third_module", name="clash")
    install("second-dist", "fourth_module", name="clash")
    shown = toolkit("plugins", "wrappers")
    assert shown.status == 0
    lines = {line.rpartition(" (")[2]: line for line in shown.out.splitlines() if line.split()[0] == "clash"}
    assert lines.keys() == {"first-dist 1.0)", "second-dist 1.0)"}
    assert "error: claimed by second-dist 1.0 too" in lines["first-dist 1.0)"]
    assert "name this one by its path, third_module:Mine" in lines["first-dist 1.0)"]
    assert "error: claimed by first-dist 1.0 too" in lines["second-dist 1.0)"]


def test_of_the_toolkit_s_own_it_is_seen_without_an_import_what_an_optional_one_needs(
    install: Install, toolkit: Toolkit
) -> None:
    install(
        "sb3-toolkit",  # in front of the real one, which it hides
        "optional_module",
        WRAPPER_MODULE.replace("pass", '"""Fancy."""') + "raise AssertionError('imported')\n",
        target="{module}:Mine [fancy]",
        requires='no-such-distribution; extra == "fancy"',
    )
    line = row(toolkit("plugins", "wrappers").out, "mine")
    assert line.endswith('  Fancy. [needs pip install "sb3-toolkit[fancy]"] (sb3-toolkit 1.0)')


@pytest.mark.parametrize("command", [["plugins"], ["schema"]])
def test_a_damaged_installation_is_named(command: list[str], install: Install, toolkit: Toolkit) -> None:
    directory = install("damaged-dist", "damaged_module")
    (directory / "damaged-dist-1.0.dist-info" / "entry_points.txt").write_text("[toolkit.wrappers]\nmin")
    shown = toolkit(*command)
    assert (shown.status, shown.out) == (2, "")
    assert shown.err == "error: cannot read the entry points of these packages: damaged-dist\nreinstall them\n"


def test_a_required_parameter_that_is_missing_is_named(install: Install, toolkit: Toolkit, config_file: Path) -> None:
    source = WRAPPER_MODULE.replace("pass", "def __init__(self, env, factor: float): super().__init__(env)")
    install("factor-dist", "factor_module", source)
    refused = toolkit("check", config_file, "--set", "env.wrappers.0=mine")
    assert refused.status == 2
    assert refused.err.endswith("env.wrappers.0.params.factor: required parameter is missing\n")


# --- one component --------------------------------------------------------------------------------------------------


def test_a_component_is_shown_with_its_parameters_their_types_defaults_and_meaning(toolkit: Toolkit) -> None:
    shown = toolkit("plugins", "callbacks", "record_video")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith("callback 'record_video': toolkit_plugins.video:RecordVideoCallback (sb3-toolkit ")
    assert "Record the greedy agent for one episode" in shown.out
    for line in (
        "every_timesteps: int or null, default null\n",
        "on_success: bool, default false\n",
        "formats: list[Literal['mp4', 'gif']] or null, default null\n",
    ):
        assert f"\n  {line}      " in shown.out  # and what it means below it


@pytest.mark.parametrize("name", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy", "MlpLstmPolicy"])
def test_of_a_policy_s_alias_it_is_said_that_algorithms_have_it(name: str, toolkit: Toolkit) -> None:
    shown = toolkit("plugins", "policies", name)
    assert (shown.status, shown.out) == (2, "")
    assert "algorithms have this alias, each for its own class" in shown.err
    assert "did you mean" not in shown.err


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("callbacks", "success", "threshold: float, required\n      mean raw return to reach\n"),
        ("wrappers", "terminal_reward_clip", "success_steps: int, default 195\n      an episode that ends"),
        ("wrappers", "gymnasium.wrappers:ClipReward", "min_reward: "),
        ("algorithms", "double_dqn", "double: bool, default true\n"),
        (
            "algorithms",
            "double_dqn",
            "train_freq: int or tuple[int, str], default 4\n      vector steps between updates",
        ),
        ("schedules", "linear", "start: float, required\n      value at the beginning of training\n"),
        (
            "policies",
            "DuelingMlpPolicy",
            "optimizer_class: type[torch.optim.optimizer.Optimizer], default 'torch.optim.adam:Adam'\n",
        ),
    ],
)
def test_the_parameters_shown_are_those_that_a_config_gives(kind: str, name: str, line: str, toolkit: Toolkit) -> None:
    shown = toolkit("plugins", kind, name).out
    assert f"\n  {line}" in shown
    shown = shown.partition("# to paste")[0]
    assert not any(f"\n  {supplied}: " in shown for supplied in ("env", "policy", "policy_kwargs", "seed"))


SPHINX = """\
Does it.

Much more.

:param one: the first
    of all
:param float two: the second
:raises ValueError: never
"""
GOOGLE = """\
Does it.

Much more.

Args:
    one: the first
        of all
    two (float, optional): the second

Raises:
    ValueError: never
"""
NUMPY = """\
Does it.

Much more.

Parameters
----------
one : int
    the first
    of all
two
    the second

Raises
------
ValueError
    never
"""


@pytest.mark.parametrize("docstring", [SPHINX, GOOGLE, NUMPY])
def test_parameters_are_read_from_docstrings_of_every_common_style(docstring: str) -> None:
    text, parameters = parse_docstring(docstring)
    assert parameters == {"one": "the first of all", "two": "the second"}
    assert text.startswith("Does it.\n\nMuch more.\n\nRaises")
    assert "never" in text


@pytest.mark.parametrize("docstring", [None, 5, "", "\n", "Args:", ":param", "Parameters\n---", ":param x: a\n\nb"])
def test_a_docstring_may_be_anything(docstring: object) -> None:
    text, parameters = parse_docstring(docstring)
    assert (text, parameters) == ("", {"x": "a b"}) if docstring == ":param x: a\n\nb" else not parameters


ODD = """\
from __future__ import annotations
import gymnasium

class Unshowable:
    def __repr__(self):
        raise TypeError("no repr")

class Awkward(type):
    def __instancecheck__(cls, instance):
        raise TypeError("cannot be asked")

class Odd(metaclass=Awkward):
    pass

class Mine(gymnasium.Wrapper):
    __doc__ = 5

    def __init__(
        self, env, /, bare, *args, unknown: NoSuchName = 1, text: "not a type" = 2, odd: Odd = 3, value=Unshowable(),
        infinite: float = float("inf"), wrong: int = "x", either: Odd | int = 4, **kwargs
    ):
        super().__init__(env)
"""


def test_odd_signatures_and_docstrings_are_shown_and_checked_as_far_as_they_say_something(
    install: Install, toolkit: Toolkit, config_file: Path
) -> None:
    install("odd-dist", "odd_module", ODD)
    assert row(toolkit("plugins", "wrappers").out, "mine").endswith("  (odd-dist 1.0)")
    shown = toolkit("plugins", "wrappers", "mine").out
    for line in (
        "bare: any, required",
        "unknown: any, default 1",
        "odd: Odd, default 3",
        "value: any, default a Unsh",
    ):
        assert f"\n  {line}" in shown
    assert toolkit("schema").status == 0
    checked = toolkit("check", config_file, "--set", "env.wrappers=[{name: mine, params: {bare: 1, odd: 5}}]")
    assert (checked.status, checked.err) == (0, "")


# --- YAML to paste --------------------------------------------------------------------------------------------------

BASE = "timesteps: 100\nenv: {id: CartPole-v1}\nalgorithm: {name: double_dqn}\n"


def pasted(kind: str, name: str) -> Path:
    """Lay the YAML that is shown of a component over a small config."""
    Path("base.yaml").write_text(BASE)
    Path("pasted.yaml").write_text("extends: base.yaml\n" + shown(kind, name))
    return Path("pasted.yaml")


def shown(kind: str, name: str) -> str:
    return re.split(r"\n# to paste into .*\n", format_component(KINDS[kind], name))[1]


@pytest.mark.parametrize(("kind", "name"), USABLE)
def test_the_yaml_shown_of_every_component_that_ships_is_accepted(kind: str, name: str) -> None:
    assert name in shown(kind, name)
    if kind not in ("launchers", "samplers", "pruners"):
        load_config(pasted(kind, name))
        return
    problems: list[Problem] = []
    named = ComponentConfig(**yaml.safe_load(shown(kind, name))[KINDS[kind].singular])
    assert bind_component(ConfigError, KINDS[kind], named, (), problems)
    assert not problems


@pytest.mark.parametrize(
    ("kind", "name", "env"),
    [
        ("wrappers", "terminal_reward_clip", "CartPole-v1"),
        ("vec_wrappers", "vec_normalize", "CartPole-v1"),
        ("callbacks", "success", "CartPole-v1"),
        ("schedules", "linear", "CartPole-v1"),
        ("schedules", "harmonic", "CartPole-v1"),
        ("policies", "DuelingMlpPolicy", "CartPole-v1"),
        ("algorithms", "recurrent_ppo", "CartPole-v1"),
        ("algorithms", "sac", "Pendulum-v1"),
    ],
)
def test_a_config_with_the_yaml_shown_passes_check(kind: str, name: str, env: str, toolkit: Toolkit) -> None:
    checked = toolkit("check", pasted(kind, name), "--set", f"env.id={env}")
    assert (checked.status, checked.err) == (0, "")


PLACES = """\
import gymnasium
from collections.abc import Callable
from typing import Literal

class Mine(gymnasium.Wrapper):
    def __init__(
        self, env, whole: int, part: float, text: str, switch: bool, choice: Literal["b", "a"], many: list[int],
        call: Callable[[float], float], either: int | None
    ):
        super().__init__(env)
"""


def test_a_required_parameter_gets_a_placeholder_of_its_type(
    install: Install, toolkit: Toolkit, config_file: Path
) -> None:
    install("places-dist", "places_module", PLACES)
    assert toolkit("check", pasted("wrappers", "mine")).status == 0
    lines = Path("pasted.yaml").read_text()
    for line in ("whole: 1  # required: int", "choice: b  # required: 'b' or 'a'", "many: []  # required: list[int]"):
        assert f"        {line}\n" in lines


def test_a_required_parameter_that_nothing_plain_stands_for_is_a_comment(install: Install) -> None:
    source = WRAPPER_MODULE.replace("pass", "def __init__(self, env, cls: type[gymnasium.Env]): super().__init__(env)")
    install("classes-dist", "classes_module", source)
    pasted("wrappers", "mine")
    assert (
        Path("pasted.yaml")
        .read_text()
        .endswith("    - name: mine\n      # cls:  # required: type[gymnasium.core.Env]")
    )
