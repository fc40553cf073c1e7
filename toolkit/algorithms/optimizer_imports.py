"""Optimizers that do not import PyTorch's compiler.

PyTorch wraps some methods of optimizers so that its compiler leaves them alone. The first call of one imports the
compiler, which takes a second or more, even if nothing is ever compiled.
"""

from __future__ import annotations

import sys

from torch.optim import Optimizer

_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
_CACHE = "__dynamo_disable"  # attribute under which `torch._compile` keeps the method that its wrapper calls


def avoid_compiler_import() -> None:
    """Let the wrapped methods of optimizers call the methods themselves, unless the compiler is imported already."""
    if "torch._dynamo" in sys.modules:
        return
    for name in _WRAPPED:
        method = getattr(getattr(Optimizer, name), "__wrapped__", None)  # other versions of PyTorch may have none
        if method is not None and _CACHE not in vars(method):
            setattr(method, _CACHE, method)
