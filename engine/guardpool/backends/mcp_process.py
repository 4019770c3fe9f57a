"""An MCP server as a process of ours: its messages on its standard streams, and its end.

The SDK has such a transport, too. This one has the limits that a stranger's server needs: on the length of a message, which
the SDK keeps whole however long it is; on what the server writes that is not a message; on standard error, of which the last
line is kept for our messages; and on the environment, which is what was named and nothing else.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage

from guardpool.backends.replies import BackendFailed
from guardpool.printable import printable

# A result that is longer fails anyway: it is the limit of every backend's answer.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# How much of one line that is too long is read and dropped before the server is given up.
_MAX_DROPPED_BYTES = 64 * MAX_MESSAGE_BYTES
# Before the first message many servers greet on standard output. After it, what is not a message ends the session.
_MOST_GREETINGS = 100
# How long a server has to go after its input was closed, and then after each signal.
_STEPS_S: tuple[tuple[signal.Signals | None, float], ...] = (
    (None, 1.0),
    (signal.SIGTERM, 1.0),
    (signal.SIGKILL, 1.0),
)
# What a server that just ended wrote before is still read for so long.
_LAST_WORDS_S = 0.25
_STDERR_BYTES = 4096
_MOST_LAST_READS = 64  # more than a pipe holds
_READ_BYTES = 65536
# The id of a message whose head alone is known: it stands before the result in all that is written by machines.
_ID = re.compile(rb'\s*\{[^{}\[\]]*?"id"\s*:\s*(\d{1,15})\s*[,}]')


class ServerProcess:
    """One run of a server's command.

    Args:
        command: its words.
        environment: all of its environment.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._on_end: Callable[[str], None] = _ignore
        self._exited = anyio.Event()
        self._stdout_ended = anyio.Event()
        self._watch_ended = anyio.Event()
        self._has_spoken = False  # a message came
        self._greetings = 0
        self._stderr = b""

    def in_words(self, error: BaseException) -> str | None:
        """Nothing: what goes wrong here is told by `on_end` or is a BackendFailed."""
        return None

    def explained(self, reason: str) -> str:
        """The reason with the last line that the server wrote to standard error."""
        lines = self._stderr.decode(errors="replace").strip().splitlines()
        return f"{reason}; its last line on stderr: {printable(lines[-1].strip(), 160)}" if lines else reason

    @asynccontextmanager
    async def open(self, on_end: Callable[[str], None]) -> AsyncIterator[tuple[Any, Any]]:
        """Start the server. When the block is left it is stopped, with all that it started, within some seconds.

        Raises:
            BackendFailed: it cannot be started.
        """
        process, pidfd = self._start()
        self._on_end = on_end
        received, read_stream = anyio.create_memory_object_stream[SessionMessage](0)
        write_stream, to_send = anyio.create_memory_object_stream[SessionMessage](0)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with anyio.create_task_group() as tasks:
                watching = anyio.CancelScope()
                tasks.start_soon(self._watch, pidfd, watching)
                tasks.start_soon(self._read, process.stdout.fileno(), received)
                tasks.start_soon(self._read_stderr, process.stderr.fileno())
                working = anyio.CancelScope()
                tasks.start_soon(self._write, process.stdin.fileno(), to_send, working)
                try:
                    yield read_stream, write_stream
                finally:
                    with anyio.CancelScope(shield=True):  # every wait in it has a limit
                        self._on_end = _ignore  # how it ends now is our doing
                        working.cancel()
                        watching.cancel()
                        await self._watch_ended.wait()
                        process.stdin.close()
                        await self._stop(process, pidfd)
                    tasks.cancel_scope.cancel()
        finally:
            os.close(pidfd)
            for file in (process.stdin, process.stdout, process.stderr):
                file.close()
            for stream in (received, read_stream, write_stream, to_send):
                stream.close()

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                self._command,
                bufsize=0,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=self._environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise BackendFailed(f"cannot be started: {printable(str(said), 200)}") from error
        for file in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(file.fileno(), False)  # type: ignore[union-attr]
        try:
            return process, os.pidfd_open(process.pid)
        except OSError as error:  # no more descriptors
            with process:
                process.kill()
            raise BackendFailed(f"cannot be watched: {error.strerror}") from error

    async def _stop(self, process: subprocess.Popen[bytes], pidfd: int) -> None:
        """End it. The tasks that read may have been cancelled, so this relies on none of them."""
        for signum, step_s in _STEPS_S:
            if signum is not None:
                _signal_group(process.pid, signum)
            with anyio.move_on_after(step_s):
                await anyio.wait_readable(pidfd)
                break
        # What it started and left behind. It is a zombie, so that the number of its group is still its own.
        _signal_group(process.pid, signal.SIGKILL)
        assert process.stderr is not None
        for _ in range(_MOST_LAST_READS):
            try:
                data = os.read(process.stderr.fileno(), _READ_BYTES)
            except BlockingIOError:  # something that left the group holds the pipe
                break
            if not data:
                break
            self._stderr = (self._stderr + data)[-_STDERR_BYTES:]
        process.poll()

    async def _watch(self, pidfd: int, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await anyio.wait_readable(pidfd)
                self._exited.set()
                with anyio.move_on_after(_LAST_WORDS_S):  # an answer may be in the pipe
                    await self._stdout_ended.wait()
                self._on_end(_end_in_words(pidfd))
        finally:
            self._watch_ended.set()

    async def _read(self, fd: int, received: Any) -> None:
        """Hand messages on, line by line, until the server ends or what comes is not to be borne."""
        line, dropped = bytearray(), 0
        while data := await _read_some(fd):
            *ends, rest = data.split(b"\n")
            for end in ends:
                if not dropped:
                    line += end
                    await self._hand_on(bytes(line), received)
                line.clear()
                dropped = 0
            if dropped:
                dropped += len(rest)
            else:
                line += rest
            if len(line) > MAX_MESSAGE_BYTES:
                await self._refuse(bytes(line[:1024]), received)
                dropped = len(line)
                line.clear()
            if dropped > _MAX_DROPPED_BYTES:
                self._on_end("wrote one line without an end")
        self._stdout_ended.set()
        with anyio.move_on_after(_LAST_WORDS_S):  # how it ended says more than that it closed its output
            await self._exited.wait()
            await anyio.sleep_forever()
        self._on_end("closed its standard output")

    async def _hand_on(self, line: bytes, received: Any) -> None:
        if not line.strip():
            return
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            self._greetings += 1
            if self._has_spoken or self._greetings > _MOST_GREETINGS:
                excerpt = printable(line[:200].decode(errors="replace"), 80)
                self._on_end(f"wrote something to its standard output that is not a message of MCP: {excerpt}")
            return
        self._has_spoken = True
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the session has ended: all is dropped
            await received.send(SessionMessage(message))

    async def _refuse(self, head: bytes, received: Any) -> None:
        """Fail the one question whose answer is too long."""
        words = f"the answer is over the limit of {MAX_MESSAGE_BYTES:,} bytes"
        match = _ID.match(head)
        if match is None:
            self._on_end(f"wrote a message over the limit of {MAX_MESSAGE_BYTES:,} bytes")
            return
        error = types.ErrorData(code=types.INTERNAL_ERROR, message=words)
        message = types.JSONRPCError(jsonrpc="2.0", id=int(match[1]), error=error)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await received.send(SessionMessage(message))

    async def _read_stderr(self, fd: int) -> None:
        while data := await _read_some(fd):
            self._stderr = (self._stderr + data)[-_STDERR_BYTES:]

    async def _write(self, fd: int, to_send: Any, scope: anyio.CancelScope) -> None:
        # EPIPE: it closed its input. That it ends, or does not answer, is seen elsewhere.
        with scope, suppress(OSError):
            async for message in to_send:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                rest = memoryview(f"{text}\n".encode())
                while rest:
                    try:
                        rest = rest[os.write(fd, rest) :]
                    except BlockingIOError:
                        await anyio.wait_writable(fd)


def _ignore(reason: str) -> None:
    pass


async def _read_some(fd: int) -> bytes:
    """The next bytes of a pipe; none at its end."""
    while True:
        await anyio.wait_readable(fd)
        try:
            return os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:
            return b""


def _signal_group(pgid: int, signum: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signum)


def _end_in_words(pidfd: int) -> str:
    """How a process ended that was not waited for yet."""
    with suppress(ChildProcessError):  # the caller's program waits for all children
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if info is not None and info.si_code == os.CLD_EXITED:
            return f"ended with exit status {info.si_status}"
        if info is not None:
            names = {number.value: number.name for number in signal.Signals}
            return f"was killed by {names.get(info.si_status, f'signal {info.si_status}')}"
    return "ended"
