"""The way of an observation through a network: its inputs, layers and the operations between layers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from torch import nn
from torch.overrides import TorchFunctionMode

from toolkit.utils import errors
from toolkit.utils.errors import NetworkError

Shape = tuple[int, ...]
_CONVERSIONS = {"float", "to", "type", "contiguous", "detach", "clone"}  # operations that are not shown as layers


@dataclass(frozen=True, eq=False)
class Node:
    """An input, a layer or an operation between layers.

    :param name: of the input or operation, as ``cat``; a layer's class
    :param module: the layer; ``None`` for inputs and operations
    :param input_shape: without the batch dimension; ``None`` for inputs
    :param output_shape: without the batch dimension; ``None`` if it is no tensor
    :param sources: the nodes whose tensors arrive here, each earlier in the trace
    """

    name: str
    module: nn.Module | None
    input_shape: Shape | None
    output_shape: Shape | None
    sources: tuple[Node, ...]

    @property
    def is_input(self) -> bool:
        """Whether nothing arrives here."""
        return self.module is None and self.input_shape is None


def trace_network(policy: BasePolicy, name: str, network: BaseModel) -> list[Node]:
    """Pass an observation through a network and return its nodes in the order in which they are passed.

    Conversions are left out, and so is what a policy computes after its last layers to choose an action.

    :param name: what the network is called in an error
    :raises NetworkError: if the network does not take what those of SB3 take
    """
    observation, *other_inputs = make_example_inputs(policy, network)
    tracer = _Tracer(network)
    parts = observation.items() if isinstance(observation, dict) else ()
    named = {f"observation[{key}]": tensor for key, tensor in parts} or {"observation": observation}
    if takes_action(network):
        named["action"] = other_inputs[-1]
    for title, tensor in named.items():
        tracer.add_input(title, tensor)
    try:
        with _evaluation_mode(network), tracer.hooks(), tracer:
            network(observation, *other_inputs)
    except Exception as error:
        raise NetworkError(
            f"{name} ({type(network).__name__}) cannot be traced: {errors.describe_error(error)}",
            "a network takes an observation, and a critic also an action",
        ) from error
    return tracer.visible_nodes()


def make_example_inputs(policy: BasePolicy, network: BaseModel) -> list[Any]:
    """Return what a network's ``forward`` takes: tensors with a batch dimension of 1, an observation first."""
    observation = copy.deepcopy(policy.observation_space).sample()
    inputs: list[Any] = [policy.obs_to_tensor(observation)[0]]
    if isinstance(network, RecurrentActorCriticPolicy):
        hidden, cell = (torch.zeros(network.lstm_hidden_state_shape, device=policy.device) for _ in range(2))
        inputs += [RNNStates((hidden, cell), (hidden, cell)), torch.zeros(1, device=policy.device)]
    elif takes_action(network):
        inputs.append(torch.zeros(1, get_action_dim(policy.action_space), device=policy.device))
    return inputs


def takes_action(network: BaseModel) -> bool:
    """Return whether a network's ``forward`` takes an action besides the observation, as critics do."""
    parameters = inspect.signature(network.forward).parameters.values()
    return len([parameter for parameter in parameters if parameter.default is parameter.empty]) == 2


def is_layer(module: nn.Module) -> bool:
    """Return whether a module has no modules inside. A Sequential without layers is not a layer."""
    return next(module.children(), None) is None and not isinstance(module, nn.Sequential)


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Keep a network unchanged while tensors pass: no dropout, no batch statistics, no gradients."""
    was_training = network.training
    network.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


class _Tracer(TorchFunctionMode):
    """Notes for every tensor which nodes it comes from, while a network computes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network
        self._nodes: list[Node] = []
        self._running: list[nn.Module] = []  # the modules that are being called, the outermost first
        self._is_inner: set[Node] = set()  # operations inside a module of the network
        self._sources: dict[int, tuple[Node, ...]] = {}  # by the tensor's id
        self._tensors: list[torch.Tensor] = []  # a reference to each, so that no other tensor gets the same id

    def add_input(self, name: str, tensor: torch.Tensor) -> None:
        self._set_sources(tensor, (self._add_node(Node(name, None, None, tuple(tensor.shape[1:]), ())),))

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watch the calls of all modules of the network."""
        handles = []
        for module in self._network.modules():
            handles.append(module.register_forward_pre_hook(lambda module, _: self._running.append(module)))
            handles.append(module.register_forward_hook(self._leave_module, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave_module(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if not is_layer(module):
            self._running.pop()
            return None
        inputs = [*_iterate_tensors((args, kwargs))]
        if _contains(inputs, output):  # Flatten returns a vector itself; a view differs from the input
            output = output.view(output.shape)
        self._running.pop()
        node = next((node for node in self._nodes if node.module is module), None)
        if node is None:
            shapes = _feature_shape(module, inputs), _feature_shape(module, output)
            node = self._add_node(Node(type(module).__name__, module, *shapes, self._get_sources(inputs)))
        for tensor in _iterate_tensors(output):
            self._set_sources(tensor, (node,))
        return output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch and note where the tensors that it returns come from."""
        output = func(*args, **(kwargs or {}))
        tensors = [*_iterate_tensors((args, kwargs))]
        results = [tensor for tensor in _iterate_tensors(output) if not _contains(tensors, tensor)]
        sources = self._get_sources(tensors)
        if results and sources:
            if self._is_node(func, sources):
                input_shape, output_shape = (tuple(tensor.shape[1:]) for tensor in (tensors[0], results[0]))
                node = self._add_node(Node(_name_of(func), None, input_shape, output_shape, sources))
                if self._running[-1] is not self._network:
                    self._is_inner.add(node)
                sources = (node,)
            for tensor in results:
                self._set_sources(tensor, sources)
        return output

    def _is_node(self, func: Any, sources: tuple[Node, ...]) -> bool:
        """Return whether an operation is worth a node: it joins tensors, or is a module's own."""
        if not self._running or is_layer(self._running[-1]) or _name_of(func) in _CONVERSIONS:
            return False
        return len(sources) > 1 or self._running[-1] is not self._network

    def visible_nodes(self) -> list[Node]:
        """Return the nodes without operations that only come after the last layer."""
        visible: set[Node] = set()
        for node in reversed(self._nodes):
            is_operation = not node.is_input and node.module is None
            if not is_operation or node in self._is_inner or node in visible:
                visible |= {node, *node.sources}
        return [node for node in self._nodes if node in visible]

    def _add_node(self, node: Node) -> Node:
        self._nodes.append(node)
        return node

    def _get_sources(self, tensors: Iterable[torch.Tensor]) -> tuple[Node, ...]:
        return tuple(dict.fromkeys(node for tensor in tensors for node in self._sources.get(id(tensor), ())))

    def _set_sources(self, tensor: torch.Tensor, sources: tuple[Node, ...]) -> None:
        self._sources[id(tensor)] = sources
        self._tensors.append(tensor)


def _iterate_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _iterate_tensors(item)


def _contains(tensors: Iterable[torch.Tensor], value: Any) -> bool:
    return any(tensor is value for tensor in tensors)


def _name_of(func: Any) -> str:
    return str(getattr(func, "__name__", func)).strip("_")


def _feature_shape(module: nn.Module, value: Any) -> Shape | None:
    """Return the shape of the first tensor in what a module takes or returns, without the batch dimension."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, torch.Tensor):
        return None
    return tuple(value.shape[2 if isinstance(module, nn.RNNBase) else 1 :])  # a sequence comes before its batch
