"""Transcripts read as calls: sessions of Claude Code, bodies of the Messages, chat and Responses APIs, and names of tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from guardpool.recordings import Call, Pairing, PayloadState, ResultIs, Tally, jobs, names
from guardpool.recordings.formats import ALL, by_id
from guardpool.recordings.names import ToolName
from guardpool.recordings.reader import _Router

ReadText = Callable[[str], tuple[list[Call], Tally]]

REPO = {"owner": "acme", "repo": "web"}
TEXT = [{"type": "text", "text": '[{"number":7}]'}]


def lines(*events: Any) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


# --- names


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("github___list_issues", ToolName("github", "list_issues")),
        ("mcp__github__list_issues", ToolName("github", "list_issues")),
        ("mcp__my_own_server__get_me", ToolName("my_own_server", "get_me")),
        ("mcp__claude-in-chrome__read_page", ToolName("claude-in-chrome", "read_page")),
        ("github__list_issues", ToolName("github", "list_issues")),
        ("mcp__awmg__github___list_issues", ToolName("github", "list_issues")),
        ("list_issues", ToolName(None, "list_issues")),
        *[
            (name, None)
            for name in (
                "Bash",
                "Read",
                "shell",
                "TodoWrite",
                "apply_patch",
                "run_command",
                "mcp__",
                "mcp__github",
                "__x",
                "",
            )
        ],
        *[(name, None) for name in ("a b__c", "mcp__\x1b__x", "github/list", "List_Issues")],
    ],
)
def test_name_is_taken_apart_or_left(name: str, found: ToolName | None) -> None:
    assert names.any_of(name) == found


# --- Claude Code


def use(id: str, name: str = "mcp__github__list_issues", **args: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": args}


def came(id: str, content: Any = TEXT, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


_uuids = iter(range(10**9))


def event(
    kind: str, *content: Any, session: str = "s1", at: str = "2026-06-01T10:00:00.000Z", **more: Any
) -> dict[str, Any]:
    message = {"role": kind, "content": list(content)}
    head = {"type": kind, "uuid": f"u{next(_uuids)}", "sessionId": session, "timestamp": at}
    return {**head, "message": message, **more}


def test_claude_code_call_has_its_arguments_result_times_and_session(read_text: ReadText) -> None:
    calls, tally = read_text(
        lines(
            {"type": "summary", "summary": "Triage", "leafUuid": "x"},
            event("assistant", {"type": "text", "text": "I look."}, use("t1", **REPO)),
            event("user", came("t1", is_error=False), at="2026-06-01T10:00:01.000Z"),
        )
    )
    (call,) = calls
    assert (call.call, call.source, call.source_id, call.session) == ("recording#2", "claude-code", "t1", "s1")
    assert (call.server, call.tool, call.args, call.result) == ("github", "list_issues", REPO, {"content": TEXT})
    assert (call.at, call.until) == ("2026-06-01T10:00:00.000Z", "2026-06-01T10:00:01.000Z")
    assert (call.pairing, call.result_is, call.agent) == (Pairing.ID, ResultIs.UNKNOWN, None)
    assert tally.reasons == {"no-call-in-it": 1}
    assert tally.is_complete
    assert [job.id for job in jobs(calls)] == ["recording#2/resource", "recording#2/response"]


def test_parallel_calls_of_one_message_come_out_in_the_order_of_their_requests(read_text: ReadText) -> None:
    calls, tally = read_text(
        lines(
            event("assistant", use("t1", n=1), use("t2", n=2)),
            event("assistant", use("t3", n=3)),
            event("user", came("t3")),
            event("user", came("t2"), came("t1", "plain text", is_error=True)),
        )
    )
    assert [call.args["n"] for call in calls] == [1, 2, 3]
    assert [call.call for call in calls] == ["recording#1", "recording#1/t2", "recording#2"]
    assert calls[0].result == {"content": [{"type": "text", "text": "plain text"}], "isError": True}
    assert tally.in_calls == 4


def test_a_clients_own_tools_are_counted_and_their_results_too(read_text: ReadText) -> None:
    calls, tally = read_text(
        lines(event("assistant", use("t1", "Bash", command="ls")), event("user", came("t1", "README.md")))
    )
    assert (calls, tally.reasons) == ([], {"not-a-guarded-call": 2})
    assert tally.is_complete


def test_sub_agent_is_a_session_of_its_own(read_text: ReadText) -> None:
    calls, _ = read_text(
        lines(
            event("assistant", use("t1")),
            event("assistant", use("t2"), isSidechain=True, agentId="a7"),
            event("user", came("t2"), isSidechain=True, agentId="a7"),
            event("user", came("t1")),
        )
    )
    assert [(call.session, call.agent) for call in calls] == [("s1/a7", "a7"), ("s1", None)]


def test_lines_that_a_compaction_repeats_are_read_once(read_text: ReadText) -> None:
    asked, answered = event("assistant", use("t1")), event("user", came("t1"))
    calls, tally = read_text(lines(asked, answered, asked, answered))
    assert len(calls) == 1
    assert tally.reasons == {"repeated-line": 2}


def test_call_without_an_answer_and_answer_without_a_call_are_records_of_their_own(read_text: ReadText) -> None:
    calls, tally = read_text(lines(event("user", came("before")), event("assistant", use("after"))))
    assert [(call.tool, call.result_is, call.pairing) for call in calls] == [
        (None, ResultIs.UNKNOWN, Pairing.UNMATCHED),
        ("list_issues", ResultIs.NO_RESPONSE, Pairing.UNMATCHED),
    ]
    assert not tally.is_complete
    assert [job.id for job in jobs(calls)] == ["recording#2/resource"]


def test_result_that_a_gateway_filtered_says_so_and_is_not_labelled(read_text: ReadText) -> None:
    notice = "[Filtered] 2 items were removed by policy"
    calls, _ = read_text(
        lines(event("assistant", use("t1")), event("user", came("t1", [*TEXT, {"type": "text", "text": notice}])))
    )
    assert calls[0].result_is is ResultIs.FILTERED
    assert calls[0].observed == {"notices": [notice]}
    assert len(list(jobs(calls))) == 1


def test_stub_of_a_large_answer_is_no_result(read_text: ReadText) -> None:
    stub = {"agentInstructions": "...", "payloadPath": "/etc/passwd", "payloadPreview": "[{", "originalSize": 81234}
    calls, _ = read_text(lines(event("assistant", use("t1")), event("user", came("t1", json.dumps(stub)))))
    assert (calls[0].result_is, calls[0].result_json) == (ResultIs.STUB, None)
    assert calls[0].observed == {"stub": {"payloadPath": "/etc/passwd", "originalSize": 81234}}


def test_sessions_that_interleave_keep_their_order_each(read_text: ReadText) -> None:
    calls, _ = read_text(
        lines(
            event("assistant", use("t1", n=1), session="a"),
            event("assistant", use("t1", n=2), session="b"),
            event("user", came("t1"), session="b"),
            event("assistant", use("t2", n=3), session="b"),
            event("user", came("t2"), session="b"),
            event("user", came("t1"), session="a"),
        )
    )
    assert [(call.session, call.args["n"]) for call in calls] == [("b", 2), ("b", 3), ("a", 1)]


def test_calls_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch, read_text: ReadText) -> None:
    monkeypatch.setattr(by_id, "MAX_WAITING", 10)
    asked = [event("assistant", use(f"t{n}", n=n), session=f"s{n}") for n in range(50)]
    calls, tally = read_text(lines(*asked, event("user", came("t49"), session="s49")))
    # Those past the bound are given up, the oldest first; the others wait to the end, each session by itself.
    assert [call.args["n"] for call in calls] == [*range(40), 49, *range(40, 49)]
    assert tally.results == {"no-response": 49, "unknown": 1}


# --- bodies of APIs


def test_openai_chat_pairs_by_call_id_and_reads_repeated_messages_once(read_text: ReadText) -> None:
    function = {"name": "list_issues", "arguments": json.dumps(REPO)}
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    answered = {"role": "tool", "tool_call_id": "c1", "content": '[{"number":7}]'}
    calls, tally = read_text(
        lines({"choices": [{"message": asked}]}, {"messages": [asked, answered]}, {"messages": [asked, answered]})
    )
    (call,) = calls
    assert (call.server, call.tool, call.args, call.result) == (None, "list_issues", REPO, {"content": TEXT})
    assert (call.source, call.pairing) == ("openai-chat", Pairing.ID)
    assert tally.lines == 3


def chat(question: str, owner: str, result: str) -> dict[str, Any]:
    """A whole conversation, whose only call has the id that every one of them begins with."""
    function = {"name": "list_issues", "arguments": json.dumps({"owner": owner})}
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "function": function}]},
            {"role": "tool", "tool_call_id": "call_1", "content": result},
        ]
    }


def test_conversations_that_use_the_same_ids_are_told_apart(read_text: ReadText) -> None:
    calls, tally = read_text(lines(chat("a", "x", "1"), chat("b", "x", "2"), chat("b", "y", "3"), chat("b", "y", "3")))
    assert [(call.args["owner"], call.result["content"][0]["text"]) for call in calls] == [
        ("x", "1"),
        ("x", "2"),
        ("y", "3"),
    ]
    assert tally.reasons == {"repeated-line": 1}


def test_responses_that_stand_alone_are_calls_each(read_text: ReadText) -> None:
    function = {"name": "get_me", "arguments": "{}"}
    alone = {"choices": [{"message": {"role": "assistant", "tool_calls": [{"id": "call_1", "function": function}]}}]}
    calls, _ = read_text(lines(alone, alone))
    assert [call.result_is for call in calls] == [ResultIs.NO_RESPONSE] * 2


def test_list_of_messages_printed_one_a_line_is_one_document(read_text: ReadText) -> None:
    first, *others = (json.dumps(message) for message in chat("a", "x", "1")["messages"])
    calls, tally = read_text("[\n" + ",\n".join((first, *others)) + "\n]\n")
    assert [call.args for call in calls] == [{"owner": "x"}]
    assert tally.in_calls == 5


def test_arguments_that_wait_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch, read_text: ReadText) -> None:
    monkeypatch.setattr(by_id, "MAX_ARGS_BYTES", 1000)
    asked = [event("assistant", use(f"t{n}", text="x" * 400)) for n in range(10)]
    calls, tally = read_text(lines(*asked, event("user", came("t9"))))
    assert tally.results == {"no-response": 9, "unknown": 1}
    assert len(calls) == 10


@pytest.mark.parametrize("arguments", ['{"owner":', "[1]", '"text"', 7])
def test_arguments_that_a_model_broke_are_kept_as_text_and_the_call_is_marked(
    arguments: Any, read_text: ReadText
) -> None:
    function = {"name": "list_issues", "arguments": arguments}
    calls, tally = read_text(
        lines(
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]}]}
        )
    )
    assert (calls[0].args_json, calls[0].payload.args) == (None, PayloadState.LOST)
    assert calls[0].observed == {"arguments": arguments}
    assert not tally.is_complete
    assert not list(jobs(calls))


def test_document_over_many_lines_counts_its_lines(read_text: ReadText) -> None:
    body = {
        "messages": [
            {"role": "assistant", "content": [use("t1", "list_issues", **REPO)]},
            {"role": "user", "content": [came("t1", '[{"number":7}]')]},
        ]
    }
    text = json.dumps(body, indent=2) + "\n"
    calls, tally = read_text(text)
    assert [(call.source, call.tool, call.result) for call in calls] == [
        ("anthropic-messages", "list_issues", {"content": TEXT})
    ]
    assert tally.lines == tally.in_calls == text.count("\n")


def test_hosted_mcp_of_anthropic_names_its_server(read_text: ReadText) -> None:
    asked = {"type": "mcp_tool_use", "id": "m1", "name": "search", "server_name": "docs", "input": {"q": "x"}}
    answered = {"type": "mcp_tool_result", "tool_use_id": "m1", "is_error": True, "content": TEXT}
    calls, _ = read_text(lines({"role": "assistant", "content": [asked, answered]}))
    assert (calls[0].server, calls[0].tool, calls[0].result) == ("docs", "search", {"content": TEXT, "isError": True})


def test_items_of_the_responses_api_are_read(read_text: ReadText) -> None:
    hosted = {"type": "mcp_call", "id": "m1", "server_label": "github", "name": "search", "arguments": '{"q":"x"}'}
    calls, tally = read_text(
        lines(
            {"output": [{"type": "function_call", "call_id": "f1", "name": "github__get_me", "arguments": ""}]},
            {"input": [{"type": "function_call_output", "call_id": "f1", "output": '[{"number":7}]'}]},
            {"output": [{**hosted, "output": '[{"number":7}]', "error": None}]},
            {"output": [{**hosted, "id": "m2", "output": None, "error": {"message": "no"}}]},
            {"output": [{**hosted, "id": "m3", "output": None, "error": None}]},
            {"output": [{"type": "mcp_list_tools", "server_label": "github"}]},
        )
    )
    assert [(call.server, call.tool, call.args) for call in calls[:2]] == [
        ("github", "get_me", {}),
        ("github", "search", {"q": "x"}),
    ]
    assert [call.result for call in calls[:2]] == [{"content": TEXT}] * 2
    assert calls[2].error == {"message": "no"}
    assert calls[3].result_is is ResultIs.NO_RESPONSE
    assert tally.reasons == {"no-call-in-it": 1}


# --- whatever bytes

_SEEDS = [
    lines(event("assistant", use("t1", **REPO)), event("user", came("t1"))),
    lines(
        {
            "messages": [
                {"role": "tool", "tool_call_id": "c1", "content": "x"},
                {"role": "assistant", "tool_calls": [{}]},
            ]
        }
    ),
    lines({"output": [{"type": "mcp_call", "id": "m", "server_label": "s", "name": "n", "arguments": "{}"}]}),
    lines({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}, {"jsonrpc": "2.0", "id": 1}),
]
_PIECES = st.sampled_from(
    [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b"null",
        b"1",
        b"\n",
        b"\xff",
        b'"id":',
        b'{"a":',
        b'"content":',
        b"\\ud800",
        b"tool_use",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_SEEDS), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30), _PIECES), max_size=6))
def test_any_damage_gives_calls_or_counted_reasons(seed: str, damage: list[tuple[int, int, bytes]]) -> None:
    text = seed.encode()
    for at, length, piece in damage:
        text = text[:at] + piece + text[at + length :]
    tally = Tally()
    router = _Router("x", ALL, tally)
    router.take([line + b"\n" for line in text.split(b"\n")])
    router.finish()
    assert tally.lines == tally.in_calls + sum(tally.reasons.values())
    for call in router.ready:
        assert Call.from_json(call.to_json()) == call
