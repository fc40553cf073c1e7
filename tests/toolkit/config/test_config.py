"""A run config: what a file may say, extended, overridden, and written back."""

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


ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)


def written(text: str, name: str = "run.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(text: str, *overrides: str) -> RunConfig:
    return load_config(written(text), overrides)


def problems_of(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    return str(raised.value).splitlines()


# --- one file -------------------------------------------------------------------------------------------------------


def test_what_a_minimal_config_leaves_out_has_defaults() -> None:
    assert load(MINIMAL).model_dump() == {
        "name": "run",
        "seed": 0,
        "timesteps": 10,
        "import_modules": (),
        "env": {
            "id": "CartPole-v1",
            "max_episode_steps": None,
            "params": {},
            "n_envs": 1,
            "vec_env": "dummy",
            "step_timeout": None,
            "wrappers": (),
            "vec_wrappers": (),
        },
        "algorithm": {"name": "double_dqn", "policy": "MlpPolicy", "params": {}, "policy_params": {}},
        "callbacks": (),
        "snapshots": {"every_timesteps": None, "every_minutes": 10.0, "keep": 2},
    }


def test_a_component_without_parameters_is_a_bare_name() -> None:
    text = MINIMAL.replace("{name: double_dqn}", "double_dqn") + "callbacks: [progress]\n"
    config = load(text.replace("{id: CartPole-v1}", "{id: CartPole-v1, wrappers: [angle_penalty]}"))
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
def test_a_run_is_named_after_its_file(file: str, name: str) -> None:
    assert load_config(written(MINIMAL, file)).name == name


def test_a_run_can_be_named_otherwise_than_its_file() -> None:
    assert load(MINIMAL + "name: other\n").name == "other"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "''", "a b", '"a\\n"', "x" * 101])
def test_a_name_that_would_be_no_plain_directory_is_refused(name: str) -> None:
    assert problems_of(written(f"{MINIMAL}name: {name}\n"))[0].startswith("run.yaml:4: name: ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10**5000, "is too long a number"),
        ({1: 2}, "a key must be text"),
        ("\ud800", "is not text"),
        (ENDLESS, "is nested more than 40 levels deep"),
        ({1, 2}, "a set cannot stand in a config"),
        (np.array([1j]), "a complex cannot stand in a config"),
    ],
    ids=["a long number", "a key", "half a character", "a list in itself", "a set", "complex numbers"],
)
def test_a_python_value_that_a_file_could_not_hold_is_refused_with_its_key(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(written(MINIMAL), {"env.params": value})
    assert str(raised.value).startswith("env.params=")
    assert f": {message}" in str(raised.value)


def test_configs_with_a_number_that_is_none_are_equal_if_it_stands_in_the_same_place() -> None:
    nan, other = (load(MINIMAL, f"algorithm.params.gamma={value}") for value in (".nan", "1.0"))
    assert nan == load(MINIMAL, "algorithm.params.gamma=.nan")
    assert nan != other


def test_a_config_cannot_be_changed() -> None:
    config = load(SMALL_CONFIG)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.env.n_envs = 1  # type: ignore[misc]


def test_a_whole_float_is_a_number_of_timesteps() -> None:
    assert load(MINIMAL.replace("10", "1e3")).timesteps == 1000


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
def test_a_resolved_config_reads_back_with_the_same_content(text: str, overrides: list[str]) -> None:
    config = load(text, *overrides)
    read_back = load_config(written(config.to_yaml(), "resolved.yaml"))
    assert read_back.model_dump() == config.model_dump()
    assert str(read_back.model_dump()) == str(config.model_dump())


def test_a_config_that_set_nests_too_deep_to_be_read_back_is_refused() -> None:
    override = f"algorithm.params.replay_buffer_kwargs.a={'[' * 39}{']' * 39}"
    assert "is nested more than 40 levels deep" in problems_of(written(MINIMAL), [override])[0]


def test_a_resolved_config_equals_the_one_it_was_written_from() -> None:
    config = load(SMALL_CONFIG)
    assert load_config(written(config.to_yaml(), "resolved.yaml")) == config


def test_a_resolved_config_is_written_the_same_each_time() -> None:
    once = load(SMALL_CONFIG).to_yaml()
    assert load_config(written(once, "resolved.yaml")).to_yaml() == once


# --- extends --------------------------------------------------------------------------------------------------------


def test_an_extending_file_merges_mappings_and_replaces_lists_and_scalars() -> None:
    written(SMALL_CONFIG, "base.yaml")
    config = load("""\
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
    assert (config.algorithm.params["gamma"], config.algorithm.params["batch_size"]) == (0.9, 32)
    assert config.algorithm.policy_params == {"net_arch": [8]}
    assert [callback.name for callback in config.callbacks] == ["success"]


def test_a_file_extends_one_that_extends_another_and_the_last_word_counts() -> None:
    written(MINIMAL + "seed: 1\n", "a.yaml")
    written("extends: a.yaml\nseed: 2\nalgorithm: {params: {gamma: 0.5}}\n", "b.yaml")
    config = load("extends: b.yaml\nseed: 3\n")
    assert (config.seed, config.timesteps, config.algorithm.params) == (3, 10, {"gamma": 0.5})


def test_an_extended_file_is_looked_for_beside_the_file_that_names_it() -> None:
    written(MINIMAL, "shared/base.yaml")
    written("extends: ../shared/base.yaml\nseed: 4\n", "experiments/middle.yaml")
    assert load_config(written("extends: middle.yaml\n", "experiments/run.yaml")).seed == 4


def test_an_absolute_path_can_be_extended(tmp_path: Path) -> None:
    base = written(MINIMAL, str(tmp_path / "elsewhere" / "base.yaml"))
    assert load(f"extends: {base}\nseed: 5\n").timesteps == 10


def test_files_that_extend_each_other_are_refused_with_the_circle() -> None:
    written("extends: run.yaml\n", "other.yaml")
    (message,) = problems_of(written("extends: other.yaml\n"))
    assert message.startswith("other.yaml:1: extends: is circular: ")
    assert message.count("run.yaml") == 2


def test_files_that_extend_one_another_without_end_are_refused() -> None:
    written(MINIMAL, "0.yaml")
    for number in range(1, 1000):
        written(f"extends: {number - 1}.yaml\n", f"{number}.yaml")
    (message,) = problems_of(Path("999.yaml"))
    assert message == "959.yaml:1: extends: follows 41 files that extend one another"
    assert load_config("40.yaml").timesteps == 10


def test_a_file_that_extends_itself_is_refused() -> None:
    (message,) = problems_of(written("timesteps: 1\nextends: ./run.yaml\n"))
    assert message.startswith("run.yaml:2: extends: is circular: ")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("absent.yaml", "file absent.yaml does not exist"),
        ("[a.yaml, b.yaml]", "must be the path of one file"),
        ("1", "must be the path of one file"),
        ("null", "must be the path of one file"),
        ("x" * 300, "xxx"),
        ('"a\\0b.yaml"', "does not exist"),
    ],
)
def test_what_cannot_be_extended_is_refused(value: str, what: str) -> None:
    (message,) = problems_of(written(f"{MINIMAL}extends: {value}\n"))
    assert message.startswith("run.yaml:4: extends: ")
    assert what in message


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "text\n", "5\n"])
def test_a_file_that_is_no_mapping_cannot_be_extended(content: str) -> None:
    written(content, "base.yaml")
    (message,) = problems_of(written(f"extends: base.yaml\n{MINIMAL}"))
    assert message.startswith("base.yaml:1: ")
    assert "must be a mapping" in message


def test_a_problem_is_reported_in_the_file_that_has_it() -> None:
    written(MINIMAL + "seed: x\n", "base.yaml")
    path = written("extends: base.yaml\ncallbacks:\n  - sucess\nenv:\n  n_envs: 0\n")
    assert [line.split(" ")[:2] for line in problems_of(path)] == [
        ["base.yaml:4:", "seed:"],
        ["run.yaml:3:", "callbacks.0.name:"],
        ["run.yaml:5:", "env.n_envs:"],
    ]


def test_a_value_that_replaces_another_is_reported_where_it_stands() -> None:
    written(MINIMAL + "callbacks:\n  - progress\n  - progress\n", "base.yaml")
    path = written("extends: base.yaml\ncallbacks:\n  - progress\n  - progess\nalgorithm: {params: {gama: 1}}\n")
    assert [line.split(" ")[:2] for line in problems_of(path)] == [
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
def test_set_puts_a_yaml_value_at_a_dotted_path(override: str, path: tuple[str | int, ...], value: object) -> None:
    found = load(SMALL_CONFIG, override).model_dump()
    for key in path:
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_set_reaches_the_name_and_the_parameters_of_a_component_given_by_its_bare_name() -> None:
    bare = "timesteps: 10\nenv: {id: CartPole-v1, wrappers: [angle_penalty]}\nalgorithm: double_dqn\n"
    config = load(bare, "env.wrappers.0.params.scale=3.0", "algorithm.params.gamma=0.9")
    assert (config.env.wrappers[0].name, config.env.wrappers[0].params) == ("angle_penalty", {"scale": 3.0})
    assert (config.algorithm.name, config.algorithm.params) == ("double_dqn", {"gamma": 0.9})
    assert load(bare, "env.wrappers.0.name=clip_reward").env.wrappers[0].name == "clip_reward"


def test_naming_another_wrapper_drops_the_parameters_of_the_one_that_stood_there() -> None:
    config = load(SMALL_CONFIG, "env.wrappers.0.name=graded_terminal_reward")
    assert config.env.wrappers[0].params == {}


def test_naming_the_same_wrapper_keeps_its_parameters() -> None:
    config = load(SMALL_CONFIG, "env.wrappers.0.name=terminal_reward_clip")
    assert config.env.wrappers[0].params == {"success_steps": 195}


def test_a_wrapper_named_by_set_takes_parameters_set_after_it() -> None:
    config = load(SMALL_CONFIG, "env.wrappers.0.name=graded_terminal_reward", "env.wrappers.0.params.midpoint=49")
    assert config.env.wrappers[0].params == {"midpoint": 49}


def test_naming_another_algorithm_keeps_the_parameters() -> None:
    config = load(SMALL_CONFIG, "algorithm.name=dqn")
    assert config.algorithm.params == load(SMALL_CONFIG).algorithm.params


def test_set_goes_over_the_file_and_a_later_set_over_an_earlier_one() -> None:
    written(MINIMAL + "seed: 1\n", "base.yaml")
    assert load("extends: base.yaml\nseed: 2\n", "seed=3", "seed=4").seed == 4


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
def test_a_set_that_does_not_fit_is_reported_as_that_set(override: str, message: str) -> None:
    lines = problems_of(written(SMALL_CONFIG), [override])
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
def test_a_set_that_leaves_nothing_of_one_before_it_is_refused(earlier: str, later: str) -> None:
    (line,) = problems_of(written(SMALL_CONFIG), [earlier, later])
    assert line == f"--set {later}: discards the earlier override of {earlier.partition('=')[0]}; give it first"
    load(SMALL_CONFIG, later, earlier)


def test_a_file_named_in_set_is_looked_for_in_the_working_directory(tmp_path: Path) -> None:
    written("import gymnasium\nclass Mine(gymnasium.Wrapper):\n    pass\n", "mine.py")
    path = written(SMALL_CONFIG, str(tmp_path / "elsewhere" / "run.yaml"))
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
def test_a_mistake_is_reported_with_its_file_line_and_dotted_path(text: str, message: str) -> None:
    assert any(line.startswith(message) for line in problems_of(written(text)))


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    path = written("""\
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
    assert [line.split(" ")[:2] for line in problems_of(path)] == [
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
