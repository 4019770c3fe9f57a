"""Captures of MCP traffic read as calls: bare JSON-RPC of both directions, and mcp-rec."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from guardpool.recordings import Call, Pairing, ResultIs, Tally

ReadText = Callable[[str], tuple[list[Call], Tally]]
TEXT = [{"type": "text", "text": "[]"}]


def message(**members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", **members}


def call(id: Any, name: str = "list_issues", **args: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": args, "_meta": {"progressToken": 1}}
    return message(id=id, method="tools/call", params=params)


def answer(id: Any, **more: Any) -> dict[str, Any]:
    return message(id=id, result={"content": TEXT, **more})


def lines(*messages: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in messages)


def recorded(direction: str, msg: Any, ts: float = 1780300800.1) -> dict[str, Any]:
    return {"ts": ts, "dir": direction, "msg": msg}


def test_calls_are_paired_by_id_whatever_the_order(read_text: ReadText) -> None:
    calls, tally = read_text(lines(call(1, n=1), call(2, n=2), answer(2), answer(1, isError=True)))
    assert [each.args["n"] for each in calls] == [1, 2]
    assert calls[0].result == {"content": TEXT, "isError": True}
    assert {(each.source, each.pairing, each.result_is) for each in calls} == {
        ("json-rpc", Pairing.ID, ResultIs.UNKNOWN)
    }
    assert tally.in_calls == 4


@pytest.mark.parametrize(("one", "other"), [(1, "1"), (1, 1.0), ("a", "b"), (0, -1)])
def test_ids_of_another_type_are_other_ids(one: Any, other: Any, read_text: ReadText) -> None:
    calls, _ = read_text(lines(call(one, n=1), call(other, n=2), answer(other), answer(one)))
    assert [(each.args["n"], each.pairing) for each in calls] == [(1, Pairing.ID), (2, Pairing.ID)]


def test_id_that_is_used_again_while_open_ends_the_earlier_call(read_text: ReadText) -> None:
    calls, _ = read_text(lines(call(1, n=1), call(1, n=2), answer(1), answer(1)))
    assert [(each.args and each.args["n"], each.result_is) for each in calls] == [
        (1, ResultIs.NO_RESPONSE),
        (2, ResultIs.UNKNOWN),
        (None, ResultIs.UNKNOWN),
    ]


def test_call_with_the_id_null_gets_no_answer(read_text: ReadText) -> None:
    calls, _ = read_text(lines(call(None), answer(None)))
    assert [each.pairing for each in calls] == [Pairing.UNMATCHED]


def test_calls_that_nobody_answers_and_answers_that_nobody_asked_for_keep_their_place(read_text: ReadText) -> None:
    orphan = answer(9, structuredContent={"n": 9})
    calls, tally = read_text(lines(call(1, n=1), call(None, n=2), orphan, call(3, n=3), answer(3), answer(1)))
    assert [each.call for each in calls] == [f"recording#{number}" for number in (1, 2, 3, 4)]
    assert [each.pairing for each in calls] == [Pairing.ID, Pairing.UNMATCHED, Pairing.UNMATCHED, Pairing.ID]
    assert calls[2].result == orphan["result"]
    assert tally.in_calls == 6


def test_a_label_that_the_server_sent_is_observed(read_text: ReadText) -> None:
    label = {"integrity": "untrusted", "confidentiality": "public"}
    odd = [answer(2, _meta={"ifc": None}), answer(3, _meta=["ifc"]), answer(4, structuredContent={"ifc": label})]
    asked = [call(number) for number in (1, 2, 3, 4)]
    calls, _ = read_text(lines(*asked, answer(1, _meta={"ifc": label}), *odd))
    assert [each.observed for each in calls] == [{"ifc": label}, None, None, None]


def test_batches_are_read_message_by_message(read_text: ReadText) -> None:
    calls, tally = read_text(lines([call(1, n=1), call(2, n=2)], [answer(1), answer(2)]))
    assert [(each.call, each.args["n"]) for each in calls] == [("recording#1", 1), ("recording#1/2", 2)]
    assert tally.in_calls == tally.lines == 2


def test_cancelled_call_says_why_and_may_still_be_answered(read_text: ReadText) -> None:
    cancel = message(method="notifications/cancelled", params={"requestId": 1, "reason": "too slow"})
    calls, _ = read_text(lines(call(1), cancel, call(2), answer(2)))
    assert calls[0].observed == {"cancelled": "too slow"}
    assert [each.result_is for each in calls] == [ResultIs.NO_RESPONSE, ResultIs.UNKNOWN]
    calls, _ = read_text(lines(call(1), cancel, answer(1)))
    assert (calls[0].observed, calls[0].result_is) == ({"cancelled": "too slow"}, ResultIs.UNKNOWN)


def test_server_that_asks_with_the_same_id_does_not_take_the_answer(read_text: ReadText) -> None:
    asks = message(id=1, method="sampling/createMessage", params={})
    said = message(id=1, result={"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"})
    calls, tally = read_text(lines(call(1), asks, said, answer(1)))
    assert [each.result for each in calls] == [{"content": TEXT}]
    assert tally.reasons == {"other-method": 2}


def test_error_of_the_protocol_is_the_calls_error(read_text: ReadText) -> None:
    error = {"code": -32602, "message": "unknown tool"}
    calls, _ = read_text(lines(call(1), message(id=1, error=error)))
    assert (calls[0].error, calls[0].result_json, calls[0].pairing) == (error, None, Pairing.ID)


def test_server_is_named_by_its_greeting_and_a_new_greeting_is_a_new_session(read_text: ReadText) -> None:
    hello = [message(id=0, method="initialize", params={}), message(id=0, result={"serverInfo": {"name": "github"}})]
    calls, tally = read_text(lines(*hello, call(1), answer(1), call(2), *hello, call(1), answer(1)))
    assert [(each.server, each.session, each.result_is.value) for each in calls] == [
        ("github", "recording", "unknown"),
        ("github", "recording", "no-response"),
        ("github", "recording@6", "unknown"),
    ]
    assert tally.reasons == {"other-method": 4}


def test_mcp_rec_has_directions_and_times(read_text: ReadText) -> None:
    calls, tally = read_text(
        lines(
            recorded("client->server", call(3)),
            recorded("server->client", message(id=3, method="roots/list")),
            recorded("client->server", message(id=3, result={"content": "the roots, oddly"})),
            recorded("server->client", answer(3, structuredContent={"issues": []}), ts=1780300800.9),
            recorded("server->client", {"_raw": "Starting server", "_unparsed": True}),
        )
    )
    (found,) = calls
    assert (found.source, found.at, found.until) == (
        "mcp-rec/v1",
        "2026-06-01T08:00:00.100Z",
        "2026-06-01T08:00:00.900Z",
    )
    assert found.result == {"content": TEXT, "structuredContent": {"issues": []}}
    assert tally.reasons == {"other-method": 2, "not-a-message": 1}


def test_error_that_may_be_either_sides_is_marked(read_text: ReadText) -> None:
    asks = message(id=1, method="sampling/createMessage", params={})
    calls, _ = read_text(lines(call(1), asks, message(id=1, error={"code": -1, "message": "no"})))
    assert [each.pairing for each in calls] == [Pairing.AMBIGUOUS]


def test_long_ids_that_begin_alike_are_two_ids(read_text: ReadText) -> None:
    one, other = "x" * 500 + "1", "x" * 500 + "2"
    calls, _ = read_text(lines(call(one, n=1), call(other, n=2), answer(other, isError=True), answer(one)))
    assert [each.result.get("isError") for each in calls] == [None, True]


def test_server_that_takes_its_own_question_back_cancels_no_call(read_text: ReadText) -> None:
    cancel = message(method="notifications/cancelled", params={"requestId": 3})
    calls, _ = read_text(
        lines(
            recorded("client->server", call(3)),
            recorded("server->client", message(id=3, method="roots/list")),
            recorded("server->client", cancel),
            recorded("server->client", answer(3)),
        )
    )
    assert (calls[0].observed, calls[0].result_is) == (None, ResultIs.UNKNOWN)


def test_filtered_results_and_stubs_are_seen_in_captures_too(read_text: ReadText) -> None:
    notice = {"type": "text", "text": "[Filtered] 2 items"}
    stub = {"type": "text", "text": json.dumps({"agentInstructions": "x", "payloadPath": "/p", "originalSize": 9})}
    calls, _ = read_text(
        lines(
            *(call(1), message(id=1, result={"content": [*TEXT, notice]})),
            *(call(2), message(id=2, result={"content": [stub]})),
        )
    )
    assert [each.result_is for each in calls] == [ResultIs.FILTERED, ResultIs.STUB]
    assert calls[1].result_json is None
