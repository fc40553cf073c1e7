"""Evaluations during training."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any
from zlib import crc32

import gymnasium as gym
import numpy as np
import pytest
from small_runs import StopAt, find_differences, make_config, train_with_interruptions
from support import SMALL_CONFIG, Toolkit
from torch.nn.utils import parameters_to_vector

import toolkit as tk
from toolkit import Run
from toolkit.config.load import load_config
from toolkit.config.yaml_document import dump, parse
from toolkit.envs.factory import derived_seed
from toolkit.evaluation.evaluate import evaluate_model
from toolkit.testing import check_callback
from toolkit.training.callbacks import RunCallback
from toolkit.training.checks import find_config_warnings
from toolkit.training.evaluations import RecordedEvaluation, read_evaluations
from toolkit.training.model import save_best_model
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import RunError, TrainingError
from toolkit.utils.seeds import derive_run_seed
from toolkit_plugins.evaluate import EvaluateCallback

GREEDY = {"label": "greedy", "every_timesteps": 100, "episodes": 3}
DRAWN = {"label": "drawn", "every_episodes": 7, "episodes": 2, "deterministic": False}
SHORT = {"label": "short", "every_timesteps": 150, "episodes": 2, "env": {"max_episode_steps": 12}}
NORMALIZED = {"n_envs": 2, "max_episode_steps": 30, "vec_wrappers": ["vec_normalize"]}
SHRINK = """\
import gymnasium

class Shrink(gymnasium.ObservationWrapper):
    def __init__(self, env, factor=0.5, size=None):
        super().__init__(env)
        self.factor = factor
        if size:
            self.observation_space = gymnasium.spaces.Box(-1, 1, (size,))

    def observation(self, observation):
        return observation * self.factor
"""


class Succeeds(gym.Env[Any, Any]):
    """Episodes of two steps, of which every other one is a success."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_steps, self.is_success = 0, bool(self.np_random.integers(2))
        return self.np_random.random(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        info = {"is_success": self.is_success}
        return np.zeros(1, np.float32), float(self.is_success), self.n_steps == 2, False, info


gym.register("toolkit_tests/Succeeds-v0", Succeeds)


def list_callbacks(*params: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "evaluate", "params": item} for item in params]


def get_weights(run: Run) -> list[float]:
    return parameters_to_vector(run.load_model().policy.parameters()).tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A PPO run on normalized observations with three evaluations."""
    config = make_config("ppo", NORMALIZED, timesteps=400, callbacks=list_callbacks(GREEDY, DRAWN, SHORT))
    run = train(config, tmp_path_factory.mktemp("evaluated") / "run")
    return Run.open(run.directory)


def test_evaluations_have_one_row_for_each_interval(evaluated: Run) -> None:
    with (evaluated.directory / "evaluations.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["timestep"] for row in rows if row["label"] == "greedy"] == ["100", "200", "300", "400", "500"]
    assert [row["timestep"] for row in rows if row["label"] == "short"] == ["150", "300", "450"]
    for row in rows:
        returns = [*map(float, row["returns"].split())]
        assert len(returns) == (3 if row["label"] == "greedy" else 2)
        assert float(row["mean_return"]) == pytest.approx(np.mean(returns))
        assert float(row["std"]) == pytest.approx(np.std(returns))
        assert [*map(float, row["lengths"].split())] == returns  # in CartPole
        limit = 12 if row["label"] == "short" else 30
        assert max(returns) <= limit
        assert (row["ci_low"] == "") == (min(returns) == max(returns))


def test_evaluation_sees_statistics_of_training(tmp_path: Path) -> None:
    """Without updates, the model at the end is that of the last evaluation, and its statistics are saved."""
    env = {"n_envs": 2, "vec_wrappers": ["vec_normalize"]}
    evaluations = list_callbacks(GREEDY | {"every_timesteps": 64, "episodes": 5})
    run = train(
        make_config("ppo", env, timesteps=128, params={"learning_rate": 0.0}, callbacks=evaluations), tmp_path / "run"
    )
    seed = derive_run_seed(derived_seed(run.config.seed, "callback"), crc32(b"greedy"))
    evaluation = evaluate_model(
        Run.open(run.directory).load_model(), run.resolved_config, 5, derive_run_seed(seed, 128), print
    )
    assert evaluation.returns == read_evaluations(run)[-1].returns


def test_progress_csv_has_each_label(evaluated: Run) -> None:
    with (evaluated.directory / "progress.csv").open() as file:
        rows = [*csv.DictReader(file)]
    greedy = [row["eval/greedy/mean_return"] for row in rows if row["eval/greedy/mean_return"]]
    recorded = {str(item.mean_return) for item in read_evaluations(evaluated) if item.label == "greedy"}
    assert greedy
    assert {*greedy} <= recorded
    assert "eval/short/mean_length" in rows[0]


def test_training_is_equal_without_evaluations(evaluated: Run, tmp_path: Path) -> None:
    run = train(make_config("ppo", NORMALIZED, timesteps=400, callbacks=[]), tmp_path / "run")
    assert get_weights(evaluated) == get_weights(Run.open(run.directory))
    assert evaluated.episodes == run.episodes


def test_resumed_run_has_same_evaluations(tmp_path: Path) -> None:
    """DQN draws actions from its action space, and training goes on with the same generator."""
    callbacks = list_callbacks(GREEDY | {"patience": 50, "keep_best": True}, DRAWN)
    config = make_config("dqn", {"max_episode_steps": 30}, timesteps=500, callbacks=callbacks)
    train(config, tmp_path / "whole")
    train_with_interruptions(config, tmp_path / "stopped", (330,))
    whole, stopped = ((tmp_path / name / "evaluations.csv").read_text() for name in ("whole", "stopped"))
    assert whole == stopped
    assert whole.count("greedy") == 5
    assert find_differences(tmp_path / "whole", tmp_path / "stopped") == []
    plain = train(make_config("dqn", {"max_episode_steps": 30}, timesteps=500, callbacks=[]), tmp_path / "plain")
    assert get_weights(Run.open(tmp_path / "whole")) == get_weights(Run.open(plain.directory))


class ReadsEvaluations(StopAt):
    """Reads the file of the evaluations when training starts, before the snapshot is restored."""

    text = ""

    def _on_training_start(self) -> None:
        self.text = Path("run/evaluations.csv").read_text()


def test_resume_keeps_evaluations_until_they_are_restored() -> None:
    """Else a second kill would leave none."""
    config = make_config("dqn", {"max_episode_steps": 30}, timesteps=300, callbacks=list_callbacks(GREEDY, SHORT))
    with pytest.raises(TrainingError):
        train(config, Path("run"), [ReadsEvaluations(250)])
    before = Path("run/evaluations.csv").read_text()
    assert before.count("\n200,greedy") == before.count("\n150,short") == 1
    reader = ReadsEvaluations()
    resume(Run.open("run"), [reader])
    assert reader.text == before


def test_batch_is_evaluated_in_a_changed_environment() -> None:
    """The environments of a batch have no wrappers whose statistics an evaluation could take over."""
    env = {"n_envs": 2, "vec_env": "vector", "wrappers": ["angle_penalty"], "vec_wrappers": ["vec_normalize"]}
    changed = SHORT["env"] | {"wrappers": [{"name": "angle_penalty", "params": {"scale": 2.0}}]}
    run = train(
        make_config("ppo", env, timesteps=160, callbacks=list_callbacks(SHORT | {"env": changed})), Path("run")
    )
    (evaluation,) = read_evaluations(run)
    assert max(evaluation.lengths) <= 12


def test_evaluation_that_did_not_take_place_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    callbacks = list_callbacks({"label": "late"}, {"label": "rare", "every_episodes": 900})
    train(make_config("ppo", timesteps=64, callbacks=callbacks), Path("run"))
    assert "evaluation 'late': did not take place: every_timesteps is 10,000, and training ended at 64" in caplog.text
    assert "evaluation 'rare': did not take place: every_episodes is 900, and training ended with" in caplog.text


def test_callback_conforms() -> None:
    params = GREEDY | {"every_timesteps": 120, "episodes": 1, "keep_best": True}
    check_callback("evaluate", params=params, env={"id": "CartPole-v1", "max_episode_steps": 12})


def test_other_callback_reads_latest_evaluation(tmp_path: Path) -> None:
    seen: list[RecordedEvaluation | None] = []

    class Reads(RunCallback):
        def _on_step(self) -> bool:
            seen.append(self.context.evaluations.latest("greedy"))
            return True

    config = make_config("ppo", timesteps=120, callbacks=list_callbacks(GREEDY | {"every_timesteps": 64}))
    run = train(config, tmp_path / "run", [Reads()])
    assert seen[62] is None
    assert [seen[63], seen[-1]] == read_evaluations(run)


def test_success_rate_of_evaluations_is_recorded(tmp_path: Path) -> None:
    env = {"id": "toolkit_tests/Succeeds-v0"}
    config = make_config("ppo", env, timesteps=64, callbacks=list_callbacks(GREEDY | {"every_timesteps": 64}))
    (evaluation,) = read_evaluations(train(config, tmp_path / "run"))
    assert evaluation.success_rate == pytest.approx(sum(evaluation.returns) / 6)


def test_patience_stops_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "toolkit")
    callbacks = list_callbacks(GREEDY | {"every_timesteps": 10, "patience": 2, "env": {"max_episode_steps": 5}})
    run = train(make_config("ppo", timesteps=200, callbacks=callbacks), tmp_path / "run")
    assert [item.timestep for item in read_evaluations(run)] == [10, 20, 30]  # of 5 steps each
    assert run.result is not None
    assert (run.result["status"], run.result["timesteps"]) == ("finished", 30)
    assert "2 evaluations without a new best mean return: training stops at timestep 30" in caplog.text


def test_masked_actions_are_evaluated_with_masks() -> None:
    Path("masked.yaml").write_text(
        "timesteps: 32\nenv: {id: Taxi-v4, max_episode_steps: 6, wrappers: [info_action_mask]}\n"
        "algorithm: {name: maskable_ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 1}}\n"
        "callbacks: [{name: evaluate, params: {label: greedy, every_timesteps: 32, episodes: 3}}]\n"
    )
    (evaluation,) = read_evaluations(tk.train("masked.yaml"))
    assert min(evaluation.returns) >= -6  # an invalid drop-off costs 10


# --- The best model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_best(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A PPO run on normalized observations that keeps its best model and two snapshots."""
    evaluations = list_callbacks(GREEDY | {"every_timesteps": 96, "episodes": 5, "keep_best": True})
    env = NORMALIZED | {"max_episode_steps": 200}
    config = make_config("ppo", env, timesteps=384, callbacks=evaluations, snapshots={"every_timesteps": 128})
    run = train(config, tmp_path_factory.mktemp("best") / "run")
    return Run.open(run.directory)


def test_best_model_has_weights_and_statistics_of_its_moment(with_best: Run) -> None:
    seed = derive_run_seed(derived_seed(with_best.config.seed, "callback"), crc32(b"greedy"))
    best = max(read_evaluations(with_best), key=lambda evaluation: evaluation.mean_return)
    seed = derive_run_seed(seed, best.timestep)
    model, config = with_best.load_model("best"), with_best.resolved_config
    assert evaluate_model(model, config, 5, seed, print).returns == best.returns
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    assert round(normalizer.obs_rms.count) == best.timestep + 2  # and the first observation of each environment


def test_snapshot_model_equals_that_of_shorter_run(with_best: Run, tmp_path: Path) -> None:
    shorter = make_config("ppo", NORMALIZED | {"max_episode_steps": 200}, timesteps=256, callbacks=[])
    run = Run.open(train(shorter, tmp_path / "run").directory)
    assert parameters_to_vector(with_best.load_model("snapshot:256").policy.parameters()).tolist() == get_weights(run)
    assert with_best.evaluate(5, model="snapshot:256") == run.evaluate(5)
    assert with_best.evaluate(5) != run.evaluate(5)


def test_commands_take_chosen_model(with_best: Run, toolkit: Toolkit, tmp_path: Path) -> None:
    best = toolkit("evaluate", with_best.directory, "--episodes", "3", "--model", "best")
    assert "3 greedy episodes of the model best, raw returns" in best.out
    recorded = toolkit("record", with_best.directory, "--model", "best", "--out", tmp_path, "--format", "gif")
    assert Path(recorded.out.strip()) == tmp_path / "record-best.gif"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("best", "has no best/model.zip\nthe callback 'evaluate' saves one, with keep_best: true"),
        ("snapshot:7", "has no snapshots/7\nits snapshots: 256, 384"),
        ("snapshot:../7", "the model 'snapshot:../7' does not exist\nchoose final, best or snapshot:N"),
        ("worst", "the model 'worst' does not exist\nchoose final, best or snapshot:N"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "record", "watch"])
def test_missing_model_is_refused(command: str, model: str, message: str, evaluated: Run, toolkit: Toolkit) -> None:
    result = toolkit(command, evaluated.directory, "--model", model)
    assert (result.status, result.out) == (2, "")
    assert message in result.err


def test_best_model_stays_if_next_one_cannot_be_written(
    with_best: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.open(shutil.copytree(with_best.directory, tmp_path / "run"))
    content = (run.directory / "best" / "model.zip").read_bytes()
    (run.directory / ".best.tmp").write_text("in the way")
    save_best_model(run, run.load_model())
    assert "the best model at timestep 0 is not saved: FileExistsError" in caplog.text
    assert (run.directory / "best" / "model.zip").read_bytes() == content
    (run.directory / ".best.tmp").unlink()
    (run.directory / "best").rename(run.directory / ".best-before.tmp")  # a kill between two renames
    assert run.find_model("best").read_bytes() == content
    save_best_model(run, run.load_model())
    assert {path.name for path in (run.directory / "best").iterdir()} == {"model.zip", "wrappers"}
    assert not [*run.directory.glob(".best*")]


def test_best_directory_belongs_to_one_callback(toolkit: Toolkit) -> None:
    head, _, _ = SMALL_CONFIG.partition("callbacks:")
    keeps = "{name: evaluate, params: {label: %s, every_timesteps: 50, keep_best: true}}"
    other = "{name: eval, params: {eval_freq: 50, best_model_save_path: best}}"
    Path("eval.yaml").write_text(f"{head}callbacks:\n  - {keeps % 'a'}\n  - {other}\n")
    result = toolkit("check", "eval.yaml")
    assert result.status == 2
    assert "eval.yaml:15: callbacks.1.params.best_model_save_path: the toolkit writes 'best'" in result.err
    Path("two.yaml").write_text(f"{head}callbacks:\n  - {keeps % 'a'}\n  - {keeps % 'b'}\n")
    result = toolkit("check", "two.yaml")
    assert result.status == 2
    assert "callbacks.1.params.keep_best: the evaluation 'a' keeps the best model already" in result.err


# --- Success --------------------------------------------------------------------------------------------------------


SOLVED = """\
timesteps: 200
env: {id: CartPole-v1, max_episode_steps: 5}
algorithm: {name: ppo, params: {n_steps: 64, batch_size: 64, n_epochs: 1}, policy_params: {net_arch: [8]}}
callbacks:
  - {name: evaluate, params: {label: greedy, every_timesteps: 10, episodes: 3}}
  - {name: success, params: {evaluation: greedy, threshold: 5, min_timesteps: 15, confirm_episodes: 2}}
"""


def test_success_is_met_by_evaluation(toolkit: Toolkit) -> None:
    Path("solved.yaml").write_text(SOLVED)
    result = toolkit("train", "solved.yaml", "--out", "run")
    assert "solved: mean return 5.0 in the evaluation 'greedy', 5.0 over greedy ones, after 20 timesteps" in result.out
    assert "20 of 200 steps  mean of last 4: 5.0, greedy: 5.0 of 5, solved" in result.err
    values = (Run.open("run").result or {})["success"]
    assert values.pop("seconds") > 0
    assert values == {
        **{"measure": "mean_return", "threshold": 5.0, "episodes": 3, "evaluation": "greedy", "solved": True},
        **{"episode": 4, "timestep": 20, "mean_return": 5.0, "greedy_value": 5.0},
    }
    missed = toolkit("train", "solved.yaml", "--set", "callbacks.1.params.threshold=6", "--set", "timesteps=64")
    assert "not solved: mean return 5.0 in the evaluation 'greedy' (to reach: 6)" in missed.out


def test_success_rate_is_met_by_evaluation(tmp_path: Path) -> None:
    callbacks = list_callbacks(GREEDY | {"every_timesteps": 64, "episodes": 20})
    callbacks.append({"name": "success_rate", "params": {"evaluation": "greedy", "threshold": 0.2}})
    run = train(make_config("ppo", {"id": "toolkit_tests/Succeeds-v0"}, callbacks=callbacks), tmp_path / "run")
    assert run.result is not None
    assert run.result["success"]["solved"]
    assert run.result["success"]["success_rate"] == read_evaluations(run)[-1].success_rate


def test_success_is_confirmed_where_its_evaluation_plays(caplog: pytest.LogCaptureFixture) -> None:
    """Its threshold is out of reach in the environment of training."""
    evaluation = GREEDY | {"label": "long", "env": {"max_episode_steps": 40}}
    success = {"evaluation": "long", "threshold": 15, "confirm_episodes": 3}
    callbacks = [*list_callbacks(evaluation), {"name": "success", "params": success}]
    run = train(make_config("ppo", {"max_episode_steps": 8}, timesteps=600, callbacks=callbacks), Path("run"))
    assert run.result is not None
    assert run.result["status"] == "success"
    assert 15 <= run.result["success"]["greedy_value"] <= 40


def test_success_rate_warns_once_if_no_evaluated_episode_says_so(caplog: pytest.LogCaptureFixture) -> None:
    callbacks = [*list_callbacks(GREEDY), {"name": "success_rate", "params": {"evaluation": "greedy"}}]
    train(make_config("ppo", timesteps=300, callbacks=callbacks), Path("run"))
    assert caplog.text.count("no episode of the evaluation 'greedy' has info['is_success']") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["callbacks.1.params.evaluation=gredy"],
            "evaluation: no evaluation has the label 'gredy'; did you mean 'greedy'",
        ),
        (["callbacks.0=progress"], "evaluation: no evaluation has the label 'greedy'; add the callback 'evaluate'"),
        (
            ["callbacks.1.params.episodes=10"],
            "episodes: 'success' cannot be built: ValueError: episodes cannot be set",
        ),
    ],
)
def test_check_refuses_unfit_evaluation_of_success(overrides: list[str], message: str, toolkit: Toolkit) -> None:
    Path("solved.yaml").write_text(SOLVED)
    result = toolkit("check", "solved.yaml", *(text for override in overrides for text in ("--set", override)))
    assert result.status == 2
    assert f"callbacks.1.params.{message}" in result.err


def test_evaluation_of_success_comes_first(toolkit: Toolkit) -> None:
    *head, evaluate, success = SOLVED.splitlines()
    Path("late.yaml").write_text("\n".join([*head, success, evaluate]))
    message = "callbacks.0.params.evaluation: the evaluation 'greedy' comes later"
    assert f"late.yaml:5: {message}" in toolkit("check", "late.yaml").err


# --- Bad input ------------------------------------------------------------------------------------------------------


CASES = {
    "{label: greedy, every_timesteps: 9, every_episodes: 9}": "give either every_timesteps or every_episodes",
    "{label: greedy, every_timesteps: 0}": "params.every_timesteps: 'evaluate' cannot be built: .* at least 1, not 0",
    "{label: a b, every_timesteps: 9}": "params.label: .* not 'a b'",
    "{label: greedy, every_timesteps: 9, episodes: 0}": "params.episodes: .* at least 1",
    "{label: greedy, every_timesteps: 9, patience: 0}": "params.patience: .* at least 1",
    "{label: greedy, every_timesteps: 9, env: {n_envs: 2}}": "params.env.n_envs: unknown key; known: .*wrappers",
    "{label: greedy, every_timesteps: 9, env: {idd: a, n_envs: 2}}": "params.env.idd: .*\n.*params.env.n_envs: unkn",
    "{label: greedy, every_timesteps: 9, env: CartPole-v0}": (
        "params.env: should be a mapping or null, not 'CartPole-v0'"
    ),
    "{label: greedy, every_timesteps: 9, env: {max_episode_steps: 0}}": "params.env.max_episode_steps: should be gr",
    "{label: greedy, every_timesteps: 9, env: {id: CartPole-v9}}": "params.env.id: .*'CartPole-v9' does not exist",
    "{label: greedy, every_timesteps: 9, env: {params: {speed: 1}}}": "params.env.params.speed: unknown parameter",
    "{label: greedy, every_timesteps: 9, env: {wrappers: [zero]}}": "params.env.wrappers.0.name: .*'zero'",
    "{label: greedy, every_timesteps: 9, env: {id: Acrobot-v1}}": "params.env: the model cannot act in this env",
    "{label: greedy, every_timesteps: 9, env: {wrappers: [{name: './shrink.py:Shrink', params: {size: 3}}]}}": (
        "params.env: the model cannot act in this environment: Observation spaces do not match"
    ),
    "{label: greedy, every_timesteps: 9, env: {wrappers: [{name: './shrink.py:Shrink', params: {sise: 3}}]}}": (
        "params.env.wrappers.0.params.sise: unknown parameter; did you mean 'size'"
    ),
    "{label: other, every_timesteps: 9}": "params.label: another evaluation has the label 'other'",
}


@pytest.mark.parametrize(("params", "message"), CASES.items())
def test_check_refuses_wrong_evaluation(params: str, message: str, toolkit: Toolkit) -> None:
    Path("shrink.py").write_text(SHRINK)
    other = "{name: evaluate, params: {label: other, every_timesteps: 50}}"
    head, _, _ = SMALL_CONFIG.partition("callbacks:")
    Path("wrong.yaml").write_text(f"{head}callbacks:\n  - {other}\n  - {{name: evaluate, params: {params}}}\n")
    result = toolkit("check", "wrong.yaml")
    assert result.status == 2
    assert re.search(
        rf"wrong\.yaml:\d+: callbacks\.1\..*{message}|wrong\.yaml:\d+: callbacks\.1: .*{message}", result.err
    )
    assert "Traceback" not in result.err


def test_check_asks_about_texts_in_a_changed_environment_only() -> None:
    """The name of a wrapper is no text that a parameter takes."""
    Path("shrink.py").write_text(SHRINK)
    wrapper = {"name": "./shrink.py:Shrink", "params": {"factor": "./shrink.py:Shrink"}}
    evaluation = {"label": "shrunk", "env": {"wrappers": ["gymnasium.wrappers:NormalizeObservation", wrapper]}}
    Path("text.yaml").write_text(dump({**parse(SMALL_CONFIG, "small").data, "callbacks": list_callbacks(evaluation)}))
    (problem,) = find_config_warnings(load_config("text.yaml"))
    assert problem.path == ("callbacks", 0, "params", "env", "wrappers", 1, "params", "factor")
    assert "is passed as text" in problem.message


def test_late_evaluation_is_warned_of(toolkit: Toolkit, caplog: pytest.LogCaptureFixture) -> None:
    head, _, _ = SMALL_CONFIG.partition("callbacks:")
    Path("late.yaml").write_text(
        f"{head}callbacks:\n  - {{name: evaluate, params: {{label: greedy, every_timesteps: 900}}}}\n"
    )
    message = "callbacks.0.params.every_timesteps: 900 is beyond the run's 300 timesteps"
    assert toolkit("check", "late.yaml").status == 0
    assert message in caplog.text


def test_wrapper_in_file_is_trusted_with_its_run(tmp_path: Path, toolkit: Toolkit) -> None:
    """Its code belongs to the run, and does not run for a stranger's."""
    Path("shrink.py").write_text(SHRINK)
    params = "{label: shrunk, every_timesteps: 40, episodes: 2, env: {wrappers: ['./shrink.py:Shrink']}}"
    Path("own.yaml").write_text(
        "timesteps: 100\nenv: {id: CartPole-v1, max_episode_steps: 20}\nsnapshots: {every_timesteps: 32}\n"
        "algorithm: {name: ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 1}, policy_params: {net_arch: [8]}}\n"
        f"callbacks: [{{name: evaluate, params: {params}}}]\n"
    )
    assert toolkit("train", "own.yaml", "--out", "run").status == 0
    assert len(read_evaluations(Run.open("run"))) == 3
    (Path("run") / "result.json").unlink()
    Path("shrink.py").write_text(f"{SHRINK}\n# changed\n")
    refused = toolkit("resume", "run")
    assert refused.status == 2
    assert "callbacks.0.params.env.wrappers.0.name: " in refused.err
    assert "has not trained this run here" in refused.err
    Path("shrink.py").write_text(SHRINK)
    assert toolkit("resume", "run").status == 0


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "timestep\n",
        "{head}7,greedy,1.0,0.0,,,,1.0,\n",
        "{head}7,greedy,nan,0.0,,,,1.0,1\n",
        "{head}7,a b,1,0,,,,1,1\n",
    ],
)
def test_damaged_evaluations_are_refused(damage: str, evaluated: Run, tmp_path: Path) -> None:
    head = (evaluated.directory / "evaluations.csv").read_text().partition("\n")[0]
    (tmp_path / "config.yaml").write_text((evaluated.directory / "config.yaml").read_text())
    (tmp_path / "evaluations.csv").write_text(damage.format(head=f"{head}\n"))
    with pytest.raises(RunError, match=r"evaluations\.csv: is damaged"):
        read_evaluations(Run.open(tmp_path))


def test_unfinished_line_is_left_out(evaluated: Run, tmp_path: Path) -> None:
    text = (evaluated.directory / "evaluations.csv").read_text()
    (tmp_path / "config.yaml").write_text((evaluated.directory / "config.yaml").read_text())
    (tmp_path / "evaluations.csv").write_text(f"{text}600,greedy,1.0,0.")
    assert read_evaluations(Run.open(tmp_path)) == read_evaluations(evaluated)


def test_python_takes_overrides_as_mapping(tmp_path: Path) -> None:
    callback = EvaluateCallback("short", every_timesteps=64, episodes=2, env={"max_episode_steps": 5})
    run = train(make_config("ppo", timesteps=64, callbacks=[]), tmp_path / "run", [callback])
    assert read_evaluations(run)[0].lengths == (5, 5)
