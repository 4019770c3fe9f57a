"""Answers without ids, given to the requests that wait for them: against the truth of generated interleavings."""

from __future__ import annotations

import json
import random
from typing import NamedTuple

import pytest

from guardpool.recordings.formats.pairing import MAX_OPEN, MAX_SERVERS, Open, OpenRequests
from strategies import examples

NO_EVIDENCE = b"{}"


class Pair(NamedTuple):
    """What became of one answer."""

    is_right: bool
    is_marked: bool


def interleave(draw: random.Random, calls: int) -> list[Pair]:
    """Calls to one server, up to four at a time, whose answers come in any order and say nothing of their request."""
    requests = OpenRequests()
    running: list[int] = []
    pairs: list[Pair] = []
    asked = 0
    while asked < calls or running:
        if asked < calls and len(running) < 4 and (not running or draw.random() < 0.4):
            requests.add(Open("s", "tools/call", None, [asked]))
            running.append(asked)
            asked += 1
            continue
        answered = running.pop(draw.randrange(len(running)))
        found, is_marked = requests.answer("s", NO_EVIDENCE, is_error=False)
        assert found is not None
        pairs.append(Pair(found.what == [answered], is_marked))
    return pairs


class Request(NamedTuple):
    """A call of an interleaving, and the answer that it gets."""

    tool: str
    args: bytes
    answer: bytes


def about(owner: str, number: int, *, is_list: bool = False) -> bytes:
    """An answer whose own address is of an issue, or a list of one."""
    issue = {"html_url": f"https://github.com/{owner}/web/issues/{number}", "number": number, "body": "acme/web#7"}
    return of_call(json.dumps([issue] if is_list else issue))


def of_call(text: str) -> bytes:
    """The line of a call's answer."""
    return json.dumps({"payload": {"id": 1, "result": {"content": [{"type": "text", "text": text}]}}}).encode()


def draw_request(draw: random.Random) -> Request:
    """A request for one of few things, so that many are alike; a fifth of the answers does not say what it is about."""
    owner, number = draw.choice(("acme", "octo")), draw.choice((7, 71))
    tool = draw.choice(("issue_read", "issue_read", "get_issue", "list_issues", "search_issues"))
    args: dict[str, object] = {"owner": owner, "repo": "web", "issue_number": number}
    if tool == "issue_read":
        args["method"] = draw.choice(("get", "get_comments", "get_sub_issues"))
        if args["method"] == "get_sub_issues":
            return Request(tool, json.dumps(args).encode(), about(draw.choice(("acme", "octo")), 7, is_list=True))
    elif tool == "list_issues":
        del args["issue_number"]
        return Request(tool, json.dumps(args).encode(), about(owner, draw.choice((7, 71)), is_list=True))
    elif tool == "search_issues":
        return Request(tool, b'{"query":"x"}', about(draw.choice(("acme", "octo")), 7, is_list=True))
    return Request(tool, json.dumps(args).encode(), about(owner, number) if draw.random() < 0.8 else of_call("{}"))


def interleave_with_evidence(draw: random.Random, calls: int) -> list[Pair]:
    """As `interleave`, with answers that say what they are about."""
    requests = OpenRequests()
    running: list[tuple[int, Request]] = []
    pairs: list[Pair] = []
    asked = 0
    while asked < calls or running:
        if asked < calls and len(running) < 4 and (not running or draw.random() < 0.4):
            request = draw_request(draw)
            requests.add(Open("s", "tools/call", request.args, asked, request.tool))
            running.append((asked, request))
            asked += 1
            continue
        number, request = running.pop(draw.randrange(len(running)))
        found, is_marked = requests.answer("s", request.answer, is_error=False)
        assert found is not None
        pairs.append(Pair(found.what == number, is_marked))
    return pairs


def check_interleavings(count: int) -> None:
    draw = random.Random(4712)
    pairs = [pair for _ in range(count) for pair in interleave_with_evidence(draw, 6)]
    assert not [pair for pair in pairs if not pair.is_right and not pair.is_marked]
    assert any(not pair.is_right for pair in pairs)
    without = [pair for _ in range(count) for pair in interleave(draw, 6)]
    share = sum(pair.is_marked for pair in pairs) / len(pairs)
    assert share < 0.95 * sum(pair.is_marked for pair in without) / len(without)


def test_evidence_unmarks_pairs_and_never_a_wrong_one() -> None:
    check_interleavings(examples(1_000))


@pytest.mark.slow
def test_evidence_unmarks_no_wrong_pair_in_10_000_interleavings() -> None:
    check_interleavings(examples(10_000))


def open_of(tool: str, what: int, *, method: str = "tools/call", **args: object) -> Open:
    return Open("s", method, json.dumps(args).encode(), [what], tool)


def test_an_address_proves_a_pair_and_leaves_no_doubt_on_the_other() -> None:
    requests = OpenRequests()
    requests.add(open_of("get_issue", 0, owner="acme", repo="web", issue_number=7))
    requests.add(open_of("get_issue", 1, owner="acme", repo="web", issue_number=71))
    found, is_marked = requests.answer("s", about("acme", 71), is_error=False)
    assert (found is not None and found.what, is_marked) == ([1], False)
    found, is_marked = requests.answer("s", of_call("{}"), is_error=False)
    assert (found is not None and found.what, is_marked) == ([0], False)


def test_an_address_proves_nothing_if_a_guess_took_its_request_before() -> None:
    requests = OpenRequests()
    requests.add(open_of("get_issue", 0, owner="acme", repo="web", issue_number=7))
    requests.add(open_of("get_issue", 1, owner="octo", repo="web", issue_number=1))
    requests.add(open_of("get_issue_comments", 2, owner="acme", repo="web", issue_number=7))
    requests.answer("s", of_call("no address"), is_error=False)  # given to the oldest, and it is not that one's
    found, is_marked = requests.answer("s", about("acme", 7), is_error=False)
    assert (found is not None and found.what, is_marked) == ([2], True)


def test_an_address_within_a_text_that_somebody_wrote_proves_nothing() -> None:
    requests = OpenRequests()
    requests.add(open_of("get_issue", 0, owner="acme", repo="web", issue_number=7))
    requests.add(open_of("get_issue", 1, owner="octo", repo="web", issue_number=1))
    text = json.dumps({"title": "x", "issue": {"html_url": "https://github.com/acme/web/issues/7"}})
    assert requests.answer("s", of_call(text), is_error=False)[1]


def test_a_listing_and_a_call_are_told_apart_by_their_results() -> None:
    listing = b'{"payload":{"result":{"tools":[{"name":"a"}]}}}'
    for first, second in ((listing, of_call("[]")), (of_call("[]"), listing)):
        requests = OpenRequests()
        requests.add(open_of("a", 0))
        requests.add(open_of("", 1, method="tools/list"))
        wanted = [1] if first is listing else [0]
        found, is_marked = requests.answer("s", first, is_error=False)
        assert (found is not None and found.what, is_marked) == (wanted, False)
        assert requests.answer("s", second, is_error=False)[1] is False


def test_no_wrong_pair_is_unmarked_in_thousands_of_interleavings() -> None:
    draw = random.Random(4711)
    pairs = [pair for _ in range(examples(10_000)) for pair in interleave(draw, 6)]
    assert not [pair for pair in pairs if not pair.is_right and not pair.is_marked]
    # And neither everything is marked, nor is there nothing wrong to be marked.
    assert sum(pair.is_marked for pair in pairs) < 0.95 * len(pairs)
    assert any(not pair.is_right for pair in pairs)


def test_calls_one_after_the_other_are_never_marked() -> None:
    requests = OpenRequests()
    for at in range(100):
        requests.add(Open("s", "tools/call", None, [at]))
        found, is_marked = requests.answer("s", NO_EVIDENCE, is_error=False)
        assert (found is not None and found.what == [at], is_marked) == (True, False)


def test_requests_that_nobody_answers_do_not_grow_without_bound() -> None:
    requests = OpenRequests()
    half = MAX_OPEN // 2
    given_up = [each.what for at in range(MAX_OPEN + 1) for each in requests.add(Open("s", "tools/call", None, [at]))]
    assert given_up == [[at] for at in range(half)]
    found, is_marked = requests.answer("s", NO_EVIDENCE, is_error=False)
    assert (found is not None and found.what == [half], is_marked) == (True, True)
    assert len(requests.close_all()) == half
    assert requests.answer("s", NO_EVIDENCE, is_error=False) == (None, False)


def test_servers_that_never_answer_do_not_grow_without_bound() -> None:
    requests = OpenRequests()
    given_up = [requests.add(Open(f"s{at}", "tools/call", None, at)) for at in range(MAX_SERVERS + 2)]
    assert [[each.what for each in some] for some in given_up if some] == [[0], [1]]
    assert len(requests.close_all()) == MAX_SERVERS
