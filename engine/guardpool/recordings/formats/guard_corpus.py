"""The corpus that guards are tested with: golden labels beside calls, and the answers of a recorded backend, in one document.

Each case is a call: its labels stand in `observed` under `expected`, and the answers that its guard may ask for in
`enrichment`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from guardpool.recordings.call import Call, Pairing, Payload, PayloadState, ResultIs
from guardpool.recordings.formats.messages import dicts
from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.json_text import value_of

_NAME = "guard-corpus"
_encode = msgspec.json.Encoder().encode


class _GuardCorpus:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Sure where a document has cases."""
        return Confidence.SURE if b'"resource_cases"' in text or b'"response_cases"' in text else Confidence.NO

    def begin(self, sink: Sink) -> _Feed:
        """Read an input."""
        return _Feed(sink)


class _Feed:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        found = value_of(text)
        if not isinstance(found, dict) or not ("resource_cases" in found or "response_cases" in found):
            return None
        version = found.get("version")
        source = f"{_NAME}/v{version}" if isinstance(version, int) else _NAME
        replies = tuple(
            {"tool": each.get("tool"), "args": each.get("args"), "result": each.get("response")}
            for each in dicts(found.get("backend_replay"))
        )
        about = {name: found[name] for name in ("allow_only_policy", "expected_agent") if name in found}
        left = lines
        for kind in ("resource_cases", "response_cases"):
            for at, case in enumerate(dicts(found.get(kind))):
                call = self._case(case, f"{self._sink.name}#{number}/{kind}/{at}", source, about, kind)
                if call is None:
                    continue
                self._sink.emit(msgspec.structs.replace(call, enrichment=replies), left)
                left = 0
        if left:
            self._sink.count("no-call-in-it", number, text, left)
        return source

    def _case(self, case: dict[str, Any], name: str, source: str, about: dict[str, Any], kind: str) -> Call | None:
        tool, args = case.get("tool_name"), case.get("tool_args")
        if not isinstance(tool, str):
            return None
        has_result = kind == "response_cases" and "tool_result" in case
        expected = {key: value for key, value in case.items() if key.startswith("expected")}
        title = case.get("name")
        return Call(
            call=name,
            source=source,
            source_id=title if isinstance(title, str) else None,
            session=self._sink.name,
            tool=tool,
            args_json=_encode(args if isinstance(args, dict) else {}),
            result_json=_encode(case["tool_result"]) if has_result else None,
            result_is=ResultIs.RAW if has_result else ResultIs.NOT_RECORDED,
            pairing=Pairing.ID,
            payload=Payload(PayloadState.INTACT, PayloadState.INTACT if has_result else None),
            observed={**about, **expected} or None,
        )

    def finish(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


GUARD_CORPUS = _GuardCorpus()
