"""A guard as a real toolchain builds it for wasm32-wasi, with a standard library that expects a world around it.

TinyGo, Rust and C for WASI import from the same snapshot; every function of it links (`test_wasi.py`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest

import zigkit
from guardpool import Guard, GuardPool, Job, Limits, Outcome, inspect
from guardpool.module.imports import PREVIEW1_MODULE
from guardpool.outcomes import LogLine
from poolkit import POLICY, WAIT_S, pool

pytest.importorskip("ziglang")


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return zigkit.wasi_guard(tmp_path_factory.mktemp("zig"))


def ask(p: GuardPool, tool: str) -> Outcome:
    return p.submit(Job(0, "label_resource", tool, {"owner": "o"})).result(WAIT_S)


def test_zig_guard_imports_nothing_but_wasi(wasm: bytes) -> None:
    inspection = inspect(wasm)
    assert [problem.message for problem in inspection.problems] == []
    assert {imported.module for imported in inspection.imports} == {PREVIEW1_MODULE}
    names = {imported.name for imported in inspection.imports}
    assert names >= {"fd_write", "fd_read", "path_open", "clock_time_get", "random_get", "proc_exit", "args_sizes_get"}
    assert any(export.name == "_initialize" and export.verdict == "ok" for export in inspection.exports)


def test_zig_guard_finds_nothing_of_the_world_but_clocks_and_random(
    wasm: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    limits = Limits(timeout_s=WAIT_S, keep_logs=True)
    with caplog.at_level(logging.DEBUG), pool(Guard("zig", wasm, POLICY), limits=limits, log_level="debug") as p:
        assert p.agents["zig"].mode == "filter"
        outcome = ask(p, "get_issue")
        assert outcome.label is not None
        assert outcome.label.description == "args=0 env=0 open=8 stdin=0 now=1 random=1"  # type: ignore[union-attr]
        assert outcome.logs == (LogLine(1, "asked for get_issue"),)

        left = ask(p, "quit")
        assert left.error is not None
        assert (left.status, left.error.trap, left.error.exit_code) == ("trap", "exit", 7)

        panicked = ask(p, "panic")
        assert panicked.error is not None
        assert (panicked.status, panicked.error.trap) == ("trap", "unreachable")
        assert any("index out of bounds" in line.text for line in panicked.logs)
        assert ask(p, "get_issue").status == "ok"
    # `_initialize` wrote to standard error, once in each worker: to the guard's log, never to this process's streams.
    assert ("guardpool.guard.zig", logging.WARNING, "guard zig: initialized") in caplog.record_tuples
    assert capfd.readouterr() == ("", "")


def test_zig_guard_of_a_deterministic_pool_says_the_same_in_every_worker_order_and_run(wasm: bytes) -> None:
    def labels(workers: int) -> Iterator[dict[object, bytes]]:
        times = [None if n % 2 else 1_767_225_600 + n / 4 for n in range(30)]
        jobs = [Job(n, "label_resource", "world", {"n": n}, time=time) for n, time in enumerate(times)]
        with pool(Guard("zig", wasm, POLICY), workers=workers, deterministic=True) as p:
            for seed in range(2):
                random.Random(seed).shuffle(jobs)
                work = [*jobs[:15], Job("end", "label_resource", "quit"), *jobs[15:]]
                yield {outcome.id: outcome.label_json for outcome in p.map(work)}

    first, *others = [*labels(1), *labels(4)]
    assert all(other == first for other in others)
    assert b'"now=1767225601500000000 random=' in first[6]
    assert b'"now=0 random=' in first[7]
    assert len(set(first.values())) == 31
