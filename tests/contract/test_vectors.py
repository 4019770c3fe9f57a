"""Every case recorded from the reference gateway, judged the same way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from guardpool import contract
from guardpool.contract import ContractError, Labels
from guardpool.labels import label_from_json
from paths import VECTORS


def _cases() -> Iterator[Any]:
    # Inputs have a test of their own, test_inputs.py.
    for file in (
        VECTORS / f"{name}.jsonl" for name in ("agent_answer", "policy", "resource_answer", "response_answer")
    ):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            yield pytest.param(json.loads(line), id=f"vectors-{file.stem}-{number}")


def _plain(labels: Labels) -> dict[str, Any]:
    return {
        "description": labels.description,
        "secrecy": sorted(labels.secrecy),
        "integrity": sorted(labels.integrity),
    }


def _policy(case: dict[str, Any]) -> dict[str, Any]:
    return {"payload": contract.check_policy(case["input"])}


def _agent(case: dict[str, Any]) -> dict[str, Any]:
    agent = contract.parse_agent_answer(case["output"].encode())
    return {"mode": agent.mode, "secrecy": sorted(agent.secrecy), "integrity": sorted(agent.integrity)}


def _resource(case: dict[str, Any]) -> dict[str, Any]:
    answer = case["output"].encode()
    label = contract.parse_resource_answer(answer)
    assert label_from_json("label_resource", contract.judge("label_resource", answer)) == label
    return {"operation": label.operation, "resource": _plain(label)}  # type: ignore[arg-type]


def _response(case: dict[str, Any]) -> dict[str, Any]:
    answer = case["output"].encode()
    label = contract.parse_response_answer(answer)
    assert label_from_json("label_response", contract.judge("label_response", answer)) == label
    if label is None:
        return {"items": None}
    items = contract.expand(label, case["tool_result"])
    return {"items": [{"data": item.data, "labels": _plain(item.labels)} for item in items]}


GIVEN = ("accept", "kind", "input", "output", "tool_result")
RULES = {"policy": _policy, "agent": _agent, "resource": _resource, "response": _response}


@pytest.mark.parametrize("case", list(_cases()))
def test_each_vector_is_judged_as_the_reference_judged_it(case: dict[str, Any]) -> None:
    expected = {key: value for key, value in case.items() if key not in GIVEN}
    # Where the reference let an item pass without labels, the contract is stricter.
    stricter = any(item["labels"] is None for item in case.get("items") or ())
    if case["accept"] and not stricter:
        assert RULES[case["kind"]](case) == expected
    else:
        with pytest.raises(ContractError):
            RULES[case["kind"]](case)


def test_vectors_of_all_four_kinds_exist() -> None:
    assert {case.values[0]["kind"] for case in _cases()} == set(RULES)
