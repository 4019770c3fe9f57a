"""What runs in a peer's workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from guardpool_bench.loadable import Loadable, make_instance

Request = tuple[str, bytes]
"""Operation and payload."""
Reply = tuple[str, "bytes | None"]
"""Status and label."""

_call: Callable[[str, bytes], Any] | None = None


def initialise(guard: Loadable) -> None:
    """Make this worker's instance."""
    global _call
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _call = make_instance(guard).label


def label(request: Request) -> Reply:
    """Label one job."""
    assert _call is not None
    result = _call(*request)
    return ("ok", result) if isinstance(result, bytes) else (result.status, result.label)


def label_chunk(requests: Sequence[Request]) -> list[Reply]:
    """Label some."""
    return [label(request) for request in requests]
