"""Environments of the extras: Atari games with lives, Box2D, MuJoCo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import StopAt, find_differences, train_with_interruptions
from support import PROJECT, Toolkit, can_run, has_extra

from toolkit import RunConfig, evaluate, load_config, record, train
from toolkit.config.load import resolve_config
from toolkit.envs import episode_limit
from toolkit.envs.factory import make_vec_env

CONFIGS = PROJECT / "configs"
ATARI = pytest.mark.skipif(not has_extra("atari"), reason="needs the extra atari")
GAME: dict[str, Any] = {
    "name": "game",
    "seed": 3,
    "timesteps": 280,
    "import_modules": ["ale_py"],
    "env": {
        "id": "BreakoutNoFrameskip-v4",
        "n_envs": 2,
        "wrappers": [{"name": "atari", "params": {"screen_size": 36}}],
        "vec_wrappers": [{"name": "vec_frame_stack", "params": {"n_stack": 4}}],
    },
    "algorithm": {
        "name": "double_dqn",
        "policy": "CnnPolicy",
        "params": {"buffer_size": 200, "learning_starts": 100, "train_freq": 16, "batch_size": 4, "compile": False},
        "policy_params": {"features_extractor_kwargs": {"features_dim": 16}},
    },
    "snapshots": {"every_timesteps": 60},
}


@ATARI
def test_interrupted_game_with_lives_resumes_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    game = RunConfig.model_validate(GAME)
    whole = train(game, tmp_path / "whole", [StopAt()])
    assert whole.result is not None
    assert whole.result["episodes"] >= 1
    train_with_interruptions(game, tmp_path / "broken", (100, 250))
    assert find_differences(tmp_path / "whole", tmp_path / "broken") == []
    assert caplog.messages == []


@ATARI
def test_raw_return_spans_all_lives_of_a_game(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_vec_env(resolve_config(RunConfig.model_validate(GAME)), seed=0, n_envs=1)
    try:
        env.reset()
        ends, lives, reward, steps = 0, set(), 0.0, 0
        while not env.episodes:
            _, rewards, dones, (info,) = env.step(np.array([ends % 4]))
            ends, reward = ends + int(dones[0]), reward + float(rewards[0])
            lives.add(info["lives"])
            steps += 1
    finally:
        env.close()
    assert (ends, lives) == (5, {5, 4, 3, 2, 1, 0})
    assert env.episodes[0].shaped_return == reward
    assert env.episodes[0].raw_return >= reward, "the wrapper clips rewards"
    assert 100 < env.episodes[0].length == steps < 400, "steps of the agent, four frames each"


@ATARI
def test_episode_limit_counts_agent_steps_not_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(RunConfig.model_validate(GAME | {"timesteps": 4}))
    monkeypatch.setattr(episode_limit, "EPISODE_LIMIT", 400)  # of the agent's steps
    assert evaluate(run, 1).episodes == 1


def test_missing_extra_is_named_before_training(monkeypatch: pytest.MonkeyPatch, toolkit: Toolkit) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "toolkit_plugins.wrappers.atari", raising=False)
    Path("game.yaml").write_text("timesteps: 8\nenv: {id: CartPole-v1, wrappers: [atari]}\nalgorithm: ppo\n")
    finished = toolkit("train", "game.yaml")
    assert finished.status == 2
    assert "game.yaml:2: env.wrappers.0" in finished.err
    assert 'pip install "sb3-toolkit[atari]"' in finished.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("config", ["minigrid_ppo", "lunarlander_ddqn", "inverted_pendulum_ppo"])
def test_video_shows_environment(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = CONFIGS / f"{config}.yaml"
    if not can_run(path):
        pytest.skip(f"{config} needs an extra")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    few = {"timesteps": 8, "env.n_envs": 1, "callbacks": []}
    params = {"n_steps": 8, "batch_size": 8} if config.endswith("ppo") else {}
    run = train(load_config(path, few | {f"algorithm.params.{key}": value for key, value in params.items()}))
    (video,) = record(run, formats=["gif"], max_steps=3)
    with Image.open(video) as gif:
        frame = np.asarray(gif.convert("RGB"))
    assert min(frame.shape[:2]) >= 160
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) >= 4
    assert "MUJOCO_GL" not in os.environ
