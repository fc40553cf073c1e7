"""What an error of another package says in one line."""

from __future__ import annotations

import json

import pytest

from toolkit.utils.errors import describe_error


def parse(text: str) -> None:
    json.loads(text)


def test_error_in_standard_library_names_line_that_called_it() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        parse("{")
    assert describe_error(caught.value).endswith(f"({__file__}:{parse.__code__.co_firstlineno + 1})")
