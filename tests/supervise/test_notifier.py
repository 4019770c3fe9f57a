"""The caller's callbacks and log handlers run elsewhere, and none of them can stop the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from guardpool.errors import PoolBroken
from guardpool.outcomes import LogLine, Outcome, Status
from guardpool.supervise import notifier as module
from guardpool.supervise.notifier import Notifier

WAIT_S = 20.0
OUTCOME = Outcome(1, "g", "label_resource", "t", Status.OK)


@pytest.fixture
def notifier() -> Iterator[Notifier]:
    made = Notifier()
    yield made
    made.close(WAIT_S)


class Records(logging.Handler):
    """Keeps what is logged; may be made to wait or to raise."""

    def __init__(self, name: str) -> None:
        super().__init__(level=logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.raises: BaseException | None = None
        self._logger = logging.getLogger(name)

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        self.go.wait(WAIT_S)
        self.records.append(record)
        if self.raises is not None:
            raise self.raises

    def __enter__(self) -> Records:
        self._before = self._logger.level
        self._logger.setLevel(logging.DEBUG)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._before)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """The exceptions that were reported as those of a thread."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda report: seen.append(report.exc_type))
    return seen


def test_futures_get_outcomes_and_exceptions(notifier: Notifier) -> None:
    futures: list[Future[Outcome]] = [Future(), Future()]
    notifier.future(futures[0], OUTCOME)
    notifier.future(futures[1], PoolBroken("gone"))
    assert futures[0].result(WAIT_S) is OUTCOME
    assert isinstance(futures[1].exception(WAIT_S), PoolBroken)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_a_callback_that_raises_stops_no_other(
    notifier: Notifier, reported: list[type[BaseException]], error: BaseException
) -> None:
    def rude(_: Future[Outcome]) -> None:
        raise error

    first: Future[Outcome] = Future()
    first.add_done_callback(rude)
    second: Future[Outcome] = Future()
    notifier.future(first, OUTCOME)
    notifier.future(second, OUTCOME)
    assert second.result(WAIT_S) is OUTCOME
    assert reported == [type(error)]


def test_a_future_that_its_caller_touched_stops_no_other(
    notifier: Notifier, reported: list[type[BaseException]]
) -> None:
    touched: Future[Outcome] = Future()
    touched.set_result(OUTCOME)
    cancelled: Future[Outcome] = Future()
    cancelled.cancel()
    good: Future[Outcome] = Future()
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
    try:
        for future in (touched, cancelled, good):
            notifier.future(future, OUTCOME)
        assert good.result(WAIT_S) is OUTCOME
    finally:
        logging.getLogger("concurrent.futures").setLevel(logging.NOTSET)
    assert len(reported) == 1


def test_guards_lines_reach_their_logger_with_the_jobs_id(notifier: Notifier) -> None:
    with Records("guardpool.guard.github") as records:
        lines = [LogLine(0, "a"), LogLine(1, "b"), LogLine(2, "50% of %s"), LogLine(3, "d"), LogLine(-1, "e")]
        notifier.logs("github", 42, lines)
        notifier.close(WAIT_S)
    assert [(record.levelname, record.getMessage()) for record in records.records] == [
        ("DEBUG", "a"),
        ("INFO", "b"),
        ("WARNING", "50% of %s"),
        ("ERROR", "d"),
        ("ERROR", "e"),
    ]
    assert {(record.guard, record.job_id) for record in records.records} == {("github", 42)}  # type: ignore[attr-defined]


def test_a_guards_lines_are_escaped_before_any_handler_sees_them(notifier: Notifier) -> None:
    with Records("guardpool.guard.g") as records:
        notifier.logs("g", 1, [LogLine(3, "\x1b[2J\x9b31m\u202egnp.exe\nERROR:root:forged " + "x" * 1000)])
        notifier.close(WAIT_S)
    assert [record.getMessage() for record in records.records] == [
        "\\x1b[2J\\x9b31m\\u202egnp.exe\\nERROR:root:forged " + "x" * 1000
    ]


def test_a_handler_that_raises_stops_nothing(notifier: Notifier, reported: list[type[BaseException]]) -> None:
    with Records("guardpool.guard.g") as records:
        records.raises = OSError("the disk is full")
        notifier.logs("g", 1, [LogLine(3, "a"), LogLine(3, "b")])
        future: Future[Outcome] = Future()
        notifier.future(future, OUTCOME)
        assert future.result(WAIT_S) is OUTCOME
        notifier.close(WAIT_S)
    assert len(records.records) == 2
    assert reported == [OSError, OSError]


def test_a_handler_that_hangs_delays_no_future_and_lost_lines_are_counted(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Records("guardpool.guard.g") as slow, Records("guardpool") as own:
        slow.go.clear()
        notifier.logs("g", 1, [LogLine(3, "first")])
        assert slow.entered.wait(WAIT_S)
        notifier.logs("g", 1, [LogLine(3, "x")] * (module.MAX_WAITING_LOGS + 5))
        future: Future[Outcome] = Future()
        notifier.future(future, OUTCOME)
        assert future.result(WAIT_S) is OUTCOME
        slow.go.set()
        notifier.close(WAIT_S)
    assert len(slow.records) == module.MAX_WAITING_LOGS + 1
    assert "5 log records dropped" in own.records[-1].getMessage()


def test_log_lines_that_wait_are_bounded_in_size(notifier: Notifier) -> None:
    with Records("guardpool.guard.g") as slow:
        slow.go.clear()
        notifier.logs("g", 1, [LogLine(3, "first")])
        assert slow.entered.wait(WAIT_S)
        notifier.logs("g", 1, [LogLine(3, "x" * (1 << 20))] * 50)
        slow.go.set()
        notifier.close(WAIT_S)
    assert len(slow.records) - 1 == module.MAX_WAITING_LOG_CHARS >> 20


def test_futures_are_set_before_and_after_closing(notifier: Notifier) -> None:
    futures: list[Future[Outcome]] = [Future() for _ in range(100)]
    for future in futures[:50]:
        notifier.future(future, OUTCOME)
    notifier.close(WAIT_S)
    assert all(future.done() for future in futures[:50])
    for future in futures[50:]:  # a job that is turned away after the end
        notifier.future(future, OUTCOME)
    assert all(future.result(WAIT_S) is OUTCOME for future in futures[50:])


def test_a_call_is_made_at_once_if_no_thread_can_be_started(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    future: Future[Outcome] = Future()
    notifier.future(future, OUTCOME)
    assert future.done()
