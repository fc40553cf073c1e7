"""`toolkit record` and `toolkit watch`: the trained agent in video files, and in a window."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import RunPath, Seed, Tail, Trust, open_run, preload_after_check


def record(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Record this many greedy episodes, one file each.")] = 1,
    video_format: Annotated[Literal["mp4", "gif"], typer.Option("--format", help="Choose the video format.")] = "mp4",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the videos to this directory. Default: videos/ in the run.", show_default=False),
    ] = None,
    tail: Tail = 0,
    trust: Trust = False,
) -> None:
    """Record videos of the trained agent."""
    with preload_after_check():
        opened_run = open_run(run, trust)
    from toolkit.evaluation.video import record as record_run

    for path in record_run(opened_run, episodes, [video_format], out, tail=tail):
        print_line(path)


def watch(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Play this many greedy episodes.")] = 5,
    seed: Seed = None,
    tail: Tail = 0,
    trust: Trust = False,
) -> None:
    """Show the trained agent in a window, until the window is closed or Ctrl-C."""
    from itertools import count

    with preload_after_check():
        opened_run = open_run(run, trust)
    from toolkit.evaluation.viewer import watch as watch_run

    numbers = count(1)
    watch_run(
        opened_run,
        episodes,
        seed,
        tail,
        lambda episode: print_line(f"episode {next(numbers)}: return {episode.raw_return:g}"),
    )
