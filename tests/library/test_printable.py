"""Text of other people is printed without what could fool a reader or a terminal."""

from __future__ import annotations

import json
import shlex
import unicodedata

import pytest
from hypothesis import given, strategies as st

from guardpool.printable import escaped, option_name, printable, printable_end, without_commands

BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("label_agent", "label_agent"),
        ("", ""),
        ("grüße 你好 🎉 é", "grüße 你好 🎉 é"),
        ("back\\slash", "back\\slash"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\nb\rc\td\x00", "a\\nb\\rc\\td\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil\u202c", "\\u202eevil\\u202c"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("a\u200bb\u200dc\ufeff", "a\\u200bb\\u200dc\\ufeff"),
        ("a\u2028b\u2029c\x85", "a\\u2028b\\u2029c\\x85"),
        ("\ud800x\udfff", "\\ud800x\\udfff"),
        ("\U000e0041", "\\U000e0041"),
        ("\ufffe\U0010ffff", "\\ufffe\\U0010ffff"),
    ],
)
def test_unsafe_characters_are_shown_as_escapes(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("::error file=a.py::x", "\\x3a:error file=a.py::x"),
        ("  \u3000::Add-Mask::x", "  \u3000\\x3a:Add-Mask::x"),
        ("wrapped here ::stop-commands::x", "wrapped here \\x3a:stop-commands::x"),
        ("it says ##[error]x", "it says \\x23#[error]x"),
        ("###[group]x", "#\\x23#[group]x"),
        ("##vso[task.setvariable]x ##teamcity[x]", "\\x23#vso[task.setvariable]x \\x23#teamcity[x]"),
    ],
)
def test_a_command_that_a_ci_runner_obeys_is_escaped(raw: str, shown: str) -> None:
    assert printable(raw) == escaped(raw) == printable_end(raw) == shown


@pytest.mark.parametrize(
    "text", ["serde_json::error::Error", "::1", "::std::x", "a ::errors", "## heading [x]", "#[derive]", "C++ :: error"]
)
def test_text_that_only_looks_like_a_command_stays(text: str) -> None:
    assert printable(text) == text


def test_printed_json_holds_no_command_and_says_the_same() -> None:
    text = json.dumps({"a": "##[error]x", "\\##vso[y": "## z"}).encode()
    assert b"##[" not in without_commands(text)
    assert b"##vso[" not in without_commands(text)
    assert json.loads(without_commands(text)) == json.loads(text)


@pytest.mark.parametrize(
    ("raw", "limit", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("abcdefg", 1, "…"),
        ("a\nb", 4, "a\\nb"),
        ("a\nbc", 4, "a\\n…"),
        ("a\u202eb", 6, "a…"),  # an escape is never cut in half
        ("\u202e", 5, "…"),
        ("\u202e", 6, "\\u202e"),
    ],
)
def test_a_long_text_is_cut_and_never_within_an_escape(raw: str, limit: int, shown: str) -> None:
    assert printable(raw, limit) == shown


def test_a_printable_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        printable("x", 0)


@given(st.text(st.characters(), max_size=60), st.integers(1, 40))
def test_printable_text_never_holds_a_deceptive_character(raw: str, limit: int) -> None:
    shown = printable(raw, limit)
    assert len(shown) <= limit
    shown.encode()  # no lone surrogate
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(char) for char in shown} & {
        "LRE",
        "RLE",
        "LRO",
        "RLO",
        "PDF",
        "LRI",
        "RLI",
        "FSI",
        "PDI",
    }
    assert len(shown.splitlines()) <= 1
    assert printable(shown, limit) == shown


@given(st.text(st.characters(), max_size=60))
def test_a_printable_text_that_fits_is_never_cut(raw: str) -> None:
    assert not printable(raw, 10 * len(raw) + 1).endswith("…") or raw.endswith("…")


@given(st.text(max_size=60))
def test_escaped_gives_the_escapes_of_printable_without_a_cut(raw: str) -> None:
    assert escaped(raw) == printable(raw, 10 * len(raw) + 1)


def test_printing_a_huge_text_costs_only_its_limit() -> None:
    assert printable("\x1b" * 50_000_000, 20) == "\\x1b\\x1b\\x1b\\x1b…"


@pytest.mark.parametrize(
    ("raw", "limit", "shown"),
    [
        ("", 3, ""),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "…cdefg"),
        ("abcdefg", 1, "…"),
        ("a\nb", 4, "a\\nb"),
        ("ca\nb", 4, "…\\nb"),
        ("a\u202eb", 6, "…b"),  # an escape is never cut in half
        ("\u202e", 6, "\\u202e"),
    ],
)
def test_printable_end_keeps_the_end_of_a_text(raw: str, limit: int, shown: str) -> None:
    assert printable_end(raw, limit) == shown


@given(st.text(), st.integers(1, 40))
def test_printable_end_keeps_as_much_as_fits(raw: str, limit: int) -> None:
    whole, shown = printable(raw, 10_000), printable_end(raw, limit)
    assert len(shown) <= limit
    assert shown == whole or (len(whole) > limit and shown.startswith("…") and whole.endswith(shown[1:]))


@pytest.mark.parametrize("name", ["github", "octo/docs", "$(touch pwned)", "a b", "it's", "`x`", ";x", "*"])
def test_a_name_for_a_command_is_one_word_of_a_shell(name: str) -> None:
    assert shlex.split(f"add -g {option_name(name)}=FILE.wasm") == ["add", "-g", f"{name}=FILE.wasm"]


@pytest.mark.parametrize("name", ["", "-x", "a=b", "a\nb", "\u202eevil", "n" * 201])
def test_a_name_that_no_option_can_hold_is_not_offered_to_be_typed(name: str) -> None:
    assert option_name(name, "SERVER") == "SERVER"
