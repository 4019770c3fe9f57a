"""Labels that workers sent before and that were found sound. Many calls have the label that another call had: three of five
sample jobs, and nine of ten of their responses. Such a label is neither checked nor kept a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from guardpool.jobs import Op
from guardpool.outcomes import StoredLabel

# Of JSON, of all of them together. A label that somebody read is kept in its decoded form as well, of five times the size.
_MAX_BYTES = 2 * 1024 * 1024
_MAX_LABEL_BYTES = 16 * 1024
# A value of any kind, which whoever reads it may change; no other part of a label can be changed.
_HOLDS_ITEMS = b'"items":'


class KnownLabels:
    """Labels that are sound, by the operation that they are sound for.

    Args:
        max_bytes: so many bytes of them are known; then all are forgotten.

    Attributes:
        by_op: the labels of each operation, by their JSON; to be read only.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._by_op: dict[str, dict[bytes, StoredLabel]] = {op.value: {} for op in Op}
        self.by_op: Mapping[str, Mapping[bytes, StoredLabel]] = self._by_op

    def add(self, labels: Iterable[tuple[str, bytes]]) -> None:
        """Know labels from now on that are sound, each with its operation; `null` is none."""
        for op, raw in labels:
            if len(raw) > _MAX_LABEL_BYTES or raw == b"null" or raw in self._by_op[op] or _HOLDS_ITEMS in raw:
                continue
            if self._bytes + len(raw) > self._max_bytes:
                for known in self._by_op.values():
                    known.clear()
                self._bytes = 0
            self._by_op[op][raw] = StoredLabel(raw)
            self._bytes += len(raw)
