"""What guards asked of their backend according to a recording, as a table of replies for a replay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from guardpool.backends.replies import line_of
from guardpool.contract.inputs import canonical
from guardpool.errors import ContractError
from guardpool.recordings.call import Call, ResultIs, Role, error_text

_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode


class ReplyLines:
    """Turns guards' questions into lines `{"tool", "args", "result"}` or `{"tool", "args", "error"}`, one for each question.

    The first answer to a question counts. Arguments are canonical: keys sorted, numbers as guards see them, no spaces.

    Attributes:
        written: questions so far.
        conflicts: later answers to a question that differ from the first.
        tools: that guards were seen to ask for, of calls that are known for what they are.
    """

    def __init__(self) -> None:
        self.written = 0
        self.conflicts = 0
        self.tools: set[str | None] = set()
        self._answers: dict[bytes, bytes] = {}  # digests: of the question, of its first line

    def lines(self, calls: Iterable[Call]) -> bytes:
        """The lines that these calls add; calls that are certainly the agent's add none."""
        return b"".join([self._line(call) for call in calls if call.role is not Role.AGENT])

    def of_told(self, call: Call) -> bytes:
        """The lines of a call that is known for what it is, for a run in which no guard's question is in the recording anew.

        What was asked for it counts, and what the agent asked itself, if its tool is one that guards were seen to ask for.
        """
        asked = [*_questions_of(call), call]
        self.tools.update(each.tool for each in asked if each.role is Role.ENRICHMENT)
        if call.tool in self.tools and call.role is not Role.ENRICHMENT:
            # It answers a guard as well, if no guard asked it.
            asked.append(msgspec.structs.replace(call, role=Role.CANDIDATE))
        return self.lines(asked)

    def _line(self, call: Call) -> bytes:
        if call.tool is None or call.args_json is None:
            return b""
        result = call.result_json if call.result_is.is_answer else None
        error = None
        if result is None:
            if call.error is None:
                return b""
            error = error_text(call.error) or msgspec.json.encode(call.error).decode()
        try:
            args = canonical(call.args_json)
        except ContractError:  # no guard could have asked that
            return b""
        line = line_of(call.tool, args, result=result, error=error)
        key = hashlib.blake2b(_encode((call.tool, args)), digest_size=16).digest()
        digest = hashlib.blake2b(line, digest_size=16).digest()
        known = self._answers.setdefault(key, digest)
        if known is not digest:
            self.conflicts += known != digest
            return b""
        self.written += 1
        return line


def _questions_of(call: Call) -> Iterator[Call]:
    """What was asked for a call, each question as a call of its own."""
    for number, each in enumerate(call.enrichment):
        tool, args = each.get("tool"), each.get("args")
        if isinstance(tool, str) and ("result" in each or isinstance(each.get("error"), str)):
            yield Call(
                call=f"{call.call}/{number}",
                source=call.source,
                role=Role.ENRICHMENT,
                tool=tool,
                args_json=_encode_json(args),
                result_json=_encode_json(each["result"]) if "result" in each else None,
                result_is=ResultIs.RAW if "result" in each else ResultIs.NO_RESPONSE,
                error=each.get("error"),
            )
