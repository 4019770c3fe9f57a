"""The filters of both machines, run by an interpreter: every system call by name, and the arguments that matter."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

import bpf
from guardpool_worker import filters, linux, seccomp, syscalls

MACHINES = sorted(syscalls.TABLES)
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4711

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# With all arguments 0. A call that a worker may make and that is not in these lists is a hole.
WORKER_MAY = _names(
    """
    read write readv writev close fstat poll ppoll select pselect6 munmap madvise brk mprotect clock_gettime
    clock_getres gettimeofday time nanosleep clock_nanosleep restart_syscall getrandom rt_sigaction rt_sigprocmask
    rt_sigreturn sigaltstack sched_yield getpid gettid getppid getrusage getrlimit prlimit64 exit exit_group
    """
)
KILLS = _names(
    """
    execve execveat fork vfork clone ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
    kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_getfd pidfd_send_signal bpf perf_event_open
    userfaultfd io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl seccomp mount umount2
    move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot unshare setns
    open_by_handle_at name_to_handle_at fanotify_init quotactl quotactl_fd setuid setgid setreuid setregid setresuid
    setresgid setfsuid setfsgid setgroups capset personality init_module finit_module delete_module kexec_load
    kexec_file_load reboot swapon swapoff acct syslog settimeofday clock_settime adjtimex clock_adjtime sethostname
    setdomainname iopl ioperm modify_ldt vhangup uselib lookup_dcookie nfsservctl
    """
)


class Filter:
    """A policy's program for a machine, as a function of a system call."""

    def __init__(self, policy: seccomp.Policy, machine: str, pid: int = PID) -> None:
        self.machine = machine
        self.program = bpf.decode(seccomp.program(policy, machine, pid))

    def __call__(self, name: str, *args: int) -> int:
        return bpf.run(self.program, syscalls.TABLES[self.machine][name], ARCH[self.machine], args)


@pytest.fixture(params=MACHINES)
def worker(request: pytest.FixtureRequest) -> Filter:
    return Filter(filters.WORKER, request.param)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", ["WORKER", "FORKSERVER", "COMPILER"])
def test_the_kernel_would_take_the_program(policy: str, machine: str) -> None:
    bpf.check(Filter(getattr(filters, policy), machine).program)


def test_every_system_call_of_a_worker_by_name(worker: Filter) -> None:
    verdicts = {name: worker(name) for name in syscalls.TABLES[worker.machine]}

    def expected(name: str) -> int:
        return ALLOW if name in WORKER_MAY else KILL if name in KILLS else ENOSYS if name == "clone3" else EPERM

    wrong = {name: hex(verdict) for name, verdict in verdicts.items() if verdict != expected(name)}
    assert not wrong
    assert verdicts["read"] == ALLOW
    assert verdicts["execve"] == KILL
    assert verdicts["openat"] == verdicts["socket"] == verdicts["ioctl"] == verdicts["memfd_create"] == EPERM


def test_a_call_newer_than_the_table_is_enosys(worker: Filter) -> None:
    newest = max(syscalls.TABLES[worker.machine].values())
    for number in [newest + 1, newest + 2, 511, 512, 513, 547, 548, 1023, 0x3FFFFFFF]:
        assert bpf.run(worker.program, number, ARCH[worker.machine]) == ENOSYS, number


@pytest.mark.parametrize("policy", ["WORKER", "FORKSERVER", "COMPILER"])
def test_another_abi_is_killed_whatever_it_asks(policy: str) -> None:
    for machine in MACHINES:
        program = Filter(getattr(filters, policy), machine).program
        for arch in (0x40000003, 0x40000028, 0x28, *(set(ARCH.values()) - {ARCH[machine]})):  # i386, arm, big endian
            assert {bpf.run(program, number, arch) for number in range(1024)} == {KILL}


@pytest.mark.parametrize("policy", ["WORKER", "FORKSERVER", "COMPILER"])
def test_the_x32_abi_is_killed_whatever_it_asks(policy: str) -> None:
    program = Filter(getattr(filters, policy), "x86_64").program
    numbers = [0x40000000 | number for number in range(1024)] + [0x7FFFFFFF, 0xFFFFFFFF]
    assert {bpf.run(program, number, ARCH["x86_64"]) for number in numbers} == {KILL}


READ, WRITE, EXEC, PRIVATE, SHARED, ANONYMOUS = 1, 2, 4, 2, 1, 0x20
GROWSDOWN, NORESERVE, STACK, HUGETLB = 0x100, 0x4000, 0x20000, 0x40000


def test_memory_is_anonymous_and_never_executable(worker: Filter) -> None:
    assert worker("mmap", 0, 4096, READ | WRITE, PRIVATE | ANONYMOUS, -1, 0) == ALLOW
    assert worker("mmap", 0, 6 << 30, 0, PRIVATE | ANONYMOUS, -1, 0) == ALLOW
    for prot in (EXEC, READ | EXEC, READ | WRITE | EXEC, 1 << 63 | EXEC):
        assert worker("mmap", 0, 4096, prot, PRIVATE | ANONYMOUS, -1, 0) == EPERM
        assert worker("mprotect", 4096, 4096, prot) == EPERM
    for flags in (PRIVATE, SHARED, 0x10 | PRIVATE, 1 << 40):
        assert worker("mmap", 0, 4096, READ, flags, 3, 0) == EPERM
    assert worker("mmap", 0, 4096, READ | WRITE, PRIVATE | ANONYMOUS | NORESERVE | STACK, -1, 0) == ALLOW
    assert worker("mprotect", 4096, 4096, READ | WRITE) == ALLOW
    assert worker("pkey_mprotect", 4096, 4096, READ, -1) == EPERM


def test_memory_that_rlimit_data_does_not_count_is_denied(worker: Filter) -> None:
    for kind in {*range(16)} - {PRIVATE}:  # shared, shared and validated, droppable, and what may come
        assert worker("mmap", 0, 4096, READ | WRITE, kind | ANONYMOUS, -1, 0) == EPERM, kind
    for flag in (GROWSDOWN, HUGETLB, GROWSDOWN | HUGETLB):
        assert worker("mmap", 0, 4096, READ | WRITE, PRIVATE | ANONYMOUS | flag, -1, 0) == EPERM
    for name in ("mremap", "memfd_create", "memfd_secret", "shmget", "shmat", "remap_file_pages", "map_shadow_stack"):
        assert worker(name, 0, 4096, 1 << 30, 1) == EPERM


def test_signals_go_to_the_worker_itself_only(worker: Filter) -> None:
    assert worker("kill", PID, 6) == ALLOW
    assert worker("tgkill", PID, PID, 6) == ALLOW
    for other in (1, 0, -1, PID + 1, -PID, PID << 32):
        assert worker("kill", other, 6) == KILL
        assert worker("tgkill", other, PID, 6) == KILL
    assert worker("tkill", PID, 6) == KILL


def test_limits_can_be_looked_at_but_not_set(worker: Filter) -> None:
    assert worker("prlimit64", 0, 7, 0, 0x1000) == ALLOW
    assert worker("prlimit64", PID, 7, 0, 0x1000) == ALLOW
    for new_limit in (0x1000, 1 << 32, 1):
        assert worker("prlimit64", 0, 7, new_limit, 0) == EPERM
    assert worker("prlimit64", PID - 1, 7, 0, 0x1000) == EPERM
    assert worker("setrlimit" if "setrlimit" in syscalls.TABLES[worker.machine] else "prlimit64", 7, 0, 1) == EPERM


def test_processes_are_killed_and_threads_refused(worker: Filter) -> None:
    thread = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000  # what pthread_create asks for
    assert worker("clone", thread) == EPERM
    for flags in (17, 0x4000 | 0x100 | 17, 0x10000000 | 17, 0x10000 << 32):  # fork, vfork, a namespace, a high bit
        assert worker("clone", flags) == KILL
    assert worker("clone3", 0x1000, 88) == ENOSYS


def test_descriptors_can_be_looked_at_only(worker: Filter) -> None:
    assert worker("fcntl", 3, 1) == worker("fcntl", 3, 3) == ALLOW  # F_GETFD, F_GETFL
    for command in (0, 2, 4, 5, 6, 8, 10, 1030, 1033):
        assert worker("fcntl", 3, command) == EPERM


def test_futexes_are_private_and_plain(worker: Filter) -> None:
    for op in (128, 129, 137, 138, 384, 393):
        assert worker("futex", 0x1000, op) == ALLOW
    for op in (0, 1, 9, 3, 4, 5, 6, 7, 8, 11, 12, 13, 128 | 6, 128 | 12):
        assert worker("futex", 0x1000, op) == EPERM


FORK = 0x01200011  # what the C library's fork asks for: SIGCHLD, and where to note the thread's number
NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_forkserver_forks_and_does_not_exec(machine: str) -> None:
    forkserver = Filter(filters.FORKSERVER, machine)
    for name in ("wait4", "pidfd_open", "recvmsg", "sendmsg", "mmap", "seccomp", "capset", "prctl", "close_range"):
        assert forkserver(name) == ALLOW
    assert forkserver("clone", FORK) == ALLOW
    for flags in (*NAMESPACES, 0x8000):  # CLONE_PARENT: a child of the supervisor
        assert forkserver("clone", FORK | flags) == KILL
    assert forkserver("clone3") == ENOSYS
    assert forkserver("mmap", 0, 4096, READ | EXEC, PRIVATE | ANONYMOUS) == ALLOW
    may = {"fork", "vfork", "clone", "pidfd_open", "seccomp", "capset", "kill", "tgkill"}
    for name in (KILLS - may) & syscalls.TABLES[machine].keys():
        assert forkserver(name) == KILL, name


# Denied to the forkserver and to the compiler, which never need them.
DENIED = _names(
    """
    socket connect bind accept4 socketpair memfd_create memfd_secret inotify_init1 open openat openat2 creat truncate
    renameat2 mkdirat unlinkat linkat symlinkat mknodat fchmod fchmodat fchmodat2 fchown fchownat utimensat setxattr
    fsetxattr setxattrat removexattr file_setattr chdir fchdir sched_setaffinity sched_setscheduler sched_setparam
    sched_setattr setpriority ioprio_set migrate_pages move_pages shmget shmat semget semop semtimedop msgget msgsnd msgrcv
    mq_open mq_unlink
    """
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", ["FORKSERVER", "COMPILER"])
def test_forkserver_and_compiler_open_nothing_and_reach_no_process(policy: str, machine: str) -> None:
    parent = Filter(getattr(filters, policy), machine)
    for name in DENIED & syscalls.TABLES[machine].keys():
        assert parent(name) == EPERM, name
    assert len(DENIED & syscalls.TABLES[machine].keys()) > 40
    assert parent("prlimit64", 0, 7, 0x1000, 0) == ALLOW
    for other in (1, PID, PID + 1, -1, 1 << 31):
        assert parent("prlimit64", other, 7, 0x1000, 0) == EPERM
        assert parent("prlimit64", other, 7, 0, 0x1000) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_the_compiler_has_threads_and_no_processes(machine: str) -> None:
    compiler = Filter(filters.COMPILER, machine)
    assert compiler("clone", 0x10F00) == ALLOW
    assert compiler("clone", 17) == KILL
    assert compiler("clone3") == ENOSYS
    assert compiler("mprotect", 4096, 4096, READ | EXEC) == ALLOW
    assert compiler("kill", PID, 6) == ALLOW
    for name in KILLS - {"kill", "tgkill", "clone"}:
        if name in syscalls.TABLES[machine]:
            assert compiler(name) == KILL, name
    assert compiler("kill", 1, 9) == KILL


def test_the_own_pid_is_filled_into_a_prepared_program() -> None:
    for machine in MACHINES:
        whole = seccomp.Policy(
            {
                name: seccomp.If(
                    tuple(
                        seccomp.OneOf(c.arg, tuple(99 if v == seccomp.OWN_PID else v for v in c.values))
                        if isinstance(c, seccomp.OneOf)
                        else c
                        for c in verdict.conditions
                    ),
                    verdict.then,
                    verdict.otherwise,
                )
                if isinstance(verdict, seccomp.If)
                else verdict
                for name, verdict in filters.WORKER.calls.items()
            },
            filters.WORKER.otherwise,
        )
        assert seccomp.program(filters.WORKER, machine, 99) == seccomp.program(whole, machine, 12345)


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(OSError, match="no filter for the machine riscv64"):
        seccomp.program(filters.WORKER, "riscv64", 1)


def test_the_numbers_are_this_kernels() -> None:
    assert linux.syscall("getpid") == os.getpid()
    assert linux.syscall("getppid") == os.getppid()
    assert linux.syscall("getuid") == os.getuid()


HEADERS = {
    "x86_64": [
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm/unistd_64.h"),
    ],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_tables_are_those_of_the_kernels_headers(machine: str) -> None:
    header = next((path for path in HEADERS[machine] if path.exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    found = {
        name: int(number)
        for name, number in re.findall(r"^#define __NR_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    }
    # The generic list also names 32-bit variants of some calls, and a few calls that no 64-bit machine has.
    known = syscalls.TABLES[machine]
    checked = {name: number for name, number in found.items() if name in known}
    assert checked == {name: known[name] for name in checked}
    assert len(checked) > 280
    assert machine != "x86_64" or found.keys() <= known.keys()
