"""What if: recorded calls decided on under one policy after the other, and in several modes.

A recording is read once, to tell guards' questions from the agent's calls; then each policy labels the same calls in the same
way, so that what differs is owed to the policy. A gateway's own log is labelled for the reading, too, and that stands for the
first policy's run where it cannot differ from it. Modes need no guard run of their own.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from guardpool.decide import DecisionRecord, read_record
from guardpool.decide.sides import Turned, standing, turned
from guardpool.errors import CallerError
from guardpool.guard import Guard
from guardpool.recordings import Call, Role
from guardpool.recordings.replies import ReplyLines
from guardpool.recordings.spill import Spill
from guardpool.recordings.spilled_calls import SpilledCalls
from guardpool.replay_summary import ReplaySummary
from guardpool.replaying import replays


class Candidate(NamedTuple):
    """A policy to be tried.

    Attributes:
        name: what it is called in tables.
        policies: the policy of each guarded server, by repository: for the runs of that repository. None in the place of a
            repository stands for all runs.
    """

    name: str
    policies: Mapping[Union[str, None], Mapping[str, Any]]


@dataclass
class Outlook:
    """What one policy in one mode makes of a recording.

    Attributes:
        policy, mode: which; the mode is None where the guards' own is taken.
        calls: decisions.
        shown, hidden: items.
        hidden_of: hidden items by their authors' standing: `member`, `outsider`, `unknown`.
        denied_writes: calls that write and are denied.
        denied: other calls that are denied or blocked.
        undecided: calls on which nothing could be decided.
        uncovered: calls of repositories that the candidate has no policy for; they are not decided on.
        opened, closed: items, and calls as a whole, that changed side against the first policy, by the authors' standing.
        by_repository: shown and hidden items of each repository.
        summaries: of its replays, one for each repository that has a policy of its own.
    """

    policy: str
    mode: str | None
    calls: int = 0
    shown: int = 0
    hidden: int = 0
    hidden_of: Counter[str] = field(default_factory=Counter)
    denied_writes: int = 0
    denied: int = 0
    undecided: int = 0
    uncovered: int = 0
    opened: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    by_repository: dict[str, Counter[str]] = field(default_factory=dict)
    summaries: list[ReplaySummary] = field(default_factory=list)

    def count(self, record: DecisionRecord) -> None:
        """Count a decision."""
        self.calls += 1
        self.undecided += record.is_undecided
        if record.verdict in ("denied", "strict-block"):
            if record.operation == "read":
                self.denied += 1
            else:
                self.denied_writes += 1
        if record.items is None:
            return
        hidden = record.items.total - record.items.shown
        self.shown += record.items.shown
        self.hidden += hidden
        for seen in record.seen:
            self.hidden_of[standing(seen.association)] += seen.total - seen.shown
        if record.repository is not None:
            counts = self.by_repository.setdefault(record.repository, Counter())
            counts["shown"] += record.items.shown
            counts["hidden"] += hidden

    @property
    def is_complete(self) -> bool:
        """Whether there are calls, each was decided on, and every labelling gave a label."""
        return bool(self.calls) and not self.uncovered and all(each.is_complete for each in self.summaries)

    def turn(self, each: Turned) -> None:
        """Count what changed side."""
        who = "call" if each.number is None else standing(None if each.item is None else each.item.association)
        (self.opened if each.opened else self.closed)[who] += 1


class Change(NamedTuple):
    """Something that changes side under a policy.

    Attributes:
        outlook: under which.
        before, after: the decisions of the first policy and of this one.
        what: the item, or the call as a whole.
    """

    outlook: Outlook
    before: DecisionRecord
    after: DecisionRecord
    what: Turned


class WhatIf:
    """Candidates tried on recorded calls.

    Args:
        guards: the guards of the servers; their policies are the candidates'.
        candidates: the first is what the others are compared with.
        modes: each candidate in each; None is the guards' own.
        replay_options: of `guardpool.replay`, but for guards, mode and rules.

    Attributes:
        outlooks: one for each candidate and mode; the first is what the others are compared with.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        candidates: Sequence[Candidate],
        modes: Sequence[Union[str, None]] = (None,),
        **replay_options: Any,
    ) -> None:
        if not candidates:
            raise CallerError("there is no policy to try")
        self.outlooks = [Outlook(each.name, mode) for each in candidates for mode in modes]
        self._guards = guards
        self._candidates = candidates
        self._modes = modes
        self._options = replay_options
        self._told = SpilledCalls()
        self._calls_of: dict[Union[str, None], array[int]] = {}  # numbers of calls, by repository
        self._agents_calls = 0
        self._baseline = _Lines()
        self._read = [_Lines() for _ in modes]  # decisions of the reading, by mode
        self._read_summaries: list[ReplaySummary] = []

    @property
    def first(self) -> ReplaySummary:
        """What the first candidate, in the first mode, comes to: how far it agrees with the recording."""
        first = ReplaySummary()
        for each in self.outlooks[0].summaries:
            first.add(each)
        return first

    def run(
        self, calls: Iterable[Call], step: Callable[[str, int], object] = lambda what, calls: None
    ) -> Iterator[Change]:
        """Try all candidates; what changes side comes out, candidate by candidate.

        Args:
            calls: the recording.
            step: is told what is being done, and on how many calls it is done.

        Raises:
            GuardPoolError: a policy is not valid, no pool can be made, or it broke.
        """
        try:
            is_first_done = self._tell(calls, step)
            for number, candidate in enumerate(self._candidates):
                first = number * len(self._modes)
                outlooks = self.outlooks[first : first + len(self._modes)]
                if number == 0 and is_first_done:
                    yield from self._take_over(outlooks)
                else:
                    for repository, policies in candidate.policies.items():
                        numbers = self._numbers(repository)
                        yield from self._try(policies, numbers, outlooks, step)
                for outlook in outlooks:
                    outlook.uncovered = self._agents_calls - outlook.calls
        finally:
            self._told.close()
            self._baseline.close()
            for lines in self._read:
                lines.close()

    def _tell(self, calls: Iterable[Call], step: Callable[[str, int], object]) -> bool:
        """Read the recording, to know each call for what it is. Only a gateway's own log needs a guard for that: the first
        candidate's.

        Returns:
            Whether this reading decided on the first candidate just as `_try` would. That is so if there is one session, one
            answer to each question, and none is missing: then nothing depends on where an answer is looked for.
        """
        first = self._candidates[0].policies
        policies = next(iter(first.values()))
        replayed = replays(
            *(calls, self._with(policies)), modes=self._modes, rules="gateway", only_tell=True, **self._options
        )
        sessions: set[tuple[Union[str, None], str]] = set()
        answers = ReplyLines()
        without_answer: set[Union[str, None]] = set()  # tools asked for that only the asking call answers, here alone

        undecided: deque[int] = deque()  # the numbers of calls on which decisions follow

        def keep(call: Call, is_passed_on: bool) -> None:
            if is_passed_on:
                undecided.append(len(self._told))
            self._keep(call)
            sessions.add((call.run, call.session))
            answers.of_told(call)
            if call.call in replayed.labels.own_answers and call.tool not in answers.tools:
                without_answer.add(call.tool)

        replayed.labels.keep(keep)
        decided = 0
        try:
            for records in replayed:
                decided += 1
                step("reading", decided)
                number = undecided.popleft()
                if len(sessions) == 1:
                    for lines, record in zip(self._read, records):
                        lines.put(number, record.to_line())
        finally:
            replayed.close()
        self._read_summaries = replayed.summaries
        summary = replayed.summaries[0]
        all_answered = not answers.conflicts and not without_answer and not summary.missing
        told_alike = len(sessions) == 1 and all_answered and not summary.guard_failures
        return told_alike and decided == self._agents_calls and set(first) == {None}

    def _take_over(self, outlooks: list[Outlook]) -> Iterator[Change]:
        """The decisions of the reading, as those of the first candidate."""
        for outlook, summary in zip(outlooks, self._read_summaries):
            outlook.summaries.append(summary)
        for number in range(len(self._told)):
            lines = [each.get(number) for each in self._read]
            records = tuple([read_record(line) for line in lines if line is not None])
            if records:
                yield from self._compare(number, records, outlooks)

    def _keep(self, call: Call) -> None:
        numbers = self._calls_of.get(call.repository)
        if numbers is None:
            numbers = self._calls_of[call.repository] = array("I")
        numbers.append(len(self._told))
        self._told.put(call)
        self._agents_calls += call.role is not Role.ENRICHMENT

    def _numbers(self, repository: Union[str, None]) -> Sequence[int]:
        """The numbers of a repository's calls; None: of all calls."""
        return range(len(self._told)) if repository is None else self._calls_of.get(repository, ())

    def _try(
        self,
        policies: Mapping[str, Any],
        numbers: Sequence[int],
        outlooks: list[Outlook],
        step: Callable[[str, int], object],
    ) -> Iterator[Change]:
        agents = array("I")  # the numbers of the calls that are decided on, in their order

        def calls() -> Iterator[Call]:
            for number in numbers:
                call = self._told[number]
                if call.role is not Role.ENRICHMENT:
                    agents.append(number)
                yield call

        guards = self._with(policies)
        replayed = replays(calls(), guards, modes=self._modes, rules="gateway", told=True, **self._options)
        for outlook, summary in zip(outlooks, replayed.summaries):
            outlook.summaries.append(summary)
        try:
            for at, records in enumerate(replayed):
                step(outlooks[0].policy, at + 1)
                yield from self._compare(agents[at], records, outlooks)
        finally:
            replayed.close()

    def _compare(self, number: int, records: tuple[DecisionRecord, ...], outlooks: list[Outlook]) -> Iterator[Change]:
        for record, outlook in zip(records, outlooks):
            outlook.count(record)
            if outlook is self.outlooks[0]:
                self._baseline.put(number, record.to_line())
                continue
            line = self._baseline.get(number)
            if line is None:
                continue  # the first candidate does not cover it
            before = read_record(line)
            for each in turned(before, record):
                outlook.turn(each)
                yield Change(outlook, before, record, each)

    def _with(self, policies: Mapping[str, Any]) -> list[Guard]:
        """The guards with these policies."""
        return [guard.but(policy=policies.get(guard.name, guard.policy)) for guard in self._guards]


class _Lines:
    """Lines on disk by number; at most one for each."""

    def __init__(self) -> None:
        self._spill = Spill()
        self._starts = array("Q")
        self._sizes = array("I")

    def put(self, number: int, line: bytes) -> None:
        missing = number + 1 - len(self._sizes)
        if missing > 0:
            self._starts.extend([0] * missing)
            self._sizes.extend([0] * missing)
        self._starts[number], self._sizes[number] = self._spill.put(line)

    def get(self, number: int) -> bytes | None:
        if number >= len(self._sizes) or not self._sizes[number]:
            return None
        return self._spill.get((self._starts[number], self._sizes[number]))

    def close(self) -> None:
        self._spill.close()
