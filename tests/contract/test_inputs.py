"""Values as a guard of the reference gateway sees them: the recorded vectors, and an oracle that shares no code."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

import strategies
from guardpool.contract import ContractError, inputs, normalise
from paths import VECTORS


def _cases() -> list[Any]:
    lines = (VECTORS / "inputs.jsonl").read_text(encoding="utf-8").splitlines()
    return [pytest.param(json.loads(line), id=f"{number}") for number, line in enumerate(lines, 1)]


def _spelling(text: str | bytes) -> Any:
    """A JSON value in which numbers are as they are spelt."""
    return json.loads(text, parse_int=lambda digits: ("number", digits), parse_float=lambda digits: ("number", digits))


def _as_go_writes(value: float) -> str:
    """A double as Go's encoder writes it, by way of a decimal number."""
    exact = Decimal(repr(value))
    if value == 0:
        return "-0" if exact.is_signed() else "0"
    if 1e-6 <= abs(value) < 1e21:
        digits = format(exact, "f")
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    sign, digits_of, _ = exact.normalize().as_tuple()
    digits = "".join(map(str, digits_of))
    mantissa = digits[0] + ("." + digits[1:] if digits[1:] else "")
    return f"{'-' if sign else ''}{mantissa}e{exact.adjusted():+d}"


def _by_the_oracle(text: str) -> Any:
    def number(digits: str) -> tuple[str, str]:
        return "number", _as_go_writes(float(digits))

    return json.loads(text, parse_int=number, parse_float=number)


@pytest.mark.parametrize("case", _cases())
def test_each_vector_is_normalised_as_the_reference_wrote_it(case: dict[str, Any]) -> None:
    raw = base64.b64decode(case["json_base64"])
    if not case["accept"]:
        with pytest.raises(ContractError, match="not JSON"):
            normalise(raw)
        return
    for place in (b"%s", b"[%s]", b'{"a":[{"b":%s}]}', b' {"long":1234567890123456, "a":%s}'):
        assert _spelling(normalise(place % raw)) == _spelling((place % b"%s").decode() % case["value"])


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e-6)
@example(9.999999999999999e-7)
@example(1e-4)
@example(9.999999999999999e-5)
@example(1e21)
@example(9.999999999999999e20)
@example(2.0**53)
@example(5e-324)
@example(-0.0)
def test_a_double_is_written_as_go_writes_it(value: float) -> None:
    for text in {repr(value), f"{value:.17e}", f"{value:.17E}"}:
        assert normalise(text.encode()) == _as_go_writes(value).encode()


@given(st.integers(-(10**40), 10**40))
@example(2**53 + 1)
@example(-(2**53) - 1)
@example(10**15)
@example(10**16 - 1)
def test_a_whole_number_is_written_as_its_double(value: int) -> None:
    assert normalise(b"%d" % value) == _as_go_writes(float(value)).encode()


_spaces = st.sampled_from(("", " ", "\n", "\t "))
_literals = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(
        ("-0", "0", "7.0", "7e0", "70e-1", "1E2", "9007199254740993", "true", "null", '"-0"', '"1.50"', '"\\u0041"')
    ),
    strategies.texts.map(json.dumps),
    strategies.texts.map(lambda text: json.dumps(text, ensure_ascii=False)),
)
_names = st.sampled_from(('"a"', '"\\u0061"', '"b"', '"text"'))


def _container(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arrays = st.tuples(_spaces, st.lists(inner, max_size=3)).map(
        lambda it: f"[{it[0]}{(',' + it[0]).join(it[1])}{it[0]}]"
    )
    members = st.tuples(_names, _spaces, inner).map(lambda it: f"{it[0]}{it[1]}:{it[1]}{it[2]}")
    objects = st.tuples(_spaces, st.lists(members, max_size=4)).map(
        lambda it: "{" + f",{it[0]}".join(it[1]) + it[0] + "}"
    )
    texts = inner.map(lambda text: f'{{"content":[{{"type":"text","text":{text}}}]}}')
    return st.one_of(arrays, objects, texts)


@given(st.recursive(_literals, _container, max_leaves=12))
@example('{"content":[{"type":"text","text":7.0}]}')
@example('{"content":[{"type":"text","text":"a","text":"b"}],"isError":true,"isError":false}')
@example('{"content":[],"content":[{"type":"text","text":"\\u00e9"}]}')
@example('{"content":[{"type":"image","data":7.0}]}')
@example('{"content": [{"type": "text", "text": "x"}], "more": 1e0}')
@example('["a,-0,b", -0]')
def test_any_json_is_normalised_as_the_oracle_does(text: str) -> None:
    made = normalise(text.encode())
    assert _spelling(made) == _by_the_oracle(text)
    assert normalise(made) == made
    assert msgspec.json.encode(inputs.value_of(text.encode())) == msgspec.json.encode(inputs.value_of(made))


@given(st.one_of(st.binary(max_size=60), strategies.as_bytes(strategies.response_answers)))
def test_any_bytes_are_normalised_to_json_or_refused(raw: bytes) -> None:
    try:
        made = normalise(raw)
    except ContractError as error:
        assert strategies.is_one_short_line(error)  # noqa: PT017  # some examples raise nothing
        return
    assert _spelling(made) == _by_the_oracle(made.decode())


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'"\xff\xc3"', "\ufffd\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd" * 3),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud83d"', "\\ud83d"),
    ],
)
def test_what_is_not_text_becomes_replacement_characters(raw: bytes, text: str) -> None:
    assert json.loads(normalise(raw)) == text
    assert json.loads(normalise(b'{"content":[{"type":"text","text":%s}]}' % raw))["content"][0]["text"] == text


def test_names_that_become_equal_count_as_given_twice() -> None:
    assert normalise(rb'{"\ud800":1,"\udfff":2}') == '{"\ufffd":2}'.encode()


@pytest.mark.parametrize("number", [b"1e309", b"-1e309", b"9" * 400, b"1e999999"])
def test_a_number_that_no_double_holds_is_refused(number: bytes) -> None:
    with pytest.raises(ContractError, match="is too large"):
        normalise(b'{"a":[%s]}' % number)


@pytest.mark.parametrize("depth", [100, 400])
def test_deep_values_are_normalised(depth: int) -> None:
    raw = b"[" * depth + b"-0,7.0" + b"]" * depth
    assert normalise(raw) == b"[" * depth + b"-0,7" + b"]" * depth


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"7.0" + b"]" * 100_000])
def test_what_is_too_deep_for_python_is_refused(raw: bytes) -> None:
    with pytest.raises(ContractError, match="not JSON"):
        normalise(raw)
