"""How one config differs from another, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolkit.config.yaml_document import flatten_to_text


def describe_changes(old: Any, new: Any) -> Iterator[str]:
    """Describe how plain data has changed, one leaf at a time: ``env.n_envs was 2 and is now 3``."""
    old_leaves, new_leaves = flatten_to_text(old), flatten_to_text(new)
    for path in dict.fromkeys([*old_leaves, *new_leaves]):
        before, after = old_leaves.get(path, "not set"), new_leaves.get(path, "not set")
        if before != after:
            yield f"{'.'.join(map(str, path))} was {before} and is now {after}"
