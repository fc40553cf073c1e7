"""Videos have the pixels that `render()` drew, all frames of a game, and the environment's playing time."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pygame
import pytest
from decoding import decode
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit import load_config, train
from toolkit.config.load import resolve_config
from toolkit.evaluation.video import log_doubts, record_clips
from toolkit.evaluation.video_files import VideoFormat, write_gif, write_gif_at_rate
from toolkit.reports.thumbnails import write_thumbnail
from toolkit.training.model import load_model
from toolkit.utils.errors import RecordingError

Frames = NDArray[np.uint8]
STEPS = 4  # of an episode


def paint(step: int) -> Frames:
    """Return a picture with four quarters of their own colours; the last one shows the step."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :24], frame[:16, 24:] = (200, 30, 90), (30, 180, 60)
    frame[16:, :24], frame[16:, 24:] = (40, 150, 210), 10 + 40 * step
    return frame


def paint_grey(step: int) -> Frames:
    return paint(step)[..., 2]


def paint_mask(step: int) -> NDArray[np.bool_]:
    """Return a picture whose first three quarters are the bits of the step."""
    bits = np.array([[step & 1, step & 2], [step & 4, 0]], np.bool_)
    return bits.repeat(16, axis=0).repeat(24, axis=1)


def repeat(grey: NDArray[Any]) -> Frames:
    return np.stack([grey] * 3, axis=2).astype(np.uint8)


def shade(step: int) -> Frames:
    """Return a picture with thousands of colours."""
    rows, columns = np.mgrid[:96, :120]
    return np.stack([2 * rows, 2 * columns, np.full_like(rows, 20 * step)], axis=2).astype(np.uint8)


Draw = Callable[[int], Any]
PICTURES: dict[str, tuple[Draw, Draw]] = {  # what render() returns at a step, and what the video shows
    "grey": (paint_grey, lambda step: repeat(paint_grey(step))),
    "grey channel": (lambda step: paint(step)[..., 2:], lambda step: repeat(paint_grey(step))),
    "RGBA": (lambda step: np.dstack([paint(step), np.full((32, 48), 9 * step, np.uint8)]), paint),
    "floats to 1": (lambda step: np.maximum(paint(step) - 0.3, 0) / 255, paint),
    "floats to 255": (lambda step: paint(step).astype(np.float32), paint),
    "floats, first dark": (
        lambda step: np.full((32, 48), 1.0 + 60 * step),
        lambda step: np.full((32, 48, 3), 1 + 60 * step),
    ),
    "int64": (lambda step: paint(step).astype(np.int64), paint),
    "bool": (paint_mask, lambda step: repeat(255 * paint_mask(step))),
    "view": (lambda step: paint(step)[::-1, ::-1], lambda step: paint(step)[::-1, ::-1]),
    "list": (lambda step: [paint(step + 1), paint(step)], paint),
}
FAULTS: dict[str, tuple[Draw, str]] = {
    "channels first": (lambda _: np.zeros((3, 32, 48), np.uint8), "shape (3, 32, 48) and dtype uint8"),
    "large integers": (lambda _: np.full((8, 8, 3), 300), "dtype int64: its values reach from 300 to 300"),
    "negative floats": (
        lambda _: np.linspace(-1, 1, 64).reshape(8, 8),
        "dtype float64: its values reach from -1 to 1",
    ),
    "nan": (lambda _: np.full((8, 8), np.nan, np.float32), "shape (8, 8) and dtype float32"),
    "complex": (lambda _: np.zeros((8, 8), np.complex128), "dtype complex128"),
    "empty": (lambda _: np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
    "picture object": (lambda _: Image.new("RGB", (8, 8)), "returns Image, not an array"),
    "None": (lambda _: None, "returns NoneType, not an array"),
    "growing": (lambda step: np.zeros((8 + step, 8, 3), np.uint8), "frames of (8, 8, 3) and of (9, 8, 3)"),
}
OTHERS: dict[str, Draw] = {
    "shades": shade,
    "red end": lambda step: np.full((96, 120, 3), (255, 0, 0), np.uint8) if step == STEPS else shade(step),
    "close colours": lambda step: np.full((8, 8, 3), (100 + step, 50, 50), np.uint8),
    "black": lambda _: np.zeros((8, 8, 3), np.uint8),
}
DRAWINGS: dict[str, Draw] = (
    {name: draw for name, (draw, _) in {**PICTURES, **FAULTS}.items()} | OTHERS | {"paint": paint}
)


class Painted(gym.Env[Any, Any]):
    """Episodes of four steps. `render()` returns one of the drawings for the number of the step, plus 5 a game."""

    n_steps: ClassVar[int] = 0
    observation_space = Box(0, 1, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(
        self, render_mode: str | None = None, drawing: str = "paint", fps: Any = 20, plans: bool = False
    ) -> None:
        self.render_mode, self.draw, self.plans, self.game = render_mode, DRAWINGS[drawing], plans, -1
        self.metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": fps}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number, self.game = 0, self.game + 1
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.plans:
            plan = copy.deepcopy(self)
            plan.plans = False
            plan.step(action)
        self.step_number += 1
        Painted.n_steps += 1
        return np.zeros(1, np.float32), 1.0, self.step_number >= STEPS, False, {}

    def render(self) -> Any:
        return self.draw(self.step_number)


class Window(Painted):
    """Draws on pygame's window, unless the driver is the one that shows nothing."""

    def render(self) -> Any:
        window = pygame.display.set_mode((48, 32))
        if os.environ["SDL_VIDEODRIVER"] != "dummy":
            pygame.surfarray.blit_array(window, paint(self.step_number).swapaxes(0, 1))
        return pygame.surfarray.array3d(window).swapaxes(0, 1)


class Repeat(gym.Wrapper[Any, Any, Any, Any]):
    """Takes each action up to three times."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        for _ in range(3):
            result = self.env.step(action)
            if result[2]:
                break
        return result


class SlowRepeat(Repeat):
    """Says that it takes three steps at a time."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20 / 3}


class Lives(gym.Wrapper[Any, Any, Any, Any]):
    """Loses a life with every step. Its reset takes a step in a running game, like SB3's `EpisodicLifeEnv`."""

    is_over = True

    def reset(self, **arguments: Any) -> Any:
        observation = None if self.is_over else self.step(0)[0]
        return self.env.reset(**arguments) if self.is_over else (observation, {})

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, self.is_over, truncated, info = self.env.step(action)
        return observation, reward, True, truncated, info


class Late(gym.Wrapper[Any, Any, Any, Any]):
    """Takes two steps before the agent acts."""

    def reset(self, **arguments: Any) -> Any:
        self.env.reset(**arguments)
        self.env.step(0)
        return self.env.step(0)[0], {}


class Marked(gym.Wrapper[Any, Any, Any, Any]):
    """Draws a mark whose height is the number of its steps."""

    n_steps = 0

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.n_steps += 1
        return result

    def render(self) -> Any:
        frame: Any = self.env.render()
        frame[: self.n_steps, -1] = 255
        return frame


def make_repeating_env(**arguments: Any) -> gym.Env[Any, Any]:
    """Return the environment in a wrapper of its own, which reads and sets attributes of it."""

    class Outer(Repeat):
        def step(self, action: Any) -> Any:
            self.env.level = self.env.step_number  # type: ignore[attr-defined]
            assert self.unwrapped.level == self.unwrapped.step_number  # type: ignore[attr-defined]
            return super().step(action)

    return Outer(Painted(**arguments))


gym.register("toolkit_tests/Painted-v0", Painted)
gym.register("toolkit_tests/UncheckedPainted-v0", Painted, disable_env_checker=True)
gym.register("toolkit_tests/Window-v0", Window)
gym.register("toolkit_tests/RepeatingPainted-v0", make_repeating_env)

CONFIG = """\
timesteps: 8
env: {id: toolkit_tests/Painted-v0}
algorithm: {name: double_dqn, params: {buffer_size: 10, compile: false}, policy_params: {net_arch: [4]}}
"""
Film = Callable[..., list[Path]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BaseAlgorithm:
    """An agent for all environments of this module."""
    directory = tmp_path_factory.mktemp("painted")
    (directory / "painted.yaml").write_text(CONFIG)
    model = load_model(train(load_config(directory / "painted.yaml"), directory / "run"))
    model.env = None  # it has none of the wrappers that the tests add
    return model


@pytest.fixture
def film(model: BaseAlgorithm, tmp_path: Path) -> Film:
    """Record the agent in an environment with other parameters and wrappers."""

    def film(suffix: VideoFormat = "gif", *, episodes: int = 1, max_steps: int = 100, **env: Any) -> list[Path]:
        (tmp_path / "painted.yaml").write_text(CONFIG)
        overrides = {f"env.{key.replace('__', '.')}": value for key, value in env.items()}
        config = resolve_config(load_config(tmp_path / "painted.yaml", overrides))
        clips = record_clips(
            model, config, tmp_path / "videos", "film", formats=[suffix], episodes=episodes, max_steps=max_steps
        )
        log_doubts(clips)
        return [file for clip in clips for file in clip.files]

    return film


def read_steps(path: Path) -> list[int]:
    """Read the number of the step from each frame."""
    return [round((int(level) - 10) / 40) for level in decode(path).frames[:, 24, 36, 0]]


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
@pytest.mark.parametrize("drawing", PICTURES)
def test_video_has_pixels_that_render_drew(film: Film, drawing: str, suffix: VideoFormat) -> None:
    (path,) = film(suffix, params__drawing=drawing)
    expected = np.stack([PICTURES[drawing][1](step) for step in range(STEPS + 1)])
    difference = np.abs(decode(path).frames.astype(int) - expected)
    assert difference.max() == 0 or suffix == "mp4"
    assert difference[:, 4:12, 4:12].max() <= 5, "H.264 has fewer levels, and blurs edges"
    assert difference[:, -12:-4, -12:-4].max() <= 5


def test_mp4_names_its_conversion_of_colors(film: Film) -> None:
    (path,) = film("mp4")
    assert decode(path).color_matrix == "smpte170m", "players guess differently from 720 rows on"


@pytest.mark.parametrize("drawing", FAULTS)
def test_frame_that_is_no_picture_is_refused_by_shape_and_dtype(film: Film, drawing: str, tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        film(params__drawing=drawing)
    assert caught.value.message.startswith("no video was made: the environment's render() returns ")
    assert FAULTS[drawing][1] in caught.value.message
    assert [*(tmp_path / "videos").iterdir()] == []


@pytest.mark.parametrize("fps", [20, 60, 120])
def test_gif_shows_color_that_only_the_last_frame_has(film: Film, fps: int) -> None:
    (path,) = film(params={"drawing": "red end", "fps": fps})
    assert (decode(path).frames[-1] == (255, 0, 0)).all()


@pytest.mark.parametrize("n_colors", [255, 32])
def test_gif_shows_small_object_of_its_own_color(n_colors: int) -> None:
    frames = [shade(step) for step in range(12)]
    frames[-1][50:52, 40:42] = (255, 0, 255)
    write_gif(Path("small.gif"), frames, [100] * 12, n_colors)
    last = decode(Path("small.gif")).frames[-1].astype(int)
    assert (last[50:52, 40:42] == (255, 0, 255)).all()
    assert np.abs(last - frames[-1]).mean() < 32


@pytest.mark.parametrize(
    ("steps", "fps", "durations"),
    [
        ([0], 0.001, [655_350]),
        ([0, 0, 0], 0.004, [655_350]),
        ([0, 1, 1, 2], 0.0025, [400_000, 655_350, 400_000]),
        ([0, 1, 1, 2], 10, [100, 200, 100]),
        ([0], 200, [20]),
        ([0, 1, 2], 70, [30, 20]),
    ],
)
def test_gif_frame_stays_as_long_as_format_and_browsers_allow(
    steps: list[int], fps: float, durations: list[int]
) -> None:
    write_gif_at_rate(Path("still.gif"), [shade(step) for step in steps], fps)
    with Image.open("still.gif") as gif:
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(gif)] == durations


def test_gif_keeps_colors_that_differ_by_one_level(film: Film) -> None:
    (path,) = film(params__drawing="close colours")
    assert decode(path).frames[:, 0, 0, 0].tolist() == [100, 101, 102, 103, 104]


def test_thumbnail_shows_last_frame() -> None:
    frames = [shade(step) for step in range(11)]
    frames[-1][:] = (255, 0, 0)
    write_gif(Path("film.gif"), frames, [100] * 10 + [20])
    write_thumbnail(Path("film.gif"), Path("small.gif"))
    assert np.abs(decode(Path("small.gif")).frames[-1].astype(int) - (255, 0, 0)).max() <= 8


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
@pytest.mark.parametrize(
    ("env", "steps"),
    [
        ({"wrappers": [Repeat]}, [0, 1, 2, 3, 4]),
        ({"wrappers": [SlowRepeat]}, [0, 3, 4]),
        ({"id": "toolkit_tests/RepeatingPainted-v0"}, [0, 1, 2, 3, 4]),
        ({"wrappers": [Repeat], "params": {"plans": True}}, [0, 1, 2, 3, 4]),
    ],
    ids=["silent wrapper", "wrapper with render_fps", "wrapper inside gym.make", "environment that copies itself"],
)
def test_repeated_actions_play_in_real_time(
    film: Film, suffix: VideoFormat, env: dict[str, Any], steps: list[int]
) -> None:
    (path,) = film(suffix, **env)
    assert read_steps(path) == steps
    rate = 20 / 3 if env.get("wrappers") == [SlowRepeat] else 20
    assert decode(path).seconds == pytest.approx(len(steps) / rate, abs=0.011)


def test_drawing_of_wrapper_shows_state_after_its_step(film: Film) -> None:
    (path,) = film(wrappers=[Marked])
    marks = (decode(path).frames[:, :10, -1] == 255).all(axis=2).sum(axis=1)
    assert marks.tolist() == [0, 1, 2, 3, 4]


def test_episode_of_video_is_a_game_with_all_its_lives(film: Film) -> None:
    paths = film(episodes=2, wrappers=[Lives])
    assert [read_steps(path) for path in paths] == [[0, 1, 2, 3, 4]] * 2


def test_video_begins_where_the_agent_acts(film: Film) -> None:
    paths = film(episodes=2, wrappers=[Late])
    assert [read_steps(path) for path in paths] == [[2, 3, 4]] * 2


def test_video_after_cut_game_begins_with_next_game(film: Film) -> None:
    paths = film(episodes=2, max_steps=2, wrappers=[Repeat, Lives])
    assert [read_steps(path) for path in paths] == [[0, 1, 2, 3, 4]] * 2
    for wrappers in ([], [Lives]):
        paths = film(episodes=2, max_steps=1, wrappers=wrappers)
        assert [read_steps(path) for path in paths] == [[0, 1]] * 2


@pytest.mark.parametrize("wrappers", [[], [Lives]])
def test_nothing_is_played_after_last_cut(film: Film, wrappers: list[Any]) -> None:
    Painted.n_steps = 0
    film(max_steps=1, wrappers=wrappers)
    assert Painted.n_steps == 1 + len(wrappers), "the reset after a life takes a step"


@pytest.mark.parametrize("fps", [None, 0, "fast", float("nan")])
def test_environment_without_usable_frame_rate_plays_at_30_and_says_so(
    film: Film, fps: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = film("mp4", id="toolkit_tests/UncheckedPainted-v0", params__fps=fps)
    assert decode(path).seconds == pytest.approx(5 / 30, abs=0.011)
    assert caplog.messages == [
        f"{path} plays at 30 frames a second, which is a guess: the environment declares the render_fps {fps!r}"
    ]


def test_video_of_one_color_is_said(film: Film, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = film("mp4", params__drawing="black")
    assert caplog.messages == [
        f"{path} shows one colour throughout, RGB (0, 0, 0): check what the environment's render() draws"
    ]
    caplog.clear()
    film()
    assert caplog.messages == []


@pytest.mark.parametrize("driver", ["", "dummy"])
def test_environment_that_draws_on_a_window_is_filmed(
    film: Film, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    (path,) = film(id="toolkit_tests/Window-v0")
    pygame.quit()
    assert (decode(path).frames == np.stack([paint(step) for step in range(STEPS + 1)])).all()
    assert os.environ["SDL_VIDEODRIVER"] == driver
