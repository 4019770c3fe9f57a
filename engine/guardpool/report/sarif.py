"""Findings as SARIF 2.1.0, for code scanning and editors: a result for each call and finding.

A result's place is the recording's file, as a relative address, and the line of the call's request.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0; GitHub's limit of results a run.
"""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

from guardpool.report.findings import Weight, kind_of, order
from guardpool.report.store import Listed
from guardpool.report.summary import Summary

# GitHub refuses a run that has more.
MAX_RESULTS = 25_000
_LEVELS = {Weight.OPEN: "error", Weight.REPLAY: "warning", Weight.MISLEADS: "warning"}


def sarif(summary: Summary, version: str) -> dict[str, Any]:
    """The log, with the weightiest findings first.

    Args:
        summary: of the decisions.
        version: of guardpool.
    """
    ids = sorted(summary.findings, key=order)
    places = {finding_id: at for at, finding_id in enumerate(ids)}
    found = [(finding_id, call) for call in summary.store.listed() for finding_id in call.findings]
    found.sort(key=lambda pair: places[pair[0]])
    total = sum(finding.calls for finding in summary.findings.values())
    left_out = total - min(len(found), MAX_RESULTS)
    notes = [_note(f"{left_out:,} of {total:,} findings are left out.")] if left_out else []
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "guardpool",
                        "semanticVersion": version,
                        "rules": [_rule(finding_id) for finding_id in ids],
                    }
                },
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
                "results": [_result(finding_id, places[finding_id], call) for finding_id, call in found[:MAX_RESULTS]],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _note(text: str) -> dict[str, Any]:
    return {"level": "note", "message": {"text": text}}


def _rule(finding_id: str) -> dict[str, Any]:
    kind = kind_of(finding_id)
    return {
        "id": finding_id,
        "shortDescription": {"text": f"{kind.meaning[0].upper()}{kind.meaning[1:]}."},
        "defaultConfiguration": {"level": _LEVELS[kind.weight]},
    }


def _result(finding_id: str, place: int, call: Listed) -> dict[str, Any]:
    kind = kind_of(finding_id)
    region = {"region": {"startLine": call.line}} if call.line else {}
    location = {"artifactLocation": {"uri": relative_uri(call.path)}, **region}
    items = f", {call.items - call.hidden:,} of {call.items:,} items" if call.items else ""
    return {
        "ruleId": finding_id,
        "ruleIndex": place,
        "level": _LEVELS[kind.weight],
        # Viewers take [text](1) and {0} for links and arguments.
        "message": {"text": _literal(f"{call.tool}: {kind.meaning} (the agent: {call.end}{items}).")},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"guardpoolFinding/v1": _fingerprint(finding_id, call)},
    }


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("{", "{{").replace("}", "}}")


def _fingerprint(finding_id: str, call: Listed) -> str:
    """What stays the same when lines are added before the call."""
    told = "\0".join((finding_id, call.path, call.session, call.tool, call.touched, call.day, call.time))
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def relative_uri(path: str) -> str:
    """A path as a relative address: no scheme, no host, and nothing above where it starts."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join(quote(part, safe="") for part in parts) or "recording"
