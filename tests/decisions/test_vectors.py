"""Every decision recorded from the reference gateway, decided the same way."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec

from guardpool import decide
from guardpool.decide import Decision, Rule, Verdict
from guardpool.labels import DifcMode, Operation, ResourceLabel
from paths import VECTORS

CASES = [json.loads(line) for line in (VECTORS / "decisions.jsonl").read_text(encoding="utf-8").splitlines()]


def call_of(case: dict[str, Any]) -> decide.CallLabels:
    labels = (frozenset(case["resource"]["secrecy"]), frozenset(case["resource"]["integrity"]))
    return decide.CallLabels(
        case["tool_name"],
        mode=case["mode"],
        operation=case["operation"],
        resource=ResourceLabel("", *labels, Operation(case["operation"])),
        response=None if case["response"] is None else msgspec.json.encode(case["response"]),
        tool_result=case["tool_result"],
    )


def told_by_the_gateway(decision: Decision) -> tuple[list[str], list[str]]:
    """The tags that the gateway tells: of the first rule that denies, or in propagate of both rules of a plain read."""
    failed = decision.failed
    if decision.mode is DifcMode.PROPAGATE and decision.operation is not Operation.READ:
        failed = tuple(one for one in failed if one.rule in (Rule.WRITE_INTEGRITY, Rule.WRITE_SECRECY))
    if decision.mode is not DifcMode.PROPAGATE or decision.operation is not Operation.READ:
        failed = failed[:1]
    missing = [tag for one in failed for tag in one.missing]
    extra = [tag for one in failed for tag in one.extra]
    return sorted(missing), sorted(extra)


def as_recorded(decision: Decision) -> dict[str, Any]:
    missing, extra = told_by_the_gateway(decision)
    after = decision.agent_after
    items = None if decision.items is None else [item.allowed for item in decision.items]
    return {
        "coarse": decision.coarse,
        "integrity_missing": missing,
        "secrecy_extra": extra,
        "label_response_called": decision.response_labelled,
        "items": items,
        "verdict": decision.verdict,
        "shown": decision.shown,
        "agent_after": {"secrecy": sorted(after.secrecy), "integrity": sorted(after.integrity)},
    }


def expected(gateway: dict[str, Any]) -> dict[str, Any]:
    items = gateway["items"]
    if items is None and gateway["verdict"] == "items":
        items = []  # the recorder wrote an empty list of items as null
    names = ("coarse", "integrity_missing", "secrecy_extra", "label_response_called", "verdict", "shown", "agent_after")
    return {
        **{name: gateway[name] for name in names},
        "items": None if items is None else [item["allowed"] for item in items],
    }


def test_each_decision_is_the_gateways() -> None:
    monitor = decide.Monitor(rules="gateway")
    wrong = []
    for line in CASES:
        case = line["case"]
        agent = decide.AgentState(case["agent"]["secrecy"], case["agent"]["integrity"])
        decision = monitor.decide(agent, call_of(case))
        if as_recorded(decision) != expected(line["gateway"]):
            wrong.append((case["id"], as_recorded(decision), expected(line["gateway"])))
        assert ("error" in line["gateway"]) == (decision.verdict is Verdict.LABELLING_ERROR)
    assert wrong == []
    assert len(CASES) == 1200


def test_the_rule_that_hides_an_item_is_the_gateways() -> None:
    monitor = decide.Monitor(rules="gateway")
    told: Counter[bool] = Counter()
    for line in CASES:
        case = line["case"]
        agent = decide.AgentState(case["agent"]["secrecy"], case["agent"]["integrity"])
        decision = monitor.decide(agent, call_of(case))
        for item, recorded in zip(decision.items or (), line["gateway"]["items"] or ()):
            if not item.allowed:
                reads_freely = decision.mode is DifcMode.PROPAGATE
                denying = [one for one in item.failed if not (reads_freely and one.rule.value.startswith("read"))]
                by_secrecy = denying[0].rule in (Rule.READ_SECRECY, Rule.WRITE_SECRECY)
                assert by_secrecy == recorded.get("secrecy_violation", False)
                told[by_secrecy] += 1
    assert min(told.values()) > 10
