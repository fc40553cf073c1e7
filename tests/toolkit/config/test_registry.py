"""`find`: kind and name to component."""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import gymnasium as gym
import pytest
import stable_baselines3
from support import SMALL_CONFIG, WRAPPER_MODULE, Install

from toolkit.config import registry
from toolkit.config.catalog import list_claims
from toolkit.config.load import load_config
from toolkit.config.registry import KINDS, Kind, find, get_kind, list_entry_points, read_entry_points
from toolkit.utils.errors import ComponentError, ConfigError


def read_error(kind: str, name: str) -> str:
    with pytest.raises(ComponentError) as raised:
        find(KINDS[kind], name)
    return str(raised.value)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("algorithms", {"double_dqn", "dqn", "ppo", "sac", "maskable_ppo"}),
        ("policies", {"DuelingMlpPolicy"}),
        ("wrappers", {"terminal_reward_clip", "graded_terminal_reward", "angle_penalty", "clip_reward"}),
        ("callbacks", {"success", "record_video", "progress"}),
        ("schedules", {"linear", "constant"}),
    ],
)
def test_shipped_components_are_registered(kind: str, names: set[str]) -> None:
    assert names <= list_entry_points(KINDS[kind]).keys()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind.name, claim.name) for kind in KINDS.values() for claim in list_claims(kind) if not claim.install],
)
def test_registered_component_is_of_its_kind(kind: str, name: str) -> None:
    assert isinstance(find(KINDS[kind], name), type)


def test_names_are_sorted_and_unique() -> None:
    for kind in KINDS.values():
        names = [name.lower() for name in list_entry_points(kind)]
        assert names == sorted(names)
        assert all(len(claims) == 1 for claims in list_entry_points(kind).values())


def test_stock_algorithm_is_class_of_library() -> None:
    assert find(KINDS["algorithms"], "ppo") is stable_baselines3.PPO


@pytest.mark.parametrize("path", ["gymnasium.wrappers:ClipReward", "gymnasium.wrappers.transform_reward:ClipReward"])
def test_python_path_needs_no_registration(path: str) -> None:
    assert find(KINDS["wrappers"], path) is gym.wrappers.ClipReward


def test_nested_class_can_be_named() -> None:
    Path("nested.py").write_text(WRAPPER_MODULE + "\nclass Outer:\n    Inner = Mine\n")
    assert find(KINDS["wrappers"], "./nested.py:Outer.Inner").__name__ == "Mine"


def test_file_in_directory_with_colon_is_found() -> None:
    Path("a:b").mkdir()
    Path("a:b", "mine.py").write_text(WRAPPER_MODULE)
    assert find(KINDS["wrappers"], "./a:b/mine.py:Mine").__name__ == "Mine"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_kind_is_found_by_plural_and_singular(kind: Kind) -> None:
    assert get_kind(kind.name) is get_kind(kind.singular) is kind


@pytest.mark.parametrize(
    ("name", "hint"), [("wrapers", "did you mean 'wrappers'?"), ("x", "known: algorithms, callbacks, launchers, ")]
)
def test_unknown_kind_is_refused_with_suggestion(name: str, hint: str) -> None:
    with pytest.raises(ComponentError, match=f"kind '{name}' does not exist") as raised:
        get_kind(name)
    assert hint in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("algorithms", "duble_dqn", "did you mean 'double_dqn'?"),
        ("wrappers", "terminal_reward_clp", "did you mean 'terminal_reward_clip'?"),
        ("callbacks", "sucess", "did you mean 'success'?"),
        ("schedules", "xyz", "known: by_success, constant, exponential, harmonic, linear"),
        ("policies", "DuelingMlpPolcy", "did you mean 'DuelingMlpPolicy'?"),
        ("callbacks", "EvalCallback", "did you mean 'eval'?"),
        ("algorithms", "DQN", "did you mean 'dqn'?"),
        ("wrappers", "", "known: "),
    ],
)
def test_unknown_name_is_refused_with_suggestion(kind: str, name: str, hint: str) -> None:
    message = read_error(kind, name)
    assert f"{KINDS[kind].singular} '{name}' does not exist" in message
    assert hint in message


# --- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["os:system", "builtins:eval", "math:pi", "collections:OrderedDict", "torch.nn:Module.x"]
)
def test_object_that_is_no_component_is_refused(kind: str, name: str) -> None:
    assert name.partition(":")[2] in read_error(kind, name)


CLASSES = {
    "algorithms": "stable_baselines3:PPO",
    "policies": "stable_baselines3.common.policies:ActorCriticPolicy",
    "wrappers": "toolkit_plugins.wrappers.rewards:AnglePenalty",
    "callbacks": "toolkit_plugins.success:MeanReturnSuccess",
}


@pytest.mark.parametrize(("kind", "other"), [*permutations(CLASSES, 2)])
def test_component_of_other_kind_is_refused(kind: str, other: str) -> None:
    message = read_error(kind, CLASSES[other])
    name = CLASSES[other].partition(":")[2]
    assert f"is not a valid {KINDS[kind].singular}: it should be a subclass of " in message
    assert message.endswith(f", not the class {name}")


def test_schedule_must_be_class_with_callable_objects() -> None:
    assert "it should be a class with callable objects" in read_error("schedules", "collections:OrderedDict")
    assert find(KINDS["schedules"], "stable_baselines3.common.utils:LinearSchedule")


@pytest.mark.parametrize(
    ("name", "message_part"),
    [
        ("no_such_module:X", "module 'no_such_module' does not exist\nis its package installed here?"),
        ("gymnasium.no_such:X", "module 'gymnasium.no_such' does not exist"),
        ("gymnasium.wrappers:ClipRewrd", "'gymnasium.wrappers' has no 'ClipRewrd'\ndid you mean 'ClipReward'?"),
        ("gymnasium.wrappers:", "'gymnasium.wrappers:' is not the path of a class\nwrite module:Class"),
        (":ClipReward", "':ClipReward' is not the path of a class\nwrite module:Class"),
        (":", "write module:Class"),
        ("gymnasium:wrappers:ClipReward", "write module:Class"),
        ("..relative:X", "'..relative' is not a module"),
        ("./absent.py:X", "file absent.py does not exist"),
    ],
)
def test_wrong_path_is_refused_with_reason(name: str, message_part: str) -> None:
    assert message_part in read_error("wrappers", name)


@pytest.mark.parametrize(
    ("source", "message_part"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero ("),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' ("),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("raise KeyError\n", "KeyError ("),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("\0", "importing"),
    ],
)
def test_file_that_fails_to_import_is_refused_with_exception(source: str, message_part: str) -> None:
    Path("broken.py").write_text(source)
    modules_before = {*sys.modules}
    message = read_error("wrappers", "./broken.py:Mine")
    assert "importing './broken.py' failed: " in message
    assert message_part in message
    assert not [name for name in {*sys.modules} - modules_before if name.startswith("toolkit_file_broken")]


def test_lazy_module_attribute_that_fails_is_refused() -> None:
    # gymnasium.wrappers is such a module: `gymnasium.wrappers:JaxToTorch` imports jax
    Path("lazy.py").write_text("def __getattr__(name):\n    import no_such_module\n")
    assert "No module named 'no_such_module'" in read_error("wrappers", "./lazy.py:Mine")


# --- files ----------------------------------------------------------------------------------------------------------


def test_file_is_relative_to_config_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mine.py").write_text(WRAPPER_MODULE)
    (tmp_path / "shared" / "base.yaml").write_text(SMALL_CONFIG.replace("terminal_reward_clip", "./mine.py:Mine"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.yaml").write_text(
        "extends: ../shared/base.yaml\nenv: {wrappers: [../shared/mine.py:Mine]}\n"
    )
    config = load_config(tmp_path / "runs" / "run.yaml")
    component = find(KINDS["wrappers"], config.env.wrappers[0].name)
    assert issubclass(component, gym.Wrapper)
    with pytest.raises(ConfigError, match=r"base.yaml:8: env.wrappers.0.params.success_steps: unknown parameter"):
        load_config(tmp_path / "shared" / "base.yaml")


@pytest.mark.parametrize("name", ["./mine.py:Outer.Mine", "mine.py:Mine"])
def test_every_form_of_file_path_is_relative_to_config(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.py").write_text(WRAPPER_MODULE + "\nclass Outer:\n    Mine = Mine\n")
    config = tmp_path / "elsewhere" / "run.yaml"
    config.write_text(f"timesteps: 1\nenv: {{id: CartPole-v1, wrappers: ['{name}']}}\nalgorithm: double_dqn\n")
    assert load_config(config).env.wrappers[0].name.startswith(f"{tmp_path}/elsewhere/")


def test_same_file_name_in_two_directories_gives_two_modules() -> None:
    for directory in ("a", "b"):
        Path(directory).mkdir()
        Path(directory, "mine.py").write_text(WRAPPER_MODULE + f"Mine.directory = '{directory}'\n")
    classes = [find(KINDS["wrappers"], f"./{directory}/mine.py:Mine") for directory in ("a", "b")]
    assert [cls.directory for cls in classes] == ["a", "b"]
    assert all(sys.modules[cls.__module__].Mine is cls for cls in classes)


def test_file_is_imported_once() -> None:
    Path("mine.py").write_text(WRAPPER_MODULE)
    assert find(KINDS["wrappers"], "./mine.py:Mine") is find(KINDS["wrappers"], "./mine.py:Mine")


# --- installed distributions ----------------------------------------------------------------------------------------


def test_installed_wrapper_is_found_by_name(install: Install) -> None:
    install("their-rewards", "their_rewards")
    assert find(KINDS["wrappers"], "mine").__module__ == "their_rewards"
    assert registry.get_provider(list_entry_points(KINDS["wrappers"])["mine"][0]) == "their-rewards 1.0"


def test_name_claimed_by_two_distributions_is_refused_with_both(install: Install) -> None:
    install("first-dist", "first_module")
    install("second-dist", "second_module")
    message = read_error("wrappers", "mine")
    assert "wrapper 'mine' is claimed by " in message
    assert "first-dist 1.0 (first_module:Mine)" in message
    assert "second-dist 1.0 (second_module:Mine)" in message
    assert "name the one you mean by its path" in message
    assert find(KINDS["wrappers"], "first_module:Mine").__module__ == "first_module"


def test_toolkit_name_claimed_by_other_distribution_is_refused(install: Install) -> None:
    install("clipper", "clipper_module", name="clip_reward")
    assert "clipper 1.0 (clipper_module:Mine) and sb3-toolkit" in read_error("wrappers", "clip_reward")


def test_distribution_twice_on_path_claims_name_once(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = install("twice", "twice_module")
    (directory.parent / "link").symlink_to(directory)
    monkeypatch.syspath_prepend(directory.parent / "link")
    read_entry_points.cache_clear()
    assert find(KINDS["wrappers"], "mine").__module__ == "twice_module"
