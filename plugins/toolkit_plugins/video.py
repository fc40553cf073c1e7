"""Videos of the agent while it trains."""

from __future__ import annotations

import logging
import re
from typing import Any

from toolkit.evaluation.tail import check_tail
from toolkit.evaluation.video import DEFAULT_MAX_STEPS, VideoFormat, record_episodes
from toolkit.training.callbacks import RunCallback
from toolkit.utils.errors import ToolkitError

_NAME = re.compile(r"(timesteps|episodes|success|end)-step-(?P<step>\d+)-episode-\d+(-\d+)?\.(mp4|gif)", re.ASCII)


class RecordVideoCallback(RunCallback):
    """Record the greedy agent for one episode, on an environment of its own; training is the same without it.

    Files are named by what triggered them and when (``success-step-5120-episode-101.mp4``) and never overwritten. A
    video that cannot be made is reported and costs nothing else.

    :param every_timesteps: record each time so many environment steps have been taken
    :param every_episodes: record each time so many training episodes have been completed
    :param on_success: record when training has met its success criterion
    :param at_end: record when training ends, unless success was just recorded
    :param formats: `mp4`, `gif` or both
    :param max_steps: an episode is cut after so many steps; all its frames are in memory until then
    :param tail: so many frames, 0 to 1000, follow where the environment terminated, so that the fall is seen
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
        if not (every_timesteps or every_episodes or on_success or at_end):
            raise ValueError("say when: every_timesteps, every_episodes, on_success or at_end")
        for name, value in (
            ("every_timesteps", every_timesteps),
            ("every_episodes", every_episodes),
            ("max_steps", max_steps),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if formats is not None and (not formats or len({*formats}) < len(formats)):
            raise ValueError("formats must name mp4, gif or both, each once")
        super().__init__()
        self.every_timesteps = every_timesteps
        self.every_episodes = every_episodes
        self.on_success = on_success
        self.at_end = at_end
        self.formats: list[VideoFormat] = formats or ["mp4"]
        self.max_steps = max_steps
        self.tail = check_tail(tail)
        self._timestep_marks = 0
        self._episode_marks = 0

    def state_dict(self) -> dict[str, Any]:
        """Return which videos are due next."""
        return {"timesteps": self._timestep_marks, "episodes": self._episode_marks}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Go on from there."""
        self._timestep_marks, self._episode_marks = kept["timesteps"], kept["episodes"]

    def _on_training_start(self) -> None:
        """Delete videos that an earlier training of this run made after where this one starts: it makes them again."""
        for video in self.context.run.videos.glob("*.*"):
            made = _NAME.fullmatch(video.name)
            if made and int(made["step"]) > self.num_timesteps and video.is_file():
                video.unlink()

    def _on_step(self) -> bool:
        # Several environments can step over a multiple; it counts once, when it is passed.
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
            record_episodes(
                self.model,
                run.resolved_config,
                run.videos,
                name,
                formats=self.formats,
                max_steps=self.max_steps,
                tail=self.tail,
            )
        except ToolkitError as error:
            logging.getLogger("toolkit").warning("%s: %s; training goes on", name, str(error).replace("\n", "; "))
