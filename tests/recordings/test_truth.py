"""A gateway's log read against the truth of how it was made: every call, every pair, every state of a payload."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guardpool import samples
from guardpool.recordings import Call, Pairing
from guardpool.samples import sanitiser
from recordingkit import checked

SIZES = [pytest.param(1, 1500), pytest.param(10, 1000, marks=pytest.mark.slow)]


def written(folder: Path, count: int, seed: int) -> tuple[list[Call], list[dict[str, Any]]]:
    """The calls of a sample recording, and what it stands for."""
    path = folder / "rpc-messages.jsonl"
    path.write_text("\n".join(samples.recording(count, seed)) + "\n")
    calls, tally = checked(path)
    truth = samples.recording_truth(count, seed)
    assert tally.reasons["other-method"] == 2  # the gateway's own question for the tools, and its answer
    assert set(tally.reasons) <= {"other-method", "event-without-call"}
    return calls, truth


@pytest.mark.parametrize(("seeds", "count"), SIZES)
def test_every_call_is_read_and_what_is_wrong_is_marked(tmp_path: Path, seeds: int, count: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(seeds):
        calls, truth = written(tmp_path, count, seed)
        assert [call.call for call in calls] == [f"rpc-messages.jsonl{each['call']}" for each in truth]
        for call, true in zip(calls, truth):
            members = call.to_dict()
            assert (call.tool, call.args) == (true.get("tool"), true.get("args"))
            is_right = all(members.get(name) == true.get(name) for name in ("result", "result_is", "payload", "error"))
            assert is_right or call.pairing is Pairing.AMBIGUOUS, (call.call, members, true)
            assert ("denied" in (call.observed or {})) == ("denied" in true.get("observed", {}))
            seen["marked"] += call.pairing is Pairing.AMBIGUOUS
            seen["wrong"] += not is_right
            seen["role", true["role"], call.role.value] += 1  # type: ignore[index]
            seen["filtered"] += told(call.observed) == told(true.get("observed"))
    total = len(truth) * seeds
    # About 9% of the agent's calls overlap others. Most of these are paired right, and marked all the same.
    assert 0.02 * total < seen["marked"] < 0.15 * total
    assert 0 < seen["wrong"] < 0.05 * total
    # Where two calls of one tool overlap and neither's result has the item, what was removed may be taken for the other's.
    assert seen["filtered"] > 0.995 * total
    # Without the guard one cannot be sure, and errs on the side of a candidate.
    asked = seen["role", "enrichment", "candidate"] + seen["role", "enrichment", "agent"]  # type: ignore[index]
    assert seen["role", "enrichment", "agent"] < 0.1 * asked  # type: ignore[index]
    assert seen["role", "agent", "candidate"] < 0.1 * total  # type: ignore[index]


def told(observed: dict[str, Any] | None) -> list[str]:
    """The items that were removed, in an order of their own: tags stand in none, and the truth has no times."""
    return sorted(
        json.dumps(
            {
                name: sorted(value) if isinstance(value, list) else value
                for name, value in event.items()
                if name != "timestamp"
            },
            sort_keys=True,
        )
        for event in (observed or {}).get("filtered", [])
    )


_SECRETS = (
    "0123456789abcdef0123456789abcdef01234567",
    "token=abcdefgh12345678",
    "the key: user_identifier]",
    "password:hunter2hunter2 and more",
    "ghp_" + "a" * 36,
    "Bearer abcdefghijklmnop",
    "plain text",
    "secret",
)
_NAMES = ("title", "token", "key", "body", "secret", "sha", "password", "auth")


def payloads(count: int, seed: int) -> Iterator[str]:
    """Results with secrets of every kind at every depth, as JSON."""
    draw = random.Random(seed)

    def value(depth: int) -> Any:
        kind = draw.random()
        if depth and kind < 0.35:
            return {draw.choice(_NAMES): value(depth - 1) for _ in range(draw.randrange(1, 4))}
        if depth and kind < 0.5:
            return [value(depth - 1) for _ in range(draw.randrange(3))]
        return draw.choice(_SECRETS) if kind < 0.75 else draw.choice([1, None, True, "x", ""])

    for _ in range(count):
        text = json.dumps(value(3)) if draw.random() < 0.5 else str(draw.choice(_SECRETS))
        result: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
        if draw.random() < 0.5:
            result["structuredContent"] = {"data": value(2)}
        yield sanitiser.encode({"jsonrpc": "2.0", "id": 1, "result": result})


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_state_of_a_payload_is_told(tmp_path: Path, count: int) -> None:
    head = '{"timestamp":"2026-08-15T10:00:00.000Z","_schema":"rpc-message/v2","server_id":"github",'
    ask = head + '"event":"rpc_request","method":"tools/call","payload":{"params":{"name":"t","arguments":{}}}}\n'
    answers = list(payloads(count, seed=4711))
    path = tmp_path / "log"
    path.write_text(
        "".join(f'{ask}{head}"event":"rpc_response","payload":{sanitiser.sanitise(each)}}}\n' for each in answers)
    )
    calls, _ = checked(path)
    seen: Counter[tuple[str, str]] = Counter()
    for call, answer in zip(calls, answers):
        damage = sanitiser.damage(answer)
        assert call.payload.result is not None
        state = call.payload.result.value
        seen[damage.state, state] += 1
        if state in ("intact", "redacted", "repaired") and damage.left is not None:
            assert call.result == json.loads(damage.left)["result"]
    assert {true for true, _ in seen} == {"intact", "redacted", "repaired", "lost"}
    # A value that was taken out past the end of its string may leave JSON that looks whole: nobody can see that what stood
    # there is missing. Everything else is told as it is.
    unseen = {("lost", "redacted"), ("lost", "repaired")}
    assert {pair for pair in seen if pair[0] != pair[1]} <= unseen, seen
    assert sum(seen[pair] for pair in unseen) < 0.01 * count
