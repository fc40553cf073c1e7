"""Parameters from a config against the signature of what they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from support import SMALL_CONFIG

from toolkit.algorithms.double_dqn import DoubleDQN
from toolkit.config.load import load_config
from toolkit.config.registry import KINDS
from toolkit.config.signatures import bind_arguments, read_signature
from toolkit.config.type_hints import format_type
from toolkit_plugins.schedules import Linear
from toolkit_plugins.success import MeanReturnSuccess
from toolkit_plugins.video import RecordVideoCallback
from toolkit_plugins.wrappers.rewards import TerminalRewardClip


def bound(component: Callable[..., Any], **params: Any) -> dict[str, Any]:
    arguments, problems = bind_arguments(component, params, (), {"policy": "the policy", "env": "the environment"})
    assert not problems
    return arguments


def problems_with(component: Callable[..., Any], **params: Any) -> list[str]:
    problems = bind_arguments(component, params, (), {"policy": "the policy", "env": "the environment"})[1]
    return [problem.text({}) for problem in problems]


# --- signatures -----------------------------------------------------------------------------------------------------


def test_double_dqn_takes_the_parameters_of_dqn_and_its_own() -> None:
    ours, stock = read_signature(DoubleDQN), read_signature(DQN)
    own = {"compile", "double", "exploration", "loss", "loss_over_all_actions", "n_epochs", "sample_with_replacement"}
    assert ours.parameters.keys() == stock.parameters.keys() | own
    assert not ours.accepts_others
    for name in stock.parameters.keys() - {"policy", "env", "target_update_interval"}:
        assert format_type(ours.parameters[name].annotation) == format_type(stock.parameters[name].annotation) != "any"


def test_the_type_of_double_dqn_s_own_parameter_is_known() -> None:
    assert read_signature(DoubleDQN).parameters["double"].annotation is bool


def test_a_subclass_s_default_counts_before_its_parent_s() -> None:
    class Parent:
        def __init__(self, a: int = 1, b: int = 2) -> None: ...

    class Child(Parent):
        def __init__(self, a: int = 3, **kwargs: Any) -> None: ...

    named = read_signature(Child).parameters
    assert {name: parameter.default for name, parameter in named.items()} == {"a": 3, "b": 2}


def test_a_class_that_passes_nothing_on_does_not_take_its_parent_s_parameters() -> None:
    class Child(DQN):
        def __init__(self, mine: int) -> None: ...

    assert read_signature(Child).parameters.keys() == {"mine"}


def test_the_object_that_a_constructor_makes_is_no_parameter_whatever_it_is_called() -> None:
    class Parent:
        def __init__(this, a: int) -> None: ...

    class Child(Parent):
        def __init__(me, b: int, **kwargs: Any) -> None: ...

    class Positional:
        def __init__(this, env: Any, /, c: int) -> None: ...

    assert read_signature(Child).parameters.keys() == {"a", "b"}
    assert read_signature(Positional).parameters.keys() == {"c"}


def test_keyword_arguments_that_end_in_no_known_signature_are_all_taken() -> None:
    def factory(mine: int, **anything: Any) -> None: ...

    assert bound(factory, mine=1, other="x") == {"mine": 1, "other": "x"}


def test_one_annotation_that_cannot_be_evaluated_does_not_hide_the_others() -> None:
    class Component:
        def __init__(self, known: int, unknown: "NoSuchName") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

    assert problems_with(Component, known="x", unknown="anything") == ["known: should be int, not 'x'"]


class Rewarding(Protocol):
    """A protocol that cannot be checked at run time."""

    def __call__(self, observation: Any) -> float: ...


@pytest.mark.parametrize("annotation", [Rewarding, Rewarding | None, "not a type", np.array])
def test_an_annotation_that_cannot_be_checked_lets_every_value_through(annotation: Any) -> None:
    assert bound(takes(annotation), x=[1]) == {"x": [1]}


# --- names ----------------------------------------------------------------------------------------------------------


def test_an_unknown_parameter_is_refused_with_a_suggestion() -> None:
    assert problems_with(DoubleDQN, gama=0.9) == ["gama: unknown parameter; did you mean 'gamma'?"]


def test_a_parameter_unlike_any_other_is_refused_with_all_there_are() -> None:
    assert problems_with(Linear, start=1, xyz=2) == ["xyz: unknown parameter; known: end, end_fraction"]


def test_a_missing_parameter_is_reported() -> None:
    assert problems_with(MeanReturnSuccess) == ["threshold: required parameter is missing"]


def test_every_problem_is_reported() -> None:
    assert problems_with(MeanReturnSuccess, episods=1, min_timesteps="x") == [
        "episods: unknown parameter; did you mean 'episodes'?",
        "min_timesteps: should be int, not 'x'",
        "threshold: required parameter is missing",
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind.name, name) for kind in KINDS.values() for name in kind.supplied], ids="-".join
)
def test_a_parameter_that_the_toolkit_fills_in_is_refused_with_where_it_comes_from(kind: str, name: str) -> None:
    component = {
        **{"algorithms": DoubleDQN, "policies": DQN.policy_aliases["MlpPolicy"]},
        **{"wrappers": TerminalRewardClip, "vec_wrappers": VecNormalize},
    }
    problems = bind_arguments(component[kind], {name: 1}, (), KINDS[kind].supplied)[1]
    assert [problem.text({}) for problem in problems] == [
        f"{name}: cannot be set here: it comes from {KINDS[kind].supplied[name]}"
    ]


# --- values ---------------------------------------------------------------------------------------------------------


def takes(annotation: Any) -> Callable[..., Any]:
    """Return a component with one parameter of that type."""

    def component(x: Any) -> None: ...

    component.__annotations__["x"] = annotation
    return component


@pytest.mark.parametrize(
    ("annotation", "value", "taken"),
    [
        (int, 32, 32),
        (int, 32.0, 32),
        (float, 0.5, 0.5),
        (float, 1, 1.0),
        (float | None, None, None),
        (bool, True, True),
        (str, "32", "32"),
        (int | str, "32", "32"),
        (float | Literal["auto"], "auto", "auto"),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (int | tuple[int, str], [1, "step"], (1, "step")),
        (int | tuple[int, str], 4, 4),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[str, Any], {"name": "x", "params": {}}, {"name": "x", "params": {}}),
        (list[Literal["mp4", "gif"]] | None, ["gif"], ["gif"]),
        (Any, {"a": [1, "b"]}, {"a": [1, "b"]}),
        (type[torch.nn.Module], "torch.nn:Tanh", torch.nn.Tanh),
        (type[torch.nn.Module] | None, "torch.nn:Tanh", torch.nn.Tanh),
        (type[torch.nn.Module] | None, None, None),
        (str | type[ReplayBuffer], "stable_baselines3.common.buffers:ReplayBuffer", ReplayBuffer),
    ],
)
def test_a_value_that_fits_is_taken_as_the_type_says(annotation: Any, value: Any, taken: Any) -> None:
    found = bound(takes(annotation), x=value)["x"]
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"),
    [
        (int, "32", "int"),
        (int, True, "int"),
        (int, 32.5, "int"),
        (int, None, "int"),
        (int, [1], "int"),
        (float, "1e-3", "float"),
        (float, False, "float"),
        (float | None, "x", "float or null"),
        (bool, 1, "bool"),
        (bool, "no", "bool"),
        (bool, "true", "bool"),
        (str, 5, "str"),
        (str, True, "str"),
        (list[int], 5, "list[int]"),
        (list[int], "12", "list[int]"),
        (list[int], [1, "2"], "list[int]"),
        (list[int], [1, True], "list[int]"),
        (list[int] | None, {"a": 1}, "list[int] or null"),
        (int | tuple[int, str], [1, 2, 3], "int or tuple[int, str]"),
        (int | tuple[int, str], ["step", 1], "int or tuple[int, str]"),
        (int | tuple[int, str], "1", "int or tuple[int, str]"),
        (dict[str, int], {"a": "1"}, "dict[str, int]"),
        (dict[str, Any], [1], "dict[str, Any]"),
        (Literal["mp4", "gif"], "avi", "'mp4' or 'gif'"),
        (type[torch.nn.Module], "Tanh", "type[torch.nn.modules.module.Module]"),
        (type[torch.nn.Module], "os:system", "type[torch.nn.modules.module.Module]"),
        (type[torch.nn.Module], "gymnasium:Wrapper", "type[torch.nn.modules.module.Module]"),
        (type[torch.nn.Module], {"name": "torch.nn:Tanh"}, "type[torch.nn.modules.module.Module]"),
        (float | Callable[[float], float], "linera", "float or Callable[[float], float]"),
        (ActionNoise | None, [0.1], "ActionNoise or null"),
        (ActionNoise, {"name": "torch.nn:Tanh"}, "ActionNoise"),
        (int, {"name": "linear", "params": {"start": 1}}, "int"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_is_wanted(annotation: Any, value: Any, wanted: str) -> None:
    (message,) = problems_with(takes(annotation), x=value)
    assert message.startswith(f"x: should be {wanted}, not ")


@pytest.mark.parametrize(
    ("component", "params"),
    [
        (DoubleDQN, {"batch_size": "32"}),
        (DoubleDQN, {"double": "no"}),
        (DoubleDQN, {"train_freq": [1, 2, 3]}),
        (DoubleDQN, {"learning_rate": "fast"}),
        (RecordVideoCallback, {"on_success": "yes"}),
        (RecordVideoCallback, {"formats": ["avi"]}),
        (TerminalRewardClip, {"success_steps": 1.5}),
    ],
)
def test_a_wrong_type_is_refused_for_the_components_that_ship(component: Any, params: dict[str, Any]) -> None:
    (message,) = problems_with(component, **params)
    assert f"{next(iter(params))}: should be " in message


def test_train_freq_is_given_as_a_pair() -> None:
    assert bound(DoubleDQN, train_freq=[1, "step"]) == {"train_freq": (1, "step")}


# --- classes and objects --------------------------------------------------------------------------------------------


def test_a_class_that_does_not_exist_is_refused_with_a_suggestion() -> None:
    message = problems_with(takes(type[torch.nn.Module]), x="torch.nn:RLU")
    assert message == ["x: 'torch.nn' has no 'RLU'; did you mean 'ReLU'?"]


def test_a_schedule_stands_in_the_place_of_a_number() -> None:
    schedule = {"name": "linear", "params": {"start": 1e-3, "end_fraction": 0.5}}
    made = bound(DoubleDQN, learning_rate=schedule)["learning_rate"]
    assert isinstance(made, Linear)
    assert made(1.0) == pytest.approx(1e-3)
    assert made(0.5) == 0.0


def test_a_schedule_that_is_called_otherwise_does_not_fit() -> None:
    harmonic = {"name": "harmonic", "params": {"final": 0.1, "scale": 0.5}}
    linear = {"name": "linear", "params": {"start": 0.5}}
    assert bound(DoubleDQN, exploration=harmonic)["exploration"](4, 1_000) == pytest.approx(0.2)
    (message,) = problems_with(DoubleDQN, learning_rate=harmonic)
    assert message == (
        "learning_rate: 'harmonic' does not fit: it is called with (episode, timestep), here with (float)"
    )
    (message,) = problems_with(DoubleDQN, exploration=linear)
    assert message.endswith("it is called with (progress_remaining), here with (int, int)")


def test_a_target_update_is_given_in_steps_or_as_a_pair() -> None:
    assert bound(DoubleDQN, target_update_interval=[1, "episode"]) == {"target_update_interval": (1, "episode")}
    assert bound(DoubleDQN, target_update_interval=100) == {"target_update_interval": 100}
    (message,) = problems_with(DoubleDQN, target_update_interval=[1, "epoch"])
    assert "target_update_interval: should be int or tuple" in message


def test_action_noise_is_built_from_lists_of_numbers() -> None:
    from stable_baselines3 import TD3

    noise = "stable_baselines3.common.noise:NormalActionNoise"
    made = bound(TD3, action_noise={"name": noise, "params": {"mean": [0.0, 0.0], "sigma": [0.1, 0.2]}})
    assert isinstance(made["action_noise"], NormalActionNoise)
    assert made["action_noise"]().shape == (2,)


def test_a_list_becomes_an_array() -> None:
    made = bound(takes(NDArray[np.float64]), x=[[1.0, 2.0], [3.0, 4.0]])["x"]
    assert isinstance(made, np.ndarray)
    assert made.shape == (2, 2)


def test_lists_of_different_lengths_are_no_array() -> None:
    assert problems_with(takes(NDArray[np.float64]), x=[[1.0], [2.0, 3.0]])[0].startswith("x: should be ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "liner"}, "x.name: schedule 'liner' does not exist; did you mean 'linear'?"),
        ({"name": "os:system"}, "x.name: 'os:system' is not a class"),
        ({"name": "no_such_module:X"}, "x.name: module 'no_such_module' does not exist"),
        ({"name": "linear"}, "x.params.start: required parameter is missing"),
        ("linear", "x.params.start: required parameter is missing"),
        ({"name": "linear", "params": {"strt": 1}}, "x.params.strt: unknown parameter; did you mean 'start'?"),
        ({"name": "linear", "params": {"start": "1"}}, "x.params.start: should be float, not '1'"),
        ({"name": "linear", "params": [1]}, "x: should be a component"),
        ({"name": 5}, "x: should be a component"),
        (
            {"name": "linear", "params": {"start": 1, "end_fraction": 2}},
            "x: linear cannot be built: ValueError: end_fr",
        ),
    ],
)
def test_an_object_that_cannot_be_built_is_refused(value: Any, message: str) -> None:
    (found,) = problems_with(takes(float | Callable[[float], float]), x=value)
    assert found.startswith(message)


def test_the_values_a_config_gives_reach_the_components_converted() -> None:
    path = Path("run.yaml")
    path.write_text(SMALL_CONFIG)
    schedule = "algorithm.params.learning_rate={name: constant, params: {val: 0.5}}"
    activation = "algorithm.policy_params.activation_fn=torch.nn:Tanh"
    components = load_config(path, [schedule, activation, "algorithm.params.train_freq=[2, episode]"]).components
    assert components.algorithm.arguments["learning_rate"](1.0) == 0.5
    assert components.algorithm.arguments["train_freq"] == (2, "episode")
    assert components.policy_arguments == {"net_arch": [16, 16], "activation_fn": torch.nn.Tanh}
