"""The run config: its keys, `extends`, overrides, and its YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from support import SMALL_CONFIG

from toolkit.config.load import load_config
from toolkit.config.schema import RunConfig
from toolkit.utils.errors import ConfigError

MINIMAL = """\
timesteps: 10
env: {id: CartPole-v1}
algorithm: {name: double_dqn}
"""


CIRCULAR_LIST: list[object] = []
CIRCULAR_LIST.append(CIRCULAR_LIST)


def write_config(text: str, name: str = "run.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load_text(text: str, *overrides: str) -> RunConfig:
    return load_config(write_config(text), overrides)


def list_problems(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    return str(raised.value).splitlines()


# --- one file -------------------------------------------------------------------------------------------------------


def test_minimal_config_has_defaults() -> None:
    assert load_text(MINIMAL).model_dump() == {
        "name": "run",
        "seed": 0,
        "timesteps": 10,
        "import_modules": (),
        "env": {
            "id": "CartPole-v1",
            "max_episode_steps": None,
            "params": {},
            "reset_options": {},
            "n_envs": 1,
            "vec_env": "dummy",
            "step_timeout": None,
            "base_wrappers": (),
            "wrappers": (),
            "info_keywords": (),
            "vec_wrappers": (),
        },
        "algorithm": {
            **{"name": "double_dqn", "policy": "MlpPolicy", "params": {}, "policy_params": {}},
            "accelerate": True,
        },
        "start_from": None,
        "callbacks": (),
        "snapshots": {"every_timesteps": None, "every_minutes": 10.0, "keep": 2},
    }


def test_component_without_params_can_be_bare_name() -> None:
    text = MINIMAL.replace("{name: double_dqn}", "double_dqn") + "callbacks: [progress]\n"
    config = load_text(text.replace("{id: CartPole-v1}", "{id: CartPole-v1, wrappers: [angle_penalty]}"))
    assert config.algorithm.name == "double_dqn"
    assert [wrapper.name for wrapper in config.env.wrappers] == ["angle_penalty"]
    assert [callback.name for callback in config.callbacks] == ["progress"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("cartpole.yaml", "cartpole"),
        ("a/b/x.v2.yml", "x.v2"),
        ("my run (2).yaml", "my-run-2"),
        ("倒立振子.yaml", "倒立振子"),
        ("x².yaml", "x"),
        ("-.yaml", "run"),
        (f"{'x' * 200}.yaml", "x" * 100),
    ],
)
def test_run_name_defaults_to_file_stem(file: str, name: str) -> None:
    assert load_config(write_config(MINIMAL, file)).name == name


def test_name_key_overrides_file_stem() -> None:
    assert load_text(MINIMAL + "name: other\n").name == "other"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "''", "a b", '"a\\n"', "x" * 101])
def test_name_must_be_valid_directory_name(name: str) -> None:
    assert list_problems(write_config(f"{MINIMAL}name: {name}\n"))[0].startswith("run.yaml:4: name: ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10**5000, "is too long a number"),
        ({1: 2}, "a key must be text"),
        ("\ud800", "is not text"),
        (CIRCULAR_LIST, "is nested more than 40 levels deep"),
        ({1, 2}, "a set cannot stand in a config"),
        (np.array([1j]), "a complex cannot stand in a config"),
    ],
    ids=["a long number", "a key", "half a character", "a list in itself", "a set", "complex numbers"],
)
def test_python_value_that_yaml_cannot_hold_is_refused(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(write_config(MINIMAL), {"env.params": value})
    assert str(raised.value).startswith("env.params=")
    assert f": {message}" in str(raised.value)


def test_configs_with_same_nan_are_equal() -> None:
    nan, other = (load_text(MINIMAL, f"algorithm.params.gamma={value}") for value in (".nan", "1.0"))
    assert nan == load_text(MINIMAL, "algorithm.params.gamma=.nan")
    assert nan != other


def test_config_is_frozen() -> None:
    config = load_text(SMALL_CONFIG)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.env.n_envs = 1  # type: ignore[misc]


def test_timesteps_accepts_whole_float() -> None:
    assert load_text(MINIMAL.replace("10", "1e3")).timesteps == 1000


# --- written back ---------------------------------------------------------------------------------------------------

ROUND_TRIPS = {
    "the small config": (SMALL_CONFIG, []),
    "defaults": (MINIMAL, []),
    "a schedule": (MINIMAL, ["algorithm.params.learning_rate={name: linear, params: {start: 1e-3}}"]),
    "text that looks like something else": (
        MINIMAL,
        ["algorithm.params.replay_buffer_kwargs={'1e-3': '1e-3', 'on': 'null', '0x1': 'two\n\n lines', 'é': '世界'}"],
    ),
    "numbers": (MINIMAL, ["algorithm.params.replay_buffer_kwargs={a: 1e20, b: 1e-300, c: -0.0, d: 1.0, e: [1, 1.0]}"]),
    "infinity": (MINIMAL, ["algorithm.params.replay_buffer_kwargs={a: .inf, b: [-.inf]}"]),
    "a criterion that is never met": (SMALL_CONFIG, ["callbacks.0.params.threshold=.inf"]),
}


@pytest.mark.parametrize(("text", "overrides"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_written_config_reads_back_with_same_content(text: str, overrides: list[str]) -> None:
    config = load_text(text, *overrides)
    read_back = load_config(write_config(config.to_yaml(), "resolved.yaml"))
    assert read_back.model_dump() == config.model_dump()
    assert str(read_back.model_dump()) == str(config.model_dump())


def test_override_nested_too_deep_is_refused() -> None:
    override = f"algorithm.params.replay_buffer_kwargs.a={'[' * 39}{']' * 39}"
    assert "is nested more than 40 levels deep" in list_problems(write_config(MINIMAL), [override])[0]


def test_written_config_equals_original() -> None:
    config = load_text(SMALL_CONFIG)
    assert load_config(write_config(config.to_yaml(), "resolved.yaml")) == config


def test_written_config_is_stable() -> None:
    text = load_text(SMALL_CONFIG).to_yaml()
    assert load_config(write_config(text, "resolved.yaml")).to_yaml() == text


# --- extends --------------------------------------------------------------------------------------------------------


def test_extends_merges_mappings_and_replaces_lists_and_scalars() -> None:
    write_config(SMALL_CONFIG, "base.yaml")
    config = load_text("""\
extends: base.yaml
timesteps: 20
env:
  n_envs: 1
  wrappers: [angle_penalty]
algorithm:
  params: {gamma: 0.9}
  policy_params: {net_arch: [8]}
""")
    assert (config.name, config.timesteps) == ("run", 20)
    assert (config.env.id, config.env.n_envs, config.env.max_episode_steps) == ("CartPole-v1", 1, 200)
    assert [(wrapper.name, wrapper.params) for wrapper in config.env.wrappers] == [("angle_penalty", {})]
    assert (config.algorithm.params["gamma"], config.algorithm.params["buffer_size"]) == (0.9, 1000)
    assert config.algorithm.policy_params == {"net_arch": [8]}
    assert [callback.name for callback in config.callbacks] == ["success"]


def test_extends_chain_lets_last_file_win() -> None:
    write_config(MINIMAL + "seed: 1\n", "a.yaml")
    write_config("extends: a.yaml\nseed: 2\nalgorithm: {params: {gamma: 0.5}}\n", "b.yaml")
    config = load_text("extends: b.yaml\nseed: 3\n")
    assert (config.seed, config.timesteps, config.algorithm.params) == (3, 10, {"gamma": 0.5})


def test_extends_is_relative_to_its_file() -> None:
    write_config(MINIMAL, "shared/base.yaml")
    write_config("extends: ../shared/base.yaml\nseed: 4\n", "experiments/middle.yaml")
    assert load_config(write_config("extends: middle.yaml\n", "experiments/run.yaml")).seed == 4


def test_extends_accepts_absolute_path(tmp_path: Path) -> None:
    base = write_config(MINIMAL, str(tmp_path / "elsewhere" / "base.yaml"))
    assert load_text(f"extends: {base}\nseed: 5\n").timesteps == 10


def test_circular_extends_is_refused_with_all_files() -> None:
    write_config("extends: run.yaml\n", "other.yaml")
    (message,) = list_problems(write_config("extends: other.yaml\n"))
    assert message.startswith("other.yaml:1: extends: is circular: ")
    assert message.count("run.yaml") == 2


def test_long_extends_chain_is_refused() -> None:
    write_config(MINIMAL, "0.yaml")
    for number in range(1, 1000):
        write_config(f"extends: {number - 1}.yaml\n", f"{number}.yaml")
    (message,) = list_problems(Path("999.yaml"))
    assert message == "959.yaml:1: extends: follows 41 files that extend one another"
    assert load_config("40.yaml").timesteps == 10


def test_file_that_extends_itself_is_refused() -> None:
    (message,) = list_problems(write_config("timesteps: 1\nextends: ./run.yaml\n"))
    assert message.startswith("run.yaml:2: extends: is circular: ")


@pytest.mark.parametrize(
    ("value", "message_part"),
    [
        ("absent.yaml", "file absent.yaml does not exist"),
        ("[a.yaml, b.yaml]", "must be the path of one file"),
        ("1", "must be the path of one file"),
        ("null", "must be the path of one file"),
        ("x" * 300, "xxx"),
        ('"a\\0b.yaml"', "does not exist"),
    ],
)
def test_invalid_extends_value_is_refused(value: str, message_part: str) -> None:
    (message,) = list_problems(write_config(f"{MINIMAL}extends: {value}\n"))
    assert message.startswith("run.yaml:4: extends: ")
    assert message_part in message


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "text\n", "5\n"])
def test_extended_file_must_be_mapping(content: str) -> None:
    write_config(content, "base.yaml")
    (message,) = list_problems(write_config(f"extends: base.yaml\n{MINIMAL}"))
    assert message.startswith("base.yaml:1: ")
    assert "must be a mapping" in message


def test_problem_is_located_in_its_own_file() -> None:
    write_config(MINIMAL + "seed: x\n", "base.yaml")
    path = write_config("extends: base.yaml\ncallbacks:\n  - sucess\nenv:\n  n_envs: 0\n")
    assert [line.split(" ")[:2] for line in list_problems(path)] == [
        ["base.yaml:4:", "seed:"],
        ["run.yaml:3:", "callbacks.0.name:"],
        ["run.yaml:5:", "env.n_envs:"],
    ]


def test_problem_of_replaced_value_is_located_in_extending_file() -> None:
    write_config(MINIMAL + "callbacks:\n  - progress\n  - progress\n", "base.yaml")
    path = write_config("extends: base.yaml\ncallbacks:\n  - progress\n  - progess\nalgorithm: {params: {gama: 1}}\n")
    assert [line.split(" ")[:2] for line in list_problems(path)] == [
        ["run.yaml:4:", "callbacks.1.name:"],
        ["run.yaml:5:", "algorithm.params.gama:"],
    ]


# --- --set ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("timesteps=50_000", ("timesteps",), 50_000),
        ("name=other", ("name",), "other"),
        ("algorithm.params.learning_rate=5e-4", ("algorithm", "params", "learning_rate"), 5e-4),
        ("algorithm.params.double=false", ("algorithm", "params", "double"), False),
        ("algorithm.params={}", ("algorithm", "params"), {}),
        ("algorithm.policy_params.net_arch=[8, 8]", ("algorithm", "policy_params", "net_arch"), [8, 8]),
        ("algorithm.policy_params.net_arch.1=8", ("algorithm", "policy_params", "net_arch"), [16, 8]),
        ("env.params.sutton_barto_reward=true", ("env", "params"), {"sutton_barto_reward": True}),
        ("env.max_episode_steps=", ("env", "max_episode_steps"), None),
        ("env.wrappers.0.params.success_steps=5", ("env", "wrappers", 0, "params"), {"success_steps": 5}),
        ("env.wrappers.0=angle_penalty", ("env", "wrappers", 0), {"name": "angle_penalty", "params": {}}),
        ("callbacks=[]", ("callbacks",), ()),
        (
            "callbacks.0.params={threshold: 1, episodes: 1}",
            ("callbacks", 0, "params"),
            {"threshold": 1, "episodes": 1},
        ),
    ],
)
def test_set_replaces_value_at_dotted_path(override: str, path: tuple[str | int, ...], value: object) -> None:
    actual = load_text(SMALL_CONFIG, override).model_dump()
    for key in path:
        actual = actual[key]
    assert actual == value
    assert type(actual) is type(value)


def test_set_reaches_params_of_component_with_bare_name() -> None:
    bare = "timesteps: 10\nenv: {id: CartPole-v1, wrappers: [angle_penalty]}\nalgorithm: double_dqn\n"
    config = load_text(bare, "env.wrappers.0.params.scale=3.0", "algorithm.params.gamma=0.9")
    assert (config.env.wrappers[0].name, config.env.wrappers[0].params) == ("angle_penalty", {"scale": 3.0})
    assert (config.algorithm.name, config.algorithm.params) == ("double_dqn", {"gamma": 0.9})
    assert load_text(bare, "env.wrappers.0.name=clip_reward").env.wrappers[0].name == "clip_reward"


def test_set_with_other_wrapper_name_drops_params() -> None:
    config = load_text(SMALL_CONFIG, "env.wrappers.0.name=graded_terminal_reward")
    assert config.env.wrappers[0].params == {}


def test_set_with_same_wrapper_name_keeps_params() -> None:
    config = load_text(SMALL_CONFIG, "env.wrappers.0.name=terminal_reward_clip")
    assert config.env.wrappers[0].params == {"success_steps": 195}


def test_set_accepts_params_after_new_wrapper_name() -> None:
    config = load_text(SMALL_CONFIG, "env.wrappers.0.name=graded_terminal_reward", "env.wrappers.0.params.midpoint=49")
    assert config.env.wrappers[0].params == {"midpoint": 49}


def test_set_with_other_algorithm_name_keeps_params() -> None:
    config = load_text(MINIMAL, "algorithm.params.gamma=0.9", "algorithm.name=dqn")
    assert (config.algorithm.name, config.algorithm.params) == ("dqn", {"gamma": 0.9})


def test_later_set_wins_over_file_and_earlier_set() -> None:
    write_config(MINIMAL + "seed: 1\n", "base.yaml")
    assert load_text("extends: base.yaml\nseed: 2\n", "seed=3", "seed=4").seed == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "must have the form dotted.path=value"),
        ("=5", "must have the form dotted.path=value"),
        ("", "must have the form dotted.path=value"),
        ("seed=[1", "is not valid YAML"),
        ("seed=!!int 5", "tags are not read"),
        ("seed=&a 5", "anchors and aliases are not read"),
        ("seed=-1", "seed: should be greater than or equal to 0, not -1"),
        ("seed=4294967296", "seed: should be less than 4294967296"),
        ("seed='1'", "seed: should be a whole number, not '1'"),
        ("timesteps=true", "timesteps: should be a whole number, not True"),
        ("timesteps=0", "timesteps: should be greater than or equal to 1"),
        ("timesteps=.nan", "timesteps: should be"),
        ("sed=5", "sed: unknown key; did you mean 'seed'?"),
        ("timestep=5", "timestep: unknown key; did you mean 'timesteps'?"),
        ("algorithm.params.learning_rat=1", "unknown parameter; did you mean 'learning_rate'?"),
        ("env=CartPole-v1", "env: should be a mapping, not 'CartPole-v1'"),
        ("env.wrappers.1=clip_reward", "env.wrappers.1: env.wrappers is a list of 1; its entries are numbered from 0"),
        ("env.wrappers.-1=clip_reward", "env.wrappers is a list of 1; its entries are numbered from 0"),
        ("env.wrappers.x=clip_reward", "env.wrappers is a list of 1; its entries are numbered from 0"),
        ("env.wrappers.².name=clip_reward", "env.wrappers is a list of 1; its entries are numbered from 0"),
        ("timesteps.x=5", "timesteps is 300 and has no keys"),
        ("algorithm.params.gamma.x=5", "algorithm.params.gamma: should be float, not {'x': 5}"),
        ("algorithm.policy_params.net_arch.0.x=5", "algorithm.policy_params.net_arch.0 is 16 and has no keys"),
        ("callbacks={name: success}", "callbacks: should be a list, not {'name': 'success'}"),
        ("callbacks.0.params=[1]", "callbacks.0.params: should be a mapping, not [1]"),
        ("env.pramas.render=1", "env.pramas: unknown key; did you mean 'params'?"),
        ("algorithm.parms.gamma=1", "algorithm.parms: unknown key; did you mean 'params'?"),
        ("env.params.0=1", "env.params.0"),
        ("0=1", "0: "),
    ],
)
def test_invalid_set_is_reported_with_its_text(override: str, message: str) -> None:
    lines = list_problems(write_config(SMALL_CONFIG), [override])
    assert len(lines) == 1
    assert lines[0].startswith(f"--set {override}:")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("env.wrappers.0.params.midpoint=49", "env.wrappers.0.name=graded_terminal_reward"),
        ("env.n_envs=2", "env={id: CartPole-v1}"),
    ],
)
def test_set_that_discards_earlier_set_is_refused(earlier: str, later: str) -> None:
    (line,) = list_problems(write_config(SMALL_CONFIG), [earlier, later])
    assert line == f"--set {later}: discards the earlier override of {earlier.partition('=')[0]}; give it first"
    load_text(SMALL_CONFIG, later, earlier)


def test_file_in_set_is_relative_to_working_directory(tmp_path: Path) -> None:
    write_config("import gymnasium\nclass Mine(gymnasium.Wrapper):\n    pass\n", "mine.py")
    path = write_config(SMALL_CONFIG, str(tmp_path / "elsewhere" / "run.yaml"))
    config = load_config(path, ["env.wrappers.0=./mine.py:Mine"])
    assert config.env.wrappers[0].name == f"{Path.cwd()}/mine.py:Mine"


# --- problems -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "sed: 1\n", "run.yaml:4: sed: unknown key; did you mean 'seed'?"),
        (MINIMAL + "timestep: 1\n", "run.yaml:4: timestep: unknown key"),
        (MINIMAL.replace("id:", "idd:"), "run.yaml:2: env.idd: unknown key; did you mean 'id'?"),
        (MINIMAL.replace("timesteps: 10\n", ""), "run.yaml:1: timesteps: required key is missing"),
        (MINIMAL.replace("{id: CartPole-v1}", "{}"), "run.yaml:2: env.id: required key is missing"),
        (MINIMAL + "callbacks:\n  - {nme: progress, name: progress}\n", "run.yaml:5: callbacks.0.nme: unknown key"),
        (MINIMAL + "callbacks:\n  - params: {}\n", "run.yaml:5: callbacks.0.name: required key is missing"),
        (MINIMAL + "callbacks: progress\n", "run.yaml:4: callbacks: should be a list, not 'progress'"),
        (
            MINIMAL.replace("{id: CartPole-v1}", "CartPole-v1"),
            "run.yaml:2: env: should be a mapping, not 'CartPole-v1'",
        ),
        (MINIMAL.replace("10", "ten"), "run.yaml:1: timesteps: should be a whole number, not 'ten'"),
        (MINIMAL.replace("10", "10.5"), "run.yaml:1: timesteps: should be a valid integer"),
        (MINIMAL.replace("double_dqn", "''"), "run.yaml:3: algorithm.name: "),
        ("- 1\n", "run.yaml:1: must be a mapping of keys to values"),
        ("", "run.yaml: is empty; write at least timesteps, env.id and algorithm.name"),
    ],
)
def test_problem_has_file_line_and_dotted_path(text: str, message: str) -> None:
    assert any(line.startswith(message) for line in list_problems(write_config(text)))


def test_all_problems_are_reported_in_file_order() -> None:
    path = write_config("""\
callbacks:
  - sucess
  - name: success
    params: {threshold: high}
algorithm:
  params: {gama: 0.9, batch_size: 1.5}
  name: double_dqn
  policy: MlpPolcy
  polcy_params: {}
env:
  n_envs: zero
  id: CartPol-v1
timesteps: -5
sed: 3
""")
    assert [line.split(" ")[:2] for line in list_problems(path)] == [
        ["run.yaml:2:", "callbacks.0.name:"],
        ["run.yaml:4:", "callbacks.1.params.threshold:"],
        ["run.yaml:6:", "algorithm.params.gama:"],
        ["run.yaml:6:", "algorithm.params.batch_size:"],
        ["run.yaml:8:", "algorithm.policy:"],
        ["run.yaml:9:", "algorithm.polcy_params:"],
        ["run.yaml:11:", "env.n_envs:"],
        ["run.yaml:12:", "env.id:"],
        ["run.yaml:13:", "timesteps:"],
        ["run.yaml:14:", "sed:"],
    ]
