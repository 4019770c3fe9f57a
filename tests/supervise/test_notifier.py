"""The caller's callbacks and log handlers run elsewhere, and none of them can stop the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from queue import Queue

import msgspec
import pytest

from guardpool.outcomes import LogLine, Outcome, Status
from guardpool.supervise import notifier as module, repeats
from guardpool.supervise.notifier import NO_JOB, Notifier
from guardpool.supervise.repeats import INTERVAL_S, MAX_CHARS, MAX_LINES, Repeats
from poolkit import wait_until

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


def done(outcome: Outcome = OUTCOME) -> Future[Outcome]:
    """A future that is done."""
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def test_callbacks_get_their_future_on_another_thread(notifier: Notifier) -> None:
    got: Queue[tuple[Future[Outcome], threading.Thread]] = Queue()
    futures = [done(), done()]
    for future in futures:
        notifier.callback(lambda future: got.put((future, threading.current_thread())), future)
    calls = [got.get(timeout=WAIT_S), got.get(timeout=WAIT_S)]
    assert [future for future, _ in calls] == futures
    assert threading.current_thread() not in {thread for _, thread in calls}


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_a_callback_that_raises_stops_no_other(
    notifier: Notifier, reported: list[type[BaseException]], error: BaseException
) -> None:
    def rude(_: Future[Outcome]) -> None:
        raise error

    called = threading.Event()
    notifier.callback(rude, done())
    notifier.callback(lambda _: called.set(), done())
    assert called.wait(WAIT_S)
    assert reported == [type(error)]


def test_guards_lines_reach_their_logger_with_the_jobs_id(notifier: Notifier) -> None:
    with Records("guardpool.guard.github") as records:
        lines = [LogLine(0, "a"), LogLine(1, "b"), LogLine(2, "50% of %s"), LogLine(3, "d"), LogLine(-1, "e")]
        notifier.logs("github", 42, lines)
        notifier.close(WAIT_S)
    assert [(record.levelname, record.getMessage()) for record in records.records] == [
        ("DEBUG", "guard github, job 42: a"),
        ("INFO", "guard github, job 42: b"),
        ("WARNING", "guard github, job 42: 50% of %s"),
        ("ERROR", "guard github, job 42: d"),
        ("ERROR", "guard github, job 42: e"),
    ]
    assert {(record.guard, record.job_id) for record in records.records} == {("github", 42)}  # type: ignore[attr-defined]
    assert [record.line for record in records.records] == [line.text for line in lines]  # type: ignore[attr-defined]


def test_a_guards_lines_are_escaped_before_any_handler_sees_them(notifier: Notifier) -> None:
    with Records("guardpool.guard.g") as records:
        notifier.logs("g", 1, [LogLine(3, "\x1b[2J\x9b31m\u202egnp.exe\nERROR:root:forged " + "x" * 1000)])
        notifier.close(WAIT_S)
    assert [record.getMessage() for record in records.records] == [
        "guard g, job 1: \\x1b[2J\\x9b31m\\u202egnp.exe\\nERROR:root:forged " + "x" * 1000
    ]


def test_a_handler_that_raises_stops_nothing(notifier: Notifier, reported: list[type[BaseException]]) -> None:
    with Records("guardpool.guard.g") as records:
        records.raises = OSError("the disk is full")
        notifier.logs("g", 1, [LogLine(3, "a"), LogLine(3, "b")])
        called = threading.Event()
        notifier.callback(lambda _: called.set(), done())
        assert called.wait(WAIT_S)
        notifier.close(WAIT_S)
    assert len(records.records) == 2
    assert reported == [OSError, OSError]


def test_a_handler_that_hangs_delays_no_callback_and_lost_lines_are_counted(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Records("guardpool.guard.g") as slow, Records("guardpool") as own:
        slow.go.clear()
        notifier.logs("g", 1, [LogLine(3, "first")])
        assert slow.entered.wait(WAIT_S)
        notifier.logs("g", 1, [LogLine(3, f"x{n}") for n in range(module.MAX_WAITING_LOGS + 5)])
        called = threading.Event()
        notifier.callback(lambda _: called.set(), done())
        assert called.wait(WAIT_S)
        slow.go.set()
        notifier.close(WAIT_S)
    assert len(slow.records) == module.MAX_WAITING_LOGS + 1
    assert "5 log records dropped" in own.records[-1].getMessage()


def test_log_lines_that_wait_are_bounded_in_size(notifier: Notifier) -> None:
    with Records("guardpool.guard.g") as slow:
        slow.go.clear()
        notifier.logs("g", 1, [LogLine(3, "first")])
        assert slow.entered.wait(WAIT_S)
        notifier.logs("g", 1, [LogLine(3, chr(at + 97) * (1 << 20)) for at in range(50)])
        slow.go.set()
        notifier.close(WAIT_S)
    assert len(slow.records) - 1 == module.MAX_WAITING_LOG_CHARS >> 20


def test_callbacks_are_made_before_and_after_closing(notifier: Notifier) -> None:
    called: Queue[int] = Queue()
    for number in range(50):
        notifier.callback(lambda _, number=number: called.put(number), done())  # type: ignore[misc]
    notifier.close(WAIT_S)
    assert called.qsize() == 50
    for number in range(50, 100):  # of jobs that are turned away after the end
        notifier.callback(lambda _, number=number: called.put(number), done())  # type: ignore[misc]
    assert [called.get(timeout=WAIT_S) for _ in range(100)] == list(range(100))


def test_a_call_is_made_at_once_if_no_thread_can_be_started(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    called: list[Future[Outcome]] = []
    notifier.callback(called.append, done())
    assert called


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_that_many_jobs_log_is_told_once_and_then_counted() -> None:
    clock = Clock()
    notifier = Notifier(clock)
    with Records("guardpool.guard.g") as records:
        for number in range(20_000):
            notifier.logs("g", number, [LogLine(2, "no rule for it")])
        notifier.logs("g", 7, [LogLine(3, "no rule for it"), LogLine(2, "something else")])
        notifier.flush_logs(WAIT_S)
        notifier.close(WAIT_S)
    assert [(record.levelname, record.getMessage()) for record in records.records] == [
        ("WARNING", "guard g, job 0: no rule for it"),
        ("ERROR", "guard g, job 7: no rule for it"),
        ("WARNING", "guard g, job 7: something else"),
        ("WARNING", "guard g, job 19999: no rule for it (19,999 times more)"),
    ]


def test_a_line_that_goes_on_is_told_with_its_count_at_intervals() -> None:
    clock = Clock()
    notifier = Notifier(clock)
    with Records("guardpool.guard.g") as records:
        for number in range(6):
            notifier.logs("g", number, [LogLine(2, "again")])
            clock.now += INTERVAL_S / 2 - 0.1
        clock.now += 3 * INTERVAL_S
        notifier.logs("g", "late", [LogLine(2, "another")])
        notifier.logs("g", "later", [LogLine(2, "again")])
        notifier.flush_logs(WAIT_S)
        told = [record.getMessage().removeprefix("guard g, job ") for record in records.records]
        notifier.close(WAIT_S)
    assert told == [
        "0: again",
        "2: again (2 times more)",
        "5: again (3 times more)",
        "'late': another",
        "'later': again (1 time more)",
    ]


def test_counts_that_are_due_are_told_although_nothing_more_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "INTERVAL_S", 0.01)
    notifier = Notifier()
    with Records("guardpool.guard.g") as records:
        notifier.logs("g", 1, [LogLine(2, "x")] * 3)
        wait_until(lambda: len(records.records) == 2, "the count")
        notifier.close(WAIT_S)
    assert records.records[1].getMessage() == "guard g, job 1: x (2 times more)"


@pytest.mark.parametrize(
    ("job_id", "shown"),
    [
        (None, "None"),
        ("a: b\x1b[2J", "'a: b\\x1b[2J'"),
        ("x" * 10_000, "'" + "x" * 78 + "…"),
        (msgspec.Raw(b"1" * 5000), "1" * 79 + "…"),
        (10**5000, "of type int"),
    ],
    ids=["null", "a text", "a long text", "a huge number of a file", "a huge number"],
)
def test_a_jobs_id_is_shown_short_and_printable(notifier: Notifier, job_id: object, shown: str) -> None:
    with Records("guardpool.guard.g") as records:
        notifier.logs("g", job_id, [LogLine(2, "x")])
        notifier.logs("g", NO_JOB, [LogLine(2, "y")])
        notifier.flush_logs(WAIT_S)
    assert [record.getMessage() for record in records.records] == [f"guard g, job {shown}: x", "guard g: y"]


def test_lines_that_are_remembered_are_bounded_and_none_is_lost() -> None:
    repeats_, told = Repeats(), 0
    for number in range(3 * MAX_LINES):
        for _ in range(2):
            told += repeats_.is_new(0.0, "g", number, LogLine(2, f"line {number}"))
            told += sum(counted.times for counted in repeats_.due(0.0))
    for letter in "abc":
        told += repeats_.is_new(0.0, "g", 0, LogLine(2, letter * (MAX_CHARS // 2)))
        told += sum(counted.times for counted in repeats_.due(0.0))
    assert len(repeats_._seen) <= MAX_LINES
    assert repeats_._chars <= MAX_CHARS
    told += sum(counted.times for counted in repeats_.all())
    assert told == 6 * MAX_LINES + 3
