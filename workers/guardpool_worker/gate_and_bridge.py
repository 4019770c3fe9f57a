"""The two wasm modules of ours that stand between a guard and Python, as WAT.

Calls from wasm into Python cost microseconds, calls from wasm into wasm nanoseconds. A real guard logs dozens of
lines a job, nearly all below the pool's level; and most of WASI is answered with a constant. So as much of the host as
possible is wasm:

- The *gate* is instantiated first, and the guard is linked against it: it exports every function a guard may import.
  What needs no memory it answers itself: log lines below the threshold are dropped, descriptors that do not exist
  are EBADF, `proc_exit` notes the code and traps. Everything else it calls indirectly through its table.
- The *bridge* is instantiated last, because it needs what only exists then: the guard's memory and functions. Its
  element segment overwrites the gate's table with functions that can see the guard's memory. They check every
  pointer, answer what they can, and call Python for the rest, with ranges that are known to lie inside memory.
  A log line that equals the one before is only counted there, and Python is told when the count has doubled and when the
  run of equal lines is over: a guard that logs one line 8,000 times pays for 15 calls.

Until the bridge is linked, the table holds defaults that answer ENOSYS, drop a log line or refuse a backend call. So a
guard whose start function logs can be instantiated. What each WASI function answers stands in `wasi`.

The bridge also wraps the guard's three label functions: the buffers' addresses stay in its globals, so a call from Python
passes two numbers instead of four, and the size hint of an earlier call is wiped before each. What the guard answered to
a job it copies to the quick judge, a third module of ours (see `quick_judge`), so that the same call ends with a label.
"""

from __future__ import annotations

from functools import lru_cache

from guardpool.module.imports import ENV, PREVIEW1, FuncTypeTuple
from guardpool.sizes import MAX_MISSING
from guardpool_worker import wasi

# What the bridge imports from Python: parameters and result, "i" for i32 and "l" for i64. Every pointer that is passed to
# `log` was checked against the memory's size; those of `backend` were not.
PYTHON: dict[str, tuple[str, str]] = {
    "log": ("iii", ""),
    "again": ("l", ""),
    "backend": ("iiiiii", "i"),
    **wasi.PYTHON,
}

# What the bridge imports of the quick judge's module: the judge itself, and the replies that are near.
OF_QUICK_JUDGE: dict[str, tuple[str, str]] = {
    "take": ("illllllll", ""),
    "judge": ("ii", "i"),
    "near_ask": ("", "i"),
    "near_take": ("illllllll", ""),
    "near_find": ("ii", "i"),
    "near_word": ("i", "l"),
    "near_count": ("", ""),
    "near_keep": ("iii", "i"),
    "near_put": ("il", ""),
}

OP_LABEL_RESOURCE, OP_LABEL_RESPONSE, OP_LABEL_AGENT = 0, 1, 2

# Functions that the bridge puts into the gate's table, by slot.
LINKED = ("host_log", "call_backend", *wasi.LINKED)


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
  ;; 0: there is none. call_backend is counted, and past the first calls, which the bridge is told of, -1 at once.
  (global $backend (export "backend") (mut i32) (i32.const 0))
  (global $asked (export "asked") (mut i32) (i32.const 0))
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
    imports += [
        f'  (import "quick_judge" "{name}" (func ${name} {_signature(*_expand(params, results))}))'
        for name, (params, results) in OF_QUICK_JUDGE.items()
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
{_copy_function("hand_answer", "take")}
{_copy_function("hand_question", "near_take")}
{_BRIDGE_BODY}{wasi.BRIDGE_WAT}
)
"""


def _copy_function(name: str, take: str) -> str:
    """A function of the bridge that copies `len` bytes at `from` to the quick judge's module, to `at` of what `take` fills, and
    with them what is behind them up to a multiple of 64."""
    words = " ".join(f"(i64.load offset={offset} align=1 (local.get $next))" for offset in range(0, 64, 8))
    return f"""
  (func ${name} (param $at i32) (param $from i32) (param $len i32)
    (local $done i32) (local $next i32)
    (block $end
      (loop $more
        (br_if $end (i32.ge_u (local.get $done) (local.get $len)))
        (local.set $next (i32.add (local.get $from) (local.get $done)))
        (call ${take} (i32.add (local.get $at) (local.get $done)) {words})
        (local.set $done (i32.add (local.get $done) (i32.const 64)))
        (br $more))))"""


def _gate_function(name: str, function_type: FuncTypeTuple) -> str:
    """One function of the gate; with its default if the bridge puts another in its place."""
    signature = _signature(*function_type)
    head = f'  (func (export "{name}") {signature}'
    errno_body = wasi.gate_wat(name)
    if errno_body is not None:
        return f"{head} {errno_body})"
    if name == "proc_exit":
        return f"{head}\n    (global.set $exited (i32.const 1)) (global.set $exit_code (local.get 0)) unreachable)"
    arguments = " ".join(f"(local.get {i})" for i in range(len(function_type[0])))
    slot = f"(i32.const {LINKED.index(name)})"
    if name == "host_log":
        # The level is clamped to 0..3 first, so that a threshold of 4 also drops a message of level 7.
        return f"""{head}
    (if (i32.gt_s (local.get 0) (i32.const 3)) (then (local.set 0 (i32.const 3))))
    (if (i32.lt_s (local.get 0) (i32.const 0)) (then (local.set 0 (i32.const 0))))
    (if (i32.lt_s (local.get 0) (global.get $threshold)) (then (return)))
    (call_indirect {signature} {arguments} {slot}))
  (func $default_{name} {signature})"""
    default = -1 if name == "call_backend" else wasi.ENOSYS
    guarded = _COUNTED if name == "call_backend" else ""
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


_COUNTED = f"""
    (if (i32.eqz (global.get $backend)) (then
      (if (i32.lt_u (global.get $asked) (i32.const 0x7fffffff)) (then
        (global.set $asked (i32.add (global.get $asked) (i32.const 1)))))
      (if (i32.gt_u (global.get $asked) (i32.const {MAX_MISSING})) (then (return (i32.const -1))))))"""

_BRIDGE_BODY = r"""
  (global $in (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 0))
  (global $out_cap (mut i32) (i32.const 0))
  ;; answers up to this length are given to the quick judge
  (global $quick_cap (mut i32) (i32.const 0))

  ;; ---- what Python calls ----

  ;; The host has checked that the output buffer lies inside memory and has at least 4 bytes, and that it has as many
  ;; pieces of 64 bytes as the longest answer for the quick judge.
  (func (export "set_buffers") (param $in i32) (param $out i32) (param $out_cap i32) (param $quick_cap i32)
    (global.set $in (local.get $in))
    (global.set $out (local.get $out))
    (global.set $out_cap (local.get $out_cap))
    (global.set $quick_cap (local.get $quick_cap)))

  ;; Call the guard. The lower half of the result is what it returned, the upper half the length of the label in the quick
  ;; judge's memory, or 0 if Python has to look at the answer.
  (func (export "label") (param $op i32) (param $len i32) (result i64)
    (local $returned i32)
    (local.set $returned (call $guard (local.get $op) (local.get $len)))
    (i64.or (i64.extend_i32_u (local.get $returned))
      (i64.shl (i64.extend_i32_u (call $quick (local.get $op) (local.get $returned))) (i64.const 32))))

  (func (export "grow") (param $pages i32) (result i32) (memory.grow (local.get $pages)))

  ;; ---- helpers ----

  (func $guard (param $op i32) (param $len i32) (result i32)
    (i32.store (global.get $out) (i32.const 0))
    (if (i32.eqz (local.get $op)) (then
      (return (call $label_resource (global.get $in) (local.get $len) (global.get $out) (global.get $out_cap)))))
    (if (i32.eq (local.get $op) (i32.const 1)) (then
      (return (call $label_response (global.get $in) (local.get $len) (global.get $out) (global.get $out_cap)))))
    (call $label_agent (global.get $in) (local.get $len) (global.get $out) (global.get $out_cap)))

  (func $quick (param $op i32) (param $len i32) (result i32)
    (if (i32.or
          (i32.gt_u (local.get $op) (i32.const 1))
          ;; unsigned, so that all negative codes are past it
          (i32.gt_u (local.get $len) (global.get $quick_cap)))
      (then (return (i32.const 0))))
    (call $hand_answer (i32.const 0) (global.get $out) (local.get $len))
    (call $judge (local.get $op) (local.get $len)))

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

  ;; The line before, and how often it came again. Equal lines are told by level, length and hash: lines that differ in one
  ;; word have different hashes, others with a chance of 1 in 2^64, and a guard that makes two that have the same spoils its
  ;; own log only.
  (global $said_level (mut i32) (i32.const -1))
  (global $said_len (mut i32) (i32.const 0))
  (global $said_hash (mut i64) (i64.const 0))
  (global $again (mut i64) (i64.const 0))

  (func $host_log (param $level i32) (param $ptr i32) (param $len i32)
    (local $hash i64)
    (if (i32.eqz (call $fits (local.get $ptr) (i64.extend_i32_u (local.get $len)))) (then (return)))
    ;; A longer line is hardly kept, and to hash it would take long.
    (if (i32.gt_u (local.get $len) (i32.const 0x10000)) (then
      (call $end_log)
      (call $py_log (local.get $level) (local.get $ptr) (local.get $len))
      (return)))
    (local.set $hash (call $hash (local.get $ptr) (local.get $len)))
    (if (i32.and
          (i32.and (i32.eq (local.get $level) (global.get $said_level)) (i32.eq (local.get $len) (global.get $said_len)))
          (i64.eq (local.get $hash) (global.get $said_hash))) (then
      (global.set $again (i64.add (global.get $again) (i64.const 1)))
      (if (i64.eq (i64.popcnt (global.get $again)) (i64.const 1)) (then (call $py_again (global.get $again))))
      (return)))
    (call $end_log)
    (global.set $said_level (local.get $level))
    (global.set $said_len (local.get $len))
    (global.set $said_hash (local.get $hash))
    (call $py_log (local.get $level) (local.get $ptr) (local.get $len)))

  ;; The next line is another one, whatever it says.
  (func $end_log (export "end_log")
    (if (i64.gt_u (global.get $again) (i64.const 2)) (then (call $py_again (global.get $again))))
    (global.set $again (i64.const 0))
    (global.set $said_level (i32.const -1)))

  (func $hash (param $ptr i32) (param $len i32) (result i64)
    (local $hash i64)
    (block $short
      (loop $word
        (br_if $short (i32.lt_u (local.get $len) (i32.const 8)))
        (local.set $hash (call $mix (local.get $hash) (i64.load align=1 (local.get $ptr))))
        (local.set $ptr (i32.add (local.get $ptr) (i32.const 8)))
        (local.set $len (i32.sub (local.get $len) (i32.const 8)))
        (br $word)))
    (block $done
      (loop $byte
        (br_if $done (i32.eqz (local.get $len)))
        (local.set $hash (call $mix (local.get $hash) (i64.load8_u (local.get $ptr))))
        (local.set $ptr (i32.add (local.get $ptr) (i32.const 1)))
        (local.set $len (i32.sub (local.get $len) (i32.const 1)))
        (br $byte)))
    (local.get $hash))

  ;; A bijection of either argument.
  (func $mix (param $hash i64) (param $word i64) (result i64)
    (i64.mul (i64.xor (i64.rotl (local.get $hash) (i64.const 23)) (local.get $word)) (i64.const 0x9E3779B97F4A7C15)))

  ;; 1: replies may be near (see `near_replies`)
  (global $near (export "near") (mut i32) (i32.const 0))

  (func $call_backend (param i32 i32 i32 i32 i32 i32) (result i32)
    (local $len i32)
    (if (i32.eqz (global.get $near)) (then
      (return (call $py_backend (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))))
    (if (call $near_ask)
      (then (local.set $len (call $ask_near
        (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))))
    (if (i32.gt_s (local.get $len) (i32.const 0)) (then (return (local.get $len))))
    (call $keep_near (local.get 1) (local.get 3) (local.get 4) (local.get $len)
      (call $py_backend (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5))))

  ;; Returns what Python returned. The reply that it has just written into the guard's buffer is kept near if Python says so,
  ;; and if `missed` is -1, which says that the question was taken.
  (func $keep_near
    (param $tool_len i32) (param $args_len i32) (param $from i32) (param $missed i32) (param $returned i32)
    (result i32)
    (local $at i32)
    (if (call $near_keep (local.get $tool_len) (local.get $args_len)
          (select (local.get $returned) (i32.const 0) (local.get $missed))) (then
      (block $short
        (loop $words
          (br_if $short (i32.gt_u (i32.add (local.get $at) (i32.const 8)) (local.get $returned)))
          (call $near_put (local.get $at) (i64.load align=1 (i32.add (local.get $from) (local.get $at))))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (br $words)))
      (if (i32.lt_u (local.get $at) (local.get $returned)) (then
        (call $near_put (local.get $at)
          (call $last_word (i32.add (local.get $from) (local.get $at)) (i32.sub (local.get $returned) (local.get $at))))))))
    (local.get $returned))

  ;; `len` bytes, fewer than 8, and zeros.
  (func $last_word (param $ptr i32) (param $len i32) (result i64)
    (local $word i64)
    (loop $bytes
      (local.set $len (i32.sub (local.get $len) (i32.const 1)))
      (local.set $word (i64.or
        (i64.shl (local.get $word) (i64.const 8))
        (i64.load8_u (i32.add (local.get $ptr) (local.get $len)))))
      (br_if $bytes (local.get $len)))
    (local.get $word))

  ;; The length of the reply, which is in the guard's buffer then. 0: Python has to look at the question; -1: so it has, and the
  ;; question was taken. All ranges are checked here, and nothing is written before the reply is known to fit.
  (func $ask_near
    (param $tool i32) (param $tool_len i32) (param $args i32) (param $args_len i32) (param $to i32) (param $cap i32)
    (result i32)
    (local $len i32) (local $at i32) (local $word i64)
    (if (i32.or
          (i32.gt_u (i32.sub (local.get $tool_len) (i32.const 1)) (i32.const 255))
          (i32.gt_u (i32.sub (local.get $args_len) (i32.const 1)) (i32.const 1023)))
      (then (return (i32.const 0))))
    ;; whole pieces of 64 bytes
    (if (i32.eqz (i32.and
          (call $fits (local.get $tool) (i64.extend_i32_u (i32.add (local.get $tool_len) (i32.const 63))))
          (call $fits (local.get $args) (i64.extend_i32_u (i32.add (local.get $args_len) (i32.const 63))))))
      (then (return (i32.const 0))))
    (call $hand_question (i32.const 0) (local.get $tool) (local.get $tool_len))
    (call $hand_question (i32.const 256) (local.get $args) (local.get $args_len))
    (local.set $len (call $near_find (local.get $tool_len) (local.get $args_len)))
    (if (i32.lt_s (local.get $len) (i32.const 0)) (then (return (i32.const -1))))
    (if (i32.gt_u (local.get $len) (local.get $cap)) (then (return (i32.const 0))))
    (if (i32.eqz (call $fits (local.get $to) (i64.extend_i32_u (local.get $len)))) (then (return (i32.const 0))))
    (block $short
      (loop $words
        (br_if $short (i32.gt_u (i32.add (local.get $at) (i32.const 8)) (local.get $len)))
        (i64.store align=1 (i32.add (local.get $to) (local.get $at)) (call $near_word (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br $words)))
    (if (i32.lt_u (local.get $at) (local.get $len)) (then
      (local.set $word (call $near_word (local.get $at)))
      (loop $bytes
        (i64.store8 (i32.add (local.get $to) (local.get $at)) (local.get $word))
        (local.set $word (i64.shr_u (local.get $word) (i64.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $bytes (i32.lt_u (local.get $at) (local.get $len))))))
    (call $near_count)
    (local.get $len))

"""
