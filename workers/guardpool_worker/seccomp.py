"""A seccomp filter: which system calls a process may still make, and with which arguments.

The filter is a classic BPF program that the kernel runs before each system call. It is assembled here, by hand: a
policy gives names their verdicts, and `assemble` turns it into instructions for a machine.

A worker's filter is an allow-list. It holds what CPython, the C library and wasm code need once everything is
imported and loaded: reading and writing what is open, memory that is not executable, time, random bytes, signals
to itself, and exit. What is not on it ends in one of three ways, always the same for the same call:

- killed (SIGSYS, the whole process): what only an escape asks for. There is no honest way for a worker to come by it,
  and a process that tries is not to get a second try.
- EPERM: what a library may try and can live without, as opening a file for a backtrace's line numbers, or asking for
  executable memory. The code that asked sees an ordinary error.
- ENOSYS: numbers newer than the table. A newer C library then takes its older way, as it would on an older kernel.

The forkserver and the compiler do more (fork, threads, executable memory), and what the C library, Python and the engine
ask for while they do is a long list that grows with their versions. So theirs are deny-lists: of what only an escape asks
for, of new descriptors, of files (again, where Landlock closes them already: not every kernel has it, and it leaves modes,
owners and times alone), and of what reaches other processes of the same user without a signal: their limits, their share
of the processor, System V's shared memory and queues.
Filters add up: a worker inherits the forkserver's, and of two verdicts the stricter one counts.

Source: Documentation/userspace-api/seccomp_filter.rst, `include/uapi/linux/{bpf_common,filter,seccomp,audit}.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple, Union

from guardpool_worker import linux, syscalls

# Classic BPF, as far as it is needed: load a word of the call's data, compare, mask, return.
LD_W_ABS: Final = 0x20
JEQ: Final = 0x15
JGE: Final = 0x35
JSET: Final = 0x45
RET: Final = 0x06

KILL_PROCESS: Final = 0x80000000
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
DENY: Final = ERRNO | errno.EPERM
UNKNOWN: Final = ERRNO | errno.ENOSYS

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]; both machines are little endian.
_NR: Final = 0
_ARCH: Final = 4
_ARGS: Final = 16

AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT: Final = 0x40000000

OWN_PID: Final = 0xFFFFFFFF
"""In a policy: the pid of the process that installs the filter. No process has this one."""

_SET_MODE_FILTER: Final = 1
_PROT_EXEC: Final = 4
_MAP_ANONYMOUS: Final = 0x20
_CLONE_THREAD: Final = 0x00010000
_CLONE_PARENT: Final = 0x00008000
# Mounts, control groups, host name, IPC, users, pids, network. (Time has none in clone: the bit is the signal's there.)
_CLONE_NEW_NAMESPACE: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_F_GETFD: Final = 1
_F_GETFL: Final = 3
# FUTEX_WAIT, _WAKE, _WAIT_BITSET, _WAKE_BITSET, all private to the process, the waits on either clock.
_PLAIN_FUTEX_OPS: Final = (128, 129, 137, 138, 128 | 256, 137 | 256)

_INSTRUCTION: Final = struct.Struct("=HBBI")

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true, instructions to skip if false, operand."""


class Clear(NamedTuple):
    """Holds while none of `bits` (of the low 32) is set in argument `arg`."""

    arg: int
    bits: int


class Set(NamedTuple):
    """Holds while the one bit `bit` (of the low 32) is set in argument `arg`."""

    arg: int
    bit: int


class OneOf(NamedTuple):
    """Holds while argument `arg`, an int for the kernel (32 bits), is one of `values`."""

    arg: int
    values: tuple[int, ...]


class Null(NamedTuple):
    """Holds while argument `arg`, a pointer (64 bits), is null."""

    arg: int


Condition = Union[Clear, Set, OneOf, Null]


class If(NamedTuple):
    """A verdict that hangs on the arguments: `then` while all conditions hold, else `otherwise`."""

    conditions: tuple[Condition, ...]
    then: int = ALLOW
    otherwise: int = DENY


class Policy:
    """What becomes of each system call.

    Args:
        calls: name -> verdict. Names that a machine does not have are left out there. The first are found fastest.
        otherwise: the verdict for calls that the table knows and `calls` does not name.
        unknown: the verdict for numbers above the table's last.
    """

    __slots__ = ("calls", "otherwise", "unknown")

    def __init__(self, calls: Mapping[str, Union[int, If]], otherwise: int, unknown: int = UNKNOWN) -> None:
        self.calls = calls
        self.otherwise = otherwise
        self.unknown = unknown


def _names(text: str) -> list[str]:
    return text.split()


# What only an escape asks for: another program or process, another process's memory or descriptors, signals by other
# ways than kill, the kernel's big attack surfaces, mounts, namespaces, other identities, the machine itself.
_ESCAPES: Final = _names(
    """
    execve execveat fork vfork ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
    pidfd_open pidfd_getfd pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo tkill
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
    add_key request_key keyctl seccomp
    mount umount2 move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot
    unshare setns open_by_handle_at name_to_handle_at fanotify_init quotactl quotactl_fd
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset personality
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct syslog
    settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname
    iopl ioperm modify_ldt vhangup uselib lookup_dcookie nfsservctl
    """
)

# What a worker does between its first job and its last, the most frequent first.
_WORKER_CALLS: Final = _names(
    """
    read write clock_gettime munmap madvise mremap brk
    readv writev poll ppoll select pselect6
    gettimeofday time clock_getres nanosleep clock_nanosleep restart_syscall getrandom
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
    getpid gettid getppid getrusage getrlimit sched_yield close fstat exit exit_group
    """
)

# Sockets and files in memory: the forkserver and the compiler were given what they need.
_NEW_DESCRIPTORS: Final = _names(
    "socket socketpair bind listen connect accept accept4 memfd_create memfd_secret inotify_init inotify_init1"
)

# Whatever opens or changes a file. Looking at one (stat) is left: the C library asks so about open descriptors, too.
_FILES: Final = _names(
    """
    open openat openat2 creat truncate rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink
    symlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr chdir fchdir
    """
)

# What reaches other processes of the same user, whatever they are: Landlock stops signals and tracing, and none of these.
_OTHERS: Final = _names(
    """
    sched_setaffinity sched_setscheduler sched_setparam sched_setattr setpriority ioprio_set migrate_pages move_pages
    shmget shmat shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink
    """
)

_NO_NEW_CODE: Final = Clear(2, _PROT_EXEC)
_OWN: Final = OneOf(0, (OWN_PID,))
# A limit of another process can be set by whoever runs as the same user: RLIMIT_CPU would even end it.
_OWN_LIMITS: Final = If((OneOf(0, (0,)),))

WORKER: Final = Policy(
    {
        **dict.fromkeys(_WORKER_CALLS, ALLOW),
        # Anonymous memory only: a descriptor that is open is for reading and writing, not for mapping.
        "mmap": If((_NO_NEW_CODE, Set(3, _MAP_ANONYMOUS))),
        "mprotect": If((_NO_NEW_CODE,)),
        # Waiting and waking within the process; none of the priority-inheriting and requeueing kinds.
        "futex": If((OneOf(1, _PLAIN_FUTEX_OPS),)),
        "fcntl": If((OneOf(1, (_F_GETFD, _F_GETFL)),)),
        # Looking at a limit is allowed, setting one is not, nor is any other process's.
        "prlimit64": If((OneOf(0, (0, OWN_PID)), Null(2))),
        # abort() signals its own thread.
        "kill": If((_OWN,), otherwise=KILL_PROCESS),
        "tgkill": If((_OWN,), otherwise=KILL_PROCESS),
        # A thread is an honest wish that is not granted; a process is not. clone3 hides its flags in memory: the C
        # library takes clone instead where there is none.
        "clone": If((Set(0, _CLONE_THREAD),), then=DENY, otherwise=KILL_PROCESS),
        "clone3": UNKNOWN,
        **dict.fromkeys(_ESCAPES, KILL_PROCESS),
    },
    otherwise=DENY,
)
"""The allow-list of a worker."""

_FORKSERVER_NEEDS: Final = {"fork", "vfork", "pidfd_open", "seccomp", "capset"}

FORKSERVER: Final = Policy(
    {
        **dict.fromkeys((name for name in _ESCAPES if name not in _FORKSERVER_NEEDS), KILL_PROCESS),
        **dict.fromkeys([*_NEW_DESCRIPTORS, *_FILES, *_OTHERS], DENY),
        "prlimit64": _OWN_LIMITS,
        # Children like any other's: in no namespace of their own, and its own, not its parent's.
        "clone": If((Clear(0, _CLONE_NEW_NAMESPACE | _CLONE_PARENT),), otherwise=KILL_PROCESS),
        "clone3": UNKNOWN,
    },
    otherwise=ALLOW,
)
"""The deny-list of the forkserver: it forks, watches its children and loads machine code, and that is all."""

COMPILER: Final = Policy(
    {
        **dict.fromkeys(_ESCAPES, KILL_PROCESS),
        **dict.fromkeys([*_NEW_DESCRIPTORS, *_FILES, *_OTHERS], DENY),
        "prlimit64": _OWN_LIMITS,
        "kill": If((_OWN,), otherwise=KILL_PROCESS),
        "tgkill": If((_OWN,), otherwise=KILL_PROCESS),
        "clone": If((Set(0, _CLONE_THREAD),), otherwise=KILL_PROCESS),
        "clone3": UNKNOWN,
    },
    otherwise=ALLOW,
)
"""The deny-list of the compiler: threads and executable memory, but no process and no connection."""


def assemble(policy: Policy, machine: str) -> list[Instruction]:
    """The program for a machine of `syscalls.TABLES`.

    It first ends processes that call by another ABI, whose numbers mean other calls: 32-bit code (another value of
    `arch`), and on x86-64 the x32 ABI (bit 30 of the number).
    """
    table = syscalls.TABLES[machine]
    program = [
        (LD_W_ABS, 0, 0, _ARCH),
        (JEQ, 1, 0, AUDIT_ARCH[machine]),
        (RET, 0, 0, KILL_PROCESS),
        (LD_W_ABS, 0, 0, _NR),
    ]
    if machine == "x86_64":
        program += [(JSET, 0, 1, X32_BIT), (RET, 0, 0, KILL_PROCESS)]
    for name, verdict in policy.calls.items():
        if name in table:
            body = _verdict(verdict)
            program += [(JEQ, 0, len(body), table[name]), *body]
    program += [(JGE, 0, 1, max(table.values()) + 1), (RET, 0, 0, policy.unknown), (RET, 0, 0, policy.otherwise)]
    return program


def install(policy: Policy) -> None:
    """Put the filter in force for this thread and all that come from it; needs no_new_privs (or root).

    Raises:
        OSError: the kernel has no seccomp filters, or a container denies them; ENOSYS for an unknown machine.
    """
    code = program(policy, syscalls.MACHINE, os.getpid())
    header = _SockFprog(len(code) // _INSTRUCTION.size, ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p))
    linux.syscall("seccomp", _SET_MODE_FILTER, 0, ctypes.addressof(header))


def program(policy: Policy, machine: str, pid: int) -> bytes:
    """The program as the kernel takes it, for the process with this pid.

    Assembling costs half a millisecond and only the pid differs between workers: `prepare` in the process that forks
    them leaves them with nothing but the pid to fill in.
    """
    code, pid_offsets = _template(policy, machine)
    filled = bytearray(code)
    for offset in pid_offsets:
        struct.pack_into("=I", filled, offset, pid)
    return bytes(filled)


def prepare(policy: Policy) -> None:
    """Assemble the policy's program now, for the children that will install it."""
    if syscalls.MACHINE in AUDIT_ARCH:
        _template(policy, syscalls.MACHINE)


@cache
def _template(policy: Policy, machine: str) -> tuple[bytes, tuple[int, ...]]:
    """The program with `OWN_PID` in it, and where it stands in it."""
    if machine not in AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"there is no filter for the machine {machine}")
    instructions = assemble(policy, machine)
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)
    operand = _INSTRUCTION.size - 4
    own = [i for i, (op, _, _, k) in enumerate(instructions) if (op, k) == (JEQ, OWN_PID)]
    return code, tuple(i * _INSTRUCTION.size + operand for i in own)


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _verdict(verdict: int | If) -> list[Instruction]:
    """Instructions that return the verdict, reached with the call's number matched."""
    if isinstance(verdict, int):
        return [(RET, 0, 0, verdict)]
    code: list[Instruction] = [(RET, 0, 0, verdict.then), (RET, 0, 0, verdict.otherwise)]
    for condition in reversed(verdict.conditions):
        # A condition that does not hold skips to the last instruction.
        code = _condition(condition, len(code) - 1) + code
    return code


def _condition(condition: Condition, skip: int) -> list[Instruction]:
    """Instructions that fall through while the condition holds, else skip `skip` instructions after themselves."""
    low = _ARGS + 8 * condition.arg
    if isinstance(condition, Clear):
        return [(LD_W_ABS, 0, 0, low), (JSET, skip, 0, condition.bits)]
    if isinstance(condition, Set):
        return [(LD_W_ABS, 0, 0, low), (JSET, 0, skip, condition.bit)]
    if isinstance(condition, Null):
        return [(LD_W_ABS, 0, 0, low), (JEQ, 0, skip + 2, 0), (LD_W_ABS, 0, 0, low + 4), (JEQ, 0, skip, 0)]
    code: list[Instruction] = [(LD_W_ABS, 0, 0, low)]
    last = len(condition.values) - 1
    for index, value in enumerate(condition.values):
        code.append((JEQ, last - index, skip if index == last else 0, value & 0xFFFFFFFF))
    return code
