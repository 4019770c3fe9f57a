"""The deterministic simulation: random schedules of faults keep every promise, and a broken promise is found and replayed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from guardpool.outcomes import Status
from guardpool.protocol import wire
from guardpool.submit.stream import JobStream
from guardpool.supervise import respawn, scheduler
from guardpool.supervise.scheduler import Scheduler, Task, Verdict
from guardpool.supervise.state import Core
from guardpool.testing import SimulationFailure, simulate
from guardpool.testing.plan import FAULTS

SEEDS = 100
MANY_SEEDS = 20_000
# Every planted bug is found within so many seeds.
SEEDS_FOR_A_BUG = 300


def test_random_fault_schedules_lose_nothing_and_answer_nothing_twice() -> None:
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for seed in range(SEEDS):
        report = simulate(seed)
        outcomes.update(report.outcomes)
        faults.update(report.faults)
    # The schedules are worth their name: every way to end and every fault came up.
    assert set(outcomes) == {status.value for status in Status}
    assert set(faults) == set(FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, MANY_SEEDS, 1000))
def test_chaos_in_simulation(start: int) -> None:
    for seed in range(start, start + 1000):
        simulate(1_000_000 + seed)


def test_a_seed_is_the_same_run_every_time_and_everywhere() -> None:
    code = "from guardpool.testing import simulate; print(*[simulate(seed).digest for seed in range(5)])"
    digests = {" ".join(simulate(seed).digest for seed in range(5))}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1


def test_the_options_shape_the_run() -> None:
    report = simulate(3, jobs=40, workers=2)
    assert report.jobs == 40
    assert report.digest != simulate(3, jobs=41, workers=2).digest


# --- planted bugs


def _first_failure() -> SimulationFailure:
    for seed in range(SEEDS_FOR_A_BUG):
        try:
            simulate(seed)
        except SimulationFailure as failure:
            return failure
    raise AssertionError(f"not found in {SEEDS_FOR_A_BUG} seeds")


Wrap = Callable[[Any], Any]


def _drop_a_requeued_job(real: Any) -> Any:
    return lambda self, tasks: real(self, tasks[1:])


def _requeue_at_the_tail(_real: Any) -> Any:
    def give_back(self: Scheduler, tasks: list[Task]) -> None:
        for task in tasks:
            self._lane(task.owner).append(task)

    return give_back


def _charge_another_job(real: Any) -> Any:
    def lost(self: Scheduler, worker: int, running: int | None, verdict: Verdict) -> Any:
        state = self._workers.get(worker)
        if state is not None and running is not None and state.inflight:
            running = list(state.inflight)[-1]
        return real(self, worker, running, verdict)

    return lost


def _charge_the_innocent(real: Any) -> Any:
    def lost(self: Scheduler, worker: int, running: int | None, verdict: Verdict) -> Any:
        return real(self, worker, running, Verdict.CRASH if verdict is Verdict.INNOCENT else verdict)

    return lost


def _answer_twice(real: Any) -> Any:
    def hand_over(self: Core, owner: Any, tasks: Any, outcomes: Any, label_bytes: int) -> None:
        again = slice(-1, None) if len(tasks) > 5 else slice(0)
        real(self, owner, tasks + tasks[again], outcomes + outcomes[again], label_bytes)

    return hand_over


def _believe_a_stranger(real: Any) -> Any:
    def results(self: Scheduler, worker: int, items: Any) -> Any:
        mine = self._workers.get(worker)
        for item in items:
            for other in self._workers.values():
                if mine is not None and item.seq in other.inflight:
                    mine.inflight[item.seq] = other.inflight.pop(item.seq)
        return real(self, worker, items)

    return results


def _one_attempt_more(real: Any) -> Any:
    return lambda self, guards, attempts, jobs=256: real(self, guards, attempts + 1, jobs)


def _out_of_order(_real: Any) -> Any:
    def sort_in(self: JobStream, _indexes: list[int], outcomes: Any) -> None:
        self._ready += outcomes

    return sort_in


def _pause_all(real: Any) -> Any:
    def deliver(self: JobStream, *args: Any) -> int | None:
        return None if real(self, *args) is None else 0

    return deliver


def _lose_bytes(real: Any) -> Any:
    def cut(self: Any, data: bytes) -> Any:
        frames = real(self, data)
        if len(self._buffer) > 300:
            del self._buffer[:1]
        return frames

    return cut


BUGS: dict[str, tuple[Any, str, Wrap]] = {
    "a requeued job is dropped": (Scheduler, "_give_back", _drop_a_requeued_job),
    "jobs are requeued at the tail": (Scheduler, "_give_back", _requeue_at_the_tail),
    "another job is charged": (Scheduler, "lost", _charge_another_job),
    "nobody is charged": (Scheduler, "lost", lambda real: lambda self, w, _r, v: real(self, w, None, v)),
    "the innocent are charged": (Scheduler, "lost", _charge_the_innocent),
    "a job is answered twice": (Core, "_hand_over", _answer_twice),
    "a stranger's result counts": (Scheduler, "results", _believe_a_stranger),
    "one attempt too many": (Scheduler, "__init__", _one_attempt_more),
    "nobody is suspected": (Scheduler, "suspect", lambda real: lambda self, worker: None),
    "a worker that goes is fed": (Scheduler, "retire", lambda real: lambda self, worker: None),
    "a paused owner stays so": (Scheduler, "resume", lambda real: lambda self, *args: None),
    "closing waits for the consumer": (Scheduler, "drain", lambda real: lambda self: None),
    "cancelling forgets a job": (Scheduler, "cancel", lambda real: lambda self, owner: real(self, owner)[1:]),
    "three frames are in flight": (scheduler, "FRAMES_IN_FLIGHT", lambda real: 3),
    "order is lost": (JobStream, "_sort_in", _out_of_order),
    "the job all wait for is paused": (JobStream, "deliver", _pause_all),
    "bytes are lost": (wire.FrameReader, "_cut", _lose_bytes),
    "outcomes do not reset the count": (respawn.RespawnPolicy, "outcome", lambda real: lambda self: None),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_and_its_seed_replays(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrap = BUGS[bug]
    simulate(0)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, wrap(getattr(where, name)))
        failure = _first_failure()
        assert f"--start {failure.seed} " in str(failure)
        assert failure.reason in str(failure)
        with pytest.raises(SimulationFailure) as again:
            simulate(failure.seed)
        assert again.value.trace == failure.trace
        assert again.value.reason == failure.reason
    simulate(failure.seed)


# --- the command


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "guardpool.testing", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_sums_up() -> None:
    done = run_command("--seeds", "3", "--start", "5", "--jobs", "30")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 seeds in ")
    assert "nothing lost, nothing twice" in done.stdout
    assert "jobs 90" in done.stdout


def test_the_command_tells_a_wrong_option_from_a_failure() -> None:
    done = run_command("--seeds", "0")
    assert done.returncode == 2
    assert "at least 1" in done.stderr


def test_a_failure_is_printed_with_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from guardpool.testing.__main__ import main

    monkeypatch.setattr(Scheduler, "_give_back", _drop_a_requeued_job(Scheduler._give_back))
    monkeypatch.setattr(sys, "argv", ["guardpool.testing", "--seeds", "50", "--workers", "2"])
    assert main() == 1
    message = capsys.readouterr().err
    assert message.startswith("seed ")
    assert "again: python -m guardpool.testing --start" in message
    assert "--workers 2" in message
