"""What the command line says of runs and components, as text."""

from __future__ import annotations

import inspect
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.evaluation import Evaluation
    from toolkit.networks import Description
    from toolkit.registry import Kind
    from toolkit.run import Run


def outcome(run: Run) -> str:
    """Say how a run that has ended went, where its files are, and what to do next."""
    return "\n".join([verdict(run), *_places_and_commands(run)])


def imported(run: Run, file: Path) -> str:
    """Say that a run was made of an SB3 zip, where it is, and what to do next."""
    return "\n".join([f"imported: the weights in {file}, which fit", *_places_and_commands(run)])


def _places_and_commands(run: Run) -> list[str]:
    lines = [f"  run    {run.directory}"]
    lines += [f"  video  {video}" for video in sorted(run.videos.glob("*.*"))]
    program, directory = _program(), shlex.quote(str(run.directory))
    interrupted = (run.result or {}).get("status") == "interrupted"
    commands = [f"resume {directory}"] if interrupted else []
    commands += [f"evaluate {directory}", f"record {directory} --format gif"]
    return lines + [f"  {'' if number else 'next':<5}  {program} {command}" for number, command in enumerate(commands)]


def verdict(run: Run) -> str:
    """Say in one line how a run went, or that it has not ended."""
    result = run.result
    if result is None:
        return "has not ended"
    took = f"{result['timesteps']:,} timesteps, {result['episodes']:,} episodes, {result['seconds']:.1f} s"
    early = "" if result["status"] in ("success", "finished") else f"{result['status']}, "
    success = result["success"]
    if not success or success["mean_return"] is None:
        return f"{result['status']}: {took}"
    word = early + ("solved" if success["solved"] else "not solved")
    last = min(success["episodes"], result["episodes"])
    mean = f"mean return {success['mean_return']:.1f} over the last {last} training episodes"
    goal = "" if success["solved"] else f" (to reach: {success['threshold']:g})"
    return f"{word}: {mean}{goal}, after {took}"


def returns(run: Run, evaluation: Evaluation) -> str:
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


def networks(run: Run, description: Description) -> str:
    """Say what a run's networks consist of, a table for each."""
    from toolkit.networks import shape_text

    algorithm = run.config.algorithm
    lines = [f"{run.directory}: {algorithm.name}, {algorithm.policy} on {run.config.env.id}"]
    for network in description.networks:
        inputs = ", ".join(f"{name} {size}" for name, size in network.inputs.items())
        lines += ["", f"{network.name}: {network.kind} of {inputs}"]
        rows = [(one.name, one.kind, shape_text(one.output_shape), f"{one.parameters:,}") for one in network.layers]
        lines += _table(("layer", "kind", "output", "parameters"), rows)
        lines.append(_parameters(network.name, network.parameters, network.trainable))
    if len(description.networks) > 1:
        lines += ["", _parameters("together", description.parameters, description.trainable)]
    if description.copies:
        lines += ["", f"left out, as copies: {', '.join(description.copies)}"]
    return "\n".join(lines)


def listing(kind: Kind) -> str:
    """List the names of a kind, with what each stands for and who provides it."""
    from toolkit.registry import entries, provider

    claims = entries(kind)
    width = max((len(name) for name in claims), default=0)
    rows = [
        f"  {name:<{width}}  {entry.value}  ({provider(entry)})"
        for name, claimed in claims.items()
        for entry in claimed
    ]
    return "\n".join([kind.name, *rows])


def component(kind: Kind, name: str) -> str:
    """Describe a component: its documentation and its parameters."""
    from toolkit.parameters import signature_of, type_name
    from toolkit.registry import find

    found = find(kind, name)
    signature = signature_of(found)
    lines = [
        f"{name}: {found.__module__}.{found.__qualname__}\n",
        f"{inspect.cleandoc(found.__doc__ or 'No description.')}\n",
        "parameters" if signature.named else "no parameters",
    ]
    for parameter in signature.named.values():
        if parameter.name in kind.supplied:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else f"default {parameter.default!r}"
        lines.append(f"  {parameter.name}: {type_name(parameter.annotation)}, {default}")
    return "\n".join(lines)


def _parameters(what: str, count: int, trainable: int) -> str:
    return f"  {what}: {count:,} parameters, {'all' if trainable == count else f'{trainable:,}'} trainable"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns, the last to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  " + "  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])]) for row in [head, *rows]]


def _program() -> str:
    """Return how the user can call this program again: its path, where its name alone would not be found."""
    called = Path(sys.argv[0])
    found = shutil.which("toolkit")
    if called.name != "toolkit" or (found and Path(found).resolve() == called.resolve()):
        return "toolkit"
    relative = str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)
    return shlex.quote(relative if "/" in relative else f"./{relative}")
