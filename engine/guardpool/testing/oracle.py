"""What really happened in a simulated run, and what is therefore right.

The oracle sees what crosses the pipes and what the processes really did: which job the dead worker's page named, for how
long it had run, how much memory its process held. What the supervisor does, and every outcome, has to agree with that. Its
limits are written as figures here, so that a constant that is changed by mistake is noticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from guardpool.outcomes import Outcome, Status
from guardpool.protocol import wire
from guardpool.protocol.slots import LARGE_BYTES
from guardpool.supervise.backend_calls import FAILURE_S, MAX_GIVEN_UP
from guardpool.supervise.scheduler import MAX_ORPHANINGS, Task, Verdict
from guardpool.supervise.supervisor import Supervisor
from guardpool.supervise.verdicts import Ending
from guardpool.supervise.worker_handle import State, WorkerHandle
from guardpool.testing.plan import Nature
from guardpool.testing.processes import (
    AGENT,
    FORGED,
    MAX_RSS_BYTES,
    UNSOUND,
    Process,
    Wires,
    label_of,
    name_of,
    payload_of,
)
from guardpool.testing.session_watch import SessionWatch
from guardpool.testing.world import World, Wrong

# The status that a guard gives a job that it finishes.
_ANSWERS = dict.fromkeys(("ok", "slow", "leak", "swell", "starved", "killer", "hider"), "ok") | {
    answer: answer for answer in ("trap", "refused", "invalid")
}
_WITHHELD = ("ok", "refused", "invalid")

_MAX_FRAMES = 2
_MAX_FRAME_BYTES = 1 << 20
_MAX_LARGE_FRAME_BYTES = 4 << 20  # if it begins with a payload that goes through a slot
_MAX_BARREN = 8
_HIDDEN_BARREN = 8
_LATE_S = 0.05  # a deadline is kept within this, and a memory cap within this and the time between two looks
_RSS_LOOK_S = 0.05
_RECALL_S = 0.01
_STALL_GRACE_S = 0.25
_STATUS_S = 1.0
_SLACK_S = 0.005
_WAIT_SLACK_S = 0.02  # an answer may have to go through the pipe in pieces
_MAX_KEPT_ERRORS = 50


@dataclass
class Call:
    """A call of the backend."""

    began_at: float
    ended_at: float | None = None
    is_answered: bool = False


@dataclass
class Seen:
    """What was seen of one worker.

    Attributes:
        wires: its pipes.
        process: it, once it is forked.
        number: the supervisor's number for it.
        handle: what the supervisor knows of it.
        names: of the jobs that were sent to it, by seq.
        frames: the jobs in flight, frame by frame, as far as they are not answered.
        answered: jobs that it sent results for; a liar may do so before it has the job.
        starved: it must not get another frame, and why.
        hello: the supervisor has read its HELLO, and it was sound.
        ending: why it was killed, the first time.
        lied: the supervisor has read a result for a job that it did not hold.
        is_caught: the supervisor has read a frame of it with a lie that can be seen.
        asks: the job that asked last.
        is_recalled: RECALL was sent since then, and no answer.
        leaves_for: why it goes by itself: the word its replacement is counted under.
        held: the jobs that it died with, once all it wrote was read.
        done_when_small: how many jobs it had done when it was last looked at and was within the memory cap.
        over_before: it was over the cap at the last look.
        large_since: when it was first seen past three quarters of the cap.
        in_slots: where the payload of a job was written into its slots, from and to, by seq.
    """

    wires: Wires
    process: Process | None = None
    number: int = 0
    handle: WorkerHandle | None = None
    names: dict[int, str] = field(default_factory=dict)
    frames: list[set[int]] = field(default_factory=list)
    answered: set[int] = field(default_factory=set)
    starved: str | None = None
    hello: bool = False
    ending: Ending | None = None
    leaves_for: str | None = None
    lied: bool = False
    is_caught: bool = False
    asks: int = 0
    is_recalled: bool = False
    held: dict[int, str] | None = None
    done_when_small: int = 0
    over_before: bool = False
    large_since: float | None = None
    in_slots: dict[int, tuple[int, int]] = field(default_factory=dict)


class Oracle:
    """Watches one run."""

    def __init__(self, world: World, natures: dict[str, Nature]) -> None:
        self._world = world
        self._natures = natures
        self._supervisor: Supervisor | None = None
        self._seen: list[Seen] = []
        self._names: dict[int, str] = {}  # of all jobs, by seq
        self._seqs: dict[str, int] = {}  # the other way round
        self._payloads: dict[int, bytes] = {}  # as they were queued, by seq
        self._charged: Counter[str] = Counter()  # by job: how many workers died of it
        self._crashed: set[str] = set()
        self._orphanings: Counter[str] = Counter()  # by job: how many forkservers died while it ran, or may have run
        self._overdue: set[str] = set()
        self._bloated: set[str] = set()
        self._errors: dict[str, int | None] = {}  # failed calls of a job's last attempt
        self._failed: dict[str, int] = {}  # questions of it that had no answer
        self._suspected: set[int] = set()  # seqs of the jobs of which one may have killed its worker and hidden it
        self._starved: dict[
            str, float
        ] = {}  # jobs that trapped for want of memory, and are tried once more; since when
        self._short_until = float(
            "-inf"
        )  # a worker that was asked for could not be had, until the next one became ready
        self._trapped: set[str] = set()  # those that had no attempt left for that
        self._forged: set[str] = set()  # jobs of which a hostile worker told a lie that cannot be seen
        self._barren = 0  # barren deaths since the last outcome, as far as each was news
        self._last_barren_at = 0.0
        self._barren_before, self._reset_at = 0, 0.0  # at the last outcome
        self._is_useful = False  # a worker of this forkserver became ready
        self._failed_opens = 0  # in a row, since the last outcome or birth
        self._births_at_failure = 0
        self._failed_open_at = 0.0
        self._asked_at: dict[int, float] = {}  # by worker: when the supervisor read its call
        self._lacking_since = float("inf")
        self._deadline = float("inf")  # of a close
        self.forkserver_lives = True
        self.opened = False  # the pool is ready, and its callers have come
        self.over = False  # what is buried from now on is not judged
        self.killed = False
        self.closed = False
        self.accepted = 0
        self.delivered = 0  # outcomes of jobs that were queued
        self._sessions = SessionWatch(natures, self._is_of_use)
        self.deaths = 0
        self._respawns: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()

    def watch(self, supervisor: Supervisor) -> None:
        """Watch this supervisor."""
        self._supervisor = supervisor

    def expect(self, right: bool, wrong: str) -> None:
        """Raise `Wrong` with the message if something is not right."""
        if not right:
            raise Wrong(wrong)

    @property
    def _it(self) -> Supervisor:
        assert self._supervisor is not None
        return self._supervisor

    # --- births

    def open_failed(self) -> None:
        """There were no descriptors for a worker, or for a forkserver."""
        now, births = self._world.now, self._it.state.births
        if births != self._births_at_failure:
            self._failed_opens, self._births_at_failure = 0, births
        if self._failed_opens >= 2 and self._it.state.started:
            delay_s = min(1.0, 0.01 * 2 ** (self._failed_opens - 2))
            waited_s = now - self._failed_open_at
            self.expect(waited_s >= delay_s - 1e-6, f"after {self._failed_opens} failures it waited {waited_s} s")
        self._failed_opens += 1
        self._failed_open_at = now
        self.worker_failed()

    def worker_failed(self) -> None:
        """A worker that was asked for could not be had."""
        self._short_until = float("inf")

    def asked(self, seen: Seen, number: int) -> None:
        """The forkserver is asked for a worker."""
        seen.number = number
        self._seen.append(seen)
        workers = self._it.state.workers.values()
        there = [w for w in workers if w.state in (State.FORKING, State.STARTING, State.READY)]
        most = self._world.plan.workers
        due = any(w.recycle_due for w in there)
        self.expect(len(there) < most + due, f"another worker is asked for although there are {len(there)} of {most}")

    def forkserver_started(self) -> None:
        """A forkserver was started."""
        self.forkserver_lives = True
        self._is_useful = False

    def forkserver_ended(self) -> None:
        """The supervisor knows that its forkserver is dead, and has reaped it."""
        if not self._is_useful:
            self._note_barren(self._world.now)

    # --- frames

    def sent(self, seen: Seen, frame: wire.ToWorker) -> None:
        """The last byte of a frame went into a worker's pipe."""
        if isinstance(frame, (wire.Jobs, wire.LargeJobs)):
            self._sent_jobs(seen, frame)
        elif isinstance(frame, wire.Recall):
            process = seen.process
            assert process is not None
            seen.frames = [{process.page[0], *process.untold}]
            seen.is_recalled = True
        elif isinstance(frame, wire.Drain):
            seen.starved = "was told to leave"
            if not self.closed and self._it.state.closing_at is None:
                seen.leaves_for = seen.leaves_for or "recycle"
            self._check_succession(seen)
        else:
            since = self._asked_at.pop(seen.number, None)
            seen.is_recalled = False
            process = seen.process
            assert process is not None
            self.expect(
                since is not None or not process.honest, f"an answer for worker {seen.number}, which did not ask"
            )
            if since is not None:
                process.note_wait(self._world.now - since)

    def writes_slot(self, seen: Seen, at: int, payload: bytes) -> None:
        """A payload is written into a worker's slots: where no job that the worker may still run has its own.

        A worker that waits for its backend reads RECALL before anything else, so it never looks at the jobs behind the one
        that waits again; that one it may run to its end.
        """
        seq, process, to = self._seqs[name_of(payload)], seen.process, at + len(payload)
        if process is not None and process.alive and process.honest:
            for other, (start, end) in seen.in_slots.items():
                is_over = other == seq or other in process.over_and_done
                is_recalled = process.is_asking and process.page[0] != other
                if start < to and at < end and not is_over and not is_recalled:
                    raise Wrong(f"the slot of job {self._names[other]} is written while worker {seen.number} has it")
            process.over_and_done.discard(seq)
        seen.in_slots[seq] = at, to

    def _sent_jobs(self, seen: Seen, frame: wire.Jobs | wire.LargeJobs) -> None:
        jobs: Sequence[wire.JobItem | wire.LargeItem] = frame.jobs
        payloads = [payload_of(job, seen.wires) for job in jobs]
        names = [self._names[job.seq] for job in jobs]
        self.expect(names == list(map(name_of, payloads)), f"the payloads of worker {seen.number} are of other jobs")
        seqs = {job.seq for job in jobs} - seen.answered
        self.expect(seen.hello, f"a frame for worker {seen.number}, which is not ready")
        self.expect(seen.starved is None, f"a frame for worker {seen.number}, which {seen.starved}")
        # Where no new worker is to be had, an old one has to do.
        starved = self._starved.keys() & names
        again = {name for name in starved if self._starved[name] > self._short_until}
        self.expect(not again or (len(jobs) == 1 and not seen.names), f"{again}: tried again on a used worker")
        seen.names.update((job.seq, name) for job, name in zip(jobs, names))
        seen.frames = [frame for frame in seen.frames if frame]
        seen.frames.append(seqs)
        self.expect(len(seen.frames) <= _MAX_FRAMES, f"{len(seen.frames)} frames in flight")
        most = min(256, self._world.plan.max_jobs_per_worker or 256)
        self.expect(len(jobs) <= most, f"a frame of {len(jobs)} jobs")
        size = sum(map(len, payloads))
        most_bytes = _MAX_FRAME_BYTES if len(payloads[0]) < LARGE_BYTES else _MAX_LARGE_FRAME_BYTES
        self.expect(len(jobs) == 1 or size <= most_bytes, f"a frame of {size} bytes")
        if self._suspected:
            held = [seq for frame in seen.frames for seq in frame]
            alone = len(held) == 1 or self._suspected.isdisjoint(held)
            self.expect(alone, "a suspect shares a worker with others")

    def _check_succession(self, seen: Seen) -> None:
        """Check that a worker that leaves while the pool goes on has a successor that is ready."""
        handle = self._handle(seen)
        if self.closed or self._it.state.closing_at is not None or handle is None or handle.cause != "recycle":
            return
        younger = any(other.hello and other.number > seen.number for other in self._seen)
        self.expect(younger, f"worker {seen.number} goes before its successor is ready")

    def begins(self, process: Process, seq: int, payload: bytes) -> str:
        """A worker begins a job, with that payload; returns its name."""
        name = self._names[seq]
        self.expect(payload == self._payloads[seq], f"worker {process.number} has not the payload of {name}")
        for other in self._seen:
            rival = other.process
            if rival is not None and rival is not process and rival.alive and rival.page_name == name:
                raise Wrong(f"job {name} runs in workers {rival.number} and {process.number}")
        self._sessions.begins(process, name)
        return name

    def _is_of_use(self, process: Process) -> bool:
        """Whether a worker takes jobs, as far as the supervisor knows."""
        worker = self._it.state.workers.get(process.number)
        return worker is not None and worker.state is State.READY

    def read(self, seen: Seen, frame: wire.FromWorker) -> None:
        """The supervisor has read the last byte of a frame."""
        if seen.number in self._asked_at and not self._is_of_jobs_before(seen, frame):  # it waits for an answer
            seen.is_caught = True
        elif isinstance(frame, wire.BackendCall):
            due = any(frame.seq in held for held in seen.frames) if seen.hello else not frame.seq
            seen.is_caught = seen.is_caught or not due
            if due:
                self._asked_at[seen.number] = self._world.now
                seen.asks = frame.seq
        elif isinstance(frame, wire.Results):
            holds = self._it.state.scheduler.holds
            due = len({item.seq for item in frame.results if holds(seen.number, item.seq)}) == len(frame.results)
            seen.lied = seen.lied or not due
            # If a frame has a lie in it that can be seen, nothing of the frame counts, and nothing that comes behind it.
            believed = due and not seen.is_caught
            believed = believed and not any((item.status, item.body, item.logs) in UNSOUND for item in frame.results)
            seen.is_caught = not believed or not frame.results
            for item in frame.results:
                seen.answered.add(item.seq)
                for held in seen.frames:
                    held.discard(item.seq)
                if item.body == FORGED and believed:
                    self._forged.add(self._names[item.seq])
                if item.status == "trap" and believed:
                    self._traps(self._names[item.seq])
                if item.status == "trap":
                    seen.leaves_for = seen.leaves_for or "trap"
                    if not self._has_unsent(seen):
                        seen.starved = "has a dead instance"
        elif isinstance(frame, wire.Hello):
            seen.hello = frame.protocol == wire.PROTOCOL and frame.agents == [AGENT] and frame.failure is None
            process, handle = seen.process, self._handle(seen)
            assert process is not None
            if seen.hello and process.honest and handle is not None and handle.state is State.STARTING:
                self._is_useful = True
                self._short_until = min(self._short_until, self._world.now)
        elif isinstance(frame, wire.Bye) and not self._has_unsent(seen):
            seen.starved = "said BYE"

    @staticmethod
    def _is_of_jobs_before(seen: Seen, frame: wire.FromWorker) -> bool:
        """Whether a worker that was sent RECALL while it waits for an answer tells of jobs that it did before."""
        if not seen.is_recalled or not isinstance(frame, wire.Results):
            return False
        return all(item.seq != seen.asks and item.status not in ("trap", "memory") for item in frame.results)

    def _traps(self, name: str) -> None:
        """A trap was read. A job that found its worker's memory full has one more try, if it has an attempt left."""
        if self._natures[name].kind != "starved":
            return
        if name in self._starved or self._charged[name] + 1 >= self._world.plan.max_attempts:
            self._trapped.add(name)
        else:
            self._starved[name] = self._world.now
            self._charged[name] += 1

    def _has_unsent(self, seen: Seen) -> bool:
        handle = self._handle(seen)
        return handle is not None and handle.has_unsent(handle.given_bytes)

    # --- the backend

    def backend_called(self, question: bytes, last: Call | None, running: int) -> None:
        """The backend is called.

        Args:
            question: what it is asked.
            last: its last call with that question.
            running: how many calls of it go on, with this one.
        """
        now, plan = self._world.now, self._world.plan
        most = MAX_GIVEN_UP + plan.workers
        self.expect(running <= most, f"{running} calls of the backend at one time")
        if last is None:
            return
        if last.ended_at is None:
            given_up_s = plan.backend_timeout_s + FAILURE_S
            self.expect(now >= last.began_at + given_up_s, f"{question!r} is asked twice at one time")
        else:
            self.expect(not last.is_answered, f"{question!r} is asked although the answer is known")
            self.expect(now >= last.ended_at + FAILURE_S, f"{question!r} is asked again too soon")

    # --- endings and deaths

    def looked_at_memory(self, seen: Seen) -> None:
        """The supervisor looks at a worker's resident set."""
        process, handle = seen.process, self._handle(seen)
        if process is None or handle is None or not process.alive or handle.state not in (State.READY, State.LEAVING):
            return
        over = process.rss_bytes > MAX_RSS_BYTES
        self.expect(not (over and seen.over_before), f"worker {seen.number} stays over the memory cap")
        seen.over_before = over
        if not over:
            seen.done_when_small = process.done
        if process.rss_bytes > MAX_RSS_BYTES * 3 // 4 and seen.large_since is None:
            seen.large_since = self._world.now

    def kills(self, seen: Seen) -> None:
        """The supervisor kills a worker: check that its reason is true."""
        process, handle = seen.process, self._handle(seen)
        if process is None or handle is None:
            return
        ending = handle.ending
        self.expect(ending is not None, f"worker {seen.number} is killed for no reason")
        assert ending is not None
        seen.ending = seen.ending or ending
        self._world.note("kill", seen.number, ending.verdict, ending.cause, ending.victim, ending.fault)
        if ending.verdict is Verdict.TIMEOUT:
            self._check_timeout(process, ending)
        elif ending.cause == "crash":
            self._check_crash(seen, process, handle, ending)
        elif process.alive:  # else it died a moment ago, which the supervisor cannot know yet
            self._check_other(seen, process, ending)

    def _check_crash(self, seen: Seen, process: Process, handle: WorkerHandle, ending: Ending) -> None:
        """It broke the protocol, cannot work, hung up, or lost its forkserver."""
        if ending.verdict is Verdict.CRASH:
            self.expect(not process.honest, f"worker {seen.number} is honest, and is killed: {ending.fault}")
        elif ending.fault is not None:
            self.expect(not process.honest, f"worker {seen.number} is killed as useless: {ending.fault}")
        else:
            self.expect(not process.alive, f"worker {seen.number} is killed for nothing")
        if ending.verdict is not Verdict.CRASH:
            right = Verdict.INNOCENT if handle.orphaned else None
            self.expect(
                ending.verdict is right, f"worker {seen.number} is ended as {ending.verdict} and not as {right}"
            )

    def _check_other(self, seen: Seen, process: Process, ending: Ending) -> None:
        if ending.cause == "memory":
            self._check_memory(seen, process, ending)
        elif ending.cause == "timeout":
            self.expect(not process.steady or not process.honest, f"worker {seen.number} works, and is called stalled")
        else:
            ends = self.closed or self._it.state.closing_at is not None or self._it.state.ending
            self.expect(ends, f"worker {seen.number} is killed for nothing")

    def _check_timeout(self, process: Process, ending: Ending) -> None:
        name, now, timeout_s = process.page_name, self._world.now, self._world.plan.timeout_s
        self.expect(name is not None and process.page[0] == ending.victim, "a deadline is charged to another job")
        late_s = now - process.began_at - process.waited_s - timeout_s
        # The oracle counts a wait until the answer is in the pipe, the supervisor until it is on its way there. Through a
        # pipe of 96 bytes that takes as long as the jobs that were sent before it.
        exact = process.steady and self._world.plan.pipe_bytes > 96
        self.expect(late_s >= -_WAIT_SLACK_S or not exact, f"job {name} is killed {-late_s} s before its deadline")
        self.expect(late_s <= _LATE_S + _SLACK_S or not process.steady, f"job {name} is killed {late_s} s too late")
        over_s = now - process.over_at if process.over_by is not None else 0.0
        self.expect(over_s <= _RSS_LOOK_S + _LATE_S, f"worker {process.number} is over the memory cap for {over_s} s")
        self._overdue.add(name or "")

    def _check_memory(self, seen: Seen, process: Process, ending: Ending) -> None:
        self.expect(process.rss_bytes > MAX_RSS_BYTES, f"worker {seen.number} is not over the memory cap")
        late_s = self._world.now - process.over_at
        most_s = _RSS_LOOK_S + _LATE_S
        self.expect(late_s <= most_s, f"worker {seen.number} was over the memory cap for {late_s} s")
        verdict, seq = ending.verdict, process.page[0]
        self.verdicts[f"memory {verdict.value if verdict else None}"] += 1
        if not self._it.state.scheduler.holds(seen.number, seq):
            self.expect(verdict is Verdict.INNOCENT, "memory is charged to a job that does not run")
            return
        alone = process.done == seen.done_when_small  # no job came to its end since it was last seen within the cap
        right = Verdict.MEMORY if alone else Verdict.SUSPECT
        self.expect(
            verdict is right, f"memory: the verdict on job {process.page_name} is {verdict}; it should be {right}"
        )
        self.expect(ending.victim == seq, "memory is charged to another job")
        if verdict is Verdict.MEMORY:
            self.expect(
                process.over_by == process.page_name,
                f"memory: job {process.page_name} is charged for job {process.over_by}",
            )
            self._bloated.add(process.page_name or "")

    def writes(self, seen: Seen) -> None:
        """The supervisor writes to a worker."""
        handle = self._handle(seen)
        self.expect(
            handle is None or handle.state is not State.DEAD, f"a frame for worker {seen.number}, which is dead"
        )

    def reads(self, seen: Seen) -> None:
        """The supervisor reads what a worker sent."""
        condemned = seen.ending is not None and seen.ending.verdict is Verdict.CRASH
        self.expect(not condemned, f"worker {seen.number} broke the protocol, and is read on")

    def last_words(self, seen: Seen) -> None:
        """A worker's standard error is read. If it is dead, all its frames were read before, and it died with what it holds."""
        handle = self._handle(seen)
        if seen.held is None and handle is not None and handle.state is State.DEAD:
            holds = self._it.state.scheduler.holds
            seen.held = {seq: name for seq, name in self._names.items() if holds(seen.number, seq)}

    def buried(self, seen: Seen) -> None:
        """The supervisor closes its end of a worker: check the judgement, and note which job is charged with the death."""
        process, handle = seen.process, seen.handle
        if process is None:
            return
        self.deaths += 1
        if self.over or handle is None:
            return
        self.expect(not process.alive, f"worker {seen.number} is buried alive")
        self.expect(seen.held is not None, f"worker {seen.number} is buried before all it wrote was read")
        assert seen.held is not None
        told = handle.exit_status is not None or handle.orphaned
        late = self._world.now >= handle.died_at + _STATUS_S - 1e-6
        self.expect(told or late, f"worker {seen.number} is judged without its exit status")
        self.expect(
            seen.ending in (None, handle.ending), f"worker {seen.number} has another reason to end than the first"
        )
        if process.honest and handle.fault is None:
            self.expect(not seen.wires.results, f"worker {seen.number} is buried with results in its pipe")
            if process.said_bye:
                self.expect(handle.said_bye, f"worker {seen.number} said BYE and was not heard")
        if seen.lied:
            self.expect(handle.fault is not None, f"worker {seen.number} lied, and nothing was noted")
        if process.flooded:
            self.expect(handle.fault is not None, f"worker {seen.number} flooded its standard error unnoticed")
        status = handle.exit_status
        self.expect(
            status in (None, process.exit_status),
            f"worker {seen.number} ended with {process.exit_status}, not {status}",
        )
        self._check_respawn(seen, process, handle)
        self._judge(process, handle, seen.held)

    def _check_respawn(self, seen: Seen, process: Process, handle: WorkerHandle) -> None:
        """The death of a worker that was ready is counted under its cause, unless it left because its work was done."""
        now = Counter(self._it.state.counters.respawns)
        counted, self._respawns = now - self._respawns, now
        if not process.honest or self._has_unsent(seen):
            return  # it cannot be known what of what it said counts, or whether it was told to leave
        cause = None if seen.ending is None else seen.ending.cause
        cause = cause or seen.leaves_for or (None if handle.said_bye else "crash")
        right = {cause: 1} if handle.ever_ready and cause is not None else {}
        told_to_leave = handle.recycle_due and dict(counted) == {"recycle": 1}  # perhaps: it need not have read that
        sound = dict(counted) == right or told_to_leave
        self.expect(sound, f"the death of worker {seen.number} counts as {dict(counted)}, not as {right}")

    def _judge(self, process: Process, handle: WorkerHandle, held: dict[int, str]) -> None:
        ending = handle.ending
        if ending is not None and ending.verdict is not None:
            verdict = ending.verdict
        elif handle.orphaned or handle.exit_status is None or (handle.said_bye and handle.exit_status == 0):
            verdict = Verdict.INNOCENT
        else:
            verdict = Verdict.CRASH
        seq = process.page[0]
        if ending is not None and ending.victim is not None:
            seq = ending.victim
        running = held.get(seq)
        # A victim whose result was read after the kill is not charged, and no other job is suspected for it.
        unexplained = verdict is Verdict.INNOCENT or (running is None and (ending is None or ending.victim is None))
        if not handle.said_bye and not handle.orphaned and unexplained:
            if len(held) == 1 and self._suspected.issuperset(held):
                (running,) = held.values()
                verdict = Verdict.CRASH
            else:
                self._suspected.update(held)
        if handle.orphaned and verdict is Verdict.INNOCENT:
            self._count_orphaning([running] if running is not None else list(held.values()), held)
        self.verdicts[verdict.value] += 1
        if running is None or verdict is Verdict.INNOCENT:
            is_barren = (held and unexplained) or not handle.ever_ready
            goes_on = self._it.state.has_work and not self._it.state.ending
            if is_barren and goes_on and not handle.said_bye and not handle.orphaned:
                self._note_barren(handle.born_at)
            return
        self._charged[running] += 1
        most = self._world.plan.max_attempts
        if verdict is Verdict.CRASH and self._charged[running] >= most:
            self._crashed.add(running)
        elif verdict is Verdict.SUSPECT and self._charged[running] >= max(2, most):
            self._bloated.add(running)

    def _count_orphaning(self, names: list[str], held: dict[int, str]) -> None:
        """The forkserver died while a job ran that is not known, or one of these."""
        for name in names:
            self._orphanings[name] += 1
        self._suspected.update(seq for seq, name in held.items() if name in names and self._orphanings[name] > 1)
        culprit = next((name for name in names if self._orphanings[name] >= MAX_ORPHANINGS), None)
        if culprit is not None:
            self._crashed.add(culprit)

    def _note_barren(self, born_at: float) -> None:
        """Count a barren death. Of many at once only the first counts."""
        if born_at >= self._last_barren_at:
            self._barren += 1
            self._last_barren_at = self._world.now

    def queues(self, tasks: list[Task]) -> None:
        """A caller hands in jobs."""
        self.accepted += len(tasks)
        self._names.update((task.seq, task.job_id) for task in tasks)
        self._sessions.queues([task.job_id for task in tasks])
        self._seqs.update((task.job_id, task.seq) for task in tasks)
        self._payloads.update((task.seq, task.payload) for task in tasks)

    def delivers(self, outcomes: list[Outcome]) -> None:
        """An owner gets outcomes. Any but a `cancelled` one means that whatever was wrong is over."""
        queued = [outcome for outcome in outcomes if outcome.status is not Status.REJECTED]
        self.delivered += len(queued)
        for outcome in queued:
            self._sessions.ends(outcome, outcome.id in self._forged)
        if any(outcome.status is not Status.CANCELLED for outcome in queued):
            if self._barren:
                self._barren_before, self._reset_at = self._barren, self._world.now
            self._barren = 0
            self._failed_opens = 0

    # --- rounds

    def after_round(self) -> None:
        """Check what must hold whenever the supervisor has done all that was due."""
        state, now = self._it.state, self._world.now
        queued, in_flight = state.scheduler.queued, state.scheduler.in_flight
        if self.accepted != queued + in_flight + self.delivered:
            raise Wrong(
                f"of {self.accepted} jobs {queued} are queued, {in_flight} in flight and {self.delivered} have an outcome"
            )
        # Deaths of forkservers may hide failures to fork that are counted here and not there.
        goes_on = self._barren >= _MAX_BARREN + _HIDDEN_BARREN and not state.ending
        self.expect(not goes_on, f"{self._barren} barren deaths, and the pool goes on")
        for worker in state.workers.values():
            wait = worker.backend
            if wait is None or not wait.seq or not worker.is_listening:
                continue
            late_s = now - wait.since - _RECALL_S - _SLACK_S
            if late_s > 0:
                behind = state.scheduler.behind(worker.number, wait.seq)
                self.expect(not behind, f"jobs wait behind a backend call of worker {worker.number}")
            if late_s > self._world.plan.timeout_s + _STALL_GRACE_S:
                untold = state.scheduler.load(worker.number) - 1
                self.expect(not untold, f"worker {worker.number} waits for its backend and keeps {untold} jobs")
        if self._lacks_successor():
            self._lacking_since = min(self._lacking_since, now)
            self.expect(
                now <= self._lacking_since + _RSS_LOOK_S, "a worker is too large, and its successor is not asked for"
            )
        else:
            self._lacking_since = float("inf")

    def _lacks_successor(self) -> bool:
        """Whether a worker is past three quarters of the memory cap although nothing keeps its successor from coming."""
        state = self._it.state
        if state.ending or state.closing_at is not None or not state.started or not self.forkserver_lives:
            return False
        workers = state.workers.values()
        coming = any(worker.state in (State.FORKING, State.STARTING) for worker in workers)
        if coming or self._world.now <= state.respawn.spawn_at + _SLACK_S:
            return False
        large = [seen.handle for seen in self._seen if seen.large_since is not None]
        return any(handle is not None and handle.state is State.READY for handle in large)

    # --- the end

    def closes(self, timeout_s: float | None) -> None:
        """A close was posted."""
        self.closed = True
        if timeout_s is not None:
            self._deadline = min(self._deadline, self._world.now + timeout_s)

    @property
    def may_cancel(self) -> bool:
        """Whether jobs may get a `cancelled` outcome although their caller did not cancel them."""
        state = self._it.state
        return self.killed or state.failure is not None or self._world.now >= self._deadline - 1e-9

    def check_failure(self) -> None:
        """If the pool gave up, check that it had a reason."""
        state = self._it.state
        if state.failure is None:
            return
        self._world.note("failure", str(state.failure))
        barren = self._barren
        if self._reset_at == self._world.now:  # the death that broke the pool came just before that outcome
            barren = max(barren, self._barren_before)
        if self.opened:
            self.expect(barren >= _MAX_BARREN, f"the pool was given up after {barren} barren deaths")

    def check_over(self) -> None:
        """Check that the run is over no later than it was asked to be."""
        late_s = self._world.now - self._deadline
        self.expect(late_s <= _SLACK_S, f"the pool was closed {late_s} s after the deadline of a close")

    # --- what is right

    def check_outcome(self, outcome: Outcome, may_be_cancelled: bool) -> None:
        """Check the one outcome of a job."""
        name, status = outcome.id, outcome.status
        self.statuses[status.value] += 1
        if name in self._forged:
            return
        nature, charged = self._natures[name], self._charged[name]
        attempts = charged + 1
        if status is Status.REJECTED or nature.kind == "rejected":
            right, attempts = status is Status.REJECTED and nature.kind == "rejected", 0
        elif status is Status.CANCELLED:
            right, attempts = may_be_cancelled, charged
        elif status is Status.CRASHED:
            orphanings = self._orphanings[name]
            right, attempts = name in self._crashed, charged + (orphanings if orphanings >= MAX_ORPHANINGS else 0)
        elif status is Status.TIMEOUT:
            right, attempts = name in self._overdue, charged
        elif status is Status.MEMORY:
            right, attempts = name in self._bloated, charged
        elif status is Status.TRAP and nature.kind == "starved":
            right = name in self._trapped
        else:
            status_of_answer = _ANSWERS.get(nature.kind)
            if self._world.plan.withholds and self._failed[name] and status_of_answer in _WITHHELD:
                status_of_answer = Status.UNANSWERED.value
            right = status_of_answer == status.value and name not in self._crashed
            right = right and outcome.backend.failed == self._failed[name]
            right = right and outcome.backend_calls == len(nature.asks)
            errors = self._errors.get(name)
            right = right and (errors is None or len(outcome.logs) == min(_MAX_KEPT_ERRORS, errors))
        if status is Status.OK:
            right = right and outcome.label_json == label_of(outcome.op, name, nature)
        else:
            right = right and outcome.label_json == b"null" and outcome.error is not None
        if not right or outcome.attempts != attempts or outcome.tool_name != name:
            shown = outcome.label_json if status is Status.OK else outcome.error
            raise Wrong(
                f"job {name}, a {nature.kind} job that is charged {charged} deaths, has the outcome {status.value} "
                f"of tool {outcome.tool_name} "
                f"after {outcome.attempts} attempts, {outcome.backend_calls} calls and {len(outcome.logs)} lines: {shown!r}"
            )

    def note_errors(self, name: str, errors: int | None, failed: int) -> None:
        """A worker came to the end of a job: so many of its calls had failed (None: it lied about them), and so many of its
        questions had no answer."""
        self._errors[name] = errors
        self._failed[name] = failed
        self._sessions.done(name)

    def _handle(self, seen: Seen) -> WorkerHandle | None:
        if seen.handle is None and self._supervisor is not None:
            seen.handle = self._supervisor.state.workers.get(seen.number)
        return seen.handle
