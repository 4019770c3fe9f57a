"""Outcomes written as gzip or zstd: members or frames of some lines each, packed by threads.

A file of several gzip members, or zstd frames, unpacks to what is in them one after the other (RFC 1952, 2.2; RFC 8878, 3.1).
So what was written up to the end of one is whole, whatever comes behind it, and a run can go on there.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from guardpool.batch.descriptor_writer import DescriptorWriter
from guardpool.batch.writer import encode_outcomes
from guardpool.outcomes import Outcome
from guardpool.sizes import MIB

# Lines in one member or frame, before they are packed. Of 1 MiB both pack as well as of a whole file, but for a hundredth.
_BLOCK_BYTES = MIB
# Blocks that are packed or wait for it while more lines come.
_BLOCKS_AHEAD = 8
_THREADS = min(4, os.cpu_count() or 1)
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3

Pack = Callable[[bytes], bytes]


def gzip_member(data: bytes) -> bytes:
    """A gzip member that unpacks to `data`. It has neither a name nor a time, so that equal data give equal bytes."""
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def zstd_packer() -> Pack:
    """A function that makes a zstd frame, with a checksum.

    Raises:
        ImportError: nothing here writes zstd.
    """
    if sys.version_info >= (3, 14):
        from compression import zstd

        options = {
            zstd.CompressionParameter.compression_level: _ZSTD_LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        return lambda data: zstd.compress(data, options=options)
    import zstandard

    # A compressor serves one thread at a time.
    return lambda data: zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(data)


class PackedWriter(DescriptorWriter):
    """Writes outcomes to a file descriptor as members or frames, each of whole lines.

    Args:
        fd: open for writing; stays the caller's.
        pack: gives a whole member or frame; called in threads.
        encode: gives one line for each of some outcomes, in their order, each with its newline.
    """

    def __init__(self, fd: int, pack: Pack, encode: Callable[[Sequence[Outcome]], bytes] = encode_outcomes) -> None:
        super().__init__(fd)
        self._pack = pack
        self._encode = encode
        self._lines: list[bytes] = []
        self._size = self._count = 0  # of them
        self._ahead: deque[tuple[Future[bytes], int]] = deque()  # with the number of outcomes in each
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="guardpool-packer")
        self._is_empty = True

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes; what is packed by now is written.

        Raises:
            OSError: see `flush`.
        """
        lines = self._encode(outcomes)
        self._lines.append(lines)
        self._size += len(lines)
        self._count += len(outcomes)
        if self._size >= _BLOCK_BYTES:
            self._end_block()
            self._write_packed(_BLOCKS_AHEAD)

    def flush(self) -> None:
        """End the member or frame, and write everything.

        Raises:
            OSError: it cannot be written. A regular file then ends with the last member or frame that is whole; what was held
                is dropped, so that a second try does not write it twice.
        """
        self._end_block()
        self._write_packed(0)

    def go_on_from(self, place: dict[str, Any]) -> None:
        """Take back what stands behind a place of an earlier run, and go on there.

        Raises:
            OutputDiffers: the place is not there.
            OSError: the file cannot be cut.
        """
        super().go_on_from(place)
        self._is_empty = not place["bytes"]

    def end(self) -> None:
        """Write everything; of no outcomes an empty member or frame, because a file of no bytes is not gzip.

        Raises:
            OSError: see `flush`.
        """
        self.flush()
        if self._is_empty:
            self._write(self._pack(b""), 0)

    def close(self) -> None:
        """End the threads; what was not written is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _end_block(self) -> None:
        if self._lines:
            block, count = b"".join(self._lines), self._count
            self._lines, self._size, self._count = [], 0, 0
            self._ahead.append((self._threads.submit(self._pack, block), count))

    def _write_packed(self, ahead: int) -> None:
        """Write what is packed, and wait until no more than so many blocks are not."""
        while self._ahead and (len(self._ahead) > ahead or self._ahead[0][0].done()):
            packed, count = self._ahead.popleft()
            try:
                self._write(packed.result(), count)
            except BaseException:
                self._ahead.clear()
                raise

    def _write(self, data: bytes, count: int) -> None:
        super()._write(data, count)
        self._is_empty = False

    def _kept(self, data: bytes) -> tuple[int, int]:
        """Nothing stays of a write that failed: half a member or frame cannot be unpacked."""
        return 0, 0
