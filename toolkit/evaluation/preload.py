"""Import the modules that training needs and that take seconds, without garbage collection.

The garbage collector finds nothing in them, but it takes a fifth of the import time to look, and as much again when
the process ends. So it is off during the import, and ignores these objects afterwards (:func:`gc.freeze`).
"""

# ruff: noqa: F401

import gc

gc.disable()
try:
    import toolkit.algorithms
    import toolkit.evaluation.evaluate
    import toolkit.training.trainer
finally:
    gc.enable()
    gc.freeze()
