"""The three seccomp filters: which system calls a worker, the forkserver and the compiler may still make.

A worker's filter is an allow-list. It holds what CPython, the C library and wasm code need once everything is
imported and loaded: reading and writing what is open, memory that is not executable, time, random bytes, signals
to itself, and exit. What is not on it ends in one of three ways, always the same for the same call:

- killed (SIGSYS, the whole process): what only an escape asks for. An honest worker never makes such a call, and a process
  that makes one does not get a second try.
- EPERM: what a library may try and can live without, such as opening a file for a backtrace's line numbers or asking for
  executable memory. The code that asked sees an ordinary error.
- ENOSYS: numbers newer than the table. A newer C library then takes its older way, as it would on an older kernel.

The forkserver and the compiler do more (fork, threads, executable memory), and what the C library, Python and the engine
ask for while they do is a long list that grows with their versions. So theirs are deny-lists: of what only an escape asks
for, of new descriptors, of files (although Landlock closes them: not every kernel has it, and it leaves modes, owners and
times alone), and of what reaches other processes of the same user without a signal: their limits, their share of the
processor, System V's shared memory and queues.
Filters add up: a worker inherits the forkserver's, and of two verdicts the stricter one counts.
"""

from __future__ import annotations

from typing import Final

from guardpool_worker.seccomp import ALLOW, DENY, KILL_PROCESS, OWN_PID, UNKNOWN, Clear, If, Null, OneOf, Policy, Set

_PROT_EXEC: Final = 4
_MAP_PRIVATE: Final = 0x2
_MAP_ANONYMOUS: Final = 0x20
# The other types of a mapping (the low 4 bits are a number: shared, private, shared and validated, droppable), growing
# downwards, and huge pages.
_MAP_UNCOUNTED: Final = (0xF & ~_MAP_PRIVATE) | 0x100 | 0x40000
_CLONE_THREAD: Final = 0x00010000
_CLONE_PARENT: Final = 0x00008000
# Mounts, control groups, host name, IPC, users, pids, network. (Time has none in clone: the bit is the signal's there.)
_CLONE_NEW_NAMESPACE: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_F_GETFD: Final = 1
_F_GETFL: Final = 3
# FUTEX_WAIT, _WAKE, _WAIT_BITSET, _WAKE_BITSET, all private to the process, the waits on either clock.
_PLAIN_FUTEX_OPS: Final = (128, 129, 137, 138, 128 | 256, 137 | 256)


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
    read write clock_gettime munmap madvise brk
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

# Calls that open or change a file. Looking at one (stat) stays allowed: the C library uses it on open descriptors.
_FILES: Final = _names(
    """
    open openat openat2 creat truncate rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink
    symlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr chdir fchdir
    """
)

# Calls that reach other processes of the same user: Landlock stops signals and tracing, but none of these.
_OTHERS: Final = _names(
    """
    sched_setaffinity sched_setscheduler sched_setparam sched_setattr setpriority ioprio_set migrate_pages move_pages
    shmget shmat shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink
    """
)

_NO_NEW_CODE: Final = Clear(2, _PROT_EXEC)
# Memory that the limits on memory see. RLIMIT_DATA counts neither shared memory nor what grows downwards, which it takes for a
# stack; huge pages are not in the resident set. mremap is denied with it: it makes a stack of any size of a page of the
# stack. The C library's realloc, which would use it for blocks of some MiB, copies instead.
_COUNTED: Final = Clear(3, _MAP_UNCOUNTED)
_OWN: Final = OneOf(0, (OWN_PID,))
# A process may set the limits of any other of the same user: RLIMIT_CPU would even end it.
_OWN_LIMITS: Final = If((OneOf(0, (0,)),))

WORKER: Final = Policy(
    {
        **dict.fromkeys(_WORKER_CALLS, ALLOW),
        # Anonymous memory only: a descriptor that is open is for reading and writing, not for mapping.
        "mmap": If((_NO_NEW_CODE, Set(3, _MAP_ANONYMOUS), Set(3, _MAP_PRIVATE), _COUNTED)),
        "mprotect": If((_NO_NEW_CODE,)),
        # Waiting and waking within the process; none of the priority-inheriting and requeueing kinds.
        "futex": If((OneOf(1, _PLAIN_FUTEX_OPS),)),
        "fcntl": If((OneOf(1, (_F_GETFD, _F_GETFL)),)),
        # Looking at a limit is allowed, setting one is not, nor is any other process's.
        "prlimit64": If((OneOf(0, (0, OWN_PID)), Null(2))),
        # abort() signals its own thread.
        "kill": If((_OWN,), otherwise=KILL_PROCESS),
        "tgkill": If((_OWN,), otherwise=KILL_PROCESS),
        # Honest code may ask for a thread, and is refused; it never asks for a process. clone3 hides its flags in memory:
        # the C library takes clone instead on a kernel without it.
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
"""The deny-list of the forkserver, which only forks, watches its children and loads machine code."""

COMPILER: Final = Policy(
    {
        "mmap": If((_COUNTED,)),
        **dict.fromkeys(_ESCAPES, KILL_PROCESS),
        **dict.fromkeys([*_NEW_DESCRIPTORS, *_FILES, *_OTHERS, "mremap"], DENY),
        "prlimit64": _OWN_LIMITS,
        "kill": If((_OWN,), otherwise=KILL_PROCESS),
        "tgkill": If((_OWN,), otherwise=KILL_PROCESS),
        "clone": If((Set(0, _CLONE_THREAD),), otherwise=KILL_PROCESS),
        "clone3": UNKNOWN,
    },
    otherwise=ALLOW,
)
"""The deny-list of the compiler: threads and executable memory, but no process and no connection."""
