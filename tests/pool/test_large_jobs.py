"""Large payloads on real processes: a guard adds up every byte that reached it, and memory is taken only while it is needed."""

from __future__ import annotations

import mmap
import os
import random

import pytest

import hostile
import hostile_acts  # noqa: F401  # it knows the attack
from guardpool import GuardPool, Job, Limits, Outcome
from guardpool.protocol.slots import LARGE_BYTES
from guardpool.submit.payload import encode_job
from guardpool.supervise import slots, watchdog
from guardpool.supervise.slots import SlotMemory
from poolkit import WAIT_S, Gate, guard, only_worker, pool, wait_until

MIB = 1024 * 1024
# Around what is large, and around what a frame may hold of several jobs; then one that a worker has no buffer for yet.
SIZES = (10, LARGE_BYTES - 100, LARGE_BYTES, LARGE_BYTES + 1, 100_000, 300_000, 600_000, MIB + 1, 3_000_000)
LIMITS = Limits(timeout_s=WAIT_S, max_attempts=1000)


def job(number: int, size: int, tool: str = "k") -> Job:
    text = random.Random(number).randbytes(size // 2 + 1).hex()
    return Job(number, "label_resource", tool, {"n": number, "text": text[:size]})


def sum_of(job: Job) -> int:
    payload = encode_job(job)
    words = memoryview(payload)[: len(payload) & ~3].cast("I")
    return -1000 - (sum(words) & 0x3FFFFFFF)


def assert_whole(outcomes: list[Outcome], jobs: list[Job]) -> None:
    """Every byte of each job reached its guard."""
    assert {outcome.id: outcome.error.guard_code for outcome in outcomes if outcome.error is not None} == {
        job.id: sum_of(job) for job in jobs
    }


def memories(p: GuardPool) -> list[SlotMemory]:
    """The slots of each worker."""
    found = [worker.end.slots for worker in p._supervisor._supervisor.state.workers.values()]
    assert all(isinstance(memory, SlotMemory) for memory in found)
    return found  # type: ignore[return-value]


def written_bytes(p: GuardPool) -> list[int]:
    """How much memory the slots of each worker have."""
    return [os.fstat(memory._fd).st_blocks * 512 for memory in memories(p)]


def shared_bytes(p: GuardPool) -> int:
    """What the resident set of the only worker has of memory that it may share with others."""
    with open(f"/proc/{only_worker(p)}/statm", "rb") as file:
        return int(file.read().split()[2]) * mmap.PAGESIZE


def test_every_byte_of_large_jobs_reaches_the_guard_twice() -> None:
    jobs = [job(number, SIZES[number * 5 % len(SIZES)]) for number in range(3 * len(SIZES))]
    with pool(guard("adds_up"), limits=LIMITS) as p:
        assert_whole(list(p.map(jobs)), jobs)


def test_without_slots_large_jobs_go_through_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_size: int) -> tuple[int, int]:
        raise PermissionError("no /proc/self/fd")

    jobs = [job(number, size) for number, size in enumerate(SIZES)]
    monkeypatch.setattr(slots, "new_slots", refuse)
    with pool(guard("adds_up"), limits=LIMITS, workers=1) as p:
        assert_whole(list(p.map(jobs)), jobs)
        assert [worker.end.slots for worker in p._supervisor._supervisor.state.workers.values()] == [None]


def test_jobs_of_a_frame_whose_first_waits_for_its_backend_are_whole() -> None:
    gate = Gate()
    jobs = [job(0, 200_000, "b"), *(job(number, 200_000) for number in range(1, 12))]
    with pool(guard("adds_up", backend=gate), limits=LIMITS) as p:
        futures = [p.submit(one) for one in jobs]
        assert gate.entered.acquire(timeout=WAIT_S)
        others = [future.result(WAIT_S) for future in futures[1:]]  # those behind it were recalled
        more = [job(number, 300_000) for number in range(12, 24)]
        others += p.map(more)
        gate.open.set()
        assert_whole([futures[0].result(WAIT_S), *others], [*jobs, *more])


def test_slots_take_memory_only_while_there_are_large_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_IDLE_LOOK_S", 0.02)
    with pool(guard("adds_up"), limits=LIMITS, workers=1) as p:
        small = [job(number, 1000) for number in range(100)]
        assert_whole(list(p.map(small)), small)
        assert written_bytes(p) == [0]
        assert [memory._memory for memory in memories(p)] == [None]  # it is not even mapped here
        for turn in range(2):
            monkeypatch.setattr(slots, "UNUSED_S", 1e9)
            large = [job(turn, 2_000_000)]
            assert_whole(list(p.map(large)), large)
            assert written_bytes(p)[0] >= 2_000_000
            resident = shared_bytes(p)
            monkeypatch.setattr(slots, "UNUSED_S", 0.0)
            wait_until(lambda: written_bytes(p) == [0], "the memory of unused slots")
            assert shared_bytes(p) <= resident - 2_000_000  # it was in the resident set that is watched


def test_a_worker_that_scribbles_over_its_slots_harms_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks={2: "scribbles_over_its_slots"}))
    jobs = [job(number, 150_000) for number in range(60)]
    limits = Limits(timeout_s=1.0, max_attempts=1000)
    with pool(guard("adds_up"), limits=limits, sandbox="off") as p:
        assert_whole(list(p.map(jobs)), jobs)
        assert p.stats().respawns == {"timeout": 1}
