"""Answers given to the requests that are open at the same server: by ids where there are any, else by their order.

The gateway itself writes no id into a request, and most of its answers have the same placeholder, 1. But a log whose requests
have ids is believed: an answer is that of the open request with its id, and of one of them, by a guess, where clients count
for themselves and several have it. And the answers of servers that are asked over plain HTTP have running ids, in the order
of the requests. That tells nothing of an answer when it comes; once all requests are answered that were open at the same
time, it tells which answer is whose (`Settled`).

The first request that is open gets the answer, unless evidence says otherwise. A pair is ambiguous if more than one request
was open, or if its request was open at an earlier ambiguous pair: that one may have been its answer. Without the second
rule 9% of the pairs of a busy log are wrong and not marked.

Evidence that is proof (`evidence.py`) makes a pair certain, and then it leaves no doubt on the others. It must hold against
every request whose answer may still be on its way: the open ones, and those that were closed by a guess, because their own
answer may be this one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from guardpool.recordings.formats import evidence
from guardpool.recordings.formats.evidence import Shape, Thing

# Open requests of one server; concurrent calls are tens. Past it the older half is given up.
MAX_OPEN = 4096
# Servers with open requests; a gateway has some tens. Past it the one that came first is given up.
MAX_SERVERS = 4096
# Servers without an open request that are kept, because most calls come one after the other; a log names a few.
_MAX_IDLE = 64
# Evidence is looked for among so many only, so that a log of unanswered requests takes no quadratic time.
_MAX_COMPARED = 64
# What nearly all answers of the gateway have.
_PLACEHOLDER = b"1"
# What an error has that answers nothing in particular: no id.
_NULL = b"null"


class Open(msgspec.Struct, eq=False):
    """A request that waits for its answer. `what` is the feed's own record of it.

    `id` is the JSON of its id, if it has one; `is_by_id` tells of one that was answered whether its id said so.
    """

    server: str
    method: str
    args: bytes | None
    what: Any
    tool: str | None = None
    id: bytes | None = None
    is_by_id: bool = False


class Settled(NamedTuple):
    """A request of several that were open at the same time, and are all answered now, in their order.

    Attributes:
        request: the request.
        taken_from: the request of them that was given its answer by a guess; the same if the guess was right.
    """

    request: Open
    taken_from: Open


class _Guess(NamedTuple):
    """An answer while several requests were open: to which it was given, with what id, and whether that is in doubt."""

    request: Open
    answer_id: bytes | None
    is_ambiguous: bool


class _Server:
    """The requests of one server that are open, in their order. Without one, it is as if it were new."""

    __slots__ = ("are_ids_true", "doubtful", "guessed", "guesses", "is_lost", "last_id", "order", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Open] = []
        self.are_ids_true = False  # an answer had the id of a request, and no placeholder
        # Of the requests that were open at the same time: those in their order, the answers so far, and whether one of them
        # was given up.
        self.order: list[Open] = []
        self.guesses: list[_Guess] = []
        self.is_lost = False
        self.last_id: bytes | None = None  # of the answer before these
        self.doubtful: set[int] = set()  # ids of the records whose answer may be taken already
        # Requests that got an answer by a guess: theirs may come yet. Past `_MAX_COMPARED` nothing is proven.
        self.guessed: list[Open] = []


class OpenRequests:
    """The open requests of one run, by server, in their order.

    Attributes:
        settled: after an answer, the requests of which it is certain now which answer is theirs; empty if it was before.
    """

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self.settled: list[Settled] = []

    def add(self, request: Open) -> list[Open]:
        """Note a request; returns those that are given up, if there are too many: half of a server's, so that it is seldom."""
        if request.id == _NULL:
            request.id = None
        server = self._servers.get(request.server)
        given_up: list[Open] = []
        if server is None:
            if len(self._servers) >= MAX_SERVERS:
                given_up = self._servers.pop(next(iter(self._servers))).waiting
            server = self._servers[request.server] = _Server()
        waiting = server.waiting
        waiting.append(request)
        if len(waiting) <= MAX_OPEN:
            return given_up
        oldest = waiting[: MAX_OPEN // 2]
        del waiting[: MAX_OPEN // 2]
        server.is_lost = True
        server.doubtful = set(map(_identity, waiting))
        server.guessed = (server.guessed + oldest)[: _MAX_COMPARED + 1]
        return oldest

    def answer(
        self, server_id: str, text: bytes, *, is_error: bool, answer_id: bytes | None = None
    ) -> tuple[Open | None, bool]:
        """The request that an answer belongs to, no longer open; None if none is. And whether that is ambiguous.

        Args:
            server_id: who answered.
            text: the line.
            is_error: whether there was no answer, but an error of the transport.
            answer_id: the JSON of the answer's id.
        """
        if self.settled:
            self.settled = []
        if answer_id == _NULL:
            answer_id = None
        server = self._servers.get(server_id)
        if server is None or not server.waiting:
            return None, False
        if len(server.waiting) == 1 and not server.doubtful:
            request = server.waiting[0]
            is_ambiguous = False
            if request.id is not None and answer_id is not None and not _note_id(server, request, answer_id):
                if server.are_ids_true:
                    return None, False
                is_ambiguous = answer_id != _PLACEHOLDER
            server.waiting.pop()
            server.last_id = answer_id
            self._note_idle(server, server_id)
            return request, is_ambiguous
        return self._choose(server, server_id, text, is_error, answer_id)

    def _note_idle(self, server: _Server, server_id: str) -> None:
        """The last open request of a server was answered, so nothing can be mistaken from here on."""
        if server.guesses:
            self.settled = _settled(server)
            server.last_id = server.guesses[-1].answer_id
            server.guesses, server.order, server.is_lost = [], [], False
        if len(self._servers) > _MAX_IDLE:
            del self._servers[server_id]
        elif server.guessed:
            server.guessed.clear()

    def _choose(
        self, server: _Server, server_id: str, text: bytes, is_error: bool, answer_id: bytes | None
    ) -> tuple[Open | None, bool]:
        waiting = server.waiting
        alike = [] if answer_id is None else _with_id(server, answer_id)
        if answer_id is not None and not alike and server.are_ids_true and all(each.id is not None for each in waiting):
            return None, False
        # Clients count for themselves, so that one id may be of several requests.
        is_one = len(alike) == 1 and not any(each.id == answer_id for each in server.guessed)
        chosen = alike[0] if is_one else None
        if chosen is None and not is_error:
            chosen = _proven(server, alike or waiting, text)
        is_ambiguous = chosen is None and (len(waiting) > 1 or _identity(waiting[0]) in server.doubtful)
        if chosen is None:
            possible = alike or waiting
            chosen = possible[0] if is_error else _best(possible[:_MAX_COMPARED], text)
        if alike and answer_id is not None:
            _note_id(server, chosen, answer_id)
        _note_guess(server, _Guess(chosen, answer_id, is_ambiguous))
        waiting.remove(chosen)
        server.doubtful.discard(_identity(chosen))
        if not waiting:
            self._note_idle(server, server_id)
        elif is_ambiguous:
            server.doubtful.update(map(_identity, waiting))
            if len(server.guessed) <= _MAX_COMPARED:
                server.guessed.append(chosen)
        return chosen, is_ambiguous

    def in_doubt(self, server_id: str) -> list[Open]:
        """The open calls of a server whose answer another may have been given, the oldest first."""
        server = self._servers.get(server_id)
        if server is None or not server.doubtful:
            return []
        return [each for each in server.waiting if each.method == "tools/call" and _identity(each) in server.doubtful]

    def drop(self, server_id: str, what: object) -> None:
        """A request is given up; what else is open at its server may have had its answer."""
        server = self._servers[server_id]
        dropped = next(each for each in server.waiting if each.what is what)
        server.waiting.remove(dropped)
        server.is_lost = True
        server.guessed.append(dropped)
        server.doubtful = set(map(_identity, server.waiting))
        if not server.waiting:
            self._note_idle(server, server_id)

    def close_all(self) -> list[Open]:
        """Take out every request that is still open."""
        left = [each for server in self._servers.values() for each in server.waiting]
        self._servers.clear()
        return left


def _identity(request: Open) -> int:
    return id(request.what)


def _number(text: bytes | None) -> int | None:
    """An id that may be a running one."""
    return int(text) if text is not None and text.isdigit() and len(text) < 16 else None


def _note_id(server: _Server, request: Open, answer_id: bytes) -> bool:
    """Whether an answer has the id of a request."""
    if request.id != answer_id:
        return False
    server.are_ids_true |= answer_id != _PLACEHOLDER
    request.is_by_id = True
    return True


def _with_id(server: _Server, answer_id: bytes) -> list[Open]:
    """The open requests that have an answer's id. A placeholder says nothing where no other id was met."""
    if answer_id == _PLACEHOLDER and not server.are_ids_true:
        return []
    return [each for each in server.waiting if each.id == answer_id]


def _note_guess(server: _Server, guess: _Guess) -> None:
    if not server.is_lost:
        known = set(map(id, server.order))
        server.order += [each for each in server.waiting if id(each) not in known]
        server.is_lost = len(server.order) > _MAX_COMPARED
    if not server.is_lost or not server.guesses:
        server.guesses.append(guess)


def _settled(server: _Server) -> list[Settled]:
    """Whose the answers are that were guessed, by their running ids; empty where ids do not tell it."""
    guesses = server.guesses
    if server.is_lost or not any(guess.is_ambiguous for guess in guesses):
        return []
    by_id = {_number(guess.answer_id): guess for guess in guesses}
    if len(by_id) != len(guesses) or None in by_id:
        return []
    ids = sorted(each for each in by_id if each is not None)
    before = _number(server.last_id)
    if before is not None and before >= ids[0]:
        return []
    settled = [Settled(request, by_id[each].request) for request, each in zip(server.order, ids)]
    certain = {id(guess.request) for guess in guesses if not guess.is_ambiguous}
    for request, taken_from in settled:
        if request is not taken_from and (id(request) in certain or request.method != "tools/call"):
            return []
    return settled


def _proven(server: _Server, waiting: list[Open], text: bytes) -> Open | None:
    """The one of these requests that an answer must belong to; None where there are several, or too many to look at.

    That the others are excluded is not enough: something in the answer must speak for the request as well.
    """
    if len(server.waiting) + len(server.guessed) > _MAX_COMPARED:
        return None
    shape = evidence.shape_of(text)
    thing = evidence.thing_answered(text) if shape.is_of_a_call else None
    if any(_may_answer(each, shape, thing) for each in server.guessed):
        return None
    possible = [each for each in waiting if _may_answer(each, shape, thing)]
    if len(possible) != 1:
        return None
    (only,) = possible
    if not shape.is_of_a_call:
        return only if shape.listed is not None else None
    calls = [each for each in (*server.guessed, *server.waiting) if each.method == "tools/call"]
    if len(calls) == 1 or evidence.what_is_asked(only.tool, only.args) == thing:
        return only
    return None


def _may_answer(request: Open, shape: Shape, thing: Thing | None) -> bool:
    if shape.listed is not None:
        # The answer to a method that is not known may have any members.
        return request.method == shape.listed or not (
            evidence.is_listing(request.method) or request.method == "tools/call"
        )
    if shape.is_of_a_call and evidence.is_listing(request.method):
        return False
    if thing is None or request.method != "tools/call":
        return True
    return evidence.what_is_asked(request.tool, request.args).may_be_answered_with(thing)


def _best(waiting: list[Open], text: bytes) -> Open:
    """The request that an answer fits best; the oldest of those that fit equally well."""
    listed = evidence.shape_of(text).listed
    best, most = waiting[0], -100
    for each in waiting:
        if listed is not None or evidence.is_listing(each.method):
            score = 8 if each.method == listed else -8
        else:
            score = evidence.fit(each.args, text)
        if score > most:
            best, most = each, score
    return best
