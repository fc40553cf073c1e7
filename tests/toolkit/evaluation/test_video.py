"""Videos of the trained agent, decoded and checked frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from decoding import decode
from support import Toolkit, files_in, toolkit_process

from toolkit import Run, load_config, record, train
from toolkit.evaluation.video_files import VideoFormat
from toolkit.utils.errors import RecordingError, RunError


class Moving(gym.Env[Any, Any]):
    """Draws a white column that moves one step to the right with every step, into one array again and again."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(
        self,
        render_mode: str | None = None,
        steps: int = 5,
        width: int = 64,
        height: int = 48,
        fps: int | None = 50,
        draws: bool = True,
        breaks_at: int = -1,
    ) -> None:
        self.render_mode, self.steps, self.frame = render_mode, steps, np.zeros((height, width, 3), np.uint8)
        self.draws, self.breaks_at = draws, breaks_at
        self.metadata = {"render_modes": ["rgb_array"]} | ({} if fps is None else {"render_fps": fps})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        if self.step_number == self.breaks_at and self.render_mode:
            raise ValueError("the simulator crashed")
        return np.zeros(1, np.float32), 1.0, self.step_number >= self.steps, False, {}

    def render(self) -> Any:
        self.frame[:] = 0
        self.frame[:, self.step_number % self.frame.shape[1]] = 255
        return self.frame if self.draws else None


class Acting(gym.Env[Any, Any]):
    """Draws a white column that moves to the right, above the last action: 0 is dark, each next one brighter."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def __init__(
        self, render_mode: str | None = None, actions: int = 2, start: int = 0, steps: int = 4, fragile: bool = False
    ) -> None:
        self.render_mode, self.steps, self.fragile = render_mode, steps, fragile
        self.action_space = gym.spaces.Discrete(actions, start=start)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number, self.action, self.is_over = 0, -1, False
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        if self.is_over:
            gym.logger.warn("stepped after the end")
            if self.fragile:
                raise RuntimeError("it is over")
        self.step_number += 1
        self.action = int(action - self.action_space.start)
        luck = self.np_random.random()
        self.is_over = self.step_number >= self.steps if self.steps else luck < 0.2  # 0 steps: a random end
        return np.zeros(1, np.float32), 1.0, self.is_over, False, {}

    def render(self) -> Any:
        frame = np.full((48, 64, 3), 60 * (self.action + 1), np.uint8)
        frame[:24] = 0
        frame[:24, self.step_number % 64] = 255
        return frame


class Blind(Moving):
    """Cannot draw."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self) -> None:
        super().__init__()
        self.metadata = {"render_modes": []}


gym.register("toolkit_tests/Moving-v0", Moving)
gym.register("toolkit_tests/Blind-v0", Blind)
gym.register("toolkit_tests/Acting-v0", Acting)

MOVING = """\
timesteps: 4
env:
  id: toolkit_tests/Moving-v0
algorithm:
  name: double_dqn
  params: {buffer_size: 10}
  policy_params: {net_arch: [4]}
"""


def train_moving(directory: Path, *overrides: str) -> Run:
    """Train for 4 steps."""
    path = directory / "moving.yaml"
    path.write_text(MOVING)
    return train(load_config(path, overrides), directory / "run")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on an environment with episodes of 5 steps and small frames."""
    return train_moving(tmp_path)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_video_shows_episode_from_reset_to_last_step(cartpole: Run, tmp_path: Path, suffix: VideoFormat) -> None:
    (path,) = record(cartpole, formats=[suffix], out=tmp_path, max_steps=7)
    assert path == tmp_path / f"record.{suffix}"
    assert files_in(tmp_path) == {path.name}
    video = decode(path)
    assert video.frames.shape[1:] == (400, 600, 3)
    assert video.seconds == pytest.approx(8 / 50)  # a frame for the reset, and one a step; a GIF joins equal ones
    assert len(video.frames) == 8 or suffix == "gif"
    assert video.frames[0].std() > 1
    assert video.frames[-1].std() > 1
    assert (video.frames[0] != video.frames[-1]).any()


@pytest.mark.parametrize("steps", [1, 29])
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_video_has_a_frame_for_every_step(tmp_path: Path, steps: int, suffix: VideoFormat) -> None:
    (path,) = record(train_moving(tmp_path, f"env.params.steps={steps}"), formats=[suffix])
    frames = decode(path).frames
    assert len(frames) == steps + 1
    columns = frames.astype(float).sum(axis=(1, 3)).argmax(axis=1)
    assert np.abs(columns - np.arange(steps + 1) % 64).max() <= 1  # the column is where the environment drew it


@pytest.mark.parametrize("fps", [30, 60])
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_video_plays_in_real_time(tmp_path: Path, fps: int, suffix: VideoFormat) -> None:
    (path,) = record(train_moving(tmp_path, "env.params.steps=59", f"env.params.fps={fps}"), formats=[suffix])
    assert decode(path).seconds == pytest.approx(60 / fps, abs=0.011)


@pytest.mark.filterwarnings("ignore:.*No render fps:UserWarning")
def test_environment_without_frame_rate_is_recorded(tmp_path: Path) -> None:
    (path,) = record(train_moving(tmp_path, "env.params.fps=null"), formats=["gif"])
    assert len(decode(path).frames) == 6


def test_equal_frames_keep_their_duration(tmp_path: Path) -> None:
    (path,) = record(train_moving(tmp_path, "env.params={steps: 19, width: 1}"), formats=["gif"])
    assert decode(path).seconds == pytest.approx(20 / 50)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_video_of_odd_frame_size_plays_everywhere(tmp_path: Path, suffix: VideoFormat) -> None:
    (path,) = record(train_moving(tmp_path, "env.params={width: 63, height: 45}"), formats=[suffix])
    video = decode(path)
    assert len(video.frames) == 6
    assert abs(video.frames.shape[1] - 45) <= 1
    assert abs(video.frames.shape[2] - 63) <= 1
    assert video.pixel_format in ("yuv420p", "palette")  # browsers and phones play no other kind of mp4


def test_record_never_overwrites_a_video(run: Run) -> None:
    (first,) = record(run)
    content = first.read_bytes()
    (second,) = record(run)
    assert (first.name, second.name) == ("record.mp4", "record-2.mp4")
    assert first.read_bytes() == content
    assert files_in(run.videos) == {"record.mp4", "record-2.mp4"}


def test_record_writes_one_file_per_episode(run: Run) -> None:
    paths = record(run, episodes=3, formats=["gif"])
    assert [path.name for path in paths] == ["record.gif", "record-2.gif", "record-3.gif"]
    assert [len(decode(path).frames) for path in paths] == [6, 6, 6]
    assert files_in(run.videos) == {path.name for path in paths}


def test_formats_show_the_same_episode(run: Run) -> None:
    mp4, gif = record(run, formats=["mp4", "gif"])
    assert (mp4.name, gif.name) == ("record.mp4", "record.gif")
    assert len(decode(mp4).frames) == len(decode(gif).frames) == 6


def test_record_cuts_episode_after_max_steps_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = record(train_moving(tmp_path, "env.params.steps=5000"), max_steps=20)
    assert len(decode(path).frames) == 21
    assert caplog.messages[-1:] == [f"{path} shows the first 20 steps of a longer episode"]


def test_record_writes_to_given_directory(run: Run, tmp_path: Path) -> None:
    (path,) = record(run, out=tmp_path / "deep" / "inside")
    assert path == tmp_path / "deep" / "inside" / "record.mp4"
    assert not run.videos.exists()


def test_record_refuses_directory_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(RunError, match="cannot be written to"):
        record(run, out=tmp_path / "file")


def test_same_run_gives_identical_video(cartpole: Run, tmp_path: Path) -> None:
    video, other = (record(cartpole, formats=["gif"], out=tmp_path / name, max_steps=10)[0] for name in ("a", "b"))
    assert video.read_bytes() == other.read_bytes()


@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
@pytest.mark.filterwarnings("ignore:.*zero frames:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Recording stopped:UserWarning")
@pytest.mark.parametrize(
    "override", ["env.params.draws=false", "env.id=toolkit_tests/Blind-v0", "env.params.breaks_at=3"]
)
def test_environment_without_frames_is_refused_and_leaves_no_files(tmp_path: Path, override: str) -> None:
    run = train_moving(tmp_path, override)
    before = files_in(run.directory)
    with pytest.raises(RecordingError, match="no video was made: ") as caught:
        record(run)
    assert any(word in str(caught.value) for word in ("drew no frames", "render", "the simulator crashed"))
    assert files_in(run.directory) == before
    assert not run.videos.is_dir() or not any(run.videos.iterdir())


def test_record_prints_every_file(run: Run, toolkit: Toolkit) -> None:
    result = toolkit("record", run.directory, "--episodes", "2", *["--format", "gif"] * 2, "--out", "films")
    assert (result.status, result.out, result.err) == (0, "films/record.gif\nfilms/record-2.gif\n", "")
    assert files_in(Path("films")) == {"record.gif", "record-2.gif"}


def test_record_with_two_formats_prints_a_file_of_each(run: Run, toolkit: Toolkit) -> None:
    result = toolkit("record", run.directory, "--format", "gif", "--format", "mp4", "--out", "films")
    assert (result.status, result.out, result.err) == (0, "films/record.gif\nfilms/record.mp4\n", "")


def test_record_refuses_unknown_format(run: Run, toolkit: Toolkit) -> None:
    result = toolkit("record", run.directory, "--format", "avi")
    assert result.status == 2
    assert "'mp4', 'gif'" in result.err


def test_record_refuses_run_without_model(run: Run, toolkit: Toolkit) -> None:
    run.model_path.unlink()
    result = toolkit("record", run.directory)
    assert result.status == 2
    assert "has no model.zip" in result.err
    assert not run.videos.exists()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["IMAGEIO_FFMPEG_EXE", "FFMPEG_BINARY"])
def test_missing_encoder_is_reported_in_one_message(cartpole: Run, variable: str) -> None:
    process = toolkit_process(["record", cartpole.directory, "--out", "films"], **{variable: "/nowhere/ffmpeg"})
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: no video was made: ")
    assert "/nowhere/ffmpeg" in err
    assert "install moviepy and imageio-ffmpeg for the encoder" in err
    assert len(err.splitlines()) == 2, err
    assert [*Path("films").iterdir()] == []


@pytest.mark.slow
def test_gif_needs_no_encoder(cartpole: Run) -> None:
    command = ["record", cartpole.directory, "--out", "films", "--format", "gif"]
    process = toolkit_process(command, IMAGEIO_FFMPEG_EXE="/nowhere/ffmpeg")
    assert process.communicate(timeout=120) == ("films/record.gif\n", "")
    assert len(decode(Path("films/record.gif")).frames) > 1


# --- The tail: steps after the environment has terminated the episode -----------------------------------------------

OWN = """\
import gymnasium as gym
import numpy as np


class Shifted(gym.ActionWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(2)

    def action(self, action):
        return np.int64(action + self.env.action_space.start)


class Lives(gym.Wrapper):
    def step(self, action):
        observation, reward, _, truncated, info = self.env.step(action)
        return observation, reward, True, truncated, info
"""


def train_acting(directory: Path, *overrides: str) -> Run:
    """Train for 4 steps on an environment whose frames show the actions."""
    (directory / "own.py").write_text(OWN)
    return train_moving(directory, "env.id=toolkit_tests/Acting-v0", *overrides)


def read_actions(path: Path) -> list[int]:
    """Read back which action each frame shows; -1 is the reset's."""
    return [round(level / 60) - 1 for level in decode(path).frames[:, 30:].mean(axis=(1, 2, 3))]


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
@pytest.mark.parametrize("steps", [1, 4])
def test_tail_alternates_two_actions(tmp_path: Path, suffix: VideoFormat, steps: int) -> None:
    (path,) = record(train_acting(tmp_path, f"env.params.steps={steps}"), formats=[suffix], tail=5)
    reset, *actions = read_actions(path)
    last, tail = actions[steps - 1], actions[steps:]
    assert (reset, tail) == (-1, [1 - last, last, 1 - last, last, 1 - last])


def test_tail_alternates_actions_with_shifted_start(tmp_path: Path) -> None:
    run = train_acting(tmp_path, "env.params.start=7", f"env.wrappers=['{tmp_path}/own.py:Shifted']")
    (path,) = record(run, formats=["gif"], tail=3)
    last, *tail = read_actions(path)[4:]
    assert tail == [1 - last, last, 1 - last]


def test_tail_samples_other_actions_repeatably(tmp_path: Path) -> None:
    tails = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        run = train_acting(tmp_path / name, "env.params.actions=3", f"seed={seed}")
        tails.append([read_actions(path)[5:] for path in record(run, formats=["gif", "mp4"], tail=20)])
    (tail, tail_as_mp4), (same_seed, _), (other_seed, _) = tails
    assert set(tail) == {0, 1, 2}
    assert len(tail) == 20
    assert tail == tail_as_mp4 == same_seed != other_seed


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_tail_shows_the_pole_falling(cartpole: Run, tmp_path: Path, suffix: VideoFormat) -> None:
    (short,) = record(cartpole, formats=[suffix], out=tmp_path)
    (long,) = record(cartpole, formats=[suffix], out=tmp_path, tail=30)
    assert decode(long).seconds - decode(short).seconds == pytest.approx(30 / 50)
    tips = []
    for frame in (decode(short).frames[-1], decode(long).frames[-1]):
        pole = (np.abs(frame.astype(int) - (202, 152, 101)) < 40).all(axis=2)
        tips.append(np.flatnonzero(pole.any(axis=1))[0])
    tip_at_termination, tip_at_end = tips
    assert tip_at_end > tip_at_termination + 40  # rows count from the top


def test_tail_leaves_next_episode_unchanged(tmp_path: Path) -> None:
    run = train_acting(tmp_path, "env.params.steps=0")
    short, long = ([len(decode(path).frames) for path in record(run, 4, ["gif"], tail=tail)] for tail in (0, 6))
    assert len(set(short)) > 1
    assert long == [frames + 6 for frames in short]


@pytest.mark.parametrize("overrides", [["env.max_episode_steps=3"], []])
def test_truncated_episode_has_no_tail(tmp_path: Path, overrides: list[str]) -> None:
    (path,) = record(train_acting(tmp_path, *overrides), max_steps=1000 if overrides else 3, tail=5)
    assert len(read_actions(path)) == 4


@pytest.mark.parametrize("overrides", [["env.max_episode_steps=4"], []])
def test_episode_terminated_at_time_limit_has_tail(tmp_path: Path, overrides: list[str]) -> None:
    (path,) = record(train_acting(tmp_path, *overrides), max_steps=1000 if overrides else 4, tail=5)
    assert len(read_actions(path)) == 10


def test_lost_life_has_no_tail(tmp_path: Path) -> None:
    (path,) = record(train_acting(tmp_path, f"env.wrappers=['{tmp_path}/own.py:Lives']"), tail=5)
    assert len(read_actions(path)) == 2


def test_environment_that_refuses_tail_is_named_and_leaves_no_files(tmp_path: Path, toolkit: Toolkit) -> None:
    run = train_acting(tmp_path, "env.params.fragile=true")
    assert len(record(run, out=tmp_path)) == 1
    result = toolkit("record", run.directory, "--tail", "5")
    assert (result.status, result.out) == (1, "")
    message, hint = result.err.splitlines()
    name = "toolkit_tests/Acting-v0"
    assert message.startswith(
        f"error: no video was made: {name} cannot be stepped after the end of its episode: RuntimeError: it is over"
    )
    assert hint == "leave out --tail"
    assert [*run.videos.iterdir()] == []


def test_record_option_tail_adds_frames_without_warnings(cartpole: Run, toolkit: Toolkit) -> None:
    result = toolkit("record", cartpole.directory, "--format", "gif", "--out", "films", "--tail", "5")
    assert (result.status, result.out, result.err) == (0, "films/record.gif\n", "")
    (plain,) = record(cartpole, formats=["gif"], out=Path("films"))
    assert decode(Path("films/record.gif")).seconds - decode(plain).seconds == pytest.approx(5 / 50)


@pytest.mark.parametrize("tail", ["-1", "abc"])
def test_record_refuses_invalid_option_tail(run: Run, toolkit: Toolkit, tail: str) -> None:
    result = toolkit("record", run.directory, "--tail", tail)
    assert (result.status, result.out) == (2, "")
    assert "'--tail'" in result.err
    assert not run.videos.exists()


@pytest.mark.parametrize("tail", [-1, 1001])
def test_record_refuses_tail_out_of_range(run: Run, tail: int) -> None:
    with pytest.raises(ValueError, match=f"tail must be 0 to 1000, not {tail}"):
        record(run, tail=tail)
    assert not run.videos.exists()
