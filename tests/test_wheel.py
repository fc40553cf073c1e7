"""What is installed is what a user gets."""

from __future__ import annotations

import os
from importlib.metadata import files
from pathlib import Path

import pytest
from support import PROJECT

import toolkit


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="outside tox the checkout may be installed as editable")
def test_the_tests_run_against_the_built_wheel() -> None:
    assert not Path(toolkit.__file__).is_relative_to(PROJECT / "toolkit")


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="an editable install lists no files")
@pytest.mark.parametrize(
    "name",
    [
        "toolkit/py.typed",
        "toolkit/cli/templates/plugin/wrapper/component.py.template",
        "toolkit/reports/report.html",
        "toolkit_plugins/py.typed",
        "toolkit_plugins/rewards.py",
    ],
)
def test_the_wheel_holds_both_packages_with_their_types(name: str) -> None:
    assert name in {str(path) for path in files("sb3-toolkit") or ()}
