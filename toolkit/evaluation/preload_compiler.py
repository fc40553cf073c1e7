"""Import PyTorch's compiler, as :mod:`toolkit.evaluation.preload` imports what all trainings need.

The first step of an optimizer imports it, even if nothing is ever compiled. Only DoubleDQN makes the steps of a plain
Adam without the optimizer, and PQN those of a plain RAdam.
"""

# ruff: noqa: F401

import gc

gc.disable()
try:
    import torch._dynamo
finally:
    gc.enable()
    gc.freeze()
