"""The supervisor's side of the memory that holds replies: what goes where, and the only code that writes it."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence

from guardpool.protocol.reply_memory import (
    BUCKET_BYTES,
    HEAD,
    HEAD_BYTES,
    NEVER,
    PLACES,
    SLOTS,
    TAGS_BYTES,
    Area,
    bucket_of,
    digest_of,
    key_of,
    new_memory,
    read,
    tag_of,
)

_PAGE_BYTES = mmap.PAGESIZE
# What an index takes of the bytes that a backend's kept replies may have: enough for entries of 112 bytes, and few replies
# are that short.
_INDEX_SHARE = 8
_LEAST_BYTES = 1024
# In how many buckets a key may be. Of a table nothing may be dropped. Of what is kept the oldest may, and a guard can fill all
# buckets with short replies: then it took 90 us to see that one is not known, and with 12 it takes 10 to 20. That costs 2% of
# replies of 64 bytes more than with 64, and none of those of 152.
_TABLE_PROBES, _KEPT_PROBES = 64, 12

# A question, `RESULT` or `FAILURE`, the reply.
Reply = tuple[bytes, int, bytes]


class Layout:
    """Cuts a memory that is to be made into areas.

    Attributes:
        size: bytes so far.
    """

    def __init__(self) -> None:
        self.size = 0

    def table(self, replies: Sequence[Reply]) -> Area:
        """An area in which all of these have room."""
        heap_bytes = sum(_entry_bytes(reply) for _, _, reply in replies)
        # Half full at most, so that a bucket and its next ones hardly ever overflow.
        return self._area(1 << (2 * len(replies) // SLOTS).bit_length(), heap_bytes, _TABLE_PROBES, is_fixed=True)

    def kept(self, most_bytes: int) -> Area | None:
        """An area for what will be answered, of so many bytes at most; None if that is too little for anything."""
        if most_bytes < _LEAST_BYTES:
            return None
        buckets = 1 << ((most_bytes // _INDEX_SHARE // BUCKET_BYTES).bit_length() - 1)
        return self._area(buckets, (most_bytes - buckets * BUCKET_BYTES) & ~7, _KEPT_PROBES)

    def _area(self, buckets: int, heap_bytes: int, probes: int, is_fixed: bool = False) -> Area:
        index_at = -(-self.size // _PAGE_BYTES) * _PAGE_BYTES
        heap_at = index_at + buckets * BUCKET_BYTES
        self.size = heap_at + heap_bytes
        return Area(index_at, buckets, heap_at, heap_bytes, probes, is_fixed)


class ReplyMemory:
    """Replies that every worker can read. One thread writes.

    Args:
        memory: mapped for writing, all zeros; stays open as long as this is used.

    Attributes:
        written_bytes: how much of the memory may not be zeros any more, in whole pages: what a worker that reads all of it has
            in its resident set.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._ends: dict[Area, int] = {}  # where the next entry begins, counted from the first byte ever written
        self._entries: dict[Area, int] = {}

    @classmethod
    def shared(cls, layout: Layout) -> tuple[int, ReplyMemory]:
        """A memory to be shared, and its descriptor, which the caller closes.

        Raises:
            OSError: the machine lacks something.
        """
        fd, memory = new_memory(layout.size)
        return fd, cls(memory)

    @property
    def written_bytes(self) -> int:
        written = 0
        for area, end in self._ends.items():
            index_bytes = min(area.buckets * BUCKET_BYTES, self._entries[area] * _PAGE_BYTES)
            written += min(end, area.heap_bytes) + index_bytes + 2 * _PAGE_BYTES
        return written

    def fill(self, area: Area, replies: Iterable[Reply]) -> bool:
        """Write a table, no two of whose replies are to one question. Before there is any reader: its entries have no digests.

        Returns:
            Whether all of it found a place. Only a table made for that has so many questions that are to go to one place.
        """
        fits = True
        for question, kind, reply in replies:
            fits &= self._put(area, key_of(question), kind, reply, NEVER)
        return fits

    def find(self, area: Area, key: bytes, now_ns: int) -> tuple[int, bytes] | None:
        """The reply to a question and its kind, as a worker finds it. None after `close`."""
        try:
            found = read(self._memory, area, key, now_ns)
            return None if found is None else (found.kind, found.reply)
        except ValueError:  # closed
            return None

    def put(self, area: Area, key: bytes, kind: int, reply: bytes, expires_ns: int) -> bool:
        """Keep a reply; the oldest make room for it. False if the area is too small, and after `close`."""
        assert not area.is_fixed, "its readers check no digests"
        try:
            return self._put(area, key, kind, reply, expires_ns)
        except ValueError:  # closed: an answer came after the pool's end
            return False

    def close(self) -> None:
        """Give the memory back, as far as it is this process's."""
        self._memory.close()

    def _put(self, area: Area, key: bytes, kind: int, reply: bytes, expires_ns: int) -> bool:
        size = _entry_bytes(reply)
        if size > area.heap_bytes:
            return False
        end = self._ends.get(area, 0)
        if end % area.heap_bytes + size > area.heap_bytes:
            end += area.heap_bytes - end % area.heap_bytes
        slot = self._slot_for(area, key, end + size - area.heap_bytes)
        if slot is None:
            return False
        head = HEAD.pack(b"", key, expires_ns, len(reply), kind)
        if not area.is_fixed:
            head = digest_of(head[16:], reply) + head[16:]
        at = area.heap_at + end % area.heap_bytes
        # The entry first: a place that is found leads to something whole.
        self._memory[at : at + HEAD_BYTES + len(reply)] = head + reply
        self._memory[slot : slot + 8] = tag_of(key)
        self._memory[slot + TAGS_BYTES : slot + TAGS_BYTES + 8] = (end + 1).to_bytes(8, "little")
        self._ends[area] = end + size
        self._entries[area] = self._entries.get(area, 0) + 1
        return True

    def _slot_for(self, area: Area, key: bytes, oldest: int) -> int | None:
        """Where the key's tag goes: where it is, or where nothing is, or where what is overwritten was, or, in no table, in the
        place of the oldest of the first bucket. Entries that began before `oldest` are overwritten.

        A bucket is never emptied, and one is filled from its first slot to its last, so a reader may stop at one that has room.
        """
        memory, tag, bucket = self._memory, tag_of(key), bucket_of(area, key)
        first = area.index_at + bucket * BUCKET_BYTES
        free: int | None = None
        for _ in range(min(area.buckets, area.probes)):
            at = area.index_at + bucket * BUCKET_BYTES
            slots = memory[at : at + BUCKET_BYTES]
            places = PLACES.unpack_from(slots, TAGS_BYTES)
            slot = slots.find(tag, 0, TAGS_BYTES)
            while slot >= 0:
                if slot % 8 == 0 and places[slot // 8]:
                    return at + slot
                slot = slots.find(tag, slot + 1, TAGS_BYTES)
            if free is None and min(places) <= oldest:
                free = at + 8 * next(number for number, place in enumerate(places) if place <= oldest)
            if not places[-1]:
                return at + 8 * places.index(0) if free is None else free
            bucket = (bucket + 1) & (area.buckets - 1)
        if free is None and not area.is_fixed:
            places = PLACES.unpack_from(memory, first + TAGS_BYTES)
            free = first + 8 * places.index(min(places))
        return free


def _entry_bytes(reply: bytes) -> int:
    return HEAD_BYTES + (len(reply) + 7 & ~7)
