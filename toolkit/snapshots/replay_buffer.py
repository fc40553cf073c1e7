"""What a replay buffer holds, as plain data, and back into another like it."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her import HerReplayBuffer

_KNOWN = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, HerReplayBuffer)


def unrestorable(buffer: BaseBuffer | None) -> list[str]:
    """Name what of a replay buffer cannot be put back."""
    if buffer is not None and type(buffer) not in _KNOWN:
        return [f"replay buffer {type(buffer).__name__}: what it keeps besides arrays"]
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
        return ["replay buffer HerReplayBuffer: the info dicts (copy_info_dict)"]
    return []


def transitions(buffer: BaseBuffer | None) -> dict[str, Any] | None:
    """Return what of a buffer is filled, with the step after, whose observation may be stored already.

    Arrays are parts of the buffer's own.
    """
    if buffer is None:
        return None
    size = buffer.buffer_size
    filled = size if buffer.full else min(buffer.pos + 1, size)
    held = {name: _rows(value, size, filled) for name, value in vars(buffer).items() if _has_numbers(value)}
    return {"pos": buffer.pos, "full": buffer.full, "memory": held}


def put_transitions_back(buffer: BaseBuffer | None, kept: dict[str, Any] | None) -> None:
    """Put back what :func:`transitions` returned of a buffer like this one.

    :raises ValueError: if it does not fit; also another of :data:`toolkit.snapshots.restore.MISFITS`
    """
    if buffer is None or kept is None:
        return
    if type(kept["pos"]) is not int or not 0 <= kept["pos"] < buffer.buffer_size:
        raise ValueError("its transitions end nowhere")
    for name, rows in kept["memory"].items():
        _fill(vars(buffer)[name], rows)
    buffer.pos, buffer.full = kept["pos"], bool(kept["full"])


def _has_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(map(_has_numbers, value.values()))
    return isinstance(value, np.ndarray) and value.ndim > 0 and not value.dtype.hasobject


def _rows(value: Any, size: int, filled: int) -> Any:
    if isinstance(value, dict):
        return {key: _rows(one, size, filled) for key, one in value.items()}
    return value[:filled] if len(value) == size else value  # an array of another length is no memory


def _fill(memory: Any, rows: Any) -> None:
    if isinstance(rows, dict):
        for key, one in rows.items():
            _fill(memory[key], one)
    elif memory.dtype != rows.dtype or memory.shape[1:] != rows.shape[1:]:
        raise ValueError("its transitions have other shapes")
    else:
        memory[: len(rows)] = rows
