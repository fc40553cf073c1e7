"""`toolkit watch`: greedy episodes in a window, on a virtual display and without a display."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from imageio_ffmpeg import count_frames_and_secs
from numpy.typing import NDArray
from support import Toolkit, toolkit_process

from toolkit import Run, load_config, record, train
from toolkit.evaluation.viewer import watch
from toolkit.utils.errors import WatchingError

POLE = (202, 152, 101)
DISPLAY_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


class FrameEnv(gym.Env[Any, Any]):
    """Logs its calls, and draws frames that Gymnasium shows in a window."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 200}
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    log: ClassVar[list[str]] = []

    def __init__(
        self,
        render_mode: str | None = None,
        steps: int = 2,
        breaks: bool = False,
        goes_on: bool = True,
        closed_at: int = -1,
    ) -> None:
        self.render_mode, self.steps, self.closed_at = render_mode, steps, closed_at
        self.breaks, self.goes_on = breaks, goes_on

    def note(self, event: str) -> None:
        if self.render_mode:
            self.log.append(event)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        self.note("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.goes_on or self.step_number < self.steps, "it is over"
        self.step_number += 1
        self.note("step")
        if self.render_mode and self.breaks and self.step_number == self.steps:
            raise ValueError("the simulator crashed")
        if self.render_mode and self.step_number == self.closed_at:
            import pygame

            pygame.event.post(pygame.event.Event(pygame.QUIT))  # what a click on the window's cross becomes
        return np.zeros(1, np.float32), 1.0, self.step_number >= self.steps, False, {}

    def render(self) -> Any:
        self.note("draw")
        return np.full((48, 64, 3), self.step_number, np.uint8)

    def close(self) -> None:
        self.note("close")


class WindowEnv(FrameEnv):
    """Draws a window by itself, without pygame."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human"], "render_fps": 200}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result = super().step(action)
        self.note("draw")
        return result


class TextEnv(FrameEnv):
    """Draws nothing."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}


for environment in (FrameEnv, WindowEnv, TextEnv):
    gym.register(f"toolkit_tests/{environment.__name__}-v0", environment)

LOGGING = """\
timesteps: 4
env:
  id: toolkit_tests/FrameEnv-v0
algorithm:
  name: double_dqn
  params: {buffer_size: 10}
  policy_params: {net_arch: [4]}
"""


def train_logging(directory: Path, *overrides: str) -> Run:
    """Train for 4 steps on an environment that logs its calls."""
    path = directory / "logging.yaml"
    path.write_text(LOGGING)
    run = train(load_config(path, overrides), directory / "run")
    FrameEnv.log.clear()
    return run


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the display away."""
    if sys.platform != "linux":
        pytest.skip("elsewhere there is always a display")
    for name in DISPLAY_VARIABLES:
        monkeypatch.setenv(name, "")


@pytest.fixture
def dummy_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pygame's windows open where nobody sees them."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@dataclass(frozen=True)
class Screen:
    """A virtual display; its frame buffer is a file in the format of xwd."""

    display: str
    buffer: Path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the command on this display."""
        return toolkit_process(arguments, **dict.fromkeys(DISPLAY_VARIABLES, "") | {"DISPLAY": self.display})

    def read_picture(self) -> NDArray[np.uint8]:
        """Return the picture on the screen as (rows, columns, red-green-blue)."""
        content = self.buffer.read_bytes()
        header = np.frombuffer(content, ">u4", 25)
        width, height, bytes_per_line, colours = (int(header[field]) for field in (4, 5, 12, 19))
        pixels = np.frombuffer(content, np.uint8, height * bytes_per_line, int(header[0]) + 12 * colours)
        return pixels.reshape(height, -1, 4)[:, :width, 2::-1]

    def watch(self, process: subprocess.Popen[str], seconds: float = 60) -> Iterator[NDArray[np.uint8]]:
        """Yield the picture on the screen every 50 ms while a process runs."""
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            yield self.read_picture()
            time.sleep(0.05)

    def is_dark(self) -> bool:
        """Return whether no window is left, and wait up to 5 s for that."""
        end = time.monotonic() + 5
        while self.read_picture().any() and time.monotonic() < end:
            time.sleep(0.05)
        return not self.read_picture().any()


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """A virtual display on a number that was free."""
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb is not installed")
    directory = tmp_path_factory.mktemp("screen")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-fbdir", str(directory)]
    with subprocess.Popen(
        [*command, "-nolisten", "tcp"], pass_fds=[writing], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        os.close(writing)
        try:
            with os.fdopen(reading) as answer:
                number = answer.readline().strip()
            assert number, "Xvfb did not start"
            yield Screen(f":{number}", directory / "Xvfb_screen0")
        finally:
            server.terminate()


def find_pole(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels show the pole; there are none while a frame is being drawn."""
    return (picture == POLE).all(axis=2)


# --- On a display ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_window_shows_episodes_and_their_tail(cartpole: Run, screen: Screen) -> None:
    process = screen.start("watch", cartpole.directory, "--episodes", "2", "--tail", "40")
    tips, white = [], 0
    for picture in screen.watch(process):
        if (pole := find_pole(picture)).sum() > 500:
            tips.append(int(np.flatnonzero(pole.any(axis=1))[0]))  # rows count from the top
            white = max(white, int((picture == 255).all(axis=2).sum()))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert re.fullmatch(r"episode 1: return \d+\nepisode 2: return \d+\n", out)

    assert white > 200_000  # CartPole draws 600x400, white but for the cart and its pole
    assert len({*tips}) > 3  # it moves
    assert max(tips) > 310  # upright, the tip is in row 270; an episode ends at 12 degrees, 3 rows lower
    assert screen.is_dark()


@pytest.mark.slow
def test_interrupt_closes_window_in_order(cartpole: Run, screen: Screen) -> None:
    process = screen.start("watch", cartpole.directory, "--episodes", "1000")
    assert process.stdout
    assert process.stdout.readline().startswith("episode 1: return ")  # at once, and not after the last episode
    assert any(find_pole(picture).any() for picture in screen.watch(process))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted by SIGINT\n")
    assert all(re.fullmatch(r"episode \d+: return \d+", line) for line in out.splitlines())
    assert screen.is_dark()


# --- Without a display ----------------------------------------------------------------------------------------------


def test_watch_refuses_missing_display(no_display: None, cartpole: Run, toolkit: Toolkit) -> None:
    result = toolkit("watch", cartpole.directory)
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "error: a window cannot open because there is no display\n'toolkit record' makes a video without a window\n"
    )


def test_watch_refuses_display_that_does_not_open(
    no_display: None, cartpole: Run, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":98765")
    result = toolkit("watch", cartpole.directory)
    assert (result.status, result.out) == (2, "")
    message, hint = result.err.splitlines()
    assert message.startswith("error: CartPole-v1 cannot be watched in a window: error: x11 not available")
    assert hint == "'toolkit record' makes a video without a window"
    assert os.environ["SDL_VIDEODRIVER"] == ""


# --- Episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("dummy_driver")
class TestPlay:
    def test_watch_plays_recorded_episodes(self, cartpole: Run, tmp_path: Path) -> None:
        videos = record(cartpole, 2, ["mp4"], tmp_path)
        lengths = [count_frames_and_secs(str(path))[0] - 1 for path in videos]
        assert watch(cartpole, 2) == watch(cartpole, 2, seed=cartpole.config.seed) == lengths
        assert watch(cartpole, 2, seed=99) != lengths

    def test_tail_leaves_returns_unchanged(self, cartpole: Run) -> None:
        assert watch(cartpole, 1, tail=5) == watch(cartpole, 1)

    def test_watch_plays_at_speed_of_environment(self, cartpole: Run) -> None:
        start = time.monotonic()
        steps = sum(watch(cartpole, 1, tail=30)) + 30
        assert steps / 50 * 0.95 < time.monotonic() - start < steps / 50 * 2 + 3  # CartPole has 50 steps a second

    def test_environment_with_frames_is_shown(self, tmp_path: Path) -> None:
        assert watch(train_logging(tmp_path), 2, tail=3) == [2, 2]
        episode = ["reset", "draw", *["step", "draw"] * 5]
        assert FrameEnv.log == [*episode, *episode, "reset", "draw", "close"]

    def test_window_of_environment_needs_no_pygame(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = train_logging(tmp_path, "env.id=toolkit_tests/WindowEnv-v0")
        monkeypatch.setitem(sys.modules, "pygame", None)
        assert watch(run, 1, tail=1) == [2]
        assert FrameEnv.log == ["reset", *["step", "draw"] * 3, "reset", "close"]

    @pytest.mark.parametrize("tail", [0, 5])
    def test_closed_window_ends_watch(self, tmp_path: Path, toolkit: Toolkit, tail: int) -> None:
        run = train_logging(tmp_path, f"env.params.closed_at={3 if tail else 1}")
        result = toolkit("watch", run.directory, "--episodes", "1000", "--tail", str(tail))
        assert (result.status, result.out, result.err) == (0, "", "")
        assert FrameEnv.log == ["reset", "draw", *["step", "draw"] * (3 if tail else 1), "close"]

    def test_failing_environment_is_named_and_closed(self, tmp_path: Path) -> None:
        run = train_logging(tmp_path, "env.params.breaks=true")
        name = "toolkit_tests/FrameEnv-v0"
        with pytest.raises(WatchingError, match=f"{name} cannot be watched .*ValueError: the simulator crashed"):
            watch(run)
        assert FrameEnv.log[-1] == "close"

    def test_environment_without_rendering_is_refused(self, tmp_path: Path, toolkit: Toolkit) -> None:
        run = train_logging(tmp_path, "env.id=toolkit_tests/TextEnv-v0")
        result = toolkit("watch", run.directory)
        assert (result.status, result.out) == (2, "")
        assert result.err == (
            "error: toolkit_tests/TextEnv-v0 cannot be watched: it renders neither a window nor frames\n"
            "its render modes: ['ansi']\n"
        )
        assert FrameEnv.log == []

    def test_environment_that_refuses_tail_is_named(self, tmp_path: Path, toolkit: Toolkit) -> None:
        run = train_logging(tmp_path, "env.params.goes_on=false")
        result = toolkit("watch", run.directory, "--tail", "1")
        assert (result.status, result.out) == (2, "")
        assert "FrameEnv-v0 cannot be stepped after the end of its episode: AssertionError: it is over" in result.err
        assert result.err.endswith("\nleave out --tail\n")
        assert FrameEnv.log[-1] == "close"

    def test_watch_refuses_run_without_model(self, tmp_path: Path, toolkit: Toolkit) -> None:
        run = train_logging(tmp_path)
        run.model_path.unlink()
        result = toolkit("watch", run.directory)
        assert (result.status, result.out) == (2, "")
        assert "has no model.zip" in result.err

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--tail", "-1"), ("--tail", "1001"), ("--tail", "abc"), ("--episodes", "0"), ("--seed", "-1")],
    )
    def test_watch_refuses_invalid_options(self, cartpole: Run, toolkit: Toolkit, option: str, value: str) -> None:
        result = toolkit("watch", cartpole.directory, option, value)
        assert (result.status, result.out) == (2, "")
        assert f"'{option}'" in result.err
