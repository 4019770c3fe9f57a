"""What a pool needs of the process that makes it, checked before anything is started.

What is checked here would fail later in a way that nobody could read: a missing module, a wait for ever, a memory cap that is
never enforced.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from guardpool.errors import HostError

# By library: the module that knows whether it has changed the standard library, its function, and the word for threads.
_PATCHERS = {
    "gevent": ("gevent.monkey", "is_module_patched", "threading"),
    "eventlet": ("eventlet.patcher", "is_monkey_patched", "thread"),
}


def check_process() -> None:
    """Raise `HostError` if no pool can work in this process."""
    problem = next(_problems(), None)
    if problem is not None:
        raise HostError(problem)


def _problems() -> Iterator[str]:
    for library, (module, function, word) in _PATCHERS.items():
        asked = getattr(sys.modules.get(module), function, None)
        if asked is not None and asked(word):
            yield (
                f"{library} has replaced Python's threads and sockets in this process (monkey patching), and a pool needs "
                "the real ones: make the pool in a process of its own, or patch without thread, select, socket and subprocess"
            )
    problem = proc_problem()
    if problem is not None:
        yield f"the workers' memory could not be watched: {problem}"


def proc_problem() -> str | None:
    """Why /proc does not show this process, and so would not show its workers; None if it does."""
    try:
        shown = os.readlink("/proc/self")
    except OSError as error:
        return f"/proc is not there ({error.strerror}); mount it: mount -t proc proc /proc"
    if shown != str(os.getpid()):
        return (
            f"/proc belongs to another PID namespace (it calls this process {shown}, not {os.getpid()}); "
            "mount one of this namespace, e.g. with unshare --mount-proc"
        )
    return None
