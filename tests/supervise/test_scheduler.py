"""Which job goes to which worker: frame sizes, turns, pauses, and what becomes of a dead worker's jobs."""

from __future__ import annotations

import random
import sys
import threading
from itertools import takewhile
from typing import Any

import pytest

from guardpool.outcomes import OutcomeError
from guardpool.protocol.slots import FRAME_BYTES, LARGE_BYTES
from guardpool.protocol.wire import ResultItem
from guardpool.supervise.frame_budget import FRAME_US, MAX_FRAME_JOBS, MAX_FRAME_PAYLOAD_BYTES, FrameBudget
from guardpool.supervise.scheduler import Scheduler, Task, Verdict

_seq = 0


def tasks(count: int, owner: Any = "a", *, size: int = 10, kind: int = 0, first: int = 0) -> list[Task]:
    """Jobs of an owner, with the indexes from `first` on; numbered as they are made, 1 first in each test."""
    global _seq
    made = []
    for index in range(first, first + count):
        _seq += 1
        op = "label_response" if kind % 2 else "label_resource"
        made.append(Task(_seq, kind // 2, op, b"x" * size, kind, owner, index, f"{owner}{index}", "t"))
    return made


@pytest.fixture(autouse=True)
def _from_one() -> None:
    global _seq
    _seq = 0


def make(workers: int = 1, *, queued: list[Task] | None = None, attempts: int = 2, **options: Any) -> Scheduler:
    scheduler = Scheduler(2, attempts, **options)
    for worker in range(workers):
        scheduler.join(worker)
    for task in queued or []:
        scheduler.add(task.owner, [task])
    return scheduler


def result_of(task: Task, us: int = 50) -> ResultItem:
    return ResultItem(task.seq, "ok", b"{}", us, 0, [])


def take(scheduler: Scheduler, worker: int, items: list[ResultItem]) -> tuple[list[Task], str | None]:
    """Match results with jobs and finish those, as the supervisor does."""
    tasks, fault = scheduler.held(worker, items)
    if tasks:
        scheduler.finish(worker, tasks, items)
    return tasks, fault


def answer(scheduler: Scheduler, worker: int, frame: list[Task], us: int = 50) -> list[Any]:
    finished, fault = take(scheduler, worker, [result_of(task, us) for task in frame])
    assert fault is None
    return ids(finished)


def ids(frame: list[Task]) -> list[Any]:
    return [task.job_id for task in frame]


def teach(scheduler: Scheduler, us: int, kind: int = 0, jobs: int = 400) -> None:
    """Let the scheduler see that jobs of a kind cost so much."""
    for _ in range(jobs):
        scheduler.add("teacher", tasks(1, "teacher", kind=kind))
        answer(scheduler, 0, scheduler.next_frame(0), us)


# --- the size of frames


def test_first_frames_are_small_and_grow_as_jobs_prove_cheap() -> None:
    scheduler = make(queued=tasks(10_000))
    sizes = []
    while scheduler.queued:
        frame = scheduler.next_frame(0)
        answer(scheduler, 0, frame, us=10)
        sizes.append(len(frame))
    assert sizes[0] == 4
    assert max(sizes) == MAX_FRAME_JOBS
    assert sizes[:4] == sorted(sizes[:4])


@pytest.mark.parametrize(("us", "jobs"), [(50, 160), (1000, 8), (400, 20), (7900, 1), (60_000, 1)])
def test_a_frame_holds_about_eight_milliseconds_of_work(us: int, jobs: int) -> None:
    scheduler = make()
    teach(scheduler, us)
    scheduler.add("a", tasks(5000))
    frame = scheduler.next_frame(0)
    assert abs(len(frame) - jobs) <= 1
    assert len(frame) == 1 or len(frame) * us <= FRAME_US * 1.05


def test_costs_are_known_for_each_guard_and_operation_apart() -> None:
    scheduler = make()
    teach(scheduler, 50, kind=0)
    teach(scheduler, 8000, kind=3)
    scheduler.add("a", tasks(1000, kind=0))
    scheduler.add("b", tasks(1000, "b", kind=3))
    assert len(scheduler.next_frame(0)) > 50
    assert len(scheduler.next_frame(0)) == 1


@pytest.mark.parametrize(
    ("size", "most"),
    [(LARGE_BYTES - 1, MAX_FRAME_PAYLOAD_BYTES), (LARGE_BYTES, FRAME_BYTES), (1_000_000, FRAME_BYTES)],
)
def test_a_frame_holds_a_mebibyte_at_most_or_four_of_large_payloads(size: int, most: int) -> None:
    scheduler = make()
    teach(scheduler, 1)
    scheduler.add("a", tasks(300, size=size))
    assert len(scheduler.next_frame(0)) == most // size


def test_behind_a_large_payload_small_ones_have_a_mebibyte_as_ever() -> None:
    scheduler = make()
    teach(scheduler, 1)
    small = MAX_FRAME_PAYLOAD_BYTES // 32
    scheduler.add("a", [*tasks(1, size=LARGE_BYTES), *tasks(200, size=small)])
    assert len(scheduler.next_frame(0)) == 1 + 32


def test_a_frame_never_holds_less_than_a_job() -> None:
    assert len(make(queued=tasks(5, size=2 * FRAME_BYTES)).next_frame(0)) == 1


@pytest.mark.parametrize(("first", "jobs"), [(50_000, 125), (100_000, 42), (1_000_000, 5), (3_000_000, 2)])
def test_behind_a_large_payload_come_as_many_jobs_as_if_all_were_large(first: int, jobs: int) -> None:
    scheduler = make()
    teach(scheduler, 1)
    scheduler.add("a", [*tasks(1, size=first), *tasks(250, size=100)[1:]])
    assert len(scheduler.next_frame(0)) == jobs


def test_the_limit_on_jobs_in_a_frame_is_kept() -> None:
    scheduler = make(max_frame_jobs=7)
    teach(scheduler, 1)
    scheduler.add("a", tasks(1000))
    assert len(scheduler.next_frame(0)) == 7


def test_frames_shrink_towards_the_end_so_that_all_workers_stay_busy() -> None:
    scheduler = make(workers=4)
    teach(scheduler, 1)
    scheduler.add("a", tasks(1000))
    sizes = []
    while scheduler.queued:
        for worker in scheduler.hungry():
            frame = scheduler.next_frame(worker)
            sizes.append(len(frame))
            answer(scheduler, worker, frame, us=1)
    assert sizes[0] == 1000 // 8
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_one_absurd_duration_does_not_spoil_the_average() -> None:
    scheduler = make()
    teach(scheduler, 50)
    scheduler.add("a", tasks(1))
    answer(scheduler, 0, scheduler.next_frame(0), us=2**63)
    teach(scheduler, 50, jobs=100)
    scheduler.add("a", tasks(5000))
    assert len(scheduler.next_frame(0)) > 60


# --- frames in flight


def test_two_frames_are_in_flight_and_no_third() -> None:
    scheduler = make(queued=tasks(1000))
    first, second = scheduler.next_frame(0), scheduler.next_frame(0)
    assert first
    assert second
    assert scheduler.next_frame(0) == []
    assert scheduler.hungry() == []
    answer(scheduler, 0, first[:-1])
    assert scheduler.next_frame(0) == []
    answer(scheduler, 0, first[-1:])
    assert scheduler.hungry() == [0]
    assert scheduler.next_frame(0)


def test_behind_slow_jobs_no_second_frame_waits() -> None:
    scheduler = make()
    teach(scheduler, 30_000)
    scheduler.add("a", tasks(10))
    first = scheduler.next_frame(0)
    assert len(first) == 1
    assert scheduler.next_frame(0) == []
    answer(scheduler, 0, first, us=30_000)
    assert scheduler.next_frame(0)


def test_the_worker_with_the_least_to_do_is_fed_first() -> None:
    scheduler = make(workers=3, queued=tasks(100))
    scheduler.next_frame(0)
    scheduler.next_frame(1)
    assert scheduler.hungry() == [2, 0, 1]


def test_a_retired_worker_gets_nothing_and_keeps_what_it_has() -> None:
    scheduler = make(workers=2, queued=tasks(100))
    frame = scheduler.next_frame(0)
    scheduler.retire(0)
    assert scheduler.hungry() == [1]
    assert scheduler.next_frame(0) == []
    assert scheduler.load(0) == len(frame)
    assert answer(scheduler, 0, frame) == ids(frame)


def test_jobs_behind_one_that_waits_go_elsewhere_uncharged() -> None:
    queued = tasks(40)
    scheduler = make(workers=2, queued=queued)
    mine = scheduler.next_frame(0) + scheduler.next_frame(0)
    assert len(mine) > 2
    assert scheduler.recall(0, mine[0].seq) == len(mine) - 1
    assert scheduler.load(0) == 1
    assert scheduler.holds(0, mine[0].seq)
    assert scheduler.hungry() == [1]
    assert scheduler.next_frame(0) == []
    rest: list[Any] = []
    while frame := scheduler.next_frame(1):
        rest += answer(scheduler, 1, frame)
    assert rest == ids(queued[1:])
    assert [task.deaths for task in queued] == [0] * 40
    scheduler.add("b", tasks(1, "b"))
    scheduler.answered(0)
    assert answer(scheduler, 0, [mine[0]]) == ids(mine[:1])
    assert ids(scheduler.next_frame(0)) == ["b0"]


def test_a_worker_keeps_the_jobs_before_the_one_that_waits_until_it_tells_of_them() -> None:
    queued = tasks(40)
    scheduler = make(workers=2, queued=queued)
    mine = scheduler.next_frame(0) + scheduler.next_frame(0)
    assert len(mine) > 4
    assert scheduler.recall(0, mine[2].seq) == len(mine) - 3
    assert scheduler.load(0) == 3
    assert answer(scheduler, 0, mine[:2]) == ids(mine[:2])
    assert scheduler.load(0) == 1
    scheduler.answered(0)
    assert answer(scheduler, 0, [mine[2]]) == ids([mine[2]])
    assert ids(scheduler.next_frame(0))[0] == ids([mine[3]])[0]


def test_a_job_may_ask_if_its_worker_may_be_running_it() -> None:
    scheduler = make(queued=tasks(40))
    mine = scheduler.next_frame(0) + scheduler.next_frame(0)
    assert scheduler.asks(0, 99) is scheduler.asks(7, mine[0].seq) is None
    assert scheduler.asks(0, mine[0].seq) is mine[0]
    for _ in range(2):
        assert scheduler.asks(0, mine[2].seq) is mine[2]
    assert scheduler.asks(0, mine[1].seq) is scheduler.asks(0, mine[0].seq) is None, "it went past them"
    answer(scheduler, 0, mine[:3])
    assert scheduler.asks(0, mine[2].seq) is None
    assert scheduler.asks(0, mine[3].seq) is mine[3]


def test_a_recall_for_a_job_that_a_worker_does_not_hold_changes_nothing() -> None:
    scheduler = make(queued=tasks(3))
    frame = scheduler.next_frame(0)
    assert scheduler.recall(0, 99) == scheduler.recall(7, frame[0].seq) == 0
    scheduler.answered(7)
    assert scheduler.load(0) == len(frame)
    assert scheduler.hungry() == [0]


def test_an_unknown_worker_gets_nothing() -> None:
    scheduler = make(queued=tasks(3))
    assert scheduler.next_frame(9) == []
    assert scheduler.load(9) == 0
    assert not scheduler.holds(9, 1)
    assert scheduler.lost(9, 1, Verdict.CRASH) == []
    scheduler.retire(9)
    assert take(scheduler, 9, [ResultItem(1, "ok", b"", 1, 0, [])])[1] is not None


# --- lanes


def test_owners_take_turns_by_frames_and_each_is_served_in_order() -> None:
    scheduler = make(max_frame_jobs=2)
    for owner in "abc":
        scheduler.add(owner, tasks(20, owner))
    frames = []
    for _ in range(6):
        frame = scheduler.next_frame(0)
        answer(scheduler, 0, frame)
        frames.append(ids(frame))
    assert frames == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"], ["a2", "a3"], ["b2", "b3"], ["c2", "c3"]]


def test_a_late_owner_does_not_wait_for_the_queue_of_the_first() -> None:
    scheduler = make(queued=tasks(10_000))
    scheduler.add("late", tasks(1, "late"))
    assert "late0" in ids(scheduler.next_frame(0)) + ids(scheduler.next_frame(0))


def test_a_paused_owner_gets_one_job_at_a_time_up_to_the_one_it_waits_for() -> None:
    scheduler = make(queued=tasks(10))
    scheduler.pause("a", 2)
    assert ids(scheduler.next_frame(0)) == ["a0"]
    assert ids(scheduler.next_frame(0)) == ["a1"]
    scheduler.join(1)
    assert scheduler.next_frame(1) == []
    scheduler.resume("a", 3)
    assert ids(scheduler.next_frame(1)) == ["a2"]
    assert scheduler.next_frame(1) == []
    scheduler.resume("a")
    assert ids(scheduler.next_frame(1))[0] == "a3"


def test_a_paused_owner_stops_no_other() -> None:
    scheduler = make(queued=tasks(10) + tasks(10, "b"))
    scheduler.pause("a", 0)
    assert ids(scheduler.next_frame(0))[0] == "b0"
    assert ids(scheduler.next_frame(0))[0].startswith("b")


def test_no_owner_is_paused_any_more_once_the_pool_closes() -> None:
    scheduler = make(queued=tasks(10))
    scheduler.pause("a", 0)
    scheduler.drain()
    assert scheduler.next_frame(0)
    scheduler.pause("a", 0)
    scheduler.resume("a", 0)
    assert scheduler.next_frame(0)


def test_cancelling_takes_what_is_queued_and_leaves_what_is_in_flight() -> None:
    scheduler = make(queued=tasks(10) + tasks(3, "b"))
    scheduler.pause("a", 5)
    frame = scheduler.next_frame(0)
    assert ids(scheduler.cancel("a")) == [f"a{n}" for n in range(len(frame), 10)]
    assert scheduler.cancel("a") == []
    assert scheduler.in_flight == len(frame)
    assert scheduler.queued == 3
    assert answer(scheduler, 0, frame) == ids(frame)
    assert len(scheduler.cancel_all()) == 3
    assert scheduler.queued == scheduler.in_flight == 0
    scheduler.add("a", tasks(4))  # and it may come again, unpaused
    assert scheduler.next_frame(0)


def test_dropping_takes_single_jobs_out_of_the_queue_those_of_sessions_too() -> None:
    in_sessions = tasks(6, "a", first=10)
    for at, task in enumerate(in_sessions):
        task.session = f"session {at % 2}"
    scheduler = make(queued=tasks(10) + in_sessions + tasks(3, "b"))
    frame = scheduler.next_frame(0)
    assert ids(scheduler.drop("a", {0, 5, 7, 11, 12, 99})) == ["a5", "a7", "a11", "a12"]
    assert scheduler.drop("a", {5, 11}) == scheduler.drop("c", {1}) == []
    assert scheduler.queued == 10 + 6 + 3 - len(frame) - 4
    assert len(scheduler.drop("b", {0, 1, 2})) == 3
    done = answer(scheduler, 0, frame)
    while frame := scheduler.next_frame(0):
        done += answer(scheduler, 0, frame)
    assert sorted(done) == sorted(f"a{at}" for at in range(16) if at not in (5, 7, 11, 12))
    scheduler.add("a", tasks(4))
    assert len(scheduler.drop("a", range(4))) == 4
    assert scheduler.queued == 0


def test_adding_no_tasks_changes_nothing() -> None:
    scheduler = make()
    scheduler.add("a", [])
    assert scheduler.queued == 0
    assert scheduler.hungry() == []


# --- deaths


def test_the_jobs_of_a_dead_worker_come_first_again_and_in_order() -> None:
    scheduler = make(workers=2, queued=tasks(100))
    first, second = scheduler.next_frame(0), scheduler.next_frame(0)
    answer(scheduler, 0, first[:1])
    assert scheduler.lost(0, first[1].seq, Verdict.INNOCENT) == []
    assert scheduler.queued == 99
    again: list[Any] = []
    while len(again) < len(first) + len(second) - 1:
        frame = scheduler.next_frame(1)
        again += answer(scheduler, 1, frame)
    assert again[: len(first) + len(second) - 1] == ids(first[1:] + second)


def test_two_deaths_leave_the_lane_in_the_order_of_its_indexes() -> None:
    scheduler = make(workers=2, queued=tasks(30))
    first = scheduler.next_frame(0)
    second = scheduler.next_frame(1)
    scheduler.lost(0, None, Verdict.INNOCENT)
    third = scheduler.next_frame(1)  # the first one's jobs, behind its own
    assert ids(third) == ids(first)[: len(third)]
    scheduler.lost(1, None, Verdict.INNOCENT)
    assert ids(scheduler.cancel("a")) == [f"a{n}" for n in range(30)]
    assert second


def test_jobs_go_back_to_their_owners_lanes() -> None:
    scheduler = make(queued=tasks(2) + tasks(2, "b"))
    scheduler.next_frame(0)
    scheduler.next_frame(0)
    scheduler.lost(0, None, Verdict.CRASH)
    assert ids(scheduler.cancel("b")) == ["b0", "b1"]
    assert ids(scheduler.cancel("a")) == ["a0", "a1"]


@pytest.mark.parametrize("verdict", [Verdict.TIMEOUT, Verdict.MEMORY])
def test_a_job_that_was_killed_at_a_limit_is_finished_at_once(verdict: Verdict) -> None:
    scheduler = make(queued=tasks(10), attempts=5)
    frame = scheduler.next_frame(0)
    assert scheduler.lost(0, frame[1].seq, verdict) == [(frame[1], verdict)]
    assert frame[1].deaths == 1
    assert scheduler.queued == 9
    assert all(task.deaths == 0 for task in frame if task is not frame[1])


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_a_job_is_given_up_after_exactly_max_attempts_deaths(attempts: int) -> None:
    scheduler = make(0, queued=tasks(1), attempts=attempts)
    for number in range(1, attempts + 1):
        scheduler.join(number)
        (task,) = scheduler.next_frame(number)
        finished = scheduler.lost(number, task.seq, Verdict.CRASH)
        assert task.deaths == number
        assert finished == ([(task, Verdict.CRASH)] if number == attempts else [])
    assert scheduler.queued == 0


def test_no_job_is_charged_for_an_innocent_death_or_if_none_ran() -> None:
    scheduler = make(0, queued=tasks(4), attempts=1)
    for number, verdict in enumerate((Verdict.INNOCENT, Verdict.CRASH, Verdict.CRASH, Verdict.TIMEOUT)):
        scheduler.join(number)
        frame = scheduler.next_frame(number)
        running = {0: frame[0].seq, 1: None, 2: 999, 3: None}[number]
        assert scheduler.lost(number, running, verdict) == []
    tasks_left = scheduler.cancel_all()
    assert len(tasks_left) == 4
    assert {task.deaths for task in tasks_left} == {0}


def test_a_job_of_another_worker_is_not_charged() -> None:
    scheduler = make(workers=2, queued=tasks(100), attempts=1)
    scheduler.next_frame(0)
    other = scheduler.next_frame(1)
    assert scheduler.lost(0, other[0].seq, Verdict.CRASH) == []
    assert other[0].deaths == 0
    assert scheduler.holds(1, other[0].seq)


# --- what a worker does wrong


def test_of_a_frame_with_a_wrong_result_none_counts() -> None:
    scheduler = make(queued=tasks(8))
    frame = scheduler.next_frame(0)
    assert len(frame) == 4
    items = [ResultItem(task.seq, "ok", b"{}", 1, 0, []) for task in frame]
    wrong = ResultItem(777, "trap", OutcomeError("trap", "x"), 1, 0, [])
    finished, fault = take(scheduler, 0, [items[2], wrong, items[0]])
    assert finished == []
    assert fault == "a result for job 777, which it does not hold"
    assert all(scheduler.holds(0, task.seq) for task in frame)
    scheduler.lost(0, frame[0].seq, Verdict.CRASH)
    assert ids(scheduler.cancel("a")) == ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"]


def test_a_second_result_for_a_job_is_a_fault_in_one_frame_and_in_two() -> None:
    scheduler = make(queued=tasks(8))
    frame = scheduler.next_frame(0)
    item = ResultItem(frame[0].seq, "ok", b"{}", 1, 0, [])
    finished, fault = take(scheduler, 0, [item, item])
    assert finished == []
    assert fault is not None
    finished, fault = take(scheduler, 0, [item])
    assert len(finished) == 1
    assert fault is None
    finished, fault = take(scheduler, 0, [item])
    assert finished == []
    assert fault is not None


def test_a_result_for_another_workers_job_is_a_fault_and_leaves_it_alone() -> None:
    scheduler = make(workers=2, queued=tasks(100))
    scheduler.next_frame(0)
    other = scheduler.next_frame(1)
    finished, fault = take(scheduler, 0, [ResultItem(other[0].seq, "ok", b"forged", 1, 0, [])])
    assert finished == []
    assert fault is not None
    assert answer(scheduler, 1, other) == ids(other)


def test_late_results_of_a_worker_that_was_given_up_count_for_nothing() -> None:
    scheduler = make(workers=2, queued=tasks(4))
    frame = scheduler.next_frame(0)
    scheduler.lost(0, None, Verdict.INNOCENT)
    finished, fault = take(scheduler, 0, [ResultItem(frame[0].seq, "ok", b"{}", 1, 0, [])])
    assert finished == []
    assert fault is not None
    assert scheduler.queued == 4


# --- other threads read the counts


def test_the_counts_may_be_read_while_workers_and_owners_come_and_go() -> None:
    scheduler = make()
    failures: list[BaseException] = []
    enough = threading.Event()

    def read() -> None:
        try:
            while not enough.is_set():
                assert scheduler.queued >= 0
                assert scheduler.in_flight >= 0
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for number in range(1, 4000):
            scheduler.join(number)
            scheduler.add(number, tasks(1, number))
            if number > 50:
                scheduler.lost(number - 50, None, Verdict.INNOCENT)
                scheduler.cancel(number - 50)
        enough.set()
        reader.join()
    finally:
        sys.setswitchinterval(before)
    assert failures == []


def test_a_worker_has_room_for_two_frames() -> None:
    scheduler = make(0)
    assert not scheduler.has_room
    scheduler.join(0)
    assert scheduler.has_room
    scheduler.add("a", tasks(2000))
    first = scheduler.next_frame(0)
    assert scheduler.has_room
    scheduler.next_frame(0)
    assert not scheduler.has_room
    take(scheduler, 0, [ResultItem(task.seq, "ok", b"null", 1, 0, []) for task in first])
    assert scheduler.has_room
    scheduler.retire(0)
    assert not scheduler.has_room


def test_a_frame_filled_job_by_job_holds_as_many_as_one_that_is_cut_off_a_row() -> None:
    chance = random.Random(1)
    for _ in range(50):
        budget = FrameBudget(2)
        seen = [task for kind in range(4) for task in tasks(20, kind=kind)]
        for _ in range(10):
            budget.learn(seen, [result_of(task, chance.randrange(2000)) for task in seen])
        sizes = (chance.choice((10, 40_000)), chance.choice((10, 200_000)))
        row = [tasks(1, kind=chance.randrange(4), size=chance.choice(sizes))[0] for _ in range(MAX_FRAME_JOBS)]
        room = budget.room()
        assert max(1, sum(1 for _ in takewhile(room.takes, row))) == budget.affordable(row)
