"""Tells whether SB3's and PyTorch's own methods and modules are in use, so that a fast path may do their work.

A method can be replaced by a subclass, on a class or on one object, a hook can be added, and a module, a layer or a
parameter can take the place of another at any time, as in a callback. So these checks are made in every call that
takes a fast path. Each takes about a microsecond.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, starmap
from typing import Any

import torch as th
from stable_baselines3.common.policies import BaseModel
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

_GLOBAL_HOOKS = (
    *(torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks),
    *(torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks),
)
_TRAIN, _SETATTR = nn.Module.train, nn.Module.__setattr__
_get_children, _get_parameters = operator.itemgetter("_modules"), operator.itemgetter("_parameters")
_get_hooks = operator.itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def get_parameters(attributes: Iterable[dict[str, Any]]) -> list[nn.Parameter]:
    """Return the parameters that modules have now, given their attributes."""
    stored = chain.from_iterable(map(dict.values, map(_get_parameters, attributes)))
    return [parameter for parameter in stored if parameter is not None]


Functions = dict[tuple[Any, str], Any]  # by their owner, a class or a module, and their name


def get_functions(owners_and_names: Iterable[tuple[Any, str]]) -> Functions:
    """Return the functions of classes and modules as they are now."""
    return {(owner, name): getattr(owner, name) for owner, name in owners_and_names}


def are_in_place(functions: Functions) -> bool:
    """Return whether no function has been replaced."""
    return [*starmap(getattr, functions)] == [*functions.values()]


def has_methods(instance: Any, methods: dict[str, Any]) -> bool:
    """Return whether an object has these methods by name: neither its class nor the object itself has others."""
    cls = type(instance)
    are_those = all(getattr(cls, name, None) is method for name, method in methods.items())
    return are_those and vars(instance).keys().isdisjoint(methods)


class Watch:
    """Modules as they are when this object is made, to notice when they change.

    :param modules: they store their children and parameters as :func:`store_plainly` tells
    :param functions: functions of classes and modules, by owner and name, to watch as well
    :param others: objects whose classes and numbers of attributes are to be watched as well
    """

    def __init__(
        self, modules: list[nn.Module], functions: Iterable[tuple[Any, str]] = (), others: Iterable[Any] = ()
    ) -> None:
        self._modules_attributes = [*map(vars, modules)]
        self._objects = [*modules, *others]
        self._classes = [*map(type, self._objects)]
        self._attributes = [*map(vars, self._objects)]
        self._n_attributes = [*map(len, self._attributes)]
        self._parents = [attributes for attributes in self._modules_attributes if attributes["_modules"]]
        self._children = [*chain.from_iterable(map(dict.values, map(_get_children, self._parents)))]
        registries = chain.from_iterable(map(operator.itemgetter("_modules", "_parameters"), self._modules_attributes))
        self._empty = [registry for registry in registries if not registry]
        self._places = [*functions]
        self._functions = [*starmap(getattr, self._places)]
        self._next_hook_id: int | None = None

    def is_unchanged(self) -> bool:
        """Return whether everything is the same: classes, children, the number of attributes, and functions.

        Parameters may be others, but only modules that had parameters have them.
        """
        # in one function, as calls would take half of its time
        return (
            [*map(len, self._attributes)] == self._n_attributes
            and [*map(type, self._objects)] == self._classes
            and [*chain.from_iterable(map(dict.values, map(_get_children, self._parents)))] == self._children
            and not any(self._empty)
            and [*starmap(getattr, self._places)] == self._functions
        )

    @property
    def has_hooks(self) -> bool:
        """Whether the modules have hooks, of their own or of all modules."""
        if RemovableHandle.next_id != self._next_hook_id:  # a hook was added, to whatever it may be
            if any(chain(_GLOBAL_HOOKS, *map(_get_hooks, self._modules_attributes))):
                return True
            self._next_hook_id = RemovableHandle.next_id
        return False

    def set_training_mode(self, mode: bool) -> None:
        """Put the modules in training or evaluation mode."""
        for attributes in self._modules_attributes:
            attributes["training"] = mode


_TREE_METHODS = {name: getattr(nn.Module, name) for name in ("parameters", "named_parameters", "modules")}


def store_plainly(modules: list[nn.Module]) -> bool:
    """Return whether modules store their children and parameters as ``nn.Module`` does, and each parameter once."""
    if not all(has_methods(module, _TREE_METHODS) and "_modules" in vars(module) for module in modules):
        return False
    ids = [id(parameter) for module in modules for parameter in module._parameters.values() if parameter is not None]
    return len(ids) == len({*ids})


_classes_with_stock_train: set[type] = set()


def set_training_mode(network: nn.Module, mode: bool) -> None:
    """Do what ``network.train(mode)`` does in a fraction of the time: PyTorch is slow in setting attributes."""
    if nn.Module.train is not _TRAIN:
        network.train(mode)
        return
    modules = [network]
    for module in modules:
        attributes = module.__dict__
        if (
            type(module) not in _classes_with_stock_train and not _has_stock_train(type(module))
        ) or "train" in attributes:
            module.train(mode)
            continue
        attributes["training"] = mode
        if children := attributes["_modules"]:
            modules += [child for child in children.values() if child is not None]


@contextmanager
def evaluation_mode(network: BaseModel) -> Iterator[None]:
    """Put a network in evaluation mode for this block, and each of its modules in its own mode again afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.set_training_mode(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _has_stock_train(cls: type[nn.Module]) -> bool:
    if cls.train is not _TRAIN or cls.__setattr__ is not _SETATTR:
        return False
    _classes_with_stock_train.add(cls)
    return True


def hides_class_attribute(instance: Any) -> bool:
    """Return whether an object has an attribute of its own in place of one of its class, as a method."""
    return any(hasattr(type(instance), name) for name in vars(instance))


def is_torch_plain() -> bool:
    """Return whether PyTorch only computes: it does not trace, transform or check, and has no autocast and no mode."""
    modes = th._C._len_torch_dispatch_stack() or th._C._len_torch_function_stack()
    transforms = th._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    is_watched = th._C._get_tracing_state() is not None or th.is_anomaly_enabled()
    return not (modes or transforms or is_watched or th.is_autocast_enabled("cpu"))


def is_frozen_or_hooked(parameter: nn.Parameter) -> bool:
    """Return whether a parameter takes no gradient, or has hooks on its gradient, which only autograd runs."""
    return not parameter.requires_grad or bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
