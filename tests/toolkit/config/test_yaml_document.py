"""Read YAML text as plain data, and write it back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from toolkit.config.yaml_document import MAX_BYTES, MAX_DEPTH, dump, parse, read
from toolkit.utils.errors import ConfigError


def read_error(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        parse(text, "file.yaml")
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E+2", 500.0),
        ("50_000", 50_000),
        ("1_000.5", 1000.5),
        ("-3", -3),
        ("+3", 3),
        ("017", 17),
        ("0o17", 15),
        ("0x10", 16),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
    ],
)
def test_scalar_follows_yaml_1_2(text: str, value: Any) -> None:
    read_back = parse(f"key: {text}", "file.yaml").data["key"]
    assert read_back == value
    assert type(read_back) is type(value)


def test_nan_is_float() -> None:
    assert math.isnan(parse(".nan", "file.yaml").data)


@pytest.mark.parametrize(
    "text",
    ["on", "off", "yes", "No", "y", "1__0", "_1", "-0x1", "1:30", "2024-01-01", "=", "<<", "1e", "0x", "v1", "1.2.3"],
)
def test_non_numbers_of_yaml_1_2_stay_text(text: str) -> None:
    assert parse(f"key: {text}", "file.yaml").data == {"key": text}


def test_yaml_1_1_directive_is_ignored() -> None:
    assert parse("%YAML 1.1\n---\nkey: on\n", "file.yaml").data == {"key": "on"}


def test_every_key_has_location() -> None:
    document = parse("a: 1\nb:\n  - c: 2\n  - d:\n      e: 3\n", "file.yaml")
    assert document.locations[("a",)] == "file.yaml:1"
    assert document.locations[("b",)] == "file.yaml:2"
    assert document.locations[("b", 0, "c")] == "file.yaml:3"
    assert document.locations[("b", 1, "d", "e")] == "file.yaml:5"


def test_duplicate_key_is_refused_with_both_lines() -> None:
    assert read_error("seed: 1\ntimesteps: 5\nseed: 2\n") == "file.yaml:3: seed: duplicate key, first given in line 1"


def test_all_duplicate_keys_are_reported() -> None:
    assert read_error("a: 1\nb:\n  c: 1\n  c: 2\na: 2\n").splitlines() == [
        "file.yaml:4: b.c: duplicate key, first given in line 3",
        "file.yaml:5: a: duplicate key, first given in line 1",
    ]


def test_triple_key_is_reported_at_second_occurrence() -> None:
    assert read_error("a: 1\na: 2\na: 3\n") == "file.yaml:2: a: duplicate key, first given in line 1"


@pytest.mark.parametrize("key", ["1", "1.5", "true", "null", "~", "[a, b]", "{a: b}"])
def test_non_text_key_is_refused(key: str) -> None:
    message = read_error(f"a: 1\n? {key}\n: 2\n")
    assert message.startswith("file.yaml:2: ")
    assert "a key must be text; put it in quotes" in message


@pytest.mark.parametrize(
    ("text", "message_part"),
    [
        ("a: !!python/object/apply:os.system [ls]", "tags are not read"),
        ("a: !!str 1", "tags are not read"),
        ("a: !custom {b: 1}", "tags are not read"),
        ("a: ! 5", "tags are not read"),
        ("!!map {a: 1}", "tags are not read"),
        ("a: &anchor 1", "'anchor': anchors and aliases are not read; use 'extends'"),
        ("a: *alias", "'alias': anchors and aliases are not read; use 'extends'"),
        ("a: &x [*x]", "anchors and aliases are not read"),
    ],
)
def test_tags_and_anchors_are_refused_with_line(text: str, message_part: str) -> None:
    message = read_error(f"# a comment\n{text}\n")
    assert message.startswith("file.yaml:2: ")
    assert message_part in message


def test_alias_bomb_is_refused_immediately() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 15)]
    assert "anchors and aliases are not read" in read_error("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: b: c\n", 1),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb: [1, 2\n", 3),
        ("a: 1\nb: 'open\n", 3),
        ("a: 1\n---\nb: 2\n", 2),
        ("- a\n-b: c\n", 2),
        ("a: @b\n", 1),
    ],
)
def test_broken_yaml_is_refused_with_line(text: str, line: int) -> None:
    assert read_error(text).startswith(f"file.yaml:{line}: is not valid YAML: ")


def test_multiple_documents_are_refused() -> None:
    assert "another document" in read_error("a: 1\n---\na: 2\n")


@pytest.mark.parametrize("character", ["\0", "\a", "\x1b", "\x7f", "\ufffe"])
def test_control_character_is_refused(character: str) -> None:
    assert "file.yaml:1: is not text: unacceptable character" in read_error(f"a: {character}b\n")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_unclosed_nesting_is_refused(opening: str) -> None:
    assert read_error(opening * 5_000) == f"file.yaml:1: is nested more than {MAX_DEPTH} levels deep"


def test_nesting_beyond_limit_is_refused() -> None:
    assert "is nested more than" in read_error("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_nesting_up_to_limit_is_read() -> None:
    data = parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "file.yaml").data
    for _ in range(MAX_DEPTH - 1):
        (data,) = data
    assert data == []


@pytest.mark.parametrize(("prefix", "digit"), [("", "1"), ("-", "9"), ("0x", "f"), ("0o", "7")])
def test_number_with_10000_digits_is_refused(prefix: str, digit: str) -> None:
    assert read_error(f"a: 1\nb:\n  c: {prefix}{digit * 10_000}\n") == "file.yaml:3: b.c: is too long a number"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "--- \n...\n"])
def test_empty_document_is_none(text: str) -> None:
    assert parse(text, "file.yaml").data is None


@pytest.mark.parametrize(
    ("content", "message_part"),
    [
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "file.yaml:1: is not UTF-8 text"),
        ("a: 1\nb: \u00e9".encode("latin-1"), "file.yaml:2: is not UTF-8 text"),
        (b"a: " + b"x" * MAX_BYTES, "file.yaml: is larger than 1 MiB"),
        (b"a: 1\n\nb: " + b"\0" * 100, "file.yaml:3: is not text"),
    ],
)
def test_binary_or_large_file_is_refused(content: bytes, message_part: str) -> None:
    path = Path("file.yaml")
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{message_part}"):
        read(path)


@pytest.mark.parametrize(("path", "message_part"), [("absent.yaml", "No such file"), (".", "is not a file")])
def test_unreadable_path_is_refused(path: str, message_part: str) -> None:
    with pytest.raises(ConfigError, match=message_part) as raised:
        read(Path(path))
    assert str(raised.value).startswith(f"{path}: ")


def test_file_of_one_mebibyte_is_read() -> None:
    path = Path("file.yaml")
    path.write_bytes(b"a: 1 #" + b"x" * (MAX_BYTES - 6))
    assert read(path).data == {"a": 1}


def test_crlf_and_byte_order_mark_are_read() -> None:
    path = Path("file.yaml")
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = read(path)
    assert document.data == {"a": 1, "b": 2}
    assert document.locations[("b",)] == "file.yaml:2"


TRICKY_TEXT = [
    *("", " ", "~", "null", "Null", "true", "FALSE", "on", "Yes", "1e-3", "1_000", "0x1", "0o7", "017", "-1", ".5"),
    *(".inf", "-.Inf", ".NaN", "2024-01-01", "1:30", "=", "<<", "&a", "*a", "!b", "%c", "@d", "`e", "- f", "?", "---"),
    *("a: b", "a #b", "#a", "[1]", "{a}", "'single'", '"double"', "back\\slash", "a,b", "x" * 300, "word " * 60),
    *("two\nlines", "ends\n", "\nstarts", "  indented\n  block", "a\n\n\nb", "trailing ", " leading", "tab\there"),
    *("Grüße, 世界", "🎮", "\u0085", "\u2028", "\ufeff", "\a\x1b\x7f", "\0", "\r\n", "a\rb"),
]


@pytest.mark.parametrize("text", TRICKY_TEXT, ids=ascii)
def test_text_round_trips_as_value_item_and_key(text: str) -> None:
    data = {"value": text, "list": [text, [text]], "keys": {text: {text: text}}}
    assert parse(dump(data), "file.yaml").data == data


@pytest.mark.parametrize(
    "value",
    [0, -1, 10**100, True, None, 0.1, 1e-3, 1e20, 1e-300, -0.0, 5e-324, math.inf, -math.inf, [], {}, [[], {}, [None]]],
    ids=str,
)
def test_plain_data_round_trips(value: Any) -> None:
    read_back = parse(dump({"a": [value], "b": {"c": value}}), "file.yaml").data
    assert read_back == {"a": [value], "b": {"c": value}}
    assert type(read_back["b"]["c"]) is type(value)
    assert str(read_back["b"]["c"]) == str(value)


def test_shared_data_is_written_twice() -> None:
    shared = {"net_arch": [16, 16]}
    assert parse(dump({"a": shared, "b": shared}), "file.yaml").data == {"a": shared, "b": shared}


def test_keys_keep_their_order() -> None:
    assert list(parse(dump({"b": 1, "a": 2}), "file.yaml").data) == ["b", "a"]
