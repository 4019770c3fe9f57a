"""The few calls into the C library and the kernel that Python has no function for, through ctypes.

Every function raises `OSError` with the kernel's errno, as Python's own do; the caller decides what that means.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
from collections.abc import Collection
from typing import Final

from guardpool_worker import syscalls

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_CAPABILITY_VERSION_3: Final = 0x20080522
_ENOSYS: Final = 38
_LAST_FD: Final = 0xFFFFFFFF
_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_MADV_NOHUGEPAGE: Final = 15
_MIB: Final = 1024 * 1024

libc: Final = ctypes.CDLL(None, use_errno=True)
# Declared once: without the types ctypes would pass an int as 32 bits and cut addresses and masks.
_prctl = libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_prctl.restype = ctypes.c_int
_mprotect = libc.mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_mprotect.restype = ctypes.c_int
_madvise = libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_madvise.restype = ctypes.c_int
_memcmp = libc.memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
_memcmp.restype = ctypes.c_int
_syscall = libc.syscall
_syscall.restype = ctypes.c_long


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    result: int = _prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise _last_error(f"prctl({option})")
    return result


def default_signals() -> None:
    """Give every signal its default disposition, and block none: both are inherited over exec, and no business of ours.

    A child of a program that ignores SIGCHLD would never see its own children's exit status, and a program may be started
    with any signal ignored or blocked: by nohup, by a shell's background job, by a thread that blocks them all. Kept are
    those that Python itself ignores, so that it raises an exception in their place.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def keep_freed_memory() -> None:
    """Have malloc keep some MiB that were freed, in this process and those forked from it.

    glibc gives memory back to the kernel as soon as 128 KiB at the end of the heap are free, and maps larger blocks anew
    each time. A worker takes in and frees a frame of that size for every few milliseconds of work, and would pay for it
    in page faults, two for each job of 8 KB. Other C libraries have no such call, or ignore it.
    """
    with contextlib.suppress(AttributeError):
        libc.mallopt(_M_TRIM_THRESHOLD, 8 * _MIB)
        libc.mallopt(_M_MMAP_THRESHOLD, 4 * _MIB)


def syscall(name_or_number: str | int, *args: int) -> int:
    """A system call by its name or number; pointers are passed as addresses (`ctypes.addressof`).

    Raises:
        OSError: with the kernel's errno, or ENOSYS if the name is not known for this machine.
    """
    number = syscalls.number(name_or_number) if isinstance(name_or_number, str) else name_or_number
    if number is None:
        raise OSError(_ENOSYS, os.strerror(_ENOSYS), str(name_or_number))
    result: int = _syscall(ctypes.c_long(number), *(ctypes.c_long(arg) for arg in args))
    if result == -1:
        raise _last_error(str(name_or_number))
    return result


def set_parent_death_signal(expected_parent_pid: int, signum: int = signal.SIGKILL) -> None:
    """Die with the parent: ask the kernel for a signal when it ends, and die now if it already has.

    A parent that died before the request was made sends nothing, so the request comes first and the look at the parent's
    pid after it: no moment is left in between. The kernel counts the end of the *thread* that forked as
    the parent's death, and forgets the request over a fork: call it in the child itself.
    """
    prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != expected_parent_pid:
        os.kill(os.getpid(), signum)


def close_other_fds(keep: Collection[int]) -> None:
    """Close every file descriptor that is not in `keep`, standard streams included, whatever opened it."""
    first = 0
    for fd in [*sorted(set(keep)), _LAST_FD + 1]:
        if fd > first:
            _close_range(first, fd - 1)
        first = fd + 1


def seal_code() -> int:
    """Take the write permission from every page of this process that is writable and executable.

    ctypes keeps the code of its callbacks on such pages on many systems. They go on working; to make or free one
    afterwards is a write to such a page, and so a crash.

    Returns:
        How many mappings were sealed: 0 where the C libraries need no such pages.

    Raises:
        OSError: /proc is not there, or the kernel refuses the change.
    """
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        mappings = [line.split(" ", 2)[:2] for line in file]
    sealed = 0
    for place, permissions in mappings:
        if permissions.startswith("rwx"):
            start, end = (int(address, 16) for address in place.split("-"))
            if _mprotect(start, end - start, mmap.PROT_READ | mmap.PROT_EXEC):
                raise _last_error(f"mprotect of {place}")
            sealed += 1
    return sealed


def drop_capabilities() -> None:
    """Give up every capability, for good once no_new_privs is set; nothing to do, and no error, for a plain user."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    syscall("capset", ctypes.addressof(header), ctypes.addressof(nothing))


def clear_environment() -> None:
    """Empty the environment, Python's and the C library's.

    The kernel's copy (`/proc/self/environ`) is what the process was exec'd with: start it with an empty one.
    """
    os.environ.clear()
    libc.clearenv()


def address_of(view: memoryview) -> int:
    """Where the bytes of a writable view lie."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def differs(address: int, data: bytes, length: int) -> bool:
    """Whether the memory at an address holds other bytes than the first of `data`."""
    return bool(_memcmp(address, data, length))


def page_faults() -> int:
    """How often this process has touched a page that was not there, so far. Some kernels that are not Linux do not count."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def use_small_pages(address: int, length: int) -> None:
    """Have the kernel map only the pages that are touched, and no huge ones around them, where it would."""
    _madvise(address, length, _MADV_NOHUGEPAGE)  # a kernel without huge pages refuses, and has none


def zero_pages(address: int, length: int) -> None:
    """Have whole pages of private anonymous memory hold zeros, and give what they took back to the kernel.

    Raises:
        OSError: they are not that.
    """
    if _madvise(address, length, mmap.MADV_DONTNEED):
        raise _last_error("madvise")


def can_map(size: int) -> bool:
    """Whether this process may have so many bytes of memory more."""
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


def thread_count() -> int:
    """Threads of this process, by /proc; 1 where /proc is not there."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _close_range(first: int, last: int) -> None:
    try:
        syscall("close_range", first, last, 0)
    except OSError:
        # Before Linux 5.9. Listing costs less than trying the millions of numbers that a limit may allow.
        try:
            open_fds = [int(name) for name in os.listdir("/proc/self/fd")]
        except OSError:
            open_fds = list(range(os.sysconf("SC_OPEN_MAX")))
        for fd in open_fds:
            if first <= fd <= last:
                os.closerange(fd, fd + 1)  # unlike close, it ignores one that is not open


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), what)
