"""The sandbox: what a process of the untrusted side gives up before it touches a guard.

A guard that finds a hole in the engine runs as machine code in a worker, and an engine may get no more security fixes. So a
worker gives up all it does not need, for good, after it has been forked and before its first instance is made. It keeps
the descriptors it was given and memory; it cannot open, connect, start, signal, trace or map executable memory.

The order of the steps is not free:

1. streams and descriptors, while /dev/null can be opened and /proc can be read
2. environment
3. no_new_privs, without which a plain user may use neither Landlock nor seccomp
4. not dumpable: from here no process of the same user can attach or read the memory, and nothing is ever dumped
5. Landlock, which needs one more descriptor for a moment, and so comes before the limits
6. capabilities, because nothing that follows needs them, not even for root
7. rlimits, which a filter would keep from being set
8. seccomp, the last, because it denies every step above

An error in a later step undoes nothing. A step that fails is reported, not raised, unless the sandbox is *required*: then
one exception names all that is missing.
"""

from __future__ import annotations

import fcntl
import os
import resource
import stat
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from guardpool.errors import SandboxUnavailable
from guardpool_worker import filters, landlock, linux, seccomp

MODES: Final = ("auto", "require", "off")

FEATURES: Final = (
    "environment",
    "no_new_privs",
    "not_dumpable",
    "landlock",
    "landlock_tcp",
    "landlock_ipc",
    "capabilities",
    "rlimits",
    "seccomp",
)
"""The steps that `close_sandbox` reports on, in the order in which it takes them."""

_NULL_DEVICE: Final = os.makedev(1, 3)


class SandboxLimits(NamedTuple):
    """What a worker may use, as the kernel enforces it.

    Args:
        data_bytes: RLIMIT_DATA: private writable memory. Past it an allocation fails and `memory.grow` returns -1.
        cpu_s: RLIMIT_CPU: processor seconds over the worker's whole life; None: no limit. Past it SIGKILL.
        stack_bytes: RLIMIT_STACK of the only thread. Guests run on it. The engine writes a line for each frame of a stack
            that overflowed, so a smaller one makes that trap cheaper: 0.35 s at Linux's usual 8 MiB, 0.09 s at 2 MiB, which is
            still room for 130,000 calls of a small function.
        nofile: RLIMIT_NOFILE. Nothing is opened any more, but poll(2) refuses more entries than this.
    """

    data_bytes: int
    cpu_s: int | None = None
    stack_bytes: int = 2 * 1024 * 1024
    nofile: int = 64


def close_sandbox(mode: str, keep_fds: Collection[int], limits: SandboxLimits) -> dict[str, str]:
    """Close the sandbox around this process, for good.

    Call it in a freshly forked, single-threaded worker with everything imported and every module deserialized.
    Standard input and output become /dev/null, as does standard error unless 2 is in `keep_fds`; every descriptor that
    is neither these nor in `keep_fds` is closed, in every mode.

    Args:
        mode: "auto": what the kernel has; "require": all of it; "off": nothing but the descriptors.
        keep_fds: the descriptors that stay open.
        limits: the worker's rlimits.

    Returns:
        Each of `FEATURES` with "on" or "off: why".

    Raises:
        SandboxUnavailable: "require", and something is missing; the message names all that is. The process has given up
            what it could and is of no further use.
        ValueError: no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"sandbox must be one of {', '.join(MODES)}, not {mode!r}")
    null_streams(keep_fds)
    linux.close_other_fds({0, 1, 2, *keep_fds})
    if mode == "off":
        return dict.fromkeys(FEATURES, "off: asked for")
    report = _close(filters.WORKER, _rlimits(limits))
    missing = [f"{name} ({state.removeprefix('off: ')})" for name, state in report.items() if state != "on"]
    if mode == "require" and missing:
        raise SandboxUnavailable(
            f"sandbox='require', but this machine lacks {'; '.join(missing)}: run with sandbox='auto' to do without"
        )
    return report


def harden_forkserver() -> dict[str, str]:
    """Give up what a process that forks workers and loads artifacts does not need.

    Call it when everything is imported: files can no longer be opened, by this process or by its children. Forking,
    receiving descriptors, executable memory and `close_sandbox` in the children still work.

    Returns:
        Each of `FEATURES` with "on" or "off: why".
    """
    null_streams({2})
    seccomp.prepare(filters.WORKER)
    return _close(filters.FORKSERVER, _common_rlimits())


def harden_compiler() -> dict[str, str]:
    """Give up what a process that only compiles does not need.

    Call it when everything is imported and before the first module is compiled: the compiler's threads inherit it.
    Files can no longer be opened; the module comes in and the artifact goes out through descriptors that are open.

    Returns:
        Each of `FEATURES` with "on" or "off: why".
    """
    threads = linux.thread_count()
    if threads > 1:
        # Landlock and the filter hold for the calling thread and those it starts, not for those that already run.
        return dict.fromkeys(FEATURES, f"off: {threads} threads run already")
    return _close(filters.COMPILER, [*_common_rlimits(), (resource.RLIMIT_FSIZE, 0)])


def null_streams(keep: Collection[int] = ()) -> None:
    """Point each standard stream that is not in `keep` at /dev/null; those that are there already stay as they are.

    They are replaced, not closed, so that no descriptor opened later gets the number of a stream.
    """
    streams = [fd for fd in (0, 1, 2) if fd not in keep and not _is_null(fd)]
    if not streams:
        return
    # A child of a hardened forkserver can open nothing any more, but has one at hand.
    at_hand = next((fd for fd in (0, 1, 2) if _is_null(fd) and _is_for_both(fd)), None)
    null = os.open("/dev/null", os.O_RDWR) if at_hand is None else at_hand
    for fd in streams:
        if fd != null:
            os.dup2(null, fd)
    if null > 2:
        os.close(null)


def _close(policy: seccomp.Policy, rlimits: list[tuple[int, int]]) -> dict[str, str]:
    report = {
        "environment": _try(linux.clear_environment),
        "no_new_privs": _try(lambda: linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)),
        "not_dumpable": _try(lambda: linux.prctl(linux.PR_SET_DUMPABLE, 0)),
    }
    verdict = landlock.deny_everything()
    report.update(landlock=verdict.files, landlock_tcp=verdict.tcp, landlock_ipc=verdict.ipc)
    report["capabilities"] = _try(linux.drop_capabilities)
    report["rlimits"] = _set_rlimits(rlimits)
    report["seccomp"] = _try(lambda: seccomp.install(policy))
    return report


def _try(step: Callable[[], object]) -> str:
    try:
        step()
    except OSError as error:
        return f"off: {error.strerror}"
    return "on"


def _common_rlimits() -> list[tuple[int, int]]:
    return [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ]


def _rlimits(limits: SandboxLimits) -> list[tuple[int, int]]:
    wanted = [
        *_common_rlimits(),
        # Pipes have no size: only a file could be written past it.
        (resource.RLIMIT_FSIZE, 0),
        # Counts the processes of a user, and only stops the start of a new one; root is exempt until its capabilities are gone.
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, limits.nofile),
        (resource.RLIMIT_STACK, limits.stack_bytes),
        (resource.RLIMIT_DATA, limits.data_bytes),
    ]
    if limits.cpu_s is not None:
        wanted.append((resource.RLIMIT_CPU, limits.cpu_s))
    return wanted


def _set_rlimits(wanted: list[tuple[int, int]]) -> str:
    failed = []
    for which, value in wanted:
        try:
            _, hard = resource.getrlimit(which)
            if hard != resource.RLIM_INFINITY:
                value = min(value, hard)
            resource.setrlimit(which, (value, value))
        except (OSError, ValueError) as error:
            failed.append(f"rlimit {which}: {error}")
    return f"off: {'; '.join(failed)}" if failed else "on"


def _is_null(fd: int) -> bool:
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE


def _is_for_both(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
