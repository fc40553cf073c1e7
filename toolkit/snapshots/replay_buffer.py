"""The transitions of a replay buffer as plain data, and back into another buffer like it.

SB3's own buffers are arrays and a position. A subclass may have more, such as priorities: its ``state_dict``, or else
its other attributes, are captured as those of a callback.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her import HerReplayBuffer

from toolkit.snapshots.capture import CapturedState, Structure, capture, capture_attributes
from toolkit.snapshots.object_kinds import has_state_dict
from toolkit.snapshots.restore import restore, restore_attributes

_TYPES_OF_ARRAYS = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, HerReplayBuffer)


def find_unsaved_parts(buffer: BaseBuffer | None) -> list[str]:
    """Name the parts of a replay buffer that cannot be restored."""
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
        return [f"replay buffer {type(buffer).__name__}: the info dicts (copy_info_dict)"]
    return []


def capture_replay_buffer(buffer: BaseBuffer | None) -> dict[str, Any] | None:
    """Return the filled part of a buffer, and the next step, whose observation the buffer may have already.

    Arrays are views of the buffer's own.
    """
    if buffer is None:
        return None
    size = buffer.buffer_size
    n_steps = size if buffer.full else min(buffer.pos + 1, size)
    arrays = {name: _slice_steps(value, size, n_steps) for name, value in vars(buffer).items() if _is_numeric(value)}
    return {"pos": buffer.pos, "full": buffer.full, "memory": arrays}


def restore_replay_buffer(buffer: BaseBuffer | None, saved_state: dict[str, Any] | None) -> None:
    """Restore what :func:`capture_replay_buffer` returned of a buffer like this one.

    :raises ValueError: if it does not fit; also another of :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    if buffer is None or saved_state is None:
        return
    if type(saved_state["pos"]) is not int or not 0 <= saved_state["pos"] < buffer.buffer_size:
        raise ValueError("the position of its replay buffer is outside the buffer")
    for name, data in saved_state["memory"].items():
        _fill(vars(buffer)[name], data)
    buffer.pos, buffer.full = saved_state["pos"], bool(saved_state["full"])


def capture_own_state(
    buffer: BaseBuffer | None, saved_elsewhere: Iterable[Any], start: Structure | None
) -> CapturedState | None:
    """Capture what a subclass of SB3's buffers has besides arrays; None for SB3's own, which have nothing else.

    :param saved_elsewhere: objects whose state others save, wherever the buffer refers to them
    :param start: the structure when training started; None if it starts now
    """
    if buffer is None or type(buffer) in _TYPES_OF_ARRAYS:
        return None
    if has_state_dict(buffer):
        return capture(buffer, saved_elsewhere, start)
    return capture_attributes(buffer, _list_skipped_attributes(buffer), saved_elsewhere, start)


def restore_own_state(buffer: BaseBuffer | None, saved_state: dict[str, Any] | None) -> None:
    """Restore what :func:`capture_own_state` captured of a buffer like this one.

    :raises ValueError: if it does not fit; also another of :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    if buffer is None or saved_state is None:
        return
    if has_state_dict(buffer):
        restore(buffer, saved_state)
    else:
        restore_attributes(buffer, saved_state, _list_skipped_attributes(buffer))


def _list_skipped_attributes(buffer: BaseBuffer) -> set[str]:
    """Return the names of a buffer's attributes that :func:`capture_replay_buffer` saves, and of its environments."""
    saved = {name for name, value in vars(buffer).items() if _is_numeric(value)}
    return saved | {"pos", "full"} | ({"env", "infos"} if isinstance(buffer, HerReplayBuffer) else set())


def _is_numeric(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(map(_is_numeric, value.values()))
    return isinstance(value, np.ndarray) and value.ndim > 0 and not value.dtype.hasobject


def _slice_steps(value: Any, size: int, n_steps: int) -> Any:
    if isinstance(value, dict):
        return {key: _slice_steps(array, size, n_steps) for key, array in value.items()}
    return value[:n_steps] if len(value) == size else value  # an array of another length has no step per row


def _fill(memory: Any, data: Any) -> None:
    if isinstance(data, dict):
        for key, rows in data.items():
            _fill(memory[key], rows)
    elif memory.dtype != data.dtype or memory.shape[1:] != data.shape[1:]:
        raise ValueError("its transitions have other shapes")
    else:
        memory[: len(data)] = data
