"""The gateway's `rpc-messages.jsonl` read as calls: pairs, events, damage, and what is counted instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guardpool import recordings
from guardpool.recordings import Call, Pairing, PayloadState, ResultIs, Role, Tally

Read = Callable[..., tuple[list[Call], Tally]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes lines to a log and reads it: its calls, and a tally that adds up."""

    def run(*lines: str) -> tuple[list[Call], Tally]:
        path = tmp_path / "rpc-messages.jsonl"
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        reader = recordings.read(path)
        calls = list(reader)
        tally = reader.tally
        assert tally.lines == len(lines) == tally.in_calls + sum(tally.reasons.values())
        for call in calls:
            assert Call.from_json(call.to_json()) == call == Call.from_dict(call.to_dict())
        return calls, tally

    return run


def ask(tool: str, server: str = "github", at: str = "10:00:00.000", **args: Any) -> str:
    """A request line."""
    payload = {"jsonrpc": "2.0", "method": "tools/call", "params": {"arguments": args, "name": tool}}
    return request("tools/call", payload, server, at)


def request(method: str, payload: Any, server: str = "github", at: str = "10:00:00.000", **more: Any) -> str:
    """A request line with any payload."""
    return line("rpc_request", "OUT", server, at, method=method, **more, payload=payload)


def answer(text: str = "[]", server: str = "github", at: str = "10:00:01.000", id: Any = 1, **result: Any) -> str:
    """An answer line with one block of text."""
    body = {"content": [{"type": "text", "text": text}], **result}
    return line("rpc_response", "IN", server, at, payload={"jsonrpc": "2.0", "id": id, "result": body})


def line(event: str, direction: str, server: str, at: str, **more: Any) -> str:
    """A line of version 2."""
    head = {"timestamp": f"2026-08-15T{at}Z", "event": event, "_schema": "rpc-message/v2", "direction": direction}
    return json.dumps({**head, "server_id": server, **more})


def filtered(tool: str, **more: Any) -> str:
    """A line of an item that was removed, or of a denial."""
    members = {"event": "difc_filtered", "_schema": "difc-filtered/v2", "server_id": "github", "tool_name": tool}
    return json.dumps({**members, "description": "issue:acme/web#7", "secrecy_tags": [], "integrity_tags": [], **more})


def broken(raw: str, event: str = "rpc_response") -> str:
    """A line whose payload the sanitiser broke."""
    payload = {"_error": "invalid JSON", "_raw": raw}
    if event == "rpc_request":
        return request("tools/call", payload)
    return line(event, "IN", "github", "10:00:01.000", payload=payload)


def text_of(call: Call) -> str:
    return str(call.result["content"][0]["text"])


def test_a_request_and_its_answer_are_one_call(read: Read) -> None:
    (call,), tally = read(ask("list_issues", owner="acme", repo="web"), answer("[7]"))
    assert (call.call, call.source, call.session) == ("rpc-messages.jsonl#1", "rpc-messages/v2", "rpc-messages.jsonl")
    assert (call.server, call.tool, call.args) == ("github", "list_issues", {"owner": "acme", "repo": "web"})
    assert (call.at, call.until) == ("2026-08-15T10:00:00.000Z", "2026-08-15T10:00:01.000Z")
    assert (call.pairing, call.result_is, text_of(call)) == (Pairing.ORDER, ResultIs.RAW, "[7]")
    assert call.payload == (PayloadState.INTACT, PayloadState.INTACT)
    assert tally.formats == {"rpc-messages/v2": 2}
    assert tally.is_complete


def test_answers_are_given_out_in_the_order_of_requests_per_server(read: Read) -> None:
    calls, _ = read(ask("a"), ask("b", server="slack"), answer("B", server="slack"), answer("A"))
    assert [(call.tool, text_of(call), call.pairing.value) for call in calls] == [
        ("a", "A", "order"),
        ("b", "B", "order"),
    ]


def test_a_pair_is_ambiguous_while_two_are_open_and_for_those_left(read: Read) -> None:
    calls, tally = read(ask("a"), ask("b"), answer("A"), answer("B"), ask("c"), answer("C"))
    assert [call.pairing.value for call in calls] == ["ambiguous", "ambiguous", "order"]
    assert not tally.is_complete


def test_an_answer_that_names_the_number_goes_to_its_request(read: Read) -> None:
    first = ask("issue_read", owner="acme", repo="web", issue_number=7)
    second = ask("issue_read", owner="acme", repo="web", issue_number=71)
    calls, _ = read(first, second, answer('{"number":71}'), answer('{"number":7}'))
    assert [text_of(call) for call in calls] == ['{"number":7}', '{"number":71}']
    assert {call.pairing for call in calls} == {Pairing.AMBIGUOUS}


def test_a_list_of_tools_answers_the_request_for_it(read: Read) -> None:
    tools = [{"name": "create_file", "inputSchema": {"properties": {"content": {"type": "string"}}}}]
    result = {"nextCursor": "x", "tools": tools}
    listing = line("rpc_response", "IN", "github", "10:00:01.000", payload={"id": 1, "result": result})
    calls, tally = read(
        ask("a"), request("tools/list", {"method": "tools/list"}), listing, answer('{"tools":[]}'), listing
    )
    assert [(call.tool, call.result_is.value, text_of(call)) for call in calls] == [("a", "raw", '{"tools":[]}')]
    assert tally.reasons == {"other-method": 3}


def test_an_error_line_answers_the_oldest_request(read: Read) -> None:
    failed = line("rpc_response", "IN", "github", "10:00:01.000", error="deadline", payload={"_error": "", "_raw": ""})
    calls, _ = read(ask("a", owner="o", repo="r"), ask("b"), failed, answer("B"))
    assert [(call.tool, call.error) for call in calls] == [("a", "deadline"), ("b", None)]
    assert calls[0].result_is is ResultIs.NO_RESPONSE


def test_requests_and_answers_without_a_partner_are_calls_of_their_own(read: Read) -> None:
    calls, tally = read(answer("lost start"), ask("a"))
    assert [(call.tool, call.result_is.value, call.pairing.value) for call in calls] == [
        (None, "raw", "unmatched"),
        ("a", "no-response", "unmatched"),
    ]
    assert len(list(recordings.jobs(calls))) == 1
    assert not tally.is_complete


def listing(at: str = "10:00:00.000", server: str = "github", **params: Any) -> list[str]:
    """A request for a server's tools, and its answer."""
    asked = request("tools/list", {"method": "tools/list", "params": params}, server, at)
    return [asked, line("rpc_response", "IN", server, at, payload={"id": 1, "result": {"tools": []}})]


START_OF_A_RUN = {
    "after a pause that is longer than a call": listing("10:02:00.000"),
    "with a clock that has gone back": listing("09:00:00.000"),
    "with a greeting": [request("initialize", {"method": "initialize"}), *listing()],
    "by asking a second server, too": [*listing(), *listing(server="slack")],
}


@pytest.mark.parametrize("start", START_OF_A_RUN.values(), ids=START_OF_A_RUN.keys())
def test_a_new_run_closes_what_was_open_and_is_a_new_session(read: Read, start: list[str]) -> None:
    before = [*listing(), *listing(server="slack")]
    calls, _ = read(*before, ask("a"), *start, ask("b"), answer("B"), ask("c"), *start, ask("d"), answer("D"))
    assert [(call.tool, call.result_is.value, call.pairing.value) for call in calls] == [
        ("a", "no-response", "unmatched"),
        ("b", "raw", "order"),
        ("c", "no-response", "unmatched"),
        ("d", "raw", "order"),
    ]
    assert len({call.session for call in calls}) == 3


@pytest.mark.parametrize("again", [listing(), listing("10:00:30.000"), listing("10:05:00.000", cursor="2")])
def test_tools_that_are_listed_again_in_a_run_close_no_request(read: Read, again: list[str]) -> None:
    calls, _ = read(*listing(), ask("a"), *again, answer("A"), ask("b"), answer("B"))
    assert [(call.tool, text_of(call), call.pairing.value) for call in calls] == [
        ("a", "A", "order"),
        ("b", "B", "order"),
    ]
    assert len({call.session for call in calls}) == 1


def test_ids_of_any_kind_and_clocks_that_go_back_change_no_pair(read: Read) -> None:
    ids: list[Any] = ["x", 1.5, None, {"a": 1}, [1], 1, 1]
    lines = [
        each
        for at, known_as in enumerate(ids)
        for each in (ask(f"t{at}", at=f"{20 - at}:00:00.000"), answer(str(at), id=known_as))
    ]
    calls, _ = read(*lines)
    assert [text_of(call) for call in calls] == [str(at) for at in range(len(ids))]
    assert {call.pairing for call in calls} == {Pairing.ORDER}


def test_values_that_were_taken_leave_the_call_redacted(read: Read) -> None:
    (call,), _ = read(ask("get_commit", sha="[REDACTED]"), answer('{"sha":"[REDACTED]"}'))
    assert call.payload == (PayloadState.REDACTED, PayloadState.REDACTED)


def test_a_member_that_was_taken_is_put_back(read: Read) -> None:
    raw = '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"[]"}],"token"=[REDACTED]}}'
    args = '{"jsonrpc":"2.0","method":"tools/call","params":{"arguments":{"key"=[REDACTED]},"name":"a"}}'
    (call,), _ = read(broken(args, "rpc_request"), broken(raw))
    assert (call.tool, call.args, call.result["token"]) == ("a", {"key": "[REDACTED]"}, "[REDACTED]")
    assert call.payload == (PayloadState.REPAIRED, PayloadState.REPAIRED)


@pytest.mark.parametrize(
    "damaged",
    [
        broken(
            '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"{\\"body\\":\\"primary key=[REDACTED]'
        ),
        answer('{"body":"primary key=[REDACTED] and more"'),
    ],
)
def test_a_result_that_lost_its_brackets_is_never_labelled(read: Read, damaged: str) -> None:
    (call,), tally = read(ask("a"), damaged)
    assert (call.result, call.result_is, call.payload.result) == (None, ResultIs.LOST, PayloadState.LOST)
    assert [job.op for job in recordings.jobs([call])] == ["label_resource"]
    assert not tally.is_complete


def test_an_enclave_call_is_known_by_its_tool_alone(read: Read) -> None:
    stub = {"redacted": True, "reason": "enclave_payload_redacted", "bytes": 154, "digest": "hmac:0f3a"}
    asked = request("tools/call", stub, tool_name="issue_read", redacted=True)
    (call,), _ = read(asked, line("rpc_response", "IN", "github", "10:00:01.000", redacted=True, payload=stub))
    assert (call.tool, call.args, call.result, call.result_is) == ("issue_read", None, None, ResultIs.REDACTED)


def test_filtered_items_belong_to_the_call_of_their_tool(read: Read) -> None:
    lines = [ask("list_issues"), answer(), filtered("list_issues", number="7"), ask("b"), answer()]
    (call, other), tally = read(*lines, filtered("list_issues"), filtered("nobody"))
    assert call.observed is not None
    assert [event["description"] for event in call.observed["filtered"]] == ["issue:acme/web#7"] * 2
    assert other.observed is None
    assert tally.reasons == {"event-without-call": 1}
    assert tally.in_calls == 6


def test_items_of_calls_that_overlap_belong_to_the_result_they_were_in(read: Read) -> None:
    url = "https://github.com/%s/issues/7"
    lines = [
        *(ask("search_issues", query="a"), ask("search_issues", query="b")),
        *(answer(json.dumps([{"html_url": url % "acme/web"}])), answer(json.dumps([{"html_url": url % "octo/web"}]))),
        *(filtered("search_issues", html_url=url % each) for each in ("acme/web", "octo/web", "acme/web")),
    ]
    calls, _ = read(*lines)
    told = [[event["html_url"] for event in (call.observed or {})["filtered"]] for call in calls]
    assert told == [[url % "acme/web"] * 2, [url % "octo/web"]]


def test_an_item_of_no_address_belongs_to_the_call_of_its_repository(read: Read) -> None:
    ask_both = [ask("list_issues", owner="acme", repo="web"), ask("list_issues", owner="octo", repo="web")]
    calls, _ = read(*ask_both, answer("[1]"), answer("[2]"), filtered("list_issues"))
    assert [bool(call.observed) for call in calls] == [True, False]


def test_an_item_of_a_call_whose_answer_was_taken_for_anothers_is_not_an_older_calls(read: Read) -> None:
    older = [ask("get_issue"), answer(), filtered("get_issue", number="1")]
    overlapping = [ask("a"), ask("get_issue"), answer(), filtered("get_issue", number="2"), answer()]
    calls, _ = read(*older, *overlapping)
    told = [[event["number"] for event in (call.observed or {}).get("filtered", [])] for call in calls]
    assert told == [["1"], [], ["2"]]


def test_a_denial_is_a_call_that_was_never_made(read: Read) -> None:
    (call,), _ = read(filtered("send_message", agent_secrecy_tags=[], agent_integrity_tags=["none:all"]))
    assert (call.tool, call.role, call.result_is) == ("send_message", Role.AGENT, ResultIs.NOT_RECORDED)
    assert call.observed is not None
    assert call.observed["denied"]["agent_integrity_tags"] == ["none:all"]


def test_tags_of_the_agent_and_labels_of_the_server_are_observed(read: Read) -> None:
    asked = request("tools/call", {"params": {"name": "a", "arguments": {}}}, agent_integrity=["none:all"])
    (call,), _ = read(asked, answer(_meta={"ifc": {"integrity": "untrusted"}}))
    assert call.observed == {
        "agent": {"secrecy": [], "integrity": ["none:all"]},
        "ifc": {"integrity": "untrusted"},
    }


@pytest.mark.parametrize("result", [[], ["x"], "x", 1, 1.5, True, None, 10**30])
def test_a_result_that_is_no_object_is_lost(read: Read, result: Any) -> None:
    reply = line("rpc_response", "IN", "github", "10:00:01.000", payload={"id": 1, "result": result})
    (call,), _ = read(ask("get_me"), reply)
    assert (call.result_is, call.payload.result, call.result) == (ResultIs.LOST, PayloadState.LOST, None)


def test_members_of_a_result_are_kept_in_their_order_whatever_they_hold(read: Read) -> None:
    odd = {"z": [1.50, {"ifc": 1}], "\u00e9": None, "structuredContent": {"_meta": {"ifc": 2}}}
    (call,), _ = read(ask("get_me"), answer(**odd))
    assert list(call.result) == ["content", *odd]
    assert {name: call.result[name] for name in odd} == odd
    assert call.observed is None  # only the result's own `_meta` is the server's


@pytest.mark.parametrize(
    ("cut", "kept"),
    [("\ud83d", "\ufffd"), ("\ude00\ud83d!", "\ufffd\ufffd!"), ("\\\ud83d \U0001f600", "\\\ufffd \U0001f600")],
)
def test_a_text_cut_within_an_emoji_shifts_no_later_pair(read: Read, cut: str, kept: str) -> None:
    calls, _ = read(ask("a"), answer(cut, **{cut: 1}), ask("b"), answer("\\ud83d"))
    assert [text_of(call) for call in calls] == [kept, "\\ud83d"]
    assert [call.pairing for call in calls] == [Pairing.ORDER, Pairing.ORDER]
    assert calls[0].result[kept] == 1


def test_questions_that_follow_at_once_are_candidates(read: Read) -> None:
    lines = [
        *(ask("list_issues", at="10:00:00.000"), answer(at="10:00:01.000")),
        *(ask("issue_read", at="10:00:01.010"), answer(at="10:00:01.020")),
        *(ask("issue_read", at="10:00:09.000"), answer(at="10:00:10.000")),
    ]
    calls, _ = read(*lines)
    assert [call.role.value for call in calls] == ["agent", "candidate", "agent"]


def test_older_lines_are_read_too(read: Read) -> None:
    old = '{"timestamp":"2026-02-18T01:28:%s.940936559Z","direction":"%s","type":"%s","server_id":"github"%s}'
    asked = old % (44, "OUT", "REQUEST", ',"method":"tools/call","payload":{"params":{"name":"get_me","arguments":{}}}')
    (call,), tally = read(asked, old % (45, "IN", "RESPONSE", ',"payload":{"id":1,"result":{"content":[]}}'))
    assert (call.source, call.tool, call.result) == ("rpc-messages/legacy", "get_me", {"content": []})
    assert tally.formats == {"rpc-messages/legacy": 2}


def test_calls_wait_on_disk_behind_one_without_an_answer(read: Read) -> None:
    large = "x" * 5_000_000
    calls, _ = read(
        ask("never", server="slack"), *[each for at in range(10) for each in (ask(f"t{at}"), answer(f"{at}{large}"))]
    )
    assert [call.tool for call in calls] == ["never", *(f"t{at}" for at in range(10))]
    assert [text_of(call)[:1] for call in calls[1:]] == [str(at) for at in range(10)]


def test_calls_behind_one_that_is_never_answered_are_handed_out_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "log"
    pair = ask("a") + "\n" + answer() + "\n"
    never = [ask("never", server=f"s{at}") + "\n" for at in range(3)]
    path.write_text("".join([*never, pair * 60_000]))
    reader = recordings.read(path)
    tools = [next(reader).tool for _ in range(4)]
    assert tools == [*["never"] * 3, "a"]
    assert reader.tally.lines < 60_000  # of 120,003: what waits is bounded
    assert len(list(reader)) == 60_000 - 1
