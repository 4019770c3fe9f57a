"""The attempts of the escape kit on the kernel: executable memory, its large interfaces, and the sandbox itself."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import struct

from escape_scene import EACCES, EPERM, KILLED, Kit, Scene, call
from guardpool_worker import landlock, linux, seccomp, syscalls

KIT = Kit()
attempt = KIT.attempt

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
    _map(1, scene.kept_fd if scene.in_sandbox else scene.secret_fd)


@attempt("make a file in memory (memfd_create)", EPERM)
def _(scene: Scene) -> None:
    os.memfd_create("kit")


@attempt("run a program from memory (memfd_create, execveat)", EPERM)
def _(scene: Scene) -> None:
    fd = os.memfd_create("kit", os.MFD_CLOEXEC)
    with open("/bin/true", "rb") as file:
        os.write(fd, file.read())
    scene.report_before_exec()
    nothing = (ctypes.c_char_p * 1)(None)
    call("execveat", fd, scene.path(""), ctypes.addressof(nothing), ctypes.addressof(nothing), 0x1000)


@attempt("write to code by /proc/self/mem", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    fd = os.open("/proc/self/mem", os.O_RDWR)
    page = ctypes.cast(linux.libc.getpid, ctypes.c_void_p).value or 0
    os.pwrite(
        fd, os.pread(fd, 1, page), page
    )  # writes the byte that is there: code is not writable, but this way it would be


@attempt("shared memory that is executable (shmat)", EPERM, "maybe")
def _(scene: Scene) -> None:
    number = call("shmget", 0, 4096, 0o1700)
    try:
        call("shmat", number, 0, 0o100000)  # SHM_EXEC
    finally:
        call("shmctl", number, 0, 0)


@attempt("put pages into a pipe (vmsplice)", EPERM)
def _(scene: Scene) -> None:
    scene.buffer.value = b"\n"
    piece = (ctypes.c_size_t * 2)(scene.address, 1)
    call("vmsplice", scene.report_fd, ctypes.addressof(piece), 1, 0)


@attempt("another kind of descriptor (epoll_create1)", EPERM)
def _(scene: Scene) -> None:
    call("epoll_create1", 0)


@attempt("share memory (shmget)", EPERM, "maybe")
def _(scene: Scene) -> None:
    call("shmctl", call("shmget", 0, 4096, 0o1600), 0, 0)


# --- what backends are known to answer. The kernel denies these with or without the sandbox.


@attempt("make the replies writable (mprotect)", EACCES, "maybe")
def _(scene: Scene) -> None:
    call("mprotect", scene.replies_at, mmap.PAGESIZE, RW)


@attempt("write to the replies", "SIGSEGV", "maybe")
def _(scene: Scene) -> None:
    ctypes.memset(scene.replies_at, 0, 1)


@attempt("punch a hole into the replies (madvise)", EACCES, "maybe")
def _(scene: Scene) -> None:
    call("madvise", scene.replies_at, mmap.PAGESIZE, 9)  # MADV_REMOVE


# --- its slots, likewise


@attempt("make the slots writable (mprotect)", EACCES, "maybe")
def _(scene: Scene) -> None:
    call("mprotect", scene.slots_at, mmap.PAGESIZE, RW)


@attempt("write to the slots", "SIGSEGV", "maybe")
def _(scene: Scene) -> None:
    ctypes.memset(scene.slots_at, 0, 1)


@attempt("punch a hole into the slots (madvise)", EACCES, "maybe")
def _(scene: Scene) -> None:
    call("madvise", scene.slots_at, mmap.PAGESIZE, 9)  # MADV_REMOVE


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


@attempt("another filter, for every thread (seccomp, TSYNC)", KILLED, "root")
def _(scene: Scene) -> None:
    allow = ctypes.create_string_buffer(struct.pack("=HBBI", seccomp.RET, 0, 0, seccomp.ALLOW), 8)
    header = seccomp._SockFprog(1, ctypes.cast(allow, ctypes.c_void_p))
    call("seccomp", 1, 1, ctypes.addressof(header))


@attempt("another Landlock domain", EPERM, "maybe")
def _(scene: Scene) -> None:
    landlock.abi()


@attempt("a namespace (unshare)", KILLED, "maybe")
def _(scene: Scene) -> None:
    call("unshare", 0x10000000)  # CLONE_NEWUSER


@attempt("mount", KILLED, "root", landlock=EPERM)
def _(scene: Scene) -> None:
    if not scene.in_sandbox:
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


@attempt("limit the parent (prlimit)", EPERM)
def _(scene: Scene) -> None:
    limit = (ctypes.c_uint64 * 2)(0, 0)  # no core dumps, which the kit can do without
    call("prlimit64", scene.parent, resource.RLIMIT_CORE, ctypes.addressof(limit), 0)


@attempt("change the personality", KILLED)
def _(scene: Scene) -> None:
    call("personality", 0x0400000)  # READ_IMPLIES_EXEC


@attempt("more memory than the limit", "ENOMEM")
def _(scene: Scene) -> None:
    call("mmap", 0, 1 << 30, RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)


# Memory that RLIMIT_DATA does not count.


@attempt("shared memory (mmap)", EPERM)
def _(scene: Scene) -> None:
    _map(RW, flags=mmap.MAP_SHARED)


@attempt("memory that counts as a stack (mmap)", EPERM)
def _(scene: Scene) -> None:
    _map(RW, flags=mmap.MAP_PRIVATE | 0x100)  # MAP_GROWSDOWN


@attempt("a larger stack (mremap)", EPERM)
def _(scene: Scene) -> None:
    stack = _map(RW, flags=mmap.MAP_PRIVATE | 0x100) if not scene.in_sandbox else scene.address & ~4095
    call("mremap", stack, 4096, 1 << 20, 1)  # MREMAP_MAYMOVE


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
