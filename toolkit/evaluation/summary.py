"""The summary of a run as text: its result, its files and the next commands."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.training.results import ENDED
from toolkit.utils.errors import make_printable
from toolkit.utils.text import format_number

if TYPE_CHECKING:
    from toolkit.training.run_directory import RunDirectory


def format_run_summary(run: RunDirectory) -> str:
    """Format the result of a run that has ended, its files and the next commands."""
    return "\n".join([format_run_result(run), *_format_files_and_commands(run)])


def format_import_summary(run: RunDirectory, *files: Path) -> str:
    """Format the summary of a run that was imported from files."""
    origin = json.loads((run.directory / "environment.json").read_text(encoding="utf-8"))["imported_from"]
    content = "weights and statistics" if "statistics" in origin else "weights"
    summary = f"imported the {content} in {' and '.join(map(str, files))}"
    return "\n".join([summary, *_format_files_and_commands(run, origin["notes"])])


def _format_files_and_commands(run: RunDirectory, notes: Sequence[str] = ()) -> list[str]:
    lines = [f"  run    {run.directory}", *(f"  note   {make_printable(note)}" for note in notes)]
    lines += [f"  video  {video}" for video in sorted(run.videos.glob("*.*"))]
    directory, result = str(run.directory), run.result or {}
    if diagnosis := result.get("diagnosis"):
        lines.append(f"  note   {diagnosis}")
    is_interrupted = result.get("status") == "interrupted"
    if is_interrupted and not any((run.directory / "snapshots").glob("[0-9]*")):
        lines.append("  note   there is no snapshot: resume starts from the beginning")
    commands = [format_command("resume", directory)] if is_interrupted else []
    commands += [format_command("evaluate", directory), format_command("record", directory, "--format", "gif")]
    return lines + format_next_commands(commands)


def format_next_commands(commands: Sequence[str]) -> list[str]:
    """Format the lines that propose the next commands."""
    return [f"  {'' if number else 'next':<5}  {command}" for number, command in enumerate(commands)]


def format_run_result(run: RunDirectory) -> str:
    """Format the result of a run in one line, or that it has not ended."""
    result = run.result
    if result is None:
        return "has not ended"
    cost = f"{result['timesteps']:,} timesteps, {result['episodes']:,} episodes, {result['seconds']:.1f} s"
    ending = "" if result["status"] in ENDED else f"{result['status']}, "
    success = result["success"]
    if not success or success["mean_return"] is None:
        return f"{result['status']}: {cost}"
    verdict = ending + ("solved" if success["solved"] else "not solved")
    return f"{verdict}: {_format_success(success, min(success['episodes'], result['episodes']))}, after {cost}"


def _format_success(success: Mapping[str, Any], n_episodes: int) -> str:
    """Format the value of a criterion, and what it should be if that was not reached."""
    is_rate, greedy = success["measure"] == "success_rate", success.get("greedy_value")
    factor, unit = (100, " %") if is_rate else (1, "")
    value = success.get("success_rate") if is_rate else success["mean_return"]
    name = "success rate" if is_rate else "mean return"
    text = f"no {name}" if value is None else f"{name} {format_number(factor * value, 1)}{unit}"
    label = success.get("evaluation")
    text += f" over the last {n_episodes} training episodes" if label is None else f" in the evaluation '{label}'"
    if greedy is not None:
        text += f", {format_number(factor * greedy, 1)}{unit} over greedy ones"
    return text if success["solved"] else f"{text} (to reach: {factor * success['threshold']:g}{unit})"


def format_command(*arguments: str) -> str:
    """Format a command line that calls this program with other arguments."""
    return f"{_format_program()} {shlex.join(arguments)}"


def _format_program() -> str:
    """Return the program's name, or its path if the shell does not find it by name."""
    program = Path(sys.argv[0])
    on_path = shutil.which("toolkit")
    if program.name != "toolkit" or (on_path and Path(on_path).resolve() == program.resolve()):
        return "toolkit"
    return format_program_path(program)


def format_program_path(program: Path) -> str:
    """Format a program's path for a shell, relative to the working directory if it is inside."""
    path = str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)
    return shlex.quote(path if "/" in path else f"./{path}")
