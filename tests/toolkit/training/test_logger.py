"""A snapshot knows how much was logged; a resume keeps that much and cuts off the rest."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import StopAt, find_differences, make_config
from stable_baselines3.common.callbacks import BaseCallback

from toolkit import Run
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError


class DumpRows(BaseCallback):
    """Dumps a row at every fifth step; from timestep 400 on with new columns."""

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

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def read_rows(run: Path) -> list[list[str]]:
    with (run / "progress.csv").open(newline="") as file:
        return [*csv.reader(file)]


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that dumped rows and failed: the snapshot has those of 300 steps, the file of 430, with another column."""
    out = tmp_path_factory.mktemp("logger") / "run"
    with pytest.raises(TrainingError):
        train(make_config("a2c", timesteps=500), out, [DumpRows(), StopAt(430)])
    assert {len(row) for row in read_rows(out)} == {len(read_rows(out)[0])}
    return out


@pytest.fixture
def failed_copy(failed_run: Path, tmp_path: Path) -> Path:
    """A copy of the failed run, to be resumed."""
    return Path(shutil.copytree(failed_run, tmp_path / "run"))


def resume_run(run: Path) -> None:
    resume(Run.open(run), [DumpRows(), StopAt()])


def test_resume_adds_columns_that_came_after_snapshot_again(
    failed_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_config("a2c", timesteps=500), tmp_path / "whole", [DumpRows(), StopAt()])
    resume_run(failed_copy)
    assert not [message for message in caplog.messages if "progress.csv" in message]
    assert find_differences(tmp_path / "whole", failed_copy) == []
    header, *rows = read_rows(failed_copy)
    assert {"late/number", "time/fps"} < {*header[1:]}
    late = [row[header.index("late/number")] for row in rows]
    assert [number for number in late if number] == [str(number) for number in range(400, 501, 5)]
    assert {row[header.index("own/text")] for row in rows} == {'a,"b\r\n', ""}


def test_snapshots_do_not_grow_with_logged_rows(tmp_path: Path) -> None:
    parts = make_config("a2c", timesteps=500, snapshots={"every_timesteps": 100, "keep": 10})
    run = train(parts, tmp_path / "run", [DumpRows()])
    sizes = [(run.directory / "snapshots" / name / "state.json").stat().st_size for name in ("100", "400")]
    assert len(read_rows(run.directory)) > 100
    assert sizes[1] - sizes[0] < 5_000


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"a,', b'"b,', 1))


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b'"' + bytes(1 << 18))


@pytest.mark.parametrize(
    "change",
    [
        edit,
        fill_with_garbage,
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: (path.unlink(), path.mkdir()),
        Path.unlink,
    ],
    ids=["edited", "garbage", "cut short", "a directory", "missing"],
)
def test_changed_progress_csv_is_reported_and_set_aside(
    change: Callable[[Path], Any], failed_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = failed_copy / "progress.csv"
    change(path)
    content = path.read_bytes() if path.is_file() else None
    resume_run(failed_copy)
    (warning,) = [message for message in caplog.messages if "progress.csv" in message]
    assert warning.startswith(f"{path}: differs from the snapshot")
    header, *rows = read_rows(failed_copy)
    step = header.index("time/total_timesteps") if "time/total_timesteps" in header else header.index("late/number")
    assert {int(row[step]) for row in rows if row[step]} <= {*range(301, 501)}
    assert len(rows) >= 40
    old = path.with_name("progress.csv.old")
    assert old.exists() == ("moved to progress.csv.old" in warning) == (change is not Path.unlink)
    if content is not None:
        assert old.read_bytes() == content


def test_resume_warns_of_lost_tensorboard_events(failed_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (events,) = (failed_copy / "tensorboard").glob("events*")
    events.write_bytes(events.read_bytes()[:100])
    resume_run(failed_copy)
    assert caplog.messages.count(f"{events.parent}: some events from before the snapshot are missing") == 1


class DeleteTensorBoardFiles(BaseCallback):
    """Deletes TensorBoard's files in the middle of training."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run

    def _on_step(self) -> bool:
        if self.num_timesteps == 100:
            shutil.rmtree(self.run / "tensorboard")
        return True


def test_snapshots_continue_after_tensorboard_files_are_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_config("a2c", timesteps=310), tmp_path / "run", [DeleteTensorBoardFiles(tmp_path / "run")])
    assert "no snapshot" not in caplog.text
    assert max(int(path.name) for path in (tmp_path / "run" / "snapshots").iterdir() if path.is_dir()) > 100


def test_second_set_aside_log_does_not_replace_the_first(failed_copy: Path) -> None:
    texts = []
    for _ in range(2):
        text = (failed_copy / "progress.csv").read_text().replace("own/text", f"my/text{len(texts)}", 1)
        texts.append(text)
        (failed_copy / "progress.csv").write_text(text)
        with pytest.raises(TrainingError):
            resume(Run.open(failed_copy), [DumpRows(), StopAt(330)])
    assert [(failed_copy / f"progress.csv.old{number}").read_text() for number in ("", 1)] == texts
