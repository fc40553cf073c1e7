"""Parameters of a config, checked against the signatures of components."""

from __future__ import annotations

import enum
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
from stable_baselines3.her import GoalSelectionStrategy
from support import SMALL_CONFIG

from toolkit.algorithms.double_dqn import DoubleDQN
from toolkit.config.load import load_config
from toolkit.config.registry import KINDS
from toolkit.config.signatures import bind_arguments, read_signature
from toolkit.config.type_hints import format_type
from toolkit_plugins.schedules import Linear
from toolkit_plugins.success import MeanReturnSuccess
from toolkit_plugins.vector_envs import CartPole
from toolkit_plugins.video import RecordVideoCallback
from toolkit_plugins.wrappers.rewards import TerminalRewardClip


def bind(component: Callable[..., Any], **params: Any) -> dict[str, Any]:
    arguments, problems = bind_arguments(component, params, (), {"policy": "the policy", "env": "the environment"})
    assert not problems
    return arguments


def list_problems(component: Callable[..., Any], **params: Any) -> list[str]:
    problems = bind_arguments(component, params, (), {"policy": "the policy", "env": "the environment"})[1]
    return [problem.text({}) for problem in problems]


# --- signatures -----------------------------------------------------------------------------------------------------


def test_double_dqn_has_dqn_parameters_and_its_own() -> None:
    ours, stock = read_signature(DoubleDQN), read_signature(DQN)
    own = {"compile", "double", "exploration", "loss", "loss_over_all_actions", "n_epochs", "sample_with_replacement"}
    own |= {"munchausen_alpha", "munchausen_tau", "munchausen_clip"}
    assert ours.parameters.keys() == stock.parameters.keys() | own
    assert not ours.accepts_others
    for name in stock.parameters.keys() - {"policy", "env", "target_update_interval"}:
        assert format_type(ours.parameters[name].annotation) == format_type(stock.parameters[name].annotation) != "any"


def test_own_parameter_of_double_dqn_has_type() -> None:
    assert read_signature(DoubleDQN).parameters["double"].annotation is bool


def test_default_of_subclass_wins_over_parent() -> None:
    class Parent:
        def __init__(self, a: int = 1, b: int = 2) -> None: ...

    class Child(Parent):
        def __init__(self, a: int = 3, **kwargs: Any) -> None: ...

    named = read_signature(Child).parameters
    assert {name: parameter.default for name, parameter in named.items()} == {"a": 3, "b": 2}


def test_class_without_kwargs_has_no_parent_parameters() -> None:
    class Child(DQN):
        def __init__(self, mine: int) -> None: ...

    assert read_signature(Child).parameters.keys() == {"mine"}


def test_first_method_parameter_is_skipped_under_any_name() -> None:
    class Parent:
        def __init__(this, a: int) -> None: ...

    class Child(Parent):
        def __init__(me, b: int, **kwargs: Any) -> None: ...

    class Positional:
        def __init__(this, env: Any, /, c: int) -> None: ...

    assert read_signature(Child).parameters.keys() == {"a", "b"}
    assert read_signature(Positional).parameters.keys() == {"c"}


def test_unknown_kwargs_accept_any_name() -> None:
    def factory(mine: int, **anything: Any) -> None: ...

    assert bind(factory, mine=1, other="x") == {"mine": 1, "other": "x"}


def test_text_for_enumeration_of_sb3_names_member() -> None:
    def component(strategy: GoalSelectionStrategy | str) -> None: ...

    for text in ("future", "FUTURE"):
        assert bind(component, strategy=text) == {"strategy": text}
    message = "strategy: should be 'future' or 'final' or 'episode', not 'futur'"
    assert list_problems(component, strategy="futur") == [message]


class Color(enum.Enum):
    RED = "red"


def test_any_text_is_valid_beside_other_enumerations() -> None:
    def component(color: Color | str) -> None: ...

    for text in ("red", "#ff0000"):
        assert bind(component, color=text) == {"color": text}


def test_broken_annotation_does_not_hide_others() -> None:
    class Component:
        def __init__(self, known: int, unknown: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert list_problems(Component, known="x", unknown="anything") == ["known: should be int, not 'x'"]


class Rewarding(Protocol):
    """A protocol that cannot be checked at run time."""

    def __call__(self, observation: Any) -> float: ...


@pytest.mark.parametrize("annotation", [Rewarding, Rewarding | None, "not a type", np.array])
def test_unusable_annotation_accepts_any_value(annotation: Any) -> None:
    assert bind(make_component(annotation), x=[1]) == {"x": [1]}


# --- names ----------------------------------------------------------------------------------------------------------


def test_unknown_parameter_is_refused_with_suggestion() -> None:
    assert list_problems(DoubleDQN, gama=0.9) == ["gama: unknown parameter; did you mean 'gamma'?"]


def test_unknown_parameter_without_match_lists_all() -> None:
    assert list_problems(Linear, start=1, xyz=2) == ["xyz: unknown parameter; known: end, end_fraction"]


def test_missing_parameter_is_reported() -> None:
    assert list_problems(MeanReturnSuccess) == ["threshold: required parameter is missing"]


def test_every_problem_is_reported() -> None:
    assert list_problems(MeanReturnSuccess, episods=1, min_timesteps="x") == [
        "episods: unknown parameter; did you mean 'episodes'?",
        "min_timesteps: should be int, not 'x'",
        "threshold: required parameter is missing",
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind.name, name) for kind in KINDS.values() for name in kind.supplied],
    ids=str,
)
def test_supplied_parameter_is_refused_with_its_source(kind: str, name: str) -> None:
    component = {
        **{"algorithms": DoubleDQN, "policies": DQN.policy_aliases["MlpPolicy"]},
        **{"wrappers": TerminalRewardClip, "vec_wrappers": VecNormalize, "replay_buffers": ReplayBuffer},
        "vector_envs": CartPole,
    }
    problems = bind_arguments(component[kind], {name: 1}, (), KINDS[kind].supplied)[1]
    assert [problem.text({}) for problem in problems] == [
        f"{name}: cannot be set here: it comes from {KINDS[kind].supplied[name]}"
    ]


# --- values ---------------------------------------------------------------------------------------------------------


def make_component(annotation: Any) -> Callable[..., Any]:
    """Return a component with one parameter of that type."""

    def component(x: Any) -> None: ...

    component.__annotations__["x"] = annotation
    return component


@pytest.mark.parametrize(
    ("annotation", "value", "converted"),
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
def test_valid_value_is_converted_to_type(annotation: Any, value: Any, converted: Any) -> None:
    actual = bind(make_component(annotation), x=value)["x"]
    assert actual == converted
    assert type(actual) is type(converted)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
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
def test_invalid_value_is_refused_with_expected_type(annotation: Any, value: Any, expected: str) -> None:
    (message,) = list_problems(make_component(annotation), x=value)
    assert message.startswith(f"x: should be {expected}, not ")


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
def test_shipped_component_refuses_wrong_type(component: Any, params: dict[str, Any]) -> None:
    (message,) = list_problems(component, **params)
    assert f"{next(iter(params))}: should be " in message


def test_train_freq_accepts_pair() -> None:
    assert bind(DoubleDQN, train_freq=[1, "step"]) == {"train_freq": (1, "step")}


# --- classes and objects --------------------------------------------------------------------------------------------


def test_missing_class_is_refused_with_suggestion() -> None:
    message = list_problems(make_component(type[torch.nn.Module]), x="torch.nn:RLU")
    assert message == ["x: 'torch.nn' has no 'RLU'; did you mean 'ReLU'?"]


def test_schedule_replaces_number() -> None:
    schedule = {"name": "linear", "params": {"start": 1e-3, "end_fraction": 0.5}}
    built = bind(DoubleDQN, learning_rate=schedule)["learning_rate"]
    assert isinstance(built, Linear)
    assert built(1.0) == pytest.approx(1e-3)
    assert built(0.5) == 0.0


def test_schedule_with_other_call_signature_is_refused() -> None:
    harmonic = {"name": "harmonic", "params": {"final": 0.1, "scale": 0.5}}
    linear = {"name": "linear", "params": {"start": 0.5}}
    assert bind(DoubleDQN, exploration=harmonic)["exploration"](4, 1_000) == pytest.approx(0.2)
    (message,) = list_problems(DoubleDQN, learning_rate=harmonic)
    assert message == (
        "learning_rate: 'harmonic' does not fit: it is called with (episode, timestep), here with (float)"
    )
    (message,) = list_problems(DoubleDQN, exploration=linear)
    assert message.endswith("it is called with (progress_remaining), here with (int, int)")


def test_target_update_interval_accepts_steps_or_pair() -> None:
    assert bind(DoubleDQN, target_update_interval=[1, "episode"]) == {"target_update_interval": (1, "episode")}
    assert bind(DoubleDQN, target_update_interval=100) == {"target_update_interval": 100}
    (message,) = list_problems(DoubleDQN, target_update_interval=[1, "epoch"])
    assert "target_update_interval: should be int or tuple" in message


def test_action_noise_is_built_from_lists() -> None:
    from stable_baselines3 import TD3

    noise = "stable_baselines3.common.noise:NormalActionNoise"
    built = bind(TD3, action_noise={"name": noise, "params": {"mean": [0.0, 0.0], "sigma": [0.1, 0.2]}})
    assert isinstance(built["action_noise"], NormalActionNoise)
    assert built["action_noise"]().shape == (2,)


def test_list_becomes_array() -> None:
    built = bind(make_component(NDArray[np.float64]), x=[[1.0, 2.0], [3.0, 4.0]])["x"]
    assert isinstance(built, np.ndarray)
    assert built.shape == (2, 2)


def test_ragged_list_is_refused_as_array() -> None:
    assert list_problems(make_component(NDArray[np.float64]), x=[[1.0], [2.0, 3.0]])[0].startswith("x: should be ")


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
def test_invalid_component_in_parameter_is_refused(value: Any, message: str) -> None:
    problems = list_problems(make_component(float | Callable[[float], float]), x=value)
    assert problems[0].startswith(message)


def test_components_of_config_have_converted_arguments() -> None:
    path = Path("run.yaml")
    path.write_text(SMALL_CONFIG)
    schedule = "algorithm.params.learning_rate={name: constant, params: {val: 0.5}}"
    activation = "algorithm.policy_params.activation_fn=torch.nn:Tanh"
    components = load_config(path, [schedule, activation, "algorithm.params.train_freq=[2, episode]"]).components
    assert components.algorithm.arguments["learning_rate"](1.0) == 0.5
    assert components.algorithm.arguments["train_freq"] == (2, "episode")
    assert components.policy_arguments == {"net_arch": [16, 16], "activation_fn": torch.nn.Tanh}
