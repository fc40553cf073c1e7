"""Videos of the agent during training: when they are recorded, and that they change nothing else."""

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


def train_with_videos(directory: Path, params: str, *overrides: str, threshold: float = 195) -> Run:
    """Train the small config with a `record_video` callback that writes short GIFs."""
    path = directory / "small.yaml"
    path.write_text(SMALL_CONFIG)
    video = f"{{name: record_video, params: {{formats: [gif], max_steps: 3, {params}}}}}"
    return train(load_config(path, [f"callbacks=[{SUCCESS % threshold}, {video}]", *overrides]), directory / "run")


def list_videos(run: Run) -> list[str]:
    """Return the names of a run's videos in the order of recording."""
    return sorted(files_in(run.videos), key=lambda name: (run.videos / name).stat().st_mtime_ns)


def test_multiple_of_timesteps_counts_when_environments_pass_it(tmp_path: Path) -> None:
    names = list_videos(train_with_videos(tmp_path, "every_timesteps: 100", "env.n_envs=7", "timesteps=250"))
    assert [name.partition("-episode-")[0] for name in names] == ["timesteps-step-105", "timesteps-step-203"]


def test_video_after_every_so_many_episodes(tmp_path: Path) -> None:
    run = train_with_videos(tmp_path, "every_episodes: 4", "env.n_envs=1")
    lengths = [int(row.split(",")[1]) for row in (run.directory / "monitor.csv").read_text().splitlines()[2:]]
    expected = [
        f"episodes-step-{sum(lengths[:episode])}-episode-{episode}.gif" for episode in range(4, len(lengths) + 1, 4)
    ]
    assert len(expected) >= 2
    assert list_videos(run) == expected


def test_no_success_video_without_success(tmp_path: Path) -> None:
    assert not train_with_videos(tmp_path, "on_success: true").videos.exists()


def test_callback_without_trigger_records_the_end(tmp_path: Path) -> None:
    run = train_with_videos(tmp_path, "")
    assert list_videos(run) == [f"end-step-304-episode-{(run.result or {})['episodes']}.gif"]


@pytest.mark.parametrize(("threshold", "trigger"), [(195, "end"), (5, "success")])
def test_end_is_recorded_once(tmp_path: Path, threshold: float, trigger: str) -> None:
    run = train_with_videos(tmp_path, "on_success: true, at_end: true", threshold=threshold)
    result = run.result or {}
    assert list_videos(run) == [f"{trigger}-step-{result['timesteps']}-episode-{result['episodes']}.gif"]


def test_end_is_recorded_after_success(tmp_path: Path) -> None:
    assert list_videos(train_with_videos(tmp_path, "at_end: true", threshold=5))[0].startswith("end-step-")


def test_triggers_combine(tmp_path: Path) -> None:
    triggers = "every_timesteps: 150, every_episodes: 5, at_end: true"
    names = list_videos(train_with_videos(tmp_path, triggers))
    timesteps = [name.partition("-episode-")[0] for name in names if name.startswith("timesteps")]
    assert timesteps == ["timesteps-step-150", "timesteps-step-300"]
    assert {name.partition("-")[0] for name in names} == {"timesteps", "episodes", "end"}


def test_each_format_is_cut_after_max_steps(tmp_path: Path) -> None:
    run = train_with_videos(tmp_path, "at_end: true", "callbacks.1.params.formats=[gif, mp4]")
    gif, mp4 = sorted(list_videos(run))
    assert (gif.removesuffix(".gif"), Path(mp4).suffix) == (mp4.removesuffix(".mp4"), ".mp4")
    assert (run.videos / mp4).stat().st_size > 1000
    with Image.open(run.videos / gif) as image:
        assert 1 <= image.n_frames <= 4


def test_tail_adds_frames_after_termination(tmp_path: Path) -> None:
    videos = [
        {"name": "record_video", "params": {"at_end": True, "formats": ["gif"], "max_steps": 200, "tail": tail}}
        for tail in (0, 7)
    ]
    (tmp_path / "small.yaml").write_text(SMALL_CONFIG)
    run = train(load_config(tmp_path / "small.yaml", {"callbacks": videos}), tmp_path / "run")
    frames = []
    for name in list_videos(run):
        with Image.open(run.videos / name) as image:
            frames.append(image.n_frames)
    assert frames[1] == frames[0] + 7


def write_wrapper_that_draws_globally(directory: Path) -> str:
    """Write a wrapper that draws from the global generators, as some environments do."""
    (directory / "careless.py").write_text(
        "import random\n\nimport gymnasium\nimport numpy\nimport torch\n\n\n"
        "class Careless(gymnasium.Wrapper):\n"
        "    def reset(self, **arguments):\n"
        "        random.random(), numpy.random.random(), torch.rand(1)\n"
        "        return self.env.reset(**arguments)\n"
    )
    return f"{directory}/careless.py:Careless"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_videos_do_not_change_training(tmp_path: Path, algorithm: str) -> None:
    careless = f"env.wrappers=['{write_wrapper_that_draws_globally(tmp_path)}']"
    results = []
    for name, params in (
        ("with", "every_timesteps: 100, every_episodes: 5, at_end: true, tail: 3"),
        ("without", None),
    ):
        (tmp_path / name).mkdir()
        callbacks = "callbacks.1.params.max_steps=5" if params else "callbacks=[]"
        overrides = [careless, f"algorithm={ALGORITHMS[algorithm]}", callbacks]
        run = train_with_videos(tmp_path / name, params or "at_end: true", *overrides)
        assert run.videos.exists() == bool(params)
        with zipfile.ZipFile(run.model_path) as archive:
            weights = [torch.load(archive.open(f"policy{part}.pth"), weights_only=True) for part in ("", ".optimizer")]
        rows = (run.directory / "monitor.csv").read_text().splitlines()[2:]
        results.append((weights, [row.split(",")[:2] for row in rows]))
    (recorded, episodes), (plain, plain_episodes) = results
    assert episodes == plain_episodes
    assert_equal(recorded, plain)


def assert_equal(first: Any, second: Any) -> None:
    """Compare nested lists and mappings of tensors."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_equal(value, second[key])
    elif isinstance(first, list):
        for item, other in zip(first, second, strict=True):
            assert_equal(item, other)
    else:
        assert first == second


def test_summary_names_the_videos(config_file: Path, toolkit: Toolkit) -> None:
    video = "{name: record_video, params: {at_end: true, formats: [gif], max_steps: 3}}"
    finished = toolkit("train", config_file, "--set", f"callbacks=[{video}]")
    assert "  video  runs/small-1/videos/end-step-304-episode-9.gif\n" in finished.out


def test_training_continues_if_rendering_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "dark.py").write_text(
        "import gymnasium\n\n\n"
        "class Dark(gymnasium.Wrapper):\n"
        "    def render(self):\n"
        "        raise RuntimeError('too dark')\n"
    )
    run = train_with_videos(
        tmp_path, "every_timesteps: 150, at_end: true", f"env.wrappers=['{tmp_path}/dark.py:Dark']"
    )
    assert (run.result or {})["status"] == "finished"
    assert run.model_path.is_file()
    assert files_in(run.videos) == set()
    assert [message.partition("-")[0] for message in caplog.messages] == ["timesteps", "timesteps", "end"]
    assert all("no video was made: RuntimeError: too dark" in message for message in caplog.messages)


@pytest.mark.slow
def test_training_continues_without_ffmpeg(config_file: Path) -> None:
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
def test_invalid_parameters_raise(tmp_path: Path, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1|tail must be|formats must name"):
        RecordVideoCallback(**params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{at_end: true, formats: [avi]}", "formats: should be"),
        ("{every_episode: 3}", "did you mean 'every_episodes'?"),
        ("{at_end: true, tail: -1}", "tail must be 0 to 1000, not -1"),
    ],
)
def test_invalid_parameters_are_bad_input(config_file: Path, toolkit: Toolkit, params: str, message: str) -> None:
    override = f"callbacks=[{{name: record_video, params: {params}}}]"
    with pytest.raises(ConfigError, match=r"callbacks\.0"):
        train(load_config(config_file, [override]))
    finished = toolkit("train", config_file, "--set", override)
    assert finished.status == 2
    assert message in finished.err
    assert not Path("runs").exists()
