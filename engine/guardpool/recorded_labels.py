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
from contextlib import ExitStack, closing
from enum import Enum
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple, Union

import msgspec

from guardpool.backends import Replies
from guardpool.batch.call_jobs import CallsInOrder, resource_job, response_job
from guardpool.batch.kept_calls import KeptCalls
from guardpool.guard import Guard
from guardpool.jobs import Prepared
from guardpool.labels import AgentLabels
from guardpool.outcomes import Outcome
from guardpool.pool import GuardPool
from guardpool.recordings import Call, Role
from guardpool.recordings.questions import LabelledCall, Questions
from guardpool.recordings.replies import ReplyLines
from guardpool.recordings.spilled_calls import SpilledCalls
from guardpool.sizes import MIB
from guardpool.supervise.witness import Witness

__all__ = ["LabelledCall", "RecordedLabels"]

# The formats in which guards' questions stand among the agent's calls.
_OF_GATEWAYS = ("rpc-messages/", "difc-filtered/")
# How far labelling is ahead of what was taken: enough for each worker to have its frames full.
_AHEAD_CALLS = 1024
_AHEAD_BYTES = 32 * MIB
# How many calls are looked at at a time, and how much of them: together they cost less than one by one.
_PORTION_CALLS = 64
_PORTION_BYTES = MIB
# How many calls of a log are looked at, to see what it is: a guard asks within its first ones.
_HELD_CALLS = 400


# How a labelling ends, or where its outcome will be.
_Ending = Union[Outcome, CallsInOrder, None]


class _Waiting(NamedTuple):
    """A call whose outcomes are known, or on their way."""

    call: Call
    resource: _Ending
    response: _Ending

    def labelled(self) -> LabelledCall:
        """The call with its outcomes, when they are there. Calls must be asked in their order."""
        resource, response = self.resource, self.response
        if isinstance(resource, CallsInOrder):
            resource = resource.next()
        if isinstance(response, CallsInOrder):
            response = response.next()
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
        self._keep: Callable[[Call, bool], object] | None = None
        self._is_quiet = False
        self._stack = ExitStack()

    def close(self) -> None:
        """End the workers, whether or not they are finished."""
        self._end(list(self._pools))
        self._stack.close()
        if self.kept is not None:
            self.kept.close()

    def labelled(self, portions: Iterable[Sequence[Call]]) -> Iterator[list[LabelledCall]]:
        """The agent's calls in their order, with their labels, as many at a time as are there.

        Args:
            portions: the calls, some at a time.

        Raises:
            GuardPoolError: no pool can be made, or it broke.
        """
        if not self._guards:
            for portion in portions:
                yield [LabelledCall(call) for call in self._agents_own(map(self._placed, portion))]
            return
        placed = map(self._placed, chain.from_iterable(portions))
        if self._told:
            yield from self._with_replies(placed)
            return
        for (kind, _), stretch in groupby(_kinds(placed), itemgetter(0)):
            calls = map(itemgetter(1), stretch)
            if kind is _Kind.UNTOLD:
                yield from self._in_turn(calls)
            elif self._only_tell:
                deque(self._agents_own(calls, are_passed_on=False), maxlen=0)
            elif kind is _Kind.TOLD:
                yield from self._with_replies(calls)
            else:
                yield from self._at_once(calls, Replies(()))

    def keep(self, take: Callable[[Call, bool], object]) -> None:
        """Have each call kept, also guards' questions, once it is known for what it is.

        Args:
            take: is given the calls in their order, and whether each is passed on with its labels later.
        """
        self._keep = take

    def _placed(self, call: Call) -> Call:
        """The call with its server, if only one can be meant."""
        if call.server is None and call.tool is not None and self._only_server is not None:
            return msgspec.structs.replace(call, server=self._only_server)
        return call

    # One after the other, with the guards' questions among them

    def _in_turn(self, calls: Iterable[Call]) -> Iterator[list[LabelledCall]]:
        questions = Questions(self._names)
        self.own_answers = questions.own_answers
        asking = [
            each.but(backend=questions.answer(each.name, each.backend), remember="never") for each in self._guards
        ]
        pool = self._pool(asking, 1)
        try:
            with closing(CallsInOrder(pool)) as labelling:
                for portion in questions.told(calls, labelling):
                    if self._keep is not None:
                        for each in portion:
                            self._keep(each.call, each.call.role is not Role.ENRICHMENT)
                    own = [each for each in portion if each.call.role is not Role.ENRICHMENT]
                    self.enrichment += len(portion) - len(own)
                    yield own
        finally:
            self.asked += questions.asked
            self.missing += questions.missing
            self._end([pool])

    # All at once

    def _at_once(self, calls: Iterable[Call], replies: Replies) -> Iterator[list[LabelledCall]]:
        guards = [each.but(backend=each.backend or replies) for each in self._guards]
        before = len(self._pools)
        try:
            yield from self._by_session(calls, guards)
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

    def _by_session(self, calls: Iterable[Call], guards: Sequence[Guard]) -> Iterator[list[LabelledCall]]:
        """Where order counts, each session has one worker for good, in the order in which sessions begin: so what a guard
        remembers, and with it every label, is the same in every run with as many workers."""
        # One pool also where no call needs it: its guards say what agents are.
        most = self._workers if self._keep_order else 1
        lanes = [self._lane(guards)]
        lane_of: dict[tuple[str | None, str], CallsInOrder] = {}
        waiting: deque[_Waiting] = deque()
        size = 0
        try:
            for portion in _portions(self._agents_own(calls)):
                for call, known in zip(portion, self._known_endings(portion)):
                    endings: list[_Ending] = [None, None]
                    if call.server in self._names:
                        session = (call.run, call.session)
                        lane = lane_of.get(session)
                        if lane is None:
                            if len(lane_of) >= len(lanes) < most:
                                lanes.append(self._lane(guards))
                            lane = lane_of[session] = lanes[len(lane_of) % len(lanes)]
                        endings = [_in_lane(each, lane) for each in known]
                    waiting.append(_Waiting(call, *endings))
                    size += _size(call)
                for lane in lanes:
                    lane.flush()
                done: list[LabelledCall] = []
                while len(waiting) > _AHEAD_CALLS or (size > _AHEAD_BYTES and len(waiting) > 1):
                    size -= _size(waiting[0].call)
                    done.append(waiting.popleft().labelled())
                if done:
                    yield done
            while waiting:
                yield [waiting.popleft().labelled() for _ in range(min(_PORTION_CALLS, len(waiting)))]
        finally:
            for lane in lanes:
                lane.close()

    def _lane(self, guards: Sequence[Guard]) -> CallsInOrder:
        """A pool of its own for sessions whose calls are to be labelled in order; else one for all calls."""
        return CallsInOrder(self._pool(guards, 1 if self._keep_order else self._workers, self.kept))

    def _known_endings(self, calls: Sequence[Call]) -> list[list[Prepared | Outcome | None]]:
        """The jobs of both labellings of each call, or outcomes that are known."""
        jobs: list[Prepared | None] = []
        for call in calls:
            is_guarded = call.server in self._names
            jobs += [resource_job(call), response_job(call)] if is_guarded else [None, None]
        known = [None] * len(jobs) if self.kept is None else self.kept.outcomes_of(jobs)
        either = [job if outcome is None else outcome for job, outcome in zip(jobs, known)]
        return [either[at : at + 2] for at in range(0, len(either), 2)]

    def _agents_own(self, calls: Iterable[Call], *, are_passed_on: bool = True) -> Iterator[Call]:
        """The calls without guards' questions, which are counted."""
        for call in calls:
            is_own = call.role is not Role.ENRICHMENT
            if self._keep is not None:
                self._keep(call, is_own and are_passed_on)
            if is_own:
                yield call
            else:
                self.enrichment += 1

    def _with_replies(self, calls: Iterable[Call]) -> Iterator[list[LabelledCall]]:
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


def _in_lane(each: Prepared | Outcome | None, lane: CallsInOrder) -> _Ending:
    """Have a job labelled; what is known stays."""
    if not isinstance(each, Prepared):
        return each
    lane.put(each)
    return lane


class _Kind(Enum):
    """How the calls of an input are to be labelled."""

    UNTOLD = "guards' questions among them, as calls like any other"
    TOLD = "each known for what it is, with the answers that guards got"
    PLAIN = "no guard's question among them"


# What the calls of one stretch have in common, by which they are labelled.
_Stretch = tuple[_Kind, str]


def _input_of(call: Call) -> str:
    return call.call.rpartition("#")[0]


def _kinds(calls: Iterable[Call]) -> Iterator[tuple[_Stretch, Call]]:
    """The same calls in the same order, each with its stretch.

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
            yield from _as_untold(held)
            held = []
        if call.enrichment or call.role is Role.ENRICHMENT:
            told.add(source)
        # A run's guard begins without a memory, and asks again what an earlier run knew.
        stretch: _Stretch = (_Kind.UNTOLD, source) if call.source.startswith(_OF_GATEWAYS) else (_Kind.PLAIN, "")
        if source in told:
            stretch = (_Kind.TOLD, "")
        elif stretch[1] and source not in untold:
            size = size + _size(call) if held else _size(call)
            held.append(call)
            if call.role is not Role.CANDIDATE and len(held) < _HELD_CALLS and size < _AHEAD_BYTES:
                continue
            untold.add(source)
            call = held.pop()
        if held:
            for each in held:
                yield stretch, each
            held = []
        yield stretch, call
    yield from _as_untold(held)


def _as_untold(calls: Sequence[Call]) -> Iterator[tuple[_Stretch, Call]]:
    for call in calls:
        yield (_Kind.UNTOLD, _input_of(call)), call


def _portions(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """The calls, some at a time."""
    portion: list[Call] = []
    size = 0
    for call in calls:
        portion.append(call)
        size += _size(call)
        if len(portion) >= _PORTION_CALLS or size >= _PORTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _size(call: Call) -> int:
    return len(call.args_json or b"") + len(call.result_json or b"")
