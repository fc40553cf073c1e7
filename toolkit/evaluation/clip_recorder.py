"""Gymnasium's RecordVideo for whole games, with a frame for each step of the environment, in several formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.wrappers import RecordVideo

from toolkit.envs.replayable import RAW_EPISODE, iterate_layers
from toolkit.evaluation.frames import Frame, convert_frame, find_single_color, scale_frames
from toolkit.evaluation.video_files import VideoFormat, write_gif_at_rate, write_mp4
from toolkit.utils.errors import RecordingError

_DEFAULT_FPS = 30.0  # as in RecordVideo


class ClipsComplete(Exception):  # noqa: N818 - like StopIteration, not an error
    """The last episode to film was cut: there is nothing left to play."""


@dataclass(frozen=True)
class Clip:
    """The video files of one episode.

    :param files: one for each format, in their order
    :param is_cut: whether the episode is longer
    :param doubts: what a viewer of the files has to know
    """

    files: tuple[Path, ...]
    is_cut: bool
    doubts: tuple[str, ...]


class ClipRecorder(RecordVideo):
    """Record the first episodes, each as a clip.

    An episode ends where ``evaluate_policy`` counts one: a game goes on after a lost life. Wrappers that repeat
    actions hide no frames. There is a frame for the reset, and one for each step of the environment itself, or of the
    outermost wrapper that declares a ``render_fps`` of its own. So the clip plays as fast as the environment says.

    RecordVideo's own writer drops the last frame of many clips, because moviepy counts frames by a sum of 1/fps. Its
    videos with frames of odd size do not play in browsers.

    :param env: a :class:`toolkit.envs.replayable.ReplayableEpisodes`, maybe with wrappers around it
    :param folder: of the files
    :param episodes: number of episodes to record
    :param max_steps: steps of the agent after which an episode is cut
    :ivar clips: the recorded episodes
    """

    def __init__(
        self, env: gym.Env[Any, Any], folder: Path, formats: Sequence[VideoFormat], episodes: int, max_steps: int
    ) -> None:
        super().__init__(_RgbFrames(env), str(folder), episode_trigger=lambda episode: episode < episodes)
        self.clips: list[Clip] = []
        self._formats, self._episodes, self._max_steps = formats, episodes, max_steps
        self._n_steps, self._is_cut = 0, False  # of the agent in this episode
        self._is_state_drawn = False
        self._n_frames_at_reset: int | None = None
        self._timed_layer = _find_timed_layer(env)
        _call_before_changes(self._timed_layer, self._note_change)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and begin the next clip unless the present episode goes on.

        :raises ClipsComplete: if this cuts the last episode
        """
        self._n_frames_at_reset = None
        observation, info = self.env.reset(seed=seed, options=options)
        if self.episode_id < 0 or info.get(RAW_EPISODE) is not None:
            self._begin_episode()
        elif self.recording and self._n_steps >= self._max_steps:
            self._cut_episode()
        self._draw_state()
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment.

        :raises ClipsComplete: if this cuts the last episode
        """
        observation, reward, terminated, truncated, info = super().step(action)
        self._n_steps += 1
        if self.recording and self._n_steps >= self._max_steps and not (terminated or truncated):
            self._cut_episode()
            truncated = True
        return observation, reward, terminated, truncated, info

    def capture(self) -> None:
        """Add a frame of the environment's current state."""
        if self.recording:
            self._capture_frame()

    def stop_recording(self) -> None:
        """Write the clip and forget its frames."""
        raw_frames: list[Any] = self.recorded_frames
        self.recorded_frames, self.recording = [], False
        frames = scale_frames(raw_frames)
        declared_fps = self._timed_layer.metadata.get("render_fps")
        fps = _read_frame_rate(declared_fps)
        files = [Path(self.video_folder) / f"{self.episode_id}.{suffix}" for suffix in self._formats]
        with ThreadPoolExecutor() as pool:  # ffmpeg is another process, so MP4 and GIF are written at once
            [*pool.map(partial(_write_video, frames, fps or _DEFAULT_FPS), files)]
        doubts = []
        if (color := find_single_color(frames)) is not None:
            doubts.append(f"shows one colour throughout, RGB {color}: check what the environment's render() draws")
        if fps is None:
            reason = f"the environment declares the render_fps {declared_fps!r}"
            doubts.append(f"plays at {_DEFAULT_FPS:g} frames a second, which is a guess: {reason}")
        self.clips.append(Clip(tuple(files), self._is_cut, tuple(doubts)))

    def close(self) -> None:
        """Close the environment, and forget the frames of an episode that has not ended."""
        self.recorded_frames, self.recording = [], False
        super().close()  # type: ignore[no-untyped-call]

    def _begin_episode(self) -> None:
        if self.recording:
            if self._n_frames_at_reset is not None:
                del self.recorded_frames[self._n_frames_at_reset :]  # steps of a wrapper in the next game
            self.stop_recording()
        self.episode_id += 1
        self._n_steps, self._is_cut = 0, False
        if self.episode_id < self._episodes:
            self.start_recording(str(self.episode_id))
            self._is_state_drawn = False

    def _cut_episode(self) -> None:
        self._is_cut = True
        self.stop_recording()
        if self.episode_id + 1 >= self._episodes:
            raise ClipsComplete

    def _note_change(self, method: str) -> None:
        """Draw the state that a step or reset of the timed layer is about to change."""
        self._draw_state()
        self._is_state_drawn = False
        if method == "reset" and self._n_frames_at_reset is None:
            self._n_frames_at_reset = len(self.recorded_frames)

    def _draw_state(self) -> None:
        """Add a frame of the environment's current state unless the last frame shows it."""
        if not self._is_state_drawn:
            self.capture()

    def _capture_frame(self) -> None:
        super()._capture_frame()  # type: ignore[no-untyped-call]
        self._is_state_drawn = True
        frames: list[Any] = self.recorded_frames
        first, last = frames[0], frames[-1]
        if last.shape != first.shape:
            message = f"the environment's render() returns frames of {first.shape} and of {last.shape}"
            raise RecordingError(message, "let it return frames of one size")


class _RgbFrames(gym.Wrapper[Any, Any, Any, Any]):
    """Renders RGB frames of 8 bits, which nothing changes later."""

    def render(self) -> Any:
        """Return the frame, of a list the last one; see :func:`convert_frame`."""
        drawn: Any = self.env.render()
        return convert_frame(drawn[-1] if isinstance(drawn, list) and drawn else drawn)


def _find_timed_layer(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Return the outermost wrapper that declares another frame rate than what it wraps, or else the environment."""
    for layer in iterate_layers(env):
        if isinstance(layer, gym.Wrapper):
            declared, inner = (part.metadata.get("render_fps") for part in (layer, layer.env))
            if declared != inner:
                break
    return layer


def _write_video(frames: Sequence[Frame], fps: float, path: Path) -> None:
    {".mp4": write_mp4, ".gif": write_gif_at_rate}[path.suffix](path, frames, fps)


def _read_frame_rate(declared: Any) -> float | None:
    """Return frames per second; None if an environment declares no usable number."""
    with suppress(TypeError, ValueError):
        fps = float(declared)
        if math.isfinite(fps) and fps > 0:
            return fps
    return None


def _call_before_changes(layer: gym.Env[Any, Any], function: Callable[[str], None]) -> None:
    """Call a function with ``step`` or ``reset`` before each of one layer, whoever asks for it.

    A wrapper around the layer would hide its attributes from what wraps it now. Copies of the layer do not call the
    function, nor do steps within a step or reset.
    """
    is_busy = False

    def override(name: str) -> MethodType:
        method = getattr(layer, name)

        def call(self: Any, *arguments: Any, **keyword_arguments: Any) -> Any:
            nonlocal is_busy
            if self is not layer:
                return getattr(type(self), name)(self, *arguments, **keyword_arguments)
            if is_busy:
                return method(*arguments, **keyword_arguments)
            function(name)
            is_busy = True
            try:
                return method(*arguments, **keyword_arguments)
            finally:
                is_busy = False

        return MethodType(call, layer)

    for name in ("step", "reset"):
        object.__setattr__(layer, name, override(name))
