"""A run that was stopped goes on as if it had never been: the same weights, the same files."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.callbacks import BaseCallback
from support import CONFIGS, Toolkit, toolkit_process
from trained import ALGORITHMS, StopAt, config, differences, stop_and_go_on

from toolkit import Run, RunConfig, evaluate, load_config
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.evaluation.rollout import limit_episode_steps, play_greedy_episodes
from toolkit.evaluation.summary import format_run_summary
from toolkit.snapshots import archive
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import RunError, TrainingError

STATISTICS: dict[str, Any] = {
    "vec_wrappers": [{"name": "vec_frame_stack", "params": {"n_stack": 2}}, {"name": "vec_normalize"}]
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("env", [{}, {"n_envs": 4}, STATISTICS], ids=["one", "four", "normalized and stacked"])
def test_a_run_that_was_broken_off_twice_comes_to_the_same_end(
    algorithm: str, env: dict[str, Any], tmp_path: Path
) -> None:
    parts = config(algorithm, env)
    train(parts, tmp_path / "whole", [StopAt()])
    stop_and_go_on(parts, tmp_path / "broken")
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"n_steps": 3}},
        {"params": {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}},
        {"params": {"target_update_interval": [2, "episode"]}},
        {"env": {"wrappers": ["terminal_reward_clip", "gymnasium.wrappers:NormalizeObservation"]}},
        {"env": {"wrappers": [{"name": "gymnasium.wrappers:FrameStackObservation", "params": {"stack_size": 3}}]}},
        {"env": {"wrappers": ["random_first_action"], "n_envs": 2}},
        {"env": {"max_episode_steps": 13}},
        {"callbacks": [{"name": "max_episodes", "params": {"max_episodes": 60}}]},
    ],
    ids=str,
)
def test_what_a_config_can_ask_for_goes_on_as_well(changes: dict[str, Any], tmp_path: Path) -> None:
    parts = RunConfig.model_validate(json.loads(json.dumps(config(**changes).model_dump())))
    train(parts, tmp_path / "whole", [StopAt()])
    stop_and_go_on(parts, tmp_path / "broken")
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "env"), [("double_dqn", {}), ("ppo", {"n_envs": 2, "vec_env": "subproc"}), ("sac", STATISTICS)]
)
def test_a_killed_process_loses_nothing(algorithm: str, env: dict[str, Any], tmp_path: Path) -> None:
    parts = config(algorithm, env, timesteps=2_000)
    (tmp_path / "killed.yaml").write_text(parts.to_yaml())
    train(parts, tmp_path / "whole")
    killed = tmp_path / "killed"
    process = toolkit_process(["train", tmp_path / "killed.yaml", "--out", killed])
    while process.poll() is None and not any((killed / "snapshots").glob("[0-9]*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    again = toolkit_process(["resume", killed])
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert differences(tmp_path / "whole", killed) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("algorithm", ["double_dqn", "a2c"])
def test_a_signal_saves_a_snapshot_where_training_goes_on_later(
    algorithm: str, number: int, status: int, tmp_path: Path
) -> None:
    parts = config(algorithm, timesteps=30_000, snapshots={"every_minutes": None})
    (tmp_path / "stopped.yaml").write_text(parts.to_yaml())
    stopped = tmp_path / "stopped"
    process = toolkit_process(["train", tmp_path / "stopped.yaml", "--out", stopped])
    while process.poll() is None and not (stopped / "progress.csv").exists():
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status, err
    result = Run.open(stopped).result
    assert result is not None
    assert result["status"] == "interrupted"
    assert [path.name for path in (stopped / "snapshots").glob("[0-9]*")] == [str(result["timesteps"])]
    assert f"resume {stopped}" in out


def test_environments_in_processes_of_their_own_give_the_same_run(tmp_path: Path) -> None:
    env = {"n_envs": 2, "wrappers": ["random_first_action", "terminal_reward_clip"], "max_episode_steps": 30}
    train(config(env=env), tmp_path / "here")
    train(config(env=env | {"vec_env": "subproc"}), tmp_path / "apart")
    assert differences(tmp_path / "here", tmp_path / "apart") == []


def test_a_run_that_has_ended_is_refused(tmp_path: Path, toolkit: Toolkit) -> None:
    run = train(config(timesteps=50), tmp_path / "run")
    before = (run.directory / "result.json").read_bytes()
    refused = toolkit("resume", run.directory)
    assert refused.status == 2
    assert refused.err == f"error: {run.directory}: has ended (finished) and cannot be resumed\n"
    assert (run.directory / "result.json").read_bytes() == before


def test_a_run_without_a_snapshot_starts_from_the_beginning_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = config(snapshots={"every_minutes": None})
    train(parts, tmp_path / "whole")
    with pytest.raises(TrainingError):
        train(parts, tmp_path / "broken", [StopAt(300)])
    resume(Run.open(tmp_path / "broken"))
    assert f"{tmp_path / 'broken'}: has no valid snapshot; training starts from the beginning" in caplog.messages
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


def test_the_newest_snapshots_and_the_best_are_kept(tmp_path: Path) -> None:
    snapshots = {"every_timesteps": 100, "keep": 2}
    run = train(config(env={"max_episode_steps": 20}, snapshots=snapshots), tmp_path / "run")
    scores = json.loads((run.directory / "snapshots" / "scores.json").read_text())
    names = sorted((path.name for path in (run.directory / "snapshots").glob("[0-9]*")), key=int)
    best = max(scores, key=lambda name: (scores[name], int(name)))
    assert names[-2:] == ["600", "700"]
    assert {*names} == {"600", "700", best}
    assert {*scores} == {*names}


def test_snapshots_are_taken_by_the_clock(tmp_path: Path) -> None:
    run = train(config("a2c", snapshots={"every_minutes": 1e-9, "keep": 1000}), tmp_path / "run")
    names = {int(path.name) for path in (run.directory / "snapshots").glob("[0-9]*")}
    assert names == {*range(0, 800, 5)}


def test_a_snapshot_is_json_and_arrays_and_can_be_checked_by_hand(tmp_path: Path) -> None:
    run = train(config(), tmp_path / "run")
    newest = run.directory / "snapshots" / "750"
    assert {path.name for path in newest.iterdir()} == {"state.json", "arrays.safetensors", "SHA256SUMS"}
    progress = json.loads((newest / "state.json").read_text())["progress"]
    assert progress["attributes"]["num_timesteps"] == 750
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=newest, capture_output=True, check=False)
    assert checked.returncode == 0


@pytest.mark.parametrize("snapshots", [{"every_timesteps": 150}, {"every_minutes": None}], ids=["some", "none"])
def test_videos_that_come_after_the_snapshot_are_made_once(snapshots: dict[str, Any], tmp_path: Path) -> None:
    video = {"name": "record_video", "params": {"every_timesteps": 200, "max_steps": 5}}
    parts = config(callbacks=[video], snapshots=snapshots)
    whole = train(parts, tmp_path / "whole", [StopAt()])
    with pytest.raises(TrainingError):
        train(parts, tmp_path / "broken", [StopAt(430)])
    broken = Run.open(tmp_path / "broken")
    assert len([*broken.videos.iterdir()]) == 2
    (broken.videos / "record.mp4").touch()
    resume(broken, [StopAt()])
    names = [{path.name for path in run.videos.iterdir()} for run in (whole, broken)]
    assert names[1] == names[0] | {"record.mp4"}
    assert len(names[0]) == 4


def test_tensorboard_has_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps(run: Run) -> list[int]:
        events = EventAccumulator(str(run.directory / "tensorboard"))
        events.Reload()
        return [event.step for event in events.Scalars("rollout/ep_len_mean")]

    parts = config("a2c", timesteps=2_000, snapshots={"every_timesteps": 450})
    whole = train(parts, tmp_path / "whole", [StopAt()])
    broken = stop_and_go_on(parts, tmp_path / "broken", (1_300,))
    assert steps(broken) == steps(whole)


def test_other_versions_than_the_run_was_started_with_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainingError):
        train(config(), tmp_path / "run", [StopAt(300)])
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    environment["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(environment))
    resume(Run.open(tmp_path / "run"), [StopAt()])
    now = importlib.metadata.version("numpy")
    assert f"numpy was 1.0 and is {now}: the run may continue differently" in caplog.messages


def test_callbacks_that_are_missing_are_named_before_anything_is_changed(tmp_path: Path, toolkit: Toolkit) -> None:
    with pytest.raises(TrainingError):
        train(config(), tmp_path / "run", [StopAt(300)])
    refused = toolkit("resume", tmp_path / "run")
    assert refused.status == 2
    assert "its callbacks are MeanReturnSuccess, StopAt, but the run has MeanReturnSuccess" in refused.err
    assert (tmp_path / "run" / "result.json").exists()


class Counting(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps what cannot be written down."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes = itertools.count()


class Listening(BaseCallback):
    """Keeps what cannot be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def _on_step(self) -> bool:
        return True


def test_what_cannot_be_brought_back_is_named_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = config("sac", {"wrappers": [f"{__name__}:Counting"]})
    with pytest.raises(TrainingError):
        train(parts, tmp_path / "run", [Listening(), StopAt(1)])
    assert [message for message in caplog.messages if "not exact" in message] == [
        "not exact after `toolkit resume`: wrapper Counting: episodes",
        "not exact after `toolkit resume`: callback Listening: lock",
    ]


def test_the_configs_that_ship_can_be_brought_back_whole(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    for path in CONFIGS:
        if path.stem == "cartpole_ars":
            continue
        caplog.clear()
        with pytest.raises(TrainingError):
            train(load_config(path), tmp_path / path.stem, [StopAt(1)])
        assert [message for message in caplog.messages if "not exact" in message] == [], path.stem


def test_an_environment_that_does_not_repeat_itself_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = config(env={"id": "CartPole-v1", "wrappers": []})
    gym.register("Whimsical-v0", Whimsical, max_episode_steps=200)
    try:
        stop_and_go_on(config(env={"id": "Whimsical-v0"}), tmp_path / "run", (430,))
    finally:
        del gym.registry["Whimsical-v0"]
    assert "environment 0 does not repeat its episodes: training continues differently" in caplog.messages
    caplog.clear()
    stop_and_go_on(parts, tmp_path / "plain", (430,))
    assert not [message for message in caplog.messages if "does not repeat" in message]


class Whimsical(CartPoleEnv):
    """Draws from a generator that no seed reaches."""

    whims = np.random.default_rng()

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + self.whims.normal(0, 1e-3, 4).astype(np.float32), *rest


def refused(run: Path, toolkit: Toolkit) -> str:
    """Return why the run is not gone on with; nothing of it is changed."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = toolkit("resume", run)
    assert done.status == 2, done.err
    assert "Traceback" not in done.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    return done.err


def stopped(out: Path) -> Path:
    """Train until timestep 310, and no further; the newest snapshot is of 300."""
    run = train(config(timesteps=310), out)
    result = run.directory / "result.json"
    result.write_text(result.read_text().replace("finished", "interrupted"))
    return run.directory


def test_what_comes_next_is_true_of_a_run_without_a_snapshot(tmp_path: Path) -> None:
    note = "  note   there is no snapshot: resume starts from the beginning\n  next   "
    run = Run.open(stopped(tmp_path / "run"))
    assert note not in format_run_summary(run)
    shutil.rmtree(run.directory / "snapshots")
    assert note in format_run_summary(run)


def test_a_run_whose_config_was_edited_is_refused(tmp_path: Path, toolkit: Toolkit) -> None:
    run = stopped(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("[16, 16]", "[32, 16]"))
    assert "config.yaml differs from the config of the snapshot" in refused(run, toolkit)


def test_a_model_that_was_not_trained_here_is_not_trained_over(tmp_path: Path, toolkit: Toolkit) -> None:
    run = stopped(tmp_path / "run")
    for name in ("result.json", "monitor.csv", "progress.csv"):
        (run / name).unlink()
    shutil.rmtree(run / "snapshots")
    assert "holds a model that was not trained here" in refused(run, toolkit)


def forged(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the newest snapshot, checksums included."""
    data = archive.read(run / "snapshots" / "300")
    change(data)
    shutil.rmtree(run / "snapshots")
    archive.write(run / "snapshots" / "300", data)


def shrink_moments(data: dict[str, Any]) -> None:
    for _, kept in data["parameters"]["policy.optimizer"]["state"]["pairs"]:
        kept["exp_avg"]["value"] = np.zeros((1,), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shrink_moments, "exp_avg of parameter 0"),
        (lambda data: data.update(parameters="/etc/passwd"), "no weights of such a model"),
        (lambda data: data["progress"].update(attributes=[]), "not of a run of this config"),
        (lambda data: data["progress"]["attributes"].update(learn=5), "DoubleDQN.learn is not an attribute"),
        (lambda data: data["progress"]["attributes"].update(policy=5), "has plain data where"),
        (lambda data: data["replay_buffer"]["memory"].update(rewards=np.zeros((5, 9), np.float32)), "other shapes"),
        (lambda data: data["environments"][0].update(actions=np.full(5, 77)), "episode was replayed"),
        (lambda data: data["callbacks"].pop(), "its callbacks are"),
    ],
    ids=["moments", "path", "attributes", "method", "network", "transitions", "actions", "callbacks"],
)
def test_a_forged_snapshot_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path, toolkit: Toolkit
) -> None:
    run = stopped(tmp_path / "run")
    forged(run, change)
    assert message in refused(run, toolkit)


class Lives(gym.Wrapper[Any, Any, Any, Any]):
    """Hides every other end, as games with lives do."""

    ends = 0

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self.ends += 1
            if self.ends % 2:
                observation, info = self.env.reset()
                terminated = truncated = False
        return observation, reward, terminated, truncated, info


class Noting(BaseCallback):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(5)
        self.drawn = 0.0

    def _on_step(self) -> bool:
        self.drawn += self.rng.random()
        self.logger.record("own/drawn", self.drawn)
        return True


def test_what_a_callback_draws_by_itself_and_games_with_hidden_ends_go_on(tmp_path: Path) -> None:
    parts = config(env={"wrappers": [f"{__name__}:Lives"]})
    forever = StopAt()
    train(parts, tmp_path / "whole", [Noting(), forever])
    with pytest.raises(TrainingError):
        train(parts, tmp_path / "broken", [Noting(), StopAt(430)])
    resume(Run.open(tmp_path / "broken"), [Noting(), forever])
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


def test_damaged_snapshots_make_room_for_new_ones(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(config(), tmp_path / "run", [StopAt(430)])
    for state in (tmp_path / "run" / "snapshots").glob("[0-9]*/state.json"):
        state.write_text("{}")
    with pytest.raises(TrainingError):
        resume(Run.open(tmp_path / "run"), [StopAt(430)])
    names = {path.name for path in (tmp_path / "run" / "snapshots").glob("[0-9]*")}
    assert names == {"150", "300"}
    assert all(archive.read(tmp_path / "run" / "snapshots" / name) for name in names)


@pytest.mark.slow
def test_what_was_compiled_is_compiled_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "torch.__trace")  # what the compiler notes would hide why it failed
    caplog.set_level("INFO", "toolkit")
    parts = config(timesteps=5_200, params={"train_freq": 1, "gradient_steps": 10})  # 51,000 updates
    with pytest.raises(TrainingError):
        train(parts, tmp_path / "run", [StopAt(310)])
    assert "compiled the update" in caplog.text, caplog.text
    caplog.clear()
    with pytest.raises(TrainingError):
        resume(Run.open(tmp_path / "run"), [StopAt(305)])  # 49,000 remain, which alone would not be compiled
    assert "compiled the update" in caplog.text


@pytest.mark.parametrize(
    "env",
    [
        {"vec_wrappers": ["vec_normalize"], "n_envs": 2},
        {"wrappers": ["gymnasium.wrappers:NormalizeObservation"], "n_envs": 2},
        {"vec_wrappers": ["vec_normalize"], "n_envs": 2, "vec_env": "subproc"},
    ],
    ids=str,
)
def test_a_model_sees_what_it_learnt_from_wherever_it_is_used(env: dict[str, Any], tmp_path: Path) -> None:
    class Evaluated(BaseCallback):
        """Notes how the model does while its environments are there."""

        returns: list[float] = []

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            seed = derived_seed(0, "evaluation")
            others = make_vec_env(run_config, seed=seed, n_envs=5, wrap=limit_episode_steps)
            self.returns[:] = play_greedy_episodes(self.model, others, 5)
            others.close()

    run_config = config("ppo", env | {"id": "Pendulum-v1", "max_episode_steps": 60}, timesteps=1_500)
    run = train(run_config, tmp_path / "run", [Evaluated()])
    assert [*evaluate(run, 5, seed=0).returns] == Evaluated.returns
    shutil.rmtree(tmp_path / "run" / "wrappers")
    if "vec_wrappers" in env:
        with pytest.raises(RunError, match="must hold the statistics of the wrappers"):
            evaluate(run, 5, seed=0)
    else:
        assert [*evaluate(run, 5, seed=0).returns] != Evaluated.returns
