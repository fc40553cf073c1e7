"""What is said of a run, as text: how it went, where its files are, which commands come next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.training.results import ENDED

if TYPE_CHECKING:
    from toolkit.training.run_directory import RunDirectory


def format_run_summary(run: RunDirectory) -> str:
    """Say how a run that has ended went, where its files are, and what to do next."""
    return "\n".join([format_run_result(run), *_places_and_commands(run)])


def format_import_summary(run: RunDirectory, file: Path) -> str:
    """Say that a run was made of an SB3 zip, where it is, and what to do next."""
    return "\n".join([f"imported: the weights in {file}, which fit", *_places_and_commands(run)])


def _places_and_commands(run: RunDirectory) -> list[str]:
    lines = [f"  run    {run.directory}"]
    lines += [f"  video  {video}" for video in sorted(run.videos.glob("*.*"))]
    directory = str(run.directory)
    interrupted = (run.result or {}).get("status") == "interrupted"
    if interrupted and not any((run.directory / "snapshots").glob("[0-9]*")):
        lines.append("  note   there is no snapshot: resume starts from the beginning")
    commands = [format_command("resume", directory)] if interrupted else []
    commands += [format_command("evaluate", directory), format_command("record", directory, "--format", "gif")]
    return lines + format_next_commands(commands)


def format_next_commands(commands: Sequence[str]) -> list[str]:
    """Return lines that say what to do next."""
    return [f"  {'' if number else 'next':<5}  {command}" for number, command in enumerate(commands)]


def format_run_result(run: RunDirectory) -> str:
    """Say in one line how a run went, or that it has not ended."""
    result = run.result
    if result is None:
        return "has not ended"
    took = f"{result['timesteps']:,} timesteps, {result['episodes']:,} episodes, {result['seconds']:.1f} s"
    early = "" if result["status"] in ENDED else f"{result['status']}, "
    success = result["success"]
    if not success or success["mean_return"] is None:
        return f"{result['status']}: {took}"
    word = early + ("solved" if success["solved"] else "not solved")
    last = min(success["episodes"], result["episodes"])
    mean = f"mean return {success['mean_return']:.1f} over the last {last} training episodes"
    goal = "" if success["solved"] else f" (to reach: {success['threshold']:g})"
    return f"{word}: {mean}{goal}, after {took}"


def format_command(*arguments: str) -> str:
    """Return how the user can call this program again, with other arguments or the same."""
    return f"{_program()} {shlex.join(arguments)}"


def _program() -> str:
    """Return its name, or its path, where the name will not do."""
    program = Path(sys.argv[0])
    found = shutil.which("toolkit")
    if program.name != "toolkit" or (found and Path(found).resolve() == program.resolve()):
        return "toolkit"
    return format_program_path(program)


def format_program_path(program: Path) -> str:
    """Return how a shell calls a program: relative to the working directory where it is below."""
    relative = str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)
    return shlex.quote(relative if "/" in relative else f"./{relative}")
