"""Experiments: every variant is trained and evaluated with every seed, and continued until all runs are done."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment_files import EXPERIMENT, RUNS, read_contents, write_file, write_short_experiment
from small_runs import find_differences
from support import SMALL_CONFIG, Toolkit, files_in, toolkit_process, wait_until

from toolkit import experiment

BROKEN_WRAPPERS = """\
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
POLES = """\
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Bottomless(CartPoleEnv):
    def step(self, action):
        observation, _, *ends = super().step(action)
        return observation, -float("inf"), *ends


gymnasium.register("Bottomless-v0", entry_point=Bottomless, max_episode_steps=20)
"""
BOTTOMLESS = (
    "import_modules: [./poles.py], env.id: Bottomless-v0, timesteps: 8, "
    "env.wrappers: [{name: clip_reward, params: {min_reward: -1, max_reward: 1}}]"
)


def read_result(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


# --- results --------------------------------------------------------------------------------------------------------


def test_every_variant_is_trained_and_evaluated_with_every_seed(finished: Path, toolkit: Toolkit) -> None:
    assert {path.parent.relative_to(finished).as_posix() for path in finished.glob("*/*/model.zip")} == {*RUNS}
    assert [read_result(finished / name)["timesteps"] for name in RUNS] == [160, 104, 160, 104]
    assert [read_result(finished / name)["seed"] for name in RUNS] == [0, 0, 7, 7]
    for name in RUNS[:2]:
        evaluated = toolkit("evaluate", finished / name, "--episodes", "2", "--json").out
        assert json.loads((finished / name / "evaluation.json").read_text()) == json.loads(evaluated)
    assert yaml.safe_load((finished / "clip/seed-7/config.yaml").read_text())["env"]["wrappers"]
    assert not yaml.safe_load((finished / "none/seed-7/config.yaml").read_text())["env"]["wrappers"]


def test_run_equals_training_of_its_config(finished: Path, toolkit: Toolkit) -> None:
    toolkit("train", "small.yaml", "--set", "timesteps=104", "--seed", "7", "--out", "alone")
    assert find_differences(finished / "clip/seed-7", Path("alone")) == []
    assert (finished / "clip/seed-7/config.yaml").read_text() == Path("alone/config.yaml").read_text()


def test_output_names_each_run_and_variant_with_results(toolkit: Toolkit) -> None:
    completed = toolkit("experiment", write_file(), "--set", "seeds=1")
    assert completed.status == 0, completed.err
    lines = completed.err.splitlines()
    assert lines[0] == "experiments/both: 0 of 2 runs done"
    pattern = r"(\S+): finished after (104|160) timesteps, mean greedy return \d+\.\d"
    matches = [re.fullmatch(pattern, line) for line in lines[1:]]
    assert sorted(match[1] for match in matches if match) == sorted(RUNS[:2])
    assert completed.out.startswith("done: 2 of 2 runs trained and evaluated\n")
    for variant in ("none", "clip"):
        assert re.search(rf"^{variant} +1 of 1 +0 +not reached +\d+\.\d$", completed.out, re.MULTILINE)
    assert "  experiment  experiments/both\n" in completed.out
    assert completed.out.endswith("toolkit report experiments/both\n")


def test_line_of_run_has_its_diagnosis(finished: Path, toolkit: Toolkit) -> None:
    run = finished / "clip/seed-0"
    (run / "evaluation.json").unlink()
    (run / "result.json").write_text(json.dumps(read_result(run) | {"diagnosis": "training did not learn: why"}))
    completed = toolkit("experiment", "both.yaml", "--out", "all")
    assert completed.err.endswith("; training did not learn: why\n")


def test_quiet_prints_only_directory_and_failures(finished: Path, toolkit: Toolkit) -> None:
    (finished / "clip/seed-0/evaluation.json").unlink()
    completed = toolkit("experiment", "both.yaml", "--quiet", "--out", "all")
    assert (completed.status, completed.out, completed.err) == (0, "all\n", "")
    (finished / "clip/seed-0/result.json").write_text("{")
    failed = toolkit("experiment", "both.yaml", "--quiet", "--out", "all")
    assert (failed.status, failed.out) == (1, "all\n")
    assert failed.err.startswith("failed: clip/seed-0: all/clip/seed-0/result.json: is damaged")


def test_python_function_runs_experiment_with_overrides() -> None:
    completed = experiment(write_file(), "out", seeds=[7], variants={"clip": {"timesteps": 104}})
    assert (completed.directory, completed.failed, completed.stopped_by) == (Path("out"), {}, None)
    assert files_in(Path("out")) >= {"experiment.yaml", "clip/seed-7/model.zip", "clip/seed-7/evaluation.json"}


# --- continue -------------------------------------------------------------------------------------------------------


def test_second_call_adds_new_runs_and_repeats_none(finished: Path, toolkit: Toolkit) -> None:
    before = read_contents(finished)
    file = write_file(EXPERIMENT.replace("seeds: [0, 7]", "  third: {timesteps: 8}\nseeds: [7, 0]"))
    more = toolkit("experiment", file, "--out", "all")
    assert more.err.splitlines()[0] == "all: 4 of 6 runs done"
    after = read_contents(finished)
    assert {name: after[name] for name in before if "/" in name} == {
        name: before[name] for name in before if "/" in name
    }
    assert len([*finished.glob("third/*/evaluation.json")]) == 2
    again = toolkit("experiment", file, "--out", "all")
    assert (again.status, again.err) == (0, "all: 6 of 6 runs done\n")


def test_missing_or_other_evaluation_is_repeated_without_training(finished: Path, toolkit: Toolkit) -> None:
    models = {path: path.stat().st_mtime_ns for path in finished.glob("*/*/model.zip")}
    (finished / "clip/seed-0/evaluation.json").unlink()
    missing = toolkit("experiment", "both.yaml", "--out", "all")
    assert [line.partition(":")[0] for line in missing.err.splitlines()[1:]] == ["clip/seed-0"]
    toolkit("experiment", "both.yaml", "--set", "evaluation_episodes=1", "--out", "all")
    assert {json.loads(path.read_text())["episodes"] for path in finished.glob("*/*/evaluation.json")} == {1}
    assert {path: path.stat().st_mtime_ns for path in models} == models


def test_killed_run_resumes_exactly_from_its_snapshot(toolkit: Toolkit) -> None:
    write_file(SMALL_CONFIG + "snapshots: {every_timesteps: 40}\n", "small.yaml")
    file = write_short_experiment("base: small.yaml\nvariants: {a: {timesteps: 152}}\nseeds: [7]\n")
    toolkit("experiment", file, "--out", "all")
    run = Path("all/a/seed-7")
    shutil.copytree(run, "uninterrupted")
    for name in ("model.zip", "result.json", "evaluation.json"):
        (run / name).unlink()
    snapshots = read_contents(run / "snapshots")
    completed = toolkit("experiment", file, "--out", "all")
    assert completed.status == 0, completed.err
    assert completed.err.splitlines()[1].startswith("a/seed-7: finished after 152")
    assert find_differences(run, Path("uninterrupted")) == []
    assert read_contents(run / "snapshots") == snapshots, "no snapshot is written again"


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_failed_run_stops_no_other_and_is_tried_again(toolkit: Toolkit) -> None:
    Path("own.py").write_text(BROKEN_WRAPPERS)
    wrappers = {"raises": "[./own.py:Raises]", "dies": "[./own.py:Dies]", "works": "[]"}
    variants = "".join(f"  {name}: {{env.wrappers: {value}, timesteps: 100}}\n" for name, value in wrappers.items())
    file = write_file(f"base: small.yaml\nvariants:\n{variants}seeds: 2\nevaluation_episodes: 1\n", "x.yaml")
    completed = toolkit("experiment", file, "--set", "seeds=1")
    assert completed.status == 1
    for text in (completed.err, completed.out):
        assert re.search(r"raises/seed-0: .*training failed at timestep 0: RuntimeError: no more .*own.py", text)
        assert re.search(r"dies/seed-0: .*its process was killed by SIGKILL", text)
    assert completed.out.startswith("failed: 1 of 3 runs trained and evaluated\n")
    assert "toolkit experiment x.yaml --set seeds=1\n" in completed.out
    assert "no more" in Path("experiments/x/raises/log-seed-0.txt").read_text()
    assert not [*Path("experiments/x/works").glob("log-*")]
    Path("own.py").write_text(BROKEN_WRAPPERS.replace('raise RuntimeError("no more")', "return super().step(action)"))
    again = toolkit("experiment", file, "--set", "seeds=1")
    assert {line.partition(": ")[0] for line in again.err.splitlines()[1:]} == {"raises/seed-0", "dies/seed-0"}
    assert read_result(Path("experiments/x/raises/seed-0"))["status"] == "finished"
    recorded = json.loads(Path("experiments/x/raises/seed-0/environment.json").read_text())["code"]
    assert recorded[str(Path("own.py").resolve())] == sha256(Path("own.py").read_bytes()).hexdigest()


DAMAGE: dict[str, dict[str, str | None]] = {
    "result.json: is damaged": {"result.json": "{}{"},
    "config.yaml:1: is not valid YAML": {"config.yaml": "{"},
    "has no config.yaml": {"config.yaml": None},
    "has no model.zip": {"model.zip": None, "evaluation.json": None},
    "is not a run directory": {".": "a file"},
    "cannot be created": {"..": "a file"},
}


def damage(run: Path, files: dict[str, str | None]) -> None:
    for path in (Path(os.path.normpath(run / name)) for name in files):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if text := files.get(os.path.relpath(path, run)):
            path.write_text(text)


def test_damaged_run_fails_alone_with_hint(finished: Path, toolkit: Toolkit) -> None:
    variants = {f"v{number}": files for number, files in enumerate(DAMAGE.values())}
    text = "base: small.yaml\nvariants:\n" + "".join(f"  {name}: {{timesteps: 8}}\n" for name in variants)
    file = write_short_experiment(f"{text}  whole: {{timesteps: 8}}\nseeds: 1\n", "many.yaml")
    for name in (*variants, "whole"):
        run = Path(shutil.copytree(finished / "clip/seed-0", f"many/{name}/seed-0"))
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("timesteps: 104", "timesteps: 8"))
    shutil.copy(finished / "experiment.yaml", "many")
    Path("many/whole/seed-0/evaluation.json").write_text("{")
    for name, files in variants.items():
        damage(Path(f"many/{name}/seed-0"), files)
    completed = toolkit("experiment", file, "--out", "many")
    assert (completed.status, "Traceback" in completed.err) == (1, False)
    assert completed.out.startswith("failed: 1 of 7 runs trained and evaluated\n")
    lines = {line.partition("/")[0]: line for line in completed.err.splitlines()[1:]}
    for name, message in zip(variants, DAMAGE, strict=True):
        assert message in lines[name]
        assert "cannot be" in message or f"remove many/{name}/seed-0 to train the run again" in lines[name]
    assert lines["whole"].startswith("whole/seed-0: finished after 104 timesteps, mean greedy return ")
    shutil.rmtree("many/v2/seed-0")
    again = toolkit("experiment", file, "--out", "many")
    assert "v2/seed-0: finished after 8 timesteps" in again.err


@pytest.mark.filterwarnings("ignore:.*The reward is an inf value")
def test_run_with_infinite_return_fails_alone(toolkit: Toolkit, caplog: pytest.LogCaptureFixture) -> None:
    Path("poles.py").write_text(POLES)
    file = write_short_experiment(
        f"base: small.yaml\nvariants: {{infinite: {{{BOTTOMLESS}}}, good: {{timesteps: 60}}}}\nseeds: 1\n"
    )
    for _ in range(2):
        completed = toolkit("experiment", file)
        assert (completed.status, "Traceback" in completed.err) == (1, False), completed.err
        assert "infinite/seed-0: failed: the environment returns rewards whose sum" in completed.err
        assert completed.out.startswith("failed: 1 of 2 runs trained and evaluated\n")
    reported = toolkit("report", "experiments/x", "--evaluate")
    assert reported.status == 0
    assert "infinite/seed-0 cannot be evaluated: the environment returns rewards whose sum" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("free_bytes", "status"), [(0, 2), (40 << 10, 1)])
def test_full_disk_fails_runs_until_there_is_space(
    free_bytes: int, status: int, finished: Path, disk: Path, toolkit: Toolkit
) -> None:
    directory = Path(shutil.copytree(finished, disk / "both"))
    file = write_file(EXPERIMENT.replace("7]", "7, 9]"))
    before = {name: content for name, content in read_contents(directory).items() if "/" in name}
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as filler_file:
        while filler_file.write(bytes(4096)):
            pass
    os.truncate(filler, filler.stat().st_size - free_bytes)
    full = toolkit("experiment", file, "--out", directory)
    assert full.status == status
    assert "No space left on device" in full.err
    assert "Traceback" not in full.err
    filler.unlink()
    completed = toolkit("experiment", file, "--out", directory)
    assert completed.status == 0, completed.err
    assert completed.out.startswith("done: 6 of 6 runs trained and evaluated\n")
    assert {name: content for name, content in read_contents(directory).items() if name in before} == before


# --- stop -----------------------------------------------------------------------------------------------------------

LONG = """\
base: small.yaml
variants: {a: {timesteps: 1_000_000, algorithm.params.compile: false, snapshots.every_minutes: null}}
seeds: 3
evaluation_episodes: 1
launcher: {name: local, params: {workers: 2}}
"""


@pytest.mark.slow
def test_ctrl_c_saves_running_jobs_and_prints_command_to_continue() -> None:
    write_file(LONG, "long.yaml")
    runs = [Path(f"experiments/long/a/seed-{seed}") for seed in (0, 1)]
    with toolkit_process(["experiment", "long.yaml"], session=True) as process:
        wait_until(lambda: all((run / "monitor.csv").exists() for run in runs))
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert [read_result(run)["status"] for run in runs] == ["interrupted"] * 2
    assert len([*Path("experiments/long").glob("*/*/snapshots/[0-9]*")]) == 2
    assert "Traceback" not in err
    assert out.startswith("interrupted: 0 of 3 runs trained and evaluated\n")
    assert "toolkit experiment long.yaml\n" in out
