"""What an answer itself tells about the request it belongs to.

Fit is a guess: an answer that names the repository of a request fits it better than another. Proof is more: an answer that
is about one issue or pull request by the address in the member where GitHub's answers have it, and a request for that
number. A text that a stranger wrote cannot prove anything, because it stands deeper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from guardpool.recordings.json_text import FAILURES, value_of

_LISTS = {"tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources"}
_NUMBERS = ("issue_number", "pull_number", "pullNumber", "discussionNumber", "number")
_ADDRESS = re.compile(r"https?://[^/\s]+/([^/\s]+)/([^/\s]+)/(?:issues|pull|discussions)/(\d{1,18})(?![\d])")
# What a search is bound to, which is how guards ask whether a repository is public.
_SEARCHED = re.compile(r"(?:^|\s)repo:([^/\s]+/[^/\s]+)")
# A longer text is not decoded: evidence is looked for in answers about one thing.
_MAX_TEXT_CHARS = 1_000_000

Thing = tuple[str, str, int]
# Tools whose answer is about the one thing that was asked for, with the only values of `method` for which that is so: the
# parent of an issue, or its parts, may be in any repository.
_ABOUT_ONE = frozenset(
    (
        *(
            "get_issue",
            "get_issue_comments",
            "get_pull_request",
            "get_pull_request_comments",
            "get_pull_request_reviews",
        ),
        *("issue_read", "pull_request_read", "get_discussion", "get_discussion_comments"),
    )
)
_METHODS_ABOUT_ONE = frozenset((None, "get", "get_comments", "get_reviews", "get_review_comments"))
# Tools whose answers have things of the repository that was asked for, and of no other.
_OF_ONE_REPOSITORY = frozenset(("list_issues", "list_pull_requests", "list_discussions"))


class _Item(msgspec.Struct, gc=False):
    html_url: str | None = None


class _Block(msgspec.Struct, gc=False):
    text: str = ""


class _Result(msgspec.Struct):
    content: list[_Block] = []


class _Payload(msgspec.Struct):
    result: _Result | None = None


class _Line(msgspec.Struct):
    payload: _Payload | None = None


class _Members(msgspec.Struct):
    result: dict[str, msgspec.Raw] | None = None


class _LineOfMembers(msgspec.Struct):
    payload: _Members | None = None


class _Args(msgspec.Struct, gc=False):
    owner: str | None = None
    repo: str | None = None
    issue_number: int | None = None
    pull_number: int | None = None
    pull: int | None = msgspec.field(name="pullNumber", default=None)
    discussion: int | None = msgspec.field(name="discussionNumber", default=None)
    number: int | None = None
    method: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_members = msgspec.json.Decoder(_LineOfMembers).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_items = msgspec.json.Decoder(list[_Item]).decode
_decode_args = msgspec.json.Decoder(_Args).decode


class Shape(NamedTuple):
    """What the members of an answer's result say of its request's method."""

    listed: str | None = None  # the method, such as `"tools/list"`, whose answer this must be
    is_of_a_call: bool = False  # only a call's answer has content


_NO_SHAPE = Shape()


def shape_of(text: bytes) -> Shape:
    """The shape of an answer's result: of its own members, not of those deeper in it."""
    try:
        payload = _decode_members(text).payload
    except FAILURES:
        return _NO_SHAPE
    members = payload.result if payload is not None and payload.result is not None else {}
    if "content" in members:
        return Shape(is_of_a_call=bytes(members["content"])[:1] == b"[")
    return Shape(
        next((method for method, member in _LISTS.items() if bytes(members.get(member, b""))[:1] == b"["), None)
    )


def is_listing(method: str) -> bool:
    """Whether a method's answer is told by its members."""
    return method in _LISTS


class Asked(NamedTuple):
    """What a request is about, as far as its answer must be about the same; None where that is not known."""

    owner: str | None = None
    repo: str | None = None
    number: int | None = None

    def may_be_answered_with(self, thing: Thing) -> bool:
        """Whether an answer that is about `thing` can be this request's."""
        return self.owner is None or ((self.owner, self.repo) == thing[:2] and self.number in (None, thing[2]))


_ANYTHING = Asked()


def what_is_asked(tool: str | None, args: bytes | None) -> Asked:
    """What a call of a tool is about, told by the tools of GitHub's server that are known to answer with just that."""
    if args is None or (tool not in _ABOUT_ONE and tool not in _OF_ONE_REPOSITORY):
        return _ANYTHING
    try:
        asked = _decode_args(args)
    except FAILURES:
        return _ANYTHING
    if not asked.owner or not asked.repo:
        return _ANYTHING
    owner, repo = asked.owner.lower(), asked.repo.lower()
    if tool in _OF_ONE_REPOSITORY:
        return Asked(owner, repo)
    all_numbers = (asked.issue_number, asked.pull_number, asked.pull, asked.discussion, asked.number)
    numbers = {number for number in all_numbers if number is not None}
    if len(numbers) != 1 or asked.method not in _METHODS_ABOUT_ONE:
        return _ANYTHING
    return Asked(owner, repo, numbers.pop())


def thing_answered(text: bytes) -> Thing | None:
    """The one issue, pull request or discussion that an answer's own address is of; None where there is no such address."""
    try:
        payload = _decode_line(text).payload
        content = payload.result.content if payload is not None and payload.result is not None else []
        if len(content) != 1 or len(content[0].text) > _MAX_TEXT_CHARS:
            return None
        inner = content[0].text.strip()
        items: Sequence[_Item] = _decode_items(inner) if inner[:1] == "[" else [_decode_item(inner)]
    except FAILURES:
        return None
    things = {_thing_at(each.html_url) for each in items}
    return things.pop() if len(things) == 1 else None


def _thing_at(address: str | None) -> Thing | None:
    found = _ADDRESS.match(address or "")
    return None if found is None else (found[1].lower(), found[2].lower(), int(found[3]))


def fit(args: bytes | None, text: bytes) -> int:
    """How well an answer fits a request: more is better, 0 says nothing."""
    asked = None if args is None else value_of(args)
    if not isinstance(asked, dict):
        return 0
    score = 0
    owner, repo, query = asked.get("owner"), asked.get("repo"), asked.get("query")
    named = f"{owner}/{repo}" if isinstance(owner, str) and isinstance(repo, str) and owner and repo else None
    if named is None and isinstance(query, str):
        searched = _SEARCHED.search(query)
        named = None if searched is None else searched[1]
    if named is not None:
        score += 2 if named.encode("utf-8", "replace") in text else 0
    for name in _NUMBERS:
        number = asked.get(name)
        if isinstance(number, int) and re.search(rb'number\\?"\s*:\s*%d(?!\d)|/%d(?!\d)' % (number, number), text):
            score += 1
    return score
