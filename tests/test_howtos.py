"""The how-to guides whose code trains do what they say: it is taken from the pages and trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import StopAt, find_differences
from stable_baselines3.common.base_class import BaseAlgorithm
from support import PROJECT

from toolkit import Run
from toolkit.config.load import load_config
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError


def write_page(name: str) -> list[Path]:
    """Write the Python files of a page, and its configs, which are returned."""
    configs = []
    text = (PROJECT / "docs" / "howto" / f"{name}.md").read_text()
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if file := re.match(r"# (\w+\.py)\n", block):
            Path(file[1]).write_text(block)
        elif language == "yaml":
            configs.append(Path(f"{name}-{len(configs)}.yaml"))
            configs[-1].write_text(block)
    return configs


class Observer(StopAt):
    """Keeps the model, which may be broken off."""

    model: BaseAlgorithm

    def _on_training_start(self) -> None:
        self.trained = self.model
        self.n_stored = getattr(self.model, "replay_buffer", None) and self.model.replay_buffer.size()  # type: ignore[attr-defined]


def train_page(config: Path, out: Path, *overrides: str) -> Any:
    observer = Observer()
    train(load_config(config, overrides), out, [observer])
    return observer


def crash_and_resume(config: Path, out: Path, stop: int, *overrides: str) -> None:
    with pytest.raises(TrainingError):
        train(load_config(config, overrides), out, [Observer(stop)])
    resume(Run.open(out), [Observer()])


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the code and configs of the page on demonstrations, and the file that its script writes."""
    directory = tmp_path_factory.mktemp("demonstrations")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        write_page("demonstrations")
        exec(compile(Path("record.py").read_text(), "record.py", "exec"), {})
    return directory


def test_recorded_demonstrations_fill_replay_buffer(demonstrations: Path, tmp_path: Path) -> None:
    observer = train_page(demonstrations / "demonstrations-0.yaml", tmp_path / "run", "timesteps=20")
    assert observer.n_stored == 2_000


CLONING = ["timesteps=32", "algorithm.params={learning_rate: 1e-3, n_steps: 16, batch_size: 16, n_epochs: 1}"]


def test_cloned_policy_acts_as_demonstrated(demonstrations: Path, tmp_path: Path) -> None:
    model = train_page(demonstrations / "demonstrations-1.yaml", tmp_path / "run", *CLONING).trained
    with np.load(demonstrations / "demos.npz") as file:
        actions, _ = model.predict(file["observations"], deterministic=True)
        assert (actions == file["actions"]).mean() > 0.85


def test_resume_does_not_clone_again(demonstrations: Path, tmp_path: Path) -> None:
    config = demonstrations / "demonstrations-1.yaml"
    overrides = [*CLONING, "callbacks.0.params.gradient_steps=20", "snapshots={every_timesteps: 16}"]
    train_page(config, tmp_path / "whole", *overrides)
    crash_and_resume(config, tmp_path / "stopped", 30, *overrides)
    assert not find_differences(tmp_path / "whole", tmp_path / "stopped")


SELF_PLAY = [
    *("timesteps=192", "env.n_envs=2", "callbacks.0.params.every=64", "snapshots={every_timesteps: 64}"),
    "algorithm.params={n_steps: 32, batch_size: 32, n_epochs: 2}",
]


@pytest.fixture(scope="module")
def self_play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the code and config of the page on self-play, and a short run of it."""
    directory = tmp_path_factory.mktemp("self_play")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        write_page("self-play")
    train_page(directory / "self-play-0.yaml", directory / "run", *SELF_PLAY)
    return directory


def read_opponent(model: BaseAlgorithm) -> dict[str, Any]:
    env: Any = model.get_env()
    return env.env_method("state_dict")[0]["opponent"]  # type: ignore[no-any-return]


def test_self_play_trains_same_weights_in_processes(self_play: Path, tmp_path: Path) -> None:
    train_page(self_play / "self-play-0.yaml", tmp_path / "run", *SELF_PLAY, "env.vec_env=subproc")
    models = [Run.open(run).load_model() for run in (self_play / "run", tmp_path / "run")]
    weights, other_weights = (model.policy.state_dict() for model in models)
    assert all(value.equal(other_weights[name]) for name, value in weights.items())


def test_self_play_resumes_with_its_opponent(self_play: Path, tmp_path: Path) -> None:
    crash_and_resume(self_play / "self-play-0.yaml", tmp_path / "stopped", 170, *SELF_PLAY)
    assert not find_differences(self_play / "run", tmp_path / "stopped")


def test_evaluation_after_self_play_meets_last_opponent(self_play: Path) -> None:
    model = Run.open(self_play / "run").load_model()
    opponent, weights = read_opponent(model), model.policy.state_dict()
    assert opponent.keys() == weights.keys()
    assert any(not np.array_equal(value, weights[name].numpy()) for name, value in opponent.items())
