"""The examples in the docstrings of public classes and functions run as they are written."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.algorithms import DoubleDQN


@pytest.mark.parametrize("documented", [DoubleDQN, toolkit.Run, toolkit.evaluate, toolkit.record])
def test_docstring_example_gives_documented_output(documented: Any, config_file: Path) -> None:
    toolkit.train(config_file, timesteps=20)
    (example,) = doctest.DocTestFinder(recurse=False).find(documented, documented.__name__)
    results = doctest.DocTestRunner().run(example)
    assert results.failed == 0
    assert results.attempted > 1
