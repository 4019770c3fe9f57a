"""The sandbox: what it reports, and what the kernel says of a process in it."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

import escape_kit
from guardpool.errors import SandboxUnavailable
from guardpool.machine import kernel
from guardpool_worker import filters, landlock, linux, sandbox, seccomp
from sandboxkit import (
    ALL_ON,
    LIMITS,
    MIB,
    Child,
    errno_of,
    in_child,
    in_sandbox,
    open_fds,
    sandboxed_process,
    whole_sandbox,
    without,
)
from workkit import lines_run

pytestmark = whole_sandbox


# --- modes and reports


def test_everything_is_on_here() -> None:
    assert in_child(lambda: sandbox.close_sandbox("auto", {*open_fds()}, LIMITS)) == ALL_ON
    assert list(ALL_ON) == list(sandbox.FEATURES)


def test_off_closes_descriptors_and_reports_that_it_does_no_more() -> None:
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


def test_auto_uses_what_the_kernel_has_and_reports_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with without(monkeypatch, "landlock_create_ruleset"):
        report = in_child(lambda: sandbox.close_sandbox("auto", open_fds(), LIMITS))
    assert {name for name, state in report.items() if state == "on"} == set(ALL_ON) - {
        "landlock",
        "landlock_tcp",
        "landlock_ipc",
    }
    assert report["landlock"].startswith("off: the kernel has no Landlock (Linux 5.13")


def test_require_names_everything_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> str:
        try:
            sandbox.close_sandbox("require", open_fds(), LIMITS)
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


def test_the_trusted_side_finds_the_features_that_workers_use() -> None:
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
        os.write(2, b"never read")
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
        sandbox.close_sandbox("require", {writer}, sandbox.SandboxLimits(4096 * MIB, cpu_s=1))
        while True:
            pass

    assert Child(spin).wait() == -signal.SIGKILL


def test_the_kernel_reports_that_the_process_is_sandboxed() -> None:
    with sandboxed_process() as pid:
        status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Threads"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


def test_user_can_watch_and_kill_a_sandboxed_process_but_not_read_it() -> None:
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


# --- the cost


def test_closing_is_little_work() -> None:
    seccomp.prepare(filters.WORKER)

    def close(writer: int) -> int:
        return lines_run(lambda: sandbox.close_sandbox("require", {2, writer}, LIMITS))

    assert Child(close).result() < 2000  # 1.3 to 1.8 ms of processor time
