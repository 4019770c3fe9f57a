"""A job that found its guard's memory full waits for a worker that was sent no job, and such a worker comes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from guardpool import Limits
from guardpool.outcomes import OutcomeError
from guardpool.protocol.progress_page import SEQ
from guardpool.protocol.wire import ResultItem
from guardpool.sizes import MIB
from guardpool.supervise.births import Births
from guardpool.supervise.scheduler import Scheduler, Task, Verdict
from guardpool.supervise.state import PoolState
from guardpool.supervise.verdicts import NEARLY_FULL, may_owe_to_others
from guardpool.supervise.watchdog import Watchdog
from guardpool.supervise.worker_handle import State, WorkerHandle

TRAP = ResultItem(1, "trap", OutcomeError("trap", "unreachable"), 1, 0, [])
OWNER = cast("Any", "an owner")


def tasks(count: int) -> list[Task]:
    return [Task(n + 1, 0, "label_resource", b"{}", 0, OWNER, n, n, "t") for n in range(count)]


def scheduler_with(workers: int, queued: int) -> Scheduler:
    scheduler = Scheduler(1, max_attempts=2)
    for worker in range(workers):
        scheduler.join(worker)
    scheduler.add(OWNER, tasks(queued))
    return scheduler


def seqs(frame: list[Task]) -> list[int]:
    return [task.seq for task in frame]


def test_a_job_that_is_tried_again_goes_to_a_fresh_worker_only() -> None:
    scheduler = scheduler_with(2, 40)
    job = scheduler.next_frame(0)[0]
    scheduler.finish(0, [job], [TRAP])
    scheduler.next_frame(1)
    scheduler.try_again(job)
    assert scheduler.wants_fresh
    assert job not in [*scheduler.next_frame(0), *scheduler.next_frame(1)], "the others go on with the queue"
    scheduler.join(2)
    assert seqs(scheduler.next_frame(2)) == [job.seq]
    assert not scheduler.wants_fresh
    assert (job.deaths, scheduler.holds(2, job.seq)) == (1, True)
    scheduler.lost(2, None, Verdict.INNOCENT)
    assert scheduler.wants_fresh, "that worker died for another reason"


def test_a_job_that_waits_for_a_fresh_worker_is_queued_and_can_be_cancelled() -> None:
    scheduler = scheduler_with(1, 1)
    (job,) = scheduler.next_frame(0)
    scheduler.finish(0, [job], [TRAP])
    for cancel in (lambda: scheduler.cancel(OWNER), scheduler.cancel_all):
        scheduler.try_again(job)
        assert scheduler.queued == 1
        assert cancel() == [job]
        assert (scheduler.queued, scheduler.wants_fresh) == (0, False)


def test_jobs_that_wait_for_a_fresh_worker_go_to_any_where_none_is_to_be_had() -> None:
    scheduler = scheduler_with(1, 1)
    (job,) = scheduler.next_frame(0)
    scheduler.finish(0, [job], [TRAP])
    scheduler.try_again(job)
    assert scheduler.next_frame(0) == []
    scheduler.release_fresh()
    assert not scheduler.wants_fresh
    assert seqs(scheduler.next_frame(0)) == [job.seq]
    assert not may_owe_to_others(job, TRAP, full=1000, used=True, max_attempts=9), "it is not tried once more"


def test_a_job_that_may_owe_its_end_to_others_goes_to_a_fresh_worker() -> None:
    scheduler = scheduler_with(2, 40)
    job = scheduler.next_frame(0)[0]
    scheduler.next_frame(1)
    assert scheduler.lost(0, job.seq, Verdict.SUSPECT) == []
    assert job not in scheduler.next_frame(1)
    scheduler.join(2)
    assert seqs(scheduler.next_frame(2)) == [job.seq]


def test_one_more_try_is_for_jobs_that_others_may_have_starved() -> None:
    (job,) = tasks(1)

    def again(item: ResultItem = TRAP, full: int = NEARLY_FULL, used: bool = True, most: int = 2) -> bool:
        return may_owe_to_others(job, item, full=full, used=used, max_attempts=most)

    assert again()
    assert again(ResultItem(1, "invalid", OutcomeError("no_room", "x"), 1, 0, []))
    assert not again(ResultItem(1, "invalid", OutcomeError("invalid_answer", "x"), 1, 0, []))
    assert not again(ResultItem(1, "refused", OutcomeError("no_room", "x"), 1, 0, []))
    assert not again(ResultItem(1, "ok", b"{}", 1, 0, []))
    assert not again(full=NEARLY_FULL - 1)
    assert not again(used=False)
    assert not again(most=1)
    job.fresh = True
    assert not again(most=1000), "once is enough"


def test_what_earlier_jobs_left_near_or_in_slots_is_not_the_job_s() -> None:
    state = PoolState(["g"], [None], Limits(), cast("Any", None), cast("Any", None))
    watchdog = Watchdog(state, cast("Any", None), cast("Any", None), cast("Any", None))
    slots = SimpleNamespace(most_bytes=8 * MIB)
    worker: Any = SimpleNamespace(number=0, page={SEQ: 7}, slots=slots, done_within_cap=5)
    state.scheduler.join(0)
    state.scheduler.add(OWNER, [Task(7, 0, "label_resource", b"{}", 0, OWNER, 7, 7, "t")])
    state.scheduler.next_frame(0)

    def blame(over: int, done: int = 5) -> Verdict:
        worker.done_within_cap = done
        return watchdog._blame(worker, 7, done, over)

    assert blame(8 * MIB) is Verdict.SUSPECT
    assert blame(8 * MIB + 1) is Verdict.MEMORY
    assert blame(1, done=0) is Verdict.MEMORY, "there was no job before it"
    state.replies = cast("Any", object())
    most = 8 * MIB + Limits().near_bytes
    assert (blame(most), blame(most + 1)) == (Verdict.SUSPECT, Verdict.MEMORY)


def test_a_worker_makes_way_for_a_fresh_one_if_none_is_coming() -> None:
    state = PoolState(["g"], [None], Limits(), cast("Any", None), cast("Any", None), wanted=2)
    births = Births(state, cast("Any", None), cast("Any", None), cast("Any", None))
    for number in (1, 2):
        state.workers[number] = worker = WorkerHandle(number, cast("Any", SimpleNamespace(page=None, slots=None)), 0.0)
        worker.state = State.READY
    births._make_way_for_a_fresh_worker()
    assert [worker.recycle_due for worker in state.workers.values()] == [True, False]
    assert births._wanted() == 1
    state.workers[1].recycle_due = False
    state.workers[2].state = State.STARTING
    births._make_way_for_a_fresh_worker()
    assert not state.workers[1].recycle_due, "there is one on its way"
