"""The callbacks in callbacks."""

from __future__ import annotations

from collections.abc import Iterator

from stable_baselines3.common.callbacks import BaseCallback


def iterate_nested(callback: BaseCallback) -> Iterator[BaseCallback]:
    """Yield a callback and those that it holds, as ``CallbackList`` and ``EveryNTimesteps`` do, each once."""
    nested = {id(callback): callback}  # callbacks may refer to each other
    remaining = [callback]
    while remaining:
        current = remaining.pop()
        yield current
        for value in [value for name, value in vars(current).items() if name != "parent"]:
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, BaseCallback) and id(item) not in nested:
                    nested[id(item)] = item
                    remaining.append(item)
