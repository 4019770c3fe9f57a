"""Compiling a guard: in a process of its own, with limits, so that a compile bomb is an error and not an outage.

The module is checked, and its memory and tables capped, here, on the trusted side. What is left to the compiler process is the
engine's own work on bytes from a stranger: it gets them on its standard input, has an empty environment, lives in a
session of its own, dies with the thread that started it, and is killed through its pidfd at the time limit. Its answer
is one reply on its standard output; whatever else happens to it, this side sees a `CompileError` that says what.

It is a fresh interpreter each time, started by exec: the engine's compiler has a thread pool that does not survive a
fork.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass

from guardpool.errors import CallerError, CompileError, EngineMissing, HostError, LimitsError
from guardpool.machine import launch
from guardpool.machine.engines import ENGINES, choose_engine
from guardpool.machine.shortages import explain
from guardpool.module.inspection import check_module
from guardpool.module.kept_state import as_compiled
from guardpool.printable import printable
from guardpool.protocol.compiler_pipe import COMPILED, NO_ENGINE, NO_MEMORY, REFUSED, REPLY_HEAD, REQUEST_HEAD
from guardpool.sizes import DEFAULT_MEMORY_PAGES, MIB

_STDERR_BYTES = 8192  # how many of the last bytes of the compiler's standard error are kept
_MESSAGE_CHARS = 400
_READ_BYTES = 1 << 20
# A process that closed its pipes is at its end; it gets this long to have an exit status of its own before it is killed.
_LINGER_S = 1.0
# SIGKILL works at once, except on a process in the middle of disk I/O, which is not waited for forever.
_KILL_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class CompileLimits:
    """What compiling one module may take. Checked when made.

    Args:
        timeout_s: wall clock from start to reply, in seconds. Past it the compiler process is killed.
        max_memory_bytes: RLIMIT_DATA of the compiler process. Past it an allocation fails, which ends it.
        max_module_bytes: size of the wasm module. Past it nothing is started.
        max_artifact_bytes: size of what the compiler answers. Past it the process is killed.

    Passing any of them is a `CompileError` that names it.

    Raises:
        LimitsError: a limit is of the wrong type or out of range.
    """

    # A 284 KB guard takes 0.2 s; a busy machine or a module a hundred times that size still fits.
    timeout_s: float = 60.0
    # Cranelift took 280 MiB for a 1.3 MB module that is one single function, its worst case; RLIMIT_AS would count
    # address space that is reserved and never used, and RLIMIT_RSS does nothing on Linux.
    max_memory_bytes: int = 2048 * MIB
    # Guards are 0.05 to 5 MB; interpreters compiled to wasm, the largest seen, are 10 to 30 MB.
    max_module_bytes: int = 64 * MIB
    # An artifact is four to six times its module.
    max_artifact_bytes: int = 512 * MIB

    def __post_init__(self) -> None:
        timeout = self.timeout_s
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 86400:
            raise LimitsError(f"timeout_s must be a number of seconds above 0 and at most 86400, not {timeout!r}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise LimitsError(f"{name} must be a whole number of bytes from {low} to {high}, not {value!r}")


# An interpreter with the engine loaded takes 10 MiB of private memory; a cache entry holds at most 1 GiB.
_RANGES = {
    "max_memory_bytes": (32 * MIB, 1 << 46),
    "max_module_bytes": (8, 1 << 30),
    "max_artifact_bytes": (1, 1 << 30),
}

DEFAULT_COMPILE_LIMITS = CompileLimits()


def compile_guard(
    wasm: bytes,
    memory_pages: int = DEFAULT_MEMORY_PAGES,
    *,
    guard: str | None = None,
    limits: CompileLimits = DEFAULT_COMPILE_LIMITS,
    engine: str = "auto",
) -> bytes:
    """Compile a guard's module for this machine; `ModuleCache.get_or_compile` does so once and remembers.

    Blocks until the compiler process has answered or is killed at its time limit. Ctrl-C while it waits kills the
    process and leaves nothing behind.

    Args:
        wasm: the module, as it is in its file.
        memory_pages: the cap of its linear memory in pages of 64 KiB, built into what comes back.
        guard: the guard's name, for messages.
        limits: what compiling may take.
        engine: the engine that compiles, and that alone can load what comes back: see `GuardPool`.

    Returns:
        The artifact: what the workers load. It is machine code, so it must come only from here or from a verified
        cache entry.

    Raises:
        ModuleError: the module is not a guard; nothing was compiled.
        CompileError: it does not compile, or not within the limits.
        EngineMissing: the engine cannot be used in this Python.
        CallerError, EngineUnknown: `wasm` is not bytes, or `engine` is not one of the words.
        HostError: the compiler process could not be started.
    """
    choice = choose_engine(engine)
    if not isinstance(wasm, (bytes, bytearray, memoryview)):
        raise CallerError(f"wasm must be bytes, not {type(wasm).__name__}")
    if len(wasm) > limits.max_module_bytes:
        raise CompileError(
            f"{_who(guard)}: the module has {len(wasm)} bytes, more than max_module_bytes ({limits.max_module_bytes}): "
            "strip it, or raise the limit",
            guard=guard,
        )
    info = check_module(wasm, guard=guard, memory_pages=memory_pages, engine=choice.name)
    return _run_compiler(as_compiled(wasm, memory_pages), info.start is not None, guard, limits, choice.name)


def _run_compiler(
    prepared_wasm: bytes, has_start: bool, guard: str | None, limits: CompileLimits, engine: str
) -> bytes:
    try:
        process = _CompilerProcess(prepared_wasm, has_start, limits, engine)
        try:
            process.start()
            process.converse()
        finally:
            process.end()
    except OSError as error:
        raise HostError(f"the compiler process cannot be run: {explain(error)}") from error
    return _artifact_of(process, guard, limits, engine)


def _command(limits: CompileLimits, engine: str) -> list[str]:
    return launch.command(
        "guardpool_worker.compiler", engine, str(os.getpid()), str(limits.timeout_s), str(limits.max_memory_bytes)
    )


class _CompilerProcess:
    """One run of the compiler: the request goes in, the reply is collected, and it is ended whatever happens."""

    def __init__(self, prepared_wasm: bytes, has_start: bool, limits: CompileLimits, engine: str) -> None:
        self._limits = limits
        self._deadline = time.monotonic() + limits.timeout_s
        self._request = memoryview(REQUEST_HEAD.pack(len(prepared_wasm), has_start) + prepared_wasm)
        self._reply = bytearray()
        self._stderr = bytearray()
        self.timed_out = False
        self.too_long = False
        self._at_eof = False
        self.returncode: int | None = None
        self._command = _command(limits, engine)
        self._process: subprocess.Popen[bytes] = subprocess.Popen.__new__(subprocess.Popen)
        self._pidfd: int | None = None

    def start(self) -> None:
        """Start it. Whatever an exception of a signal handler interrupts here, `end` ends."""
        # The object was made before, so that `end` knows the process if this is interrupted while it waits for exec.
        # No preexec_fn: Python code between fork and exec is not safe in a process that has threads. The child
        # sets its own limits, before it reads anything that is not ours.
        self._process.__init__(  # type: ignore[misc]
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=launch.environment(),
            cwd="/",
            start_new_session=True,
        )
        # No such process: the kernel reaps our children (SIGCHLD is ignored) and it is gone already; its pipes say the rest.
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(self._process.pid)

    @property
    def reply(self) -> tuple[bytes, bytes] | None:
        """Verdict and content, or None if no whole reply came."""
        if not self._is_whole():
            return None
        verdict, length = REPLY_HEAD.unpack_from(self._reply)
        return verdict, bytes(memoryview(self._reply)[REPLY_HEAD.size : REPLY_HEAD.size + length])

    @property
    def stderr(self) -> str:
        """The last that the process wrote to its standard error."""
        return self._stderr.decode("utf-8", "replace").strip()

    def converse(self) -> None:
        """Send the request and collect the reply: until it is whole, the pipes are closed, or a limit is passed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        pipes = {process.stdin: selectors.EVENT_WRITE}
        pipes |= dict.fromkeys((process.stdout, process.stderr), selectors.EVENT_READ)
        with selectors.DefaultSelector() as selector:
            for pipe, event in pipes.items():
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, event)
            open_to_read = 2
            while open_to_read and not self.too_long and not self._is_whole():
                left_s = self._deadline - time.monotonic()
                if left_s <= 0:
                    self.timed_out = True
                    return
                for key, _ in selector.select(left_s):
                    if key.fileobj is process.stdin:
                        if self._send(key.fd):
                            selector.unregister(process.stdin)
                            process.stdin.close()
                    elif self._receive(key.fd, is_reply=key.fileobj is process.stdout):
                        selector.unregister(key.fileobj)
                        open_to_read -= 1
            self._at_eof = not open_to_read

    def _is_whole(self) -> bool:
        if len(self._reply) < REPLY_HEAD.size:
            return False
        length: int = REPLY_HEAD.unpack_from(self._reply)[1]
        return len(self._reply) >= REPLY_HEAD.size + length

    def _send(self, fd: int) -> bool:
        """Send some; True when there is nothing more to send."""
        try:
            self._request = self._request[os.write(fd, self._request) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:  # it died: its end-of-file and its exit status say why
            return True
        return not self._request

    def _receive(self, fd: int, *, is_reply: bool) -> bool:
        """Take what is there; True at end-of-file."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if is_reply:
            self._reply += data
            if len(self._reply) >= REPLY_HEAD.size:
                self.too_long = REPLY_HEAD.unpack_from(self._reply)[1] > self._limits.max_artifact_bytes
        else:
            self._stderr += data
            del self._stderr[:-_STDERR_BYTES]
        return not data

    def end(self) -> None:
        """Make sure that the process and whatever it may have started are gone, and reap it."""
        if getattr(self._process, "pid", None) is None:  # there is no process yet
            return
        try:
            if self._pidfd is None and self._process.returncode is None:  # interrupted before it had a pidfd
                self._process.kill()
                self._process.wait()
            if self._pidfd is not None:
                if self._at_eof:
                    self._ended_within(_LINGER_S)
                # Through the pidfd: if it was reaped elsewhere, its pid may be another process by now.
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                self._ended_within(_KILL_WAIT_S)
                self._kill_session(self._pidfd)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.returncode = self._process.wait(0)
        finally:
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
            self._close_pipes()

    def _ended_within(self, seconds: float) -> None:
        waiter = select.poll()
        assert self._pidfd is not None
        waiter.register(self._pidfd, select.POLLIN)
        waiter.poll(seconds * 1000)

    def _kill_session(self, pidfd: int) -> None:
        """Kill the rest of its process group; only while the dead leader still holds the group's number."""
        try:
            if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                os.killpg(self._process.pid, signal.SIGKILL)
        except (ChildProcessError, ProcessLookupError):
            pass

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _artifact_of(process: _CompilerProcess, guard: str | None, limits: CompileLimits, engine: str) -> bytes:
    """The artifact, or the error that says what became of the process."""
    who = _who(guard)
    if process.too_long:
        raise CompileError(
            f"{who}: the compiled module is larger than max_artifact_bytes ({limits.max_artifact_bytes}): "
            "raise the limit if the guard is meant to be that large",
            guard=guard,
        )
    if process.timed_out:
        raise CompileError(
            f"{who}: compiling took longer than timeout_s ({limits.timeout_s:g} s) and was stopped: raise the limit "
            "if the guard is meant to be that large",
            guard=guard,
        )
    reply = process.reply
    if reply is not None:
        verdict, content = reply
        if verdict == COMPILED:
            return content
        message = printable(content.decode("utf-8", "replace"), _MESSAGE_CHARS)
        if verdict == NO_ENGINE:
            raise EngineMissing(
                f"the wasm engine {engine} is installed but does not load: {message}; "
                f"run: pip install --force-reinstall {ENGINES[engine].install.removeprefix('pip install ')}"
            )
        if verdict == REFUSED:
            raise CompileError(f"{who}: the module does not compile: {message}", guard=guard)
        if verdict == NO_MEMORY:
            raise _out_of_memory(who, guard, limits)
    # What Rust says before it aborts.
    if "memory allocation of" in process.stderr:
        raise _out_of_memory(who, guard, limits)
    raise CompileError(f"{who}: the compiler process {_how_it_ended(process)} without an answer", guard=guard)


def _out_of_memory(who: str, guard: str | None, limits: CompileLimits) -> CompileError:
    return CompileError(
        f"{who}: compiling needs more memory than max_memory_bytes ({limits.max_memory_bytes}) and was stopped: raise "
        "the limit if the guard is meant to be that large",
        guard=guard,
    )


def _how_it_ended(process: _CompilerProcess) -> str:
    code = process.returncode
    last_line = process.stderr.rpartition("\n")[2]
    said = f" ({printable(last_line, _MESSAGE_CHARS)})" if last_line else ""
    if code is None or code >= 0:
        return f"ended with exit status {code}{said}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps because the machine ran out of memory," if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}{said}"


def _who(guard: str | None) -> str:
    return "the guard" if guard is None else f"guard {guard!r}"
