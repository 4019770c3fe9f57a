"""What native code would try after it broke out of wasm, as a kit of attempts that each may be denied.

`python tests/escape_kit.py` prints the table. Every attempt is made in a forked process of its own, from a host
function that wasm code calls, so under the very conditions that machine code in a worker would have: once without a
sandbox, once in the whole sandbox, and once with each of its two big layers alone.

An attempt is a function that returns when it got what it wanted and raises `OSError` when it was refused. Nothing it
does outlives its process or hurts the machine when it is not denied: signals are ones that are ignored, files lie in a
temporary folder.
"""

from __future__ import annotations

import _thread
import argparse
import ctypes
import errno
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardpool_worker import engine, landlock, linux, sandbox, seccomp, syscalls

SECRET_NAME = "GUARDPOOL_KIT_SECRET"
NOBODY = 65534
ALLOWED, KILLED, HUNG = "allowed", "killed", "hung"
LAYERS = ("none", "sandbox", "landlock", "seccomp")

# A guard that calls out to the host with the attempt's number, as a host function is called in earnest.
HOOKED_GUARD = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "run") (param i32) (result i32) (call $hook (local.get 0))))"""


@dataclass
class Scene:
    """What there is to steal, to reach and to hurt."""

    folder: str
    secret_file: str
    secret_fd: int
    kept_fd: int
    tcp_port: int
    abstract_name: str
    sibling: int
    parent: int
    foreign_code: Callable[[], int] | None
    buffer: ctypes.Array[ctypes.c_char] = field(default_factory=lambda: ctypes.create_string_buffer(4096))

    @property
    def address(self) -> int:
        return ctypes.addressof(self.buffer)

    def path(self, text: str) -> int:
        """The address of a C string; good until the next call."""
        self.buffer.value = text.encode()
        return self.address


@dataclass(frozen=True)
class Attempt:
    """One thing to try.

    Args:
        name: what it is, in the table.
        do: returns if it worked, raises `OSError` if not.
        expected: what the sandbox answers: "killed" or the name of an errno.
        plain: "allowed" where any process can do it that is in no sandbox, "root" where root can, "maybe" where it
            hangs on how the machine is set up.
        landlock: what Landlock alone answers where it has a say, the name of an errno.
    """

    name: str
    do: Callable[[Scene], object]
    expected: str
    plain: str = ALLOWED
    landlock: str | None = None


_kit: list[Attempt] = []


def attempt(
    name: str, expected: str, plain: str = ALLOWED, landlock: str | None = None
) -> Callable[[Callable[[Scene], object]], Callable[[Scene], object]]:
    def add(do: Callable[[Scene], object]) -> Callable[[Scene], object]:
        _kit.append(Attempt(name, do, expected, plain, landlock))
        return do

    return add


def call(name: str, *args: int) -> int:
    return linux.syscall(name, *args)


AT_FDCWD = -100
EPERM, EBADF, ENOSYS, EACCES = "EPERM", "EBADF", "ENOSYS", "EACCES"


# --- files


@attempt("open a file for reading", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    call("openat", AT_FDCWD, scene.path(scene.secret_file), os.O_RDONLY)


@attempt("open a file for writing", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    call("openat", AT_FDCWD, scene.path(scene.secret_file), os.O_WRONLY)


@attempt("create a file", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    call("openat", AT_FDCWD, scene.path(f"{scene.folder}/new"), os.O_WRONLY | os.O_CREAT, 0o600)


@attempt("open a file by openat2", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    how = (ctypes.c_uint64 * 3)(os.O_RDONLY, 0, 0)
    call("openat2", AT_FDCWD, scene.path(scene.secret_file), ctypes.addressof(how), ctypes.sizeof(how))


@attempt("list a folder", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.listdir(scene.folder)


@attempt("look at a file's size (stat)", EPERM)
def _(scene: Scene) -> None:
    os.stat(scene.secret_file)


@attempt("read a link (/proc/self/exe)", EPERM)
def _(scene: Scene) -> None:
    os.readlink("/proc/self/exe")


@attempt("remove a file", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.unlink(f"{scene.folder}/spare-{os.getpid() % 64}")


@attempt("make a folder", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.mkdir(f"{scene.folder}/folder-{os.getpid()}")


@attempt("make a link to a file", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.symlink(scene.secret_file, f"{scene.folder}/link-{os.getpid()}")


@attempt("cut a file short", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.truncate(f"{scene.folder}/spare-63", 0)


@attempt("change a file's mode", EPERM)
def _(scene: Scene) -> None:
    os.chmod(f"{scene.folder}/spare-63", 0o600)


@attempt("change the working folder", EPERM)
def _(scene: Scene) -> None:
    os.chdir(scene.folder)


@attempt("read the parent's memory (/proc/PID/mem)", EPERM, "maybe", landlock=EACCES)
def _(scene: Scene) -> None:
    os.open(f"/proc/{scene.parent}/mem", os.O_RDONLY)


# --- what was inherited


@attempt("read the environment by getenv", "ENOENT")
def _(scene: Scene) -> None:
    linux.libc.getenv.restype = ctypes.c_char_p
    if linux.libc.getenv(SECRET_NAME.encode()) is None:
        raise OSError(errno.ENOENT, "not set")


@attempt("read the environment by os.environ", "ENOENT")
def _(scene: Scene) -> None:
    if SECRET_NAME not in os.environ:
        raise OSError(errno.ENOENT, "not set")


@attempt("read the environment by /proc", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    with open("/proc/self/environ", "rb") as file:
        file.read()


@attempt("read a descriptor that was inherited", EBADF)
def _(scene: Scene) -> None:
    os.read(scene.secret_fd, 1)


@attempt("list the descriptors", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.listdir("/proc/self/fd")


@attempt("copy a descriptor (dup)", EPERM)
def _(scene: Scene) -> None:
    os.dup(scene.kept_fd)


@attempt("copy a descriptor (fcntl)", EPERM)
def _(scene: Scene) -> None:
    call("fcntl", scene.kept_fd, 0, 10)


@attempt("have signals sent for a descriptor (fcntl)", EPERM)
def _(scene: Scene) -> None:
    call("fcntl", scene.kept_fd, 8, os.getpid())  # F_SETOWN


@attempt("ioctl on a descriptor", EPERM)
def _(scene: Scene) -> None:
    call("ioctl", scene.kept_fd, 0x5421, scene.address)  # FIONBIO


# --- the network


def _connect(family: int, kind: int, address: Any) -> None:
    with socket.socket(family, kind) as sock:
        sock.settimeout(5)
        sock.connect(address)


@attempt("make a socket", EPERM)
def _(scene: Scene) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


@attempt("connect by TCP", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    _connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", scene.tcp_port))


@attempt("listen on a TCP port", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))


@attempt("send by UDP", EPERM)
def _(scene: Scene) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"secret", ("127.0.0.1", 9))


@attempt("connect to an abstract Unix socket", EPERM, landlock=EPERM)
def _(scene: Scene) -> None:
    _connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + scene.abstract_name)


@attempt("make a pair of sockets", EPERM)
def _(scene: Scene) -> None:
    socket.socketpair()


@attempt("ask the kernel for its routes (netlink)", EPERM)
def _(scene: Scene) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


# --- other programs and processes


@attempt("exec a program", KILLED, landlock=EACCES)
def _(scene: Scene) -> None:
    report_before_exec()
    os.execv("/bin/true", ["true"])


@attempt("exec a program by execveat", KILLED, landlock=EACCES)
def _(scene: Scene) -> None:
    report_before_exec()
    argv = (ctypes.c_char_p * 2)(b"true", None)
    envp = (ctypes.c_char_p * 1)(None)
    path = ctypes.create_string_buffer(b"/bin/true")
    call("execveat", AT_FDCWD, ctypes.addressof(path), ctypes.addressof(argv), ctypes.addressof(envp), 0)


def _reap(pid: int) -> None:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@attempt("fork", KILLED)
def _(scene: Scene) -> None:
    _reap(os.fork())


@attempt("fork by clone", KILLED)
def _(scene: Scene) -> None:
    _reap(call("clone", signal.SIGCHLD, 0, 0, 0, 0))


@attempt("vfork by clone", KILLED)
def _(scene: Scene) -> None:
    _reap(call("clone", signal.SIGCHLD | 0x4000, 0, 0, 0, 0))  # CLONE_VFORK, without the shared memory


@attempt("fork by clone3", ENOSYS)
def _(scene: Scene) -> None:
    args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD)
    _reap(call("clone3", ctypes.addressof(args), ctypes.sizeof(args)))


@attempt("start a thread", "EAGAIN")
def _(scene: Scene) -> None:
    try:
        _thread.start_new_thread(int, ())
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from None


@attempt("be traced by the parent (ptrace)", KILLED)
def _(scene: Scene) -> None:
    call("ptrace", 0, 0, 0, 0)


@attempt("trace the parent (ptrace)", KILLED, "maybe", landlock=EPERM)
def _(scene: Scene) -> None:
    call("ptrace", 0x4206, scene.parent, 0, 0)  # PTRACE_SEIZE, which does not stop it


@attempt("read the parent's memory (process_vm_readv)", KILLED, "maybe", landlock=EPERM)
def _(scene: Scene) -> None:
    into = (ctypes.c_size_t * 2)(scene.address, 16)
    call("process_vm_readv", scene.parent, ctypes.addressof(into), 1, ctypes.addressof(into), 1, 0)


@attempt("write the parent's memory (process_vm_writev)", KILLED, "maybe", landlock=EPERM)
def _(scene: Scene) -> None:
    same = (ctypes.c_size_t * 2)(scene.address, 16)
    call("process_vm_writev", scene.parent, ctypes.addressof(same), 1, ctypes.addressof(same), 1, 0)


@attempt("signal the parent (kill)", KILLED, landlock=EPERM)
def _(scene: Scene) -> None:
    os.kill(scene.parent, signal.SIGURG)


@attempt("signal a sibling (kill)", KILLED, landlock=EPERM)
def _(scene: Scene) -> None:
    os.kill(scene.sibling, signal.SIGURG)


@attempt("signal a sibling (tgkill)", KILLED, landlock=EPERM)
def _(scene: Scene) -> None:
    call("tgkill", scene.sibling, scene.sibling, signal.SIGURG)


@attempt("signal a sibling (tkill)", KILLED, landlock=EPERM)
def _(scene: Scene) -> None:
    call("tkill", scene.sibling, signal.SIGURG)


@attempt("signal a sibling (rt_sigqueueinfo)", KILLED, landlock=EPERM)
def _(scene: Scene) -> None:
    info = ctypes.create_string_buffer(struct.pack("=iii", signal.SIGURG, 0, -1), 128)  # si_code SI_QUEUE
    call("rt_sigqueueinfo", scene.sibling, signal.SIGURG, ctypes.addressof(info))


@attempt("signal the process group", KILLED)
def _(scene: Scene) -> None:
    os.kill(0, 0)


@attempt("open the parent (pidfd_open)", KILLED)
def _(scene: Scene) -> None:
    os.pidfd_open(scene.parent)


@attempt("take a descriptor of another process (pidfd_getfd)", KILLED, "maybe", landlock=EPERM)
def _(scene: Scene) -> None:
    pidfd = call("pidfd_open", scene.parent, 0) if not sandboxed() else scene.kept_fd
    call("pidfd_getfd", pidfd, 0, 0)


# --- machine code


def _map(prot: int, fd: int = -1, flags: int = mmap.MAP_PRIVATE) -> int:
    return call("mmap", 0, 4096, prot, flags | (mmap.MAP_ANONYMOUS if fd < 0 else 0), fd, 0)


RW, RX, RWX = 3, 5, 7


@attempt("map writable and executable memory", EPERM)
def _(scene: Scene) -> None:
    _map(RWX)


@attempt("make memory executable (mprotect)", EPERM)
def _(scene: Scene) -> None:
    call("mprotect", _map(RW), 4096, RX)


@attempt("make memory executable (pkey_mprotect)", EPERM)
def _(scene: Scene) -> None:
    call("pkey_mprotect", _map(RW), 4096, RX, -1)


@attempt("make existing code writable (mprotect)", EPERM)
def _(scene: Scene) -> None:
    page = ctypes.cast(linux.libc.getpid, ctypes.c_void_p).value or 0
    call("mprotect", page & ~4095, 4096, RWX)


@attempt("map a file", EPERM)
def _(scene: Scene) -> None:
    _map(1, scene.kept_fd if sandboxed() else scene.secret_fd)


@attempt("make a file in memory (memfd_create)", EPERM)
def _(scene: Scene) -> None:
    os.memfd_create("kit")


@attempt("share memory (shmget)", EPERM, "maybe")
def _(scene: Scene) -> None:
    call("shmctl", call("shmget", 0, 4096, 0o1600), 0, 0)


# --- the kernel's large surfaces


def _perf_attr() -> int:
    _perf_attr.keep = ctypes.create_string_buffer(  # type: ignore[attr-defined]
        struct.pack("=IIQQQQQ", 1, 112, 0, 0, 0, 0, 0b1100001), 112
    )
    return ctypes.addressof(_perf_attr.keep)  # type: ignore[attr-defined]


@attempt("io_uring", KILLED, "maybe")
def _(scene: Scene) -> None:
    ctypes.memset(scene.address, 0, 256)
    call("io_uring_setup", 1, scene.address)


@attempt("bpf", KILLED, "maybe")
def _(scene: Scene) -> None:
    ctypes.memmove(scene.address, struct.pack("=IIIII", 2, 4, 4, 1, 0).ljust(128, b"\0"), 128)  # an array map
    call("bpf", 0, scene.address, 128)


@attempt("perf_event_open", KILLED, "maybe")
def _(scene: Scene) -> None:
    call("perf_event_open", _perf_attr(), 0, -1, -1, 0)


@attempt("userfaultfd", KILLED, "maybe")
def _(scene: Scene) -> None:
    call("userfaultfd", 1)  # UFFD_USER_MODE_ONLY


@attempt("the kernel's keyrings (keyctl)", KILLED, "maybe")
def _(scene: Scene) -> None:
    call("keyctl", 0, -2, 1)


@attempt("another filter (seccomp)", KILLED)
def _(scene: Scene) -> None:
    call("seccomp", 2, 0, scene.address)  # is an action there? (0: SECCOMP_RET_KILL_THREAD)


@attempt("another Landlock domain", EPERM, "maybe")
def _(scene: Scene) -> None:
    landlock.abi()


@attempt("a namespace (unshare)", KILLED, "maybe")
def _(scene: Scene) -> None:
    call("unshare", 0x10000000)  # CLONE_NEWUSER


@attempt("mount", KILLED, "root", landlock=EPERM)
def _(scene: Scene) -> None:
    if not sandboxed():
        call("unshare", 0x00020000)  # CLONE_NEWNS: what is mounted is gone with the process
        linux.libc.mount(b"none", b"/", None, ctypes.c_ulong(0x44000), None)
    if linux.libc.mount(b"none", scene.folder.encode(), b"tmpfs", ctypes.c_ulong(0), None):
        raise OSError(ctypes.get_errno(), "mount")


@attempt("chroot", KILLED, "root")
def _(scene: Scene) -> None:
    os.chroot("/")


# --- undoing the sandbox


@attempt("become another user", KILLED, "root")
def _(scene: Scene) -> None:
    os.setuid(12345)


@attempt("set capabilities", KILLED)
def _(scene: Scene) -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    call("capset", ctypes.addressof(header), ctypes.addressof(none))


@attempt("be dumpable again (prctl)", EPERM)
def _(scene: Scene) -> None:
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


@attempt("raise a limit (prlimit)", EPERM)
def _(scene: Scene) -> None:
    limit = (ctypes.c_uint64 * 2)(1, 1)
    call("prlimit64", 0, 4, ctypes.addressof(limit), 0)  # RLIMIT_CORE


@attempt("look at the parent's limits (prlimit)", EPERM)
def _(scene: Scene) -> None:
    call("prlimit64", scene.parent, 4, 0, scene.address)


@attempt("change the personality", KILLED)
def _(scene: Scene) -> None:
    call("personality", 0x0400000)  # READ_IMPLIES_EXEC


@attempt("more memory than the limit", "ENOMEM")
def _(scene: Scene) -> None:
    call("mmap", 0, 1 << 30, RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)


@attempt("a timer that outlives the job", EPERM)
def _(scene: Scene) -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000)


@attempt("what machine this is (uname)", EPERM)
def _(scene: Scene) -> None:
    call("uname", scene.address)


@attempt("how much memory there is (sysinfo)", EPERM)
def _(scene: Scene) -> None:
    call("sysinfo", scene.address)


if syscalls.MACHINE == "x86_64":

    @attempt("a system call of the x32 ABI", KILLED, "maybe")
    def _(scene: Scene) -> None:
        linux.syscall(seccomp.X32_BIT | syscalls.X86_64["getpid"])

    @attempt("a 32-bit system call (int 0x80)", KILLED, "maybe")
    def _(scene: Scene) -> None:
        assert scene.foreign_code is not None
        if scene.foreign_code() != os.getpid():
            raise OSError(errno.ENOSYS, "no 32-bit calls")


KIT: tuple[Attempt, ...] = tuple(_kit)

# --- running it

_in_sandbox = False
_report_fd = -1


def sandboxed() -> bool:
    return _in_sandbox


def report_before_exec() -> None:
    """An exec that works leaves nobody to say so: say it before, and let a failure overwrite it."""
    os.write(_report_fd, b"allowed\n")


def run(runs: list[tuple[str, int]], bundle: bytes) -> list[dict[str, str]]:
    """Make the attempts (layers, index into `KIT`), each in a process of its own, and say how each ended."""
    loaded = engine.load_bundle(bundle)
    with _scene() as scene:
        return [
            {"layers": layers, "name": KIT[index].name, "verdict": _try(loaded, scene, layers, index)}
            for layers, index in runs
        ]


def _try(loaded: engine.LoadedGuard, scene: Scene, layers: str, index: int) -> str:
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


def _child(loaded: engine.LoadedGuard, scene: Scene, layers: str, index: int, writer: int) -> None:
    global _in_sandbox, _report_fd
    _report_fd = writer
    _in_sandbox = layers in ("sandbox", "seccomp")
    close(layers, {2, writer, scene.kept_fd})

    def hook(number: int) -> int:
        try:
            KIT[number].do(scene)
        except OSError as error:
            return error.errno or -1
        return 0

    instance = loaded.guard.instantiate({"env": {"hook": engine.host_function(hook, "i", "i")}})
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
        seccomp.install(seccomp.WORKER)


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
        for name in ("secret", *(f"spare-{n}" for n in range(64))):
            Path(folder, name).write_text("secret")
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(16)
        name = f"guardpool-kit-{os.getpid()}"
        unix.bind("\0" + name)
        unix.listen(16)
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
                foreign_code=_int80_getpid() if syscalls.MACHINE == "x86_64" else None,
            )
        finally:
            os.close(other)
            os.waitpid(sibling, 0)
            os.close(kept)
            os.close(secret_fd)


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
    titles = ("no sandbox", "sandbox", "Landlock alone", "seccomp alone")
    print(f"{'attempt':<50} " + " ".join(f"{title:<15}" for title in titles))
    for one in KIT:
        cells = (verdicts.get((one.name, layers), "-") for layers in LAYERS)
        print(f"{one.name:<50} " + " ".join(f"{cell:<15}" for cell in cells).rstrip())


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
        bundle = engine.compile_bundle(engine.wat_to_wasm(HOOKED_GUARD))
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
