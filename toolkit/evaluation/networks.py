"""The networks of a model, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from torch import nn

from toolkit.evaluation.network_trace import Shape, is_layer, takes_action, trace_network

_TARGET = "_target"  # SB3's suffix of the copy that follows a network slowly


@dataclass(frozen=True)
class Layer:
    """A layer, or a parameter outside all layers.

    :param name: path of the module in the policy, as in ``policy.get_submodule``
    :param kind: class of the module
    :param output_shape: without the batch dimension; ``None`` if no observation passes
    :param parameters: how many numbers it has, without those that it shares with an earlier layer
    :param trainable: how many of them take a gradient
    """

    name: str
    kind: str
    output_shape: Shape | None
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Network:
    """A network, with its layers in the order in which an observation passes them.

    :param name: its attribute of the policy, or ``policy`` for the policy itself
    :param kind: class of the network
    :param inputs: shape of each input, without the batch dimension; a space without a shape by its name
    """

    name: str
    kind: str
    inputs: Mapping[str, str]
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the layers have."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable(self) -> int:
        """How many of them take a gradient."""
        return sum(layer.trainable for layer in self.layers)


@dataclass(frozen=True)
class ModelDescription:
    """All networks of a model.

    :param copies: names of the target networks, which have the layers of the networks that they copy
    :param parameters: how many numbers the networks have together, without the copies
    :param trainable: how many of them take a gradient
    """

    networks: tuple[Network, ...]
    copies: tuple[str, ...]
    parameters: int
    trainable: int


def describe_networks(model: BaseAlgorithm) -> ModelDescription:
    """Pass an observation through a model's networks and describe each layer.

    :raises NetworkError: if a network does not take what those of SB3 take
    """
    networks = get_networks(model.policy)
    parameters = dict.fromkeys(parameter for network in networks.values() for parameter in network.parameters())
    return ModelDescription(
        networks=tuple(_describe_network(model.policy, name, network) for name, network in networks.items()),
        copies=tuple(name for name in _get_models(model.policy) if name not in networks),
        parameters=_count(parameters),
        trainable=_count(parameter for parameter in parameters if parameter.requires_grad),
    )


def get_networks(policy: BasePolicy) -> dict[str, BaseModel]:
    """Return a policy's networks by attribute, without target networks; the policy itself if it has none inside."""
    models = _get_models(policy)
    copies = {name for name in models if name.endswith(_TARGET) and name.removesuffix(_TARGET) in models}
    return {name: model for name, model in models.items() if name not in copies} or {"policy": policy}


def format_shape(shape: Shape | None) -> str:
    """Write a shape as ``(3, 84, 84)``, and ``-`` for ``None``."""
    return "-" if shape is None else f"({', '.join(map(str, shape))})"


def join_path(*names: str) -> str:
    """Return the path of a module below others, with dots and without empty names."""
    return ".".join(filter(None, names))


def _get_models(policy: BasePolicy) -> dict[str, BaseModel]:
    return {name: child for name, child in policy.named_children() if isinstance(child, BaseModel)}


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _describe_network(policy: BasePolicy, name: str, network: BaseModel) -> Network:
    inputs = _describe_observation(policy.observation_space)
    if takes_action(network):
        inputs["action"] = f"({get_action_dim(policy.action_space)})"
    nodes = trace_network(policy, name, network)
    shapes = {node.module: node.output_shape for node in nodes if node.module}
    prefix = "" if network is policy else name
    return Network(name, type(network).__name__, inputs, tuple(_describe_layers(prefix, network, shapes)))


def _describe_observation(space: gym.Space[Any]) -> dict[str, str]:
    parts = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    named = {f"observation[{key}]": part for key, part in parts.items()} or {"observation": space}
    return {
        name: format_shape(part.shape) if isinstance(part, gym.spaces.Box) else str(part)
        for name, part in named.items()
    }


def _describe_layers(prefix: str, network: nn.Module, shapes: Mapping[nn.Module, Shape | None]) -> Iterator[Layer]:
    """Yield the layers that an observation passes, then everything else that has parameters."""
    names = {module: join_path(prefix, name) for name, module in network.named_modules()}
    counted: set[nn.Parameter] = set()
    for module in dict.fromkeys([*shapes, *names]):
        own = dict(module.named_parameters(recurse=False))
        own = {name: parameter for name, parameter in own.items() if parameter not in counted}
        counted.update(own.values())
        if is_layer(module):
            if own or module in shapes:
                trainable = _count(parameter for parameter in own.values() if parameter.requires_grad)
                shape = shapes.get(module)
                yield Layer(names[module], type(module).__name__, shape, _count(own.values()), trainable)
            continue
        for name, parameter in own.items():
            path, size = join_path(names[module], name), parameter.numel()
            yield Layer(path, type(parameter).__name__, tuple(parameter.shape), size, parameter.requires_grad * size)
