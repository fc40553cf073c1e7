"""Where things can be shown, and what SDL, which draws for pygame, and MuJoCo are told of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LINUX_DRIVERS = {"DISPLAY": "x11", "WAYLAND_DISPLAY": "wayland"}


def has_display() -> bool:
    """Say whether a window can be hoped for; only Linux can be known to have no display before one is opened."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in (*_LINUX_DRIVERS, "SDL_VIDEODRIVER"))


def in_notebook() -> bool:
    """Say whether this is a Jupyter kernel, where what is displayed can be more than text."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextmanager
def no_display() -> Iterator[None]:
    """Keep SDL and MuJoCo from looking for a display and sound that frames in memory do not need."""
    mujoco = {} if has_display() else {"MUJOCO_GL": "egl"}  # its own choice, GLFW, draws nothing without a display
    with _variables(SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy", **mujoco):
        yield


@contextmanager
def real_display() -> Iterator[None]:
    """Have SDL fail where it can open no window; left alone, it then draws into a memory that nobody sees."""
    here = [driver for name, driver in _LINUX_DRIVERS.items() if sys.platform == "linux" and os.environ.get(name)]
    wanted = {"SDL_VIDEODRIVER": ",".join(here)} if here else {}
    with _variables(**wanted):
        yield


@contextmanager
def _variables(**wanted: str) -> Iterator[None]:
    """Set environment variables for a while; what the user has set stays."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if not before[name]})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
