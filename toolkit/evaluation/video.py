"""Videos of greedy episodes, recorded on a separate environment by Gymnasium's RecordVideo."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.factory import WrapEnv, derived_seed
from toolkit.evaluation.clip_recorder import Clip, ClipRecorder, ClipsComplete
from toolkit.evaluation.rollout import check_episodes, open_greedy_env, play_greedy_episodes
from toolkit.evaluation.tail import TailWrapper, check_tail
from toolkit.evaluation.video_files import VideoFormat
from toolkit.training.model import load_model
from toolkit.training.run_directory import RECORDING_PREFIX, RunDirectory
from toolkit.utils.display import disable_display
from toolkit.utils.errors import RecordingError, RunError, ToolkitError, describe_error
from toolkit.utils.files import temporary_directory

DEFAULT_MAX_STEPS = 1000  # RecordVideo keeps all frames of an episode in memory: 0.7 GB at 600x400 pixels
_FAILURE = "no video was made: "
_log = logging.getLogger("toolkit")


def record(
    run: RunDirectory,
    episodes: int = 1,
    formats: Sequence[VideoFormat] = ("mp4",),
    out: str | Path | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    tail: int = 0,
    *,
    model: str = "final",
) -> list[Path]:
    """Record greedy episodes of a run's model, one file for each episode and format.

    >>> import toolkit
    >>> (video,) = toolkit.record(toolkit.load(), formats=["gif"], out="videos")
    >>> video.name
    'record.gif'

    :param episodes: number of episodes, at least 1; an episode is a whole game, with all its lives
    :param formats: ``mp4``, ``gif`` or both
    :param out: directory of the videos; by default the run's ``videos``
    :param max_steps: an episode is cut after this many steps of the agent, and a warning says so
    :param tail: frames, 0 to 1000, after the environment terminates an episode, so that the fall is visible
    :param model: ``final``, ``best`` or ``snapshot:N``; files of another model than the final one have its name
    :return: the files written, in order
    :raises RunError: if the run has no such model that can be loaded, or the directory cannot be written to. A
        ``videos`` directory that is a symbolic link is refused, because a run from elsewhere could lead anywhere
    :raises RecordingError: if the environment draws no frames or cannot be stepped after its end, or the video cannot
        be encoded
    """
    if not out and run.videos.is_symlink():
        raise RunError(f"{run.videos}: is a link, and nothing is written through it", "name a directory with --out")
    clips = record_clips(
        load_model(run, model),
        run.resolved_config,
        Path(out) if out else run.videos,
        "record" if model == "final" else f"record-{model.replace(':', '-')}",
        formats=formats,
        episodes=episodes,
        max_steps=max_steps,
        tail=tail,
    )
    log_doubts(clips)
    for clip in clips:
        if clip.is_cut:
            _log.warning("%s shows the first %s steps of a longer episode", clip.files[0], f"{max_steps:,}")
    return [file for clip in clips for file in clip.files]


def log_doubts(clips: Sequence[Clip]) -> None:
    """Log what viewers of clips have to know."""
    for clip in clips:
        for doubt in clip.doubts:
            _log.warning("%s %s", clip.files[0], doubt)


def record_clips(  # noqa: PLR0913 - options are keywords
    model: BaseAlgorithm,
    config: ResolvedConfig,
    directory: Path,
    name: str,
    *,
    formats: Sequence[VideoFormat] = ("mp4",),
    episodes: int = 1,
    max_steps: int = DEFAULT_MAX_STEPS,
    tail: int = 0,
) -> list[Clip]:
    """Record greedy episodes of a model as ``<name>.<format>``, or ``<name>-<n>.<format>`` if that exists.

    The episodes follow from the run's seed, so that videos of one run are comparable. Training is not affected.

    :param episodes: number of episodes, at least 1
    :param max_steps: an episode is cut after this many steps of the agent
    :param tail: frames, 0 to 1000, after the environment terminates an episode, so that the fall is visible
    :return: the clips in order
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

        recorders: list[ClipRecorder] = []

        def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
            recorder = ClipRecorder(limit_episode_steps(env), clips, formats, episodes, max_steps)
            recorders.append(recorder)
            return TailWrapper(recorder, tail, seed, recorder.capture)

        try:
            with disable_display(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error has what matters
                _film_episodes(model, config, seed, episodes, wrap)
            (recorder,) = recorders
            return [_move_clip(clip, directory, name) for clip in recorder.clips]
        except ToolkitError as error:
            raise RecordingError(f"{_FAILURE}{error.message}", error.hint) from error
        except Exception as error:
            hint = "install moviepy and imageio-ffmpeg for the encoder" if "ffmpeg" in str(error).lower() else ""
            raise RecordingError(f"{_FAILURE}{describe_error(error)}", hint) from error


def _film_episodes(model: BaseAlgorithm, config: ResolvedConfig, seed: int, episodes: int, wrap: WrapEnv) -> None:
    with (
        open_greedy_env(config, seed=seed, n_envs=1, render_mode="rgb_array", wrap=wrap) as env,
        suppress(ClipsComplete),
    ):
        play_greedy_episodes(model, env, episodes)


def _move_clip(clip: Clip, directory: Path, name: str) -> Clip:
    """Move finished videos to file names that do not exist yet."""
    return replace(clip, files=tuple(_move_to_free_name(file, directory, name, file.suffix) for file in clip.files))


def _move_to_free_name(source: Path, directory: Path, name: str, suffix: str) -> Path:
    for number in itertools.count(1):
        target = directory / (f"{name}{suffix}" if number == 1 else f"{name}-{number}{suffix}")
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
