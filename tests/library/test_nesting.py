"""Depth of JSON without recursion, and decoding on a stack that is large enough."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given, strategies as st

from guardpool import nesting, stacks
from guardpool.labels import ResponseLabel, label_from_json

SMALL_STACK_BYTES = 128 * 1024


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


VALUES = st.recursive(
    st.one_of(st.none(), st.text(alphabet='[]{}"\\\\/bux\n\x00é', max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text('[]{}"\\\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=25,
)


@given(value=VALUES, most=st.integers(0, 12))
def test_it_is_what_a_walk_over_the_value_finds(value: Any, most: int) -> None:
    assert nesting.is_deeper(json.dumps(value).encode(), most) == (depth_of(value) > most)


@pytest.mark.parametrize("most", [100, 500])
def test_deep_values_are_found_whatever_stands_beside_them(most: int) -> None:
    wide = b"[" + b",".join([b'{"a":["]]]","\\"[[["]}'] * 400) + b"]"
    for deep, expected in [(most - 2, False), (most - 1, False), (most, True), (100_000, True)]:
        value = b'{"x":' + wide + b',"y":' + b"[" * deep + b"]" * deep + b"}"
        assert nesting.is_deeper(value, most) is expected
    assert nesting.is_deeper(b"[" * (most + 1), most)  # a decoder goes that deep before it finds out
    assert nesting.is_deeper(b"[{" * most, most)
    assert not nesting.is_deeper(b'"' + b"[" * 10_000, most)


def response(depth: int) -> bytes:
    return (
        b'{"labeled_paths":[],"default_labels":null,"items_path":null,"items":[{"data":'
        + b"[" * depth
        + b"]" * depth
        + b',"description":"","secrecy":[],"integrity":[]}]}'
    )


def on_small_stack(call: Any) -> Any:
    """The result of a call on a thread with 128 KiB of stack: too little is a SIGSEGV that ends the tests."""
    before, result = threading.stack_size(SMALL_STACK_BYTES), []
    try:
        thread = threading.Thread(target=lambda: result.append(call()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return result[0]


def test_a_label_may_be_read_on_a_thread_with_little_stack() -> None:
    label = on_small_stack(lambda: label_from_json("label_response", response(490)))
    assert isinstance(label, ResponseLabel)
    assert label.items is not None


def test_what_a_decoder_raises_on_another_stack_is_raised_here() -> None:
    def decode() -> str:
        with pytest.raises(ValueError, match="malformed") as caught:
            label_from_json("label_response", response(490)[:-2] + b"}}")
        return type(caught.value).__name__

    assert on_small_stack(decode) == "DecodeError"


def test_the_stack_of_other_threads_stays_what_the_program_asked_for() -> None:
    before = threading.stack_size(SMALL_STACK_BYTES)
    try:
        thread = threading.Thread(target=lambda: None)
        stacks.start(thread)
        thread.join()
        assert threading.stack_size() == SMALL_STACK_BYTES
    finally:
        threading.stack_size(before)
