"""The progress callback prints lines, or draws a bar on a terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support import Toolkit, terminal_process

from toolkit import Run

STEPS = re.compile(r"^([\d,]+) of 1,200 steps  (.*)$")
WIDTH = 120


def test_every_tenth_of_training_prints_a_line(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", config_file, "--set", "timesteps=1_200")
    lines = [STEPS.match(line) for line in finished.err.splitlines()]
    assert all(lines), finished.err
    assert [int(line[1].replace(",", "")) for line in lines if line] == [120 * tenth for tenth in range(1, 11)]
    assert all(re.match(r"mean of last \d+: \d+\.\d of 195$", line[2]) for line in lines[1:] if line)
    assert "\x1b" not in finished.err


def test_last_line_shows_mean_return_of_result(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", config_file)
    mean_return = (Run.newest().result or {})["success"]["mean_return"]
    assert f"mean of last 9: {mean_return:.1f} of 195" in finished.err.splitlines()[-1]


def test_progress_is_on_stderr_unless_quiet(config_file: Path, toolkit: Toolkit) -> None:
    loud, quiet = toolkit("train", config_file), toolkit("train", config_file, "--quiet")
    assert "of 300 steps" in loud.err
    assert "of 300 steps" not in loud.out
    assert quiet.err == ""


def test_progress_without_criterion_shows_mean_of_last_episodes(config_file: Path, toolkit: Toolkit) -> None:
    finished = toolkit("train", config_file, "--set", "callbacks=[]")
    assert re.search(r"steps  mean of last \d+: \d+\.\d$", finished.err.splitlines()[-1])


def test_few_steps_of_many_environments_print_no_line_twice(config_file: Path, toolkit: Toolkit) -> None:
    lines = toolkit("train", config_file, "--set", "timesteps=20", "--set", "env.n_envs=5").err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["5", "10", "15", "20"]


def test_progress_in_config_is_not_shown_twice(config_file: Path, toolkit: Toolkit) -> None:
    assert len(toolkit("train", config_file, "--set", "callbacks=[progress]").err.splitlines()) == 10


def test_progress_before_criterion_in_config_works(toolkit: Toolkit) -> None:
    Path("short.yaml").write_text(
        "timesteps: 10\n"
        "env: {id: CartPole-v1, max_episode_steps: 1}\n"
        "algorithm: {name: double_dqn, params: {buffer_size: 10}}\n"
        "callbacks: [progress, {name: success, params: {threshold: 195}}]\n"
    )
    finished = toolkit("train", "short.yaml")
    assert finished.status == 0, finished.err
    assert len(finished.err.splitlines()) == 10


def render_screen(output: str) -> tuple[list[str], bool]:
    """Return the lines that text leaves on a terminal, and whether the cursor is visible."""
    lines, row, column, has_cursor = [""], 0, 0, True
    for escape, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z])|(.)", output, re.DOTALL):
        number, command = escape[2:-1], escape[-1:]
        if text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text == "\r":
            column = 0
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + 1 :]
            column += 1
        elif command == "A":
            row -= int(number or 1)
        elif command == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif number == "?25":
            has_cursor = command == "h"
        else:
            assert command == "m", escape  # colours
    return [line.rstrip() for line in lines], has_cursor


@pytest.mark.slow
def test_terminal_shows_bar_until_the_end(config_file: Path) -> None:
    command = ["train", config_file, "--set", "timesteps=1_500"]
    process, terminal = terminal_process(*command, width=WIDTH, TERM="xterm-256color")
    output = b""
    while chunk := _read(terminal):
        output += chunk
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    text = output.decode()
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)
    assert re.search(r"[\d,]+ of 1,500 steps .*mean of last \d+: \d+\.\d of 195", plain)
    lines, has_cursor = render_screen(text)
    assert has_cursor
    assert lines[0].startswith("not solved: ")
    assert lines[1].split() == ["run", "runs/small-1"]
    assert not [line for line in lines if "of 1,500 steps" in line or "━" in line]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux raises when the other end is closed
        return b""
