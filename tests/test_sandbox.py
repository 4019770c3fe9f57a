"""The sandbox: nothing an escape would try works in it, and everything a guard does still works."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import escape_kit
from guardpool import kernel, samples
from guardpool.errors import SandboxUnavailable
from guardpool_worker import engine, landlock, linux, sandbox, seccomp
from guardpool_worker.instance import GuardInstance, InstanceSettings

MIB = 1024 * 1024
LIMITS = sandbox.SandboxLimits(data_bytes=512 * MIB)
HERE = Path(__file__).parent
ALL_ON = dict.fromkeys(sandbox.FEATURES, "on")
EXIT_FAILED = 99

whole_sandbox = pytest.mark.skipif(
    not all(f.available for f in kernel.probe()) or landlock.abi() < 6, reason="this kernel lacks a part of the sandbox"
)
pytestmark = whole_sandbox


# --- running things in a child


class Child:
    """A forked process, whose function's result comes back as JSON."""

    def __init__(self, do: Callable[[int], Any]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(reader)
                result = do(writer)
                os.write(writer, json.dumps(result).encode())
                os._exit(0)
            except BaseException as error:
                with suppress(BaseException):
                    os.write(2, f"in the child: {error!r}\n".encode())
            finally:
                os._exit(EXIT_FAILED)
        os.close(writer)
        self.reader = reader

    def read(self) -> bytes:
        return read_in_time(self.reader)

    def wait(self) -> int:
        """The exit code, negative for a signal; a child that hangs is killed and fails the test."""
        pidfd = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(20_000):
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        finally:
            os.close(pidfd)
            os.close(self.reader)
        return os.waitstatus_to_exitcode(status)

    def result(self) -> Any:
        data = bytearray()
        while piece := self.read():
            data += piece
        code = self.wait()
        assert code == 0, f"the child ended with {code}"
        return json.loads(data)


def in_child(do: Callable[[], Any]) -> Any:
    return Child(lambda _: do()).result()


def in_sandbox(do: Callable[[], Any], mode: str = "require", limits: sandbox.SandboxLimits = LIMITS) -> Any:
    """What `do` returns when it is called in a sandboxed child."""

    def child(writer: int) -> Any:
        sandbox.close_sandbox(mode, {2, writer}, limits)
        return do()

    return Child(child).result()


def read_in_time(fd: int) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(20_000), "nothing came in 20 s"
    return os.read(fd, 65536)


def errno_of(do: Callable[[], object]) -> str:
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "allowed"


# --- the escape kit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / "bundle"
    path.write_bytes(engine.compile_bundle(engine.wat_to_wasm(escape_kit.HOOKED_GUARD)))
    return path


USERS = ["root", "nobody"] if os.geteuid() == 0 else ["user"]
Verdicts = dict[tuple[str, str], str]


@pytest.fixture(scope="module", params=USERS)
def escapes(request: pytest.FixtureRequest, bundle: Path) -> Verdicts:
    """(attempt, layers) -> verdict, for a whole run of the kit in a process of its own."""
    command = [sys.executable, str(HERE / "escape_kit.py"), "--bundle", str(bundle), "--json"]
    command += ["--nobody"] * (request.param == "nobody")
    environment = {**os.environ, escape_kit.SECRET_NAME: "secret"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads(done.stdout)
    print(f"\nas {request.param}:")
    escape_kit.print_table(results)
    verdicts = {(result["name"], result["layers"]): result["verdict"] for result in results}
    verdicts["user", "is root"] = str(request.param == "root")
    return verdicts


def test_the_kit_tries_what_matters() -> None:
    names = [one.name for one in escape_kit.KIT]
    assert len(names) == len(set(names)) >= 70


def test_every_attempt_is_denied_in_the_sandbox(escapes: Verdicts) -> None:
    wrong = {
        one.name: (escapes[one.name, "sandbox"], one.expected)
        for one in escape_kit.KIT
        if escapes[one.name, "sandbox"] != one.expected
    }
    assert not wrong
    assert escape_kit.ALLOWED not in {one.expected for one in escape_kit.KIT}


def test_the_same_attempts_succeed_without_it(escapes: Verdicts) -> None:
    is_root = escapes["user", "is root"] == "True"
    wrong = {}
    for one in escape_kit.KIT:
        verdict = escapes[one.name, "none"]
        if one.plain == "allowed" or (one.plain == "root" and is_root):
            good = verdict == escape_kit.ALLOWED
        elif one.expected == escape_kit.KILLED:
            good = verdict != escape_kit.KILLED
        else:
            good = verdict in (escape_kit.ALLOWED, one.expected)
        if not good:
            wrong[one.name] = verdict
    assert not wrong


def test_landlock_holds_alone(escapes: Verdicts) -> None:
    expected = {one.name: one.landlock for one in escape_kit.KIT if one.landlock is not None}
    assert {name: escapes[name, "landlock"] for name in expected} == expected
    assert len(expected) > 25


def test_seccomp_holds_alone(escapes: Verdicts) -> None:
    # What other steps take away: descriptors are closed, the environment emptied, memory limited.
    others = {"EBADF", "ENOENT", "ENOMEM"}
    expected = {one.name: one.expected for one in escape_kit.KIT if one.expected not in others}
    assert {name: escapes[name, "seccomp"] for name in expected} == expected
    assert len(expected) > 60


# --- a guard's own work


WORK = """(module
  (import "env" "host" (func $host (param i32) (result i32)))
  (memory (export "memory") 2 512)
  (table 4 funcref)
  (type $t (func))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "host") (param i32) (result i32) (call $host (local.get 0)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "fill") (memory.fill (i32.const 0) (i32.const 7) (i32.const 6000000)))
  (func (export "unreachable") unreachable)
  (func (export "outside") (drop (i32.load (i32.const 0x7fffffff))))
  (func (export "divide") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "null") (call_indirect (type $t) (i32.const 2)))
  (func $deep (export "deep") (param i32) (result i32)
    (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1))))))"""


def do_guards_work(loaded: engine.LoadedGuard) -> dict[str, Any]:
    """All the engine and Python are asked for between a worker's first job and its last, twice over."""

    def host(number: int) -> int:
        if number < 0:
            raise LookupError("from the host")
        return number + 1

    seen: dict[str, Any] = {}
    for turn in range(2):
        instance = loaded.guard.instantiate({"env": {"host": engine.host_function(host, "i", "i")}})
        call = {name: instance.function(name) for name in ("add", "host", "grow", "fill", "deep")}
        seen[f"add {turn}"] = call["add"](2, 3), call["host"](41)
        seen[f"grow {turn}"] = call["grow"](100), len(instance.memory_view()), call["grow"](1000)
        call["fill"]()
        seen[f"memory {turn}"] = bytes(instance.memory_view()[5_999_999:6_000_001]).hex()
        for name in ("unreachable", "outside", "divide", "null"):
            seen[f"{name} {turn}"] = _trap(instance.function(name))
        seen[f"deep {turn}"] = _trap(lambda call=call: call["deep"](0))
        try:
            call["host"](-1)
        except LookupError as error:
            seen[f"host error {turn}"] = str(error)
        seen[f"after {turn}"] = call["add"](2, 3)
    blocks = [bytes(10 * MIB) for _ in range(10)]
    seen["allocated"] = sum(map(len, blocks))
    seen["random"] = len(os.urandom(32))
    seen["time"] = time.monotonic_ns() > 0 and time.time() > 0 and time.process_time() >= 0
    return seen


def _trap(call: Callable[[], object]) -> str:
    try:
        call()
    except engine.EngineTrap as trap:
        return trap.kind
    return "none"


def test_a_guard_works_in_the_sandbox_as_it_does_outside() -> None:
    loaded = engine.load_bundle(engine.compile_bundle(engine.wat_to_wasm(WORK)))
    inside = in_sandbox(lambda: do_guards_work(loaded), limits=sandbox.SandboxLimits(512 * MIB, stack_bytes=2 * MIB))
    outside = in_child(lambda: do_guards_work(loaded))
    assert inside == outside
    assert inside["deep 1"] == "stack_overflow"
    assert inside["outside 0"] == "memory_out_of_bounds"
    assert inside["grow 0"] == [2, 102 * 65536, -1]


def test_the_sample_guard_labels_in_the_sandbox_as_it_does_outside() -> None:
    loaded = engine.load_bundle(engine.compile_bundle(Path(samples.GUARD).read_bytes()))
    jobs = list(samples.jobs(40, seed=5))
    policy = json.dumps(samples.POLICY).encode()

    def label() -> list[list[str]]:
        guard = GuardInstance(loaded, InstanceSettings(name="sample", log_threshold=0, has_backend=False), None)
        answers = [["agent", guard.label_agent(policy).decode()]]
        for job in jobs:
            payload = {"tool_name": job.tool_name, "tool_args": job.tool_args, "tool_result": job.tool_result}
            result = guard.call(str(job.op), json.dumps(payload).encode())
            answers.append([result.status, (result.label or b"").decode()])
        return answers

    inside = in_sandbox(label)
    assert inside == in_child(label)
    assert [status for status, _ in inside[1:]].count("ok") > 30


def test_no_memory_is_writable_and_executable_when_the_sandbox_closes(bundle: Path) -> None:
    # What is executable then stays so: there must be no page that could still be written.
    script = (
        "import sys, pathlib; from guardpool_worker import engine, sandbox, linux\n"
        "loaded = engine.load_bundle(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "print(linux.thread_count()); print(open('/proc/self/maps').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle)], capture_output=True, text=True, timeout=30, check=True
    )
    threads, _, maps = done.stdout.partition("\n")
    assert threads == "1", "Landlock and seccomp are for one thread: what loads artifacts must have no other"
    assert re.search(r"^\S+ r-xp \S+ \S+ 0\s*$", maps, re.MULTILINE), "the guard's code is not there"
    assert not re.findall(r"^\S+ .wx. .*$", maps, re.MULTILINE)


def test_a_thread_is_refused_with_an_error_and_not_a_death() -> None:
    import threading

    def start() -> str:
        try:
            threading.Thread(target=print).start()
        except RuntimeError as error:
            return str(error)
        return "started"

    assert in_sandbox(start) == "can't start new thread"


def test_an_abort_is_seen_as_an_abort() -> None:
    def abort(writer: int) -> None:
        sandbox.close_sandbox("require", {writer}, LIMITS)
        os.abort()

    assert Child(abort).wait() == -signal.SIGABRT


def test_a_stopped_worker_goes_on_where_it_was() -> None:
    ready, go = os.pipe(), os.pipe()

    def wait(writer: int) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(go[0], select.POLLIN)
        sandbox.close_sandbox("require", {2, writer, ready[1], go[0]}, LIMITS)
        os.write(ready[1], b"r")
        return poll.poll(20_000)  # a poll with a timeout is resumed by restart_syscall

    child = Child(wait)
    assert read_in_time(ready[0]) == b"r"
    status = Path(f"/proc/{child.pid}/stat")
    while status.read_text().rpartition(") ")[2][0] != "S":  # until it is in its poll
        os.sched_yield()
    for _ in range(3):
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        os.kill(child.pid, signal.SIGCONT)
        os.waitpid(child.pid, os.WCONTINUED)
    os.write(go[1], b"g")
    assert child.result() == [[go[0], select.POLLIN]]
    for fd in (*ready, *go):
        os.close(fd)


def test_memory_past_the_limit_is_a_memory_error() -> None:
    def allocate() -> list[str]:
        seen = []
        for size in (8 * MIB, 800 * MIB):
            try:
                seen.append(str(len(bytearray(size))))
            except MemoryError:
                seen.append("MemoryError")
        return seen

    assert in_sandbox(allocate) == [str(8 * MIB), "MemoryError"]


# --- modes and reports


def test_everything_is_on_here() -> None:
    assert in_child(lambda: sandbox.close_sandbox("auto", {*_open_fds()}, LIMITS)) == ALL_ON
    assert list(ALL_ON) == list(sandbox.FEATURES)


def _open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def test_off_does_nothing_but_says_so_and_closes_descriptors() -> None:
    secret = os.open(__file__, os.O_RDONLY)

    def child(writer: int) -> list[Any]:
        report = sandbox.close_sandbox("off", {2, writer}, LIMITS)
        home = os.environ.get("PATH")
        return [report, errno_of(lambda: os.fstat(secret)), errno_of(lambda: os.close(os.open("/", 0))), home]

    report, descriptor, file, home = Child(child).result()
    os.close(secret)
    assert report == dict.fromkeys(sandbox.FEATURES, "off: asked for")
    assert (descriptor, file, home) == ("EBADF", "allowed", os.environ.get("PATH"))


def test_an_unknown_mode_is_refused_before_anything_is_closed() -> None:
    with pytest.raises(ValueError, match="auto, require, off, not 'on'"):
        sandbox.close_sandbox("on", (), LIMITS)


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[None]:
    """A kernel without these system calls."""
    real = linux.syscall

    def syscall(name: str | int, *args: int) -> int:
        if name in names:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(name))
        return real(name, *args)

    with monkeypatch.context() as patched:
        patched.setattr(linux, "syscall", syscall)
        yield


def test_auto_takes_what_there_is_and_says_what_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with without(monkeypatch, "landlock_create_ruleset"):
        report = in_child(lambda: sandbox.close_sandbox("auto", _open_fds(), LIMITS))
    assert {name for name, state in report.items() if state == "on"} == set(ALL_ON) - {
        "landlock",
        "landlock_tcp",
        "landlock_ipc",
    }
    assert report["landlock"].startswith("off: the kernel has no Landlock (Linux 5.13")


def test_require_names_everything_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> str:
        try:
            sandbox.close_sandbox("require", _open_fds(), LIMITS)
        except SandboxUnavailable as error:
            return str(error)
        return "accepted"

    with without(monkeypatch, "landlock_create_ruleset", "seccomp"):
        message = in_child(refused)
    assert message.startswith("sandbox='require', but this machine lacks landlock (the kernel has no Landlock")
    assert "seccomp (Function not implemented)" in message
    assert "sandbox='auto'" in message
    assert "\n" not in message


@pytest.mark.parametrize(("abi", "on"), [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 2), (99, 2)])
def test_an_older_or_newer_landlock_gives_what_it_has(abi: int, on: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: abi)

    def child() -> list[Any]:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        verdict = landlock.deny_everything()
        return [*verdict, errno_of(lambda: os.open(__file__, os.O_RDONLY))]

    files, tcp, ipc, opened = in_child(child)
    assert (files, opened) == ("on", "EACCES")
    assert [tcp == "on", ipc == "on"] == [on >= 1, on >= 2]
    if on < 2:
        assert ipc == f"off: Landlock ABI 6 (Linux 6.12) is needed, here it is {abi}"


def test_the_trusted_side_sees_what_the_worker_says() -> None:
    features = {feature.name: feature for feature in kernel.probe()}
    assert [*features] == ["pidfd", "memfd", "proc", "no_new_privs", "seccomp", "landlock", "cores"]
    assert all(feature.available for feature in features.values())
    assert features["landlock"].detail.startswith(f"ABI {landlock.abi()}: files, TCP")
    assert features["cores"].detail == str(len(os.sched_getaffinity(0)))


# --- streams and descriptors


def test_streams_lead_to_null_but_for_the_one_that_is_kept() -> None:
    def child(writer: int) -> list[Any]:
        sandbox.close_sandbox("require", {2, writer}, LIMITS)
        os.write(1, b"to standard output\n")
        os.write(2, b"to standard error\n")
        return [os.read(0, 10).decode(), errno_of(lambda: os.fstat(3)) if writer != 3 else "EBADF"]

    errors = os.pipe()
    saved = os.dup(2)
    os.dup2(errors[1], 2)
    try:
        result = Child(child).result()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(errors[1])
    assert os.read(errors[0], 1000) == b"to standard error\n"
    os.close(errors[0])
    assert result[0] == ""


def test_standard_error_that_is_not_kept_leads_to_null() -> None:
    def child(writer: int) -> bool:
        sandbox.close_sandbox("require", {writer}, LIMITS)
        os.write(2, b"nobody reads this")
        return os.read(2, 1) == b""

    assert Child(child).result() is True


@pytest.mark.parametrize("missing", [(), ("close_range",)])
def test_descriptors_are_closed_whatever_their_numbers(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(writer: int) -> dict[str, str]:
        first = os.open("/dev/null", os.O_RDONLY)
        for fd in (50, 51, 52, 700):
            os.dup2(first, fd)
        linux.close_other_fds({51, writer, 900})
        return {str(fd): errno_of(lambda fd=fd: os.fstat(fd)) for fd in (0, 1, 2, first, 50, 51, 52, 700, writer)}

    with without(monkeypatch, *missing):
        seen = Child(child).result()
    kept = [fd for fd, state in seen.items() if state == "allowed"]
    assert len(kept) == 2
    assert "51" in kept
    assert set(seen.values()) == {"allowed", "EBADF"}


# --- what the kernel says of a sandboxed process


def test_limits_are_the_kernels_and_cannot_be_raised() -> None:
    limits = sandbox.SandboxLimits(data_bytes=300 * MIB, cpu_s=77, stack_bytes=3 * MIB, nofile=33)
    names = ("DATA", "CPU", "STACK", "NOFILE", "FSIZE", "NPROC", "CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO")
    seen = in_sandbox(
        lambda: {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names}, limits=limits
    )
    values = [300 * MIB, 77, 3 * MIB, 33, 0, 0, 0, 0, 0, 0, 0]
    assert seen == {name: [value, value] for name, value in zip(names, values, strict=True)}


def test_a_limit_below_ours_stays() -> None:
    def child(writer: int) -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_STACK, (MIB, 2 * MIB))
        sandbox.close_sandbox("require", {2, writer}, LIMITS)
        return resource.getrlimit(resource.RLIMIT_STACK)

    assert Child(child).result() == [2 * MIB, 2 * MIB]


def test_processor_time_past_the_limit_kills() -> None:
    def spin(writer: int) -> None:
        sandbox.close_sandbox("require", {writer}, sandbox.SandboxLimits(512 * MIB, cpu_s=1))
        while True:
            pass

    assert Child(spin).wait() == -signal.SIGKILL


@contextmanager
def sandboxed_process(unprivileged: bool = False) -> Iterator[int]:
    """The pid of a sandboxed process that waits."""
    stop = os.pipe()

    def child(writer: int) -> None:
        if unprivileged:
            escape_kit.drop_to_nobody()
        sandbox.close_sandbox("require", {2, writer, stop[0]}, LIMITS)
        os.write(writer, b"ready")
        os.read(stop[0], 1)

    process = Child(child)
    try:
        assert process.read() == b"ready"
        yield process.pid
    finally:
        os.close(stop[1])
        process.wait()
        os.close(stop[0])


def test_the_kernel_says_that_it_is_sandboxed() -> None:
    with sandboxed_process() as pid:
        status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Threads"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


def test_its_user_can_watch_and_kill_it_but_not_look_into_it() -> None:
    def supervise() -> dict[str, Any]:
        if os.geteuid() == 0:
            escape_kit.drop_to_nobody()
        with sandboxed_process() as pid:
            pidfd = os.pidfd_open(pid)
            seen = {
                "rss": psutil.Process(pid).memory_info().rss,
                "statm": errno_of(lambda: Path(f"/proc/{pid}/statm").read_bytes()),
                "stat": errno_of(lambda: Path(f"/proc/{pid}/stat").read_bytes()),
                "environ": errno_of(lambda: Path(f"/proc/{pid}/environ").read_bytes()),
                "maps": errno_of(lambda: Path(f"/proc/{pid}/maps").read_bytes()),
                "mem": errno_of(lambda: os.open(f"/proc/{pid}/mem", os.O_RDONLY)),
                "attach": errno_of(lambda: linux.syscall("ptrace", 0x4206, pid, 0, 0)),
                "kill": errno_of(lambda: signal.pidfd_send_signal(pidfd, signal.SIGKILL)),
            }
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            seen["dead"] = bool(poll.poll(20_000))
            os.close(pidfd)
        return seen

    seen = in_child(supervise)
    assert seen.pop("rss") > MIB
    assert seen == {
        "statm": "allowed",
        "stat": "allowed",
        "environ": "EACCES",
        "maps": "EACCES",
        "mem": "EACCES",
        "attach": "EPERM",
        "kill": "allowed",
        "dead": True,
    }


# --- parents


def test_a_worker_dies_with_its_hardened_forkserver() -> None:
    alive = os.pipe()

    def forkserver(writer: int) -> None:
        os.close(alive[0])
        pid = os.getpid()
        sandbox.harden_forkserver()
        if os.fork() == 0:
            linux.set_parent_death_signal(pid)
            sandbox.close_sandbox("require", {alive[1]}, LIMITS)
            os.write(alive[1], b"up")
            select.select([], [], [], 60)
            os.write(alive[1], b"still up")
        os.close(alive[1])
        signal.pause()

    child = Child(forkserver)
    os.close(alive[1])
    assert read_in_time(alive[0]) == b"up"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert read_in_time(alive[0]) == b"", "end-of-file: the worker is gone too"
    os.close(alive[0])


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    def orphan(_: int) -> None:
        linux.set_parent_death_signal(expected_parent_pid=1 << 30)

    assert Child(orphan).wait() == -signal.SIGKILL


# --- the forkserver and the compiler


def test_a_hardened_forkserver_still_does_its_work() -> None:
    ours, theirs = socket.socketpair()

    def forkserver(writer: int) -> dict[str, Any]:
        report = sandbox.harden_forkserver()
        _, fds, _, _ = socket.recv_fds(theirs, 10, 1)
        pid = os.fork()
        if pid == 0:
            in_force = sandbox.close_sandbox("require", {fds[0]}, LIMITS)
            os.write(fds[0], json.dumps(in_force).encode())
            os._exit(0)
        pidfd = os.pidfd_open(pid)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        return {
            "report": report,
            "worker": status,
            "machine code": errno_of(lambda: escape_kit._map(escape_kit.RX)),
            "open": errno_of(lambda: os.open(__file__, os.O_RDONLY)),
            "list": errno_of(lambda: os.listdir("/")),
            "socket": errno_of(lambda: socket.socket()),
            "signal": errno_of(lambda: os.kill(os.getppid(), 0)),
            "environment": dict(os.environ),
        }

    reader, writer = os.pipe()
    child = Child(forkserver)
    socket.send_fds(ours, [b"fork"], [writer])
    os.close(writer)
    in_force = json.loads(read_in_time(reader))
    os.close(reader)
    seen = child.result()
    ours.close()
    theirs.close()
    assert seen == {
        "report": ALL_ON,
        "worker": 0,
        "machine code": "allowed",
        "open": "EACCES",
        "list": "EACCES",
        "socket": "EPERM",
        "signal": "EPERM",
        "environment": {},
    }
    assert in_force == ALL_ON


@pytest.mark.parametrize("harden", [sandbox.harden_forkserver, sandbox.harden_compiler])
def test_neither_of_them_can_exec_or_trace(harden: Callable[[], dict[str, str]]) -> None:
    def execute(_: int) -> None:
        harden()
        os.execv("/bin/true", ["true"])

    def trace(_: int) -> None:
        harden()
        linux.syscall("ptrace", 0, 0, 0, 0)

    assert Child(execute).wait() == -signal.SIGSYS
    assert Child(trace).wait() == -signal.SIGSYS


def test_a_hardened_compiler_compiles_on_all_its_threads(tmp_path: Path) -> None:
    script = (
        "import sys, json, os; from guardpool_worker import engine, sandbox, linux\n"
        "import wasmer_compiler_cranelift\n"
        "wasm = open(sys.argv[1], 'rb').read(); out = os.dup(1); report = sandbox.harden_compiler()\n"
        "artifact = engine.compile_bundle(wasm)\n"
        "def what(do):\n"
        "    try: do()\n"
        "    except OSError as error: return error.errno\n"
        "opened, connected = what(lambda: os.open(sys.argv[1], 0)), what(lambda: linux.syscall('socket', 2, 1, 0))\n"
        "seen = [report, len(artifact), opened, connected]\n"
        "os.write(out, json.dumps(seen).encode()); os.fork()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(samples.GUARD)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGSYS, done.stderr  # the fork at its end
    report, size, opened, connected = json.loads(done.stdout)
    assert report == ALL_ON
    assert size > 100_000
    assert (opened, connected) == (errno.EACCES, errno.EPERM)


def test_a_compiler_that_has_threads_already_is_not_half_hardened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "thread_count", lambda: 3)
    report = in_child(sandbox.harden_compiler)
    assert set(report.values()) == {"off: 3 threads run already"}


# --- the price


def test_closing_costs_less_than_three_milliseconds() -> None:
    seccomp.prepare(seccomp.WORKER)

    def close(writer: int) -> float:
        began = time.perf_counter()
        sandbox.close_sandbox("require", {2, writer}, LIMITS)
        return (time.perf_counter() - began) * 1000

    costs = [Child(close).result() for _ in range(15)]
    print(
        f"closing the sandbox: median {statistics.median(costs):.2f} ms, from {min(costs):.2f} to {max(costs):.2f} ms"
    )
    assert min(costs) < 3
