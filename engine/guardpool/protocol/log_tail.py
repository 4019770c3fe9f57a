"""The last lines that a job logged, in shared memory: what is known of them when the worker is killed.

A worker sends a job's lines with its result, and a killed worker sends none. So it also writes each line, as it comes, to a
ring behind the words of its progress page. The supervisor reads the ring once, and believes nothing of it: the worker may
have written anything, and may have been killed in the middle of a line.

Word `LOG_SEQ` of the page names the job whose lines these are, `LOG_LINES` says how many there were, and `LOG_END` how many
bytes were written to the ring, which is what follows on the page. A record is a line's text, filled up to whole words, and
one word more: `times << 24 | length << 8 | level`. So records are read from the newest to the oldest. One that does not fit
before the end of the page stands at the ring's beginning, with filling before the end. A record is whole before `LOG_END`
counts it. While it is written the oldest ones go, so as much as may be overwritten then is not read.
"""

from __future__ import annotations

import struct
from typing import Any

from guardpool.outcomes import LogLine
from guardpool.protocol.progress_page import LOG_END, LOG_LINES, LOG_RING, LOG_SEQ, PAGE_BYTES, SEQ

# A longer line keeps its beginning. The message of a panic with its file and line has about 200 bytes.
MAX_TEXT_BYTES = 1000
_RING_AT = LOG_RING * 8
_RING_BYTES = PAGE_BYTES - _RING_AT
# A record, and the filling before the end of the page.
_MAX_UNSURE_BYTES = 2 * (MAX_TEXT_BYTES + 8)
_FILLING = 0xFF  # in the place of a level
_MAX_TIMES = 2**40 - 1
# Python hears of the first two repetitions of a line at once, and of later ones when their number has doubled.
_LAST_EXACT_TIMES = 3
_word = struct.Struct("=Q").pack_into
_two_words = struct.Struct("=QQ").pack_into


def counted(text: str, times: int, word: str = "") -> str:
    """A line that was logged so many times in a row, as one line: `TEXT (8,000 times)`."""
    return text if times == 1 else f"{text} ({word}{times:,} times)"


class LogTail:
    """The worker's side.

    Args:
        page: the progress page.
    """

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._memory: Any = page.obj  # the mapping itself: half the time of a view of it
        self._at = _RING_AT  # of the next record, in bytes from the page's beginning
        self._end = self._lines = 0
        self._meta = self._meta_at = 0  # of the newest record

    def begin(self) -> None:
        """The job that runs is about to log its first line."""
        page = self._page
        page[LOG_END] = page[LOG_LINES] = self._end = self._lines = 0
        page[LOG_SEQ] = page[SEQ]
        self._at = _RING_AT

    def add(self, level: int, raw: bytes) -> None:
        """Write a line. Hot: about 1 us."""
        length = len(raw)
        if length > MAX_TEXT_BYTES:
            raw, length = raw[:MAX_TEXT_BYTES], MAX_TEXT_BYTES
        memory, at = self._memory, self._at
        meta_at = at + (length + 7 & ~7)
        if meta_at >= PAGE_BYTES:
            if at < PAGE_BYTES:
                _word(memory, PAGE_BYTES - 8, 1 << 24 | PAGE_BYTES - at - 8 << 8 | _FILLING)
            self._end += PAGE_BYTES - at
            meta_at += _RING_AT - at
            at = _RING_AT
        memory[at : at + length] = raw
        self._meta, self._meta_at = length << 8 | level, meta_at
        _word(memory, meta_at, 1 << 24 | length << 8 | level)
        self._at = meta_at + 8
        self._end += self._at - at
        self._lines += 1
        _two_words(memory, LOG_LINES * 8, self._lines, self._end)

    def repeat(self, times: int, total: int) -> None:
        """The newest line came so many times more, which makes so many in all."""
        self._lines += times
        self._page[LOG_LINES] = self._lines
        _word(self._memory, self._meta_at, min(total, _MAX_TIMES) << 24 | self._meta)

    def skip(self, lines: int) -> None:
        """Count lines that are not written; the page says so with the next one that is."""
        self._lines += lines


def read(page: memoryview, seq: int, max_bytes: int) -> list[LogLine]:
    """The last lines of a job that was ended with its worker, oldest first; empty if the page holds none of that job's.

    Args:
        page: the worker's progress page.
        seq: the job's number.
        max_bytes: what they may cost: a line its UTF-8 bytes and one for its end, as in `Limits.max_log_bytes`. How many
            others there were, which do not fit or are no longer there, says a line of its own in front.
    """
    copy = bytes(page)  # at once: whoever still writes to the page cannot change what was checked
    words = memoryview(copy).cast("Q")
    if words[LOG_SEQ] != seq:
        return []
    at = words[LOG_END] % _RING_BYTES & ~7
    ring = copy[_RING_AT:]
    was_full = words[LOG_END] > _RING_BYTES - _MAX_UNSURE_BYTES
    records = (ring[at:] + ring[:at])[_MAX_UNSURE_BYTES:] if was_full else ring[:at]
    lines: list[LogLine] = []
    told, end, is_newest = 0, len(records) - 8, True
    while end >= 0:
        meta = int.from_bytes(records[end : end + 8], "little")
        level, length, times = meta & 0xFF, meta >> 8 & 0xFFFF, meta >> 24
        start = end - (length + 7 & ~7)
        if level == _FILLING and start >= 0:
            end = start - 8
            continue
        if level > 3 or length > MAX_TEXT_BYTES or times == 0 or start < 0:
            break
        word = "at least " if is_newest and times > _LAST_EXACT_TIMES else ""
        text = counted(records[start : start + length].decode(errors="replace"), times, word)
        max_bytes -= len(text.encode()) + 1
        if max_bytes < 0:
            break
        lines.append(LogLine(level, text))
        told, end, is_newest = told + times, start - 8, False
    others = words[LOG_LINES] - told
    if others > 0:
        level = max([line.level for line in lines], default=3)
        lines.append(LogLine(level, f"at least {others:,} other lines are lost: its worker was ended"))
    return lines[::-1]
