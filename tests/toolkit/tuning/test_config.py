"""The tuning file: the search space that it describes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import PROJECT, Toolkit
from tuning_files import BASE, SEARCH, change_search, write_variant_of_base

from toolkit import load_config
from toolkit.tuning.config import load_tuning

pytest.importorskip("optuna")

GAMMA = "algorithm.params.gamma"


@pytest.mark.parametrize(("name", "base"), [("cartpole_fast", "cartpole_fast"), ("cartpole_rewards", "cartpole_ddqn")])
def test_shipped_search_contains_values_of_its_base(name: str, base: str) -> None:
    plan = load_tuning(PROJECT / "configs" / "tune" / f"{name}.yaml")
    assert plan.base == load_config(PROJECT / "configs" / f"{base}.yaml")
    for dimension in plan.space:
        assert dimension.contains(dimension.base_value), dimension.path


def test_missing_base_value_differs_from_null() -> None:
    for base, is_set in ((BASE, False), (BASE.replace("slope: 1.0", "slope: 1.0, delay: null"), True)):
        Path("base.yaml").write_text(base)
        (dimension,) = load_tuning(change_search(search="{env.params.delay: {choices: [null, 0.0]}}")).space
        assert dimension.contains(dimension.base_value) == is_set


@pytest.mark.parametrize(
    ("path", "domain", "message"),
    [
        ("algorithm.params.gama", "{low: 0.1, high: 0.2}", ": unknown parameter; did you mean 'gamma'?"),
        ("envv.id", "{choices: [CartPole-v1]}", ": envv: unknown key; did you mean 'env'?"),
        (GAMMA, "{low: 0.9, high: 0.1}", ".low: should be below high, which is 0.1, not 0.9"),
        (GAMMA, "{low: 0, high: 1, log: true}", ".low: should be above 0 on a logarithmic scale, not 0"),
        (GAMMA, "{low: 0.1}", ": needs low and high, or choices"),
        (GAMMA, "{choices: []}", ".choices: is empty"),
        (GAMMA, "{choices: [0.1], low: 0}", ": has choices and low; give one or the other"),
        (GAMMA, "{choices: [0.1, 0.1]}", ".choices: a value appears more than once"),
        (GAMMA, "{choices: [0.1, .nan]}", ".choices.1: cannot be searched: nan is not equal to itself"),
        (GAMMA, "{low: 0, high: .inf}", ".high: should be a number, not inf"),
        (GAMMA, "{choices: [0.1, much]}", ".choices.1: should be float, not 'much'"),
        (GAMMA, "{low: a, high: 1}", ".low: should be a number, not 'a'"),
        (GAMMA, "{low: 0.1, high: 0.9, log: true, step: 0.1}", ".step: cannot be combined with log"),
        (GAMMA, "{low: 0.1, high: 0.9, step: 2}", ".step: should be above 0 and at most high - low, not 2"),
        (GAMMA, "{low: 0.1, high: 0.9, step: 0.3}", ".high: should be a whole number of steps above low, 0.7 or 1"),
        ("algorithm.params.buffer_size", "{low: 100, high: 200, step: 0.5}", ".step: should be int, not 100.5"),
        (GAMMA, "{lo: 0.1, high: 0.9}", ".lo: unknown key; did you mean 'low'?"),
        ("env.n_envs", "{low: 0, high: 4}", ".low: should be greater than or equal to 1, not 0"),
        ("timesteps", "{low: 10, high: 20}", ": cannot be searched: trials are compared at equal timesteps"),
    ],
)
def test_invalid_search_space_is_refused(path: str, domain: str, message: str, toolkit: Toolkit) -> None:
    Path("search.yaml").write_text(SEARCH.replace("env.params.slope: {choices: [1.0, 2.0, 0.5]}", f"{path}: {domain}"))
    finished = toolkit("tune", "search.yaml")
    assert (finished.status, finished.out) == (2, "")
    assert f"search.yaml:3: search.{path}{message}" in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not Path("tunings").exists()


def test_value_inside_another_searched_value_is_refused(toolkit: Toolkit) -> None:
    change_search(search=f"{{{GAMMA}: {{low: 0.1, high: 0.2}}, algorithm.params: {{choices: [{{gamma: 0.3}}]}}}}")
    finished = toolkit("tune", "search.yaml")
    assert (finished.status, finished.out) == (2, "")
    assert f"search.{GAMMA}: is a part of algorithm.params, which is searched, too" in finished.err


def test_params_are_searched_only_after_component_name(toolkit: Toolkit) -> None:
    name, threshold = "callbacks.0.name: {choices: [success]}", "callbacks.0.params.threshold: {low: 1, high: 2}"
    assert load_tuning(change_search(search=f"{{{name}, {threshold}}}"))
    finished = toolkit("tune", change_search(search=f"{{{threshold}, {name}}}"))
    assert (finished.status, finished.out) == (2, "")
    assert "search.callbacks.0.params.threshold: is replaced by callbacks.0.name, which comes later" in finished.err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trials", "0", "trials: should be greater than or equal to 1, not 0"),
        ("seeds", "0", "seeds: should be 1 to 10,000, or a list of seeds, not 0"),
        ("seeds", "[1, 1]", "seeds: a seed appears more than once"),
        ("sampler", "tpee", "sampler.name: sampler 'tpee' does not exist; did you mean 'tpe'?"),
        ("sampler", "{name: tpe, params: {sed: 0}}", "sampler.params.sed: unknown parameter; did you mean 'seed'?"),
        ("pruner", "mean", "pruner.name: pruner 'mean' does not exist; did you mean 'median'?"),
        ("pruner", "{name: hyperband, params: {reduction_factor: many}}", "should be int, not 'many'"),
        ("objective", "speed", "objective: should be 'mean_return' or 'timesteps_to_success'"),
        ("base", "nowhere.yaml", "base: the file nowhere.yaml does not exist"),
        ("base", "b" * 300, "base: the file bbb"),
        ("trails", "3", "trails: unknown key; did you mean 'trials'?"),
    ],
)
def test_invalid_file_is_refused(key: str, value: str, message: str, toolkit: Toolkit) -> None:
    change_search(**{key: value})
    finished = toolkit("tune", "search.yaml")
    assert (finished.status, finished.out) == (2, "")
    assert message in finished.err
    assert finished.err.startswith("search.yaml:")
    assert not Path("tunings").exists()


def test_timesteps_to_success_needs_success_criterion(toolkit: Toolkit) -> None:
    change_search(base=write_variant_of_base("other.yaml", "callbacks: []"), objective="timesteps_to_success")
    message = "objective: the base has no success criterion; add the callback 'success'"
    assert message in toolkit("tune", "search.yaml").err
