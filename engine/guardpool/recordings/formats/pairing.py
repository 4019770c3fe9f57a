"""Answers without usable ids, given to the requests that are open at the same server.

The first request that is open gets the answer, unless evidence says otherwise. A pair is ambiguous if more than one request
was open, or if its request was open at an earlier ambiguous pair: that one may have been its answer. Without the second
rule 9% of the pairs of a busy log are wrong and not marked.

Evidence that is proof (`evidence.py`) makes a pair certain, and then it leaves no doubt on the others. It must hold against
every request whose answer may still be on its way: the open ones, and those that were closed by a guess, because their own
answer may be this one.
"""

from __future__ import annotations

from typing import Any

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


class Open(msgspec.Struct, eq=False):
    """A request that waits for its answer. `what` is the feed's own record of it."""

    server: str
    method: str
    args: bytes | None
    what: Any
    tool: str | None = None


class _Server:
    """The requests of one server that are open, in their order. Without one, it is as if it were new."""

    __slots__ = ("doubtful", "guessed", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Open] = []
        self.doubtful: set[int] = set()  # ids of the records whose answer may be taken already
        # Requests that got an answer by a guess: theirs may come yet. Past `_MAX_COMPARED` nothing is proven.
        self.guessed: list[Open] = []


class OpenRequests:
    """The open requests of one run, by server, in their order."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}

    def add(self, request: Open) -> list[Open]:
        """Note a request; returns those that are given up, if there are too many: half of a server's, so that it is seldom."""
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
        server.doubtful = {id(each.what) for each in waiting}
        server.guessed = (server.guessed + oldest)[: _MAX_COMPARED + 1]
        return oldest

    def answer(self, server_id: str, text: bytes, *, is_error: bool) -> tuple[Open | None, bool]:
        """The request that an answer belongs to, no longer open; None if none is open. And whether that is ambiguous."""
        server = self._servers.get(server_id)
        if server is None or not server.waiting:
            return None, False
        if len(server.waiting) == 1 and not server.doubtful:
            request = server.waiting.pop()
            self._note_idle(server, server_id)
            return request, False
        return self._choose(server, server_id, text, is_error)

    def _note_idle(self, server: _Server, server_id: str) -> None:
        """The last open request of a server was answered, so nothing can be mistaken from here on."""
        if len(self._servers) > _MAX_IDLE:
            del self._servers[server_id]
        elif server.guessed:
            server.guessed.clear()

    def _choose(self, server: _Server, server_id: str, text: bytes, is_error: bool) -> tuple[Open, bool]:
        waiting = server.waiting
        chosen = None if is_error else _proven(server, text)
        is_ambiguous = chosen is None and (len(waiting) > 1 or id(waiting[0].what) in server.doubtful)
        if chosen is None:
            chosen = waiting[0] if is_error else _best(waiting[:_MAX_COMPARED], text)
        waiting.remove(chosen)
        server.doubtful.discard(id(chosen.what))
        if not waiting:
            self._note_idle(server, server_id)
        elif is_ambiguous:
            server.doubtful.update(id(each.what) for each in waiting)
            if len(server.guessed) <= _MAX_COMPARED:
                server.guessed.append(chosen)
        return chosen, is_ambiguous

    def in_doubt(self, server_id: str) -> list[Open]:
        """The open calls of a server whose answer another may have been given, the oldest first."""
        server = self._servers.get(server_id)
        if server is None or not server.doubtful:
            return []
        return [each for each in server.waiting if each.method == "tools/call" and id(each.what) in server.doubtful]

    def drop(self, server_id: str, what: object) -> None:
        """A request is given up; what else is open at its server may have had its answer."""
        server = self._servers[server_id]
        dropped = next(each for each in server.waiting if each.what is what)
        server.waiting.remove(dropped)
        server.guessed.append(dropped)
        server.doubtful = {id(other.what) for other in server.waiting}
        if not server.waiting:
            self._note_idle(server, server_id)

    def close_all(self) -> list[Open]:
        """Take out every request that is still open."""
        left = [each for server in self._servers.values() for each in server.waiting]
        self._servers.clear()
        return left


def _proven(server: _Server, text: bytes) -> Open | None:
    """The request that an answer must belong to; None where there are several, or too many to look at.

    That the others are excluded is not enough: something in the answer must speak for the request as well.
    """
    if len(server.waiting) + len(server.guessed) > _MAX_COMPARED:
        return None
    shape = evidence.shape_of(text)
    thing = evidence.thing_answered(text) if shape.is_of_a_call else None
    if any(_may_answer(each, shape, thing) for each in server.guessed):
        return None
    possible = [each for each in server.waiting if _may_answer(each, shape, thing)]
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
