"""Backends run on threads of their own; whatever they do, the job that asked gets exactly one reply."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guardpool.supervise import backend_threads
from guardpool.supervise.backend_threads import BackendRunner

WAIT_S = 20.0


class Replies:
    """Collects the replies."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes | None, str | None]] = []
        self.came = threading.Condition()

    def __call__(self, result: bytes | None, error: str | None, _is_for_all: bool) -> None:
        with self.came:
            self.got.append((result, error))
            self.came.notify_all()

    def wait(self, count: int) -> list[tuple[bytes | None, str | None]]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.got) >= count, WAIT_S)
            return self.got


@pytest.fixture
def runner() -> Iterator[BackendRunner]:
    made = BackendRunner()
    yield made
    made.close()


def call(runner: BackendRunner, function: Callable[..., Any], args: bytes = b"{}", tool: str = "get") -> Replies:
    replies = Replies()
    runner.call("g", function, tool, args, replies)
    return replies


def test_the_backend_gets_values_and_gives_json(runner: BackendRunner) -> None:
    replies = call(runner, lambda tool, args: {"tool": tool, "got": args}, b'{"owner":"o","n":[1,null]}', "get_repo")
    assert replies.wait(1) == [(b'{"tool":"get_repo","got":{"owner":"o","n":[1,null]}}', None)]


class _Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


class _Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("down\nfor\x1b[2Jmaintenance"), "ValueError: down\\nfor\\x1b[2Jmaintenance"),
        (SystemExit(3), "SystemExit: 3"),
        (_Rude(), "_Rude"),
        (_Leaving(), "_Leaving"),
    ],
)
def test_an_exception_of_a_backend_is_the_reply(runner: BackendRunner, error: BaseException, says: str) -> None:
    def fail(tool: str, args: Any) -> Any:
        raise error

    assert call(runner, fail).wait(1) == [(None, says)]


def test_a_value_that_is_not_json_is_an_error_in_both_directions(runner: BackendRunner) -> None:
    asked: list[Any] = []
    (_, error), *_ = call(runner, lambda tool, args: asked.append(args), b"{nonsense").wait(1)
    assert error is not None
    assert asked == []
    (result, error), *_ = call(runner, lambda tool, args: {1j: 2}).wait(1)
    assert result is None
    assert error is not None


def test_an_answer_over_the_limit_is_an_error(runner: BackendRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_threads, "MAX_RESULT_BYTES", 100)
    assert call(runner, lambda tool, args: "x" * 98).wait(1)[0][0] == b'"' + b"x" * 98 + b'"'
    result, error = call(runner, lambda tool, args: "x" * 99).wait(1)[0]
    assert result is None
    assert error is not None
    assert "101 bytes" in error


def test_a_slow_backend_holds_up_no_other_and_threads_are_used_again(runner: BackendRunner) -> None:
    go = threading.Event()
    slow = [call(runner, lambda tool, args: go.wait(WAIT_S)) for _ in range(3)]
    names = set()

    def quick(tool: str, args: Any) -> None:
        names.add(threading.current_thread())

    for _ in range(10):
        call(runner, quick).wait(1)
        pause = threading.Event()
        assert any(runner._idle or pause.wait(1e-3) for _ in range(10_000)), "the thread is not idle again"
    go.set()
    assert [replies.wait(1)[0] for replies in slow] == [(b"true", None)] * 3
    assert len(names) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_comes_with_the_reply_needs_no_other_thread_unless_its_own_has_to_log(
    runner: BackendRunner, fails: bool
) -> None:
    threads: list[threading.Thread] = []
    left, done = 20, threading.Event()

    def backend(_tool: str, _args: Any) -> int:
        threads.append(threading.current_thread())
        return 1 // (not fails)

    def reply(_result: bytes | None, _error: str | None, _is_for_all: bool) -> None:
        nonlocal left
        left -= 1
        if left:
            runner.call("g", backend, "get", b"{}", reply)
        else:
            done.set()

    runner.call("g", backend, "get", b"{}", reply)
    assert done.wait(WAIT_S)
    assert len(threads) == 20
    assert (len(set(threads)) == 1) is not fails


def test_closing_ends_idle_threads_now_and_busy_ones_after_their_call() -> None:
    runner = BackendRunner()
    started, go = threading.Event(), threading.Event()

    def slow(tool: str, args: Any) -> str:
        started.set()
        go.wait(WAIT_S)
        return "done"

    before = set(threading.enumerate())
    call(runner, lambda tool, args: None).wait(1)
    replies = call(runner, slow)
    assert started.wait(WAIT_S)
    threads = set(threading.enumerate()) - before
    runner.close()
    go.set()
    assert replies.wait(1) == [(b'"done"', None)]
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_the_reply_says_so_if_no_thread_can_be_started(runner: BackendRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        assert call(runner, lambda tool, args: 1).got == [(None, "the backend was not called: can't start new thread")]
    assert call(runner, lambda tool, args: 1).wait(1) == [(b"1", None)]


def test_a_log_handler_that_raises_costs_no_reply(runner: BackendRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    handler = Handler()
    logger = logging.getLogger("guardpool.backend")
    logger.addHandler(handler)
    try:
        for _ in range(2):
            assert call(runner, lambda tool, args: 1 / 0).wait(1) == [(None, "ZeroDivisionError: division by zero")]
    finally:
        logger.removeHandler(handler)
