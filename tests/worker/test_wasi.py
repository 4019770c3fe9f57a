"""WASI preview 1: every function links, nothing is allowed that the contract does not allow, no pointer is trusted."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import enginekit
import guardkit
import strategies
from guardpool.module.imports import PREVIEW1, PREVIEW1_MODULE
from guardpool.outcomes import LogLine
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.engine.seam import EngineTrap
from guardpool_worker.instance import GuardInstance, InstanceSettings

SUCCESS, EBADF, EFAULT, EINVAL, ENOSYS, ENOTDIR, ENOTSOCK, ENOTSUP, ESPIPE = 0, 8, 21, 28, 52, 54, 57, 58, 70
PAGES = 2
END = PAGES * 65536
BUFFER = 1024


def everything() -> str:
    """A guard that imports every function of preview 1 and exports each under the same name."""
    imports, exports = [], []
    for name, (params, results) in PREVIEW1.items():
        signature = f"(param {' '.join(params)})" if params else ""
        signature += f" (result {' '.join(results)})" if results else ""
        imports.append(f'(import "{PREVIEW1_MODULE}" "{name}" (func ${name} {signature}))')
        arguments = " ".join(f"(local.get {i})" for i in range(len(params)))
        exports.append(f'(func (export "{name}") {signature} (call ${name} {arguments}))')
    return f"""(module {" ".join(imports)} (memory (export "memory") {PAGES} {PAGES + 68}) {" ".join(exports)}
      (func (export "label_agent") (export "label_resource") (export "label_response")
        (param i32 i32 i32 i32) (result i32) (i32.const 0)))"""


@cache
def loaded() -> LoadedGuard:
    return guardkit.load(enginekit.wat_to_wasm(everything()))


class Wasi:
    """An instance whose imports tests can call; its memory is `PAGES` pages and the buffers."""

    def __init__(self, threshold: int = 0, max_log_bytes: int = 64 * 1024) -> None:
        options = InstanceSettings("wasi", log_threshold=threshold, max_log_bytes=max_log_bytes)
        self.guard = GuardInstance(loaded(), options)
        self.size = self.guard.memory.size()
        self.memory = self.guard.memory.bytes

    def __getattr__(self, name: str) -> Any:
        return self.guard.guard.function(name)

    def u32(self, at: int) -> int:
        return int.from_bytes(self.memory[at : at + 4], "little")

    def u64(self, at: int) -> int:
        return int.from_bytes(self.memory[at : at + 8], "little")

    def iovs(self, at: int, *pieces: tuple[int, int]) -> tuple[int, int]:
        """Write a list of (address, length) pairs; returns its address and count."""
        flat = b"".join((n & 0xFFFFFFFF).to_bytes(4, "little") for piece in pieces for n in piece)
        self.memory[at : at + len(flat)] = flat
        return at, len(pieces)

    def write(self, fd: int, data: bytes) -> int:
        self.memory[4096 : 4096 + len(data)] = data
        result: int = self.fd_write(fd, *self.iovs(512, (4096, len(data))), 600)
        return result

    def logs(self) -> list[LogLine]:
        return self.guard._log.take()


@pytest.fixture
def wasi() -> Wasi:
    return Wasi()


def test_every_function_of_the_snapshot_links(wasi: Wasi) -> None:
    assert len(PREVIEW1) == 46
    for name in PREVIEW1:
        assert callable(getattr(wasi, name))


def test_every_function_answers_an_errno_and_never_traps(wasi: Wasi) -> None:
    for name, (params, results) in PREVIEW1.items():
        if name == "proc_exit":
            continue
        for value in (0, 1, 3, -1, 2**31 - 1, END - 1):
            errno = getattr(wasi, name)(*[value] * len(params))
            assert results == ("i32",)
            assert errno in {SUCCESS, EBADF, EFAULT, EINVAL, ENOSYS, ENOTDIR, ENOTSOCK, ENOTSUP, ESPIPE}, name


def test_no_arguments_and_no_environment(wasi: Wasi) -> None:
    for name in ("args", "environ"):
        wasi.memory[BUFFER : BUFFER + 8] = b"\xff" * 8
        assert getattr(wasi, f"{name}_sizes_get")(BUFFER, BUFFER + 4) == SUCCESS
        assert wasi.u64(BUFFER) == 0
        assert getattr(wasi, f"{name}_get")(BUFFER, BUFFER) == SUCCESS
        assert getattr(wasi, f"{name}_sizes_get")(BUFFER, wasi.size - 3) == EFAULT
        assert getattr(wasi, f"{name}_sizes_get")(-4, BUFFER) == EFAULT


PATHS = [name for name in PREVIEW1 if name.startswith("path_")]


@pytest.mark.parametrize("name", [*PATHS, "fd_prestat_get", "fd_prestat_dir_name"])
@pytest.mark.parametrize("fd", [0, 2, 3, 4, -1])
def test_there_is_no_directory_to_start_from(wasi: Wasi, name: str, fd: int) -> None:
    params = PREVIEW1[name][0]
    assert getattr(wasi, name)(fd, *[0] * (len(params) - 1)) == EBADF


DESCRIPTORS = [name for name in PREVIEW1 if name.startswith(("fd_", "sock_")) and "prestat" not in name]


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("fd", [3, 4, 1000, -1])
def test_calls_on_descriptors_that_do_not_exist_are_ebadf(wasi: Wasi, name: str, fd: int) -> None:
    params = PREVIEW1[name][0]
    assert getattr(wasi, name)(fd, *[BUFFER] * (len(params) - 1)) == EBADF


def test_standard_streams_cannot_be_sought_or_listed(wasi: Wasi) -> None:
    for fd in range(3):
        assert wasi.fd_seek(fd, 0, 0, BUFFER) == ESPIPE
        assert wasi.fd_tell(fd, BUFFER) == ESPIPE
        assert wasi.fd_readdir(fd, 0, 0, 0, BUFFER) == ENOTDIR
        assert wasi.sock_shutdown(fd, 0) == ENOTSOCK
        assert wasi.fd_close(fd) == SUCCESS
    assert wasi.proc_raise(6) == ENOSYS
    assert wasi.sched_yield() == SUCCESS


@pytest.mark.parametrize(("fd", "rights"), [(0, 1 << 1 | 1 << 27), (1, 1 << 6 | 1 << 27), (2, 1 << 6 | 1 << 27)])
def test_fdstat_of_a_standard_stream_is_a_character_device(wasi: Wasi, fd: int, rights: int) -> None:
    wasi.memory[BUFFER : BUFFER + 24] = b"\xff" * 24
    assert wasi.fd_fdstat_get(fd, BUFFER) == SUCCESS
    assert wasi.u64(BUFFER) == 2, "a character device without flags"
    assert (wasi.u64(BUFFER + 8), wasi.u64(BUFFER + 16)) == (rights, 0)
    assert wasi.fd_fdstat_get(fd, wasi.size - 23) == EFAULT


def test_filestat_of_a_standard_stream_is_a_character_device(wasi: Wasi) -> None:
    wasi.memory[BUFFER : BUFFER + 64] = b"\xff" * 64
    assert wasi.fd_filestat_get(1, BUFFER) == SUCCESS
    assert bytes(wasi.memory[BUFFER : BUFFER + 64]) == bytes(16) + b"\x02" + bytes(47)
    assert wasi.fd_filestat_get(1, wasi.size - 63) == EFAULT


def test_standard_input_is_at_its_end(wasi: Wasi) -> None:
    wasi.memory[600:604] = b"\xff" * 4
    assert wasi.fd_read(0, *wasi.iovs(512, (BUFFER, 100)), 600) == SUCCESS
    assert wasi.u32(600) == 0
    assert wasi.fd_read(0, *wasi.iovs(512, (wasi.size - 1, 2)), 600) == EFAULT
    assert wasi.fd_read(0, *wasi.iovs(512, (BUFFER, 1)), wasi.size - 3) == EFAULT
    assert wasi.fd_read(1, *wasi.iovs(512, (BUFFER, 1)), 600) == EBADF


# ---- standard output and error ----


def test_output_becomes_log_lines() -> None:
    assert guardkit.instance("stdio").call("label_resource", guardkit.RESOURCE).logs == [
        LogLine(1, "hello"),
        LogLine(2, "oops"),
        LogLine(1, "open end"),
    ]


def test_output_below_the_threshold_does_not_reach_python() -> None:
    guard = guardkit.instance("stdio", log_threshold=2)
    assert guard.call("label_resource", guardkit.RESOURCE).logs == [LogLine(2, "oops")]
    guard = guardkit.instance("stdio", log_threshold=3)
    guard.call("label_resource", guardkit.RESOURCE)
    assert not guard._log.dirty


def test_nothing_reaches_the_streams_of_the_host(capfd: pytest.CaptureFixture[str]) -> None:
    guardkit.instance("stdio").call("label_resource", guardkit.RESOURCE)
    assert capfd.readouterr() == ("", "")


def test_fd_write_returns_the_count_of_bytes_written(wasi: Wasi) -> None:
    assert wasi.write(1, b"twelve bytes") == SUCCESS
    assert wasi.u32(600) == 12
    assert wasi.fd_write(1, 512, 0, 600) == SUCCESS
    assert wasi.u32(600) == 0
    assert wasi.write(0, b"no") == EBADF
    assert wasi.logs() == [LogLine(1, "twelve bytes")]


def test_lines_are_put_together_from_several_writes(wasi: Wasi) -> None:
    for byte in b"a\n\nbc\n":
        wasi.write(2, bytes([byte]))
    wasi.write(1, "ü\n\xff".encode("latin-1"))
    wasi.write(2, b"\r\nd")
    assert wasi.logs() == [
        *(LogLine(2, text) for text in ("a", "", "bc")),
        LogLine(1, "�"),
        LogLine(2, "\r"),
        LogLine(1, "�"),
        LogLine(2, "d"),
    ]
    assert wasi.logs() == []


def test_list_of_pieces_of_fd_write_is_checked(wasi: Wasi) -> None:
    assert wasi.fd_write(1, *wasi.iovs(512, (wasi.size - 4, 5)), 600) == EFAULT
    assert wasi.fd_write(1, *wasi.iovs(512, (BUFFER, 1), (-1, 1)), 600) == EFAULT
    assert wasi.fd_write(1, wasi.size - 8, 2, 600) == EFAULT
    assert wasi.fd_write(1, BUFFER, -1, 600) == EFAULT
    assert wasi.fd_write(1, BUFFER, 0x20000000, 600) == EFAULT
    assert wasi.fd_write(1, *wasi.iovs(512, (BUFFER, 1)), wasi.size - 3) == EFAULT
    assert wasi.logs() == []
    # A piece may end where memory ends.
    wasi.memory[wasi.size - 4 : wasi.size] = b"last"
    assert wasi.fd_write(1, *wasi.iovs(512, (wasi.size - 4, 4)), 600) == SUCCESS
    assert wasi.logs() == [LogLine(1, "last")]


def test_count_written_over_the_list_changes_nothing(wasi: Wasi) -> None:
    wasi.memory[4096:4100] = b"text"
    at, count = wasi.iovs(512, (4096, 4))
    assert wasi.fd_write(1, at, count, at) == SUCCESS
    assert wasi.u32(at) == 4
    assert wasi.logs() == [LogLine(1, "text")]


def test_fd_write_of_more_than_two_gigabytes_is_einval(wasi: Wasi) -> None:
    pieces = [(0, wasi.size)] * 600
    assert wasi.fd_write(1, *wasi.iovs(8192, *pieces), 600) == EINVAL


def test_flood_of_output_is_cut() -> None:
    guard = guardkit.instance("stdio_flood")
    for _ in range(2):
        logs = guard.call("label_resource", guardkit.RESOURCE).logs
        assert len(logs) == 1
        assert logs[0].text.endswith("more lines dropped")


def test_output_and_log_share_one_limit() -> None:
    wasi = Wasi(max_log_bytes=100)
    wasi.write(1, b"x" * 60 + b"\n" + b"y" * 30 + b"\n" + b"z" * 30 + b"\n")
    wasi.write(2, b"more\n")
    assert wasi.logs() == [LogLine(1, "x" * 60), LogLine(1, "y" * 30), LogLine(2, "2 more lines dropped")]
    wasi.write(2, b"again\n")
    assert wasi.logs() == [LogLine(2, "again")]


# ---- clocks, random, polling ----


def test_the_four_clocks_can_be_read(wasi: Wasi) -> None:
    before = time.time_ns(), time.monotonic_ns()
    times = []
    for clock in range(4):
        assert wasi.clock_time_get(clock, 1000, BUFFER) == SUCCESS
        times.append(wasi.u64(BUFFER))
        assert wasi.clock_res_get(clock, BUFFER) == SUCCESS
        assert wasi.u64(BUFFER) == 1
    assert before[0] <= times[0] <= time.time_ns()
    assert before[1] <= times[1] <= time.monotonic_ns()
    assert 0 < times[3] <= times[2] + 10**9
    for clock in (4, -1):
        assert wasi.clock_time_get(clock, 0, BUFFER) == EINVAL
        assert wasi.clock_res_get(clock, BUFFER) == EINVAL
    assert wasi.clock_time_get(0, 0, wasi.size - 7) == EFAULT
    assert wasi.clock_res_get(0, wasi.size - 7) == EFAULT


@pytest.mark.parametrize("length", [1, 32, 65536, 65537, END - 2048])
def test_random_get_fills_its_range_and_nothing_else(wasi: Wasi, length: int) -> None:
    wasi.memory[:END] = bytes(END)
    assert wasi.random_get(BUFFER, length) == SUCCESS
    filled = bytes(wasi.memory[BUFFER : BUFFER + length])
    assert bytes(wasi.memory[:BUFFER]) + bytes(wasi.memory[BUFFER + length : END]) == bytes(END - length)
    assert length < 32 or filled[-16:] != bytes(16)
    assert wasi.random_get(BUFFER, 0) == SUCCESS
    assert wasi.random_get(wasi.size - 4, 5) == EFAULT
    assert wasi.random_get(-1, -1) == EFAULT


def test_random_that_fails_is_an_errno(wasi: Wasi, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(count: int) -> bytes:
        raise OSError("no entropy")

    monkeypatch.setattr("os.urandom", fail)
    assert wasi.random_get(BUFFER, 8) == 29


def subscription(userdata: int, tag: int, fd: int = 0) -> bytes:
    return userdata.to_bytes(8, "little") + bytes([tag]) + bytes(7) + fd.to_bytes(4, "little") + bytes(28)


def test_polling_answers_at_once(wasi: Wasi) -> None:
    subscriptions = [(0, 0), (1, 0), (2, 1), (1, 7), (2, 0)]
    raw = b"".join(subscription(100 + i, tag, fd) for i, (tag, fd) in enumerate(subscriptions))
    wasi.memory[4096 : 4096 + len(raw)] = raw
    assert wasi.poll_oneoff(4096, 8192, len(subscriptions), 600) == SUCCESS
    assert wasi.u32(600) == len(subscriptions)
    events = [bytes(wasi.memory[8192 + 32 * i : 8224 + 32 * i]) for i in range(len(subscriptions))]
    assert [int.from_bytes(event[:8], "little") for event in events] == [100, 101, 102, 103, 104]
    assert [int.from_bytes(event[8:10], "little") for event in events] == [0, 0, 0, EBADF, EBADF]
    assert [event[10] for event in events] == [0, 1, 2, 1, 2]
    assert events[1][24] == 1, "standard input has hung up"


def test_polling_for_nothing_or_outside_memory_is_an_errno(wasi: Wasi) -> None:
    assert wasi.poll_oneoff(4096, 8192, 0, 600) == EINVAL
    assert wasi.poll_oneoff(wasi.size - 47, 8192, 1, 600) == EFAULT
    assert wasi.poll_oneoff(4096, wasi.size - 31, 1, 600) == EFAULT
    assert wasi.poll_oneoff(4096, 8192, 1, wasi.size - 3) == EFAULT
    assert wasi.poll_oneoff(4096, 8192, -1, 600) == EFAULT
    wasi.memory[4104] = 3
    assert wasi.poll_oneoff(4096, 8192, 1, 600) == EINVAL


def test_exit_is_a_trap_that_the_instance_knows(wasi: Wasi) -> None:
    with pytest.raises(EngineTrap):
        wasi.proc_exit(7)
    assert (wasi.guard._exited.value, wasi.guard._exit_code.value) == (1, 7)


SHARED: list[Wasi] = []
NAMES = sorted(set(PREVIEW1) - {"proc_exit", "clock_time_get"})


@settings(max_examples=strategies.examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(NAMES),
    st.lists(
        st.one_of(st.integers(-3, 4), st.integers(END - 70, END + 70), st.integers(-(2**31), 2**31 - 1)),
        min_size=9,
        max_size=9,
    ),
)
def test_arbitrary_arguments_never_trap(name: str, values: list[int]) -> None:
    if not SHARED:
        SHARED.append(Wasi(max_log_bytes=1000))
    wasi = SHARED[0]
    errno = getattr(wasi, name)(*values[: len(PREVIEW1[name][0])])
    assert 0 <= errno <= 76
    wasi.logs()
