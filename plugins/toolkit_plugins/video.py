"""Videos of the agent during training."""

from __future__ import annotations

import logging
import re
from typing import Any

from toolkit.evaluation.tail import check_tail
from toolkit.evaluation.video import DEFAULT_MAX_STEPS, log_doubts, record_clips
from toolkit.evaluation.video_files import VideoFormat
from toolkit.training.callbacks import RunCallback
from toolkit.utils.errors import ToolkitError

_FILE_NAME = re.compile(r"(timesteps|episodes|success|end)-step-(?P<step>\d+)-episode-\d+(-\d+)?\.(mp4|gif)", re.ASCII)


class RecordVideoCallback(RunCallback):
    """Record one episode of the greedy agent in its own environment; this never changes training.

    File names say what triggered the recording and when (``success-step-5120-episode-101.mp4``). Existing files are
    never overwritten. If a video cannot be recorded, there is a warning and training continues.

    :param every_timesteps: record after every so many environment steps
    :param every_episodes: record each time that so many more training episodes count
    :param on_success: record when training meets its success criterion
    :param at_end: record when training ends, unless it ended with a recorded success; the default without another
        trigger
    :param formats: `mp4`, `gif` or both
    :param max_steps: maximum length of the episode in steps of the agent; all its frames are in memory
    :param tail: number of frames to record after the environment terminates, 0 to 1000, to show the fall
    """

    def __init__(
        self,
        every_timesteps: int | None = None,
        every_episodes: int | None = None,
        on_success: bool = False,
        at_end: bool = False,
        formats: list[VideoFormat] | None = None,
        max_steps: int = DEFAULT_MAX_STEPS,
        tail: int = 0,
    ) -> None:
        _check_at_least_one(every_timesteps=every_timesteps, every_episodes=every_episodes, max_steps=max_steps)
        if formats is not None and (not formats or len({*formats}) < len(formats)):
            raise ValueError("formats must name mp4, gif or both, each once")
        super().__init__()
        self.every_timesteps = every_timesteps
        self.every_episodes = every_episodes
        self.on_success = on_success
        self.at_end = at_end or not (every_timesteps or every_episodes or on_success)
        self.formats: list[VideoFormat] = formats or ["mp4"]
        self.max_steps = max_steps
        self.tail = check_tail(tail)
        self._timestep_marks = 0
        self._episode_marks = 0

    def state_dict(self) -> dict[str, Any]:
        """Return how many multiples of each interval have passed."""
        return {"timesteps": self._timestep_marks, "episodes": self._episode_marks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of passed multiples."""
        self._timestep_marks, self._episode_marks = state["timesteps"], state["episodes"]

    def _on_training_start(self) -> None:
        """Delete the videos that this training will record again: those after the timestep that it resumes from."""
        for video in self.context.run.videos.glob("*.*"):
            match = _FILE_NAME.fullmatch(video.name)
            if match and int(match["step"]) > self.num_timesteps and video.is_file():
                video.unlink()

    def _on_step(self) -> bool:
        # several environments can step over a multiple: it counts once, when they have passed it
        if self.every_timesteps and self.num_timesteps // self.every_timesteps > self._timestep_marks:
            self._timestep_marks = self.num_timesteps // self.every_timesteps
            self._record("timesteps")
        if self.every_episodes and len(self.context.episodes) // self.every_episodes > self._episode_marks:
            self._episode_marks = len(self.context.episodes) // self.every_episodes
            self._record("episodes")
        return True

    def _on_training_end(self) -> None:
        criterion = self.context.criterion
        if self.on_success and criterion and criterion.success:
            self._record("success")
        elif self.at_end:
            self._record("end")

    def _record(self, trigger: str) -> None:
        run = self.context.run
        name = f"{trigger}-step-{self.num_timesteps}-episode-{len(self.context.episodes)}"
        try:
            clips = record_clips(
                self.model,
                run.resolved_config,
                run.videos,
                name,
                formats=self.formats,
                max_steps=self.max_steps,
                tail=self.tail,
            )
            log_doubts(clips)
        except ToolkitError as error:
            logging.getLogger("toolkit").warning("%s: %s; training continues", name, str(error).replace("\n", "; "))


def _check_at_least_one(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
