"""SB3's own callbacks in a config: evaluation, checkpoints and early stopping, and where they write."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small_runs import StopAt, find_differences, train_with_interruptions
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize, unwrap_vec_normalize
from support import Toolkit, files_in

import toolkit as tk
from toolkit.config.load import read_config, resolve_config
from toolkit.config.registry import KINDS, find
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import ConfigError, TrainingError

HEAD = """\
timesteps: 256
env: {id: CartPole-v1, n_envs: 2, vec_wrappers: [vec_normalize], wrappers: [WRAPPERS]}
algorithm: {name: ppo, params: {n_steps: 32, batch_size: 64, n_epochs: 1}, policy_params: {net_arch: [8]}}
snapshots: {every_timesteps: 64}
callbacks:
""".replace("WRAPPERS", f"{{name: terminal_reward_clip, params: {{success_steps: 195}}}}, '{__name__}:SaysSuccess'")
EVAL = """\
  - name: eval
    params:
      eval_freq: 20
      n_eval_episodes: 3
      log_path: evaluations
      best_model_save_path: best
"""
STOP = "      callback_after_eval: {name: no_model_improvement, params: {max_no_improvement_evals: 1}}\n"


class SaysSuccess(gym.Wrapper[Any, Any, Any, Any]):
    """Calls an episode of 12 steps a success, and draws from a global generator."""

    def reset(self, **arguments: Any) -> Any:
        self.steps = 0
        return super().reset(**arguments)

    def step(self, action: Any) -> Any:
        random.random()
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "is_success": self.steps >= 12}


def read_statistics(venv: VecEnv) -> Any:
    """Return the statistics of observations that an environment normalizes with."""
    normalize = unwrap_vec_normalize(venv)
    return normalize.obs_rms if normalize else venv.get_attr("obs_rms")[0]


class ComparesStatistics(EvalCallback):
    """Raises if the statistics of the evaluation environment are not those of training."""

    def __init__(self, eval_env: Any, **more: Any) -> None:
        super().__init__(eval_env, **more)
        self.n_compared = 0

    def _on_step(self) -> bool:
        result = super()._on_step()
        if self.n_calls % self.eval_freq == 0:
            statistics, training_statistics = map(read_statistics, (self.eval_env, self.training_env))
            assert statistics.count == training_statistics.count > 1
            assert np.array_equal(statistics.mean, training_statistics.mean)
            self.n_compared += 1
        return result

    def _on_training_end(self) -> None:
        assert self.n_compared == 3


class Normalized(EvalCallback):
    """Evaluates in an environment of its own, as scripts do."""

    def __init__(
        self,
        norm_reward: bool = False,
        norm_obs: bool = True,
        has_statistics: bool = True,
        monitors: int = 0,
        **more: Any,
    ) -> None:
        venv: Any = DummyVecEnv([lambda: gym.make("CartPole-v1")]) if monitors else make_vec_env("CartPole-v1", 1)
        if has_statistics:
            venv = VecNormalize(venv, training=False, norm_obs=norm_obs, norm_reward=norm_reward)
        for _ in range(monitors):
            venv = VecMonitor(venv)
        super().__init__(venv, eval_freq=20, n_eval_episodes=1, verbose=0, **more)

    def _on_training_end(self) -> None:
        assert read_statistics(self.eval_env).count > 1
        assert self.last_mean_reward > 0


class Draws(BaseCallback):
    """Draws a number from a global generator at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def _on_step(self) -> bool:
        self.drawn.append(random.random())
        return True


class KeepsUrl(tk.RunCallback):
    """Knows a URL in the run directory, also after a resume."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def _on_step(self) -> bool:
        assert self.url == f"file://{self.context.run.directory.absolute()}/x"
        return True


class WritesNote(BaseCallback):
    """Writes into a directory where it is built, and where training ends."""

    def __init__(self, folder: str, text: str = "", nested: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.folder, self.text, self.nested = folder, text, nested
        Path(folder).mkdir(parents=True)

    def _on_step(self) -> bool:
        Path(self.folder, "note.txt").write_text(f"{self.text} {self.nested}")
        return True


def read_progress(run: Path, column: str) -> list[float]:
    with (run / "progress.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with `eval` and `checkpoint`, beside the config."""
    directory = tmp_path_factory.mktemp("evaluated")
    checkpoint = "  - {name: checkpoint, params: {save_freq: 64, save_path: '{run}/steps', save_vecnormalize: true}}\n"
    url = f"  - {{name: '{__name__}:KeepsUrl', params: {{url: 'file://{{run}}/x'}}}}\n"
    (directory / "config.yaml").write_text(HEAD + EVAL + STOP.replace("1}", "100}") + checkpoint + url)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        train(tk.load_config("config.yaml"), Path("run"), [StopAt()])
    return directory


def test_eval_writes_raw_returns_and_best_model_under_run_directory(evaluated: Path) -> None:
    assert {path.name for path in evaluated.iterdir()} == {"config.yaml", "run"}
    evaluations = np.load(evaluated / "run" / "evaluations" / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [40, 80, 120, 160, 200, 240]
    assert np.array_equal(evaluations["results"], evaluations["ep_lengths"])  # one for each step, before the wrappers
    assert evaluations["successes"].tolist() == (evaluations["ep_lengths"] >= 12).tolist()
    assert read_progress(evaluated / "run", "eval/mean_reward") == pytest.approx(evaluations["results"].mean(axis=1))
    model = PPO.load(evaluated / "run" / "best" / "best_model.zip")
    assert model.num_timesteps == evaluations["timesteps"][evaluations["results"].mean(axis=1).argmax()]


@pytest.mark.parametrize(
    ("callback", "is_verbose"),
    [
        ("{name: eval, params: {eval_freq: 20}}", False),
        ("{name: every_n_timesteps, params: {n_steps: 40, callback: {name: eval, params: {eval_freq: 1}}}}", False),
        ("{name: eval, params: {eval_freq: 20, verbose: 1}}", True),
    ],
)
def test_evaluation_is_printed_if_verbose(callback: str, is_verbose: bool, toolkit: Toolkit) -> None:
    Path("config.yaml").write_text(f"{HEAD}  - {callback}\n")
    finished = toolkit("train", "config.yaml", "--set", "timesteps=40", "--out", "run", "--quiet")
    assert read_progress(Path("run"), "eval/mean_reward")
    assert ("Eval num_timesteps=40" in finished.err) == is_verbose


def test_checkpoints_are_sb3s_own_files(evaluated: Path) -> None:
    names = {f"rl_model_{128 * i}_steps.zip" for i in (1, 2)} | {
        f"rl_model_vecnormalize_{128 * i}_steps.pkl" for i in (1, 2)
    }
    assert files_in(evaluated / "run" / "steps") == names
    venv = VecNormalize.load(
        str(evaluated / "run" / "steps" / "rl_model_vecnormalize_256_steps.pkl"), make_vec_env("CartPole-v1", 1)
    )
    model = PPO.load(evaluated / "run" / "steps" / "rl_model_256_steps.zip", env=venv)
    assert (model.num_timesteps, venv.obs_rms.count) == (256, pytest.approx(258 + 1e-4))


def test_resume_repeats_evaluations(evaluated: Path) -> None:
    config = tk.load_config(evaluated / "config.yaml")
    train_with_interruptions(config, Path("resumed"), (110, 190))
    assert find_differences(evaluated / "run", Path("resumed")) == []
    whole, resumed = (np.load(run / "evaluations" / "evaluations.npz") for run in (evaluated / "run", Path("resumed")))
    assert {*whole} == {*resumed}
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    assert {*files_in(evaluated / "run" / "best"), *files_in(evaluated / "run" / "steps")} == {
        *files_in(Path("resumed") / "best"),
        *files_in(Path("resumed") / "steps"),
    }


def test_run_that_moves_resumes_in_its_new_place(evaluated: Path) -> None:
    config = tk.load_config(evaluated / "config.yaml")
    with pytest.raises(TrainingError):
        train(config, Path("old"), [StopAt(110)])
    shutil.move("old", "new")
    resume(tk.Run.open(Path("new")), [StopAt()])
    assert not Path("old").exists()
    assert files_in(evaluated / "run" / "steps") == files_in(Path("new") / "steps")


def test_evaluation_leaves_training_and_later_callbacks_unchanged() -> None:
    runs, draws = [], []
    for name, callbacks in (
        ("eval", EVAL + "  - {name: eval, params: {eval_freq: 20}}\n"),
        ("plain", "  - progress\n"),
    ):
        Path(f"{name}.yaml").write_text(HEAD + callbacks)
        runs.append(train(tk.load_config(f"{name}.yaml"), Path(name), [callback := Draws()]))
        draws.append(callback.drawn)
    weights = [PPO.load(run.model_path).policy.state_dict() for run in runs]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert draws[0] == draws[1]


def test_training_stops_without_improvement_again_after_resume() -> None:
    Path("stop.yaml").write_text(HEAD + EVAL + STOP.replace("1}", "0}"))
    config = tk.load_config("stop.yaml")
    whole = train(config, Path("whole"), [StopAt()])
    evaluations = np.load("whole/evaluations/evaluations.npz")
    means = evaluations["results"].mean(axis=1)
    assert whole.result is not None
    assert whole.result["timesteps"] == evaluations["timesteps"][-1] < 256
    assert means[-1] <= means[:-1].max()
    train_with_interruptions(config, Path("resumed"), (70,))
    assert find_differences(Path("whole"), Path("resumed")) == []


def test_reward_threshold_stops_training() -> None:
    stop = "      callback_on_new_best: {name: reward_threshold, params: {reward_threshold: 1}}\n"
    Path("stop.yaml").write_text(HEAD + EVAL + stop)
    run = train(tk.load_config("stop.yaml"), Path("run"))
    assert run.result is not None
    assert run.result["timesteps"] == 40


def test_criterion_from_python_decides_success_where_it_is_nested() -> None:
    Path("plain.yaml").write_text(HEAD + "  - progress\n")
    criterion = find(KINDS["callbacks"], "success")(threshold=1, episodes=1)
    run = train(tk.load_config("plain.yaml"), Path("run"), [EveryNTimesteps(40, criterion)])
    assert run.result is not None
    assert (run.result["status"], run.result["success"]["timestep"]) == ("success", run.result["timesteps"])


@pytest.mark.parametrize("wrappers", [["vec_normalize"], []], ids=["vec_normalize", "NormalizeObservation"])
def test_own_subclass_evaluates_with_statistics_of_training(wrappers: list[str]) -> None:
    name = f"{__name__}:ComparesStatistics"
    parts = {
        "name": "own",
        "timesteps": 64,
        "env": {"id": "CartPole-v1", "vec_wrappers": wrappers},
        "algorithm": {"name": "ppo", "params": {"n_steps": 32, "batch_size": 32, "n_epochs": 1}},
        "callbacks": [{"name": name, "params": {"eval_freq": 20, "n_eval_episodes": 1, "verbose": 0}}],
    }
    if not wrappers:
        parts["env"]["wrappers"] = ["gymnasium.wrappers:NormalizeObservation"]  # type: ignore[index]
    train(tk.RunConfig.model_validate(parts))


def test_own_eval_env_gets_statistics_and_seeds_of_training() -> None:
    Path("own.yaml").write_text(HEAD + f"  - {{name: '{__name__}:Normalized', params: {{log_path: own}}}}\n")
    config = tk.load_config("own.yaml")
    train(config, Path("whole"), [StopAt()])
    train_with_interruptions(config, Path("resumed"), (150,))
    assert find_differences(Path("whole"), Path("resumed")) == []
    whole, resumed = (np.load(f"{run}/own/evaluations.npz")["results"] for run in ("whole", "resumed"))
    assert np.array_equal(whole, resumed)
    assert len(whole) == 6


@pytest.mark.parametrize(
    ("vec_wrapper", "params", "status", "text"),
    [
        (
            "stable_baselines3.common.vec_env:VecCheckNan",
            "monitors: 1",
            0,
            "callbacks.0: Normalized normalizes observations, but training does not; leave out eval_env",
        ),
        ("vec_normalize", "norm_obs: false, monitors: 1", 0, "does not normalize observations, but training does"),
        (
            "vec_normalize",
            "norm_reward: true, monitors: 1",
            0,
            "measures normalized rewards; set norm_reward to false, or leave out",
        ),
        (
            "vec_normalize",
            "has_statistics: false",
            2,
            "own.yaml:6: callbacks.0: the eval_env of Normalized is not wrapped as the training environments",
        ),
    ],
)
def test_check_names_unfit_eval_env(
    vec_wrapper: str, params: str, status: int, text: str, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    head = HEAD.replace("vec_normalize", vec_wrapper)
    Path("own.yaml").write_text(head + f"  - {{name: '{__name__}:Normalized', params: {{{params}}}}}\n")
    checked = toolkit("check", "own.yaml")
    assert checked.status == status
    assert text in caplog.text + checked.err


def test_run_in_parameters_names_run_directory(toolkit: Toolkit) -> None:
    params = "{folder: '{run}/notes', text: '{x} {{run} {}', nested: {'{run}': ['sqlite:///{run}/x.db', '{run}']}}"
    Path("note.yaml").write_text(HEAD + f"  - {{name: '{__name__}:WritesNote', params: {params}}}\n")
    before = files_in(Path())
    assert toolkit("check", "note.yaml").status == 0
    assert files_in(Path()) == before
    assert toolkit("train", "note.yaml", "--out", "run", "--quiet").status == 0
    run = Path("run").absolute()
    assert (
        Path("run/notes/note.txt").read_text()
        == f"{{x}} {{{run} {{}} {{'{{run}}': ['sqlite:///{run}/x.db', '{run}']}}"
    )
    assert "{run}/notes" in Path("run/config.yaml").read_text()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "  - {name: checkpoint, params: {save_freq: 9, save_path: ./snapshots/x}}",
            "callbacks.0.params.save_path: the toolkit writes 'snapshots' in the run directory; choose another path",
        ),
        (
            "  - {name: eval, params: {log_path: a/../snapshots}}",
            "callbacks.0.params.log_path: the toolkit writes 'snapshots' in the run directory; choose another path",
        ),
        (
            "  - {name: checkpoint, params: {save_freq: 9, save_path: 'file://{run}/x'}}",
            "callbacks.0.params.save_path: 'file://{run}/x' is a URL, but SB3 writes into directories; write a path",
        ),
        (
            EVAL + "  - {name: eval, params: {log_path: '{run}/evaluations'}}",
            "callbacks.1.params.log_path: writes the same files as callbacks.0.params.log_path; choose another path",
        ),
        (
            "  - {name: checkpoint, params: {save_freq: 9, save_path: best}}\n"
            "  - {name: eval, params: {callback_on_new_best: "
            "{name: checkpoint, params: {save_freq: 1, save_path: ./best}}}}",
            "callbacks.1.params.callback_on_new_best.params.save_path: writes the same files as "
            "callbacks.0.params.save_path; choose another path, or another name_prefix",
        ),
        (
            "  - {name: every_n_timesteps, params: {n_steps: 9, callback: {name: success, params: {threshold: 9}}}}",
            "callbacks.0.params.callback: 'success' decides the success of the run, so it cannot be inside another "
            "callback; name it directly in callbacks",
        ),
        (
            "  - {name: eval, params: {eval_freq: 0}}",
            "callbacks.0.params.eval_freq: should be at least 1, not 0",
        ),
        (
            "  - {name: checkpoint, params: {save_freq: 0, save_path: x}}",
            "callbacks.0.params.save_freq: should be at least 1, not 0",
        ),
        (
            "  - {name: eval, params: {callback_after_eval: {name: no_improvement}}}",
            "callbacks.0.params.callback_after_eval.name: callback 'no_improvement' does not exist; "
            "did you mean 'no_model_improvement'?",
        ),
        (
            "  - {name: eval, params: {callback_after_eval: no_model_improvement}}",
            "callbacks.0.params.callback_after_eval.params.max_no_improvement_evals: required parameter is missing",
        ),
        (
            EVAL + STOP.replace("callback_after_eval", "callback_on_new_best"),
            "callbacks.0: StopTrainingOnNoModelImprovement never stops training in callback_on_new_best; "
            "name it in the callback_after_eval of eval",
        ),
        (
            "  - {name: no_model_improvement, params: {max_no_improvement_evals: 1}}",
            "callbacks.0: StopTrainingOnNoModelImprovement needs an EvalCallback around it; "
            "name it in the callback_after_eval of eval",
        ),
        (
            "  - maskable_eval",
            "callbacks.0: MaskableEvalCallback passes action masks, but PPO takes none; use eval",
        ),
        (
            "  - progress\nalgorithm: {params: {tensorboard: '{run}/logs'}}",
            "algorithm.params.tensorboard: {run} is the run directory only in the params of callbacks; remove it",
        ),
        (
            "  - progress\nenv: {id: '{run}'}",
            "env.id: {run} is the run directory only in the params of callbacks; remove it",
        ),
        (
            "  - '{run}/mine.py:Mine'",
            "callbacks.0.name: {run} is the run directory only in the params of callbacks; remove it",
        ),
        (
            "  - {name: eval, params: {callback_after_eval: {name: '{run}/mine.py:Mine'}}}",
            "callbacks.0.params.callback_after_eval.name: {run} is the run directory only in parameters",
        ),
        (
            "  - {name: checkpoint, params: {save_freq: 9, save_path: './{run}/x'}}",
            "callbacks.0.params.save_path: {run} is an absolute path, so a path can only start with it; write {run}/x",
        ),
        (
            "  - {name: checkpoint, params: {save_freq: 9, save_path: 'a{run}'}}",
            "callbacks.0.params.save_path: {run} is an absolute path, so a path can only start with it; write {run}",
        ),
        (
            "  - {name: eval, params: {log_path: '{run}{run}/x'}}",
            "callbacks.0.params.log_path: {run} is an absolute path, so a path can only start with it; write {run}/x",
        ),
        (
            f"  - {{name: '{__name__}:WritesNote', params: {{folder: x, text: x, nested: {{x: '{{run}}x'}}}}}}",
            "callbacks.0.params.nested.x: '{run}x' is beside the run directory, not inside it; write {run}/x",
        ),
        (
            "  - {name: checkpoint, params: {save_freq: 9, save_path: '{run}.steps'}}",
            "callbacks.0.params.save_path: '{run}.steps' is not inside the run directory; start with {run}/",
        ),
        (
            EVAL + "  - {name: eval, params: {callback_after_eval: "
            "{name: checkpoint, params: {save_freq: 1, save_path: ~/logs}}}}",
            "callbacks.1.params.callback_after_eval.params.save_path: '~/logs' would be a directory named ~: SB3 does "
            "not expand it; write the absolute path, or one under {run}",
        ),
    ],
)
def test_invalid_callback_is_refused_with_its_place(lines: str, message: str, toolkit: Toolkit) -> None:
    Path("base.yaml").write_text(HEAD.removesuffix("callbacks:\n"))
    Path("bad.yaml").write_text(f"extends: base.yaml\ncallbacks:\n{lines}\n")
    checked = toolkit("train", "bad.yaml")
    assert checked.status == 2
    assert message in checked.err
    assert not Path("runs").exists()


def test_nested_callback_of_stranger_does_not_run() -> None:
    Path("mine.py").write_text("raise SystemExit('runs')")
    Path("run").mkdir()
    nested = "  - {name: eval, params: {log_path: '{run}', callback_after_eval: './mine.py:Mine'}}\n"
    Path("run/config.yaml").write_text("name: mine\n" + HEAD + nested.replace("./", f"{Path().absolute()}/"))
    with pytest.raises(ConfigError, match=r"callback_after_eval\.name: the code in .*mine\.py has not trained"):
        resolve_config(read_config("run/config.yaml"))


def test_maskable_eval_plays_valid_actions() -> None:
    Path("taxi.yaml").write_text(
        "timesteps: 32\n"
        "env: {id: Taxi-v4, max_episode_steps: 10, wrappers: [info_action_mask]}\n"
        "algorithm: {name: maskable_ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 1}}\n"
        "callbacks: [{name: maskable_eval, params: {eval_freq: 16, log_path: ., verbose: 0}}]\n"
    )
    train(tk.load_config("taxi.yaml"), Path("run"))
    assert np.load("run/evaluations.npz")["results"].min() >= -10  # an invalid action costs ten
