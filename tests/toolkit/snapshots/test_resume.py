"""A run that stops and resumes ends as a run without a break does: with the same weights and the same files."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from small_runs import StopAt, find_differences, make_config, train_with_interruptions
from stable_baselines3.common.callbacks import BaseCallback
from support import CONFIGS, Toolkit

from toolkit import Run, RunConfig, evaluate, load_config
from toolkit.algorithms import double_dqn, learner
from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.evaluation.rollout import play_greedy_episodes
from toolkit.evaluation.summary import format_run_summary
from toolkit.snapshots import archive
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import RunError, TrainingError

UninterruptedRun = Callable[[RunConfig], Path]
ONE_ENV: dict[str, Any] = {}
FOUR_ENVS: dict[str, Any] = {"n_envs": 4}
VEC_WRAPPERS: dict[str, Any] = {
    "vec_wrappers": [{"name": "vec_frame_stack", "params": {"n_stack": 2}}, {"name": "vec_normalize"}]
}
RAINBOW = {"net_arch": [16], "dueling": True, "noisy": True, "distribution": "c51", "v_min": 0.0, "v_max": 100.0}
WRAPPERS: dict[str, Any] = {
    "wrappers": ["random_first_action", "terminal_reward_clip"],
    "n_envs": 2,
    "max_episode_steps": 30,
}


# --- the same end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        *(("double_dqn", ONE_ENV), ("double_dqn", FOUR_ENVS), ("double_dqn", VEC_WRAPPERS), ("dqn", VEC_WRAPPERS)),
        *(("qrdqn", FOUR_ENVS), ("ppo", ONE_ENV), ("ppo", FOUR_ENVS), ("a2c", VEC_WRAPPERS), ("sac", VEC_WRAPPERS)),
        *(("td3", ONE_ENV), ("td3", FOUR_ENVS), ("tqc", ONE_ENV), ("recurrent_ppo", FOUR_ENVS)),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "one_env",
)
def test_run_resumed_twice_matches_uninterrupted_run(
    algorithm: str, env: dict[str, Any], tmp_path: Path, uninterrupted_run: UninterruptedRun
) -> None:
    run_config = make_config(algorithm, env)
    train_with_interruptions(run_config, tmp_path / "resumed")
    assert find_differences(uninterrupted_run(run_config), tmp_path / "resumed") == []


@pytest.mark.parametrize(
    "changes",
    [
        {
            "params": {"n_steps": 3, "target_update_interval": [2, "episode"]},
            "env": {"wrappers": ["gymnasium.wrappers:NormalizeObservation"], "max_episode_steps": 13},
        },
        {
            "params": {
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": False},
            },
            "env": {"wrappers": [{"name": "gymnasium.wrappers:FrameStackObservation", "params": {"stack_size": 3}}]},
        },
        {
            "params": {
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": False},
            },
            "env": {"n_envs": 4, "vec_env": "vector"},
        },
        {"callbacks": [{"name": "max_episodes", "params": {"max_episodes": 45}}]},
        {"policy_params": RAINBOW, "params": {"n_steps": 3}},
    ],
    ids=["n_steps", "optimize_memory_usage", "optimize_memory_usage_vector", "max_episodes", "rainbow"],
)
def test_resumed_run_matches_with_options_of_config(changes: dict[str, Any], tmp_path: Path) -> None:
    run_config = RunConfig.model_validate(json.loads(json.dumps(make_config(**changes).model_dump())))
    train(run_config, tmp_path / "whole", [StopAt()])
    train_with_interruptions(run_config, tmp_path / "resumed", (430,))
    assert find_differences(tmp_path / "whole", tmp_path / "resumed") == []


class KillAt(StopAt):
    """Kills its own process at a timestep, as the kernel does when memory runs out."""

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.timestep:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


@pytest.mark.parametrize(
    ("algorithm", "env", "vec_env", "more"),
    [
        ("double_dqn", ONE_ENV, "dummy", {}),
        ("double_dqn", ONE_ENV, "dummy", {"policy_params": RAINBOW}),
        ("double_dqn", ONE_ENV, "dummy", {"params": {"replay_buffer_class": "prioritized", "n_steps": 3}}),
        ("ppo", WRAPPERS, "subproc", {}),
        ("sac", VEC_WRAPPERS, "dummy", {}),
    ],
    ids=["replay_buffer", "noise", "priorities", "subproc", "vec_wrappers"],
)
def test_resume_after_sigkill_matches_uninterrupted_run(
    algorithm: str,
    env: dict[str, Any],
    vec_env: str,
    more: dict[str, Any],
    tmp_path: Path,
    uninterrupted_run: UninterruptedRun,
) -> None:
    killed_config = make_config(algorithm, env | {"vec_env": vec_env}, **more)
    arguments = (killed_config, tmp_path / "killed", [KillAt(430)])
    process = multiprocessing.get_context("forkserver").Process(target=train, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    resume(Run.open(tmp_path / "killed"), [KillAt()])
    assert find_differences(uninterrupted_run(make_config(algorithm, env, **more)), tmp_path / "killed") == []


class SignalAt(BaseCallback):
    """Sends its own process a signal at a timestep."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def _on_step(self) -> bool:
        if self.num_timesteps == 240:
            os.kill(os.getpid(), self.number)
        return True


@pytest.mark.parametrize(
    ("algorithm", "number", "status"), [("double_dqn", signal.SIGINT, 130), ("a2c", signal.SIGTERM, 143)]
)
def test_signal_saves_snapshot_and_sets_exit_status(
    algorithm: str, number: int, status: int, tmp_path: Path, toolkit: Toolkit
) -> None:
    signal_at = {"name": f"{__name__}:SignalAt", "params": {"number": int(number)}}
    interrupted_config = make_config(algorithm, callbacks=[signal_at], snapshots={"every_minutes": None})
    (tmp_path / "run.yaml").write_text(interrupted_config.to_yaml())
    finished = toolkit("train", tmp_path / "run.yaml", "--out", tmp_path / "run")
    assert finished.status == status, finished.err
    result = Run.open(tmp_path / "run").result
    assert result is not None
    assert result["status"] == "interrupted"
    assert [path.name for path in (tmp_path / "run" / "snapshots").glob("[0-9]*")] == [str(result["timesteps"])]
    assert f"resume {tmp_path / 'run'}" in finished.out


def test_resume_without_snapshot_starts_from_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, uninterrupted_run: UninterruptedRun
) -> None:
    with pytest.raises(TrainingError):
        train(make_config(), tmp_path / "resumed", [StopAt(300)])
    shutil.rmtree(tmp_path / "resumed" / "snapshots")
    resume(Run.open(tmp_path / "resumed"), [StopAt()])
    assert "from the beginning" in caplog.text
    assert find_differences(uninterrupted_run(make_config()), tmp_path / "resumed") == []


class HiddenEnds(gym.Wrapper[Any, Any, Any, Any]):
    """Hides every other end of an episode, as games with lives do."""

    n_ends = 0

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self.n_ends += 1
            if self.n_ends % 2:
                observation, info = self.env.reset()
                terminated = truncated = False
        return observation, reward, terminated, truncated, info


class RandomSum(BaseCallback):
    """Draws from its own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(5)
        self.sum = 0.0

    def _on_step(self) -> bool:
        self.sum += self.rng.random()
        self.logger.record("own/sum", self.sum)
        return True


def test_resume_restores_callback_generator_and_hidden_episode_ends(tmp_path: Path) -> None:
    run_config = make_config(env={"wrappers": [f"{__name__}:HiddenEnds"]})
    stop_never = StopAt()
    train(run_config, tmp_path / "whole", [RandomSum(), stop_never])
    with pytest.raises(TrainingError):
        train(run_config, tmp_path / "resumed", [RandomSum(), StopAt(430)])
    resume(Run.open(tmp_path / "resumed"), [RandomSum(), stop_never])
    assert find_differences(tmp_path / "whole", tmp_path / "resumed") == []


def test_resume_records_videos_after_snapshot_once(tmp_path: Path) -> None:
    video = {"name": "record_video", "params": {"every_timesteps": 200, "max_steps": 5}}
    whole = train(make_config(callbacks=[video]), tmp_path / "whole", [StopAt()])
    expected = {path.name for path in whole.videos.iterdir()}
    assert len(expected) == 4
    for name, snapshots in {"with": {"every_timesteps": 150}, "without": {"every_minutes": None}}.items():
        with pytest.raises(TrainingError):
            train(make_config(callbacks=[video], snapshots=snapshots), tmp_path / name, [StopAt(430)])
        resumed = Run.open(tmp_path / name)
        assert len([*resumed.videos.iterdir()]) == 2
        (resumed.videos / "record.mp4").touch()
        resume(resumed, [StopAt()])
        assert {path.name for path in resumed.videos.iterdir()} == expected | {"record.mp4"}, name


def test_resume_writes_each_step_to_tensorboard_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_config = make_config("a2c", timesteps=1_600, snapshots={"every_timesteps": 450})
    resumed = train_with_interruptions(run_config, tmp_path / "resumed", (1_300,))
    events = EventAccumulator(str(resumed.directory / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("rollout/ep_len_mean")] == [500, 1_000, 1_500]


def test_resume_compiles_update_if_run_did(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "toolkit")
    monkeypatch.setattr(learner, "compile_update", lambda *_: lambda *_: torch.zeros(1))
    monkeypatch.setattr(double_dqn, "_MIN_UPDATES_TO_COMPILE", 250)
    with pytest.raises(TrainingError):
        train(make_config(timesteps=620), tmp_path / "run", [StopAt(310)])  # 260 updates are to come
    assert "compiled the update" in caplog.text
    caplog.clear()
    with pytest.raises(TrainingError):
        resume(Run.open(tmp_path / "run"), [StopAt(305)])  # 160 are left, which alone are not compiled
    assert "compiled the update" in caplog.text


@pytest.mark.parametrize(
    "env",
    [
        {"wrappers": ["gymnasium.wrappers:NormalizeObservation"], "n_envs": 2},
        {"vec_wrappers": ["vec_normalize"], "n_envs": 2, "vec_env": "subproc"},
    ],
    ids=["wrapper", "vec_wrapper"],
)
def test_evaluation_uses_statistics_that_wrappers_learned_in_training(env: dict[str, Any], tmp_path: Path) -> None:
    class EvaluateAtEnd(BaseCallback):
        """Evaluates the model while the environments that it was trained in exist."""

        returns: list[float] = []

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            seed = derived_seed(0, "evaluation")
            venv = make_vec_env(run_config, seed=seed, n_envs=3, wrap=limit_episode_steps)
            self.returns[:] = play_greedy_episodes(self.model, venv, 3).returns
            venv.close()

    run_config = load_config(make_config("ppo", env | {"id": "Pendulum-v1", "max_episode_steps": 60}, timesteps=512))
    run = train(run_config, tmp_path / "run", [EvaluateAtEnd()])
    assert [*evaluate(run, 3, seed=0).returns] == EvaluateAtEnd.returns
    shutil.rmtree(tmp_path / "run" / "wrappers")
    with pytest.raises(RunError, match="must hold what the wrappers and the policy learned"):
        evaluate(run, 3, seed=0)


# --- what cannot be the same is named -------------------------------------------------------------------------------


def test_resume_names_versions_that_changed(interrupted_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = interrupted_run / "environment.json"
    environment = json.loads(path.read_text())
    environment["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(environment))
    resume(Run.open(interrupted_run))
    now = importlib.metadata.version("numpy")
    assert f"numpy was 1.0 and is {now}: the run may continue differently" in caplog.messages


class UnsavedWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Holds an object that no snapshot saves."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes = itertools.count()


class UnsavedCallback(BaseCallback):
    """Holds an object that no snapshot saves."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def _on_step(self) -> bool:
        return True


def named_parts(caplog: pytest.LogCaptureFixture) -> list[str]:
    prefix = "not exact after `toolkit resume`: "
    return [message.removeprefix(prefix) for message in caplog.messages if message.startswith(prefix)]


def test_training_names_unsaved_parts_when_it_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrainingError):
        train(
            make_config("sac", {"wrappers": [f"{__name__}:UnsavedWrapper"]}),
            tmp_path / "run",
            [UnsavedCallback(), StopAt(1)],
        )
    assert named_parts(caplog) == ["wrapper UnsavedWrapper: episodes", "callback UnsavedCallback: lock"]


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")  # for the config's number of environments
@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "cartpole_ars"], ids=lambda path: path.stem)
def test_shipped_config_has_no_unsaved_parts(path: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(load_config(path, ["env.n_envs=1"]), tmp_path / "run", [StopAt(1)])
    assert named_parts(caplog) == []


class UnseededCartPole(CartPoleEnv):
    """Draws from a generator that no seed reaches. Episodes end by the time limit alone, always at the same steps."""

    rng = np.random.default_rng()

    def __init__(self) -> None:
        super().__init__()
        self.theta_threshold_radians = self.x_threshold = np.inf

    def step(self, action: Any) -> Any:
        observation, *others = super().step(action)
        return observation + self.rng.normal(0, 1e-3, 4).astype(np.float32), *others


def test_resume_names_environment_that_does_not_repeat_episodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gym.envs.registration.EnvSpec("Unseeded-v0", UnseededCartPole, max_episode_steps=200)
    monkeypatch.setitem(gym.registry, "Unseeded-v0", spec)
    train_with_interruptions(make_config(env={"id": "Unseeded-v0"}, timesteps=400), tmp_path / "run", (330,))
    assert "environment 0 repeats its episode only up to step 1 (another observation)" in caplog.text


def test_resume_of_repeatable_environment_names_nothing(
    interrupted_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resume(Run.open(interrupted_run))
    assert caplog.messages == []


# --- what is refused ------------------------------------------------------------------------------------------------


def refuse_resume(directory: Path, toolkit: Toolkit) -> str:
    """Return why a run is not resumed; none of its files changes."""
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    finished = toolkit("resume", directory)
    assert finished.status == 2, finished.err
    assert "Traceback" not in finished.err
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    return finished.err


def test_resume_refuses_finished_run(interrupted_run: Path, toolkit: Toolkit) -> None:
    result = interrupted_run / "result.json"
    result.write_text(result.read_text().replace("interrupted", "finished"))
    assert f"error: {interrupted_run}: has ended (finished)" in refuse_resume(interrupted_run, toolkit)


def test_resume_refuses_missing_callbacks(tmp_path: Path, toolkit: Toolkit) -> None:
    with pytest.raises(TrainingError):
        train(make_config(), tmp_path / "run", [StopAt(160)])
    message = "its callbacks are MeanReturnSuccess, StopAt, but the run has MeanReturnSuccess"
    assert message in refuse_resume(tmp_path / "run", toolkit)


def test_resume_refuses_edited_config(interrupted_run: Path, toolkit: Toolkit) -> None:
    path = interrupted_run / "config.yaml"
    path.write_text(path.read_text().replace("[16, 16]", "[32, 16]"))
    assert "config.yaml differs from the config of the snapshot" in refuse_resume(interrupted_run, toolkit)


def test_resume_refuses_model_without_training_files(interrupted_run: Path, toolkit: Toolkit) -> None:
    for name in ("result.json", "monitor.csv", "progress.csv"):
        (interrupted_run / name).unlink()
    shutil.rmtree(interrupted_run / "snapshots")
    assert "holds a model that was trained elsewhere" in refuse_resume(interrupted_run, toolkit)


def shrink_moments(state: dict[str, Any]) -> None:
    for _, moments in state["parameters"]["policy.optimizer"]["state"]["pairs"]:
        moments["exp_avg"]["value"] = np.zeros((1,), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shrink_moments, "exp_avg of parameter 0"),
        (lambda state: state.update(parameters="/etc/passwd"), "no weights of such a model"),
        (lambda state: state["progress"].update(attributes=[]), "not of a run of this config"),
        (lambda state: state["progress"]["attributes"].update(learn=5), "DoubleDQN.learn is not an attribute"),
        (lambda state: state["progress"]["attributes"].update(policy=5), "has plain data where"),
        (lambda state: state["replay_buffer"]["memory"].update(rewards=np.zeros((5, 9), np.float32)), "other shapes"),
        (lambda state: state["environments"][0]["trace"].update(rewards=np.ones(99)), "another number of steps"),
        (lambda state: state["environments"].clear(), "it has 0 environments, not 1"),
        (lambda state: state["callbacks"].pop(), "its callbacks are"),
        (lambda state: state["generators"]["numpy"]["state"].update(pos=400_000_000), "not between 0 and 624"),
        (lambda state: state["trained"].pop(), "not of a run of this config"),
        (lambda state: state.update(trained=[0] * len(state["trained"])), "'trained' does not say"),
    ],
    ids=[
        *("moments", "path", "attributes", "method", "network", "transitions", "rewards", "environments"),
        *("callbacks", "generator", "fewer_parameters", "numbers_for_flags"),
    ],
)
def test_resume_refuses_forged_snapshot(
    change: Callable[[dict[str, Any]], Any], message: str, interrupted_run: Path
) -> None:
    state = archive.read(interrupted_run / "snapshots" / "300")
    change(state)
    shutil.rmtree(interrupted_run / "snapshots")
    archive.write(interrupted_run / "snapshots" / "300", state)
    with pytest.raises((RunError, TrainingError), match=message):
        resume(Run.open(interrupted_run))


def test_summary_says_whether_interrupted_run_has_snapshot(interrupted_run: Path) -> None:
    note = "  note   there is no snapshot: resume starts from the beginning\n  next   "
    run = Run.open(interrupted_run)
    assert note not in format_run_summary(run)
    shutil.rmtree(run.directory / "snapshots")
    assert note in format_run_summary(run)
