"""`env.id` names a class or function that makes the environment, and everything works as with an id."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gymnasium as gym
import pytest
from small_runs import find_differences
from support import Toolkit

import toolkit as tk
from toolkit.config.environments import find_env
from toolkit.config.load import load_config, read_config, resolve_config
from toolkit.envs.factory import make_vec_env
from toolkit.utils.errors import ConfigError

MARKET = """\
import gymnasium as gym
import numpy as np

class Market(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, prices=2, render_mode=None):
        self.prices, self.render_mode = prices, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(1, np.float32), {}

    def step(self, action):
        return self.np_random.random(1, np.float32), float(self.np_random.random()), False, False, {}

    def render(self):
        return np.full((16, 16, 3), 99, np.uint8)

class Blind(Market):
    def __init__(self):
        super().__init__()

class Clock(Blind):
    def __init__(self, max_episode_steps=None):
        super().__init__()
        self.limit = max_episode_steps

class NoEnv:
    pass

def make_market(size, **params):
    return Market(size, **params)

def make_by_id(id, kwargs=None, spec=None):
    return Market([id, kwargs])

def make_nothing():
    return None

class ById(Market):
    def __init__(self, id, kwargs, spec):
        super().__init__([id, kwargs])

market = Market()

def return_market():
    return market

PRICES = [1.0]
"""
CONFIG = """\
timesteps: 60
env: {{id: {env_id}, n_envs: 2, max_episode_steps: 7}}
algorithm: {{name: a2c, policy_params: {{net_arch: [4]}}}}
snapshots: {{every_timesteps: 20}}
"""


@pytest.fixture(autouse=True)
def module(working_directory: Path) -> Path:
    """A file with environments beside the config."""
    path = working_directory / "market.py"
    path.write_text(MARKET)
    return path


def write_config(env_id: str = "./market.py:Market") -> Path:
    path = Path("mine.yaml")
    path.write_text(CONFIG.format(env_id=env_id))
    return path


def read_error(env_id: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(env_id), overrides)
    return str(caught.value)


def test_class_by_path_trains_and_resumes_like_registered_id(
    toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gym.registry, "Market-v0", None)  # which is forgotten at the end
    del gym.registry["Market-v0"]
    Path("register.py").write_text("import gymnasium, market\ngymnasium.register('Market-v0', market.Market)\n")
    for env_id, directory in (("./market.py:Market", "by_path"), ("./register.py:Market-v0", "by_id")):
        result = toolkit("train", write_config(env_id), "--out", directory, "--quiet")
        assert (result.status, result.err) == (0, "")
    by_path, by_id = (tk.load(directory) for directory in ("by_path", "by_id"))
    assert by_path.episodes[0][1] == 7
    assert [episode[:2] for episode in by_path.episodes] == [episode[:2] for episode in by_id.episodes]
    assert (by_path.evaluate(2).returns, by_path.config.env.name) == (by_id.evaluate(2).returns, "Market")
    toolkit("train", "mine.yaml", "--set", "env.id=./market.py:Market", "--out", "broken", "--quiet")
    Path("broken/result.json").unlink()
    assert toolkit("resume", "broken", "--quiet").status == 0
    assert find_differences(Path("by_path"), Path("broken")) == []


def test_class_by_path_steps_in_subprocesses_and_draws_frames(toolkit: Toolkit) -> None:
    config = load_config(write_config(), {"env.vec_env": "subproc"})
    env = make_vec_env(config, seed=0)
    try:
        Path("market.py").unlink()  # the class itself goes to the process
        assert env.reset().shape == (2, 1)
    finally:
        env.close()
    env = make_vec_env(config, seed=0, n_envs=1, render_mode="rgb_array")
    env.reset()
    assert env.env_method("render")[0].shape == (16, 16, 3)


@pytest.mark.parametrize("env_id", ["./market.py:make_market", "__main__:make_market"])
def test_function_by_path_gets_checked_params(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = find_env(str(Path("market.py").resolve()) + ":make_market").creator
    monkeypatch.setattr(sys.modules["__main__"], "make_market", make, raising=False)
    assert "mine.yaml:2: env.params.size: required parameter is missing" in read_error(env_id)
    env = make_vec_env(load_config(write_config(env_id), ["env.params.size=5"]), seed=0)
    assert env.get_attr("prices") == [5, 5]


@pytest.mark.parametrize("name", ["make_by_id", "ById"])
def test_params_may_be_called_like_those_of_gymnasium_make(name: str) -> None:
    overrides = ["env.params.id={per_env: {start: 3}}", "env.params.kwargs={call: ./market.py:Blind}"]
    config = load_config(write_config(f"./market.py:{name}"), [*overrides, "env.params.spec=3"])
    (first_id, first), (second_id, _) = make_vec_env(config, seed=0).get_attr("prices")
    assert (first_id, second_id, type(first).__name__) == (3, 4, "Blind")


def test_function_that_returns_one_environment_twice_is_refused() -> None:
    config = load_config(write_config("./market.py:return_market"))
    with pytest.raises(ConfigError, match=r"^mine.yaml:2: env.id: 'return_market' returns the same .* a new one"):
        make_vec_env(config, seed=0)


@pytest.mark.parametrize("callback", ["eval", "{name: success, params: {threshold: 0, confirm_episodes: 1}}"])
def test_environment_of_training_is_not_that_of_evaluation(callback: str) -> None:
    config = load_config(write_config("./market.py:return_market"), ["env.n_envs=1", f"callbacks=[{callback}]"])
    with pytest.raises(ConfigError, match="'return_market' returns the same environment again"):
        tk.train(config, "run")
    assert not Path("run").exists()


def test_class_gets_time_limit_that_it_takes() -> None:
    assert make_vec_env(load_config(write_config("./market.py:Clock")), seed=0).get_attr("limit") == [7, 7]


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("./market.py:Markt", "env.id: '{file}' has no 'Markt'; did you mean 'Market'?"),
        ("./market.py:NoEnv", "does not make an environment: the class is not a subclass of gymnasium.Env"),
        ("./market.py:PRICES", "cannot be called: it is an object of type list"),
        ("./market.py:Qqqqqq-v1", "env.id: environment 'Qqqqqq-v1' does not exist; {file} registered nothing"),
        ("./market.py", "'./market.py' is a file, not an environment; name what makes it: ./market.py:Name"),
        ("./absent.py:Market", "absent.py does not exist"),
        (
            "market:Market",
            "'market:Market' cannot be made: module 'market' does not exist; name the file: ./market.py",
        ),
        ("subprocess:run", "env.id: 'subprocess:run' belongs to Python's standard library"),
        ("subprocess:Popen", "env.id: 'subprocess:Popen' does not make an environment"),
    ],
)
def test_path_of_no_environment_is_refused_with_its_line(env_id: str, message: str) -> None:
    error = read_error(env_id)
    assert error.startswith("mine.yaml:2: env.id: ")
    assert message.format(file=Path("market.py").resolve()) in error


def test_function_that_returns_no_environment_is_refused() -> None:
    config = load_config(write_config("./market.py:make_nothing"))
    with pytest.raises(ConfigError, match=r"^mine.yaml:2: env: '.*' cannot be built: it returns None, not an env"):
        make_vec_env(config, seed=0)


def test_function_as_base_wrapper_is_refused_with_advice() -> None:
    error = read_error("./market.py:Market", "env.base_wrappers=[./market.py:make_market]")
    assert error.endswith("; write a class, or wrap the environment in a function that env.id names")


def test_misspelled_parameter_of_class_is_refused() -> None:
    (error,) = read_error("./market.py:Market", "env.params.prises=3").splitlines()
    assert error.endswith("env.params.prises: unknown parameter; did you mean 'prices'?")


def test_video_of_class_without_render_mode_is_refused(toolkit: Toolkit) -> None:
    with pytest.raises(ConfigError, match="it draws no frames: 'Blind' takes no render_mode"):
        make_vec_env(load_config(write_config("./market.py:Blind")), seed=0, render_mode="rgb_array")


@pytest.mark.parametrize("env_id", ["gymnasium:make", "torch.hub:load", "toolkit:train", "__main__:make_market"])
def test_opened_run_calls_no_function_of_installed_package(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "make_market", lambda: None, raising=False)
    monkeypatch.setattr(main, "__file__", __file__, raising=False)  # a process of pytest-xdist has none
    Path("run").mkdir()
    write_config(env_id).rename("run/config.yaml")
    with pytest.raises(ConfigError, match=r"run/config.yaml:2: env.id: .*has not trained this run here"):
        resolve_config(read_config("run/config.yaml"))


def test_old_gym_environment_gets_hint_at_shimmy(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, registration = (ModuleType(name) for name in ("gym", "gym.envs.registration"))
    old.Env = type("Env", (), {"__module__": "gym.core"})  # type: ignore[attr-defined]
    old.__version__ = "0.21.0"  # type: ignore[attr-defined]
    registration.registry = SimpleNamespace(env_specs={"Old-v0": None})  # type: ignore[attr-defined]
    for fake in (old, registration):
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    module.write_text("import gym\n\nclass Old(gym.Env):\n    pass\n")
    expected = "pip install 'shimmy[gym-v21]', and write env: {id: GymV21Environment-v0, params: {env_id: Old-v0}}"
    assert f"'Old-v0' is registered in the package gym, not in gymnasium; {expected}" in read_error("Old-v0")
    assert (
        "is an environment of the package gym, not of gymnasium; register it in gym; then pip install"
        in read_error("./market.py:Old")
    )


# --- files that a file imports ---------------------------------------------------------------------------------------


@pytest.fixture
def sibling(module: Path) -> Path:
    """A file that `market.py` imports."""
    path = module.with_name("exchange.py")
    path.write_text("OPEN = 1\n\ndef count():\n    import fees\n    return fees.FEE\n")
    path.with_name("fees.py").write_text("FEE = 2\n")
    module.write_text("import exchange\nfrom exchange import OPEN\n" + MARKET + "Market.sibling = exchange\n")
    return path


def test_file_imports_siblings_also_in_functions(sibling: Path) -> None:
    market = find_env(str(sibling.with_name("market.py")) + ":Market").creator
    assert (market.sibling.OPEN, market.sibling.count()) == (1, 2)  # type: ignore[union-attr]
    assert "exchange" not in sys.modules


@pytest.mark.parametrize("has_init", [True, False])
@pytest.mark.parametrize(
    ("statement", "expression"),
    [
        ("import helpers.fees", "helpers.fees.FEE"),
        ("import helpers.fees as fees", "fees.FEE"),
        ("from helpers import fees", "fees.FEE"),
        ("from helpers.fees import FEE", "FEE"),
        ("from helpers.fees import *", "FEE"),
        ("import helpers.inner.deep, helpers.fees", "helpers.fees.FEE"),
        ("from helpers.inner.deep import fee", "fee()"),
    ],
)
def test_file_imports_package_beside_it(has_init: bool, statement: str, expression: str, module: Path) -> None:
    inner = module.with_name("helpers") / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "fees.py").write_text("from .inner.deep import START\nFEE = START + 1\n")
    (inner / "deep.py").write_text("START = 1\n\ndef fee():\n    from ..fees import FEE\n    return FEE\n")
    if has_init:
        (inner.parent / "__init__.py").write_text("from . import inner\n")
        (inner / "__init__.py").write_text("")
    module.write_text(f"{statement}\n{MARKET}Market.fee = {expression}\n")
    assert find_env(f"{module}:Market").creator.fee == 2  # type: ignore[union-attr]


def test_siblings_of_one_name_in_two_directories_are_separate(sibling: Path, tmp_path: Path) -> None:
    for file in (sibling, sibling.with_name("market.py")):
        (tmp_path / file.name).write_text(file.read_text().replace("OPEN = 1", "OPEN = 3"))
    makers = [find_env(f"{directory}/market.py:Market") for directory in (sibling.parent, tmp_path)]
    assert [maker.creator.sibling.OPEN for maker in makers] == [1, 3]  # type: ignore[union-attr]


def test_file_is_imported_again_when_its_sibling_changes(sibling: Path) -> None:
    path = str(sibling.with_name("market.py")) + ":Market"
    assert find_env(path).creator is find_env(path).creator
    sibling.write_text("OPEN = 4\n")
    assert find_env(path).creator.sibling.OPEN == 4  # type: ignore[union-attr]


def test_classes_with_siblings_step_in_subprocesses(sibling: Path, module: Path) -> None:
    module.write_text(module.read_text().replace("float(self.np_random.random())", "float(exchange.count())"))
    env = make_vec_env(load_config(write_config(), {"env.vec_env": "subproc"}), seed=0)
    try:
        for path in (sibling, module, sibling.with_name("fees.py")):
            path.unlink()  # the processes get what was read here
        env.reset()
        env.step_async([0, 0])  # type: ignore[arg-type]
        assert env.step_wait()[1].tolist() == [2.0, 2.0]
    finally:
        env.close()


@pytest.mark.parametrize("changed", ["exchange.py", "fees.py"])
def test_sibling_changed_since_training_is_asked_about(changed: str, sibling: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", write_config(), "--set", "timesteps=10", "--out", "run", "--quiet").status == 0
    assert resolve_config(read_config("run/config.yaml"))
    Path(changed).write_text("raise SystemExit('executed')\n")
    with pytest.raises(ConfigError, match=rf"env.id: .*the code in .*{changed} has not trained this run here"):
        resolve_config(read_config("run/config.yaml"))


@pytest.mark.usefixtures("sibling")
@pytest.mark.parametrize("name", ["gymnasium", "random"])
def test_module_that_python_finds_elsewhere_is_no_sibling(name: str, module: Path) -> None:
    module.with_name(f"{name}.py").write_text("raise SystemExit('executed')\n")
    module.write_text(f"import {name}\n" + MARKET)
    assert find_env(f"{module}:Market")
