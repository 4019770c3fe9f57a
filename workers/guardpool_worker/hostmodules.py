"""The two wasm modules of ours that stand between a guard and Python, as WAT.

Calls from wasm into Python cost microseconds, calls from wasm into wasm nanoseconds. A real guard logs dozens of
lines a job, nearly all below the level anybody wants; and most of WASI is answered with a constant. So as much of the
host as possible is wasm:

- The *gate* is instantiated first, and the guard is linked against it: it exports every function a guard may import.
  What needs no memory it answers itself: log lines below the threshold are dropped, descriptors that do not exist
  are EBADF, `proc_exit` notes the code and traps. Everything else it calls indirectly through its table.
- The *bridge* is instantiated last, because it needs what only exists then: the guard's memory and functions. Its
  element segment overwrites the gate's table with functions that can see the guard's memory. They check every
  pointer, answer what they can, and call Python for the rest, with ranges that are known to lie inside memory.

Until the bridge is linked, the table holds defaults that answer ENOSYS, drop a log line or refuse a backend call. So
a guard whose start function logs can be instantiated.

The bridge also wraps the guard's three label functions: the buffers' addresses stay in its globals, so that a call
from Python passes two numbers instead of four, and the size hint of an earlier call is wiped before each.
"""

from __future__ import annotations

from functools import lru_cache

from guardpool.module.imports import ENV, PREVIEW1, FuncTypeTuple

# errno values of WASI preview 1.
SUCCESS, EBADF, EFAULT, EINVAL, EIO, ENOSYS, ENOTDIR, ENOTSOCK, ENOTSUP, ESPIPE = 0, 8, 21, 28, 29, 52, 54, 57, 58, 70

# What the bridge imports from Python: parameters and result, "i" for i32 and "l" for i64. Every pointer that is
# passed to `log`, `stdio` and `random` was checked against the memory's size; those of `backend` were not.
PYTHON: dict[str, tuple[str, str]] = {
    "log": ("iii", ""),
    "backend": ("iiiiii", "i"),
    "stdio": ("iii", ""),
    "clock": ("i", "l"),
    "random": ("ii", "i"),
}

OP_LABEL_RESOURCE, OP_LABEL_RESPONSE, OP_LABEL_AGENT = 0, 1, 2

# Functions that the bridge puts into the gate's table, by slot.
LINKED = (
    "host_log",
    "call_backend",
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

# Answered by the gate with one errno, whatever the arguments. There are no preopened directories, so that no
# descriptor a path function could start from exists.
_CONSTANT = {
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
_ON_STREAMS = {
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


@lru_cache(maxsize=1)
def gate_wat() -> str:
    """The gate's source. Every function of WASI preview 1 and of `env` is exported under its own name."""
    functions = [_gate_function(name, ENV[name]) for name in ENV]
    functions += [_gate_function(name, PREVIEW1[name]) for name in PREVIEW1]
    defaults = " ".join(f"$default_{name}" for name in LINKED)
    return f"""(module $gate
  (table (export "table") {len(LINKED)} funcref)
  (elem (i32.const 0) func {defaults})
  ;; log lines below this level are dropped; 4 drops all
  (global $threshold (export "threshold") (mut i32) (i32.const 4))
  ;; 0: call_backend is -1 at once
  (global $backend (export "backend") (mut i32) (i32.const 0))
  ;; set by proc_exit, which then traps
  (global $exited (export "exited") (mut i32) (i32.const 0))
  (global $exit_code (export "exit_code") (mut i32) (i32.const 0))
{chr(10).join(functions)}
)
"""


def bridge_wat() -> str:
    """The bridge's source. Imports the guard's memory and label functions, the gate's table, and Python's functions."""
    imports = [
        f'  (import "host" "{name}" (func $py_{name} {_signature(*_expand(params, results))}))'
        for name, (params, results) in PYTHON.items()
    ]
    slots = " ".join(f"${name}" for name in LINKED)
    return f"""(module $bridge
  (import "guest" "memory" (memory 0))
  (import "guest" "label_resource" (func $label_resource {_signature(("i32",) * 4, ("i32",))}))
  (import "guest" "label_response" (func $label_response {_signature(("i32",) * 4, ("i32",))}))
  (import "guest" "label_agent" (func $label_agent {_signature(("i32",) * 4, ("i32",))}))
  (import "gate" "table" (table {len(LINKED)} funcref))
  (import "gate" "threshold" (global $threshold (mut i32)))
{chr(10).join(imports)}
  (elem (i32.const 0) func {slots})
{_BRIDGE_BODY}
)
"""


def _gate_function(name: str, function_type: FuncTypeTuple) -> str:
    """One function of the gate, and its default where the bridge links another in."""
    signature = _signature(*function_type)
    head = f'  (func (export "{name}") {signature}'
    if name in _CONSTANT:
        return f"{head} (i32.const {_CONSTANT[name]}))"
    if name in _ON_STREAMS:
        is_stream = "(i32.lt_u (local.get 0) (i32.const 3))"
        return f"{head} (select (i32.const {_ON_STREAMS[name]}) (i32.const {EBADF}) {is_stream}))"
    if name == "proc_exit":
        return f"{head}\n    (global.set $exited (i32.const 1)) (global.set $exit_code (local.get 0)) unreachable)"
    arguments = " ".join(f"(local.get {i})" for i in range(len(function_type[0])))
    slot = f"(i32.const {LINKED.index(name)})"
    if name == "host_log":
        # The level is clamped to 0..3 first, so that a threshold of 4 drops a message of level 7, too.
        return f"""{head}
    (if (i32.gt_s (local.get 0) (i32.const 3)) (then (local.set 0 (i32.const 3))))
    (if (i32.lt_s (local.get 0) (i32.const 0)) (then (local.set 0 (i32.const 0))))
    (if (i32.lt_s (local.get 0) (global.get $threshold)) (then (return)))
    (call_indirect {signature} {arguments} {slot}))
  (func $default_{name} {signature})"""
    default = -1 if name == "call_backend" else ENOSYS
    guarded = "(if (i32.eqz (global.get $backend)) (then (return (i32.const -1))))" if name == "call_backend" else ""
    return f"""{head} {guarded}
    (call_indirect {signature} {arguments} {slot}))
  (func $default_{name} {signature} (i32.const {default}))"""


def _expand(params: str, results: str) -> FuncTypeTuple:
    names = {"i": "i32", "l": "i64"}
    return tuple(names[c] for c in params), tuple(names[c] for c in results)


def _signature(params: tuple[str, ...], results: tuple[str, ...]) -> str:
    param = f"(param {' '.join(params)})" if params else ""
    result = f"(result {' '.join(results)})" if results else ""
    return f"{param} {result}".strip()


_BRIDGE_BODY = r"""
  (global $in (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 0))
  (global $out_cap (mut i32) (i32.const 0))

  ;; ---- what Python calls ----

  (func (export "set_buffers") (param $in i32) (param $out i32) (param $out_cap i32)
    (global.set $in (local.get $in))
    (global.set $out (local.get $out))
    (global.set $out_cap (local.get $out_cap)))

  ;; The host has checked that the output buffer lies inside memory and has at least 4 bytes.
  (func (export "label") (param $op i32) (param $len i32) (result i32)
    (i32.store (global.get $out) (i32.const 0))
    (if (i32.eqz (local.get $op)) (then
      (return (call $label_resource (global.get $in) (local.get $len) (global.get $out) (global.get $out_cap)))))
    (if (i32.eq (local.get $op) (i32.const 1)) (then
      (return (call $label_response (global.get $in) (local.get $len) (global.get $out) (global.get $out_cap)))))
    (call $label_agent (global.get $in) (local.get $len) (global.get $out) (global.get $out_cap)))

  (func (export "grow") (param $pages i32) (result i32) (memory.grow (local.get $pages)))

  ;; ---- helpers ----

  ;; Do `len` bytes at `ptr` lie inside memory? In 64 bits, so that nothing wraps.
  (func $fits (param $ptr i32) (param $len i64) (result i32)
    (i64.le_u
      (i64.add (i64.extend_i32_u (local.get $ptr)) (local.get $len))
      (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16))))

  ;; The bytes that a list of `n` (pointer, length) pairs names, or -1 where the list or what it names is outside
  ;; memory.
  (func $total (param $iovs i32) (param $n i32) (result i64)
    (local $sum i64) (local $len i64)
    (if (i32.eqz (call $fits (local.get $iovs) (i64.shl (i64.extend_i32_u (local.get $n)) (i64.const 3))))
      (then (return (i64.const -1))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $len (i64.load32_u offset=4 (local.get $iovs)))
        (if (i32.eqz (call $fits (i32.load (local.get $iovs)) (local.get $len))) (then (return (i64.const -1))))
        (local.set $sum (i64.add (local.get $sum) (local.get $len)))
        (local.set $iovs (i32.add (local.get $iovs) (i32.const 8)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $next)))
    (local.get $sum))

  ;; ---- env ----

  (func $host_log (param $level i32) (param $ptr i32) (param $len i32)
    (if (call $fits (local.get $ptr) (i64.extend_i32_u (local.get $len)))
      (then (call $py_log (local.get $level) (local.get $ptr) (local.get $len)))))

  (func $call_backend (param i32 i32 i32 i32 i32 i32) (result i32)
    (call $py_backend (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))

  ;; ---- wasi_snapshot_preview1 ----

  (func $no_strings (param $count i32) (param $size i32) (result i32)
    (if (i32.eqz (i32.and (call $fits (local.get $count) (i64.const 4)) (call $fits (local.get $size) (i64.const 4))))
      (then (return (i32.const 21))))
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    (i32.const 0))
  (func $args_sizes_get (param i32 i32) (result i32) (call $no_strings (local.get 0) (local.get 1)))
  (func $environ_sizes_get (param i32 i32) (result i32) (call $no_strings (local.get 0) (local.get 1)))

  ;; The four clocks of preview 1: realtime, monotonic, process and thread CPU time; nanoseconds, and that resolution.
  (func $clock_res_get (param $id i32) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $id) (i32.const 3)) (then (return (i32.const 28))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 8))) (then (return (i32.const 21))))
    (i64.store (local.get $out) (i64.const 1))
    (i32.const 0))
  (func $clock_time_get (param $id i32) (param $precision i64) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $id) (i32.const 3)) (then (return (i32.const 28))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 8))) (then (return (i32.const 21))))
    (i64.store (local.get $out) (call $py_clock (local.get $id)))
    (i32.const 0))

  ;; fdstat, 24 bytes: u8 type (2: character device), u16 flags, u64 rights, u64 inherited rights. The rights are
  ;; fd_read (bit 1) or fd_write (bit 6), and poll (bit 27); without seek and tell a libc takes the stream for a
  ;; terminal.
  (func $fd_fdstat_get (param $fd i32) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 24))) (then (return (i32.const 21))))
    (i64.store (local.get $out) (i64.const 2))
    (i64.store offset=8 (local.get $out)
      (select (i64.const 0x8000002) (i64.const 0x8000040) (i32.eqz (local.get $fd))))
    (i64.store offset=16 (local.get $out) (i64.const 0))
    (i32.const 0))

  ;; filestat, 64 bytes: u64 device, u64 inode, u8 type, u64 links, size, and three times.
  (func $fd_filestat_get (param $fd i32) (param $out i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 64))) (then (return (i32.const 21))))
    (memory.fill (local.get $out) (i32.const 0) (i32.const 64))
    (i32.store8 offset=16 (local.get $out) (i32.const 2))
    (i32.const 0))

  ;; Standard input is at its end.
  (func $fd_read (param $fd i32) (param $iovs i32) (param $n i32) (param $out i32) (result i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (if (i64.lt_s (call $total (local.get $iovs) (local.get $n)) (i64.const 0)) (then (return (i32.const 21))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 4))) (then (return (i32.const 21))))
    (i32.store (local.get $out) (i32.const 0))
    (i32.const 0))

  ;; Standard output is logged as level 1, standard error as level 2: the descriptor is the level. The count is
  ;; written last, because it may overlap the list that Python reads.
  (func $fd_write (param $fd i32) (param $iovs i32) (param $n i32) (param $out i32) (result i32)
    (local $total i64)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (local.set $total (call $total (local.get $iovs) (local.get $n)))
    (if (i64.lt_s (local.get $total) (i64.const 0)) (then (return (i32.const 21))))
    (if (i64.gt_s (local.get $total) (i64.const 0x7fffffff)) (then (return (i32.const 28))))
    (if (i32.eqz (call $fits (local.get $out) (i64.const 4))) (then (return (i32.const 21))))
    (if (i32.and (i32.ge_s (local.get $fd) (global.get $threshold)) (i64.ne (local.get $total) (i64.const 0)))
      (then (call $py_stdio (local.get $fd) (local.get $iovs) (local.get $n))))
    (i32.store (local.get $out) (i32.wrap_i64 (local.get $total)))
    (i32.const 0))

  ;; Nothing is waited for: every subscription is answered at once, a clock as if its time had come, standard input
  ;; as closed, standard output and error as ready, any other descriptor with EBADF. A guard cannot sleep, and one that
  ;; waits for time to pass runs into its deadline like any other loop.
  ;; subscription, 48 bytes: u64 userdata, u8 tag at 8, u32 descriptor at 16. Tags: 0 clock, 1 fd_read, 2 fd_write.
  ;; event, 32 bytes: u64 userdata, u16 errno, u8 type at 10, u64 bytes at 16, u16 flags at 24 (1: hang-up).
  (func $poll_oneoff (param $in i32) (param $events i32) (param $n i32) (param $out i32) (result i32)
    (local $i i32) (local $userdata i64) (local $tag i32) (local $fd i32)
    (if (i32.eqz (local.get $n)) (then (return (i32.const 28))))
    (if (i32.eqz (i32.and
        (call $fits (local.get $out) (i64.const 4))
        (i32.and
          (call $fits (local.get $in) (i64.mul (i64.extend_i32_u (local.get $n)) (i64.const 48)))
          (call $fits (local.get $events) (i64.mul (i64.extend_i32_u (local.get $n)) (i64.const 32))))))
      (then (return (i32.const 21))))
    (loop $next
      (local.set $userdata (i64.load (local.get $in)))
      (local.set $tag (i32.load8_u offset=8 (local.get $in)))
      (local.set $fd (i32.load offset=16 (local.get $in)))
      (if (i32.gt_u (local.get $tag) (i32.const 2)) (then (return (i32.const 28))))
      (memory.fill (local.get $events) (i32.const 0) (i32.const 32))
      (i64.store (local.get $events) (local.get $userdata))
      (i32.store8 offset=10 (local.get $events) (local.get $tag))
      (if (i32.eq (local.get $tag) (i32.const 1)) (then
        (if (local.get $fd)
          (then (i32.store16 offset=8 (local.get $events) (i32.const 8)))
          (else (i32.store16 offset=24 (local.get $events) (i32.const 1))))))
      (if (i32.eq (local.get $tag) (i32.const 2)) (then
        (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1))
          (then (i32.store16 offset=8 (local.get $events) (i32.const 8)))
          (else (i64.store offset=16 (local.get $events) (i64.const 65536))))))
      (local.set $in (i32.add (local.get $in) (i32.const 48)))
      (local.set $events (i32.add (local.get $events) (i32.const 32)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n))))
    (i32.store (local.get $out) (local.get $n))
    (i32.const 0))

  (func $random_get (param $ptr i32) (param $len i32) (result i32)
    (if (i32.eqz (call $fits (local.get $ptr) (i64.extend_i32_u (local.get $len)))) (then (return (i32.const 21))))
    (if (i32.eqz (local.get $len)) (then (return (i32.const 0))))
    (call $py_random (local.get $ptr) (local.get $len)))
"""
