"""How training goes, on the screen: lines, or a bar on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from support import Toolkit

from toolkit import Run

STEPS = re.compile(r"^([\d,]+) of 1,200 steps  (.*)$")
WIDTH = 120


def test_without_a_terminal_there_is_a_line_for_every_tenth_of_training(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file, "--set", "timesteps=1_200")
    lines = [STEPS.match(line) for line in done.err.splitlines()]
    assert all(lines), done.err
    assert [int(line[1].replace(",", "")) for line in lines if line] == [120 * tenth for tenth in range(1, 11)]
    assert all(re.match(r"mean of last \d+: \d+\.\d of 195$", line[2]) for line in lines[1:] if line)
    assert "\x1b" not in done.err


def test_the_last_line_shows_the_mean_return_of_the_result(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file)
    mean_return = (Run.newest().result or {})["success"]["mean_return"]
    assert f"mean of last 10: {mean_return:.1f} of 195" in done.err.splitlines()[-1]


def test_nothing_of_it_is_on_stdout(config_file: Path, toolkit: Toolkit) -> None:
    shown, quiet = toolkit("train", config_file), toolkit("train", config_file, "--quiet")
    assert "of 300 steps" in shown.err
    assert "of 300 steps" not in shown.out
    assert quiet.err == ""


def test_without_a_criterion_the_last_episodes_are_shown(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file, "--set", "callbacks=[]")
    assert re.search(r"steps  mean of last \d+: \d+\.\d$", done.err.splitlines()[-1])


def test_few_steps_taken_by_many_environments_give_no_line_twice(config_file: Path, toolkit: Toolkit) -> None:
    lines = toolkit("train", config_file, "--set", "timesteps=20", "--set", "env.n_envs=5").err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["5", "10", "15", "20"]


def test_it_can_be_named_in_the_config_and_is_not_shown_twice(config_file: Path, toolkit: Toolkit) -> None:
    assert len(toolkit("train", config_file, "--set", "callbacks=[progress]").err.splitlines()) == 10


def test_it_may_stand_before_the_criterion(toolkit: Toolkit) -> None:
    Path("short.yaml").write_text(
        "timesteps: 10\n"
        "env: {id: CartPole-v1, max_episode_steps: 1}\n"
        "algorithm: {name: double_dqn, params: {buffer_size: 10}}\n"
        "callbacks: [progress, {name: success, params: {threshold: 195}}]\n"
    )
    done = toolkit("train", "short.yaml")
    assert done.status == 0, done.err
    assert len(done.err.splitlines()) == 10


def screen_after(output: str) -> tuple[list[str], bool]:
    """Show text to a terminal; return the lines that stay, and whether the cursor can be seen."""
    lines, row, column, cursor = [""], 0, 0, True
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
            cursor = command == "h"
        else:
            assert command == "m", escape  # colours
    return [line.rstrip() for line in lines], cursor


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_that_is_gone_at_the_end(config_file: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    command = Path(sys.executable).parent / "toolkit"
    process = subprocess.Popen(
        [str(command), "train", str(config_file), "--set", "timesteps=1_500"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    output = b""
    while chunk := _read(ours):
        output += chunk
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = output.decode()
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)
    assert re.search(r"[\d,]+ of 1,500 steps .*mean of last \d+: \d+\.\d of 195", plain)
    lines, cursor_is_seen = screen_after(text)
    assert cursor_is_seen
    assert lines[0].startswith("not solved: ")
    assert lines[1].split() == ["run", "runs/small-1"]
    assert not [line for line in lines if "of 1,500 steps" in line or "━" in line]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when nobody has the other end any more
        return b""
