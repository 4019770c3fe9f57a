"""Answers without usable ids, given to the requests that are open at the same server.

The first request that is open gets the answer, unless evidence says otherwise. A pair is ambiguous if more than one request
was open, or if its request was open at an earlier ambiguous pair: that one may have been its answer. Without the second
rule 9% of the pairs of a busy log are wrong and not marked.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

# Open requests of one server; concurrent calls are tens. Past it the older half is given up.
MAX_OPEN = 4096
# Evidence is looked for among so many only, so that a log of unanswered requests takes no quadratic time.
_MAX_COMPARED = 64
_LISTS = {f"{what}/list": re.compile(rb'"%b"\s*:\s*\[' % what.encode()) for what in ("tools", "prompts", "resources")}
# A quote within a text is escaped, so this is a member; one of an input schema is an object.
_CONTENT = re.compile(rb'"content"\s*:\s*\[')
_NUMBERS = ("issue_number", "pull_number", "pullNumber", "discussionNumber", "number")


class Open(NamedTuple):
    """A request that waits for its answer. `what` is the feed's own record of it."""

    server: str
    method: str
    args: bytes | None
    what: Any


class OpenRequests:
    """The open requests of one run, by server, in their order."""

    def __init__(self) -> None:
        self._open: dict[str, list[Open]] = {}
        self._doubtful: set[int] = set()  # ids of the records whose answer may be taken already

    def add(self, request: Open) -> list[Open]:
        """Note a request; returns those that are given up, if there are too many: half of them, so that it is seldom."""
        waiting = self._open.setdefault(request.server, [])
        waiting.append(request)
        if len(waiting) <= MAX_OPEN:
            return []
        oldest = waiting[: MAX_OPEN // 2]
        del waiting[: MAX_OPEN // 2]
        self._doubtful.difference_update(id(each.what) for each in oldest)
        self._doubtful.update(id(each.what) for each in waiting)
        return oldest

    def answer(self, server: str, text: bytes, *, is_error: bool) -> tuple[Open | None, bool]:
        """The request that an answer belongs to, no longer open; None if none is open. And whether that is ambiguous."""
        waiting = self._open.get(server)
        if not waiting:
            return None, False
        if len(waiting) == 1:
            request = self._open.pop(server)[0]
            if not self._doubtful:
                return request, False
            is_doubtful = id(request.what) in self._doubtful
            self._doubtful.discard(id(request.what))
            return request, is_doubtful
        at = 0 if is_error else _best(waiting[:_MAX_COMPARED], text)
        request = waiting.pop(at)
        self._doubtful.discard(id(request.what))
        self._doubtful.update(id(each.what) for each in waiting)
        return request, True

    def drop(self, what: object) -> None:
        """A request is given up; what else is open at its server may have had its answer."""
        for waiting in self._open.values():
            for at, each in enumerate(waiting):
                if each.what is what:
                    del waiting[at]
                    self._doubtful.discard(id(what))
                    self._doubtful.update(id(other.what) for other in waiting)
                    return

    def close_all(self) -> list[Open]:
        """Every request that is open; none is any more."""
        left = [each for waiting in self._open.values() for each in waiting]
        self._open.clear()
        self._doubtful.clear()
        return left


def _best(waiting: list[Open], text: bytes) -> int:
    """Which request an answer fits best; the oldest of those that fit equally well."""
    scores = [_fit(each, text) for each in waiting]
    return scores.index(max(scores))


def what_is_listed(text: bytes) -> str | None:
    """The method, such as `"tools/list"`, whose answer this must be; None for the answer of a call."""
    listed = next((method for method, member in _LISTS.items() if member.search(text)), None)
    return None if listed is None or _CONTENT.search(text) else listed


def _fit(request: Open, text: bytes) -> int:
    listed = what_is_listed(text)
    if listed is not None or request.method in _LISTS:
        return 8 if request.method == listed else -8
    if request.args is None:
        return 0
    try:
        args = msgspec.json.decode(request.args)
    except (msgspec.MsgspecError, RecursionError):
        return 0
    score = 0
    owner, repo = args.get("owner"), args.get("repo")
    if isinstance(owner, str) and isinstance(repo, str) and owner and repo:
        score += 2 if f"{owner}/{repo}".encode("utf-8", "replace") in text else 0
    for name in _NUMBERS:
        number = args.get(name)
        if isinstance(number, int) and re.search(rb'number\\?"\s*:\s*%d(?!\d)|/%d(?!\d)' % (number, number), text):
            score += 1
    return score
