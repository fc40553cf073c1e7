"""The toolkit as it is used from Python."""

from __future__ import annotations

import base64
import re
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
def trained(tmp_path_factory: pytest.TempPathFactory) -> tk.Run:
    directory = tmp_path_factory.mktemp("api")
    (directory / "small.yaml").write_text(SMALL_CONFIG)
    return tk.train(directory / "small.yaml", directory / "run", timesteps=400)


def test_train_takes_a_file_and_values_for_it(config_file: Path) -> None:
    run = tk.train(config_file, seed=7, env__n_envs=1, algorithm__policy_params__net_arch=[4], timesteps=30)
    assert run.directory == Path("runs/small-1")
    assert (run.config.seed, run.config.timesteps, run.config.env.n_envs) == (7, 30, 1)
    assert run.config.algorithm.policy_params == {"net_arch": [4]}
    assert run.config.env.max_episode_steps == 200, "what is not named stays"


def test_a_dotted_path_is_good_as_well(config_file: Path) -> None:
    run = tk.train(config_file, timesteps=10, **{"env.wrappers.0.name": "graded_terminal_reward"})
    assert [(wrapper.name, wrapper.params) for wrapper in run.config.env.wrappers] == [("graded_terminal_reward", {})]


def test_train_takes_a_config_and_leaves_it_as_it_is(config_file: Path) -> None:
    config = tk.load_config(config_file, ["seed=3"])
    run = tk.train(config, "out", timesteps=20)
    assert run.directory == Path("out")
    assert (run.config.seed, run.config.timesteps) == (3, 20)
    assert config.timesteps == 300


def test_the_same_values_give_the_same_run_as_on_the_command_line(config_file: Path, toolkit: Toolkit) -> None:
    tk.train(config_file, "one", seed=5, algorithm__params__gamma=0.9)
    toolkit("train", config_file, "--seed", "5", "--set", "algorithm.params.gamma=0.9", "--out", "two")
    configs = [Path(run, "config.yaml").read_text() for run in ("one", "two")]
    assert configs[0] == configs[1]
    assert tk.load("one").episodes == tk.load("two").episodes


def test_a_class_stands_where_the_config_names_one(config_file: Path) -> None:
    run = tk.train(config_file, env__wrappers=[{"name": Halved, "params": {"times": 2}}], timesteps=100)
    assert [wrapper.name for wrapper in run.config.env.wrappers] == [f"{__name__}:Halved"]
    shaped = re.findall(r"rollout/ep_shaped_rew_mean", (run.directory / "progress.csv").read_text())
    assert shaped


def test_a_class_within_a_function_is_refused(config_file: Path) -> None:
    class Hidden(Halved):
        pass

    with pytest.raises(ConfigError, match=r"Hidden is local to a function; define it at module level"):
        tk.train(config_file, env__wrappers=[Hidden])
    assert files_in(Path.cwd()) == {"small.yaml"}


def test_a_wrong_value_is_reported_by_its_keyword(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^env__n_env=4: env\.n_env: unknown key; did you mean 'n_envs'\?$"):
        tk.train(config_file, env__n_env=4)
    assert files_in(Path.cwd()) == {"small.yaml"}


def test_a_wrong_value_in_a_config_that_was_read_is_reported_at_its_line(config_file: Path) -> None:
    config = tk.load_config(config_file)
    with pytest.raises(ConfigError, match=r"small\.yaml:11: algorithm\.params\.buffer_size: unknown parameter"):
        tk.train(config, algorithm__name="ppo", algorithm__params__n_steps=8)


def test_callbacks_are_called_after_the_configs_own(config_file: Path) -> None:
    class Counter(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 3

    run = tk.train(config_file, callbacks=[Counter()])
    assert run.result is not None
    assert run.result["timesteps"] == 6


def test_nothing_is_printed_unless_asked_for(config_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tk.train(config_file, timesteps=20)
    assert capfd.readouterr() == ("", "")
    tk.train(config_file, timesteps=20, progress_bar=True)
    assert "20 of 20 steps" in capfd.readouterr().err


@pytest.mark.parametrize("callbacks", [["progress"], [{"name": "max_episodes"}], [BaseCallback]])
def test_callbacks_are_objects(callbacks: Any, config_file: Path) -> None:
    with pytest.raises(
        ToolkitError,
        match=r"callbacks must be instances of SB3's BaseCallback\noverride the config's own callbacks by",
    ):
        tk.train(config_file, callbacks=callbacks)
    assert files_in(Path.cwd()) == {"small.yaml"}


@pytest.mark.parametrize("value", [lambda left: left, object()])
def test_what_is_no_data_is_refused_by_its_keyword(value: Any, config_file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^algorithm__params__learning_rate=.*: a (function|object) cannot stand in a"
    ):
        tk.train(config_file, algorithm__params__learning_rate=value)


def test_numbers_and_arrays_of_numpy_are_data(config_file: Path) -> None:
    run = tk.train(
        config_file, timesteps=np.int64(10), algorithm__policy_params__net_arch=np.array([4, 4]), out=Path("run")
    )
    assert run.config.timesteps == 10
    assert run.config.algorithm.policy_params == {"net_arch": [4, 4]}


@pytest.mark.parametrize("episodes", [0, -1])
def test_too_few_episodes_are_refused(episodes: int, trained: tk.Run) -> None:
    for command in (trained.evaluate, trained.record):
        with pytest.raises((ValueError, ToolkitError), match=f"episodes must be at least 1, not {episodes}"):
            command(episodes)


@pytest.mark.parametrize("formats", ["gif", [], ["avi"]])
def test_formats_that_are_none_are_refused(formats: Any, trained: tk.Run) -> None:
    with pytest.raises(ValueError, match="formats must be a list of mp4 and gif"):
        trained.record(formats=formats)


@pytest.mark.parametrize(("runs", "by"), [([], "timestep"), (None, "epoch")])
def test_curves_of_nothing_or_by_nothing_are_refused(runs: Any, by: Any, trained: tk.Run) -> None:
    with pytest.raises(ValueError, match="learning curves need at least one run, by timestep or episode"):
        tk.plot([trained] if runs is None else runs, "x.png", by)


def test_load_opens_a_run_or_the_newest(config_file: Path) -> None:
    for name in ("first", "second"):
        tk.train(config_file, timesteps=10, name=name)
    assert tk.load("runs/first-1").config.name == "first"
    assert tk.load().config.name == "second"
    with pytest.raises(RunError, match="does not exist"):
        tk.load("runs/third-1")


def test_a_run_evaluates_and_records_itself(trained: tk.Run) -> None:
    run = tk.load(trained.directory)
    assert run.evaluate(3, seed=1) == tk.evaluate(run, 3, seed=1)
    (video,) = run.record(formats=["gif"], out=Path("films"), tail=3)
    with Image.open(video) as film:
        assert film.n_frames > 5


class Page:
    """What a run shows of itself in a notebook."""

    def __init__(self, run: tk.Run) -> None:
        self.html = run._repr_html_()

    def data(self, media_type: str) -> list[bytes]:
        found = re.findall(rf'src="data:{media_type};base64,([^"]+)"', self.html)
        return [base64.b64decode(one) for one in found]


def test_a_run_shows_how_it_went_its_curve_and_its_newest_video(config_file: Path) -> None:
    run = tk.train(config_file)
    page = Page(run)
    assert "runs/small-1" in page.html
    assert re.search(r"not solved: mean return \d+\.\d over the last 10 training episodes", page.html)
    (curve,) = page.data("image/png")
    with Image.open(BytesIO(curve)) as picture:
        assert picture.width > 500
    assert "no video yet" in page.html
    run.record(formats=["gif"])
    (gif,) = Page(run).data("image/gif")
    assert gif == (run.videos / "record.gif").read_bytes()
    (mp4,) = run.record()
    page = Page(run)
    assert page.data("video/mp4") == [mp4.read_bytes()]
    assert not page.data("image/gif")
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.html), "it needs no other file"


def test_a_run_without_a_curve_shows_the_rest(config_file: Path) -> None:
    html = Page(tk.train(config_file, timesteps=4)).html
    assert "no learning curve: runs/small-1: has no completed episode yet" in html
    assert "finished: 8 timesteps" in html


def test_what_a_run_s_files_say_is_no_markup(config_file: Path) -> None:
    run = tk.train(config_file, timesteps=4, out="<b>bold")
    assert "<b>bold" not in Page(run).html
    assert "&lt;b&gt;bold" in Page(run).html


def test_a_run_that_goes_on_shows_itself(config_file: Path) -> None:
    run = tk.train(config_file)
    (run.directory / "result.json").unlink()
    page = Page(run)
    assert "has not ended" in page.html
    assert page.data("image/png")


@pytest.mark.parametrize("result", ["{", "[]", "{}", '{"status": "finished"}'])
def test_a_run_with_a_damaged_result_shows_that(result: str, config_file: Path) -> None:
    run = tk.train(config_file)
    (run.directory / "result.json").write_text(result)
    (run.videos / "gone.mp4").mkdir(parents=True)
    assert re.search("result.json:? is damaged", Page(run).html)


def test_a_run_that_failed_says_so(config_file: Path) -> None:
    class Failing(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 100:
                raise ValueError("the disk is on fire")
            return True

    with pytest.raises(TrainingError):
        tk.train(config_file, callbacks=[Failing()])
    assert "failed, not solved: mean return" in Page(tk.load()).html


def test_outside_a_notebook_show_says_it_in_words(trained: tk.Run, capfd: pytest.CaptureFixture[str]) -> None:
    trained.show(tail=2)
    printed = capfd.readouterr().out
    assert "not solved: mean return" in printed
    (video,) = trained.videos.glob("*.mp4")
    assert str(video) in printed
    assert f"  next   toolkit evaluate {trained.directory}" in printed
    assert repr(trained) == f"Run('{trained.directory}')"


def test_a_run_without_a_model_cannot_be_shown(config_file: Path) -> None:
    run = tk.train(config_file, timesteps=4)
    run.model_path.unlink()
    with pytest.raises(RunError, match=r"has no model\.zip"):
        run.show()


def test_a_class_of_a_script_is_asked_for_again_elsewhere(config_file: Path, toolkit: Toolkit) -> None:
    Path("script.py").write_text(
        "import gymnasium as gym, toolkit\n"
        "class Mine(gym.Wrapper):\n    pass\n"
        "run = toolkit.train('small.yaml', 'run', timesteps=200, env__wrappers=[Mine])\n"
        "print(toolkit.load('run').evaluate(2).episodes)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "2\n"
    refused = toolkit("evaluate", "run")
    assert refused.status == 2
    assert "env.wrappers.0.name: '__main__' has no 'Mine'; its definition is in a notebook or script" in refused.err
    assert toolkit("plot", "run").status == 0, "a curve needs no class"
    assert tk.load("run").result


def test_importing_the_package_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, toolkit; toolkit.ToolkitError; print({'torch', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
