"""What training takes seconds to import, at once and to stay.

The garbage collector finds nothing in it and takes long to look: a fifth of the time of importing, and as much again
when the process ends. So it is off meanwhile, and leaves out from then on what is there (:func:`gc.freeze`).
"""

# ruff: noqa: F401

import gc

gc.disable()
try:
    import torch._dynamo  # by the first optimizer

    import toolkit.algorithms
    import toolkit.evaluation.evaluate
    import toolkit.training.trainer
finally:
    gc.enable()
    gc.freeze()
