"""Kind and name to component."""

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
from toolkit.config.registry import KINDS, Kind, find, get_kind, list_entry_points
from toolkit.utils.errors import ComponentError, ConfigError


def refusal(kind: str, name: str) -> str:
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
def test_what_ships_with_the_toolkit_is_registered(kind: str, names: set[str]) -> None:
    assert names <= list_entry_points(KINDS[kind]).keys()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind.name, claim.name) for kind in KINDS.values() for claim in list_claims(kind) if not claim.install],
)
def test_every_registered_name_is_of_its_kind(kind: str, name: str) -> None:
    assert isinstance(find(KINDS[kind], name), type)


def test_names_are_listed_in_order_without_a_registered_one_twice() -> None:
    for kind in KINDS.values():
        names = [name.lower() for name in list_entry_points(kind)]
        assert names == sorted(names)
        assert all(len(claims) == 1 for claims in list_entry_points(kind).values())


def test_a_stock_algorithm_is_its_library_s_own_class() -> None:
    assert find(KINDS["algorithms"], "ppo") is stable_baselines3.PPO


@pytest.mark.parametrize("path", ["gymnasium.wrappers:ClipReward", "gymnasium.wrappers.transform_reward:ClipReward"])
def test_a_python_path_needs_no_registration(path: str) -> None:
    assert find(KINDS["wrappers"], path) is gym.wrappers.ClipReward


def test_a_class_inside_a_class_can_be_named() -> None:
    Path("nested.py").write_text(WRAPPER_MODULE + "\nclass Outer:\n    Inner = Mine\n")
    assert find(KINDS["wrappers"], "./nested.py:Outer.Inner").__name__ == "Mine"


def test_a_file_may_lie_in_a_directory_with_a_colon_in_its_name() -> None:
    Path("a:b").mkdir()
    Path("a:b", "mine.py").write_text(WRAPPER_MODULE)
    assert find(KINDS["wrappers"], "./a:b/mine.py:Mine").__name__ == "Mine"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_is_found_by_its_plural_and_by_its_singular(kind: Kind) -> None:
    assert get_kind(kind.name) is get_kind(kind.singular) is kind


@pytest.mark.parametrize(
    ("name", "hint"), [("wrapers", "did you mean 'wrappers'?"), ("x", "known: algorithms, callbacks, launchers, ")]
)
def test_an_unknown_kind_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(ComponentError, match=f"kind '{name}' does not exist") as raised:
        get_kind(name)
    assert hint in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("algorithms", "duble_dqn", "did you mean 'double_dqn'?"),
        ("wrappers", "terminal_reward_clp", "did you mean 'terminal_reward_clip'?"),
        ("callbacks", "sucess", "did you mean 'success'?"),
        ("schedules", "xyz", "known: constant, harmonic, linear"),
        ("policies", "DuelingMlpPolcy", "did you mean 'DuelingMlpPolicy'?"),
        ("wrappers", "", "known: "),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(kind: str, name: str, hint: str) -> None:
    message = refusal(kind, name)
    assert f"{KINDS[kind].singular} '{name}' does not exist" in message
    assert hint in message


# --- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["os:system", "builtins:eval", "math:pi", "collections:OrderedDict", "torch.nn:Module.x"]
)
def test_what_is_no_component_is_refused(kind: str, name: str) -> None:
    assert name.partition(":")[2] in refusal(kind, name)


A_CLASS_OF = {
    "algorithms": "stable_baselines3:PPO",
    "policies": "stable_baselines3.common.policies:ActorCriticPolicy",
    "wrappers": "toolkit_plugins.wrappers.rewards:AnglePenalty",
    "callbacks": "toolkit_plugins.success:MeanReturnSuccess",
}


@pytest.mark.parametrize(("kind", "other"), [*permutations(A_CLASS_OF, 2)])
def test_a_component_of_another_kind_is_refused(kind: str, other: str) -> None:
    message = refusal(kind, A_CLASS_OF[other])
    name = A_CLASS_OF[other].partition(":")[2]
    assert f"is not a valid {KINDS[kind].singular}: it should be a subclass of " in message
    assert message.endswith(f", not the class {name}")


def test_a_schedule_is_a_class_whose_objects_are_called() -> None:
    assert "it should be a class with callable objects" in refusal("schedules", "collections:OrderedDict")
    assert find(KINDS["schedules"], "stable_baselines3.common.utils:LinearSchedule")


@pytest.mark.parametrize(
    ("name", "what"),
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
def test_a_path_that_leads_nowhere_is_refused(name: str, what: str) -> None:
    assert what in refusal("wrappers", name)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero ("),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' ("),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("raise KeyError\n", "KeyError ("),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("\0", "importing"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_what_it_raised(source: str, what: str) -> None:
    Path("broken.py").write_text(source)
    message = refusal("wrappers", "./broken.py:Mine")
    assert "importing './broken.py' failed: " in message
    assert what in message
    assert not [name for name in sys.modules if name.startswith("toolkit_file_broken")]


def test_a_name_that_a_module_fails_to_import_when_asked_is_refused() -> None:
    # gymnasium.wrappers is such a module: `gymnasium.wrappers:JaxToTorch` imports jax
    Path("lazy.py").write_text("def __getattr__(name):\n    import no_such_module\n")
    assert "No module named 'no_such_module'" in refusal("wrappers", "./lazy.py:Mine")


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_looked_for_beside_the_config_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mine.py").write_text(WRAPPER_MODULE)
    (tmp_path / "shared" / "base.yaml").write_text(SMALL_CONFIG.replace("terminal_reward_clip", "./mine.py:Mine"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.yaml").write_text(
        "extends: ../shared/base.yaml\nenv: {wrappers: [../shared/mine.py:Mine]}\n"
    )
    config = load_config(tmp_path / "runs" / "run.yaml")
    found = find(KINDS["wrappers"], config.env.wrappers[0].name)
    assert issubclass(found, gym.Wrapper)
    with pytest.raises(ConfigError, match=r"base.yaml:8: env.wrappers.0.params.success_steps: unknown parameter"):
        load_config(tmp_path / "shared" / "base.yaml")


@pytest.mark.parametrize("name", ["./mine.py:Outer.Mine", "mine.py:Mine"])
def test_every_way_to_name_a_file_is_relative_to_the_config(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.py").write_text(WRAPPER_MODULE + "\nclass Outer:\n    Mine = Mine\n")
    config = tmp_path / "elsewhere" / "run.yaml"
    config.write_text(f"timesteps: 1\nenv: {{id: CartPole-v1, wrappers: ['{name}']}}\nalgorithm: double_dqn\n")
    assert load_config(config).env.wrappers[0].name.startswith(f"{tmp_path}/elsewhere/")


def test_files_of_one_name_in_two_directories_are_two_modules() -> None:
    for directory in ("a", "b"):
        Path(directory).mkdir()
        Path(directory, "mine.py").write_text(WRAPPER_MODULE + f"Mine.made_in = '{directory}'\n")
    found = [find(KINDS["wrappers"], f"./{directory}/mine.py:Mine") for directory in ("a", "b")]
    assert [cls.made_in for cls in found] == ["a", "b"]
    assert all(sys.modules[cls.__module__].Mine is cls for cls in found)


def test_a_file_is_imported_once() -> None:
    Path("mine.py").write_text(WRAPPER_MODULE)
    assert find(KINDS["wrappers"], "./mine.py:Mine") is find(KINDS["wrappers"], "./mine.py:Mine")


# --- installed distributions ----------------------------------------------------------------------------------------


def test_an_installed_wrapper_is_found_by_its_name(install: Install) -> None:
    install("their-rewards", "their_rewards")
    assert find(KINDS["wrappers"], "mine").__module__ == "their_rewards"
    assert registry.get_provider(list_entry_points(KINDS["wrappers"])["mine"][0]) == "their-rewards 1.0"


def test_a_name_that_two_distributions_claim_is_refused_with_both(install: Install) -> None:
    install("first-dist", "first_module")
    install("second-dist", "second_module")
    message = refusal("wrappers", "mine")
    assert "wrapper 'mine' is claimed by " in message
    assert "first-dist 1.0 (first_module:Mine)" in message
    assert "second-dist 1.0 (second_module:Mine)" in message
    assert "name the one you mean by its path" in message
    assert find(KINDS["wrappers"], "first_module:Mine").__module__ == "first_module"


def test_a_name_of_the_toolkit_s_own_that_another_distribution_claims_is_refused(install: Install) -> None:
    install("clipper", "clipper_module", name="clip_reward")
    assert "clipper 1.0 (clipper_module:Mine) and sb3-toolkit" in refusal("wrappers", "clip_reward")


def test_one_distribution_found_twice_on_the_path_claims_its_name_once(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = install("twice", "twice_module")
    (directory.parent / "link").symlink_to(directory)
    monkeypatch.syspath_prepend(directory.parent / "link")
    list_entry_points.cache_clear()
    assert find(KINDS["wrappers"], "mine").__module__ == "twice_module"
