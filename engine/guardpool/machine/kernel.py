"""What this machine's kernel offers to supervision and to the sandbox, found out without changing anything.

For `guardpool doctor` and for error messages. What is really in force in a worker is reported by that worker when it starts.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guardpool.machine import capacity, cgroup, requirements

# System calls that Python has no function for, by machine.
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_LANDLOCK_CREATE_RULESET = 444  # the same everywhere

_LANDLOCK_VERSION = 1
_SECCOMP_GET_ACTION_AVAIL = 2
_SECCOMP_KILL_PROCESS = 0x80000000
_PR_GET_NO_NEW_PRIVS = 39


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that guardpool uses of the machine.

    Attributes:
        name: a stable word: "pidfd", "landlock", ...
        available: whether it works here, for this user.
        detail: one line for people: a version or a number, or what is missing and what that costs.
    """

    name: str
    available: bool
    detail: str


def probe() -> list[Feature]:
    """Look at everything that guardpool uses of the kernel; takes well under a millisecond and changes nothing."""
    return [
        _feature("pidfd", _pidfd, "deaths of workers cannot be noticed: Linux 5.4 or newer is needed"),
        _feature("memfd", _memfd, "the progress pages cannot be made"),
        _feature("proc", _proc, "the workers' memory cannot be watched"),
        _feature("no_new_privs", _no_new_privs, "the whole sandbox needs it"),
        _feature("seccomp", _seccomp, "workers can make any system call"),
        _feature("landlock", _landlock, "files are closed to workers by seccomp alone"),
        _feature("cores", _cores, "the number of cores is not known"),
    ]


def _feature(name: str, check: Callable[[], str], cost: str) -> Feature:
    try:
        return Feature(name, True, check())
    except (OSError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Feature(name, False, f"{why}: {cost}")


def _pidfd() -> str:
    fd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(fd, 0)
    finally:
        os.close(fd)
    return f"Linux {os.uname().release}"


def _memfd() -> str:
    os.close(os.memfd_create("guardpool-probe"))
    return "anonymous shared memory"


def _proc() -> str:
    problem = requirements.proc_problem()
    if problem is not None:
        raise OSError(problem)
    Path("/proc/self/statm").read_bytes()
    mounts = Path("/proc/mounts").read_text(errors="replace")
    options = re.findall(r"^\S+ /proc proc (\S+)", mounts, re.MULTILINE)
    hidden = re.search(r"hidepid=(\w+)", options[-1]) if options else None
    if hidden and hidden[1] not in ("0", "off") and os.geteuid() != 0:
        # Sandboxed workers are not dumpable, which hides them even from their own user.
        raise OSError(f"/proc is mounted with hidepid={hidden[1]}")
    return "resident sets can be read"


def _cores() -> str:
    allowed, quota = capacity.cores(), cgroup.cores()
    return str(allowed) if quota is None else f"{allowed}, of the {quota:g} that the container's quota allows"


def _no_new_privs() -> str:
    _call("prctl", _PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
    return "can be set"


def _seccomp() -> str:
    number = _SECCOMP.get(os.uname().machine)
    if number is None or sys.maxsize < 1 << 32:
        raise OSError(
            f"there is no filter for this machine ({os.uname().machine}, {sys.maxsize.bit_length() + 1} bits)"
        )
    action = ctypes.c_uint32(_SECCOMP_KILL_PROCESS)
    _call("syscall", number, _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.addressof(action))
    return "system calls can be filtered"


def _landlock() -> str:
    abi = _call("syscall", _LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_VERSION)
    parts = ["files", *(["TCP"] if abi >= 4 else []), *(["abstract sockets and signals"] if abi >= 6 else [])]
    return f"ABI {abi}: {', '.join(parts)}"


def _call(function: str, *args: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(libc, function)(*map(ctypes.c_long, args))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
