"""`toolkit describe`: every layer of a run's networks with its shape and parameters, as a table and as a picture."""

from __future__ import annotations

import copy
import itertools
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
from toolkit.evaluation.graph_layout import Box, arrange
from toolkit.evaluation.network_diagram import draw_networks
from toolkit.evaluation.network_trace import Node, trace_network
from toolkit.evaluation.networks import Layer, describe_networks, format_shape, get_networks
from toolkit.training.model import untrained_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import ToolkitError

POLICY_WITH_THREE_INPUTS = """\
from stable_baselines3.common.policies import ActorCriticPolicy

class Odd(ActorCriticPolicy):
    def forward(self, first, second, third, deterministic=False):
        return super().forward(first)
"""


def make_image_env(discrete: bool = True) -> gym.Env[Any, Any]:
    return FakeImageEnv(screen_height=84, screen_width=84, n_channels=3, discrete=discrete)


def make_dict_env(discrete: bool = True) -> gym.Env[Any, Any]:
    return SimpleMultiObsEnv(random_start=False, discrete_actions=discrete)


def describe_layers(model: BaseAlgorithm) -> dict[str, Layer]:
    return {layer.name: layer for network in describe_networks(model).networks for layer in network.layers}


def draw_texts(model: BaseAlgorithm) -> list[str]:
    """Draw a model's networks and return the texts in the picture."""
    draw_networks(model, Path("networks.svg"))
    tree = ElementTree.parse("networks.svg")
    return ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def trace_edges(model: BaseAlgorithm, name: str) -> set[tuple[str, str]]:
    """Return which node of a network leads to which, each layer by its path in the network."""
    network = get_networks(model.policy)[name]
    paths = {module: path for path, module in network.named_modules()}

    def path_of(node: Node) -> str:
        return paths[node.module] if node.module else node.name

    nodes = trace_network(model.policy, name, network)
    return {(path_of(source), path_of(node)) for node in nodes for source in node.sources}


@pytest.fixture
def run(config_file: Path) -> RunDirectory:
    """A run of Double DQN with layers of 4, 16, 16 and 2, which has no model yet."""
    return RunDirectory.create(load_config(config_file), Path("runs/small-1"))


# --- The table ------------------------------------------------------------------------------------------------------


def test_describe_lists_every_layer_of_a_run_without_model(run: RunDirectory, toolkit: Toolkit) -> None:
    assert not run.model_path.exists()
    before = files_in(run.directory)
    result = toolkit("describe")
    assert (result.status, result.err) == (0, "")
    assert (
        result.out
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
    assert files_in(run.directory) == before


def test_describe_sums_parameters_of_several_networks(toolkit: Toolkit) -> None:
    RunDirectory.create(load_config(PROJECT / "configs" / "pendulum_td3.yaml"), Path("runs/td3"))
    out = toolkit("describe").out
    assert "actor: Actor of observation (3)\n" in out
    assert "critic: ContinuousCritic of observation (3), action (1)\n" in out
    assert "actor: 4,481 parameters" in out
    assert "critic: 9,090 parameters" in out
    assert "together: 13,571 parameters, all trainable\n" in out
    assert out.endswith("left out, as copies: actor_target, critic_target\n")


def test_describe_names_a_discrete_observation(toolkit: Toolkit) -> None:
    RunDirectory.create(load_config(PROJECT / "configs" / "taxi_maskable_ppo.yaml"), Path("runs/taxi"))
    assert "of observation Discrete(500)\n" in toolkit("describe").out


def test_description_counts_frozen_shared_and_separate_parameters() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, device="cpu")
    assert describe_layers(model)["log_std"] == Layer("log_std", "Parameter", (1,), 1, 1)
    model.policy.action_net.requires_grad_(False)
    assert describe_layers(model)["action_net"] == Layer("action_net", "Linear", (1,), 9, 0)
    separate = describe_networks(model)
    assert separate.parameters - separate.trainable == 9
    model.policy.mlp_extractor.value_net[0].weight = model.policy.mlp_extractor.policy_net[0].weight
    shared = describe_networks(model)
    assert shared.parameters == shared.networks[0].parameters == separate.parameters - 3 * 8


def test_extractor_shared_by_networks_counts_once() -> None:
    policy_kwargs = {"share_features_extractor": True}
    model = SAC("CnnPolicy", make_image_env(discrete=False), buffer_size=10, policy_kwargs=policy_kwargs)
    described = describe_networks(model)
    extractor = sum(parameter.numel() for parameter in model.policy.actor.features_extractor.parameters())
    assert sum(network.parameters for network in described.networks) - described.parameters == extractor
    assert any(text.startswith("critic.features_extractor.cnn.0 ·") for text in draw_texts(model))


def test_description_leaves_model_unchanged() -> None:
    model = CrossQ("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]})  # with batch statistics
    model.policy.set_training_mode(True)
    before = copy.deepcopy(model.policy.state_dict())
    describe_networks(model)
    draw_texts(model)
    assert all(torch.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    assert model.policy.actor.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.policy.modules())


# --- Tracing --------------------------------------------------------------------------------------------------------


def test_trace_shows_operations_of_dueling_head() -> None:
    model = DoubleDQN("DuelingMlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [16]})
    assert trace_edges(model, "q_net") == {
        ("observation", "features_extractor.flatten"),
        ("features_extractor.flatten", "q_net.0"),
        ("q_net.0", "q_net.1"),
        ("q_net.1", "q_net.2.value"),
        ("q_net.1", "q_net.2.advantage"),
        ("q_net.2.value", "add"),
        ("q_net.2.advantage", "add"),
        ("q_net.2.advantage", "mean"),
        ("add", "sub"),
        ("mean", "sub"),
    }


def test_trace_joins_parts_of_observation_and_action() -> None:
    model = SAC("MultiInputPolicy", make_dict_env(discrete=False), buffer_size=10)
    actor, critic = describe_networks(model).networks
    assert actor.inputs == {"observation[img]": "(1, 64, 64)", "observation[vec]": "(5)"}
    assert critic.inputs == {**actor.inputs, "action": "(4)"}
    assert {
        ("observation[vec]", "features_extractor.extractors.vec"),
        ("features_extractor.extractors.vec", "cat"),
        ("features_extractor.extractors.img.linear.1", "cat"),
        ("action", "cat"),
        ("cat", "cat"),
        ("cat", "qf0.0"),
        ("cat", "qf1.0"),
    } < trace_edges(model, "critic")


def test_trace_leaves_out_empty_networks_and_sampling() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": []}, device="cpu")
    assert [*describe_layers(model)] == ["features_extractor.flatten", "value_net", "action_net", "log_std"]
    assert trace_edges(model, "policy") == {
        ("observation", "features_extractor.flatten"),
        ("features_extractor.flatten", "action_net"),
        ("features_extractor.flatten", "value_net"),
    }


def test_trace_separates_extractors_of_one_observation() -> None:
    policy_kwargs = {"net_arch": [], "share_features_extractor": False}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, device="cpu")
    assert trace_edges(model, "policy") == {
        ("observation", "features_extractor.flatten"),
        ("observation", "vf_features_extractor.flatten"),
        ("features_extractor.flatten", "action_net"),
        ("vf_features_extractor.flatten", "value_net"),
    }


def test_trace_passes_recurrent_layers() -> None:
    model = RecurrentPPO("MlpLstmPolicy", "Pendulum-v1", policy_kwargs={"lstm_hidden_size": 8, "net_arch": []})
    assert describe_layers(model)["lstm_actor"].output_shape == (8,)
    assert trace_edges(model, "policy") == {
        ("observation", "features_extractor.flatten"),
        ("features_extractor.flatten", "lstm_actor"),
        ("features_extractor.flatten", "lstm_critic"),
        ("lstm_actor", "action_net"),
        ("lstm_critic", "value_net"),
    }


def test_describe_refuses_network_with_unknown_inputs(toolkit: Toolkit) -> None:
    Path("odd.py").write_text(POLICY_WITH_THREE_INPUTS)
    Path("odd.yaml").write_text(
        "timesteps: 8\nenv: {id: CartPole-v1}\nalgorithm: {name: ppo, policy: './odd.py:Odd'}\n"
    )
    run = RunDirectory.create(load_config("odd.yaml"), Path("runs/odd"))
    result = toolkit("describe", run.directory, "--plot", "odd.png", "--trust")
    assert (result.status, result.out) == (1, "")
    assert "policy (Odd) cannot be traced: TypeError" in result.err
    assert "Traceback" not in result.err
    assert not Path("odd.png").exists()


# --- The picture ----------------------------------------------------------------------------------------------------


def test_layout_has_no_overlaps_and_edges_pass_between_boxes() -> None:
    names = ("image", "conv", "relu", "vector", "join", "left", "right", "sum")
    boxes = {name: Box(100.0 if name != "join" else 40.0, 30.0) for name in names}
    links = {
        "conv": ["image"],
        "relu": ["conv"],
        "join": ["relu", "vector"],
        "left": ["join"],
        "right": ["join"],
        "sum": ["left", "right", "image"],  # the last one passes three rows
    }
    sources = {box: [boxes[source] for source in links.get(name, [])] for name, box in boxes.items()}
    edges = arrange([*boxes.values()], sources, gap_x=10, gap_y=20)
    for left, right in itertools.combinations(boxes.values(), 2):
        assert abs(left.x - right.x) >= (left.width + right.width) / 2 or abs(left.y - right.y) >= 50
    for edge in edges:
        assert [box.y for box in edge] == sorted(box.y for box in edge)
        for bend in edge[1:-1]:
            assert not any(box.y == bend.y and abs(box.x - bend.x) < box.width / 2 for box in boxes.values())
    assert min(box.x - box.width / 2 for box in boxes.values()) == 0
    assert boxes["vector"].y == boxes["relu"].y  # right above what it leads to


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_is_described_and_drawn(config: Path) -> None:
    model = untrained_model(load_config(config))
    parameters = dict(model.policy.named_parameters())
    described = describe_networks(model)
    sizes = [parameter.numel() for name, parameter in parameters.items() if not name.split(".")[0].endswith("_target")]
    assert described.parameters == sum(sizes) == sum(network.parameters for network in described.networks)
    assert (not described.copies) == (len(sizes) == len(parameters))
    layers = describe_layers(model)
    assert all(layer.output_shape is not None for layer in layers.values())
    modules = [layer for layer in layers.values() if layer.name not in parameters]  # such as `log_std`
    assert all(type(model.policy.get_submodule(layer.name)).__name__ == layer.kind for layer in modules)
    assert not any(name.startswith(described.copies) for name in layers if described.copies)
    texts = draw_texts(model)
    for layer in modules:
        name = f"{layer.name} · {layer.parameters:,} parameters" if layer.parameters else layer.name
        assert texts.count(name) == 1
    sampling = {"multinomial", "logsumexp", "broadcast_tensors", "exp", "clamp", "float", "reshape"}
    assert not sampling & set(texts)


def test_picture_shows_shapes_of_convolutions() -> None:
    model = DoubleDQN("DuelingCnnPolicy", make_image_env(), buffer_size=10)
    assert describe_networks(model).networks[0].inputs == {"observation": "(3, 84, 84)"}
    layers = [layer for layer in describe_layers(model).values() if layer.parameters]
    assert [(layer.kind, layer.output_shape) for layer in layers[:4]] == [
        ("Conv2d", (32, 20, 20)),
        ("Conv2d", (64, 9, 9)),
        ("Conv2d", (64, 7, 7)),
        ("Linear", (512,)),
    ]
    assert layers[0].parameters == 3 * 32 * 8 * 8 + 32
    texts = draw_texts(model)
    title = texts.index("Conv2d")
    assert texts[title + 1] == f"(3, 84, 84) → {format_shape(layers[0].output_shape)}"


@pytest.mark.parametrize("name", ["networks.svg", "networks.PNG"])
def test_plot_replaces_file_with_whole_picture(run: RunDirectory, toolkit: Toolkit, name: str) -> None:
    Path(name).write_text("old")
    before = files_in(Path())
    result = toolkit("describe", run.directory, "--plot", name)
    assert (result.status, result.err) == (0, "")
    assert "386 parameters" in result.out
    assert result.out.endswith(f"\n{name}\n")
    assert files_in(Path()) == before
    if name.endswith("svg"):
        assert ElementTree.parse(name).getroot().tag.endswith("svg")
        return
    with Image.open(name) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        trained = (np.asarray(image.convert("RGB")) == (207, 227, 247)).all(axis=2)
        assert trained.mean() > 0.05


def test_plot_refuses_suffix_before_loading_the_run(toolkit: Toolkit) -> None:
    result = toolkit("describe", "no-such-run", "--plot", "networks.pdf")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error: networks.pdf: cannot be drawn: its name must end in .png or .svg")
    with pytest.raises(ToolkitError, match=r"\.png or \.svg"):
        draw_networks(PPO("MlpPolicy", "CartPole-v1"), Path("networks"))


@pytest.mark.parametrize("out", ["absent/networks.png", "directory.svg"])
def test_plot_refuses_location_that_cannot_be_written(run: RunDirectory, toolkit: Toolkit, out: str) -> None:
    Path("directory.svg").mkdir()
    before = files_in(Path())
    result = toolkit("describe", run.directory, "--plot", out)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"error: {out}: cannot be written")
    assert files_in(Path()) == before
