"""Jobs in sessions: one worker, in order, and what that costs the others. `test_scheduler_machine.py` draws cases at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from guardpool.outcomes import OutcomeError
from guardpool.protocol.slots import FRAME_BYTES
from guardpool.protocol.wire import ResultItem
from guardpool.supervise import sessions
from guardpool.supervise.frame_budget import FRAME_US, MAX_FRAME_PAYLOAD_BYTES
from guardpool.supervise.scheduler import Scheduler, Task, Verdict

OWNER: Any = "an owner"


def task(index: int, session: str | None = "s", owner: Any = OWNER, size: int = 2) -> Task:
    """A job; its number is its index plus one."""
    return Task(index + 1, 0, "label_resource", b"x" * size, 0, owner, index, index, "t", session=session)


def make(workers: int, queued: Iterable[Task] = (), **options: Any) -> Scheduler:
    scheduler = Scheduler(1, 2, **options)
    for worker in range(workers):
        scheduler.join(worker)
    scheduler.add(OWNER, list(queued))
    return scheduler


def indexes(frame: list[Task]) -> list[int]:
    return [task.index for task in frame]


def finish(scheduler: Scheduler, worker: int, frame: list[Task], us: int = 50) -> None:
    scheduler.finish(worker, frame, [ResultItem(task.seq, "ok", b"{}", us, 0, []) for task in frame])


def work(scheduler: Scheduler, workers: Iterable[int], us: int = 50) -> dict[int, list[int]]:
    """Let workers do one frame after the other, in turns, until nothing is left for them; which jobs each did."""
    did: dict[int, list[int]] = {worker: [] for worker in workers}
    going_on = True
    while going_on:
        frames = {worker: scheduler.next_frame(worker) for worker in did}
        going_on = any(frames.values())
        for worker, frame in frames.items():
            did[worker] += indexes(frame)
            if frame:
                finish(scheduler, worker, frame, us)
    return did


def test_a_session_stays_with_the_worker_that_took_its_first_job() -> None:
    scheduler = make(3, [task(index) for index in range(500)])
    first = scheduler.next_frame(1)
    assert scheduler.next_frame(0) == scheduler.next_frame(2) == []
    finish(scheduler, 1, first)
    did = work(scheduler, (0, 1, 2))
    assert (did[0], did[2]) == ([], [])
    assert indexes(first) + did[1] == list(range(500))


def test_others_do_what_is_in_no_session_while_one_has_a_long_session_to_do() -> None:
    scheduler = make(2, [task(index, "s" if index % 2 else None) for index in range(4000)])
    did = work(scheduler, (0, 1))
    owner, other = sorted(did, key=lambda worker: -sum(index % 2 for index in did[worker]))
    assert [index for index in did[owner] if index % 2] == list(range(1, 4000, 2))
    assert all(index % 2 == 0 for index in did[other])
    assert len(did[other]) > 1800, "the other one had next to nothing to do"


def test_a_few_long_sessions_do_not_all_go_to_the_worker_that_asks_first() -> None:
    scheduler = make(4, [task(index, f"s{index % 4}") for index in range(400)])
    frames = [scheduler.next_frame(worker) for worker in range(4)]
    assert [{task.session for task in frame} for frame in frames] == [{"s0"}, {"s1"}, {"s2"}, {"s3"}]


def test_many_short_sessions_fill_frames_as_jobs_without_one_do() -> None:
    scheduler = make(1, [task(index, f"s{index // 2}") for index in range(2000)])
    sizes = []
    while frame := scheduler.next_frame(0):
        sizes.append(len(frame))
        finish(scheduler, 0, frame, us=1)
    assert max(sizes) == 256
    assert len(sizes) < 40


def test_a_frame_of_jobs_in_sessions_keeps_the_limits_of_all_frames() -> None:
    for size, most in ((50_000, MAX_FRAME_PAYLOAD_BYTES), (300_000, FRAME_BYTES)):
        scheduler = make(1)
        for index in range(60):
            scheduler.add(OWNER, [task(index)])
            finish(scheduler, 0, scheduler.next_frame(0), us=1)
        scheduler.add(OWNER, [task(index, size=size) for index in range(60, 120)])
        assert len(scheduler.next_frame(0)) == most // size
    scheduler = make(1, [task(index) for index in range(600)], max_frame_jobs=7)
    assert len(scheduler.next_frame(0)) <= 7
    scheduler = make(1)
    for index in range(400):
        scheduler.add(OWNER, [task(index)])
        finish(scheduler, 0, scheduler.next_frame(0), us=1000)
    scheduler.add(OWNER, [task(index) for index in range(400, 800)])
    assert len(scheduler.next_frame(0)) == pytest.approx(FRAME_US / 1000, abs=1)


def test_a_session_goes_on_elsewhere_when_its_worker_died_and_is_told_so() -> None:
    scheduler = make(1, [task(index) for index in range(6)], max_frame_jobs=2)
    finish(scheduler, 0, scheduler.next_frame(0))
    running = scheduler.next_frame(0)
    assert scheduler.lost(0, running[0].seq, Verdict.CRASH) == []
    scheduler.join(1)
    frame = scheduler.next_frame(1)
    assert (indexes(frame)[0], frame[0].restarted) == (indexes(running)[0], True)
    finish(scheduler, 1, frame)
    assert all(task.restarted for task in scheduler.next_frame(1))


def test_a_session_whose_first_job_died_with_its_worker_has_lost_nothing() -> None:
    scheduler = make(1, [task(0), task(1)])
    scheduler.lost(0, scheduler.next_frame(0)[0].seq, Verdict.CRASH)
    scheduler.join(1)
    frame = scheduler.next_frame(1) + scheduler.next_frame(1)
    assert [(task.index, task.restarted) for task in frame] == [(0, False), (1, False)]


def test_a_session_waits_until_a_worker_that_goes_has_none_of_its_jobs() -> None:
    scheduler = make(2, [task(index) for index in range(6)])
    frame = scheduler.next_frame(0)
    scheduler.retire(0)
    assert scheduler.next_frame(1) == []
    finish(scheduler, 0, frame)
    later = scheduler.next_frame(1)
    assert (later[0].index, later[0].restarted) == (frame[-1].index + 1, True)


def test_of_recalled_jobs_those_of_untouched_sessions_go_elsewhere_and_the_others_wait() -> None:
    queued = [task(0, "kept"), task(1, "waits"), task(2, "waits"), task(3, "kept"), task(4, "new"), task(5, None)]
    scheduler = make(1, queued)
    assert indexes(scheduler.next_frame(0) + scheduler.next_frame(0)) == [0, 1, 2, 3, 4]
    finish(scheduler, 0, queued[:1])
    assert scheduler.recall(0, queued[1].seq) == 3
    scheduler.join(1)
    assert [*indexes(scheduler.next_frame(1)), *indexes(scheduler.next_frame(1))] == [4, 5]
    scheduler.answered(0)
    finish(scheduler, 0, [queued[1]])
    assert indexes(scheduler.next_frame(0)) + indexes(scheduler.next_frame(0)) == [2, 3]
    assert not any(task.restarted for task in queued)


def test_a_job_that_is_tried_again_takes_its_session_along() -> None:
    scheduler = make(1, [task(index) for index in range(4)], max_frame_jobs=1)
    (first,) = scheduler.next_frame(0)
    (second,) = scheduler.next_frame(0)
    trap = ResultItem(first.seq, "trap", OutcomeError("trap", "unreachable"), 1, 0, [])
    scheduler.finish(0, [first], [trap])
    scheduler.retire(0)
    scheduler.try_again(first)
    scheduler.join(1)
    assert scheduler.next_frame(1) == [first]
    assert scheduler.next_frame(1) == [], "the second is with the old worker until that is dead"
    scheduler.lost(0, None, Verdict.INNOCENT)
    assert scheduler.next_frame(1) == [second]
    assert not first.restarted


def test_jobs_of_one_session_of_several_owners_meet_at_one_worker() -> None:
    other: Any = "another owner"
    scheduler = make(2, [task(0), task(1)])
    scheduler.add(other, [task(0, owner=other), task(1, owner=other)])
    did = []
    for _ in range(4):
        frame = scheduler.next_frame(1)
        did += [(task.owner, task.index) for task in frame]
        assert scheduler.next_frame(0) == []
        finish(scheduler, 1, frame)
    assert [index for owner, index in did if owner == OWNER] == [0, 1]
    assert [index for owner, index in did if owner == other] == [0, 1]


def test_a_paused_owner_sends_jobs_of_sessions_up_to_its_index_only() -> None:
    scheduler = make(1, [task(index, f"s{index % 2}") for index in range(6)])
    scheduler.pause(OWNER, 2)
    sent = [*scheduler.next_frame(0), *scheduler.next_frame(0)]
    assert indexes(sent) == [0, 1]
    finish(scheduler, 0, sent)
    assert scheduler.next_frame(0) == []
    scheduler.resume(OWNER)
    assert indexes(scheduler.next_frame(0))[0] == 2


def test_cancelled_jobs_of_a_session_are_given_back_and_counted_out() -> None:
    scheduler = make(1, [task(0, None), *(task(index) for index in range(1, 40))])
    sent = scheduler.next_frame(0)
    cancelled = scheduler.cancel(OWNER)
    assert sorted(indexes(sent + cancelled)) == list(range(40))
    assert scheduler.queued == 0
    assert scheduler.cancel_all() == []


# --- memory


def test_a_million_sessions_leave_no_more_behind_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_IDLE_SESSIONS", 100)
    scheduler = make(1)
    for start in range(0, 4_000, 200):
        scheduler.add(OWNER, [task(index, f"session {index} {'x' * 100}") for index in range(start, start + 200)])
        while frame := scheduler.next_frame(0):
            finish(scheduler, 0, frame, us=1)
    kept = scheduler._sessions
    assert len(kept._sessions) == len(kept._idle) == 100
    assert all(len(key) <= 64 for key in kept._sessions), "a long name is kept as a digest"
    assert not kept._shelves


def test_a_session_without_jobs_is_remembered_until_many_others_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_IDLE_SESSIONS", 3)
    scheduler = make(2)

    def goes_to(worker: int, session: str) -> bool:
        scheduler.add(OWNER, [task(0, session)])
        frame = scheduler.next_frame(worker)
        finish(scheduler, worker, frame) if frame else scheduler.cancel(OWNER)
        return bool(frame)

    assert goes_to(0, "a")
    for other in "bc":
        assert goes_to(1, other)
    assert not goes_to(1, "a"), "it is at home in the first worker"
    assert goes_to(0, "a")
    for other in "def":
        assert goes_to(1, other)
    assert goes_to(1, "a"), "it was forgotten"


def test_what_no_job_ever_ran_of_is_not_remembered() -> None:
    scheduler = make(1, [task(index, f"s{index}") for index in range(5)])
    scheduler.cancel(OWNER)
    assert not scheduler._sessions._sessions
