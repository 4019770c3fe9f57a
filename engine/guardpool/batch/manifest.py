"""One hash over all labels of a run, which tells whether two runs gave every job the same label, whatever their order."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256, shake_128

import msgspec

from guardpool.outcomes import Outcome

# Hashes of outcomes are added up, so that order does not count and nothing is kept of each. With 32 bytes guards could work
# out labels that change and leave the sum as it is (Wagner, 2002); with 512 that takes 2^128 steps, however many jobs.
_BYTES = 512
_MASK = (1 << 8 * _BYTES) - 1

_encode = msgspec.json.Encoder().encode


class ManifestHash:
    """A hash over the labels of outcomes, each with the job's id, guard and operation. An outcome without a label has null.

    It is the same for two runs if each job got the same label in both, and otherwise differs. Order, status, error, times and
    backends do not count. What is hashed of an outcome is `[id, guard, op, label]` as in the outcome file, without spaces.
    """

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes, in any order and in any portions. 4 us for each, with labels of 440 bytes.

        Raises:
            TypeError, ValueError: an id is not a JSON scalar.
        """
        total, count = self._sum, self._count
        for outcome in outcomes:
            label = msgspec.Raw(outcome.label_json)
            pair = _encode((outcome.id, outcome.guard, outcome.op, label))
            total += int.from_bytes(shake_128(pair).digest(_BYTES), "little")
            count += 1
        self._sum, self._count = total & _MASK, count

    def state(self) -> str:
        """What was taken so far, for `go_on_from` in another process."""
        return f"{self._count} {self._sum:x}"

    def go_on_from(self, state: str) -> None:
        """Begin with what another hash had taken.

        Raises:
            ValueError: `state` was not made by `state`.
        """
        count, total = state.split()
        self._count, self._sum = int(count), int(total, 16) & _MASK

    def hexdigest(self) -> str:
        """The hash of what was taken so far, 64 hexadecimal digits."""
        return sha256(self._sum.to_bytes(_BYTES, "little") + self._count.to_bytes(8, "little")).hexdigest()


def manifest_hash(outcomes: Iterable[Outcome]) -> str:
    """The `ManifestHash` of all these outcomes."""
    made = ManifestHash()
    made.add(outcomes)
    return made.hexdigest()
