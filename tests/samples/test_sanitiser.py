"""What the gateway's log does to payloads, expression by expression, and which state that leaves them in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from guardpool.samples import sanitiser

SHA = "0123456789abcdef0123456789abcdef01234567"
WORD = "Z" * 40


def broken(raw: str) -> str:
    return json.dumps({"_error": "invalid JSON", "_raw": raw}, separators=(",", ":"))


@pytest.mark.parametrize(
    ("payload", "logged", "state"),
    [
        ('{"a":"plain text","n":[1.50,null]}', '{"a":"plain text","n":[1.50,null]}', "intact"),
        (f'{{"sha":"{SHA}"}}', '{"sha":"[REDACTED]"}', "redacted"),
        (f'{{"sha":"{SHA[:31]}"}}', f'{{"sha":"{SHA[:31]}"}}', "intact"),
        (f'{{"sha":"{SHA.upper()}"}}', f'{{"sha":"{SHA.upper()}"}}', "intact"),
        (f'{{"a":"see ghp_{WORD} now"}}', '{"a":"see [REDACTED] now"}', "redacted"),
        (f'{{"a":"github_pat_{WORD[:22]}_{"Y" * 59}"}}', '{"a":"[REDACTED]"}', "redacted"),
        ('{"a":"Bearer abc.def"}', '{"a":"[REDACTED]"}', "redacted"),
        ('{"a":"bearer abc=="}', '{"a":"bearer abc=[REDACTED]"}', "redacted"),
        ('{"a":"Authorization: Basic xyz"}', '{"a":"Authorization=[REDACTED] xyz"}', "redacted"),
        (f'{{"a":"{WORD}.eyJhbGc.c2ln"}}', '{"a":"[REDACTED]"}', "redacted"),
        ('{"key":"v"}', broken('{"key"=[REDACTED]}'), "repaired"),
        ('{"a":{"Access_Token":"v","b":1}}', broken('{"a":{"Access_Token"=[REDACTED],"b":1}}'), "repaired"),
        ('{"credentials":{"a":"v"}}', '{"credentials":{"a":"v"}}', "intact"),
        ('{"key":""}', '{"key":""}', "intact"),
        ('{"key":5}', '{"key":5}', "intact"),
        (f'{{"token":"ghp_{WORD}"}}', broken('{"token"=[REDACTED]}'), "repaired"),
        ('{"a":"primary key: user_identifier]"}', broken('{"a":"primary key=[REDACTED]'), "lost"),
        ('{"a":"client_id=12345678"}', broken('{"a":"client_id=[REDACTED]'), "lost"),
        ('{"a":"api_key=12345678 x"}', '{"a":"api_key=[REDACTED] x"}', "redacted"),
        ('{"a":"key: 1234567 x"}', '{"a":"key: 1234567 x"}', "intact"),
        # The value runs over the ends of two strings, and what is left is JSON all the same.
        ('{"a":"key: 1","b":2,"c":"x y"}', '{"a":"key=[REDACTED] y"}', "lost"),
        # A quote within the value ends the expression too early.
        (r'{"key":"a\"b"}', broken('{"key"=[REDACTED]b"}'), "lost"),
        (r'{"a":"{\"token\":\"abc\"}"}', r'{"a":"{\"token\":\"abc\"}"}', "intact"),
        # The digits of an escape are digits, too.
        (rf'{{"a":"\u003c{SHA}"}}', broken(r'{"a":"\u[REDACTED]"}'), "lost"),
        ("", broken(""), "intact"),
    ],
)
def test_each_expression_does_what_the_gateway_does(payload: str, logged: str, state: str) -> None:
    assert sanitiser.sanitise(payload) == logged
    if payload:
        assert sanitiser.state_after(payload) == state


def test_a_payload_is_compacted_and_what_go_escapes_is_escaped() -> None:
    assert sanitiser.sanitise(' { "a b" : [ 1 , "<\u2028 &>" ] }\n') == r'{"a b":[1,"\u003c\u2028 \u0026\u003e"]}'
    assert sanitiser.encode({"b": "<", "a": 1}, sorted_names=True) == r'{"a":1,"b":"\u003c"}'
    assert sanitiser.sanitise("[1e999, 12345678901234567890]") == "[1e999,12345678901234567890]"
    assert json.loads(sanitiser.sanitise("[NaN]")) == {"_error": "invalid JSON", "_raw": "[NaN]"}


def test_what_is_left_has_the_marks_in_the_place_of_the_values() -> None:
    payload = f'{{"key":"v","sha":"{SHA}","a":"b"}}'
    left = sanitiser.damage(payload).left
    assert left is not None
    assert json.loads(left) == {"key": "[REDACTED]", "sha": "[REDACTED]", "a": "b"}
    assert sanitiser.damage('{"a":"key: 12345678"}').left is None
    assert sanitiser.damage('{"a":"key"}').left == '{"a":"key"}'


PIECES = ["key", "token", '"', "\\", "<", ":", "=", " ", SHA, "ghp_" + WORD, "12345678", "Bearer x", "é", "\n", "a b c"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
VALUES = st.recursive(
    TEXTS | st.integers(-5, 10**40) | st.booleans() | st.none(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXTS, inside, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_the_state_and_what_is_left_agree_with_what_was_logged(value: Any) -> None:
    payload = _as_go_writes(value)
    done = sanitiser.damage(payload)
    assert done.logged == sanitiser.sanitise(payload)
    logged = json.loads(done.logged)
    is_broken = "_error" in logged
    if done.state == "intact":
        assert done.logged == payload == done.left
    elif done.state == "redacted":
        assert not is_broken
        assert json.loads(done.left or "") == logged
    elif done.state == "repaired":
        assert is_broken
        assert _shape(json.loads(done.left or "")) == _shape(json.loads(payload))
    else:
        assert done.left is None


def _as_go_writes(value: Any) -> str:
    text = json.dumps({"v": value}, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _shape(value: Any) -> Any:
    """A value without what its strings and names say."""
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return sorted(map(repr, map(_shape, value.values()))) if isinstance(value, dict) else type(value)
