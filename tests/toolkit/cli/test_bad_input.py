"""Bad input exits with status 2, a message with its location, and nothing written."""

from __future__ import annotations

import csv
import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from support import SMALL_CONFIG, Finished, Toolkit, files_in

from toolkit import Run
from toolkit.algorithms.double_dqn import DoubleDQN

FAILING_CONSTRUCTORS = """\
import gymnasium
from stable_baselines3.common.callbacks import BaseCallback

class Wrapper(gymnasium.Wrapper):
    def __init__(self, env):
        raise RuntimeError("no wrapper today")

class Callback(BaseCallback):
    def __init__(self):
        raise RuntimeError("no callback today")

    def _on_step(self):
        return True
"""


class Case(NamedTuple):
    """A bad config, or bad arguments to ``toolkit train`` beside a good one.

    :param message: start of the message if it has a location, or a part of it
    :param also: another part of the message: the suggestion, the exception
    :param old: text in the small config that is replaced
    :param new: its replacement
    :param arguments: arguments after ``toolkit train small.yaml``
    :param files: other files
    """

    message: str
    also: str = ""
    old: str = ""
    new: str = ""
    arguments: str = ""
    files: dict[str, str | bytes] = {}


def whole_file(content: str | bytes, message: str, also: str = "") -> Case:
    return Case(message, also, files={"small.yaml": content})


CONFIGS = {
    "a misspelled key": Case(
        "small.yaml:1: timestep: unknown key", "did you mean 'timesteps'?", "timesteps", "timestep"
    ),
    "a misspelled nested key": Case(
        "small.yaml:5: env.n_env: unknown key", "did you mean 'n_envs'?", "n_envs", "n_env"
    ),
    "a wrong type": Case("small.yaml:1: timesteps: should be a whole number, not 'many'", "", "300", "many"),
    "a wrong type of a parameter": Case(
        "small.yaml:11: algorithm.params.gamma: should be float, not '32'",
        "",
        "{learning_rate",
        "{gamma: '32', learning_rate",
    ),
    "a missing key": Case("small.yaml:1: timesteps: required key is missing", "", "timesteps: 300", "seed: 1"),
    "a missing parameter": Case(
        "small.yaml:15: callbacks.0.params.threshold: required parameter is missing", "", "threshold: 195, ", ""
    ),
    "a misspelled parameter": Case(
        "small.yaml:8: env.wrappers.0.params.sucess_steps: unknown parameter",
        "did you mean 'success_steps'?",
        "{success",
        "{sucess",
    ),
    "an unknown environment": Case(
        "small.yaml:3: env.id: environment 'CartPol-v1' does not exist",
        "did you mean 'CartPole-v1'?",
        "CartPole",
        "CartPol",
    ),
    "an unknown version of an environment": Case(
        "small.yaml:3: env.id: environment 'CartPole-v9' does not exist",
        "registered versions: CartPole-v0, CartPole-v1",
        "CartPole-v1",
        "CartPole-v9",
    ),
    "an environment of an absent module": Case(
        "small.yaml:3: env.id: 'no_such:X-v0' cannot be made",
        "module 'no_such' does not exist",
        "CartPole-v1",
        "no_such:X-v0",
    ),
    "an unknown wrapper": Case(
        "small.yaml:7: env.wrappers.0.name: wrapper 'terminal_reward' does not exist",
        "did you mean 'terminal_reward_clip'?",
        "terminal_reward_clip",
        "terminal_reward",
    ),
    "an unknown algorithm": Case(
        "small.yaml:10: algorithm.name: algorithm 'duble_dqn' does not exist",
        "did you mean 'double_dqn'?",
        "double_",
        "duble_",
    ),
    "an unknown callback": Case(
        "small.yaml:14: callbacks.0.name: callback 'sucess' does not exist",
        "did you mean 'success'?",
        "name: succ",
        "name: suc",
    ),
    "an unknown policy": Case(
        "small.yaml:11: algorithm.policy: double_dqn has no policy 'MlpPolcy'",
        "did you mean 'MlpPolicy'?",
        "  params: {learning",
        "  policy: MlpPolcy\n  params: {learning",
    ),
    "a callback in a wrapper's place": Case(
        "small.yaml:7: env.wrappers.0.name: 'toolkit_plugins.success:MeanReturnSuccess' is not a valid wrapper",
        "it should be a subclass of gymnasium.Wrapper",
        "terminal_reward_clip",
        "toolkit_plugins.success:MeanReturnSuccess",
    ),
    "a function in a wrapper's place": Case(
        "small.yaml:7: env.wrappers.0.name: 'os:system' is not a valid wrapper",
        "",
        "terminal_reward_clip",
        "os:system",
    ),
    "unknown parameters of the environment": Case(
        "small.yaml:3: env.params.gravty: unknown parameter",
        "known: sutton_barto_reward",
        "  id: CartPole-v1",
        "  params: {gravty: 1}\n  id: CartPole-v1",
    ),
    "an algorithm that cannot act in the environment": Case(
        "small.yaml:10: algorithm.name: 'double_dqn' cannot act in Pendulum-v1",
        "Discrete",
        SMALL_CONFIG[SMALL_CONFIG.index("  id") : SMALL_CONFIG.index("algorithm")],
        "  id: Pendulum-v1\n\n\n\n\n\n",
    ),
    "an absent plugin file": Case(
        "small.yaml:7: env.wrappers.0.name: file ", "mine.py", "terminal_reward_clip", "./mine.py:Mine"
    ),
    "a plugin file that raises": Case(
        "small.yaml:7: env.wrappers.0.name: importing",
        "ZeroDivisionError: division by zero",
        "terminal_reward_clip",
        "./mine.py:Mine",
        files={"mine.py": "1 / 0\n"},
    ),
    "a plugin file that exits": Case(
        "small.yaml:7: env.wrappers.0.name: importing",
        "SystemExit",
        "terminal_reward_clip",
        "./mine.py:Mine",
        files={"mine.py": "import sys\nsys.exit()\n"},
    ),
    "a wrapper that cannot be built": Case(
        "small.yaml:7: env.wrappers.0: ",
        "cannot be built: RuntimeError: no wrapper today",
        "terminal_reward_clip\n      params: {success_steps: 195}",
        "./failing.py:Wrapper",
        files={"failing.py": FAILING_CONSTRUCTORS},
    ),
    "a callback that cannot be built": Case(
        "small.yaml:14: callbacks.0: ",
        "cannot be built: RuntimeError: no callback today",
        "success\n    params: {threshold: 195, episodes: 10}",
        "./failing.py:Callback",
        files={"failing.py": FAILING_CONSTRUCTORS},
    ),
    "a callback that refuses its parameters": Case(
        "small.yaml:15: callbacks.0.params.episodes: 'success' cannot be built",
        "episodes must be at least 1, not 0",
        "episodes: 10",
        "episodes: 0",
    ),
    "an algorithm that refuses its parameters": Case(
        "small.yaml:11: algorithm.params.train_freq: 'double_dqn' cannot be built",
        "",
        "{learning_rate",
        "{train_freq: [1, hour], learning_rate",
    ),
    "a buffer larger than memory": Case(
        "small.yaml:9: algorithm: 'double_dqn' does not fit into this machine's memory of ",
        "reduce what sizes it: buffer_size, ",
        "1_000,",
        "1_000_000_000_000,",
    ),
    "a network larger than memory": Case(
        "small.yaml:9: algorithm: 'double_dqn' does not fit into this machine's memory of ",
        "reduce what sizes it: ",
        "[16, 16]",
        "[1_000_000, 1_000_000]",
    ),
    "a wrapper larger than memory": Case(
        "small.yaml:7: env.wrappers.0: 'gymnasium.wrappers:FrameStackObservation' does not fit into this machine's",
        "",
        "terminal_reward_clip\n      params: {success_steps: 195}",
        "gymnasium.wrappers:FrameStackObservation\n      params: {stack_size: 1_000_000_000_000}",
    ),
    "too many environments": Case(
        "small.yaml:5: env.n_envs: should be less than or equal to 10000, not 1000000000",
        "",
        "n_envs: 2",
        "n_envs: 1e9",
    ),
    "too many timesteps": Case("small.yaml:1: timesteps: should be ", "", "300", "9" * 30),
    "a key with terminal escapes": Case("small.yaml:1: \\x1b[2J\\n: unknown key", "", "t", '"\\e[2J\\n": 1\nt'),
    "an escape outside of Unicode": Case("small.yaml:1: is not valid YAML: ", "", "300", r'"\UFFFFFFFF"'),
    "an escape of a lone surrogate": Case("small.yaml:1: an escape gives half of", "", "300", r'"\ud800"'),
    "an attribute of a number": Case(
        "small.yaml:7: env.wrappers.0.name: 'math' has no 'pi.x.y'", "", "terminal_reward_clip", '"math:pi.x.y"'
    ),
    "a base that is a directory": Case("small.yaml:1: extends: file ", "", "t", "extends: .\nt"),
    "two success criteria": Case(
        "small.yaml:13: callbacks: a run has at most one success criterion",
        "",
        "callbacks:\n",
        "callbacks:\n  - name: success\n    params: {threshold: 1}\n",
    ),
    "a negative seed": Case(
        "small.yaml:1: seed: should be greater than or equal to 0, not -1", "", "t", "seed: -1\nt"
    ),
    "an empty file": whole_file("", "small.yaml: is empty", "write at least timesteps, env.id and algorithm.name"),
    "a list": whole_file("- timesteps\n", "small.yaml:1: must be a mapping of keys to values"),
    "binary data": whole_file(b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "small.yaml:1: is not UTF-8 text"),
    "zeros": whole_file(bytes(1000), "small.yaml:1: is not text"),
    "a huge file": whole_file("# too long\n" * 100_000, "small.yaml: is larger than 1 MiB"),
    "broken YAML": whole_file("timesteps: [1\n", "small.yaml:2: is not valid YAML"),
    "a YAML tag": whole_file(
        "timesteps: !!python/object/apply:os.mkdir [left]\n", "small.yaml:1: ", "YAML tags are not read"
    ),
    "a YAML alias": whole_file("a: &a [x]\nb: *a\n", "small.yaml:1: 'a': anchors and aliases are not read", "extends"),
    "a duplicate key": whole_file("seed: 1\nseed: 2\n", "small.yaml:2: seed: duplicate key, first given in line 1"),
    "endless nesting": whole_file("[" * 5000, "small.yaml:1: is nested more than 40 levels deep"),
    "an endless number": Case("small.yaml:1: timesteps: ", "", "300", f"0x{'f' * 9999}"),
    "circular extends": Case(
        "other.yaml:1: extends: is circular",
        "small.yaml",
        "timesteps: 300",
        "extends: other.yaml",
        files={"other.yaml": "extends: small.yaml\n"},
    ),
    "an absent base": Case("small.yaml:1: extends: file base.yaml does not exist", "", "t", "extends: base.yaml\nt"),
    "an override without =": Case("--set nonsense: ", "dotted.path=value", arguments="--set nonsense"),
    "an override of an unknown key": Case("--set a.b.c=1: a: unknown key", arguments="--set a.b.c=1"),
    "an override beyond a list": Case(
        "--set env.wrappers.7=clip_reward: ", "is a list of 1", arguments="--set env.wrappers.7=clip_reward"
    ),
    "an override with a wrong value": Case("--set seed=x: seed: ", "whole number", arguments="--set seed=x"),
    "an override with endless nesting": Case(
        "is nested more than 40 levels deep", arguments=f"--set {'a.' * 2000}a=1"
    ),
    "an override with a huge index": Case(": env.wrappers.000", arguments=f"--set env.wrappers.{'0' * 5000}=x"),
    "an override with an odd digit": Case("--set env.wrappers.²=x: ", arguments="--set env.wrappers.²=x"),
    "an override with a number for a key": Case(
        "--set env.params.0=1: env.params.0", arguments="--set env.params.0=1"
    ),
    "a negative seed as an option": Case("'--seed'", "greater than or equal to 0", arguments="--seed -1"),
    "a seed that is too large": Case("seed: should be less than 4294967296", arguments="--seed 4294967296"),
    "a run directory that is not empty": Case(
        "error: taken: is not empty", "--out", arguments="--out taken", files={"taken/notes.txt": "mine"}
    ),
    "a run directory that is a file": Case(
        "error: taken: is not a directory", "--out", arguments="--out taken", files={"taken": "mine"}
    ),
    "a run directory below a file": Case(
        "error: taken/run: cannot be created: Not a directory",
        "--out",
        arguments="--out taken/run",
        files={"taken": "mine"},
    ),
    "a run directory with a name too long": Case(
        f"{'x' * 300}: cannot be created", "--out", arguments=f"--out {'x' * 300}"
    ),
    "success required without a criterion": Case(
        "error: small.yaml: --require-success needs a success criterion",
        "add the callback 'success'",
        SMALL_CONFIG[SMALL_CONFIG.index("callbacks") :],
        "",
        arguments="--require-success",
    ),
}


@pytest.mark.parametrize("case", CONFIGS.values(), ids=CONFIGS)
def test_train_refuses_bad_config_and_writes_nothing(case: Case, toolkit: Toolkit, working_directory: Path) -> None:
    assert case.old in SMALL_CONFIG
    for name, content in {"small.yaml": SMALL_CONFIG.replace(case.old, case.new, 1), **case.files}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    files = list_everything(working_directory)

    finished = toolkit("train", "small.yaml", *case.arguments.split())

    assert_refused(finished, case.message, case.also)
    assert list_everything(working_directory) == files


OTHER_COMMANDS = {
    "evaluate an absent path": ("evaluate absent", "error: absent: does not exist"),
    "evaluate a path too long": (f"evaluate {'x' * 300}", f"error: {'x' * 300}: "),
    "evaluate a directory that is no run": ("evaluate .", "error: .: is not a run directory"),
    "evaluate a file": ("evaluate notes.txt", "error: notes.txt: is not a run directory"),
    "evaluate without any run": ("evaluate", "error: runs/: has no run yet"),
    "evaluate no episodes": ("evaluate . --episodes 0", "'--episodes'"),
    "record an absent path": ("record absent", "error: absent: does not exist"),
    "record a directory that is no run": ("record .", "error: .: is not a run directory"),
    "record without any run": ("record", "error: runs/: has no run yet"),
    "record in an unknown format": ("record . --format avi", "'--format'"),
    "check an absent file": ("check absent.yaml", "absent.yaml: cannot be read: No such file or directory"),
    "check a directory": ("check .", ".: is not a file"),
    "train an absent file": ("train absent.yaml", "absent.yaml: cannot be read: No such file or directory"),
    "train a directory": ("train .", ".: is not a file"),
    "train nothing": ("train", "CONFIG"),
    "an unknown command": ("trian", "'train'"),
    "an unknown option": ("train notes.txt --sed 1", "--se"),
    "an unknown kind": ("plugins wraper", "kind 'wraper' does not exist\ndid you mean 'wrappers'?"),
    "an unknown kind and name": ("plugins wraper x", "kind 'wraper' does not exist\ndid you mean 'wrappers'?"),
    "an unknown name": (
        "plugins wrappers clip_rewad",
        "wrapper 'clip_rewad' does not exist\ndid you mean 'clip_reward'?",
    ),
    "a name of another kind": ("plugins wrappers success", "wrapper 'success' does not exist\nknown: "),
    "a path to another kind": ("plugins wrappers os:system", "'os:system' is not a valid wrapper"),
}


@pytest.mark.parametrize(("command", "message"), OTHER_COMMANDS.values(), ids=OTHER_COMMANDS)
def test_command_refuses_bad_arguments_and_writes_nothing(
    command: str, message: str, toolkit: Toolkit, working_directory: Path
) -> None:
    Path("notes.txt").write_text("timesteps: 1\n")
    files = list_everything(working_directory)
    finished = toolkit(*command.split())
    assert_refused(finished, message)
    assert list_everything(working_directory) == files


def list_everything(directory: Path) -> set[Path]:
    """Return every path below a directory, except compiled Python."""
    return {path for path in directory.rglob("*") if path.name != "__pycache__" and path.suffix != ".pyc"}


def assert_refused(finished: Finished, *fragments: str) -> None:
    assert finished.status == 2, finished.out + finished.err
    assert finished.out == ""
    assert "Traceback" not in finished.err
    for fragment in fragments:
        assert fragment in finished.err
    if ".yaml:" in fragments[0] or fragments[0].startswith(("--set", "error: ")):
        assert any(line.startswith(fragments[0]) for line in finished.err.splitlines())


# --- damaged runs ----------------------------------------------------------------------------------------------------


def zipped(**files: bytes) -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.pth", data)
    return content.getvalue()


DAMAGE = {
    "absent": None,
    "empty": b"",
    "random bytes": bytes((7 * n * n + 3) % 251 for n in range(5000)),
    "truncated to a half": 0.5,
    "without its last bytes": 0.99,
    "an empty zip": zipped(),
    "a zip of something else": zipped(other=b"x"),
    "a zip without weights": zipped(policy=b"x" * 100),
    "a zip of a pickle that calls a function": zipped(policy=b"cos\nmkdir\n(S'left'\ntR."),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_model_is_refused_and_left_unchanged(
    damage: bytes | float | None, run_copy: Run, toolkit: Toolkit, working_directory: Path
) -> None:
    model = run_copy.directory / "model.zip"
    content = model.read_bytes()
    if damage is None:
        model.unlink()
    else:
        model.write_bytes(content[: int(len(content) * damage)] if isinstance(damage, float) else damage)
    files = list_everything(working_directory)
    for command in ("evaluate", "record"):
        finished = toolkit(command, "run")
        fragment = "error: run: has no model.zip" if damage is None else "error: run/model.zip: "
        assert_refused(finished, fragment)
        assert list_everything(working_directory) == files


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "run/config.yaml: is empty"), ("timestep: 1\n", "run/config.yaml:1: timestep: unknown key")],
)
def test_damaged_config_is_refused(content: str, message: str, run_copy: Run, toolkit: Toolkit) -> None:
    (run_copy.directory / "config.yaml").write_text(content)
    finished = toolkit("evaluate", "run")
    assert_refused(finished, message)


def test_model_that_does_not_fit_config_is_refused(run_copy: Run, toolkit: Toolkit) -> None:
    config = run_copy.directory / "config.yaml"
    config.write_text(config.read_text().replace("[16, 16]", "[8]"))
    finished = toolkit("evaluate", "run")
    assert_refused(finished, "error: run/model.zip: does not fit the run's config.yaml: ")


# --- several mistakes ------------------------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once(toolkit: Toolkit) -> None:
    Path("wrong.yaml").write_text("""\
sed: 1
timesteps: 0
env:
  id: CartPol-v1
  wrappers:
    - name: terminal_reward_clip
      params: {sucess_steps: 195}
algorithm:
  name: double_dqn
  policy: MlpPolcy
  params: {learning_rate: fast, batch_size: 32.5}
callbacks:
  - name: success
""")
    finished = toolkit("train", "wrong.yaml")
    assert (finished.status, finished.out) == (2, "")
    assert [line.split(" ")[:2] for line in finished.err.splitlines()] == [
        ["wrong.yaml:1:", "sed:"],
        ["wrong.yaml:2:", "timesteps:"],
        ["wrong.yaml:4:", "env.id:"],
        ["wrong.yaml:7:", "env.wrappers.0.params.sucess_steps:"],
        ["wrong.yaml:10:", "algorithm.policy:"],
        ["wrong.yaml:11:", "algorithm.params.learning_rate:"],
        ["wrong.yaml:11:", "algorithm.params.batch_size:"],
        ["wrong.yaml:13:", "callbacks.0.params.threshold:"],
    ]


# --- failing runs ----------------------------------------------------------------------------------------------------

FAILING_ENV = """\
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Failing(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 500:
            raise RuntimeError("the motor is stuck")
        return super().step(action)

gymnasium.register("Failing-v0", Failing, max_episode_steps=200)
"""


def test_env_that_raises_midway_leaves_complete_failed_run(
    toolkit: Toolkit, config_file: Path, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("failing_env_of_a_test.py").write_text(FAILING_ENV)
    monkeypatch.syspath_prepend(working_directory)
    overrides = ["env.id=failing_env_of_a_test:Failing-v0", "env.n_envs=1", "timesteps=5000", "seed=3"]
    finished = toolkit(
        "train", config_file, "--out", "run", *(word for override in overrides for word in ("--set", override))
    )

    assert finished.status == 1
    assert "Traceback" not in finished.out + finished.err
    assert "error: training failed at timestep 499: RuntimeError: the motor is stuck" in finished.err
    assert f"{working_directory}/failing_env_of_a_test.py:10" in finished.err
    assert "the traceback is in run/traceback.txt" in finished.err
    assert "RuntimeError: the motor is stuck" in Path("run/traceback.txt").read_text()

    result = json.loads(Path("run/result.json").read_text())
    assert (result["status"], result["seed"], result["timesteps"]) == ("failed", 3, 499)
    assert json.loads(Path("run/environment.json").read_text())["versions"]
    for name, comment_lines in (("monitor.csv", 1), ("progress.csv", 0)):
        lines = Path("run", name).read_text().splitlines()[comment_lines:]
        header, *rows = csv.reader(lines)
        assert rows
        assert {len(row) for row in rows} == {len(header)}
    assert result["episodes"] == len(Path("run/monitor.csv").read_text().splitlines()) - 2
    assert DoubleDQN.load("run/model.zip").num_timesteps == 499
    assert not [name for name in files_in(Path("run")) if name.endswith(".tmp") or "/." in f"/{name}"]
    assert toolkit("evaluate", "run", "--episodes", "1").status == 0
