"""The attempts of the escape kit on what is around a process: files, what it inherited, the network, other processes."""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import signal
import socket
import struct
from typing import Any

from escape_scene import AT_FDCWD, EACCES, EBADF, ENOSYS, EPERM, KILLED, SECRET_NAME, Kit, Scene, call
from guardpool_worker import linux

KIT = Kit()
attempt = KIT.attempt

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
    os.unlink(scene.spare_file)


@attempt("make a folder", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.mkdir(f"{scene.folder}/folder-{os.getpid()}")


@attempt("make a link to a file", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.symlink(scene.secret_file, f"{scene.folder}/link-{os.getpid()}")


@attempt("cut a file short", EPERM, landlock=EACCES)
def _(scene: Scene) -> None:
    os.truncate(scene.spare_file, 0)


@attempt("change a file's mode", EPERM)
def _(scene: Scene) -> None:
    os.chmod(scene.spare_file, 0o600)


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
    scene.report_before_exec()
    os.execv("/bin/true", ["true"])


@attempt("exec a program by execveat", KILLED, landlock=EACCES)
def _(scene: Scene) -> None:
    scene.report_before_exec()
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


@attempt("look for every process (kill -1)", KILLED)
def _(scene: Scene) -> None:
    os.kill(-1, 0)


@attempt("move the parent to other cores (sched_setaffinity)", EPERM)
def _(scene: Scene) -> None:
    os.sched_setaffinity(scene.parent, {0} if scene.in_sandbox else os.sched_getaffinity(scene.parent))


@attempt("change the parent's priority (setpriority)", EPERM)
def _(scene: Scene) -> None:
    priority = 19 if scene.in_sandbox else os.getpriority(os.PRIO_PROCESS, scene.parent)  # what it has
    os.setpriority(os.PRIO_PROCESS, scene.parent, priority)


@attempt("open the parent (pidfd_open)", KILLED)
def _(scene: Scene) -> None:
    os.pidfd_open(scene.parent)


@attempt("take a descriptor of another process (pidfd_getfd)", KILLED, "maybe", landlock=EPERM)
def _(scene: Scene) -> None:
    pidfd = call("pidfd_open", scene.parent, 0) if not scene.in_sandbox else scene.kept_fd
    call("pidfd_getfd", pidfd, 0, 0)
