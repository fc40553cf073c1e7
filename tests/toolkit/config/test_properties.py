"""Any config file and any ``--set`` give a valid config, or an error with its location.

Up to a hundred examples of each property run with the other tests, the same every time. ``PROPERTY_EXAMPLES=10000``
runs that many, new ones each time (see ``CONTRIBUTING.md``).
"""

from __future__ import annotations

import copy
import io
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, configuration, example, given, settings
from hypothesis import strategies as st
from support import CONFIGS, SMALL_CONFIG, needed_extra

from toolkit import load_config
from toolkit.cli.app import main
from toolkit.config import yaml_document
from toolkit.config.registry import KINDS, find, list_entry_points
from toolkit.config.schema import RunConfig
from toolkit.config.signatures import read_signature
from toolkit.training.trainer import dry_run
from toolkit.utils.errors import ComponentError, ConfigError

_HOME = tempfile.TemporaryDirectory()  # until Python exits
configuration.set_hypothesis_home_dir(_HOME.name)  # else it leaves a folder in the tree

REQUESTED = int(os.environ.get("PROPERTY_EXAMPLES", "0"))


def examples(default: int, share: float = 1.0) -> settings:
    """Run ``default`` examples, or that share of ``PROPERTY_EXAMPLES``."""
    return settings(
        max_examples=max(1, int(REQUESTED * share)) if REQUESTED else default,
        derandomize=not REQUESTED,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


SHIPPED = {path.name: path.read_text() for path in CONFIGS if needed_extra(path) is None}
SHIPPED["small.yaml"] = SMALL_CONFIG
FILE = "mutated.yaml"
LOCATION = re.compile(r"\w+\.yaml(?::\d+: |: (?:is|has|cannot be) )|--set ")

# --- mistakes ------------------------------------------------------------------------------------------------

HOSTILE_NAMES = [
    *[
        "os:system",
        "../x.py:A",
        "x.py:A",
        ":",
        "::",
        "a:",
        ":b",
        "a:b:c",
        "json:",
        "json:.",
        "builtins:print",
        "__main__:x",
    ],
    *["torch.nn:ReLU", "torch.nn:ReLU.x", "math:pi.x.y", "a\0b:c", "json:a\0b", "..:x", ".:x", "/:x", "/dev/null:x"],
    *["a b", "x" * 300 + ".py:A", "é:é", "json:dumps", "json:JSONDecoder", "gymnasium:Wrapper", "gymnasium:Env"],
    *["gymnasium.wrappers:ClipReward", "stable_baselines3:PPO", "stable_baselines3.common.callbacks:BaseCallback"],
    *["collections:OrderedDict", "builtins:object", "builtins:type", "builtins:int", "typing:Any", ".py:A", "\n:\n"],
    *["stable_baselines3.common.policies:BasePolicy", "torch.optim:SGD", "CartPole-v1", "CartPole-v0", "Blackjack-v1"],
    *[
        "Pendulum-v1",
        "Ant-v5",
        "Ant-v2",
        "phys2d/CartPole-v1",
        "a/b/c-v1",
        "no_such:X-v0",
        "json:X-v0",
        ":CartPole-v1",
    ],
]
NAMES = st.sampled_from([*HOSTILE_NAMES, *(name for kind in KINDS.values() for name in list_entry_points(kind))])
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(
        ["", " ", "\0", "\n", "\ud800", "\ufeff", "\u2028", "\x85", "\x1b[31m", "~", "null", "1e3", "auto"]
    ),
    st.sampled_from(
        ["x" * 5000, "é" * 300, "MlpPolicy", "CnnPolicy", "1_000", "0x1F", "<<", "=", "!!str x", "&a", "*a"]
    ),
    NAMES,
)
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.sampled_from([10**9, 10**12, 2**31, 2**32, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, -(10**400), 10**4299]),
    st.floats(),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 0.5, 1e-3, 1e300, 5e-324, 1.0, 2.0]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
COMPONENTS = st.one_of(
    st.fixed_dictionaries({"name": st.one_of(NAMES, SCALARS)}, optional={"params": st.dictionaries(TEXTS, SCALARS)}),
    st.sampled_from([{"name": "linear", "params": {"start": 1e-3}}, {"name": "linear", "params": {"strat": 1}}]),
)


def nest_list(depth: int) -> list[Any]:
    """Return a list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = st.one_of(
    SCALARS,
    COMPONENTS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
        max_leaves=8,
    ),
    st.integers(30, 60).map(nest_list),
    st.sampled_from([[64, 64], {"pi": [8], "vf": [8]}, [1, "episode"], [4, "step"], [*range(50)]]),
).map(copy.deepcopy)  # what is sampled is changed later


def list_parameter_names() -> list[str]:
    """Return the names of all parameters that a registered component has, and some others."""
    names = {"render_mode", "max_episode_steps", "disable_env_checker", "g", "self", "env", "policy_kwargs", "kwargs"}
    for kind in KINDS.values():
        for name in list_entry_points(kind):
            with suppress(ComponentError):  # its extra is not installed
                names |= {*read_signature(find(kind, name)).parameters}
    return sorted(names)


PARAMETERS = list_parameter_names()
KEYS = st.one_of(
    st.sampled_from(
        ["name", "params", "policy_params", "env", "extends", "wrappers", "callbacks", "n_envs", "seed", "id"]
    ),
    st.sampled_from(PARAMETERS),
    TEXTS,
)
BASES = st.one_of(
    st.sampled_from(
        [FILE, "loop.yaml", "absent.yaml", "", ".", "..", "/", "/dev/null", "/dev/zero", "a\0b", "x" * 5000]
    ),
    st.sampled_from(["list.yaml", "binary.yaml", "empty.yaml", "wrong.yaml", "notes.txt/x", "\ud800", *SHIPPED]),
    VALUES,
)


def list_slots(data: Any) -> list[tuple[Any, Any]]:
    """Return each container in plain data with each of its keys."""
    slots = []
    for _, value in yaml_document.walk(data):
        if isinstance(value, dict | list):
            slots += [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
    return slots


def make_typo(draw: st.DrawFn, text: str) -> str:
    """Return a misspelt word."""
    at = draw(st.integers(0, max(0, len(text) - 1)))
    return draw(st.sampled_from([text[:at] + text[at + 1 :], text[:at] + "_" + text[at:], text + "s", text.upper()]))


def mutate(draw: st.DrawFn, data: dict[str, Any]) -> None:
    """Change plain data in one place."""
    slots_of_data = list_slots(data)
    if not slots_of_data:
        return
    container, key = draw(st.sampled_from(slots_of_data))
    match draw(
        st.sampled_from(["delete", "rename", "replace", "replace", "name", "swap", "wrap", "add", "add", "extends"])
    ):
        case "delete":
            del container[key]
        case "rename" if isinstance(container, dict):
            renamed = make_typo(draw, key) if draw(st.booleans()) else draw(KEYS)
            container[renamed] = container.pop(key)
        case "name":
            components = [item for _, item in yaml_document.walk(data) if isinstance(item, dict) and "name" in item]
            draw(st.sampled_from(components or [data]))["name"] = draw(NAMES)
        case "swap":
            other, other_key = draw(st.sampled_from(slots_of_data))
            container[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(container[key])
        case "wrap":
            container[key] = draw(st.sampled_from([[container[key]], {"name": container[key]}, str(container[key])]))
        case "add":
            mappings = [item for _, item in yaml_document.walk(data) if isinstance(item, dict)]
            draw(st.sampled_from(mappings))[draw(KEYS)] = draw(VALUES)
        case "extends":
            data["extends"] = draw(BASES)
        case _:
            container[key] = draw(VALUES)


@st.composite
def mutated_data(draw: st.DrawFn) -> str:
    """A shipped config with some values, keys or subtrees changed."""
    data = copy.deepcopy(yaml_document.parse(SHIPPED[draw(st.sampled_from([*SHIPPED]))], "shipped").data)
    for _ in range(draw(st.integers(1, 4))):
        mutate(draw, data)
    return yaml_document.dump(data)


SNIPPETS = st.one_of(
    st.binary(max_size=6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(str.encode),
    st.sampled_from(
        [b"\t", b"\0", b"\r\n", b"\r", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"&a ", b"*a", b"<<: ", b"? ", b"- "]
    ),
    st.sampled_from(
        [b"!!python/object:os.system ", b"!x ", b"!<%ff> ", b"%YAML 9.9\n", b"%TAG ! a\n", b"---\n", b"...\n", b"|\n"]
    ),
    st.sampled_from(
        [rb'"\UFFFFFFFF"', rb'"\xZZ"', rb'"\ud800"', b"[", b"{", b"]", b"}", b": ", b"'", b'"', b"#", b"9" * 5000]
    ),
    st.sampled_from(
        [b"seed: 1\n", b"? [a]\n: b\n", b"1: 2\n", b"\n", b"0o777", b"0x" + b"f" * 5000, b"[" * 50, b"\xe2\x80\xa8"]
    ),
)


@st.composite
def mutated_text(draw: st.DrawFn) -> bytes:
    """A shipped config with bytes inserted, removed or repeated, or its end cut off."""
    content = SHIPPED[draw(st.sampled_from([*SHIPPED]))].encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 10)))
        lines = content.splitlines(keepends=True) or [b""]
        match draw(st.sampled_from(["insert", "replace", "delete", "truncate", "repeat", "endings"])):
            case "insert":
                content = content[:start] + draw(SNIPPETS) + content[start:]
            case "replace":
                content = content[:start] + draw(SNIPPETS) + content[end:]
            case "delete":
                content = content[:start] + content[end:]
            case "truncate":
                content = content[:start]
            case "repeat":
                line = draw(st.integers(0, len(lines) - 1))
                content = b"".join([*lines[: line + 1], *lines[line:]])
            case "endings":
                content = content.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n"])))
    return content


@st.composite
def overrides(draw: st.DrawFn, data: Any) -> str:
    """An override that fits the config, or nearly, or not at all."""
    paths = [path for path, _ in yaml_document.walk(data) if path]
    keys = list(map(str, draw(st.sampled_from(paths))))
    match draw(st.sampled_from(["as it is", "typo", "index", "deeper", "shorter", "text", "very deep"])):
        case "typo":
            keys[-1] = make_typo(draw, keys[-1])
        case "index":
            at = draw(st.integers(0, len(keys) - 1))
            keys[at] = draw(
                st.sampled_from(["0", "1", "7", "-1", "", "٣", "²", "1_0", "0x0", "9" * 30, "0" * 5000, "1.5"])
            )
        case "deeper":
            keys += draw(st.lists(KEYS, min_size=1, max_size=3))
        case "shorter":
            keys.pop()
        case "text":
            keys = [draw(TEXTS)]
        case "very deep":
            keys += ["a"] * draw(st.sampled_from([36, 39, 40, 41, 2000]))
    value = yaml_document.dump(draw(VALUES)).removesuffix("...\n").strip() if draw(st.booleans()) else draw(TEXTS)
    return ".".join(keys) + draw(st.sampled_from(["=", "=", "=", "=", "", " = ", "=="])) + value


class Overridden(NamedTuple):
    """A shipped config and its overrides."""

    name: str
    overrides: list[str]


@st.composite
def overridden(draw: st.DrawFn) -> Overridden:
    """A shipped config with a few overrides."""
    name = draw(st.sampled_from([*SHIPPED]))
    data = yaml_document.parse(SHIPPED[name], name).data
    return Overridden(name, draw(st.lists(overrides(data), min_size=1, max_size=3)))


# --- outcomes -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _files(working_directory: Path) -> None:
    """Put the shipped configs, and what a config might extend by mistake, into the working directory."""
    for name, text in SHIPPED.items():
        Path(name).write_text(text)
    Path("loop.yaml").write_text(f"extends: {FILE}\n")
    Path("list.yaml").write_text("- 1\n")
    Path("empty.yaml").write_text("")
    Path("wrong.yaml").write_text("timestep: 1\n")
    Path("binary.yaml").write_bytes(bytes(range(256)))
    Path("notes.txt").write_text("x")


def read_files() -> dict[str, bytes]:
    """Return every file in the working directory."""
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def check_outcome(path: str, overrides: Sequence[str] = (), *, build: bool = False) -> RunConfig | ConfigError:
    """Load a config, build it if asked to, and check what holds for every outcome."""
    before = read_files()
    output = io.StringIO()
    result: RunConfig | ConfigError
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(output), redirect_stderr(output):
        warnings.simplefilter("always")
        try:
            result = load_config(path, overrides)
        except ConfigError as error:
            result = error
    assert output.getvalue() == ""
    assert [str(warning.message) for warning in caught] == []
    if build and isinstance(result, RunConfig):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SB3 has views on what it is given
                dry_run(result)
        except ConfigError as error:
            result = error
    assert read_files() == before
    if isinstance(result, ConfigError):
        assert_has_locations(result)
    else:
        assert_reads_back(result)
    return result


def assert_has_locations(error: ConfigError) -> None:
    """Check that each problem has one readable line, which starts with its location and dotted path."""
    lines = str(error).split("\n")
    if len(error.problems) > 50:
        assert lines.pop() == f"and {len(error.problems) - 50} more"
    assert len(lines) == len(error.problems[:50]) > 0
    for line, problem in zip(lines, error.problems, strict=False):
        assert line.isprintable(), line
        assert len(line) < 1500, line
        assert LOCATION.match(line), line
        dotted = ".".join(map(str, problem.path))
        assert not dotted or f": {dotted}: " in line or not dotted.isprintable() or len(dotted) > 500


def assert_reads_back(config: RunConfig) -> None:
    """Check that a resolved config is the same config."""
    Path("resolved.yaml").write_text(config.to_yaml(), encoding="utf-8")
    try:
        assert load_config("resolved.yaml") == config
        assert load_config("resolved.yaml").to_yaml() == config.to_yaml()
    finally:
        Path("resolved.yaml").unlink()


def replace_text(old: str, new: str) -> str:
    """Return the small config with some text replaced."""
    assert old in SMALL_CONFIG
    return SMALL_CONFIG.replace(old, new, 1)


@given(mutated_data())
@example('"a\\nb": 1\n' + SMALL_CONFIG)  # a key that would end the line of its message
@example('"\\e[31m": 1\n' + SMALL_CONFIG)  # one that would turn the terminal red
@example(f"{'x' * 5000}: 1\n" + SMALL_CONFIG)  # one that would fill the screen
@example(replace_text("timesteps: 300", f"timesteps: {'x' * 5000}"))
@example(replace_text("timesteps: 300", "timesteps: 1e300"))
@example("".join(f"k{n}: 1\n" for n in range(1000)) + SMALL_CONFIG)
@example(replace_text("learning_rate: 1e-3", "gamma: .nan"))  # is not equal to itself
@example(replace_text("terminal_reward_clip", '"math:pi.x.y"'))  # what has no attributes at all
@example(replace_text("CartPole-v1", '"a\\0b:c"'))
@example(replace_text("id: CartPole-v1", "seed: 1").replace("name: terminal_reward_clip", "nam: x"))
@example("extends: .\n" + SMALL_CONFIG)
@example("extends: empty.yaml\n" + SMALL_CONFIG)
@example("extends: loop.yaml\n" + SMALL_CONFIG)
@examples(100)
def test_mutated_data_is_valid_or_refused_with_location(text: str) -> None:
    Path(FILE).write_text(text, encoding="utf-8")
    check_outcome(FILE)


@given(mutated_text())
@example(rb'a: "\UFFFFFFFF"')  # an escape of no character
@example(rb'name: "\ud800"')  # an escape of half a character
@example(rb'"\ud800": 1')
@example(b"%YAML 1." + b"9" * 5000 + b"\n---\na: 1\n")
@example(b"a: 1\na: 2\na: 3\n")
@example(b"a: 1\nb: \xff\n")
@example(b"a: 1\nb: \0\n")
@example(SMALL_CONFIG.encode().replace(b"\n", b"\r\n"))
@example(b"\xef\xbb\xbf" + SMALL_CONFIG.encode())
@examples(100)
def test_mutated_text_is_valid_or_refused_with_location(content: bytes) -> None:
    Path(FILE).write_bytes(content)
    check_outcome(FILE)


@given(overridden())
@example(Overridden("small.yaml", ["a." * 2000 + "a=1"]))
@example(Overridden("small.yaml", [f"env.wrappers.{'0' * 5000}=clip_reward"]))
@example(Overridden("small.yaml", ["\ud800.a=1"]))  # what an argument of other bytes than UTF-8 becomes
@example(Overridden("small.yaml", ["timesteps=1\n..."]))
@example(Overridden("small.yaml", [f"timesteps={'x' * 5000}"]))
@example(Overridden("small.yaml", ['timesteps="\\UFFFFFFFF"']))
@example(Overridden("small.yaml", ["env.n_envs=1000000000"]))
@examples(100)
def test_any_overrides_are_valid_or_refused_with_location(config: Overridden) -> None:
    check_outcome(config.name, config.overrides)


# --- built, and through the command ---------------------------------------------------------------------------------

# No number between these: what fits into some machines' memory takes long to fill
SIZES = st.sampled_from([-1, 0, 1, 2, 7, 100, 10**12, 10**15, 2**63 - 1, 10**30, 0.5, 1.0, float("nan"), float("inf")])
BUILT_VALUES = st.one_of(
    SIZES,
    st.none(),
    st.booleans(),
    st.sampled_from(["", "auto", "mean", "cpu", "no such", *HOSTILE_NAMES]),
    st.lists(SIZES, max_size=3),
    st.dictionaries(st.sampled_from(["pi", "vf", "qf", "name", "params", "eps"]), SIZES | st.lists(SIZES, max_size=2)),
    st.sampled_from([{"name": "linear", "params": {"start": 1e-3}}, {"name": "constant", "params": {"val": "x"}}]),
)
# As many objects as these say are made one by one: nobody could tell that from a build that is only slow
POLICY_PARAMETERS = [
    "net_arch",
    "activation_fn",
    "features_extractor_class",
    "n_critics",
    "optimizer_kwargs",
    "ortho_init",
]
ONE_BY_ONE = {"n_critics", "n_quantiles", "n_lstm_layers", "n_delta"}


@st.composite
def set_parameters(draw: st.DrawFn) -> Overridden:
    """A shipped config with values of its components' own parameters that are too large or of a wrong type."""
    name = draw(st.sampled_from([*SHIPPED]))
    config = load_config(name).model_dump(mode="json")
    algorithm = config["algorithm"]["name"]
    own_paths = [
        *(f"algorithm.params.{key}" for key in read_signature(find(KINDS["algorithms"], algorithm)).parameters),
        *(f"algorithm.policy_params.{key}" for key in POLICY_PARAMETERS),
        *(
            f"env.wrappers.{n}.params.{key}"
            for n, wrapper in enumerate(config["env"]["wrappers"])
            for key in wrapper["params"]
        ),
        *(
            f"callbacks.{n}.params.{key}"
            for n, callback in enumerate(config["callbacks"])
            for key in callback["params"]
        ),
        *["env.n_envs", "timesteps", "env.max_episode_steps", "seed", "env.params.render_mode"],
    ]
    sets = []
    for path in draw(st.lists(st.sampled_from(own_paths), min_size=1, max_size=2, unique=True)):
        value = draw(SIZES.filter(lambda size: size < 1000) if path.split(".")[-1] in ONE_BY_ONE else BUILT_VALUES)
        sets.append(f"{path}={yaml_document.dump(value).strip()}")
    return Overridden(name, sets)


@given(set_parameters())
@example(Overridden("small.yaml", ["algorithm.params.buffer_size=1_000_000_000_000"]))
@example(Overridden("small.yaml", ["algorithm.policy_params.net_arch=[1_000_000, 1_000_000]"]))
@example(Overridden("small.yaml", ["algorithm.policy_params.net_arch=[1_000_000_000_000_000_000_000_000]"]))
@example(Overridden("cartpole_ppo.yaml", ["algorithm.params.n_steps=1_000_000_000_000"]))
@example(Overridden("cartpole_ppo.yaml", ["algorithm.params.n_steps=-5"]))
@example(Overridden("small.yaml", ["env.id=Blackjack-v1"]))
@examples(25, share=0.05)
def test_any_params_are_built_or_refused_with_location(config: Overridden) -> None:
    check_outcome(config.name, config.overrides, build=True)


def run_command(*arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit status, and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", ["toolkit", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
    return exited.value.code or 0, out.getvalue(), err.getvalue()  # type: ignore[return-value]


@given(st.one_of(set_parameters(), overridden()))
@examples(12, share=0.03)
def test_check_command_prints_config_or_problems_only(config: Overridden) -> None:
    before = read_files()
    status, out, err = run_command(
        "check", config.name, *(word for override in config.overrides for word in ("--set", override))
    )
    if status == 0:
        assert yaml_document.parse(out, "out").data
        assert err == ""
    else:
        assert status == 2
        assert out == ""
        assert all(LOCATION.match(line) for line in err.splitlines())
    assert read_files() == before
