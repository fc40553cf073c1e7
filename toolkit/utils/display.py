"""Detect a display or a notebook, and set the environment variables that SDL (for pygame) and MuJoCo read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LINUX_DRIVERS = {"DISPLAY": "x11", "WAYLAND_DISPLAY": "wayland"}


def has_display() -> bool:
    """Return whether a window may open; only Linux tells that there is no display before one is opened."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in (*_LINUX_DRIVERS, "SDL_VIDEODRIVER"))


def is_notebook() -> bool:
    """Return whether this is a Jupyter kernel, which can display more than text."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextmanager
def disable_display() -> Iterator[None]:
    """Render frames in memory: SDL and MuJoCo then look for neither a display nor sound.

    Some environments draw nothing if the driver is ``dummy``, because that shows nothing. So it gives way to
    ``offscreen``, also where the user has set it.
    """
    mujoco = {} if has_display() else {"MUJOCO_GL": "egl"}  # its default, GLFW, needs a display
    video = os.environ.get("SDL_VIDEODRIVER")
    driver = "offscreen,dummy" if not video or video == "dummy" else video
    with _variables(SDL_VIDEODRIVER=driver), _default_variables(SDL_AUDIODRIVER="dummy", **mujoco):
        yield


@contextmanager
def require_display() -> Iterator[None]:
    """Let SDL fail if it can open no window; by default it would then draw into memory that nobody sees."""
    drivers = [driver for name, driver in _LINUX_DRIVERS.items() if sys.platform == "linux" and os.environ.get(name)]
    with _default_variables(**({"SDL_VIDEODRIVER": ",".join(drivers)} if drivers else {})):
        yield


@contextmanager
def _default_variables(**defaults: str) -> Iterator[None]:
    """Set environment variables for a while; those that the user has set stay."""
    with _variables(**{name: os.environ.get(name) or value for name, value in defaults.items()}):
        yield


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
