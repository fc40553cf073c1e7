"""What commands print of components, evaluations, networks and new plugin packages, as text."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.evaluation.summary import format_command, format_next_commands, format_program_path

if TYPE_CHECKING:
    from toolkit.cli.scaffold import Plugin
    from toolkit.config.registry import Kind
    from toolkit.evaluation.evaluate import Evaluation
    from toolkit.evaluation.networks import ModelDescription
    from toolkit.training.run_directory import RunDirectory

_PLACES = {
    "launchers": "an experiment or tuning file",
    "samplers": "a tuning file",
    "pruners": "a tuning file",
}


def begun(plugin: Plugin, folder: Path) -> str:
    """Say what a new plugin package consists of, and what to do next."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    python = _python()
    install = f"{python} -m pip install" if _has_pip() else f"uv pip install --python {python}"
    commands = [
        f"{install} -e {shlex.quote(f'./{folder}[test]')}",
        f"{python} -m pytest {shlex.quote(str(folder))}",
        format_command("train", str(folder / "config.yaml")),
    ]
    told = f"written: a package with the {plugin.kind.singular} '{plugin.package}', in {folder}/"
    return "\n".join([told, *(f"  {name}" for name in files), *format_next_commands(commands)])


def returns(run: RunDirectory, evaluation: Evaluation) -> str:
    """Say what an evaluation found."""
    low, high = evaluation.ci95
    several = evaluation.episodes > 1
    interval = f"  (95 % interval {low:.2f} to {high:.2f})" if several else ""
    return (
        f"{run.directory}: {evaluation.episodes} greedy episode{'s' if several else ''}, raw returns\n"
        f"  mean  {evaluation.mean_return:.2f}{interval}\n"
        f"  std   {evaluation.std_return:.2f}\n"
        f"  range {evaluation.min_return:g} to {evaluation.max_return:g}"
    )


def networks(run: RunDirectory, description: ModelDescription) -> str:
    """Say what a run's networks consist of, a table for each."""
    from toolkit.evaluation.networks import format_shape

    algorithm = run.config.algorithm
    lines = [f"{run.directory}: {algorithm.name}, {algorithm.policy} on {run.config.env.id}"]
    for network in description.networks:
        inputs = ", ".join(f"{name} {size}" for name, size in network.inputs.items())
        lines += ["", f"{network.name}: {network.kind} of {inputs}"]
        rows = [(one.name, one.kind, format_shape(one.output_shape), f"{one.parameters:,}") for one in network.layers]
        lines += _table(("layer", "kind", "output", "parameters"), rows)
        lines.append(_parameters(network.name, network.parameters, network.trainable))
    if len(description.networks) > 1:
        lines += ["", _parameters("together", description.parameters, description.trainable)]
    if description.copies:
        lines += ["", f"left out, as copies: {', '.join(description.copies)}"]
    return "\n".join(lines)


def listing(kind: Kind, width: int | None = None) -> str:
    """List the names of a kind, each with the first line of its documentation, or its error, and who provides it.

    :param width: of the lines; without, each name has one line
    """
    from toolkit.config.catalog import claims

    claimed = claims(kind)
    column = max((len(claim.name) for claim in claimed), default=0)
    lines = [kind.name]
    for claim in claimed:
        said = f"error: {claim.problem}" if claim.problem else claim.summary
        said += f" [needs {claim.install}]" if claim.install else ""
        head = f"  {claim.name:<{column}}  "
        below = len(head) if 2 * len(head) < (width or sys.maxsize) else 4
        lines.append(_filled(f"{said} ({claim.provider})".strip(), width, head, " " * below))
    return "\n".join(lines)


def component(kind: Kind, name: str, width: int | None = None) -> str:
    """Describe a component: its documentation, its parameters, and YAML to paste.

    :param width: of the lines, as far as they are text
    """
    from toolkit.config.details import describe_component

    found = describe_component(kind, name)
    provider = f" ({found.provider})" if found.provider else ""
    blocks = [_filled(f"{kind.singular} '{name}': {found.path}{provider}", width, "", "    ")]
    blocks += [_paragraph(block, width) for block in (found.text or "No description.").split("\n\n")]
    lines = ["parameters" if found.parameters else "no parameters"]
    for one in found.parameters:
        default = "required" if one.default is None else f"default {one.default}"
        lines.append(_filled(f"{one.name}: {one.type}, {default}", width, "  ", "    "))
        if one.text:
            lines.append(_filled(one.text, width, "      ", "      "))
    place = _PLACES.get(kind.name, "a config")
    return "\n\n".join([*blocks, "\n".join(lines), f"# to paste into {place}\n{found.snippet}"])


def _paragraph(text: str, width: int | None) -> str:
    """Fill a paragraph, but leave what is laid out, such as lists and code, as it is."""
    lines = text.splitlines()
    if max(map(len, lines), default=0) <= (width or sys.maxsize) or any(re.match(r"\s|[-*>.+]", one) for one in lines):
        return text
    return _filled(" ".join(lines), width, "", "")


def _filled(text: str, width: int | None, first: str, others: str) -> str:
    if width is None:
        return first + text
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _parameters(what: str, count: int, trainable: int) -> str:
    return f"  {what}: {count:,} parameters, {'all' if trainable == count else f'{trainable:,}'} trainable"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns, the last to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  " + "  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])]) for row in [head, *rows]]


def _has_pip() -> bool:
    if "pip" in sys.modules:
        return sys.modules["pip"] is not None
    # importlib.util.find_spec would ask setuptools too, which then leaves distutils to Python: torch cannot compile
    return PathFinder.find_spec("pip") is not None


def _python() -> str:
    """Return how the user can call this Python again: by its path, where its name will not do."""
    found, this = shutil.which("python"), Path(sys.executable)
    # a virtual environment's is a link: what it is a link to knows nothing of the environment
    if found and Path(found).parent == this.parent and this.samefile(found):
        return "python"
    return format_program_path(this)
