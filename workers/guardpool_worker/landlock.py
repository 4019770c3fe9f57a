"""Landlock: a process gives up every file, every TCP port and every signal to outsiders, for itself and its children.

A ruleset names the rights it *handles*; what is handled and not allowed by a rule is denied. Ours handles all rights that
the kernel knows and has no rule. Rights came with versions of the ABI, and a kernel refuses a ruleset that names a right
it does not know, so each part is asked for only from its version on.

Source: `include/uapi/linux/landlock.h`, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final, NamedTuple

from guardpool_worker import linux

_CREATE_RULESET_VERSION: Final = 1

# File rights, by the ABI they came with: 13 of them with 1 (execute, read, write, list, remove, make ...), then
# refer (2), truncate (3), ioctl on devices (5).
_FS_BITS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_BIND_AND_CONNECT_TCP: Final = 0b11
_SCOPE_ABSTRACT_UNIX_AND_SIGNAL: Final = 0b11
_NET_ABI: Final = 4
_SCOPE_ABI: Final = 6


class _RulesetAttr(ctypes.Structure):
    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class Verdict(NamedTuple):
    """What of Landlock is in force: `"on"` or `"off: why"` for files, TCP and IPC (abstract sockets and signals)."""

    files: str
    tcp: str
    ipc: str


def abi() -> int:
    """The kernel's Landlock version.

    Raises:
        OSError: ENOSYS if the kernel was built without it, EOPNOTSUPP if it was not enabled at boot, EPERM if a
            container's own filter denies it.
    """
    return linux.syscall("landlock_create_ruleset", 0, 0, _CREATE_RULESET_VERSION)


def deny_everything() -> Verdict:
    """Give up files, TCP and IPC with the outside as far as this kernel can; needs no_new_privs (or root)."""
    try:
        version = abi()
        attr = _ruleset(version)
        size = ctypes.sizeof(attr) if version >= _SCOPE_ABI else 16 if version >= _NET_ABI else 8
        fd = linux.syscall("landlock_create_ruleset", ctypes.addressof(attr), size, 0)
        try:
            linux.syscall("landlock_restrict_self", fd, 0)
        finally:
            os.close(fd)
    except OSError as error:
        why = f"off: {explain(error)}"
        return Verdict(why, why, why)
    return Verdict("on", _since(version, _NET_ABI, "6.7"), _since(version, _SCOPE_ABI, "6.12"))


def explain(error: OSError) -> str:
    """Why Landlock does not work here, in words."""
    reasons = {
        errno.ENOSYS: "the kernel has no Landlock (Linux 5.13 and CONFIG_SECURITY_LANDLOCK are needed)",
        errno.EOPNOTSUPP: "Landlock is not enabled (add it to the kernel's lsm= parameter)",
        errno.EPERM: "Landlock is denied here (a container's seccomp profile, or no_new_privs is not set)",
        errno.E2BIG: "too many Landlock layers are in force already (16 at most)",
    }
    return reasons.get(error.errno or 0, f"Landlock failed: {error.strerror}")


def _ruleset(version: int) -> _RulesetAttr:
    bits = _FS_BITS[min(version, max(_FS_BITS))]
    return _RulesetAttr(
        (1 << bits) - 1,
        _NET_BIND_AND_CONNECT_TCP if version >= _NET_ABI else 0,
        _SCOPE_ABSTRACT_UNIX_AND_SIGNAL if version >= _SCOPE_ABI else 0,
    )


def _since(version: int, needed: int, release: str) -> str:
    return (
        "on" if version >= needed else f"off: Landlock ABI {needed} (Linux {release}) is needed, here it is {version}"
    )
