"""The bytes of an open file as its lines need them: as they are, or unpacked in a thread of their own.

zlib and zstd release the GIL while they work, so that a packed input costs the thread that parses lines next to nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import select
import stat
import threading
from collections.abc import Callable

from guardpool.compression import READ_BYTES, Damaged, is_packed, unpacked
from guardpool.errors import HostError

# What is unpacked and waits: 8 MiB. A bomb's step of up to 32 MiB is cut into chunks, too.
_CHUNK_BYTES = 2 * READ_BYTES
_CHUNKS_AHEAD = 16


class ByteStream:
    """Reads a file descriptor, and unpacks what begins as gzip or zstd does. Never waits for more bytes than have arrived.

    Args:
        fd: open for reading; stays the caller's.
        name: of the file, for messages.

    Attributes:
        bytes_read: bytes of the file taken so far, as they are stored.
        total_bytes: size of the file if it is a regular one, else None.
        is_packed: whether it is gzip or zstd; known after the first `read`.
        stopped: whether `stop` was called.
    """

    def __init__(self, fd: int, name: str = "") -> None:
        self._fd = fd
        self._name = name
        self._wake_r, self._wake_w = os.pipe()
        self._ready = select.poll()  # `select.select` takes no descriptor over 1,023
        for each in (fd, self._wake_r):
            self._ready.register(each, select.POLLIN)
        status = os.fstat(fd)
        self.total_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.bytes_read = 0
        self.is_packed = False
        self.stopped = False
        self._digest = hashlib.sha256()
        self._begun = False
        self._pushed_back = b""
        self._unpacker: _Unpacker | None = None

    def read(self, most: int) -> bytes:
        """The next bytes, unpacked, at most so many; empty at the end and after `stop`.

        Raises:
            OSError: the file cannot be read, or it is cut or damaged as a packed one (`EBADMSG`). What came before is good.
            HostError: it is zstd, and nothing here reads that.
        """
        if not self._begun:
            self._begin()
        if self._unpacker is not None:
            return self._unpacker.take(most)
        if self._pushed_back:
            data, self._pushed_back = self._pushed_back[:most], self._pushed_back[most:]
            return data
        return self._read_stored(most)

    def sha256(self) -> str | None:
        """The digest of what was taken of the file, as it is stored; None if that is what `read` gave."""
        return self._digest.hexdigest() if self.is_packed else None

    def stop(self) -> None:
        """End the stream here, also while a read waits. May be called from any thread."""
        self.stopped = True
        if self._unpacker is not None:
            self._unpacker.stop()
        os.write(self._wake_w, b"x")

    def close(self) -> None:
        """End it and give back what it holds; not the file's descriptor."""
        self.stop()
        if self._unpacker is not None:
            self._unpacker.thread.join()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _begin(self) -> None:
        self._begun = True
        head = self._read_stored(READ_BYTES)
        while head and is_packed(head) is None:  # too short to tell
            more = self._read_stored(READ_BYTES)
            if not more:
                break
            head += more
        if is_packed(head):
            self.is_packed = True
            self._digest.update(head)
            self._unpacker = _Unpacker(head, lambda wait: self._read_stored(READ_BYTES, wait), self._name)
            self._unpacker.thread.start()
            if self.stopped:
                self._unpacker.stop()
        else:
            self._pushed_back = head

    def _read_stored(self, most: int, before_waiting: Callable[[], object] | None = None) -> bytes:
        """The next bytes as they are stored. `before_waiting` is called if none are there yet."""
        while not self.stopped:
            ready = dict(self._ready.poll(0))
            if not ready and before_waiting is not None:
                before_waiting()
            if self._wake_r in (ready or dict(self._ready.poll())):
                break
            try:
                data = os.read(self._fd, most)
            except BlockingIOError:
                continue
            self.bytes_read += len(data)
            if self.is_packed:
                self._digest.update(data)
            return data
        return b""


class _Unpacker:
    """A thread that unpacks ahead of its reader, by a few chunks.

    Args:
        head: what was read already.
        read: gives the next packed bytes, and calls a function before it waits for some.
        name: of the file, for messages.
    """

    def __init__(self, head: bytes, read: Callable[[Callable[[], object]], bytes], name: str) -> None:
        self._head = head
        self._read = read
        self._name = name
        self._parts: list[bytes] = []  # of the next chunk
        self._size = 0
        self._chunks: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._stopped = False
        self._rest = memoryview(b"")
        self._at_end = False
        self.thread = threading.Thread(target=self._run, name="guardpool-unpacker", daemon=True)

    def take(self, most: int) -> bytes:
        """The next unpacked bytes; empty at the end. Raises what ended the unpacking."""
        while not self._rest:
            if self._stopped or self._at_end:
                return b""
            chunk = self._chunks.get()
            if isinstance(chunk, Exception):
                self._at_end = True
                raise chunk
            self._room.release()
            self._at_end = not chunk
            self._rest = memoryview(chunk)
        data, self._rest = bytes(self._rest[:most]), self._rest[most:]
        return data

    def stop(self) -> None:
        """Let both sides end, whatever they wait for."""
        self._stopped = True
        self._chunks.put(b"")
        self._room.release()

    def read(self) -> bytes:
        """The next packed bytes; what is unpacked does not wait for them."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._read(self._hand_on)

    def _run(self) -> None:
        end: bytes | Exception = b""
        try:
            for part in unpacked(self):
                self._parts.append(part)
                self._size += len(part)
                if self._size >= READ_BYTES:
                    self._hand_on()
                if self._stopped:
                    return
        except Damaged as error:
            end = OSError(errno.EBADMSG, str(error), self._name or None)
        except (OSError, HostError) as error:
            end = error
        self._hand_on()
        self._chunks.put(b"" if self._stopped else end)  # a stream that was stopped is cut, and not damaged

    def _hand_on(self) -> None:
        if not self._size:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        for start in range(0, len(data), _CHUNK_BYTES):
            self._room.acquire()
            if self._stopped:
                return
            self._chunks.put(data[start : start + _CHUNK_BYTES])
