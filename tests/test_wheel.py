"""The built wheel has all files, and tox tests it."""

from __future__ import annotations

import os
from importlib.metadata import files
from pathlib import Path

import pytest
from support import PROJECT

import toolkit


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="outside tox the checkout may be installed as editable")
def test_tox_tests_the_built_wheel() -> None:
    assert not Path(toolkit.__file__).is_relative_to(PROJECT / "toolkit")


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="an editable install lists no files")
@pytest.mark.parametrize(
    "name",
    [
        "toolkit/py.typed",
        "toolkit/cli/templates/plugin/wrapper/component.py.template",
        "toolkit/reports/report.html",
        "toolkit/reports/run_report.html",
        "toolkit_plugins/py.typed",
        "toolkit_plugins/wrappers/rewards.py",
    ],
)
def test_wheel_has_both_packages_with_their_files(name: str) -> None:
    assert name in {str(path) for path in files("sb3-toolkit") or ()}
