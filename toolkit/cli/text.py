"""The text that commands print about components, evaluations, networks and new plugin packages."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import textwrap
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.evaluation.summary import format_command, format_next_commands, format_program_path
from toolkit.utils.text import count_decimals, format_count, format_number, format_table

if TYPE_CHECKING:
    from toolkit.cli.scaffold import Plugin
    from toolkit.config.registry import Kind
    from toolkit.evaluation.evaluate import Evaluation
    from toolkit.evaluation.networks import ModelDescription
    from toolkit.training.run_directory import RunDirectory

_TARGET_FILES = {  # where a component of a kind is named, if not in a config
    "launchers": "an experiment or tuning file",
    "samplers": "a tuning file",
    "pruners": "a tuning file",
}


def format_new_plugin(plugin: Plugin, folder: Path) -> str:
    """List the files of a new plugin package and the commands to run next."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    python = _python_command()
    install = f"{python} -m pip install" if _has_pip() else f"uv pip install --python {python}"
    commands = [
        f"{install} -e {shlex.quote(f'./{folder}[test]')}",
        f"{python} -m pytest {shlex.quote(str(folder))}",
        format_command("train", str(folder / "config.yaml")),
    ]
    heading = f"created: a package with the {plugin.kind.singular} '{plugin.package}', in {folder}/"
    return "\n".join([heading, *(f"  {name}" for name in files), *format_next_commands(commands)])


def format_evaluation(run: RunDirectory, evaluation: Evaluation, model: str = "final") -> str:
    """Format the raw returns of an evaluation: mean with its interval, standard deviation, range.

    :param model: that played
    """
    place = " on one environment" if evaluation.episodes > 1 and evaluation.n_envs == 1 else ""
    place += "" if model == "final" else f" of the model {model}"
    lines = [f"{run.directory}: {format_count(evaluation.episodes, 'greedy episode')}{place}, raw returns"]
    decimals = 2 if evaluation.ci95 is None else max(2, count_decimals(evaluation.ci95))
    lines.append(
        f"  mean  {format_number(evaluation.mean_return, decimals)}  ({_format_interval(evaluation, decimals)})"
    )
    if evaluation.episodes > 1:
        lines.append(f"  std   {format_number(evaluation.std_return, 2)}")
        lines.append(f"  range {evaluation.min_return:g} to {evaluation.max_return:g}")
    if evaluation.success_rate is not None:
        lines.append(f"  success in {100 * evaluation.success_rate:.4g} % of the episodes, as info['is_success'] says")
    return "\n".join(lines)


def _format_interval(evaluation: Evaluation, decimals: int) -> str:
    if evaluation.ci95 is None:
        return f"no interval: {'all returns are equal' if evaluation.episodes > 1 else 'one episode'}"
    low, high = (format_number(end, decimals) for end in evaluation.ci95)
    return f"95 % interval {low} to {high}"


def format_networks(run: RunDirectory, description: ModelDescription) -> str:
    """Format a table of layers for each of a run's networks."""
    from toolkit.evaluation.networks import format_shape

    algorithm = run.config.algorithm
    lines = [f"{run.directory}: {algorithm.name}, {algorithm.policy} on {run.config.env.name}"]
    for network in description.networks:
        inputs = ", ".join(f"{name} {size}" for name, size in network.inputs.items())
        lines += ["", f"{network.name}: {network.kind} of {inputs}"]
        rows = [
            (layer.name, layer.kind, format_shape(layer.output_shape), f"{layer.parameters:,}")
            for layer in network.layers
        ]
        lines += [f"  {line}" for line in format_table(("layer", "kind", "output", "parameters"), rows, "<<<>")]
        lines.append(_format_parameters(network.name, network.parameters, network.trainable))
    if len(description.networks) > 1:
        lines += ["", _format_parameters("together", description.parameters, description.trainable)]
    if description.copies:
        lines += ["", f"left out, as copies: {', '.join(description.copies)}"]
    return "\n".join(lines)


def format_listing(kind: Kind, width: int | None = None) -> str:
    """List the components of a kind, each with its summary or its error, and who provides it.

    :param width: wrap lines to this many columns; None leaves each component on one line
    """
    from toolkit.config.catalog import list_claims

    claimed = list_claims(kind)
    name_width = max((len(claim.name) for claim in claimed), default=0)
    lines = [kind.name]
    for claim in claimed:
        summary = f"error: {claim.problem}" if claim.problem else claim.summary
        summary += f" [needs {claim.install}]" if claim.install else ""
        head = f"  {claim.name:<{name_width}}  "
        indent = len(head) if 2 * len(head) < (width or sys.maxsize) else 4
        lines.append(_fill(f"{summary} ({claim.provider})".strip(), width, head, " " * indent))
    return "\n".join(lines)


def format_component(kind: Kind, name: str, width: int | None = None) -> str:
    """Format a component's documentation, its parameters, and YAML to paste.

    :param width: wrap prose to this many columns; None leaves it as it is
    """
    from toolkit.config.catalog import read_details

    component = read_details(kind, name)
    provider = f" ({component.provider})" if component.provider else ""
    blocks = [_fill(f"{kind.singular} '{name}': {component.path}{provider}", width, "", "    ")]
    blocks += [_fill_paragraph(block, width) for block in (component.text or "No description.").split("\n\n")]
    lines = ["parameters" if component.parameters else "no parameters"]
    for parameter in component.parameters:
        default = "required" if parameter.default is None else f"default {parameter.default}"
        lines.append(_fill(f"{parameter.name}: {parameter.type}, {default}", width, "  ", "    "))
        if parameter.text:
            lines.append(_fill(parameter.text, width, "      ", "      "))
    target_file = _TARGET_FILES.get(kind.name, "a config")
    return "\n\n".join([*blocks, "\n".join(lines), f"# to paste into {target_file}\n{component.snippet}"])


def _fill_paragraph(text: str, width: int | None) -> str:
    """Wrap a paragraph, but leave lists and code as they are."""
    lines = text.splitlines()
    is_narrow = max(map(len, lines), default=0) <= (width or sys.maxsize)
    if is_narrow or any(re.match(r"\s|[-*>.+]", line) for line in lines):
        return text
    return _fill(" ".join(lines), width, "", "")


def _fill(text: str, width: int | None, first_indent: str, other_indent: str) -> str:
    if width is None:
        return first_indent + text
    return textwrap.fill(
        text,
        width,
        initial_indent=first_indent,
        subsequent_indent=other_indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _format_parameters(network: str, count: int, trainable: int) -> str:
    return f"  {network}: {count:,} parameters, {'all' if trainable == count else f'{trainable:,}'} trainable"


def _has_pip() -> bool:
    if "pip" in sys.modules:
        return sys.modules["pip"] is not None
    # importlib.util.find_spec also asks setuptools' finder, which then takes distutils over: torch cannot compile
    return PathFinder.find_spec("pip") is not None


def _python_command() -> str:
    """Return how a shell calls this Python: `python` if that is this one, or else its path."""
    on_path, this = shutil.which("python"), Path(sys.executable)
    # compare folders, not resolved links: a virtual environment's python links to one that knows no environment
    if on_path and Path(on_path).parent == this.parent and this.samefile(on_path):
        return "python"
    return format_program_path(this)
