"""`toolkit schema`: what editors accept, refuse and show, compared with `toolkit check`."""

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
    """The schema of a config with the installed components."""
    return make_config_schema()


def list_problems(data: Any, schema: dict[str, Any]) -> list[str]:
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(data)
    ]


def is_accepted(data: Any, schema: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(data)


def make_config(text: str) -> Any:
    """Return the small config with some of its parts replaced."""
    return parse(SMALL_CONFIG, "small").data | parse(text, "text").data


def passes_check(data: Any) -> bool:
    """Return whether `toolkit check` accepts a config, without building it."""
    Path("config.yaml").write_text(dump(data))
    try:
        load_config("config.yaml")
    except ConfigError:
        return False
    return True


def test_schema_command_prints_valid_json_schema(toolkit: Toolkit, schema: dict[str, Any]) -> None:
    printed = toolkit("schema")
    assert (printed.status, printed.err) == (0, "")
    assert json.loads(printed.out) == schema
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


# --- accepted configs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_schema_accepts_shipped_configs(path: Path, schema: dict[str, Any]) -> None:
    assert not list_problems(read(path).data, schema)


@pytest.mark.parametrize(
    "text",
    [
        "algorithm: double_dqn",
        "algorithm: 'somewhere:Algorithm'",
        "algorithm: {name: 'its:Algorithm', params: {anything: [1]}, policy: 'its:Policy', policy_params: {a: 1}}",
        "algorithm: {name: ppo, params: {learning_rate: {name: linear, params: {start: 1e-3}}, clip_range: 0.1}}",
        "algorithm: {name: ppo, params: {learning_rate: {name: './mine.py:Schedule', params: {anything: 1}}}}",
        "algorithm: {name: ppo, params: {learning_rate: './mine.py:cosine', n_steps: {call: './mine.py:f'}}}",
        "algorithm: {name: ppo, params: {learning_rate: {call: './mine.py:f', params: {start: 1}}, gamma: 0.9}}",
        "algorithm: {name: ppo, params: {clip_range: {function: 'a:f'}}, policy_params: {net_arch: [{call: 'a:f'}]}}",
        "algorithm: {name: dqn, params: {train_freq: [{call: 'a:f'}, step]}}",
        "env: {id: a, wrappers: [{name: terminal_reward_clip, params: {success_steps: {per_env: {start: 1}}}}]}",
        "env: {id: a, wrappers: [{name: angle_penalty, params: {scale: {name: linear, params: {start: 1}}}}]}",
        "env: {id: a, wrappers: [{name: angle_penalty, params: {scale: {name: './mine.py:Schedule'}}}]}",
        "env: {id: a, wrappers: [{name: angle_penalty, params: {scale: {function: './mine.py:cosine'}}}]}",
        "algorithm: {name: ppo, params: {n_steps: 64.0, target_kl: null, device: cpu}}",
        "algorithm: {name: dqn, params: {train_freq: [1, episode], replay_buffer_class: 'a.b:Buffer'}}",
        "algorithm: {name: sac, params: {replay_buffer_class: her, replay_buffer_kwargs: {n_sampled_goal: 2}}}",
        "algorithm: {name: tqc, params: {replay_buffer_class: {name: her, params: {n_sampled_goal: 2}}}}",
        "algorithm: {name: dqn, params: {replay_buffer_class: {name: 'a.b:Buffer', params: {any: 2}}}}",
        "algorithm: {name: dqn, params: {replay_buffer_class: null}}",
        "algorithm: {name: td3, params: {action_noise: {name: 'a.noise:Noise', params: {mean: [0], sigma: [1]}}}}",
        "algorithm: {name: ppo, policy_params: {net_arch: {pi: [64], vf: [64]}, activation_fn: 'torch.nn:Tanh'}}",
        "algorithm: {name: dqn, policy: DuelingMlpPolicy, policy_params: {net_arch: [8]}}",
        "algorithm: {name: double_dqn, policy_params: {noisy: true, distribution: c51, v_min: 0, v_max: 200.5}}",
        "algorithm: {name: double_dqn, policy: CnnPolicy, policy_params: {dueling: true, distribution: null}}",
        "algorithm: {name: recurrent_ppo, policy: MlpLstmPolicy, policy_params: {lstm_hidden_size: 8}}",
        "callbacks: [progress, {name: max_episodes, params: {max_episodes: 3}}, './mine.py:Callback']",
        "callbacks: [{name: 'mine:Callback', params: {anything: {a: 1}}}]",
        "callbacks: [{name: evaluate, params: {env: {id: null, wrappers: ['mine:Wrapper'], params: {any: 1}}}}]",
        "callbacks: [{name: evaluate, params: {env: null}}]",
        "callbacks: [eval, {name: eval, params: {callback_on_new_best: './mine.py:Callback', log_path: '{run}/x'}}]",
        "callbacks: [{name: eval, params: {callback_after_eval: {name: reward_threshold, params: "
        "{reward_threshold: 1}}}}]",
        "name: other",
        "env: {id: CartPole-v1, wrappers: [angle_penalty, {name: clip_reward, params: {min_reward: -1}}]}",
        "env: {id: CartPole-v1, wrappers: [{name: angle_penalty}], max_episode_steps: null}",
        "env: {id: CartPole-v1, base_wrappers: [angle_penalty, './mine.py:Flatten'], info_keywords: [is_success]}",
        "env: {id: CartPole-v1, vec_wrappers: [vec_normalize, {name: vec_frame_stack, params: {n_stack: 2}}]}",
    ],
)
def test_schema_accepts_what_check_accepts(text: str, schema: dict[str, Any]) -> None:
    assert not list_problems(make_config(text), schema)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "env: {n_envs: 2}",
        "algorithm: {params: {gamma: 0.9}}",
        "algorithm: {params: {learning_rate: {params: {start: 1e-4}}}}",
        "algorithm: {name: ppo, params: {n_steps: {params: {start: 1}}}}",
        "algorithm: {name: ppo, params: {learning_rate: {params: {start: 1e-4}}}}",
        "algorithm: {policy_params: {net_arch: [8]}}",
        "seed: 1",
    ],
)
def test_schema_accepts_partial_file_with_extends(text: str, schema: dict[str, Any]) -> None:
    assert not list_problems({"extends": "base.yaml", **parse(text, "text").data}, schema)


# --- refused configs ------------------------------------------------------------------------------------------------


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
        "algorithm: {name: double_dqn, params: {gamma: {call: gamma}}}",
        "algorithm: {name: double_dqn, params: {gamma: {call: 'a:f', parms: {}}}}",
        "algorithm: {name: double_dqn, params: {gamma: {per_env: [1]}}}",
        "algorithm: {name: double_dqn, params: {batch_size: 0.5}}",
        "algorithm: {name: double_dqn, params: {loss: mae}}",
        "algorithm: {name: double_dqn, params: {train_freq: [1, 2, 3]}}",
        "algorithm: {name: double_dqn, params: {replay_buffer_class: ReplayBuffer}}",
        "algorithm: {name: sac, params: {replay_buffer_class: {name: her, params: {n_sampled_goals: 2}}}}",
        "algorithm: {name: sac, params: {replay_buffer_class: {name: her, params: {buffer_size: 2}}}}",
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
        "algorithm: {name: double_dqn, policy_params: {distribution: c52}}",
        "algorithm: {name: double_dqn, policy: DuelingMlpPolicy, policy_params: {dueling: false}}",
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
        "callbacks: [{name: evaluate, params: {env: {n_envs: 2}}}]",
        "callbacks: [{name: evaluate, params: {env: {wrappers: [terminal_reward_clp]}}}]",
        "env: {id: CartPole-v1, wrappers: [terminal_reward_clp]}",
        "env: {id: CartPole-v1, base_wrappers: [terminal_reward_clp]}",
        "env: {id: CartPole-v1, info_keywords: is_success}",
        "env: {id: CartPole-v1, wrappers: [{name: terminal_reward_clip, params: {sucess_steps: 1}}]}",
        "env: {id: CartPole-v1, wrappers: [{name: terminal_reward_clip, params: {success_steps: 1.5}}]}",
        "env: {id: CartPole-v1, wrappers: [{name: terminal_reward_clip, params: [195]}]}",
        "env: {id: CartPole-v1, wrappers: [{name: vec_normalize}]}",
        "env: {id: CartPole-v1, vec_wrappers: [{name: vec_normalize, params: {gama: 1}}]}",
        "env: {id: CartPole-v1, vec_wrappers: [{name: vec_normalize, params: {norm_obs: 'yes'}}]}",
        "env: {id: CartPole-v1, vec_wrappers: [vec_frame_stack]}",
        "env: {id: a, wrappers: [{name: angle_penalty, params: {scale: {name: linear, params: {strt: 1}}}}]}",
    ],
)
def test_schema_refuses_only_what_check_refuses(text: str, schema: dict[str, Any]) -> None:
    assert not is_accepted(make_config(text), schema)
    assert not passes_check(make_config(text))


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
def test_schema_refuses_wrong_values_despite_extends(text: str, schema: dict[str, Any]) -> None:
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


def make_component(annotation: Any) -> Callable[..., Any]:
    def component(x: Any) -> None: ...

    component.__annotations__["x"] = annotation
    return component


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_type_schema_accepts_every_convertible_value(annotation: Any, schema: dict[str, Any]) -> None:
    references = ({"$ref": f"#/$defs/{name}"} for name in ("schedule", "object"))
    type_schema = make_type_schema(annotation, *references) | {"$defs": schema["$defs"]}
    for value in VALUES:
        if not bind_arguments(make_component(annotation), {"x": value}, (), {})[1]:
            assert is_accepted(value, type_schema), value


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
def test_type_schema_refuses_value_of_other_type(annotation: Any, refused: list[Any], schema: dict[str, Any]) -> None:
    references = ({"$ref": f"#/$defs/{name}"} for name in ("schedule", "object"))
    type_schema = make_type_schema(annotation, *references) | {"$defs": schema["$defs"]}
    for value in refused:
        assert not is_accepted(value, type_schema), value
        assert bind_arguments(make_component(annotation), {"x": value}, (), {})[1]


# --- descriptions ---------------------------------------------------------------------------------------------------


def find_params_schema(name: str, schema: dict[str, Any], key: str) -> Any:
    """Return the schema of a listed component's parameters."""
    rules = {rule["if"]["properties"]["name"]["const"]: rule for rule in schema["$defs"][key]["anyOf"][-1]["allOf"]}
    return rules[name]["then"]["properties"]["params"]


def test_every_key_has_description(schema: dict[str, Any]) -> None:
    described = [*schema["properties"].values(), *schema["$defs"]["EnvConfig"]["properties"].values()]
    assert all("description" in key or "$ref" in key or "anyOf" in key for key in described)


def test_components_and_parameters_have_descriptions(schema: dict[str, Any]) -> None:
    names = {choice.get("const"): choice.get("description") for choice in schema["$defs"]["wrappers"]["anyOf"]}
    assert names["clip_reward"] == "Clips the rewards for an environment between an upper and lower bound."
    assert find_params_schema("success", schema, "callbacks")["properties"]["min_timesteps"] == {
        "anyOf": [{"type": "integer"}, {"$ref": "#/$defs/function"}, {"$ref": "#/$defs/call"}],
        "description": "environment steps before which training never stops",
        "default": 0,
    }
    assert "default" not in find_params_schema("success", schema, "callbacks")["properties"]["threshold"]


# --- experiment and tuning files ------------------------------------------------------------------------------------

FILES = {
    "experiment": ("experiments", "base: small.yaml\nseeds: 2\n", load_plan),
    "tuning": ("tune", "base: small.yaml\ntrials: 2\nsearch: {timesteps: {low: 1, high: 2}}\n", load_tuning),
}


@pytest.fixture
def get_file_schema(toolkit: Toolkit) -> Callable[[str], dict[str, Any]]:
    """Return the function that reads what `toolkit schema KIND` prints, once for each kind."""

    def read_schema(kind: str) -> dict[str, Any]:
        if kind == "tuning":
            pytest.importorskip("optuna")
        if kind not in _file_schemas:
            result = toolkit("schema", kind)
            assert (result.status, result.err) == (0, "")
            _file_schemas[kind] = json.loads(result.out)
        return _file_schemas[kind]

    return read_schema


_file_schemas: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize("kind", FILES)
def test_schema_command_prints_valid_schemas_of_other_files(kind: str, get_file_schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(get_file_schema(kind))


def make_file(kind: str, text: str) -> Any:
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
def test_schema_accepts_shipped_experiment_and_tuning_files(kind: str, path: Path, get_file_schema: Any) -> None:
    assert not list_problems(read(path).data, get_file_schema(kind))


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
def test_schema_accepts_valid_experiment_and_tuning_files(kind: str, text: str, get_file_schema: Any) -> None:
    assert not list_problems(make_file(kind, text), get_file_schema(kind))


@pytest.mark.parametrize("kind", FILES)
def test_file_with_extends_may_lack_required_keys(kind: str, get_file_schema: Any) -> None:
    assert is_accepted({"extends": "other.yaml"}, get_file_schema(kind))
    assert not is_accepted({}, get_file_schema(kind))


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
def test_schema_refuses_only_what_experiment_and_tune_refuse(kind: str, text: str, get_file_schema: Any) -> None:
    data = make_file(kind, text)
    assert not is_accepted(data, get_file_schema(kind))
    Path("file.yaml").write_text(dump(data))
    with pytest.raises(ConfigError):
        FILES[kind][2](Path("file.yaml"))


def test_inline_base_has_schema_of_config(get_file_schema: Any) -> None:
    base = make_config("{}")
    assert not list_problems({"base": base, "seeds": 1}, get_file_schema("experiment"))
    for wrong in ("tmesteps: 5", "callbacks: [sucess]", "algorithm: {name: ppo, params: {gama: 1}}"):
        assert not is_accepted({"base": make_config(wrong), "seeds": 1}, get_file_schema("experiment"))


@pytest.mark.parametrize("kind", FILES)
def test_every_key_of_other_files_has_description(kind: str, get_file_schema: Any) -> None:
    assert all("description" in key for key in get_file_schema(kind)["properties"].values())


# --- plugins --------------------------------------------------------------------------------------------------------


def test_schema_has_parameters_of_plugin(install: Install) -> None:
    source = WRAPPER_MODULE.replace("pass", "def __init__(self, env, factor: float): super().__init__(env)")
    install("factor-dist", "factored_module", source)
    schema = make_config_schema()
    wrapper = "env: {{id: CartPole-v1, wrappers: [{}]}}".format
    assert is_accepted(make_config(wrapper("{name: mine, params: {factor: 2}}")), schema)
    for wrong in (
        "mine",
        "{name: mine}",
        "{name: mine, params: {factor: x}}",
        "{name: mine, params: {factor: 1, a: 2}}",
    ):
        assert not is_accepted(make_config(wrapper(wrong)), schema)


def test_schema_omits_unusable_plugins(install: Install) -> None:
    install("broken-dist", "cracked_module", "raise RuntimeError('half installed')\n", name="cracked")
    install("first-dist", "fifth_module")
    install("second-dist", "sixth_module")
    schema = make_config_schema()
    for name in ("cracked", "mine"):
        assert not is_accepted(make_config(f"env: {{id: CartPole-v1, wrappers: [{name}]}}"), schema)
    assert is_accepted(make_config("{}"), schema)


def test_schema_has_required_parameter_and_policies_of_algorithm(install: Install) -> None:
    source = """\
from stable_baselines3 import PPO

class Mine(PPO):
    policy_aliases = {"OnlyPolicy": PPO.policy_aliases["MlpPolicy"]}

    def __init__(self, policy, env, needed: int, **kwargs):
        super().__init__(policy, env, **kwargs)
"""
    install("their-algorithm", "their_algorithm", source, kind="algorithms")
    schema = make_config_schema()
    assert is_accepted(
        make_config("algorithm: {name: mine, policy: OnlyPolicy, params: {needed: 1, gamma: 0.9}}"), schema
    )
    for wrong in (
        "algorithm: mine",
        "algorithm: {name: mine, policy: OnlyPolicy}",
        "algorithm: {name: mine, policy: MlpPolicy, params: {needed: 1}}",
        "algorithm: {name: mine, policy: OnlyPolicy, params: {needed: 1}, policy_params: {net_arc: []}}",
    ):
        assert not is_accepted(make_config(wrong), schema)
        assert not passes_check(make_config(wrong))
