"""The forkserver: one thread, started by exec, that holds every artifact ready and forks workers from it.

It never compiles and never runs guest code. It reads one `Setup`, loads the artifacts (which needs executable memory, so
workers could not do it), and then forks a worker whenever the supervisor sends a `Fork` with the worker's descriptors. It
reaps its children and reports their exit status. End-of-file on its socket ends it, and its end ends every worker.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence

from guardpool.protocol import control
from guardpool.protocol.reply_memory import map_read_only
from guardpool_worker import host, linux, sandbox, worker
from guardpool_worker.engine.bundle import LoadedGuard, load_bundle
from guardpool_worker.engine.choice import load_engine
from guardpool_worker.engine.seam import Engine
from guardpool_worker.instance import prelink


def main(arguments: Sequence[str]) -> int:
    """Run the forkserver.

    Args:
        arguments: the engine's name, the control socket's descriptor, the pid of the supervisor's process.
    """
    engine_name = arguments[0]
    control_fd, parent_pid = map(int, arguments[1:])
    linux.default_signals()
    linux.set_parent_death_signal(parent_pid)
    linux.keep_freed_memory()
    # The terminal's Ctrl-C is for the caller's process, which decides what becomes of this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number != signal.SIGTERM else signal.SIG_DFL)
    engine = load_engine(engine_name)  # opens files, so before the process is hardened
    engine.prepare(host.signatures())
    engine.seal()  # workers could not: their filter lets no page become executable
    with socket.socket(fileno=control_fd) as sock:
        message, fds = control.receive_from_supervisor(sock)
        if not isinstance(message, control.Start) or not 1 <= len(fds) <= 2:
            return 2
        setup = control.unpack_setup(fds[0])
        # Before the fork: a worker may map no descriptor.
        replies = map_read_only(fds[1]) if len(fds) > 1 else None
        for fd in fds:
            os.close(fd)
        # Before the artifacts are loaded: if a guard took over its compiler and forged one, its code runs here without
        # files, sockets and other processes.
        hardening = sandbox.harden_forkserver() if setup.sandbox != "off" else {}
        try:
            loaded = _load(engine, setup.artifacts)
            guards = [loaded[guard.artifact] for guard in setup.guards]
        except Exception as error:
            control.send(sock, control.Up(os.getpid(), hardening, f"an artifact cannot be loaded: {str(error)[:500]}"))
            return 3
        # What exists now is shared by all workers: keep the collector from touching (and so copying) its pages.
        gc.collect()
        gc.freeze()
        control.send(sock, control.Up(os.getpid(), hardening, None))
        return _Server(sock, setup, guards, replies).serve()


def _load(engine: Engine, artifacts: list[bytes]) -> list[LoadedGuard]:
    """Load every artifact, and let go of it: what stays here counts towards the memory of every worker."""
    loaded = []
    artifacts.reverse()
    while artifacts:
        loaded.append(load_bundle(engine, artifacts.pop()))
        prelink(loaded[-1])
    return loaded


class _Server:
    """The loop: forks when told to, reports which worker died."""

    def __init__(
        self, sock: socket.socket, setup: control.Setup, guards: list[LoadedGuard], replies: mmap.mmap | None
    ) -> None:
        self._sock = sock
        self._setup = setup
        self._guards = guards
        self._replies = replies
        self._pid = os.getpid()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._children: dict[int, tuple[int, int]] = {}  # pidfd -> worker, pid

    def serve(self) -> int:
        """Serve until the supervisor hangs up."""
        control_fd = self._sock.fileno()
        while True:
            for fd, _event in self._poll.poll():
                if fd != control_fd:
                    self._reap(fd)
                elif not self._obey():
                    return 0

    def _obey(self) -> bool:
        message, fds = control.receive_from_supervisor(self._sock)
        if message is None:
            return False
        if not isinstance(message, control.Fork):
            raise ValueError(f"not a request to fork: {message!r} with {len(fds)} descriptors")
        if len(fds) == message.descriptors:
            self._fork(message.worker, fds)
        else:  # the kernel drops what does not fit into this process's table
            self._send_failure(message.worker, "descriptors of a worker", errno.EMFILE)
        for fd in fds:
            os.close(fd)
        return True

    def _fork(self, worker_id: int, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._send_failure(worker_id, "fork", error.errno)
            return
        if pid == 0:
            self._become_worker(fds)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:  # the child ends when its pipes are closed; it may not be killed from here
            self._send_failure(worker_id, "pidfd_open", error.errno)
            return
        self._children[pidfd] = (worker_id, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._send(control.Forked(worker_id, pid, None), [pidfd])

    def _send_failure(self, worker_id: int, what: str, code: int | None) -> None:
        self._send(control.Forked(worker_id, 0, f"{what}: {os.strerror(code or 0)}", code or 0))

    def _send(self, message: control.FromForkserver, fds: Sequence[int] = ()) -> None:
        control.send(self._sock, message, fds)

    def _become_worker(self, fds: list[int]) -> None:
        # Nothing may leave this function but the process: an exception that climbed further would run the
        # forkserver's own code in the child.
        status = 70
        try:
            status = worker.run(self._setup, self._guards, self._replies, worker.Descriptors(*fds), self._pid)
        except BaseException:
            sys.tracebacklimit = 20
            sys.__excepthook__(*sys.exc_info())  # unlike `traceback`, it is there without an import in every start
            sys.stderr.flush()
        finally:
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        worker_id, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:  # something else reaped it
            status = None
        self._send(control.Exited(worker_id, status))
