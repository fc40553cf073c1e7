"""Training, loading and showing runs from Python."""

from __future__ import annotations

import base64
import re
import runpy
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.callbacks import BaseCallback
from support import SMALL_CONFIG, Toolkit, files_in

import toolkit as tk
from toolkit.utils.errors import ConfigError, RunError, ToolkitError, TrainingError


class Halved(gym.RewardWrapper):  # type: ignore[type-arg]
    """Halves rewards."""

    def __init__(self, env: gym.Env[Any, Any], times: int = 1) -> None:
        super().__init__(env)
        self.times = times

    def reward(self, reward: Any) -> float:
        return float(reward) / 2**self.times


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> tk.Run:
    directory = tmp_path_factory.mktemp("api")
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    return tk.train(directory / "small.yaml", directory / "run", timesteps=400)


def test_train_overrides_values_by_keyword(config_file: Path) -> None:
    run = tk.train(config_file, seed=7, env__n_envs=1, algorithm__policy_params__net_arch=[4], timesteps=30)
    assert run.directory == Path("runs/small-1")
    assert (run.config.seed, run.config.timesteps, run.config.env.n_envs) == (7, 30, 1)
    assert run.config.algorithm.policy_params == {"net_arch": [4]}
    assert run.config.env.max_episode_steps == 200, "what is not named stays"


def test_train_accepts_dotted_paths(config_file: Path) -> None:
    run = tk.train(config_file, timesteps=10, **{"env.wrappers.0.name": "graded_terminal_reward"})
    assert [(wrapper.name, wrapper.params) for wrapper in run.config.env.wrappers] == [("graded_terminal_reward", {})]


def test_train_leaves_given_config_unchanged(config_file: Path) -> None:
    config = tk.load_config(config_file, ["seed=3"])
    run = tk.train(config, "out", timesteps=20)
    assert run.directory == Path("out")
    assert (run.config.seed, run.config.timesteps) == (3, 20)
    assert config.timesteps == 300


def test_train_in_python_equals_train_command(config_file: Path, toolkit: Toolkit) -> None:
    tk.train(config_file, "one", seed=5, algorithm__params__gamma=0.9)
    toolkit("train", config_file, "--seed", "5", "--set", "algorithm.params.gamma=0.9", "--out", "two")
    configs = [Path(run, "config.yaml").read_text() for run in ("one", "two")]
    assert configs[0] == configs[1]
    assert tk.load("one").episodes == tk.load("two").episodes


class SignalOnce(BaseCallback):
    """Sends this process a signal at the first step."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number

    def _on_step(self) -> bool:
        if self.num_timesteps == self.training_env.num_envs:
            signal.raise_signal(self.number)
        return True


def test_ctrl_c_saves_run_and_raises_keyboard_interrupt(config_file: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tk.train(config_file, callbacks=[SignalOnce(signal.SIGINT)])
    run = tk.load("runs/small-1")
    assert (run.result or {})["status"] == "interrupted"
    assert [*(run.directory / "snapshots").iterdir()]


def test_sigterm_during_training_reaches_handler_of_program(config_file: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        run = tk.train(config_file, callbacks=[SignalOnce(signal.SIGTERM)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert (run.result or {})["status"] == "interrupted"


def test_train_accepts_class_as_component(config_file: Path) -> None:
    run = tk.train(config_file, env__wrappers=[{"name": Halved, "params": {"times": 2}}], timesteps=200)
    assert [wrapper.name for wrapper in run.config.env.wrappers] == [f"{__name__}:Halved"]
    shaped = re.findall(r"rollout/ep_shaped_rew_mean", (run.directory / "progress.csv").read_text())
    assert shaped


def test_train_refuses_class_local_to_function(config_file: Path) -> None:
    class Hidden(Halved):
        pass

    with pytest.raises(ConfigError, match=r"Hidden is local to a function; define it at module level"):
        tk.train(config_file, env__wrappers=[Hidden])
    assert files_in(Path.cwd()) == {"small.yaml"}


def test_unknown_key_is_reported_with_its_keyword(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^env__n_env=4: env\.n_env: unknown key; did you mean 'n_envs'\?$"):
        tk.train(config_file, env__n_env=4)
    assert files_in(Path.cwd()) == {"small.yaml"}


def test_value_that_no_longer_fits_is_reported_with_its_line(config_file: Path) -> None:
    config = tk.load_config(config_file)
    with pytest.raises(ConfigError, match=r"small\.yaml:11: algorithm\.params\.buffer_size: unknown parameter"):
        tk.train(config, algorithm__name="ppo", algorithm__params__n_steps=8)


def test_train_calls_callback_objects(config_file: Path) -> None:
    class Counter(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 3

    run = tk.train(config_file, callbacks=[Counter()])
    assert run.result is not None
    assert run.result["timesteps"] == 6


def test_train_prints_progress_only_if_asked(config_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tk.train(config_file, timesteps=20)
    assert capfd.readouterr() == ("", "")
    tk.train(config_file, timesteps=20, progress_bar=True)
    assert "20 of 20 steps" in capfd.readouterr().err


@pytest.mark.parametrize("callbacks", [["progress"], [{"name": "max_episodes"}], [BaseCallback]])
def test_train_refuses_callbacks_that_are_not_objects(callbacks: Any, config_file: Path) -> None:
    with pytest.raises(
        ToolkitError, match=r"callbacks must be instances of SB3's BaseCallback\noverride the config's"
    ):
        tk.train(config_file, callbacks=callbacks)
    assert files_in(Path.cwd()) == {"small.yaml"}


@pytest.mark.parametrize("value", [lambda left: left, object()])
def test_train_refuses_values_that_yaml_cannot_express(value: Any, config_file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^algorithm__params__learning_rate=.*: a (function|object) cannot stand in a"
    ):
        tk.train(config_file, algorithm__params__learning_rate=value)


def test_train_accepts_numpy_numbers_and_arrays(config_file: Path) -> None:
    run = tk.train(
        config_file, timesteps=np.int64(10), algorithm__policy_params__net_arch=np.array([4, 4]), out=Path("run")
    )
    assert run.config.timesteps == 10
    assert run.config.algorithm.policy_params == {"net_arch": [4, 4]}


@pytest.mark.parametrize("episodes", [0, -1])
def test_run_refuses_fewer_than_one_episode(episodes: int, trained_run: tk.Run) -> None:
    for command in (trained_run.evaluate, trained_run.record):
        with pytest.raises((ValueError, ToolkitError), match=f"episodes must be at least 1, not {episodes}"):
            command(episodes)


@pytest.mark.parametrize("formats", ["gif", [], ["avi"]])
def test_record_refuses_invalid_formats(formats: Any, trained_run: tk.Run) -> None:
    with pytest.raises(ValueError, match="formats must be a list of mp4 and gif"):
        trained_run.record(formats=formats)


@pytest.mark.parametrize(("runs", "by"), [([], "timestep"), (None, "epoch")])
def test_plot_refuses_no_runs_and_unknown_axis(runs: Any, by: Any, trained_run: tk.Run) -> None:
    with pytest.raises(ValueError, match="learning curves need at least one run, by timestep or episode"):
        tk.plot([trained_run] if runs is None else runs, "x.png", by)


def test_load_opens_named_or_newest_run(config_file: Path) -> None:
    for name in ("first", "second"):
        tk.train(config_file, timesteps=10, name=name)
    assert tk.load("runs/first-1").config.name == "first"
    assert tk.load().config.name == "second"
    with pytest.raises(RunError, match="does not exist"):
        tk.load("runs/third-1")


def test_loaded_run_evaluates_and_records(trained_run: tk.Run) -> None:
    run = tk.load(trained_run.directory)
    assert run.evaluate(3, seed=1) == tk.evaluate(run, 3, seed=1)
    (video,) = run.record(formats=["gif"], out=Path("films"), tail=3)
    with Image.open(video) as film:
        assert film.n_frames > 5


class NotebookPage:
    """The HTML that a notebook shows for a run."""

    def __init__(self, run: tk.Run) -> None:
        self.html = run._repr_html_()

    def read_media(self, media_type: str) -> list[bytes]:
        contents = re.findall(rf'src="data:{media_type};base64,([^"]+)"', self.html)
        return [base64.b64decode(content) for content in contents]


def test_notebook_shows_result_curve_and_newest_video(config_file: Path) -> None:
    run = tk.train(config_file)
    page = NotebookPage(run)
    assert "runs/small-1" in page.html
    assert re.search(r"not solved: mean return \d+\.\d over the last 9 training episodes", page.html)
    (curve,) = page.read_media("image/png")
    with Image.open(BytesIO(curve)) as picture:
        assert picture.width > 500
    assert "no video yet" in page.html
    run.record(formats=["gif"])
    (gif,) = NotebookPage(run).read_media("image/gif")
    assert gif == (run.videos / "record.gif").read_bytes()
    (mp4,) = run.record()
    page = NotebookPage(run)
    assert page.read_media("video/mp4") == [mp4.read_bytes()]
    assert not page.read_media("image/gif")
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.html), "it needs no other file"


def test_notebook_shows_run_without_episodes(config_file: Path) -> None:
    html = NotebookPage(tk.train(config_file, timesteps=4)).html
    assert "no learning curve: runs/small-1: has ended, and none of its episodes counts" in html
    assert "finished: 8 timesteps" in html


def test_notebook_escapes_directory_name(config_file: Path) -> None:
    run = tk.train(config_file, timesteps=4, out="<b>bold")
    assert "<b>bold" not in NotebookPage(run).html
    assert "&lt;b&gt;bold" in NotebookPage(run).html


def test_notebook_shows_run_that_has_not_ended(config_file: Path) -> None:
    run = tk.train(config_file)
    (run.directory / "result.json").unlink()
    page = NotebookPage(run)
    assert "has not ended" in page.html
    assert page.read_media("image/png")


def test_notebook_shows_that_result_is_damaged(config_file: Path) -> None:
    run = tk.train(config_file, timesteps=4)
    (run.videos / "gone.mp4").mkdir(parents=True)
    for result in ("{", "[]", "{}", '{"status": "finished"}'):
        (run.directory / "result.json").write_text(result)
        assert re.search("result.json:? is damaged", NotebookPage(run).html), result


def test_notebook_shows_that_run_failed(config_file: Path) -> None:
    class Failing(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 100:
                raise ValueError("the disk is on fire")
            return True

    with pytest.raises(TrainingError):
        tk.train(config_file, callbacks=[Failing()])
    assert "failed, not solved: mean return" in NotebookPage(tk.load()).html


def test_show_outside_notebook_prints_summary_and_records(
    trained_run: tk.Run, capfd: pytest.CaptureFixture[str]
) -> None:
    trained_run.show(tail=2)
    printed = capfd.readouterr().out
    assert "not solved: mean return" in printed
    (video,) = trained_run.videos.glob("*.mp4")
    assert str(video) in printed
    assert f"  next   toolkit evaluate {trained_run.directory}" in printed
    assert repr(trained_run) == f"Run('{trained_run.directory}')"


def test_show_refuses_run_without_model(config_file: Path) -> None:
    run = tk.train(config_file, timesteps=4)
    run.model_path.unlink()
    with pytest.raises(RunError, match=r"has no model\.zip"):
        run.show()


def test_class_of_script_is_required_again_outside_script(
    config_file: Path, toolkit: Toolkit, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("script.py").write_text(
        "import gymnasium as gym, toolkit\n"
        "class Mine(gym.Wrapper):\n    pass\n"
        "run = toolkit.train('small.yaml', 'run', timesteps=100, env__wrappers=[Mine])\n"
        "print(toolkit.load('run').evaluate(2).episodes)\n"
    )
    runpy.run_path("script.py", run_name="__main__")
    assert capfd.readouterr().out == "2\n"
    refused = toolkit("evaluate", "run")
    assert refused.status == 2
    assert "env.wrappers.0.name: '__main__' has no 'Mine'; its definition is in a notebook or script" in refused.err
    assert toolkit("plot", "run").status == 0, "a curve needs no class"
    assert tk.load("run").result


def test_import_toolkit_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, toolkit; toolkit.ToolkitError; print({'torch', 'matplotlib'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
