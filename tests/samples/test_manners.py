"""The sample guard as a guest: codes, buffers, memory, and arbitrary bytes."""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import strategies
from samplekit import (
    APPROVED,
    O_R,
    POLICY,
    PUBLIC,
    PUBLIC_REPO,
    READ_WRITES,
    READS,
    WRITES,
    Labeller,
    RawGuard,
    text_parts,
)


@pytest.fixture
def public() -> Labeller:
    return Labeller(**PUBLIC_REPO)


# Manners


def test_the_sample_guard_refuses_bad_calls_with_their_codes(public: Labeller) -> None:
    def code(payload: bytes) -> Any:
        result = public.raw("label_resource", payload)
        assert result.status == "refused"
        return result.error.guard_code

    assert code(b"") == -1
    assert code(b"{") == -1
    assert code(b"[]") == -1
    assert code(b'{"tool_name":"x"}{}') == -1
    assert code(b'{"tool_name":"\xff"}') == -1
    assert code(b'{"tool_name":"\\ud800"}') == -1
    assert code(b"{}") == -6
    assert code(b'{"tool_name":""}') == -6
    assert code(b'{"tool_name":5}') == -6
    assert public.resource("get_issue", O_R)["secrecy"] == PUBLIC


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"allow-only": {"repos": "all"}},
        {"allow-only": {"min-integrity": "none"}},
        {"allow-only": {"repos": "some", "min-integrity": "none"}},
        {"allow-only": {"repos": [], "min-integrity": "none"}},
        {"allow-only": {"repos": [1], "min-integrity": "none"}},
        {"allow-only": {"repos": ["noslash"], "min-integrity": "none"}},
        {"allow-only": {"repos": ["o/r/x"], "min-integrity": "none"}},
        {"allow-only": {"repos": "all", "min-integrity": "high"}},
        {"allow-only": {"repos": "all", "min-integrity": "none", "blocked-users": [None]}},
        {"allow-only": {"repos": "all", "min-integrity": "none"}, "trusted-bots": {}},
    ],
)
def test_bad_policy_is_refused_and_the_old_one_stays(raw: RawGuard, policy: Any) -> None:
    assert raw.call("label_agent", policy) == -3
    assert raw.call("label_resource", {"tool_name": "get_me"}) == -4
    assert isinstance(raw.call("label_agent", POLICY), dict)
    assert raw.call("label_agent", policy) == -3
    assert raw.call("label_resource", {"tool_name": "get_me"})["resource"]["integrity"] == APPROVED


@pytest.fixture
def raw() -> RawGuard:
    return RawGuard()


def test_the_sample_guard_gives_no_label_before_its_policy(raw: RawGuard) -> None:
    assert raw.call("label_resource", {"tool_name": "get_issue"}) == -4
    assert raw.call("label_response", {"tool_name": "get_issue"}) == -4


def test_buffer_that_is_too_small_gets_the_size(raw: RawGuard) -> None:
    raw.call("label_agent", POLICY)
    call = {"tool_name": "list_issues", "tool_args": O_R, "tool_result": [{"number": n} for n in range(100)]}
    whole = raw.call("label_response", call)
    payload = json.dumps(call).encode()
    given, out = raw.write(payload), raw.alloc(65536)
    label = raw.module.function("label_response")
    assert label(given, len(payload), out, 100) == -2
    size = int.from_bytes(raw.read(out, 4), "little")
    for cap in (size - 1, 4):
        assert label(given, len(payload), out, cap) == -2
        assert int.from_bytes(raw.read(out, 4), "little") == size
    for cap in (0, 3):
        assert label(given, len(payload), out, cap) == -2
    assert raw.read(given, len(payload)) == payload
    assert label(given, len(payload), out, size) == size
    assert json.loads(raw.read(out, size)) == whole


def test_pointers_out_of_memory_are_refused(raw: RawGuard) -> None:
    raw.call("label_agent", POLICY)
    memory = len(raw.module.memory_view())
    label = raw.module.function("label_resource")
    for arguments in [(memory, 1, 8, 8), (8, -1, 8, 8), (8, 8, memory - 4, 8), (-8, 16, 8, 8), (0, 4, 8, 8)]:
        assert label(*arguments) == -7


def test_buffers_taken_for_each_call_cost_no_memory(raw: RawGuard) -> None:
    raw.call("label_agent", POLICY)
    call = {"tool_name": "list_issues", "tool_result": [{"number": n, "x": "y" * 900} for n in range(100)]}
    raw.call("label_response", call, 4 << 20)
    before = len(raw.module.memory_view())
    for size in itertools.islice(itertools.cycle((4 << 20, 1 << 20, 70_000, 3)), 200):
        kept = raw.alloc(size)
        assert isinstance(raw.call("label_response", call, 4 << 20), dict)
        raw.dealloc(kept, size)
    assert len(raw.module.memory_view()) <= before + (5 << 20)


def test_the_sample_guard_leaves_memory_of_the_host_alone(raw: RawGuard) -> None:
    blocks = [(raw.write(bytes([i]) * size), i, size) for i, size in enumerate((1, 100, 70_000, 1_000_000), 1)]
    raw.call("label_agent", POLICY)
    for i in range(30):
        raw.call("label_response", {"tool_name": "get_issue_comments", "tool_result": [{"id": i}] * 500})
    for ptr, byte, size in blocks:
        assert raw.read(ptr, size) == bytes([byte]) * size
        raw.dealloc(ptr, size)
        raw.dealloc(ptr, size)  # given back twice: no harm
    raw.dealloc(12345, 10)
    assert isinstance(raw.call("label_agent", POLICY), dict)


def _wide(item: bytes, total: int) -> bytes:
    return b"[" + b",".join([item] * (total // (len(item) + 1))) + b"]"


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (b"[" * 4_000_000 + b"]" * 4_000_000, None),
        (b"[" * 8_000_000, -1),
        (b'{"items":' * 800_000 + b"1" + b"}" * 800_000, None),
        (b'"' + b"\\n" * 4_000_000 + b'"', None),
        (_wide(b"1", 7_900_000), None),
        (_wide(b'""', 7_900_000), -5),
        (_wide(b"{}", 7_900_000), -5),
    ],
    ids=["deep", "deep-open", "deep-objects", "escapes", "numbers", "strings", "objects"],
)
def test_largest_inputs_are_labelled_or_refused(public: Labeller, result: bytes, code: int | None) -> None:
    before = len(public.instance.memory.bytes)
    payload = b'{"tool_name":"list_issues","tool_args":{"owner":"o","repo":"r"},"tool_result":' + result + b"}"
    for _ in range(2):
        outcome = public.raw("label_response", payload)
        assert (outcome.error.guard_code if outcome.error else None) == code
    assert public.resource("get_issue", O_R)["secrecy"] == PUBLIC
    assert before <= len(public.instance.memory.bytes) <= 32 << 20


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_result_of_five_megabytes_is_labelled(public: Labeller, wrapped: bool) -> None:
    item = {
        "number": 1,
        "user": {"login": "ada"},
        "author_association": "OWNER",
        "body": "長い\n" * 500,
        "labels": ["x"],
    }
    page: Any = [item] * 1500
    page = text_parts(json.dumps(page, ensure_ascii=False)) if wrapped else page
    call = {"tool_name": "list_issues", "tool_args": O_R, "tool_result": page}
    payload = json.dumps(call, ensure_ascii=False).encode()
    assert len(payload) > 5_000_000
    for _ in range(3):
        outcome = public.raw("label_response", payload)
        assert outcome.status == "ok"
        assert len(json.loads(outcome.label)["labeled_paths"]) == 1500
    assert len(public.instance.memory.bytes) < 32 << 20


@cache
def _shared() -> Labeller:
    return Labeller(**PUBLIC_REPO)


_NAMES = """
tool_name tool_args tool_result owner repo path ref sha query content type text isError items data search nodes
repository full_name private visibility base head user author login author_association merged_at labels name number
html_url pull_request allow-only repos min-integrity trusted-bots blocked-users x
""".split()  # noqa: SIM905
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20).filter(lambda t: t.isascii() or max(t) < "\ud800" or max(t) > "\udfff"),
    st.sampled_from(["o", "r", "o/r", "OWNER", "all", "none", "list_issues", "search_code", "text", '[{"number":1}]']),
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=6),
    max_leaves=25,
)


@settings(max_examples=strategies.examples(250), deadline=None)
@given(tool=st.sampled_from([*READS, *WRITES, *READ_WRITES, "?"]), args=_JSON, result=_JSON)
def test_any_json_is_labelled(tool: str, args: Any, result: Any) -> None:
    call = json.dumps({"tool_name": tool, "tool_args": args, "tool_result": result}, ensure_ascii=False)
    payload = call.encode("utf-8", "replace")
    for op in ("label_resource", "label_response"):
        outcome = _shared().raw(op, payload)
        assert outcome.status == "ok", outcome.error


@settings(max_examples=strategies.examples(250), deadline=None)
@given(payload=st.one_of(st.binary(max_size=200), _JSON.map(lambda v: json.dumps(v).encode())), cut=st.integers(0, 9))
def test_any_bytes_are_labelled_or_refused(payload: bytes, cut: int) -> None:
    given_bytes = payload[: len(payload) - cut] if cut > 4 else payload
    for op in ("label_resource", "label_response"):
        assert _shared().raw(op, given_bytes).status in {"ok", "refused"}
    assert not _shared().instance.dead


@settings(max_examples=strategies.examples(150), deadline=None)
@given(policy=_JSON)
def test_any_policy_is_taken_or_refused(policy: Any) -> None:
    answer = _raw_shared().call("label_agent", policy)
    assert isinstance(answer, dict) or answer in {-1, -3}


@cache
def _raw_shared() -> RawGuard:
    return RawGuard()
