"""Labels that workers sent before and that were found sound. Many calls have the label that another call had: three of five
sample jobs, and nine of ten of their responses. Such a label is neither checked nor kept a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from guardpool.jobs import Op
from guardpool.outcomes import StoredLabel

# The JSON of all known labels together. A label that somebody has read is kept in its decoded form, too, which takes five times
# as much memory.
_MAX_BYTES = 2 * 1024 * 1024
_MAX_LABEL_BYTES = 16 * 1024
# A value of any kind, which whoever reads it may change; no other part of a label can be changed.
_HOLDS_ITEMS = b'"items":'


class KnownLabels:
    """Labels that are sound, by the operation that they are sound for.

    Args:
        max_bytes: how much JSON is known at most; a label that goes beyond it has all others forgotten.

    Attributes:
        by_op: the labels of each operation, by their JSON; to be read only.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._by_op: dict[str, dict[bytes, StoredLabel]] = {op.value: {} for op in Op}
        self.by_op: Mapping[str, Mapping[bytes, StoredLabel]] = self._by_op

    def add(self, labels: Iterable[tuple[str, bytes]]) -> None:
        """Remember labels that were found to be sound, each with its operation. `null`, which is no label, is left out, and so
        is what is too long or may be changed by its reader."""
        for op, raw in labels:
            if len(raw) > _MAX_LABEL_BYTES or raw == b"null" or raw in self._by_op[op] or _HOLDS_ITEMS in raw:
                continue
            if self._bytes + len(raw) > self._max_bytes:
                for known in self._by_op.values():
                    known.clear()
                self._bytes = 0
            self._by_op[op][raw] = StoredLabel(raw)
            self._bytes += len(raw)
