"""The experiment file: the variants and runs that it describes, and what is refused."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment_files import EXPERIMENT, write_file
from support import PROJECT, SMALL_CONFIG, Toolkit, can_run, files_in

from toolkit.experiments.config import load_plan
from toolkit.experiments.variants import grid_labels

EXPERIMENTS = sorted((PROJECT / "configs" / "experiments").glob("*.yaml"))
WRAPPER = """\
import gymnasium


class Mine(gymnasium.Wrapper):
    pass
"""


def test_grid_is_combined_with_every_variant() -> None:
    plan = load_plan(
        write_file("""\
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


@pytest.mark.parametrize(
    ("changes", "imports_compiler"),
    [
        ("variants: {a: {algorithm.params.gamma: 0.9}}", False),
        ("variants: {a: {}, b: {algorithm: {name: ppo, policy: MlpPolicy}}}", True),
        ("grid: {algorithm: [{name: a2c, policy: MlpPolicy}, {name: ppo, policy: MlpPolicy}]}", True),
    ],
    ids=["double_dqn", "variant", "grid"],
)
def test_launcher_knows_whether_algorithms_import_compiler(changes: str, imports_compiler: bool) -> None:
    launcher = load_plan(write_file(f"base: small.yaml\n{changes}\nseeds: 1\n")).launcher
    assert [*launcher.slow_imports] == ["toolkit.evaluation.preload_compiler"] * imports_compiler


def test_single_variant_has_name_of_base() -> None:
    assert [run.name for run in load_plan(write_file("base: small.yaml\nseeds: 1\n")).runs()] == ["small/seed-0"]


def test_component_paths_are_relative_to_experiment_file() -> None:
    Path("own.py").write_text(WRAPPER)
    plan = load_plan(
        write_file("base: ../small.yaml\nvariants: {a: {env.wrappers: [../own.py:Mine]}}\nseeds: 1\n", "in/x.yaml")
    )
    assert plan.variants[0].config.env.wrappers[0].name == f"{Path.cwd()}/in/../own.py:Mine"


def test_import_modules_are_relative_to_experiment_file() -> None:
    write_file("", "in/own.py")
    base = yaml.safe_dump({**yaml.safe_load(SMALL_CONFIG), "import_modules": ["./own.py"]}, default_flow_style=True)
    text = f"base: {base}variants: {{a: {{import_modules: [./own.py]}}, b: {{}}}}\nseeds: 1\n"
    text += "grid: {import_modules.0: [./own.py]}\n"
    plan = load_plan(write_file(text, "in/x.yaml"))
    resolved_plan = load_plan(write_file(plan.text, "elsewhere/resolved.yaml"))
    for variant in (*plan.variants, *resolved_plan.variants):
        assert variant.config.import_modules == (f"{Path.cwd()}/in/own.py",)


def test_labels_of_mappings_have_no_outer_dashes() -> None:
    plan = load_plan(write_file("base: small.yaml\nseeds: 1\ngrid: {env: [{id: CartPole-v1}], env.params: [{}]}\n"))
    assert [variant.name for variant in plan.variants] == ["small,env=id-CartPole-v1,params=none"]


def test_resolved_file_describes_same_runs() -> None:
    Path("own.py").write_text(WRAPPER)
    file = write_file(
        EXPERIMENT.replace("wrappers: []", "wrappers: [./own.py:Mine]")
        + "grid: {algorithm.params.gamma: [0.9, 0.95]}\n"
    )
    plan = load_plan(file)
    resolved_plan = load_plan(write_file(plan.text, "elsewhere/resolved.yaml"))
    runs, resolved_runs = ([(run.name, run.config) for run in p.runs()] for p in (plan, resolved_plan))
    assert resolved_runs == runs
    assert (resolved_plan.name, resolved_plan.text) == ("both", plan.text)


@pytest.mark.parametrize("file", [*filter(can_run, EXPERIMENTS)], ids=lambda path: path.stem)
def test_shipped_experiment_is_valid_and_names_results(file: Path) -> None:
    assert re.search("^# (.* )?(Expect|Results): ", file.read_text(), re.MULTILINE)
    assert load_plan(file).runs()


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
    "base: small.yaml\nseeds: 1\ngrid: {seed: [5]}\n": "grid.seed: the key 'seeds' sets it",
    "base: small.yaml\nseeds: 1\ngrid: {seed.x: [5]}\n": "grid.seed.x: the key 'seeds' sets it",
    "base: small.yaml\nseeds: 1\nvariants: {a: {seed: 1}}\n": "variants.a.seed: the key 'seeds' sets it",
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
    # another name drops the parameters of the component that stood in the list
    "base: small.yaml\nseeds: 1\nvariants: {a: {env.wrappers.0.params.success_steps: 1}}\n"
    "grid: {env.wrappers.0.name: [terminal_reward_clip]}\n": (
        "bad.yaml:3: variants.a.env.wrappers.0.params.success_steps: the grid's env.wrappers.0.name replaces it; "
        "write the name first, or both as one value"
    ),
    "base: small.yaml\nseeds: 1\nlauncher: loca\n": "bad.yaml:3: launcher.name: launcher 'loca' does not exist; did",
    "base: small.yaml\nseeds: 1\nlauncher: {name: local, params: {workers: 0}}\n": (
        "bad.yaml:3: launcher.params.workers: 'local' cannot be built: ValueError: workers should be at least 1"
    ),
    # problems that only building shows, of the variants that have them
    "base: small.yaml\nseeds: 1\nvariants: {a: {}, b: {env.n_envs: 3, algorithm.params.train_freq: [1, episode]}}\n": (
        "bad.yaml:3: variants.b.algorithm.params.train_freq: is counted in episodes"
    ),
    # a problem of a value that the experiment file sets in part
    "base: small.yaml\nseeds: 1\nvariants:\n  a: {}\n  b: {algorithm.policy_params.net_arch: [-1]}\n": (
        "bad.yaml:5: variants.b.algorithm.policy_params.net_arch: 'double_dqn' cannot be built: "
    ),
    "base: base.yaml\nseeds: 1\nvariants: {a: {timesteps: 5}, b: {timesteps: 6}}\n": "base.yaml:2: tmesteps: unknown",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=[*map(str, range(len(BAD)))])
def test_bad_file_is_refused_and_leaves_no_files(text: str, message: str, toolkit: Toolkit) -> None:
    write_file(SMALL_CONFIG.replace("timesteps: 300", "timesteps: 300\ntmesteps: 300"), "base.yaml")
    write_file(SMALL_CONFIG, "report.yaml")
    before = files_in(Path())
    finished = toolkit("experiment", write_file(text, "bad.yaml"))
    assert (finished.status, finished.out) == (2, "")
    assert message in finished.err
    assert ("is empty" in finished.err) == ("is empty" in message)
    assert "Traceback" not in finished.err
    assert files_in(Path()) == before | {"bad.yaml"}
    assert not Path("experiments").exists()


def test_all_problems_are_reported_at_once(toolkit: Toolkit) -> None:
    text = "base: small.yaml\nsedes: 3\nseeds: [1, 1]\nvariants: {a: {env.wrapers: []}, b/: {}}\nlauncher: gone\n"
    lines = toolkit("experiment", write_file(text)).err.splitlines()
    assert {line.split(": ")[1] for line in lines} == {
        "sedes",
        "seeds.1",
        "variants.a.env.wrapers",
        "variants.b/",
        "launcher.name",
    }


def test_million_runs_are_refused_at_once_without_yes(toolkit: Toolkit) -> None:
    grid = "".join(f"  algorithm.params.{name}: {[*range(1, 51)]}\n" for name in ("batch_size", "gradient_steps"))
    file = write_file(f"base: small.yaml\nseeds: 400\ngrid:\n{grid}")
    start = time.process_time()
    finished = toolkit("experiment", file)
    assert time.process_time() - start < 1
    assert (finished.status, finished.err) == (
        2,
        "error: both.yaml: describes 1,000,000 runs\n--yes allows more than 1,000\n",
    )


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (
            [{"call": "/data/markets/of/the/world/market.py:load", "params": {"year": year}} for year in (1, 2)],
            ["prices=load-year-1", "prices=load-year-2"],
        ),
        (
            [
                {
                    "call": "./market.py:load_prices",
                    "params": {"market": "of the whole world", "days": 5, "year": year},
                }
                for year in (1, 2)
            ],
            ["prices=year-1", "prices=year-2"],
        ),
        ([{"per_env": ["of the first world", "of the second world", x]} for x in "ab"], ["prices=a", "prices=b"]),
    ],
)
def test_grid_labels_name_differences_of_calls(values: list[Any], labels: list[str]) -> None:
    assert grid_labels({"env.params.prices": values}) == {"env.params.prices": labels}
