"""The agent at play in a window: on a real virtual display, and where there is none."""

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
from support import SMALL_CONFIG, Toolkit, toolkit_process

from toolkit import Run, load_config, record, train
from toolkit.evaluation.viewer import watch
from toolkit.utils.errors import WatchingError

POLE = (202, 152, 101)
DISPLAY_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


class Frames(gym.Env[Any, Any]):
    """Takes down what happens to it, and draws frames that Gymnasium shows in a window."""

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


class Window(Frames):
    """Draws a window by itself, without pygame."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human"], "render_fps": 200}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        step = super().step(action)
        self.note("draw")
        return step


class Text(Frames):
    """Writes and draws nothing."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}


for environment in (Frames, Window, Text):
    gym.register(f"toolkit_tests/{environment.__name__}-v0", environment)

LOGGING = """\
timesteps: 4
env:
  id: toolkit_tests/Frames-v0
algorithm:
  name: double_dqn
  params: {buffer_size: 10}
  policy_params: {net_arch: [4]}
"""


def logging_run(directory: Path, *overrides: str) -> Run:
    """Train for 4 steps on an environment that takes down what is done with it."""
    path = directory / "logging.yaml"
    path.write_text(LOGGING)
    run = train(load_config(path, overrides), directory / "run")
    Frames.log.clear()
    return run


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An untrained agent, whose pole falls after some ten steps."""
    directory = tmp_path_factory.mktemp("cartpole")
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    return train(load_config(directory / "small.yaml", ["timesteps=100"]), directory / "run")


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the display away."""
    if sys.platform != "linux":
        pytest.skip("elsewhere there is always a display")
    for name in DISPLAY_VARIABLES:
        monkeypatch.setenv(name, "")


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pygame's windows open where nobody sees them."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@dataclass(frozen=True)
class Screen:
    """A virtual display; its frame buffer is a file in the format of xwd."""

    display: str
    buffer: Path

    def process(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the command on this display."""
        return toolkit_process(arguments, **dict.fromkeys(DISPLAY_VARIABLES, "") | {"DISPLAY": self.display})

    def picture(self) -> NDArray[np.uint8]:
        """Return what is to be seen, as rows of columns of red, green and blue."""
        content = self.buffer.read_bytes()
        header = np.frombuffer(content, ">u4", 25)
        width, height, bytes_per_line, colours = (int(header[field]) for field in (4, 5, 12, 19))
        pixels = np.frombuffer(content, np.uint8, height * bytes_per_line, int(header[0]) + 12 * colours)
        return pixels.reshape(height, -1, 4)[:, :width, 2::-1]

    def pictures(self, process: subprocess.Popen[str], seconds: float = 60) -> Iterator[NDArray[np.uint8]]:
        """Look at the screen every now and then while a process runs."""
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            yield self.picture()
            time.sleep(0.05)

    def is_dark(self) -> bool:
        """Say whether no window is left, which can take the server a moment."""
        end = time.monotonic() + 5
        while self.picture().any() and time.monotonic() < end:
            time.sleep(0.05)
        return not self.picture().any()


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


def pole_in(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the pole is to be seen; one that is being drawn right now may be nowhere."""
    return (picture == POLE).all(axis=2)


# --- on a display ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_window_shows_the_episodes_and_how_they_end(cartpole: Run, screen: Screen) -> None:
    process = screen.process("watch", cartpole.directory, "--episodes", "2", "--tail", "40")
    tips, white = [], 0
    for picture in screen.pictures(process):
        if (pole := pole_in(picture)).sum() > 500:
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
def test_an_interrupt_ends_it_quietly(cartpole: Run, screen: Screen) -> None:
    process = screen.process("watch", cartpole.directory, "--episodes", "1000")
    assert process.stdout
    assert process.stdout.readline().startswith("episode 1: return ")  # told at once, not when all is over
    assert any(pole_in(picture).any() for picture in screen.pictures(process))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert all(re.fullmatch(r"episode \d+: return \d+", line) for line in out.splitlines())
    assert screen.is_dark()


# --- without one ----------------------------------------------------------------------------------------------------


def test_without_a_display_the_command_says_so(no_screen: None, cartpole: Run, toolkit: Toolkit) -> None:
    done = toolkit("watch", cartpole.directory)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "error: a window cannot open because there is no display\n'toolkit record' makes a video without a window\n"
    )


def test_a_display_that_refuses_is_no_display(
    no_screen: None, cartpole: Run, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":98765")
    done = toolkit("watch", cartpole.directory)
    assert (done.status, done.out) == (2, "")
    message, hint = done.err.splitlines()
    assert message.startswith("error: CartPole-v1 cannot be watched in a window: error: x11 not available")
    assert hint == "'toolkit record' makes a video without a window"
    assert os.environ["SDL_VIDEODRIVER"] == ""


# --- what is played -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unseen")
class TestPlay:
    def test_the_episodes_are_those_that_are_filmed(self, cartpole: Run, tmp_path: Path) -> None:
        films = record(cartpole, 3, ["mp4"], tmp_path)
        lengths = [count_frames_and_secs(str(path))[0] - 1 for path in films]
        assert watch(cartpole, 3) == watch(cartpole, 3, seed=cartpole.config.seed) == lengths
        assert watch(cartpole, 3, seed=99) != lengths

    def test_a_tail_changes_no_return(self, cartpole: Run) -> None:
        assert watch(cartpole, 2, tail=10) == watch(cartpole, 2)

    def test_it_goes_at_the_speed_of_the_environment(self, cartpole: Run) -> None:
        start = time.monotonic()
        steps = sum(watch(cartpole, 2, tail=50)) + 2 * 50
        assert steps / 50 * 0.95 < time.monotonic() - start < steps / 50 * 2 + 3  # CartPole has 50 steps a second

    def test_frames_are_shown_too(self, tmp_path: Path) -> None:
        assert watch(logging_run(tmp_path), 2, tail=3) == [2, 2]
        episode = ["reset", "draw", *["step", "draw"] * 5]
        assert Frames.log == [*episode, *episode, "reset", "draw", "close"]

    def test_a_window_needs_no_pygame(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = logging_run(tmp_path, "env.id=toolkit_tests/Window-v0")
        monkeypatch.setitem(sys.modules, "pygame", None)
        assert watch(run, 1, tail=1) == [2]
        assert Frames.log == ["reset", *["step", "draw"] * 3, "reset", "close"]

    @pytest.mark.parametrize("tail", [0, 5])
    def test_closing_the_window_ends_it(self, tmp_path: Path, toolkit: Toolkit, tail: int) -> None:
        run = logging_run(tmp_path, f"env.params.closed_at={3 if tail else 1}")
        done = toolkit("watch", run.directory, "--episodes", "1000", "--tail", str(tail))
        assert (done.status, done.out, done.err) == (0, "", "")
        assert Frames.log == ["reset", "draw", *["step", "draw"] * (3 if tail else 1), "close"]

    def test_an_environment_that_breaks_is_named_and_its_window_closed(self, tmp_path: Path) -> None:
        run = logging_run(tmp_path, "env.params.breaks=true")
        name = "toolkit_tests/Frames-v0"
        with pytest.raises(WatchingError, match=f"{name} cannot be watched .*ValueError: the simulator crashed"):
            watch(run)
        assert Frames.log[-1] == "close"

    def test_an_environment_that_draws_nothing_is_named(self, tmp_path: Path, toolkit: Toolkit) -> None:
        run = logging_run(tmp_path, "env.id=toolkit_tests/Text-v0")
        done = toolkit("watch", run.directory)
        assert (done.status, done.out) == (2, "")
        assert done.err == (
            "error: toolkit_tests/Text-v0 cannot be watched: it renders neither a window nor frames\n"
            "its render modes: ['ansi']\n"
        )
        assert Frames.log == []

    def test_an_environment_that_cannot_go_on_is_named(self, tmp_path: Path, toolkit: Toolkit) -> None:
        run = logging_run(tmp_path, "env.params.goes_on=false")
        done = toolkit("watch", run.directory, "--tail", "1")
        assert (done.status, done.out) == (2, "")
        assert "Frames-v0 cannot be stepped after the end of its episode: AssertionError: it is over" in done.err
        assert done.err.endswith("\nleave out --tail\n")
        assert Frames.log[-1] == "close"

    def test_a_run_without_a_model_cannot_be_watched(self, tmp_path: Path, toolkit: Toolkit) -> None:
        run = logging_run(tmp_path)
        run.model_path.unlink()
        done = toolkit("watch", run.directory)
        assert (done.status, done.out) == (2, "")
        assert "has no model.zip" in done.err

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--tail", "-1"), ("--tail", "1001"), ("--tail", "abc"), ("--episodes", "0"), ("--seed", "-1")],
    )
    def test_options_that_make_no_sense_are_bad_input(
        self, cartpole: Run, toolkit: Toolkit, option: str, value: str
    ) -> None:
        done = toolkit("watch", cartpole.directory, option, value)
        assert (done.status, done.out) == (2, "")
        assert f"'{option}'" in done.err
