"""The networks of a model, layer by layer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from torch import nn

from toolkit.utils import errors
from toolkit.utils.errors import NetworkError

_TARGET = "_target"  # how SB3 names the copy that follows a network slowly
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A layer, or a parameter that is in none.

    :param name: path of the module in the policy, as in ``policy.get_submodule``
    :param kind: class of the module
    :param output_shape: without the batch dimension; ``None`` where no observation passes
    :param parameters: how many numbers it learns or keeps, without those that an earlier layer shares
    :param trainable: how many of them take a gradient
    """

    name: str
    kind: str
    output_shape: Shape | None
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Network:
    """A network, its layers in the order in which an observation passes through.

    :param name: its attribute of the policy, or ``policy`` for the policy itself
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

    :param copies: names of the target networks, which are built as those that they copy
    :param parameters: how many numbers the networks have together, without the copies
    :param trainable: how many of them take a gradient
    """

    networks: tuple[Network, ...]
    copies: tuple[str, ...]
    parameters: int
    trainable: int


def describe_networks(model: BaseAlgorithm) -> ModelDescription:
    """Pass an observation through a model's networks and take down each layer.

    :raises NetworkError: if a network does not take what those of SB3 take
    """
    networks = get_networks(model.policy)
    parameters = {id(one): one for network in networks.values() for one in network.parameters()}.values()
    return ModelDescription(
        networks=tuple(_describe_network(model.policy, name, network) for name, network in networks.items()),
        copies=tuple(name for name in _parts(model.policy) if name not in networks),
        parameters=_count(parameters),
        trainable=_count(one for one in parameters if one.requires_grad),
    )


def get_networks(policy: BasePolicy) -> dict[str, BaseModel]:
    """Return the networks that a policy consists of, by attribute, without the copies; or the policy itself."""
    parts = _parts(policy)
    copies = {name for name in parts if name.endswith(_TARGET) and name.removesuffix(_TARGET) in parts}
    return {name: part for name, part in parts.items() if name not in copies} or {"policy": policy}


def make_example_inputs(policy: BasePolicy, network: BaseModel) -> list[Any]:
    """Return what a network's ``forward`` takes: tensors with a batch dimension of 1, an observation first."""
    observation = copy.deepcopy(policy.observation_space).sample()
    inputs: list[Any] = [policy.obs_to_tensor(observation)[0]]
    if isinstance(network, RecurrentActorCriticPolicy):
        hidden, cell = (torch.zeros(network.lstm_hidden_state_shape, device=policy.device) for _ in range(2))
        inputs += [RNNStates((hidden, cell), (hidden, cell)), torch.zeros(1, device=policy.device)]
    elif _takes_action(network):
        inputs.append(torch.zeros(1, get_action_dim(policy.action_space), device=policy.device))
    return inputs


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Let nothing that passes through a network change it: no dropout, no batch statistics, no gradients."""
    was_training = network.training
    network.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def make_trace_error(name: str, network: nn.Module, error: BaseException) -> NetworkError:
    """Make the error for a network that an observation does not pass through."""
    return NetworkError(
        f"{name} ({type(network).__name__}) cannot be followed: {errors.describe_error(error)}",
        "a network takes an observation, a critic an action as well",
    )


def format_shape(shape: Shape | None) -> str:
    """Write a shape as ``(3, 84, 84)``, or ``-`` where there is none."""
    return "-" if shape is None else f"({', '.join(map(str, shape))})"


def _is_layer(module: nn.Module) -> bool:
    """Say whether a module is made of no others, and is no Sequential that merely has none."""
    return next(module.children(), None) is None and not isinstance(module, nn.Sequential)


def _parts(policy: BasePolicy) -> dict[str, BaseModel]:
    return {name: part for name, part in policy.named_children() if isinstance(part, BaseModel)}


def _takes_action(network: BaseModel) -> bool:
    parameters = inspect.signature(network.forward).parameters.values()
    return len([one for one in parameters if one.default is one.empty]) == 2


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _describe_network(policy: BasePolicy, name: str, network: BaseModel) -> Network:
    inputs = _sizes(policy.observation_space)
    if _takes_action(network):
        inputs["action"] = f"({get_action_dim(policy.action_space)})"
    shapes: dict[nn.Module, Shape | None] = {}

    def take_down(module: nn.Module, _: Any, output: Any) -> None:
        shapes.setdefault(module, _output_shape(module, output))

    hooks = [module.register_forward_hook(take_down) for module in network.modules() if _is_layer(module)]
    try:
        with evaluation_mode(network):
            network(*make_example_inputs(policy, network))
    except Exception as error:
        raise make_trace_error(name, network, error) from error
    finally:
        for hook in hooks:
            hook.remove()
    prefix = "" if network is policy else name
    return Network(name, type(network).__name__, inputs, tuple(_layers(prefix, network, shapes)))


def _sizes(space: gym.Space[Any]) -> dict[str, str]:
    parts = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    named = {f"observation[{key}]": part for key, part in parts.items()} or {"observation": space}
    return {
        name: format_shape(part.shape) if isinstance(part, gym.spaces.Box) else str(part)
        for name, part in named.items()
    }


def _output_shape(module: nn.Module, output: Any) -> Shape | None:
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        return None
    return tuple(output.shape[2 if isinstance(module, nn.RNNBase) else 1 :])  # a sequence comes before its batch


def _layers(prefix: str, network: nn.Module, shapes: Mapping[nn.Module, Shape | None]) -> Iterator[Layer]:
    """Yield the layers that were passed, then everything else that has parameters."""
    names = {module: ".".join(filter(None, (prefix, name))) for name, module in network.named_modules()}
    counted: set[int] = set()
    for module in dict.fromkeys([*shapes, *names]):
        own = {name: one for name, one in module.named_parameters(recurse=False) if id(one) not in counted}
        counted.update(map(id, own.values()))
        if _is_layer(module):
            if own or module in shapes:
                trainable = _count(one for one in own.values() if one.requires_grad)
                shape = shapes.get(module)
                yield Layer(names[module], type(module).__name__, shape, _count(own.values()), trainable)
            continue
        for name, one in own.items():
            path = ".".join(filter(None, (names[module], name)))
            yield Layer(path, type(one).__name__, tuple(one.shape), one.numel(), one.requires_grad * one.numel())
