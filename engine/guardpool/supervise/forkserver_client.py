"""The supervisor's end of the forkserver: starting it, asking it for workers, ending it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time

import msgspec

from guardpool.machine import launch
from guardpool.machine.shortages import is_passing
from guardpool.protocol import control
from guardpool.supervise.reactor import is_readable

_STDERR_TAIL_BYTES = 4096
# A forkserver that was taken over may have sent anything.
_MOST_UNKNOWN = 1024
_DYING_S = 1.0  # for the kernel to end a process that was killed
# How long the workers of a dead forkserver may take to die, where they are this process's to reap.
_GROUP_S = 0.1
_GROUP_LOOK_S = 0.001
_REAPED = -1  # the pid that the kernel shows for a pidfd whose process is gone


class ForkserverClient:
    """A running forkserver. Nothing here blocks but the start, which waits for `exec` only.

    It must be made on a thread that lives as long as the forkserver is to live: the kernel takes the end of that thread for
    the end of the forkserver's parent.

    Args:
        setup_fd: a sealed memfd with the `Setup`; stays the caller's to close.
        engine: the name of the engine that made the setup's artifacts.
        replies_fd: the memfd of the known replies; -1: there is none.

    Raises:
        OSError: the interpreter cannot be started now. Nothing is left behind.
        HostError: there is none to be started.
    """

    def __init__(self, setup_fd: int, engine: str, replies_fd: int = -1) -> None:
        self._stderr = bytearray()
        with contextlib.ExitStack() as undo:
            self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._sock.close)
            with theirs:
                self._process = self._start(theirs.fileno(), engine)
            undo.callback(_end, self._process)
            self.pid = self._process.pid
            self.pidfd = os.pidfd_open(self.pid)
            undo.pop_all()
        assert self._process.stderr is not None
        self.sock_fd = self._sock.fileno()
        self.stderr_fd = self._process.stderr.fileno()
        os.set_blocking(self.stderr_fd, False)
        self._sock.setblocking(False)
        with contextlib.suppress(OSError):  # it died already; the pidfd will say so
            control.send(self._sock, control.Start(), [fd for fd in (setup_fd, replies_fd) if fd >= 0])

    @staticmethod
    def _start(fd: int, engine: str) -> subprocess.Popen[bytes]:
        # Opened here: if there is no descriptor left for the pipe, `DEVNULL` stays open (before CPython 3.12).
        with open(os.devnull, "r+b", buffering=0) as nothing:
            return subprocess.Popen(
                launch.command("guardpool_worker.forkserver", engine, str(fd), str(os.getpid())),
                stdin=nothing,
                stdout=nothing,
                stderr=subprocess.PIPE,
                pass_fds=[fd],
                env=launch.environment(),
                cwd="/",
                bufsize=0,
                start_new_session=True,  # the terminal's signals are the caller's business
            )

    def fork(self, worker: int, fds: list[int]) -> None:
        """Ask for a worker. Raises OSError if the forkserver is gone or does not listen."""
        control.send(self._sock, control.Fork(worker, len(fds)), fds)

    def receive(self) -> tuple[control.FromForkserver | None, list[int]] | None:
        """The next message; (None, []) at end-of-file or after an invalid message; None if no message is waiting."""
        try:
            return control.receive_from_forkserver(self._sock)
        except BlockingIOError:
            return None
        except (OSError, msgspec.DecodeError):
            return None, []

    def is_child(self, pidfd: int, pid: int) -> bool:
        """Whether the pidfd is that of process `pid`, and the forkserver forked that process.

        A forkserver that was taken over may open any process of this user, and we would kill the one that it names.

        Raises:
            OSError: that cannot be looked up now.
        """
        held = _pid_of(pidfd)
        if held != pid:
            return held == _REAPED
        return _parent_of(pid) in (None, self.pid) or _pid_of(pidfd) == _REAPED

    def read_stderr(self) -> bool:
        """Take what it wrote to standard error, keeping the end; False at end-of-file."""
        try:
            data = os.read(self.stderr_fd, 65536)
        except BlockingIOError:
            return True
        self._stderr += data
        del self._stderr[:-_STDERR_TAIL_BYTES]
        return bool(data)

    @property
    def stderr_tail(self) -> str:
        """The last it wrote to its standard error."""
        return self._stderr.decode("utf-8", "replace").strip()

    def kill(self) -> None:
        """SIGKILL; its workers die with it."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except OSError:
            pass

    def close(self) -> int | None:
        """Hang up, kill the forkserver if it still runs, reap it; returns its exit status if that is known."""
        self.kill()
        self._process.kill()  # as safe as the pidfd: until `wait` that pid is not given to another process
        # SIGKILL was delivered: this waits for the kernel, not for the program.
        status = self._process.wait()
        # Descriptors that other code closed must not keep us from ending what we started.
        with contextlib.suppress(OSError):
            self._reap_unknown()
        with contextlib.suppress(ChildProcessError):  # as a rule at once: orphans go to another process
            self._reap_group()
        with contextlib.suppress(OSError):
            self._sock.close()
        with contextlib.suppress(OSError):
            while self.read_stderr() and len(self._stderr) < _STDERR_TAIL_BYTES:
                if not is_readable(self.stderr_fd):
                    break
        assert self._process.stderr is not None
        with contextlib.suppress(OSError):
            self._process.stderr.close()
        with contextlib.suppress(OSError):
            os.close(self.pidfd)
        return status

    def _reap_unknown(self) -> None:
        """Reap the workers of which it told at the last moment, if they have become this process's children.

        Their session tells that they are its own: a forkserver that was taken over may send the pidfd of any process.
        """
        for _ in range(_MOST_UNKNOWN):
            received = self.receive()
            if received is None or received[0] is None:
                return
            for fd in received[1]:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    pid = _pid_of(fd)
                    if pid is not None and pid > 0 and _session_of(pid) == self.pid and is_readable(fd, _DYING_S):
                        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _reap_group(self) -> None:
        """Reap what it had forked and not told of. Its process group, which no process can join from outside its session, has
        its number as long as one of them is not reaped, so nothing else can be meant.

        Raises:
            ChildProcessError: none of them is a child of this process, or none is left.
        """
        end = time.monotonic() + _GROUP_S
        while time.monotonic() < end:
            if os.waitid(os.P_PGID, self.pid, os.WEXITED | os.WNOHANG) is None:
                # The kernel has killed them with their parent, and no event tells of their end.
                time.sleep(_GROUP_LOOK_S)


def _session_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[3])


def _pid_of(pidfd: int) -> int | None:
    """The process that a pidfd is for; None if the descriptor is not a pidfd."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        lines = [line for line in file if line.startswith(b"Pid:")]
    return int(lines[0].split()[1]) if lines else None


def _parent_of(pid: int) -> int | None:
    """The parent of a process; None if it ended meanwhile, or if /proc hides it (hidepid) as it does processes that cannot be
    looked into. Raises OSError if that cannot be looked up now."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, OSError) and is_passing(error):
            raise
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
