"""Tables of replies, what they are recorded from, and several backends one after the other."""

from __future__ import annotations

import gzip
import json
import os
import resource
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from guardpool import CallerError, Guard, GuardPool, samples
from guardpool.backends import BackendFailed, First, NoReply, Recorder, Replies, RepliesError
from guardpool.backends.replies import GuardRefused
from guardpool.contract.inputs import canonical


def line(tool: str, args: Any, **answer: Any) -> bytes:
    return json.dumps({"tool": tool, "args": args, **answer}).encode()


def test_a_question_is_found_however_its_arguments_are_spelt() -> None:
    table = Replies([b'{"tool":"t","args":{"b":7.0,"a":[1e2, "\\u00e9"]},"result":{"x":1}}'])
    assert table("t", {"a": [100, "é"], "b": 7}) == {"x": 1}
    assert len(table) == 1
    with pytest.raises(NoReply):
        table("t", {"a": [100, "é"], "b": 8})
    with pytest.raises(NoReply):
        table("u", {"a": [100, "é"], "b": 7})


def test_null_is_an_answer_and_a_recorded_error_is_none() -> None:
    table = Replies([line("t", 1, result=None), line("t", 2, error="gone"), b"", b"  \n"])
    assert table("t", 1) is None
    with pytest.raises(BackendFailed, match=r"^gone$") as caught:
        table("t", 2)
    assert not isinstance(caught.value, NoReply)


def test_the_first_answer_counts_and_others_are_told_by_their_line() -> None:
    table = Replies(
        [
            line("t", {}, result=[1, 2]),
            line("t", {}, result=[1.0, 2]),
            line("t", {}, result=[2, 1]),
            line("t", {}, error="gone"),
            line("u", {}, error="gone"),
            line("u", {}, error="gone"),
        ]
    )
    assert table("t", {}) == [1, 2]
    assert table.conflicts == [3, 4]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"{", "line 2 is not a reply"),
        (b"[]", "line 2 is not a reply"),
        (b'{"tool":"t","args":{}}', "it needs either result or error"),
        (b'{"tool":"t","args":{},"result":1,"error":"x"}', "it needs either result or error"),
        (b'{"tool":5,"args":{},"result":1}', "line 2 is not a reply"),
        (b'{"tool":"t","result":1}', "missing required field `args`"),
        (b'{"tool":"t","args":1e999,"result":1}', "line 2 is not a reply"),
    ],
)
def test_a_line_that_is_no_reply_is_named(bad: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    file.write_bytes(line("t", 0, result=0) + b"\n" + bad + b"\n")
    with pytest.raises(RepliesError, match=r"replies\.jsonl: line 2") as caught:
        Replies.load(file)
    assert says in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepliesError, match=r"none\.jsonl: cannot be read: No such file"):
        Replies.load(tmp_path / "none.jsonl")


def test_what_was_recorded_is_answered_alike(tmp_path: Path) -> None:
    def ask(tool: str, args: Any) -> Any:
        if args == "bad":
            raise LookupError("no such thing")
        return {"tool": tool, "args": args}

    path = tmp_path / "replies.jsonl"
    recorder = Recorder(ask, path)
    assert recorder("t", {"b": 1, "a": 2.0}) == recorder("t", {"a": 2, "b": 1})
    with pytest.raises(LookupError):
        recorder("t", "bad")
    recorder.close()
    assert recorder("t", "late") == {"tool": "t", "args": "late"}
    assert path.stat().st_mode & 0o777 == 0o600
    table = Replies.load(path)
    assert len(table) == 2
    assert table("t", {"a": 2, "b": 1}) == {"tool": "t", "args": {"b": 1, "a": 2.0}}
    with pytest.raises(BackendFailed, match="no such thing"):
        table("t", "bad")
    with pytest.raises(FileExistsError):
        Recorder(ask, path)


def test_first_goes_on_only_where_a_backend_does_not_know() -> None:
    table = Replies([line("t", 1, result="one"), line("t", 2, error="gone")])
    asked: list[Any] = []

    def live(_tool: str, args: Any) -> Any:
        asked.append(args)
        return "live"

    first = First(table, live)
    assert (first("t", 1), first("t", 3), asked) == ("one", "live", [3])
    with pytest.raises(BackendFailed, match="gone"):
        first("t", 2)
    with pytest.raises(NoReply):
        First(table)("t", 3)


def test_what_async_functions_answer_is_recorded_and_counts_as_an_answer(tmp_path: Path) -> None:
    async def live(_tool: str, args: Any) -> Any:
        if args == "bad":
            raise LookupError("no such thing")
        return [args]

    recorder = Recorder(live, tmp_path / "replies.jsonl")
    first = First(Replies([]), recorder)
    assert first("t", 1) == [1]
    with pytest.raises(LookupError):
        first("t", "bad")
    recorder.close()
    assert Replies.load(tmp_path / "replies.jsonl")("t", 1) == [1]


def test_canonical_bytes_are_equal_for_equal_values_only() -> None:
    assert canonical(b'{"b": 1.0, "a": {"d": null, "c": "x"}}') == b'{"a":{"c":"x","d":null},"b":1}'
    assert canonical(b'{"a":1,"b":2}') != canonical(b'{"a":2,"b":1}')


def test_a_guard_is_answered_by_a_table_and_by_an_async_function_as_by_the_function() -> None:
    threads: set[threading.Thread] = set()

    async def ask(tool: str, args: Any) -> Any:
        threads.add(threading.current_thread())
        return samples.backend(tool, args)

    table = Replies([text.encode() for text in samples.replies()])
    guards = [
        Guard.from_file(samples.GUARD, name, samples.POLICY, backend=backend)
        for name, backend in (("function", samples.backend), ("table", table), ("coroutine", ask))
    ]
    with GuardPool(guards, workers=1) as pool:
        labels = [
            [
                outcome.label_json
                for outcome in pool.map({**vars_of(job), "guard": guard.name} for job in samples.jobs(150))
            ]
            for guard in guards
        ]
    assert labels[0] == labels[1] == labels[2]
    assert threads
    assert threading.main_thread() not in threads


def vars_of(job: Any) -> dict[str, Any]:
    kept = ("id", "op", "tool_name", "tool_args", "tool_result", "capabilities")
    return {name: value for name in kept if (value := getattr(job, name)) is not None}


class Closing:
    """A backend that cannot be closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __call__(self, _tool: str, _args: Any) -> int:
        return 1

    def close(self) -> None:
        self.closed += 1
        raise ConnectionError("not now")


def test_a_backend_that_cannot_be_closed_keeps_none_from_being_closed(tmp_path: Path) -> None:
    backends = [Closing(), Closing(), Closing()]
    recorder = Recorder(backends[1], tmp_path / "replies.jsonl")
    os.close(recorder._fd)  # as a program does that closes all of its descriptors
    with pytest.raises(ConnectionError):
        First(backends[0], recorder, backends[2]).close()
    assert [backend.closed for backend in backends] == [1, 1, 1]


def test_that_a_guard_may_ask_no_more_is_not_recorded(tmp_path: Path) -> None:
    answers: list[Any] = [GuardRefused("10 questions before"), "known"]

    def live(_tool: str, _args: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    recorder = Recorder(live, tmp_path / "replies.jsonl")
    with pytest.raises(GuardRefused):
        recorder("t", 1)
    assert recorder("t", 1) == "known"
    recorder.close()
    assert Replies.load(tmp_path / "replies.jsonl")("t", 1) == "known"


def test_a_line_that_cannot_be_written_whole_is_not_in_the_table(tmp_path: Path) -> None:
    recorder = Recorder(lambda _tool, args: args, tmp_path / "replies.jsonl")
    recorder("t", "first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        assert recorder("t", "x" * 1000) == "x" * 1000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    recorder("t", "last")  # the table has a hole already
    recorder.close()
    assert "large" in str(recorder.failure)
    assert len(Replies.load(tmp_path / "replies.jsonl")) == 1


def test_a_recorder_holds_no_questions_in_memory(tmp_path: Path) -> None:
    recorder = Recorder(lambda _tool, _args: 1, tmp_path / "replies.jsonl")
    tracemalloc.start()
    try:
        for number in range(20):
            recorder("t", f"{number}" + "x" * 1_000_000)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
        recorder.close()


def test_a_table_that_is_nested_too_deeply_is_named_with_its_line() -> None:
    deep = b"[" * 500_000 + b"]" * 500_000
    for bad in (b'{"tool":"t","args":{},"result":%b}' % deep, b'{"tool":"t","args":%b,"result":1}' % deep):
        with pytest.raises(RepliesError, match=r"^x: line 2 is not a reply: it is nested too deeply$"):
            Replies([line("t", {}, result=1), bad], "x")


def test_a_file_that_is_no_table_is_told_what_one_is(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(gzip.compress(line("t", {}, result=1)))
    with pytest.raises(RepliesError, match=r"line 1 is not a reply: .*; the file is compressed: unpack it first$"):
        Replies.load(tmp_path / "packed")
    with pytest.raises(RepliesError, match=r'line 1 is not a reply: .*; a reply is \{"tool": \.\.\., "args"'):
        Replies([b'{"op":"label_resource","tool_name":"get_me"}'])


def test_a_table_may_begin_with_a_byte_order_mark() -> None:
    assert Replies([b"\xef\xbb\xbf" + line("t", {}, result=1)])("t", {}) == 1


def test_a_table_is_made_of_lines_of_text_too() -> None:
    assert len(Replies(samples.replies())) == len(samples.replies())


def test_what_cannot_be_recorded_is_answered_all_the_same(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    recorder = Recorder(lambda tool, args: args, full)
    assert [recorder("t", 1), recorder("t", 2)] == [1, 2]
    assert recorder.failure is not None
    assert recorder.failure.strerror == "No space left on device"
    os.close(full)
    # A file that is cut short by what it may hold keeps whole lines only, and nothing is added behind a gap.
    recorder = Recorder(lambda tool, args: args, tmp_path / "kept")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        assert [recorder("t", number) for number in (1, 2, "x" * 100)] == [1, 2, "x" * 100]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert recorder("t", 3) == 3
    recorder.close()
    assert len(Replies.load(tmp_path / "kept")) == 2


def test_an_error_that_is_not_utf_8_is_recorded(tmp_path: Path) -> None:
    def fails(_tool: str, _args: Any) -> Any:
        raise ValueError("caf\udce9")

    recorder = Recorder(fails, tmp_path / "kept")
    with pytest.raises(ValueError, match="caf"):
        recorder("t", 1)
    recorder.close()
    with pytest.raises(BackendFailed, match=r"^caf\?$"):
        Replies.load(tmp_path / "kept")("t", 1)


def test_what_cannot_be_called_is_no_backend_and_makes_no_file(tmp_path: Path) -> None:
    for make in (lambda: First(len, 5), lambda: Recorder("replies.jsonl", tmp_path / "new")):  # type: ignore[arg-type]
        with pytest.raises(CallerError, match=r"a backend must be callable, as backend\(tool, args\), not (int|str)"):
            make()
    assert not (tmp_path / "new").exists()
