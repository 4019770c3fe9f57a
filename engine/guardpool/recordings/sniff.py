"""What a file is that was taken for something else, from its first bytes."""

from __future__ import annotations

from guardpool.recordings.formats import ALL, Confidence

_MAX_LINES = 100


def what_is(head: bytes) -> str | None:
    """The name of the format that is surest of one of the first lines; None if no format knows any of them.

    Args:
        head: how the file begins; the last line may be cut.
    """
    found = max(map(_recognised, head.splitlines(keepends=True)[:_MAX_LINES]), default=_NOTHING)
    # A document that is printed over many lines may be known by several of them only.
    confidence, name = max(found, _recognised(head))
    return name if confidence > Confidence.NO else None


_NOTHING = (Confidence.NO, "")


def _recognised(text: bytes) -> tuple[Confidence, str]:
    return max(((each.recognise(text), each.name) for each in ALL), key=lambda pair: pair[0])
