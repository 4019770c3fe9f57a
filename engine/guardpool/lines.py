"""A stream of bytes cut into lines, in bounded memory, however long a line is."""

from __future__ import annotations

from io import BytesIO

# What some programs put before a text in UTF-8; it is no part of its first line.
BOM = b"\xef\xbb\xbf"


class LineSplitter:
    """Cuts a stream of bytes into lines, holding one line at most, and of it `max_line_bytes` and its newline."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._held = 0
        self._skipping = False

    def feed(self, data: bytes, *, check_text: bool = True) -> tuple[list[bytes | None], bool]:
        """Take the next bytes of the stream.

        Args:
            data: any bytes.
            check_text: False saves the check where a caller looks at each line itself.

        Returns:
            The lines that `data` completes, each with its newline; None for one that was too long. And whether all of
            them are known to be UTF-8: checked together that is quicker than one by one.
        """
        pieces = BytesIO(data).readlines()  # 7 times as quick as `split` for lines of 2 KB
        rest = b"" if not pieces or pieces[-1].endswith(b"\n") else pieces.pop()
        if not pieces:
            self._hold(rest)
            return [], True
        others = memoryview(data)[len(pieces[0]) : len(data) - len(rest)]
        self._hold(pieces[0])
        first = self._release()
        self._hold(rest)
        are_text = check_text and (first is None or _is_text(first)) and (data.isascii() or _is_text(others))
        lines: list[bytes | None] = [first, *pieces[1:]]
        if len(data) > self._max:
            lines = [None if line is None or len(line) > self._max + 1 else line for line in lines]
        return lines, are_text

    def finish(self) -> tuple[list[bytes | None], bool]:
        """The last line, if the input does not end with a newline."""
        line = self._release()
        if line is not None and len(line) > self._max:
            line = None
        return ([] if line == b"" else [line]), False

    def _hold(self, part: bytes | None) -> None:
        if not part or self._skipping:
            return
        self._held += len(part)
        if self._held > self._max + 1:  # the newline does not count
            self._skipping = True
            self._parts.clear()
        else:
            self._parts.append(part)

    def _release(self) -> bytes | None:
        line = None if self._skipping else b"".join(self._parts)
        self._parts = []
        self._held = 0
        self._skipping = False
        return line


def _is_text(data: bytes | memoryview) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
