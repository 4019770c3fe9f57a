"""Recorded calls with their labels: each call is labelled again, and what guards asked is answered from the recording.

There are two ways, and a recording may need both.

- A gateway's own log holds its guards' questions as calls like any other. So its calls are labelled one after the other, as the
  gateway did, and what the guard asks is told from the agent's calls on the way (`recordings.questions`).
- In other recordings each call is known for what it is. Their answers to guards' questions are gathered first, and then all
  calls are labelled at once, a session's on one worker and in order.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from enum import Enum
from itertools import groupby, islice
from operator import attrgetter
from typing import NamedTuple

import msgspec

from guardpool.backends import Replies
from guardpool.batch.kept_calls import KeptCalls
from guardpool.guard import Guard
from guardpool.jobs import Job
from guardpool.labels import AgentLabels
from guardpool.outcomes import Outcome
from guardpool.pool import GuardPool
from guardpool.recordings import Call, Role
from guardpool.recordings.questions import Questions
from guardpool.recordings.replies import ReplyLines
from guardpool.recordings.spilled_calls import SpilledCalls
from guardpool.recordings.to_jobs import resource_job, response_job
from guardpool.sizes import MIB
from guardpool.supervise.witness import Witness

# The formats in which guards' questions stand among the agent's calls.
_OF_GATEWAYS = ("rpc-messages/", "difc-filtered/")
# How far labelling is ahead of what was taken: enough for each worker to have its frames full.
_AHEAD_CALLS = 1024
_AHEAD_BYTES = 32 * MIB
# Of how many calls kept labels are looked up at a time.
_LOOKED_UP_CALLS = 64
# How many calls of a log are looked at, to see what it is: a guard asks within its first ones.
_HELD_CALLS = 400


class LabelledCall(NamedTuple):
    """A call and what became of its labellings; None where nothing was asked."""

    call: Call
    resource: Outcome | None = None
    response: Outcome | None = None


class _Waiting(NamedTuple):
    """A call whose outcomes are on their way."""

    call: Call
    resource: Future[Outcome] | None
    response: Future[Outcome] | None

    def labelled(self) -> LabelledCall:
        """The call with its outcomes, when they are there."""
        resource, response = (None if future is None else future.result() for future in self[1:])
        return LabelledCall(self.call, resource, response)


class RecordedLabels:
    """Labels recorded calls on pools of their own, which live until `close`.

    Args:
        guards: by their servers' names. One without a backend is answered from the recording.
        only_server: the server of calls that name none; None: they are not labelled.
        keep_order: whether a session's calls are labelled in order, by one worker.
        workers: how many workers there may be.
        pool: makes a pool of guards with so many workers, which have that witness.
        kept: labels that need not be made; not used for a gateway's own log, whose questions are told by the guards' asking.
            It is closed with this.
        told: whether guards' questions are known for what they are in all recordings, as in what `told_calls` gives.
        only_tell: whether calls are only to be known for what they are: none is labelled that is known already.

    Attributes:
        asked, missing: questions of the guards, and those without an answer in the recording, by tool.
        enrichment: calls that were guards' questions; they are nobody's calls, and are not passed on.
        agents: what the guards' `label_agent` answered; known once a pool was made.
        conflicts: questions to which the recording has several answers; the first counts.
        kept: as given.
        own_answers: ids of calls that answered a question of their own guards, of those whose questions are being told.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        *,
        only_server: str | None,
        keep_order: bool,
        workers: int,
        pool: Callable[[Sequence[Guard], int, Witness | None], GuardPool],
        kept: KeptCalls | None = None,
        told: bool = False,
        only_tell: bool = False,
    ) -> None:
        self.asked: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.enrichment = 0
        self.conflicts = 0
        self.own_answers: Collection[str] = ()
        self.agents: dict[str, AgentLabels] = {}
        self._pools: list[GuardPool] = []
        self._guards = guards
        self._names = {guard.name for guard in guards}
        self._only_server = only_server
        self._keep_order = keep_order
        self._workers = workers
        self._make_pool = pool
        self.kept = kept
        self._told = told
        self._only_tell = only_tell
        self._keep: Callable[[Call], object] | None = None
        self._is_quiet = False
        self._stack = ExitStack()

    def close(self) -> None:
        """End the workers, whether or not they are finished."""
        self._end(list(self._pools))
        self._stack.close()
        if self.kept is not None:
            self.kept.close()

    def labelled(self, calls: Iterable[Call]) -> Iterator[LabelledCall]:
        """The agent's calls in their order, with their labels.

        Raises:
            GuardPoolError: no pool can be made, or it broke.
        """
        placed = map(self._placed, calls)
        if not self._guards:
            yield from map(LabelledCall, self._agents_own(placed))
            return
        if self._told:
            yield from self._with_replies(placed)
            return
        for (kind, _), calls_of_kind in groupby(_kinds(placed), attrgetter("stretch")):
            stretch = (each.call for each in calls_of_kind)
            if kind is _Kind.UNTOLD:
                yield from self._in_turn(stretch)
            elif self._only_tell:
                deque(self._agents_own(stretch), maxlen=0)
            elif kind is _Kind.TOLD:
                yield from self._with_replies(stretch)
            else:
                yield from self._at_once(stretch, Replies(()))

    def keep(self, take: Callable[[Call], object]) -> None:
        """Have each call passed on, also guards' questions, once it is known for what it is."""
        self._keep = take

    def _placed(self, call: Call) -> Call:
        """The call with its server, if only one can be meant."""
        if call.server is None and call.tool is not None and self._only_server is not None:
            return msgspec.structs.replace(call, server=self._only_server)
        return call

    # One after the other, with the guards' questions among them

    def _in_turn(self, calls: Iterable[Call]) -> Iterator[LabelledCall]:
        outcomes: dict[str, Future[Outcome]] = {}

        def submit(job: Job) -> Future[Outcome]:
            outcome = outcomes[job.id] = pool.submit(job)
            return outcome

        questions = Questions(self._names, submit)
        self.own_answers = questions.own_answers
        asking = [
            each.but(backend=questions.answer(each.name, each.backend), remember="never") for each in self._guards
        ]
        pool = self._pool(asking, 1)
        try:
            for call in questions.told(calls):
                labels = _Waiting(
                    call, outcomes.pop(f"{call.call}/resource", None), outcomes.pop(f"{call.call}/response", None)
                )
                if self._keep is not None:
                    self._keep(call)
                if call.role is Role.ENRICHMENT:
                    self.enrichment += 1
                else:
                    yield labels.labelled()
        finally:
            self.asked += questions.asked
            self.missing += questions.missing
            self._end([pool])

    # All at once

    def _at_once(self, calls: Iterable[Call], replies: Replies) -> Iterator[LabelledCall]:
        guards = [each.but(backend=each.backend or replies) for each in self._guards]
        before = len(self._pools)
        try:
            if self._keep_order or self.kept is not None:
                yield from self._by_session(calls, guards)
            else:
                yield from self._in_any_order(calls, guards)
        finally:
            for pool in self._pools[before:]:
                self._count_questions(pool)
            self._end(self._pools[before:])

    def _count_questions(self, pool: GuardPool) -> None:
        for tools in pool.stats().backend.values():
            for tool, counts in tools.items():
                self.asked[tool] += counts.asked
                if counts.failed:
                    self.missing[tool] += counts.failed

    def _by_session(self, calls: Iterable[Call], guards: Sequence[Guard]) -> Iterator[LabelledCall]:
        """Each session has one worker for good, in the order in which sessions begin: so what a guard remembers, and with it
        every label, is the same in every run with as many workers."""
        # One also where no call needs it for long: its guards say what agents are.
        pools = [self._pool(guards, 1 if self._keep_order else self._workers, self.kept)]
        pool_of: dict[tuple[str | None, str], GuardPool] = {}
        waiting: deque[_Waiting] = deque()
        size = 0
        for call, jobs in self._with_known(calls):
            if call.server in self._names:
                session = (call.run, call.session)
                pool = pool_of.get(session)
                if pool is None:
                    if self._keep_order and len(pool_of) >= len(pools) < self._workers:
                        pools.append(self._pool(guards, 1, self.kept))
                    pool = pool_of[session] = pools[len(pool_of) % len(pools)]
                waiting.append(_Waiting(call, *(_future_of(each, pool) for each in jobs)))
            else:
                waiting.append(_Waiting(call, None, None))
            size += _size(call)
            while len(waiting) > _AHEAD_CALLS or (size > _AHEAD_BYTES and len(waiting) > 1):
                each = waiting.popleft()
                size -= _size(each.call)
                yield each.labelled()
        for each in waiting:
            yield each.labelled()

    def _with_known(self, calls: Iterable[Call]) -> Iterator[tuple[Call, list[Job | Outcome | None]]]:
        """The agent's calls with the jobs of both labellings, or with outcomes that are known."""
        own = self._agents_own(calls)
        while portion := list(islice(own, _LOOKED_UP_CALLS if self.kept is not None else 1)):
            jobs: list[Job | None] = []
            for call in portion:
                is_guarded = call.server in self._names
                jobs += [resource_job(call), response_job(call)] if is_guarded else [None, None]
            known = [None] * len(jobs) if self.kept is None else self.kept.outcomes_of(jobs)
            either = [job if outcome is None else outcome for job, outcome in zip(jobs, known)]
            for at, call in enumerate(portion):
                yield call, either[2 * at : 2 * at + 2]

    def _in_any_order(self, calls: Iterable[Call], guards: Sequence[Guard]) -> Iterator[LabelledCall]:
        pool = self._pool(guards, self._workers)
        waiting: deque[tuple[Call, int]] = deque()  # with how many outcomes they have to get
        outcomes = pool.map(self._jobs(calls, waiting))
        for outcome in outcomes:
            while not waiting[0][1]:
                yield LabelledCall(waiting.popleft()[0])
            call, due = waiting.popleft()
            yield LabelledCall(call, outcome, next(outcomes) if due == 2 else None)
        yield from (LabelledCall(call) for call, _ in waiting)

    def _jobs(self, calls: Iterable[Call], waiting: deque[tuple[Call, int]]) -> Iterator[Job]:
        for call in self._agents_own(calls):
            jobs = []
            if call.server in self._names:
                jobs = [job for job in (resource_job(call), response_job(call)) if job is not None]
            waiting.append((call, len(jobs)))
            yield from jobs

    def _agents_own(self, calls: Iterable[Call]) -> Iterator[Call]:
        """The calls without guards' questions, which are counted."""
        for call in calls:
            if self._keep is not None:
                self._keep(call)
            if call.role is Role.ENRICHMENT:
                self.enrichment += 1
            else:
                yield call

    def _with_replies(self, calls: Iterable[Call]) -> Iterator[LabelledCall]:
        """Label calls that have the answers to guards' questions with them.

        All of them are read to their end before the first is labelled, so that no label depends on how far the reading was
        ahead; meanwhile they wait on disk.
        """
        spilled = SpilledCalls()
        try:
            replies = self._replies_of(calls, spilled)
            yield from self._at_once(spilled, replies)
        finally:
            spilled.close()

    def _replies_of(self, calls: Iterable[Call], spilled: SpilledCalls) -> Replies:
        """The answers to guards' questions in all of the calls, which are kept."""
        lines = ReplyLines()
        table: list[bytes] = []
        for call in calls:
            spilled.put(call)
            found = lines.of_told(call)
            if found:
                table.append(found)
        self.conflicts += lines.conflicts
        return Replies(b"".join(table).splitlines(keepends=True), "the recording")

    def _end(self, pools: list[GuardPool]) -> None:
        """End pools that are not needed any more: a folder may hold the logs of thousands of runs."""
        for pool in pools:
            pool.kill()
        self._pools = [pool for pool in self._pools if pool not in pools]

    def _pool(self, guards: Sequence[Guard], workers: int, kept: KeptCalls | None = None) -> GuardPool:
        if not self._is_quiet:
            # A question without an answer is counted, and told once at the end.
            self._is_quiet = True
            log = logging.getLogger("guardpool.backend")
            self._stack.callback(log.setLevel, log.level)
            log.setLevel(logging.ERROR)
        if kept is None:
            pool = self._make_pool(guards, workers, None)
        else:
            pool = kept.pool(guards, lambda witness: self._make_pool(guards, workers, witness))
        self.agents.update(pool.agents)
        self._pools.append(pool)
        return pool


def _future_of(each: Job | Outcome | None, pool: GuardPool) -> Future[Outcome] | None:
    """The outcome of a job on its way, or what is known of it."""
    if not isinstance(each, Outcome):
        return None if each is None else pool.submit(each)
    known: Future[Outcome] = Future()
    known.set_result(each)
    return known


class _Kind(Enum):
    """How the calls of an input are to be labelled."""

    UNTOLD = "guards' questions among them, as calls like any other"
    TOLD = "each known for what it is, with the answers that guards got"
    PLAIN = "no guard's question among them"


class _Sorted(NamedTuple):
    """A call, and how it is to be labelled."""

    call: Call
    kind: _Kind

    @property
    def stretch(self) -> tuple[_Kind, str]:
        """What the calls of one stretch have in common."""
        # A run's guard begins without a memory, and asks again what an earlier run knew.
        return self.kind, _input_of(self.call) if self.kind is _Kind.UNTOLD else ""


def _input_of(call: Call) -> str:
    return call.call.rpartition("#")[0]


def _kinds(calls: Iterable[Call]) -> Iterator[_Sorted]:
    """The same calls in the same order, each with its kind.

    A gateway's log that was imported with its guards has the questions marked; one that was not has candidates for them. So the
    first calls of a log are held until one of both is met.
    """
    told: set[str] = set()  # inputs
    untold: set[str] = set()
    held: list[Call] = []  # of one input, of which it is not known yet what it is
    size = 0
    for call in calls:
        source = _input_of(call)
        if held and source != _input_of(held[0]):
            yield from (_Sorted(each, _Kind.UNTOLD) for each in held)
            held = []
        if call.enrichment or call.role is Role.ENRICHMENT:
            told.add(source)
        kind = _Kind.UNTOLD if call.source.startswith(_OF_GATEWAYS) else _Kind.PLAIN
        if source in told:
            kind = _Kind.TOLD
        elif kind is _Kind.UNTOLD and source not in untold:
            size = size + _size(call) if held else _size(call)
            held.append(call)
            if call.role is not Role.CANDIDATE and len(held) < _HELD_CALLS and size < _AHEAD_BYTES:
                continue
            untold.add(source)
            call = held.pop()
        yield from (_Sorted(each, kind) for each in (*held, call))
        held = []
    yield from (_Sorted(each, _Kind.UNTOLD) for each in held)


def _size(call: Call) -> int:
    return len(call.args_json or b"") + len(call.result_json or b"")
