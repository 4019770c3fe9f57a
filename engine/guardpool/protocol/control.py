"""What supervisor and forkserver say to each other: one message a packet, file descriptors beside it.

The socket keeps packets whole (SOCK_SEQPACKET), so there is no framing here. Everything long travels in a sealed memfd: a
`Setup` is the whole of what workers need, artifacts included, and it cannot change after its digest was checked.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union

import msgspec

from guardpool.protocol.reply_memory import KnownOf

MAX_PACKET_BYTES = 64 * 1024
MAX_PACKET_FDS = 8

# What a worker logs of a guard whose buffers have to go behind its memory. The supervisor passes it on once a guard.
NO_ALLOCATOR = "the guard does not export both alloc and dealloc: its buffers are at the end of its memory"


class GuardSetup(msgspec.Struct, frozen=True):
    """One guard, as a worker needs it.

    Args:
        name: its name, for messages.
        artifact: which of `Setup.artifacts` is its compiled machine code.
        agent_payload: the input of `label_agent`.
        has_backend: whether the guard has a backend for `call_backend` to ask.
        memory_pages: what its linear memory may grow to.
        known: where to look before the backend is asked; None: nowhere.
        seed: what its random bytes are made of, beside its jobs; None: the pool is not deterministic.
        settable_globals: the names under which its artifact exports its mutable globals; None: it has other state than these
            and its memory. Only told if jobs are isolated.
    """

    name: str
    artifact: int
    agent_payload: bytes
    has_backend: bool
    memory_pages: int
    known: Union[KnownOf, None] = None
    seed: Union[bytes, None] = None
    settable_globals: Union[list[str], None] = None


class Setup(msgspec.Struct, frozen=True):
    """What every worker of a pool has in common. Limits as in `guardpool.Limits`.

    Args:
        engine: the name of the engine that made the artifacts.
        artifacts: compiled machine code, digest checked: each once, since guards may share one.
        isolation: `"none"`: a guard keeps its state from job to job; `"job"`: each job has a copy of the guard.
        near_bytes: what a worker's copies of replies may take near its guards, all together.
        tells_replies: results tell which replies their guard used.
    """

    engine: str
    artifacts: list[bytes]
    guards: list[GuardSetup]
    sandbox: str
    log_threshold: int
    keep_logs: bool
    max_output_bytes: int
    max_backend_calls: int
    max_log_bytes: int
    data_bytes: int
    cpu_s: int
    near_bytes: int = 0
    isolation: Literal["none", "job"] = "none"
    tells_replies: bool = False


class Start(msgspec.Struct, array_like=True, frozen=True, tag="START"):
    """To the forkserver, first of all; comes with the setup's memfd and, if there is one, that of the known replies."""


class Fork(msgspec.Struct, array_like=True, frozen=True, tag="FORK"):
    """Fork a worker; comes with its jobs (read), results (write), stderr (write) and progress page descriptors, and that of its
    slots, if it has any. `descriptors` says how many."""

    worker: int
    descriptors: int


class Up(msgspec.Struct, array_like=True, frozen=True, tag="UP"):
    """The forkserver holds every artifact, or `failure` says why it does not; then it exits."""

    pid: int
    hardening: dict[str, str]
    failure: Union[str, None]


class Forked(msgspec.Struct, array_like=True, frozen=True, tag="FORKED"):
    """The worker was forked; comes with its pidfd, or `failure` says what failed, and `errno` why."""

    worker: int
    pid: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    failure: Union[str, None]
    errno: Annotated[int, msgspec.Meta(ge=0, lt=4096)] = 0


class Exited(msgspec.Struct, array_like=True, frozen=True, tag="EXITED"):
    """The worker is gone; `status` as `os.waitstatus_to_exitcode` gives it, negative for a signal; None: it is not known."""

    worker: int
    status: Union[int, None]


ToForkserver = Union[Start, Fork]
FromForkserver = Union[Up, Forked, Exited]

_encoder = msgspec.msgpack.Encoder()
_to_forkserver = msgspec.msgpack.Decoder(ToForkserver)
_from_forkserver = msgspec.msgpack.Decoder(FromForkserver)
_setup = msgspec.msgpack.Decoder(Setup)


def send(sock: socket.socket, message: ToForkserver | FromForkserver, fds: Sequence[int] = ()) -> None:
    """Send one message and its descriptors, which stay the sender's own to close.

    Raises:
        OSError: the other side is gone, or (non-blocking) its queue is full.
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([_encoder.encode(message)], ancillary, socket.MSG_NOSIGNAL)


def receive_from_forkserver(sock: socket.socket) -> tuple[FromForkserver | None, list[int]]:
    """The next message of a forkserver and its descriptors; None at end-of-file.

    Raises:
        msgspec.DecodeError: the packet is not a message of a forkserver; its descriptors are closed.
    """
    data, fds = _receive(sock)
    try:
        return (_from_forkserver.decode(data) if data else None), fds
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        for fd in fds:
            os.close(fd)
        raise msgspec.DecodeError(str(error)) from error


def receive_from_supervisor(sock: socket.socket) -> tuple[ToForkserver | None, list[int]]:
    """The next message of the supervisor and its descriptors; None at end-of-file."""
    data, fds = _receive(sock)
    return (_to_forkserver.decode(data) if data else None), fds


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    data, ancillary, _flags, _address = sock.recvmsg(
        MAX_PACKET_BYTES, socket.CMSG_SPACE(MAX_PACKET_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def pack_setup(setup: Setup) -> int:
    """The setup in a sealed memfd; the caller closes it."""
    return sealed_memfd("guardpool-setup", _encoder.encode(setup))


def unpack_setup(fd: int) -> Setup:
    """Read a setup back. Raises `msgspec.DecodeError` if the memfd does not hold one."""
    size = os.fstat(fd).st_size
    chunks: list[bytes] = []
    at = 0
    while at < size:
        chunk = os.pread(fd, size - at, at)
        if not chunk:
            break
        chunks.append(chunk)
        at += len(chunk)
    return _setup.decode(b"".join(chunks))


def sealed_memfd(name: str, data: bytes) -> int:
    """A memfd that holds `data` and that no process can ever change again."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        seals: Any = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd
