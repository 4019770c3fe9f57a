"""Which single change of a policy would admit something: found by trying each on the recording, with the real guard.

A change is tried on the whole recording, because what matters as much is what else it lets in; where that is long, on the call
alone first. The recording is read once under the policy as it is, to tell guards' questions from the agent's calls.

What is tried: every other level of min-integrity; the author as a trusted user, or off the blocked users; the repository in
`repos`; an answer to a question that had none; what a sink accepts.
"""

from __future__ import annotations

import copy
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from guardpool.checks.agent_tags import level_of_policy
from guardpool.contract.policy import LEVELS
from guardpool.contract.text import lower, trim
from guardpool.decide import DecisionRecord, Sink, read_record, split_policy
from guardpool.decide.record import FilteredItem
from guardpool.decide.sides import Turned, standing, turned
from guardpool.errors import CallerError, ContractError, GuardPoolError
from guardpool.guard import Guard
from guardpool.recordings import Call, ResultIs, Role
from guardpool.recordings.spill import Spill
from guardpool.recordings.spilled_calls import SpilledCalls
from guardpool.replaying import replays

_REPOSITORY = re.compile(r"(?:^|:)([A-Za-z0-9_.-]{1,39}/[A-Za-z0-9_.-]{1,100})(?=[#@/]|$)")
_MOST_EXAMPLES = 3
# So many calls are labelled in less than the second or so that a pool takes to be made, which the call alone needs, too.
_FEW_CALLS = 5_000
_encode = msgspec.json.Encoder().encode


class SearchError(CallerError, ValueError):
    """The call that is asked about is not in the recording."""


class Change(NamedTuple):
    """A single change of the policy, the sink or the answers by which a call is judged.

    Attributes:
        words: what it is, as a maintainer would write it.
        policy: the guard's policy with it; None: as it was.
        sink: what the sink accepts with it; None: as it was.
        answers: answers to guards' questions that the recording does not have.
    """

    words: str
    policy: dict[str, Any] | None = None
    sink: Sink | None = None
    answers: tuple[Call, ...] = ()


@dataclass
class Trial:
    """What a change does.

    Attributes:
        change: the change.
        admits: how many of the items that were asked about are let through; 1 for a call as a whole.
        opened, closed: what else changes side, items by their authors' standing and calls as `call`.
        calls: how many calls that concerns.
        examples: the first items and calls that are let in besides.
        error: why it could not be tried; None: it was.
    """

    change: Change
    admits: int = 0
    opened: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    examples: list[str] = field(default_factory=list)
    error: str | None = None

    def count(self, after: DecisionRecord, sides: Sequence[Turned]) -> None:
        """Count what changes side in a call besides what was asked about."""
        self.calls += bool(sides)
        for side in sides:
            who = "call" if side.number is None else standing(None if side.item is None else side.item.association)
            (self.opened if side.opened else self.closed)[who] += 1
            if side.opened and len(self.examples) < _MOST_EXAMPLES:
                about = after.resource.description if after.resource is not None else after.call
                example = side.item.description if side.item is not None else f"{after.tool} {about}"
                if example not in self.examples:
                    self.examples.append(example)

    @property
    def size(self) -> tuple[int, int]:
        """By what trials are ordered: how much else it lets in, then how much it takes away."""
        return sum(self.opened.values()), sum(self.closed.values())


@dataclass
class Search:
    """What a search gave.

    Attributes:
        asked: how many items were asked about; 1 for a call as a whole.
        admitting: changes that admit it, or a part of it; the smallest first.
        in_vain: changes that do not, or could not be tried.
        unanswerable: tools that the guard asked, and for which no answer can be made up.
        differs: how the call is judged now, if that is not what the decision says.
    """

    asked: int
    admitting: list[Trial] = field(default_factory=list)
    in_vain: list[Trial] = field(default_factory=list)
    unanswerable: tuple[str, ...] = ()
    differs: str | None = None


class Servers(NamedTuple):
    """What stands before the servers; as `guardpool.replay` takes it."""

    guards: Sequence[Guard]
    sinks: Mapping[str, Sink]
    options: Mapping[str, Any]


def search(
    servers: Servers,
    record: DecisionRecord,
    items: Sequence[FilteredItem],
    calls: Iterable[Call],
    step: Callable[[str, int], object] = lambda what, calls: None,
) -> Search:
    """Try all single changes.

    Args:
        servers: by what the recording is judged now.
        record: the decision that is asked about.
        items: of its items those that are asked about; empty: the call as a whole.
        calls: the recording that the decision was made of.
        step: is told what is being done, and on how many calls it was done.

    Raises:
        SearchError: the recording does not have the call, or its server has neither guard nor sink.
        GuardPoolError: no pool can be made, or it broke.
    """
    searching = _Searching(servers, record, items, step)
    try:
        return searching.run(calls)
    finally:
        searching.close()


def not_recorded(record: DecisionRecord) -> SearchError:
    """The error for a recording that lacks the call of a decision."""
    return SearchError(
        f"--recording: there is no call {record.call} of that session in it: name the recording that the decisions were made "
        "of, by the same path"
    )


class _Searching:
    """A search while it goes on."""

    def __init__(
        self,
        servers: Servers,
        record: DecisionRecord,
        items: Sequence[FilteredItem],
        step: Callable[[str, int], object],
    ) -> None:
        self._servers = servers
        self._record = record
        self._wanted = frozenset(item.index for item in items)
        self._items = items
        self._step = step
        self._told = SpilledCalls()
        self._spill = Spill()
        self._places: list[
            tuple[int, int]
        ] = []  # of the decisions under the policy as it is, by the number of the call
        self._at: int | None = None  # the number of the call among all that were told
        self._leading: list[int] | None = None  # what `_leading_to_it` found

    def close(self) -> None:
        """Give the temporary files back."""
        self._told.close()
        self._spill.close()

    def run(self, calls: Iterable[Call]) -> Search:
        """Try all changes."""
        self._tell(calls)
        now = self._decide_all()
        found = Search(len(self._wanted) or 1, differs=self._differs(now))
        if self._admitted(now) == found.asked:
            found.differs = (
                "it is let through already by the guards and policies given here; the decision was made by others"
            )
            return found
        changes, found.unanswerable = self._changes(now)
        for change in changes:
            trial = Trial(change)
            try:
                self._try(trial)
            except (ContractError, GuardPoolError) as error:
                trial.error = str(error)
            (found.admitting if trial.admits and trial.error is None else found.in_vain).append(trial)
        found.admitting.sort(key=lambda trial: (-trial.admits, trial.size))
        return found

    def _tell(self, calls: Iterable[Call]) -> None:
        """Read the recording, to know each call for what it is."""
        replayed = self._replays(calls, None, told=False)
        replayed.labels.keep(lambda call, _is_passed_on: self._told.put(call))
        try:
            for number, _records in enumerate(replayed):
                self._step("reading", number + 1)
        finally:
            replayed.close()

    def _decide_all(self) -> DecisionRecord:
        """Decide on all calls under the policy as it is; returns the decision on the call that is asked about."""
        mine = None
        key = (self._record.run, self._record.session, self._record.call)
        agents = array("I")
        for record in self._decided(None, range(len(self._told)), agents):
            self._places.append(self._spill.put(record.to_line()))
            if (record.run, record.session, record.call) == key:
                mine, self._at = record, agents[len(self._places) - 1]
        if mine is None:
            raise not_recorded(self._record)
        return mine

    def _differs(self, now: DecisionRecord) -> str | None:
        """Whether the decision in the file is another than these guards and policies give."""
        was = self._record
        if (was.guard_sha256, was.policy_sha256) != (now.guard_sha256, now.policy_sha256):
            return "the decision was made by another guard or policy than those given here; what follows is about these"
        if (was.verdict, was.items) != (now.verdict, now.items):
            return f"the call is judged otherwise now: {now.verdict}, and not {was.verdict}"
        return None

    def _try(self, trial: Trial) -> None:
        """Try a change on everything; first on the call alone, where everything is much."""
        if len(self._told) > _FEW_CALLS:
            *_, alone = self._decided(trial.change, self._leading_to_it(), array("I"))
            if not self._admitted(alone):
                return
        agents = array("I")
        for at, after in enumerate(self._decided(trial.change, range(len(self._told)), agents)):
            before = read_record(self._spill.get(self._places[at]))
            is_it = agents[at] == self._at
            if is_it:
                trial.admits = self._admitted(after)
            sides = [
                side
                for side in turned(before, after)
                if not (is_it and side.opened and (side.number in self._wanted or not self._wanted))
            ]
            trial.count(after, sides)

    def _admitted(self, after: DecisionRecord) -> int:
        """How many of the items that are asked about are let through; 1 if a call as a whole is."""
        if not self._wanted:
            return int(after.verdict in ("whole", "items"))
        if after.verdict == "whole":
            return len(self._wanted)
        if after.verdict != "items":
            return 0
        return len(self._wanted - {item.index for item in after.filtered})

    def _leading_to_it(self) -> list[int]:
        """The call, and before it what its decision needs: guards' questions, and the session's first call to each server.

        In propagate all of the session counts, as each read changes the agent's labels.
        """
        if self._leading is not None:
            return self._leading
        assert self._at is not None
        it = self._told[self._at]
        in_propagate = self._record.mode == "propagate"
        met = {it.server}
        numbers = []
        for number in range(len(self._told)):
            call = self._told[number]
            if call.role is Role.ENRICHMENT:
                numbers.append(number)
            elif (
                number < self._at
                and (call.run, call.session) == (it.run, it.session)
                and (in_propagate or call.server not in met)
            ):
                met.add(call.server)
                numbers.append(number)
        self._leading = [*numbers, self._at]
        return self._leading

    def _decided(self, change: Change | None, numbers: Sequence[int], agents: array[int]) -> Iterator[DecisionRecord]:
        """Decisions on these calls under a change; `agents` takes the numbers of the calls that are decided on."""

        def calls() -> Iterator[Call]:
            if change is not None:
                yield from change.answers  # of two answers to a question the first counts
            for number in numbers:
                call = self._told[number]
                if call.role is not Role.ENRICHMENT:
                    agents.append(number)
                yield call

        replayed = self._replays(calls(), change, told=True)
        what = "as it is" if change is None else change.words
        try:
            for number, (record,) in enumerate(replayed):
                self._step(what, number + 1)
                yield record
        finally:
            replayed.close()

    def _replays(self, calls: Iterable[Call], change: Change | None, *, told: bool) -> Any:
        server = self._record.server or ""
        guards, sinks = list(self._servers.guards), dict(self._servers.sinks)
        if change is not None and change.policy is not None:
            guards = [guard.but(policy=change.policy) if guard.name == server else guard for guard in guards]
        if change is not None and change.sink is not None:
            sinks[server] = change.sink
        options = {"modes": [None], "rules": self._record.rules, "log_level": "off", **self._servers.options}
        return replays(calls, guards, sinks=sinks, told=told, **options)

    def _changes(self, now: DecisionRecord) -> tuple[list[Change], tuple[str, ...]]:
        server = now.server or ""
        if server in self._servers.sinks:
            return list(_of_a_sink(self._servers.sinks[server], now)), ()
        guard = next((guard for guard in self._servers.guards if guard.name == server), None)
        if guard is None or not isinstance(guard.policy, Mapping):
            raise SearchError(f"server {server!r} has no guard here whose policy could be changed")
        answers, unanswerable = _answers(now)
        changes = [*_of_a_policy(guard.policy, now, self._items), *answers]
        return changes, unanswerable


def _of_a_policy(policy: Mapping[str, Any], record: DecisionRecord, items: Sequence[FilteredItem]) -> Iterator[Change]:
    """Single changes of a guard's policy that might admit something."""
    key = "allow-only" if "allow-only" in policy else "allowonly"
    body = split_policy(policy).policy[key]

    def changed(words: str, **members: Any) -> Change:
        whole = copy.deepcopy(dict(policy))
        whole[key].update({name.replace("_", "-"): value for name, value in members.items()})
        return Change(words, whole)

    own = level_of_policy(body)
    for level in sorted(LEVELS, key=lambda level: abs(LEVELS.index(level) - LEVELS.index(own))):
        if level != own:
            yield changed(f"min-integrity {level} (now {own})", min_integrity=level)
    for author in dict.fromkeys(item.author for item in items if item.author is not None):
        blocked = body.get("blocked-users", [])
        rest = [user for user in blocked if lower(trim(user)) != lower(author)]
        if len(rest) < len(blocked):
            yield changed(f"blocked-users without {author}", blocked_users=rest)
        elif author not in body.get("trusted-users", []):
            yield changed(f"trusted-users with {author}", trusted_users=[*body.get("trusted-users", []), author])
    repos = body["repos"]
    for repository in dict.fromkeys(_repositories(record, items)):
        if isinstance(repos, str):
            words = f"repos [{repository!r}] alone (now {repos!r})"
            yield changed(words, repos=[repository])
        elif repository not in repos:
            yield changed(f"repos with {repository}", repos=[*repos, repository])


def _repositories(record: DecisionRecord, items: Sequence[FilteredItem]) -> Iterator[str]:
    """The repositories that a call, or its items, are about, in lower case, as policies have them."""
    told = [item.description for item in items]
    if record.resource is not None and not items:
        told.append(record.resource.description)
    for text in told:
        match = _REPOSITORY.search(text)
        if match is not None:
            yield match[1].lower()
    args = record.args
    if isinstance(args, dict) and not told:
        owner, repo = args.get("owner"), args.get("repo")
        if isinstance(owner, str) and isinstance(repo, str):
            yield f"{owner}/{repo}".lower()


def _of_a_sink(sink: Sink, record: DecisionRecord) -> Iterator[Change]:
    """Changes of what a sink accepts."""
    extra = sorted({tag for failure in record.failed for tag in failure.extra})
    if sink.visibility == "public":
        yield Change("sink-visibility private", sink=Sink(sink.accept, "private"))
        yield Change("sink-visibility private and accept ['*']", sink=Sink(["*"], "private"))
    elif extra:
        yield Change(f"accept with {' '.join(extra)}", sink=Sink([*sink.accept, *extra], sink.visibility))


def _answers(record: DecisionRecord) -> tuple[list[Change], tuple[str, ...]]:
    """Answers to questions that had none, one change each; and the tools for which no answer can be made up."""
    changes, unanswerable = [], []
    for question in record.enrichment.missing if record.enrichment is not None else ():
        made_up = _made_up(question.tool, question.args)
        if made_up is None:
            unanswerable.append(question.tool)
            continue
        words, value = made_up
        text = {"content": [{"type": "text", "text": _encode(value).decode()}]}
        answer = Call(
            call="made up",
            source="made up",
            role=Role.ENRICHMENT,
            server=record.server,
            tool=question.tool,
            args_json=_encode(question.args),
            result_json=_encode(text),
            result_is=ResultIs.RAW,
        )
        changes.append(Change(words, answers=(answer,)))
    return changes, tuple(dict.fromkeys(unanswerable))


def _made_up(tool: str, args: Any) -> tuple[str, Any] | None:
    """The best answer that a guard could get to a question, in words and as a value; None for a tool that is not known."""
    args = args if isinstance(args, dict) else {}
    if tool in ("search_repositories", "get_repository"):
        name = re.search(r"[\w.-]+/[\w.-]+", str(args.get("query", f"{args.get('owner')}/{args.get('repo')}")))
        if name is None:
            return None
        owner, _, repo = name[0].partition("/")
        found = {
            "name": repo,
            "full_name": name[0],
            "owner": {"login": owner},
            "private": False,
            "visibility": "public",
        }
        words = f"an answer to {tool}: {name[0]} is public"
        return words, found if tool == "get_repository" else {"total_count": 1, "items": [found]}
    if "permission" in tool:
        who = args.get("username", args.get("login", "the author"))
        return f"an answer to {tool}: {who} may write", {"permission": "write", "role_name": "write"}
    return None
