"""The callback `curriculum` changes parameters of environments when the agent reaches a threshold."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from small_runs import find_differences, make_config, train_with_interruptions
from support import Toolkit
from weighted_env import N_STEPS

from toolkit import Run, RunConfig
from toolkit.training.trainer import train
from toolkit.utils.errors import ConfigError
from toolkit_plugins.curriculum import Curriculum

WEIGHT = "env.params.weight"


STAGES = [{WEIGHT: 1.0}, {WEIGHT: 2.0, "env.params.label": "hard"}, {WEIGHT: 3.0}]


def make_curriculum_config(*others: dict[str, Any], **params: Any) -> RunConfig:
    curriculum = {"stages": STAGES, "threshold": [10, 20]} | params
    env = {"id": "weighted_env:Weighted", "n_envs": 2, "info_keywords": ["label"]}
    return make_config(env=env, timesteps=400, callbacks=[{"name": "curriculum", "params": curriculum}, *others])


def read_table(run: Run, name: str) -> list[dict[str, str]]:
    lines = (run.directory / name).read_text().splitlines()
    return [*csv.DictReader(line for line in lines if not line.startswith("#"))]


def test_curriculum_advances_on_episodes_of_its_stage(tmp_path: Path) -> None:
    run = train(make_curriculum_config(episodes=3, threshold=[10, 15]), tmp_path / "run")
    episodes = [(float(row["r"]) / N_STEPS, row["label"]) for row in read_table(run, "monitor.csv")]
    # two environments end episodes together: 2 are too few, 4 are enough, and 2 more have started, which do not count
    stages = [(1.0, "easy")] * 6 + [(2.0, "hard")] * 6
    assert episodes == stages + [(3.0, "hard")] * (len(episodes) - len(stages))
    assert len(episodes) > len(stages)
    rows = read_table(run, "progress.csv")
    assert [(row["curriculum/stage"], row[f"parameters/{WEIGHT}"]) for row in rows[::2]][:3] == [
        ("2", "2.0"),
        ("3", "3.0"),
        ("3", "3.0"),
    ]
    assert Run.open(run.directory).evaluate(1).returns == (30.0,)


def test_curriculum_takes_success_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stages = [{WEIGHT: 0.5}, {WEIGHT: 1.5}]
    params = {"measure": "success_rate", "stages": stages, "threshold": 0.5, "episodes": 3}
    with caplog.at_level("INFO"):
        failing = train(make_curriculum_config(**params), tmp_path / "failing")
    assert {row["curriculum/stage"] for row in read_table(failing, "progress.csv")} == {"1"}
    assert "training stops in stage 1 of 2" in caplog.text


def test_curriculum_advances_on_evaluation_and_resumes(tmp_path: Path) -> None:
    config = make_curriculum_config(
        {"name": "evaluate", "params": {"label": "greedy", "every_timesteps": 60, "episodes": 1}},
        {"name": "evaluate", "params": {"label": "full", "every_timesteps": 150, "env": {"params": {"weight": 5}}}},
        evaluation="greedy",
    )
    whole = train(config, tmp_path / "whole")
    rows = read_table(whole, "evaluations.csv")
    greedy = [float(row["mean_return"]) for row in rows if row["label"] == "greedy"]
    assert greedy == [10, 20, 30, 30, 30, 30]
    assert {float(row["mean_return"]) for row in rows if row["label"] == "full"} == {50}
    resumed = train_with_interruptions(config, tmp_path / "resumed", stops=(157, 313))
    assert not find_differences(whole.directory, resumed.directory)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            "stages: [{env.params.weigt: 1}, {}]",
            "stages.0.env.params.weigt: unknown parameter; did you mean 'weight'?",
        ),
        ("stages: [{}, {env.params.weight: many}]", "stages.1.env.params.weight: should be float, not 'many'"),
        ("stages: [{}, {env.params.fixed: 1}]", "stages.1.env.params.fixed: cannot change between episodes: Weighted"),
        (
            "stages: [{seed: 1}, {}]",
            "stages.0.seed: is no parameter of an environment or a wrapper; known: env.params",
        ),
        ("stages: [{env.wrappers.0.params.scale: 1}, {}]", "scale: has a schedule in the config"),
        ("stages: [{}]", "stages: should be at least 2 stages, not 1"),
        ("stages: [{}, {}], threshold: [1, 2]", "threshold: should be one number, or 1 for 2 stages, not 2"),
        ("stages: [{}, {}], evaluation: greedy", "evaluation: no evaluation has the label 'greedy'; add the callback"),
        ("stages: [{}, {}], evaluation: greedy, episodes: 3", "give either episodes or evaluation"),
        ("stages: [{}, {}], episodes: 0", "episodes: 'curriculum' cannot be built: ValueError: episodes must be at"),
    ],
)
def test_check_refuses_curriculum(toolkit: Toolkit, params: str, problem: str) -> None:
    threshold = "" if "threshold" in params else ", threshold: 5"
    Path("bad.yaml").write_text(f"""\
timesteps: 100
env:
  id: weighted_env:Weighted
  wrappers: [{{name: angle_penalty, params: {{scale: {{name: linear, params: {{start: 1}}}}}}}}]
algorithm: ppo
callbacks:
  - {{name: curriculum, params: {{{params}{threshold}}}}}
""")
    checked = toolkit("check", "bad.yaml")
    assert checked.status == 2
    assert "bad.yaml:7: callbacks.0" in checked.err
    assert problem in checked.err


def test_success_counts_training_episodes_of_last_stage_only(tmp_path: Path) -> None:
    success = {"name": "success", "params": {"threshold": 10, "episodes": 3}}
    run = train(make_curriculum_config(success, episodes=3, threshold=[10, 15]), tmp_path / "run")
    episodes = [float(row["r"]) / N_STEPS for row in read_table(run, "monitor.csv")]
    result = run.result or {}
    assert result["status"] == "success"
    assert episodes[result["success"]["episode"] - 3 :][:3] == [3.0] * 3
    assert episodes[result["success"]["episode"] - 4] == 2.0


@pytest.mark.parametrize(
    ("label", "stages", "timestep"),
    [
        ("greedy", STAGES, 180),
        ("greedy", [{}, {}, {WEIGHT: 3.0}], 180),
        ("full", STAGES, 180),
        ("full", [{}, {}, {WEIGHT: 3.0}], 60),
    ],
)
def test_success_counts_evaluation_of_last_stage_or_own_parameters(
    tmp_path: Path, label: str, stages: list[dict[str, Any]], timestep: int
) -> None:
    evaluations = [{"label": "greedy"}, {"label": "full", "env": {"params": {"weight": 5}}}]
    callbacks = [
        *({"name": "evaluate", "params": {"every_timesteps": 60, "episodes": 1} | params} for params in evaluations),
        {"name": "curriculum", "params": {"stages": stages, "threshold": [0, 0], "evaluation": "greedy"}},
        {"name": "success", "params": {"threshold": 0, "evaluation": label}},
    ]
    run = train(make_config(env={"id": "weighted_env:Weighted"}, callbacks=callbacks), tmp_path / "run")
    assert (run.result or {})["success"]["timestep"] == timestep


def test_best_model_and_patience_start_anew_in_each_stage(tmp_path: Path) -> None:
    falling = [{WEIGHT: 3.0}, {WEIGHT: 2.0}, {WEIGHT: 1.0}]
    params = {"every_timesteps": 60, "episodes": 1, "patience": 2, "keep_best": True}
    config = make_curriculum_config(
        {"name": "evaluate", "params": params}, stages=falling, threshold=[30, 20], evaluation="greedy"
    )
    whole = train(config, tmp_path / "whole")
    returns = [float(row["mean_return"]) for row in read_table(whole, "evaluations.csv")]
    assert returns == [30, 20, 10, 10, 10]  # the last two are no better than the first one of their stage
    assert Run.open(whole.directory).evaluate(1, model="best").returns == (10.0,)
    resumed = train_with_interruptions(config, tmp_path / "resumed", stops=(157, 213))
    assert not find_differences(whole.directory, resumed.directory)


def test_evaluation_keeps_parameter_that_it_sets_to_value_of_config(tmp_path: Path) -> None:
    full = {"label": "full", "every_timesteps": 60, "env": {"params": {"weight": 3.0}}}
    config = make_curriculum_config({"name": "evaluate", "params": full}, episodes=5)
    config = config.model_copy(update={"env": config.env.model_copy(update={"params": {"weight": 3.0}})})
    run = train(config, tmp_path / "run")
    assert {float(row["mean_return"]) for row in read_table(run, "evaluations.csv")} == {30}


def test_curriculum_that_changes_in_continued_run_starts_anew(tmp_path: Path, toolkit: Toolkit) -> None:
    train(make_curriculum_config(episodes=3, threshold=[10, 15]), tmp_path / "run")
    change = ("--set", "callbacks.0.params.episodes=5")
    continued = toolkit("continue", tmp_path / "run", "--timesteps", "100", *change, "--out", "more", "--quiet")
    assert continued.status == 0, continued.err
    returns = [float(row["r"]) for row in read_table(Run.open("more"), "monitor.csv")]
    assert returns[30:38] == [30.0] * 2 + [10.0] * 6, "the first stage follows the last one of the parent"


def test_callback_passed_from_python_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\[0\] of toolkit.train.params.stages: should be at least 2"):
        train(make_config(callbacks=[]), tmp_path / "run", [Curriculum([{}], 1.0)])
    assert not (tmp_path / "run").exists()
