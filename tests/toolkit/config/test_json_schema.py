"""`toolkit schema`: what an editor accepts, refuses and offers, beside what `toolkit check` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, SupportsFloat

import jsonschema
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from support import PROJECT, SMALL_CONFIG, WRAPPER_MODULE, Install, Toolkit

from toolkit.config.json_schema import make_config_schema, make_type_schema
from toolkit.config.load import load_config
from toolkit.config.signatures import bind_arguments
from toolkit.config.yaml_document import dump, parse, read
from toolkit.experiments.config import load_plan
from toolkit.tuning.config import load_tuning
from toolkit.utils.errors import ConfigError

CONFIGS = sorted([*(PROJECT / "configs").glob("*.yaml"), *(PROJECT / "configs/experiments/base").glob("*.yaml")])


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Of what is installed."""
    return make_config_schema()


def problems(data: Any, schema: dict[str, Any]) -> list[str]:
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(data)
    ]


def is_accepted(data: Any, schema: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(data)


def config(text: str) -> Any:
    """Return the small config with some of its parts replaced."""
    return parse(SMALL_CONFIG, "small").data | parse(text, "text").data


def is_checked(data: Any) -> bool:
    """Say whether `toolkit check` accepts a config as far as it needs no building."""
    Path("config.yaml").write_text(dump(data))
    try:
        load_config("config.yaml")
    except ConfigError:
        return False
    return True


def test_what_is_printed_is_a_json_schema(toolkit: Toolkit, schema: dict[str, Any]) -> None:
    printed = toolkit("schema")
    assert (printed.status, printed.err) == (0, "")
    assert json.loads(printed.out) == schema
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


# --- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configs_that_ship_are_accepted(path: Path, schema: dict[str, Any]) -> None:
    assert not problems(read(path).data, schema)


@pytest.mark.parametrize(
    "text",
    [
        "algorithm: double_dqn",
        "algorithm: 'somewhere:Algorithm'",
        "algorithm: {name: 'its:Algorithm', params: {anything: [1]}, policy: 'its:Policy', policy_params: {a: 1}}",
        "algorithm: {name: ppo, params: {learning_rate: {name: linear, params: {start: 1e-3}}, clip_range: 0.1}}",
        "algorithm: {name: ppo, params: {learning_rate: {name: './mine.py:Schedule', params: {anything: 1}}}}",
        "algorithm: {name: ppo, params: {n_steps: 64.0, target_kl: null, device: cpu}}",
        "algorithm: {name: dqn, params: {train_freq: [1, episode], replay_buffer_class: 'a.b:Buffer'}}",
        "algorithm: {name: td3, params: {action_noise: {name: 'a.noise:Noise', params: {mean: [0], sigma: [1]}}}}",
        "algorithm: {name: ppo, policy_params: {net_arch: {pi: [64], vf: [64]}, activation_fn: 'torch.nn:Tanh'}}",
        "algorithm: {name: dqn, policy: DuelingMlpPolicy, policy_params: {net_arch: [8]}}",
        "algorithm: {name: recurrent_ppo, policy: MlpLstmPolicy, policy_params: {lstm_hidden_size: 8}}",
        "callbacks: [progress, {name: max_episodes, params: {max_episodes: 3}}, './mine.py:Callback']",
        "callbacks: [{name: 'mine:Callback', params: {anything: {a: 1}}}]",
        "name: other",
        "env: {id: CartPole-v1, wrappers: [angle_penalty, {name: clip_reward, params: {min_reward: -1}}]}",
        "env: {id: CartPole-v1, wrappers: [{name: angle_penalty}], max_episode_steps: null}",
        "env: {id: CartPole-v1, vec_wrappers: [vec_normalize, {name: vec_frame_stack, params: {n_stack: 2}}]}",
    ],
)
def test_what_check_accepts_is_accepted(text: str, schema: dict[str, Any]) -> None:
    assert not problems(config(text), schema)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "env: {n_envs: 2}",
        "algorithm: {params: {gamma: 0.9}}",
        "algorithm: {params: {learning_rate: {params: {start: 1e-4}}}}",
        "algorithm: {name: ppo, params: {learning_rate: {params: {start: 1e-4}}}}",
        "algorithm: {policy_params: {net_arch: [8]}}",
        "seed: 1",
    ],
)
def test_a_file_that_leaves_the_rest_to_the_one_it_extends_is_accepted(text: str, schema: dict[str, Any]) -> None:
    assert not problems({"extends": "base.yaml", **parse(text, "text").data}, schema)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "timestep: 5",
        "timesteps: many",
        "timesteps: 0",
        "seed: -1",
        "env: {id: CartPole-v1, n_env: 2}",
        "env: {n_envs: 2}",
        # the algorithm
        "algorithm: {params: {gamma: 0.9}}",
        "algorithm: duble_dqn",
        "algorithm: {name: duble_dqn}",
        "algorithm: {name: double_dqn, polcy: MlpPolicy}",
        "algorithm: {name: double_dqn, params: {gama: 0.9}}",
        "algorithm: {name: double_dqn, params: {gamma: '0.9'}}",
        "algorithm: {name: double_dqn, params: {gamma: true}}",
        "algorithm: {name: double_dqn, params: {batch_size: 0.5}}",
        "algorithm: {name: double_dqn, params: {loss: mae}}",
        "algorithm: {name: double_dqn, params: {train_freq: [1, 2, 3]}}",
        "algorithm: {name: double_dqn, params: {replay_buffer_class: ReplayBuffer}}",
        "algorithm: {name: double_dqn, params: {learning_rate: fast}}",
        "algorithm: {name: double_dqn, params: {learning_rate: {name: linear, params: {strt: 1}}}}",
        "algorithm: {name: double_dqn, params: {learning_rate: {name: linear, params: {start: '1'}}}}",
        "algorithm: {name: double_dqn, params: {learning_rate: {name: linear}}}",
        "algorithm: {name: double_dqn, params: {learning_rate: linear}}",
        "algorithm: {name: double_dqn, params: {learning_rate: {name: liner, params: {start: 1}}}}",
        "algorithm: {name: double_dqn, params: {learning_rate: {name: linear, parms: {start: 1}}}}",
        "algorithm: {name: double_dqn, params: {seed: 1}}",
        "algorithm: {name: td3, params: {action_noise: 0.1}}",
        "algorithm: {name: ppo, policy: MlpLstmPolicy}",
        "algorithm: {name: ppo, policy_params: {net_arc: [8]}}",
        "algorithm: {name: ppo, policy_params: {ortho_init: 1}}",
        "algorithm: {name: ppo, policy: CnnPolicy, policy_params: {n_quantiles: 3}}",
        "algorithm: {name: dqn, policy: DuelingMlpPolicy, policy_params: {net_arch: small}}",
        # lists of components
        "callbacks: progress",
        "callbacks: [{params: {}}]",
        "callbacks: [sucess]",
        "callbacks: [success]",
        "callbacks: [{name: success}]",
        "callbacks: [{name: success, params: {episodes: 10}}]",
        "callbacks: [{name: success, params: {threshold: 1, episods: 10}}]",
        "callbacks: [{name: success, params: {threshold: '1'}}]",
        "callbacks: [{name: progress, parms: {}}]",
        "callbacks: [{name: record_video, params: {formats: [avi]}}]",
        "env: {id: CartPole-v1, wrappers: [terminal_reward_clp]}",
        "env: {id: CartPole-v1, wrappers: [{name: terminal_reward_clip, params: {sucess_steps: 1}}]}",
        "env: {id: CartPole-v1, wrappers: [{name: terminal_reward_clip, params: {success_steps: 1.5}}]}",
        "env: {id: CartPole-v1, wrappers: [{name: terminal_reward_clip, params: [195]}]}",
        "env: {id: CartPole-v1, wrappers: [{name: vec_normalize}]}",
        "env: {id: CartPole-v1, vec_wrappers: [{name: vec_normalize, params: {gama: 1}}]}",
        "env: {id: CartPole-v1, vec_wrappers: [{name: vec_normalize, params: {norm_obs: 'yes'}}]}",
        "env: {id: CartPole-v1, vec_wrappers: [vec_frame_stack]}",
    ],
)
def test_what_is_refused_is_refused_by_check_too(text: str, schema: dict[str, Any]) -> None:
    assert not is_accepted(config(text), schema)
    assert not is_checked(config(text))


@pytest.mark.parametrize(
    "text",
    [
        "timestep: 1",
        "env: {n_env: 2}",
        "algorithm: {polcy: MlpPolicy}",
        "algorithm: {name: ppo, params: {gama: 1}}",
        "algorithm: {name: ppo, params: {gamma: x}}",
        "algorithm: {name: ppo, params: {learning_rate: {name: linear, params: {strt: 1}}}}",
        "callbacks: [success]",
        "callbacks: [{params: {threshold: 1}}]",
    ],
)
def test_what_no_base_can_mend_is_refused_in_a_file_that_extends_another(text: str, schema: dict[str, Any]) -> None:
    assert not is_accepted({"extends": "base.yaml", **parse(text, "text").data}, schema)


# --- types ----------------------------------------------------------------------------------------------------------

COMPONENT = {"name": "stable_baselines3.common.noise:NormalActionNoise", "params": {"mean": [0.0], "sigma": [1.0]}}
VALUES = [
    *(None, True, False, 0, 1, 32.0, 0.5, -1, 10**30, float("inf"), float("nan"), "", "x", "1", "step", "mp4"),
    *([], [1], [1, 1], [1, "step"], ["mp4"], [0.5, True], [[1], [2]], {}, {"a": 1}, {"a": {"b": []}}),
    *("torch.nn:ReLU", "linear", "constant", {"name": "constant", "params": {"val": 1}}, {"name": "constant"}),
    *({"name": "linear", "params": {"start": 1.0}}, {"name": "linear", "params": None}, COMPONENT),
]
ANNOTATIONS = [
    *(
        int,
        float,
        bool,
        str,
        Any,
        None,
        int | None,
        float | str,
        Literal["mp4", 1],
        list[int],
        list[Any],
        tuple[int, str],
    ),
    *(tuple[int, ...], int | tuple[int, str], dict[str, int], dict[str, Any], Mapping[str, float], Sequence[float]),
    *(set[int], frozenset[str], bytes, complex, timedelta, Path, object, SupportsFloat, "not a type", np.array),
    *(type, type[torch.nn.Module], str | type[ReplayBuffer], Callable, Callable[[float], float]),
    *(float | Callable[[float], float], Callable[[int, int], float] | None, ActionNoise | None, torch.device | str),
    *(NDArray[np.float64], np.floating[Any] | None, list[type[torch.nn.Module]], dict[str, Callable[[float], float]]),
]


def component_taking(annotation: Any) -> Callable[..., Any]:
    def component(x: Any) -> None: ...

    component.__annotations__["x"] = annotation
    return component


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_every_value_that_a_type_takes_is_accepted(annotation: Any, schema: dict[str, Any]) -> None:
    references = ({"$ref": f"#/$defs/{name}"} for name in ("schedule", "object"))
    of_type = make_type_schema(annotation, *references) | {"$defs": schema["$defs"]}
    for value in VALUES:
        if not bind_arguments(component_taking(annotation), {"x": value}, (), {})[1]:
            assert is_accepted(value, of_type), value


@pytest.mark.parametrize(
    ("annotation", "refused"),
    [
        (int, ["1", 0.5, True, None, [1]]),
        (float | None, ["x", True, [0.5]]),
        (bool, [1, "yes", None]),
        (Literal["mp4", "gif"], ["avi", 1]),
        (list[int], [1, ["x"], {"a": 1}]),
        (tuple[int, str], [[1], [1, 2], [1, "a", "b"]]),
        (dict[str, int], [[1], {"a": "b"}]),
        (type[torch.nn.Module], ["ReLU", 1, {"name": "torch.nn:ReLU"}]),
        (float | Callable[[float], float], ["fast", {"name": "linear"}, [1]]),
        (ActionNoise | None, [1, "x", {"params": {}}]),
        (np.floating[Any], ["x", {}]),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused(annotation: Any, refused: list[Any], schema: dict[str, Any]) -> None:
    references = ({"$ref": f"#/$defs/{name}"} for name in ("schedule", "object"))
    of_type = make_type_schema(annotation, *references) | {"$defs": schema["$defs"]}
    for value in refused:
        assert not is_accepted(value, of_type), value
        assert bind_arguments(component_taking(annotation), {"x": value}, (), {})[1]


# --- what an editor shows -------------------------------------------------------------------------------------------


def params_of(name: str, schema: dict[str, Any], place: str) -> Any:
    """Return the schema of a listed component's parameters."""
    (rule,) = (
        one for one in schema["$defs"][place]["anyOf"][-1]["allOf"] if one["if"]["properties"]["name"]["const"] == name
    )
    return rule["then"]["properties"]["params"]


def test_an_editor_learns_what_each_key_means(schema: dict[str, Any]) -> None:
    described = [*schema["properties"].values(), *schema["$defs"]["EnvConfig"]["properties"].values()]
    assert all("description" in key or "$ref" in key or "anyOf" in key for key in described)


def test_an_editor_learns_the_names_and_what_each_parameter_means(schema: dict[str, Any]) -> None:
    names = {one.get("const"): one.get("description") for one in schema["$defs"]["wrappers"]["anyOf"]}
    assert names["clip_reward"] == "Clips the rewards for an environment between an upper and lower bound."
    assert params_of("success", schema, "callbacks")["properties"]["episodes"] == {
        "type": "integer",
        "description": "size of the window, at least 1",
        "default": 100,
    }


# --- experiments and searches ---------------------------------------------------------------------------------------

FILES = {
    "experiment": ("experiments", "base: small.yaml\nseeds: 2\n", load_plan),
    "tuning": ("tune", "base: small.yaml\ntrials: 2\nsearch: {timesteps: {low: 1, high: 2}}\n", load_tuning),
}
PRINTED: dict[str, dict[str, Any]] = {}


@pytest.fixture
def printed(toolkit: Toolkit) -> Callable[[str], dict[str, Any]]:
    """What `toolkit schema KIND` prints."""

    def once(kind: str) -> dict[str, Any]:
        if kind == "tuning":
            pytest.importorskip("optuna")
        if kind not in PRINTED:
            done = toolkit("schema", kind)
            assert (done.status, done.err) == (0, "")
            PRINTED[kind] = json.loads(done.out)
        return PRINTED[kind]

    return once


@pytest.mark.parametrize("kind", FILES)
def test_what_is_printed_for_an_experiment_or_a_search_is_a_json_schema(kind: str, printed: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(printed(kind))


def with_parts(kind: str, text: str) -> Any:
    """Return a small file of a kind with some of its parts replaced, and a base beside it."""
    Path("small.yaml").write_text(SMALL_CONFIG)
    return parse(FILES[kind][1], "small").data | parse(text, "text").data


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (kind, path)
        for kind, parts in FILES.items()
        for path in sorted((PROJECT / "configs" / parts[0]).glob("*.yaml"))
    ],
    ids=lambda part: getattr(part, "name", part),
)
def test_an_experiment_or_search_that_ships_is_accepted(kind: str, path: Path, printed: Any) -> None:
    assert not problems(read(path).data, printed(kind))


ACCEPTED = {
    "experiment": [
        "{}",
        "name: mine",
        "seeds: [0, 7]",
        "variants: {a: {}, b: {timesteps: 5, env.wrappers: []}}",
        "grid: {algorithm.params.gamma: [0.9, 1]}",
        "variants: null",
        "launcher: local",
        "launcher: {name: local, params: {workers: 2}}",
        "launcher: 'mine:Launcher'",
        "{extends: other.yaml, launcher: {params: {workers: 2}}}",
        "{extends: other.yaml, base: {timesteps: 5}}",
    ],
    "tuning": [
        "objective: timesteps_to_success",
        "{sampler: random, pruner: none, storage: 'sqlite:///here.db'}",
        "sampler: {name: tpe, params: {seed: 0, gamma: {name: 'mine:Gamma'}}}",
        "pruner: {name: patient, params: {wrapped_pruner: {name: 'optuna.pruners:MedianPruner'}, patience: 2}}",
        "pruner: {name: percentile, params: {percentile: 25.0}}",
        "search: {timesteps: {choices: [1, 2]}, algorithm.params.gamma: {low: 0.9, high: 1, log: true}}",
        "{extends: other.yaml, sampler: {params: {seed: 0}}}",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in ACCEPTED.items() for text in texts])
def test_what_an_experiment_or_a_search_may_say_is_accepted(kind: str, text: str, printed: Any) -> None:
    assert not problems(with_parts(kind, text), printed(kind))


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_extends_another_may_leave_the_rest_to_it(kind: str, printed: Any) -> None:
    assert is_accepted({"extends": "other.yaml"}, printed(kind))
    assert not is_accepted({}, printed(kind))


REFUSED = {
    "experiment": [
        "sedes: 2",
        "seeds: 0",
        "seeds: []",
        "seeds: [-1]",
        "variants: {}",
        "variants: {a: 3}",
        "grid: {timesteps: []}",
        "grid: {timesteps: 5}",
        "evaluation_episodes: 0",
        "base: 3",
        "launcher: loca",
        "launcher: {params: {workers: 2}}",
        "launcher: {name: local, parms: {workers: 2}}",
        "launcher: {name: local, params: {worker: 2}}",
        "launcher: {name: local, params: {workers: two}}",
    ],
    "tuning": [
        "tirals: 2",
        "trials: 0",
        "objective: reward",
        "search: {}",
        "search: {timesteps: {lo: 1, high: 2}}",
        "search: {timesteps: {low: one, high: 2}}",
        "sampler: tpee",
        "sampler: {name: tpe, params: {sed: 1}}",
        "pruner: patient",
        "pruner: {name: patient, params: {patience: soon}}",
        "pruner: tpe",
        "launcher: {name: local, params: {worker: 2}}",
        "workers: 0",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in REFUSED.items() for text in texts])
def test_what_is_refused_of_an_experiment_or_a_search_is_refused_by_its_command(
    kind: str, text: str, printed: Any
) -> None:
    data = with_parts(kind, text)
    assert not is_accepted(data, printed(kind))
    Path("file.yaml").write_text(dump(data))
    with pytest.raises(ConfigError):
        FILES[kind][2](Path("file.yaml"))


def test_a_config_in_an_experiment_is_described_as_in_a_file_of_its_own(printed: Any) -> None:
    base = config("{}")
    assert not problems({"base": base, "seeds": 1}, printed("experiment"))
    for wrong in ("tmesteps: 5", "callbacks: [sucess]", "algorithm: {name: ppo, params: {gama: 1}}"):
        assert not is_accepted({"base": config(wrong), "seeds": 1}, printed("experiment"))


@pytest.mark.parametrize("kind", FILES)
def test_an_editor_learns_what_each_key_of_an_experiment_or_a_search_means(kind: str, printed: Any) -> None:
    assert all("description" in key for key in printed(kind)["properties"].values())


# --- plugins of others ----------------------------------------------------------------------------------------------


def test_a_plugin_s_parameters_are_known(install: Install) -> None:
    source = WRAPPER_MODULE.replace("pass", "def __init__(self, env, factor: float): super().__init__(env)")
    install("factor-dist", "factored_module", source)
    found = make_config_schema()
    wrapper = "env: {{id: CartPole-v1, wrappers: [{}]}}".format
    assert is_accepted(config(wrapper("{name: mine, params: {factor: 2}}")), found)
    for wrong in (
        "mine",
        "{name: mine}",
        "{name: mine, params: {factor: x}}",
        "{name: mine, params: {factor: 1, a: 2}}",
    ):
        assert not is_accepted(config(wrapper(wrong)), found)


def test_a_broken_plugin_is_left_out(install: Install, toolkit: Toolkit) -> None:
    install("broken-dist", "cracked_module", "raise RuntimeError('half installed')\n")
    printed = toolkit("schema")
    assert (printed.status, printed.err) == (0, "")
    assert not is_accepted(config("env: {id: CartPole-v1, wrappers: [mine]}"), json.loads(printed.out))
    assert is_accepted(config("{}"), json.loads(printed.out))


def test_a_name_that_is_claimed_twice_is_left_out(install: Install) -> None:
    install("first-dist", "fifth_module")
    install("second-dist", "sixth_module")
    assert not is_accepted(config("env: {id: CartPole-v1, wrappers: [mine]}"), make_config_schema())


def test_an_algorithm_s_required_parameter_and_its_policies_are_known(install: Install) -> None:
    source = """\
from stable_baselines3 import PPO

class Mine(PPO):
    policy_aliases = {"OnlyPolicy": PPO.policy_aliases["MlpPolicy"]}

    def __init__(self, policy, env, needed: int, **kwargs):
        super().__init__(policy, env, **kwargs)
"""
    install("their-algorithm", "their_algorithm", source, kind="algorithms")
    found = make_config_schema()
    assert is_accepted(config("algorithm: {name: mine, policy: OnlyPolicy, params: {needed: 1, gamma: 0.9}}"), found)
    for wrong in (
        "algorithm: mine",
        "algorithm: {name: mine, policy: OnlyPolicy}",
        "algorithm: {name: mine, policy: MlpPolicy, params: {needed: 1}}",
        "algorithm: {name: mine, policy: OnlyPolicy, params: {needed: 1}, policy_params: {net_arc: []}}",
    ):
        assert not is_accepted(config(wrong), found)
        assert not is_checked(config(wrong))
