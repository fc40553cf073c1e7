"""What is logged stays in the files: a snapshot remembers how much there was, and only that is gone on with."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from trained import StopAt, config, differences

from toolkit import Run
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError


class Dumping(BaseCallback):
    """Dumps a row at every fifth step; from timestep 400 on with columns that were not there before."""

    def _on_step(self) -> bool:
        self.logger.record("own/text", 'a,"b\r\n')
        if self.num_timesteps >= 400:
            self.logger.record("late/number", self.num_timesteps)
        if self.num_timesteps == 450:
            self.logger.record("late/text", "x" * 200_000, exclude="tensorboard")  # more than `csv` reads back
        if self.num_timesteps % 5 == 0:
            self.logger.dump(self.num_timesteps)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        pass


def rows_of(run: Path) -> list[list[str]]:
    with (run / "progress.csv").open(newline="") as file:
        return [*csv.reader(file)]


def broken_off(out: Path) -> Path:
    """Break a run off that dumps rows: the snapshot has those of 300 steps, the file of 430, with another column."""
    with pytest.raises(TrainingError):
        train(config("a2c", timesteps=500), out, [Dumping(), StopAt(430)])
    assert {len(row) for row in rows_of(out)} == {len(rows_of(out)[0])}
    return out


def go_on(run: Path) -> None:
    resume(Run.open(run), [Dumping(), StopAt()])


def test_a_column_that_came_in_after_the_snapshot_comes_in_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(config("a2c", timesteps=500), tmp_path / "whole", [Dumping(), StopAt()])
    go_on(broken_off(tmp_path / "broken"))
    assert not [message for message in caplog.messages if "progress.csv" in message]
    assert differences(tmp_path / "whole", tmp_path / "broken") == []
    header, *rows = rows_of(tmp_path / "broken")
    assert {"late/number", "time/fps"} < {*header[1:]}
    late = [row[header.index("late/number")] for row in rows]
    assert [one for one in late if one] == [str(number) for number in range(400, 501, 5)]
    assert {row[header.index("own/text")] for row in rows} == {'a,"b\r\n', ""}


def test_snapshots_do_not_grow_with_what_has_been_logged(tmp_path: Path) -> None:
    parts = config("a2c", timesteps=500, snapshots={"every_timesteps": 100, "keep": 10})
    run = train(parts, tmp_path / "run", [Dumping()])
    sizes = [(run.directory / "snapshots" / name / "state.json").stat().st_size for name in ("100", "400")]
    assert len(rows_of(run.directory)) > 100
    assert sizes[1] - sizes[0] < 5_000


def edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"a,', b'"b,', 1))


def garbage(path: Path) -> None:
    path.write_bytes(b'"' + bytes(1 << 18))


@pytest.mark.parametrize(
    "change",
    [
        edited,
        garbage,
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: (path.unlink(), path.mkdir()),
        Path.unlink,
    ],
    ids=["edited", "garbage", "cut short", "a directory", "missing"],
)
def test_rows_that_are_no_longer_what_they_were_are_said_to_be_and_put_aside(
    change: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = broken_off(tmp_path / "run") / "progress.csv"
    change(path)
    was = path.read_bytes() if path.is_file() else None
    go_on(tmp_path / "run")
    (said,) = [message for message in caplog.messages if "progress.csv" in message]
    assert said.startswith(f"{path}: is not what it was when the snapshot was taken")
    header, *rows = rows_of(tmp_path / "run")
    step = header.index("time/total_timesteps") if "time/total_timesteps" in header else header.index("late/number")
    assert {int(row[step]) for row in rows if row[step]} <= {*range(301, 501)}
    assert len(rows) >= 40
    kept = path.with_name("progress.csv.old")
    assert kept.exists() == ("kept in progress.csv.old" in said) == (change is not Path.unlink)
    if was is not None:
        assert kept.read_bytes() == was


def test_tensorboard_files_that_have_lost_something_are_said_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (events,) = (broken_off(tmp_path / "run") / "tensorboard").glob("events*")
    events.write_bytes(events.read_bytes()[:100])
    go_on(tmp_path / "run")
    said = f"{events.parent}: lacks some of what was there when the snapshot was taken"
    assert caplog.messages.count(said) == 1


class Deletes(BaseCallback):
    """Deletes TensorBoard's files in the middle of training."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run

    def _on_step(self) -> bool:
        if self.num_timesteps == 100:
            shutil.rmtree(self.run / "tensorboard")
        return True


def test_snapshots_are_taken_although_somebody_deletes_tensorboards_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(config("a2c", timesteps=500), tmp_path / "run", [Deletes(tmp_path / "run")])
    assert "no snapshot" not in caplog.text
    assert max(int(one.name) for one in (tmp_path / "run" / "snapshots").iterdir() if one.is_dir()) > 100


def test_logs_that_were_kept_aside_stay_when_others_are(tmp_path: Path) -> None:
    run = broken_off(tmp_path / "run")
    texts = []
    for _ in range(2):
        text = (run / "progress.csv").read_text().replace("own/text", f"my/text{len(texts)}", 1)
        texts.append(text)
        (run / "progress.csv").write_text(text)
        with pytest.raises(TrainingError):
            resume(Run.open(run), [Dumping(), StopAt(330)])
    assert [(run / f"progress.csv.old{number}").read_text() for number in ("", 1)] == texts
