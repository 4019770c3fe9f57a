"""`IsolatedGuard`: every job finds the guard as it was after `label_agent`, whatever the jobs before it did.

Source: the design, "Isolation and determinism".
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import guardkit
from guardpool.errors import GuardInitError
from guardpool.module.kept_state import settable_globals
from guardpool_worker.instance import CallResult, GuardInstance, InstanceSettings
from guardpool_worker.isolation import IsolatedGuard

SHORT = guardkit.RESOURCE
LONG = b'{"tool_name":"t","tool_args":"' + b"x" * 2000 + b'"}'
HUGE = b'{"tool_name":"t","tool_args":"' + b"Z" * 300_000 + b'"}'


class Copies:
    """An isolated guard, and how many instances it made after the first."""

    def __init__(self, name: str, **settings: Any) -> None:
        self._make = partial(
            GuardInstance,
            guardkit.loaded(name),
            InstanceSettings(name=name, log_threshold=0, seed=b"a seed", **settings),
        )
        self.more = 0
        first = self.fresh()
        names = settable_globals(guardkit.wat(name))
        self.guard = IsolatedGuard(first, self.make, guardkit.POLICY, names)

    def make(self, *, bare: bool = False) -> GuardInstance:
        self.more += 1
        return self._make(bare=bare)

    def fresh(self) -> GuardInstance:
        made = self._make()
        made.label_agent(guardkit.POLICY)
        return made

    def code(self, payload: bytes) -> int:
        """What the guard refused a resource with."""
        result = self.guard.label("label_resource", payload)
        assert isinstance(result, CallResult)
        assert result.error is not None
        assert result.error.guard_code is not None, result
        return result.error.guard_code


def test_counts_in_memory_and_globals_are_the_same_for_every_job() -> None:
    copies = Copies("counts_in_memory")
    assert [copies.code(SHORT) for _ in range(40)] == [-15555550] * 40
    assert copies.more == 0, "it was put back in place"


def test_memory_that_a_job_added_is_gone_for_the_next() -> None:
    copies = Copies("counts_in_memory")
    jobs = [SHORT, LONG, SHORT, LONG, LONG, SHORT, SHORT]
    assert [copies.code(job) for job in jobs] == [-15555551 if job is LONG else -15555550 for job in jobs]
    assert copies.more == jobs.count(LONG), (
        "an instance whose memory has grown is replaced, and label_agent not run again"
    )


def test_tables_floats_and_dropped_segments_are_the_same_for_every_job() -> None:
    assert settable_globals(guardkit.wat("counts_in_tables")) is None
    copies = Copies("counts_in_tables")
    assert [copies.code(SHORT) for _ in range(5)] == [-55555] * 5
    assert copies.more == 4


@pytest.mark.parametrize("name", ["counts_in_memory", "counts_in_tables"])
def test_without_isolation_the_same_guards_count(name: str) -> None:
    guard = Copies(name).fresh()
    first, second = (guard.call("label_resource", SHORT) for _ in range(2))
    assert first.error is not None
    assert first.error.guard_code in (-15555550, -55555)
    assert second != first


def test_no_byte_of_an_earlier_job_is_left_in_memory() -> None:
    copies = Copies("dumps_memory")
    some = b'{"tool_name":"t","tool_args":"' + b"Z" * 3000 + b'"}'
    assert copies.code(SHORT) == -1
    assert [copies.code(job) for job in (some, some, SHORT)] == [-3001, -3001, -1]
    assert [copies.code(job) for job in (HUGE, SHORT, HUGE, some, SHORT)] == [-300_001, -1, -300_001, -3001, -1]


def test_without_isolation_they_are_there() -> None:
    guard = Copies("dumps_memory").fresh()
    for payload in (HUGE, SHORT):
        error = guard.call("label_resource", payload).error
    assert error is not None
    assert error.guard_code is not None
    assert error.guard_code < -1


@pytest.mark.parametrize("name", ["counts_in_memory", "counts_in_tables", "logs"])
def test_an_instance_is_gone_when_the_next_one_is_made(name: str) -> None:
    # No collector: each instance that waited for it would keep its memory, and a worker has no room for many.
    copies = Copies(name)
    gc.collect()
    gc.disable()
    try:
        logs = []  # its host functions hold an instance's log, and are held with it
        for _ in range(5):
            copies.guard.label("label_resource", LONG)
            logs.append(weakref.ref(copies.guard._instance._log))
            copies.guard._renew()
    finally:
        gc.enable()
    assert [log() for log in logs] == [None] * 5


def test_clean_removes_the_last_job_before_the_next_one_is_there() -> None:
    copies = Copies("counts_in_memory")
    memory = copies.guard._instance.memory
    before = bytes(memory.bytes)
    copies.code(b'{"tool_name":"t","tool_args":"secret"}')
    assert b"secret" in bytes(memory.bytes)
    copies.guard.clean()
    assert bytes(memory.bytes) == before


# Guards that do not return, need another limit, or take seconds.
APART = {"agent_large", "alloc_high", "label_grows", "spin", "spin_agent"}
NAMES = sorted(path.stem for path in guardkit.GUARDS.glob("*.wat") if path.stem not in APART)


def payloads() -> Iterator[tuple[str, bytes]]:
    for payload in (SHORT, LONG, HUGE, SHORT):
        yield "label_resource", payload
    yield "label_response", guardkit.RESPONSE


@pytest.mark.parametrize("name", NAMES)
def test_every_job_comes_to_what_it_does_on_a_fresh_instance(name: str) -> None:
    try:
        copies = Copies(name)
    except GuardInitError:
        return  # it never becomes ready
    for op, payload in payloads():
        if copies.guard.dead:
            copies = Copies(name)
        found = copies.guard.label(op, payload)
        alone = copies.fresh().call(op, payload)
        assert (found if isinstance(found, CallResult) else CallResult("ok", found, None, 0, [])) == alone
