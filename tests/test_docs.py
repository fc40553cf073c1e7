"""README and docs/ are true: links, commands, YAML, Python, names and defaults."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel
from support import PROJECT

import toolkit
import toolkit.testing
from toolkit.cli.app import app
from toolkit.cli.shared import EXIT_CRITERION_NOT_MET
from toolkit.config.load import load_config
from toolkit.config.registry import KINDS, find
from toolkit.config.schema import RunConfig
from toolkit.experiments.config import ExperimentConfig, load_plan
from toolkit.reports.gallery_entry import GalleryEntry
from toolkit.training.trainer import dry_run
from toolkit.tuning.config import TuningConfig, load_tuning
from toolkit.utils.errors import ToolkitError

DOCS = PROJECT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [
    *(PROJECT / name for name in ("README.md", "README.ja.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    PROJECT / "BENCHMARKS.md",
    *sorted(DOCS.rglob("*.md")),
]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
OLD_RUN = PROJECT / "tests" / "data" / "runs_0_1_0" / "double_dqn_finished"
EXTRAS = {"ale_py": "ale_py", "name: mlflow": "mlflow", "name: wandb": "wandb", "search:": "optuna"}
BLOCK = re.compile(
    r"(?P<mark><!-- not (?:run|checked).*? -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
COMMANDS: Any = typer.main.get_command(app)


class Block(NamedTuple):
    """A block of code on a page; ``is_checked`` is false if a comment above it gives a reason."""

    language: str
    text: str
    is_checked: bool


def blocks(page: Path, *languages: str) -> list[Block]:
    matches = BLOCK.finditer(page.read_text(encoding="utf-8"))
    all_blocks = (Block(match["language"], match["text"], not match["mark"]) for match in matches)
    return [block for block in all_blocks if block.language in languages]


def pages_with(language: str) -> pytest.MarkDecorator:
    """Return the pages to run a test on; test_readme.py says that both READMEs have the same blocks."""
    pages = [page for page in PAGES if blocks(page, language) and page.name != "README.ja.md"]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(PROJECT)))


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def table(page: Path, heading: str, number: int = 0) -> list[list[str]]:
    """Return the rows of a section's table, each cell without its backticks."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", prose(page), re.M | re.S)
    assert section, heading
    tables = re.findall(r"^\|.*?\|\n\|[-| ]+\|\n((?:\|.*\n?)*)", section[1], re.M)
    if not tables:
        return []
    return [
        [cell.strip().strip("`") for cell in row.strip().strip("|").split("|")] for row in tables[number].splitlines()
    ]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leaf_commands() -> Iterator[tuple[str, Any]]:
    for name, command in COMMANDS.commands.items():
        if is_group(command):
            yield from ((f"{name} {child}", command.commands[child]) for child in command.commands)
        else:
            yield name, command


def is_group(command: Any) -> bool:
    return hasattr(command, "commands")


def options_of(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "option" and "--help" not in param.opts]


@pytest.fixture
def clone(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's directory: the shipped configs, the main one cut to a short run, and a run of it."""
    shutil.copytree(PROJECT / "configs", "configs", ignore=shutil.ignore_patterns("*.gif"))
    main = Path("configs/cartpole_ddqn.yaml")
    main.write_text(main.read_text().replace("timesteps: 100_000", "timesteps: 4_800"))
    shutil.copytree(OLD_RUN, "runs/cartpole_ddqn-1")
    monkeypatch.syspath_prepend(working_directory)
    return working_directory


@EVERY_PAGE
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


@EVERY_PAGE
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:\.ci|benchmarks|configs|examples|plugins|tests|toolkit)/[\w./-]+)`", prose(page))
    assert not [name for name in named if not (PROJECT / name).exists()]


@EVERY_PAGE
def test_commands_and_options_exist(page: Path) -> None:
    flags = {flag for _, command in leaf_commands() for option in command.params for flag in option.opts}
    flags |= {"--help", "--debug", "--version"}
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        if match := re.match(r"toolkit ([a-z][a-z0-9-]*)(?: ([a-z0-9-]+))?", span):
            command = COMMANDS.commands[match[1]]
            assert not is_group(command) or match[2] in command.commands, span
        if span.startswith(("--", "toolkit ")):
            assert {*re.findall(r"(?<!\S)--[\w-]+", span)} <= flags, span
    lines = [line for block in blocks(page, "", "console") for line in block.text.splitlines()]
    for line in lines:
        for part in line.removeprefix("$ ").split(" && "):
            words = shlex.split(part.partition(" > ")[0], comments=True)
            if words and words[0].rpartition("/")[2] == "toolkit":
                parse_arguments(words[1:])


def parse_arguments(words: list[str]) -> None:
    """Parse a command line as the program does, without running it."""
    command = COMMANDS
    while is_group(command):
        command = command.commands[words.pop(0)]
    command.make_context("toolkit", words)


@pages_with("yaml")
def test_yaml_passes_check(page: Path, clone: Path) -> None:
    for block in blocks(page, "python"):
        write_module(block.text)
    for number, block in enumerate(blocks(page, "yaml")):
        missing = [module for sign, module in EXTRAS.items() if sign in block.text and not find_spec(module)]
        if block.is_checked and not missing:
            check_yaml(block.text, Path(f"block-{number}.yaml"))


def check_yaml(text: str, file: Path) -> None:
    """Check a config, overrides of one, an experiment file, or a tuning file."""
    keys = yaml.safe_load(text).keys()
    is_part = "base" not in keys and "timesteps" not in keys and "extends" not in keys
    file.write_text(f"extends: configs/cartpole_ddqn.yaml\n{text}" if is_part else text)
    if "search" in keys:
        load_tuning(file)
    elif "base" in keys:
        load_plan(file, {"launcher": "local"})  # another one looks for its cluster
    else:
        dry_run(load_config(file))


def write_module(text: str) -> None:
    """Write a block that says which file it is."""
    if name := re.match(r"# (\w+\.py)\n", text):
        Path(name[1]).write_text(text)


@pytest.mark.filterwarnings("ignore:.*Overriding environment", "ignore:`n_steps=3` is ignored")
@pages_with("python")
def test_python_runs(page: Path, clone: Path) -> None:
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        write_module(block.text)
        if block.is_checked:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, str(page), "exec"), names)
        else:
            compile(block.text, str(page), "exec")
    for module in {path.stem for path in Path.cwd().glob("*.py")} & sys.modules.keys():
        del sys.modules[module]


def test_reward_scale_page_shows_measured_tables() -> None:
    rows = re.findall(r"^\|.*\|$", (DOCS / "explanation" / "reward-scale.md").read_text(), re.M)
    measured = (PROJECT / "benchmarks" / "results" / "rewards.md").read_text().splitlines()
    assert rows
    assert not [row for row in rows if row not in measured]


def test_index_links_every_page() -> None:
    linked = re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "index.md").read_text())
    assert {*linked} == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"index.md"}


@pytest.mark.parametrize(
    ("name", "command"), [*leaf_commands()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_command_reference_lists_every_option(name: str, command: Any) -> None:
    page = REFERENCE / "commands.md"
    options = options_of(command)
    rows = {row[0].split()[0]: row for row in table(page, f"toolkit {name}")}
    assert [*rows] == [option.opts[0] for option in options]
    for option in options:
        if option.required:
            assert rows[option.opts[0]][1] == "required"
        elif not option.is_flag and option.default is not None:
            assert rows[option.opts[0]][1] == str(option.default)
    (usage,) = re.findall(rf"^## toolkit {name}\n\n`toolkit {name}([^`]*)`", page.read_text(), re.M)
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    for word, argument in zip(usage.split(), arguments, strict=True):
        assert word.strip("[].") == str(argument.metavar or argument.name).strip("[].").upper().replace(".YML", ".yml")
        assert word.startswith("[") is not argument.required
        assert word.endswith("...") is (argument.nargs == -1)
    assert f"toolkit {name}" in [re.sub(r"\[`|`\].*", "", row[0]) for row in table(page, "Commands")]


def described_keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Return every key of a file as the reference writes it, with its default."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        classes = [hint for hint in (field.annotation, *get_args(field.annotation)) if inspect.isclass(hint)]
        parts = [cls for cls in classes if issubclass(cls, BaseModel) and cls.__name__ != "ComponentConfig"]
        if parts:
            below = f"{prefix}{name}.*." if "dict" in str(field.annotation) else f"{prefix}{name}."
            keys |= {f"{prefix}{name}": "required"} if below.endswith("*.") else {}
            keys |= described_keys(parts[0], below)
        else:
            keys[f"{prefix}{name}"] = "required" if field.is_required() else written(field.default)
    return keys


def written(default: Any) -> str:
    if isinstance(default, BaseModel):
        return str(default.name)  # type: ignore[attr-defined] # a component
    return default if isinstance(default, str) else json.dumps(default)


@pytest.mark.parametrize(
    ("heading", "model"), [("Config", RunConfig), ("Experiment file", ExperimentConfig), ("Tuning file", TuningConfig)]
)
def test_key_reference_lists_every_key_with_its_default(heading: str, model: type[BaseModel]) -> None:
    rows = {row[0]: row[1] for row in table(REFERENCE / "config-keys.md", heading)}
    assert rows.pop("extends", "") == ""
    assert rows == described_keys(model) | {"name": "the file's stem"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_component_reference_lists_every_component(kind: Any) -> None:
    page = REFERENCE / "components.md"
    own = [entry for entry in entry_points(group=kind.group) if entry.dist and entry.dist.name == "sb3-toolkit"]
    rows = {row[0]: row for row in table(page, kind.name)}
    assert {name: row[2] for name, row in rows.items()} == {entry.name: "".join(entry.extras) for entry in own}
    parameters = {}
    for entry in own:
        if re.fullmatch(r"[\w.]+:\w+", rows[entry.name][1]):
            assert rows[entry.name][1] in (f"{entry.module}:{entry.attr}", "toolkit.algorithms:DoubleDQN")
        elif entry.module.startswith("toolkit_plugins") and entry.name not in ("atari", "progress"):
            if not all(find_spec(extra) for extra in entry.extras):
                pytest.skip(f"needs {entry.extras}")
            parameters |= parameters_of(entry.name, find(kind, entry.name), kind.supplied)
    parameter_rows = table(page, kind.name, 1) if parameters else []
    assert {row[0]: row[1] for row in parameter_rows} == parameters


def test_kinds_are_listed_in_order_where_they_are_named() -> None:
    commands, package = ((DOCS / page).read_text() for page in ("reference/commands.md", "howto/plugin-package.md"))
    (sentence,) = re.findall(r"`KIND` is ([^.]*)\.", commands)
    assert re.findall(r"`(\w+)`", sentence) == [*KINDS]
    assert re.findall(r"^\| `toolkit\.(\w+)` \|", package, re.MULTILINE) == [*KINDS]


def parameters_of(name: str, cls: type[Any], supplied: Any) -> dict[str, str]:
    parameters = inspect.signature(cls).parameters.values()
    return {
        f"{name}.{parameter.name}": "required" if parameter.default is parameter.empty else written(parameter.default)
        for parameter in parameters
        if parameter.name not in supplied
    }


def test_component_reference_lists_parameters_that_dqn_lacks() -> None:
    from stable_baselines3 import DQN

    from toolkit.algorithms import DoubleDQN

    added = inspect.signature(DoubleDQN).parameters
    rows = {row[0]: row[1] for row in table(REFERENCE / "components.md", "double_dqn")}
    own = {name for name in added if name not in inspect.signature(DQN).parameters} - {"args", "kwargs"}
    assert {*rows} == own | {"target_update_interval"}
    assert rows == {name: written(added[name].default) for name in rows}


def test_component_reference_lists_parameters_of_double_dqn_policies() -> None:
    from toolkit.algorithms.policies import MlpPolicy

    own = {
        name: item for name, item in inspect.signature(MlpPolicy).parameters.items() if item.kind is item.KEYWORD_ONLY
    }
    rows = {row[0]: row[1] for row in table(REFERENCE / "components.md", "policies of double_dqn")}
    assert rows == {name: written(item.default) for name, item in own.items()}


def test_component_reference_lists_defaults_of_rainbow() -> None:
    from toolkit.algorithms import Rainbow

    rows = {row[0]: row[1] for row in table(REFERENCE / "components.md", "Rainbow")}
    names = [name for name in inspect.signature(Rainbow).parameters if name not in ("policy", "env", "kwargs")]
    assert {*rows} == {*names}
    defaults = {name: inspect.signature(Rainbow).parameters[name].default for name in rows}
    documented = {name: float(rows[name]) for name in rows if not name.startswith("replay_buffer")}
    assert documented == {name: defaults[name] for name in documented}


def test_python_reference_lists_every_public_name() -> None:
    page = REFERENCE / "python-api.md"
    functions = [*table(page, "Functions"), *table(page, "Checks for plugin authors")]
    for signature, *_ in functions:
        path, _, named = signature.removesuffix(")").partition("(")
        function: Any = toolkit
        for part in path.split(".")[1:]:
            function = getattr(function, part)
        assert named.replace("*", "").split(", ") == [*inspect.signature(function).parameters]
    documented = {row[0].partition("(")[0] for row in [*functions, *table(page, "Classes")]}
    public = {f"toolkit.{name}" for name in toolkit.__all__}
    assert documented == public | {f"toolkit.testing.{name}" for name in toolkit.testing.__all__} - {
        "toolkit.testing.ConformanceError"
    }


def test_run_directory_reference_lists_every_file_and_key() -> None:
    page = REFERENCE / "run-directory.md"
    paths = re.findall(r"`([^`]+)`", "\n".join(row[0] for row in raw_rows(page, "Run directory")))
    tops = {path.partition("/")[0] for path in paths}
    runs = [run for run in OLD_RUN.parent.iterdir() if run.is_dir()]
    assert not {path.name for run in runs for path in run.iterdir()} - tops
    result = json.loads((OLD_RUN / "result.json").read_text())
    new_keys = {
        "mean_return",
        "diagnosis",
        "success.measure",
        "success.success_rate",
        "success.greedy_value",
        "success.evaluation",
    }
    keys = {*result, *new_keys} | {f"success.{key}" for key in result["success"]}
    assert {row[0] for row in table(page, "result.json")} == keys
    evaluation = {field.name for field in dataclasses.fields(toolkit.Evaluation)}
    assert {row[0] for row in table(page, "evaluation.json, and `toolkit evaluate --json`")} == evaluation


def test_run_directory_reference_lists_every_key_of_a_gallery_entry() -> None:
    keys = {*described_keys(GalleryEntry), "criterion", "machines", "runs"}
    rows = table(REFERENCE / "run-directory.md", "Keys of an entry")
    assert {row[0] for row in rows} == keys


def raw_rows(page: Path, heading: str) -> list[list[str]]:
    """Return the rows with their backticks, for cells that list several names."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", prose(page), re.M | re.S)
    assert section
    return [line.strip("| ").split(" | ") for line in section[1].splitlines() if line.startswith("| `")]


def test_exit_code_reference_lists_every_code() -> None:
    def statuses(cls: type[ToolkitError]) -> set[int]:
        return {cls.exit_status}.union(*(statuses(subclass) for subclass in cls.__subclasses__()))

    codes = {int(row[0]) for row in table(REFERENCE / "exit-codes.md", "Exit codes")}
    assert codes == statuses(ToolkitError) | {0, EXIT_CRITERION_NOT_MET, 128 + 1, 128 + 2, 128 + 15}


def test_config_reference_lists_every_shipped_config() -> None:
    page, configs = REFERENCE / "shipped-configs.md", PROJECT / "configs"
    assert [row[0] for row in table(page, "Shipped configs")] == sorted(path.name for path in configs.glob("*.yaml"))
    experiments = sorted(f"experiments/{path.name}" for path in (configs / "experiments").glob("*.yaml"))
    assert [row[0] for row in table(page, "Experiments and searches")] == experiments


def test_glossary_has_each_term_once_in_order() -> None:
    terms = re.findall(r"^\*\*(.+?)\*\*:", (DOCS / "glossary.md").read_text(), re.M)
    assert len(terms) > 20
    assert [term.lower() for term in terms] == sorted({term.lower() for term in terms})


def test_architecture_shows_the_packages_in_layer_order() -> None:
    page = (PROJECT / "ARCHITECTURE.md").read_text()
    (picture,) = [block.text for block in blocks(PROJECT / "ARCHITECTURE.md", "") if "────" in block.text]
    layers = [re.findall(r"^  (\w+)(?: +(\w+)(?=  ))?", row, re.M)[0] for row in re.split(r"─+\n", picture)]
    contract = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert [" | ".join(filter(None, row)) for row in layers] == [
        layer for layer in contract["layers"] if "__" not in layer
    ]
    assert len(page.split()) <= 900


def test_classes_in_architecture_exist() -> None:
    names = re.findall(r"`((?:[A-Z][a-z]+){2,})`", prose(PROJECT / "ARCHITECTURE.md"))
    code = "".join(path.read_text() for path in (PROJECT / "toolkit").rglob("*.py"))
    assert names
    assert not [name for name in names if f"class {name}" not in code]


def test_doors_in_contributing_lead_to_code() -> None:
    doors = table(PROJECT / "CONTRIBUTING.md", "Where do I change ...?")
    assert len(doors) >= 10
    for _, file, name in doors:
        body = ast.parse((PROJECT / file).read_text()).body
        for part in name.split("."):
            nodes = [node for node in body if getattr(node, "name", None) == part]
            assert len(nodes) == 1, f"{file}: {name}"
            body = getattr(nodes[0], "body", [])
