"""How many cores and how much memory this process may use: what the machine has, less what its container allows."""

from __future__ import annotations

import math
import os

from guardpool.errors import HostError
from guardpool.machine import cgroup
from guardpool.machine.shortages import explain


def cores() -> int:
    """Cores that this process may use, at least 1: by its affinity and by the quota of its cgroup, which is rounded up."""
    quota = cgroup.cores()
    allowed = len(os.sched_getaffinity(0))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def memory_bytes() -> int:
    """Memory that this process and those it starts may use together. Raises HostError if that cannot be found out."""
    import psutil

    try:
        total = int(psutil.virtual_memory().total)
    except OSError as error:
        raise HostError(f"a pool cannot be made, the machine's memory is not known: {explain(error)}") from error
    limit = cgroup.memory_bytes()
    return total if limit is None else min(total, limit)
