"""`toolkit import-sb3`: a stock SB3 zip becomes a run directory; only its tensors are read, and they must fit."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from support import Toolkit, files_in

import toolkit as tk
from toolkit.training.model import load_model

STOCK_MODELS: dict[str, tuple[type[BaseAlgorithm], str, dict[str, Any]]] = {
    "ppo": (PPO, "CartPole-v1", {"n_steps": 16, "batch_size": 16, "n_epochs": 1}),
    "dqn": (DQN, "CartPole-v1", {"learning_starts": 8, "buffer_size": 100}),
    "sac": (SAC, "Pendulum-v1", {"learning_starts": 8, "buffer_size": 100}),
}


def save_stock_model(name: str) -> BaseAlgorithm:
    """Train a stock model for a few steps, save it as `stock.zip`, and write a config for it as `config.yaml`."""
    cls, env, params = STOCK_MODELS[name]
    model = cls("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=1, **params).learn(32)
    model.save("stock.zip")
    config = {
        "timesteps": 32,
        "env": {"id": env, "max_episode_steps": 20},
        "algorithm": {"name": name, "params": params, "policy_params": {"net_arch": [8]}},
    }
    Path("config.yaml").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("name", STOCK_MODELS)
def test_imported_model_acts_like_stock_model(name: str, toolkit: Toolkit) -> None:
    model = save_stock_model(name)
    result = toolkit("import-sb3", "stock.zip", "--config", "config.yaml")
    assert (result.status, result.err) == (0, "")
    summary, run_line, evaluate, record = result.out.splitlines()
    assert (summary, run_line) == ("imported the weights in stock.zip", "  run    runs/config-1")
    assert evaluate.endswith("toolkit evaluate runs/config-1")
    assert record.endswith("toolkit record runs/config-1 --format gif")
    run = tk.load("runs/config-1")
    loaded = load_model(run)
    for name_of_part, tensors in model.get_parameters().items():
        if "optimizer" not in name_of_part:
            assert all(torch.equal(loaded.get_parameters()[name_of_part][key], tensors[key]) for key in tensors)
    for observation in [model.observation_space.sample() for _ in range(20)]:
        expected, _ = model.predict(observation, deterministic=True)
        assert (loaded.predict(observation, deterministic=True)[0] == expected).all()
    assert toolkit("evaluate", run.directory, "--episodes", "2").status == 0
    assert toolkit("record", run.directory).status == 0
    assert STOCK_MODELS[name][0].load(run.model_path), "the run's model is a stock zip again"


def test_import_keeps_entropy_coefficient() -> None:
    model = save_stock_model("sac")
    model.log_ent_coef.data.fill_(-1.5)
    model.save("stock.zip")
    from toolkit.migration.sb3_model import import_sb3

    loaded: Any = load_model(import_sb3(Path("stock.zip"), tk.load_config("config.yaml")))
    assert loaded.log_ent_coef.item() == -1.5


def test_imported_run_names_its_source_and_has_no_result(toolkit: Toolkit) -> None:
    save_stock_model("dqn")
    assert toolkit("import-sb3", "stock.zip", "--config", "config.yaml", "--out", "here").status == 0
    names = {name.partition("/")[0] for name in files_in(Path("here"))}
    assert names == {"config.yaml", "environment.json", "model.zip", "wrappers"}
    origin = json.loads(Path("here/environment.json").read_text())["imported_from"]
    assert origin == {"file": "stock.zip", "sha256": hashlib.sha256(Path("stock.zip").read_bytes()).hexdigest()}
    assert tk.load("here").result is None
    plotted = toolkit("plot", "here")
    assert (plotted.status, "here: has no monitor.csv" in plotted.err) == (2, True)


@pytest.mark.parametrize(
    ("env", "place", "name"),
    [
        ({"vec_wrappers": ["vec_normalize"]}, "env.vec_wrappers.0", "vec_normalize"),
        (
            {"wrappers": ["gymnasium.wrappers:NormalizeObservation"]},
            "env.wrappers.0",
            "gymnasium.wrappers:NormalizeObservation",
        ),
    ],
)
def test_import_without_statistics_of_wrapper_is_refused(
    env: dict[str, Any], place: str, name: str, toolkit: Toolkit
) -> None:
    save_stock_model("ppo")
    config = json.loads(Path("config.yaml").read_text())
    Path("config.yaml").write_text(json.dumps(config | {"env": config["env"] | env}))
    result = toolkit("import-sb3", "stock.zip", "--config", "config.yaml")
    assert (result.status, result.out) == (2, "")
    assert f"{place}: '{name}' acts on statistics of its training, which the zip does not have" in result.err
    assert not Path("runs").exists()


def test_import_accepts_wrapper_that_normalizes_rewards_alone(toolkit: Toolkit) -> None:
    save_stock_model("ppo")
    config = json.loads(Path("config.yaml").read_text())
    normalizer = {"name": "vec_normalize", "params": {"norm_obs": False}}
    Path("config.yaml").write_text(json.dumps(config | {"env": config["env"] | {"vec_wrappers": [normalizer]}}))
    assert toolkit("import-sb3", "stock.zip", "--config", "config.yaml").status == 0


class Bomb:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("member", ["data", "policy.pth", "policy.optimizer.pth", "pytorch_variables.pth", "all"])
def test_hostile_zip_executes_nothing(member: str, toolkit: Toolkit) -> None:
    save_stock_model("dqn")
    with zipfile.ZipFile("stock.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("hostile.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, pickle.dumps(Bomb()) if member in (name, "all") else content)
    result = toolkit("import-sb3", "hostile.zip", "--config", "config.yaml")
    assert not Path("executed").exists()
    if member in ("data", "pytorch_variables.pth"):  # which DQN has no use for
        assert result.status == 0
    else:
        assert (result.status, result.out) == (2, "")
        assert result.err.startswith("error: hostile.zip: is damaged, or no SB3 model: policy")
        assert not Path("runs").exists()


MISTAKES = {
    "another network": ("config.yaml", "[8]", "[9]", "error: stock.zip: does not fit the config: policy: q_net"),
    "another algorithm": (
        "config.yaml",
        '"dqn"',
        '"qrdqn"',
        "error: stock.zip: does not fit the config: policy",
    ),
    "another environment": ("config.yaml", "CartPole-v1", "Acrobot-v1", "error: stock.zip: does not fit the config: "),
    "a bad config": ("config.yaml", "net_arch", "net_arc", "config.yaml:1: algorithm.policy_params.net_arc"),
}


@pytest.mark.parametrize(("file", "old", "new", "message"), MISTAKES.values(), ids=MISTAKES)
def test_import_refuses_config_that_does_not_fit(
    file: str, old: str, new: str, message: str, toolkit: Toolkit
) -> None:
    save_stock_model("dqn")
    Path(file).write_text(Path(file).read_text().replace(old, new))
    result = toolkit("import-sb3", "stock.zip", "--config", "config.yaml")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message)
    assert files_in(Path()) == {"stock.zip", "config.yaml"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("absent.zip --config config.yaml", "error: absent.zip: does not exist"),
        (". --config config.yaml", "error: .: is not a file"),
        ("stock.zip --config absent.yaml", "absent.yaml: cannot be read"),
        ("config.yaml --config config.yaml", "error: config.yaml: is damaged, or no SB3 model: "),
        ("stock.zip", "--config"),
    ],
)
def test_import_names_missing_input(arguments: str, message: str, toolkit: Toolkit) -> None:
    save_stock_model("dqn")
    result = toolkit("import-sb3", *arguments.split())
    assert (result.status, result.out) == (2, "")
    assert message in result.err
