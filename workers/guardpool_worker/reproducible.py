"""Time and chance for the guards of a deterministic pool: both follow from the job, and from nothing else.

A job is what the guard is asked: its operation and its input, byte for byte. So it draws the same bytes and reads the same
times in every worker, in any order of the jobs and in every run. Other pools have `wasi.Clock` and the bytes of the kernel.
"""

from __future__ import annotations

from hashlib import blake2b

# By how much the clocks are later at each reading: a guard that waits for time to pass comes to an end. A reading costs about
# as much (1.2 us in a loop, wasmtime), so that it waits about as long as it would by a real clock.
TICK_NS = 1000


class JobWorld:
    """The clocks and the random bytes of one job at a time.

    Its random bytes are one stream, whether they are drawn in one call or in several: blocks of BLAKE2b over a key and a
    counter. The key is made of seed, operation and input, when the job first draws; most jobs never do.

    Args:
        seed: differs between guards; 64 bytes at most.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self.begin("_initialize", b"")

    def begin(self, op: str, payload: bytes, time_us: int = 0) -> None:
        """Another job begins. A job that is tried again begins again, too.

        Args:
            op: the name of the function that the guard exports.
            payload: its input.
            time_us: where the clocks begin, in microseconds since 1970.
        """
        self._job = op, payload
        self._now_ns = time_us * 1000
        self._key = b""
        self._blocks = 0
        self._rest = b""  # of the last block

    def read(self, clock: int) -> int:
        """Nanoseconds, of any of the four clocks of preview 1: they are one here, and each reading moves it."""
        now = self._now_ns
        self._now_ns = now + TICK_NS
        return now

    def draw(self, length: int) -> bytes:
        """The next bytes of the job's stream."""
        key = self._key
        if not key:
            op, payload = self._job
            made = blake2b(op.encode() + b"\0", key=self._seed)
            made.update(payload)
            key = self._key = made.digest()
        first = self._blocks
        blocks = [self._rest]
        missing = length - len(self._rest)
        last = self._blocks = first - (-missing // len(key) if missing > 0 else 0)
        blocks += [blake2b(key + number.to_bytes(8, "little")).digest() for number in range(first, last)]
        drawn = b"".join(blocks)
        self._rest = drawn[length:]
        return drawn[:length]
