"""Streams of bytes, unpacked where their first bytes say that they are gzip or zstd, in bounded memory.

What is told by content and not by name: a `.gz` that is plain text is read as it is. A small input may unpack to a very
large one, so a step gives at most some MiB, whatever the input holds.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from guardpool.errors import HostError

READ_BYTES = 256 * 1024
# The largest window of a zstd frame: `zstd --long=27`, which is what `--long` means. A frame may ask for 2 TiB.
MAX_ZSTD_WINDOW_LOG = 27
# A zstd block of 4 bytes may stand for 128 KiB, and `zstandard` cannot be told to stop: 1 KiB gives 32 MiB at most.
_ZSTD_STEP_BYTES = 1024
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes((first, 0x2A, 0x4D, 0x18)) for first in range(0x50, 0x60))


class DecoderMissing(HostError):
    """An input is compressed in a way that this Python cannot read; the message says what to install."""


class Damaged(Exception):
    """A compressed stream ends too early or holds what cannot be unpacked. What came before it is good."""


class ByteSource(Protocol):
    """Where bytes come from."""

    def read(self) -> bytes:
        """The next bytes, not more than are there; empty at the end."""


def is_packed(head: bytes) -> bool | None:
    """Whether a stream with these first bytes is gzip or zstd; None if they are too few to tell."""
    if head.startswith((_GZIP, _ZSTD, *_ZSTD_SKIPPABLE)):
        return True
    return None if any(magic.startswith(head) for magic in (_GZIP, _ZSTD, *_ZSTD_SKIPPABLE)) else False


def check_decoder(head: bytes) -> None:
    """Make sure that a stream with these first bytes can be unpacked here.

    Raises:
        DecoderMissing: it is zstd, and there is nothing here that reads it.
    """
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        _zstd_frames()


def unpacked(source: ByteSource) -> Iterator[bytes]:
    """The bytes of `source`, unpacked if it is gzip or zstd. Blocks as `source` does.

    Raises:
        Damaged: the compressed stream is cut or damaged, or needs a window larger than 128 MiB.
        DecoderMissing: it is zstd, and there is nothing here that reads it.
        OSError: as `source` does.
    """
    head = source.read()
    while head and is_packed(head) is None:
        more = source.read()
        if not more:
            break
        head += more
    if head.startswith(_GZIP):
        yield from _gunzip(head, source)
    elif head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        yield from _unzstd(head, source)
    else:
        while head:
            yield head
            head = source.read()


def _gunzip(data: bytes, source: ByteSource) -> Iterator[bytes]:
    while data:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if not data:
                raise Damaged("the gzip stream ends too early")
            try:
                out = member.decompress(data, READ_BYTES)
            except zlib.error as error:
                raise Damaged(f"the gzip stream is damaged: {error}") from error
            data = member.unconsumed_tail or (b"" if member.eof else source.read())
            if out:
                yield out
        data = (member.unused_data or source.read()).lstrip(b"\0")  # padding, as gzip allows it
        while not data:
            data = source.read()
            if not data:
                return
            data = data.lstrip(b"\0")


class _Frame(Protocol):
    """One zstd frame that is being unpacked: the methods that both libraries have."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes) -> bytes: ...


def _zstd_frames() -> Any:
    """Gives a function that makes a `_Frame`, and the exceptions that it raises."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        options = {zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError
    try:
        import zstandard
    except ImportError:
        raise DecoderMissing(
            "the input is compressed with zstd, which this Python cannot read: run: pip install 'guardpool[arrow]'"
        ) from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << MAX_ZSTD_WINDOW_LOG)
    return decompressor.decompressobj, zstandard.ZstdError


def _unzstd(data: bytes, source: ByteSource) -> Iterator[bytes]:
    make, failure = _zstd_frames()
    frame: _Frame = make()
    fresh = True  # nothing of the frame was read
    while True:
        for start in range(0, len(data), _ZSTD_STEP_BYTES):
            piece = data[start : start + _ZSTD_STEP_BYTES]
            while piece:
                try:
                    out = frame.decompress(piece)
                except failure as error:
                    raise Damaged(f"the zstd stream is damaged: {error}") from error
                fresh = False
                piece = b""
                if frame.eof:
                    piece, frame, fresh = frame.unused_data, make(), True
                if out:
                    yield out
        data = source.read()
        if not data:
            if not fresh:
                raise Damaged("the zstd stream ends too early")
            return
