"""What a file is that was taken for something else, from its first bytes."""

from __future__ import annotations

import os

from guardpool.recordings.formats import ALL, Confidence

_HEAD_BYTES = 1024 * 1024


def what_is(fd: int) -> str | None:
    """The name of the format that the first line with one is in; None if no format knows any of the first lines.

    Args:
        fd: of a regular file; its offset stays as it is.
    """
    try:
        head = os.pread(fd, _HEAD_BYTES, 0)
    except OSError:
        return None
    for line in head.splitlines(keepends=True)[:100]:
        confidence, name = max(((each.recognise(line), each.name) for each in ALL), key=lambda pair: pair[0])
        if confidence > Confidence.NO:
            return name
    return None
