"""Guards' own questions told from the agent's calls, by asking the guards again.

A gateway's log has what its guards asked their backend as calls like any other: the questions of `label_resource` stand
directly before the agent's call, those of `label_response` directly after its answer. So each call is labelled once more, in
the order of the log, by the guard of its server, whose questions are answered from the log. What the guard asks is
`enrichment`, and what is left is the agent's. Questions about a call that was denied stay the agent's: its arguments are not
in the log, so nobody can ask again.

A guard that remembers does not ask twice. One that starts anew here may ask for what its earlier run knew before the log began:
a question that the log has no answer to fails, and is counted. Some questions are never in a log.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import count
from threading import Lock
from typing import Any, NamedTuple, Protocol

import msgspec

from guardpool.backends.asking import JOB_THAT_ASKS, ask
from guardpool.guard import Backend
from guardpool.jobs import Prepared
from guardpool.outcomes import Outcome
from guardpool.recordings.call import Call, Role, error_text
from guardpool.recordings.json_text import FAILURES
from guardpool.sizes import MIB

# How far a question may stand from its call: concurrent calls of a gateway are tens.
_WINDOW_CALLS = 400
_WINDOW_BYTES = 64 * MIB
# A question that may be one of a later call is not labelled before that call, if it comes so soon.
_NEAR_CALLS = 40
# Jobs that are handed in ahead of their outcomes: enough to fill a worker's frames, and few in comparison with the window.
_MOST_RUNNING = 128
# Calls that come into the window before the next ones are labelled.
_AT_ONCE_CALLS = 64
# Answers that a guard may ask for again, by question.
_MAX_KNOWN = 10_000

# Looking a member up in its enumeration takes much longer until Python 3.11.
_AGENT, _CANDIDATE, _ENRICHMENT = Role.AGENT, Role.CANDIDATE, Role.ENRICHMENT

_canonical = msgspec.json.Encoder(order="deterministic").encode


class NoAnswer(LookupError):
    """The recording has no answer to a question, or only an error."""


class LabelledCall(NamedTuple):
    """A call and what became of its labellings; None where nothing was asked."""

    call: Call
    resource: Outcome | None = None
    response: Outcome | None = None


class Labelling(Protocol):
    """Has calls labelled by the guards of their servers, one after the other, in the order in which jobs are put."""

    def resource_job(self, call: Call) -> Prepared | None:
        """The job that asks about a call; None if nobody can be asked."""

    def response_job(self, call: Call) -> Prepared | None:
        """The job that asks about its result; None if nobody can be asked."""

    def put(self, job: Prepared) -> None:
        """Have a job labelled; it may wait for others."""

    def flush(self, *, until_taken: bool = False) -> None:
        """Let none wait for others any more. `until_taken`: return when the guards are about to have them."""

    def next(self) -> Outcome:
        """Wait for the outcome of the next job, in the order in which they were put."""


class _Held:
    """A call within the window."""

    __slots__ = ("_key", "asked", "at", "call", "is_claimed", "is_labelled", "resource", "response", "role")

    def __init__(self, at: int, call: Call) -> None:
        self.at = at
        self.call = call
        self.role = call.role
        self.is_claimed = False  # by a guard's question that is not taken account of yet
        self.is_labelled = False  # by `label_resource`
        self.asked: list[dict[str, Any]] = []
        self.resource: Outcome | None = None
        self.response: Outcome | None = None
        self._key: bytes | None = b""  # not known yet

    @property
    def is_question(self) -> bool:
        """Whether a guard asked it."""
        return self.role is _ENRICHMENT

    @property
    def key(self) -> bytes | None:
        """What makes it the same question as another call; most calls are never compared with any."""
        if self._key == b"":
            call = self.call
            self._key = _key(call.server, call.tool, call.args) if call.tool is not None else None
        return self._key

    def labelled(self) -> LabelledCall:
        """The call with its role, what was asked for it, and its outcomes."""
        call, asked = self.call, self.asked
        if asked or call.role is not self.role:
            call = msgspec.structs.replace(call, role=self.role, enrichment=(*call.enrichment, *asked))
        return LabelledCall(call, self.resource, self.response)


class _Running(NamedTuple):
    """A job that was handed in."""

    held: _Held
    is_response: bool


class Questions:
    """Tells the questions of some servers' guards from the agent's calls.

    Use `answer(server)` as the backend of each guard, and `told` for the calls.

    Calls of which no guard can ask, as far as is known, are handed in ahead of their outcomes. Before any other call, and after
    64 of them, all outcomes are waited for, and only then is taken account of what was asked meanwhile: so nothing depends on
    how quick the guards are.

    Args:
        servers: those that have a guard.

    Attributes:
        asked: questions of the guards so far, by tool.
        missing: those that nobody answered, by tool: neither the recording nor the guard's own backend, if it has one.
        own_answers: ids of calls that answered a question of their own guards.
    """

    def __init__(self, servers: Collection[str]) -> None:
        self.asked: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.own_answers: set[str] = set()
        self._servers = servers
        self._window: deque[_Held] = deque()
        self._by_tool: dict[tuple[str | None, str], deque[_Held]] = {}  # the calls of the window, by server and tool
        self._known: OrderedDict[bytes, Call] = OrderedDict()
        self._tools: set[str] = set()  # that guards were seen to ask for
        self._bytes = 0
        self._running: deque[_Running] = deque()
        self._jobs: dict[Any, _Running] = {}  # those, by the ids of the jobs
        self._claimed: list[_Held] = []
        self._done: list[LabelledCall] = []  # to be handed out
        # Guards ask on other threads, while calls are read on.
        self._lock = Lock()

    def answer(self, server: str, own: Backend | None = None) -> Callable[[str, Any], Any]:
        """The backend of a server's guard, to be called while `told` runs.

        Args:
            server: its id.
            own: answers instead of the recording, whose questions are told all the same.
        """

        def backend(tool: str, args: Any) -> Any:
            with self._lock:
                call = self._answer(server, tool, args)
                self.asked[tool] += 1
                if own is None and call is None:
                    self.missing[tool] += 1
            return _answer_of(call, tool) if own is None else self._ask(own, tool, args)

        return backend

    def _ask(self, own: Backend, tool: str, args: Any) -> Any:
        try:
            return ask(own, tool, args)
        except Exception:
            with self._lock:
                self.missing[tool] += 1
            raise

    def told(self, calls: Iterable[Call], labelling: Labelling) -> Iterator[list[LabelledCall]]:
        """The same calls in the same order, some at a time, with their roles, what was asked for each, and their labels.

        Calls of servers without a guard stay as they are.

        Args:
            calls: of one log.
            labelling: by a pool whose guards have `answer` for a backend.
        """
        ahead: deque[_Held] = deque()  # the part of the window that is still to be labelled
        for held in map(_Held, count(), calls):
            self._hold(held)
            ahead.append(held)
            if len(ahead) >= _WINDOW_CALLS + _AT_ONCE_CALLS or self._bytes > _WINDOW_BYTES:
                yield from self._label(ahead, _WINDOW_CALLS, labelling)
        yield from self._label(ahead, 0, labelling)
        self._wait(labelling)
        while self._window:
            self._let_go()
        yield self._done

    def _label(self, ahead: deque[_Held], most: int, labelling: Labelling) -> Iterator[list[LabelledCall]]:
        """Have calls labelled until so many are left that are not; what came to its end by then."""
        while len(ahead) > most or (ahead and self._bytes > _WINDOW_BYTES):
            held = ahead.popleft()
            if held.call.server in self._servers and not held.is_question:
                if self._may_be_one(held) or len(self._running) >= _MOST_RUNNING:
                    yield from self._while_guards_work(labelling, len(self._done) // 2)
                    self._wait(labelling)
                if self._may_be_one(held) and not held.is_question:
                    self._ask_for_next(held, ahead, labelling)
                    yield from self._while_guards_work(labelling)
                    self._wait(labelling)
                if not held.is_question:
                    held.role = _AGENT
                    self._resource(held, labelling)
                    self._run(held, labelling.response_job(held.call), labelling, is_response=True)
            self._let_go_behind(held, labelling)
        yield from self._while_guards_work(labelling)

    def _while_guards_work(self, labelling: Labelling, left: int = 0) -> Iterator[list[LabelledCall]]:
        """Hand in what the guards are to label, and meanwhile hand out what came to its end, but for so many calls."""
        count = len(self._done) - left
        labelling.flush(until_taken=count > 0)
        if count > 0:
            done = self._done[:count]
            del self._done[:count]
            yield done

    def _let_go_behind(self, held: _Held, labelling: Labelling) -> None:
        """Let go what no question can be told from any more, now that `held` is being labelled."""
        # Those behind the first that is not labelled stay for a while: they may be questions about an answer before them.
        first = self._running[0].held if self._running else held
        if self._bytes > _WINDOW_BYTES and self._window[0] is first:
            self._wait(labelling)
            first = held
        while self._window[0].at < first.at - _WINDOW_CALLS or (
            self._window[0] is not first and self._bytes > _WINDOW_BYTES
        ):
            self._let_go()

    def _hold(self, held: _Held) -> None:
        call = held.call
        with self._lock:
            self._window.append(held)
            self._bytes += _size(call)
            if call.tool is not None:
                alike = self._by_tool.get((call.server, call.tool))
                if alike is None:
                    alike = self._by_tool[call.server, call.tool] = deque()
                alike.append(held)

    def _let_go(self) -> None:
        with self._lock:
            held = self._window.popleft()
            call = held.call
            self._bytes -= _size(call)
            if call.tool is not None:
                alike = self._by_tool[call.server, call.tool]
                alike.popleft()  # they are let go in the order in which they came
                if not alike:
                    del self._by_tool[call.server, call.tool]
        self._done.append(held.labelled())

    def _may_be_one(self, held: _Held) -> bool:
        """Whether a guard may have asked a call, as far as is known."""
        return held.role is _CANDIDATE or held.call.tool in self._tools

    def _ask_for_next(self, held: _Held, ahead: deque[_Held], labelling: Labelling) -> None:
        """Have the next call that is no question itself labelled first: `held` may be its question."""
        for number, each in enumerate(ahead):
            if number >= _NEAR_CALLS:
                return
            # Not by its role: tools that guards of GitHub may ask for are called by agents, too.
            may_be_one = each.call.tool == held.call.tool or each.call.tool in self._tools
            if each.call.server == held.call.server and not may_be_one:
                self._resource(each, labelling)
                return

    def _resource(self, held: _Held, labelling: Labelling) -> None:
        if not held.is_labelled:
            held.is_labelled = True
            self._run(held, labelling.resource_job(held.call), labelling, is_response=False)

    def _run(self, held: _Held, job: Prepared | None, labelling: Labelling, *, is_response: bool) -> None:
        if job is None:
            return
        running = _Running(held, is_response)
        with self._lock:  # its guard's first question may come at once
            self._jobs[job.id] = running
        self._running.append(running)
        labelling.put(job)

    def _wait(self, labelling: Labelling) -> None:
        """Wait for the jobs that were handed in, and take account of what they asked."""
        for held, is_response in self._running:
            outcome = labelling.next()
            if is_response:
                held.response = outcome
            else:
                held.resource = outcome
        self._running.clear()
        with self._lock:
            self._jobs.clear()
            self._tools.update(self.asked)
            for held in self._claimed:
                held.role = _ENRICHMENT
            self._claimed.clear()

    def _answer(self, server: str, tool: str, args: Any) -> Call | None:
        """The call of the recording that answers a question; it is told to be that question."""
        running = self._jobs.get(JOB_THAT_ASKS.get())
        current = None if running is None else running.held
        key = _key(server, tool, args)
        found = None if running is None else self._nearest(server, tool, key, running)
        if found is not None:
            found.is_claimed = True
            self._claimed.append(found)
            self._remember(key, found.call)
        call = found.call if found is not None else self._known.get(key or b"")
        if call is None and current is not None and current.key == key is not None:
            # The call is what its guard asks: its own answer is the answer, and stays the only one if the guard asked it about
            # a call that nobody can label again.
            call = current.call
            self.own_answers.add(call.call)
            self._remember(key, call)
        if current is not None and found is not None:
            answer = {"result": found.call.result} if _is_answered(found.call) else {"error": _error_of(found.call)}
            current.asked.append({"tool": tool, "args": args, **answer})
        return call

    def _nearest(self, server: str, tool: str, key: bytes | None, running: _Running) -> _Held | None:
        """The occurrence of a question that belongs to the call: the last one before it, or the first one after it."""
        if key is None:
            return None
        at = running.held.at
        alike = self._by_tool.get((server, tool), ())
        if running.is_response:
            near = [each for each in alike if at < each.at <= at + _WINDOW_CALLS]
        else:
            near = [each for each in reversed(alike) if at - _WINDOW_CALLS <= each.at < at]
        return next((each for each in near if not each.is_question and not each.is_claimed and each.key == key), None)

    def _remember(self, key: bytes | None, call: Call) -> None:
        if key is None:
            return
        self._known[key] = call
        self._known.move_to_end(key)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def _is_answered(call: Call) -> bool:
    return call.result_json is not None and call.result_is.is_answer


def _error_of(call: Call) -> str:
    return error_text(call.error) or "no answer was recorded"


def _answer_of(call: Call | None, tool: str) -> Any:
    """What the recording answers. Raises `NoAnswer`."""
    if call is None:
        raise NoAnswer(f"the recording has no answer to {tool}")
    if not _is_answered(call):
        raise NoAnswer(f"{tool} failed: {_error_of(call)}")
    return call.result


def _key(server: str | None, tool: str | None, args: Any) -> bytes | None:
    """What makes two questions the same; None for arguments that cannot be compared."""
    try:
        return _canonical([server, tool, args])
    except (*FAILURES, TypeError):
        return None


def _size(call: Call) -> int:
    return len(call.result_json or b"") + len(call.args_json or b"") + 500
