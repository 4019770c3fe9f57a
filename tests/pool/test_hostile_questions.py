"""Guards, workers and backends that mean harm: what they ask and answer costs no other guard its answers.

The guard `backend` asks with its whole input, so jobs with different arguments ask different questions, and refuses with the
length of what it was answered.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest

from backendkit import Slow, asks, code, label, released
from guardpool import Guard, GuardPool, Job, Limits
from guardpool.backends import First, NoReply, Replies
from guardpool.backends.asking import GUARD_THAT_ASKS
from guardpool.backends.replies import GuardRefused
from poolkit import POLICY, WAIT_S, guard, only_worker, pool, ready_workers, run_in_forkservers, wait_until

ANSWERED = 1 - 100_000  # by one byte
IN_VAIN = -100_001

# Workers were taken over by their first guard: they ask its questions as it spells them, and look for nothing.
AS_IT_IS_SPELT = """
from guardpool_worker.known_replies import KnownReplies
begin, find, first = KnownReplies.__init__, KnownReplies.find, []
def __init__(self, *args, **options):
    begin(self, *args, **options)
    first.append(self)
KnownReplies.__init__ = __init__
KnownReplies.find = lambda self, question: (None, question[1]) if self is first[0] else find(self, question)
"""


class Differing:
    """A backend that refuses one guard.

    Attributes:
        asked: the guards whose questions came here.
        asks: set once it was asked for the guard that is refused; it waits for `go` then.
    """

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.asks, self.go = threading.Event(), threading.Event()

    def __call__(self, _tool: str, _args: Any) -> int:
        name = GUARD_THAT_ASKS.get()
        self.asked.append(name)
        if name == "spent":
            self.asks.set()
            self.go.wait(WAIT_S)
            raise GuardRefused("no more questions")
        return 1


def ask(p: GuardPool, n: object, name: str = "backend") -> int | None:
    return code(label(p, name, {"n": n}))


def live(p: GuardPool) -> int:
    """How many questions were asked of backends."""
    return sum(tool.live for tools in p.stats().backend.values() for tool in tools.values())


def test_what_one_guard_is_refused_another_one_is_told() -> None:
    backend = Differing()
    backend.go.set()
    wat = {"wat": "backend", "backend": backend}
    with pool(guard("spent", **wat), guard("other", **wat), workers=1) as p:
        assert [ask(p, 1, name) for name in ("spent", "other", "other", "spent")] == [IN_VAIN, *[ANSWERED] * 3]
        assert [ask(p, 2, "spent"), ask(p, 2, "spent")] == [IN_VAIN] * 2
    assert backend.asked == ["spent", "other", "spent", "spent"]


def test_who_waits_for_the_answer_of_a_guard_that_is_refused_is_asked_for() -> None:
    backend = Differing()
    wat = {"wat": "backend", "backend": backend}
    names = ("spent", "other", "third", "other")
    try:
        with pool(*(guard(name, **wat) for name in names[:3]), workers=4) as p:
            futures = [p.submit(Job(0, "label_resource", "get_issue", {"n": 1}, guard=name)) for name in names[:1]]
            assert backend.asks.wait(WAIT_S)
            futures += [p.submit(Job(0, "label_resource", "get_issue", {"n": 1}, guard=name)) for name in names[1:]]
            wait_until(lambda: p.stats().in_flight == 4 and p.stats().queued == 0, "each worker to have one job")
            backend.go.set()
            assert [code(future.result(WAIT_S)) for future in futures] == [IN_VAIN, *[ANSWERED] * 3]
    finally:
        backend.go.set()
    assert len(backend.asked) == 2


def test_who_asks_as_another_guard_than_the_one_that_is_refused_is_told_the_answer() -> None:
    backend = Differing()
    wat = {"wat": "backend", "backend": backend}
    told: SimpleQueue[tuple[str, bytes | None]] = SimpleQueue()
    names = ("spent", "other", "third", "spent")
    try:
        with pool(*(guard(name, **wat) for name in names[:3]), workers=1) as p:
            for name in names:
                p.ask(names.index(name), "get", b"{}", partial(lambda name, reply: told.put((name, reply)), name))
            assert backend.asks.wait(WAIT_S)
            # The supervisor takes what comes in its order: a job's label says that all four were heard.
            assert ask(p, 1, "other") == ANSWERED
            backend.go.set()
            assert sorted(told.get(timeout=WAIT_S) for _ in names) == [
                *(("other", b"1"), ("spent", None), ("spent", None), ("third", b"1"))
            ]
    finally:
        backend.go.set()
    assert backend.asked == ["spent", "other", "other"]


def test_a_worker_that_spells_a_question_otherwise_leaves_no_answer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    run_in_forkservers(monkeypatch, AS_IT_IS_SPELT)
    asked: list[Any] = []

    def backend(tool: str, args: Any) -> str:
        asked.append(args)
        return "float" if isinstance(args["n"], float) else "whole"

    wasm = asks("get", '{"n":1.0}')
    with pool(*(Guard(name, wasm, POLICY, backend=backend) for name in ("evil", "good")), workers=1) as p:
        for _ in range(2):
            assert code(label(p, "evil")) == len('"float"') - 100_000
        for _ in range(2):
            assert code(label(p, "good")) == len('"whole"') - 100_000
    assert [type(args["n"]) for args in asked] == [float, float, int]


def test_an_answer_that_comes_late_takes_the_place_of_no_newer_one(caplog: pytest.LogCaptureFixture) -> None:
    late = Slow()
    answers = iter([None, "newer", "third"])

    def backend(tool: str, args: Any) -> Any:
        answer = next(answers)
        if answer is not None:
            return answer
        late(tool, args)
        raise ConnectionError("down")

    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=0.05)
    newer = len('"newer"') - 100_000
    with released(late), pool(guard("backend", backend=backend, remember="pool"), workers=1, limits=limits) as p:
        assert ask(p, 1) == IN_VAIN
        wait_until(lambda: ask(p, 1) == newer, "the question to be asked again")
        late.go.set()
        # It is told of after it was handed in, which is before the supervisor hears of this job's question.
        wait_until(lambda: "ConnectionError: down" in caplog.text, "the late failure")
        assert ask(p, 2) == len('"third"') - 100_000
        before = only_worker(p)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: ready_workers(p) not in ([], [before]), "a worker that has no copy of what that one found")
        assert ask(p, 1) == newer


def test_a_table_whose_class_answers_otherwise_is_asked() -> None:
    class Learning(Replies):
        def __call__(self, tool: str, args: Any) -> Any:
            try:
                return super().__call__(tool, args)
            except NoReply:
                return 1

    class Trusting(First):
        def __call__(self, tool: str, args: Any) -> Any:
            return 1

    table = [b'{"tool":"get_issue","args":1,"result":1}']
    backends = Learning(table), Trusting(Replies(table))
    with pool(*(guard(type(b).__name__, wat="backend", backend=b) for b in backends)) as p:
        assert [ask(p, 1, name) for name in ("Learning", "Trusting")] == [ANSWERED] * 2


def test_whatever_becomes_of_workers_and_answers_every_question_comes_to_an_end() -> None:
    dice, lock, over = random.Random(16), threading.Lock(), threading.Event()

    def backend(_tool: str, _args: Any) -> int:
        with lock:
            chance = dice.random()
        if chance < 0.2:
            raise ConnectionError("down")
        if chance < 0.6:
            over.wait(0.01 if chance < 0.4 else 0.08)  # in time, and too late
        return 1

    def kill_workers(p: GuardPool) -> None:
        chance = random.Random(17)
        while not over.wait(chance.random() / 20):
            for pid in ready_workers(p)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=0.05, max_attempts=50)
    guards = [
        guard(str(remember), wat="backend", backend=backend, remember=remember) for remember in ("never", "pool", 0.02)
    ]
    with pool(*guards, workers=4, limits=limits) as p:
        killer = threading.Thread(target=kill_workers, args=[p])
        killer.start()
        try:
            jobs = [Job(n, "label_resource", "get_issue", {"n": n % 7}, guard=guards[n % 3].name) for n in range(300)]
            assert {code(outcome) for outcome in p.map(jobs)} <= {ANSWERED, IN_VAIN}
        finally:
            over.set()
            killer.join()
        sources = p._supervisor._sources._sources
        assert len(sources) == 3
        wait_until(lambda: not any(source.running or source.flights for source in sources), "the end of every question")


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "closed"])
def test_answers_that_come_after_the_end_of_a_pool_do_no_harm(
    is_killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow()
    with released(slow):
        p = pool(guard("backend", backend=slow), workers=2)
        futures = [p.submit(Job(n, "label_resource", "get_issue", {"n": n}, guard="backend")) for n in range(2)]
        wait_until(lambda: live(p) == 2, "both questions")
        (source,) = p._supervisor._sources._sources
        p.kill() if is_killed else p.close(0.01)
        assert {future.result(WAIT_S).status.value for future in futures} == {"cancelled"}
        slow.go.set()
        wait_until(lambda: not source.running and not source.flights, "the late answers")
    assert not [record for record in caplog.records if record.exc_info]
