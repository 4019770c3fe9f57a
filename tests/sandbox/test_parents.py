"""The processes around the workers: they die together, and the forkserver and the compiler are hardened."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import enginekit
import escape_attempts_kernel
import guardkit
import poolkit
from guardpool import Guard, Limits, samples
from guardpool.limits import MAX_WORKER_AGE_S
from guardpool.protocol import control
from guardpool.sizes import PAGE_BYTES
from guardpool.supervise import watchdog
from guardpool.supervise.forkserver_client import ForkserverClient
from guardpool_worker import linux, sandbox
from sandboxkit import ALL_ON, LIMITS, MIB, Child, errno_of, in_child, read_in_time, whole_sandbox

pytestmark = whole_sandbox


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
    assert read_in_time(alive[0]) == b"", "end-of-file: the worker is gone as well"
    os.close(alive[0])


def kernel_says(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    return dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))


def test_every_process_of_a_pool_is_closed_and_its_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the caller")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with poolkit.pool(poolkit.guard("good")) as made:
        assert made.stats().sandbox == ALL_ON
        workers = [worker.pid for worker in made.stats().workers]
        assert len(workers) == 2
        for pid in (poolkit.forkserver_pid(made), *workers):
            status = kernel_says(pid)
            assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
            assert {int(status[name], 16) for name in ("CapPrm", "CapEff")} == {0}
            if os.geteuid() == 0:  # only root can read it
                assert Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0") == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read the maps of a process that is not dumpable")
def test_no_process_of_a_pool_has_memory_that_is_writable_and_executable() -> None:
    # Each has host functions of its own: with one page of code for each guard's, 50 guards would be too many.
    wasm = guardkit.wat("backend")
    guards = [Guard(f"g{number}", wasm, poolkit.POLICY, backend=lambda tool, args: []) for number in range(100)]
    with poolkit.pool(*guards, workers=1, limits=Limits(max_rss_bytes=1024 * MIB)) as made:
        assert made.label_resource("t", {}, guard="g99").backend_calls == 1
        for pid in (poolkit.forkserver_pid(made), *(worker.pid for worker in made.stats().workers)):
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert "r-xp" in maps
            assert not re.findall(r"^\S+ .wx. .*$", maps, re.MULTILINE)


def test_every_limit_of_a_pools_worker_is_the_kernels() -> None:
    limits = Limits(max_rss_bytes=200 * MIB, timeout_s=2)
    with poolkit.pool(poolkit.guard("good"), limits=limits) as made:
        pid = made.stats().workers[0].pid
        names = ("NOFILE", "FSIZE", "NPROC", "MEMLOCK", "STACK", "DATA", "CPU", "CORE")
        seen = {name: resource.prlimit(pid, getattr(resource, f"RLIMIT_{name}")) for name in names}
    expected = {
        "NOFILE": 64,
        "FSIZE": 0,
        "NPROC": 0,
        "MEMLOCK": 0,
        "STACK": 2 * MIB,
        "DATA": limits.data_bytes([PAGE_BYTES]),
        "CPU": MAX_WORKER_AGE_S + 3600 + 8,
        "CORE": 0,
    }
    assert seen == {name: (value, value) for name, value in expected.items()}


def test_a_worker_is_replaced_long_before_its_processor_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits().cpu_s > MAX_WORKER_AGE_S
    Limits(timeout_s=1e300).cpu_s.to_bytes(8, "little")  # the kernel takes it
    monkeypatch.setattr(watchdog, "MAX_WORKER_AGE_S", 0)
    with poolkit.pool() as made:
        outcomes = []
        for outcome in made.map(poolkit.job(number, "w") for number in range(1_000_000)):
            outcomes.append(outcome)
            if made.stats().respawns.get("recycle"):
                break
        assert set(made.stats().respawns) == {"recycle"}
    poolkit.assert_right(outcomes, {}, len(outcomes))


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
            "machine code": errno_of(lambda: escape_attempts_kernel._map(escape_attempts_kernel.RX)),
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
        "open": "EPERM",
        "list": "EPERM",
        "socket": "EPERM",
        "signal": "EPERM",
        "environment": {},
    }
    assert in_force == ALL_ON


def test_the_forkserver_is_hardened_before_it_touches_an_artifact() -> None:
    # An artifact that cannot be loaded ends the forkserver, so only steps from before the loading can be in force.
    bundle = enginekit.compile_bundle(enginekit.wat_to_wasm('(module (memory (export "memory") 1))'))
    setup = control.Setup(
        engine=enginekit.ENGINE_NAME,
        artifacts=[bundle[:-1]],
        guards=[control.GuardSetup("g", 0, b"{}", False, 512)],
        sandbox="auto",
        log_threshold=2,
        keep_logs=False,
        max_output_bytes=MIB,
        max_backend_calls=1,
        max_log_bytes=1,
        data_bytes=512 * MIB,
        cpu_s=1000,
    )
    setup_fd = control.pack_setup(setup)
    client = ForkserverClient(setup_fd, enginekit.ENGINE_NAME)
    try:
        poll = select.poll()
        poll.register(client.sock_fd, select.POLLIN)
        assert poll.poll(20_000)
        received = client.receive()
    finally:
        client.close()
        os.close(setup_fd)
    assert received is not None
    up, _ = received
    assert isinstance(up, control.Up)
    assert up.failure is not None
    assert up.failure.startswith("an artifact cannot be loaded: not a compiled guard")
    assert up.hardening == ALL_ON


@pytest.mark.parametrize("harden", [sandbox.harden_forkserver, sandbox.harden_compiler])
def test_forkserver_and_compiler_cannot_exec_or_trace(harden: Callable[[], dict[str, str]]) -> None:
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
        "import sys, json, os; from guardpool_worker import sandbox, linux\n"
        "from guardpool_worker.engine.bundle import compile_bundle\n"
        "from guardpool_worker.engine.choice import load_engine\n"
        f"engine = load_engine({enginekit.ENGINE_NAME!r})\n"
        "engine.load_compiler()\n"
        "wasm = open(sys.argv[1], 'rb').read(); out = os.dup(1); report = sandbox.harden_compiler()\n"
        "artifact = compile_bundle(engine, wasm, has_start=False)\n"
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
    assert (opened, connected) == (errno.EPERM, errno.EPERM)


def test_a_compiler_that_has_threads_already_is_not_half_hardened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "thread_count", lambda: 3)
    report = in_child(sandbox.harden_compiler)
    assert set(report.values()) == {"off: 3 threads run already"}
