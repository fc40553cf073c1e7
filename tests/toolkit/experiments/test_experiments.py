"""Experiments: one file to a directory of runs, gone on with until all are done."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from small_runs import find_differences
from support import PROJECT, SMALL_CONFIG, Toolkit, can_run, files_in, toolkit_process

from toolkit import experiment
from toolkit.experiments.config import load_plan
from toolkit.experiments.display import LiveTable, create_display
from toolkit.experiments.runner import Experiment, run_experiment, run_job
from toolkit.utils.errors import RunError
from toolkit.utils.files import lock_directory

EXPERIMENTS = sorted((PROJECT / "configs" / "experiments").glob("*.yaml"))

EXPERIMENT = """\
base: small.yaml
variants:
  none: {timesteps: 320, env.wrappers: []}
  clip: {timesteps: 200}
seeds: [0, 7]
evaluation_episodes: 3
"""
RUNS = ["none/seed-0", "clip/seed-0", "none/seed-7", "clip/seed-7"]
OWN = """\
import os
import signal
import gymnasium


class Raises(gymnasium.Wrapper):
    def step(self, action):
        raise RuntimeError("no more")


class Dies(gymnasium.Wrapper):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)
"""
OTHER = """\
from pathlib import Path
import gymnasium
from toolkit.utils.files import lock_directory


class Other(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        with lock_directory(Path("experiments/both"), "trains in it"):
            raise ValueError("nobody does")
"""
POLES = """\
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Bottomless(CartPoleEnv):
    def step(self, action):
        observation, _, *ends = super().step(action)
        return observation, -float("inf"), *ends


gymnasium.register("Bottomless-v0", entry_point=Bottomless, max_episode_steps=20)
"""
ENDLESS = (
    "import_modules: [./poles.py], env.id: Bottomless-v0, timesteps: 8, "
    "env.wrappers: [{name: clip_reward, params: {min_reward: -1, max_reward: 1}}]"
)


@pytest.fixture(autouse=True)
def base_file(config_file: Path) -> Path:
    return config_file


def written(text: str = EXPERIMENT, name: str = "both.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        name: ((directory / name).read_bytes(), (directory / name).stat().st_mtime_ns) for name in files_in(directory)
    }


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("once")
    written(SMALL_CONFIG, f"{place}/small.yaml")
    run_experiment(load_plan(written(EXPERIMENT, f"{place}/both.yaml")), place / "all")
    return place / "all"


@pytest.fixture
def finished(trained_once: Path) -> Path:
    """`all`, the directory of the experiment in `both.yaml`, which has been trained."""
    written()
    return Path(shutil.copytree(trained_once, "all"))


# --- what it does ---------------------------------------------------------------------------------------------------


def test_every_variant_is_trained_with_every_seed_and_evaluated(finished: Path, toolkit: Toolkit) -> None:
    assert {path.parent.relative_to(finished).as_posix() for path in finished.glob("*/*/model.zip")} == {*RUNS}
    assert [result_of(finished / name)["timesteps"] for name in RUNS] == [320, 200, 320, 200]
    assert [result_of(finished / name)["seed"] for name in RUNS] == [0, 0, 7, 7]
    for name in RUNS[:2]:
        evaluated = toolkit("evaluate", finished / name, "--episodes", "3", "--json").out
        assert json.loads((finished / name / "evaluation.json").read_text()) == json.loads(evaluated)
    assert yaml.safe_load((finished / "clip/seed-7/config.yaml").read_text())["env"]["wrappers"]
    assert not yaml.safe_load((finished / "none/seed-7/config.yaml").read_text())["env"]["wrappers"]


def test_it_says_how_each_run_and_each_variant_went_and_where_they_are(toolkit: Toolkit) -> None:
    done = toolkit("experiment", written(), "--set", "seeds=1")
    assert done.status == 0, done.err
    lines = done.err.splitlines()
    assert lines[0] == "experiments/both: 0 of 2 runs done"
    said = [
        re.fullmatch(r"(\S+): finished after (200|320) timesteps, mean greedy return \d+\.\d", line)
        for line in lines[1:]
    ]
    assert sorted(line[1] for line in said if line) == sorted(RUNS[:2])
    assert done.out.startswith("done: 2 of 2 runs trained and evaluated\n")
    for variant in ("none", "clip"):
        assert re.search(rf"^{variant} +1 of 1 +0 +not reached +\d+\.\d$", done.out, re.MULTILINE)
    assert "  experiment  experiments/both\n" in done.out
    assert done.out.endswith("toolkit report experiments/both\n")


def test_quiet_prints_the_directory_alone(finished: Path, toolkit: Toolkit) -> None:
    (finished / "clip/seed-0/evaluation.json").unlink()
    done = toolkit("experiment", "both.yaml", "--quiet", "--out", "all")
    assert (done.status, done.out, done.err) == (0, "all\n", "")


def test_quiet_still_says_which_runs_failed_and_why(finished: Path, toolkit: Toolkit) -> None:
    (finished / "clip/seed-0/result.json").write_text("{")
    done = toolkit("experiment", "both.yaml", "--quiet", "--out", "all")
    assert (done.status, done.out) == (1, "all\n")
    assert done.err.startswith("failed: clip/seed-0: all/clip/seed-0/result.json: is damaged")


def test_from_python_it_is_the_same() -> None:
    done = experiment(written(), "here", seeds=[7], variants={"clip": {"timesteps": 200}})
    assert (done.directory, done.failed, done.stopped_by) == (Path("here"), {}, None)
    assert files_in(Path("here")) >= {"experiment.yaml", "clip/seed-7/model.zip", "clip/seed-7/evaluation.json"}


@pytest.mark.parametrize(("width", "height"), [(110, 24), (110, 9), (45, 9)])
def test_a_live_table_fits_its_terminal_and_leaves_no_run_out(finished: Path, width: int, height: int) -> None:
    gammas = [number / 100 for number in range(40)]
    values = ", ".join(map(str, gammas))
    plan = load_plan(written(EXPERIMENT + f"grid: {{algorithm.params.gamma: [{values}]}}\n"), {"seeds": 3})
    runs = plan.runs()
    done, failed, training = runs[0], runs[1], runs[77]
    for run in (done, training):
        shutil.copytree(finished / RUNS[0], finished / run.name)
        (finished / run.name / "monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n10,60,1\n20,100,2\n30,1')
    table = LiveTable(Experiment(plan, finished), runs)
    table.end_run(done, None)
    table.end_run(failed, "for a reason")
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    with console.capture() as shown:
        console.print(table)
    lines = shown.get().splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("1 of 240 runs done, 0:0")
    rows = [re.findall(r"\d+", line.partition("  ")[2].partition("%")[0])[:4] for line in lines[1:-1]]
    assert [sum(int(row[state]) for row in rows) for state in range(4)] == [1, 1, 1, 237]
    assert ("80%" in shown.get() and "15.0" in shown.get()) == (width > 80)


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    for term in ("xterm", "dumb"):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("FORCE_COLOR", "1")  # as if stderr were a terminal
        kinds.append(type(create_display()))
    assert kinds[0] is not kinds[1]


def test_a_run_is_what_train_makes_of_its_config(finished: Path, toolkit: Toolkit) -> None:
    toolkit("train", "small.yaml", "--set", "timesteps=200", "--seed", "7", "--out", "alone")
    assert find_differences(finished / "clip/seed-7", Path("alone")) == []
    assert (finished / "clip/seed-7/config.yaml").read_text() == Path("alone/config.yaml").read_text()


def test_every_combination_of_a_grid_is_a_variant() -> None:
    plan = load_plan(
        written("""\
base: small.yaml
variants: {a: {}, b: {timesteps: 100}}
grid:
  algorithm.params.gamma: [0.9, 1]
  env.wrappers: [[], [terminal_reward_clip, angle_penalty]]
  algorithm.params.learning_rate: [{name: linear, params: {start: 1}}, {name: linear, params: {start: 2}}]
seeds: 2
""")
    )
    names = [variant.name for variant in plan.variants]
    assert len({*names}) == 16
    assert names[0] == "a,gamma=0.9,wrappers=none,learning_rate=linear-0"
    assert names[-1] == "b,gamma=1,wrappers=terminal_reward_clip-angle_penalty,learning_rate=linear-1"
    last = plan.variants[-1].config
    assert (last.timesteps, last.algorithm.params["gamma"], len(last.env.wrappers)) == (100, 1, 2)
    assert [run.name for run in plan.runs()][16] == f"{names[0]}/seed-1"


def test_without_variants_there_is_one_that_is_called_as_its_base() -> None:
    assert [run.name for run in load_plan(written("base: small.yaml\nseeds: 1\n")).runs()] == ["small/seed-0"]


def test_paths_are_relative_to_the_experiment_file() -> None:
    Path("own.py").write_text(OWN)
    plan = load_plan(
        written("base: ../small.yaml\nvariants: {a: {env.wrappers: [../own.py:Dies]}}\nseeds: 1\n", "in/x.yaml")
    )
    assert plan.variants[0].config.env.wrappers[0].name == f"{Path.cwd()}/in/../own.py:Dies"


def test_modules_to_import_are_relative_to_the_experiment_file_wherever_it_names_them() -> None:
    written("", "in/own.py")
    base = yaml.safe_dump({**yaml.safe_load(SMALL_CONFIG), "import_modules": ["./own.py"]}, default_flow_style=True)
    text = f"base: {base}variants: {{a: {{import_modules: [./own.py]}}, b: {{}}}}\nseeds: 1\n"
    text += "grid: {import_modules.0: [./own.py]}\n"
    plan = load_plan(written(text, "in/x.yaml"))
    again = load_plan(written(plan.text, "elsewhere/resolved.yaml"))
    for variant in (*plan.variants, *again.variants):
        assert variant.config.import_modules == (f"{Path.cwd()}/in/own.py",)


def test_mappings_in_a_grid_are_named_without_dashes_around() -> None:
    plan = load_plan(written("base: small.yaml\nseeds: 1\ngrid: {env: [{id: CartPole-v1}], env.params: [{}]}\n"))
    assert [variant.name for variant in plan.variants] == ["small,env=id-CartPole-v1,params=none"]


def test_the_resolved_file_stands_for_the_same_runs(toolkit: Toolkit) -> None:
    Path("own.py").write_text(OWN)
    text = EXPERIMENT + "grid: {algorithm.params.gamma: [0.9, 0.95]}\nlauncher: {name: local, params: {workers: 1}}\n"
    file = written(text.replace("wrappers: []", "wrappers: [./own.py:Raises]"))
    plan = load_plan(file)
    again = load_plan(written(plan.text, "elsewhere/resolved.yaml"))
    assert [(run.name, run.config) for run in again.runs()] == [(run.name, run.config) for run in plan.runs()]
    assert (again.name, again.text) == ("both", plan.text)


@pytest.mark.parametrize("file", [*filter(can_run, EXPERIMENTS)], ids=lambda path: path.stem)
def test_a_shipped_experiment_is_right_and_says_what_comes_of_it(file: Path) -> None:
    assert re.search("^# (.* )?(Expect|Results): ", file.read_text(), re.MULTILINE)
    assert load_plan(file).runs()


# --- again ----------------------------------------------------------------------------------------------------------


def test_again_nothing_is_repeated_and_what_is_new_is_added(finished: Path, toolkit: Toolkit) -> None:
    before = contents(finished)
    file = written(EXPERIMENT.replace("seeds: [0, 7]", "  third: {timesteps: 8}\nseeds: [7, 0]"))
    more = toolkit("experiment", file, "--out", "all")
    assert more.err.splitlines()[0] == "all: 4 of 6 runs done"
    after = contents(finished)
    assert {name: after[name] for name in before if "/" in name} == {
        name: before[name] for name in before if "/" in name
    }
    assert len([*finished.glob("third/*/evaluation.json")]) == 2
    again = toolkit("experiment", file, "--out", "all")
    assert (again.status, again.err) == (0, "all: 6 of 6 runs done\n")


def test_a_run_that_lacks_its_evaluation_or_has_another_gets_it(finished: Path, toolkit: Toolkit) -> None:
    models = {path: path.stat().st_mtime_ns for path in finished.glob("*/*/model.zip")}
    (finished / "clip/seed-0/evaluation.json").unlink()
    lacking = toolkit("experiment", "both.yaml", "--out", "all")
    assert [line.partition(":")[0] for line in lacking.err.splitlines()[1:]] == ["clip/seed-0"]
    toolkit("experiment", "both.yaml", "--set", "evaluation_episodes=2", "--out", "all")
    assert {json.loads(path.read_text())["episodes"] for path in finished.glob("*/*/evaluation.json")} == {2}
    assert {path: path.stat().st_mtime_ns for path in models} == models


def test_a_run_that_was_killed_goes_on_exactly_from_its_snapshot(toolkit: Toolkit) -> None:
    written(SMALL_CONFIG + "snapshots: {every_timesteps: 100}\n", "small.yaml")
    file = written("base: small.yaml\nvariants: {a: {timesteps: 400}}\nseeds: [7]\n", "a.yaml")
    toolkit("experiment", file, "--out", "all")
    run = Path("all/a/seed-7")
    shutil.copytree(run, "whole")
    for name in ("model.zip", "result.json", "evaluation.json"):
        (run / name).unlink()
    snapshots = contents(run / "snapshots")
    done = toolkit("experiment", file, "--out", "all")
    assert done.status == 0, done.err
    assert done.err.splitlines()[1].startswith("a/seed-7: finished after 400")
    assert find_differences(run, Path("whole")) == []
    assert contents(run / "snapshots") == snapshots  # of which none was made again
    assert not [*Path("all/a").glob("log-*")]


def test_a_run_that_fails_stops_no_other_and_is_tried_again(toolkit: Toolkit) -> None:
    Path("own.py").write_text(OWN)
    wrappers = {"raises": "[./own.py:Raises]", "dies": "[./own.py:Dies]", "works": "[]"}
    variants = "".join(f"  {name}: {{env.wrappers: {given}}}\n" for name, given in wrappers.items())
    file = written(f"base: small.yaml\nvariants:\n{variants}seeds: 2\nevaluation_episodes: 1\n", "x.yaml")
    done = toolkit("experiment", file, "--set", "seeds=1")
    assert done.status == 1
    for told in (done.err, done.out):
        assert re.search(r"raises/seed-0: .*training failed at timestep 0: RuntimeError: no more .*own.py", told)
        assert re.search(r"dies/seed-0: .*its process was killed by SIGKILL", told)
    assert done.out.startswith("failed: 1 of 3 runs trained and evaluated\n")
    assert "toolkit experiment x.yaml --set seeds=1\n" in done.out
    assert "no more" in Path("experiments/x/raises/log-seed-0.txt").read_text()
    Path("own.py").write_text(OWN.replace('raise RuntimeError("no more")', "return super().step(action)"))
    again = toolkit("experiment", file, "--set", "seeds=1")
    assert {line.partition(": ")[0] for line in again.err.splitlines()[1:]} == {"raises/seed-0", "dies/seed-0"}
    assert result_of(Path("experiments/x/raises/seed-0"))["status"] == "finished"


DAMAGE: dict[str, dict[str, str | None]] = {
    "result.json: is damaged": {"result.json": "{}{"},
    "config.yaml:1: is not valid YAML": {"config.yaml": "{"},
    "has no config.yaml": {"config.yaml": None},
    "has no model.zip": {"model.zip": None, "evaluation.json": None},
    "is not a run directory": {".": "a file"},
    "File exists": {"..": "a file"},
}


def damage(run: Path, files: dict[str, str | None]) -> None:
    for path in (Path(os.path.normpath(run / name)) for name in files):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if text := files.get(os.path.relpath(path, run)):
            path.write_text(text)


def test_a_damaged_run_fails_alone_and_says_what_to_do_about_it(finished: Path, toolkit: Toolkit) -> None:
    variants = {f"v{number}": files for number, files in enumerate(DAMAGE.values())}
    text = "base: small.yaml\nvariants:\n" + "".join(f"  {name}: {{timesteps: 8}}\n" for name in variants)
    file = written(f"{text}  whole: {{timesteps: 8}}\nseeds: 1\nevaluation_episodes: 3\n", "many.yaml")
    for name in (*variants, "whole"):
        run = Path(shutil.copytree(finished / "clip/seed-0", f"many/{name}/seed-0"))
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("timesteps: 200", "timesteps: 8"))
    shutil.copy(finished / "experiment.yaml", "many")
    Path("many/whole/seed-0/evaluation.json").write_text("{")
    for name, files in variants.items():
        damage(Path(f"many/{name}/seed-0"), files)
    done = toolkit("experiment", file, "--out", "many")
    assert (done.status, "Traceback" in done.err) == (1, False)
    assert done.out.startswith("failed: 1 of 7 runs trained and evaluated\n")
    lines = {line.partition("/")[0]: line for line in done.err.splitlines()[1:]}
    for name, told in zip(variants, DAMAGE, strict=True):
        assert told in lines[name]
        assert told == "File exists" or f"remove many/{name}/seed-0: it is then trained anew" in lines[name]
    assert lines["whole"].startswith("whole/seed-0: finished at 200 timesteps, greedy ")
    shutil.rmtree("many/v2/seed-0")
    again = toolkit("experiment", file, "--out", "many")
    assert "v2/seed-0: finished at 8 timesteps" in again.err


@pytest.mark.filterwarnings("ignore:.*The reward is an inf value", "ignore:invalid value:RuntimeWarning")
def test_a_run_whose_return_is_infinite_fails_alone(toolkit: Toolkit, caplog: pytest.LogCaptureFixture) -> None:
    Path("poles.py").write_text(POLES)
    file = written(f"base: small.yaml\nvariants: {{infinite: {{{ENDLESS}}}, good: {{}}}}\nseeds: 1\n", "x.yaml")
    for _ in range(2):
        done = toolkit("experiment", file, "--set", "evaluation_episodes=2")
        assert (done.status, "Traceback" in done.err) == (1, False), done.err
        assert "infinite/seed-0: failed: experiments/x/infinite/seed-0: its mean greedy return is -inf" in done.err
        assert done.out.startswith("failed: 1 of 2 runs trained and evaluated\n")
    reported = toolkit("report", "experiments/x", "--evaluate")
    assert reported.status == 0
    assert "infinite/seed-0 is not evaluated: experiments/x/infinite/seed-0: its mean greedy return is" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("leave", "status"), [(0, 2), (40 << 10, 1)])
def test_a_full_disk_fails_runs_and_harms_none_and_they_are_done_when_there_is_room(
    leave: int, status: int, finished: Path, disk: Path, toolkit: Toolkit
) -> None:
    place = Path(shutil.copytree(finished, disk / "both"))
    file = written(EXPERIMENT.replace("7]", "7, 9]"))
    before = {name: content for name, content in contents(place).items() if "/" in name}
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file_:
        while file_.write(bytes(4096)):
            pass
    os.truncate(filler, filler.stat().st_size - leave)
    full = toolkit("experiment", file, "--out", place)
    assert full.status == status
    assert "No space left on device" in full.err
    assert "Traceback" not in full.err
    filler.unlink()
    done = toolkit("experiment", file, "--out", place)
    assert done.status == 0, done.err
    assert done.out.startswith("done: 6 of 6 runs trained and evaluated\n")
    assert {name: content for name, content in contents(place).items() if name in before} == before


# --- stopped --------------------------------------------------------------------------------------------------------

LONG = """\
base: small.yaml
variants: {a: {timesteps: 1_000_000, algorithm.params.compile: false, snapshots.every_minutes: null}}
seeds: 3
evaluation_episodes: 1
launcher: {name: local, params: {workers: 2}}
"""


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def statuses() -> list[str]:
    return [result_of(path.parent)["status"] for path in sorted(Path("experiments/long").glob("*/*/result.json"))]


def has_started() -> bool:
    return all(Path(f"experiments/long/a/seed-{seed}/monitor.csv").exists() for seed in (0, 1))


@pytest.mark.slow
def test_ctrl_c_saves_every_running_job_and_says_how_to_go_on() -> None:
    written(LONG, "long.yaml")
    with toolkit_process(["experiment", "long.yaml"], session=True) as process:
        wait_until(has_started)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert statuses() == ["interrupted"] * 2
    assert len([*Path("experiments/long").glob("*/*/snapshots/[0-9]*")]) == 2
    assert "Traceback" not in err
    assert out.startswith("interrupted: 0 of 3 runs trained and evaluated\n")
    assert "toolkit experiment long.yaml\n" in out


@pytest.mark.slow
def test_runs_whose_parent_was_killed_are_saved_and_gone_on_with(toolkit: Toolkit) -> None:
    written(LONG, "long.yaml")
    with toolkit_process(["experiment", "long.yaml"]) as process:
        wait_until(has_started)
        process.kill()
    wait_until(lambda: statuses() == ["interrupted"] * 2)
    done = toolkit("experiment", "long.yaml", "--set", "variants.a.timesteps=1_000_001")
    assert done.status == 2
    assert "timesteps was 1000000 and is now 1000001" in done.err


# --- bad input ------------------------------------------------------------------------------------------------------

BAD = {
    "seeds: 2\n": "base: required key is missing",
    "base: small.yaml\n": "seeds: required key is missing",
    "": "is empty; write at least base and seeds",
    "base: gone.yaml\nseeds: 1\n": "bad.yaml:1: base: the file gone.yaml does not exist",
    "base: 3\nseeds: 1\n": "bad.yaml:1: base: should be the path of a config, or a config itself, not 3",
    "base: small.yaml\nseeds: 0\n": "bad.yaml:2: seeds: should be 1 to 10,000, or a list of seeds, not 0",
    "base: small.yaml\nseeds: []\n": "bad.yaml:2: seeds: is empty",
    "base: small.yaml\nseeds: [99999999999999999999]\n": "bad.yaml:2: seeds.0: should be less than 4294967296",
    "base: small.yaml\nseeds: [3, -1]\n": "bad.yaml:2: seeds.1: should be greater than or equal to 0, not -1",
    "base: small.yaml\nseeds: [3, 3]\n": "bad.yaml:2: seeds.1: the seed 3 appears more than once",
    "base: small.yaml\nseeds: 1\ngrids: {}\n": "bad.yaml:3: grids: unknown key; did you mean 'grid'?",
    "base: small.yaml\nseeds: 1\ngrid: {}\n": "bad.yaml:3: grid: is empty",
    "base: small.yaml\nseeds: 1\nvariants: {}\n": "bad.yaml:3: variants: is empty",
    "base: small.yaml\nseeds: 1\ngrid: {timesteps: []}\n": "bad.yaml:3: grid.timesteps: is empty",
    "base: small.yaml\nseeds: 1\ngrid: {timesteps: 5}\n": "bad.yaml:3: grid.timesteps: should be a list, not 5",
    "base: small.yaml\nseeds: 1\ngrid: {timesteps: [5, 5]}\n": "grid.timesteps.1: 5 appears more than once",
    "base: small.yaml\nseeds: 1\ngrid: {seed: [5]}\n": "grid.seed: the experiment's 'seeds' sets it",
    "base: small.yaml\nseeds: 1\ngrid: {seed.x: [5]}\n": "grid.seed.x: the experiment's 'seeds' sets it",
    "base: small.yaml\nseeds: 1\nvariants: {a: {seed: 1}}\n": "variants.a.seed: the experiment's 'seeds' sets it",
    "base: small.yaml\nseeds: 1\nvariants: {a/b: {}}\n": "variants.a/b: cannot be a variant's directory; use at most",
    "base: small.yaml\nseeds: 1\nvariants: {..: {}}\n": "variants...: cannot be a variant's directory",
    "base: small.yaml\nseeds: 1\nvariants: {report: {}}\n": "variants.report: 'report' cannot be a variant's",
    "base: small.yaml\nseeds: 1\nvariants: {Experiment.yaml: {}}\n": "Experiment.yaml: 'Experiment.yaml' cannot be a",
    "base: report.yaml\nseeds: 1\n": "bad.yaml:1: base: 'report' cannot be a variant's directory; `toolkit report`",
    "base: {extends: small.yaml}\nseeds: 1\n": "bad.yaml:1: base.extends: works only in a file",
    "base: small.yaml\nseeds: 1\nvariants: {a: {}, A: {}}\n": "variants.A: differs from 'a' only in upper and",
    "base: small.yaml\nseeds: 1\nvariants: {a: 3}\n": "variants.a: should be a mapping, not 3",
    "base: small.yaml\nseeds: 1\nvariants:\n  a: {}\n  b: {env.wrapers: []}\n": (
        "bad.yaml:5: variants.b.env.wrapers: unknown key; did you mean 'wrappers'?"
    ),
    "base: small.yaml\nseeds: 1\nvariants:\n  a: {timesteps: no}\n": "bad.yaml:4: variants.a.timesteps: ",
    "base: small.yaml\nseeds: 1\nvariants:\n  a:\n    env.wrappers:\n      - clp\n": (
        "bad.yaml:6: variants.a.env.wrappers.0.name: wrapper 'clp' does not exist"
    ),
    "base: small.yaml\nseeds: 1\ngrid:\n  algorithm.params.gamma: [0.9, x]\n": (
        "bad.yaml:4: grid.algorithm.params.gamma.1: should be float, not 'x'"
    ),
    "base: small.yaml\nseeds: 1\nvariants: {a: {env.n_envs: 1}}\ngrid: {env: [{id: CartPole-v1}]}\n": (
        "bad.yaml:3: variants.a.env.n_envs: the grid's env replaces it; give only one of them"
    ),
    "base: small.yaml\nseeds: 1\nvariants: {a: {env.n_envs: 1, env: {id: CartPole-v1}}}\n": (
        "bad.yaml:3: variants.a.env.n_envs: the variant's env replaces it; give only one of them"
    ),
    "base: small.yaml\nseeds: 1\ngrid:\n  env.n_envs: [1, 2]\n  env: [{id: CartPole-v1}]\n": (
        "bad.yaml:4: grid.env.n_envs: the grid's env replaces it; give only one of them"
    ),
    # another name drops the parameters of what stood in the list
    "base: small.yaml\nseeds: 1\nvariants: {a: {env.wrappers.0.params.success_steps: 1}}\n"
    "grid: {env.wrappers.0.name: [terminal_reward_clip]}\n": (
        "bad.yaml:3: variants.a.env.wrappers.0.params.success_steps: the grid's env.wrappers.0.name replaces it; "
        "write the name first, or both as one value"
    ),
    "base: small.yaml\nseeds: 1\nlauncher: loca\n": "bad.yaml:3: launcher.name: launcher 'loca' does not exist",
    "base: small.yaml\nseeds: 1\nlauncher: {name: local, params: {workers: 0}}\n": (
        "bad.yaml:3: launcher.params.workers: 'local' cannot be built: ValueError: workers should be at least 1"
    ),
    # what only building shows, of the variants that have it
    "base: small.yaml\nseeds: 1\nvariants: {a: {}, b: {env.n_envs: 3, algorithm.params.train_freq: [1, episode]}}\n": (
        "bad.yaml:3: variants.b.algorithm.params.train_freq: is counted in episodes"
    ),
    # of a whole that the experiment file gives a part of
    "base: small.yaml\nseeds: 1\nvariants:\n  a: {}\n  b: {algorithm.policy_params.net_arch: [-1]}\n": (
        "bad.yaml:5: variants.b.algorithm.policy_params.net_arch: 'double_dqn' cannot be built: "
    ),
    "base: base.yaml\nseeds: 1\nvariants: {a: {timesteps: 5}, b: {timesteps: 6}}\n": "base.yaml:2: tmesteps: unknown",
}


@pytest.mark.parametrize(("text", "told"), BAD.items(), ids=[*map(str, range(len(BAD)))])
def test_bad_input_is_reported_and_leaves_nothing(text: str, told: str, toolkit: Toolkit) -> None:
    written(SMALL_CONFIG.replace("timesteps: 300", "timesteps: 300\ntmesteps: 300"), "base.yaml")
    written(SMALL_CONFIG, "report.yaml")
    before = files_in(Path())
    done = toolkit("experiment", written(text, "bad.yaml"))
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert ("is empty" in done.err) == ("is empty" in told)
    assert "Traceback" not in done.err
    assert files_in(Path()) == before | {"bad.yaml"}
    assert not Path("experiments").exists()


def test_all_problems_are_in_one_report(toolkit: Toolkit) -> None:
    text = "base: small.yaml\nsedes: 3\nseeds: [1, 1]\nvariants: {a: {env.wrapers: []}, b/: {}}\nlauncher: gone\n"
    lines = toolkit("experiment", written(text)).err.splitlines()
    assert {line.split(": ")[1] for line in lines} == {
        "sedes",
        "seeds.1",
        "variants.a.env.wrapers",
        "variants.b/",
        "launcher.name",
    }


def test_a_million_runs_need_yes_and_are_refused_at_once(toolkit: Toolkit) -> None:
    grid = "".join(f"  algorithm.params.{name}: {[*range(1, 51)]}\n" for name in ("batch_size", "gradient_steps"))
    file = written(f"base: small.yaml\nseeds: 400\ngrid:\n{grid}")
    start = time.monotonic()
    done = toolkit("experiment", file)
    assert time.monotonic() - start < 1
    assert (done.status, done.err) == (2, "error: both.yaml: describes 1,000,000 runs\n--yes allows more than 1,000\n")


@pytest.mark.parametrize(
    ("change", "told"),
    {
        "another base": (("n_envs: 2", "n_envs: 3"), "none/seed-0/config.yaml: env.n_envs was 2 and is now 3"),
        "fewer seeds": (("[0, 7]", "[7]"), "all/clip/seed-0 is not a run of both.yaml"),
        "another variant": (("none:", "nothing:"), "all/none/seed-0 is not a run of both.yaml"),
    }.values(),
)
def test_the_directory_of_another_file_is_refused_and_left_alone(
    change: tuple[str, str], told: str, finished: Path, toolkit: Toolkit
) -> None:
    before = contents(finished)
    written(SMALL_CONFIG.replace(*change), "small.yaml")
    done = toolkit("experiment", written(EXPERIMENT.replace(*change)), "--out", "all")
    assert done.status == 2
    assert "all: holds another experiment than both.yaml" in done.err
    assert told in done.err
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("file", "out"),
    [("experiments/a/experiment.yaml", "experiments/a"), ("experiment.yaml", "."), ("a.yaml", "experiments/a")],
)
def test_an_experiment_file_that_somebody_wrote_is_not_overwritten(file: str, out: str, toolkit: Toolkit) -> None:
    written(f"# mine\n{EXPERIMENT}".replace("small.yaml", f"{Path.cwd()}/small.yaml"), f"{out}/experiment.yaml")
    if file == "a.yaml":
        written(name=file)
    before = contents(Path(out))
    done = toolkit("experiment", file, "--out", out)
    assert (done.status, done.out) == (2, "")
    assert "experiment.yaml: `toolkit experiment` did not write this file and would replace it" in done.err
    assert contents(Path(out)) == before


def test_the_file_in_an_experiments_directory_goes_on_with_it(finished: Path, toolkit: Toolkit) -> None:
    before = (finished / "experiment.yaml").read_text()
    done = toolkit("experiment", finished / "experiment.yaml", "--out", "all")
    assert (done.status, done.err) == (0, "all: 4 of 4 runs done\n")
    assert (finished / "experiment.yaml").read_text() == before


def test_an_experiment_that_has_no_run_yet_may_change(toolkit: Toolkit) -> None:
    written(load_plan(written()).text, "all/experiment.yaml")
    done = toolkit("experiment", written("base: small.yaml\nseeds: [3]\nevaluation_episodes: 1\n"), "--out", "all")
    assert done.status == 0, done.err


def test_no_other_process_can_train_in_the_directory_once_it_was_looked_at(toolkit: Toolkit) -> None:
    Path("own.py").write_text(OTHER)  # another, while the variants are tried
    done = toolkit(
        "experiment", written("base: small.yaml\nseeds: 1\nvariants: {a: {env.wrappers: [./own.py:Other]}}\n")
    )
    assert done.status == 2
    assert "experiments/both: another process trains in it" in done.err
    assert not Path("experiments").exists()


def test_a_job_refuses_a_directory_with_a_run_of_another_config(finished: Path) -> None:
    config = load_plan(written(EXPERIMENT.replace("200", "201"))).runs()[1].config.to_document().data
    with pytest.raises(RunError, match=r"holds a run of another config: .*timesteps was 200 and is now 201\n"):
        run_job(finished / "clip/seed-0", config, 3)


def test_a_directory_with_something_else_in_it_is_refused(toolkit: Toolkit) -> None:
    written("mine", "all/notes.txt")
    done = toolkit("experiment", written(), "--out", "all")
    assert (done.status, done.out) == (2, "")
    assert "all: is not empty, and is not an experiment" in done.err
    assert files_in(Path("all")) == {"notes.txt"}


def test_a_second_one_in_the_same_directory_is_refused(finished: Path, toolkit: Toolkit) -> None:
    (finished / "clip/seed-0/evaluation.json").unlink()
    before = contents(finished)
    with lock_directory(finished, "is there"):
        done = toolkit("experiment", "both.yaml", "--out", "all")
    assert (done.status, done.out) == (2, "")
    assert "all: another process trains in it" in done.err
    assert contents(finished) == before


def test_a_place_that_cannot_be_written_to_is_refused(toolkit: Toolkit) -> None:
    done = toolkit("experiment", written(), "--out", "small.yaml/all")
    assert (done.status, done.out) == (2, "")
    assert "small.yaml/all: cannot be" in done.err
