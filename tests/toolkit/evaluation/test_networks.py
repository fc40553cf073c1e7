"""A run's networks: every layer with its shape and parameters, as a table and as a picture."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from sb3_contrib import CrossQ, RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from support import CONFIGS, PROJECT, Toolkit, files_in

from toolkit.algorithms import DoubleDQN
from toolkit.config.load import load_config
from toolkit.evaluation.network_diagram import draw_networks
from toolkit.evaluation.networks import Layer, describe_networks, format_shape
from toolkit.training.model import untrained_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import NetworkError, ToolkitError

ODD_POLICY = """\
from stable_baselines3.common.policies import ActorCriticPolicy

class Odd(ActorCriticPolicy):
    def forward(self, first, second, third, deterministic=False):
        return super().forward(first)
"""


def image_env(discrete: bool = True) -> gym.Env[Any, Any]:
    return FakeImageEnv(screen_height=84, screen_width=84, n_channels=3, discrete=discrete)


def dict_env(discrete: bool = True) -> gym.Env[Any, Any]:
    return SimpleMultiObsEnv(random_start=False, discrete_actions=discrete)


def rows(model: BaseAlgorithm) -> dict[str, Layer]:
    return {layer.name: layer for network in describe_networks(model).networks for layer in network.layers}


def picture(model: BaseAlgorithm) -> list[str]:
    """Draw a model's networks and return the texts in the picture."""
    draw_networks(model, Path("networks.svg"))
    tree = ElementTree.parse("networks.svg")
    return ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def arrows() -> set[tuple[str, str]]:
    """Return what leads where in the picture drawn last, each node by its first line."""
    svg = "{http://www.w3.org/2000/svg}"
    groups = list(ElementTree.parse("networks.svg").iter(f"{svg}g"))
    titles = {
        group.findtext(f"{svg}title"): "".join(group.findtext(f".//{svg}text") or "")
        for group in groups
        if group.get("class") == "node"
    }
    edges = [str(group.findtext(f"{svg}title")).split("->") for group in groups if group.get("class") == "edge"]
    return {(titles[tail], titles[head]) for tail, head in edges}


@pytest.fixture
def run(config_file: Path) -> RunDirectory:
    """A run of Double DQN, 4-16-16-2, without a model yet."""
    return RunDirectory.create(load_config(config_file), Path("runs/small-1"))


def test_the_table_has_every_layer_of_a_trained_run(config_file: Path, toolkit: Toolkit) -> None:
    assert toolkit("train", config_file, "--quiet").status == 0
    done = toolkit("describe")
    assert (done.status, done.err) == (0, "")
    assert (
        done.out
        == """\
runs/small-1: double_dqn, MlpPolicy on CartPole-v1

q_net: QNetwork of observation (4)
  layer                             kind     output  parameters
  q_net.features_extractor.flatten  Flatten  (4)              0
  q_net.q_net.0                     Linear   (16)            80
  q_net.q_net.1                     ReLU     (16)             0
  q_net.q_net.2                     Linear   (16)           272
  q_net.q_net.3                     ReLU     (16)             0
  q_net.q_net.4                     Linear   (2)             34
  q_net: 386 parameters, all trainable

left out, as copies: q_net_target
"""
    )


def test_a_run_needs_no_model_for_it(run: RunDirectory, toolkit: Toolkit) -> None:
    assert not run.model_path.exists()
    before = files_in(run.directory)
    assert "386 parameters" in toolkit("describe", run.directory).out
    assert files_in(run.directory) == before


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_described_and_drawn_whole(config: Path) -> None:
    model = untrained_model(load_config(config))
    parameters = dict(model.policy.named_parameters())
    described = describe_networks(model)
    kept = [one.numel() for name, one in parameters.items() if not name.split(".")[0].endswith("_target")]
    assert described.parameters == sum(kept) == sum(network.parameters for network in described.networks)
    assert (not described.copies) == (len(kept) == len(parameters))
    layers = rows(model)
    assert all(layer.output_shape is not None for layer in layers.values())
    modules = [layer for layer in layers.values() if layer.name not in parameters]  # the spread of actions is none
    assert all(type(model.policy.get_submodule(layer.name)).__name__ == layer.kind for layer in modules)
    assert not any(name.startswith(described.copies) for name in layers if described.copies)
    drawn = picture(model)
    for layer in modules:
        assert drawn.count(layer.name) == 1
        assert f"{layer.kind} → {format_shape(layer.output_shape)}" in drawn
    sampling = {"multinomial", "logsumexp", "broadcast_tensors", "exp", "clamp", "float", "reshape"}
    assert not sampling & set(drawn)


def test_networks_are_told_apart(toolkit: Toolkit) -> None:
    RunDirectory.create(load_config(PROJECT / "configs" / "pendulum_td3.yaml"), Path("runs/td3"))
    out = toolkit("describe").out
    assert "actor: Actor of observation (3)\n" in out
    assert "critic: ContinuousCritic of observation (3), action (1)\n" in out
    assert "actor: 4,481 parameters" in out
    assert "critic: 9,090 parameters" in out
    assert "together: 13,571 parameters, all trainable\n" in out
    assert out.endswith("left out, as copies: actor_target, critic_target\n")


def test_parameters_outside_layers_and_frozen_ones_are_counted() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, device="cpu")
    assert rows(model)["log_std"] == Layer("log_std", "Parameter", (1,), 1, 1)
    model.policy.action_net.requires_grad_(False)
    assert rows(model)["action_net"] == Layer("action_net", "Linear", (1,), 9, 0)
    described = describe_networks(model)
    assert described.parameters - described.trainable == 9
    model.policy.mlp_extractor.value_net[0].weight = model.policy.mlp_extractor.policy_net[0].weight
    tied = describe_networks(model)
    assert tied.parameters == tied.networks[0].parameters == described.parameters - 3 * 8


def test_images_keep_their_shape_through_convolutions() -> None:
    model = DoubleDQN("DuelingCnnPolicy", image_env(), buffer_size=10)
    assert describe_networks(model).networks[0].inputs == {"observation": "(3, 84, 84)"}
    kinds = [(one.kind, one.output_shape) for one in rows(model).values() if one.parameters]
    assert kinds[:4] == [
        ("Conv2d", (32, 20, 20)),
        ("Conv2d", (64, 9, 9)),
        ("Conv2d", (64, 7, 7)),
        ("Linear", (512,)),
    ]
    assert rows(model)["q_net.features_extractor.cnn.0"].parameters == 3 * 32 * 8 * 8 + 32
    assert "Conv2d → (32, 20, 20)" in picture(model)


def test_observations_of_several_parts_are_joined() -> None:
    model = SAC("MultiInputPolicy", dict_env(discrete=False), buffer_size=10)
    actor, critic = describe_networks(model).networks
    assert actor.inputs == {"observation[img]": "(1, 64, 64)", "observation[vec]": "(5)"}
    assert critic.inputs == {**actor.inputs, "action": "(4)"}
    drawn = picture(model)
    assert drawn.count("observation[img]") == drawn.count("observation[vec]") == 2
    assert drawn.count("action") == 1
    assert {("action", "cat"), ("cat", "critic.qf0.0"), ("cat", "critic.qf1.0")} < arrows()


def test_a_shared_extractor_counts_once_in_all() -> None:
    shared = {"share_features_extractor": True}
    model = SAC("CnnPolicy", image_env(discrete=False), buffer_size=10, policy_kwargs=shared)
    described = describe_networks(model)
    extractor = sum(one.numel() for one in model.policy.actor.features_extractor.parameters())
    assert sum(network.parameters for network in described.networks) - described.parameters == extractor
    assert "critic.features_extractor.cnn.0" in picture(model)


def test_a_discrete_observation_is_named(toolkit: Toolkit) -> None:
    RunDirectory.create(load_config(PROJECT / "configs" / "taxi_maskable_ppo.yaml"), Path("runs/taxi"))
    assert "of observation Discrete(500)\n" in toolkit("describe").out


def test_the_picture_shows_what_leads_where() -> None:
    model = DoubleDQN("DuelingMlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [16]})
    picture(model)
    head = "q_net.q_net.2"
    assert arrows() == {
        ("observation", "q_net.features_extractor.flatten"),
        ("q_net.features_extractor.flatten", "q_net.q_net.0"),
        ("q_net.q_net.0", "q_net.q_net.1"),
        ("q_net.q_net.1", f"{head}.value"),
        ("q_net.q_net.1", f"{head}.advantage"),
        (f"{head}.value", "add"),
        (f"{head}.advantage", "add"),
        (f"{head}.advantage", "mean"),
        ("add", "sub"),
        ("mean", "sub"),
    }


def test_a_network_without_hidden_layers_is_drawn() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": []}, device="cpu")
    assert [*rows(model)] == ["features_extractor.flatten", "value_net", "action_net", "log_std"]
    picture(model)
    assert arrows() == {
        ("observation", "features_extractor.flatten"),
        ("features_extractor.flatten", "action_net"),
        ("features_extractor.flatten", "value_net"),
    }
    assert isinstance(model.policy.mlp_extractor.policy_net, torch.nn.Sequential)  # as it was


def test_a_memory_is_drawn() -> None:
    model = RecurrentPPO("MlpLstmPolicy", "Pendulum-v1", policy_kwargs={"lstm_hidden_size": 8, "net_arch": []})
    assert rows(model)["lstm_actor"].output_shape == (8,)
    picture(model)
    assert arrows() == {
        ("observation", "features_extractor.flatten"),
        ("features_extractor.flatten", "lstm_actor"),
        ("features_extractor.flatten", "lstm_critic"),
        ("lstm_actor", "action_net"),
        ("lstm_critic", "value_net"),
    }


def test_the_model_is_left_as_it_was() -> None:
    model = CrossQ("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]})  # with batch statistics
    model.policy.set_training_mode(True)
    before = copy.deepcopy(model.policy.state_dict())
    describe_networks(model)
    picture(model)
    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    assert model.policy.actor.training
    assert not any(module._forward_hooks for module in model.policy.modules())


@pytest.mark.parametrize("name", ["networks.png", "networks.svg", "networks.PNG"])
def test_the_picture_is_written_where_asked_for_and_replaces_what_was_there(
    run: RunDirectory, toolkit: Toolkit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no Graphviz but pygraphviz' own
    Path(name).write_text("old")
    before = files_in(Path())
    done = toolkit("describe", run.directory, "--plot", name)
    assert (done.status, done.err) == (0, "")
    assert "386 parameters" in done.out
    assert done.out.endswith(f"\n{name}\n")
    assert files_in(Path()) == before
    if name.endswith("svg"):
        assert ElementTree.parse(name).getroot().tag.endswith("svg")
        return
    with Image.open(name) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert (np.asarray(image.convert("RGB")) == (207, 227, 247)).all(axis=2).mean() > 0.05  # layers that learn


def test_a_bad_suffix_is_refused_before_anything_is_loaded(toolkit: Toolkit) -> None:
    done = toolkit("describe", "no-such-run", "--plot", "networks.pdf")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: networks.pdf: cannot be drawn: its name must end in .png or .svg")
    with pytest.raises(ToolkitError, match=r"\.png or \.svg"):
        draw_networks(PPO("MlpPolicy", "CartPole-v1"), Path("networks"))


@pytest.mark.parametrize("out", ["absent/networks.png", "small.yaml/networks.png", "directory.svg"])
def test_a_place_that_cannot_be_written_is_bad_input(run: RunDirectory, toolkit: Toolkit, out: str) -> None:
    Path("directory.svg").mkdir()
    before = files_in(Path())
    done = toolkit("describe", run.directory, "--plot", out)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {out}: cannot be written")
    assert files_in(Path()) == before


def test_a_network_that_cannot_be_followed_is_said_so(toolkit: Toolkit) -> None:
    Path("odd.py").write_text(ODD_POLICY)
    Path("odd.yaml").write_text(
        "timesteps: 8\nenv: {id: CartPole-v1}\nalgorithm: {name: ppo, policy: './odd.py:Odd'}\n"
    )
    run = RunDirectory.create(load_config("odd.yaml"), Path("runs/odd"))
    done = toolkit("describe", run.directory, "--plot", "odd.png", "--trust")
    assert (done.status, done.out) == (1, "")
    assert "policy (Odd) cannot be followed: TypeError" in done.err
    assert "Traceback" not in done.err
    assert not Path("odd.png").exists()


def test_what_graphviz_refuses_is_said_so(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.evaluation.network_diagram._STYLE", "no dot {")
    with pytest.raises(NetworkError, match="cannot be drawn"):
        draw_networks(untrained_model(run.resolved_config), Path("networks.png"))
    assert not Path("networks.png").exists()
