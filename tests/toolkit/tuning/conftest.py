"""Fixtures of the tuning tests: the files of a search, and its first two trials, which run once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import Finished, Toolkit
from tuning_files import Tune, write_files


@pytest.fixture(autouse=True)
def search_files(working_directory: Path) -> None:
    write_files()


@pytest.fixture
def run_tune(toolkit: Toolkit) -> Tune:
    """Run `toolkit tune search.yaml`, which has to succeed."""

    def run(*arguments: str | Path) -> Finished:
        finished = toolkit("tune", "search.yaml", *arguments)
        assert finished.status == 0, finished.err
        return finished

    return run


@pytest.fixture(scope="session")
def searched_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toolkit.tuning.tune import tune

    directory = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        write_files()
        tune(Path("search.yaml"), ["trials=2"])
    return directory / "tunings" / "search"


@pytest.fixture
def two_trials(searched_once: Path) -> Path:
    """The directory of the search with two of its three trials."""
    return Path(shutil.copytree(searched_once, "tunings/search"))
