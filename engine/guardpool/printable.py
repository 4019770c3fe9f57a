"""Text that other people wrote, made safe to print on a terminal.

A guard's names, descriptions, log lines and answers may hold escape sequences that move the cursor, recolour or clear
the screen, and bidirectional overrides that make a line read as something else. `printable` shows such characters as
escapes instead of sending them. The log of a CI service is a kind of terminal, too: its runner obeys lines such as
`::add-mask::word`, so the mark of such a command is escaped as well.
"""

from __future__ import annotations

import re
import shlex
from functools import lru_cache

ELLIPSIS = "…"

# What is escaped, and why:
#   00-1f 7f-9f   C0 and C1 control characters: escape sequences, carriage returns, newlines, tabs
#   ad            soft hyphen, shown or not as the terminal likes
#   34f 115f 1160 17b4 17b5 180b-180f 2800 3164 ffa0   invisible, or blank without being a space: two different names
#                 would look the same
#   61c           Arabic letter mark
#   200b-200f     zero width, left-to-right and right-to-left marks
#   2028 2029     line and paragraph separators
#   202a-202e     bidirectional embeddings and overrides
#   2060-206f     word joiner, invisible operators, bidirectional isolates, deprecated format characters
#   d800-dfff     lone surrogates, which no stream can encode
#   fdd0-fdef fffe ffff (and of every plane)   noncharacters
#   feff fff0-fffb   byte order mark, interlinear annotation
#   1d173-1d17a e0000-e0fff   musical format characters, invisible tags
# Not fe0f and its kin: variation selectors are part of everyday emoji and only pick a glyph.
#
# And the first character of what makes a CI runner obey:
#   ::error ...::   GitHub Actions, at the beginning of a line or after the blanks there. A text may come to stand there by
#                   being wrapped, or after an empty cell: it is escaped after any blank; `serde_json::error::Error` stays
#   ##[error]       GitHub Actions and Azure Pipelines, anywhere in a line; ##vso[ of Azure and ##teamcity[ likewise
# Only names that a runner knows: `::std` and `::1` mean nothing to it.
_COMMANDS = (
    "add-mask|add-matcher|add-path|debug|echo|endgroup|error|group|internal-set-repo-path|notice|remove-matcher|save-state|"
    "set-env|set-output|stop-commands|warning"
)
_UNSAFE_CHARACTER = (
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001d173-\U0001d17a"
    + "".join(chr((plane << 16) | last) for plane in range(1, 17) for last in (0xFFFE, 0xFFFF))
    + "\U000e0000-\U000e0fff]"
)
_COMMAND_ANYWHERE = r"#(?=#(?i:vso|teamcity)?\[)"
_FIND_CHARACTER = re.compile(_UNSAFE_CHARACTER).search
_UNSAFE = re.compile(rf"(?<!\S):(?=:(?i:{_COMMANDS})(?![\w-]))|{_COMMAND_ANYWHERE}|{_UNSAFE_CHARACTER}")
_COMMAND_IN_JSON = re.compile(_COMMAND_ANYWHERE.encode())

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, limit: int = 200) -> str:
    """One line of `text` that is safe to print: unsafe characters become escapes, and it is cut at `limit`.

    Control characters, bidirectional overrides and isolates, zero-width and other invisible characters, line
    separators, lone surrogates, noncharacters and the first mark of a CI runner's command (`::error`, `##[`) become `\\n`,
    `\\r`, `\\t`, `\\xNN`, `\\uXXXX` or `\\UXXXXXXXX`.
    Everything else stays as it is, backslashes included: the result is for reading, not for parsing.

    Args:
        text: any text, from any source.
        limit: the most characters that come back, the ellipsis of a cut included; at least 1.

    Returns:
        At most `limit` characters. The time and memory it takes grow with `limit`, not with the length of `text`.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    # An escape is never shorter than what it stands for, so what is past the limit can be left out beforehand.
    head = text[: limit + 1]
    if _is_safe(head):
        return head if len(head) <= limit else head[: limit - 1] + ELLIPSIS
    pieces = _pieces(head)
    used = 0
    cut_at = 0  # how many pieces fit with an ellipsis after them
    for at, piece in enumerate(pieces, 1):
        used += len(piece)
        if used > limit:
            return "".join(pieces[:cut_at]) + ELLIPSIS
        if used < limit:
            cut_at = at
    return "".join(pieces)


def _pieces(text: str) -> list[str]:
    """Each character of `text`, or its escape."""
    pieces: list[str] = []
    end = 0
    for match in _UNSAFE.finditer(text):
        pieces += text[end : match.start()]
        pieces.append(_escape(match[0]))
        end = match.end()
    pieces += text[end:]
    return pieces


def option_name(name: str, otherwise: str = "NAME") -> str:
    """A name from any source, for an option `NAME=...` of a command that a reader may copy to a shell.

    It is quoted where a shell would read more in it than a word. `otherwise` stands for a name that no such option can hold, or
    that cannot be shown as it is.
    """
    if not name or name.startswith("-") or "=" in name or printable(name) != name:
        return otherwise
    return shlex.quote(name)


def printable_end(text: str, limit: int = 200) -> str:
    """The last `limit` characters of `text`, safe to print as `printable` makes them: a traceback is read for its end."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    pieces = _pieces(text[-limit - 1 :])
    used, kept = 0, len(pieces)  # the pieces from `kept` on fit with an ellipsis before them
    for at in range(len(pieces) - 1, -1, -1):
        used += len(pieces[at])
        if used > limit:
            return ELLIPSIS + "".join(pieces[kept:])
        if used < limit:
            kept = at
    return "".join(pieces)


def escaped(text: str) -> str:
    """The whole of `text` with the escapes of `printable`, however long it becomes."""
    return text if _is_safe(text) else _UNSAFE.sub(lambda match: _escape(match[0]), text)


def _is_safe(text: str) -> bool:
    """Whether nothing in the text has to be escaped. It may be False for a text that needs no escape: this is the quick look
    that nearly all texts pass, in a third of the time that the whole pattern takes."""
    return _FIND_CHARACTER(text) is None and "::" not in text and "##" not in text


def _escape(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def without_commands(text: bytes) -> bytes:
    """Equal JSON without what a CI runner obeys anywhere in a line: for what is printed, and may stand in a log."""
    return _COMMAND_IN_JSON.sub(rb"\\u0023", text) if b"##" in text else text


def terminal_json(text: bytes) -> bytes:
    """Equal JSON, with every character escaped that a terminal should not get."""
    if text.isascii() and b"\x7f" not in text:
        return text
    return _NOT_PLAIN.sub(lambda match: _json_escape(match[0]), text.decode()).encode()


_NOT_PLAIN = re.compile("[^\n -~]")


@lru_cache(maxsize=4096)
def _json_escape(char: str) -> str:
    if printable(char, 16) == char:
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
