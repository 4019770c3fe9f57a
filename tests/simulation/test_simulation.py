"""The deterministic simulation: random schedules of faults keep every promise, and a broken promise is found and replayed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from guardpool.outcomes import Status
from guardpool.protocol import wire
from guardpool.submit.stream import JobStream
from guardpool.supervise import backend_calls, exchange, frame_budget, hello, scheduler, sessions, watchdog
from guardpool.supervise.backend_calls import BackendCalls
from guardpool.supervise.births import Births
from guardpool.supervise.deaths import Deaths
from guardpool.supervise.endings import Endings
from guardpool.supervise.exchange import Exchange
from guardpool.supervise.hello import Hellos
from guardpool.supervise.respawn import RespawnPolicy
from guardpool.supervise.scheduler import Scheduler, Task, Verdict
from guardpool.supervise.sender import Sender
from guardpool.supervise.sessions import Sessions
from guardpool.supervise.slots import Slots
from guardpool.supervise.state import PoolState
from guardpool.supervise.verdicts import Ending
from guardpool.supervise.watchdog import Watchdog
from guardpool.supervise.worker_handle import WorkerHandle
from guardpool.testing import SimulationFailure, simulate
from guardpool.testing.plan import FAULTS
from guardpool.testing.simulated_machine import SimulatedForkserver

SEEDS = 100
MANY_SEEDS = 20_000
# Of workers over the memory cap: the job that ran, one before it, or none.
MEMORY_VERDICTS = {"memory memory", "memory suspect", "memory innocent"}
# Every planted bug is found within so many seeds.
SEEDS_FOR_A_BUG = 400
# Where those bugs were last found that take long to find, and are looked for first: it saves a thousand runs. If the schedules
# have changed since, the search goes on from the beginning.
LAST_FOUND_AT = {
    "a session moves while a job of it is elsewhere": 107,
    "closing waits for the consumer": 119,
    "the last close counts": 76,
    "a session's job is requeued behind later ones": 17,
    "no worker that is due is replaced": 19,
    "the job all wait for is paused": 95,
    "a label of two lines passes": 25,
    "an error in the place of a label passes": 11,
    "an error that is too long passes": 34,
    "what stands before a lie counts": 271,
    "a deaf forkserver is waited for": 149,
    "a slot is used while a frame has it": 10,
    "a slot is free once its first job is done": 75,
    "a stranger's result counts": 28,
    "the pool never gives up": 63,
    "three quarters of the cap are not noticed": 19,
    "a start may take for ever": 11,
    "signs of life are not noted": 19,
    "labels are not vetted": 18,
    "a HELLO of another protocol is believed": 21,
    "RECALL frees the slot of the job that waits": 43,
    "a frame that begins with a small payload holds 4 MiB": 65,
}


def test_random_fault_schedules_lose_nothing_and_answer_nothing_twice() -> None:
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    for seed in range(SEEDS):
        report = simulate(seed)
        outcomes.update(report.outcomes)
        faults.update(report.faults)
        verdicts.update(report.verdicts)
    # The schedules are worth their name: every way to end, every fault and every verdict came up.
    assert set(outcomes) == {status.value for status in Status}
    assert set(faults) == set(FAULTS)
    # ORPHANED needs one job that sees ten forkservers die: see tests/pool/test_supervision.py.
    assert set(verdicts) | {"orphaned"} == {*(verdict.value for verdict in Verdict), *MEMORY_VERDICTS}


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, MANY_SEEDS, 1000))
def test_thousands_of_fault_schedules_keep_every_promise(start: int) -> None:
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


@pytest.mark.parametrize("seed", [5131, 5219, 5223])
def test_a_pool_that_breaks_tells_its_callers_in_the_same_order_every_time(seed: int) -> None:
    kept = []  # moves what is made later to other addresses
    digests = set()
    for count in range(10):
        kept.append([bytearray(40 + 24 * count) for _ in range(97 * count)])
        digests.add(simulate(seed, jobs=12).digest)
    assert len(digests) == 1


def test_the_options_shape_the_run() -> None:
    report = simulate(3, jobs=40, workers=2)
    assert report.jobs == 40
    assert report.digest != simulate(3, jobs=41, workers=2).digest


# --- planted bugs


def _a_failure(bug: str) -> SimulationFailure:
    for seed in (LAST_FOUND_AT.get(bug, 0), *range(SEEDS_FOR_A_BUG)):
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
    def hand_over(self: PoolState, owner: Any, tasks: Any, outcomes: Any, label_bytes: int) -> None:
        again = slice(-1, None) if len(tasks) > 5 else slice(0)
        real(self, owner, tasks + tasks[again], outcomes + outcomes[again], label_bytes)

    return hand_over


def _believe_a_stranger(real: Any) -> Any:
    def held(self: Scheduler, worker: int, items: Any) -> Any:
        mine = self._workers.get(worker)
        for item in items:
            for other in self._workers.values():
                if mine is not None and item.seq in other.inflight:
                    mine.inflight[item.seq] = other.inflight.pop(item.seq)
        return real(self, worker, items)

    return held


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


def _ignore_back_off(real: Any) -> Any:
    def keep(self: Births, now: float) -> float:
        self._state.respawn.spawn_at = 0.0
        return real(self, now)

    return keep


def _dismiss_too_early(real: Any) -> Any:
    def settle(self: Births) -> None:
        real(self)
        due = self._due()
        if due is not None and self._state.closing_at is None:
            self._endings.dismiss(due, "recycle")

    return settle


def _judge_at_once(real: Any) -> Any:
    def on_death(self: Deaths, worker: WorkerHandle, events: int) -> None:
        real(self, worker, events)
        if worker.number in self._state.workers and worker.end.is_dead():
            self.conclude(worker, self._state.machine.now())

    return on_death


def _charge_the_next_deadline(_real: Any) -> Any:
    return classmethod(lambda cls, seq: cls(Verdict.TIMEOUT, "timeout", seq + 1))


def _the_last_ending_counts(real: Any) -> Any:
    def kill(self: WorkerHandle, ending: Ending) -> None:
        real(self, ending)
        self.ending = ending

    return kill


def _end_with(verdict: Verdict) -> Wrap:
    return lambda _real: classmethod(lambda cls: cls(verdict, "crash"))


def _do_not_count_a_trap(_real: Any) -> Any:
    def instance_broke(self: WorkerHandle, _cause: str) -> None:
        self.broken = True

    return instance_broke


def _drop_an_outcome(real: Any) -> Any:
    def on_finished(self: Exchange, worker: WorkerHandle, tasks: Any, items: Any) -> None:
        if len(tasks) > 3:
            tasks, items = tasks[:-1], items[:-1]
        real(self, worker, tasks, items)

    return on_finished


def _overlook(words: str) -> Wrap:
    """Vetting that lets pass what it finds under these words."""

    def wrap(real: Any) -> Any:
        def first_unsound(tasks: Any, items: Any, most: int, known: Any) -> Any:
            found = real(tasks, items, most, known)
            return None if found is not None and words in found else found

        return first_unsound

    return wrap


def _learn_of_a_lie(real: Any) -> Any:
    def first_unsound(tasks: Any, items: Any, most: int, known: Any) -> Any:
        found = real(tasks, items, most, known)
        if found is not None:
            known.add((task.op, item.body) for task, item in zip(tasks, items) if type(item.body) is bytes)
        return found

    return first_unsound


def _believe_what_stands_before_a_lie(real: Any) -> Any:
    def on_results(self: Exchange, worker: WorkerHandle, items: list[wire.ResultItem]) -> None:
        try:
            real(self, worker, items)
        except wire.ProtocolError:
            for item in items:
                real(self, worker, [item])
            raise

    return on_results


def _try_again_anywhere(_real: Any) -> Any:
    def try_again(self: Scheduler, task: Task) -> None:
        task.deaths += 1
        self._lane(task.owner).appendleft(task)

    return try_again


def _try_again_uncharged(real: Any) -> Any:
    def try_again(self: Scheduler, task: Task) -> None:
        real(self, task)
        task.deaths -= 1

    return try_again


def _believe_another_protocol(real: Any) -> Any:
    return lambda self, worker, said: real(self, worker, msgspec.structs.replace(said, protocol=wire.PROTOCOL))


def _believe_a_failure(real: Any) -> Any:
    def problem_of(self: Hellos, said: wire.Hello) -> Any:
        if said.failure is not None and self._state.started:
            return None
        return real(self, said)

    return problem_of


def _pass_on_a_late_answer(real: Any) -> Any:
    def on_answer(self: BackendCalls, answer: Any) -> None:
        worker = self._state.workers.get(answer.worker)
        if worker is not None and worker.backend is not None:
            answer = answer._replace(token=worker.backend.token)
        real(self, answer)

    return on_answer


def _do_not_say(frame_type: type) -> Wrap:
    def wrap(real: Any) -> Any:
        def send(self: Sender, worker: WorkerHandle, frame: Any) -> None:
            if not isinstance(frame, frame_type):
                real(self, worker, frame)

        return send

    return wrap


def _the_last_close_counts(real: Any) -> Any:
    def close(self: PoolState, at: float) -> None:
        real(self, at)
        self.closing_at = at

    return close


def _time_runs_on(real: Any) -> Any:
    def note_seq(self: WorkerHandle, seq: int, now: float) -> None:
        since = self.seen_at if self.seen_seq else now
        real(self, seq, now)
        self.seen_at = since

    return note_seq


def _no_wait_counts(real: Any) -> Any:
    return lambda *args, **times: real(*args, **{**times, "backend_wait_s": 0.0})


def _leave_home_at_once(real: Any) -> Any:
    def take(self: Sessions[Task], task: Task, worker: int) -> None:
        real(self, task, worker)
        self._move(task.session, self._sessions[task.session], None)  # type: ignore[index,arg-type]

    return take


def _requeue_behind_later_jobs(_real: Any) -> Any:
    def put(self: sessions._Shelf[Task], key: str, task: Task) -> bool:
        tasks = self.waiting.setdefault(key, deque())
        self.count += 1
        tasks.append(task)
        return tasks[0] is task

    return put


def _wait_for_no_job_elsewhere(_real: Any) -> Any:
    def is_due(self: Sessions[Task], session: Any, home: int | None) -> bool:
        return session.home == home and not session.fresh

    return is_due


def _do_not_tell_of_a_restart(real: Any) -> Any:
    def note_sent(task: Task, session: Any, worker: int) -> None:
        real(task, session, worker)
        task.restarted = False

    return staticmethod(note_sent)


def _look_at_the_first_job_only(_real: Any) -> Any:
    def is_free(self: Slots, slot: int, holds: Any, new: Any = ()) -> bool:
        return not any(holds(self._worker, seq) for seq in self._seqs[slot][:1] if seq not in new)

    return is_free


def _free_all_slots_at_recall(real: Any) -> Any:
    def send(self: Sender, worker: WorkerHandle, frame: wire.ToWorker) -> None:
        if isinstance(frame, wire.Recall):
            worker.slots._seqs = [[], []]
        real(self, worker, frame)

    return send


def _give_back_at_once(_real: Any) -> Any:
    def rest(self: Slots, _holds: Any, _now: float) -> None:
        if self._memory is not None:
            self._memory.give_back()

    return rest


def _do_nothing(_real: Any) -> Any:
    return lambda *_arguments, **_options: None


def _take_any_errors(_real: Any) -> Any:
    def take_any(worker: WorkerHandle, _seq: int) -> tuple[str, ...]:
        errors = worker._backend_errors
        return tuple(errors.pop(next(iter(errors)))) if errors else ()

    return take_any


def _never(_real: Any) -> Any:
    return lambda *_arguments, **_options: float("inf")


# What is wrong -> the class or module, the name in it, and what makes the wrong thing of the right one.
BUGS: dict[str, tuple[Any, str, Wrap]] = {
    # the scheduler
    "a requeued job is dropped": (Scheduler, "_give_back", _drop_a_requeued_job),
    "jobs are requeued at the tail": (Scheduler, "_give_back", _requeue_at_the_tail),
    "another job is charged": (Scheduler, "lost", _charge_another_job),
    "no job is charged": (Scheduler, "lost", lambda real: lambda self, w, _r, v: real(self, w, None, v)),
    "the innocent are charged": (Scheduler, "lost", _charge_the_innocent),
    "a stranger's result counts": (Scheduler, "held", _believe_a_stranger),
    "one attempt too many": (Scheduler, "__init__", _one_attempt_more),
    "no job is suspected": (Scheduler, "suspect", _do_nothing),
    "a worker that goes is fed": (Scheduler, "retire", _do_nothing),
    "a paused owner stays so": (Scheduler, "resume", _do_nothing),
    "closing waits for the consumer": (Scheduler, "drain", _do_nothing),
    "cancelling forgets a job": (Scheduler, "cancel", lambda real: lambda self, owner: real(self, owner)[1:]),
    "three frames are in flight": (scheduler, "FRAMES_IN_FLIGHT", lambda real: 3),
    # sessions
    "a session has no home": (Sessions, "take", _leave_home_at_once),
    "a session's job is requeued behind later ones": (sessions._Shelf, "put", _requeue_behind_later_jobs),
    "a session moves while a job of it is elsewhere": (Sessions, "_is_due", _wait_for_no_job_elsewhere),
    "a restarted session does not say so": (Sessions, "_note_sent", _do_not_tell_of_a_restart),
    # the pool's state, streams, the codec
    "a job is answered twice": (PoolState, "_hand_over", _answer_twice),
    "the last close counts": (PoolState, "close", _the_last_close_counts),
    "order is lost": (JobStream, "_sort_in", _out_of_order),
    "the job all wait for is paused": (JobStream, "deliver", _pause_all),
    "bytes are lost": (wire.FrameReader, "_cut", _lose_bytes),
    # respawn
    "outcomes do not reset the count": (RespawnPolicy, "outcome", _do_nothing),
    "each of many deaths at once counts": (RespawnPolicy, "is_news", lambda real: lambda self, born_at: True),
    "the pool never gives up": (RespawnPolicy, "barren_death", lambda real: lambda self, now: real(self, now) or True),
    # births
    "a stranger is taken for a worker": (SimulatedForkserver, "is_child", lambda real: lambda *_: True),
    "one worker is never replaced": (Births, "_wanted", lambda real: lambda self: max(0, real(self) - 1)),
    "one worker too many is asked for": (Births, "_wanted", lambda real: lambda self: real(self) + 1),
    "back-off is ignored": (Births, "keep", _ignore_back_off),
    "a worker goes before its successor is ready": (Births, "settle", _dismiss_too_early),
    "no worker that is due is replaced": (Births, "_due", _do_nothing),
    "a deaf forkserver is waited for": (Births, "_check_forkserver", _never),
    # deaths and endings
    "a death is judged without its exit status": (Deaths, "on_death", _judge_at_once),
    "what a dead worker wrote is not read": (Exchange, "on_last_frames", _do_nothing),
    "a flood is not noticed": (WorkerHandle, "floods_stderr", lambda real: property(lambda self: False)),
    "the last reason to end counts": (WorkerHandle, "kill", _the_last_ending_counts),
    "a dead instance is not noticed": (Endings, "on_broken_instance", _do_nothing),
    "no fault is noted": (WorkerHandle, "note_fault", _do_nothing),
    "an orphan is charged": (Ending, "orphaned", _end_with(Verdict.CRASH)),
    "a worker that hung up is innocent": (Ending, "hung_up", _end_with(Verdict.INNOCENT)),
    "a trap read last is not counted": (WorkerHandle, "instance_broke", _do_not_count_a_trap),
    "every exit status is 0": (Deaths, "on_exit_status", lambda real: lambda self, number, _: real(self, number, 0)),
    # the watchdog
    "a deadline is charged to another job": (Ending, "past_deadline", _charge_the_next_deadline),
    "a job's time runs on into the next": (WorkerHandle, "note_seq", _time_runs_on),
    "waits for the backend count": (watchdog, "check_running", _no_wait_counts),
    "memory is not looked at": (Watchdog, "_look_at_memory", _never),
    "the job that runs always pays for memory": (Watchdog, "_blame", lambda real: lambda *_: Verdict.MEMORY),
    "the job that runs never pays for memory": (Watchdog, "_blame", lambda real: lambda *_: Verdict.INNOCENT),
    "three quarters of the cap are not noticed": (WorkerHandle, "recycle_soon", _do_nothing),
    "a start may take for ever": (Watchdog, "_check_start", _never),
    "an exit status may be late for ever": (watchdog, "_STATUS_PATIENCE_S", lambda real: float("inf")),
    # the exchange
    "an outcome is dropped": (Exchange, "_on_finished", _drop_an_outcome),
    "signs of life are not noted": (WorkerHandle, "note_activity", _do_nothing),
    "DRAIN is not said": (Sender, "send", _do_not_say(wire.Drain)),
    "a job that found memory full is not tried again": (
        exchange,
        "may_owe_to_others",
        lambda real: lambda *_, **__: False,
    ),
    "it is tried again on a used worker": (Scheduler, "try_again", _try_again_anywhere),
    "it is tried again without being charged": (Scheduler, "try_again", _try_again_uncharged),
    "it is tried again and again": (
        exchange,
        "may_owe_to_others",
        lambda real: lambda _t, item, **_: item.status == "trap",
    ),
    # vetting
    "what stands before a lie counts": (Exchange, "_on_results", _believe_what_stands_before_a_lie),
    "results are not vetted": (exchange, "first_unsound", _do_nothing),
    "labels are not vetted": (exchange, "first_unsound", _overlook("holds no label")),
    "a label of two lines passes": (exchange, "first_unsound", _overlook("more than one line")),
    "what was found unsound is known to be sound": (exchange, "first_unsound", _learn_of_a_lie),
    "an error in the place of a label passes": (exchange, "first_unsound", _overlook("with an error")),
    "an error that is too long passes": (exchange, "first_unsound", _overlook("too long")),
    # HELLO
    "a HELLO that differs is believed": (hello, "_differs", lambda real: lambda *_: False),
    "a HELLO of another protocol is believed": (Hellos, "on_hello", _believe_another_protocol),
    "a worker that failed is taken to be ready": (Hellos, "_problem_of", _believe_a_failure),
    # backends
    "a late answer is passed on": (BackendCalls, "on_answer", _pass_on_a_late_answer),
    "a backend is waited for without a limit": (BackendCalls, "look", _never),
    "no job is recalled": (backend_calls, "RECALL_AFTER_S", lambda real: float("inf")),
    "errors of calls are told of another job": (WorkerHandle, "take_backend_errors", _take_any_errors),
    "RECALL is not said": (Sender, "send", _do_not_say(wire.Recall)),
    # slots
    "a frame that begins with a small payload holds 4 MiB": (
        frame_budget,
        "most_bytes",
        lambda real: lambda _: 4 << 20,
    ),
    "a slot is used while a frame has it": (Slots, "_is_free", lambda real: lambda *_: True),
    "a slot is free once its first job is done": (Slots, "_is_free", _look_at_the_first_job_only),
    "RECALL frees the slot of the job that waits": (Sender, "send", _free_all_slots_at_recall),
    "slots give their memory back while a job needs it": (Slots, "rest", _give_back_at_once),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_and_its_seed_replays(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrap = BUGS[bug]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, wrap(getattr(where, name)))
        failure = _a_failure(bug)
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
    done = run_command("--seeds", "3", "--start", "50", "--jobs", "30")
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
