"""Pools of many guards: they start under the default limits, and where a limit is in the way its name is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import psutil
import pytest

import enginekit
import guardkit
from guardpool import CallerError, Guard, GuardInitError, GuardPool, Job, Limits
from guardpool.artifacts import compilation
from guardpool.protocol.wire import MAX_GUARDS
from paths import GUARDS
from poolkit import MIB, POLICY, WAIT_S, pool, ready_workers, statuses


def label_with_each(guards: Sequence[Guard]) -> None:
    """A pool of all of them with one worker, and a job for each."""
    with pool(*guards, workers=1, limits=Limits(timeout_s=WAIT_S)) as p:
        assert len(p.agents) == len(guards)
        jobs = [Job(guard.name, "label_resource", "get_issue", {}, guard=guard.name) for guard in guards]
        outcomes = list(p.map(jobs))
        assert [outcome.guard for outcome in outcomes] == [guard.name for guard in guards]
        assert statuses(outcomes) == {"ok": len(guards)}
        assert p.stats().respawns == {}


def test_a_thousand_guards_of_one_module_start_and_label() -> None:
    wasm = guardkit.wat("good")
    label_with_each([Guard(f"guard{n}", wasm, POLICY) for n in range(1000)])


def test_guards_of_one_module_have_its_code_once() -> None:
    wasm = guardkit.wat("good")
    resident = []
    for count in (1, 100):
        with pool(*[Guard(f"guard{n}", wasm, POLICY) for n in range(count)], workers=1) as p:
            (worker,) = ready_workers(p)
            resident.append(psutil.Process(worker).memory_info().rss)
    code = len(enginekit.compile_bundle(wasm))
    assert (resident[1] - resident[0]) / 99 < code


@pytest.mark.slow
def test_a_thousand_guards_of_as_many_modules_start_and_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_run_compiler", lambda capped, *_: enginekit.compile_bundle(capped))
    text = (GUARDS / "good.wat").read_text(encoding="utf-8")
    modules = [enginekit.wat_to_wasm(text.replace("an issue", f"an{n:06d}")) for n in range(1000)]
    assert len(set(modules)) == 1000
    label_with_each([Guard(f"guard{n}", wasm, POLICY) for n, wasm in enumerate(modules)])


def test_guards_without_room_are_told_which_limit_leaves_them_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Limits, "data_bytes", lambda _self, _memories: 320 * MIB)
    wasm = guardkit.wat("no_alloc")
    with caplog.at_level(logging.ERROR), pytest.raises(GuardInitError, match="raise max_data_bytes"):
        pool(*[Guard(f"guard{n}", wasm, POLICY) for n in range(100)], workers=1)


def test_more_guards_than_a_pool_takes_are_refused() -> None:
    guard = Guard("good", guardkit.wat("good"), POLICY)
    with pytest.raises(CallerError, match="10000 guards at most, not 10001"):
        GuardPool([guard] * (MAX_GUARDS + 1))
