"""A table of replies: what was answered before, for a run that asks no one else.

A line is `{"tool": str, "args": any, "result": any}`, or has `"error": str` in the place of the result. A question is a tool
with its arguments in canonical form: names sorted, numbers as a guard sees them, no spaces.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Union

import msgspec

from guardpool.contract.inputs import canonical
from guardpool.errors import CallerError, ContractError, GuardPoolError
from guardpool.lines import BOM
from guardpool.printable import printable


class RepliesError(CallerError, ValueError):
    """A table of replies cannot be used; the message names the file and the line."""


class BackendFailed(GuardPoolError):
    """A backend has no answer: the guard gets -1."""


class GuardRefused(BackendFailed):
    """The guard that asks gets no answer; another guard that asks the same may get one."""


class NoReply(BackendFailed):
    """A table does not hold the question."""


class _Line(msgspec.Struct, gc=False):
    tool: str
    args: msgspec.Raw
    result: Union[msgspec.Raw, msgspec.UnsetType] = msgspec.UNSET
    error: Union[str, msgspec.UnsetType] = msgspec.UNSET


_decode_line = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode
# How files begin that are compressed: with gzip, zstd, bzip2, xz, zip.
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04")


def line_of(tool: str, args: bytes, *, result: bytes | None = None, error: str | None = None) -> bytes:
    """A line of a table, with its newline.

    Args:
        tool: the tool.
        args: its arguments, canonical.
        result: what was answered, as JSON; None if there is an `error`.
        error: why nothing was answered.
    """
    answer = b'"error":' + _encode(error) if result is None else b'"result":' + result
    return b'{"tool":%b,"args":%b,%b}\n' % (_encode(tool), args, answer)


def question_of(tool: str, args: bytes | msgspec.Raw) -> bytes:
    """A question as a key: the tool and its canonical arguments.

    Raises:
        ContractError: the arguments are not JSON that a guard may be told.
    """
    return _encode(tool) + canonical(args)


class Replies:
    """Answers from a table and from nowhere else.

    Args:
        lines: the table's lines, as bytes or text; blank ones are skipped.
        name: what messages call it, e.g. the file's path.

    Attributes:
        conflicts: lines, counted from 1, that answer a question otherwise than an earlier one. The first answer counts.

    Raises:
        RepliesError: a line is not a reply.
    """

    def __init__(self, lines: Iterable[bytes | str], name: str = "the replies") -> None:
        self._answers: dict[bytes, bytes | BackendFailed] = {}
        self.conflicts: list[int] = []
        for number, text in enumerate(lines, 1):
            line = text.encode("utf-8", "replace") if isinstance(text, str) else text
            if line.strip():
                try:
                    self._add(line.removeprefix(BOM) if number == 1 else line, number)
                except RecursionError as error:
                    raise RepliesError(f"{name}: line {number} is not a reply: it is nested too deeply") from error
                except (msgspec.DecodeError, UnicodeDecodeError, ContractError) as error:
                    why = f"{printable(str(error), 200)}{_advice(line) if number == 1 else ''}"
                    raise RepliesError(f"{name}: line {number} is not a reply: {why}") from error

    def _add(self, line: bytes, number: int) -> None:
        reply = _decode_line(line)
        if (reply.result is msgspec.UNSET) == (reply.error is msgspec.UNSET):
            raise msgspec.DecodeError("it needs either result or error")
        question = question_of(reply.tool, reply.args)
        if isinstance(reply.error, str):
            answer: bytes | BackendFailed = BackendFailed(reply.error)
        else:
            answer = bytes(reply.result)  # type: ignore[arg-type]
        known = self._answers.setdefault(question, answer)
        if known is not answer and _shown(known) != _shown(answer):
            self.conflicts.append(number)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Replies:
        """The table in a file.

        Raises:
            RepliesError: the file cannot be read, or a line is not a reply.
        """
        file = Path(path)
        try:
            with file.open("rb") as lines:
                return cls(lines, str(file))
        except OSError as error:
            raise RepliesError(f"{file}: cannot be read: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self._answers)

    def items(self) -> Iterator[tuple[bytes, bytes | BackendFailed]]:
        """Every question (`question_of`) with its answer as JSON, or why there is none."""
        return iter(self._answers.items())

    def __call__(self, tool: str, args: Any) -> Any:
        """The answer.

        Raises:
            NoReply: the table does not hold the question.
            BackendFailed: it holds an error.
        """
        answer = self._answers.get(question_of(tool, _encode(args)))
        if answer is None:
            raise NoReply("the table of replies does not hold this question")
        if isinstance(answer, BackendFailed):
            raise BackendFailed(str(answer))
        return msgspec.json.decode(answer)


def _advice(line: bytes) -> str:
    """What to do about a file whose first line is not a reply."""
    if line.startswith(_PACKED):
        return "; the file is compressed: unpack it first"
    return '; a reply is {"tool": ..., "args": ..., "result": ...}, or has "error" in the place of "result"'


def _shown(answer: bytes | BackendFailed) -> bytes | str:
    return str(answer) if isinstance(answer, BackendFailed) else canonical(answer)
