"""What the processes of an experiment's runs are forked from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from toolkit.experiments.preload import train_once


def refuse() -> NoReturn:
    raise AssertionError("a forked process could not use a GPU that its parent has looked for")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux lists the threads of a process there")
def test_preload_trains_without_threads_and_gpu(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for owner, name in (
        (torch.cuda, "is_available"),
        (torch.cuda, "device_count"),
        (torch._C, "_cuda_getDeviceCount"),
    ):
        monkeypatch.setattr(owner, name, refuse, raising=False)
    before = os.listdir("/proc/self/task"), torch.get_num_threads()
    train_once()
    assert (os.listdir("/proc/self/task"), torch.get_num_threads()) == before
    assert capfd.readouterr() == ("", "")
