"""Videos of the agent while it trains: when they are made, what they cost."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support import SMALL_CONFIG, Toolkit, files_in, toolkit_process

from toolkit import Run, load_config, train
from toolkit.utils.errors import ConfigError
from toolkit_plugins.video import RecordVideoCallback

SUCCESS = "{name: success, params: {threshold: %s, episodes: 3}}"
ALGORITHMS = {
    "double_dqn": "{name: double_dqn, params: {buffer_size: 1000, learning_starts: 50, exploration_fraction: 0.9}}",
    "ppo": "{name: ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 2}, policy_params: {net_arch: [16]}}",
}


def filmed_run(directory: Path, params: str, *overrides: str, threshold: float = 195) -> Run:
    """Train the small config with short GIFs as `params` say."""
    path = directory / "small.yaml"
    path.write_text(SMALL_CONFIG)
    video = f"{{name: record_video, params: {{formats: [gif], max_steps: 3, {params}}}}}"
    return train(load_config(path, [f"callbacks=[{SUCCESS % threshold}, {video}]", *overrides]), directory / "run")


def videos_of(run: Run) -> list[str]:
    """Return the names of a run's videos, in the order of their making."""
    return sorted(files_in(run.videos), key=lambda name: (run.videos / name).stat().st_mtime_ns)


def test_a_video_is_made_each_time_so_many_timesteps_have_been_taken(tmp_path: Path) -> None:
    names = videos_of(filmed_run(tmp_path, "every_timesteps: 100"))
    assert [name.partition("-episode-")[0] for name in names] == [f"timesteps-step-{n}" for n in (100, 200, 300)]


def test_a_multiple_that_several_environments_step_over_counts_when_it_is_passed(tmp_path: Path) -> None:
    names = videos_of(filmed_run(tmp_path, "every_timesteps: 100", "env.n_envs=7", "timesteps=250"))
    assert [name.partition("-episode-")[0] for name in names] == ["timesteps-step-105", "timesteps-step-203"]


def test_a_video_is_made_each_time_so_many_episodes_have_been_completed(tmp_path: Path) -> None:
    run = filmed_run(tmp_path, "every_episodes: 8", "env.n_envs=1")
    lengths = [int(row.split(",")[1]) for row in (run.directory / "monitor.csv").read_text().splitlines()[2:]]
    expected = [
        f"episodes-step-{sum(lengths[:episode])}-episode-{episode}.gif" for episode in range(8, len(lengths) + 1, 8)
    ]
    assert len(expected) >= 2
    assert videos_of(run) == expected


def test_a_video_is_made_when_training_has_succeeded(tmp_path: Path) -> None:
    run = filmed_run(tmp_path, "on_success: true", threshold=5)
    success = (run.result or {})["success"]
    assert success["solved"]
    assert videos_of(run) == [f"success-step-{success['timestep']}-episode-{success['episode']}.gif"]


def test_no_video_of_a_success_is_made_without_one(tmp_path: Path) -> None:
    assert not filmed_run(tmp_path, "on_success: true").videos.exists()


@pytest.mark.parametrize(("threshold", "trigger"), [(195, "end"), (5, "success")])
def test_the_end_is_filmed_once(tmp_path: Path, threshold: float, trigger: str) -> None:
    run = filmed_run(tmp_path, "on_success: true, at_end: true", threshold=threshold)
    result = run.result or {}
    assert videos_of(run) == [f"{trigger}-step-{result['timesteps']}-episode-{result['episodes']}.gif"]


def test_the_end_is_filmed_after_a_success_too(tmp_path: Path) -> None:
    assert videos_of(filmed_run(tmp_path, "at_end: true", threshold=5))[0].startswith("end-step-")


def test_triggers_can_be_combined(tmp_path: Path) -> None:
    triggers = "every_timesteps: 150, every_episodes: 20, at_end: true"
    names = videos_of(filmed_run(tmp_path, triggers))
    assert [name.partition("-")[0] for name in names].count("timesteps") == 2
    assert {name.partition("-")[0] for name in names} == {"timesteps", "episodes", "end"}


def test_every_format_is_made_and_cut_after_max_steps(tmp_path: Path) -> None:
    run = filmed_run(tmp_path, "at_end: true", "callbacks.1.params.formats=[gif, mp4]")
    gif, mp4 = sorted(videos_of(run))
    assert (gif.removesuffix(".gif"), Path(mp4).suffix) == (mp4.removesuffix(".mp4"), ".mp4")
    assert (run.videos / mp4).stat().st_size > 1000
    with Image.open(run.videos / gif) as image:
        assert 1 <= image.n_frames <= 4


def test_a_video_goes_on_after_the_fall(tmp_path: Path) -> None:
    frames = []
    for tail in (0, 7):
        (tmp_path / str(tail)).mkdir()
        run = filmed_run(tmp_path / str(tail), f"at_end: true, tail: {tail}", "callbacks.1.params.max_steps=200")
        with Image.open(run.videos / videos_of(run)[0]) as image:
            frames.append(image.n_frames)
    assert frames[1] == frames[0] + 7


def careless_wrapper(directory: Path) -> str:
    """Write a wrapper that draws from the generators that training draws from, as some environments do."""
    (directory / "careless.py").write_text(
        "import random\n\nimport gymnasium\nimport numpy\nimport torch\n\n\n"
        "class Careless(gymnasium.Wrapper):\n"
        "    def reset(self, **arguments):\n"
        "        random.random(), numpy.random.random(), torch.rand(1)\n"
        "        return self.env.reset(**arguments)\n"
    )
    return f"{directory}/careless.py:Careless"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_is_bit_for_bit_the_same_with_and_without_videos(tmp_path: Path, algorithm: str) -> None:
    careless = f"env.wrappers=['{careless_wrapper(tmp_path)}']"
    ends = []
    for name, params in (("with", "every_timesteps: 60, every_episodes: 7, at_end: true, tail: 9"), ("without", None)):
        (tmp_path / name).mkdir()
        callbacks = "callbacks.1.params.max_steps=20" if params else "callbacks=[]"
        overrides = [careless, f"algorithm={ALGORITHMS[algorithm]}", callbacks]
        run = filmed_run(tmp_path / name, params or "at_end: true", *overrides)
        assert run.videos.exists() == bool(params)
        with zipfile.ZipFile(run.model_path) as archive:
            weights = [torch.load(archive.open(f"policy{part}.pth"), weights_only=True) for part in ("", ".optimizer")]
        rows = (run.directory / "monitor.csv").read_text().splitlines()[2:]
        ends.append((weights, [row.rpartition(",")[0] for row in rows]))
    (filmed, episodes), (plain, plain_episodes) = ends
    assert episodes == plain_episodes
    assert_equal(filmed, plain)


def assert_equal(one: Any, other: Any) -> None:
    """Compare nested lists and mappings of tensors."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list):
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        assert one == other


def test_the_summary_names_the_videos(config_file: Path, toolkit: Toolkit) -> None:
    video = "{name: record_video, params: {at_end: true, formats: [gif], max_steps: 3}}"
    done = toolkit("train", config_file, "--set", f"callbacks=[{video}]")
    assert "  video  runs/small-1/videos/end-step-304-episode-27.gif\n" in done.out


def test_an_environment_that_cannot_be_filmed_costs_the_videos_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "dark.py").write_text(
        "import gymnasium\n\n\n"
        "class Dark(gymnasium.Wrapper):\n"
        "    def render(self):\n"
        "        raise RuntimeError('too dark')\n"
    )
    run = filmed_run(tmp_path, "every_timesteps: 150, at_end: true", f"env.wrappers=['{tmp_path}/dark.py:Dark']")
    assert (run.result or {})["status"] == "finished"
    assert run.model_path.is_file()
    assert files_in(run.videos) == set()
    assert [message.partition("-")[0] for message in caplog.messages] == ["timesteps", "timesteps", "end"]
    assert all("no video was made: RuntimeError: too dark" in message for message in caplog.messages)


@pytest.mark.slow
def test_a_missing_encoder_costs_the_videos_and_not_the_run(config_file: Path) -> None:
    video = "{name: record_video, params: {every_timesteps: 100, at_end: true, max_steps: 3}}"
    process = toolkit_process(
        ["train", config_file, "--quiet", "--set", f"callbacks=[{video}]"], IMAGEIO_FFMPEG_EXE="/nowhere/ffmpeg"
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "runs/small-1\n")
    assert (Run.newest().result or {})["status"] == "finished"
    assert [line for line in files_in(Path("runs/small-1")) if "video" in line] == []
    messages = [line for line in err.splitlines() if "no video was made" in line]
    assert [message.partition("-episode-")[0].split()[-1] for message in messages] == [
        *(f"timesteps-step-{n}" for n in (100, 200, 300)),
        "end-step-304",
    ]
    assert all("/nowhere/ffmpeg" in message for message in messages)
    assert err.splitlines() == messages


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"on_success": False, "at_end": False},
        {"every_timesteps": -5},
        {"at_end": True, "every_timesteps": 0},
        {"at_end": True, "every_episodes": -1},
        {"at_end": True, "max_steps": 0},
        {"at_end": True, "tail": -1},
        {"at_end": True, "tail": 1001},
        {"at_end": True, "formats": []},
        {"at_end": True, "formats": ["gif", "gif"]},
    ],
)
def test_parameters_that_make_no_sense_are_refused(tmp_path: Path, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"set at least one of|must be at least 1|tail must be|formats must name"):
        RecordVideoCallback(**params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{}", "set at least one of every_timesteps, every_episodes, on_success and at_end"),
        ("{at_end: true, formats: [avi]}", "formats: should be"),
        ("{every_episode: 3}", "did you mean 'every_episodes'?"),
        ("{every_timesteps: often}", "every_timesteps: should be int or null, not 'often'"),
        ("{at_end: true, max_steps: 0}", "max_steps must be at least 1, not 0"),
        ("{at_end: true, tail: -1}", "tail must be 0 to 1000, not -1"),
        ("{at_end: true, tail: long}", "tail: should be int, not 'long'"),
    ],
)
def test_parameters_that_make_no_sense_are_bad_input(
    config_file: Path, toolkit: Toolkit, params: str, message: str
) -> None:
    override = f"callbacks=[{{name: record_video, params: {params}}}]"
    with pytest.raises(ConfigError, match=r"callbacks\.0"):
        train(load_config(config_file, [override]))
    done = toolkit("train", config_file, "--set", override)
    assert done.status == 2
    assert message in done.err
    assert not Path("runs").exists()
