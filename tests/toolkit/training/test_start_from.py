"""`start_from`: a new run begins with the weights and statistics of another model, which is checked to fit."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from support import Toolkit

from toolkit import load, load_config, train
from toolkit.training.model import load_model
from toolkit.training.trainer import dry_run

CONFIG = """\
timesteps: 64
env: {id: CartPole-v1, n_envs: 2, vec_wrappers: [vec_normalize], wrappers: ["gymnasium.wrappers:NormalizeReward"]}
algorithm: {name: ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 1}, policy_params: {net_arch: [8]}}
callbacks: [{name: evaluate, params: {label: greedy, every_timesteps: 64, episodes: 1, keep_best: true}}]
snapshots: {every_timesteps: 64}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `first` of 128 timesteps, with a snapshot at 64, beside its config `mine.yaml`."""
    folder = tmp_path_factory.mktemp("start_from")
    (folder / "mine.yaml").write_text(CONFIG)
    train(folder / "mine.yaml", folder / "first", timesteps=128)
    return folder


@pytest.fixture
def directory(folder: Path, working_directory: Path) -> Path:
    """The working directory, with a copy of these."""
    shutil.copytree(folder, working_directory, dirs_exist_ok=True)
    return working_directory


def count_observations(model: BaseAlgorithm) -> float:
    normalizer: Any = model.get_vec_normalize_env()
    return float(normalizer.obs_rms.count)


@pytest.mark.parametrize("choice", ["final", "best", "snapshot:64"])
def test_run_starts_from_weights_and_statistics_of_run(choice: str, directory: Path) -> None:
    config = directory / "next.yaml"
    config.write_text(f"extends: mine.yaml\nstart_from: {{path: first, model: '{choice}'}}\n")
    model = train(config, algorithm__params__learning_rate=0.0).model  # keeps the weights of the start
    chosen = load_model(load("first"), choice)
    weights, chosen_weights = model.policy.state_dict(), chosen.policy.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in chosen_weights.items())
    # a reset and 32 steps of two environments
    assert count_observations(model) == pytest.approx(count_observations(chosen) + 66)


def test_optimizer_comes_along_unless_config_says_no(directory: Path) -> None:
    def count_steps(**overrides: Any) -> float:
        run = train(directory / "mine.yaml", **overrides)
        with zipfile.ZipFile(run.model_path) as archive, archive.open("policy.optimizer.pth") as file:
            state = torch.load(file, weights_only=True)
        assert state["param_groups"][0]["eps"] == 1e-3, "settings are those of the new config"
        return float(state["state"][0]["step"])

    eps = {"algorithm__policy_params__optimizer_kwargs": {"eps": 1e-3}}
    assert count_steps(start_from="first", **eps) == 6
    assert count_steps(start_from={"path": "first/model.zip", "optimizer": False}, **eps) == 2


def test_config_records_hash_and_refuses_another_model(directory: Path, toolkit: Toolkit) -> None:
    run = train(directory / "mine.yaml", start_from="first")
    assert run.config.start_from is not None
    assert run.config.start_from.path == str(directory / "first")
    (directory / "first" / "model.zip").write_bytes((run.directory / "model.zip").read_bytes())
    finished = toolkit("train", run.directory / "config.yaml")
    assert finished.status == 2
    assert "start_from.sha256: " in finished.err
    assert "is not the model that this config was written for" in finished.err
    shutil.rmtree(directory / "first")
    assert run.evaluate(episodes=1).episodes == 1, "a run needs what it started from no more"


def test_resume_needs_start_only_without_snapshot(directory: Path, toolkit: Toolkit) -> None:
    run = train(directory / "mine.yaml", start_from="first", timesteps=128)
    shutil.rmtree(directory / "first")
    result = (run.directory / "result.json").read_text().replace("finished", "interrupted")
    (run.directory / "result.json").write_text(result)
    assert toolkit("resume", run.directory, "--quiet").status == 0
    shutil.rmtree(run.directory / "snapshots")
    (run.directory / "result.json").write_text(result)
    finished = toolkit("resume", run.directory)
    assert finished.status == 2
    assert f"start_from: {directory / 'first'}: does not exist" in finished.err


REFUSED = {
    "start_from=absent": "start_from.path: {0}/absent: does not exist",
    "start_from=.": "start_from.path: {0}: is not a run directory, because it has no config.yaml",
    "start_from=mine.yaml": "start_from: {0}/mine.yaml: is damaged, or no SB3 model: ",
    "start_from={path: mine.yaml, model: best}": "mine.yaml: is no run directory, so it has no best",
    "start_from={path: first, model: 'snapshot:7'}": "has no snapshots/7; its snapshots: 64",
    "start_from={path: first, model: last}": "start_from.model: should be final, best or snapshot:N",
    "start_from={path: first, sha256: beef}": "start_from.sha256: String should match pattern",
    "start_from={path: first, file: x}": "start_from.file: unknown key",
    "algorithm={name: a2c, policy_params: {net_arch: [8]}}": "first: is a run of 'ppo', not of 'a2c'",
    "env.id=Acrobot-v1": "start_from: {0}/first/model.zip: does not fit this config: policy: ",
    "algorithm.policy_params.net_arch=[4]": "start_from: {0}/first/model.zip: does not fit this config: policy: ",
    "env.vec_wrappers=[]": "acts on observations of VecNormalize, which this config does not have; add it",
    "env.wrappers=['gymnasium.wrappers:NormalizeObservation']": "has no statistics of NormalizeObservation, on which",
}


@pytest.mark.parametrize("override", REFUSED)
def test_model_that_does_not_fit_is_refused_with_its_place(override: str, directory: Path, toolkit: Toolkit) -> None:
    start = "" if override.startswith("start_from") else "start_from: first\n"
    (directory / "next.yaml").write_text(f"extends: mine.yaml\n{start}")
    finished = toolkit("train", "next.yaml", "--set", override)
    assert finished.status == 2, finished.err
    (line,) = finished.err.splitlines()
    place = "next.yaml:2: start_from" if start else "--set start_from"
    assert line.startswith(place)
    assert REFUSED[override].format(directory) in line
    assert not Path("runs").exists()


def test_start_from_executes_no_pickle(directory: Path, toolkit: Toolkit) -> None:
    with zipfile.ZipFile("forged.zip", "w") as archive:
        for name in ("policy", "policy.optimizer"):
            archive.writestr(f"{name}.pth", b"cos\nmkdir\n(S'executed'\ntR.")
    finished = toolkit("train", "mine.yaml", "--set", "start_from=forged.zip", "--set", "env.vec_wrappers=[]")
    assert finished.status == 2
    assert "forged.zip: is damaged, or no SB3 model" in finished.err
    assert not Path("executed").exists()


def test_start_from_runs_no_code_that_a_run_names(directory: Path) -> None:
    (directory / "evil.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    config = directory / "first" / "config.yaml"
    config.write_text(config.read_text().replace("import_modules: []", "import_modules: ['../evil.py']"))
    assert "evil.py" in config.read_text()
    dry_run(load_config(directory / "mine.yaml", {"start_from": "first"}))
    assert not Path("executed").exists()


def test_zip_needs_statistics_beside_it_only_if_config_does(directory: Path, toolkit: Toolkit) -> None:
    shutil.copy("first/model.zip", "alone.zip")
    finished = toolkit("check", "mine.yaml", "--set", "start_from=alone.zip")
    assert finished.status == 2
    assert "alone.zip: has no statistics of VecNormalize, on which this config acts" in finished.err
    dry_run(load_config("mine.yaml", {"start_from": "alone.zip", "env.vec_wrappers": []}))


def test_paths_are_relative_to_the_file_that_names_them(directory: Path) -> None:
    (directory / "deep").mkdir()
    file = directory / "deep" / "next.yaml"
    file.write_text("extends: ../mine.yaml\nstart_from: ../first\n")
    config = load_config(file)
    dry_run(config)
    assert config.start_from is not None
    assert Path(config.start_from.path).resolve() == directory / "first"
