"""What guards asked of their backend according to a recording, as a table of replies for a replay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from guardpool.contract.inputs import canonical
from guardpool.errors import ContractError
from guardpool.recordings.call import Call, Role, error_text

_encode = msgspec.json.Encoder(order="deterministic").encode


class Replies:
    """Turns guards' questions into lines `{"tool", "args", "result"}` or `{"tool", "args", "error"}`, one for each question.

    The first answer to a question counts. Arguments are canonical: keys sorted, numbers as guards see them, no spaces.

    Attributes:
        written: questions so far.
        conflicts: later answers to a question that differ from the first.
    """

    def __init__(self) -> None:
        self.written = 0
        self.conflicts = 0
        self._answers: dict[bytes, bytes] = {}  # digests: of the question, of its first answer

    def lines(self, calls: Iterable[Call]) -> bytes:
        """The lines that these calls add; calls that are certainly the agent's add none."""
        return b"".join([self._line(call) for call in calls if call.role is not Role.AGENT])

    def _line(self, call: Call) -> bytes:
        if call.tool is None or call.args_json is None:
            return b""
        if call.result_json is not None and call.result_is.is_answer:
            answer = b'"result":' + call.result_json
        elif call.error is not None:
            answer = b'"error":' + _encode(error_text(call.error) or msgspec.json.encode(call.error).decode())
        else:
            return b""
        try:
            args = canonical(call.args_json)
        except ContractError:  # no guard could have asked that
            return b""
        question = b'{"tool":%b,"args":%b,' % (_encode(call.tool), args)
        key = hashlib.blake2b(question, digest_size=16).digest()
        digest = hashlib.blake2b(answer, digest_size=16).digest()
        known = self._answers.setdefault(key, digest)
        if known is not digest:
            self.conflicts += known != digest
            return b""
        self.written += 1
        return question + answer + b"}\n"
