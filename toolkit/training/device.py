"""The device that a config asks for. SB3 takes the CPU where PyTorch cannot use a GPU, without a word."""

from __future__ import annotations

import torch

from toolkit.config.load import ResolvedConfig
from toolkit.utils.errors import Problem

_PATH = ("algorithm", "params", "device")


def refuse_missing_device(config: ResolvedConfig) -> None:
    """Refuse a config whose device this machine does not have.

    :raises ConfigError: if PyTorch cannot use the device
    """
    if reason := find_device_problem(config):
        message = f"PyTorch cannot use {_get_device(config)!r} on this machine: {reason}"
        raise config.make_error([Problem(_PATH, message, "write auto for a GPU where there is one, or cpu")])


def describe_missing_device(config: ResolvedConfig) -> str | None:
    """Return what a resumed run does about a device that this machine does not have; ``None`` if it has it."""
    if not find_device_problem(config):
        return None
    message = f"this machine has no {_get_device(config)!r}: training continues differently, on the CPU"
    return str(config.make_error([Problem(_PATH, message)]))


def find_device_problem(config: ResolvedConfig) -> str | None:
    """Return why PyTorch cannot use the device of a config here; ``None`` if it can."""
    device = _get_device(config)
    if device in (None, "auto"):
        return None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        return str(error).strip().splitlines()[0].partition(". ")[0].rstrip(".")
    return None


def _get_device(config: ResolvedConfig) -> str | None:
    device = config.components.algorithm.get_argument("device")
    return None if device is None else str(device)
