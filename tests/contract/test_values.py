"""Python values of a job: written as the reference gateway writes them, or refused with their place."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

import strategies
from guardpool import samples
from guardpool.contract import normalise
from guardpool.contract.values import Look, NotJson, look, plain, to_json
from guardpool.jobs import Job
from guardpool.submit import payload
from guardpool.submit.payload import PayloadError, encode_job


class Word(str, enum.Enum):
    OPEN = "open"


class Level(enum.IntEnum):
    HIGH = 3


class Color(enum.Enum):
    RED = "red"


@dataclass
class Issue:
    number: int


Plain = msgspec.defstruct("Plain", [("value", plain(4))], array_like=True)


class Unreadable(Mapping[str, Any]):
    """A mapping that raises whatever it is asked."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("not now")

    def __iter__(self) -> Any:
        raise RuntimeError("not now")

    def __len__(self) -> int:
        return 1


class Equal(set[int]):
    """A set that cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not now")

    __hash__ = None  # type: ignore[assignment]


Pair = namedtuple("Pair", "a b")  # noqa: PYI024  # a tuple with another type


def told(value: Any) -> bytes:
    """What the guard is told of `value` as `tool_args`."""
    payload = encode_job(Job(1, "label_resource", "t", value))
    prefix = b'{"tool_name":"t","tool_args":'
    assert payload.startswith(prefix)
    return payload[len(prefix) : -1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.0, b"7"),
        ({"issue_number": 7.0, "owner": "o"}, b'{"issue_number":7,"owner":"o"}'),
        ([1e21, 1e20, 1e-7, 0.5, -0.0, 2**53 + 1, -(2**63)], None),
        (2**70, b"1.1805916207174113e+21"),
        ((1, (2.0,)), b"[1,[2]]"),
        (Pair(1, "b"), b'[1,"b"]'),
        (OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
        ([UserDict(b=1), MappingProxyType({"a": 2.0})], b'[{"b":1},{"a":2}]'),
        ([[[[[[UserDict(a=UserDict(b=1))]]]]]], b'[[[[[[{"a":{"b":1}}]]]]]]'),
        ({"state": Word.OPEN, "level": Level.HIGH}, b'{"state":"open","level":3}'),
        ({"a": "x\ud800", "\udfff": True}, '{"a":"x\ufffd","\ufffd":true}'.encode()),
        (msgspec.Raw(b'{"a":7.0,"a":1e2}'), b'{"a":100}'),
        ({"a": msgspec.Raw(b"-0")}, b'{"a":-0}'),
    ],
)
def test_values_are_told_as_the_reference_writes_them(value: Any, text: bytes | None) -> None:
    expected = (
        b"[1e+21,100000000000000000000,1e-7,0.5,-0,9007199254740992,-9223372036854776000]" if text is None else text
    )
    assert told(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"items": [1, 2, 3, {"when": datetime.datetime.now()}]}, "tool_args.items[3].when: datetime is not JSON"),
        ({"day": datetime.date.today()}, "tool_args.day: date is not JSON"),
        ({"data": b"x"}, "tool_args.data: bytes is not JSON"),
        ([{1, 2}], "tool_args[0]: set is not JSON"),
        ([frozenset()], "tool_args[0]: frozenset is not JSON"),
        ({"price": Decimal("1.5")}, "tool_args.price: Decimal is not JSON"),
        (uuid.UUID(int=1), "tool_args: UUID is not JSON"),
        ({"of": Color.RED}, "tool_args.of: Color is not JSON"),
        ({"issue": Issue(7)}, "tool_args.issue: Issue is not JSON"),
        ({"it": iter(())}, "tool_args.it: tuple_iterator is not JSON"),
        ({"it": range(3)}, "tool_args.it: range is not JSON"),
        ({"a": Unreadable()}, "tool_args.a: Unreadable cannot be read: "),
        ([[[[[Unreadable()]]]]], "tool_args[0][0][0][0][0]: Unreadable cannot be read: "),
        ({"a": Equal([1])}, "tool_args.a: Equal is not JSON"),
        ({"x": float("nan")}, "tool_args.x: NaN is not JSON"),
        ([0.5, float("inf")], "tool_args[1]: Infinity is not JSON"),
        ([float("-inf")], "tool_args[0]: -Infinity is not JSON"),
        ({"n": 10**400}, "tool_args.n: no double holds this number, and guards have doubles only"),
        ({"n": 10**5000}, "tool_args.n: no double holds this number, and guards have doubles only"),
        ({1: 2}, "tool_args: the key 1 is not a string"),
        ({"a": [{None: 2}]}, "tool_args.a[0]: the key null is not a string"),
        ({"a b": {"c\n": b""}}, "tool_args['a b']['c\\n']: bytes is not JSON"),
        ({"a": msgspec.Raw(b"{")}, "tool_args.a: not JSON: "),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(PayloadError) as caught:
        told(value)
    assert caught.value.code == "not_json"
    assert str(caught.value).startswith(message)
    assert strategies.is_one_short_line(caught.value)


@pytest.mark.parametrize("field", ["tool_args", "tool_result", "capabilities"])
def test_every_field_of_a_job_is_looked_at(field: str) -> None:
    job = {"id": 1, "op": "label_response", "tool_name": "t", "tool_result": [], field: {"a": [b""]}}
    with pytest.raises(PayloadError, match=rf"^{field}\.a\[0\]: bytes is not JSON$"):
        encode_job(Job(**job))
    job[field] = {"a": [7.0]}
    assert json.loads(encode_job(Job(**job)), parse_float=str)[field] == {"a": [7]}


def test_a_value_that_contains_itself_is_refused_with_its_place() -> None:
    value: dict[str, Any] = {"x": [1]}
    value["x"].append({"again": value})
    with pytest.raises(PayloadError, match=r"^tool_args\.x\[1\]\.again: contains itself$"):
        told(value)


def test_the_same_object_twice_does_not_contain_itself() -> None:
    part = {"a": [1.0]}
    assert told([part, part, {"b": part}]) == b'[{"a":[1]},{"a":[1]},{"b":{"a":[1]}}]'


def test_a_value_that_is_too_deep_is_refused() -> None:
    deep: Any = 7.0
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PayloadError, match=r"levels deep$"):
        told(deep)


def test_a_tools_name_is_text_as_well() -> None:
    assert encode_job(Job(1, "label_resource", "t\ud800")) == '{"tool_name":"t\ufffd","tool_args":null}'.encode()
    assert encode_job(Job(1, "label_resource", Word.OPEN)) == b'{"tool_name":"open","tool_args":null}'


_floats = st.floats(allow_nan=False, allow_infinity=False)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), _floats, strategies.texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(strategies.texts, inner, max_size=4)),
    max_leaves=12,
)


@given(_values)
def test_the_quick_way_and_the_exact_way_write_the_same(value: Any) -> None:
    exact = msgspec.json.encode(to_json(value, "v"))
    assert normalise(exact) == exact
    if not isinstance(value, str):
        assert told(value) == exact
    if look(value) is Look.PLAIN:
        assert msgspec.json.encode(value) == exact


_maybe_odd = st.one_of(st.binary(max_size=2), st.floats(), st.frozensets(st.integers(), max_size=2), _values)


@given(st.recursive(_maybe_odd, lambda inner: st.lists(inner, max_size=3)))
def test_a_value_is_odd_or_the_exact_way_takes_it(value: Any) -> None:
    try:
        exact = msgspec.json.encode(to_json(value, "v"))
    except NotJson:
        assert look(value) is Look.ODD
        with pytest.raises(PayloadError):
            told(value)
    else:
        assert look(value) is not Look.ODD
        assert isinstance(value, str) or told(value) == exact


@given(_values)
def test_what_is_converted_and_equal_is_plain(value: Any) -> None:
    try:
        made = msgspec.convert((value,), Plain).value
    except msgspec.ValidationError:
        return
    assert (made == value) == (look(value) is Look.PLAIN)


def test_nearly_all_sample_jobs_are_told_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(job: Job) -> bytes:
        slow.append(job)
        return b""

    jobs, slow = list(samples.jobs(500)), []
    told_before = [payload._encode_any(job) for job in jobs]
    monkeypatch.setattr(payload, "_encode_any", note)
    quick = [encode_job(job) for job in jobs]
    assert [text for text in quick if text] == [text for text, now in zip(told_before, quick) if now]
    assert 0 < len(slow) < 25  # those with numbers that may be written in another way
