"""Replies of backends in memory that workers can read and only the supervisor can write.

The memory is one memfd, cut into areas; an area holds the replies of one backend. An area is an index and a heap:

    index   buckets of 128 bytes: eight tags of 8 bytes, then eight places of 8 bytes; a place of 0 is empty
    heap    entries: digest, key, when it expires, length, kind, then the reply; each begins at a multiple of 8

A place is 1 more than where an entry begins, counted from the first byte ever written to the heap. The heap is a ring: a place
stands for the same byte in each round, and an entry never goes around the end. A key is found in the bucket that its first
bytes name or, while buckets are full, in one of the next few.

The writer waits for no reader, so a reader may meet an entry that is half overwritten. It copies first and then checks the
digest, which covers the key, too: whatever is not whole is not there. An area that is filled before there is any reader, and
never written again, needs no digests: its entries have zeros in their place.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from hashlib import blake2b
from typing import Any, Final, Union

import msgspec

KEY_BYTES: Final = 16
RESULT, FAILURE = 0, 1
NEVER: Final = (1 << 63) - 1
"""When an entry expires that does not."""

_encode = msgspec.json.Encoder().encode

SLOTS: Final = 8
BUCKET_BYTES: Final = 128
TAGS_BYTES: Final = 64
PLACES: Final = struct.Struct("<8Q")
HEAD: Final = struct.Struct("<16s16sQIB3x")  # digest, key, expires, length, kind
HEAD_BYTES: Final = HEAD.size
_PLACE: Final = struct.Struct("<Q")
_BUCKET: Final = struct.Struct("<I")
_BUCKET_AND_TAG: Final = struct.Struct("<I4x8s")
_TAG_AT: Final = 8
# An entry's digest and length, and what the digest is of, up to the reply. To copy a digest of nothing takes half of the time
# that it takes to make one.
_FIRST: Final = struct.Struct("<16s24xI")
_REST: Final = struct.Struct("<16sQ4xB3x")
_REST_BYTES: Final = _REST.size
_DIGEST: Final = blake2b(digest_size=KEY_BYTES)

# Since Linux 5.1: whoever maps the memory from here on cannot write to it, and cannot make it writable.
_F_SEAL_FUTURE_WRITE: Final = 0x0010


class Area(msgspec.Struct, frozen=True, array_like=True):
    """Where the replies of one backend are.

    Args:
        index_at, heap_at: where index and heap begin, in bytes.
        buckets: how many the index has, a power of two.
        heap_bytes: the heap's size, a multiple of 8.
        probes: in how many buckets in a row a key may be.
        is_fixed: all of it was written before the first reader came.
    """

    index_at: int
    buckets: int
    heap_at: int
    heap_bytes: int
    probes: int
    is_fixed: bool = False


class KnownOf(msgspec.Struct, frozen=True, array_like=True):
    """Where a worker looks before it asks a guard's backend.

    Args:
        table: what was known before the pool started; None: nothing.
        kept: what was answered since; None: nothing is kept.
        is_complete: no one else is asked: what the table does not hold has no answer.
    """

    table: Union[Area, None]
    kept: Union[Area, None]
    is_complete: bool


def key_of(question: bytes) -> bytes:
    """The key of a question, a tool with its canonical arguments."""
    return blake2b(question, digest_size=KEY_BYTES).digest()


def hasher_of(tool: str) -> blake2b:
    """What `key_with` goes on from, for all questions to a tool."""
    return blake2b(_encode(tool), digest_size=KEY_BYTES)


def key_with(hasher: blake2b, args: bytes) -> bytes:
    """The key of a question whose tool the hasher is of. Hot: it takes half of the time of `key_of_question`."""
    its = hasher.copy()
    its.update(args)
    return its.digest()


def key_of_question(tool: str, args: bytes) -> bytes:
    """`key_of` a tool and its arguments, which are canonical JSON."""
    return key_with(hasher_of(tool), args)


def digest_of(rest_of_head: bytes, reply: bytes) -> bytes:
    """The digest of an entry: of its head without the digest, and of the reply."""
    digest = blake2b(rest_of_head, digest_size=KEY_BYTES)
    digest.update(reply)
    return digest.digest()


def reply_digest(reply: bytes) -> bytes:
    """What a reply is known by where a label that it led to is kept."""
    return blake2b(reply, digest_size=KEY_BYTES, person=b"reply").digest()


def bucket_of(area: Area, key: bytes) -> int:
    """The first bucket in which the key may be."""
    (first,) = _BUCKET.unpack_from(key)
    return int(first) & (area.buckets - 1)


def tag_of(key: bytes) -> bytes:
    """What stands in a bucket for the key."""
    return key[_TAG_AT:]


class Found(msgspec.Struct, frozen=True, gc=False):
    """A reply: `RESULT` or `FAILURE`, the reply itself, and when it expires. A struct, because it takes a fifth of the time of
    a named tuple to make."""

    kind: int
    reply: bytes
    expires_ns: int


def read(memory: mmap.mmap, area: Area, key: bytes, now_ns: int) -> Found | None:
    """The reply to a question. None: it is not there, or is being overwritten. Hot: 1 to 2 us."""
    bucket, tag = _BUCKET_AND_TAG.unpack(key)
    last = area.buckets - 1
    bucket &= last
    for _ in range(area.probes if area.probes <= last else area.buckets):
        at = area.index_at + bucket * BUCKET_BYTES
        slots = memory[at : at + BUCKET_BYTES]
        slot = slots.find(tag, 0, TAGS_BYTES)
        while slot >= 0:
            if slot % 8 == 0:
                (place,) = _PLACE.unpack_from(slots, TAGS_BYTES + slot)
                found = _entry(memory, area, key, place, now_ns)
                if found is not None:
                    return found
            slot = slots.find(tag, slot + 1, TAGS_BYTES)
        if slots.endswith(b"\0\0\0\0\0\0\0\0"):  # the last place: buckets are filled from the first
            return None
        bucket = (bucket + 1) & last
    return None


def _entry(memory: mmap.mmap, area: Area, key: bytes, place: int, now_ns: int) -> Found | None:
    heap_bytes = area.heap_bytes
    offset = (place - 1) % heap_bytes
    room = heap_bytes - HEAD_BYTES - offset
    if not place or room < 0:
        return None
    at = area.heap_at + offset
    if area.is_fixed:
        _, its_key, expires_ns, length, kind = HEAD.unpack_from(memory, at)
        if its_key != key or length > room or now_ns >= expires_ns:
            return None
        at += HEAD_BYTES
        return Found(kind, memory[at : at + length], expires_ns)
    digest, length = _FIRST.unpack_from(memory, at)
    if length > room:
        return None
    # One copy, of which all is read from here on: digest and length may be older.
    rest = memory[at + KEY_BYTES : at + HEAD_BYTES + length]
    hasher = _DIGEST.copy()
    hasher.update(rest)
    if hasher.digest() != digest:
        return None
    its_key, expires_ns, kind = _REST.unpack_from(rest)
    return Found(kind, rest[_REST_BYTES:], expires_ns) if its_key == key and now_ns < expires_ns else None


def new_memory(size: int) -> tuple[int, mmap.mmap]:
    """A memfd of so many zeros, which takes no room until it is written, and the only mapping that can ever write to it.

    The caller closes the descriptor.

    Raises:
        OSError: the kernel has no such seal (before Linux 5.1), or the process lacks something.
    """
    fd = os.memfd_create("guardpool-replies", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        memory = mmap.mmap(fd, size)
        seals: Any = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | _F_SEAL_FUTURE_WRITE
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            memory.close()
            raise
    except BaseException:
        os.close(fd)
        raise
    return fd, memory


def map_read_only(fd: int) -> mmap.mmap:
    """Map such a memfd for reading. Raises OSError if that cannot be done."""
    return mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
