"""Answers without ids, given to the requests that wait for them: against the truth of generated interleavings."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from guardpool import recordings
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


@pytest.mark.parametrize("query", ["repo:acme/api", "is:open repo:acme/api wasm"])
def test_an_answer_that_names_the_repository_of_a_search_is_the_likelier_one(query: str) -> None:
    requests = OpenRequests()
    requests.add(open_of("get_file_contents", 1, owner="acme", repo="web"))
    requests.add(open_of("search_repositories", 2, query=query, perPage=10))
    found, is_marked = requests.answer("s", of_call('{"items":[{"full_name":"acme/api"}]}'), is_error=False)
    assert found is not None
    assert (found.what, is_marked) == ([2], True)


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


# --- ids


def log_of(draw: random.Random, calls: int, ids: str, lost: float = 0.0) -> tuple[list[str], list[int | None]]:
    """A log of calls that run up to four at a time, and for each whose answer it has.

    `ids`: `requests` (both sides have one), `answers` (running ids in answers alone), or `placeholder`.
    """
    lines: list[str] = []
    running: list[tuple[int, int]] = []
    truth: list[int | None] = []
    counter = 5
    while len(truth) < calls or running:
        if len(truth) < calls and len(running) < 4 and (not running or draw.random() < 0.4):
            counter += draw.randrange(1, 3)  # others take numbers, too
            number = len(truth)
            tool = draw.choice(("search_issues", "search_code"))
            lines.append(request(counter if ids == "requests" else None, tool, query=f"{number}"))
            running.append((number, counter))
            truth.append(number)
            continue
        number, own = running.pop(draw.randrange(len(running)))
        if draw.random() < lost:
            truth[number] = None
            continue
        lines.append(answer(1 if ids == "placeholder" else own, f"of {number}"))
    return lines, truth


def line_of(event: str, payload: dict[str, object], **members: object) -> str:
    head = {"timestamp": "2026-08-15T23:48:42.233Z", "event": event, "_schema": "rpc-message/v2", "server_id": "s"}
    return json.dumps({**head, **members, "payload": payload})


def request(number: int | None, name: str = "get_me", **args: object) -> str:
    """The line of a call to a tool; `number`: its id, if it has one."""
    known_as = {} if number is None else {"id": number}
    payload = {**known_as, "method": "tools/call", "params": {"name": name, "arguments": args}}
    return line_of("rpc_request", payload, method="tools/call")


def answer(number: int, text: str = "") -> str:
    """The line of a result with an id."""
    return line_of("rpc_response", {"id": number, "result": {"content": [{"type": "text", "text": text}]}})


def read_lines(folder: Path, lines: list[str]) -> list[recordings.Call]:
    """The calls of a gateway's log."""
    path = folder / "rpc-messages.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return list(recordings.read(path))


def read_pairs(folder: Path, ids: str, lost: float = 0.0, seed: int = 7, logs: int = 50) -> Counter[tuple[str, bool]]:
    """How the calls of some logs were paired, and whether rightly."""
    draw = random.Random(seed)
    counts: Counter[tuple[str, bool]] = Counter()
    for _ in range(logs):
        lines, truth = log_of(draw, 12, ids, lost)
        calls = [call for call in read_lines(folder, lines) if call.tool is not None]
        for call in calls:
            text = call.result["content"][0]["text"] if call.result is not None else None
            owner = truth[int(call.args["query"])]
            counts[call.pairing.value, text == (None if owner is None else f"of {owner}")] += 1
    return counts


def test_an_answer_belongs_to_the_request_with_its_id_where_requests_have_ids(tmp_path: Path) -> None:
    assert read_pairs(tmp_path, "requests") == {("id", True): 600}
    counts = read_pairs(tmp_path, "requests", lost=0.2)
    assert {pairing for pairing, is_right in counts if not is_right} <= {"ambiguous"}
    assert counts["ambiguous", False] + counts["ambiguous", True] < 0.03 * counts.total()


def test_running_ids_of_answers_tell_whose_they_are(tmp_path: Path) -> None:
    without = read_pairs(tmp_path, "placeholder")
    assert without["ambiguous", False] > 150
    counts = read_pairs(tmp_path, "answers")
    assert set(counts) == {("id", True), ("order", True)}
    counts = read_pairs(tmp_path, "answers", lost=0.1)
    assert {pairing for pairing, is_right in counts if not is_right} <= {"ambiguous", "unmatched"}


def test_events_go_with_the_answer_that_was_given_back(tmp_path: Path) -> None:
    lines = [request(None, "search_issues", query=f"{number}") for number in (1, 2)]
    for number in (2, 1):
        item = json.dumps([{"html_url": f"https://github.com/o/r/issues/{number}"}])
        result = {"content": [{"type": "text", "text": item}], "_meta": {"ifc": {"n": number}}}
        lines.append(line_of("rpc_response", {"id": 40 + number, "result": result}))
        event = {
            "event": "difc_filtered",
            "_schema": "difc-filtered/v2",
            "server_id": "s",
            "tool_name": "search_issues",
        }
        about = {"description": f"issue:o/r#{number}", "html_url": f"https://github.com/o/r/issues/{number}"}
        lines.append(json.dumps({**event, **about, "secrecy_tags": [], "integrity_tags": []}))
    for number, call in enumerate(read_lines(tmp_path, lines), 1):
        assert (call.args["query"], call.source_id, call.pairing.value) == (str(number), str(40 + number), "id")
        assert f"issues/{number}" in str(call.result)
        assert call.observed is not None
        assert call.observed["ifc"] == {"n": number}
        assert [event["description"] for event in call.observed["filtered"]] == [f"issue:o/r#{number}"]


def test_an_answer_with_an_id_that_no_open_request_has_is_not_paired(tmp_path: Path) -> None:
    lines = [line for number, answered in ((7, 7), (8, 4), (9, 9)) for line in (request(number), answer(answered))]
    paired = [(call.tool, call.source_id, call.pairing.value) for call in read_lines(tmp_path, lines)]
    assert paired == [
        ("get_me", "7", "id"),
        ("get_me", None, "unmatched"),
        (None, "4", "unmatched"),
        ("get_me", "9", "id"),
    ]


def test_ids_of_requests_that_answers_never_have_are_no_evidence(tmp_path: Path) -> None:
    lines = [line for number in (7, 8, 1) for line in (request(number), answer(1))]
    assert [call.pairing.value for call in read_lines(tmp_path, lines)] == ["order", "order", "id"]


def test_an_id_that_two_open_requests_have_leaves_both_to_a_guess_and_none_open(tmp_path: Path) -> None:
    lines = [request(number, n=at) for at, number in enumerate((1, 2, 2, 3))]  # two clients count for themselves
    lines += [answer(number) for number in (3, 2, 2, 1)]
    assert [(call.source_id, call.pairing.value) for call in read_lines(tmp_path, lines)] == [
        ("1", "id"),
        ("2", "ambiguous"),
        ("2", "ambiguous"),
        ("3", "id"),
    ]


def test_an_error_with_the_id_null_answers_an_open_request(tmp_path: Path) -> None:
    error = line_of("rpc_response", {"id": None, "error": {"code": -32600, "message": "no"}})
    for answers in ((7, None), (7, None, 9)):
        lines = [request(number) for number in (7, 8, 9)[: len(answers)]]
        lines += [error if answered is None else answer(answered) for answered in answers]
        calls = read_lines(tmp_path, lines)
        assert [call.error is not None for call in calls] == [answered is None for answered in answers]
        assert all(call.pairing.value != "unmatched" for call in calls)


def test_listings_whose_running_ids_confirm_the_guess_are_settled(tmp_path: Path) -> None:
    lines = [line_of("rpc_request", {"method": "tools/list"}, method="tools/list")] * 2
    lines += [line_of("rpc_response", {"id": number, "result": {"tools": []}}) for number in (2, 3)]
    lines += [request(None), answer(4)]
    assert [call.tool for call in read_lines(tmp_path, lines)] == ["get_me"]


def test_an_event_without_an_address_is_of_the_call_that_was_answered_last_by_its_id(tmp_path: Path) -> None:
    lines = [request(None, "list_issues", owner="o", repo="r", page=page) for page in (1, 2)]
    lines += [answer(number, "[]") for number in (3, 2)]
    event = {"event": "difc_filtered", "_schema": "difc-filtered/v2", "server_id": "s", "tool_name": "list_issues"}
    about = {"description": "issue:o/r#7", "secrecy_tags": [], "integrity_tags": []}
    lines.append(json.dumps({**event, **about}))
    events = {call.args["page"]: (call.observed or {}).get("filtered", []) for call in read_lines(tmp_path, lines)}
    assert (len(events[1]), len(events[2])) == (1, 0)
