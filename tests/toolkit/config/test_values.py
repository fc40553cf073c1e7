"""Functions, what they return, and one value for each environment, as parameters of a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_runs import find_differences, train_with_interruptions
from support import Toolkit

import toolkit as tk
from toolkit.config.load import ResolvedConfig, load_config, read_config, resolve_config
from toolkit.config.signatures import bind_arguments
from toolkit.config.values import is_code_path
from toolkit.envs.factory import make_vec_env
from toolkit.training.checks import find_config_warnings
from toolkit.tuning.search_space import override_config
from toolkit.utils.errors import ConfigError

MARKET = """\
import os
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np


class Market(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, prices=None, cost=None, port: int = 0, seed=None, options: dict | None = None, other=None):
        self.prices, self.cost, self.port, self.seed, self.options = prices, cost, port, seed, options
        self.other = other
        self.shift, self.has_own_lock = port - 9000, other is not None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.day = 0
        return np.array([self.prices[0]]), {}

    def step(self, action):
        self.day += 1
        price = self.prices[self.day]
        return np.array([price]), float(self.cost(price * int(action))), self.day >= 5, False, {}


class Levels(Market):
    def __init__(self, level_seed: int = 3, **params):
        super().__init__(**params)
        if level_seed < 0:
            raise ValueError("no level")


class Priced(gym.Wrapper):
    def __init__(self, env, prices=None, func=None, port=0):
        super().__init__(env)
        self.prices, self.func, self.port = prices, func, port


def load_prices(year: int, scale: float = 1.0):
    with open("calls.txt", "a") as file:
        file.write(f"{os.getpid()} {year}\\n")
    if year < 2000:
        raise ValueError(f"no prices for {year}")
    return scale * np.random.normal(size=8)


def quadratic(x):
    return x * x


def cosine(start: float):
    def schedule(progress):
        return start * progress
    return schedule


def halve(progress):
    return 1e-3 * progress / 2


class Halving:
    def __call__(self, progress):
        return 1e-3 * progress / 2


def make_lock():
    return threading.Lock()


def make_large():
    return np.ones((1_000, 1_000))


def make_config():
    return {"fee": 0.1}


def iterate_prices():
    return iter([1.0] * 8)


def yield_prices():
    yield 1.0


def open_prices():
    return open(__file__)


async def wait():
    pass
"""
CONFIG = """\
timesteps: 64
env:
  id: ./market.py:Market
  n_envs: 2
  params:
    prices: {call: ./market.py:load_prices, params: {year: 2020}}
    cost: {function: ./market.py:quadratic}
    port: {per_env: {start: 9000}}
  wrappers:
    - name: ./market.py:Priced
      params: {func: {function: ./market.py:quadratic}}
algorithm:
  name: ppo
  params: {n_steps: 16, batch_size: 16, learning_rate: {call: ./market.py:cosine, params: {start: 1.0e-3}}}
  policy_params: {net_arch: [4]}
snapshots: {every_timesteps: 32}
"""


@pytest.fixture
def market(working_directory: Path) -> Path:
    """A config of an environment that gets prices, a function and a port, beside its code."""
    Path("market.py").write_text(MARKET)
    Path("market.yaml").write_text(CONFIG)
    return Path("market.yaml")


def read_calls() -> list[list[str]]:
    """Return the process and the year of each call of ``load_prices``."""
    return [line.split() for line in Path("calls.txt").read_text().splitlines()]


def get_envs(config: ResolvedConfig) -> list[Any]:
    """Build the environments of a config and return what is inside all wrappers."""
    env = make_vec_env(config, seed=0)
    env.close()
    return [layers.unwrapped for layers in env.unwrapped.envs]  # type: ignore[attr-defined]


def load_error(config: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(config, overrides)
    return str(caught.value)


def bind(annotation: Any, value: Any) -> Any:
    """Return what a parameter with an annotation gets for a YAML value, or the message that refuses it."""

    def component(x: Any) -> None: ...

    component.__annotations__["x"] = annotation
    arguments, problems = bind_arguments(component, {"x": value}, (), {})
    return problems[0].text({}) if problems else arguments["x"]


# --- in a run -------------------------------------------------------------------------------------------------------


def test_call_is_made_once_and_each_env_has_own_result(market: Path) -> None:
    first, second = get_envs(load_config(market))
    assert len(read_calls()) == 1
    assert np.array_equal(first.prices, second.prices)
    first.prices[:] = 0
    assert second.prices.all()
    assert (first.cost(3), first.cost) == (9, second.cost)


def test_iterator_that_can_be_copied_is_new_for_each_env(market: Path) -> None:
    first, second = get_envs(load_config(market, [f"{PRICES}={{call: ./market.py:iterate_prices}}"]))
    assert [*first.prices] == [*second.prices] != []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "env.params.other={per_env: [1, {call: ./market.py:load_prices, params: {year: 1990}}]}",
            r"env.params.other.per_env.1: '.*:load_prices' fails: ValueError: no prices for 1990 \S+$",
        ),
        (
            "env.params.level_seed={per_env: [1, -1]}",
            r"no level .*; this is environment 1, which has values of",
        ),
    ],
)
def test_value_that_fails_in_second_env_is_named(override: str, message: str, market: Path) -> None:
    config = load_config(market, ["env.id=./market.py:Levels", override])
    with pytest.raises(ConfigError, match=message):
        make_vec_env(config, seed=0)


def test_every_env_has_own_per_env_value(market: Path) -> None:
    assert [env.port for env in get_envs(load_config(market))] == [9000, 9001]
    listed = load_config(market, ["env.params.port={per_env: [7, 5]}"])
    assert [env.port for env in get_envs(listed)] == [7, 5]


def test_call_with_per_env_parameter_is_made_for_each_env(market: Path) -> None:
    config = load_config(market, ["env.params.prices.params.year={per_env: {start: 2020}}"])
    get_envs(config)
    assert [year for _, year in read_calls()] == ["2020", "2021"]


def test_subprocess_makes_its_own_values(market: Path) -> None:
    config = load_config(market, ["env.vec_env=subproc", "env.params.other={call: ./market.py:make_lock}"])
    env = make_vec_env(config, seed=0)
    try:
        processes = [process for process, _ in read_calls()]
        assert len({*processes}) == len(processes) == 3
        assert env.env_method("get_wrapper_attr", "shift") == [0, 1]
        assert env.env_method("get_wrapper_attr", "has_own_lock") == [True, True]
        first, second = env.reset()
        assert np.array_equal(first, second)
    finally:
        env.close()


def test_run_with_functions_and_calls_resumes_exactly(market: Path) -> None:
    config = load_config(market, ["timesteps=96"])
    whole = tk.train(config, "whole")
    params = yaml.safe_load(Path("whole/config.yaml").read_text())["env"]["params"]
    assert params["port"] == {"per_env": {"start": 9000}}
    stopped = train_with_interruptions(config, Path("stopped"), (70,))
    assert not find_differences(whole.directory, stopped.directory)
    assert whole.evaluate(episodes=1).returns == stopped.evaluate(episodes=1).returns


def test_large_result_in_wrapper_is_no_state(market: Path) -> None:
    overrides = ["env.wrappers.0.params.prices={call: ./market.py:make_large}"]
    run = tk.train(load_config(market, overrides), "run")
    assert max(file.stat().st_size for file in run.directory.rglob("*") if file.is_file()) < 1e6
    assert run.evaluate(episodes=1).returns


def test_path_through_directory_with_colon_is_that_of_function() -> None:
    assert is_code_path("/data/run:1/market.py:load_prices")


def test_override_reaches_parameter_of_call(market: Path) -> None:
    config = load_config(market, ["env.params.prices.params.year=2021"])
    assert read_calls()[-1][1] == "2021"
    override_config(config, {"env.params.prices.params.year": 2022, "env.params.port.per_env.start": 1})
    assert read_calls()[-1][1] == "2022"


def test_extending_file_replaces_function_by_call(market: Path) -> None:
    Path("other.yaml").write_text(
        "extends: market.yaml\nenv: {params: {cost: {call: ./market.py:cosine, params: {start: 1}}}}\n"
    )
    assert get_envs(load_config("other.yaml"))[0].cost(3) == 3


def test_draws_from_global_generator_are_the_same_in_each_call(market: Path) -> None:
    state = np.random.get_state()[1].tolist()
    first, second = (get_envs(load_config(market))[0].prices for _ in range(2))
    assert np.array_equal(first, second)
    assert np.random.get_state()[1].tolist() == state


# --- types ----------------------------------------------------------------------------------------------------------

FLOAT_FUNCTION = Callable[[float], float]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (FLOAT_FUNCTION, "./market.py:halve"),
        (float | FLOAT_FUNCTION, "./market.py:Halving"),
        (float | FLOAT_FUNCTION, {"name": "./market.py:halve"}),
        (FLOAT_FUNCTION, {"name": "./market.py:cosine", "params": {"start": 5e-4}}),
        (FLOAT_FUNCTION | None, {"call": "./market.py:cosine", "params": {"start": 5e-4}}),
        (FLOAT_FUNCTION, {"function": "./market.py:halve"}),
        (str | FLOAT_FUNCTION, "./market.py:halve"),
        (Any, {"function": "./market.py:halve"}),
    ],
    ids=str,
)
def test_function_is_passed_where_it_fits(annotation: Any, value: Any, market: Path) -> None:
    assert bind(annotation, value)(1.0) == 5e-4


def test_class_is_passed_where_its_objects_are_to_be_made(market: Path) -> None:
    assert bind(Callable[[], torch.nn.Module], "torch.nn:ReLU") is torch.nn.ReLU
    assert bind(str | FLOAT_FUNCTION, "legal") == "legal"
    assert bind(str | FLOAT_FUNCTION, "no.module:legal") == "no.module:legal"


@pytest.mark.parametrize(
    "value",
    [
        {"call": "now"},
        {"function": "sparse", "scale": 2},
        {"call": 3, "put": 4},
        {"call": "./market.py:halve", "put": 1},
    ],
    ids=str,
)
def test_own_mapping_stays_mapping_where_it_is_expected(value: Any, market: Path) -> None:
    assert bind(dict, value) == bind(dict[str, Any] | None, value) == value


def test_call_gives_mapping_and_items_of_mapping(market: Path) -> None:
    fee = {"call": "./market.py:make_config"}
    assert bind(dict, fee) == {"fee": 0.1}
    assert bind(dict, {"a": [fee, 1]}) == bind(inspect.Parameter.empty, {"a": [fee, 1]}) == {"a": [{"fee": 0.1}, 1]}
    assert bind(list[float], [{"call": "./market.py:halve", "params": {"progress": 1}}]) == [5e-4]


# --- problems -------------------------------------------------------------------------------------------------------

PRICES, COST, PORT, RATE = "env.params.prices", "env.params.cost", "env.params.port", "algorithm.params.learning_rate"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            f"{PRICES}.params.year=1990",
            "market.yaml:6: env.params.prices: '{file}:load_prices' fails: ValueError: no prices for 1990 ({file}:46)",
        ),
        (f"{PRICES}.params.yeer=2020", "env.params.prices.params.yeer: unknown parameter; did you mean 'year'?"),
        (f"{PRICES}.params.year=soon", "env.params.prices.params.year: should be int, not 'soon'"),
        (
            f"{PRICES}={{call: ./market.py:load_prices}}",
            "env.params.prices.params.year: required parameter is missing",
        ),
        (
            f"{PRICES}={{call: ./market.py:load_price}}",
            "env.params.prices.call: '{file}' has no 'load_price'; did you mean 'load_prices'?",
        ),
        (f"{PRICES}={{call: ./nowhere.py:f}}", "env.params.prices.call: file {directory}/nowhere.py does not exist"),
        (
            f"{PRICES}={{call: load_prices}}",
            "env.params.prices: 'call' should be the path of a function, not 'load_prices'; write ./file.py:name",
        ),
        (
            f"{PRICES}={{call: ./market.py:make_config, parms: {{}}}}",
            "env.params.prices: 'call' cannot stand beside 'parms'; did you mean 'params'?",
        ),
        (
            f"{COST}={{function: ./market.py:halve, params: {{}}}}",
            "env.params.cost: 'function' passes the function itself and takes no params; 'call' takes params",
        ),
        (
            f"{COST}={{function: ./market.py:halve, call: ./market.py:halve}}",
            "env.params.cost: 'function' cannot stand beside 'call'; keep one",
        ),
        *(
            (
                f"{PRICES}={{call: ./market.py:{name}}}",
                f"env.params.prices: '{{file}}:{name}' returns a {kind}, which can be read only once; return a",
            )
            for name, kind in (("yield_prices", "generator"), ("open_prices", "TextIOWrapper"), ("wait", "coroutine"))
        ),
        (
            f"{PRICES}={{call: ./market.py:Halving.__call__}}",
            "env.params.prices.call: '{file}:Halving.__call__' is a method, which needs an object; name a function",
        ),
        (f"{COST}={{function: ./market.py:np.pi}}", "env.params.cost.function: '{file}:np.pi' cannot be called"),
        (
            f"{RATE}={{call: ./market.py:make_config}}",
            "learning_rate: '{file}:make_config' returns a dict, but this should be float or Callable[[float], float]",
        ),
        (
            f"{RATE}={{function: ./market.py:make_config}}",
            "learning_rate: '{file}:make_config' does not fit: it is called with (), here with (float)",
        ),
        (
            "algorithm.params.n_steps={function: ./market.py:halve}",
            "algorithm.params.n_steps: '{file}:halve' is a function, but this should be int",
        ),
        (
            "algorithm.params.n_steps=./market.py:halve",
            "algorithm.params.n_steps: should be int, not '{file}:halve'; {{function: PATH}} passes a function",
        ),
        (
            f"{PORT}={{per_env: [1, 2, 3]}}",
            "env.params.port.per_env: has 3 values for 2 environments; give one for each, or set env.n_envs to 3",
        ),
        (f"{PORT}={{per_env: [1, x]}}", "env.params.port.per_env.1: should be int, not 'x'"),
        (f"{PORT}z={{per_env: [1, x]}}", "env.params.portz: unknown parameter; did you mean 'port'?"),
        (f"{PORT}={{per_env: {{start: x}}}}", "env.params.port.per_env.start: should be a number, not 'x'"),
        (
            f"{PORT}={{per_env: {{start: 1, step: 2}}}}",
            "env.params.port.per_env.step: unknown key; environment i gets start + i",
        ),
        (
            f"{PORT}={{per_env: 9000}}",
            "port.per_env: should be a list with a value for each environment, or {{start: NUMBER}}, not 9000",
        ),
        (f"{PORT}={{per_env: [1, 2], start: 1}}", "env.params.port.per_env: cannot stand beside 'start'"),
        (
            "env.params.options={per_env: [{call: ./market.py:make_config}, {call: ./market.py:make}]}",
            "env.params.options.per_env.1.call: '{file}' has no 'make'",
        ),
        (
            "callbacks=[{name: checkpoint, params: {a: {call: ./market.py:halve, params: {progress: '{run}'}}}}]",
            "callbacks.0.params.a.params.progress: {{run}} is not known yet when a function is called",
        ),
        ("algorithm.params.n_steps={per_env: {start: 16}}", "algorithm.params.n_steps: 'per_env' has no meaning here"),
        (
            "algorithm.policy_params.net_arch={per_env: [4, 4]}",
            "algorithm.policy_params.net_arch: 'per_env' has no meaning here",
        ),
    ],
)
def test_wrong_value_is_refused_with_place(override: str, message: str, market: Path) -> None:
    expected = message.format(file=Path("market.py").absolute(), directory=Path().absolute())
    assert expected in load_error(market, override)


def test_command_reports_failing_call_and_leaves_nothing(market: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", market, "--set", "env.params.prices.params.year=1990", "--out", "run")
    assert (finished.status, finished.out, Path("run").exists()) == (2, "", False)
    assert "env.params.prices: " in finished.err
    assert "no prices for 1990" in finished.err


# --- what check asks about ------------------------------------------------------------------------------------------


def list_warnings(config: Path, *overrides: str) -> list[str]:
    """Return what check asks about parameters, without file and line."""
    problems = find_config_warnings(load_config(config, overrides))
    return [f"{'.'.join(map(str, problem.path))}: {problem.message}; {problem.hint}" for problem in problems]


@pytest.mark.parametrize("name", ["env.params.cost", "env.params.options.cost", "env.wrappers.0.params.func"])
def test_check_asks_about_path_that_arrives_as_text(name: str, market: Path) -> None:
    (warning,) = list_warnings(market, f"{name}=./market.py:quadratic")
    assert warning == (
        f"{name}: '{Path('market.py').absolute()}:quadratic' is passed as text; "
        "{function: PATH} passes the function, {call: PATH} what it returns"
    )


@pytest.mark.parametrize("text", ["./nowhere.py:f", "localhost:port", "os:nothing", "BTC:USD", "sys:maxsize"])
def test_text_that_is_no_path_of_code_is_not_asked_about(text: str, market: Path) -> None:
    assert not list_warnings(market, f"env.params.other={text}")


def test_check_finds_functions_of_modules_without_import(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path().absolute())
    Path("packages").mkdir()
    Path("packages/__init__.py").touch()
    Path("packages/fees.py").write_text("raise SystemExit('imported')\ndef fee(): pass\n")
    assert len(list_warnings(market, "env.params.other=packages.fees:fee")) == 1
    assert not list_warnings(market, "env.params.other=packages.fees:master")


@pytest.mark.parametrize("place", ["env.params.other.price", "env.params.options"])
def test_check_asks_about_mapping_that_is_nearly_a_call(place: str, market: Path) -> None:
    (warning,) = list_warnings(market, f"{place}={{call: ./market.py:make_config, year: 2020}}")
    assert warning == f"{place}: is passed as a mapping: 'call' cannot stand beside 'year'; known: params"


def test_check_names_text_before_it_tries_the_environment(
    market: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    finished = toolkit("check", market, "--set", "env.params.cost=./market.py:quadratic")
    assert finished.status == 2
    assert "is passed as text" in caplog.text
    assert "'str' object is not callable" in finished.err


@pytest.mark.parametrize("name", ["env.params.seed", "env.params.options.rng_seed", "env.params.options.random_state"])
def test_check_names_seed_that_makes_environments_equal(name: str, market: Path) -> None:
    (warning,) = list_warnings(market, f"{name}=7")
    assert warning == (
        f"{name}: is 7 in all 2 environments, which may therefore be equal; "
        "{per_env: {start: 7}} gives environment i 7 + i"
    )
    assert not list_warnings(market, f"{name}=7", "env.n_envs=1")
    assert not list_warnings(market, f"{name}={{per_env: {{start: 7}}}}")
    (warning,) = list_warnings(market, f"{name}={{per_env: [7, 8, 7]}}", "env.n_envs=3")
    assert warning.startswith(f"{name}: is 7 in 2 of 3 environments, which may therefore be equal; ")
    assert not list_warnings(market, "env.params.options={per_env: [{seed: 7}, {seed: 8}]}")


def test_check_names_default_seed_of_environments(market: Path) -> None:
    (warning,) = list_warnings(market, "env.id=./market.py:Levels")
    assert warning.startswith("env.params.level_seed: is 3 by default in all 2 environments")
    assert not list_warnings(market, "env.id=./market.py:Levels", "env.params.level_seed={per_env: [1, 2]}")


# --- trust ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["./market.py:load_prices", "gymnasium:make", "os:system"])
def test_opened_run_of_stranger_calls_nothing(
    reference: str, market: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = tk.train(load_config(market), "run")
    Path("calls.txt").unlink()
    text = run.config.to_yaml().replace(f"{Path('market.py').absolute()}:load_prices", reference)
    (run.directory / "config.yaml").write_text(text)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(ConfigError, match=r"has not trained this run here|standard library"):
        resolve_config(read_config(run.directory / "config.yaml"))
    assert not Path("calls.txt").exists()
