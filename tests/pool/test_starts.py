"""Guards, workers and forkservers that do not come up: at the start an error with the reason, later a pool that tries again."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock

import psutil
import pytest

from guardpool import GuardInitError, GuardPool, HostError, Job, Limits, Outcome, PoolBroken
from guardpool.machine import launch
from guardpool.protocol import wire
from guardpool.supervise.births import Births
from guardpool.supervise.deaths import Deaths
from guardpool.supervise.hello import Hellos
from guardpool.supervise.machine import RealMachine
from guardpool.supervise.respawn import MAX_BARREN_DEATHS, RespawnPolicy
from guardpool.supervise.state import PoolState
from guardpool.supervise.worker_end import PipeEnd
from guardpool.supervise.worker_handle import WorkerHandle
from poolkit import (
    WAIT_S,
    WORKERS_THAT_FAIL,
    forkserver_pid,
    guard,
    job,
    pool,
    run_in_forkservers,
    statuses,
    wait_until,
)

# --- guards


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("agent_traps", "guard 'agent_traps': label_agent"),
        ("refuse_agent", "guard 'refuse_agent': label_agent"),
        ("agent_bad_answer", "guard 'agent_bad_answer': label_agent"),
        ("initialize_traps", "guard 'initialize_traps': _initialize"),
    ],
)
def test_a_guard_that_cannot_be_initialised_stops_the_pool_with_its_reason(name: str, message: str) -> None:
    with pytest.raises(GuardInitError, match=message) as caught:
        pool(guard(name))
    assert caught.value.guard == name


def test_a_label_agent_that_never_returns_is_an_error_not_a_hang() -> None:
    says = r"guard 'spin_agent': label_agent did not return within 0\.5 s, or what runs before it \(.*_initialize\)"
    with pytest.raises(GuardInitError, match=says):
        pool(guard("spin_agent"), limits=Limits(timeout_s=0.5))


def test_workers_whose_label_agent_answers_differ_stop_the_pool() -> None:
    with pytest.raises(GuardInitError, match=r"answered differently in a new worker: first .*, now "):
        pool(guard("agent_random"), workers=2)


class Moody:
    """A backend that answers, raises or does something else at each `label_agent`."""

    def __init__(self) -> None:
        self.mood: Callable[[], object] = lambda: True

    def __call__(self, _tool: str, _args: object) -> object:
        return self.mood()


def _agent_pool(backend: Moody, **limits: Any) -> GuardPool:
    options: dict[str, Any] = {"timeout_s": WAIT_S, **limits}
    return pool(guard("agent_asks", backend=backend, remember="never"), workers=2, limits=Limits(**options))


def _fail() -> object:
    raise LookupError("not today")


def test_a_guard_that_fails_to_initialise_at_the_start_is_named() -> None:
    moody = Moody()
    moody.mood = _fail
    with pytest.raises(GuardInitError, match="guard 'agent_asks': label_agent"):
        _agent_pool(moody)


def test_a_guard_that_fails_to_initialise_now_and_then_is_tried_again() -> None:
    moody = Moody()
    failed = 0

    def fail_three_times() -> object:
        nonlocal failed
        if failed < 3:
            failed += 1
            raise LookupError("not yet")
        return True

    with _agent_pool(moody) as p:
        moody.mood = fail_three_times
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        assert_right_labels(p, 200)
        wait_until(lambda: len(p.stats().workers) == 2, "the successor")
        assert failed == 3


def assert_right_labels(pool: GuardPool, count: int) -> None:
    outcomes = list(pool.map(Job(n, "label_resource", "k", {}) for n in range(count)))
    assert [(outcome.id, outcome.status.value) for outcome in outcomes] == [(n, "ok") for n in range(count)]


def test_a_guard_that_never_initialises_again_breaks_the_pool() -> None:
    moody = Moody()
    with _agent_pool(moody) as p:
        moody.mood = _fail
        for worker in p.stats().workers:
            os.kill(worker.pid, signal.SIGKILL)
        assert p.submit(Job(0, "label_resource", "k", {})).result(WAIT_S).status == "cancelled"
        with pytest.raises(PoolBroken, match=r"guard 'agent_asks': label_agent.*-3"):
            p.submit(Job(1, "label_resource", "k", {}))


def test_a_worker_that_is_stopped_while_it_starts_is_replaced() -> None:
    moody = Moody()
    with _agent_pool(moody, timeout_s=0.5) as p:
        server = psutil.Process(forkserver_pid(p))
        old = {child.pid for child in server.children()}
        stopped: list[int] = []

        def stop_who_asks() -> object:
            new = [child.pid for child in server.children() if child.pid not in old]
            if new and not stopped:
                stopped.append(new[0])
                os.kill(new[0], signal.SIGSTOP)
            return True

        moody.mood = stop_who_asks
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        wait_until(lambda: stopped and len(p.stats().workers) == 2, "a successor that is not stopped")
        assert_right_labels(p, 50)


def test_the_time_that_label_agent_took_is_not_the_first_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    # While it is initialised a guard has a number, as jobs have, and both count from 1.
    on_hello = Hellos.on_hello

    def after_a_long_start(hellos: Hellos, worker: WorkerHandle, hello: wire.Hello) -> None:
        worker.note_seq(1, -1e9)  # as the watchdog notes when it looks at a worker that starts
        on_hello(hellos, worker, hello)

    monkeypatch.setattr(Hellos, "on_hello", after_a_long_start)
    with pool(guard("agent_asks", backend=lambda *_: True), workers=1) as p:
        outcome = p.submit(Job(0, "label_resource", "work", {})).result(WAIT_S)
        assert (outcome.status, outcome.attempts) == ("ok", 1)


# --- forkservers


_FORKSERVER_THAT_DIES = """
import os
from guardpool_worker import forkserver
forkserver._Server._obey = lambda self: os._exit(9)
"""


def test_a_forkserver_that_dies_at_its_first_fork_stops_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_in_forkservers(monkeypatch, _FORKSERVER_THAT_DIES)
    with pytest.raises(PoolBroken, match="no worker could be started; the last one exited with status 9"):
        pool()


def test_forkservers_that_all_die_at_their_first_fork_break_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pool(workers=1) as p:
        run_in_forkservers(monkeypatch, _FORKSERVER_THAT_DIES)
        future = p.submit(job(0, "s"))
        os.kill(forkserver_pid(p), signal.SIGKILL)
        assert future.result(WAIT_S).status == "cancelled"
        with pytest.raises(PoolBroken, match=f"{MAX_BARREN_DEATHS} workers in a row died"):
            p.submit(job(1))


def test_a_pool_that_cannot_start_workers_any_more_is_broken_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(workers=1) as p:
        # As if the installation had been removed under us: from now on every forkserver fails at once.
        gone = [sys.executable, "-c", "import sys; sys.exit('no such installation')"]
        monkeypatch.setattr(launch, "command", lambda *_: gone)
        stuck = [p.submit(job(n, "s")) for n in range(3)]
        os.kill(forkserver_pid(p), signal.SIGKILL)
        outcomes = [future.result(WAIT_S) for future in stuck]
        assert [outcome.status.value for outcome in outcomes] == ["cancelled"] * 3
        assert "no such installation" in outcomes[0].error.message  # type: ignore[union-attr]
        with pytest.raises(PoolBroken, match=f"{MAX_BARREN_DEATHS} workers in a row died") as caught:
            p.submit(job(9))
        assert (caught.value.exit_status, caught.value.stderr) == (1, "no such installation")


def test_a_stream_of_a_broken_pool_raises_after_its_last_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(workers=1) as p:
        gone = [sys.executable, "-c", "import sys; sys.exit('no such installation')"]
        monkeypatch.setattr(launch, "command", lambda *_: gone)
        seen: list[Outcome] = []
        with pytest.raises(PoolBroken):
            for outcome in p.map(job(n, "w") for n in range(3000)):
                seen.append(outcome)
                if len(seen) == 5:
                    os.kill(forkserver_pid(p), signal.SIGKILL)
        assert [outcome.id for outcome in seen] == list(range(3000))
        assert set(statuses(seen)) == {"ok", "cancelled"}


# --- workers


def test_standard_error_of_a_worker_that_cannot_start_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_in_forkservers(monkeypatch, WORKERS_THAT_FAIL)
    with pytest.raises(PoolBroken, match=r"no worker could be started; .* status 70; .* no sandbox today") as caught:
        pool()
    assert caught.value.exit_status == 70
    assert caught.value.stderr.endswith("RuntimeError: no sandbox today")


def test_workers_that_fail_later_back_off_and_then_break_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays: list[float] = []
    barren_death = RespawnPolicy.barren_death

    def watched(policy: RespawnPolicy, now: float) -> bool:
        goes_on = barren_death(policy, now)
        delays.append(round(policy.spawn_at - now, 6) if goes_on else -1.0)
        return goes_on

    with pool(workers=1) as p:
        run_in_forkservers(monkeypatch, WORKERS_THAT_FAIL)
        monkeypatch.setattr(RespawnPolicy, "barren_death", watched)
        future = p.submit(job(0, "s"))
        os.kill(forkserver_pid(p), signal.SIGKILL)
        outcome = future.result(WAIT_S)
        assert outcome.status == "cancelled"
        assert "no sandbox today" in outcome.error.message  # type: ignore[union-attr]
        with pytest.raises(PoolBroken, match=f"{MAX_BARREN_DEATHS} workers in a row died .* no sandbox today"):
            p.submit(job(1))
    assert delays == [0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, -1.0]


# --- descriptors


def test_a_pool_survives_a_passing_lack_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(workers=1) as p:
        failures = iter([OSError(errno.EMFILE, "Too many open files")] * 3)

        def fail_at_first(_machine: RealMachine) -> PipeEnd:
            for error in failures:
                raise error
            return PipeEnd()

        monkeypatch.setattr(RealMachine, "open_worker", fail_at_first)
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        assert p.submit(job(0)).result(WAIT_S).status == "ok"


def test_a_worker_is_asked_for_again_soon_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_self: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(RealMachine, "open_worker", fail)
    machine = cast("Any", object.__new__(RealMachine))
    machine.notifier = Mock()
    state = PoolState(["g"], [None], Limits(), machine, cast("Any", None))
    state.started = True
    births = Births(state, cast("Any", None), Deaths(state, cast("Any", None), cast("Any", None)), cast("Any", None))
    births._forkserver = cast("Any", object())
    # While the jobs of the only worker wait in the queue, nothing else may happen in the pool that would wake it.
    assert [round(births.keep(1000.0 + at) - at, 6) for at in range(3)] == [1000.0, 1000.01, 1000.02]


def test_a_lasting_lack_of_descriptors_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(RealMachine, "open_worker", fail)
    with pytest.raises(HostError, match=r"no worker could be started: .* Too many open files: .*RLIMIT_NOFILE"):
        pool(workers=1)
