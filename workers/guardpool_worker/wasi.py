"""What each function of WASI preview 1 does. Types and notes of the same functions stand in `guardpool.module.imports`.

A guard gets a world with nothing in it: no arguments, no environment, no files, no network. It has clocks, random bytes (in a
deterministic pool those of `reproducible`) and three standard streams: input is at its end, output and error go to the guard's
log. A function is answered in one of three places, the cheapest that can:

- in the gate, which sees no memory: `CONSTANT` and `ON_STREAMS`, with an errno. `proc_exit` stands in `gate_and_bridge`
  itself, because it notes its code in the gate's globals, and traps
- in the bridge, which sees the guard's memory: `LINKED` and `BRIDGE_WAT`
- in Python, which the bridge calls with pointers it has checked: `PYTHON`, `Clock` and `Random` here, and
  `host.GuestLog.stdio`, because the streams share the limits of the log

To add a function, write its type and a note into `guardpool.module.imports` and its name into one of these tables; a linked
one also needs its WAT in `BRIDGE_WAT`, and what it calls in Python an entry in `PYTHON` and in `host.externs`.

`gate_and_bridge` puts the three places together. Source: the witx files of wasi_snapshot_preview1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from guardpool.module.imports import PREVIEW1

# errno values
SUCCESS, EBADF, EFAULT, EINVAL, EIO, ENOSYS, ENOTDIR, ENOTSOCK, ENOTSUP, ESPIPE = 0, 8, 21, 28, 29, 52, 54, 57, 58, 70

RANDOM_CHUNK_BYTES = 64 * 1024

_U32 = 0xFFFFFFFF

# Answered by the gate with one errno, whatever the arguments. There are no preopened directories, so no descriptor
# exists from which a path function could start.
CONSTANT = {
    "args_get": SUCCESS,
    "environ_get": SUCCESS,
    "fd_prestat_get": EBADF,
    "fd_prestat_dir_name": EBADF,
    "proc_raise": ENOSYS,
    "sched_yield": SUCCESS,
    **{name: EBADF for name in PREVIEW1 if name.startswith("path_")},
}

# Answered by the gate with EBADF, unless the first argument is one of the three standard streams. Those are character
# devices that cannot be sought, resized or listed; closing one does nothing.
ON_STREAMS = {
    "fd_advise": ESPIPE,
    "fd_allocate": ESPIPE,
    "fd_close": SUCCESS,
    "fd_datasync": EINVAL,
    "fd_fdstat_set_flags": ENOTSUP,
    "fd_fdstat_set_rights": ENOTSUP,
    "fd_filestat_set_size": EINVAL,
    "fd_filestat_set_times": ENOTSUP,
    "fd_pread": ESPIPE,
    "fd_pwrite": ESPIPE,
    "fd_readdir": ENOTDIR,
    "fd_renumber": ENOTSUP,
    "fd_seek": ESPIPE,
    "fd_sync": EINVAL,
    "fd_tell": ESPIPE,
    "sock_accept": ENOTSOCK,
    "sock_recv": ENOTSOCK,
    "sock_send": ENOTSOCK,
    "sock_shutdown": ENOTSOCK,
}

# Answered by the bridge, in the order of their slots in the gate's table. Until the bridge is linked they answer ENOSYS.
LINKED = (
    "args_sizes_get",
    "environ_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "fd_fdstat_get",
    "fd_filestat_get",
    "fd_read",
    "fd_write",
    "poll_oneoff",
    "random_get",
)

# What the bridge calls in Python for them: parameters and result, "i" for i32 and "l" for i64. Every pointer was checked
# against the memory's size.
PYTHON: dict[str, tuple[str, str]] = {
    "stdio": ("iii", ""),
    "clock": ("i", "l"),
    "random": ("ii", "i"),
}


def gate_wat(name: str) -> str | None:
    """The body of a function that the gate answers with an errno; None for the others."""
    if name in CONSTANT:
        return f"(i32.const {CONSTANT[name]})"
    if name in ON_STREAMS:
        is_stream = "(i32.lt_u (local.get 0) (i32.const 3))"
        return f"(select (i32.const {ON_STREAMS[name]}) (i32.const {EBADF}) {is_stream})"
    return None


class Clock:
    """The four clocks of preview 1, in nanoseconds: realtime, monotonic, process and thread CPU time."""

    _CLOCKS = (time.time_ns, time.monotonic_ns, time.process_time_ns, time.thread_time_ns)

    def read(self, clock: int) -> int:
        return self._CLOCKS[clock]()


class Memory(Protocol):
    """What `Random` needs of `buffers.GuestMemory`, which is not imported: the compiler's process loads this file as well."""

    def view(self, end: int) -> memoryview:
        """Bytes from address 0 that reach to `end` at least, unless memory itself ends before."""


class Random:
    """`random_get`.

    Args:
        draw: gives so many bytes; None: they come from the kernel.
    """

    def __init__(self, memory: Memory, draw: Callable[[int], bytes] | None = None) -> None:
        self._memory = memory
        self._draw = draw or (lambda count: os.urandom(count))

    def fill(self, ptr: int, length: int) -> int:
        """Fill the range; an errno."""
        ptr &= _U32
        end = ptr + (length & _U32)
        view = self._memory.view(end)
        for at in range(ptr, end, RANDOM_CHUNK_BYTES):
            stop = min(at + RANDOM_CHUNK_BYTES, end)
            view[at:stop] = self._draw(stop - at)
        return SUCCESS


# Uses `$fits`, `$total`, `$end_log` and `$threshold` of the bridge, and calls `$py_NAME` for what `PYTHON` names.
BRIDGE_WAT = f"""\
  ;; ---- wasi_snapshot_preview1 ----

  (func $no_strings (param $count i32) (param $size i32) (result i32)
    (if (i32.eqz (i32.and (call $fits (local.get $count) (i64.const 4)) (call $fits (local.get $size) (i64.const 4))))
      (then (return (i32.const {EFAULT}))))
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    (i32.const 0))
  (func $args_sizes_get (param i32 i32) (result i32) (call $no_strings (local.get 0) (local.get 1)))
  (func $environ_sizes_get (param i32 i32) (result i32) (call $no_strings (local.get 0) (local.get 1)))

  ;; The four clocks of preview 1: realtime, monotonic, process and thread CPU time; nanoseconds, and that resolution.
  (func $clock_res_get (param $id i32) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $id) (i32.const 3)) (then (return (i32.const {EINVAL}))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 8))) (then (return (i32.const {EFAULT}))))
    (i64.store (local.get $out) (i64.const 1))
    (i32.const 0))
  (func $clock_time_get (param $id i32) (param $precision i64) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $id) (i32.const 3)) (then (return (i32.const {EINVAL}))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 8))) (then (return (i32.const {EFAULT}))))
    (i64.store (local.get $out) (call $py_clock (local.get $id)))
    (i32.const 0))

  ;; fdstat, 24 bytes: u8 type (2: character device), u16 flags, u64 rights, u64 inherited rights. The rights are
  ;; fd_read (bit 1) or fd_write (bit 6), and poll (bit 27); without seek and tell a libc takes the stream for a
  ;; terminal.
  (func $fd_fdstat_get (param $fd i32) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const {EBADF}))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 24))) (then (return (i32.const {EFAULT}))))
    (i64.store (local.get $out) (i64.const 2))
    (i64.store offset=8 (local.get $out)
      (select (i64.const 0x8000002) (i64.const 0x8000040) (i32.eqz (local.get $fd))))
    (i64.store offset=16 (local.get $out) (i64.const 0))
    (i32.const 0))

  ;; filestat, 64 bytes: u64 device, u64 inode, u8 type, u64 links, size, and three times.
  (func $fd_filestat_get (param $fd i32) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const {EBADF}))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 64))) (then (return (i32.const {EFAULT}))))
    (memory.fill (local.get $out) (i32.const 0) (i32.const 64))
    (i32.store8 offset=16 (local.get $out) (i32.const 2))
    (i32.const 0))

  ;; Standard input is at its end.
  (func $fd_read (param $fd i32) (param $iovs i32) (param $n i32) (param $out i32) (result i32)
    (if (local.get $fd) (then (return (i32.const {EBADF}))))
    (if (i64.lt_s (call $total (local.get $iovs) (local.get $n)) (i64.const 0)) (then (return (i32.const {EFAULT}))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 4))) (then (return (i32.const {EFAULT}))))
    (i32.store (local.get $out) (i32.const 0))
    (i32.const 0))

  ;; Standard output is logged as level 1, standard error as level 2: the descriptor is the level. The count is
  ;; written last, because it may overlap the list that Python reads.
  (func $fd_write (param $fd i32) (param $iovs i32) (param $n i32) (param $out i32) (result i32)
    (local $total i64)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const {EBADF}))))
    (local.set $total (call $total (local.get $iovs) (local.get $n)))
    (if (i64.lt_s (local.get $total) (i64.const 0)) (then (return (i32.const {EFAULT}))))
    (if (i64.gt_s (local.get $total) (i64.const 0x7fffffff)) (then (return (i32.const {EINVAL}))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 4))) (then (return (i32.const {EFAULT}))))
    (if (i32.and (i32.ge_s (local.get $fd) (global.get $threshold)) (i64.ne (local.get $total) (i64.const 0)))
      (then (call $end_log) (call $py_stdio (local.get $fd) (local.get $iovs) (local.get $n))))
    (i32.store (local.get $out) (i32.wrap_i64 (local.get $total)))
    (i32.const 0))

  ;; Nothing is waited for: every subscription is answered at once, a clock as if its time had come, standard input
  ;; as closed, standard output and error as ready, any other descriptor with EBADF. A guard cannot sleep, and one that
  ;; waits for time to pass runs into its deadline like any other loop.
  ;; subscription, 48 bytes: u64 userdata, u8 tag at 8, u32 descriptor at 16. Tags: 0 clock, 1 fd_read, 2 fd_write.
  ;; event, 32 bytes: u64 userdata, u16 errno, u8 type at 10, u64 bytes at 16, u16 flags at 24 (1: hang-up).
  (func $poll_oneoff (param $in i32) (param $events i32) (param $n i32) (param $out i32) (result i32)
    (local $i i32) (local $userdata i64) (local $tag i32) (local $fd i32)
    (if (i32.eqz (local.get $n)) (then (return (i32.const {EINVAL}))))
    (if (i32.eqz (i32.and
        (call $fits (local.get $out) (i64.const 4))
        (i32.and
          (call $fits (local.get $in) (i64.mul (i64.extend_i32_u (local.get $n)) (i64.const 48)))
          (call $fits (local.get $events) (i64.mul (i64.extend_i32_u (local.get $n)) (i64.const 32))))))
      (then (return (i32.const {EFAULT}))))
    (loop $next
      (local.set $userdata (i64.load (local.get $in)))
      (local.set $tag (i32.load8_u offset=8 (local.get $in)))
      (local.set $fd (i32.load offset=16 (local.get $in)))
      (if (i32.gt_u (local.get $tag) (i32.const 2)) (then (return (i32.const {EINVAL}))))
      (memory.fill (local.get $events) (i32.const 0) (i32.const 32))
      (i64.store (local.get $events) (local.get $userdata))
      (i32.store8 offset=10 (local.get $events) (local.get $tag))
      (if (i32.eq (local.get $tag) (i32.const 1)) (then
        (if (local.get $fd)
          (then (i32.store16 offset=8 (local.get $events) (i32.const {EBADF})))
          (else (i32.store16 offset=24 (local.get $events) (i32.const 1))))))
      (if (i32.eq (local.get $tag) (i32.const 2)) (then
        (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1))
          (then (i32.store16 offset=8 (local.get $events) (i32.const {EBADF})))
          (else (i64.store offset=16 (local.get $events) (i64.const 65536))))))
      (local.set $in (i32.add (local.get $in) (i32.const 48)))
      (local.set $events (i32.add (local.get $events) (i32.const 32)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n))))
    (i32.store (local.get $out) (local.get $n))
    (i32.const 0))

  (func $random_get (param $ptr i32) (param $len i32) (result i32)
    (if (i32.eqz (call $fits (local.get $ptr) (i64.extend_i32_u (local.get $len)))) (then (return (i32.const {EFAULT}))))
    (if (i32.eqz (local.get $len)) (then (return (i32.const 0))))
    (call $py_random (local.get $ptr) (local.get $len)))
"""
