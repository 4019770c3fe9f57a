"""The drivers of the benchmark's peers, on threads instead of processes: jobs without end, a bounded number outstanding."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import pytest

from guardpool import Job
from guardpool_bench.contestants import SUBMIT_WINDOW, Supply
from guardpool_bench.peers import CHUNK, work
from guardpool_bench.peers.executors import Chunks, ExecutorPeer
from guardpool_bench.peers.multiprocessing_peer import _Imap

_JOBS = [Job(number, "label_resource", f"tool{number}") for number in range(10)]


class _Guard:
    """Counts its calls; remembers the payloads of the first ones."""

    def __init__(self) -> None:
        self.calls = 0
        self.payloads: list[bytes] = []
        self._lock = threading.Lock()

    def call(self, op: str, payload: bytes) -> SimpleNamespace:
        with self._lock:
            self.calls += 1
            if len(self.payloads) < 20:
                self.payloads.append(payload)
        return SimpleNamespace(status="ok", label=b"{}")


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> _Guard:
    made = _Guard()
    monkeypatch.setattr(work, "_call", made.call)
    return made


def test_chunks_are_labelled_and_nothing_is_left_running(guard: _Guard) -> None:
    with ThreadPoolExecutor(1) as executor:
        rate = Chunks("threads", executor.submit, 1).rate(_JOBS, 0.01, 0.02)
        assert rate > 0
        assert executor._work_queue.qsize() == 0
    assert guard.calls % CHUNK == 0
    assert guard.payloads[:2] == [b'{"tool_name":"tool0","tool_args":null}', b'{"tool_name":"tool1","tool_args":null}']


def test_a_peer_with_submit_has_both_ways(guard: _Guard) -> None:
    with ThreadPoolExecutor(2) as executor:
        peer = ExecutorPeer("threads", executor.submit, 2, executor.shutdown)
        assert peer.submit.rate(_JOBS, 0.01, 0.02) > 0
        assert peer.submit.one(_JOBS[0]) == ("ok", b"{}")
        assert executor._work_queue.qsize() == 0
        assert guard.calls > SUBMIT_WINDOW
        peer.close()


def test_imap_is_fed_as_fast_as_it_is_consumed_and_comes_to_an_end(
    guard: _Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lock of a pool of threads is of the default way to start processes, which from 3.14 on leaves a process behind.
    monkeypatch.setattr("multiprocessing.pool.get_context", lambda: multiprocessing.get_context("fork"))
    with ThreadPool(1) as pool:
        contestant = _Imap(pool, 1)
        assert contestant.rate(_JOBS, 0.01, 0.02) > 0
        first = guard.calls
        assert first % CHUNK == 0
        assert contestant.rate(_JOBS, 0.01, 0.02) > 0, "a second run on the same pool"
        assert guard.calls > first


def test_a_supply_ends_only_when_told() -> None:
    supply = Supply(_JOBS)
    assert [job.id for job in supply.take(12)] == [*range(10), 0, 1]
    supply.stop()
    assert supply.take(1) == []
    assert list(supply) == []
