"""Replies near the guard: every question comes to the same, whether its reply is near or Python finds it.

The guard makes the calls that its input lists, with any numbers, and writes down what each returned.
"""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

import enginekit
import guardkit
from guardpool.limits import Limits
from guardpool.protocol import reply_memory
from guardpool.protocol.reply_memory import FAILURE, NEVER, RESULT, KnownOf, key_of_question, reply_digest
from guardpool.protocol.wire import MAX_USED_REPLIES
from guardpool.sizes import MIB, PAGE_BYTES, QUICK_JUDGE_BYTES
from guardpool.supervise.reply_memory import Layout, ReplyMemory
from guardpool_worker import backend as backend_module, known_replies, near_replies
from guardpool_worker.backend import BackendError
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.instance import CallResult, GuardInstance, InstanceSettings
from guardpool_worker.known_replies import Copies, KnownReplies

WROTE_AT = 1024
TO = 4096
LABEL = b'{"resource":{"description":"d","secrecy":[],"integrity":[]},"operation":"read"}'

GUARD = enginekit.wat_to_wasm(
    """(module (import "env" "call_backend" (func $ask (param i32 i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (data (i32.const 8) "{\\22difc_mode\\22:\\22strict\\22}")
    (data (i32.const 64) "LABEL")
    (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
      (memory.copy (local.get 2) (i32.const 8) (i32.const 22)) (i32.const 22))
    (func (export "label_resource") (param $in i32) (param i32) (param $out i32) (param i32) (result i32)
      (local $left i32) (local $to i32)
      (local.set $left (i32.load (local.get $in)))
      (local.set $to (i32.const 1024))
      (block $done (loop $more
        (br_if $done (i32.eqz (local.get $left)))
        (i32.store (local.get $to) (call $ask
          (i32.load offset=4 (local.get $in)) (i32.load offset=8 (local.get $in)) (i32.load offset=12 (local.get $in))
          (i32.load offset=16 (local.get $in)) (i32.load offset=20 (local.get $in)) (i32.load offset=24 (local.get $in))))
        (local.set $in (i32.add (local.get $in) (i32.const 24)))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $more)))
      (memory.copy (local.get $out) (i32.const 64) (i32.const SIZE)) (i32.const SIZE))
    (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)))""".replace(
        "LABEL", "".join(f"\\{byte:02x}" for byte in LABEL)
    ).replace("SIZE", str(len(LABEL)))
)


@functools.cache
def loaded() -> LoadedGuard:
    return guardkit.load(GUARD)


class Ask(NamedTuple):
    """A question: to which buffer, of which size, and which of its parts stand at the end of memory, not in the input."""

    tool: bytes
    args: bytes
    to: int = TO
    cap: int = 16384
    at_end: Literal["", "tool", "args", "args tool"] = ""


class Asker:
    """An instance of the guard with known replies.

    Args:
        replies: by tool and arguments; what is an int fails.
        near_bytes: 0: none is kept near.
    """

    def __init__(
        self,
        replies: dict[tuple[bytes, bytes], bytes | int],
        near_bytes: int = MIB,
        expires_ns: int = NEVER,
        outlives: bool = False,
        kept_bytes: int = MIB,
        **limits: Any,
    ) -> None:
        layout = Layout()
        area = layout.kept(kept_bytes)
        assert area is not None
        self._area, self._memory = area, ReplyMemory(memory := mmap.mmap(-1, layout.size))
        for (tool, args), reply in replies.items():
            self.put(tool, args, reply, expires_ns)
        self.live: list[bytes] = []
        self.known = KnownReplies(memory, KnownOf(None, area, False), Copies(), outlives)
        chosen = InstanceSettings("asker", has_backend=True, near_bytes=near_bytes, **limits)
        self._make = functools.partial(GuardInstance, loaded(), chosen, self._answer, self.known)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have the next job run on a new instance."""
        self.instance = self._make()
        self.instance.label_agent(b"{}")

    def put(self, tool: bytes, args: bytes, reply: bytes | int, expires_ns: int = NEVER) -> None:
        key, failed = key_of_question(tool.decode(), args), isinstance(reply, int)
        self._memory.put(
            self._area, key, FAILURE if failed else RESULT, b"no" if isinstance(reply, int) else reply, expires_ns
        )

    def _answer(self, tool: str, args: bytes) -> bytes:
        self.live.append(args)
        if args == b"13":
            raise BackendError("unlucky")
        return b"[%b]" % args

    def ask(self, *asks: Ask) -> tuple[list[int], CallResult]:
        """What each question returned, and the job's result."""
        memory = self.instance.memory
        at = self.instance._buffers.in_ptr
        text_at = at + 4 + 24 * len(asks)
        payload, texts = struct.pack("<I", len(asks)), b""
        for ask in asks:
            tool_at = text_at + len(texts)
            args_at = tool_at + len(ask.tool)
            end = memory.size()
            if "tool" in ask.at_end:
                end = tool_at = end - len(ask.tool)
                memory.bytes[tool_at : tool_at + len(ask.tool)] = ask.tool
            if "args" in ask.at_end:
                args_at = end - len(ask.args)
                memory.bytes[args_at:end] = ask.args
            payload += struct.pack("<6I", tool_at, len(ask.tool), args_at, len(ask.args), ask.to, ask.cap)
            texts += ask.tool + ask.args
        result = self.instance.call("label_resource", payload + texts)
        return list(struct.unpack_from(f"<{len(asks)}i", memory.bytes, WROTE_AT)), result

    @property
    def near(self) -> Any:
        return self.instance._backend.near

    def finds(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The questions that Python looks up from now on."""
        looked: list[Any] = []
        found = self.known.as_spelt
        monkeypatch.setattr(self.known, "as_spelt", lambda question: looked.append(question) or found(question))
        return looked


def told(result: CallResult) -> Any:
    """All of a result; what is in no order sorted."""
    tally = result.backend
    if tally is None:
        return result.status, result.label, result.backend_calls
    tools = sorted((tool.tool, tool.asked, tool.failed) for tool in tally.tools)
    used = None if tally.used is None else sorted((each.tool, each.args, each.digest) for each in tally.used)
    missing = [(each.tool, each.args) for each in tally.missing]
    return result.status, result.label, result.backend_calls, tally.asked, tally.failed, missing, tools, used


TOOLS = [b"get", b"search_repositories", "müll".encode(), b"t" * 256]
ARGS = [
    b"1",
    b"13",
    b"[1,2]",
    b'{"n":1234567}',
    b" 1",
    b'"%b"' % (b"x" * 1021),
    b'"%b"' % (b"x" * 1023),
    b"",
    b"{",
    b"2" * 30,
]
REPLIES = [b"1", b"12345678", b"123456789", b"x" * 300, bytes(range(256)) * 30, b"y" * 8192, b"y" * 8193, 0]
QUESTIONS = {(tool, args): REPLIES[(3 * t + a) % 8] for t, tool in enumerate(TOOLS) for a, args in enumerate(ARGS[:6])}


def jobs_of(questions: list[tuple[bytes, bytes]]) -> st.SearchStrategy[list[list[Ask]]]:
    """Jobs that ask a few questions again and again, so that what one of them leaves near matters to the next."""
    asks = st.builds(
        lambda question, to, cap, at_end: Ask(*question, to, cap, at_end),
        st.sampled_from(questions),
        st.sampled_from([TO, TO, TO + 3, 10**9, 0xFFFFFFFF]),
        st.sampled_from([16384, 16384, 8, 3, 0, 0xFFFFFFFF]),
        st.sampled_from(["", "", "tool", "args", "args tool"]),
    )
    return st.lists(st.lists(asks, max_size=12), max_size=5)


tools = st.sampled_from([*TOOLS, b"", b"\xff", b"t" * 257])
jobs_with_repeats = st.lists(st.tuples(tools, st.sampled_from(ARGS)), min_size=1, max_size=4).flatmap(jobs_of)


@settings(max_examples=40, deadline=None)
@given(jobs_with_repeats, st.booleans(), st.sampled_from([3, 50]))
def test_what_is_near_comes_to_what_python_makes_of_it(jobs: list[list[Ask]], tells: bool, most: int) -> None:
    near, far = (Asker(QUESTIONS, near_bytes, tells_replies=tells, max_backend_calls=most) for near_bytes in (MIB, 0))
    assert near.near is not None
    assert far.near is None
    for job in [*jobs, *jobs]:
        for each in (near, far):
            each.instance.memory.bytes[TO : TO + 16384] = b"\xaa" * 16384
        (returned, result), (theirs, expected) = near.ask(*job), far.ask(*job)
        assert returned == theirs
        assert told(result) == told(expected)
        assert near.instance.memory.bytes[TO : TO + 16384] == far.instance.memory.bytes[TO : TO + 16384]
        assert near.live == far.live


def test_python_looks_for_a_reply_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker({(b"get", b"1"): b"one", (b"list", b"2"): b"two"})
    looked = asker.finds(monkeypatch)
    for _ in range(3):
        returned, result = asker.ask(Ask(b"get", b"1"), Ask(b"list", b"2"), Ask(b"get", b"1"))
        assert returned == [3, 3, 3]
        assert result.backend is not None
        assert (result.backend_calls, result.backend.asked, result.backend.failed) == (3, 3, 0)
        assert sorted((tool.tool, tool.asked) for tool in result.backend.tools) == [("get", 2), ("list", 1)]
    assert looked == [(b"get", b"1"), (b"list", b"2")]


def test_a_reply_that_does_not_fit_is_not_given_where_it_is_near_either() -> None:
    asker = Asker({(b"get", b"1"): b"x" * 300})
    near, end = Ask(b"get", b"1"), PAGE_BYTES * 4096
    too_small, cut = near._replace(cap=299), near._replace(to=end)
    for _ in range(2):
        assert asker.ask(near, too_small, cut)[0] == [300, -2, -1]
    asker.instance.memory.bytes[TO : TO + 8] = b"\xaa" * 8
    asker.ask(too_small)
    assert bytes(asker.instance.memory.bytes[TO : TO + 8]) == struct.pack("<I", 300) + b"\xaa" * 4


def test_a_question_that_python_has_to_look_at_leaves_its_reply_at_no_other_question() -> None:
    asker = Asker({(b"get", b"1"): b"one", (b"get", b"2"): b"second"})
    for _ in range(2):
        for where in ("args", "tool", "args tool"):
            assert asker.ask(Ask(b"get", b"1"), Ask(b"get", b"2", at_end=where), Ask(b"get", b"1"))[0] == [3, 6, 3]


@pytest.mark.parametrize("size", [1025, 2_000_000])
def test_a_question_longer_than_those_that_are_near_goes_to_python(size: int) -> None:
    args = b'"%b"' % (b"x" * (size - 2))
    near, far = (Asker({(b"get", b"1"): b"one"}, near_bytes) for near_bytes in (MIB, 0))
    job = [Ask(b"get", b"1"), Ask(b"get", args, cap=1 << 22), Ask(b"get", b"1")]
    for _ in range(2):
        (returned, result), (theirs, expected) = near.ask(*job), far.ask(*job)
        assert returned == theirs
        assert told(result) == told(expected)


def test_a_job_is_told_of_with_all_its_tools_wherever_their_replies_are() -> None:
    asker = Asker({(b"get", b"1"): b"one", (b"list", b"2"): b"y" * 9000})
    for _ in range(2):
        tally = asker.ask(Ask(b"get", b"1"), Ask(b"list", b"2"), Ask(b"get", b"1"))[1].backend
        assert tally is not None
        assert sorted((tool.tool, tool.asked) for tool in tally.tools) == [("get", 2), ("list", 1)]


def test_no_more_tallies_are_shared_than_a_worker_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "_MAX_TALLIES", 2)
    asker = Asker({(b"get", b"1"): b"one"})
    for times in (1, 2, 3, 4, 3):
        assert asker.ask(*[Ask(b"get", b"1")] * times)[1].backend_calls == times
    assert len(asker.instance._backend._tallies) <= 2


def test_jobs_of_one_tool_share_the_tally() -> None:
    asker = Asker({(b"get", b"1"): b"one"})
    results = [asker.ask(*[Ask(b"get", b"1")] * times)[1] for times in (2, 2, 3, 2)]
    assert [(each.backend_calls, each.backend and each.backend.asked) for each in results] == [
        (n, n) for n in (2, 2, 3, 2)
    ]
    assert results[1].backend is results[3].backend


def test_a_job_asks_no_more_than_it_may_wherever_the_replies_are() -> None:
    asker = Asker({(b"get", b"1"): b"one", (b"get", b"2"): b"y" * 9000}, max_backend_calls=4)
    asker.ask(Ask(b"get", b"1"))
    returned, result = asker.ask(*[Ask(b"get", b"1"), Ask(b"get", b"2"), Ask(b"get", b"7")] * 2)
    assert returned == [3, 9000, 3, 3, -1, -1]
    assert result.backend is not None
    assert (result.backend_calls, result.backend.asked, result.backend.failed) == (4, 6, 2)


def test_a_reply_that_expired_is_not_given_in_a_later_job(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000]
    set_clock(monkeypatch, lambda: now[0])
    asker = Asker({(b"get", b"1"): b"old"}, expires_ns=2000)
    looked = asker.finds(monkeypatch)
    for at in (1000, 1999, 2000):
        now[0] = at
        assert asker.ask(Ask(b"get", b"1"))[0] == [3]
    assert asker.live == [b"1"]  # at 2000 nobody knew it any more, and the backend answered
    assert len(looked) == 2
    asker.put(b"get", b"1", b"newer", 3000)
    for _ in range(2):
        assert asker.ask(Ask(b"get", b"1"))[0] == [5]
    assert len(looked) == 3


def test_a_reply_that_expires_while_the_backend_is_asked_is_not_given_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asker = Asker({(b"get", b"1"): b"known"}, expires_ns=2000)
    set_clock(monkeypatch, lambda: 3000 if asker.live else 1000)
    near, live = Ask(b"get", b"1"), Ask(b"get", b"7")
    assert asker.ask(near, near, live, near)[0] == [5, 5, 3, 3]
    assert asker.live == [b"7", b"1"]


def set_clock(monkeypatch: pytest.MonkeyPatch, now_ns: Callable[[], int]) -> None:
    for module in (backend_module, known_replies):
        monkeypatch.setattr(module.time, "monotonic_ns", now_ns)


def numbers(first: int, count: int) -> dict[tuple[bytes, bytes], bytes | int]:
    return {(b"get", b"%d" % n): b"%d" % n * 100 for n in range(first, first + count)}


def each_once(asker: Asker, replies: Sequence[tuple[bytes, bytes]]) -> None:
    for tool, args in replies:
        returned, _ = asker.ask(Ask(tool, args))
        assert returned == [100 * len(args)]
        assert bytes(asker.instance.memory.bytes[TO : TO + returned[0]]) == args * 100


def test_what_is_near_never_takes_more_than_it_may_and_goes_with_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = numbers(1000, 600)  # of which 140 have room
    asker = Asker(replies, near_bytes=2 * PAGE_BYTES)
    looked = asker.finds(monkeypatch)
    early, late = [*replies][:100], [*replies][300:400]
    for questions in (early, early, late, late, late, late):
        each_once(asker, questions)
    # The early ones were asked for again, so all are forgotten where there is no more room, and the late ones are near.
    looked.clear()
    each_once(asker, late)
    assert len(looked) < 100
    assert len(asker.instance._helpers[1].memory_view()) <= QUICK_JUDGE_BYTES + 2 * PAGE_BYTES


def test_what_is_asked_for_once_is_not_kept_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = numbers(1000, 1500)
    asker = Asker(replies, near_bytes=2 * PAGE_BYTES)
    kept: list[Any] = []
    keep = near_replies._KEEP
    monkeypatch.setattr(near_replies, "_KEEP", lambda *each: kept.append(each) or keep(*each))
    each_once(asker, [*replies])
    assert 100 < len(kept) < 200
    each_once(asker, [*replies][:100])  # and what is near stays there
    each_once(asker, [*replies])
    assert len(kept) < 600


def test_every_reply_is_found_in_a_memory_of_many() -> None:
    replies: dict[tuple[bytes, bytes], bytes | int] = {(b"get", b"%d" % n): b"%d" % (n * n) for n in range(1000, 5000)}
    asker = Asker(replies, near_bytes=16 * MIB)
    for _ in range(2):
        for number in range(1000, 5000, 40):
            questions = [Ask(b"get", b"%d" % n, TO + 16 * (n - number)) for n in range(number, number + 40)]
            asker.ask(*questions)
            for question in questions:
                expected = replies[question.tool, question.args]
                assert bytes(asker.instance.memory.bytes[question.to : question.to + len(expected)]) == expected
    # Of a thousand one at most has to give way to another one, where nine meet in one place.
    assert asker.near._all_hits() > 3950


def test_a_worker_has_room_near_its_guards_for_100_000_replies_of_300_bytes() -> None:
    share = 40  # of them, and of the room
    replies: dict[tuple[bytes, bytes], bytes | int] = {
        (b"search_repositories", b'{"query":"repo:octo/widgets-%07d"}' % n): b"%d" % n * 75 for n in range(1000, 3500)
    }
    assert len(replies) == 100_000 // share
    asker = Asker(replies, near_bytes=Limits().near_bytes // share, kept_bytes=2 * MIB)
    for _ in range(2):
        for at in range(0, len(replies), 50):
            asker.ask(*[Ask(*question) for question in [*replies][at : at + 50]])
    assert not asker.near._full[0]
    assert asker.near._all_hits() > len(replies) * 0.998


def test_every_tool_s_replies_are_told_under_its_name_also_after_all_were_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forgotten: list[Any] = []
    forget = near_replies.NearReplies._forget_all
    monkeypatch.setattr(near_replies.NearReplies, "_forget_all", lambda near: forgotten.append(near) or forget(near))
    tools = [b"t" * (1 + 4 * number) for number in range(64)]  # 64 may be near, the longest of 253 bytes
    replies: dict[tuple[bytes, bytes], bytes | int] = {
        (tool, b"%d" % n): b"%d" % n * 700 for tool in tools for n in (1, 2)
    }
    asker = Asker(replies, near_bytes=2 * PAGE_BYTES, tells_replies=True, kept_bytes=MIB)
    for turn in range(4):
        for tool in tools if turn % 2 else tools[::-1]:
            returned, result = asker.ask(*[Ask(tool, b"1"), Ask(tool, b"2")] * 2)
            assert returned == [700] * 4
            assert result.backend is not None
            assert [(each.tool.encode(), each.asked) for each in result.backend.tools] == [(tool, 4)]
            told_of = {(each.tool.encode(), each.args, each.digest) for each in result.backend.used or ()}
            assert told_of == {(tool, args, reply_digest(args * 700)) for args in (b"1", b"2")}
    assert forgotten


def test_the_replies_of_a_job_are_told_wherever_they_stand() -> None:
    replies = numbers(1000, 400)
    asker = Asker(replies, near_bytes=8 * PAGE_BYTES, tells_replies=True)
    for _ in range(2):
        for at in range(1000, 1400, 20):
            questions = [Ask(b"get", b"%d" % number) for number in range(at, at + 20)]
            tally = asker.ask(*questions)[1].backend
            assert tally is not None
            assert tally.used is not None
            expected = {(question.args, reply_digest(question.args * 100)) for question in questions}
            assert {(each.args, each.digest) for each in tally.used} == expected


def test_more_replies_than_a_result_tells_of_are_not_told_at_all() -> None:
    questions = [Ask(*question) for question in numbers(1000, MAX_USED_REPLIES + 1)]
    asker = Asker(numbers(1000, len(questions)), tells_replies=True, max_backend_calls=100)
    for _ in range(2):
        for asks in (questions, questions[1:]):
            tally = asker.ask(*asks)[1].backend
            assert tally is not None
            assert (tally.used is None) == (asks is questions)


def test_a_guard_without_a_share_of_the_room_has_none_near() -> None:
    asker = Asker({(b"get", b"1"): b"one"}, near_bytes=2 * PAGE_BYTES - 1)
    assert asker.near is None
    assert [asker.ask(Ask(b"get", b"1"))[0] for _ in range(2)] == [[3], [3]]
    assert len(asker.instance._helpers[1].memory_view()) == QUICK_JUDGE_BYTES


def test_a_worker_without_memory_for_it_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker({(b"get", b"1"): b"one"})
    asker.near._full[0] = 1  # as when its memory cannot grow
    looked, read = asker.finds(monkeypatch), reads(monkeypatch)
    assert [asker.ask(Ask(b"get", b"1"))[0] for _ in range(4)] == [[3]] * 4
    assert (len(looked), len(read)) == (4, 2), "from then on there is a copy"


def test_what_is_never_near_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = [b"t%d" % number for number in range(70)]
    asker = Asker({(tool, b"1"): tool for tool in tools})
    read = reads(monkeypatch)
    for _ in range(3):
        for tool in tools:
            assert asker.ask(Ask(tool, b"1"))[0] == [len(tool)]
    assert len(read) == 70


def test_what_was_near_an_instance_that_is_gone_is_near_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker({(b"get", b"1"): b"one"}, outlives=True)
    read, looked = reads(monkeypatch), asker.finds(monkeypatch)
    for more in range(3):
        assert [asker.ask(Ask(b"get", b"1"))[0] for _ in range(3)] == [[3]] * 3
        assert (len(looked), len(read)) == (1 + more, 1)
        asker.instance.let_go()
        asker.begin_anew()


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The keys of replies that are read and checked from now on."""
    keys: list[Any] = []

    def read(memory: Any, area: Any, key: bytes, now_ns: int) -> Any:
        keys.append(key)
        return reply_memory.read(memory, area, key, now_ns)

    monkeypatch.setattr(known_replies, "read", read)
    return keys


def test_an_instance_that_is_let_go_is_not_held_by_its_replies() -> None:
    asker = Asker({(b"get", b"1"): b"one"})
    asker.ask(Ask(b"get", b"1"))
    asker.instance.let_go()
    assert asker.known.near is None
    assert asker.near is None
