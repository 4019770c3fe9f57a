"""Processes for the tests of the sandbox: functions that run in a child, sandboxed or not."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import escape_kit
from guardpool.machine import kernel
from guardpool_worker import landlock, linux, sandbox

MIB = 1024 * 1024
# For forks of the whole test process, which may have grown to some hundred MiB.
LIMITS = sandbox.SandboxLimits(data_bytes=4096 * MIB)
ALL_ON = dict.fromkeys(sandbox.FEATURES, "on")
EXIT_FAILED = 99

whole_sandbox = pytest.mark.skipif(
    not all(f.available for f in kernel.probe()) or landlock.abi() < 6, reason="this kernel lacks a part of the sandbox"
)


class Child:
    """A forked process that runs a function; its result comes back as JSON."""

    def __init__(self, do: Callable[[int], Any]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(reader)
                result = do(writer)
                os.write(writer, json.dumps(result).encode())
                os._exit(0)
            except BaseException as error:
                with suppress(BaseException):
                    os.write(writer, b"!" + repr(error).encode())
            finally:
                os._exit(EXIT_FAILED)
        os.close(writer)
        self.reader = reader

    def read(self) -> bytes:
        return read_in_time(self.reader)

    def wait(self) -> int:
        """The exit code, negative for a signal; a child that hangs is killed and fails the test."""
        pidfd = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(20_000):
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        finally:
            os.close(pidfd)
            os.close(self.reader)
        return os.waitstatus_to_exitcode(status)

    def result(self) -> Any:
        data = bytearray()
        while piece := self.read():
            data += piece
        code = self.wait()
        assert code == 0, f"the child ended with {code} {bytes(data[-500:])!r}"
        return json.loads(data)


def in_child(do: Callable[[], Any]) -> Any:
    return Child(lambda _: do()).result()


def in_sandbox(do: Callable[[], Any], mode: str = "require", limits: sandbox.SandboxLimits = LIMITS) -> Any:
    """What `do` returns when it is called in a sandboxed child."""

    def child(writer: int) -> Any:
        sandbox.close_sandbox(mode, {2, writer}, limits)
        return do()

    return Child(child).result()


def read_in_time(fd: int) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(20_000), "nothing came in 20 s"
    return os.read(fd, 65536)


def errno_of(do: Callable[[], object]) -> str:
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "allowed"


def open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[None]:
    """Behave like a kernel without these system calls."""
    real = linux.syscall

    def syscall(name: str | int, *args: int) -> int:
        if name in names:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(name))
        return real(name, *args)

    with monkeypatch.context() as patched:
        patched.setattr(linux, "syscall", syscall)
        yield


@contextmanager
def sandboxed_process(unprivileged: bool = False) -> Iterator[int]:
    """The pid of a sandboxed process that waits."""
    stop = os.pipe()

    def child(writer: int) -> None:
        if unprivileged:
            escape_kit.drop_to_nobody()
        sandbox.close_sandbox("require", {2, writer, stop[0]}, LIMITS)
        os.write(writer, b"ready")
        os.read(stop[0], 1)

    process = Child(child)
    try:
        assert process.read() == b"ready"
        yield process.pid
    finally:
        os.close(stop[1])
        process.wait()
        os.close(stop[0])
