"""Bad input to the checks, and what they leave behind."""

from __future__ import annotations

import doctest
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import toolkit.testing
from toolkit.testing import (
    check_algorithm,
    check_callback,
    check_launcher,
    check_policy,
    check_schedule,
    check_wrapper,
)
from toolkit.utils.errors import ToolkitError


class PassThrough(gym.Wrapper):
    """A correct wrapper."""


class CannotBeBuilt(PassThrough):
    def __init__(self, env):
        super().__init__(env.no_such_attribute)


class Callback(BaseCallback):
    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: check_wrapper("terminal_reward_clap"),
            r"wrapper 'terminal_reward_clap' does not exist.*did you mean",
        ),
        (lambda: check_wrapper(Callback), r"is not a valid wrapper: it should be"),
        (
            lambda: check_wrapper(PassThrough(gym.make("CartPole-v1"))),
            r"an instance of PassThrough is not a component.*pass its class",
        ),
        (lambda: check_wrapper("terminal_reward_clip", params={"steps": 1}), r"params.steps: unknown parameter"),
        (lambda: check_wrapper(PassThrough, env="CartPale-v1"), r"env.id: .*CartPale.*did you mean"),
        (lambda: check_wrapper(PassThrough, env={"id": "CartPole-v1", "max_steps": 3}), r"env.max_steps: unknown key"),
        (lambda: check_wrapper(CannotBeBuilt), r"cannot be built: AttributeError.*no_such_attribute"),
        (lambda: check_wrapper(PassThrough, env=3), r"env: should be an id or a mapping, not 3"),
        (lambda: check_callback("success"), r"params.threshold: required parameter is missing"),
        (lambda: check_algorithm("sac"), r"'sac' cannot act in CartPole-v1"),
        (lambda: check_policy(PPO), r"is not a valid policy"),
        (lambda: check_schedule("linear"), r"params.start: required parameter is missing"),
        (lambda: check_schedule(PassThrough), r"is not a valid schedule"),
        (lambda: check_launcher("locale"), r"launcher 'locale' does not exist.*did you mean 'local'"),
        (lambda: check_launcher(Callback), r"is not a valid launcher"),
        (lambda: check_launcher("local", params={"workers": 0}), r"cannot be built: ValueError: workers should be"),
    ],
)
def test_misuse_of_check_is_bad_input(call: Callable[[], None], message: str) -> None:
    with pytest.raises(ToolkitError, match=f"(?s){message}"):
        call()


@pytest.mark.slow
def test_local_class_and_file_component_leave_nothing_behind(working_directory: Path) -> None:
    class Local(BaseCallback):
        def _on_step(self) -> bool:
            return True

    check_callback(Local)
    assert [*working_directory.iterdir()] == []
    (working_directory / "mine.py").write_text("import gymnasium\nclass Mine(gymnasium.Wrapper): pass\n")
    check_wrapper("./mine.py:Mine")
    assert [path.name for path in working_directory.iterdir()] == ["mine.py"]


def test_checks_do_not_import_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("toolkit.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytest", None)  # importing it raises
    importlib.import_module("toolkit.testing")


def test_docstring_example_runs() -> None:
    results = doctest.testmod(toolkit.testing)
    assert results.attempted == 4
    assert not results.failed
