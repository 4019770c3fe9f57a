"""Times as recordings write them, and how far they are apart."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def seconds_between(earlier: str | None, later: str | None) -> float | None:
    """From one RFC 3339 time in UTC to another, negative if the later is before; None where one is not such a time."""
    try:
        return (_time(later or "") - _time(earlier or "")).total_seconds()
    except (ValueError, TypeError):
        return None


def since_1970(text: str | None) -> float | None:
    """Seconds from 1970 to an RFC 3339 time, which is UTC where it names no zone; to the microsecond.

    Returns:
        None for what is not such a time, or is before 1970.
    """
    match = _RFC3339.fullmatch(text or "")
    if match is None:
        return None
    date, clock, fraction, zone = match.groups(default="")
    offset = "+00:00" if zone in ("", "Z", "z") else zone
    try:
        seconds = datetime.fromisoformat(f"{date}T{clock}{offset}").astimezone(timezone.utc).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds + float(f"0{fraction[:7]}") if seconds >= 0 else None


def _time(text: str) -> datetime:
    # Nanoseconds, which `fromisoformat` does not know, are cut; both times are UTC.
    return datetime.fromisoformat(text[:23].removesuffix("Z"))
