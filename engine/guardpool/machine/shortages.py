"""What the machine has run out of, by the name of the limit: for errors that a person can act on."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable

from guardpool.machine import cgroup

# What the kernel refuses now and may grant a moment later.
_PASSING = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.ETOOMANYREFS}
)


def is_passing(error: OSError) -> bool:
    """Whether the kernel lacks something that it may have again later: nothing is wrong with what was asked."""
    return error.errno in _PASSING


def explain(error: OSError) -> str:
    """What failed, and the limit that was reached, e.g. `Too many open files: this process may have 256 (RLIMIT_NOFILE,
    ulimit -n)`."""
    said = error.strerror or str(error)
    if error.filename is not None:
        said = f"{error.filename}: {said}"
    about = _ABOUT.get(error.errno or 0)
    return said if about is None else f"{said}: {about()}"


def no_thread(error: RuntimeError) -> OSError:
    """The error for `explain` where Python could not start a thread, which it reports without an errno."""
    return OSError(errno.EAGAIN, str(error))


def _files() -> str:
    return f"this process may have {_soft(resource.RLIMIT_NOFILE)} (RLIMIT_NOFILE, ulimit -n)"


def _files_of_the_machine() -> str:
    return "the machine may have no more (fs.file-max)"


def _processes() -> str:
    limits = [f"this user may have {_soft(resource.RLIMIT_NPROC)} processes and threads (RLIMIT_NPROC, ulimit -u)"]
    most = cgroup.processes()
    if most is not None:
        limits.append(f"this container {most} (pids.max)")
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY:  # a thread that finds no room for its stack fails in the same way
        limits.append(f"this process {space} bytes of address space (RLIMIT_AS, ulimit -v)")
    return ", ".join(limits)


def _memory() -> str:
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY:
        return f"this process may have {space} bytes of address space (RLIMIT_AS, ulimit -v)"
    return "the machine, or this container, is out of memory"


def _file_size() -> str:
    return (
        f"this process may write files of {_soft(resource.RLIMIT_FSIZE)} bytes (RLIMIT_FSIZE, ulimit -f), "
        "and memory that processes share counts as a file"
    )


def _watches() -> str:
    return "this user may watch no more descriptors (fs.epoll.max_user_watches)"


_ABOUT: dict[int, Callable[[], str]] = {
    errno.EMFILE: _files,
    errno.ENFILE: _files_of_the_machine,
    errno.EAGAIN: _processes,
    errno.ENOMEM: _memory,
    errno.EFBIG: _file_size,
    errno.ENOSPC: _watches,
}


def _soft(limit: int) -> str:
    soft = resource.getrlimit(limit)[0]
    return "any number" if soft == resource.RLIM_INFINITY else str(soft)
