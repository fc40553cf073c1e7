"""Videos of a model: greedy episodes on a rendering environment of its own, through Gymnasium's RecordVideo."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RecordVideo, TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.config.load import ResolvedConfig
from toolkit.envs.factory import WrapEnv, derived_seed, make_vec_env
from toolkit.evaluation.rollout import check_episodes, play_greedy_episodes
from toolkit.evaluation.tail import Tail, check_tail
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.display import disable_display
from toolkit.utils.errors import RecordingError, RunError, ToolkitError, describe_error

Frame = NDArray[np.uint8]
VideoFormat = Literal["mp4", "gif"]
DEFAULT_MAX_STEPS = 1000  # RecordVideo keeps every frame in memory until the end: 0.7 GB for this many of 600x400


def record(
    run: RunDirectory,
    episodes: int = 1,
    formats: Sequence[VideoFormat] = ("mp4",),
    out: str | Path | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    tail: int = 0,
) -> list[Path]:
    """Record greedy episodes of a run's model, one file an episode and format.

    :param out: directory of the videos; by default the run's own
    :param max_steps: an episode is cut after so many steps
    :param tail: so many frames, 0 to 1000, follow where the environment terminated, so that the fall is seen
    :return: the files written, in order
    :raises RunError: if the run has no model that can be loaded, or ``out`` cannot be written to
        (the run's own directory of videos not if it is a link: a run that came from elsewhere could lead anywhere)
    :raises RecordingError: if the environment draws no frames or cannot be stepped after its end, or the video cannot
        be encoded
    """
    if not out and run.videos.is_symlink():
        raise RunError(f"{run.videos}: is a link, and nothing is written through it", "name a place with --out")
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


def record_episodes(  # noqa: PLR0913 - what is filmed and where to; how, by keyword
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
    """Record greedy episodes of a model as ``<name>.<format>``, or ``<name>-<n>.<format>`` where that is taken.

    The episodes follow from the run's seed, so that videos of one run compare; training is not touched.

    :param max_steps: an episode is cut after so many steps
    :param tail: so many frames, 0 to 1000, follow where the environment terminated, so that the fall is seen
    :return: the files written, in order
    :raises ValueError: if ``episodes``, ``tail`` or ``formats`` are none that can be recorded
    :raises RunError: if the directory cannot be written to
    :raises RecordingError: if the environment draws no frames or cannot be stepped after its end, or the video cannot
        be encoded
    """
    check_episodes(episodes)
    check_tail(tail)
    if isinstance(formats, str) or not formats or not {*formats} <= {*get_args(VideoFormat)}:
        raise ValueError(f"formats must be a list of {' and '.join(get_args(VideoFormat))}, not {formats!r}")
    seed = derived_seed(config.seed, "video")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=directory, prefix=".recording-")
    except OSError as error:
        raise RunError(f"{directory}: cannot be written to: {error.strerror}", "choose another place") from error
    with scratch as folder:
        clips = Path(folder) / "clips"

        def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
            recorder = _ClipRecorder(TimeLimit(env, max_steps), clips, formats, episodes)
            return Tail(recorder, tail, seed, recorder.capture)

        try:
            with disable_display(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters of them is in the error
                _play_on_camera(model, config, seed, episodes, wrap)
            return _publish(clips, directory, name, formats, episodes)
        except RecordingError:
            raise
        except ToolkitError as error:
            raise RecordingError(f"no video was made: {error.message}", error.hint) from error
        except Exception as error:
            hint = "moviepy and imageio-ffmpeg bring the encoder" if "ffmpeg" in str(error).lower() else ""
            raise RecordingError(f"no video was made: {describe_error(error)}", hint) from error


def _play_on_camera(model: BaseAlgorithm, config: ResolvedConfig, seed: int, episodes: int, wrap: WrapEnv) -> None:
    env = make_vec_env(config, seed=seed, n_envs=1, render_mode="rgb_array", wrap=wrap)
    try:
        play_greedy_episodes(model, env, episodes)
    finally:
        env.close()


def _publish(clips: Path, directory: Path, name: str, formats: Sequence[VideoFormat], episodes: int) -> list[Path]:
    """Move finished videos to names that nobody has."""
    made: list[Path] = []
    for episode in range(episodes):
        for suffix in formats:
            source = clips / f"clip-episode-{episode}.{suffix}"
            if not source.is_file():
                raise RecordingError("no video was made: the environment drew no frames")
            made.append(_move_to_free_name(source, directory, name, suffix))
    return made


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
        os.link(source, target)  # unlike a rename, this never overwrites
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with source.open("rb") as video, target.open("xb") as copy:
            shutil.copyfileobj(video, copy)


class _ClipRecorder(RecordVideo):
    """RecordVideo of the first episodes, in every format asked for.

    RecordVideo's own writer drops the last frame of many clips (moviepy counts frames by a sum of 1/fps) and writes
    frames of odd size so that browsers do not play them.
    """

    def __init__(self, env: gym.Env[Any, Any], folder: Path, formats: Sequence[VideoFormat], episodes: int) -> None:
        super().__init__(env, str(folder), episode_trigger=lambda episode: episode < episodes, name_prefix="clip")
        self.formats = formats

    def capture(self) -> None:
        """Film the environment as it is now."""
        if self.recording:
            self._capture_frame()  # type: ignore[no-untyped-call]

    def stop_recording(self) -> None:
        """Write the clip and forget its frames."""
        frames: list[Any] = self.recorded_frames
        self.recorded_frames, self.recording = [], False
        if frames:
            for suffix in self.formats:
                write = {"mp4": _write_mp4, "gif": _write_gif}[suffix]
                write(Path(self.video_folder) / f"{self._video_name}.{suffix}", frames, self.frames_per_sec)


def _write_mp4(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write H.264 that every browser plays, which wants frames of even height and width."""
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
    """Write a GIF in real time, all frames with one palette: a fifth of the time of one each, and no flicker.

    GIF counts time in hundredths of a second, and browsers slow down frames shorter than two, so above 50 frames a
    second some are left out.
    """
    from PIL import Image

    every = math.ceil(fps / 50)
    shown = frames[::every]
    ends = [round(100 * min(number * every, len(frames)) / fps) for number in range(len(shown) + 1)]
    durations = [10 * (end - start) for start, end in itertools.pairwise(ends)]
    sample = Image.fromarray(np.concatenate(shown[:: max(1, len(shown) // 8)]))
    palette = sample.quantize(256, method=Image.Quantize.FASTOCTREE)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in shown]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
