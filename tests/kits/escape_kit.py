"""What native code would try after it broke out of wasm, as a kit of attempts that each may be denied.

`python tests/kits/escape_kit.py` prints the table. Every attempt is made in a forked process of its own, from a host
function that wasm code calls, under the same conditions as machine code in a worker: once without a sandbox, once in the
whole sandbox, once with each of its two big layers alone, and once as each of the two processes around workers, which are
hardened in their own ways.

An attempt is a function that returns if it got what it wanted and raises `OSError` if it was refused. An attempt that
succeeds leaves nothing behind and does the machine no harm: signals are ones that are ignored, files lie in a temporary
folder.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import mmap
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import enginekit
import escape_attempts
import escape_attempts_kernel
from escape_scene import HUNG, KILLED, SECRET_NAME, Attempt, Scene
from guardpool.protocol.reply_memory import map_read_only, new_memory
from guardpool.protocol.slots import map_slots, new_slots
from guardpool_worker import filters, landlock, linux, sandbox, seccomp, syscalls
from guardpool_worker.engine.bundle import LoadedGuard

NOBODY = 65534
LAYERS = ("none", "sandbox", "landlock", "seccomp", "forkserver", "compiler")

# A guard that calls a host function with the attempt's number, as real guards call theirs.
HOOKED_GUARD = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "run") (param i32) (result i32) (call $hook (local.get 0))))"""

KIT: tuple[Attempt, ...] = (*escape_attempts.KIT, *escape_attempts_kernel.KIT)


def run(runs: list[tuple[str, int]], bundle: bytes) -> list[dict[str, str]]:
    """Make the attempts (layers, index into `KIT`), each in a process of its own, and say how each ended."""
    loaded = enginekit.load_bundle(bundle)
    with _scene() as scene:
        return [
            {"layers": layers, "name": KIT[index].name, "verdict": _try(loaded, scene, layers, index)}
            for layers, index in runs
        ]


def _try(loaded: LoadedGuard, scene: Scene, layers: str, index: int) -> str:
    Path(scene.spare_file).write_text("secret")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _child(loaded, scene, layers, index, writer)
        except BaseException as error:
            os.write(2, f"{KIT[index].name}: {error!r}\n".encode())
        finally:
            os._exit(1)
    os.close(writer)
    verdict = _verdict_of(pid, reader)
    os.close(reader)
    return verdict


def _child(loaded: LoadedGuard, scene: Scene, layers: str, index: int, writer: int) -> None:
    scene.report_fd = writer
    scene.in_sandbox = layers not in ("none", "landlock")
    close(layers, {2, writer, scene.kept_fd})

    def hook(number: int) -> int:
        try:
            KIT[number].do(scene)
        except OSError as error:
            return error.errno or -1
        return 0

    instance = loaded.guard.instantiate({"env": {"hook": enginekit.host_function(hook, "i", "i")}})
    run_guard = instance.function("run")
    assert run_guard is not None
    code = run_guard(index)
    os.write(writer, b"allowed\n" if code == 0 else f"{errno.errorcode.get(code, code)}\n".encode())
    os._exit(0)


def close(layers: str, keep: set[int]) -> None:
    """Close the sandbox, or one layer of it alone."""
    limits = sandbox.SandboxLimits(data_bytes=512 * 1024 * 1024)
    if layers == "sandbox":
        sandbox.close_sandbox("require", keep, limits)
    elif layers == "landlock":
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        landlock.deny_everything()
    elif layers == "seccomp":
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(filters.WORKER)
    elif layers == "forkserver":
        sandbox.harden_forkserver()
    elif layers == "compiler":
        sandbox.harden_compiler()


def _verdict_of(pid: int, reader: int) -> str:
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(20_000):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return HUNG
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    said = os.read(reader, 4096).decode().split()
    if os.WIFSIGNALED(status):
        return KILLED if os.WTERMSIG(status) == signal.SIGSYS else signal.Signals(os.WTERMSIG(status)).name
    return said[-1] if said else f"exit {os.WEXITSTATUS(status)}"


@contextmanager
def _scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        Path(folder, "secret").write_text("secret")
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(16)
        name = f"guardpool-kit-{os.getpid()}"
        unix.bind("\0" + name)
        unix.listen(16)
        replies_fd, replies = new_memory(mmap.PAGESIZE)
        replies[:5] = b"known"
        mapped = map_read_only(replies_fd)
        address = address_of(mapped)
        os.close(replies_fd)
        slots_fd, reader_fd = new_slots(mmap.PAGESIZE)
        os.pwrite(slots_fd, b"large", 0)
        slots = map_slots(reader_fd)
        os.close(slots_fd)
        os.close(reader_fd)
        secret_fd = os.open(f"{folder}/secret", os.O_RDONLY)
        kept, other = os.pipe()
        sibling = os.fork()
        if sibling == 0:
            os.close(other)
            os.read(kept, 1)  # until the kit's process closes the other end
            os._exit(0)
        try:
            yield Scene(
                folder=folder,
                secret_file=f"{folder}/secret",
                secret_fd=secret_fd,
                kept_fd=kept,
                tcp_port=tcp.getsockname()[1],
                abstract_name=name,
                sibling=sibling,
                parent=os.getpid(),
                replies_at=address,
                slots_at=address_of(slots),
                foreign_code=_int80_getpid() if syscalls.MACHINE == "x86_64" else None,
            )
        finally:
            os.close(other)
            os.waitpid(sibling, 0)
            os.close(kept)
            os.close(secret_fd)
            assert replies[:5] == mapped[:5] == b"known"
            assert slots[:5] == b"large"
            slots.release()
            mapped.close()
            replies.close()


def address_of(mapped: mmap.mmap | memoryview) -> int:
    """Where memory is that this process has mapped for reading only."""
    view = _Buffer()
    assert ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapped), ctypes.byref(view), 0) == 0
    address = view.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    assert address is not None
    return address


class _Buffer(ctypes.Structure):
    """`Py_buffer`; ctypes itself gives no address of memory that is only for reading."""

    _fields_ = (("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("rest", ctypes.c_char * 96))


_code_pages: list[mmap.mmap] = []


def _int80_getpid() -> Callable[[], int]:
    """Machine code that was there before the sandbox was closed, as any process has some `int 0x80` to jump to."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    _code_pages.append(page)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))


def drop_to_nobody() -> None:
    """Be a plain user, as after a login: not root, no groups, and dumpable again."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


def all_runs() -> list[tuple[str, int]]:
    return [
        (layers, index)
        for index, one in enumerate(KIT)
        for layers in LAYERS
        if layers != "landlock" or one.landlock is not None
    ]


def print_table(results: list[dict[str, str]]) -> None:
    """One line an attempt, one column for each set of layers."""
    verdicts = {(result["name"], result["layers"]): result["verdict"] for result in results}
    titles = ("no sandbox", "sandbox", "Landlock alone", "seccomp alone", "forkserver", "compiler")
    print(f"{'attempt':<50} " + " ".join(f"{title:<14}" for title in titles).rstrip())
    for one in KIT:
        cells = (verdicts.get((one.name, layers), "-") for layers in LAYERS)
        print(f"{one.name:<50} " + " ".join(f"{cell:<14}" for cell in cells).rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", help="the compiled HOOKED_GUARD; made if missing")
    parser.add_argument("--nobody", action="store_true", help="as an unprivileged user")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault(SECRET_NAME, "secret")
    if args.bundle:
        bundle = Path(args.bundle).read_bytes()
    else:
        bundle = enginekit.compile_bundle(enginekit.wat_to_wasm(HOOKED_GUARD))
    if args.nobody:
        drop_to_nobody()
    results = run(all_runs(), bundle)
    if args.json:
        json.dump(results, sys.stdout)
    else:
        print_table(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
