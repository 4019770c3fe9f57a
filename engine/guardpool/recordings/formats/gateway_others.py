"""Files of the gateway and of gh-aw that were understood and have no call: lists of tools, counts, texts for people."""

from __future__ import annotations

from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.json_text import value_of
from guardpool.recordings.runs import Fact
from guardpool.recordings.tally import COUNTS_ONLY, FACT, FOR_PEOPLE

_MARKDOWN = (b"<details>", b"- \xf0\x9f\x94\x8d rpc **")


class _GatewayOthers:
    name = "gateway-others"

    def recognise(self, text: bytes) -> Confidence:
        """Likely where a member or a beginning is one that only these files have."""
        if text.startswith(_MARKDOWN):
            return Confidence.SURE
        known = (
            b'"server_name"' in text and b'"tool_name"' in text,
            b'"servers"' in text,
            b'"agents"' in text and b'"mode"' in text,
        )
        return Confidence.MAYBE if any(known) else Confidence.NO

    def begin(self, sink: Sink) -> _Feed:
        """Read an input."""
        return _Feed(sink)


class _Feed:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._is_markdown = False

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        if self._is_markdown or text.startswith(_MARKDOWN):
            # The page indents its JSON. What stands at the margin was appended, or the page never ended.
            self._is_markdown = not text.startswith((b"</details>", b"{", b"["))
            if self._is_markdown or text.startswith(b"<"):
                self._sink.count(FOR_PEOPLE, number, text, lines)
                return "gateway.md"
        name, reason = self._kind(text, number)
        if name is None:
            return None
        self._sink.count(reason, number, text, lines)
        return name

    def _kind(self, text: bytes, number: int) -> tuple[str | None, str]:
        found = value_of(text)
        if not isinstance(found, dict):
            return None, ""
        where, at = f"{self._sink.name}#{number}", found.get("timestamp")
        if isinstance(found.get("server_name"), str) and found.get("type") in (
            "request",
            "DIFC_FILTERED",
            "GUARD_POLICY_BLOCKED",
        ):
            return "gateway.jsonl", COUNTS_ONLY
        if isinstance(found.get("servers"), dict) and len(found) == 1:
            self._sink.run.note("tools", Fact(where, None, "", found["servers"]))
            return "tools.json", FACT
        if isinstance(found.get("agents"), dict) and isinstance(found.get("mode"), str):
            self._sink.run.note("agents", Fact(where, at if isinstance(at, str) else None, "", found))
            return "reflect", FACT
        return None, ""

    def finish(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


GATEWAY_OTHERS = _GatewayOthers()
