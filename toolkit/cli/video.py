"""`toolkit record` and `toolkit watch`: the trained agent in video files, and in a window."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import Model, RunPath, Seed, Tail, Trust, open_run, preload_after_check


class _Format(Enum):
    MP4 = "mp4"
    GIF = "gif"


def record(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Record this many greedy episodes, one file each.")] = 1,
    formats: Annotated[
        list[_Format] | None,
        typer.Option("--format", help="Choose the video format. Repeatable. Default: mp4.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the videos to this directory. Default: videos/ in the run.", show_default=False),
    ] = None,
    tail: Tail = 0,
    model: Model = "final",
    trust: Trust = False,
) -> None:
    """Record videos of the trained agent."""
    with preload_after_check():
        opened_run = open_run(run, trust)
        opened_run.find_model(model)
    from toolkit.evaluation.video import record as record_run

    names: list[Literal["mp4", "gif"]] = [item.value for item in dict.fromkeys(formats or [_Format.MP4])]
    for path in record_run(opened_run, episodes, names, out, tail=tail, model=model):
        print_line(path)


def watch(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Play this many greedy episodes.")] = 5,
    seed: Seed = None,
    tail: Tail = 0,
    model: Model = "final",
    trust: Trust = False,
) -> None:
    """Show the trained agent in a window, until the window is closed or Ctrl-C."""
    from itertools import count

    with preload_after_check():
        opened_run = open_run(run, trust)
        opened_run.find_model(model)
    from toolkit.evaluation.viewer import watch as watch_run

    numbers = count(1)
    watch_run(
        opened_run,
        episodes,
        seed,
        tail,
        lambda episode: print_line(f"episode {next(numbers)}: return {episode.raw_return:g}"),
        model=model,
    )
