"""The sample recording: a gateway's log with the traps of real ones, and the truth about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from guardpool import samples
from guardpool.samples.recording import LISTING_LINES, Labelling, Log, play
from guardpool_worker.instance import GuardInstance, InstanceSettings
from samplekit import loaded

MANY = 4000
SEED = 7


@cache
def _log() -> Log:
    return play(MANY, SEED)


@cache
def _lines() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in _log().lines)


def _agents() -> list[dict[str, Any]]:
    return [call for call in _log().truth if call["role"] == "agent"]


# The same log every time


def test_a_recording_is_the_same_for_the_same_numbers() -> None:
    assert samples.recording(300, seed=3) == samples.recording(300, seed=3)
    assert samples.recording_truth(300, seed=3) == samples.recording_truth(300, seed=3)
    assert samples.recording(300, seed=4) != samples.recording(300, seed=3)
    assert samples.recording(300) == samples.recording(300, 0)
    for ask in (samples.recording, samples.recording_truth):
        with pytest.raises(ValueError, match="-1"):
            ask(-1)


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_a_recording_is_the_same_on_every_python(hash_seed: str) -> None:
    """The digests were taken on CPython 3.10."""
    code = (
        "import hashlib, json; from guardpool import samples; "
        "lines = samples.recording(400, 9); truth = samples.recording_truth(400, 9); "
        "print(hashlib.sha256('\\n'.join(lines).encode()).hexdigest(), "
        "hashlib.sha256(json.dumps(truth, sort_keys=True).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [LINES_DIGEST, TRUTH_DIGEST]


LINES_DIGEST = "774b4aa9bbff4e8ec77df105b24278e76da005cf818244a19e15f5442a666ad1"
TRUTH_DIGEST = "4bca99c49af8f901eb65e4cdb3e8fa1ab7f43365af0cdb2c696afd45d83174aa"


# The form of the lines


def test_lines_have_the_form_that_the_gateway_writes() -> None:
    members = {
        "rpc_request": ["timestamp", "event", "_schema", "direction", "server_id", "method", "payload"],
        "rpc_response": ["timestamp", "event", "_schema", "direction", "server_id", "payload"],
    }
    before = ""
    for line, text in zip(_lines(), _log().lines, strict=True):
        assert "\n" not in text
        assert not re.search("[<>&\u2028\u2029]", text)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
        assert before <= line["timestamp"]
        before = line["timestamp"]
        assert line["server_id"] == "github"
        if line["event"] == "difc_filtered":
            assert line["_schema"] == "difc-filtered/v2"
            assert list(line)[:5] == ["timestamp", "event", "_schema", "server_id", "tool_name"]
            continue
        assert [name for name in line if name != "error"] == members[line["event"]]
        assert line["_schema"] == "rpc-message/v2"
        assert line["direction"] == {"rpc_request": "OUT", "rpc_response": "IN"}[line["event"]]


def test_requests_have_no_id_and_answers_have_the_id_1() -> None:
    for line in _lines():
        payload = line.get("payload", {})
        if "_error" in payload or "payload" not in line:
            continue
        if line["event"] == "rpc_request":
            assert list(payload) == ["jsonrpc", "method", "params"]
        else:
            assert (payload["id"], list(payload)) == (1, ["jsonrpc", "id", "result"])


def test_a_log_begins_with_the_servers_tools() -> None:
    request, answer = _lines()[:2]
    assert LISTING_LINES == (1, 2)
    assert request["method"] == "tools/list"
    tools = {tool["name"]: tool["annotations"]["readOnlyHint"] for tool in answer["payload"]["result"]["tools"]}
    assert tools["list_issues"] is True
    assert tools["create_issue"] is False
    assert len(samples.recording(0)) == 2
    assert samples.recording_truth(0) == []


# The truth


def test_each_line_belongs_to_one_call() -> None:
    owned = [line for call in _log().truth for line in call["lines"]]
    assert sorted([*LISTING_LINES, *owned]) == list(range(1, len(_lines()) + 1))
    assert all(call["lines"] == sorted(call["lines"]) for call in _log().truth)


@pytest.mark.parametrize("n", [1, 2, 57, MANY])
def test_the_agent_makes_n_calls(n: int) -> None:
    truth = play(n, SEED).truth
    assert sum(call["role"] == "agent" for call in truth) == n
    starts = [call["lines"][0] for call in truth]
    assert starts == sorted(starts)
    assert [call["call"] for call in truth] == [f"#{line}" for line in starts]


def test_requests_and_answers_are_as_many_as_the_truth_says() -> None:
    events = Counter(line["event"] for line in _lines())
    sent = [call for call in _log().truth if call["result_is"] != "not-recorded"]
    assert events["rpc_request"] == len(sent) + 1
    answered = [call for call in sent if call["result_is"] != "no-response" or "error" in call]
    assert events["rpc_response"] == len(answered) + 1
    filtered = sum(len(call.get("observed", {}).get("filtered", ())) for call in _log().truth)
    assert events["difc_filtered"] == filtered + len(_log().truth) - len(sent)


def test_the_lines_of_a_call_say_what_the_truth_says() -> None:
    for call in _log().truth:
        own = [_lines()[line - 1] for line in call["lines"]]
        assert own[0]["timestamp"] == call["at"]
        if call["result_is"] == "not-recorded":
            (denial,) = own
            assert {"tool_name", "agent_secrecy_tags", "agent_integrity_tags"} <= set(denial)
            assert denial.items() >= {**call["observed"]["denied"], "tool_name": call["tool"]}.items()
            assert "args" not in call
            continue
        request, *answer = [line["payload"] for line in own if "payload" in line]
        if call["payload"]["args"] in ("intact", "redacted"):
            assert request["params"] == {"name": call["tool"], "arguments": call["args"]}
        if "error" in call:
            assert (own[1]["error"], answer[0]) == (call["error"], {"_error": "invalid JSON", "_raw": ""})
        elif answer:
            assert own[1]["timestamp"] == call["until"]
            if call["payload"]["result"] in ("intact", "redacted"):
                assert answer[0]["result"] == call["result"]
            assert ("result" in call) == (call["payload"]["result"] != "lost") == (call["result_is"] == "raw")
        events = [line for line in own if line["event"] == "difc_filtered"]
        for line, told in zip(events, call.get("observed", {}).get("filtered", ()), strict=True):
            assert line.items() >= told.items()
            assert "agent_secrecy_tags" not in line


# What must occur


def test_every_kind_of_damage_occurs_in_arguments_and_in_results() -> None:
    states = Counter((name, state) for call in _agents() for name, state in call.get("payload", {}).items())
    for name in ("args", "result"):
        assert min(states[name, state] for state in ("intact", "redacted", "repaired", "lost")) > 20, states
    lost = [call for call in _agents() if call.get("payload", {}).get("args") == "lost"]
    assert not any("tool" in call or "args" in call for call in lost)
    marks = Counter(json.dumps([call.get("args"), call.get("result")]).count("[REDACTED]") > 0 for call in _agents())
    assert marks[True] > 100


def test_damaged_payloads_can_be_told_from_the_log_alone() -> None:
    payloads = [line["payload"] for line in _lines() if "payload" in line and "error" not in line]
    raw = [payload["_raw"] for payload in payloads if "_error" in payload]
    mended = sum(_is_json(text.replace("=[REDACTED]", ':"[REDACTED]"')) for text in raw)
    states = Counter(state for call in _log().truth for state in call.get("payload", {}).values())
    assert (mended, len(raw) - mended) == (states["repaired"], states["lost"])


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_denials_errors_and_removed_things_occur() -> None:
    kinds = Counter(kind for call in _agents() for kind in call.get("observed", {}))
    assert kinds["denied"] > 0.01 * MANY
    assert kinds["filtered"] > 0.3 * MANY
    assert 0.003 * MANY < sum("error" in call for call in _agents()) < 0.03 * MANY
    removed = [event for call in _agents() for event in call.get("observed", {}).get("filtered", ())]
    facts = {name for event in removed for name in event}
    assert {"author_association", "author_login", "html_url", "number", "sha"} <= facts
    assert all(isinstance(event.get("number", ""), str) for event in removed)
    assert any(event["secrecy_tags"] for event in removed)
    assert any(len(event["integrity_tags"]) < 3 for event in removed)


def test_answers_overtake_one_another() -> None:
    answered = [call["lines"] for call in _log().truth if call.get("payload", {}).get("result")]
    pairs = list(pairwise(lines[:2] for lines in answered))
    within = sum(second[0] < first[1] for first, second in pairs)
    overtaken = sum(second[1] < first[1] for first, second in pairs)
    assert 0.02 * MANY < within < 0.15 * MANY
    assert 20 < overtaken < within


def test_some_logs_end_before_the_last_answer() -> None:
    last = [samples.recording_truth(9, seed)[-1] for seed in range(40)]
    unanswered = [call for call in last if call["result_is"] == "no-response" and "error" not in call]
    assert 5 < len(unanswered) < 30
    assert all(len(call["lines"]) == 1 for call in unanswered)
    for seed in range(40):
        for call in samples.recording_truth(9, seed)[:-4]:
            assert call["result_is"] != "no-response" or "error" in call


def test_questions_stand_before_a_request_and_behind_an_answer() -> None:
    questions = {call["call"]: call for call in _log().truth if call["role"] == "enrichment"}
    behind = Counter[bool]()
    asking = [call for call in _agents() if "enrichment" in call]
    assert sum(len(call["enrichment"]) for call in asking) == len(questions)
    for call in asking:
        for asked in call["enrichment"]:
            assert set(asked) == {"tool", "args", "result"}
            (line, *_) = [
                int(key[1:])
                for key, question in questions.items()
                if question["args"] == asked["args"] and question["result"] == asked["result"]
            ]
            behind[line > call["lines"][0]] += 1
    assert behind[True] > 3
    assert behind[False] > 20
    assert all(len(question["lines"]) == 2 for question in questions.values())


def test_the_guard_asks_one_question_at_a_time() -> None:
    for seed in range(20):
        questions = [call["lines"] for call in samples.recording_truth(60, seed) if call["role"] == "enrichment"]
        assert len(questions) > 15
        assert all(first[1] < second[0] for first, second in pairwise(questions))


# The guard


def _asked_of(args: bytes) -> str:
    return str(json.loads(args)["query"]).removeprefix("repo:")


@pytest.mark.parametrize("seed", [0, SEED])
def test_the_real_guard_asks_and_labels_as_the_recording_says(seed: int) -> None:
    """The shipped guard, run over the same calls in the same order, with the backend's answers as the log has them."""
    asked: list[str] = []

    def answer(tool: str, args: bytes) -> bytes:
        asked.append(_asked_of(args))
        assert tool == "search_repositories"
        text = json.dumps(samples.backend(tool, json.loads(args)))
        return json.dumps({"content": [{"type": "text", "text": text}]}).encode()

    instance = GuardInstance(loaded(), InstanceSettings("github", has_backend=True), answer)
    instance.label_agent(json.dumps(samples.POLICY).encode())
    labellings: list[Labelling] = []
    truth = play(2500, seed, labellings.append).truth
    for op, tool, args, result, expected_questions, labels in labellings:
        asked.clear()
        call = {"tool_name": tool, "tool_args": args} | ({} if result is None else {"tool_result": result})
        outcome = instance.call(op, json.dumps(call).encode())
        assert outcome.status == "ok"
        assert asked == expected_questions, (op, tool, args)
        assert _labels_in(json.loads(outcome.label or b"")) == [_as_json(label, op) for label in labels], (tool, args)
    told = [_asked_of(json.dumps(call["args"]).encode()) for call in truth if call["role"] == "enrichment"]
    assert Counter(told) == Counter(name for labelling in labellings for name in labelling[4])
    assert len(told) > 40


def _labels_in(answer: dict[str, Any]) -> list[dict[str, Any]]:
    if "operation" in answer:
        return [_plain(answer) | {"operation": answer["operation"]}]
    return [_plain(each) for each in answer["labeled_paths"]] or [_plain(answer["default_labels"])]


def _plain(label: dict[str, Any]) -> dict[str, Any]:
    tags = {name: sorted(label[name]) for name in ("secrecy", "integrity")}
    return {"description": label["description"], **tags}


def _as_json(label: Any, op: str) -> dict[str, Any]:
    made = {"description": label.description, "secrecy": sorted(label.secrecy), "integrity": sorted(label.integrity)}
    return made | ({"operation": label.operation} if op == "label_resource" else {})


def test_what_is_removed_is_what_the_sample_policy_keeps_from_the_agent() -> None:
    agent = {"none:all", "unapproved:all", "approved:all"}
    for call in _agents():
        for event in call.get("observed", {}).get("filtered", ()):
            lacks = agent - set(event["integrity_tags"])
            assert lacks or event["secrecy_tags"]
            assert ("has lower integrity than agent requires" in event["reason"]) == bool(lacks)
