"""`toolkit import-agent`: a folder as RL Zoo publishes it becomes a run that acts like the agent."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support import Toolkit, files_in

import toolkit as tk
from toolkit.training.model import load_model
from toolkit.utils.vec_envs import iterate_vec_wrappers

ENV_ID = "Pendulum-v1"
HYPERPARAMETERS = {
    "gamma": 0.9,
    "learning_rate": "lin_7e-4",
    "n_envs": 2,
    "n_steps": 4,
    "n_timesteps": 1e6,
    "normalize": True,
    "policy": "MlpPolicy",
    "policy_kwargs": "dict(log_std_init=-2, ortho_init=False, net_arch=[dict(pi=[8], vf=[4])])",
    "use_sde": True,
}
ARGUMENTS = {"algo": "a2c", "env": ENV_ID, "env_kwargs": None, "n_timesteps": -1, "seed": 4281126362}


class ZooDumper(yaml.SafeDumper):
    """Writes mappings as PyYAML writes an OrderedDict, which RL Zoo saves."""


ZooDumper.add_representer(
    dict,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:python/object/apply:collections.OrderedDict", [[[key, data[key]] for key in sorted(data)]]
    ),
)
ZooDumper.add_representer(
    tuple, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:python/tuple", data)
)


def write_yaml(name: str, data: dict[str, Any]) -> None:
    Path(f"agent/{ENV_ID}/{name}.yml").write_text(yaml.dump(data, Dumper=ZooDumper))


@pytest.fixture(scope="module")
def trained() -> tuple[A2C, VecNormalize]:
    """A model of A2C, trained for a few steps, and what normalizes for it."""
    normalizer = VecNormalize(DummyVecEnv([lambda: gym.make(ENV_ID)] * 2))
    networks = {"log_std_init": -2, "ortho_init": False, "net_arch": {"pi": [8], "vf": [4]}}
    model = A2C("MlpPolicy", normalizer, n_steps=4, use_sde=True, policy_kwargs=networks, seed=1).learn(32)
    return model, normalizer


@pytest.fixture
def agent(trained: tuple[A2C, VecNormalize]) -> tuple[A2C, VecNormalize]:
    """Save the model and its statistics in `agent/`, in the layout of rl-trained-agents."""
    model, normalizer = trained
    Path(f"agent/{ENV_ID}").mkdir(parents=True)
    model.save(f"agent/{ENV_ID}.zip")
    normalizer.save(f"agent/{ENV_ID}/vecnormalize.pkl")
    write_yaml("config", HYPERPARAMETERS)
    write_yaml("args", ARGUMENTS)
    return model, normalizer


@pytest.mark.usefixtures("agent")
def test_agent_is_imported_with_its_hyperparameters(toolkit: Toolkit) -> None:
    result = toolkit("import-agent", "agent")
    assert (result.status, result.err) == (0, "")
    first, run_line, *_ = result.out.splitlines()
    assert first == "imported the weights and statistics in agent"
    assert run_line == "  run    runs/a2c-Pendulum-v1-1"
    assert "note" not in result.out
    config = tk.load("runs/a2c-Pendulum-v1-1").config
    assert (config.timesteps, config.env.id, config.env.n_envs) == (1_000_000, ENV_ID, 2)
    assert [wrapper.name for wrapper in config.env.vec_wrappers] == ["vec_normalize"]
    assert config.algorithm.params == {
        "gamma": 0.9,
        "learning_rate": {"name": "linear", "params": {"start": 7e-4}},
        "n_steps": 4,
        "use_sde": True,
    }
    networks = {"pi": [8], "vf": [4]}
    assert config.algorithm.policy_params == {"log_std_init": -2, "ortho_init": False, "net_arch": networks}
    assert toolkit("evaluate", "--episodes", "1").status == 0


def test_imported_agent_acts_like_agent(agent: tuple[A2C, VecNormalize], toolkit: Toolkit) -> None:
    model, normalizer = agent
    assert toolkit("import-agent", "agent", "--out", "run").status == 0
    loaded = load_model(tk.load("run"))
    own_normalizer = next(w for w in iterate_vec_wrappers(loaded.get_env()) if isinstance(w, VecNormalize))
    for observation in [np.array([normalizer.observation_space.sample()]) for _ in range(10)]:
        expected, _ = model.predict(normalizer.normalize_obs(observation), deterministic=True)
        action, _ = loaded.predict(own_normalizer.normalize_obs(observation), deterministic=True)
        assert (action == expected).all()


@pytest.mark.usefixtures("agent")
def test_arguments_of_training_override_hyperparameters(toolkit: Toolkit) -> None:
    write_yaml("args", ARGUMENTS | {"n_timesteps": 5000, "env_kwargs": {"g": 9.81}})
    assert toolkit("import-agent", "agent", "--out", "run").status == 0
    config = tk.load("run").config
    assert (config.timesteps, config.env.params) == (5000, {"g": 9.81})


@pytest.mark.usefixtures("agent")
def test_plain_yaml_and_tuples_are_read(toolkit: Toolkit) -> None:
    values = HYPERPARAMETERS | {"policy_kwargs": {"log_std_init": -2, "net_arch": {"pi": (8,), "vf": (4,)}}}
    write_yaml("config", values)
    Path(f"agent/{ENV_ID}/args.yml").write_text(json.dumps(ARGUMENTS))
    assert toolkit("import-agent", "agent", "--out", "run").status == 0
    assert tk.load("run").config.algorithm.policy_params["net_arch"] == {"pi": [8], "vf": [4]}


@pytest.mark.usefixtures("agent")
def test_agent_without_its_statistics_is_refused_unless_asked_for(toolkit: Toolkit) -> None:
    Path(f"agent/{ENV_ID}/vecnormalize.pkl").unlink()
    result = toolkit("import-agent", "agent", "--out", "run")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"error: agent/{ENV_ID}/vecnormalize.pkl: does not exist")
    assert "--untrained-statistics" in result.err
    assert not Path("run").exists()
    result = toolkit("import-agent", "agent", "--out", "run", "--untrained-statistics")
    assert result.status == 0
    assert "  note   vec_normalize acts without the statistics of a training." in result.out


class Bomb:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


EXECUTING_YAML = "!!python/object/apply:os.mkdir [executed]\n"
MISTAKES: dict[str, tuple[str, bytes | str | None, str]] = {
    "no zip": (f"{ENV_ID}.zip", None, f"error: agent/{ENV_ID}.zip: does not exist"),
    "a pickle in place of the zip": (f"{ENV_ID}.zip", pickle.dumps(Bomb()), f"error: agent/{ENV_ID}.zip: is damaged"),
    "a pickle in place of the statistics": (
        f"{ENV_ID}/vecnormalize.pkl",
        pickle.dumps(Bomb()),
        f"error: agent/{ENV_ID}/vecnormalize.pkl: is damaged, or no VecNormalize: it names",
    ),
    "a tag that executes": (
        f"{ENV_ID}/config.yml",
        f"policy: MlpPolicy\ngamma: {EXECUTING_YAML}",
        f"agent/{ENV_ID}/config.yml:2: 'tag:yaml.org,2002:python/object/apply:os.mkdir' is not read",
    ),
    "a tag that executes among the arguments": (
        f"{ENV_ID}/args.yml",
        f"algo: a2c\nenv: {ENV_ID}\nseed: {EXECUTING_YAML}",
        f"agent/{ENV_ID}/args.yml:3: 'tag:yaml.org,2002:python/object/apply:os.mkdir' is not read",
    ),
    "a dict that is none": (
        f"{ENV_ID}/config.yml",
        "!!python/object/apply:collections.OrderedDict\n- - - gamma\n",
        f"agent/{ENV_ID}/config.yml:1: OrderedDict takes one list of pairs",
    ),
    "code in a string": (
        f"{ENV_ID}/config.yml",
        "n_timesteps: 8\npolicy_kwargs: dict(net_arch=[os.mkdir('executed')])\n",
        f"agent/{ENV_ID}/config.yml:2: {ENV_ID}.policy_kwargs: \"os.mkdir('executed')\" is code, which does not run",
    ),
    "code in a file": (
        f"{ENV_ID}/config.yml",
        "n_timesteps: 8\nenv_wrapper: stranger.Wrapper\n",
        f"agent/{ENV_ID}/config.yml:2: env.wrappers.0.name: ",
    ),
    "a list": (f"{ENV_ID}/config.yml", "[1]", f"agent/{ENV_ID}/config.yml:1: must be a mapping"),
    "no algorithm": (f"{ENV_ID}/args.yml", f"env: {ENV_ID}", f"agent/{ENV_ID}/args.yml:1: algo: must be text"),
    "an unknown environment": (
        f"{ENV_ID}/args.yml",
        "algo: a2c\nenv: Absent-v0",
        f"agent/{ENV_ID}/args.yml:2: env.id: environment 'Absent-v0' does not exist",
    ),
    "other networks": (
        f"{ENV_ID}/config.yml",
        yaml.dump(HYPERPARAMETERS | {"policy_kwargs": "dict(net_arch=[9])"}),
        f"error: agent/{ENV_ID}.zip: does not fit the config: policy: ",
    ),
    "another clip": (
        f"{ENV_ID}/config.yml",
        yaml.dump(HYPERPARAMETERS | {"normalize": "dict(clip_obs=5.0)"}),
        f"is 5.0 here, and 10.0 in agent/{ENV_ID}/vecnormalize.pkl",
    ),
}


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize(("name", "content", "message"), MISTAKES.values(), ids=MISTAKES)
def test_agent_with_mistake_is_refused(name: str, content: bytes | str | None, message: str, toolkit: Toolkit) -> None:
    path = Path("agent") / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = files_in(Path())
    result = toolkit("import-agent", "agent")
    assert (result.status, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert message in result.err
    assert not Path("executed").exists()
    assert files_in(Path()) == before
    assert not Path("runs").exists()


EVIL = "import os\nos.mkdir('executed')\nfrom stable_baselines3 import *\nfrom gymnasium import *\n"
REFERENCES = {
    "algorithm": ("args", {"algo": "./evil.py:A2C"}),
    "algorithm in a module": ("args", {"algo": "evil:A2C"}),
    "environment": ("args", {"env": "evil:Pendulum-v1"}),
    "environment in a file": ("args", {"env": "./evil.py:Pendulum-v1"}),
    "policy": ("config", {"policy": "evil.MlpPolicy"}),
    "wrapper": ("config", {"env_wrapper": "evil.Wrapper"}),
    "vec wrapper": ("config", {"vec_env_wrapper": "evil.Wrapper"}),
    "callback": ("config", {"callback": "evil.Callback"}),
    "argument of the policy": ("config", {"policy_kwargs": {"features_extractor_class": "evil:Extractor"}}),
}


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize(("file", "change"), REFERENCES.values(), ids=REFERENCES)
def test_code_that_agent_names_does_not_run(
    file: str, change: dict[str, Any], toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(Path.cwd())
    write_yaml(file, (ARGUMENTS if file == "args" else HYPERPARAMETERS) | change)
    result = toolkit("import-agent", "agent")
    assert (result.status, result.out) == (2, "")
    assert f"{file}.yml:" in result.err
    assert not Path("executed").exists()
    assert not Path("runs").exists()


def test_directory_without_one_agent_is_refused(toolkit: Toolkit) -> None:
    assert toolkit("import-agent", "absent").err == "error: absent: does not exist\n"
    Path("file").touch()
    assert toolkit("import-agent", "file").err == "error: file: is not a directory\n"
    assert "error: .: has no agent of RL Zoo\n" in toolkit("import-agent", ".").err
    for name in ("A-v0", "B-v0"):
        Path(name).mkdir()
        Path(name, "config.yml").touch()
    assert "error: .: has several agents: A-v0, B-v0\n" in toolkit("import-agent", ".").err
