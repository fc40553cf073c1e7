"""`toolkit plugins` lists components, also broken ones, and describes one with YAML to paste."""

from __future__ import annotations

import re
import resource
from functools import cache
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
from toolkit.envs.factory import make_vec_env
from toolkit.utils.errors import ConfigError, Problem

USABLE = [(kind.name, claim.name) for kind in KINDS.values() for claim in list_claims(kind) if not claim.install]


def find_row(text: str, name: str) -> str:
    """Return the only line of a listing that is about a name."""
    (row,) = (line for line in text.splitlines() if line.split()[0] == name and line.startswith(" "))
    return row


@cache
def list_once(kind: str) -> str:
    return format_listing(KINDS[kind])


# --- listing ---------------------------------------------------------------------------------------------------------


def test_plugins_lists_every_kind(toolkit: Toolkit) -> None:
    finished = toolkit("plugins")
    assert (finished.status, finished.err) == (0, "")
    assert [line for line in finished.out.splitlines() if not line.startswith(" ")] == [*KINDS]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ppo", "Proximal Policy Optimization algorithm (PPO) (clip version) (sb3-toolkit "),
        ("clip_reward", "Clips the rewards for an environment between an upper and lower bound. (sb3-toolkit "),
        ("vec_normalize", "A moving average, normalizing wrapper for vectorized environment. (sb3-toolkit "),
        ("linear", "Change in a straight line from `start` to `end`, then stay at `end`. (sb3-toolkit "),
    ],
)
def test_component_is_listed_with_summary_and_provider(name: str, line: str, toolkit: Toolkit) -> None:
    assert line in find_row(toolkit("plugins").out, name)


@pytest.mark.parametrize(("kind", "name"), USABLE)
def test_summary_is_read_without_importing(kind: str, name: str) -> None:
    summary = find_row(list_once(kind), name).removeprefix(f"  {name}").strip()
    assert not summary.startswith("(")
    summary = summary.rpartition(" (")[0].partition(" [needs ")[0]
    assert parse_docstring(find(KINDS[kind], name).__doc__)[0].startswith(summary)


def test_plugins_lists_one_kind(toolkit: Toolkit) -> None:
    heading, *lines = toolkit("plugins", "schedules").out.splitlines()
    assert heading == "schedules"
    assert {line.split()[0] for line in lines} == {"by_success", "constant", "exponential", "harmonic", "linear"}


def test_listing_takes_less_than_1_5_seconds() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with toolkit_process(["plugins"], is_new=True) as process:
            process.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < 1.5 for _ in range(3))  # of the processor: the machine may be busy


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_terminal_width(width: int) -> None:
    lines = [line for kind in KINDS.values() for line in format_listing(kind, width).splitlines()]
    assert all(len(line) <= width or " " not in line.strip() for line in lines)  # a path is not broken
    text, _, _ = format_component(KINDS["callbacks"], "success", width).partition("# to paste")
    assert all(len(line) <= width or " " not in line.strip() for line in text.splitlines())
    assert "if not 0, the greedy policy must reach the threshold too" in " ".join(text.split())


def test_component_of_other_package_is_listed_with_summary(install: Install, toolkit: Toolkit) -> None:
    source = WRAPPER_MODULE.replace("pass", '"""Halves the reward.\n\n    And more.\n    """')
    install("their-rewards", "their_rewards", source)
    assert find_row(toolkit("plugins", "wrappers").out, "mine").endswith("  Halves the reward. (their-rewards 1.0)")


def test_component_without_docstring_is_listed(install: Install, toolkit: Toolkit) -> None:
    install("silent-rewards", "silent_rewards")
    assert find_row(toolkit("plugins", "wrappers").out, "mine").endswith("  (silent-rewards 1.0)")


# --- broken components -----------------------------------------------------------------------------------------------

BROKEN = {
    "raises": ("raise RuntimeError('half installed')\n", "{module}:Mine", "RuntimeError: half installed ("),
    "exits": ("import sys\nsys.exit(3)\n", "{module}:Mine", "SystemExit: 3 ("),
    "invalid Python": ("def broken(:\n", "{module}:Mine", "SyntaxError: "),
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
    "no such attribute": ("", "{module}:Mine", "has no 'Mine'; broken-dist 1.0 registers it"),
    "no such module": ("", "not_there:Mine", "module 'not_there' does not exist; broken-dist 1.0 registers it"),
    "no class": ("", "{module}", "does not name a class; "),
    "of another kind": ("class Mine: pass\n", "{module}:Mine", "'mine' is not a valid wrapper: "),
}


@pytest.fixture(params=BROKEN, ids=str)
def broken(request: pytest.FixtureRequest, install: Install) -> str:
    """Install a plugin that is broken in some way; return the message about it."""
    source, target, message = BROKEN[request.param]
    install("broken-dist", f"broken_{request.param.replace(' ', '_')}", source, target=target)
    return message


def test_broken_component_is_listed_with_its_error(broken: str, toolkit: Toolkit) -> None:
    finished = toolkit("plugins", "wrappers")
    assert (finished.status, finished.err) == (0, "")
    line = find_row(finished.out, "mine")
    assert "  error: " in line
    assert broken in line
    assert line.endswith(" (broken-dist 1.0)")
    assert "error: " not in find_row(finished.out, "angle_penalty")


def test_broken_component_is_refused_only_where_it_is_named(broken: str, toolkit: Toolkit, config_file: Path) -> None:
    load_config(config_file)
    refused = toolkit("train", config_file, "--set", "env.wrappers.0.name=mine")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith("--set env.wrappers.0.name=mine: env.wrappers.0.name: ")
    assert broken in refused.err
    assert refused.err.count("\n") == 1
    described = toolkit("plugins", "wrappers", "mine")
    assert (described.status, described.out) == (2, "")
    assert described.err.startswith("error: ")
    assert broken in described.err.replace("\n", "; ")
    assert {path.name for path in Path().iterdir()} == {"small.yaml"}


def test_name_claimed_twice_is_listed_as_error_with_both_paths(install: Install, toolkit: Toolkit) -> None:
    install("first-dist", "third_module", name="clash")
    install("second-dist", "fourth_module", name="clash")
    finished = toolkit("plugins", "wrappers")
    assert finished.status == 0
    lines = {line.rpartition(" (")[2]: line for line in finished.out.splitlines() if line.split()[0] == "clash"}
    assert lines.keys() == {"first-dist 1.0)", "second-dist 1.0)"}
    assert "error: claimed by second-dist 1.0 too" in lines["first-dist 1.0)"]
    assert "name this one by its path, third_module:Mine" in lines["first-dist 1.0)"]
    assert "error: claimed by first-dist 1.0 too" in lines["second-dist 1.0)"]


def test_missing_extra_of_own_component_is_shown_without_importing(install: Install, toolkit: Toolkit) -> None:
    install(
        "sb3-toolkit",  # hides the real one
        "optional_module",
        WRAPPER_MODULE.replace("pass", '"""Fancy."""') + "raise AssertionError('imported')\n",
        target="{module}:Mine [fancy]",
        requires='no-such-distribution; extra == "fancy"',
    )
    line = find_row(toolkit("plugins", "wrappers").out, "mine")
    assert line.endswith('  Fancy. [needs pip install "sb3-toolkit[fancy]"] (sb3-toolkit 1.0)')


@pytest.mark.parametrize("command", [["plugins"], ["schema"]])
def test_damaged_installation_is_reported(command: list[str], install: Install, toolkit: Toolkit) -> None:
    directory = install("damaged-dist", "damaged_module")
    (directory / "damaged-dist-1.0.dist-info" / "entry_points.txt").write_text("[toolkit.wrappers]\nmin")
    finished = toolkit(*command)
    assert (finished.status, finished.out) == (2, "")
    assert finished.err == "error: cannot read the entry points of these packages: damaged-dist\nreinstall them\n"


def test_missing_required_parameter_is_reported(install: Install, toolkit: Toolkit, config_file: Path) -> None:
    source = WRAPPER_MODULE.replace("pass", "def __init__(self, env, factor: float): super().__init__(env)")
    install("factor-dist", "factor_module", source)
    refused = toolkit("check", config_file, "--set", "env.wrappers.0=mine")
    assert refused.status == 2
    assert refused.err.endswith("env.wrappers.0.params.factor: required parameter is missing\n")


# --- one component ---------------------------------------------------------------------------------------------------


def test_description_has_types_defaults_and_text_of_parameters(toolkit: Toolkit) -> None:
    finished = toolkit("plugins", "callbacks", "record_video")
    assert (finished.status, finished.err) == (0, "")
    assert finished.out.startswith("callback 'record_video': toolkit_plugins.video:RecordVideoCallback (sb3-toolkit ")
    assert "Record one episode of the g" in finished.out
    for line in (
        "every_timesteps: int or null, default null\n",
        "on_success: bool, default false\n",
        "formats: list[Literal['mp4', 'gif']] or null, default null\n",
    ):
        assert f"\n  {line}      " in finished.out  # its description is on the next line


@pytest.mark.parametrize("name", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy", "MlpLstmPolicy"])
def test_policy_alias_is_explained(name: str, toolkit: Toolkit) -> None:
    finished = toolkit("plugins", "policies", name)
    assert (finished.status, finished.out) == (2, "")
    assert "algorithms have this alias, each for its own class" in finished.err
    assert "did you mean" not in finished.err


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("callbacks", "success", "threshold: float, required\n      mean raw return to reach\n"),
        ("callbacks", "maskable_eval", "verbose: int, default 0\n"),  # SB3's is 1
        (
            "wrappers",
            "terminal_reward_clip",
            "success_steps: int or a schedule, default 195\n      an episode that ends",
        ),
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
def test_description_has_only_parameters_of_configs(kind: str, name: str, line: str, toolkit: Toolkit) -> None:
    description, _, _ = toolkit("plugins", kind, name).out.partition("# to paste")
    assert f"\n  {line}" in description
    assert not any(f"\n  {supplied}: " in description for supplied in ("env", "policy", "policy_kwargs", "seed"))


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
def test_parameters_are_read_from_common_docstring_styles(docstring: str) -> None:
    text, parameters = parse_docstring(docstring)
    assert parameters == {"one": "the first of all", "two": "the second"}
    assert text.startswith("Does it.\n\nMuch more.\n\nRaises")
    assert "never" in text


@pytest.mark.parametrize("docstring", [None, 5, "", "\n", "Args:", ":param", "Parameters\n---", ":param x: a\n\nb"])
def test_any_docstring_can_be_parsed(docstring: object) -> None:
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


def test_odd_signature_and_docstring_are_shown_and_checked(
    install: Install, toolkit: Toolkit, config_file: Path
) -> None:
    install("odd-dist", "odd_module", ODD)
    assert find_row(toolkit("plugins", "wrappers").out, "mine").endswith("  (odd-dist 1.0)")
    description = toolkit("plugins", "wrappers", "mine").out
    for line in (
        "bare: any, required",
        "unknown: any, default 1",
        "odd: Odd, default 3",
        "value: any, default a Unsh",
    ):
        assert f"\n  {line}" in description
    assert toolkit("schema").status == 0
    checked = toolkit("check", config_file, "--set", "env.wrappers=[{name: mine, params: {bare: 1, odd: 5}}]")
    assert (checked.status, checked.err) == (0, "")


# --- YAML to paste ---------------------------------------------------------------------------------------------------

BASE = "timesteps: 100\nenv: {id: CartPole-v1}\nalgorithm: {name: double_dqn}\n"


def write_pasted_config(kind: str, name: str) -> Path:
    """Write a small config with the YAML from a component's description."""
    Path("base.yaml").write_text(BASE)
    Path("pasted.yaml").write_text("extends: base.yaml\n" + read_snippet(kind, name))
    return Path("pasted.yaml")


def read_snippet(kind: str, name: str) -> str:
    return re.split(r"\n# to paste into .*\n", format_component(KINDS[kind], name))[1]


@pytest.mark.parametrize(("kind", "name"), USABLE)
def test_snippet_of_shipped_component_is_valid(kind: str, name: str) -> None:
    assert name in read_snippet(kind, name)
    if kind not in ("launchers", "samplers", "pruners"):
        config = load_config(write_pasted_config(kind, name))
        for callback in config.components.callbacks:
            callback.build_with_envs(KINDS["callbacks"], lambda: make_vec_env(config, seed=0, n_envs=1))
        return
    problems: list[Problem] = []
    component_config = ComponentConfig(**yaml.safe_load(read_snippet(kind, name))[KINDS[kind].singular])
    assert bind_component(ConfigError, KINDS[kind], component_config, (), problems)
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
def test_config_with_snippet_passes_check(kind: str, name: str, env: str, toolkit: Toolkit) -> None:
    checked = toolkit("check", write_pasted_config(kind, name), "--set", f"env.id={env}")
    assert (checked.status, checked.err) == (0, "")


PLACEHOLDERS = """\
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


def test_required_parameter_gets_placeholder_of_its_type(
    install: Install, toolkit: Toolkit, config_file: Path
) -> None:
    install("placeholders-dist", "placeholders_module", PLACEHOLDERS)
    assert toolkit("check", write_pasted_config("wrappers", "mine")).status == 0
    lines = Path("pasted.yaml").read_text()
    for line in ("whole: 1  # required: int", "choice: b  # required: 'b' or 'a'", "many: []  # required: list[int]"):
        assert f"        {line}\n" in lines


def test_required_parameter_without_yaml_value_is_a_comment(install: Install) -> None:
    source = WRAPPER_MODULE.replace("pass", "def __init__(self, env, cls: type[gymnasium.Env]): super().__init__(env)")
    install("classes-dist", "classes_module", source)
    write_pasted_config("wrappers", "mine")
    assert (
        Path("pasted.yaml")
        .read_text()
        .endswith("    - name: mine\n      # cls:  # required: type[gymnasium.core.Env]")
    )
