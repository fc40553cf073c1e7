"""Videos of greedy episodes, recorded on a separate environment by Gymnasium's RecordVideo."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RecordVideo, TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.config.load import ResolvedConfig
from toolkit.envs.factory import WrapEnv, derived_seed
from toolkit.evaluation.rollout import check_episodes, open_greedy_env, play_greedy_episodes
from toolkit.evaluation.tail import TailWrapper, check_tail
from toolkit.training.model import load_model
from toolkit.training.run_directory import RECORDING_PREFIX, RunDirectory
from toolkit.utils.display import disable_display
from toolkit.utils.errors import RecordingError, RunError, ToolkitError, describe_error
from toolkit.utils.files import temporary_directory

Frame = NDArray[np.uint8]
VideoFormat = Literal["mp4", "gif"]
DEFAULT_MAX_STEPS = 1000  # RecordVideo keeps all frames of an episode in memory: 0.7 GB at 600x400 pixels


def record(
    run: RunDirectory,
    episodes: int = 1,
    formats: Sequence[VideoFormat] = ("mp4",),
    out: str | Path | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    tail: int = 0,
) -> list[Path]:
    """Record greedy episodes of a run's model, one file for each episode and format.

    >>> import toolkit
    >>> (video,) = toolkit.record(toolkit.load(), formats=["gif"], out="videos")
    >>> video.name
    'record.gif'

    :param episodes: number of episodes, at least 1
    :param formats: ``mp4``, ``gif`` or both
    :param out: directory of the videos; by default the run's ``videos``
    :param max_steps: episodes are cut after this many steps
    :param tail: frames, 0 to 1000, after the environment terminates an episode, so that the fall is visible
    :return: the files written, in order
    :raises RunError: if the run has no model that can be loaded, or the directory cannot be written to. A ``videos``
        directory that is a symbolic link is refused, because a run from elsewhere could lead anywhere
    :raises RecordingError: if the environment draws no frames or cannot be stepped after its end, or the video cannot
        be encoded
    """
    if not out and run.videos.is_symlink():
        raise RunError(f"{run.videos}: is a link, and nothing is written through it", "name a directory with --out")
    return record_episodes(
        load_model(run),
        run.resolved_config,
        Path(out) if out else run.videos,
        "record",
        formats=formats,
        episodes=episodes,
        max_steps=max_steps,
        tail=tail,
    )


def record_episodes(  # noqa: PLR0913 - options are keywords
    model: BaseAlgorithm,
    config: ResolvedConfig,
    directory: Path,
    name: str,
    *,
    formats: Sequence[VideoFormat] = ("mp4",),
    episodes: int = 1,
    max_steps: int = DEFAULT_MAX_STEPS,
    tail: int = 0,
) -> list[Path]:
    """Record greedy episodes of a model as ``<name>.<format>``, or ``<name>-<n>.<format>`` if that exists.

    The episodes follow from the run's seed, so that videos of one run are comparable. Training is not affected.

    :param episodes: number of episodes, at least 1
    :param max_steps: episodes are cut after this many steps
    :param tail: frames, 0 to 1000, after the environment terminates an episode, so that the fall is visible
    :return: the files written, in order
    :raises ValueError: if ``episodes``, ``tail`` or ``formats`` is invalid
    :raises RunError: if the directory cannot be written to
    :raises RecordingError: if the environment draws no frames or cannot be stepped after its end, or the video cannot
        be encoded
    """
    check_episodes(episodes)
    check_tail(tail)
    if isinstance(formats, str) or not formats or not {*formats} <= {*get_args(VideoFormat)}:
        raise ValueError(f"formats must be a list of {' and '.join(get_args(VideoFormat))}, not {formats!r}")
    seed = derived_seed(config.seed, "video")
    with ExitStack() as cleanup:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            clips = cleanup.enter_context(temporary_directory(directory, RECORDING_PREFIX)) / "clips"
        except OSError as error:
            hint = "choose another directory"
            raise RunError(f"{directory}: cannot be written to: {error.strerror}", hint) from error

        def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
            recorder = _ClipRecorder(TimeLimit(env, max_steps), clips, formats, episodes)
            return TailWrapper(recorder, tail, seed, recorder.capture)

        try:
            with disable_display(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error has what matters
                _film_episodes(model, config, seed, episodes, wrap)
            return _move_clips(clips, directory, name, formats, episodes)
        except RecordingError:
            raise
        except ToolkitError as error:
            raise RecordingError(f"no video was made: {error.message}", error.hint) from error
        except Exception as error:
            hint = "install moviepy and imageio-ffmpeg for the encoder" if "ffmpeg" in str(error).lower() else ""
            raise RecordingError(f"no video was made: {describe_error(error)}", hint) from error


def _film_episodes(model: BaseAlgorithm, config: ResolvedConfig, seed: int, episodes: int, wrap: WrapEnv) -> None:
    with open_greedy_env(config, seed=seed, n_envs=1, render_mode="rgb_array", wrap=wrap) as env:
        play_greedy_episodes(model, env, episodes)


def _move_clips(clips: Path, directory: Path, name: str, formats: Sequence[VideoFormat], episodes: int) -> list[Path]:
    """Move finished videos to file names that do not exist yet."""
    videos: list[Path] = []
    for episode in range(episodes):
        for suffix in formats:
            source = clips / f"clip-episode-{episode}.{suffix}"
            if not source.is_file():
                raise RecordingError("no video was made: the environment drew no frames")
            videos.append(_move_to_free_name(source, directory, name, suffix))
    return videos


def _move_to_free_name(source: Path, directory: Path, name: str, suffix: str) -> Path:
    for number in itertools.count(1):
        target = directory / (f"{name}.{suffix}" if number == 1 else f"{name}-{number}.{suffix}")
        try:
            _copy_without_overwriting(source, target)
        except FileExistsError:
            continue
        break
    return target


def _copy_without_overwriting(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # unlike a rename, a link never overwrites
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with source.open("rb") as video, target.open("xb") as copy:
            shutil.copyfileobj(video, copy)


class _ClipRecorder(RecordVideo):
    """Records the first episodes, each in several formats.

    RecordVideo's own writer drops the last frame of many clips, because moviepy counts frames by a sum of 1/fps. Its
    videos with frames of odd size do not play in browsers.
    """

    def __init__(self, env: gym.Env[Any, Any], folder: Path, formats: Sequence[VideoFormat], episodes: int) -> None:
        super().__init__(env, str(folder), episode_trigger=lambda episode: episode < episodes, name_prefix="clip")
        self.formats = formats

    def capture(self) -> None:
        """Add a frame of the environment's current state."""
        if self.recording:
            self._capture_frame()

    def _capture_frame(self) -> None:
        """Keep a copy of the frame: an environment may draw the next one into the same array."""
        n_frames = len(self.recorded_frames)
        super()._capture_frame()  # type: ignore[no-untyped-call]
        self.recorded_frames[n_frames:] = [np.array(frame) for frame in self.recorded_frames[n_frames:]]

    def stop_recording(self) -> None:
        """Write the clip and forget its frames."""
        frames: list[Any] = self.recorded_frames
        self.recorded_frames, self.recording = [], False
        if frames:
            for suffix in self.formats:
                write = {"mp4": _write_mp4, "gif": _write_gif}[suffix]
                write(Path(self.video_folder) / f"{self._video_name}.{suffix}", frames, self.frames_per_sec)


def _write_mp4(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write H.264 that every browser plays. Frames get an even height and width, which this needs."""
    from imageio_ffmpeg import write_frames

    height, width = (size + size % 2 for size in frames[0].shape[:2])
    writer = write_frames(str(path), (width, height), fps=fps, macro_block_size=1)
    writer.send(None)
    try:
        for frame in frames:
            margin = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
            writer.send(np.ascontiguousarray(np.pad(frame, margin, mode="edge")))
    finally:
        writer.close()


def _write_gif(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write a GIF that plays in real time.

    GIF counts time in hundredths of a second, and browsers slow down frames shorter than two. So frames above 50 per
    second are dropped.
    """
    every = math.ceil(fps / 50)
    visible_frames = frames[::every]
    ends = [round(100 * min(number * every, len(frames)) / fps) for number in range(len(visible_frames) + 1)]
    write_gif(path, visible_frames, [10 * (end - start) for start, end in itertools.pairwise(ends)])


def write_gif(path: Path, frames: Sequence[Frame], durations: Sequence[int], n_colors: int = 256) -> None:
    """Write frames of equal size as a GIF that repeats.

    All frames share a palette: this takes a fifth of the time of one palette each, and avoids flicker. Dithering would
    make the file larger.

    :param durations: milliseconds of each frame
    """
    from PIL import Image

    sample = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)]))
    palette = sample.quantize(n_colors, method=Image.Quantize.FASTOCTREE)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[*durations], loop=0, format="GIF")
