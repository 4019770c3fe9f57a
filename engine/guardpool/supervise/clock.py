"""Times as the supervisor counts them: seconds of a monotonic clock, as floats."""

from __future__ import annotations

LookAt = float
"""When to look again, by the same clock; `NEVER` if there is nothing to look at."""

NEVER: LookAt = float("inf")
