"""Videos of the trained agent, decoded and looked at."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image
from support import SMALL_CONFIG, Toolkit, files_in, toolkit_process

from toolkit import Run, load_config, record, train
from toolkit.evaluation.video import VideoFormat
from toolkit.utils.errors import RecordingError, RunError


class Moving(gym.Env[Any, Any]):
    """Draws a white column that moves one step to the right with every step."""

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
        self.render_mode, self.steps, self.size = render_mode, steps, (height, width, 3)
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
        frame = np.zeros(self.size, np.uint8)
        frame[:, self.step_number % self.size[1]] = 255
        return frame if self.draws else None


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
        self.step_number, self.action, self.over = 0, -1, False
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        if self.over:
            gym.logger.warn("stepped after the end")
            if self.fragile:
                raise RuntimeError("it is over")
        self.step_number += 1
        self.action = int(action - self.action_space.start)
        luck = self.np_random.random()
        self.over = self.step_number >= self.steps if self.steps else luck < 0.2  # steps: 0 leaves the end to chance
        return np.zeros(1, np.float32), 1.0, self.over, False, {}

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


def moving_run(directory: Path, *overrides: str) -> Run:
    """Train for 4 steps."""
    path = directory / "moving.yaml"
    path.write_text(MOVING)
    return train(load_config(path, overrides), directory / "run")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on an environment with episodes of 5 steps and small frames."""
    return moving_run(tmp_path)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on an environment that draws with pygame."""
    directory = tmp_path_factory.mktemp("cartpole")
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    return train(load_config(directory / "small.yaml", ["timesteps=100"]), directory / "run")


@dataclass(frozen=True)
class Video:
    """A decoded video; `pixel_format` is that of the file."""

    frames: NDArray[np.uint8]
    seconds: float
    pixel_format: str


def decoded(path: Path) -> Video:
    """Decode a whole video."""
    return _decoded_gif(path) if path.suffix == ".gif" else _decoded_mp4(path)


def _decoded_gif(path: Path) -> Video:
    frames, milliseconds = [], 0
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")))
            milliseconds += image.info["duration"]
    return Video(np.stack(frames), milliseconds / 1000, "palette")


def _decoded_mp4(path: Path) -> Video:
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([get_ffmpeg_exe(), "-i", path, *raw], capture_output=True, check=True)
    stream = re.search(r"Video: h264.*?, (yuv\w+).*?, (\d+)x(\d+)", done.stderr.decode())
    duration = re.search(r"Duration: 00:(\d\d):(\d\d\.\d\d)", done.stderr.decode())
    assert stream
    assert duration
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(stream[3]), int(stream[2]), 3)
    return Video(frames, 60 * int(duration[1]) + float(duration[2]), stream[1])


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_video_shows_the_episode_from_the_reset_to_the_last_step(
    cartpole: Run, tmp_path: Path, suffix: VideoFormat
) -> None:
    (path,) = record(cartpole, formats=[suffix], out=tmp_path, max_steps=7)
    assert path == tmp_path / f"record.{suffix}"
    assert files_in(tmp_path) == {path.name}
    video = decoded(path)
    assert video.frames.shape[1:] == (400, 600, 3)
    assert video.seconds == pytest.approx(8 / 50)  # a frame for the reset, and one a step; a GIF joins equal ones
    assert len(video.frames) == 8 or suffix == "gif"
    assert video.frames[0].std() > 1
    assert video.frames[-1].std() > 1
    assert (video.frames[0] != video.frames[-1]).any()


@pytest.mark.parametrize("steps", [1, 2, 10, 29, 100])
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_every_step_has_its_frame(tmp_path: Path, steps: int, suffix: VideoFormat) -> None:
    (path,) = record(moving_run(tmp_path, f"env.params.steps={steps}"), formats=[suffix])
    frames = decoded(path).frames
    assert len(frames) == steps + 1
    columns = frames.astype(float).sum(axis=(1, 3)).argmax(axis=1)
    assert np.abs(columns - np.arange(steps + 1) % 64).max() <= 1  # the column is where the environment drew it


@pytest.mark.parametrize("fps", [10, 25, 30, 50, 60, 100])
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_video_plays_in_real_time(tmp_path: Path, fps: int, suffix: VideoFormat) -> None:
    (path,) = record(moving_run(tmp_path, "env.params.steps=59", f"env.params.fps={fps}"), formats=[suffix])
    assert decoded(path).seconds == pytest.approx(60 / fps, abs=0.011)


@pytest.mark.filterwarnings("ignore:.*No render fps:UserWarning")
def test_an_environment_that_names_no_frame_rate_can_be_filmed(tmp_path: Path) -> None:
    (path,) = record(moving_run(tmp_path, "env.params.fps=null"), formats=["gif"])
    assert len(decoded(path).frames) == 6


def test_frames_that_do_not_change_still_take_their_time(tmp_path: Path) -> None:
    (path,) = record(moving_run(tmp_path, "env.params={steps: 19, width: 1}"), formats=["gif"])
    assert decoded(path).seconds == pytest.approx(20 / 50)


@pytest.mark.parametrize(("width", "height"), [(63, 45), (64, 45), (63, 48)])
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_frames_of_odd_sizes_give_a_video_that_every_player_plays(
    tmp_path: Path, width: int, height: int, suffix: VideoFormat
) -> None:
    (path,) = record(moving_run(tmp_path, f"env.params={{width: {width}, height: {height}}}"), formats=[suffix])
    video = decoded(path)
    assert len(video.frames) == 6
    assert abs(video.frames.shape[1] - height) <= 1
    assert abs(video.frames.shape[2] - width) <= 1
    assert video.pixel_format in ("yuv420p", "palette")  # browsers and phones play no other kind of mp4


def test_a_video_is_never_overwritten(run: Run) -> None:
    (first,) = record(run)
    content = first.read_bytes()
    (second,) = record(run)
    assert (first.name, second.name) == ("record.mp4", "record-2.mp4")
    assert first.read_bytes() == content
    assert files_in(run.videos) == {"record.mp4", "record-2.mp4"}


def test_every_episode_has_its_own_file(run: Run) -> None:
    paths = record(run, episodes=3, formats=["gif"])
    assert [path.name for path in paths] == ["record.gif", "record-2.gif", "record-3.gif"]
    assert [len(decoded(path).frames) for path in paths] == [6, 6, 6]
    assert files_in(run.videos) == {path.name for path in paths}


def test_several_formats_show_the_same_episode(run: Run) -> None:
    mp4, gif = record(run, formats=["mp4", "gif"])
    assert (mp4.name, gif.name) == ("record.mp4", "record.gif")
    assert len(decoded(mp4).frames) == len(decoded(gif).frames) == 6


def test_an_episode_is_cut_after_max_steps(tmp_path: Path) -> None:
    (path,) = record(moving_run(tmp_path, "env.params.steps=5000"), max_steps=20)
    assert len(decoded(path).frames) == 21


def test_videos_go_where_they_are_wanted(run: Run, tmp_path: Path) -> None:
    (path,) = record(run, out=tmp_path / "deep" / "inside")
    assert path == tmp_path / "deep" / "inside" / "record.mp4"
    assert not run.videos.exists()


def test_a_place_that_cannot_be_written_to_is_bad_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(RunError, match="cannot be written to"):
        record(run, out=tmp_path / "file")


def test_the_same_run_gives_the_same_video(cartpole: Run, tmp_path: Path) -> None:
    one, other = (record(cartpole, formats=["gif"], out=tmp_path / name, max_steps=10)[0] for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
@pytest.mark.filterwarnings("ignore:.*zero frames:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Recording stopped:UserWarning")
@pytest.mark.parametrize(
    "override", ["env.params.draws=false", "env.id=toolkit_tests/Blind-v0", "env.params.breaks_at=3"]
)
def test_an_environment_that_cannot_be_filmed_is_named_and_leaves_nothing_behind(
    tmp_path: Path, override: str
) -> None:
    run = moving_run(tmp_path, override)
    before = files_in(run.directory)
    with pytest.raises(RecordingError, match="no video was made: ") as caught:
        record(run)
    assert any(word in str(caught.value) for word in ("drew no frames", "render", "the simulator crashed"))
    assert files_in(run.directory) == before
    assert not run.videos.is_dir() or not any(run.videos.iterdir())


def test_the_command_prints_every_file_it_wrote(run: Run, toolkit: Toolkit) -> None:
    done = toolkit("record", run.directory, "--episodes", "2", "--format", "gif", "--out", "films")
    assert (done.status, done.out, done.err) == (0, "films/record.gif\nfilms/record-2.gif\n", "")
    assert files_in(Path("films")) == {"record.gif", "record-2.gif"}


def test_a_format_that_does_not_exist_is_bad_input(run: Run, toolkit: Toolkit) -> None:
    done = toolkit("record", run.directory, "--format", "avi")
    assert done.status == 2
    assert "'mp4', 'gif'" in done.err


def test_a_run_without_a_model_cannot_be_filmed(run: Run, toolkit: Toolkit) -> None:
    run.model_path.unlink()
    done = toolkit("record", run.directory)
    assert done.status == 2
    assert "has no model.zip" in done.err
    assert not run.videos.exists()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["IMAGEIO_FFMPEG_EXE", "FFMPEG_BINARY"])
def test_without_an_encoder_the_command_says_so_in_one_message(cartpole: Run, variable: str) -> None:
    process = toolkit_process(["record", cartpole.directory, "--out", "films"], **{variable: "/nowhere/ffmpeg"})
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: no video was made: ")
    assert "/nowhere/ffmpeg" in err
    assert "install moviepy and imageio-ffmpeg for the encoder" in err
    assert len(err.splitlines()) == 2, err
    assert [*Path("films").iterdir()] == []


@pytest.mark.slow
def test_without_an_encoder_a_gif_can_be_made(cartpole: Run) -> None:
    command = ["record", cartpole.directory, "--out", "films", "--format", "gif"]
    process = toolkit_process(command, IMAGEIO_FFMPEG_EXE="/nowhere/ffmpeg")
    assert process.communicate(timeout=120) == ("films/record.gif\n", "")
    assert len(decoded(Path("films/record.gif")).frames) > 1


# --- the tail: what follows when the environment has terminated the episode ----------------------------------------

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


def acting_run(directory: Path, *overrides: str) -> Run:
    """Train for 4 steps on an environment whose frames show the actions."""
    (directory / "own.py").write_text(OWN)
    return moving_run(directory, "env.id=toolkit_tests/Acting-v0", *overrides)


def actions_in(path: Path) -> list[int]:
    """Read back which action each frame shows; -1 is the reset's."""
    return [round(level / 60) - 1 for level in decoded(path).frames[:, 30:].mean(axis=(1, 2, 3))]


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
@pytest.mark.parametrize("steps", [1, 4])
def test_two_actions_take_turns_after_the_end(tmp_path: Path, suffix: VideoFormat, steps: int) -> None:
    (path,) = record(acting_run(tmp_path, f"env.params.steps={steps}"), formats=[suffix], tail=5)
    reset, *shown = actions_in(path)
    agents, following = shown[:steps], shown[steps:]
    last = agents[-1]
    assert (reset, following) == (-1, [1 - last, last, 1 - last, last, 1 - last])


def test_two_actions_that_do_not_start_at_zero_take_turns_too(tmp_path: Path) -> None:
    run = acting_run(tmp_path, "env.params.start=7", f"env.wrappers=['{tmp_path}/own.py:Shifted']")
    (path,) = record(run, formats=["gif"], tail=3)
    last, *following = actions_in(path)[4:]
    assert following == [1 - last, last, 1 - last]


def test_other_actions_are_sampled_and_the_same_run_samples_the_same(tmp_path: Path) -> None:
    tails = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        run = acting_run(tmp_path / name, "env.params.actions=3", f"seed={seed}")
        tails.append([actions_in(path)[5:] for path in record(run, formats=["gif", "mp4"], tail=20)])
    (one, one_as_mp4), (other, _), (third, _) = tails
    assert set(one) == {0, 1, 2}
    assert len(one) == 20
    assert one == one_as_mp4 == other != third


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_the_fall_is_seen(cartpole: Run, tmp_path: Path, suffix: VideoFormat) -> None:
    (plain,) = record(cartpole, formats=[suffix], out=tmp_path)
    (path,) = record(cartpole, formats=[suffix], out=tmp_path, tail=30)
    assert decoded(path).seconds - decoded(plain).seconds == pytest.approx(30 / 50)
    tips = []
    for frame in (decoded(plain).frames[-1], decoded(path).frames[-1]):
        pole = (np.abs(frame.astype(int) - (202, 152, 101)) < 40).all(axis=2)
        tips.append(np.flatnonzero(pole.any(axis=1))[0])
    at_termination, at_the_end = tips
    assert at_the_end > at_termination + 40  # rows count from the top


def test_every_episode_has_its_tail_and_the_next_one_is_what_it_would_have_been(tmp_path: Path) -> None:
    run = acting_run(tmp_path, "env.params.steps=0")
    plain, long = ([len(decoded(path).frames) for path in record(run, 4, ["gif"], tail=tail)] for tail in (0, 6))
    assert len(set(plain)) > 1
    assert long == [frames + 6 for frames in plain]


@pytest.mark.parametrize("overrides", [["env.max_episode_steps=3"], []])
def test_an_episode_that_a_time_limit_cut_has_no_tail(tmp_path: Path, overrides: list[str]) -> None:
    (path,) = record(acting_run(tmp_path, *overrides), max_steps=1000 if overrides else 3, tail=5)
    assert len(actions_in(path)) == 4


@pytest.mark.parametrize("overrides", [["env.max_episode_steps=4"], []])
def test_an_episode_that_terminates_at_its_time_limit_has_a_tail(tmp_path: Path, overrides: list[str]) -> None:
    (path,) = record(acting_run(tmp_path, *overrides), max_steps=1000 if overrides else 4, tail=5)
    assert len(actions_in(path)) == 10


def test_a_lost_life_after_which_the_game_goes_on_has_no_tail(tmp_path: Path) -> None:
    (path,) = record(acting_run(tmp_path, f"env.wrappers=['{tmp_path}/own.py:Lives']"), tail=5)
    assert len(actions_in(path)) == 2


def test_an_environment_that_cannot_go_on_is_named_and_leaves_nothing_behind(tmp_path: Path, toolkit: Toolkit) -> None:
    run = acting_run(tmp_path, "env.params.fragile=true")
    assert len(record(run, out=tmp_path)) == 1
    done = toolkit("record", run.directory, "--tail", "5")
    assert (done.status, done.out) == (1, "")
    message, hint = done.err.splitlines()
    name = "toolkit_tests/Acting-v0"
    assert message.startswith(
        f"error: no video was made: {name} cannot be stepped after the end of its episode: RuntimeError: it is over"
    )
    assert hint == "leave out --tail"
    assert [*run.videos.iterdir()] == []


def test_the_command_films_the_tail_and_says_nothing_of_it(cartpole: Run, toolkit: Toolkit) -> None:
    done = toolkit("record", cartpole.directory, "--format", "gif", "--out", "films", "--tail", "5")
    assert (done.status, done.out, done.err) == (0, "films/record.gif\n", "")
    (plain,) = record(cartpole, formats=["gif"], out=Path("films"))
    assert decoded(Path("films/record.gif")).seconds - decoded(plain).seconds == pytest.approx(5 / 50)


@pytest.mark.parametrize("tail", ["-1", "1001", "abc"])
def test_a_tail_that_makes_no_sense_is_bad_input(run: Run, toolkit: Toolkit, tail: str) -> None:
    done = toolkit("record", run.directory, "--tail", tail)
    assert (done.status, done.out) == (2, "")
    assert "'--tail'" in done.err
    assert not run.videos.exists()


@pytest.mark.parametrize("tail", [-1, 1001])
def test_a_tail_that_makes_no_sense_is_refused(run: Run, tail: int) -> None:
    with pytest.raises(ValueError, match=f"tail must be 0 to 1000, not {tail}"):
        record(run, tail=tail)
    assert not run.videos.exists()
