"""A guard that asks its backend, and a bare loop of it in which the answers come from the same process.

A job's tool name is a number in two digits: so often the guard asks. Every question and every answer is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from guardpool_bench.workguard import POLICY

CALLS = (0, 1, 2, 19)
"""Questions a job: GitHub's guard asks twice for a resource and up to 19 times for a page of issues."""

_AGENT = b'{"agent":{"secrecy":[],"integrity":[]},"difc_mode":"filter","normalized_policy":{}}'
_ANSWER = b'{"resource":{"description":"issue 1 of o/r","secrecy":[],"integrity":["none:o/r"]},"operation":"read"}'
_TOOL = b"search_repositories"
_ARGS = b'{"query":"repo:octo/widgets"}'
_REPLY = msgspec.json.encode({"items": [{"full_name": "octo/widgets", "private": True}]})

_MODULE = """(module
  (import "env" "call_backend" (func $ask (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "{agent}") (data (i32.const 2048) "{answer}")
  (data (i32.const 4096) "{tool}") (data (i32.const 4352) "{args}")
  (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
    (memory.copy (local.get 2) (i32.const 1024) (i32.const {agent_size})) (i32.const {agent_size}))
  ;; the input begins with {{"tool_name":"DD"
  (func (export "label_resource") (param $in i32) (param i32) (param $out i32) (param i32) (result i32)
    (local $left i32)
    (local.set $left (i32.add
      (i32.mul (i32.const 10) (i32.sub (i32.load8_u offset=14 (local.get $in)) (i32.const 48)))
      (i32.sub (i32.load8_u offset=15 (local.get $in)) (i32.const 48))))
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $left)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (drop (call $ask (i32.const 4096) (i32.const {tool_size}) (i32.const 4352) (i32.const {args_size})
        (i32.const 8192) (i32.const 8192)))
      (br $more)))
    (memory.copy (local.get $out) (i32.const 2048) (i32.const {answer_size})) (i32.const {answer_size}))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
"""


def loop(engine: str) -> Callable[[int, float], float]:
    """A loop of the guard on that engine: called with the questions a job and the seconds to run, it gives jobs a second.

    The module is compiled here, because both engines have to be in one process to take turns.
    """
    from guardpool_worker.engine import bundle
    from guardpool_worker.engine.choice import load_engine
    from guardpool_worker.instance import GuardInstance, InstanceSettings

    made = load_engine(engine)
    parts = {"agent": _AGENT, "answer": _ANSWER, "tool": _TOOL, "args": _ARGS}
    text = {name: "".join(f"\\{byte:02x}" for byte in part) for name, part in parts.items()}
    wasm = made.wat_to_wasm(_MODULE.format(**text, **{f"{name}_size": len(part) for name, part in parts.items()}))
    loaded = bundle.load_bundle(made, bundle.compile_bundle(made, wasm, has_start=False))
    settings = InstanceSettings("asks", has_backend=True, max_backend_calls=max(CALLS))
    instance = GuardInstance(loaded, settings, lambda tool, args: _REPLY)
    instance.label_agent(msgspec.json.encode(POLICY))

    def rate(calls: int, run_s: float) -> float:
        payload = b'{"tool_name":"%02d"}' % calls
        assert instance.call("label_resource", payload).backend_calls == calls
        label, clock, done = instance.label, time.perf_counter, 0
        began = now = clock()
        while now - began < run_s:
            for _ in range(16):
                label("label_resource", payload)
            done += 16
            now = clock()
        return done / (now - began)

    return rate
